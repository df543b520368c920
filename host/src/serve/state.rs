//! What a host keeps, and does without where it cannot.

use std::sync::Arc;

use tracing::warn;

use super::ServeError;
use crate::amqp::Role;
use crate::config::Config;
use crate::journal::Journal;
use crate::state_dir::{Claim, StateDir, Unusable};

/// Takes the state directory. What is kept there can be done without, so only
/// one that was named and is another host's ends the start.
pub(super) fn directory(config: &Config, role: Role) -> Result<Option<StateDir>, ServeError> {
    let path = config.state_dir.display();
    let claim = match role {
        Role::Lane => Claim::Lent,
        Role::Host if config.state_dir_named => Claim::Alone,
        Role::Host => Claim::Shared,
    };
    let reason = match StateDir::open(&config.state_dir, claim) {
        Ok(state) => return Ok(Some(state)),
        Err(Unusable::InUse) if config.state_dir_named => {
            return Err(ServeError::Configuration(anyhow::anyhow!(
                "the state directory `{path}` is another running host's; give each host its own \
                 with `--state-dir`"
            )));
        }
        Err(Unusable::InUse) => anyhow::anyhow!("it is another running host's alone"),
        Err(Unusable::Unfit(error)) => error,
    };
    warn!(
        "compiled plugins are not kept, every start compiles them again, and there is no crash \
         journal: the state directory `{path}` cannot be used: {reason:#}"
    );
    Ok(None)
}

/// Begins the crash journal. Without it a host knows less of what has killed
/// others, and is no worse otherwise.
pub(super) fn journal(state: &StateDir, calls: usize) -> Option<Arc<Journal>> {
    match Journal::open(state, calls) {
        Ok(journal) => Some(Arc::new(journal)),
        Err(error) => {
            warn!(
                "there is no crash journal, so that a request that kills hosts is told only by \
                 the broker's count: {error:#}"
            );
            None
        }
    }
}
