//! A request of a caller, and how it looks on the wire but for what changes each
//! time it is sent.

use std::time::Duration;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, ByteArray, DecimalValue, FieldArray, FieldTable, LongString};

use super::CallerError;
use crate::amqp::convert::short;
use crate::message::HeaderValue;

/// A request to be sent.
#[derive(Debug, Clone, Default)]
pub struct Outgoing {
    /// Exchange to publish it to; empty is the default exchange.
    pub exchange: String,
    /// Queue to send it to, by way of the default exchange; the routing key of
    /// any other exchange.
    pub queue: String,
    /// Exchange that the answer is published to, if it is not the default exchange.
    /// The reply queue is bound to it, with its own name as key.
    pub reply_exchange: Option<String>,
    /// Its id, where the body has it, too; one of the caller's own if it is `None`.
    pub id: Option<String>,
    /// The property `type`.
    pub kind: Option<String>,
    /// MIME type of the body.
    pub content_type: Option<&'static str>,
    /// The property `content_encoding`.
    pub content_encoding: Option<&'static str>,
    /// Its headers.
    pub headers: Vec<(String, HeaderValue)>,
    /// The body.
    pub body: Vec<u8>,
    /// Whether it, and its reply, survive a restart of the broker in a durable
    /// queue that is not a quorum queue; those keep everything.
    pub persistent: bool,
    /// Longest wait for the answer. What is left of it is sent along as the
    /// message's time to live, so that nobody works for a caller that is gone.
    pub timeout: Duration,
    /// Tells of a reply's body that it is not the answer, but on the way to it.
    pub interim: Option<fn(&[u8]) -> bool>,
}

/// What is the same whenever a request is sent.
pub(super) fn properties(request: &Outgoing, id: &str) -> Result<BasicProperties, CallerError> {
    let id = short(id).unwrap_or_default();
    let common =
        common_properties(request.kind.as_deref(), request.content_type, request.persistent)?;
    let mut properties = common.with_correlation_id(id.clone()).with_message_id(id);
    if let Some(content_encoding) = request.content_encoding.and_then(short) {
        properties = properties.with_content_encoding(content_encoding);
    }
    if !request.headers.is_empty() {
        properties = properties.with_headers(table(&request.headers));
    }
    Ok(properties)
}

/// What requests of all kinds say of themselves; `kind` is the property `type`.
pub(in crate::amqp) fn common_properties(
    kind: Option<&str>,
    content_type: Option<&str>,
    persistent: bool,
) -> Result<BasicProperties, CallerError> {
    let mode = if persistent { 2 } else { 1 };
    let mut properties = BasicProperties::default().with_delivery_mode(mode);
    if let Some(kind) = kind {
        let kind = short(kind).ok_or_else(|| {
            CallerError::Unsendable("the method's name is longer than 255 bytes".to_owned())
        })?;
        properties = properties.with_type(kind);
    }
    if let Some(content_type) = content_type.and_then(short) {
        properties = properties.with_content_type(content_type);
    }
    Ok(properties)
}

/// A table; a name that AMQP cannot carry is left out, of which no dialect has one.
fn table(from: &[(String, HeaderValue)]) -> FieldTable {
    let mut headers = FieldTable::default();
    for (name, header) in from {
        if let Some(name) = short(name) {
            headers.insert(name, value(header));
        }
    }
    headers
}

fn value(from: &HeaderValue) -> AMQPValue {
    match from {
        HeaderValue::Text(text) => AMQPValue::LongString(LongString::from(text.as_str())),
        HeaderValue::Bytes(bytes) => AMQPValue::ByteArray(ByteArray::from(bytes.to_vec())),
        HeaderValue::Bool(value) => AMQPValue::Boolean(*value),
        HeaderValue::Int(value) => AMQPValue::LongLongInt(*value),
        // RabbitMQ's tables have no larger number.
        HeaderValue::UInt(value) => {
            AMQPValue::LongLongInt(i64::try_from(*value).unwrap_or(i64::MAX))
        }
        HeaderValue::Float(value) => AMQPValue::Double(*value),
        HeaderValue::Decimal(value, scale) => {
            AMQPValue::DecimalValue(DecimalValue { scale: *scale, value: *value })
        }
        HeaderValue::Timestamp(seconds) => AMQPValue::Timestamp(*seconds),
        HeaderValue::List(items) => {
            AMQPValue::FieldArray(FieldArray::from(items.iter().map(value).collect::<Vec<_>>()))
        }
        HeaderValue::Table(nested) => AMQPValue::FieldTable(table(nested)),
        HeaderValue::Null => AMQPValue::Void,
    }
}
