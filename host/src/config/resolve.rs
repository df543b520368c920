//! Flags, environment, file and defaults made into one [`Config`].
//!
//! One line per key: its name, how it is read, its default. Refuses to know forms (`values`,
//! `units`), ranges (`bounds`) and where a value stands (`layers`).

use std::num::NonZero;
use std::path::{Path, PathBuf};

use clap::ArgMatches;

use super::args::ServeArgs;
use super::brokers::brokers;
use super::layers::Layers;
use super::listeners::listeners;
use super::problem::Problems;
use super::units::{count, duration, size, size_text, whole_seconds};
use super::written::{Raw, Written};
use super::{
    Broker, BrokerConfig, Config, DEFAULT_ADMIN, DEFAULT_CALL_TIMEOUT, DEFAULT_CONNECT_ATTEMPTS,
    DEFAULT_CONNECT_TIMEOUT, DEFAULT_DRAIN_TIMEOUT, DEFAULT_HEARTBEAT, DEFAULT_IN_FLIGHT_PER_CORE,
    DEFAULT_LOG_LEVEL, DEFAULT_MAX_BODY, DEFAULT_MAX_HEADERS, DEFAULT_MEMORY_LIMIT,
    DEFAULT_PLUGINS, Environment, Limits, LogConfig, ManagementUrl, Profile, TlsConfig, bounds,
    values,
};

/// Bytes of prefetched bodies above which an operator who set their number or size is warned: a
/// common size of the whole machine or container. 4 GiB.
const MUCH_HELD: u64 = 4 << 30;

/// Makes the configuration of one run.
///
/// `matches` are those of the very command that `args` was made of (for `serve`, the subcommand's):
/// they tell a flag from a variable. `environment` answers for every variable, `RPCHOST_` ones
/// included.
///
/// Reads the configuration file and the password file, and looks a host name in `--admin` up. The
/// plugin directory and the state directory are not looked at.
///
/// # Errors
/// All that is wrong, at once. Exit code 2.
pub fn resolve(
    args: &ServeArgs,
    matches: &ArgMatches,
    profile: Profile,
    environment: Environment<'_>,
) -> Result<Config, Problems> {
    let mut layers = Layers::open(args, matches, environment);
    let (mut of_broker, mut warnings) = (Vec::new(), Vec::new());
    let mut config = Config {
        broker: broker(&mut layers, args, environment, &mut of_broker),
        listeners: listeners(&mut layers, args, profile, &mut warnings),
        plugins: layers
            .one("plugins", &args.plugins, path)
            .unwrap_or_else(|| DEFAULT_PLUGINS.into()),
        limits: limits(&mut layers, args, &mut warnings),
        reply_to_allow: layers
            .many("reply-to-allow", &args.reply_to_allow, |raw| values::short_string(raw.text()?))
            .map(|(_, patterns)| patterns)
            .unwrap_or_default(),
        drain_timeout: layers
            .one("drain-timeout", &args.drain_timeout, |raw| {
                duration(raw.measure()?, &bounds::DRAIN_TIMEOUT)
            })
            .unwrap_or(DEFAULT_DRAIN_TIMEOUT),
        state_dir_named: layers.find("state-dir", args.state_dir.as_slice()).is_some(),
        state_dir: state_dir(&mut layers, args, environment),
        admin: layers
            .one("admin", &args.admin, |raw| values::admin(raw.text()?))
            .unwrap_or(Some(DEFAULT_ADMIN)),
        log: LogConfig {
            level: layers
                .one("log-level", &args.log_level, |raw| values::log_level(raw.text()?))
                .unwrap_or_else(|| DEFAULT_LOG_LEVEL.to_owned()),
            format: layers
                .one("log-format", &args.log_format, |raw| values::log_format(raw.text()?))
                .unwrap_or_default(),
        },
        warnings,
    };
    warn_of_memory(&mut config);
    if profile == Profile::Client {
        config.warnings.clear();
    }
    config.warnings.append(&mut of_broker);
    layers.problems.unless_any(config)
}

fn broker(
    layers: &mut Layers<'_>,
    args: &ServeArgs,
    environment: Environment<'_>,
    warnings: &mut Vec<String>,
) -> BrokerConfig {
    let strategy = layers
        .one("strategy", &args.strategy, |raw| values::strategy(raw.text()?))
        .unwrap_or_default();
    let brokers = brokers(layers, args, environment, strategy, warnings);
    BrokerConfig {
        tls: tls(layers, args, &brokers, warnings),
        brokers,
        strategy,
        connect_timeout: layers
            .one("connect-timeout", &args.connect_timeout, |raw| {
                duration(raw.measure()?, &bounds::CONNECT_TIMEOUT)
            })
            .unwrap_or(DEFAULT_CONNECT_TIMEOUT),
        connect_attempts: layers
            .one("connect-attempts", &args.connect_attempts, |raw| {
                count(raw.number()?, &bounds::CONNECT_ATTEMPTS)
            })
            .unwrap_or(DEFAULT_CONNECT_ATTEMPTS),
        heartbeat: layers
            .one("heartbeat", &args.heartbeat, |raw| {
                whole_seconds(raw.measure()?, &bounds::HEARTBEAT)
            })
            .unwrap_or(DEFAULT_HEARTBEAT),
    }
}

