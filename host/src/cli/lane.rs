//! `rpchost suspect-lane`: a process of a host that runs suspects, see
//! `serve::LaneCommand`.

use std::process::ExitCode;

use clap::ArgMatches;
use tokio::io::AsyncReadExt as _;
use tokio::signal::unix::{SignalKind, signal};

use super::{USAGE, environment, output};
use crate::config::{Profile, ServeArgs, resolve};
use crate::serve::{Host, ServeError};

pub(super) fn run(args: &ServeArgs, matches: &ArgMatches) -> ExitCode {
    let config = match resolve(args, matches, Profile::Serve, &environment) {
        Ok(config) => config,
        Err(problems) => {
            output::error_line(&problems.to_string());
            return ExitCode::from(USAGE);
        }
    };
    super::serve::start_logging(&config.log);
    super::serve::exit_code(super::runtime().map_err(ServeError::Failed).and_then(|runtime| {
        let served = runtime.block_on(async {
            let signals = super::serve::stop_signals().map_err(ServeError::Failed)?;
            // That is for the host, which ends its lane itself.
            let _hangup = signal(SignalKind::hangup()).map_err(|error| {
                ServeError::Failed(anyhow::Error::from(error).context("SIGHUP"))
            })?;
            let stop = signals.stop.clone();
            tokio::spawn(async move {
                // Nothing is ever written there: it ends when the host does.
                let _ended = tokio::io::stdin().read_u8().await;
                stop.cancel();
            });
            Host::prepare_lane(config).await?.run(signals, |_| {}).await
        });
        runtime.shutdown_background();
        served
    }))
}
