//! Connecting: which broker, with what patience, over TLS or not.

use std::ops::Deref;
use std::time::Duration;

use anyhow::Context as _;
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};
use lapin::uri::AMQPUri;
use lapin::{Channel, Connection, ConnectionProperties, ErrorKind};
use rand::Rng as _;
use tokio_util::sync::CancellationToken;

use super::filter;
use super::management::Management;
use super::strategy::Turns;
use crate::config::{Broker, BrokerConfig, BrokerUrl, ManagementUrl, Strategy};

/// Waits between attempts grow from this …
const FIRST_WAIT: Duration = Duration::from_millis(50);

/// … to this, so that a broker that is back is found within a second or so.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// How long the broker may take to confirm a message. RabbitMQ 3.10 can forget one that was
/// published while the queue had no leader; it would be waited for until the host ends.
const CONFIRM: Duration = Duration::from_secs(30);

/// A connection that ends when it is let go.
///
/// lapin itself closes one that nobody holds any more. But it is held by what was asked for and
/// given up: a consumer that comes too late is kept with its channel, nobody reads it, and the
/// requests that the broker has given it are answered by nobody. So the socket is closed, and the
/// broker gives them to others. Who has something to finish closes in order before.
#[derive(Debug)]
pub(super) struct Connected {
    connection: Connection,
    bypass: filter::Bypass,
    cut: CancellationToken,
    /// No channel could be had.
    worn: CancellationToken,
}

/// How long a confirm was waited for.
#[derive(Debug, Default)]
pub(super) struct Patience(Duration);

impl Patience {
    /// How often it is looked whether it ends.
    pub(super) const LOOK: Duration = Duration::from_secs(1);

    /// One more [`LOOK`](Self::LOOK) is over. While the broker has publishing blocked no confirm
    /// can come, and trying again would only make more of the same message.
    pub(super) fn ends(&mut self, blocked: bool) -> bool {
        self.0 = if blocked { Duration::ZERO } else { self.0 + Self::LOOK };
        self.0 >= CONFIRM
    }
}

impl Connected {
    /// For what goes past lapin.
    pub(super) fn bypass(&self) -> &filter::Bypass {
        &self.bypass
    }

    /// The largest frame, in bytes.
    pub(super) fn frame_max(&self) -> usize {
        match self.connection.configuration().frame_max() {
            // No limit; ours is RabbitMQ's own.
            0 => 131_072,
            most => usize::try_from(most).unwrap_or(usize::MAX),
        }
    }

    /// A new channel, for as long as there is one.
    ///
    /// lapin never again uses the number of a channel that the broker has closed, as over each look
    /// at a queue that is not there: when its turn comes, it returns the error of then. There are
    /// about 2,000 numbers.
    pub(super) async fn create_channel(&self) -> lapin::Result<Channel> {
        let created = self.connection.create_channel().await;
        if created.is_err() {
            self.worn.cancel();
        }
        created
    }

    /// Resolves once a channel could not be had: others cannot either, then or soon.
    pub(super) async fn worn_out(&self) {
        self.worn.cancelled().await;
    }

    /// Closes the socket, whoever else still holds the connection.
    pub(super) fn cut(&self) {
        self.cut.cancel();
    }

    /// Resolves when a confirm is overdue that is waited for from now on.
    pub(super) async fn overdue(&self) {
        let mut waited = Patience::default();
        loop {
            tokio::time::sleep(Patience::LOOK).await;
            if waited.ends(self.connection.status().blocked()) {
                return;
            }
        }
    }
}

impl Deref for Connected {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.cut();
    }
}

/// What ends the wait for a confirm.
pub(super) fn no_confirm() -> lapin::Error {
    let text = format!("no confirm within {CONFIRM:?}");
    std::io::Error::new(std::io::ErrorKind::TimedOut, text).into()
}

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
    brokers: Vec<Broker>,
    turns: Turns,
    /// There if the strategy asks.
    management: Option<Management>,
    timeout: Duration,
    heartbeat: u16,
    tls: OwnedTLSConfig,
    name: String,
}

impl Connector {
    /// How long a refused host waits before it asks again: somebody has to act
    /// first, and a fleet must not hammer the broker meanwhile.
    pub const REFUSED_WAIT: Duration = Duration::from_secs(2);

