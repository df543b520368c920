//! From lapin to the broker: bytes in pieces of any size, in which the bytes
//! that lapin could not carry are put back.
//!
//! Owns where frames begin and end. A `basic.publish` is kept until its content
//! header is there, because that says which routing key it has; lapin writes
//! the two one after the other, always. Refuses to know what a socket is.

use super::methods::{self, BASIC_PUBLISH};
use super::published;
use super::wire::{
    self, FrameHead, HEAD, HEADER, METHOD, PROTOCOL_HEADER, PROTOCOL_HEADER_FIRST, put_frame, split,
};

/// Larger methods and content headers are not looked at. No broker takes them:
/// the limit that is settled is at most half of this.
const LARGEST: usize = 2 << 20;

/// Filters one connection's outgoing bytes.
#[derive(Debug)]
pub(super) struct Outbound {
    /// Bytes to be passed on unseen.
    passing: usize,
    /// The beginning of a frame that is not all there.
    partial: Vec<u8>,
    /// A `basic.publish` that waits for its content header.
    publish: Vec<u8>,
    settled_frame_max: Option<u32>,
}

impl Outbound {
    pub(super) fn new() -> Self {
        Self { passing: 0, partial: Vec::new(), publish: Vec::new(), settled_frame_max: None }
    }

    /// The largest frame that lapin has agreed to, once it has.
    pub(super) fn settled_frame_max(&self) -> Option<u32> {
        self.settled_frame_max
    }

    /// Filters what lapin writes. Appends to `out`, or keeps, all of `input`.
    pub(super) fn filter(&mut self, input: &[u8], out: &mut Vec<u8>) {
        let mut rest = input;
        while !rest.is_empty() {
            rest = self.step(rest, out);
        }
    }

    /// Goes one step, by taking bytes or by learning what they are, and gives what
    /// remains.
    fn step<'a>(&mut self, input: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
        if self.passing > 0 {
            let (now, rest) = split(input, self.passing);
            out.extend_from_slice(now);
            self.passing -= now.len();
            return rest;
        }
        if self.partial.is_empty() {
            if input.first() == Some(&PROTOCOL_HEADER_FIRST) {
                self.passing = PROTOCOL_HEADER;
                return input;
            }
            if let Some(head) = FrameHead::read(input) {
                if is_passed(head) {
                    self.release(out);
                    self.passing = head.total;
                    return input;
                }
                if let Some((frame, rest)) = input.split_at_checked(head.total) {
                    self.look(head, frame, out);
                    return rest;
                }
            }
        }
        self.collect(input, out)
    }

    /// Moves bytes to `partial` until it is a head, and then a frame.
    fn collect<'a>(&mut self, input: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
        let wanted = FrameHead::read(&self.partial).map_or(HEAD, |head| head.total);
        let (now, rest) = split(input, wanted.saturating_sub(self.partial.len()));
        self.partial.extend_from_slice(now);
        let Some(head) = FrameHead::read(&self.partial) else { return rest };
        if is_passed(head) {
            self.release(out);
            self.passing = head.total.saturating_sub(self.partial.len());
            out.append(&mut self.partial);
        } else if self.partial.len() == head.total {
            let frame = std::mem::take(&mut self.partial);
            self.look(head, &frame, out);
            // Only for its memory.
            self.partial = frame;
            self.partial.clear();
        }
        rest
    }

    /// A whole frame, a method or a content header.
    fn look(&mut self, head: FrameHead, frame: &[u8], out: &mut Vec<u8>) {
        let payload = wire::payload(frame).unwrap_or_default();
        if head.kind == HEADER {
            return self.content(head, frame, payload, out);
        }
        // Without its content header, which lapin drops when the channel is gone.
        self.release(out);
        if methods::id(payload) == Some(BASIC_PUBLISH) {
            self.publish.extend_from_slice(frame);
            return;
        }
        if let Some(frame_max) = methods::settled_frame_max(payload) {
            self.settled_frame_max = Some(frame_max);
        }
        out.extend_from_slice(frame);
    }

    fn content(&mut self, head: FrameHead, frame: &[u8], payload: &[u8], out: &mut Vec<u8>) {
        let Some(published) = published::for_broker(payload) else {
            self.release(out);
            out.extend_from_slice(frame);
            return;
        };
        let routed = published
            .routing_key
            .and_then(|key| methods::with_routing_key(wire::payload(&self.publish)?, key));
        match routed {
            Some(method) => {
                put_frame(out, METHOD, head.channel, &method);
                self.publish.clear();
            }
            None => self.release(out),
        }
        put_frame(out, HEADER, head.channel, &published.payload);
    }

    fn release(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.publish);
    }
}

