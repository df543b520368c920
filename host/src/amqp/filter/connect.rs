//! Connections of lapin that have the filters in them.
//!
//! lapin takes its stream from whoever supplies one (`Connection::connector`),
//! of the type that its reactor names. So there is a reactor, tokio's with
//! another type of stream; everything else is tokio's own. Refuses to know
//! whether the stream is TLS: lapin's own code decides that by the URI.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio};
use futures_core::Stream;
use futures_io::{AsyncRead, AsyncWrite};
use lapin::tcp::{AMQPUriTcpExt as _, AsyncTcpStream, OwnedTLSConfig};
use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties};
use tokio_util::sync::CancellationToken;

use super::bypass::Bypass;
use super::pump::{self, ForLapin};

/// Connects as `Connection::connect_uri_with_config` does, on the current tokio
/// runtime, with everything that comes in made safe for lapin. Once `cut` is
/// cancelled the socket is closed, also while connecting.
///
/// # Errors
///
/// Those of lapin. When the broker sends what is not AMQP, the connection ends
/// with an I/O error of kind `InvalidData`, then or later.
///
/// # Panics
///
/// Outside of a tokio runtime, as lapin does.
pub(crate) async fn connect(
    uri: AMQPUri,
    properties: ConnectionProperties,
    tls: OwnedTLSConfig,
    cut: CancellationToken,
) -> lapin::Result<(Connection, Bypass)> {
    let tokio = Tokio::current();
    let bypass = Bypass::default();
    let filtering = Filtering(tokio.clone(), cut.clone(), bypass.clone());
    let filtering = Runtime::new(RuntimeParts::new(tokio.clone(), filtering));
    let plain = Runtime::new(tokio);
    let past = bypass.clone();
    let stream = async move |uri: AMQPUri, _| {
        // Some brokers, or what stands before them, accept a connection and then say nothing.
        let stream = tokio::select! {
            stream = uri.connect_with_config_async(tls.as_ref(), &plain) => stream?,
            () = cut.cancelled() => return Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        };
        Ok(AsyncTcpStream::Plain(pump::start(stream, past.clone(), cut.clone())))
    };
    Ok((Connection::connector(uri, filtering, stream, properties).await?, bypass))
}

/// tokio's reactor, but for the type of its streams.
#[derive(Debug, Clone)]
struct Filtering(Tokio, CancellationToken, Bypass);

impl Reactor for Filtering {
    type TcpStream = ForLapin;
    type Sleep = <Tokio as Reactor>::Sleep;

    /// Never called by lapin. The trait's own bound is private to its crate; on
    /// Unix this is the same.
    fn register<H: Read + Write + AsFd + AsRawFd + Send + 'static>(
        &self,
        socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        self.0.register(socket)
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(duration)
    }

    /// Never called by lapin either, because the stream is supplied.
    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        let Self(tokio, cut, bypass) = self.clone();
        async move { Ok(pump::start(tokio.tcp_connect_addr(address).await?, bypass, cut)) }
    }
}