    /// Reads the certificates and this machine's name. `name` is what the broker lists connections
    /// as.
    ///
    /// # Errors
    ///
    /// When a certificate or key cannot be read, or the machine's name when the strategy needs it.
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
        let brokers = &config.brokers;
        let asks = config.strategy == Strategy::LeastConnections && brokers.len() > 1;
        let management =
            asks.then(|| Management::new(brokers, cert_chain.as_deref())).transpose()?;
        let host = match config.strategy {
            Strategy::SourceHash => hostname::get()
                .context("the strategy `source-hash` needs the name of this machine")?,
            _ => std::ffi::OsString::new(),
        };
        let names: Vec<String> = brokers.iter().map(|broker| broker.url.address()).collect();
        let weights = brokers.iter().map(|broker| broker.weight);
        let turns = Turns::new(
            config.strategy,
            &host.to_string_lossy(),
            names.iter().map(String::as_str).zip(weights),
        );
        let heartbeat = u16::try_from(config.heartbeat.as_secs()).unwrap_or(u16::MAX).max(1);
        Ok(Self {
            brokers: brokers.clone(),
            turns,
            management,
            timeout: config.connect_timeout,
            heartbeat,
            tls: OwnedTLSConfig { identity, cert_chain },
            name,
        })
    }

    /// Number of configured brokers.
    pub fn brokers(&self) -> usize {
        self.brokers.len()
    }

    /// The broker for attempt `attempt` of a search that counts from 1. A search begins as the
    /// strategy says, where that is `least-connections` after a look at the numbers; each further
    /// attempt goes to another broker, until all have had their turn.
    pub async fn broker_for(&self, attempt: u32) -> Option<&BrokerUrl> {
        if attempt <= 1 {
            self.turns.begin();
        }
        if let Some(management) = &self.management
            && self.turns.at_begin_of_round()
        {
            self.turns.note_connections(&management.connections().await);
        }
        Some(&self.brokers.get(self.turns.next()?)?.url)
    }

    /// The management API of a configured broker, if it has one that may be asked.
    pub(super) fn management_of(&self, url: &BrokerUrl) -> Option<&ManagementUrl> {
        self.brokers.iter().find(|broker| broker.url == *url)?.management.as_ref()
    }

    /// Certificates to trust, in PEM, where they are not those of the system.
    pub(super) fn ca(&self) -> Option<&str> {
        self.tls.cert_chain.as_deref()
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
    ) -> Result<Connected, OpenError> {
        let mut uri: AMQPUri = url.uri_with_credentials().parse().map_err(|_| {
            // The parser repeats what it was given, the password included.
            OpenError::Refused(format!("`{url}`: the AMQP library cannot read this URL"))
        })?;
        // The library's parser takes an IPv6 literal for no host at all.
        uri.authority.host = url.host().to_owned();
        uri.query.heartbeat.get_or_insert(self.heartbeat);
        let properties = ConnectionProperties::default()
            .with_connection_name(format!("{} {purpose}", self.name).into());
        let cut = CancellationToken::new();
        // A frozen broker takes connections, and the library would wait for it.
        let given_up = cut.clone().drop_guard();
        let connecting = filter::connect(uri, properties, self.tls.clone(), cut.clone());
        let (connection, bypass) = within(self.timeout, url, connecting).await?;
        given_up.disarm();
        Ok(Connected { connection, bypass, cut, worn: CancellationToken::new() })
    }

    /// How long to wait before attempt `attempt`, from 1: at once for the first
    /// round over all brokers, then longer and longer, with jitter so that a
    /// fleet does not come back in step.
    pub fn wait_before(&self, attempt: u32) -> Duration {
        let brokers = u32::try_from(self.brokers()).unwrap_or(u32::MAX).max(1);
        let rounds = attempt.saturating_sub(1) / brokers;
        if rounds == 0 {
            return Duration::ZERO;
        }
        let doubled = FIRST_WAIT.saturating_mul(1 << (rounds - 1).min(10));
        doubled.min(LONGEST_WAIT).mul_f64(rand::rng().random_range(0.5..=1.0))
    }
}

/// One step of opening something, within the time limit of all steps.
pub(super) async fn within<T>(
    timeout: Duration,
    url: &BrokerUrl,
    step: impl Future<Output = lapin::Result<T>>,
) -> Result<T, OpenError> {
    match tokio::time::timeout(timeout, step).await {
        Ok(done) => done.map_err(|error| explain(&error, url)),
        Err(_) => Err(OpenError::Unreachable(format!("`{url}`: no answer within {timeout:?}"))),
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
