//! The `json-rpc` dialect: JSON-RPC 2.0 with batches and notifications.
//!
//! Follows the specification of 2013-01-04 (jsonrpc.org). Ids are repeated as
//! the text they came as, so that `1.0` stays `1.0`. Version 1.1 is spoken as
//! RabbitMQ's Java library does: the version is in `version`, and a request whose
//! `id` is `null` or absent is answered all the same.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use bytes::Bytes;
use serde_json::json;
use serde_json::value::RawValue;

use super::errors::{error_code, error_data, retryable};
use super::{Call, CallId, Decoded, MAX_BATCH, MAX_METHOD, Shape, contains, first_byte};
use crate::message::{Arguments, CallError, ErrorKind, Outcome, Request, ReturnValue};

/// A version of JSON-RPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// `"jsonrpc": "2.0"`.
    V2,
    /// `"version": "1.1"`.
    V1,
}

type Members<'a> = BTreeMap<String, &'a RawValue>;

/// Whether a body is a JSON object, or an array that begins with one, with a
/// member `jsonrpc`; or an object of version 1.1.
pub(super) fn looks_like(body: &[u8]) -> bool {
    let begins = first_byte(body);
    if !matches!(begins, Some(b'{' | b'[')) {
        return false;
    }
    if begins == Some(b'{')
        && contains(body, b"\"version\"")
        && serde_json::from_slice::<Members<'_>>(body).is_ok_and(|members| is_v1(&members))
    {
        return true;
    }
    if !contains(body, b"\"jsonrpc\"") {
        return false;
    }
    let first = if begins == Some(b'[') {
        serde_json::from_slice::<Vec<&RawValue>>(body).ok().and_then(|items| items.first().copied())
    } else {
        serde_json::from_slice::<&RawValue>(body).ok()
    };
    first
        .and_then(|value| serde_json::from_str::<Members<'_>>(value.get()).ok())
        .is_some_and(|members| members.contains_key("jsonrpc"))
}

fn is_v1(members: &Members<'_>) -> bool {
    let version = members.get("version").map(|version| version.get());
    version == Some("\"1.1\"") && members.contains_key("method")
}

pub(super) fn decode(body: &[u8]) -> Decoded {
    let single = |call| Decoded { calls: vec![call], shape: Shape::JsonRpcSingle(Version::V2) };
    let value: &RawValue = match serde_json::from_slice(body) {
        Ok(value) => value,
        Err(error) => {
            return single(refused(
                ErrorKind::ParseError,
                format!("the body is not JSON: {error}"),
            ));
        }
    };
    if first_byte(value.get().as_bytes()) != Some(b'[') {
        let members = serde_json::from_str::<Members<'_>>(value.get());
        if let Ok(members) = members
            && is_v1(&members)
        {
            let shape = Shape::JsonRpcSingle(Version::V1);
            return Decoded { calls: vec![decode_v1(&members)], shape };
        }
        return single(decode_call(value));
    }
    match serde_json::from_str::<Vec<&RawValue>>(value.get()) {
        Ok(items) if items.is_empty() => {
            single(refused(ErrorKind::BadRequest, "the batch is empty".to_owned()))
        }
        Ok(items) if items.len() > MAX_BATCH => single(refused(
            ErrorKind::BadRequest,
            format!("the batch has {} calls, the limit is {MAX_BATCH}", items.len()),
        )),
        Ok(items) => Decoded {
            calls: items.into_iter().map(decode_call).collect(),
            shape: Shape::JsonRpcBatch,
        },
        Err(error) => {
            single(refused(ErrorKind::ParseError, format!("the body is not JSON: {error}")))
        }
    }
}

fn decode_call(value: &RawValue) -> Call {
    let Ok(members) = serde_json::from_str::<Members<'_>>(value.get()) else {
        return refused(ErrorKind::BadRequest, "a request must be an object".to_owned());
    };
    let id = match members.get("id").map(|id| id.get()) {
        None => CallId::Notification,
        Some(id) if is_id(id) => CallId::Json(id.to_owned()),
        Some(_) => {
            return refused(
                ErrorKind::BadRequest,
                "`id` must be a string, a number or null".to_owned(),
            );
        }
    };
    match request_v2(&members) {
        Ok(request) => Call { request: Ok(request), id },
        // An invalid request is answered even without an id (section 5.1).
        Err(message) => Call {
            request: Err(CallError::new(ErrorKind::BadRequest, message)),
            id: match id {
                CallId::Json(id) => CallId::Json(id),
                CallId::None | CallId::Notification => CallId::Json("null".to_owned()),
            },
        },
    }
}

