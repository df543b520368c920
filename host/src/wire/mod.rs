//! Dialects: how a request and its reply look on the wire.
//!
//! One file per dialect, all of them pure functions from bytes and properties
//! to [`Request`]s and back. Nothing here knows plugins, brokers or time. The
//! numbers and names of errors are decided here and nowhere else.

mod jsonrpc;
mod plain;

use std::borrow::Cow;

use bytes::Bytes;
use serde_json::json;
use serde_json::value::RawValue;

use crate::message::{Answered, CallError, Delivery, ErrorKind, Outcome, Reply, Request};

/// A dialect as configured for a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Found out per message, see [`decode`].
    Auto,
    /// Method in a property or header, body as it is.
    Plain,
    /// JSON-RPC 2.0.
    JsonRpc,
}

/// Most calls in one batch. A batch is answered in one message, so its calls
/// share one delivery's place in the prefetch window; more belong into more
/// messages.
pub const MAX_BATCH: usize = 100;

/// The calls that one message asks for.
#[derive(Debug)]
pub struct Decoded {
    /// The calls, in the order of the message.
    pub calls: Vec<Call>,
    shape: Shape,
}

/// One call of a message.
#[derive(Debug)]
pub struct Call {
    /// What to run, or why it cannot be run.
    pub request: Result<Request, CallError>,
    id: CallId,
}

#[derive(Debug)]
enum Shape {
    Plain,
    JsonRpcSingle,
    JsonRpcBatch,
}

#[derive(Debug)]
enum CallId {
    /// The dialect has no ids within the body.
    None,
    /// A JSON text to be repeated as it came.
    Json(String),
    /// The caller wants no answer to this one.
    Notification,
}

/// Reads the calls out of a delivery.
///
/// With [`Dialect::Auto`], a message that names its method in a property or
/// header is `plain` and its body is not looked into; otherwise a JSON body
/// with a member `jsonrpc` is JSON-RPC; everything else is `plain`.
pub fn decode(delivery: &Delivery, dialect: Dialect) -> Decoded {
    let json_rpc = match dialect {
        Dialect::Plain => false,
        Dialect::JsonRpc => true,
        Dialect::Auto => {
            plain::method(&delivery.properties).is_none() && jsonrpc::looks_like(&delivery.body)
        }
    };
    if json_rpc {
        jsonrpc::decode(&delivery.body)
    } else {
        Decoded {
            calls: vec![Call { request: Ok(plain::decode(delivery)), id: CallId::None }],
            shape: Shape::Plain,
        }
    }
}

/// The calls of a message that must be refused as a whole, in the shape of
/// its dialect as far as that can be told without trusting the message.
pub fn refuse(delivery: &Delivery, dialect: Dialect, error: CallError) -> Decoded {
    let json_rpc = match dialect {
        Dialect::JsonRpc => true,
        Dialect::Plain => false,
        Dialect::Auto => {
            plain::method(&delivery.properties).is_none() && jsonrpc::looks_like(&delivery.body)
        }
    };
    let (shape, id) = if json_rpc {
        (Shape::JsonRpcSingle, CallId::Json("null".to_owned()))
    } else {
        (Shape::Plain, CallId::None)
    };
    Decoded { calls: vec![Call { request: Err(error), id }], shape }
}

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

impl Decoded {
    /// Splits the message into its calls and the encoder of their answers. The
    /// reply's body is kept to about `limit` bytes: results that do not fit
    /// are answered as `resource-exhausted`.
    pub fn into_parts(self, limit: usize) -> (Vec<Call>, Encoder) {
        let encoder = Encoder {
            shape: self.shape,
            limit,
            body: Vec::new(),
            content_type: None,
            kind: None,
            headers: Vec::new(),
            status: "ok",
            plugin: None,
            answers: 0,
        };
        (self.calls, encoder)
    }
}

impl Call {
    /// Splits off the request, keeping what is needed to answer it.
    pub fn into_request(self) -> (Result<Request, CallError>, AnswerTo) {
        (self.request, AnswerTo(self.id))
    }
}

/// Which call of a message an answer belongs to.
#[derive(Debug)]
pub struct AnswerTo(CallId);

