//! Answers to a message's calls, made into one reply.

use bytes::Bytes;

use super::{AnswerTo, CallId, Shape, aio_pika, celery, envelope, jsonrpc, nameko, nestjs, plain};
use crate::message::{
    Answered, CallError, Delivery, ErrorKind, Outcome, PluginId, REDELIVERED, Reply, STATUS,
};

const JSON: &str = "application/json";

/// Writes the answers to a message's calls, in their order, as one reply.
#[derive(Debug)]
pub struct Encoder {
    shape: Shape,
    limit: usize,
    body: Vec<u8>,
    content_type: Option<String>,
    kind: Option<&'static str>,
    headers: Vec<(String, String)>,
    status: &'static str,
    plugin: Option<String>,
    answers: usize,
}

impl Encoder {
    pub(super) fn new(shape: Shape, limit: usize) -> Self {
        Self {
            shape,
            limit,
            body: Vec::new(),
            content_type: None,
            kind: None,
            headers: Vec::new(),
            status: "ok",
            plugin: None,
            answers: 0,
        }
    }

    /// Adds the next call's answer.
    pub fn push(&mut self, to: &AnswerTo, answered: Answered) {
        if matches!(to.0, CallId::Notification) {
            return;
        }
        let plugin = answered.plugin.as_ref().map(PluginId::short);
        if self.answers == 0 {
            self.plugin = plugin;
        } else if self.plugin != plugin {
            // One header cannot name two plugins.
            self.plugin = None;
        }
        self.answers += 1;
        let failed = match (self.shape, answered.outcome) {
            (Shape::Plain, Ok(value)) => {
                self.body = value.body.into();
                self.content_type = value.content_type;
                self.headers = value.headers;
                None
            }
            (Shape::Plain, Err(error)) => {
                self.body = plain::encode_error(&error);
                self.content_type = Some(JSON.to_owned());
                self.kind = Some("error");
                Some(error.kind)
            }
            (_, outcome) => self.push_wrapped(&to.0, outcome),
        };
        if let (Some(kind), "ok") = (failed, self.status) {
            self.status = kind.name();
        }
    }

    /// Appends one answer whose form is the dialect's. Returns the kind of error
    /// that it became.
    fn push_wrapped(&mut self, id: &CallId, outcome: Outcome) -> Option<ErrorKind> {
        let batch = matches!(self.shape, Shape::JsonRpcBatch);
        if batch {
            self.body.push(if self.answers == 1 { b'[' } else { b',' });
        }
        let id = match id {
            CallId::Json(id) => id.as_str(),
            CallId::None | CallId::Notification => "null",
        };
        let begin = self.body.len();
        self.write(id, &outcome);
        // Checked as encoded: text can grow sixfold on its way into JSON.
        let too_large = outcome.is_ok() && self.body.len() > self.limit;
        let outcome = if too_large {
            self.body.truncate(begin);
            let outcome = Err(CallError::new(
                ErrorKind::ResourceExhausted,
                format!("the reply with this result exceeds the limit of {} bytes", self.limit),
            ));
            self.write(id, &outcome);
            outcome
        } else {
            outcome
        };
        match outcome {
            Ok(_) if batch => None,
            Ok(value) => {
                self.headers = value.headers;
                None
            }
            Err(error) => Some(error.kind),
        }
    }

    fn write(&mut self, id: &str, outcome: &Outcome) {
        let body = &mut self.body;
        let mut content_type = JSON;
        match self.shape {
            // Written where it is pushed.
            Shape::Plain => {}
            Shape::JsonRpcSingle(version) => jsonrpc::encode(body, version, id, outcome),
            Shape::JsonRpcBatch => jsonrpc::encode(body, jsonrpc::Version::V2, id, outcome),
            Shape::Envelope(form) => envelope::encode(body, form, id, outcome),
            Shape::Nameko => nameko::encode(body, outcome),
            Shape::NestJs => nestjs::encode(body, id, outcome),
            Shape::Celery => celery::encode(body, id, outcome),
            Shape::AioPika(coding) => {
                aio_pika::encode(body, coding, outcome);
                self.kind = Some(if outcome.is_ok() { "result" } else { "error" });
                content_type = coding.content_type();
            }
        }
        self.content_type = Some(content_type.to_owned());
    }

    /// The first error's kind, or `ok`.
    pub fn status(&self) -> &'static str {
        self.status
    }

    /// The reply to `routing_key`; `None` where the message's calls want none.
    pub fn finish(
        mut self,
        delivery: &Delivery,
        routing_key: &Bytes,
        direct_node: Option<u64>,
    ) -> Option<Reply> {
        if self.answers == 0 {
            return None;
        }
        if matches!(self.shape, Shape::JsonRpcBatch) {
            self.body.push(b']');
        }
        let exchange =
            matches!(self.shape, Shape::Nameko).then(|| nameko::reply_exchange(delivery).into());
        let mut headers = self.headers;
        headers.push((STATUS.to_owned(), self.status.to_owned()));
        if let Some(plugin) = self.plugin {
            headers.push(("rpchost-plugin".to_owned(), plugin));
        }
        if delivery.redelivered {
            headers.push((REDELIVERED.to_owned(), "true".to_owned()));
        }
        Some(Reply {
            exchange,
            routing_key: routing_key.clone(),
            direct_node,
            correlation_id: delivery.properties.correlation_id.clone(),
            content_type: self.content_type,
            kind: self.kind,
            headers,
            persistent: delivery.properties.persistent(),
            body: Bytes::from(self.body),
        })
    }
}
