//! The `aio-pika` dialect: `aio_pika.patterns.JsonRPC`.
//!
//! The method is the routing key, which is the queue's name; behind an exchange of
//! its own it is `<exchange>::<method>`. The body is an object of named arguments.
//! Its sibling `RPC` sends pickled objects, which are code; they are not read, and
//! refused in a pickle, so that the client raises an exception and no other error.

use bytes::Bytes;

use serde_json::json;
use serde_json::value::RawValue;

use super::python::Exception;
use super::{Call, CallId, first_byte, jsonrpc};
use crate::message::{Arguments, CallError, Delivery, ErrorKind, Outcome, PICKLE, Request};

/// How a message is written, and so how its answer has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Json,
    Pickle,
}

impl Coding {
    pub(super) fn of(delivery: &Delivery) -> Self {
        let content_type = delivery.properties.content_type.as_deref();
        if content_type == Some(PICKLE) { Self::Pickle } else { Self::Json }
    }

    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Pickle => PICKLE,
        }
    }
}

pub(super) fn decode(delivery: &Delivery) -> Call {
    Call { request: request(delivery), id: CallId::None }
}

fn request(delivery: &Delivery) -> Result<Request, CallError> {
    if Coding::of(delivery) == Coding::Pickle {
        let text = "pickled arguments are not read here; use `aio_pika.patterns.JsonRPC`";
        return Err(CallError::new(ErrorKind::ParseError, text));
    }
    if let Err(error) = serde_json::from_slice::<&RawValue>(&delivery.body) {
        let text = format!("the body is not JSON: {error}");
        return Err(CallError::new(ErrorKind::ParseError, text));
    }
    let arguments = match first_byte(&delivery.body) {
        Some(b'{') => Arguments::Json(delivery.body.clone()),
        // What the library sends for a call without arguments.
        Some(b'n') => Arguments::Json(Bytes::new()),
        _ => {
            let text = "the body must be an object of named arguments";
            return Err(CallError::new(ErrorKind::BadRequest, text));
        }
    };
    let key = delivery.routing_key.as_str();
    let method = key.rsplit_once("::").map_or(key, |(_, method)| method);
    Ok(Request { method: Some(method.to_owned()), arguments })
}

pub(super) fn encode(body: &mut Vec<u8>, coding: Coding, outcome: &Outcome) {
    let text = match (coding, outcome) {
        (_, Ok(value)) => jsonrpc::json_of(value).into_owned(),
        (Coding::Json, Err(error)) => {
            let exception = Exception::of(error);
            json!({
                "error": {
                    "type": exception.name,
                    "message": exception.line(),
                    "args": exception.args,
                },
            })
            .to_string()
        }
        (Coding::Pickle, Err(error)) => pickled(&error.message),
    };
    body.extend_from_slice(text.as_bytes());
}

/// `RuntimeError(message)` as Python's pickle protocol 0 writes it: a global, a
/// tuple of one text, and a call. Everything but ASCII is escaped.
fn pickled(message: &str) -> String {
    let mut text = String::from("cbuiltins\nRuntimeError\n(V");
    for character in message.chars() {
        match character {
            ' '..='~' if character != '\\' => text.push(character),
            _ => {
                let code = u32::from(character);
                let escaped =
                    if code > 0xffff { format!("\\U{code:08x}") } else { format!("\\u{code:04x}") };
                text.push_str(&escaped);
            }
        }
    }
    text.push_str("\ntR.");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pickle_holds_nothing_but_its_text() {
        assert_eq!(
            pickled("a\n.\\ é 😀"),
            "cbuiltins\nRuntimeError\n(Va\\u000a.\\u005c \\u00e9 \\U0001f600\ntR."
        );
    }
}
