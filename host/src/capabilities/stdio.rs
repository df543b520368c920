//! Standard output and error of a guest: lines of the log, as they come.
//!
//! A guest is never slowed down or told that nobody listens. What is kept of
//! a stream is the line that has no end yet, and the last bytes of standard
//! error, which is where languages say what went wrong.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use tracing::Level;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use super::guest_log::{GuestLog, MAX_LINE, MOST_AT_ONCE, ends};

/// Most bytes that a guest may write at once; as the default of WASI hosts.
pub(super) const CHUNK: usize = 64 * 1024;

/// Bytes kept of the end of standard error: the message of a panic, and the
/// stack that a language prints of its own.
const TAIL: usize = 4096;

/// One stream. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Stdio(Arc<Mutex<Stream>>);

#[derive(Debug)]
struct Stream {
    log: Arc<GuestLog>,
    name: &'static str,
    /// The beginning of the line that has no end yet.
    line: Vec<u8>,
    /// How many bytes of that line came after.
    beyond: u64,
    /// The last bytes, between once and twice [`TAIL`] of them; `None` where
    /// nobody asks for them.
    tail: Option<Vec<u8>>,
}

impl Stdio {
    /// A stream whose lines go to the log and nowhere else.
    pub(super) fn stdout(log: Arc<GuestLog>) -> Self {
        Self::new(log, "stdout", None)
    }

    /// One whose last bytes are kept besides.
    pub(super) fn stderr(log: Arc<GuestLog>) -> Self {
        Self::new(log, "stderr", Some(Vec::new()))
    }

    fn new(log: Arc<GuestLog>, name: &'static str, tail: Option<Vec<u8>>) -> Self {
        Self(Arc::new(Mutex::new(Stream { log, name, line: Vec::new(), beyond: 0, tail })))
    }

    /// The last bytes that were written, as text; at most 4 KiB.
    pub(super) fn tail(&self) -> String {
        let stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(tail) = &stream.tail else { return String::new() };
        let start = tail.len().saturating_sub(TAIL);
        String::from_utf8_lossy(tail.get(start..).unwrap_or_default()).into_owned()
    }

    /// Writes the line that has no end to the log: the call is over.
    pub(super) fn finish(&self) {
        let _counted_if_dropped = self.0.lock().unwrap_or_else(PoisonError::into_inner).end_line();
    }

    /// Goes on with the next call of the same instance: what was written before belongs to
    /// the last one.
    pub(super) fn begin(&self, log: &Arc<GuestLog>) {
        let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _counted_if_dropped = stream.end_line();
        if let Some(tail) = &mut stream.tail {
            tail.clear();
        }
        stream.log = log.clone();
    }

    fn push(&self, bytes: &[u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
    }
}

impl Stream {
    fn push(&mut self, bytes: &[u8]) {
        self.remember(bytes);
        if !self.log.is_on(Level::INFO) {
            return;
        }
        let mut rest = bytes;
        let mut looked_at = 0;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, after) = rest.split_at(end);
            self.append(line);
            rest = after.get(1..).unwrap_or_default();
            looked_at += 1;
            if !self.end_line() || looked_at == MOST_AT_ONCE {
                // What comes in the same breath is too much as well.
                self.log.drop_lines(ends(rest));
                let last = rest.iter().rposition(|byte| *byte == b'\n');
                rest = rest.get(last.map_or(0, |at| at.saturating_add(1))..).unwrap_or_default();
            }
        }
        self.append(rest);
    }

    fn append(&mut self, bytes: &[u8]) {
        let room = MAX_LINE.saturating_sub(self.line.len());
        let (kept, beyond) = bytes.split_at(room.min(bytes.len()));
        self.line.extend_from_slice(kept);
        self.beyond = self.beyond.saturating_add(beyond.len() as u64);
    }

    /// False if the line was dropped.
    fn end_line(&mut self) -> bool {
        let text = String::from_utf8_lossy(&self.line);
        // Both are `INFO`: most languages write every line of their logs to
        // standard error, whatever its level.
        let text = text.trim_end_matches('\r');
        let written = self.log.line(Level::INFO, self.name, text, self.beyond);
        self.line.clear();
        self.beyond = 0;
        written
    }

    fn remember(&mut self, bytes: &[u8]) {
        let Some(tail) = &mut self.tail else { return };
        let last = bytes.get(bytes.len().saturating_sub(TAIL)..).unwrap_or_default();
        if tail.len().saturating_add(last.len()) > 2 * TAIL {
            tail.drain(..tail.len().saturating_sub(TAIL.saturating_sub(last.len())));
        }
        tail.extend_from_slice(last);
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
    use crate::capabilities::CallFacts;
    use crate::message::Revoked;

    #[test]
    fn the_last_bytes_are_kept_however_they_come() {
        let facts = CallFacts {
            deadline: std::time::Instant::now(),
            revoked: Revoked::default(),
            reply_expected: true,
            attempt: 1,
            properties: Vec::new(),
            speaker: None,
        };
        let written: Vec<u8> = (0..50_000_u32).map(|at| b'a' + (at % 26) as u8).collect();
        for chunk in [1, 7, 100, TAIL - 1, TAIL, TAIL + 1, 3 * TAIL, written.len()] {
            let stderr = Stdio::stderr(Arc::new(GuestLog::new(facts.clone())));
            for bytes in written.chunks(chunk) {
                stderr.push(bytes);
                let held = stderr.0.lock().unwrap().tail.as_ref().unwrap().len();
                assert!(held <= 2 * TAIL, "{held} bytes");
            }
            assert_eq!(stderr.tail().as_bytes(), &written[written.len() - TAIL..], "{chunk}");
        }
    }
}
