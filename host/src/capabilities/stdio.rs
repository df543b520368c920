//! Standard output and error of a guest: a bounded buffer of our own.
//!
//! Keeps the first bytes and counts the rest. A guest is never slowed down or
//! told that nobody listens, so a flood costs it time and us nothing.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

/// Bytes kept per stream and call: about eight hundred lines of log, and with
/// a thousand calls at once still only 128 MiB.
const KEEP: usize = 64 * 1024;

/// Most bytes that a guest may write at once; as the default of WASI hosts.
pub(super) const CHUNK: usize = 64 * 1024;

/// Bytes at the end of a stream that are kept too: what a program said last
/// is why it failed, and an error's text has no room for more.
const TAIL: usize = 4 * 1024;

/// One captured stream. Clones share the buffer.
#[derive(Debug, Clone, Default)]
pub struct Stdio(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    captured: Captured,
    /// The last bytes of those that were dropped.
    last: VecDeque<u8>,
}

/// What was written to a stream.
#[derive(Debug, Clone, Default)]
pub struct Captured {
    /// The first bytes, at most 64 KiB.
    pub bytes: Vec<u8>,
    /// How many bytes came after them and were dropped.
    pub dropped: u64,
}

impl Stdio {
    /// A copy of what was written so far.
    pub fn captured(&self) -> Captured {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).captured.clone()
    }

    /// What was written last, at most 4 KiB.
    pub fn tail(&self) -> Vec<u8> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tail = kept.captured.bytes.clone();
        tail.extend(&kept.last);
        tail.split_off(tail.len().saturating_sub(TAIL))
    }

    /// Forgets what was written.
    pub fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Kept::default();
    }

    fn push(&self, bytes: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Kept { captured, last } = &mut *kept;
        let room = KEEP.saturating_sub(captured.bytes.len());
        let (kept, dropped) = bytes.split_at(room.min(bytes.len()));
        captured.bytes.extend_from_slice(kept);
        captured.dropped = captured.dropped.saturating_add(dropped.len() as u64);
        let (_, dropped) = dropped.split_at(dropped.len().saturating_sub(TAIL));
        last.extend(dropped);
        last.drain(..last.len().saturating_sub(TAIL));
    }
}

impl IsTerminal for Stdio {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Stdio {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Stdio {
    async fn ready(&mut self) {}
}

impl OutputStream for Stdio {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.push(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(CHUNK)
    }
}

impl AsyncWrite for Stdio {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.push(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_are_kept_and_the_rest_is_counted() {
        let stdio = Stdio::default();
        stdio.push(&vec![b'a'; KEEP - 1]);
        stdio.push(b"bcd");
        let captured = stdio.captured();
        assert_eq!(captured.bytes.len(), KEEP);
        assert_eq!(captured.bytes.last(), Some(&b'b'));
        assert_eq!(captured.dropped, 2);
    }

    #[test]
    fn the_last_bytes_are_kept_too() {
        let stdio = Stdio::default();
        stdio.push(b"ab");
        assert_eq!(stdio.tail(), b"ab");
        stdio.push(&vec![b'c'; KEEP]);
        stdio.push(b"de");
        let tail = stdio.tail();
        assert_eq!(tail.len(), TAIL);
        assert!(tail.ends_with(b"ccde"));
        stdio.push(&[b"x".repeat(TAIL), b"y".repeat(TAIL)].concat());
        assert_eq!(stdio.tail(), b"y".repeat(TAIL));
    }
}
