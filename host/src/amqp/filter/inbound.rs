//! From the broker to lapin: bytes in pieces of any size become frames that
//! lapin can take.
//!
//! Owns where frames begin and end, and that no more than one of them is kept.
//! Bodies pass through without being collected; methods and content headers are
//! looked at whole (`methods`, `delivered`). Refuses to know what a socket is.

use super::content::{HEADERS_BEGIN_WITHIN, MOST_AFTER_HEADERS, find_headers};
use super::delivered::{self, Delivered};
use super::methods::{self, Method};
use super::wire::{
    self, BODY, FRAME_END, FrameHead, HEAD, HEADER, HEARTBEAT, METHOD, OVERHEAD, PROTOCOL_HEADER,
    PROTOCOL_HEADER_FIRST, put_frame, split,
};

/// The largest frame until both sides have settled one: RabbitMQ's default, and
/// what fits into lapin's first buffer.
const FIRST_FRAME_MAX: usize = 131_072;

/// The smallest limit that AMQP allows (section 4.2.3, `frame-min-size`). lapin
/// checks no frame against a smaller one.
const LEAST_FRAME_MAX: usize = 4096;

/// The broker sent something that is not AMQP. The connection is of no use any
/// more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Broken(pub(super) String);

/// What the next bytes are.
#[derive(Debug)]
enum Expect {
    /// The beginning of a frame, or more of one that is collected.
    Frame,
    /// So many bytes of a frame that are passed on unseen, but for the last one.
    Passing(usize),
    /// So many bytes of a protocol header, which is not a frame.
    PassingProtocolHeader(usize),
    /// More of a content header that is larger than the limit.
    Oversize(Oversize),
}

/// A content header of which the header table is dropped while it comes in, so
/// that its size does not matter. RabbitMQ sends such: it accepts 8 bytes more
/// than the limit, dead-lettering adds to headers without looking at it, and a
/// publisher's limit can be larger than ours.
#[derive(Debug)]
struct Oversize {
    /// Bytes of the frame that have not come yet.
    left: usize,
    /// Of these, how many more belong to the header table.
    skip: usize,
    /// Whether the beginning of the table was reached.
    found: bool,
}

/// Filters one connection's incoming bytes.
#[derive(Debug)]
pub(super) struct Inbound {
    frame_max: usize,
    expect: Expect,
    /// The beginning of a frame that is not all there.
    partial: Vec<u8>,
}

/// Takes what is passed on. As long as nothing was changed or kept back, bytes
/// stay where they are and are only counted.
struct Sink<'a> {
    in_place: usize,
    diverted: bool,
    out: &'a mut Vec<u8>,
}

impl Sink<'_> {
    /// Bytes as they are in the input, all before them passed on in place too
    /// unless something was diverted.
    fn pass(&mut self, bytes: &[u8]) {
        if self.diverted {
            self.out.extend_from_slice(bytes);
        } else {
            self.in_place += bytes.len();
        }
    }

    fn divert(&mut self) -> &mut Vec<u8> {
        self.diverted = true;
        self.out
    }
}

impl Inbound {
    pub(super) fn new() -> Self {
        Self { frame_max: FIRST_FRAME_MAX, expect: Expect::Frame, partial: Vec::new() }
    }

    /// Sets the limit that both sides have settled.
    pub(super) fn set_frame_max(&mut self, frame_max: u32) {
        let frame_max = usize::try_from(frame_max).unwrap_or(usize::MAX);
        self.frame_max = frame_max.max(LEAST_FRAME_MAX);
    }

