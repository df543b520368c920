//! Calling a method: from what a person typed to a request, and from a reply
//! to a result or an error.
//!
//! Knows dialects from the caller's side, one file each, with which services of
//! other libraries are called as well as a host; how messages travel is
//! [`crate::amqp::Caller`]'s business. What its server looks like from the other
//! side is in [`crate::wire`].

mod aio_pika;
mod arguments;
mod celery;
mod dialect;
mod envelope;
mod errors;
mod json_rpc;
mod nameko;
mod nestjs;
mod plain;
mod route;

use bytes::Bytes;

use serde_json::Value;

use crate::message::{HeaderValue, Properties};

pub use arguments::{Params, params_of};
pub use dialect::CallDialect;
pub use route::Route;

const JSON: &str = "application/json";

/// A request as it is published.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Encoded {
    /// The property `type`.
    pub kind: Option<String>,
    /// MIME type of the body.
    pub content_type: Option<&'static str>,
    /// The property `content_encoding`.
    pub content_encoding: Option<&'static str>,
    /// Headers that the dialect wants.
    pub headers: Vec<(String, HeaderValue)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Encoded {
    /// A body that says what it is.
    fn json(body: String) -> Self {
        Self { content_type: Some(JSON), body: body.into_bytes(), ..Self::default() }
    }
}

/// What came back.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// The result, as it is to be shown.
    Result(Bytes),
    /// The JSON text `{"error": {…}}`.
    Error(String),
}

impl Answer {
    /// The kind of an error, as far as it says which.
    #[must_use]
    pub fn kind(&self) -> Option<String> {
        let Self::Error(text) = self else { return None };
        let error: Value = serde_json::from_str(text).ok()?;
        error.pointer("/error/kind")?.as_str().map(str::to_owned)
    }
}

/// Writes a request. `id` is the message's own, for dialects that repeat it inside;
/// a service of one method may need none to be named.
///
/// # Errors
///
/// When the dialect needs a method and there is none, or cannot carry the arguments.
pub fn encode(
    dialect: CallDialect,
    method: Option<&str>,
    params: Params,
    id: &str,
) -> Result<Encoded, String> {
    let named = |library: &str| method.ok_or_else(|| format!("{library} needs a METHOD"));
    match dialect {
        CallDialect::Plain => plain::encode(method, params),
        CallDialect::JsonRpc => json_rpc::encode(named("JSON-RPC")?, params),
        CallDialect::Envelope => envelope::encode(named("`envelope`")?, params, id),
        CallDialect::Nameko => nameko::encode(named("Nameko")?, params, id),
        CallDialect::NestJs => nestjs::encode(named("NestJS")?, params, id),
        CallDialect::Celery => celery::encode(named("Celery")?, params, id),
        CallDialect::AioPika => named("aio-pika").and_then(|_| aio_pika::encode(params)),
    }
}

/// Tells which replies are not the answer, but on the way to it, where a dialect has such.
pub fn interim(dialect: CallDialect) -> Option<fn(&[u8]) -> bool> {
    matches!(dialect, CallDialect::Celery).then_some(celery::is_interim)
}

/// Reads a reply.
pub fn decode(dialect: CallDialect, properties: &Properties, body: Bytes) -> Answer {
    match dialect {
        CallDialect::Plain => plain::decode(properties, body),
        CallDialect::JsonRpc => json_rpc::decode(&body),
        CallDialect::Envelope => envelope::decode(properties, &body),
        CallDialect::Nameko => nameko::decode(properties, &body),
        CallDialect::NestJs => nestjs::decode(properties, &body),
        CallDialect::Celery => celery::decode(properties, &body),
        CallDialect::AioPika => aio_pika::decode(properties, &body),
    }
}

/// What the tests of several dialects do with replies.
#[cfg(test)]
mod testing {
    use super::*;

    /// A reply of which nothing but the body tells.
    pub(super) fn decoded(dialect: CallDialect, body: &'static str) -> Answer {
        decode(dialect, &Properties::default(), Bytes::from_static(body.as_bytes()))
    }

    /// The text of what has to be an error.
    pub(super) fn error_in(answer: Answer) -> String {
        let Answer::Error(text) = answer else { panic!("no error: {answer:?}") };
        text
    }
}
