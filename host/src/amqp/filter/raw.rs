//! Bytes that AMQP can carry and lapin cannot: where they travel instead.
//!
//! lapin's short strings are UTF-8, RabbitMQ's are bytes. A property that is not
//! UTF-8 is seen by the application as an entry of the header table, a byte
//! array under a reserved name, and it publishes such a property, or a routing
//! key, in the same way; the filter puts one in the place of the other.
//!
//! Owns those names, and reads and sets such values in lapin's types. Refuses to
//! know how they look on the wire.
//!
//! The names cannot be forged. From the network: entries with reserved names
//! are removed before lapin sees them. From an application that passes text
//! headers on: only a byte array is obeyed, a text is removed.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, ByteArray, FieldTable, ShortString};

use super::wire::SHORT_MAX;

/// What every reserved name begins with.
const PREFIX: &str = "rpchost-raw-";

/// The entry that says, as a text, why the headers of a message are missing.
/// The message is well otherwise; who sent it has done something wrong, and
/// should be told so.
pub(crate) const HEADERS: &str = "rpchost-raw-headers";

/// The entry that holds the routing key to publish with.
pub(super) const ROUTING_KEY: &str = "rpchost-raw-routing-key";

/// The routing key that is given to lapin beside a [`ROUTING_KEY`] entry. It
/// would be seen by a broker only if there were no filter; no queue is called so.
const PLACEHOLDER: &str = "rpchost-raw";

/// The type letter of the values: a byte array.
pub(super) const KIND: u8 = b'x';

/// The type letter of the [`HEADERS`] entry: a long string.
pub(super) const REASON_KIND: u8 = b'S';

/// The properties that are short strings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Property {
    /// `content-type`
    ContentType,
    /// `content-encoding`
    ContentEncoding,
    /// `correlation-id`
    CorrelationId,
    /// `reply-to`
    ReplyTo,
    /// `expiration`
    Expiration,
    /// `message-id`
    MessageId,
    /// `type`
    Type,
    /// `user-id`
    UserId,
    /// `app-id`
    AppId,
    /// `cluster-id`, deprecated
    ClusterId,
}

impl Property {
    const ALL: [Self; 10] = [
        Self::ContentType,
        Self::ContentEncoding,
        Self::CorrelationId,
        Self::ReplyTo,
        Self::Expiration,
        Self::MessageId,
        Self::Type,
        Self::UserId,
        Self::AppId,
        Self::ClusterId,
    ];

    /// The name of the entry that holds a value which is not UTF-8.
    pub(crate) const fn reserved_name(self) -> &'static str {
        match self {
            Self::ContentType => "rpchost-raw-content-type",
            Self::ContentEncoding => "rpchost-raw-content-encoding",
            Self::CorrelationId => "rpchost-raw-correlation-id",
            Self::ReplyTo => "rpchost-raw-reply-to",
            Self::Expiration => "rpchost-raw-expiration",
            Self::MessageId => "rpchost-raw-message-id",
            Self::Type => "rpchost-raw-type",
            Self::UserId => "rpchost-raw-user-id",
            Self::AppId => "rpchost-raw-app-id",
            Self::ClusterId => "rpchost-raw-cluster-id",
        }
    }

    pub(super) fn of_reserved_name(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|property| property.reserved_name().as_bytes() == name)
    }

    fn text(self, of: &BasicProperties) -> Option<&str> {
        let text = match self {
            Self::ContentType => of.content_type(),
            Self::ContentEncoding => of.content_encoding(),
            Self::CorrelationId => of.correlation_id(),
            Self::ReplyTo => of.reply_to(),
            Self::Expiration => of.expiration(),
            Self::MessageId => of.message_id(),
            Self::Type => of.kind(),
            Self::UserId => of.user_id(),
            Self::AppId => of.app_id(),
            Self::ClusterId => of.cluster_id(),
        };
        text.as_ref().map(ShortString::as_str)
    }

    fn with_text(self, properties: BasicProperties, text: ShortString) -> BasicProperties {
        match self {
            Self::ContentType => properties.with_content_type(text),
            Self::ContentEncoding => properties.with_content_encoding(text),
            Self::CorrelationId => properties.with_correlation_id(text),
            Self::ReplyTo => properties.with_reply_to(text),
            Self::Expiration => properties.with_expiration(text),
            Self::MessageId => properties.with_message_id(text),
            Self::Type => properties.with_type(text),
            Self::UserId => properties.with_user_id(text),
            Self::AppId => properties.with_app_id(text),
            Self::ClusterId => properties.with_cluster_id(text),
        }
    }
}

/// Whether a header's name is one of ours. Leave such headers out of what the
/// application sees and of what it publishes.
pub(crate) fn is_reserved(name: &str) -> bool {
    is_reserved_bytes(name.as_bytes())
}

pub(super) fn is_reserved_bytes(name: &[u8]) -> bool {
    name.starts_with(PREFIX.as_bytes())
}

/// A property's bytes as its sender wrote them, UTF-8 or not.
pub(crate) fn bytes(of: &BasicProperties, property: Property) -> Option<&[u8]> {
    carried(of, property).or_else(|| property.text(of).map(str::as_bytes))
}

