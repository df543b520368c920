//! Flags, environment, file and defaults, made into one [`Config`] that is whole and possible, or
//! into a list of everything that is wrong.
//!
//! This file owns what a configuration *is*: plain data with units, and the defaults with their
//! reasons. How values are typed stands in `args`, where each comes from in `layers`, what it may
//! be in `bounds` and `values`, and all keys together in `resolve`. Nothing here knows what is done
//! with a value. Relative paths are those of the working directory, wherever they were written.

mod args;
mod bounds;
mod broker_url;
mod brokers;
mod callers;
mod file;
mod layers;
mod listener;
mod listeners;
mod management_url;
mod plugin;
mod problem;
mod project;
mod resolve;
#[cfg(test)]
mod tests;
mod units;
mod usual;
mod values;
mod written;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::time::Duration;

pub use args::ServeArgs;
pub use broker_url::BrokerUrl;
pub use brokers::PASSWORD_IN_FLAG;
pub use callers::{Called, queue_name};
pub use listener::{
    Exchange, ExchangeKind, Listener, METHOD, PLUGIN, Per, RANDOM_END, ServedQueue,
};
pub use management_url::ManagementUrl;
pub use plugin::{Instances, OnRedelivery, PluginConfig, PluginKind};
pub use problem::{Origin, Problem, Problems};
pub use project::{
    Case, CaseInput, Expected, Language, MAX_CASE_TEXT, MAX_CASES, PROJECT_FILE, ProjectConfig,
    Recipe,
};
pub use resolve::resolve;

/// A way to look a variable up; for the process's own, `&|name| std::env::var(name).ok()`.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// File read from the working directory when `--config` names none, if it is there.
pub const DEFAULT_CONFIG: &str = "rpchost.toml";
/// A TCP connection and AMQP's handshake take milliseconds; a frozen broker accepts and never
/// answers, and another address should get its turn while callers still wait.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Equal shares: who gives no weights wants none.
pub const DEFAULT_WEIGHT: u32 = 1;
/// 0, for ever: a broker that restarts must find its host again without a person.
pub const DEFAULT_CONNECT_ATTEMPTS: u32 = 0;
/// A frozen broker is noticed after twice this, within the default call timeout. RabbitMQ advises 5
/// s to 20 s.
pub const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(10);
/// The queue's name in RabbitMQ's own RPC tutorial, so that its clients find us.
pub const DEFAULT_QUEUE: &str = "rpc_queue";
/// The drop folder beside where the host is started.
pub const DEFAULT_PLUGINS: &str = "plugins";
/// Calls per core: handlers wait now and then, and more than this only makes each of them slower.
pub const DEFAULT_IN_FLIGHT_PER_CORE: u32 = 32;
/// Callers of RPC usually give up after 10 s to 30 s; far below RabbitMQ's 30 min.
pub const DEFAULT_CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// 64 MiB, in bytes: a language runtime, the largest body and its decoded form.
pub const DEFAULT_MEMORY_LIMIT: u64 = 64 << 20;
/// 16 MiB, in bytes: what RabbitMQ 4 takes by default (`max_message_size`).
pub const DEFAULT_MAX_BODY: u64 = 16 << 20;
/// Tracing and client libraries set a dozen; ten times that is somebody's mistake.
pub const DEFAULT_MAX_HEADERS: usize = 128;
/// Below the 30 s that Kubernetes waits between SIGTERM and SIGKILL, with time left to give back
/// and close.
pub const DEFAULT_DRAIN_TIMEOUT: Duration = Duration::from_secs(25);
/// Loopback, since it asks no one for a password.
pub const DEFAULT_ADMIN: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 7070));
/// What is worth a line per event, and no line per message.
pub const DEFAULT_LOG_LEVEL: &str = "info";

/// On whose behalf a configuration is made; decides the defaults that differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// `serve`: a queue it creates is `quorum`, so that requests survive a node.
    Serve,
    /// `dev`: a queue it creates is `classic`; there is one node, and it is thrown away.
    Dev,
    /// Whoever calls or looks: as for `serve`, but what warns of serving alone is not said.
    Client,
}

/// Everything a host was told, or left to the defaults. An `Option` is there only where "none" is a
/// choice.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where the requests come from.
    pub broker: BrokerConfig,
    /// The ways in; at least one.
    pub listeners: Vec<Listener>,
    /// Directory of the plugins. Not known to exist.
    pub plugins: PathBuf,
    /// What calls and messages may use.
    pub limits: Limits,
    /// Patterns of reply addresses to answer, at most 255 bytes each; with none, any but the queues
    /// consumed here.
    pub reply_to_allow: Vec<String>,
    /// How long running calls are waited for when asked to stop; 0 gives them back at once.
    pub drain_timeout: Duration,
    /// Directory of the compile cache. Not known to exist.
    pub state_dir: PathBuf,
    /// Whether that was named: then it is this host's alone. The default is shared by all hosts of
    /// a user, so that several can be started without a thought.
    pub state_dir_named: bool,
    /// Where to serve health and metrics; none is `off`. Port 0 asks the system for a free one.
    pub admin: Option<SocketAddr>,
    /// What is written to stderr.
    pub log: LogConfig,
    /// Sentences to say once at start: possible, but likely not what was meant.
    pub warnings: Vec<String>,
}

