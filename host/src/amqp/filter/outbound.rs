//! From lapin to the broker: whole frames, in which the bytes that lapin could not carry are put
//! back.
//!
//! Refuses to know what a socket is.

use super::methods;
use super::published;
use super::wire::{
    self, FrameHead, HEADER, METHOD, PROTOCOL_HEADER, PROTOCOL_HEADER_FIRST, first_frame, put_frame,
};

/// Filters one connection's outgoing frames.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    settled_frame_max: Option<u32>,
}

impl Outbound {
    /// The largest frame that lapin has agreed to, once it has.
    pub(super) fn settled_frame_max(&self) -> Option<u32> {
        self.settled_frame_max
    }

    /// Filters what lapin writes, as far as it is whole, and appends it to `out`. Returns how many
    /// bytes that were.
    pub(super) fn filter(&mut self, input: &[u8], out: &mut Vec<u8>) -> usize {
        let mut rest = input;
        loop {
            if rest.first() == Some(&PROTOCOL_HEADER_FIRST) {
                let Some((header, after)) = rest.split_at_checked(PROTOCOL_HEADER) else { break };
                out.extend_from_slice(header);
                rest = after;
            } else if let Some((head, frame, after)) = first_frame(rest) {
                self.frame(head, frame, out);
                rest = after;
            } else {
                break;
            }
        }
        input.len() - rest.len()
    }

    fn frame(&mut self, head: FrameHead, frame: &[u8], out: &mut Vec<u8>) {
        let payload = wire::payload(frame).unwrap_or_default();
        match head.kind {
            HEADER => {
                if let Some(payload) = published::for_broker(payload) {
                    return put_frame(out, HEADER, head.channel, &payload);
                }
            }
            METHOD => {
                if let Some(frame_max) = methods::settled_frame_max(payload) {
                    self.settled_frame_max = Some(frame_max);
                }
            }
            _ => {}
        }
        out.extend_from_slice(frame);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{content_payload, entry, frame, long_entry};
    use super::super::wire::{BODY, HEARTBEAT};
    use super::*;

    fn message(flags: u16, table: &[u8], text: &[u8]) -> Vec<u8> {
        let publish = frame(METHOD, &[0, 60, 0, 40, 0, 0, 2, b'e', b'x', 1, b'q', 1]);
        let content = frame(HEADER, &content_payload(flags, table, text));
        [publish, content, frame(BODY, b"hello")].concat()
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

    fn filtered(input: &[u8]) -> Vec<u8> {
        let (mut outbound, mut out) = (Outbound::default(), Vec::new());
        assert_eq!(outbound.filter(input, &mut out), input.len());
        out
    }

    #[test]
    fn what_carries_nothing_is_passed_on_as_it_is() {
        let plain = message(0xFFFC, &entry(b"k", b'V', b""), b"text");
        let all = [others(), plain.clone(), plain, others()].concat();
        assert_eq!(filtered(&all), all);
    }

    #[test]
    fn properties_are_put_back() {
        let table = long_entry("rpchost-raw-correlation-id", b'x', &[0xFF; 255]);
        let given = message(0x3000, &table, b"");
        let wanted = message(0x1400, b"", &[0xFF; 255]);
        assert_eq!(
            filtered(&[others(), given.clone(), given, others()].concat()),
            [others(), wanted.clone(), wanted, others()].concat()
        );
    }

    #[test]
    fn what_is_not_whole_is_left() {
        let all = [others(), message(0xFFFC, b"", b"text")].concat();
        let mut whole = 0;
        for end in 0..=all.len() {
            let (mut outbound, mut out) = (Outbound::default(), Vec::new());
            let taken = outbound.filter(&all[..end], &mut out);
            assert_eq!(out, all[..taken]);
            assert!(taken >= whole);
            whole = taken;
        }
        assert_eq!(whole, all.len());
    }

    #[test]
    fn the_limit_is_learnt() {
        let (mut outbound, mut out) = (Outbound::default(), Vec::new());
        assert_eq!(outbound.settled_frame_max(), None);
        outbound.filter(&others(), &mut out);
        assert_eq!(outbound.settled_frame_max(), Some(131_072));
    }
}
