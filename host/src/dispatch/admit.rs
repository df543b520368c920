//! Who may run now, who waits, who is turned away.
//!
//! A slot is taken before an instance exists and given back after it is gone,
//! so the slots held are the instances alive. Each plugin has a line of its
//! own: a slow one fills its line, not another's, and never takes every slot
//! from the others.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::plugins::Plugin;

/// Most lanes kept of plugins that are not served any more.
const MAX_LANES: usize = 10_000;

/// Why a call did not get a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// This many calls wait already, as many as may.
    Full(usize),
    /// Its deadline came first.
    Late,
    /// The host stops.
    Stopping,
}

/// All slots of the host.
#[derive(Debug)]
pub(super) struct Slots {
    free: Arc<Semaphore>,
    total: usize,
    lanes: Mutex<HashMap<Arc<str>, Arc<Lane>>>,
}

/// One plugin's share: its own slots and its line.
#[derive(Debug)]
struct Lane {
    limit: usize,
    free: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// The right to run one call, given back on drop.
#[derive(Debug)]
pub(super) struct Slot {
    _own: OwnedSemaphorePermit,
    _shared: OwnedSemaphorePermit,
}

/// Counts a waiting call for as long as it waits.
struct InLine<'a>(&'a AtomicUsize);

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Slots {
    pub(super) fn new(total: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(total)), total, lanes: Mutex::default() }
    }

    /// Waits for a slot for a call of `plugin`, in that plugin's line.
    /// `several` is whether other plugins have calls of their own.
    pub(super) async fn admit(
        &self,
        plugin: &Plugin,
        several: bool,
        deadline: Option<Instant>,
        stopping: &CancellationToken,
    ) -> Result<Slot, Refused> {
        if stopping.is_cancelled() {
            return Err(Refused::Stopping);
        }
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(Refused::Late);
        }
        let lane = self.lane(plugin, several);
        if let (Ok(own), Ok(shared)) =
            (lane.free.clone().try_acquire_owned(), self.free.clone().try_acquire_owned())
        {
            return Ok(Slot { _own: own, _shared: shared });
        }
        // Prefetch is twice the slots. A host with one plugin turns nothing
        // away; with several, what one of them runs and has in line leaves a
        // part of the window to the others. Those beyond it are answered at
        // once, so that nobody's calls have to queue behind them.
        let ahead = lane.waiting.fetch_add(1, Ordering::Relaxed);
        let _in_line = InLine(&lane.waiting);
        if ahead >= self.total {
            return Err(Refused::Full(ahead));
        }
        let slot = async {
            let own = lane.free.clone().acquire_owned().await;
            let shared = self.free.clone().acquire_owned().await;
            match (own, shared) {
                (Ok(own), Ok(shared)) => Ok(Slot { _own: own, _shared: shared }),
                // Nobody closes the semaphores.
                _ => Err(Refused::Stopping),
            }
        };
        let late = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = stopping.cancelled() => Err(Refused::Stopping),
            slot = slot => slot,
            () = late => Err(Refused::Late),
        }
    }

    fn lane(&self, plugin: &Plugin, several: bool) -> Arc<Lane> {
        // Half of the slots is always there for other plugins.
        let most = if several { self.total.div_ceil(2) } else { self.total };
        let limit = plugin.max_concurrency().unwrap_or(most).min(most);
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        match lanes.get(&plugin.id().name) {
            Some(lane) if lane.limit == limit => lane.clone(),
            // New, or there is another limit; what runs keeps its old slots.
            _ => {
                if lanes.len() >= MAX_LANES {
                    lanes.retain(|_, lane| Arc::strong_count(lane) > 1);
                }
                let lane = Arc::new(Lane {
                    limit,
                    free: Arc::new(Semaphore::new(limit)),
                    waiting: AtomicUsize::new(0),
                });
                lanes.insert(plugin.id().name.clone(), lane.clone());
                lane
            }
        }
    }
}
