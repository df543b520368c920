//! Queues that refuse a reply (`reject-publish`): how long each is asked again.
//!
//! A queue is full for a moment, or without a leader for a while, and then takes it. One whose
//! owner is gone stays full, and must not keep the requests of others waiting: once it has refused
//! for the whole time, it is asked for a second or so, until it takes something.

use std::time::Duration;

use bytes::Bytes;
use moka::sync::Cache;

use crate::dispatch::PublishError;
use crate::message::Reply;

/// How often a reply is offered, with waits from 50 ms to 3.2 s: for about 29 s in all, which is
/// longer than a cluster takes for another leader.
const OFFERS: u32 = 15;

/// The same for a queue that is known to stay full: for 1.5 s.
const FEW_OFFERS: u32 = 6;

/// How long that is known.
const REMEMBERED: Duration = Duration::from_secs(60);

/// Of how many queues.
const QUEUES: u64 = 1_000;

/// The queues that have refused for the whole time.
#[derive(Debug)]
pub(super) struct Refusals(Cache<Bytes, ()>);

impl Default for Refusals {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(QUEUES).time_to_live(REMEMBERED).build())
    }
}

impl Refusals {
    /// Waits before a reply is offered again that was refused `offers` times.
    ///
    /// # Errors
    ///
    /// When that was often enough.
    pub(super) async fn wait(&self, reply: &Reply, offers: u32) -> Result<(), PublishError> {
        if self.enough(&reply.routing_key, offers) {
            return Err(PublishError::Undeliverable);
        }
        tokio::time::sleep(Duration::from_millis(50 << offers.saturating_sub(1).min(6))).await;
        Ok(())
    }

    fn enough(&self, queue: &Bytes, offers: u32) -> bool {
        let most = if self.0.contains_key(queue) { FEW_OFFERS } else { OFFERS };
        if offers < most {
            return false;
        }
        self.0.insert(queue.clone(), ());
        true
    }

    /// A queue has taken a reply that it had refused `offers` times before.
    pub(super) fn over(&self, reply: &Reply, offers: u32) {
        if offers > 0 {
            self.0.invalidate(&reply.routing_key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_that_stays_full_is_asked_less_often_until_it_takes_something() {
        let refusals = Refusals::default();
        let (full, other) = (Bytes::from("full"), Bytes::from("other"));
        assert!((1..OFFERS).all(|offers| !refusals.enough(&full, offers)));
        assert!(refusals.enough(&full, OFFERS));
        assert!(refusals.enough(&full, FEW_OFFERS));
        assert!(!refusals.enough(&other, FEW_OFFERS));
        refusals.0.invalidate(&full);
        assert!(!refusals.enough(&full, FEW_OFFERS));
    }
}
