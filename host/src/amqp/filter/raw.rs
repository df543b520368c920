//! Bytes that AMQP can carry and lapin cannot: where they travel instead.
//!
//! lapin's short strings are UTF-8, RabbitMQ's are bytes. A property that is not
//! UTF-8 is seen by the application as an entry of the header table, a byte
//! array under a reserved name, and it publishes such a property in the same way,
//! where it passes a message on; the filter puts one in the place of the other.
//!
//! Owns those names, and reads such values in lapin's types. Refuses to
//! know how they look on the wire.
//!
//! The names cannot be forged. From the network: entries with reserved names
//! are removed before lapin sees them. From an application that passes text
//! headers on: only a byte array is obeyed, a text is removed.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, ShortString};

/// What every reserved name begins with.
const PREFIX: &str = "rpchost-raw-";

/// The entry that says, as a text, why the headers of a message are missing.
/// The message is well otherwise; who sent it has done something wrong, and
/// should be told so.
pub(crate) const HEADERS: &str = "rpchost-raw-headers";

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

/// Carries a property as the filter does.
#[cfg(test)]
pub(crate) fn carry(of: BasicProperties, property: Property, value: &[u8]) -> BasicProperties {
    let mut headers = of.headers().clone().unwrap_or_default();
    headers.insert(property.reserved_name().into(), AMQPValue::ByteArray(value.into()));
    of.with_headers(headers)
}

#[cfg(test)]
mod tests {
    use lapin::types::FieldTable;

    use super::*;

    #[test]
    fn names_are_reserved_and_lead_back() {
        for property in Property::ALL {
            assert!(is_reserved(property.reserved_name()));
            let name = property.reserved_name().as_bytes();
            assert_eq!(Property::of_reserved_name(name), Some(property));
        }
        assert!(is_reserved(HEADERS));
        assert!(!is_reserved("rpchost-raw") && !is_reserved("x-rpchost-raw-type"));
        assert_eq!(Property::of_reserved_name(HEADERS.as_bytes()), None);
    }

    #[test]
    fn a_text_is_an_ordinary_property() {
        let properties = BasicProperties::default().with_type("ä".into());
        assert_eq!(carried(&properties, Property::Type), None);
        assert_eq!(bytes(&properties, Property::Type), Some("ä".as_bytes()));
    }

    #[test]
    fn bytes_are_carried_beside_other_headers() {
        let mut properties = BasicProperties::default();
        for property in Property::ALL {
            properties = carry(properties, property, b"\xFF\x00");
            assert_eq!(carried(&properties, property), Some(b"\xFF\x00".as_slice()));
            assert_eq!(bytes(&properties, property), Some(b"\xFF\x00".as_slice()));
        }
        assert_eq!(properties.headers().as_ref().unwrap().inner().len(), 10);
        assert_eq!(headers_lost(&properties), None);
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
