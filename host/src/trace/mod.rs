//! What the Firehose says: publishes and deliveries, read out of the copies
//! that RabbitMQ makes of them (<https://www.rabbitmq.com/docs/firehose>).
//!
//! Pure functions and plain data. Where the copies come from is
//! [`crate::amqp::Firehose`]'s business. `calls` joins requests and replies,
//! `text` and `json` are the two ways of showing either.

mod calls;
mod json;
mod text;

use std::time::SystemTime;

use bytes::Bytes;

use crate::message::{HeaderValue, Properties};

pub use calls::{Call, Calls};
pub use json::{call as call_as_json, event as event_as_json};
pub use text::{Table, escaped};

/// Names of headers whose values are not shown: whoever may look at messages
/// is not meant to collect what opens other doors. Compared in lower case.
const SECRET: [&str; 9] = [
    "password",
    "passwd",
    "secret",
    "token",
    "authorization",
    "cookie",
    "credential",
    "api-key",
    "apikey",
];

/// Which of the two a copy is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A message that entered the broker.
    Publish,
    /// A message that left a queue for a consumer.
    Deliver,
}

impl Kind {
    /// The first word of the routing key.
    pub fn name(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Deliver => "deliver",
        }
    }
}

/// One publish or one delivery.
#[derive(Debug, Clone)]
pub struct Event {
    /// When the copy reached us; the broker does not say when it was made.
    pub at: SystemTime,
    /// Publish or delivery.
    pub kind: Kind,
    /// The exchange that was published to; empty is the default exchange.
    pub exchange: String,
    /// Routing keys: the message's own, and those of `CC` and `BCC`.
    pub routing_keys: Vec<String>,
    /// Of a publish: the queues it went to; by way of the default exchange the
    /// one that was meant, whether it exists or not. Of a delivery: the queue it
    /// left.
    pub queues: Vec<String>,
    /// Whether the delivery may have been made before.
    pub redelivered: bool,
    /// Node, virtual host, user, connection and channel, as far as they are told.
    pub place: Vec<(&'static str, HeaderValue)>,
    /// The original's properties but its headers, by name.
    pub properties: Vec<(String, HeaderValue)>,
    /// The original's headers; the values of secret ones are masked.
    pub headers: Vec<(String, HeaderValue)>,
    /// The body, as much of it as was asked for.
    pub body: Bytes,
    /// Bytes of the whole body.
    pub body_bytes: usize,
}

impl Event {
    /// Reads a copy: its routing key, its own properties, and the body, of
    /// which `max_payload` bytes are kept. `None` for what is no copy:
    /// anybody may publish to the exchange.
    pub fn read(
        routing_key: &str,
        copy: &Properties,
        body: &Bytes,
        max_payload: usize,
        at: SystemTime,
    ) -> Option<Self> {
        let (kind, place) = routing_key.split_once('.')?;
        let kind = match kind {
            "publish" => Kind::Publish,
            "deliver" => Kind::Deliver,
            _ => return None,
        };
        let mut properties = match copy.header("properties") {
            Some(HeaderValue::Table(properties)) => properties.clone(),
            _ => Vec::new(),
        };
        let headers = properties.iter().position(|(name, _)| name == "headers");
        let headers = match headers.map(|at| properties.remove(at).1) {
            Some(HeaderValue::Table(headers)) => headers.into_iter().map(masked).collect(),
            _ => Vec::new(),
        };
        let place_names = ["node", "vhost", "user", "connection", "channel"];
        let kept = body.get(..max_payload).unwrap_or(body);
        Some(Self {
            at,
            kind,
            exchange: copy.text_header("exchange_name").unwrap_or_default().to_owned(),
            routing_keys: texts(copy.header("routing_keys")),
            queues: match kind {
                Kind::Publish => texts(copy.header("routed_queues")),
                Kind::Deliver => vec![place.to_owned()],
            },
            redelivered: matches!(copy.header("redelivered"), Some(HeaderValue::Int(1..))),
            place: place_names
                .into_iter()
                .filter_map(|name| Some((name, copy.header(name)?.clone())))
                .collect(),
            properties,
            headers,
            // A slice of a large body would keep all of it.
            body: Bytes::copy_from_slice(kept),
            body_bytes: body.len(),
        })
    }

    /// A property of the original as bytes; ids and addresses need not be text.
    pub fn property(&self, name: &str) -> Option<&[u8]> {
        match &self.properties.iter().find(|(key, _)| key == name)?.1 {
            HeaderValue::Text(text) => Some(text.as_bytes()),
            HeaderValue::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// A header of the original, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        match &self.headers.iter().find(|(key, _)| key == name)?.1 {
            HeaderValue::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The message's own routing key.
    pub fn routing_key(&self) -> &str {
        self.routing_keys.first().map(String::as_str).unwrap_or_default()
    }
}

fn texts(value: Option<&HeaderValue>) -> Vec<String> {
    let Some(HeaderValue::List(items)) = value else { return Vec::new() };
    let text = |item: &HeaderValue| match item {
        HeaderValue::Text(text) => text.clone(),
        HeaderValue::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        other => format!("{other:?}"),
    };
    items.iter().map(text).collect()
}

/// The header as it may be shown, tables within it included.
fn masked((name, value): (String, HeaderValue)) -> (String, HeaderValue) {
    let lower = name.to_ascii_lowercase();
    if SECRET.iter().any(|secret| lower.contains(secret)) {
        return (name, HeaderValue::Text("***".to_owned()));
    }
    let value = match value {
        HeaderValue::Table(table) => HeaderValue::Table(table.into_iter().map(masked).collect()),
        HeaderValue::List(items) => HeaderValue::List(
            items.into_iter().map(|item| masked((String::new(), item)).1).collect(),
        ),
        other => other,
    };
    (name, value)
}

#[cfg(test)]
mod tests;