fn tls(
    layers: &mut Layers<'_>,
    args: &ServeArgs,
    brokers: &[Broker],
    warnings: &mut Vec<String>,
) -> TlsConfig {
    let ca = layers.find("tls-ca", args.tls_ca.as_slice());
    let cert = layers.find("tls-cert", args.tls_cert.as_slice());
    let key = layers.find("tls-key", args.tls_key.as_slice());
    match (&cert, &key) {
        (Some(cert), None) => {
            layers.problems.add(cert.origin.clone(), "needs the private key too; add `tls-key`")
        }
        (None, Some(key)) => {
            layers.problems.add(key.origin.clone(), "needs the certificate too; add `tls-cert`")
        }
        _ => {}
    }
    let uses_tls = |broker: &Broker| {
        broker.url.is_tls() || broker.management.as_ref().is_some_and(ManagementUrl::is_tls)
    };
    if [&ca, &cert, &key].into_iter().any(Option::is_some) && !brokers.iter().any(uses_tls) {
        warnings
            .push("the TLS files are not used: no broker URL begins with `amqps://`".to_owned());
    }
    let mut file = |written: Option<Written>| {
        written?.one(&mut layers.problems, |raw| values::readable_file(raw.text()?))
    };
    TlsConfig { ca: file(ca), cert: file(cert), key: file(key) }
}

fn limits(layers: &mut Layers<'_>, args: &ServeArgs, warnings: &mut Vec<String>) -> Limits {
    let in_flight = layers.one("max-in-flight", &args.max_in_flight, |raw| {
        count(raw.number()?, &bounds::MAX_IN_FLIGHT)
    });
    let body =
        layers.one("max-body", &args.max_body, |raw| size(raw.measure()?, &bounds::MAX_BODY));
    let memory = layers
        .one("memory-limit", &args.memory_limit, |raw| size(raw.measure()?, &bounds::MEMORY_LIMIT))
        .unwrap_or(DEFAULT_MEMORY_LIMIT);

    let max_in_flight = in_flight.unwrap_or_else(default_in_flight);
    let prefetch = u16::try_from(max_in_flight.saturating_mul(2)).unwrap_or(u16::MAX);
    let max_body = body.unwrap_or(DEFAULT_MAX_BODY);
    let held = u64::from(prefetch).saturating_mul(max_body);
    // On eight cores the defaults alone are above this; a warning is for who chose, or it is one
    // that all learn to skip.
    if held > MUCH_HELD && (in_flight.is_some() || body.is_some()) {
        warnings.push(format!(
            "{prefetch} prefetched messages of `{}` are up to `{}` of memory; lower \
             `max-in-flight` or `max-body`",
            size_text(max_body),
            size_text(held),
        ));
    }
    if max_body >= memory {
        warnings.push(format!(
            "a body of `{}` (`max-body`) does not fit into the memory of a call, `{}` \
             (`memory-limit`)",
            size_text(max_body),
            size_text(memory),
        ));
    }
    Limits {
        max_in_flight: usize::try_from(max_in_flight).unwrap_or(usize::MAX),
        prefetch,
        call_timeout: layers
            .one("call-timeout", &args.call_timeout, |raw| {
                duration(raw.measure()?, &bounds::CALL_TIMEOUT)
            })
            .unwrap_or(DEFAULT_CALL_TIMEOUT),
        memory,
        max_body,
        max_headers: layers
            .one("max-headers", &args.max_headers, |raw| count(raw.number()?, &bounds::MAX_HEADERS))
            .map_or(DEFAULT_MAX_HEADERS, |headers| usize::try_from(headers).unwrap_or(usize::MAX)),
    }
}

/// Each listener has a window of its own; a single one by the host's limits was looked at with them.
fn warn_of_memory(config: &mut Config) {
    let Limits { prefetch, max_body, .. } = config.limits;
    let windows = config.listeners.iter().map(|listener| listener.prefetch.unwrap_or(prefetch));
    let window: u64 = windows.map(u64::from).sum();
    let held = window.saturating_mul(max_body);
    let chosen = config.listeners.iter().any(|listener| listener.prefetch.is_some());
    if held > MUCH_HELD && chosen {
        config.warnings.push(format!(
            "{window} messages of `{}`, prefetched by the listeners, are up to `{}` of memory; lower \
             their `prefetch` or `max-body`",
            size_text(max_body),
            size_text(held),
        ));
    }
}

/// 32 per core this process may use (affinity and control groups count), within what the prefetch
/// allows.
fn default_in_flight() -> u32 {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let calls = u32::try_from(cores).unwrap_or(u32::MAX).saturating_mul(DEFAULT_IN_FLIGHT_PER_CORE);
    calls.min(bounds::MAX_IN_FLIGHT.most)
}

/// `$XDG_STATE_HOME/rpchost`, else `~/.local/state/rpchost` (XDG Base Directory Specification; it
/// says to ignore a relative path).
fn state_dir(layers: &mut Layers<'_>, args: &ServeArgs, environment: Environment<'_>) -> PathBuf {
    if layers.find("state-dir", args.state_dir.as_slice()).is_some() {
        return layers.one("state-dir", &args.state_dir, path).unwrap_or_default();
    }
    let absolute =
        |name: &str| environment(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        // A service without a home; where the Filesystem Hierarchy Standard puts its state.
        .unwrap_or_else(|| PathBuf::from("/var/lib"))
        .join("rpchost")
}

fn path(raw: &Raw) -> Result<PathBuf, String> {
    raw.text().map(|text| Path::new(text).to_owned())
}