/// The brokers and the connection to one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerConfig {
    /// Those that have the queue, in the order given; at least one.
    pub brokers: Vec<Broker>,
    /// The order in which they are tried.
    pub strategy: Strategy,
    /// Longest wait for one attempt: TCP, TLS and AMQP's handshake together.
    pub connect_timeout: Duration,
    /// Attempts before giving up; 0 is for ever.
    pub connect_attempts: u32,
    /// AMQP heartbeat, whole seconds, never 0.
    pub heartbeat: Duration,
    /// Files for `amqps` URLs.
    pub tls: TlsConfig,
}

/// One of the brokers that may be connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    /// Where it is and who we are there.
    pub url: BrokerUrl,
    /// Its share, for the strategies that use weights: 1 to 1000.
    pub weight: u32,
    /// Its management API, if it has one that may be asked; with credentials.
    pub management: Option<ManagementUrl>,
}

/// A broker of which nothing but the address was said.
impl From<BrokerUrl> for Broker {
    fn from(url: BrokerUrl) -> Self {
        Self { url, weight: DEFAULT_WEIGHT, management: None }
    }
}

/// Files in PEM, all readable when the configuration was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// Certificates to trust; none means those of the system.
    pub ca: Option<PathBuf>,
    /// Client certificate; there if and only if `key` is.
    pub cert: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
}

/// The order in which several brokers are tried. Whatever it is, each is tried once before one is
/// tried again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// One after the other, going on after the last that worked.
    #[default]
    RoundRobin,
    /// The same, with turns in proportion to the weights.
    WeightedRoundRobin,
    /// Any, each time anew; spreads many hosts over several brokers.
    Random,
    /// The same, with chances in proportion to the weights.
    WeightedRandom,
    /// An order that depends on the names of this machine and of the brokers, and on the weights:
    /// always the same.
    SourceHash,
    /// The one with the fewest connections first, by its management API.
    LeastConnections,
}

impl Strategy {
    /// All of them, in the order of the documentation.
    pub(crate) const ALL: [Self; 6] = [
        Self::RoundRobin,
        Self::WeightedRoundRobin,
        Self::Random,
        Self::WeightedRandom,
        Self::SourceHash,
        Self::LeastConnections,
    ];

    /// As it is typed.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round-robin",
            Self::WeightedRoundRobin => "weighted-round-robin",
            Self::Random => "random",
            Self::WeightedRandom => "weighted-random",
            Self::SourceHash => "source-hash",
            Self::LeastConnections => "least-connections",
        }
    }

    /// Whether a broker's weight makes a difference.
    #[must_use]
    pub fn uses_weights(self) -> bool {
        matches!(self, Self::WeightedRoundRobin | Self::WeightedRandom | Self::SourceHash)
    }
}

/// As it is typed.
impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The queue that requests are consumed from. All but the name matters only if it has to be
/// created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueConfig {
    /// 1 to 247 bytes, so that `<queue>.suspect` is a name too.
    pub name: String,
    /// What to create.
    pub kind: QueueKind,
    /// Further arguments, each key once; an `x-queue-type` among them says the same as `kind`.
    pub args: Vec<(String, ArgValue)>,
}

/// What kind of queue to create.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueKind {
    /// Durable and replicated.
    Quorum,
    /// Durable, on one node.
    Classic,
    /// Classic and not durable: gone when the broker restarts.
    Transient,
}

impl QueueKind {
    /// The value of the argument `x-queue-type`.
    #[must_use]
    pub fn amqp_name(self) -> &'static str {
        match self {
            Self::Quorum => "quorum",
            Self::Classic | Self::Transient => "classic",
        }
    }
}

/// As it is typed.
impl fmt::Display for QueueKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Transient { "transient" } else { self.amqp_name() })
    }
}

/// Value of a queue argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArgValue {
    /// Anything that reads as a whole number of 64 bits.
    Int(i64),
    /// `true` or `false`.
    Bool(bool),
    /// Anything else.
    Text(String),
}

/// As it is typed.
impl fmt::Display for ArgValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(value) => value.fmt(f),
            Self::Bool(value) => value.fmt(f),
            Self::Text(value) => f.write_str(value),
        }
    }
}

/// What calls and messages may use. All numbers are above 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Calls running at once.
    pub max_in_flight: usize,
    /// Messages asked of the broker ahead of their acks: twice `max_in_flight`, so that a free slot
    /// finds work.
    pub prefetch: u16,
    /// Longest run of a call whose plugin and message say nothing; below 30 min.
    pub call_timeout: Duration,
    /// Most memory of a running call whose plugin says nothing, in bytes.
    pub memory: u64,
    /// Largest body of a request and of a reply, in bytes.
    pub max_body: u64,
    /// Most headers of a request and of a reply.
    pub max_headers: usize,
}

/// What is written to stderr.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// A level in lower case, or directives that `tracing_subscriber::EnvFilter` reads.
    pub level: String,
    /// The form of a line.
    pub format: LogFormat,
}

/// The form of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for machines.
    Json,
}
