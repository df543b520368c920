//! Connecting: which broker, with what patience, over TLS or not.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};
use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties, ErrorKind};
use rand::Rng as _;

use super::filter;
use crate::config::{BrokerConfig, BrokerUrl, Strategy};

/// Waits between attempts grow from this …
const FIRST_WAIT: Duration = Duration::from_millis(50);

/// … to this, so that a broker that is back is found within a second or so.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// Why a session could not be opened. No text holds a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpenError {
    /// The broker said no: password, virtual host or permission. Trying again
    /// helps only after somebody has changed something there.
    Refused(String),
    /// The broker could not be reached, or was lost again. Worth another try.
    Unreachable(String),
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(text) | Self::Unreachable(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for OpenError {}

/// Opens connections to the configured brokers.
#[derive(Debug)]
pub struct Connector {
    urls: Vec<BrokerUrl>,
    strategy: Strategy,
    timeout: Duration,
    heartbeat: u16,
    tls: OwnedTLSConfig,
    name: String,
    next: AtomicUsize,
}

impl Connector {
    /// How long a refused host waits before it asks again: somebody has to act
    /// first, and a fleet must not hammer the broker meanwhile.
    pub const REFUSED_WAIT: Duration = Duration::from_secs(2);

    /// Reads the certificates. `name` is what the broker lists connections as.
    ///
    /// # Errors
    ///
    /// When a certificate or key cannot be read.
    pub fn new(config: &BrokerConfig, name: String) -> anyhow::Result<Self> {
        let read = |path: &std::path::Path| {
            std::fs::read(path).with_context(|| format!("failed to read `{}`", path.display()))
        };
        let cert_chain = match &config.tls.ca {
            None => None,
            Some(path) => Some(
                String::from_utf8(read(path)?)
                    .with_context(|| format!("`{}` is not in PEM format", path.display()))?,
            ),
        };
        let identity = match (&config.tls.cert, &config.tls.key) {
            (Some(cert), Some(key)) => {
                Some(OwnedIdentity::PKCS8 { pem: read(cert)?, key: read(key)? })
            }
            _ => None,
        };
        let heartbeat = u16::try_from(config.heartbeat.as_secs()).unwrap_or(u16::MAX).max(1);
        Ok(Self {
            urls: config.urls.clone(),
            strategy: config.strategy,
            timeout: config.connect_timeout,
            heartbeat,
            tls: OwnedTLSConfig { identity, cert_chain },
            name,
            next: AtomicUsize::new(0),
        })
    }

    /// Number of configured brokers.
    pub fn brokers(&self) -> usize {
        self.urls.len()
    }

    /// The broker whose turn it is.
    pub fn pick(&self) -> Option<&BrokerUrl> {
        let turn = match self.strategy {
            Strategy::RoundRobin => self.next.fetch_add(1, Ordering::Relaxed),
            Strategy::Random => rand::rng().random_range(0..self.urls.len().max(1)),
        };
        self.urls.get(turn.checked_rem(self.urls.len())?)
    }

    /// The time limit on each step of opening a session.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Opens one connection; `purpose` follows the connection's name.
    pub(super) async fn connect(
        &self,
        url: &BrokerUrl,
        purpose: &str,
    ) -> Result<Connection, OpenError> {
        let unreachable = |reason: String| OpenError::Unreachable(format!("`{url}`: {reason}"));
        let mut uri: AMQPUri = url.uri_with_credentials().parse().map_err(|_| {
            // The parser repeats what it was given, the password included.
            OpenError::Refused(format!("`{url}`: the AMQP library cannot read this URL"))
        })?;
        // The library's parser takes an IPv6 literal for no host at all.
        uri.authority.host = url.host().to_owned();
        uri.query.heartbeat.get_or_insert(self.heartbeat);
        let properties = ConnectionProperties::default()
            .with_connection_name(format!("{} {purpose}", self.name).into());
        let connecting = filter::connect(uri, properties, self.tls.clone());
        match tokio::time::timeout(self.timeout, connecting).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(explain(&error, url)),
            Err(_) => Err(unreachable(format!("no answer within {:?}", self.timeout))),
        }
    }

    /// How long to wait before attempt `attempt`, from 1: at once for the first
    /// round over all brokers, then longer and longer, with jitter so that a
    /// fleet does not come back in step.
    pub fn wait_before(&self, attempt: u32) -> Duration {
        let rounds =
            attempt.saturating_sub(1) / u32::try_from(self.urls.len()).unwrap_or(u32::MAX).max(1);
        if rounds == 0 {
            return Duration::ZERO;
        }
        let doubled = FIRST_WAIT.saturating_mul(1 << (rounds - 1).min(10));
        doubled.min(LONGEST_WAIT).mul_f64(rand::rng().random_range(0.5..=1.0))
    }
}

/// Tells a refusal from a broker that is not there.
pub(super) fn explain(error: &lapin::Error, url: &BrokerUrl) -> OpenError {
    let ErrorKind::ProtocolError(protocol) = error.kind() else {
        return OpenError::Unreachable(format!("`{url}`: {error}"));
    };
    let text = protocol.get_message().as_str();
    match protocol.kind() {
        AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => OpenError::Refused(format!(
            "the broker `{url}` refuses access, check the user, its password and its permissions: \
             {text}"
        )),
        AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) => OpenError::Refused(format!(
            "the broker `{url}` does not allow it, check the virtual host: {text}"
        )),
        AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED | AMQPSoftError::RESOURCELOCKED) => {
            OpenError::Refused(format!("the broker `{url}` refuses the queue: {text}"))
        }
        _ => OpenError::Unreachable(format!("`{url}`: {error}")),
    }
}
