//! Events and calls as JSON, one object each.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value, json};

use std::time::{Duration, SystemTime};

use super::{Call, Event, Kind};
use crate::message::HeaderValue;

/// A publish or a delivery. The payload is text where it is UTF-8 (up to where
/// it was cut), else Base64; `payload_encoding` says which.
pub fn event(event: &Event) -> Value {
    let mut shown = Map::new();
    let mut put = |name: &str, value: Value| shown.insert(name.to_owned(), value);
    put("event", json!(event.kind.name()));
    put("at", json!(time(event.at)));
    put("exchange", json!(event.exchange));
    put("routing_key", json!(event.routing_key()));
    put("routing_keys", json!(event.routing_keys));
    match event.kind {
        Kind::Publish => put("queues", json!(event.queues)),
        Kind::Deliver => {
            put("queue", json!(event.queues.first()));
            put("redelivered", json!(event.redelivered))
        }
    };
    put("properties", table(&event.properties));
    put("headers", table(&event.headers));
    let (payload, encoding) = payload(event);
    put("payload", json!(payload));
    put("payload_encoding", json!(encoding));
    put("payload_bytes", json!(event.body_bytes));
    put("truncated", json!(event.body.len() < event.body_bytes));
    for (name, value) in &event.place {
        put(name, self::value(value));
    }
    Value::Object(shown)
}

/// A request with its reply; times in milliseconds, `null` where something was
/// not seen.
pub fn call(call: &Call) -> Value {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    json!({
        "event": "call",
        "at": time(call.published),
        "correlation_id": text(&call.id),
        "reply_to": text(&call.reply_to),
        "method": call.method,
        "exchange": call.exchange,
        "routing_key": call.routing_key,
        "queue": call.queue,
        "answered": call.replied.is_some(),
        "status": call.status,
        "deliveries": call.deliveries,
        "reply_routed": call.replied.map(|_| call.reply_routed),
        "request_bytes": call.request_bytes,
        "reply_bytes": call.reply_bytes,
        "waited_ms": call.waited().map(milliseconds),
        "worked_ms": call.worked().map(milliseconds),
        "back_ms": call.back().map(milliseconds),
        "total_ms": call.total().map(milliseconds),
    })
}

/// UTC, with microseconds.
fn time(at: SystemTime) -> String {
    humantime::format_rfc3339_micros(at).to_string()
}

/// Whole microseconds.
fn milliseconds(time: Duration) -> f64 {
    Duration::from_micros(u64::try_from(time.as_micros()).unwrap_or(u64::MAX)).as_secs_f64() * 1e3
}

fn payload(event: &Event) -> (String, &'static str) {
    let cut = event.body.len() < event.body_bytes;
    match std::str::from_utf8(&event.body) {
        Ok(text) => (text.to_owned(), "utf-8"),
        // Cut in the middle of a character.
        Err(error) if cut && error.error_len().is_none() => {
            let whole = event.body.get(..error.valid_up_to()).unwrap_or_default();
            (String::from_utf8_lossy(whole).into_owned(), "utf-8")
        }
        Err(_) => (BASE64.encode(&event.body), "base64"),
    }
}

fn table(entries: &[(String, HeaderValue)]) -> Value {
    entries.iter().map(|(name, entry)| (name.clone(), value(entry))).collect()
}

pub(super) fn value(of: &HeaderValue) -> Value {
    match of {
        HeaderValue::Text(text) => json!(text),
        HeaderValue::Bytes(bytes) => json!({ "base64": BASE64.encode(bytes) }),
        HeaderValue::Bool(value) => json!(value),
        HeaderValue::Int(value) => json!(value),
        HeaderValue::UInt(value) | HeaderValue::Timestamp(value) => json!(value),
        HeaderValue::Float(value) => json!(value),
        HeaderValue::Decimal(digits, scale) => json!(format!("{digits}e-{scale}")),
        HeaderValue::List(items) => items.iter().map(value).collect(),
        HeaderValue::Table(entries) => table(entries),
        HeaderValue::Null => Value::Null,
    }
}
