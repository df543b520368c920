//! The bytes of AMQP 0-9-1: how a frame is framed (section 4.2.3) and how its
//! fields are read and written.
//!
//! Refuses to know what any frame means.

/// Frame type: a method.
pub(super) const METHOD: u8 = 1;
/// Frame type: a content header.
pub(super) const HEADER: u8 = 2;
/// Frame type: a piece of a body.
pub(super) const BODY: u8 = 3;
/// Frame type: a heartbeat.
pub(super) const HEARTBEAT: u8 = 8;
/// The last byte of every frame.
pub(super) const FRAME_END: u8 = 0xCE;

/// Type, channel and size: what comes before a payload.
pub(super) const HEAD: usize = 7;
/// What a frame has besides its payload: the head and the end byte.
pub(super) const OVERHEAD: usize = HEAD + 1;

/// The protocol header, `AMQP\0\0\x09\x01`, is no frame; its first byte is the
/// type of none.
pub(super) const PROTOCOL_HEADER_FIRST: u8 = b'A';
/// Its length.
pub(super) const PROTOCOL_HEADER: usize = 8;

/// Longest short string.
pub(crate) const SHORT_MAX: usize = 255;

/// What a frame says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHead {
    pub(super) kind: u8,
    pub(super) channel: u16,
    /// Bytes of the whole frame.
    pub(super) total: usize,
}

impl FrameHead {
    /// Reads it from the first [`HEAD`] bytes; `None` while they are not there.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let (kind, channel) = (reader.u8()?, reader.u16()?);
        Some(Self { kind, channel, total: size(reader.u32()?).saturating_add(OVERHEAD) })
    }
}

/// The first frame, if it is all there, and what is behind it.
pub(super) fn first_frame(bytes: &[u8]) -> Option<(FrameHead, &[u8], &[u8])> {
    let head = FrameHead::read(bytes)?;
    let (frame, after) = bytes.split_at_checked(head.total)?;
    Some((head, frame, after))
}

/// A whole frame's payload; `None` if the frame does not end as it must.
pub(super) fn payload(frame: &[u8]) -> Option<&[u8]> {
    match frame.get(HEAD..)?.split_last()? {
        (&FRAME_END, payload) => Some(payload),
        _ => None,
    }
}

/// Appends a whole frame.
pub(super) fn put_frame(out: &mut Vec<u8>, kind: u8, channel: u16, payload: &[u8]) {
    put_frame_of(out, kind, channel, |out| out.extend_from_slice(payload));
}

/// The same, of a payload that is put right there.
pub(super) fn put_frame_of(
    out: &mut Vec<u8>,
    kind: u8,
    channel: u16,
    payload: impl FnOnce(&mut Vec<u8>),
) {
    out.push(kind);
    out.extend_from_slice(&channel.to_be_bytes());
    put_long_of(out, payload);
    out.push(FRAME_END);
}

/// Appends bytes after their length in four: a long string, a table, a payload.
pub(super) fn put_long(out: &mut Vec<u8>, bytes: &[u8]) {
    put_long_of(out, |out| out.extend_from_slice(bytes));
}

/// The same, of bytes that are put right there.
pub(super) fn put_long_of(out: &mut Vec<u8>, bytes: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    let begin = out.len();
    bytes(out);
    // Nothing here is longer than a frame, and that was read with such a length.
    let length = u32::try_from(out.len() - begin).unwrap_or(u32::MAX);
    if let Some(place) = out.get_mut(at..begin) {
        place.copy_from_slice(&length.to_be_bytes());
    }
}

/// Appends bytes after their length in one. All callers took them from a short
/// string, or looked at their length.
pub(super) fn put_short(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u8::try_from(bytes.len()).unwrap_or(u8::MAX);
    out.push(length);
    out.extend_from_slice(split(bytes, usize::from(length)).0);
}

/// Splits, where `[u8]::split_at` would panic.
pub(super) fn split(bytes: &[u8], at: usize) -> (&[u8], &[u8]) {
    bytes.split_at_checked(at).unwrap_or((bytes, &[]))
}

fn size(size: u32) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}

/// Reads fields one after the other; `None` where the bytes are too few.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*bytes)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// The bytes of a short string.
    pub(super) fn short(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        self.bytes(length.into())
    }

    /// The bytes of a long string, or whatever else has its length in four
    /// bytes before it.
    pub(super) fn long(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()?;
        self.bytes(size(length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_written_and_read() {
        let mut frame = Vec::new();
        put_frame(&mut frame, METHOD, 0x0102, b"abc");
        assert_eq!(frame, [1, 1, 2, 0, 0, 0, 3, b'a', b'b', b'c', 0xCE]);
        let head = FrameHead::read(&frame).unwrap();
        assert_eq!(head, FrameHead { kind: METHOD, channel: 0x0102, total: frame.len() });
        assert_eq!(payload(&frame), Some(b"abc".as_slice()));
        assert_eq!(FrameHead::read(&frame[..6]), None);
        *frame.last_mut().unwrap() = 0;
        assert_eq!(payload(&frame), None);
        assert_eq!(payload(&[]), None);
    }

    #[test]
    fn too_few_bytes_are_none() {
        assert_eq!(Reader(&[1]).u16(), None);
        assert_eq!(Reader(&[1, 2, 3]).u32(), None);
        assert_eq!(Reader(&[2, b'x']).short(), None);
        assert_eq!(Reader(&[0xFF, 0xFF, 0xFF, 0xFF, 1]).long(), None);
        assert_eq!(Reader(&[2, b'x', b'y', b'z']).short(), Some(b"xy".as_slice()));
    }
}
