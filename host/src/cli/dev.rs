//! `rpchost dev`: a private broker and a host on one machine, for who writes handlers.

mod calls;
mod rebuild;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgMatches, Args};

use self::rebuild::Rebuilds;
use super::{USAGE, environment, output};
use crate::config::{BrokerUrl, Config, Profile, ServeArgs, resolve};
use crate::dispatch::Watcher;
use crate::private_broker::PrivateBroker;
use crate::serve::{Host, LaneCommand, Ready, ServeError};

/// Arguments of `dev`.
#[derive(Debug, Args)]
pub(super) struct DevArgs {
    /// Projects of handlers, built now and whenever a file of theirs changes
    #[arg(value_name = "PROJECT")]
    projects: Vec<PathBuf>,

    #[command(flatten)]
    serve: ServeArgs,
}

pub(super) fn run(args: &DevArgs, matches: &ArgMatches) -> ExitCode {
    if args.serve.amqp_url.iter().any(|url| !url.is_empty()) {
        output::error(
            "`dev` starts a broker of its own; to use another one, run `rpchost serve --amqp-url …`",
        );
        return ExitCode::from(USAGE);
    }
    let mut config = match resolve(&args.serve, matches, Profile::Dev, &environment) {
        Ok(config) => config,
        Err(problems) => {
            output::error_line(&problems.to_string());
            return ExitCode::from(USAGE);
        }
    };
    if args.serve.admin.is_none() {
        // Several of these may run at once, beside a real host.
        config.admin = config.admin.map(|address| (address.ip(), 0).into());
    }
    if args.serve.log_level.is_none() {
        // What guests print is what their authors want to see.
        "info,guest=debug".clone_into(&mut config.log.level);
    }
    super::serve::start_logging(&config.log);
    super::serve::exit_code(first_builds(&args.projects, &config).and_then(|rebuilds| {
        let runtime = super::runtime().map_err(ServeError::Failed)?;
        let served = runtime.block_on(dev(config, rebuilds));
        runtime.shutdown_background();
        served
    }))
}

/// Builds projects for the first time, before the seconds that a broker takes to start.
fn first_builds(projects: &[PathBuf], config: &Config) -> Result<Rebuilds, ServeError> {
    Host::check(config)?;
    let first = Rebuilds::first(projects, config);
    first.map_err(ServeError::Configuration)
}

async fn dev(mut config: Config, rebuilds: Rebuilds) -> Result<(), ServeError> {
    output::line("starting a private broker …");
    let started = tokio::select! {
        started = PrivateBroker::start() => started,
        interrupted = tokio::signal::ctrl_c() => {
            return interrupted.map_err(|error| ServeError::Failed(error.into()));
        }
    };
    let broker = started.map_err(ServeError::Failed)?;
    let url = broker.amqp_url();
    let parsed = BrokerUrl::parse(&url)
        .map_err(|error| ServeError::Failed(anyhow::anyhow!("the broker's URL: {error}")))?;
    config.broker.brokers = vec![parsed.into()];
    let plugins = config.plugins.display().to_string();
    let mut lane = LaneCommand::itself(std::env::args_os().skip(2).collect());
    lane.variables = vec![("RPCHOST_AMQP_URL".to_owned(), url.clone())];
    let ctl = broker.ctl_script().display().to_string();
    let welcome = |ready: &Ready| welcome(ready, &url, &ctl, &plugins);
    let (watcher, calls) = Watcher::new();
    let aside = tokio::spawn(async { tokio::join!(rebuilds.keep(), calls::show(calls)) });
    let served = super::serve::serve(config, lane, Some(watcher), welcome).await;
    aside.abort();
    let removed = broker.remove().await.map_err(ServeError::Failed);
    served.and(removed)
}

fn welcome(ready: &Ready, url: &str, ctl: &str, directory: &str) {
    let names: Vec<&str> = ready.plugins.iter().map(|name| &**name).collect();
    let plugins = if names.is_empty() {
        format!("{directory} (empty: put a .wasm file there)")
    } else {
        format!("{directory} ({})", names.join(", "))
    };
    output::line("");
    output::line(&format!("  broker    {url}"));
    output::line(&format!("  queue     {}", ready.queue));
    output::line(&format!("  plugins   {plugins}"));
    if let Some(address) = ready.admin {
        output::line(&format!("  metrics   http://{address}/metrics"));
    }
    output::line("");
    let method = names.first().copied().unwrap_or("METHOD");
    output::line(&format!("  call it   rpchost call {method} ARG --amqp-url {url}"));
    output::line(&format!("  watch it  rpchost trace --ctl {ctl} --amqp-url {url}"));
    output::line("  stop it   Ctrl-C; the broker and its queues go with it");
    output::line("");
    output::line(&ready.to_string());
}
