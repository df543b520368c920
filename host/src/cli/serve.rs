//! `rpchost serve`: the product.

use std::process::ExitCode;

use clap::ArgMatches;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::level_filters::LevelFilter;
use tracing::{Metadata, info, warn};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::{USAGE, environment, output};
use crate::config::{Config, LogConfig, LogFormat, Profile, ServeArgs, resolve};
use crate::dispatch::Watcher;
use crate::plugins::RescanHandle;
use crate::serve::{Host, LaneCommand, Ready, ServeError, Signals};

/// Failed while running, or refused by the broker at start.
const FAILED: u8 = 1;

pub(super) fn run(args: &ServeArgs, matches: &ArgMatches) -> ExitCode {
    let config = match resolve(args, matches, Profile::Serve, &environment) {
        Ok(config) => config,
        Err(problems) => {
            output::error_line(&problems.to_string());
            return ExitCode::from(USAGE);
        }
    };
    start_logging(&config.log);
    for warning in &config.warnings {
        warn!("{warning}");
    }
    // A lane reads what this host has read: flags, variables and file.
    let lane = LaneCommand::itself(std::env::args_os().skip(2).collect());
    let say = |ready: &Ready| output::line(&ready.to_string());
    let serving = async { serve(config, lane, None, say).await };
    exit_code(super::runtime().map_err(ServeError::Failed).and_then(|runtime| {
        let served = runtime.block_on(serving);
        // A thread that compiles must not keep a stopped host alive.
        runtime.shutdown_background();
        served
    }))
}

/// Loads, serves and listens to signals until the host is stopped.
pub(super) async fn serve(
    config: Config,
    lane: LaneCommand,
    watcher: Option<Watcher>,
    ready: impl FnMut(&Ready),
) -> Result<(), ServeError> {
    let signals = stop_signals().map_err(ServeError::Failed)?;
    let stop = signals.stop.clone();
    // From now on SIGHUP does not end the process, also while plugins load.
    let hangup = signal(SignalKind::hangup()).map_err(|error| ServeError::Failed(error.into()))?;
    let host = tokio::select! {
        host = Host::prepare(config) => host?.with_lane(lane),
        () = stop.cancelled() => return Ok(()),
    };
    let host = match watcher {
        Some(watcher) => host.with_watcher(watcher),
        None => host,
    };
    rescan_on(hangup, host.rescan_handle());
    host.run(signals, ready).await
}

/// Says what went wrong, in a sentence, and how the process ends.
pub(super) fn exit_code(served: Result<(), ServeError>) -> ExitCode {
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(ServeError::Configuration(error)) => {
            output::error(format_args!("{error:#}"));
            ExitCode::from(USAGE)
        }
        Err(ServeError::Failed(error)) => {
            output::error(format_args!("{error:#}"));
            ExitCode::from(FAILED)
        }
    }
}

/// Logs go to standard error, coloured on a terminal only.
pub(super) fn start_logging(log: &LogConfig) {
    use std::io::IsTerminal as _;
    // The libraries below report as errors what is handled here, and said here.
    let quiet = ["lapin", "rustls_platform_verifier"]
        .into_iter()
        .filter(|library| !log.level.contains(library))
        .map(|library| format!(",{library}=off"));
    let directives = log.level.clone() + &quiet.collect::<String>();
    let filter = EnvFilter::builder().parse_lossy(directives);
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // Said on standard error too: where nobody takes it, that is a panic.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal());
    // Not as directives: a more exact one of the operator's would win.
    let discreet = filter_fn(is_discreet);
    match log.format {
        LogFormat::Text => logs.with_target(false).finish().with(discreet).init(),
        LogFormat::Json => {
            logs.json().with_span_list(false).finish().with(discreet).init();
        }
    }
}

/// Libraries that show what they send and receive, byte for byte, the password among it,
/// each with the most that may be asked of it.
const INDISCREET: [(&str, LevelFilter); 3] = [
    ("lapin", LevelFilter::DEBUG),
    ("amq_protocol", LevelFilter::DEBUG),
    ("ureq_proto", LevelFilter::OFF),
];

/// Whether a line may be written, whatever the operator asks for.
fn is_discreet(line: &Metadata<'_>) -> bool {
    INDISCREET
        .iter()
        .find(|(library, _)| line.target().starts_with(library))
        .is_none_or(|(_, most)| line.level() <= most)
}

/// The first SIGTERM or Ctrl-C drains, the second ends at once.
pub(super) fn stop_signals() -> anyhow::Result<Signals> {
    let signals = Signals::default();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let told = signals.clone();
    tokio::spawn(async move {
        for token in [told.stop, told.quit] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            token.cancel();
        }
    });
    Ok(signals)
}

fn rescan_on(mut hangup: Signal, rescan: RescanHandle) {
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            info!("looking at the plugin directory, as asked");
            rescan.rescan();
        }
    });
}
