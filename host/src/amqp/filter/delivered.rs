//! Content headers that a broker delivers: made readable for lapin, without
//! losing what an answer needs.
//!
//! A property that is not UTF-8 moves into the header table (see `raw`). A
//! header table that lapin must not see is left out, and a reason put in its
//! place. Refuses to know about frames.

use super::content::{Content, Form, Slot};
use super::raw;
use super::table::{self, Unfit};
use super::wire::{put_long, put_short};

/// Why headers are missing, where it is not the table's own fault.
const TOO_LARGE: &str = "the properties and headers are larger than a frame may be";
const BROKEN: &str = "the properties are malformed";

/// A content header's payload for lapin.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Delivered {
    /// It can be passed on as it is.
    Good,
    /// This is to be passed on instead.
    Replaced(Vec<u8>),
    /// Not even the size of the body is in it.
    Broken,
}

/// Looks at a content header of which lapin accepts `most` bytes.
/// `shortened` says that the payload was larger, and has lost its headers.
pub(super) fn for_lapin(payload: &[u8], most: usize, shortened: bool) -> Delivered {
    let Some((content, form)) = Content::read(payload) else {
        return Delivered::Broken;
    };
    let headers = content.headers().map_or(Ok(false), table::check);
    let fits = !shortened && form == Form::Whole && payload.len() <= most;
    let texts = content.slots().all(|(slot, value)| !is_bad_text(slot, value));
    if fits && texts && headers == Ok(false) {
        return Delivered::Good;
    }
    let kept = match (form, headers) {
        (_, _) if shortened => Err(TOO_LARGE),
        (Form::Broken, _) => Err(BROKEN),
        (Form::Whole, Err(unfit)) => Err(Unfit::reason(unfit)),
        (Form::Whole, Ok(_)) => Ok(content.headers()),
    };
    let replaced = rewrite(content, kept);
    Delivered::Replaced(match kept {
        // Moving a property takes up to 33 bytes more. Without its headers the
        // largest header frame has 3 KiB, and lapin accepts at least 4.
        Ok(_) if replaced.len() > most => rewrite(content, Err(TOO_LARGE)),
        _ => replaced,
    })
}

fn is_bad_text(slot: Slot, value: Option<&[u8]>) -> bool {
    matches!(slot, Slot::Short(_)) && value.is_some_and(|value| std::str::from_utf8(value).is_err())
}

/// Puts the payload together again with these headers, or with the reason for
/// their absence.
fn rewrite(mut content: Content<'_>, headers: Result<Option<&[u8]>, &str>) -> Vec<u8> {
    let mut table = Vec::new();
    let had_headers = matches!(headers, Ok(Some(_)));
    match headers {
        Ok(headers) => {
            let given = table::entries(headers.unwrap_or_default());
            for entry in given.filter(|entry| !raw::is_reserved_bytes(entry.name)) {
                table.extend_from_slice(entry.whole);
            }
        }
        Err(reason) => put(&mut table, raw::HEADERS, raw::REASON_KIND, reason.as_bytes()),
    }
    for (slot, value) in content.slots() {
        if let (Slot::Short(property), Some(value)) = (slot, value)
            && is_bad_text(slot, Some(value))
        {
            put(&mut table, property.reserved_name(), raw::KIND, value);
            content.set_property(property, None);
        }
    }
    content.write((had_headers || !table.is_empty()).then_some(&table))
}

fn put(table: &mut Vec<u8>, name: &str, kind: u8, value: &[u8]) {
    put_short(table, name.as_bytes());
    table.push(kind);
    put_long(table, value);
}

#[cfg(test)]
mod tests {
    use super::super::raw::Property;
    use super::super::testing::{
        content_payload, entry, every_property, lapin_reads_content, long_entry, nested_arrays,
        nested_tables,
    };
    use super::*;

    const MOST: usize = 131_072 - 8;
    const TEXTS: [(u16, Property); 10] = [
        (0x8000, Property::ContentType),
        (0x4000, Property::ContentEncoding),
        (0x0400, Property::CorrelationId),
        (0x0200, Property::ReplyTo),
        (0x0100, Property::Expiration),
        (0x0080, Property::MessageId),
        (0x0020, Property::Type),
        (0x0010, Property::UserId),
        (0x0008, Property::AppId),
        (0x0004, Property::ClusterId),
    ];

    fn replaced(payload: &[u8]) -> Vec<u8> {
        match for_lapin(payload, MOST, false) {
            Delivered::Replaced(replaced) => {
                assert!(lapin_reads_content(&replaced));
                assert_eq!(for_lapin(&replaced[..12], MOST, false), Delivered::Broken);
                replaced
            }
            other => panic!("{other:?}"),
        }
    }

    fn table_of(payload: &[u8]) -> Vec<u8> {
        Content::read(payload).unwrap().0.headers().unwrap().to_vec()
    }

    fn reason(text: &str) -> Vec<u8> {
        long_entry(raw::HEADERS, b'S', text.as_bytes())
    }

    #[test]
    fn what_is_good_is_left_alone() {
        for payload in [
            content_payload(0, b"", b""),
            content_payload(0x0003, b"", b""),
            every_property(b""),
            every_property(&nested_tables(32)),
            content_payload(0xFFFF, &entry(b"k", b'V', b""), "ü".repeat(127).as_bytes()),
        ] {
            assert!(lapin_reads_content(&payload));
            assert_eq!(for_lapin(&payload, MOST, false), Delivered::Good);
        }
    }

