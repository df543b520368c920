//! Who may run now, who waits, who is turned away.
//!
//! A slot is taken before an instance exists and given back after it is gone,
//! so the slots held are the instances alive. Each plugin has a line of its
//! own: a slow one fills its line, not another's, and never takes every slot
//! from the others.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::plugins::Plugin;

/// How long a plugin may admit nobody before those beyond its line are turned
/// away. A quick plugin's burst is worked off long before; a slow plugin's
/// would fill the prefetch window, and nobody else's calls would come through.
const STALLED: Duration = Duration::from_millis(200);

/// Most lanes kept of plugins that are not served any more.
const MAX_LANES: usize = 10_000;

/// Why a call did not get a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// This many calls wait already, and none of them is getting on.
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
    last_admitted: Mutex<Instant>,
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
            return Ok(lane.admitted(own, shared));
        }
        // Prefetch is twice the slots. What one plugin runs and has in line
        // stays below that where there are others.
        let line = if several { self.total.div_ceil(2) } else { self.total };
        let ahead = lane.waiting.fetch_add(1, Ordering::Relaxed);
        let _in_line = InLine(&lane.waiting);
        let slot = async {
            let own = lane.free.clone().acquire_owned().await;
            let shared = self.free.clone().acquire_owned().await;
            match (own, shared) {
                (Ok(own), Ok(shared)) => Ok(lane.admitted(own, shared)),
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
        let turned_away = async {
            if ahead < line {
                std::future::pending::<()>().await;
            }
            loop {
                let stalled_at = lane.last_admitted() + STALLED;
                if stalled_at <= Instant::now() {
                    return;
                }
                tokio::time::sleep_until(stalled_at.into()).await;
            }
        };
        tokio::select! {
            biased;
            () = stopping.cancelled() => Err(Refused::Stopping),
            slot = slot => slot,
            () = late => Err(Refused::Late),
            () = turned_away => Err(Refused::Full(ahead)),
        }
    }

    fn lane(&self, plugin: &Plugin, several: bool) -> Arc<Lane> {
        // A quarter of the slots is always there for other plugins.
        let most = if several { self.total - self.total / 4 } else { self.total };
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
                    last_admitted: Mutex::new(Instant::now()),
                });
                lanes.insert(plugin.id().name.clone(), lane.clone());
                lane
            }
        }
    }
}

impl Lane {
    fn admitted(&self, own: OwnedSemaphorePermit, shared: OwnedSemaphorePermit) -> Slot {
        *self.last_admitted.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        Slot { _own: own, _shared: shared }
    }

    fn last_admitted(&self) -> Instant {
        *self.last_admitted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
