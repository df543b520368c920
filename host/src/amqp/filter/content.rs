//! Content headers: taken apart and put together again (AMQP section 4.2.6.1).
//!
//! Takes them apart exactly as lapin does (amq-protocol 10.6,
//! `basic::parse_properties`), but keeps every value as bytes. Refuses to know
//! which values are good and what is done about the others.

use super::raw::Property;
use super::wire::{Reader, put_long, put_short};

/// Class, weight and body size: what comes before the properties.
pub(super) const PREAMBLE: usize = 12;

/// What a property is on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    Short(Property),
    /// The header table.
    Headers,
    /// So many bytes.
    Fixed(usize),
}

/// Number of properties that class `basic` has.
pub(super) const SLOTS: usize = 14;

/// In the order of their flags, the highest bit first; the two lowest bits say
/// nothing (lapin ignores them, RabbitMQ passes them on).
pub(super) const LAYOUT: [Slot; SLOTS] = [
    Slot::Short(Property::ContentType),
    Slot::Short(Property::ContentEncoding),
    Slot::Headers,
    Slot::Fixed(1),
    Slot::Fixed(1),
    Slot::Short(Property::CorrelationId),
    Slot::Short(Property::ReplyTo),
    Slot::Short(Property::Expiration),
    Slot::Short(Property::MessageId),
    Slot::Fixed(8),
    Slot::Short(Property::Type),
    Slot::Short(Property::UserId),
    Slot::Short(Property::AppId),
    Slot::Short(Property::ClusterId),
];

/// The flag of the `index`th property.
fn flag(index: usize) -> u16 {
    0x8000 >> index
}

/// Bytes of the body that a payload announces.
pub(super) fn body_size(payload: &[u8]) -> Option<u64> {
    let mut reader = Reader(payload);
    reader.bytes(4)?;
    reader.u64()
}

/// A content header in its parts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Content<'a> {
    preamble: &'a [u8],
    /// The values, in the order of [`LAYOUT`], without their lengths.
    pub(super) values: [Option<&'a [u8]>; SLOTS],
}

/// How well the bytes followed the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Whole,
    /// Announced properties are missing, or something follows the last one.
    Broken,
}

impl<'a> Content<'a> {
    /// Takes a payload apart. Of a broken one everything that could be read is
    /// there; `None` if that is not even the size of the body.
    pub(super) fn read(payload: &'a [u8]) -> Option<(Self, Form)> {
        let mut reader = Reader(payload);
        let preamble = reader.bytes(PREAMBLE)?;
        let flags = reader.u16()?;
        let mut content = Self { preamble, values: [None; SLOTS] };
        for (index, (value, slot)) in content.values.iter_mut().zip(LAYOUT).enumerate() {
            if flags & flag(index) == 0 {
                continue;
            }
            *value = match slot {
                Slot::Short(_) => reader.short(),
                Slot::Headers => reader.long(),
                Slot::Fixed(size) => reader.bytes(size),
            };
            if value.is_none() {
                return Some((content, Form::Broken));
            }
        }
        let form = if reader.is_empty() { Form::Whole } else { Form::Broken };
        Some((content, form))
    }

    /// One that has nothing but a delivery mode, to be written without what comes before its
    /// properties.
    pub(super) fn of_mode(delivery_mode: &'a [u8; 1]) -> Self {
        let mut values = [None; SLOTS];
        let mode = LAYOUT.iter().position(|slot| *slot == Slot::Fixed(1));
        if let Some(value) = mode.and_then(|mode| values.get_mut(mode)) {
            *value = Some(delivery_mode.as_slice());
        }
        Self { preamble: &[], values }
    }

