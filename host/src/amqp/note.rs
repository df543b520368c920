//! The note on a message that is set aside, and how to take it off again.
//!
//! A message that is moved keeps its properties, headers and body. What the
//! broker would act upon or refuse is written into the note instead: the
//! time to live would end it in the new queue, too; it must be persistent there;
//! somebody else's user id may not be published; and `CC` would have it copied
//! to other queues once more. So is what a publish changes: the exchange and the
//! routing key that it came with. The note is one header whose value is a table,
//! so that no header of the sender's is lost or mistaken for one of ours; his
//! own of that name is kept in the note.

use std::time::{Duration, SystemTime};

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};

use super::convert::short;
use super::filter::{self, HEADERS_LOST};
use crate::message::{Delivery, Note, SetAside};

/// The header that is the note.
const HEADER: &str = "rpchost-aside";

/// What the broker counts for its own queue; in another it would be untrue.
const COUNTED: [&str; 2] = ["x-delivery-count", "x-acquired-count"];

/// What the broker routes by, beside the routing key, and what we write into
/// the note instead.
const COPIED_TO: [&str; 2] = ["CC", "BCC"];

/// Properties that are written into the note, if they are no text.
const REPLACED: [filter::Property; 2] = [filter::Property::Expiration, filter::Property::UserId];

/// Bytes of a header frame that are neither headers nor texts: the frame itself, class, sizes,
/// flags, and the properties that are numbers.
const BESIDE_TEXTS: usize = 64;

/// Longest text in a note, in bytes, so that it stays below what is left for it.
const MOST_TEXT: usize = 1024;

// The names within the note.
const ID: &str = "id";
const REASON: &str = "reason";
const DETAIL: &str = "detail";
const QUEUE: &str = "queue";
const EXCHANGE: &str = "exchange";
const ROUTING_KEY: &str = "routing-key";
const UNREADABLE: &str = "headers-lost";
const AT: &str = "at-us";
const CRASHES: &str = "crashes";
const EXPIRATION: &str = "expiration";
const DELIVERY_MODE: &str = "delivery-mode";
const USER_ID: &str = "user-id";
const WAS: &str = "was";

/// The properties with which a message is set aside. `user` is who publishes
/// it, `frame` the largest frame that the broker takes, in bytes.
pub(super) fn put(
    original: &BasicProperties,
    delivery: &Delivery,
    queue: &str,
    note: &Note,
    user: &str,
    frame: usize,
) -> BasicProperties {
    let whole = put_with(original, delivery, queue, note, user, true);
    let mut theirs = original.headers().iter().flat_map(FieldTable::inner);
    if size(&whole) <= frame || theirs.all(|(name, _)| filter::is_reserved(name.as_str())) {
        return whole;
    }
    // One that fills a frame has no room for a note. Ids and addresses matter more.
    put_with(original, delivery, queue, note, user, false)
}

