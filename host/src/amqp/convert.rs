//! Between lapin's types and the project's own.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};

use crate::message::{Delivery, HeaderValue, Properties, Reply, Revoked};

pub(super) fn delivery(
    from: lapin::message::Delivery,
    queue: Arc<str>,
    revoked: Revoked,
) -> Delivery {
    Delivery {
        tag: from.delivery_tag,
        queue,
        exchange: from.exchange.as_str().to_owned(),
        routing_key: from.routing_key.as_str().to_owned(),
        redelivered: from.redelivered,
        received_at: Instant::now(),
        received_wall: SystemTime::now(),
        properties: properties(&from.properties),
        body: Bytes::from(from.data),
        revoked,
    }
}

pub(super) fn properties(from: &BasicProperties) -> Properties {
    let text = |value: &Option<ShortString>| value.as_ref().map(|value| value.as_str().to_owned());
    Properties {
        reply_to: text(from.reply_to()),
        correlation_id: from
            .correlation_id()
            .as_ref()
            .map(|id| Bytes::copy_from_slice(id.as_str().as_bytes())),
        content_type: text(from.content_type()),
        message_id: text(from.message_id()),
        kind: text(from.kind()),
        app_id: text(from.app_id()),
        user_id: text(from.user_id()),
        expiration: text(from.expiration()),
        delivery_mode: *from.delivery_mode(),
        priority: *from.priority(),
        timestamp: *from.timestamp(),
        headers: from.headers().as_ref().map(table).unwrap_or_default(),
    }
}

fn table(from: &FieldTable) -> Vec<(String, HeaderValue)> {
    from.inner().iter().map(|(name, field)| (name.as_str().to_owned(), value(field))).collect()
}

fn value(from: &AMQPValue) -> HeaderValue {
    match from {
        AMQPValue::Boolean(value) => HeaderValue::Bool(*value),
        AMQPValue::ShortShortInt(value) => HeaderValue::Int((*value).into()),
        AMQPValue::ShortShortUInt(value) => HeaderValue::UInt((*value).into()),
        AMQPValue::ShortInt(value) => HeaderValue::Int((*value).into()),
        AMQPValue::ShortUInt(value) => HeaderValue::UInt((*value).into()),
        AMQPValue::LongInt(value) => HeaderValue::Int((*value).into()),
        AMQPValue::LongUInt(value) => HeaderValue::UInt((*value).into()),
        AMQPValue::LongLongInt(value) => HeaderValue::Int(*value),
        AMQPValue::Float(value) => HeaderValue::Float((*value).into()),
        AMQPValue::Double(value) => HeaderValue::Float(*value),
        AMQPValue::DecimalValue(value) => HeaderValue::Decimal(value.value, value.scale),
        AMQPValue::ShortString(value) => HeaderValue::Text(value.as_str().to_owned()),
        AMQPValue::LongString(value) => text_or_bytes(value.as_bytes()),
        AMQPValue::ByteArray(value) => text_or_bytes(value.as_slice()),
        AMQPValue::FieldArray(items) => {
            HeaderValue::List(items.as_slice().iter().map(self::value).collect())
        }
        AMQPValue::Timestamp(seconds) => HeaderValue::Timestamp(*seconds),
        AMQPValue::FieldTable(nested) => HeaderValue::Table(table(nested)),
        AMQPValue::Void => HeaderValue::Null,
    }
}

fn text_or_bytes(bytes: &[u8]) -> HeaderValue {
    match std::str::from_utf8(bytes) {
        Ok(text) => HeaderValue::Text(text.to_owned()),
        Err(_) => HeaderValue::Bytes(Bytes::copy_from_slice(bytes)),
    }
}

/// A reply's properties, made from nothing but the reply: what a request says
/// of itself must not travel on with the host's permissions.
pub(super) fn reply_properties(reply: &Reply, message_id: &str) -> BasicProperties {
    let mut properties =
        BasicProperties::default().with_delivery_mode(if reply.persistent { 2 } else { 1 });
    if let Some(id) = reply.correlation_id.as_ref().and_then(|id| short_bytes(id)) {
        properties = properties.with_correlation_id(id);
    }
    if let Some(id) = short(message_id) {
        properties = properties.with_message_id(id);
    }
    if let Some(content_type) = reply.content_type.as_deref().and_then(short) {
        properties = properties.with_content_type(content_type);
    }
    if let Some(kind) = reply.kind.and_then(short) {
        properties = properties.with_type(kind);
    }
    properties.with_headers(headers(&reply.headers))
}

/// Text headers; what AMQP cannot carry was left out before.
pub(super) fn headers(from: &[(String, String)]) -> FieldTable {
    let mut headers = FieldTable::default();
    for (name, value) in from {
        if let Some(name) = short(name) {
            headers.insert(name, AMQPValue::LongString(LongString::from(value.as_str())));
        }
    }
    headers
}

/// A short string; `None` beyond its 255 bytes, where lapin would panic.
pub(super) fn short(text: &str) -> Option<ShortString> {
    ShortString::try_new(text).ok()
}

fn short_bytes(bytes: &[u8]) -> Option<ShortString> {
    short(std::str::from_utf8(bytes).ok()?)
}
