//! What commands have that work on a file of this machine, and know no broker.

use crate::config::Config;
use crate::plugins::{Engine, Helper};
use crate::state_dir::{Claim, StateDir};
use crate::telemetry::Telemetry;

/// An engine for one call at a time. What it compiles is kept where hosts of the same user keep
/// it, so that the next command, or a host, has the component at once; where there is no such
/// place, or it is one host's alone, that is done without.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) engine: Engine,
    /// Its lock says that the directory is in use for as long as the engine is.
    _state: Option<StateDir>,
}

impl Local {
    /// With what is kept where the configuration says.
    ///
    /// # Errors
    ///
    /// When the system does not give what an engine needs.
    pub(super) fn open(config: &Config) -> anyhow::Result<Self> {
        let state = match config.state_dir_named {
            true => None,
            false => StateDir::open(&config.state_dir, Claim::Shared).ok(),
        };
        let engine = Engine::with_helper(1, Helper::itself(), state.as_ref(), Telemetry::new()?)?;
        Ok(Self { engine, _state: state })
    }

    /// With nothing kept: for who has no configuration.
    ///
    /// # Errors
    ///
    /// As of `open`.
    pub(super) fn without_state() -> anyhow::Result<Self> {
        Ok(Self { engine: Engine::new(1)?, _state: None })
    }
}

#[cfg(test)]
mod tests {
    use clap::ArgMatches;

    use super::*;
    use crate::config::{Profile, ServeArgs, resolve};
    use crate::state_dir::Unusable;

    #[test]
    fn the_directory_is_in_use_for_as_long_as_the_engine() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().display().to_string();
        let environment = |name: &str| (name == "XDG_STATE_HOME").then(|| home.clone());
        let config =
            resolve(&ServeArgs::default(), &ArgMatches::default(), Profile::Serve, &environment)
                .unwrap();
        let local = Local::open(&config).unwrap();
        let alone = || StateDir::open(&config.state_dir, Claim::Alone);
        assert!(matches!(alone(), Err(Unusable::InUse)));
        drop(local);
        assert!(alone().is_ok());
    }
}