fn decode_v1(members: &Members<'_>) -> Call {
    let id = members.get("id").map_or("null", |id| id.get()).to_owned();
    match request(members) {
        Ok(request) => Call { request: Ok(request), id: CallId::Json(id) },
        Err(text) => Call::refused(ErrorKind::BadRequest, text, CallId::Json(id)),
    }
}

fn request_v2(members: &Members<'_>) -> Result<Request, String> {
    let version = members.get("jsonrpc").map(|version| version.get());
    if version != Some("\"2.0\"") {
        return Err("`jsonrpc` must be \"2.0\"".to_owned());
    }
    request(members)
}

fn request(members: &Members<'_>) -> Result<Request, String> {
    let method = members
        .get("method")
        .and_then(|method| serde_json::from_str::<String>(method.get()).ok())
        .ok_or("`method` must be a string")?;
    if method.len() > MAX_METHOD {
        return Err(format!("`method` has {} bytes, the limit is {MAX_METHOD}", method.len()));
    }
    let arguments = match members.get("params") {
        None => Bytes::new(),
        Some(params) => match first_byte(params.get().as_bytes()) {
            Some(b'[' | b'{') => Bytes::copy_from_slice(params.get().as_bytes()),
            _ => return Err("`params` must be an array or an object".to_owned()),
        },
    };
    Ok(Request { method: Some(method), arguments: Arguments::Json(arguments) })
}

fn refused(kind: ErrorKind, message: String) -> Call {
    Call::refused(kind, message, CallId::Json("null".to_owned()))
}

fn is_id(json: &str) -> bool {
    matches!(first_byte(json.as_bytes()), Some(b'"' | b'-' | b'0'..=b'9' | b'n'))
}

/// Appends one response object.
pub(super) fn encode(body: &mut Vec<u8>, version: Version, id: &str, outcome: &Outcome) {
    body.push(b'{');
    if version == Version::V2 {
        body.extend_from_slice(b"\"jsonrpc\":\"2.0\",");
    }
    match outcome {
        Ok(value) => {
            body.extend_from_slice(b"\"result\":");
            body.extend_from_slice(json_of(value).as_bytes());
        }
        Err(error) => {
            // Version 1.1 has a name beside the number, always this one.
            let name = match version {
                Version::V2 => "",
                Version::V1 => r#""name":"JSONRPCError","#,
            };
            let data = match version {
                Version::V2 => "data",
                Version::V1 => "error",
            };
            let error = format!(
                r#""error":{{{name}"code":{},"message":{},"{data}":{{"kind":"{}","retryable":{},"data":{}}}}}"#,
                error_code(error.kind),
                json!(error.message),
                error.kind.name(),
                retryable(error.kind),
                error_data(error),
            );
            body.extend_from_slice(error.as_bytes());
        }
    }
    if version == Version::V1 {
        body.extend_from_slice(b",\"version\":\"1.1\"");
    }
    body.extend_from_slice(b",\"id\":");
    body.extend_from_slice(id.as_bytes());
    body.push(b'}');
}

/// A result as a JSON text: a handler's bytes as they are if they are JSON, else as
/// a string, else as base64 (RFC 4648 section 4).
pub(super) fn json_of(value: &ReturnValue) -> Cow<'_, str> {
    match std::str::from_utf8(&value.body) {
        Ok(text) if serde_json::from_str::<&RawValue>(text).is_ok() => Cow::Borrowed(text.trim()),
        Ok(text) => Cow::Owned(json!(text).to_string()),
        Err(_) => {
            let encoded = base64::engine::general_purpose::STANDARD.encode(&value.body);
            Cow::Owned(format!("\"{encoded}\""))
        }
    }
}
