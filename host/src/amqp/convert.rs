//! Between lapin's types and the project's own.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use tokio_util::sync::CancellationToken;

use super::filter::{self, Delivered, Message, Property, SHORT_MAX};
use super::note;
use crate::message::{
    Delivery, HeaderValue, Original, Properties, Reply, Revoked, SetAside, Terms,
};

/// What deliveries of one queue have in common.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    pub(super) queue: Arc<str>,
    pub(super) terms: Arc<Terms>,
    pub(super) revoked: Revoked,
    pub(super) leaving: CancellationToken,
}

/// A delivery of a queue that clients publish to.
pub(super) fn delivery(from: Delivered, origin: Origin) -> Delivery {
    made_of(from, origin, None)
}

/// A delivery of a queue that hosts publish to: the request as it was, and what
/// was written on it. `user` is who we are for the broker.
pub(super) fn restored(mut from: Delivered, origin: Origin, user: &str) -> Delivery {
    let (properties, note) = note::take(&from.properties, user);
    from.properties = properties;
    // One without a note was put there by somebody else, for this queue.
    let note = note.unwrap_or_else(|| SetAside {
        routing_key: origin.queue.to_string(),
        ..SetAside::default()
    });
    let set_aside = SetAside { again: from.redelivered, ..note };
    // It may have run before: that is why it is there.
    from.redelivered = true;
    let crashes = u64::from(set_aside.crashes);
    let (exchange, key) = (set_aside.exchange.clone(), set_aside.routing_key.clone());
    let mut delivery = made_of(from, origin, Some(Box::new(set_aside)));
    (delivery.exchange, delivery.routing_key) = (exchange, key);
    // What `Delivery::attempt` counts by.
    let headers = &mut delivery.properties.headers;
    headers.retain(|(name, _)| name != "x-delivery-count");
    headers.push(("x-delivery-count".to_owned(), HeaderValue::UInt(crashes)));
    delivery
}

fn made_of(from: Delivered, origin: Origin, set_aside: Option<Box<SetAside>>) -> Delivery {
    let Origin { queue, terms, revoked, leaving } = origin;
    Delivery {
        tag: from.delivery_tag,
        queue,
        terms,
        exchange: from.exchange,
        routing_key: from.routing_key,
        redelivered: from.redelivered,
        received_at: Instant::now(),
        received_wall: SystemTime::now(),
        properties: properties(&from.properties),
        body: Bytes::from(from.data),
        revoked,
        leaving,
        original: Original::new(from.properties),
        set_aside,
    }
}

pub(super) fn properties(from: &BasicProperties) -> Properties {
    let exact = |property| filter::bytes(from, property).map(Bytes::copy_from_slice);
    // Where only people and comparisons look, what is no text is made one.
    let text = |property| {
        filter::bytes(from, property).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    };
    Properties {
        reply_to: exact(Property::ReplyTo),
        correlation_id: exact(Property::CorrelationId),
        content_type: text(Property::ContentType),
        // An id is compared; two that are no text must not become one.
        message_id: filter::bytes(from, Property::MessageId)
            .and_then(|id| std::str::from_utf8(id).ok())
            .map(str::to_owned),
        kind: text(Property::Type),
        app_id: text(Property::AppId),
        user_id: text(Property::UserId),
        expiration: text(Property::Expiration),
        delivery_mode: *from.delivery_mode(),
        priority: *from.priority(),
        timestamp: *from.timestamp(),
        headers: from.headers().as_ref().map(table).unwrap_or_default(),
        headers_lost: filter::headers_lost(from).map(str::to_owned),
    }
}

fn table(from: &FieldTable) -> Vec<(String, HeaderValue)> {
    let ours = |name: &ShortString| filter::is_reserved(name.as_str());
    let theirs = from.inner().iter().filter(|(name, _)| !ours(name));
    theirs.map(|(name, field)| (name.as_str().to_owned(), value(field))).collect()
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

/// A reply as it is published, made from nothing but the reply: what a request says of itself must
/// not travel on with the host's permissions. `None` where the address or an id is longer than it
/// can be.
pub(super) fn message<'a>(reply: &'a Reply, message_id: &'a str) -> Option<Message<'a>> {
    let fits = |bytes: &&[u8]| bytes.len() <= SHORT_MAX;
    let correlation_id = match reply.correlation_id.as_deref() {
        Some(id) => Some(Some(id).filter(fits)?),
        None => None,
    };
    Some(Message {
        exchange: Some(reply.exchange.as_deref().unwrap_or_default().as_bytes()).filter(fits)?,
        routing_key: Some(&*reply.routing_key).filter(fits)?,
        // RabbitMQ returns every direct reply, delivered or not.
        mandatory: reply.direct_node.is_none(),
        persistent: reply.persistent,
        content_type: reply.content_type.as_deref().map(str::as_bytes).filter(fits),
        headers: &reply.headers,
        correlation_id,
        reply_to: None,
        message_id: message_id.as_bytes(),
        kind: reply.kind.map(str::as_bytes),
        body: &reply.body,
    })
}

/// A short string; `None` beyond its 255 bytes, where lapin would panic.
pub(super) fn short(text: &str) -> Option<ShortString> {
    ShortString::try_new(text).ok()
}