    #[test]
    fn a_bad_correlation_id_byte_by_byte() {
        let mut sent = vec![0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
        let mut wanted = sent.clone();
        // Delivery mode, correlation id, reply to.
        sent.extend([0x16, 0x00, 2, 3, 0xFF, 0x00, 0x80, 1, b'q']);
        // Headers, delivery mode, reply to.
        wanted.extend([0x32, 0x00, 0, 0, 0, 35, 26]);
        wanted.extend(b"rpchost-raw-correlation-idx\x00\x00\x00\x03\xFF\x00\x80\x02\x01q");
        assert_eq!(replaced(&sent), wanted);
    }

    #[test]
    fn every_property_at_every_length_keeps_its_bytes() {
        for (flag, property) in TEXTS {
            for length in [1, 16, 220, 221, 255] {
                let value = vec![0xFF; length];
                let made = replaced(&content_payload(flag, b"", &value));
                let (content, _) = Content::read(&made).unwrap();
                assert!(content.slots().all(|(slot, v)| v.is_none() || slot == Slot::Headers));
                let wanted = long_entry(property.reserved_name(), b'x', &value);
                assert_eq!(content.headers().unwrap(), wanted, "{property:?}");
            }
        }
    }

    #[test]
    fn ten_bad_properties_at_once_stay_beside_the_headers() {
        let header = entry(b"mine", b't', &[1]);
        let made = replaced(&content_payload(0xFFFC, &header, &[0xFF; 255]));
        let moved = TEXTS.map(|(_, p)| long_entry(p.reserved_name(), b'x', &[0xFF; 255])).concat();
        assert_eq!(table_of(&made), [header, moved].concat());
        assert_eq!(made.len(), 12 + 2 + 4 + 7 + 10 * (1 + 1 + 4 + 255) + 10 + names());
        assert!(made.len() < 4096 - 8);
    }

    fn names() -> usize {
        TEXTS.iter().map(|(_, property)| property.reserved_name().len()).sum()
    }

    #[test]
    fn a_bad_table_gives_way_to_a_reason() {
        let deep = "the header table is nested more than 32 levels deep";
        let malformed = "the header table is malformed";
        for (table, text) in [
            (nested_arrays(33), deep),
            (nested_tables(1000), deep),
            (nested_arrays(26_000), deep),
            (entry(b"\xFF", b'V', b""), "a header's name is not UTF-8"),
            (entry(b"k", b'z', b""), malformed),
            (entry(b"k", b'S', &[0, 0, 0, 9, 0]), malformed),
            (entry(b"", b'V', b"").repeat(5000), "the header table has more than 4096 values"),
        ] {
            let made = replaced(&content_payload(0x2400, &table, b"id"));
            assert_eq!(table_of(&made), reason(text));
            let (content, _) = Content::read(&made).unwrap();
            assert_eq!(content.values[5], Some(b"id".as_slice()));
        }
    }

    #[test]
    fn a_reason_and_bad_properties_go_together() {
        let made = replaced(&content_payload(0x2600, &nested_arrays(99), b"\xFF"));
        let wanted = [
            reason("the header table is nested more than 32 levels deep"),
            long_entry("rpchost-raw-correlation-id", b'x', b"\xFF"),
            long_entry("rpchost-raw-reply-to", b'x', b"\xFF"),
        ];
        assert_eq!(table_of(&made), wanted.concat());
    }

    #[test]
    fn forged_names_are_removed() {
        let mine = entry(b"rpchost", b't', &[1]);
        let forged = [
            long_entry("rpchost-raw-reply-to", b'x', b"elsewhere"),
            mine.clone(),
            long_entry("rpchost-raw-headers", b'S', b"lies"),
            entry(b"rpchost-raw-", b'V', b""),
        ];
        let made = replaced(&content_payload(0x2000, &forged.concat(), b""));
        assert_eq!(table_of(&made), mine);
        let made = replaced(&content_payload(0x2200, &forged[0], b"\xFE"));
        assert_eq!(table_of(&made), long_entry("rpchost-raw-reply-to", b'x', b"\xFE"));
        let made = replaced(&content_payload(0x2000, &forged[0], b""));
        assert_eq!(table_of(&made), b"");
    }

    #[test]
    fn what_would_become_too_large_loses_its_headers_only() {
        let sized = |size: usize, text: &[u8]| {
            let rest = content_payload(0x2400, &long_entry("k", b'S', b""), text).len();
            content_payload(0x2400, &long_entry("k", b'S', &vec![b'v'; size - rest]), text)
        };
        assert_eq!(for_lapin(&sized(MOST, b"id"), MOST, false), Delivered::Good);
        let large = "the properties and headers are larger than a frame may be";
        let made = replaced(&sized(MOST + 1, b"id"));
        assert_eq!(made, content_payload(0x2400, &reason(large), b"id"));
        // Moving the id takes 31 bytes: 26 of its name, four more of its length, the letter.
        assert_eq!(replaced(&sized(MOST - 31, b"\xFF")).len(), MOST);
        let made = replaced(&sized(MOST - 30, b"\xFF"));
        let id = long_entry("rpchost-raw-correlation-id", b'x', b"\xFF");
        assert_eq!(table_of(&made), [reason(large), id].concat());
    }

    #[test]
    fn a_cut_one_keeps_what_is_there() {
        let whole = content_payload(0x2600, &entry(b"k", b'V', b""), b"\xFFid");
        let made = replaced(&whole[..whole.len() - 1]);
        let id = long_entry("rpchost-raw-correlation-id", b'x', b"\xFFid");
        assert_eq!(table_of(&made), [reason("the properties are malformed"), id].concat());
        let made = replaced(&[&whole[..], &[0]].concat());
        let to = long_entry("rpchost-raw-reply-to", b'x', b"\xFFid");
        assert!(table_of(&made).ends_with(&to));
    }
}
