//! The `plain` dialect: what RabbitMQ's RPC tutorial speaks.
//!
//! The method is in the property `type`, else in the header `rpc-method`; the
//! body is the argument; the result is the reply's body. An error is a JSON
//! object in a reply of type `error`.

use serde_json::json;

use super::{error_code, error_data, retryable};
use crate::message::{Arguments, CallError, Delivery, Properties, Request};

/// The method that a message names outside its body.
pub(super) fn method(properties: &Properties) -> Option<&str> {
    properties
        .kind
        .as_deref()
        .or_else(|| properties.text_header("rpc-method"))
        .filter(|name| !name.is_empty())
}

pub(super) fn decode(delivery: &Delivery) -> Request {
    Request {
        method: method(&delivery.properties).map(str::to_owned),
        arguments: Arguments::Body(delivery.body.clone()),
    }
}

pub(super) fn encode_error(error: &CallError) -> Vec<u8> {
    json!({
        "error": {
            "code": error_code(error.kind),
            "kind": error.kind.name(),
            "message": error.message,
            "retryable": retryable(error.kind),
            "data": error_data(error),
        }
    })
    .to_string()
    .into_bytes()
}
