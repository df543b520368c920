//! What commands have that work on a file of this machine, and know no broker.

use crate::config::Config;
use crate::plugins::{Engine, Helper};
use crate::state_dir::{Claim, StateDir};
use crate::telemetry::Telemetry;

/// An engine for one call at a time. What it compiles is kept where hosts of the same user keep
/// it, so that the next command, or a host, has the component at once; where there is no such
/// place, or it is one host's alone, that is done without.
pub(super) fn engine(config: &Config) -> anyhow::Result<Engine> {
    let state = match config.state_dir_named {
        true => None,
        false => StateDir::open(&config.state_dir, Claim::Shared).ok(),
    };
    Engine::with_helper(1, Helper::itself(), state.as_ref(), Telemetry::new()?)
}
