//! Moves the bytes of a connection: socket to lapin, lapin to socket, and in between the filters
//! and what goes past lapin.
//!
//! One task for each connection. Owns when bytes are read and written, and how many wait. Refuses
//! to know what they mean.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures_io::{AsyncRead, AsyncWrite};
use futures_util::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt as _};
use tokio_util::sync::CancellationToken;

use super::bypass::{Bypass, KEPT};
use super::inbound::{Broken, Inbound};
use super::outbound::Outbound;
use super::wire::{PROTOCOL_HEADER, PROTOCOL_HEADER_FIRST};

/// Bytes that are read or written in one go: a frame of the usual size.
const AT_ONCE: usize = 128 << 10;

/// Bytes that may wait on their way to lapin, or from it.
const PIPE: usize = 256 << 10;

/// While only others get what is read, lapin is told this often that the broker lives.
const SIGN_OF_LIFE: Duration = Duration::from_millis(250);

/// How long a broker that takes nothing more is listened to.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// An AMQP heartbeat.
const HEARTBEAT: [u8; 8] = [super::wire::HEARTBEAT, 0, 0, 0, 0, 0, 0, super::wire::FRAME_END];

/// lapin's end of the connection.
#[derive(Debug)]
pub(super) struct ForLapin {
    pipe: Compat<DuplexStream>,
    /// Why nothing more comes, where it is not that the broker has closed.
    ended: Arc<OnceLock<(io::ErrorKind, String)>>,
}

/// Moves the bytes of a socket from now on, in a task of the current runtime. Once `cut` is
/// cancelled the socket is closed, whatever waits.
pub(super) fn start<S>(socket: S, bypass: Bypass, cut: CancellationToken) -> ForLapin
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (theirs, mut ours) = tokio::io::duplex(PIPE);
    let ended = Arc::new(OnceLock::new());
    let tell = ended.clone();
    tokio::spawn(async move {
        let moved = tokio::select! {
            moved = run(socket, &mut ours, &bypass) => moved,
            () = cut.cancelled() => Err(io::ErrorKind::ConnectionAborted.into()),
        };
        let error = moved.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into());
        if error.kind() != io::ErrorKind::UnexpectedEof {
            let _first = tell.set((error.kind(), error.to_string()));
        }
        bypass.lost(&error.into());
        // Only now: lapin asks for the reason when nothing more comes.
        drop(ours);
    });
    ForLapin { pipe: theirs.compat(), ended }
}

/// Until one of the ends is closed.
async fn run<S: AsyncRead + AsyncWrite + Unpin>(
    socket: S,
    pipe: &mut DuplexStream,
    bypass: &Bypass,
) -> io::Result<()> {
    let (read, write) = socket.split();
    let (from_lapin, to_lapin) = tokio::io::split(pipe);
    let frame_max = AtomicU32::new(0);
    let reading = reading(read, to_lapin, bypass, &frame_max);
    tokio::pin!(reading);
    let written = tokio::select! {
        read = &mut reading => return read,
        written = writing(write, from_lapin, bypass, &frame_max) => written,
    };
    if written.is_err() {
        // It may have said why it takes no more.
        let _in_time = tokio::time::timeout(LAST_WORDS, reading).await;
    }
    written
}

async fn reading(
    mut socket: impl AsyncRead + Unpin,
    mut to_lapin: impl tokio::io::AsyncWrite + Unpin,
    bypass: &Bypass,
    frame_max: &AtomicU32,
) -> io::Result<()> {
    let mut inbound = Inbound::new();
    let mut buffer = vec![0; AT_ONCE];
    // Frames that lapin could take, the last of which may not be all there.
    let (mut safe, mut lapins) = (Vec::new(), Vec::new());
    let mut sign = Instant::now();
    loop {
        let count = socket.read(&mut buffer).await?;
        if count == 0 {
            return to_lapin.write_all(&safe).await;
        }
        match frame_max.load(Ordering::Relaxed) {
            0 => {}
            settled => inbound.set_frame_max(settled),
        }
        let read = buffer.get(..count).unwrap_or_default();
        let in_place = if safe.is_empty() {
            let (in_place, filtered) = inbound.filter(read, &mut safe);
            let read = read.get(..in_place).unwrap_or_default();
            let sorted = sort(bypass, read, &mut lapins);
            // What is behind it comes after it.
            safe.splice(..0, read.iter().skip(sorted).copied());
            filtered
        } else {
            inbound.filter(read, &mut safe).1
        };
        let sorted = sort(bypass, &safe, &mut lapins);
        safe.drain(..sorted);
        if lapins.is_empty() && sign.elapsed() >= SIGN_OF_LIFE {
            lapins.extend_from_slice(&HEARTBEAT);
        }
        if !lapins.is_empty() {
            sign = Instant::now();
            to_lapin.write_all(&lapins).await?;
            lapins.clear();
        }
        if let Err(Broken(text)) = in_place {
            to_lapin.write_all(&safe).await?;
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
    }
}

/// A broker that speaks another version says so without a frame, and hangs up.
fn sort(bypass: &Bypass, bytes: &[u8], to_lapin: &mut Vec<u8>) -> usize {
    if bytes.first() != Some(&PROTOCOL_HEADER_FIRST) {
        return bypass.sort(bytes, to_lapin);
    }
    if bytes.len() < PROTOCOL_HEADER {
        return 0;
    }
    to_lapin.extend_from_slice(bytes);
    bytes.len()
}

async fn writing(
    mut socket: impl AsyncWrite + Unpin,
    mut from_lapin: impl tokio::io::AsyncRead + Unpin,
    bypass: &Bypass,
    frame_max: &AtomicU32,
) -> io::Result<()> {
    let mut outbound = Outbound::default();
    let (mut lapins, mut out) = (Vec::with_capacity(AT_ONCE), Vec::new());
    loop {
        let mut closed = false;
        tokio::select! {
            biased;
            count = from_lapin.read_buf(&mut lapins) => closed = count? == 0,
            () = bypass.written() => {}
        }
        let taken = bypass.write_out(&lapins, &mut outbound, &mut out);
        lapins.drain(..taken);
        if let Some(settled) = outbound.settled_frame_max() {
            frame_max.store(settled, Ordering::Relaxed);
        }
        socket.write_all(&out).await?;
        socket.flush().await?;
        bypass.wrote();
        out.clear();
        out.shrink_to(KEPT);
        if closed {
            return socket.close().await;
        }
    }
}

impl AsyncRead for ForLapin {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.pipe).poll_read(cx, buf))?;
        Poll::Ready(match self.ended.get() {
            Some((kind, text)) if count == 0 && !buf.is_empty() => {
                Err(io::Error::new(*kind, text.clone()))
            }
            _ => Ok(count),
        })
    }
}

impl AsyncWrite for ForLapin {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.pipe).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_close(cx)
    }
}

#[cfg(test)]
mod tests;