    /// The header table, without its length.
    pub(super) fn headers(&self) -> Option<&'a [u8]> {
        self.slots().find_map(|(slot, value)| if slot == Slot::Headers { value } else { None })
    }

    /// Gives a property another value, of at most 255 bytes.
    pub(super) fn set_property(&mut self, property: Property, value: Option<&'a [u8]>) {
        for (old, slot) in self.values.iter_mut().zip(LAYOUT) {
            if slot == Slot::Short(property) {
                *old = value;
            }
        }
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = (Slot, Option<&'a [u8]>)> + use<'a> {
        LAYOUT.into_iter().zip(self.values)
    }

    /// Puts a payload together, with this table in the place of its own.
    pub(super) fn write(&self, headers: Option<&[u8]>) -> Vec<u8> {
        let mut out = Vec::new();
        self.put(&mut out, headers);
        out
    }

    /// Appends it.
    pub(super) fn put(&self, out: &mut Vec<u8>, headers: Option<&[u8]>) {
        out.extend_from_slice(self.preamble);
        let at = out.len();
        let mut flags = 0_u16;
        out.extend_from_slice(&flags.to_be_bytes());
        let begin = out.len();
        for (index, (slot, value)) in self.slots().enumerate() {
            let value = if slot == Slot::Headers { headers } else { value };
            let Some(value) = value else { continue };
            flags |= flag(index);
            match slot {
                Slot::Short(_) => put_short(out, value),
                Slot::Headers => put_long(out, value),
                Slot::Fixed(_) => out.extend_from_slice(value),
            }
        }
        if let Some(place) = out.get_mut(at..begin) {
            place.copy_from_slice(&flags.to_be_bytes());
        }
    }
}

/// Where the bytes of the header table begin in a payload of which only the
/// beginning is there, and how many they are.
pub(super) fn find_headers(payload: &[u8]) -> Option<(usize, usize)> {
    let mut reader = Reader(payload);
    reader.bytes(PREAMBLE)?;
    let flags = reader.u16()?;
    for (index, slot) in LAYOUT.into_iter().enumerate() {
        match slot {
            Slot::Headers if flags & flag(index) != 0 => {
                let length = usize::try_from(reader.u32()?).ok()?;
                return Some((payload.len().checked_sub(reader.0.len())?, length));
            }
            Slot::Short(_) if flags & flag(index) != 0 => {
                reader.short()?;
            }
            // Nothing else comes before the table.
            Slot::Short(_) => {}
            Slot::Headers | Slot::Fixed(_) => return None,
        }
    }
    None
}

/// Bytes within which the header table begins, if there is one: preamble, flags,
/// two short strings and the table's length.
pub(super) const HEADERS_BEGIN_WITHIN: usize = PREAMBLE + 2 + 2 * 256 + 4;

/// Bytes that can follow a header table: two octets, the timestamp and eight
/// short strings.
pub(super) const MOST_AFTER_HEADERS: usize = 2 + 8 + 8 * 256;

#[cfg(test)]
mod tests {
    use super::super::testing::{content_payload, every_property, lapin_reads_content};
    use super::*;

    #[test]
    fn every_property_is_taken_apart_and_put_together() {
        let payload = every_property(b"\x01kV");
        assert!(lapin_reads_content(&payload));
        let (content, form) = Content::read(&payload).unwrap();
        assert_eq!(form, Form::Whole);
        assert!(content.values.iter().all(Option::is_some));
        assert_eq!(content.headers(), Some(b"\x01kV".as_slice()));
        assert_eq!(content.write(content.headers()), payload);
    }

    #[test]
    fn any_set_of_properties_is_taken_apart_and_put_together() {
        for flags in (0..=u16::MAX).step_by(4) {
            let payload = content_payload(flags, b"", b"value");
            let (content, form) = Content::read(&payload).unwrap();
            assert_eq!(form, Form::Whole);
            assert_eq!(content.write(content.headers()), payload);
            assert_eq!(content.headers().is_some(), flags & 0x2000 != 0);
        }
    }

    #[test]
    fn a_cut_one_gives_what_is_there() {
        let payload = every_property(b"");
        for cut in 0..payload.len() {
            match Content::read(&payload[..cut]) {
                None => assert!(cut < 14),
                Some((content, form)) => {
                    assert_eq!(form, Form::Broken);
                    assert!(payload[14..].starts_with(&content.write(content.headers())[14..]));
                }
            }
        }
    }

    #[test]
    fn what_follows_the_last_property_makes_it_broken() {
        let mut payload = every_property(b"");
        payload.push(0);
        let (content, form) = Content::read(&payload).unwrap();
        assert_eq!(form, Form::Broken);
        assert_eq!(content.write(content.headers()), payload[..payload.len() - 1]);
    }

    #[test]
    fn the_table_is_found_from_the_beginning_alone() {
        let payload = every_property(b"\x01kV");
        let (at, length) = find_headers(&payload).unwrap();
        assert_eq!(&payload[at..at + length], b"\x01kV");
        assert_eq!(find_headers(&payload[..at]), Some((at, length)));
        assert_eq!(find_headers(&payload[..at - 1]), None);
        assert_eq!(find_headers(&content_payload(0xDFFC, b"", b"value")), None);
        let (at, _) = find_headers(&content_payload(0xE000, b"", &[b'x'; 255])).unwrap();
        assert_eq!(at, HEADERS_BEGIN_WITHIN);
    }
}