    /// Filters what was read. Gives how many bytes at the beginning of `input`
    /// can be taken from there; what comes after them is appended to `out`. If
    /// `out` is not empty, everything is appended to it.
    ///
    /// What was passed on before an error is good.
    pub(super) fn filter(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> (usize, Result<(), Broken>) {
        let diverted = !out.is_empty() || !self.partial.is_empty();
        let mut sink = Sink { in_place: 0, diverted, out };
        let mut rest = input;
        while !rest.is_empty() {
            match self.step(rest, &mut sink) {
                Ok(after) => rest = after,
                Err(broken) => return (sink.in_place, Err(broken)),
            }
        }
        (sink.in_place, Ok(()))
    }

    /// Goes one step, by taking bytes or by learning what they are, and gives what
    /// remains.
    fn step<'a>(&mut self, input: &'a [u8], sink: &mut Sink<'_>) -> Result<&'a [u8], Broken> {
        match &mut self.expect {
            Expect::Passing(left) | Expect::PassingProtocolHeader(left) => {
                let (now, rest) = split(input, *left);
                *left -= now.len();
                if *left == 0 {
                    if matches!(self.expect, Expect::Passing(_))
                        && let Some((&end, before)) = now.split_last()
                        && end != FRAME_END
                    {
                        sink.pass(before);
                        return Err(no_end());
                    }
                    self.expect = Expect::Frame;
                }
                sink.pass(now);
                Ok(rest)
            }
            Expect::Oversize(_) => self.more_of_oversize(input, sink),
            Expect::Frame if self.partial.is_empty() => self.begin(input, sink),
            Expect::Frame => self.continue_partial(input, sink),
        }
    }

    /// A frame begins with `input`.
    fn begin<'a>(&mut self, input: &'a [u8], sink: &mut Sink<'_>) -> Result<&'a [u8], Broken> {
        if input.first() == Some(&PROTOCOL_HEADER_FIRST) {
            // "I speak another version", after which the broker hangs up.
            self.expect = Expect::PassingProtocolHeader(PROTOCOL_HEADER);
            return Ok(input);
        }
        let Some(head) = FrameHead::read(input) else {
            return Ok(self.collect(input, HEAD, sink));
        };
        match self.kind(head)? {
            Kind::Pass => {
                self.expect = Expect::Passing(head.total);
                Ok(input)
            }
            Kind::Look => match input.split_at_checked(head.total) {
                Some((frame, rest)) => {
                    self.look(head, frame, sink)?;
                    Ok(rest)
                }
                None => Ok(self.collect(input, head.total, sink)),
            },
            Kind::Oversize => {
                self.expect = Expect::Oversize(Oversize::new(head.total));
                Ok(input)
            }
        }
    }

    /// A frame of which some bytes are in `partial` goes on with `input`.
    fn continue_partial<'a>(
        &mut self,
        input: &'a [u8],
        sink: &mut Sink<'_>,
    ) -> Result<&'a [u8], Broken> {
        let Some(head) = FrameHead::read(&self.partial) else {
            let rest = self.collect(input, HEAD, sink);
            if let Some(head) = FrameHead::read(&self.partial) {
                match self.kind(head)? {
                    Kind::Look => {}
                    Kind::Pass => {
                        sink.divert().append(&mut self.partial);
                        self.expect = Expect::Passing(head.total - HEAD);
                    }
                    Kind::Oversize => {
                        let mut oversize = Oversize::new(head.total);
                        oversize.left -= HEAD;
                        self.expect = Expect::Oversize(oversize);
                    }
                }
            }
            return Ok(rest);
        };
        let rest = self.collect(input, head.total, sink);
        if self.partial.len() == head.total {
            let frame = std::mem::take(&mut self.partial);
            self.look(head, &frame, sink)?;
            // Only for its memory.
            self.partial = frame;
            self.partial.clear();
        }
        Ok(rest)
    }

    /// Moves bytes to `partial` until there are `wanted`.
    fn collect<'a>(&mut self, input: &'a [u8], wanted: usize, sink: &mut Sink<'_>) -> &'a [u8] {
        sink.divert();
        let (now, rest) = split(input, wanted.saturating_sub(self.partial.len()));
        self.partial.extend_from_slice(now);
        rest
    }

    /// What is to be done with a frame.
    fn kind(&self, head: FrameHead) -> Result<Kind, Broken> {
        let fits = head.total <= self.frame_max;
        match head.kind {
            HEADER if !fits => Ok(Kind::Oversize),
            METHOD | HEADER | BODY | HEARTBEAT if !fits => Err(Broken(format!(
                "the broker sent a frame of {} bytes, which is more than the {} agreed upon",
                head.total, self.frame_max
            ))),
            METHOD | HEADER => Ok(Kind::Look),
            BODY | HEARTBEAT => Ok(Kind::Pass),
            kind => {
                Err(Broken(format!("the broker sent a frame of type {kind}, which is unknown")))
            }
        }
    }

    /// A whole frame, a method or a content header.
    fn look(&self, head: FrameHead, frame: &[u8], sink: &mut Sink<'_>) -> Result<(), Broken> {
        let payload = wire::payload(frame).ok_or_else(no_end)?;
        let replaced = if head.kind == METHOD {
            match methods::for_lapin(payload) {
                Method::Good => None,
                Method::Replaced(payload) => Some(payload),
                Method::Broken => return Err(broken_method(payload)),
            }
        } else {
            match delivered::for_lapin(payload, self.most(), false) {
                Delivered::Good => None,
                Delivered::Replaced(payload) => Some(payload),
                Delivered::Broken => return Err(broken_content()),
            }
        };
        match replaced {
            None => sink.pass(frame),
            Some(payload) => put_frame(sink.divert(), head.kind, head.channel, &payload),
        }
        Ok(())
    }

    /// Bytes of payload that lapin accepts.
    fn most(&self) -> usize {
        self.frame_max.saturating_sub(OVERHEAD)
    }

    /// The bytes of an oversize content header: those before the header table
    /// and those after it are collected, as many as can be.
    fn more_of_oversize<'a>(
        &mut self,
        input: &'a [u8],
        sink: &mut Sink<'_>,
    ) -> Result<&'a [u8], Broken> {
        sink.divert();
        let Expect::Oversize(oversize) = &mut self.expect else { return Ok(input) };
        if !oversize.found {
            // Such a frame is larger than this, so it does not end here.
            let wanted = (HEAD + HEADERS_BEGIN_WITHIN).saturating_sub(self.partial.len());
            let (now, rest) = split(input, wanted);
            self.partial.extend_from_slice(now);
            oversize.left = oversize.left.saturating_sub(now.len());
            if now.len() == wanted {
                oversize.find(&mut self.partial);
            }
            return Ok(rest);
        }
        let (now, rest) = split(input, oversize.left);
        oversize.left -= now.len();
        if oversize.left > 0 {
            oversize.keep(now, &mut self.partial);
            return Ok(rest);
        }
        let Some((&FRAME_END, now)) = now.split_last() else { return Err(no_end()) };
        oversize.keep(now, &mut self.partial);
        self.expect = Expect::Frame;
        let channel = FrameHead::read(&self.partial).map_or(0, |head| head.channel);
        let payload = self.partial.get(HEAD..).unwrap_or_default();
        let Delivered::Replaced(payload) = delivered::for_lapin(payload, self.most(), true) else {
            return Err(broken_content());
        };
        self.partial.clear();
        put_frame(sink.divert(), HEADER, channel, &payload);
        Ok(rest)
    }
}