/// The same, with the sender's headers or without them.
fn put_with(
    original: &BasicProperties,
    delivery: &Delivery,
    queue: &str,
    note: &Note,
    user: &str,
    with_headers: bool,
) -> BasicProperties {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut detail = note.detail.clone();
    let mut headers = travelling(original);
    let theirs = |name: &str| original.headers().as_ref().and_then(|all| all.inner().get(name));
    let mut kept: Vec<(&str, &AMQPValue)> = std::iter::once((WAS, HEADER))
        .chain(COPIED_TO.map(|name| (name, name)))
        .filter_map(|(name, header)| Some((name, theirs(header)?)))
        .collect();
    let mut unreadable = filter::headers_lost(original).map(str::to_owned);
    if !with_headers {
        // It must not run as if it had had none.
        headers = reserved(&headers);
        kept.clear();
        unreadable = Some("they leave no room for what a host writes beside them".to_owned());
        detail.push_str("; its headers were too large to be kept");
    }
    crate::message::truncate(&mut detail, MOST_TEXT);
    let mut written = FieldTable::default();
    let mut write = |name: &str, value| {
        if let Some(name) = short(name) {
            written.insert(name, value);
        }
    };
    let text = |text: &str| AMQPValue::LongString(LongString::from(text));
    write(ID, text(&format!("{:012x}", rand::random::<u64>() >> 16)));
    write(REASON, text(note.reason.name()));
    write(DETAIL, text(&detail));
    write(QUEUE, text(queue));
    write(EXCHANGE, text(&delivery.exchange));
    write(ROUTING_KEY, text(&delivery.routing_key));
    write(AT, AMQPValue::LongLongInt(i64::try_from(now.as_micros()).unwrap_or(i64::MAX)));
    write(CRASHES, AMQPValue::LongLongInt(note.crashes.into()));
    if let Some(expiration) = original.expiration() {
        write(EXPIRATION, text(expiration.as_str()));
    }
    if let Some(mode) = original.delivery_mode() {
        write(DELIVERY_MODE, AMQPValue::LongLongInt((*mode).into()));
    }
    if let Some(user_id) = &delivery.properties.user_id {
        write(USER_ID, text(user_id));
    }
    if let Some(reason) = unreadable {
        write(UNREADABLE, text(&reason));
    }
    for (name, value) in kept {
        write(name, value.clone());
    }
    headers.insert(HEADER.into(), AMQPValue::FieldTable(written));
    let mut properties = plain(original).with_headers(headers).with_delivery_mode(2);
    if (delivery.properties.user_id.is_some() || !delivery.exchange.is_empty())
        && let Some(user) = short(user)
    {
        // The broker vouches for it: proof that the user and the exchange in
        // the note were written there by a host.
        properties = properties.with_user_id(user);
    }
    properties
}

/// Takes the note off: the message as it was, and what was on it. `user` is
/// who we are for the broker. The user id and the exchange, to which a reply may
/// go, are believed only if the note is of that user.
pub(super) fn take(from: &BasicProperties, user: &str) -> (BasicProperties, Option<SetAside>) {
    let all = from.headers().as_ref().map(FieldTable::inner);
    let Some(AMQPValue::FieldTable(note)) = all.and_then(|all| all.get(HEADER)) else {
        return (from.clone(), None);
    };
    let note = note.inner();
    let text = |name: &str| match note.get(name) {
        Some(AMQPValue::LongString(text)) => Some(String::from_utf8_lossy(text.as_bytes())),
        _ => None,
    };
    let number = |name: &str| match note.get(name) {
        Some(AMQPValue::LongLongInt(number)) => u64::try_from(*number).ok(),
        _ => None,
    };
    let owned = |name| text(name).map(std::borrow::Cow::into_owned).unwrap_or_default();
    let ours = from.user_id().as_ref().is_some_and(|id| id.as_str() == user);
    let exchange = owned(EXCHANGE);
    let (exchange, doubtful_exchange) = match (ours, exchange.is_empty()) {
        (true, _) | (_, true) => (exchange, None),
        (false, false) => (String::new(), Some(exchange)),
    };
    let set_aside = SetAside {
        id: owned(ID),
        reason: owned(REASON),
        detail: owned(DETAIL),
        queue: owned(QUEUE),
        exchange,
        doubtful_exchange,
        routing_key: owned(ROUTING_KEY),
        at: number(AT).and_then(|at| SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(at))),
        crashes: number(CRASHES).and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
        again: false,
    };
    let mut headers = travelling(from);
    let reserved = [(WAS, HEADER), (UNREADABLE, HEADERS_LOST)];
    for (name, header) in reserved.into_iter().chain(COPIED_TO.map(|name| (name, name))) {
        if let Some(value) = note.get(name) {
            headers.insert(header.into(), value.clone());
        }
    }
    let mut properties = plain(from);
    if !headers.inner().is_empty() {
        properties = properties.with_headers(headers);
    }
    if let Some(expiration) = text(EXPIRATION).as_deref().and_then(short) {
        properties = properties.with_expiration(expiration);
    }
    if let Some(mode) = number(DELIVERY_MODE).and_then(|mode| u8::try_from(mode).ok()) {
        properties = properties.with_delivery_mode(mode);
    }
    if let Some(user_id) = text(USER_ID).as_deref().and_then(short).filter(|_| ours) {
        properties = properties.with_user_id(user_id);
    }
    (properties, Some(set_aside))
}

