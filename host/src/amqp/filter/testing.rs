//! For the tests of this folder: frames, and what lapin's parser says of them.

use amq_protocol::frame::parse_frame;
use amq_protocol::protocol::basic::parse_properties;
use amq_protocol::types::parsing::parse_field_table;

use super::content::{LAYOUT, Slot};
use super::wire::{HEADER, METHOD, put_frame, put_long, put_short};

/// An entry of a table; `value` includes its length if it has one.
pub(super) fn entry(name: &[u8], kind: u8, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_short(&mut out, name);
    out.push(kind);
    out.extend_from_slice(value);
    out
}

/// An entry whose value has a length.
pub(super) fn long_entry(name: &str, kind: u8, value: &[u8]) -> Vec<u8> {
    let mut long = Vec::new();
    put_long(&mut long, value);
    entry(name.as_bytes(), kind, &long)
}

/// A header table with `depth` arrays in each other; with none, a plain value.
pub(super) fn nested_arrays(depth: usize) -> Vec<u8> {
    let mut out = vec![1, b'k'];
    for level in (0..depth).rev() {
        out.push(b'A');
        out.extend_from_slice(&(level as u32 * 5 + 1).to_be_bytes());
    }
    out.push(b'V');
    out
}

/// The same with tables.
pub(super) fn nested_tables(depth: usize) -> Vec<u8> {
    let mut out = vec![1, b'k'];
    for level in (0..depth).rev() {
        out.push(b'F');
        out.extend_from_slice(&(level as u32 * 7 + 3).to_be_bytes());
        out.extend_from_slice(b"\x01k");
    }
    out.push(b'V');
    out
}

/// A content-header payload with the properties that `flags` names.
pub(super) fn content_payload(flags: u16, table: &[u8], text: &[u8]) -> Vec<u8> {
    let mut out = vec![0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5];
    out.extend_from_slice(&flags.to_be_bytes());
    for (index, slot) in LAYOUT.into_iter().enumerate() {
        if flags & (0x8000 >> index) != 0 {
            match slot {
                Slot::Short(_) => put_short(&mut out, text),
                Slot::Headers => put_long(&mut out, table),
                Slot::Fixed(size) => out.extend(vec![7; size]),
            }
        }
    }
    out
}

/// One with all fourteen.
pub(super) fn every_property(table: &[u8]) -> Vec<u8> {
    content_payload(0xFFFC, table, b"text")
}

/// A method without arguments, or the beginning of one.
pub(super) fn some_method((class, method): (u16, u16)) -> Vec<u8> {
    [class.to_be_bytes(), method.to_be_bytes()].concat()
}

/// A whole frame on channel 1.
pub(super) fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_frame(&mut out, kind, 1, payload);
    out
}

/// A delivery: the method, the content header, and a body of five bytes.
pub(super) fn delivery(content: &[u8]) -> Vec<u8> {
    let method =
        [&some_method((60, 60))[..], b"\x03tag", &[0, 0, 0, 0, 0, 0, 0, 1, 0], b"\x00\x01q"]
            .concat();
    [frame(METHOD, &method), frame(HEADER, content), frame(super::wire::BODY, b"hello")].concat()
}

pub(super) fn lapin_reads_table(table: &[u8]) -> bool {
    let mut long = Vec::new();
    put_long(&mut long, table);
    matches!(parse_field_table(&long[..]), Ok((rest, _)) if rest.is_empty())
}

pub(super) fn lapin_reads_content(payload: &[u8]) -> bool {
    matches!(parse_properties(&payload[12..]), Ok((rest, _)) if rest.is_empty())
}

pub(super) fn lapin_reads_method(payload: &[u8]) -> bool {
    lapin_reads(&frame(METHOD, payload))
}

/// Whether lapin can read frame after frame to the end.
pub(super) fn lapin_reads(mut frames: &[u8]) -> bool {
    while !frames.is_empty() {
        match parse_frame(frames) {
            Ok((rest, _)) => frames = rest,
            Err(_) => return false,
        }
    }
    true
}

/// The same, of which the last may not be all there yet; gives what it read, up
/// to a protocol header, which lapin refuses in any case.
pub(super) fn lapin_begins_to_read(
    mut frames: &[u8],
) -> Option<Vec<amq_protocol::frame::AMQPFrame>> {
    let mut read = Vec::new();
    while !frames.is_empty() {
        match parse_frame(frames) {
            Ok((rest, frame)) => {
                frames = rest;
                read.push(frame);
            }
            Err(error) if error.is_incomplete() || frames.starts_with(b"A") => break,
            Err(_) => return None,
        }
    }
    Some(read)
}
