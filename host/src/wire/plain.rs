//! The `plain` dialect: what RabbitMQ's RPC tutorial speaks.
//!
//! The method is in the property `type`, else in the header `rpc-method`; the
//! body is the argument; the result is the reply's body. An error is a JSON
//! object in a reply of type `error`.

use serde_json::json;

use super::errors::{error_code, error_data, retryable};
use crate::message::{Arguments, CallError, Delivery, Properties, Request};

/// The method that a message names outside its body.
pub(super) fn method(properties: &Properties) -> Option<&str> {
    let named = |name: &&str| !name.is_empty();
    let header = || properties.text_header("rpc-method").filter(named);
    properties.kind.as_deref().filter(named).or_else(header)
}

pub(super) fn decode(delivery: &Delivery) -> Request {
    Request {
        method: method(&delivery.properties).map(str::to_owned),
        arguments: Arguments::Body(delivery.body.clone()),
    }
}

pub(super) fn encode_error(error: &CallError) -> Vec<u8> {
    format!(
        r#"{{"error":{{"code":{},"kind":"{}","message":{},"retryable":{},"data":{}}}}}"#,
        error_code(error.kind),
        error.kind.name(),
        json!(error.message),
        retryable(error.kind),
        error_data(error),
    )
    .into_bytes()
}
