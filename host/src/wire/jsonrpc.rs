//! The `json-rpc` dialect: JSON-RPC 2.0 with batches and notifications.
//!
//! Follows the specification of 2013-01-04 (jsonrpc.org). Ids are repeated as
//! the text they came as, so that `1.0` stays `1.0`.

use std::collections::BTreeMap;

use base64::Engine as _;
use bytes::Bytes;
use serde_json::json;
use serde_json::value::RawValue;

use super::{Call, CallId, Decoded, MAX_BATCH, Shape, error_code, error_data, retryable};
use crate::message::{Arguments, CallError, ErrorKind, Outcome, Request, ReturnValue};

/// Longest method name in bytes; as long as the property that names it in the
/// other dialect can be.
const MAX_METHOD: usize = 255;

type Members<'a> = BTreeMap<String, &'a RawValue>;

/// Whether a body is a JSON object, or an array that begins with one, with a
/// member `jsonrpc`.
pub(super) fn looks_like(body: &[u8]) -> bool {
    // The search is cheap and spares every other body the parser.
    let named = body.windows(9).any(|window| window == b"\"jsonrpc\"");
    if !named {
        return false;
    }
    let first = match first_byte(body) {
        Some(b'{') => serde_json::from_slice::<&RawValue>(body).ok(),
        Some(b'[') => serde_json::from_slice::<Vec<&RawValue>>(body)
            .ok()
            .and_then(|items| items.first().copied()),
        _ => None,
    };
    first
        .and_then(|value| serde_json::from_str::<Members<'_>>(value.get()).ok())
        .is_some_and(|members| members.contains_key("jsonrpc"))
}

pub(super) fn decode(body: &[u8]) -> Decoded {
    let single = |call| Decoded { calls: vec![call], shape: Shape::JsonRpcSingle };
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
    match request(&members) {
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

fn request(members: &Members<'_>) -> Result<Request, String> {
    let version = members.get("jsonrpc").map(|version| version.get());
    if version != Some("\"2.0\"") {
        return Err("`jsonrpc` must be \"2.0\"".to_owned());
    }
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
    Call { request: Err(CallError::new(kind, message)), id: CallId::Json("null".to_owned()) }
}

fn is_id(json: &str) -> bool {
    matches!(first_byte(json.as_bytes()), Some(b'"' | b'-' | b'0'..=b'9' | b'n'))
}

fn first_byte(json: &[u8]) -> Option<u8> {
    json.iter().copied().find(|byte| !byte.is_ascii_whitespace())
}

/// Appends one response object.
pub(super) fn encode(body: &mut Vec<u8>, id: &str, outcome: &Outcome) {
    body.extend_from_slice(b"{\"jsonrpc\":\"2.0\",");
    match outcome {
        Ok(value) => {
            body.extend_from_slice(b"\"result\":");
            encode_result(body, value);
        }
        Err(error) => {
            let error = format!(
                r#""error":{{"code":{},"message":{},"data":{{"kind":"{}","retryable":{},"data":{}}}}}"#,
                error_code(error.kind),
                json!(error.message),
                error.kind.name(),
                retryable(error.kind),
                error_data(error),
            );
            body.extend_from_slice(error.as_bytes());
        }
    }
    body.extend_from_slice(b",\"id\":");
    body.extend_from_slice(id.as_bytes());
    body.push(b'}');
}

/// A handler's bytes: as they are if they are JSON, else as a string, else as
/// base64 (RFC 4648 section 4).
fn encode_result(body: &mut Vec<u8>, value: &ReturnValue) {
    let Ok(text) = std::str::from_utf8(&value.body) else {
        let encoded = base64::engine::general_purpose::STANDARD.encode(&value.body);
        body.push(b'"');
        body.extend_from_slice(encoded.as_bytes());
        body.push(b'"');
        return;
    };
    if serde_json::from_str::<&RawValue>(text).is_ok() {
        body.extend_from_slice(text.trim().as_bytes());
    } else {
        body.extend_from_slice(json!(text).to_string().as_bytes());
    }
}
