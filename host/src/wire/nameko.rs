//! The `nameko` dialect: Nameko's RPC over its topic exchange (nameko 2.14).
//!
//! The method is the routing key, `<service>.<method>`; the body is
//! `{"args": […], "kwargs": {…}}`; the reply goes back through the exchange of the
//! request, where `reply_to` is a routing key.

use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::python::{self, Exception};
use super::{Call, CallId, jsonrpc};
use crate::message::{Delivery, ErrorKind, NAMEKO_EXCHANGE, Outcome, Request};

/// The module whose exceptions its client raises as they are.
const EXCEPTIONS: &str = "nameko.exceptions";

#[derive(Deserialize)]
struct Payload<'a> {
    #[serde(borrow)]
    args: &'a RawValue,
    #[serde(borrow)]
    kwargs: &'a RawValue,
}

/// Where replies are published.
pub(super) fn reply_exchange(delivery: &Delivery) -> &str {
    if delivery.exchange.is_empty() { NAMEKO_EXCHANGE } else { &delivery.exchange }
}

pub(super) fn decode(delivery: &Delivery) -> Call {
    let refused = |kind, text: String| Call::refused(kind, text, CallId::None);
    if let Err(error) = serde_json::from_slice::<&RawValue>(&delivery.body) {
        return refused(ErrorKind::ParseError, format!("the body is not JSON: {error}"));
    }
    let Ok(payload) = serde_json::from_slice::<Payload<'_>>(&delivery.body) else {
        let text = "the body must be an object with `args` and `kwargs`";
        return refused(ErrorKind::BadRequest, text.to_owned());
    };
    match python::arguments(Some(payload.args), Some(payload.kwargs)) {
        Ok(arguments) => Call {
            request: Ok(Request { method: Some(delivery.routing_key.clone()), arguments }),
            id: CallId::None,
        },
        Err(text) => refused(ErrorKind::BadRequest, text),
    }
}

pub(super) fn encode(body: &mut Vec<u8>, outcome: &Outcome) {
    let text = match outcome {
        Ok(value) => format!(r#"{{"result":{},"error":null}}"#, jsonrpc::json_of(value)),
        Err(error) => {
            let exception = Exception::of(error);
            let (module, name) = match error.kind {
                ErrorKind::MethodNotFound { .. } => (EXCEPTIONS, "MethodNotFound"),
                ErrorKind::InvalidParams => (EXCEPTIONS, "IncorrectSignature"),
                ErrorKind::ParseError | ErrorKind::BadRequest => (EXCEPTIONS, "MalformedRequest"),
                _ => (exception.module, exception.name.as_ref()),
            };
            json!({
                "result": null,
                "error": {
                    "exc_type": name,
                    "exc_path": format!("{module}.{name}"),
                    "exc_args": exception.args,
                    "value": exception.message,
                },
            })
            .to_string()
        }
    };
    body.extend_from_slice(text.as_bytes());
}
