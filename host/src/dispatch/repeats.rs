//! Recent outcomes, for plugins that ask: a redelivered request whose outcome
//! is still known is answered without running again.
//!
//! Covers the most common cause of redelivery, a reconnect of this same host.
//! Another host, or this one after a restart, knows nothing and runs it.

use std::time::Duration;

use moka::sync::Cache;
use sha2::{Digest as _, Sha256};

use crate::message::{Answered, Delivery};

/// How long an outcome is kept: a broker that is back after a minute has more
/// to catch up with than repeats.
const KEEP: Duration = Duration::from_secs(60);

/// Bytes of all outcomes kept. The oldest go first.
const CAPACITY: u64 = 64 * 1024 * 1024;

/// Bytes counted for an entry beside its body and headers.
const OVERHEAD: usize = 512;

/// What makes a request the same one. The user is part of it: nobody can read
/// another's answer by guessing ids.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    queue: String,
    message_id: String,
    user_id: Option<String>,
    /// Which call of a batch.
    nth: usize,
    method: String,
    body: [u8; 32],
}

impl Key {
    /// The key of a delivery's call number `nth`, to `method`; `None` where the
    /// sender gave it no `message_id`.
    pub(super) fn of(delivery: &Delivery, nth: usize, method: &str) -> Option<Self> {
        let message_id = delivery.properties.message_id.clone().filter(|id| !id.is_empty())?;
        Some(Self {
            queue: delivery.queue.to_string(),
            message_id,
            user_id: delivery.properties.user_id.clone(),
            nth,
            method: method.to_owned(),
            body: Sha256::digest(&delivery.body).into(),
        })
    }
}

/// The bounded store.
#[derive(Debug)]
pub(super) struct Repeats(Cache<Key, Answered>);

impl Repeats {
    pub(super) fn new() -> Self {
        let cache = Cache::builder()
            .max_capacity(CAPACITY)
            .weigher(|key: &Key, answered: &Answered| weight(key, answered))
            .time_to_live(KEEP)
            .build();
        Self(cache)
    }

    pub(super) fn remember(&self, key: Key, answered: &Answered) {
        self.0.insert(key, answered.clone());
    }

    pub(super) fn recall(&self, key: &Key) -> Option<Answered> {
        self.0.get(key)
    }
}

fn weight(key: &Key, answered: &Answered) -> u32 {
    let outcome = match &answered.outcome {
        Ok(value) => {
            let headers = value.headers.iter().map(|(name, value)| name.len() + value.len());
            value.body.len() + headers.sum::<usize>()
        }
        Err(error) => error.message.len() + error.data.as_ref().map_or(0, String::len),
    };
    let key = key.message_id.len() + key.method.len();
    u32::try_from(outcome + key + OVERHEAD).unwrap_or(u32::MAX)
}