/// The same to be published once more: without a user id, which only that user
/// may use, and to no other queues.
pub(super) fn to_replay(from: &BasicProperties) -> BasicProperties {
    let mut properties = plain(from);
    if let Some(headers) = from.headers() {
        let mut again = FieldTable::default();
        for (name, value) in headers.inner() {
            if !COPIED_TO.contains(&name.as_str())
                && filter::Property::UserId.reserved_name() != name.as_str()
            {
                again.insert(name.clone(), value.clone());
            }
        }
        properties = properties.with_headers(again);
    }
    if let Some(expiration) = from.expiration() {
        properties = properties.with_expiration(expiration.clone());
    }
    if let Some(mode) = from.delivery_mode() {
        properties = properties.with_delivery_mode(*mode);
    }
    properties
}

/// The headers that travel on as they are.
fn travelling(from: &BasicProperties) -> FieldTable {
    let stays = |name: &str| {
        name == HEADER
            || COUNTED.contains(&name)
            || COPIED_TO.contains(&name)
            || REPLACED.iter().any(|property| property.reserved_name() == name)
    };
    let mut headers = FieldTable::default();
    for (name, value) in from.headers().iter().flat_map(FieldTable::inner) {
        if !stays(name.as_str()) {
            headers.insert(name.clone(), value.clone());
        }
    }
    headers
}

/// The properties that travel on in any case.
fn plain(from: &BasicProperties) -> BasicProperties {
    type With = fn(BasicProperties, ShortString) -> BasicProperties;
    let texts: [(&Option<ShortString>, With); 8] = [
        (from.content_type(), BasicProperties::with_content_type),
        (from.content_encoding(), BasicProperties::with_content_encoding),
        (from.correlation_id(), BasicProperties::with_correlation_id),
        (from.reply_to(), BasicProperties::with_reply_to),
        (from.message_id(), BasicProperties::with_message_id),
        (from.kind(), BasicProperties::with_type),
        (from.app_id(), BasicProperties::with_app_id),
        (from.cluster_id(), BasicProperties::with_cluster_id),
    ];
    let mut properties = BasicProperties::default();
    for (text, with) in texts {
        if let Some(text) = text {
            properties = with(properties, text.clone());
        }
    }
    if let Some(priority) = from.priority() {
        properties = properties.with_priority(*priority);
    }
    if let Some(timestamp) = from.timestamp() {
        properties = properties.with_timestamp(*timestamp);
    }
    properties
}

/// Of these headers those that are properties on the wire.
fn reserved(from: &FieldTable) -> FieldTable {
    let mut headers = FieldTable::default();
    for (name, value) in from.inner() {
        if filter::is_reserved(name.as_str()) {
            headers.insert(name.clone(), value.clone());
        }
    }
    headers
}

/// Bytes of the header frame of a message with these properties, at most.
fn size(properties: &BasicProperties) -> usize {
    let texts = [
        properties.content_type(),
        properties.content_encoding(),
        properties.correlation_id(),
        properties.reply_to(),
        properties.expiration(),
        properties.message_id(),
        properties.kind(),
        properties.user_id(),
        properties.app_id(),
        properties.cluster_id(),
    ];
    let length = |text: &Option<ShortString>| text.as_ref().map_or(0, |text| text.as_str().len());
    let texts: usize = texts.into_iter().map(|text| 1 + length(text)).sum();
    let headers = properties.headers().as_ref();
    // What is one of the texts on the wire, in place of what is there of it.
    let replacing = |headers: &FieldTable| {
        let all = headers.inner().iter().filter(|(name, _)| filter::is_reserved(name.as_str()));
        all.map(|(_, value)| value_size(value)).sum::<usize>()
    };
    BESIDE_TEXTS + texts + headers.map_or(4, |headers| table_size(headers) + replacing(headers))
}

/// Bytes that a table takes on the wire, at most.
fn table_size(table: &FieldTable) -> usize {
    4 + table
        .inner()
        .iter()
        // What replaces a property is the property again on the wire.
        .filter(|(name, _)| !filter::is_reserved(name.as_str()))
        .map(|(name, value)| 1 + name.as_str().len() + value_size(value))
        .sum::<usize>()
}

