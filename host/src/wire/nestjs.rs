//! The `nestjs` dialect: `ClientRMQ` of `@nestjs/microservices`.
//!
//! A request is `{"pattern", "data", "id"}`; without an `id` it is an event, which
//! nobody waits for. The pattern names the method, as a text or as
//! `{"cmd": "<method>"}`.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::errors::{error_code, error_data, retryable};
use super::{Call, CallId, jsonrpc, method_name, text_of};
use crate::message::{Arguments, ErrorKind, NEST_NO_HANDLER, Outcome, Request};

#[derive(Deserialize)]
struct Packet<'a> {
    #[serde(borrow)]
    pattern: Option<&'a RawValue>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
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
    let Ok(packet) = serde_json::from_slice::<Packet<'_>>(body) else {
        let text = "the body must be an object with `pattern` and `data`";
        return Call::refused(ErrorKind::BadRequest, text, null());
    };
    let Some(method) = packet.pattern.and_then(method) else {
        let text = "`pattern` must be a string, or an object with a string `cmd`";
        let id = packet.id.map_or_else(null, |id| CallId::Json(id.get().to_owned()));
        return Call::refused(ErrorKind::BadRequest, text, id);
    };
    let id = packet.id.map_or(CallId::Notification, |id| CallId::Json(id.get().to_owned()));
    match method_name(method) {
        Ok(method) => {
            let arguments = match packet.data {
                Some(data) => Arguments::Value(Bytes::copy_from_slice(data.get().as_bytes())),
                None => Arguments::Json(Bytes::new()),
            };
            Call { request: Ok(Request { method: Some(method), arguments }), id }
        }
        Err(text) => Call::refused(ErrorKind::BadRequest, text, id),
    }
}

fn method(pattern: &RawValue) -> Option<String> {
    text_of(pattern).or_else(|| {
        let members: BTreeMap<String, &RawValue> = serde_json::from_str(pattern.get()).ok()?;
        members.get("cmd").and_then(|cmd| text_of(cmd))
    })
}

pub(super) fn encode(body: &mut Vec<u8>, id: &str, outcome: &Outcome) {
    let text = match outcome {
        Ok(value) => format!(r#"{{"response":{},"isDisposed":true}}"#, jsonrpc::json_of(value)),
        Err(error) if matches!(error.kind, ErrorKind::MethodNotFound { .. }) => {
            format!(
                r#"{{"id":{id},"err":{},"status":"error","isDisposed":true}}"#,
                json!(NEST_NO_HANDLER)
            )
        }
        Err(error) => format!(
            r#"{{"err":{{"status":"error","message":{},"code":{},"kind":"{}","retryable":{},"data":{}}},"isDisposed":true}}"#,
            json!(error.message),
            error_code(error.kind),
            error.kind.name(),
            retryable(error.kind),
            error_data(error),
        ),
    };
    body.extend_from_slice(text.as_bytes());
}
