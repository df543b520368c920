//! What a program is given that answers one call: arguments, variables, a
//! standard input, and a standard output that is the result.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};

use super::stdio::CHUNK;

/// What a program finds when it starts.
#[derive(Debug)]
pub struct Program {
    /// Its arguments, its own name first.
    pub arguments: Vec<String>,
    /// Its environment; nothing of the host's.
    pub variables: Vec<(String, String)>,
    /// Its standard input.
    pub input: Bytes,
    /// Most bytes it may write to standard output.
    pub most: usize,
}

/// A standard output that is kept whole, or ends the program. Clones share
/// the buffer.
#[derive(Debug, Clone)]
pub(super) struct Output {
    most: usize,
    written: Arc<Mutex<Written>>,
}

#[derive(Debug, Default)]
struct Written {
    bytes: Vec<u8>,
    overflowed: bool,
}

impl Output {
    pub(super) fn new(most: usize) -> Self {
        Self { most, written: Arc::default() }
    }

    /// Takes what was written; `None` if it was too much.
    pub(super) fn take(&self) -> Option<Vec<u8>> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        (!written.overflowed).then(|| std::mem::take(&mut written.bytes))
    }

    /// Whether the bytes found room.
    fn push(&self, bytes: &[u8]) -> bool {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes.len() > self.most.saturating_sub(written.bytes.len()) {
            written.overflowed = true;
            // A half result is of use to nobody.
            written.bytes = Vec::new();
        }
        if !written.overflowed {
            written.bytes.extend_from_slice(bytes);
        }
        !written.overflowed
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if self.push(&bytes) {
            return Ok(());
        }
        // A trap and no error: a program that ignored an error would go on
        // until its time is up.
        Err(StreamError::Trap(wasmtime::format_err!("{TOO_MUCH}")))
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(CHUNK)
    }
}

impl AsyncWrite for Output {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let error = || std::io::Error::other(TOO_MUCH);
        Poll::Ready(if self.push(bytes) { Ok(bytes.len()) } else { Err(error()) })
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

const TOO_MUCH: &str = "more was written to standard output than a result may have";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_kept_to_the_last_byte_and_not_beyond() {
        let output = Output::new(4);
        assert!(output.push(b"ab") && output.push(b"cd") && output.push(b""));
        assert_eq!(output.take().as_deref(), Some(&b"abcd"[..]));
        assert!(!output.push(b"abcde"));
        assert!(!output.push(b""), "there is no way back");
        assert_eq!(output.take(), None);
    }
}
