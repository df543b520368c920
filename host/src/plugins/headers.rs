//! Headers on their way to a guest and back.

use std::borrow::Cow;

use serde_json::{Value, json};

use crate::message::HeaderValue;

/// Longest AMQP short string in bytes (section 4.2.5.3).
const MAX_SHORT_STRING: usize = 255;

/// Bytes that all headers of a reply may have together. The properties of a
/// message travel in one frame, which RabbitMQ limits to 128 KiB.
const MAX_HEADER_BYTES: usize = 64 * 1024;

/// Headers as guests see them: text as it is, everything else as JSON text.
pub(super) fn to_guest(headers: &[(String, HeaderValue)]) -> Vec<(&str, Cow<'_, str>)> {
    headers
        .iter()
        .map(|(name, value)| {
            let text = match value {
                HeaderValue::Text(text) => Cow::Borrowed(text.as_str()),
                other => Cow::Owned(to_json(other).to_string()),
            };
            (name.as_str(), text)
        })
        .collect()
}

fn to_json(value: &HeaderValue) -> Value {
    match value {
        HeaderValue::Text(text) => json!(text),
        HeaderValue::Bytes(bytes) => json!(String::from_utf8_lossy(bytes)),
        HeaderValue::Bool(value) => json!(value),
        HeaderValue::Int(value) => json!(value),
        HeaderValue::UInt(value) | HeaderValue::Timestamp(value) => json!(value),
        HeaderValue::Float(value) => json!(value),
        HeaderValue::Decimal(digits, scale) => {
            json!(f64::from(*digits) / 10f64.powi(i32::from(*scale)))
        }
        HeaderValue::List(items) => items.iter().map(to_json).collect(),
        HeaderValue::Table(table) => {
            Value::Object(table.iter().map(|(key, value)| (key.clone(), to_json(value))).collect())
        }
        HeaderValue::Null => Value::Null,
    }
}

/// The headers of a guest's reply that may be sent.
///
/// # Errors
///
/// When there are more than a message can carry, in words that follow "has".
pub(super) fn from_guest(
    headers: Vec<(String, String)>,
    max_headers: usize,
) -> Result<Vec<(String, String)>, String> {
    if headers.len() > max_headers {
        return Err(format!("{} headers, the limit is {max_headers}", headers.len()));
    }
    let allowed: Vec<_> =
        headers.into_iter().filter(|(name, value)| is_allowed(name, value)).collect();
    let bytes: usize = allowed.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > MAX_HEADER_BYTES {
        return Err(format!("{bytes} bytes of headers, the limit is {MAX_HEADER_BYTES}"));
    }
    Ok(allowed)
}

/// `CC` and `BCC` make RabbitMQ copy a message to more queues, with the
/// host's permissions; `rpchost-` is ours.
fn is_allowed(name: &str, value: &str) -> bool {
    !name.is_empty()
        && fits_short_string(name)
        && !name.chars().any(char::is_control)
        && !value.contains('\0')
        && !name.eq_ignore_ascii_case("CC")
        && !name.eq_ignore_ascii_case("BCC")
        && !name.to_ascii_lowercase().starts_with("rpchost-")
}

/// Whether a text can be a property or a header's name.
pub(super) fn fits_short_string(text: &str) -> bool {
    text.len() <= MAX_SHORT_STRING && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_cannot_set_what_routes_or_what_is_ours() {
        let header = |name: &str| (name.to_owned(), "x".to_owned());
        let long = "n".repeat(256);
        let given = ["CC", "BCC", "cc", "rpchost-status", "RPCHOST-x", "", "a\r\nb", &long, "x-ok"];
        let kept = from_guest(given.into_iter().map(header).collect(), 128);
        assert_eq!(kept, Ok(vec![header("x-ok")]));
    }

    #[test]
    fn values_that_are_no_text_arrive_as_json() {
        let headers = [
            ("n".to_owned(), HeaderValue::Int(-3)),
            ("t".to_owned(), HeaderValue::Table(vec![("a".to_owned(), HeaderValue::Null)])),
            ("s".to_owned(), HeaderValue::Text("as it is".to_owned())),
        ];
        let seen: Vec<_> =
            to_guest(&headers).into_iter().map(|(_, value)| value.into_owned()).collect();
        assert_eq!(seen, ["-3", "{\"a\":null}", "as it is"]);
    }
}
