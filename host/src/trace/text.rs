//! Events and calls as lines of a table, for a terminal of any width.
//!
//! Whatever a message holds, its line is one line: control characters, and
//! what turns or hides text, are escaped.

use std::time::{Duration, SystemTime};

use unicode_width::UnicodeWidthStr as _;

use super::{Call, Event, Kind, json};
use crate::message::HeaderValue;

/// Below this the table does not become narrower.
const NARROWEST: usize = 60;

/// `12:34:56.789`, and the longest name of an event.
const TIME: usize = 12;
const EVENT: usize = 7;

/// A call's time, name, and four times of five columns, three of them named.
const CALL: usize = TIME + 1 + EVENT + 6 + 3 * 11;

/// Where a message goes, and its id, as shares of what is left of the width;
/// the payload has the rest.
const WHERE_SHARE: usize = 50;
const ID_SHARE: usize = 17;

/// Columns and the limit on them.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    place: usize,
    id: usize,
    /// Columns for the payload; none means all of it.
    payload: Option<usize>,
    /// All columns.
    total: Option<usize>,
}

impl Table {
    /// A table for a terminal that is `width` columns wide; for none, such as
    /// a pipe, as for 120 columns, and with whole payloads.
    pub fn new(width: Option<usize>) -> Self {
        let total = width.unwrap_or(120).max(NARROWEST);
        let left = total - (TIME + EVENT + 5);
        let (place, id) = (left * WHERE_SHARE / 100, left * ID_SHARE / 100);
        Self { place, id, payload: width.map(|_| left - place - id), total: width.map(|_| total) }
    }

    /// Names of the columns. Times are UTC.
    pub fn header(&self) -> String {
        self.row("TIME (UTC)", "EVENT", "WHERE", "ID", "PAYLOAD")
    }

    /// One publish or delivery.
    pub fn event(&self, event: &Event) -> String {
        let place = match event.kind {
            Kind::Publish => {
                let exchange =
                    if event.exchange.is_empty() { "(default)" } else { &event.exchange };
                let to = match event.queues.as_slice() {
                    [] => "nowhere".to_owned(),
                    // The default exchange's key is the queue's name.
                    [only] if event.exchange.is_empty() && only == event.routing_key() => {
                        return self.line(event, &escaped(only));
                    }
                    queues => escaped(&queues.join(", ")),
                };
                format!("{} {} → {to}", escaped(exchange), escaped(event.routing_key()))
            }
            Kind::Deliver => {
                let again = if event.redelivered { " (again)" } else { "" };
                format!("{}{again}", escaped(&event.queues.join(", ")))
            }
        };
        self.line(event, &place)
    }

    /// One call: in all, in its queue, in the service, and on the way back.
    pub fn call(&self, call: &Call) -> String {
        let method = call.method.as_deref().or(call.queue.as_deref()).unwrap_or(&call.routing_key);
        let said = match (&call.status, call.replied) {
            (Some(status), _) => escaped(status),
            (None, Some(_)) => "answered".to_owned(),
            (None, None) => "no answer".to_owned(),
        };
        let mut remarks = vec![format!("{} → {said}", escaped(method))];
        match call.deliveries {
            0 if call.replied.is_none() => remarks.push("never delivered".to_owned()),
            0 | 1 => {}
            times => remarks.push(format!("delivered {times} times")),
        }
        if call.replied.is_some() && !call.reply_routed {
            remarks.push("no queue took the reply".to_owned());
        }
        let mut line = format!("{:TIME$} {:EVENT$}", clock(call.published), "call");
        for (name, time) in [
            ("", call.total()),
            ("wait ", call.waited()),
            ("work ", call.worked()),
            ("back ", call.back()),
        ] {
            line += &format!(" {name}{:>5}", time.map_or_else(|| "-".to_owned(), short));
        }
        let rest = format!("  {}  {}", remarks.join(", "), escaped_bytes(&call.id));
        line + &self.total.map_or_else(|| rest.clone(), |total| cut(&rest, total - CALL))
    }

    /// Properties and headers of a message, a line each.
    pub fn details(&self, event: &Event) -> Vec<String> {
        let all = event.properties.iter().chain(&event.headers);
        let line = |(name, value): &(String, HeaderValue)| {
            let value = match value {
                HeaderValue::Text(text) => escaped(text),
                other => escaped(&json::value(other).to_string()),
            };
            format!("{:TIME$} {:EVENT$} {}: {value}", "", "", escaped(name))
        };
        all.map(line).collect()
    }

    fn line(&self, event: &Event, place: &str) -> String {
        let payload = escaped_bytes(&event.body);
        let more = event.body_bytes - event.body.len();
        let payload = if more == 0 { payload } else { format!("{payload}… ({more} B more)") };
        let id = event.property("correlation_id").or(event.property("message_id"));
        let id = self.id_of(id.unwrap_or_default());
        self.row(&clock(event.at), event.kind.name(), place, &id, &payload)
    }

    /// The end of an id, which is where those of one client differ.
    fn id_of(&self, id: &[u8]) -> String {
        let id = escaped_bytes(id);
        if id.width() <= self.id {
            return id;
        }
        let mut end = String::new();
        for c in id.chars().rev() {
            if end.width() + c.to_string().width() >= self.id {
                break;
            }
            end.insert(0, c);
        }
        format!("…{end}")
    }

    fn row(&self, time: &str, event: &str, place: &str, id: &str, payload: &str) -> String {
        let place = padded(&cut(place, self.place), self.place);
        let id = padded(id, self.id);
        let payload = match self.payload {
            Some(width) => cut(payload, width),
            None => payload.to_owned(),
        };
        let line = format!("{time:TIME$} {event:EVENT$} {place} {id} {payload}");
        line.trim_end().to_owned()
    }
}

/// At most `width` columns; the last one says where something is missing.
fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut kept = String::new();
    for c in text.chars() {
        if kept.width() + c.to_string().width() >= width {
            break;
        }
        kept.push(c);
    }
    kept.push('…');
    kept
}

fn padded(text: &str, width: usize) -> String {
    let missing = width.saturating_sub(text.width());
    format!("{text}{}", " ".repeat(missing))
}

/// The text without anything that a terminal would act on.
pub fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            // Quotes are harmless, and JSON is full of them.
            '"' | '\'' => safe.push(c),
            c => safe.extend(c.escape_debug()),
        }
    }
    safe
}

fn escaped_bytes(bytes: &[u8]) -> String {
    let mut safe = String::new();
    for chunk in bytes.utf8_chunks() {
        safe.push_str(&escaped(chunk.valid()));
        chunk.invalid().iter().for_each(|byte| safe.push_str(&format!("\\x{byte:02x}")));
    }
    safe
}

/// The time of day, UTC.
fn clock(at: SystemTime) -> String {
    let whole = humantime::format_rfc3339_millis(at).to_string();
    whole.get(11..23).unwrap_or(&whole).to_owned()
}

/// Five columns up to a quarter of an hour: `0.4ms`, `120ms`, `3.25s`, `31.2s`.
fn short(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    match ms {
        ..10.0 => format!("{ms:.1}ms"),
        ..1000.0 => format!("{ms:.0}ms"),
        ..10_000.0 => format!("{:.2}s", ms / 1e3),
        ..100_000.0 => format!("{:.1}s", ms / 1e3),
        _ => format!("{:.0}s", ms / 1e3),
    }
}