fn value_size(value: &AMQPValue) -> usize {
    let content = match value {
        AMQPValue::ShortString(text) => 1 + text.as_str().len(),
        AMQPValue::LongString(text) => 4 + text.as_bytes().len(),
        AMQPValue::ByteArray(bytes) => 4 + bytes.len(),
        AMQPValue::FieldArray(items) => 4 + items.as_slice().iter().map(value_size).sum::<usize>(),
        AMQPValue::FieldTable(table) => table_size(table),
        // Numbers and the like.
        _ => 8,
    };
    1 + content
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::amqp::convert;
    use crate::message::{Original, Properties, Reason, Revoked};

    const FRAME: usize = 131_072;

    fn delivery(properties: &BasicProperties) -> Delivery {
        Delivery {
            tag: 1,
            queue: Arc::from("q"),
            terms: Arc::default(),
            exchange: String::new(),
            routing_key: "q".to_owned(),
            redelivered: true,
            received_at: Instant::now(),
            received_wall: SystemTime::now(),
            properties: Properties {
                user_id: properties.user_id().as_ref().map(|id| id.as_str().to_owned()),
                ..convert::properties(properties)
            },
            body: bytes::Bytes::new(),
            revoked: Revoked::default(),
            leaving: CancellationToken::new(),
            original: Original::default(),
            set_aside: None,
        }
    }

    fn note(crashes: u32) -> Note {
        Note { reason: Reason::Crash, detail: "why".to_owned(), crashes }
    }

    fn put_note(original: &BasicProperties, crashes: u32) -> BasicProperties {
        put(original, &delivery(original), "q", &note(crashes), "us", FRAME)
    }

    fn text(text: &str) -> AMQPValue {
        AMQPValue::LongString(LongString::from(text))
    }

    fn everything() -> BasicProperties {
        let mut headers = FieldTable::default();
        headers.insert("mine".into(), AMQPValue::ShortUInt(7));
        headers.insert("CC".into(), AMQPValue::FieldArray(vec![text("elsewhere")].into()));
        headers.insert(HEADER.into(), text("the sender's own"));
        BasicProperties::default()
            .with_content_type("a/b".into())
            .with_content_encoding("gzip".into())
            .with_headers(headers)
            .with_delivery_mode(1)
            .with_priority(3)
            .with_correlation_id("c".into())
            .with_reply_to("r".into())
            .with_expiration("5000".into())
            .with_message_id("m".into())
            .with_timestamp(9)
            .with_type("t".into())
            .with_user_id("somebody".into())
            .with_app_id("a".into())
            .with_cluster_id("x".into())
    }

    #[test]
    fn what_was_put_aside_comes_back_as_it_was() {
        for original in [everything(), BasicProperties::default()] {
            let put = put_note(&original, 2);
            assert_eq!(put.expiration(), &None, "it must not end in the new queue");
            assert_eq!(put.delivery_mode(), &Some(2));
            assert_ne!(put.user_id().as_ref().map(ShortString::as_str), Some("somebody"));
            let headers = put.headers().as_ref().unwrap().inner();
            assert_eq!(headers.get("CC"), None, "it must not be copied to others again");
            let (back, read) = take(&put, "us");
            assert_eq!(back, original);
            let read = read.unwrap();
            assert_eq!((read.reason.as_str(), read.crashes), ("crash", 2));
            assert_eq!((read.queue.as_str(), read.detail.as_str()), ("q", "why"));
            assert_eq!(read.id.len(), 12);
            assert!(read.at.unwrap().elapsed().unwrap() < Duration::from_secs(60));
        }
    }

    #[test]
    fn a_user_id_is_believed_only_from_ourselves() {
        let (back, _) = take(&put_note(&everything(), 1), "another host's");
        assert_eq!(back.user_id(), &None);
        let forged = to_replay(&put_note(&everything(), 1));
        assert_eq!(take(&forged, "us").0.user_id(), &None);
    }

    #[test]
    fn the_way_that_it_came_is_known_and_the_exchange_believed_from_ourselves() {
        let original = BasicProperties::default();
        let through = |exchange: &str| {
            let (exchange, routing_key) = (exchange.to_owned(), "math.fib".to_owned());
            Delivery { exchange, routing_key, ..delivery(&original) }
        };
        for (exchange, user, believed) in
            [("nameko-rpc", "us", "nameko-rpc"), ("nameko-rpc", "others", ""), ("", "us", "")]
        {
            let put = put(&original, &through(exchange), "q", &note(1), "us", FRAME);
            let (back, read) = take(&put, user);
            let read = read.unwrap();
            assert_eq!((read.exchange.as_str(), read.routing_key.as_str()), (believed, "math.fib"));
            let doubtful = (believed != exchange).then(|| exchange.to_owned());
            assert_eq!(read.doubtful_exchange, doubtful);
            assert_eq!(back, original);
        }
    }

    #[test]
    fn ids_and_addresses_are_kept_byte_for_byte() {
        use filter::Property;
        let of = |length: usize| (0..length).map(|n| (n * 7 + 128) as u8).collect::<Vec<u8>>();
        for length in [1, 16, 220, 221, 254, 255] {
            for large in [0, FRAME - 200] {
                let mut headers = FieldTable::default();
                if large > 0 {
                    headers.insert("large".into(), text(&"x".repeat(large)));
                }
                let mut original = BasicProperties::default().with_headers(headers);
                for property in [Property::CorrelationId, Property::ReplyTo, Property::MessageId] {
                    original = filter::carry(original, property, &of(length));
                }
                let (back, _) = take(&put_note(&original, 1), "us");
                for property in [Property::CorrelationId, Property::ReplyTo, Property::MessageId] {
                    assert_eq!(filter::bytes(&back, property), Some(of(length).as_slice()));
                }
                assert_eq!(filter::headers_lost(&back).is_some(), large > 0);
                assert!(large > 0 || back == original);
            }
        }
    }

    #[test]
    fn headers_that_could_not_be_read_are_not_taken_for_none() {
        let mut headers = FieldTable::default();
        headers.insert(HEADERS_LOST.into(), text("nested too deep"));
        let original = BasicProperties::default().with_headers(headers);
        let (back, _) = take(&put_note(&original, 1), "us");
        assert_eq!(filter::headers_lost(&back), Some("nested too deep"));
    }

    #[test]
    fn what_is_sent_again_goes_to_no_other_queue() {
        let again = to_replay(&everything());
        assert_eq!(again.user_id(), &None);
        assert_eq!(again.expiration(), everything().expiration());
        let headers = again.headers().as_ref().unwrap().inner();
        assert_eq!(headers.keys().map(ShortString::as_str).collect::<Vec<_>>(), ["mine", HEADER]);
    }

    #[test]
    fn the_brokers_count_does_not_travel() {
        let mut headers = FieldTable::default();
        headers.insert("x-delivery-count".into(), AMQPValue::LongLongInt(3));
        let original = BasicProperties::default().with_headers(headers);
        assert_eq!(take(&put_note(&original, 1), "us").0.headers(), &None);
    }

    #[test]
    fn headers_that_leave_no_room_for_a_note_are_left_out() {
        let mut headers = FieldTable::default();
        headers.insert("large".into(), text(&"x".repeat(FRAME - 200)));
        let put = put_note(&everything().with_headers(headers), 1);
        assert!(table_size(put.headers().as_ref().unwrap()) < 4096);
        let (back, read) = take(&put, "us");
        assert!(filter::headers_lost(&back).is_some(), "it does not run as if it had none");
        assert_eq!(back.headers().as_ref().unwrap().inner().len(), 1);
        assert_eq!(back.reply_to(), &Some("r".into()));
        assert!(read.unwrap().detail.ends_with("too large to be kept"));
    }

    #[test]
    fn the_smallest_frames_have_room_for_a_note() {
        let mut headers = FieldTable::default();
        headers.insert("mine".into(), text(&"x".repeat(500)));
        for original in [BasicProperties::default(), everything().with_headers(headers)] {
            let put = put(&original, &delivery(&original), "q", &note(1), "us", 4096);
            assert!(size(&put) <= 4096);
            assert_eq!(take(&put, "us").0, original);
        }
    }

    #[test]
    fn what_is_no_note_is_left_alone() {
        let mut headers = FieldTable::default();
        headers.insert(HEADER.into(), text("no table"));
        let original = everything().with_headers(headers);
        assert_eq!(take(&original, "us"), (original, None));
        let mut headers = FieldTable::default();
        headers.insert(HEADER.into(), AMQPValue::FieldTable(FieldTable::default()));
        let (_, read) = take(&everything().with_headers(headers), "us");
        assert_eq!(read, Some(SetAside::default()));
    }
}