impl Encoder {
    /// Adds the next call's answer.
    pub fn push(&mut self, to: &AnswerTo, answered: Answered) {
        if matches!(to.0, CallId::Notification) {
            return;
        }
        let plugin = answered.plugin.as_ref().map(crate::message::PluginId::short);
        if self.answers == 0 {
            self.plugin = plugin;
        } else if self.plugin != plugin {
            // One header cannot name two plugins.
            self.plugin = None;
        }
        self.answers += 1;
        let failed = match (&self.shape, answered.outcome) {
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
            (Shape::JsonRpcSingle | Shape::JsonRpcBatch, outcome) => {
                self.push_json_rpc(&to.0, outcome)
            }
        };
        if let (Some(kind), "ok") = (failed, self.status) {
            self.status = kind.name();
        }
    }

    /// Appends one response. Returns the kind of error that it became.
    fn push_json_rpc(&mut self, id: &CallId, outcome: Outcome) -> Option<ErrorKind> {
        if matches!(self.shape, Shape::JsonRpcBatch) {
            self.body.push(if self.answers == 1 { b'[' } else { b',' });
        }
        let id = match id {
            CallId::Json(id) => id.as_str(),
            CallId::None | CallId::Notification => "null",
        };
        self.content_type = Some(JSON.to_owned());
        let begin = self.body.len();
        jsonrpc::encode(&mut self.body, id, &outcome);
        // Checked as encoded: text can grow sixfold on its way into JSON.
        let too_large = outcome.is_ok() && self.body.len() > self.limit;
        let outcome = if too_large {
            self.body.truncate(begin);
            let error = CallError::new(
                ErrorKind::ResourceExhausted,
                format!("the reply with this result exceeds the limit of {} bytes", self.limit),
            );
            let outcome = Err(error);
            jsonrpc::encode(&mut self.body, id, &outcome);
            outcome
        } else {
            outcome
        };
        match outcome {
            Ok(value) if matches!(self.shape, Shape::JsonRpcSingle) => {
                self.headers = value.headers;
                None
            }
            Ok(_) => None,
            Err(error) => Some(error.kind),
        }
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
        let mut headers = self.headers;
        headers.push(("rpchost-status".to_owned(), self.status.to_owned()));
        if let Some(plugin) = self.plugin {
            headers.push(("rpchost-plugin".to_owned(), plugin));
        }
        if delivery.redelivered {
            headers.push(("rpchost-redelivered".to_owned(), "true".to_owned()));
        }
        Some(Reply {
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

const JSON: &str = "application/json";

/// The number of an error, after JSON-RPC 2.0 section 5.1: -32768 to -32000
/// belong to the protocol and the host.
pub fn error_code(kind: ErrorKind) -> i32 {
    match kind {
        ErrorKind::ParseError => -32700,
        ErrorKind::BadRequest => -32600,
        ErrorKind::MethodNotFound { .. } => -32601,
        ErrorKind::InvalidParams => -32602,
        ErrorKind::Internal => -32603,
        ErrorKind::Application { code, .. } => {
            if (-32768..=-32000).contains(&code) {
                -32000
            } else {
                code
            }
        }
        ErrorKind::Trap => -32001,
        ErrorKind::Timeout => -32002,
        ErrorKind::DeadlineExceeded => -32003,
        ErrorKind::ResourceExhausted => -32004,
        ErrorKind::Overloaded => -32005,
        ErrorKind::MaybeExecuted => -32009,
        ErrorKind::InstantiateFailed => -32011,
    }
}

/// Whether sending the same request again, later, may succeed.
pub fn retryable(kind: ErrorKind) -> bool {
    match kind {
        ErrorKind::Application { retryable, .. } | ErrorKind::MethodNotFound { retryable } => {
            retryable
        }
        ErrorKind::Internal | ErrorKind::Overloaded => true,
        _ => false,
    }
}

/// An error's data as a JSON text: what parses is passed on byte for byte,
/// what does not is sent as a string.
fn error_data(error: &CallError) -> Cow<'_, str> {
    match &error.data {
        None => Cow::Borrowed("null"),
        Some(text) if serde_json::from_str::<&RawValue>(text).is_ok() => Cow::Borrowed(text.trim()),
        Some(text) => Cow::Owned(json!(text).to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn application_codes_keep_out_of_the_hosts_range() {
        let code = |code| error_code(ErrorKind::Application { code, retryable: false });
        assert_eq!(code(-32001), -32000);
        assert_eq!(code(-32769), -32769);
        assert_eq!(code(-31999), -31999);
        assert_eq!(code(7), 7);
    }

    #[test]
    fn every_kind_has_its_own_code() {
        let mut codes: Vec<_> = ErrorKind::ALL.iter().map(|kind| error_code(*kind)).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), ErrorKind::ALL.len());
    }
}
