//! The `celery` dialect: task protocol 2 with results by `rpc://` (celery 5).
//!
//! The method is the header `task`, the body `[args, kwargs, embedded]`. What a
//! worker would do beside running the task (wait for a time, start another task
//! afterwards) is refused: leaving it out would be a lie.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::python::{self, Exception};
use super::{Call, CallId, first_byte, jsonrpc, method_name};
use crate::message::{CallError, Delivery, ErrorKind, HeaderValue, Outcome, Properties, Request};

/// Celery's own exceptions, as its client imports them.
const EXCEPTIONS: &str = "celery.exceptions";

/// Headers that ask for more than running the task, and what would have to be
/// done.
const UNSUPPORTED: [(&str, &str); 3] = [
    ("eta", "waiting until a time (`eta`, `countdown`)"),
    (
        "expires",
        "expiring (`expires`; set a `timeout` for the plugin or the message's `expiration`)",
    ),
    ("timelimit", "a time limit of the task's own (`time_limit`; set a `timeout` for the plugin)"),
];

/// Members of the body's third part that do.
const UNSUPPORTED_EMBEDDED: [&str; 4] = ["callbacks", "errbacks", "chain", "chord"];

#[derive(Deserialize)]
struct Body<'a>(
    #[serde(borrow)] &'a RawValue,
    #[serde(borrow)] &'a RawValue,
    #[serde(borrow)] Embedded<'a>,
);

#[derive(Deserialize)]
struct Embedded<'a> {
    #[serde(borrow, default)]
    callbacks: Option<&'a RawValue>,
    #[serde(borrow, default)]
    errbacks: Option<&'a RawValue>,
    #[serde(borrow, default)]
    chain: Option<&'a RawValue>,
    #[serde(borrow, default)]
    chord: Option<&'a RawValue>,
}

/// The task's id: in a header, and in the correlation id for who has lost that.
pub(super) fn task_id(delivery: &Delivery) -> CallId {
    let correlated = || {
        let id = delivery.properties.correlation_id.as_ref();
        id.map(|id| String::from_utf8_lossy(id).into_owned())
    };
    let id = delivery.properties.text_header("id").map(str::to_owned).or_else(correlated);
    CallId::Json(json!(id).to_string())
}

pub(super) fn decode(delivery: &Delivery) -> Call {
    let properties = &delivery.properties;
    match request(properties, &delivery.body) {
        Ok(request) => {
            let unwanted = properties.header("ignore_result") == Some(&HeaderValue::Bool(true));
            let id = if unwanted { CallId::Notification } else { task_id(delivery) };
            Call { request: Ok(request), id }
        }
        Err(error) => Call { request: Err(error), id: task_id(delivery) },
    }
}

fn request(properties: &Properties, body: &Bytes) -> Result<Request, CallError> {
    let bad = |text: String| CallError::new(ErrorKind::BadRequest, text);
    let content_type = properties.content_type.as_deref().unwrap_or("");
    if content_type != "application/json" {
        let mut text = format!(
            "the task is written as `{content_type}`; only `application/json` is read (set \
             `task_serializer = \"json\"`)"
        );
        crate::message::truncate(&mut text, 400);
        return Err(CallError::new(ErrorKind::ParseError, text));
    }
    let method = properties.text_header("task").ok_or_else(|| {
        bad("the message has no header `task`; task protocol 2 is spoken here".to_owned())
    })?;
    for (name, what) in UNSUPPORTED {
        if properties.header(name).is_some_and(says_something) {
            return Err(bad(format!("{what} is not available here")));
        }
    }
    serde_json::from_slice::<&RawValue>(body).map_err(|error| {
        CallError::new(ErrorKind::ParseError, format!("the body is not JSON: {error}"))
    })?;
    let Body(args, kwargs, embedded) = serde_json::from_slice(body)
        .map_err(|_| bad("the body must be `[args, kwargs, embedded]`".to_owned()))?;
    let parts = [embedded.callbacks, embedded.errbacks, embedded.chain, embedded.chord];
    for (name, part) in UNSUPPORTED_EMBEDDED.iter().zip(parts) {
        if part.is_some_and(|part| !is_empty(part)) {
            return Err(bad(format!(
                "the task has `{name}`; only single tasks are run here, and nothing after them"
            )));
        }
    }
    let method = method_name(method.to_owned()).map_err(bad)?;
    let arguments = python::arguments(Some(args), Some(kwargs)).map_err(bad)?;
    Ok(Request { method: Some(method), arguments })
}

/// Whether a header asks for something. A time limit is a list of two, which is
/// empty if both are void.
fn says_something(value: &HeaderValue) -> bool {
    match value {
        HeaderValue::Null => false,
        HeaderValue::List(parts) => parts.iter().any(says_something),
        _ => true,
    }
}

fn is_empty(part: &RawValue) -> bool {
    let mut rest = part.get().bytes().filter(|byte| !byte.is_ascii_whitespace());
    match first_byte(part.get().as_bytes()) {
        Some(b'n') => true,
        Some(b'[') => rest.nth(1) == Some(b']'),
        _ => false,
    }
}

pub(super) fn encode(body: &mut Vec<u8>, id: &str, outcome: &Outcome) {
    let text = match outcome {
        Ok(value) => format!(
            r#"{{"status":"SUCCESS","result":{},"traceback":null,"children":[],"task_id":{id}}}"#,
            jsonrpc::json_of(value)
        ),
        Err(error) => {
            let exception = Exception::of(error);
            let (module, name) = match error.kind {
                ErrorKind::MethodNotFound { .. } => (EXCEPTIONS, "NotRegistered"),
                ErrorKind::ParseError => ("kombu.exceptions", "ContentDisallowed"),
                ErrorKind::Timeout => (EXCEPTIONS, "TimeLimitExceeded"),
                _ => (exception.module, exception.name.as_ref()),
            };
            let result = json!({
                "exc_type": name,
                "exc_message": exception.args,
                "exc_module": module,
            });
            format!(
                r#"{{"status":"FAILURE","result":{result},"traceback":{},"children":[],"task_id":{id}}}"#,
                json!(exception.traceback())
            )
        }
    };
    body.extend_from_slice(text.as_bytes());
}