enum Kind {
    /// Bodies and heartbeats.
    Pass,
    /// Methods and content headers.
    Look,
    /// A content header that is larger than the limit.
    Oversize,
}

impl Oversize {
    fn new(total: usize) -> Self {
        Self { left: total, skip: 0, found: false }
    }

    /// `frame` has all bytes up to the header table, and perhaps more. Makes the
    /// table empty, and drops of what follows what belongs to it.
    fn find(&mut self, frame: &mut Vec<u8>) {
        self.found = true;
        let payload = frame.get(HEAD..).unwrap_or_default();
        let Some((at, length)) = find_headers(payload) else { return };
        self.skip = length;
        let after = frame.split_off((HEAD + at).min(frame.len()));
        let length_at = frame.len().saturating_sub(4);
        frame.truncate(length_at);
        frame.extend_from_slice(&[0; 4]);
        self.keep(&after, frame);
    }

    /// Keeps what does not belong to the header table. Of what does not belong
    /// to anything, because it is beyond all that properties can be, only so
    /// much that it is seen to be there.
    fn keep(&mut self, bytes: &[u8], frame: &mut Vec<u8>) {
        let (skipped, kept) = split(bytes, self.skip);
        self.skip -= skipped.len();
        let most = HEAD + HEADERS_BEGIN_WITHIN + MOST_AFTER_HEADERS + 1;
        frame.extend(kept.iter().take(most.saturating_sub(frame.len())));
    }
}

fn no_end() -> Broken {
    Broken("the broker sent a frame that does not end as it must".to_owned())
}

fn broken_content() -> Broken {
    Broken("the broker sent a content header that is too short".to_owned())
}

fn broken_method(payload: &[u8]) -> Broken {
    match methods::id(payload) {
        Some((class, method)) => {
            Broken(format!("the broker sent a method {class}.{method} that cannot be read"))
        }
        None => Broken("the broker sent a method without a name".to_owned()),
    }
}

#[cfg(test)]
mod tests;