/// A property's bytes if they are not UTF-8.
fn carried(of: &BasicProperties, property: Property) -> Option<&[u8]> {
    match of.headers().as_ref()?.inner().get(property.reserved_name())? {
        AMQPValue::ByteArray(bytes) => Some(bytes.as_slice()),
        _ => None,
    }
}

/// Why the headers of a delivered message are missing, if they are.
pub(crate) fn headers_lost(of: &BasicProperties) -> Option<&str> {
    match of.headers().as_ref()?.inner().get(HEADERS)? {
        AMQPValue::LongString(reason) => std::str::from_utf8(reason.as_bytes()).ok(),
        _ => None,
    }
}

/// Sets a property of a message to be published. `None` beyond 255 bytes.
///
/// Set the headers first: bytes that are not UTF-8 become one of them.
pub(crate) fn with_bytes(
    properties: BasicProperties,
    property: Property,
    value: &[u8],
) -> Option<BasicProperties> {
    if value.len() > SHORT_MAX {
        return None;
    }
    if let Some(text) = short(value) {
        return Some(property.with_text(properties, text));
    }
    let mut headers = properties.headers().clone().unwrap_or_default();
    carry(&mut headers, property.reserved_name(), value);
    Some(properties.with_headers(headers))
}

/// The routing key to give to lapin with these properties so that the message
/// is published with `routing_key`. `None` beyond 255 bytes.
///
/// Set the headers first: bytes that are not UTF-8 become one of them.
pub(crate) fn with_routing_key(
    properties: BasicProperties,
    routing_key: &[u8],
) -> Option<(BasicProperties, ShortString)> {
    if routing_key.len() > SHORT_MAX {
        return None;
    }
    if let Some(text) = short(routing_key) {
        return Some((properties, text));
    }
    let mut headers = properties.headers().clone().unwrap_or_default();
    carry(&mut headers, ROUTING_KEY, routing_key);
    Some((properties.with_headers(headers), ShortString::from(PLACEHOLDER)))
}

fn short(bytes: &[u8]) -> Option<ShortString> {
    ShortString::try_new(std::str::from_utf8(bytes).ok()?).ok()
}

fn carry(headers: &mut FieldTable, name: &'static str, value: &[u8]) {
    headers.insert(ShortString::from(name), AMQPValue::ByteArray(ByteArray::from(value)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_reserved_and_lead_back() {
        for property in Property::ALL {
            assert!(is_reserved(property.reserved_name()));
            let name = property.reserved_name().as_bytes();
            assert_eq!(Property::of_reserved_name(name), Some(property));
        }
        assert!(is_reserved(HEADERS) && is_reserved(ROUTING_KEY));
        assert!(!is_reserved("rpchost-raw") && !is_reserved("x-rpchost-raw-type"));
        assert_eq!(Property::of_reserved_name(ROUTING_KEY.as_bytes()), None);
    }

    #[test]
    fn a_text_is_an_ordinary_property() {
        for property in Property::ALL {
            let properties = with_bytes(BasicProperties::default(), property, "ä".as_bytes());
            let properties = properties.unwrap();
            assert_eq!(properties.headers(), &None);
            assert_eq!(carried(&properties, property), None);
            assert_eq!(bytes(&properties, property), Some("ä".as_bytes()));
        }
    }

    #[test]
    fn bytes_are_carried_beside_other_headers() {
        let mut headers = FieldTable::default();
        headers.insert("mine".into(), AMQPValue::Void);
        let mut properties = BasicProperties::default().with_headers(headers);
        for property in Property::ALL {
            properties = with_bytes(properties, property, b"\xFF\x00").unwrap();
            assert_eq!(carried(&properties, property), Some(b"\xFF\x00".as_slice()));
            assert_eq!(bytes(&properties, property), Some(b"\xFF\x00".as_slice()));
        }
        assert_eq!(properties.headers().as_ref().unwrap().inner().len(), 11);
        assert_eq!(headers_lost(&properties), None);
    }

    #[test]
    fn a_routing_key_is_carried_only_if_it_must() {
        let (properties, key) = with_routing_key(BasicProperties::default(), b"queue").unwrap();
        assert_eq!((properties.headers(), key.as_str()), (&None, "queue"));
        let (properties, key) = with_routing_key(properties, b"\xFF").unwrap();
        assert_eq!(key.as_str(), PLACEHOLDER);
        let headers = properties.headers().clone().unwrap();
        assert_eq!(
            headers.inner().get(ROUTING_KEY),
            Some(&AMQPValue::ByteArray(b"\xFF".as_slice().into()))
        );
    }

    #[test]
    fn nothing_longer_than_a_short_string_is_carried() {
        let properties = BasicProperties::default;
        assert!(with_bytes(properties(), Property::Type, &[0xFF; 256]).is_none());
        assert!(with_bytes(properties(), Property::Type, &[b'x'; 256]).is_none());
        assert!(with_bytes(properties(), Property::Type, &[0xFF; 255]).is_some());
        assert!(with_routing_key(properties(), &[0xFF; 256]).is_none());
    }

    #[test]
    fn a_text_under_a_reserved_name_is_not_taken_for_bytes() {
        let mut headers = FieldTable::default();
        let name = Property::ReplyTo.reserved_name();
        headers.insert(name.into(), AMQPValue::LongString("queue".into()));
        let properties = BasicProperties::default().with_headers(headers);
        assert_eq!(carried(&properties, Property::ReplyTo), None);
    }
}
