//! Content headers that the application publishes: the bytes that lapin could
//! not carry are put back to where they belong.
//!
//! The reverse of `delivered`. Refuses to know about frames.

use super::content::{Content, Form};
use super::raw::{self, Property};
use super::table;
use super::wire::SHORT_MAX;

/// A content header for the broker.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Published<'a> {
    /// The payload; never larger than it was, because a property takes fewer
    /// bytes than an entry of the table.
    pub(super) payload: Vec<u8>,
    /// The routing key to publish with.
    pub(super) routing_key: Option<&'a [u8]>,
}

/// Looks at a content header that lapin wrote; `None` if it is as it shall be.
pub(super) fn for_broker(payload: &[u8]) -> Option<Published<'_>> {
    let (mut content, form) = Content::read(payload)?;
    let headers = content.headers()?;
    let is_reserved = |entry: &table::Entry<'_>| raw::is_reserved_bytes(entry.name);
    if form == Form::Broken || !table::entries(headers).any(|entry| is_reserved(&entry)) {
        return None;
    }
    let mut kept = Vec::with_capacity(headers.len());
    let mut routing_key = None;
    for entry in table::entries(headers) {
        if !is_reserved(&entry) {
            kept.extend_from_slice(entry.whole);
        } else if entry.kind == raw::KIND && entry.value.len() <= SHORT_MAX {
            if entry.name == raw::ROUTING_KEY.as_bytes() {
                routing_key = Some(entry.value);
            } else if let Some(property) = Property::of_reserved_name(entry.name) {
                content.set_property(property, Some(entry.value));
            }
        }
        // A text under a reserved name comes from somebody who must not set it.
    }
    // An empty table was not there before somebody put an entry into it.
    let payload = content.write((!kept.is_empty()).then_some(&kept));
    Some(Published { payload, routing_key })
}

#[cfg(test)]
mod tests {
    use super::super::delivered::{self, Delivered};
    use super::super::testing::{content_payload, entry, every_property, long_entry};
    use super::*;

    #[test]
    fn what_has_no_reserved_name_is_left_alone() {
        for payload in [
            content_payload(0, b"", b""),
            content_payload(0x2000, b"", b""),
            every_property(&entry(b"rpchost-raw", b'V', b"")),
            content_payload(0x2000, &long_entry("rpchost-raw-type", b'x', b"\xFF"), b"")[..20]
                .to_vec(),
            vec![0; 13],
        ] {
            assert_eq!(for_broker(&payload), None);
        }
    }

    #[test]
    fn a_correlation_id_is_put_back_byte_by_byte() {
        let table = long_entry("rpchost-raw-correlation-id", b'x', b"\xFF\x00\x80");
        let mut wanted = vec![0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5];
        wanted.extend([0x04, 0x00, 3, 0xFF, 0x00, 0x80]);
        let payload = content_payload(0x2000, &table, b"");
        let made = for_broker(&payload).unwrap();
        assert_eq!(made, Published { payload: wanted, routing_key: None });
    }

    #[test]
    fn a_routing_key_is_given_and_other_headers_stay() {
        let mine = entry(b"mine", b't', &[1]);
        let table = [mine.clone(), long_entry("rpchost-raw-routing-key", b'x', b"q\xFF")].concat();
        let payload = content_payload(0xFFFC, &table, b"text");
        let made = for_broker(&payload).unwrap();
        assert_eq!(made.routing_key, Some(b"q\xFF".as_slice()));
        assert_eq!(made.payload, every_property(&mine));
    }

    #[test]
    fn only_byte_arrays_are_obeyed_and_nothing_reserved_gets_out() {
        let table = [
            long_entry("rpchost-raw-routing-key", b'S', b"elsewhere"),
            long_entry("rpchost-raw-reply-to", b'S', b"elsewhere"),
            long_entry("rpchost-raw-headers", b'S', b"reason"),
            long_entry("rpchost-raw-other", b'x', b"other"),
            long_entry("rpchost-raw-message-id", b'x', &[0xFF; 256]),
            entry(b"rpchost-raw-type", b'V', b""),
        ];
        let payload = content_payload(0x2400, &table.concat(), b"id");
        let made = for_broker(&payload).unwrap();
        assert_eq!(made.payload, content_payload(0x0400, b"", b"id"));
        assert_eq!(made.routing_key, None);
    }

    #[test]
    fn what_was_delivered_is_published_as_it_was() {
        for flags in (0..=u16::MAX).step_by(4) {
            for text in [b"".as_slice(), b"\xFF", &[0xFE; 255]] {
                let sent = content_payload(flags, &entry(b"k", b'V', b""), text);
                if let Delivered::Replaced(made) = delivered::for_lapin(&sent, 131_064, false) {
                    let back = for_broker(&made).unwrap();
                    assert!(back.payload.len() < made.len());
                    assert_eq!(back.payload, sent);
                }
            }
        }
    }
}
