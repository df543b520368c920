//! What the tests stand on: a broker, a host, guests, a client that keeps a
//! ledger.

pub mod asks;
pub mod balancers;
pub mod broker;
pub mod cluster;
pub mod cutter;
pub mod fake_broker;
pub mod guests;
pub mod haproxy;
pub mod host;
pub mod ledger;
pub mod load;
pub mod proxy;
pub mod raw;
pub mod secrecy;

use std::future::Future;
use std::time::{Duration, Instant};

/// Waits until `condition` holds, looking every few milliseconds.
///
/// # Panics
///
/// When it does not within `patience`; `what` says what was waited for.
pub async fn until<F, Fut>(what: &str, patience: Duration, mut condition: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let begun = Instant::now();
    while !condition().await {
        assert!(begun.elapsed() < patience, "waited {patience:?} in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A name that no other test uses.
pub fn unique(name: &str) -> String {
    format!("{name}-{:08x}", rand::random::<u32>())
}
