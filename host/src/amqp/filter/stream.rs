//! The stream that lapin reads and writes: the socket's, or TLS's, with the
//! filters in between.
//!
//! Owns when bytes are read, written and flushed, and how many wait. Refuses to
//! know what they mean.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_io::{AsyncRead, AsyncWrite};

use super::inbound::{Broken, Inbound};
use super::outbound::Outbound;

/// Bytes that are read or written in one go: a frame of the usual size. lapin
/// offers 4 MiB, as much as would then wait here.
const AT_ONCE: usize = 128 << 10;

/// A stream with the filters in it.
#[derive(Debug)]
pub(super) struct Filtered<S> {
    inner: S,
    inbound: Inbound,
    outbound: Outbound,
    /// For lapin.
    incoming: Waiting,
    /// For the broker.
    outgoing: Waiting,
    /// How many of the bytes that lapin offers are in `outgoing`, or were.
    seen: usize,
    /// Told once what came before it has been read.
    broken: Option<Broken>,
}

/// Bytes on their way.
#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    /// Of which so many are gone.
    gone: usize,
}

impl Waiting {
    fn rest(&self) -> &[u8] {
        self.bytes.get(self.gone..).unwrap_or_default()
    }

    fn is_empty(&self) -> bool {
        self.rest().is_empty()
    }

    fn advance(&mut self, count: usize) {
        self.gone += count;
        if self.is_empty() {
            self.bytes.clear();
            self.gone = 0;
        }
    }

    /// Copies as many as there is room for.
    fn copy_to(&mut self, room: &mut [u8]) -> usize {
        let rest = self.rest();
        let count = rest.len().min(room.len());
        if let (Some(to), Some(from)) = (room.get_mut(..count), rest.get(..count)) {
            to.copy_from_slice(from);
        }
        self.advance(count);
        count
    }
}

impl<S> Filtered<S> {
    pub(super) fn new(inner: S) -> Self {
        Self {
            inner,
            inbound: Inbound::new(),
            outbound: Outbound::new(),
            incoming: Waiting::default(),
            outgoing: Waiting::default(),
            seen: 0,
            broken: None,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Filtered<S> {
    /// Reads until there is something for lapin or nothing to be read: lapin
    /// asks again only after a wake-up, which the socket alone can give.
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let most = buf.len().min(AT_ONCE);
        let Some(buf) = buf.get_mut(..most).filter(|buf| !buf.is_empty()) else {
            return Poll::Ready(Ok(0));
        };
        loop {
            if !this.incoming.is_empty() {
                return Poll::Ready(Ok(this.incoming.copy_to(buf)));
            }
            if let Some(Broken(text)) = &this.broken {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, text.clone())));
            }
            let count = ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
            if count == 0 {
                return Poll::Ready(Ok(0));
            }
            let read = buf.get(..count).unwrap_or_default();
            let (in_place, filtered) = this.inbound.filter(read, &mut this.incoming.bytes);
            this.broken = filtered.err();
            if in_place > 0 {
                return Poll::Ready(Ok(in_place));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> Filtered<S> {
    /// Writes what waits, and has it flushed.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            let count = ready!(Pin::new(&mut self.inner).poll_write(cx, self.outgoing.rest()))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outgoing.advance(count);
        }
        Pin::new(&mut self.inner).poll_flush(cx)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Filtered<S> {
    /// Says that bytes are written only when they are with the kernel. If lapin
    /// thought that it had nothing more to write, it would wait for something
    /// else with ours still here (`io_loop.rs`, `run`: it waits before it
    /// flushes).
    ///
    /// Until then lapin offers the same bytes again, and perhaps more behind
    /// them. What the filter keeps of them is written once lapin offers the rest
    /// of the frame or the content header after a `basic.publish`, which it has
    /// ready at that time.
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.seen == 0 {
            let offered = buf.get(..AT_ONCE).unwrap_or(buf);
            this.outbound.filter(offered, &mut this.outgoing.bytes);
            this.seen = offered.len();
            if let Some(frame_max) = this.outbound.settled_frame_max() {
                this.inbound.set_frame_max(frame_max);
            }
        }
        if this.seen > buf.len() {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "other bytes are offered for writing than before",
            )));
        }
        ready!(this.poll_drain(cx))?;
        Poll::Ready(Ok(std::mem::take(&mut this.seen)))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_drain(cx)
    }

    /// Does not write what waits: lapin closes after its last write was
    /// accepted, or when the broker does not read any more.
    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_close(cx)
    }
}

#[cfg(test)]
mod tests;
