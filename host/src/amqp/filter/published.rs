//! Content headers that the application publishes: the bytes that lapin could
//! not carry are put back to where they belong.
//!
//! The reverse of `delivered`. Refuses to know about frames.

use super::content::{Content, Form};
use super::raw::{self, Property};
use super::table;
use super::wire::SHORT_MAX;

/// Looks at a content header that lapin wrote; `None` if it is as it shall be, else the payload for
/// the broker. That is never larger than it was, because a property takes fewer bytes than an entry
/// of the table.
pub(super) fn for_broker(payload: &[u8]) -> Option<Vec<u8>> {
    let (mut content, form) = Content::read(payload)?;
    let headers = content.headers()?;
    let is_reserved = |entry: &table::Entry<'_>| raw::is_reserved_bytes(entry.name);
    if form == Form::Broken || !table::entries(headers).any(|entry| is_reserved(&entry)) {
        return None;
    }
    let mut kept = Vec::with_capacity(headers.len());
    for entry in table::entries(headers) {
        if !is_reserved(&entry) {
            kept.extend_from_slice(entry.whole);
        } else if entry.kind == raw::KIND
            && entry.value.len() <= SHORT_MAX
            && let Some(property) = Property::of_reserved_name(entry.name)
        {
            content.set_property(property, Some(entry.value));
        }
        // A text under a reserved name comes from somebody who must not set it.
    }
    // An empty table was not there before somebody put an entry into it.
    Some(content.write((!kept.is_empty()).then_some(&kept)))
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
        assert_eq!(for_broker(&payload), Some(wanted));
    }

    #[test]
    fn other_headers_stay() {
        let mine = entry(b"mine", b't', &[1]);
        let table = [mine.clone(), long_entry("rpchost-raw-other", b'x', b"q\xFF")].concat();
        let payload = content_payload(0xFFFC, &table, b"text");
        assert_eq!(for_broker(&payload), Some(every_property(&mine)));
    }

    #[test]
    fn only_byte_arrays_are_obeyed_and_nothing_reserved_gets_out() {
        let table = [
            long_entry("rpchost-raw-reply-to", b'S', b"elsewhere"),
            long_entry("rpchost-raw-headers", b'S', b"reason"),
            long_entry("rpchost-raw-other", b'x', b"other"),
            long_entry("rpchost-raw-message-id", b'x', &[0xFF; 256]),
            entry(b"rpchost-raw-type", b'V', b""),
        ];
        let payload = content_payload(0x2400, &table.concat(), b"id");
        assert_eq!(for_broker(&payload), Some(content_payload(0x0400, b"", b"id")));
    }

    #[test]
    fn what_was_delivered_is_published_as_it_was() {
        for flags in (0..=u16::MAX).step_by(4) {
            for text in [b"".as_slice(), b"\xFF", &[0xFE; 255]] {
                let sent = content_payload(flags, &entry(b"k", b'V', b""), text);
                if let Delivered::Replaced(made) = delivered::for_lapin(&sent, 131_064, false) {
                    let back = for_broker(&made).unwrap();
                    assert!(back.len() < made.len());
                    assert_eq!(back, sent);
                }
            }
        }
    }
}