/// Whether a frame is passed on unseen.
fn is_passed(head: FrameHead) -> bool {
    !matches!(head.kind, METHOD | HEADER) || head.total > LARGEST
}

#[cfg(test)]
mod tests {
    use super::super::testing::{content_payload, delivery, entry, frame, lapin_reads, long_entry};
    use super::super::wire::{BODY, HEARTBEAT};
    use super::*;

    fn publish(routing_key: &[u8]) -> Vec<u8> {
        let mut payload = vec![0, 60, 0, 40, 0, 0, 2, b'e', b'x'];
        wire::put_short(&mut payload, routing_key);
        payload.push(1);
        frame(METHOD, &payload)
    }

    fn message(routing_key: &[u8], flags: u16, table: &[u8], text: &[u8]) -> Vec<u8> {
        let content = frame(HEADER, &content_payload(flags, table, text));
        [publish(routing_key), content, frame(BODY, b"hello")].concat()
    }

    fn filtered(input: &[u8], piece: usize) -> Vec<u8> {
        let (mut outbound, mut out) = (Outbound::new(), Vec::new());
        for piece in input.chunks(piece) {
            outbound.filter(piece, &mut out);
        }
        assert!(outbound.partial.is_empty() && outbound.publish.is_empty());
        out
    }

    fn in_all_pieces(input: &[u8], wanted: &[u8]) {
        for piece in
            (1..=input.len()).filter(|piece| *piece < 40 || input.len().is_multiple_of(*piece))
        {
            assert!(filtered(input, piece) == wanted, "in pieces of {piece}");
        }
    }

    fn others() -> Vec<u8> {
        [
            b"AMQP\x00\x00\x09\x01".to_vec(),
            frame(METHOD, &[0, 10, 0, 31, 0, 0, 0, 2, 0, 0, 0, 0]),
            frame(HEARTBEAT, b""),
            frame(METHOD, &[0, 60, 0, 80, 0, 0, 0, 0, 0, 0, 0, 1, 0]),
        ]
        .concat()
    }

    #[test]
    fn what_carries_nothing_is_passed_on_as_it_is() {
        let plain = message(b"key", 0xFFFC, &entry(b"k", b'V', b""), b"text");
        let all = [others(), plain.clone(), plain, others()].concat();
        in_all_pieces(&all, &all);
    }

    #[test]
    fn properties_and_routing_keys_are_put_back() {
        for key in [b"".as_slice(), b"\xFF", &[0xFE; 255]] {
            let table = [
                long_entry("rpchost-raw-correlation-id", b'x', &[0xFF; 255]),
                long_entry("rpchost-raw-routing-key", b'x', key),
            ];
            let given = message(b"placeholder", 0x3000, &table.concat(), b"");
            let wanted = message(key, 0x1400, b"", &[0xFF; 255]);
            in_all_pieces(
                &[others(), given.clone(), given, others()].concat(),
                &[others(), wanted.clone(), wanted, others()].concat(),
            );
        }
    }

    #[test]
    fn a_publish_waits_for_its_content_only() {
        let (mut outbound, mut out) = (Outbound::new(), Vec::new());
        outbound.filter(&publish(b"key"), &mut out);
        assert!(out.is_empty());
        outbound.filter(&publish(b"other"), &mut out);
        assert_eq!(out, publish(b"key"));
        outbound.filter(&frame(HEARTBEAT, b"")[..3], &mut out);
        assert_eq!(out, publish(b"key"));
        outbound.filter(&frame(HEARTBEAT, b"")[3..], &mut out);
        assert_eq!(out, [publish(b"key"), publish(b"other"), frame(HEARTBEAT, b"")].concat());
    }

    #[test]
    fn a_routing_key_without_a_publish_changes_nothing_else() {
        let table = long_entry("rpchost-raw-routing-key", b'x', b"key");
        let given = frame(HEADER, &content_payload(0x2000, &table, b""));
        assert_eq!(filtered(&given, 9), frame(HEADER, &content_payload(0, b"", b"")));
    }

    #[test]
    fn the_limit_is_learnt() {
        let (mut outbound, mut out) = (Outbound::new(), Vec::new());
        assert_eq!(outbound.settled_frame_max(), None);
        outbound.filter(&others(), &mut out);
        assert_eq!(outbound.settled_frame_max(), Some(131_072));
    }

    #[test]
    fn a_frame_that_no_broker_takes_is_not_kept() {
        let (mut outbound, mut out) = (Outbound::new(), Vec::new());
        outbound.filter(&[HEADER, 0, 1, 0, 0x40, 0, 0, 1, 2, 3], &mut out);
        assert_eq!(out.len(), 10);
        assert!(lapin_reads(&delivery(&content_payload(0, b"", b""))));
    }
}
