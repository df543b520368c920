//! The `envelope` dialect: a request in a JSON envelope, as small services in
//! Python make it.
//!
//! The request is `{"request": {"id", "func", "args", "kwargs"}}`. The values of
//! the first form of reply are texts that hold JSON themselves.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::python::{self, Exception};
use super::{Call, CallId, contains, first_byte, jsonrpc, method_name};
use crate::message::{Delivery, EnvelopeReply, ErrorKind, Outcome, Request};

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    request: Inner<'a>,
}

#[derive(Deserialize)]
struct Inner<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    func: Option<&'a RawValue>,
    args: Option<&'a RawValue>,
    kwargs: Option<&'a RawValue>,
}

/// Whether a body is a JSON object with `request.func`.
pub(super) fn looks_like(body: &[u8]) -> bool {
    type Members<'a> = BTreeMap<String, &'a RawValue>;
    first_byte(body) == Some(b'{')
        && contains(body, b"\"func\"")
        && serde_json::from_slice::<Members<'_>>(body)
            .ok()
            .and_then(|outer| serde_json::from_str::<Members<'_>>(outer.get("request")?.get()).ok())
            .is_some_and(|inner| inner.contains_key("func"))
}

/// The form of a reply: as configured, else by whether the caller says where to
/// send it.
pub(super) fn reply_form(delivery: &Delivery, configured: Option<EnvelopeReply>) -> EnvelopeReply {
    let addressed = delivery.properties.reply_to.as_ref().is_some_and(|to| !to.is_empty());
    let by_request = if addressed { EnvelopeReply::Response } else { EnvelopeReply::Flat };
    configured.unwrap_or(by_request)
}

pub(super) fn decode(body: &[u8]) -> Call {
    let null = || CallId::Json("null".to_owned());
    if let Err(error) = serde_json::from_slice::<&RawValue>(body) {
        return Call::refused(
            ErrorKind::ParseError,
            format!("the body is not JSON: {error}"),
            null(),
        );
    }
    let Ok(Envelope { request }) = serde_json::from_slice::<Envelope<'_>>(body) else {
        let text = "the body must be an object with an object `request`";
        return Call::refused(ErrorKind::BadRequest, text, null());
    };
    let id = CallId::Json(request.id.map_or("null", |id| id.get()).to_owned());
    let read = || {
        let method =
            request.func.and_then(super::text_of).ok_or("`request.func` must be a string")?;
        let arguments = python::arguments(request.args, request.kwargs)?;
        Ok::<_, String>(Request { method: Some(method_name(method)?), arguments })
    };
    match read() {
        Ok(request) => Call { request: Ok(request), id },
        Err(text) => Call::refused(ErrorKind::BadRequest, text, id),
    }
}

pub(super) fn encode(body: &mut Vec<u8>, form: EnvelopeReply, id: &str, outcome: &Outcome) {
    let text = match (form, outcome) {
        (EnvelopeReply::Response, Ok(value)) => {
            let inner = format!(r#"{{"result":{}}}"#, jsonrpc::json_of(value));
            format!(r#"{{"response":{{"result":{},"error":""}}}}"#, json!(inner))
        }
        (EnvelopeReply::Response, Err(error)) => {
            let exception = Exception::of(error);
            let inner = json!({"error": exception.line(), "traceback": exception.traceback()});
            format!(r#"{{"response":{{"result":"","error":{}}}}}"#, json!(inner.to_string()))
        }
        (EnvelopeReply::Flat, Ok(value)) => {
            format!(r#"{{"id":{id},"result":{}}}"#, jsonrpc::json_of(value))
        }
        (EnvelopeReply::Flat, Err(error)) => {
            let exception = Exception::of(error);
            let inner = json!({"exception": exception.line(), "traceback": exception.traceback()});
            format!(r#"{{"id":{id},"error":{inner}}}"#)
        }
        (EnvelopeReply::Status, Ok(value)) => {
            format!(r#"{{"status":"success","result":{}}}"#, jsonrpc::json_of(value))
        }
        (EnvelopeReply::Status, Err(error)) => {
            let exception = Exception::of(error);
            json!({
                "status": "error",
                "error": exception.line(),
                "traceback": exception.traceback(),
            })
            .to_string()
        }
    };
    body.extend_from_slice(text.as_bytes());
}
