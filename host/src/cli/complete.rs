//! What a shell completes: commands and flags, and the methods of the host that answers.
//!
//! `source <(COMPLETE=bash rpchost)` has a shell ask this program, which then asks the broker that
//! variables and `rpchost.toml` name. A flag on the line is not known here.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use clap::{ArgMatches, CommandFactory as _};
use clap_complete::CompleteEnv;
use clap_complete::engine::CompletionCandidate;

use super::Cli;
use super::methods::{DESCRIBE, Described};
use crate::amqp::{Caller, Outgoing};
use crate::client::{self, Answer, CallDialect};

/// How long a person waits for a name, connecting included.
const PATIENCE: Duration = Duration::from_secs(2);

/// Answers a shell that asks, and ends the process then.
pub(super) fn answer() {
    CompleteEnv::with_factory(Cli::command).complete();
}

/// Names of methods that begin so. None when nobody tells: a shell has no use for errors.
pub(super) fn method(begun: &OsStr) -> Vec<CompletionCandidate> {
    let begun = begun.to_string_lossy();
    let Some(described) = described() else { return Vec::new() };
    let names = described.names().filter(|name| name.starts_with(&*begun));
    names.map(CompletionCandidate::new).collect()
}

fn described() -> Option<Described> {
    let (config, connector) = super::quiet_client(&[], None, &ArgMatches::default()).ok()?;
    let dialect = CallDialect::Plain;
    let queue = config.called(dialect.into(), DESCRIBE, None).ok()?.queue;
    let params = client::params_of(&[]).ok()?;
    let request = client::encode(dialect, Some(DESCRIBE), params, "").ok()?;
    let outgoing = Outgoing {
        queue,
        kind: request.kind,
        content_type: request.content_type,
        headers: request.headers,
        body: request.body,
        timeout: PATIENCE,
        ..Outgoing::default()
    };
    let asking = async {
        let caller = Caller::connect(&Arc::new(connector)).await.ok()?;
        let answered = caller.call(&outgoing).await;
        caller.close().await;
        answered.ok()
    };
    let runtime = super::runtime().ok()?;
    let answered = runtime.block_on(async { tokio::time::timeout(PATIENCE, asking).await });
    runtime.shutdown_background();
    let (properties, body) = answered.ok()??;
    match client::decode(dialect, &properties, body) {
        Answer::Result(body) => Described::read(&body),
        Answer::Error(_) => None,
    }
}
