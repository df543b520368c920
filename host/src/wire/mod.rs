//! Dialects: how a request and its reply look on the wire.
//!
//! One file per dialect, all of them pure functions from bytes and properties
//! to [`Request`]s and back. Nothing here knows plugins, brokers or time. The
//! numbers and names of errors are decided here and nowhere else.

mod aio_pika;
mod celery;
mod encoder;
mod envelope;
mod errors;
mod jsonrpc;
mod nameko;
mod nestjs;
mod plain;
mod python;

use serde_json::value::RawValue;

use crate::message::{CallError, Delivery, Dialect, EnvelopeReply, ErrorKind, Form, Request};

pub use encoder::Encoder;
pub use errors::{error_code, retryable};

/// Most calls in one batch. A batch is answered in one message, so its calls
/// share one delivery's place in the prefetch window; more belong into more
/// messages.
pub const MAX_BATCH: usize = 100;

/// Longest method name in a body, in bytes; as long as the property that names
/// it elsewhere can be.
const MAX_METHOD: usize = 255;

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

/// What the reply has to look like.
#[derive(Debug, Clone, Copy)]
enum Shape {
    Plain,
    JsonRpcSingle(jsonrpc::Version),
    JsonRpcBatch,
    Envelope(EnvelopeReply),
    Nameko,
    NestJs,
    Celery,
    AioPika(aio_pika::Coding),
}

#[derive(Debug)]
enum CallId {
    /// The message has no ids within it.
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
/// with a member `jsonrpc` is JSON-RPC, and so is one of version 1.1; an object
/// with `request.func` is `envelope`; everything else is `plain`.
pub fn decode(delivery: &Delivery, form: impl Into<Form>) -> Decoded {
    let form = form.into();
    let mut decoded = match found(delivery, form.dialect) {
        Dialect::JsonRpc => jsonrpc::decode(&delivery.body),
        Dialect::Envelope => Decoded {
            calls: vec![envelope::decode(&delivery.body)],
            shape: Shape::Envelope(envelope::reply_form(delivery, form.envelope_reply)),
        },
        Dialect::Nameko => Decoded { calls: vec![nameko::decode(delivery)], shape: Shape::Nameko },
        Dialect::NestJs => {
            Decoded { calls: vec![nestjs::decode(&delivery.body)], shape: Shape::NestJs }
        }
        Dialect::Celery => Decoded { calls: vec![celery::decode(delivery)], shape: Shape::Celery },
        Dialect::AioPika => Decoded {
            calls: vec![aio_pika::decode(delivery)],
            shape: Shape::AioPika(aio_pika::Coding::of(delivery)),
        },
        Dialect::Plain | Dialect::Auto => Decoded {
            calls: vec![Call { request: Ok(plain::decode(delivery)), id: CallId::None }],
            shape: Shape::Plain,
        },
    };
    if form.method_by_key {
        for request in decoded.calls.iter_mut().filter_map(|call| call.request.as_mut().ok()) {
            request.method.get_or_insert_with(|| delivery.routing_key.clone());
        }
    }
    decoded
}

/// The calls of a message that must be refused as a whole, in the shape of
/// its dialect as far as that can be told without trusting the message.
pub fn refuse(delivery: &Delivery, form: impl Into<Form>, error: CallError) -> Decoded {
    let form = form.into();
    let null = || CallId::Json("null".to_owned());
    let (shape, id) = match found(delivery, form.dialect) {
        Dialect::JsonRpc => (Shape::JsonRpcSingle(jsonrpc::Version::V2), null()),
        Dialect::Envelope => {
            (Shape::Envelope(envelope::reply_form(delivery, form.envelope_reply)), null())
        }
        Dialect::Nameko => (Shape::Nameko, CallId::None),
        Dialect::NestJs => (Shape::NestJs, null()),
        Dialect::Celery => (Shape::Celery, celery::task_id(delivery)),
        Dialect::AioPika => (Shape::AioPika(aio_pika::Coding::of(delivery)), CallId::None),
        Dialect::Plain | Dialect::Auto => (Shape::Plain, CallId::None),
    };
    Decoded { calls: vec![Call { request: Err(error), id }], shape }
}

/// The dialect of one message. Never [`Dialect::Auto`].
fn found(delivery: &Delivery, dialect: Dialect) -> Dialect {
    if dialect != Dialect::Auto {
        return dialect;
    }
    if plain::method(&delivery.properties).is_some() {
        Dialect::Plain
    } else if jsonrpc::looks_like(&delivery.body) {
        Dialect::JsonRpc
    } else if envelope::looks_like(&delivery.body) {
        Dialect::Envelope
    } else {
        Dialect::Plain
    }
}

impl Decoded {
    /// Splits the message into its calls and the encoder of their answers. The
    /// reply's body is kept to about `limit` bytes: results that do not fit
    /// are answered as `resource-exhausted`.
    pub fn into_parts(self, limit: usize) -> (Vec<Call>, Encoder) {
        (self.calls, Encoder::new(self.shape, limit))
    }
}

impl Call {
    fn refused(kind: ErrorKind, message: impl Into<String>, id: CallId) -> Self {
        Self { request: Err(CallError::new(kind, message)), id }
    }

    /// Splits off the request, keeping what is needed to answer it.
    pub fn into_request(self) -> (Result<Request, CallError>, AnswerTo) {
        (self.request, AnswerTo(self.id))
    }
}

/// Which call of a message an answer belongs to.
#[derive(Debug)]
pub struct AnswerTo(CallId);

/// Whether `body` contains `part`: a cheap look that spares most bodies the
/// parser.
fn contains(body: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(body, part).is_some()
}

/// The first byte of a JSON text that is no space.
fn first_byte(json: &[u8]) -> Option<u8> {
    json.iter().copied().find(|byte| !byte.is_ascii_whitespace())
}

/// The text of a JSON string; `None` for anything else.
fn text_of(value: &RawValue) -> Option<String> {
    serde_json::from_str(value.get()).ok()
}

/// A method's name out of a body.
fn method_name(name: String) -> Result<String, String> {
    match name.len() {
        length if length > MAX_METHOD => {
            Err(format!("the method's name has {length} bytes, the limit is {MAX_METHOD}"))
        }
        _ => Ok(name),
    }
}
