//! Field tables (AMQP section 4.2.5.5, with RabbitMQ's type letters).
//!
//! Owns the answer to one question: can lapin read this table without an error,
//! without a deep recursion and without much memory? Its grammar is that of
//! amq-protocol-types 10.6 (`parsing.rs`, `AMQPType::from_id`), letter by
//! letter. Refuses to know what a table is good for.

use super::raw;
use super::wire::Reader;

/// Tables and arrays inside each other that are let through, the header table
/// itself not counted. lapin reads them by recursion, on a thread with a stack
/// of 2 MiB; nobody's client goes beyond three or four.
pub(super) const MAX_DEPTH: u32 = 32;

/// Values in a table that are let through, all levels together. A value can be
/// one byte on the wire and takes 32 and more in lapin, so that a header frame
/// of 128 KiB could otherwise become 8 MiB, times the prefetch.
pub(super) const MAX_VALUES: u32 = 4096;

/// Why a table cannot be shown to lapin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unfit {
    Malformed,
    NameNotUtf8,
    TooDeep,
    TooMany,
}

impl Unfit {
    /// In words for the person who sent it.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Malformed => "the header table is malformed",
            Self::NameNotUtf8 => "a header's name is not UTF-8",
            Self::TooDeep => "the header table is nested more than 32 levels deep",
            Self::TooMany => "the header table has more than 4096 values",
        }
    }
}

/// Reads a whole table, given without its length. `Ok(true)` if the name of one
/// of its own entries, not of nested ones, is reserved.
pub(super) fn check(table: &[u8]) -> Result<bool, Unfit> {
    let mut left = MAX_VALUES;
    let mut reserved = false;
    let mut reader = Reader(table);
    while !reader.is_empty() {
        reserved |= raw::is_reserved_bytes(check_name(&mut reader)?);
        check_value(&mut reader, 0, &mut left)?;
    }
    Ok(reserved)
}

fn check_name<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], Unfit> {
    let name = reader.short().ok_or(Unfit::Malformed)?;
    std::str::from_utf8(name).map_err(|_| Unfit::NameNotUtf8)?;
    Ok(name)
}

/// Calls itself at most [`MAX_DEPTH`] times.
fn check_value(reader: &mut Reader<'_>, depth: u32, left: &mut u32) -> Result<(), Unfit> {
    *left = left.checked_sub(1).ok_or(Unfit::TooMany)?;
    let (kind, value) = value(reader).ok_or(Unfit::Malformed)?;
    if !matches!(kind, b'A' | b'F') {
        return Ok(());
    }
    let depth = depth + 1;
    if depth > MAX_DEPTH {
        return Err(Unfit::TooDeep);
    }
    let mut reader = Reader(value);
    while !reader.is_empty() {
        if kind == b'F' {
            check_name(&mut reader)?;
        }
        check_value(&mut reader, depth, left)?;
    }
    Ok(())
}

/// A value's type letter and its bytes, without their length if they have one.
fn value<'a>(reader: &mut Reader<'a>) -> Option<(u8, &'a [u8])> {
    let kind = reader.u8()?;
    let bytes = match kind {
        b'V' => reader.bytes(0),
        b't' | b'b' | b'B' => reader.bytes(1),
        // RabbitMQ's `s` is an integer, where the specification's is a short string.
        b's' | b'U' | b'u' => reader.bytes(2),
        b'I' | b'i' | b'f' => reader.bytes(4),
        b'D' => reader.bytes(5),
        b'L' | b'l' | b'd' | b'T' => reader.bytes(8),
        b'S' | b'x' | b'A' | b'F' => reader.long(),
        _ => None,
    };
    Some((kind, bytes?))
}

/// One entry of a table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'a> {
    pub(super) name: &'a [u8],
    /// The type letter.
    pub(super) kind: u8,
    /// The value, without its length if it has one.
    pub(super) value: &'a [u8],
    /// All of it, as it is in the table.
    pub(super) whole: &'a [u8],
}

