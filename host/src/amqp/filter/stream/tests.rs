//! The stream with a peer that reads, writes and hesitates as it likes.

use std::collections::VecDeque;
use std::task::Waker;

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::testing::{content_payload, delivery, frame, long_entry};
use super::super::wire::{BODY, HEADER, METHOD};
use super::*;

/// Gives and takes as many bytes at a time as the plan says; 0 is Pending.
#[derive(Debug, Default)]
struct Peer {
    to_read: VecDeque<u8>,
    written: Vec<u8>,
    flushed: usize,
    plan: VecDeque<usize>,
}

impl Peer {
    fn new(to_read: &[u8], plan: &[usize]) -> Self {
        Self {
            to_read: to_read.iter().copied().collect(),
            plan: plan.iter().copied().collect(),
            ..Self::default()
        }
    }

    /// The next step; once the plan is over, all at once.
    fn turn(&mut self) -> Poll<usize> {
        match self.plan.pop_front() {
            Some(0) => Poll::Pending,
            Some(count) => Poll::Ready(count),
            None => Poll::Ready(usize::MAX),
        }
    }
}

impl AsyncRead for Peer {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(self.turn()).min(buf.len()).min(self.to_read.len());
        for (to, from) in buf.iter_mut().zip(self.to_read.drain(..count)) {
            *to = from;
        }
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for Peer {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(self.turn()).min(buf.len());
        self.written.extend_from_slice(&buf[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.turn());
        self.flushed = self.written.len();
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn context() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// Reads to the end as lapin does, with room for so many bytes at a time.
fn read_all(stream: &mut Filtered<Peer>, room: usize) -> io::Result<Vec<u8>> {
    let (mut all, mut buf) = (Vec::new(), vec![0; room]);
    loop {
        match Pin::new(&mut *stream).poll_read(&mut context(), &mut buf) {
            Poll::Pending => {}
            Poll::Ready(Ok(0)) => return Ok(all),
            Poll::Ready(Ok(count)) => all.extend_from_slice(&buf[..count]),
            Poll::Ready(Err(error)) => return Err(error),
        }
    }
}

/// Writes all as lapin does: what was not accepted is offered again, with more
/// behind it. Checks that what was accepted is with the peer.
fn write_all(stream: &mut Filtered<Peer>, all: &[u8], offer: usize) {
    let (mut at, mut offered) = (0, offer);
    while at < all.len() {
        let end = (at + offered).min(all.len());
        match Pin::new(&mut *stream).poll_write(&mut context(), &all[at..end]) {
            Poll::Pending => offered += 1,
            Poll::Ready(count) => {
                at += count.unwrap();
                offered = offer;
                assert!(stream.outgoing.is_empty());
                assert_eq!(stream.inner.flushed, stream.inner.written.len());
            }
        }
    }
}

fn incoming() -> Vec<u8> {
    let bad = long_entry("rpchost-raw-type", b'x', b"");
    [
        delivery(&content_payload(0x0400, b"", b"id")),
        delivery(&content_payload(0x2600, &bad, b"\xFF")),
        frame(BODY, &[9; 500]),
        delivery(&content_payload(0xFFFC, b"", &[0xFE; 255])),
    ]
    .concat()
}

fn outgoing() -> (Vec<u8>, Vec<u8>) {
    let publish = |key: u8| frame(METHOD, &[0, 60, 0, 40, 0, 0, 0, 1, key, 0]);
    let table = [
        long_entry("rpchost-raw-routing-key", b'x', b"\xFF"),
        long_entry("rpchost-raw-correlation-id", b'x', b"\xFE"),
    ];
    let given = frame(HEADER, &content_payload(0x2000, &table.concat(), b""));
    let wanted = frame(HEADER, &content_payload(0x0400, b"", b"\xFE"));
    let body = frame(BODY, &[9; 500]);
    let head = b"AMQP\x00\x00\x09\x01".as_slice();
    (
        [head, &publish(b'p'), &given, &body, &publish(b'p'), &given].concat(),
        [head, &publish(0xFF), &wanted, &body, &publish(0xFF), &wanted].concat(),
    )
}

#[test]
fn reading_byte_by_byte_is_reading_at_once() {
    let once = read_all(&mut Filtered::new(Peer::new(&incoming(), &[])), 100_000).unwrap();
    assert!(super::super::testing::lapin_reads(&once));
    let plan: Vec<usize> = [1, 0].repeat(incoming().len());
    for room in [1, 3, 100_000] {
        assert!(read_all(&mut Filtered::new(Peer::new(&incoming(), &plan)), room).unwrap() == once);
        assert!(read_all(&mut Filtered::new(Peer::new(&incoming(), &[])), room).unwrap() == once);
    }
}

#[test]
fn writing_byte_by_byte_is_writing_at_once() {
    let (given, wanted) = outgoing();
    let plan: Vec<usize> = [1, 0].repeat(given.len());
    for offer in [1, 2, 7, 100, 100_000] {
        for plan in [&plan[..], &[]] {
            let mut stream = Filtered::new(Peer::new(b"", plan));
            write_all(&mut stream, &given, offer);
            assert!(stream.inner.written == wanted, "offered {offer}");
        }
    }
}

#[test]
fn nothing_is_accepted_before_it_is_written_and_flushed() {
    let heartbeat = [8, 0, 0, 0, 0, 0, 0, 0xCE];
    // Three bytes, a pause, five bytes, and a pause while flushing.
    let mut stream = Filtered::new(Peer::new(b"", &[3, 0, 5, 0]));
    let twice = [heartbeat, heartbeat].concat();
    let mut offer =
        |bytes: &[u8]| Pin::new(&mut stream).poll_write(&mut context(), bytes).map(Result::unwrap);
    assert_eq!(offer(&heartbeat), Poll::Pending);
    assert_eq!(offer(&twice), Poll::Pending);
    assert_eq!(offer(&twice), Poll::Ready(8));
    assert_eq!(offer(&heartbeat), Poll::Ready(8));
    assert_eq!(stream.inner.written, twice);
}

#[test]
fn a_flush_writes_what_waits() {
    let heartbeat = [8, 0, 0, 0, 0, 0, 0, 0xCE];
    let mut stream = Filtered::new(Peer::new(b"", &[0]));
    assert!(Pin::new(&mut stream).poll_write(&mut context(), &heartbeat).is_pending());
    assert!(Pin::new(&mut stream).poll_flush(&mut context()).is_ready());
    assert_eq!(stream.inner.written, heartbeat);
    let again = Pin::new(&mut stream).poll_write(&mut context(), &heartbeat);
    assert!(matches!(again, Poll::Ready(Ok(8))));
    assert_eq!(stream.inner.written, heartbeat);
}

#[test]
fn fewer_bytes_offered_than_before_are_an_error() {
    let mut stream = Filtered::new(Peer::new(b"", &[0]));
    assert!(Pin::new(&mut stream).poll_write(&mut context(), &[8; 8]).is_pending());
    let again = Pin::new(&mut stream).poll_write(&mut context(), &[8; 7]);
    assert!(
        matches!(again, Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::InvalidInput)
    );
}

#[test]
fn an_error_comes_after_what_was_good() {
    let good = delivery(&content_payload(0x0400, b"", b"\xFF"));
    let mut stream = Filtered::new(Peer::new(&[&good[..], b"HTTP/1.1"].concat(), &[]));
    let mut buf = vec![0; 1000];
    let mut seen = 0;
    let error = loop {
        match Pin::new(&mut stream).poll_read(&mut context(), &mut buf) {
            Poll::Ready(Ok(count)) => seen += count,
            Poll::Ready(Err(error)) => break error,
            Poll::Pending => unreachable!(),
        }
    };
    assert!(seen > good.len());
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(error.to_string().contains("of type 72"));
    assert!(
        Pin::new(&mut stream).poll_read(&mut context(), &mut buf).map(|r| r.is_err())
            == Poll::Ready(true)
    );
}

#[test]
fn a_tune_ok_sets_the_limit_of_the_other_direction() {
    let tune_ok = frame(METHOD, &[0, 10, 0, 31, 0, 0, 0, 0, 0x20, 0, 0, 0]);
    let mut stream = Filtered::new(Peer::new(&frame(BODY, &[0; 8185]), &[]));
    write_all(&mut stream, &tune_ok, 100);
    assert!(read_all(&mut stream, 100).unwrap_err().to_string().contains("8192"));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_plan_gives_the_same(
        plan in vec(prop_oneof![Just(0_usize), 1..9_usize, 1..2000_usize], 0..200),
        room in 1..3000_usize,
    ) {
        let once = read_all(&mut Filtered::new(Peer::new(&incoming(), &[])), 100_000).unwrap();
        prop_assert!(read_all(&mut Filtered::new(Peer::new(&incoming(), &plan)), room).unwrap() == once);
        let (given, wanted) = outgoing();
        let mut stream = Filtered::new(Peer::new(b"", &plan));
        write_all(&mut stream, &given, room);
        prop_assert!(stream.inner.written == wanted);
    }
}