/// The entries, nested ones unseen; ends at the first that cannot be read.
pub(super) fn entries(table: &[u8]) -> impl Iterator<Item = Entry<'_>> {
    let mut reader = Reader(table);
    std::iter::from_fn(move || {
        let before = reader.0;
        let name = reader.short()?;
        let (kind, value) = value(&mut reader)?;
        let whole = before.get(..before.len().checked_sub(reader.0.len())?)?;
        Some(Entry { name, kind, value, whole })
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{entry, lapin_reads_table, nested_arrays, nested_tables};
    use super::*;

    /// Every type letter with a value of the right size.
    const EVERY_TYPE: [(u8, &[u8]); 19] = [
        (b't', &[1]),
        (b'b', &[0x80]),
        (b'B', &[0xFF]),
        (b's', &[0xFF; 2]),
        (b'U', &[0xFF; 2]),
        (b'u', &[0xFF; 2]),
        (b'I', &[0xFF; 4]),
        (b'i', &[0xFF; 4]),
        (b'L', &[0xFF; 8]),
        (b'l', &[0xFF; 8]),
        (b'f', &[0x7F, 0xC0, 0, 0]),
        (b'd', &[0xFF; 8]),
        (b'D', &[0xFF; 5]),
        (b'S', &[0, 0, 0, 2, 0xFF, 0xFE]),
        (b'A', &[0, 0, 0, 2, b'V', b'V']),
        (b'T', &[0xFF; 8]),
        (b'F', &[0, 0, 0, 3, 1, b'k', b'V']),
        (b'x', &[0, 0, 0, 1, 0xFF]),
        (b'V', &[]),
    ];

    #[test]
    fn every_type_is_read_as_lapin_reads_it() {
        for (kind, value) in EVERY_TYPE {
            let whole = entry(b"k", kind, value);
            assert_eq!(check(&whole), Ok(false), "{}", kind as char);
            assert!(lapin_reads_table(&whole), "{}", kind as char);
            for cut in 1..whole.len() {
                assert_eq!(check(&whole[..cut]), Err(Unfit::Malformed), "{}", kind as char);
                assert!(!lapin_reads_table(&whole[..cut]), "{}", kind as char);
            }
        }
    }

    #[test]
    fn other_letters_are_malformed_as_they_are_for_lapin() {
        for kind in 0..=u8::MAX {
            let known = EVERY_TYPE.iter().any(|(known, _)| *known == kind);
            let whole = entry(b"k", kind, &[0; 8]);
            assert!(known || check(&whole) == Err(Unfit::Malformed), "{kind}");
            assert!(known || !lapin_reads_table(&whole), "{kind}");
        }
    }

    #[test]
    fn an_empty_table_and_an_empty_name_are_fine() {
        assert_eq!(check(&[]), Ok(false));
        assert_eq!(check(&entry(b"", b'V', &[])), Ok(false));
    }

    #[test]
    fn a_name_that_is_not_utf8_is_seen_at_every_level() {
        let bad = entry(b"\xFF", b'V', &[]);
        assert_eq!(check(&bad), Err(Unfit::NameNotUtf8));
        let mut nested = Vec::new();
        super::super::wire::put_long(&mut nested, &bad);
        assert_eq!(check(&entry(b"k", b'F', &nested)), Err(Unfit::NameNotUtf8));
    }

    #[test]
    fn thirty_two_levels_are_enough() {
        for nest in [nested_arrays, nested_tables] {
            for depth in [0, 1, 31, 32] {
                assert_eq!(check(&nest(depth)), Ok(false), "{depth}");
                assert!(lapin_reads_table(&nest(depth)));
            }
            for depth in [33, 34, 1000, 26_000] {
                assert_eq!(check(&nest(depth)), Err(Unfit::TooDeep), "{depth}");
            }
        }
    }

    #[test]
    fn values_are_counted_at_all_levels() {
        let voids = |count: usize| {
            let mut array = Vec::new();
            super::super::wire::put_long(&mut array, &vec![b'V'; count]);
            entry(b"k", b'A', &array)
        };
        assert_eq!(check(&voids(4095)), Ok(false));
        assert_eq!(check(&voids(4096)), Err(Unfit::TooMany));
        assert_eq!(check(&entry(b"", b'V', &[]).repeat(4096)), Ok(false));
        assert_eq!(check(&entry(b"", b'V', &[]).repeat(4097)), Err(Unfit::TooMany));
    }

    #[test]
    fn reserved_names_are_seen_at_the_top_only() {
        let reserved = entry(b"rpchost-raw-x", b'V', &[]);
        assert_eq!(check(&reserved), Ok(true));
        let mut nested = Vec::new();
        super::super::wire::put_long(&mut nested, &reserved);
        assert_eq!(check(&entry(b"k", b'F', &nested)), Ok(false));
    }

    #[test]
    fn entries_give_every_byte_back() {
        let table: Vec<u8> =
            EVERY_TYPE.iter().flat_map(|(kind, value)| entry(b"name", *kind, value)).collect();
        let back: Vec<u8> = entries(&table).flat_map(|entry| entry.whole.to_vec()).collect();
        assert_eq!(back, table);
        let kinds: Vec<u8> = entries(&table).map(|entry| entry.kind).collect();
        assert_eq!(kinds, EVERY_TYPE.map(|(kind, _)| kind));
    }
}
