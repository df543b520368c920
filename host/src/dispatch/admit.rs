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

/// Most lanes kept of plugins that are not served any more.
const MAX_LANES: usize = 10_000;

/// Why a call did not get a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// This many calls wait already, as many as may.
    Full(usize),
    /// So many are before it that it would not be done by its deadline.
    TooLate(usize),
    /// Its deadline came first.
    Late,
    /// The host stops.
    Stopping,
}

/// Whom a call shares its way here with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    /// Nobody: there is one plugin.
    Only,
    /// Calls of other plugins, which came out of the same queue.
    OneOfSeveral,
    /// Its plugin has a queue of its own, where what is too much has to wait.
    OwnQueue,
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
    pace: Mutex<Pace>,
}

/// How fast a line moves.
#[derive(Debug, Default)]
struct Pace {
    /// When a call was done last, if somebody has waited since.
    last: Option<Instant>,
    /// From one call that is done to the next, smoothed; zero at first.
    between: Duration,
}

impl Pace {
    /// How much a new interval counts.
    const WEIGHT: u32 = 8;

    /// Notes that a call is done. What passes while nobody waits says nothing
    /// about how fast a line moves.
    fn done(&mut self, now: Instant, somebody_waits: bool) {
        if let Some(last) = self.last {
            let between = now.saturating_duration_since(last);
            self.between = if self.between.is_zero() {
                between
            } else {
                (self.between * (Self::WEIGHT - 1) + between) / Self::WEIGHT
            };
        }
        self.last = somebody_waits.then_some(now);
    }

    /// Whether a call with this many before it, waiting or running, is likely to
    /// be done in time. Twice the average is allowed for: the line need only be
    /// long enough that it is never empty.
    fn in_time(&self, before: usize, left: Duration) -> bool {
        let before = u32::try_from(before).unwrap_or(u32::MAX);
        let needed = self.between.saturating_mul(before);
        needed.saturating_mul(2) <= left
    }
}

/// The right to run one call, given back on drop.
#[derive(Debug)]
pub(super) struct Slot {
    lane: Arc<Lane>,
    _own: OwnedSemaphorePermit,
    _shared: OwnedSemaphorePermit,
}

impl Slot {
    /// Gives the slot back. A call that ran out of time has freed its slot, and
    /// many do so at the same time; the line is no faster for it.
    pub(super) fn give_back(self, in_time: bool) {
        if in_time {
            let somebody_waits = self.lane.waiting.load(Ordering::Relaxed) > 0;
            self.lane.pace().done(Instant::now(), somebody_waits);
        }
    }
}

impl Lane {
    fn pace(&self) -> std::sync::MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
    pub(super) async fn admit(
        &self,
        plugin: &Plugin,
        line: Line,
        deadline: Option<Instant>,
        stopping: &CancellationToken,
    ) -> Result<Slot, Refused> {
        if stopping.is_cancelled() {
            return Err(Refused::Stopping);
        }
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(Refused::Late);
        }
        let lane = self.lane(plugin, line != Line::Only);
        if let (Ok(own), Ok(shared)) =
            (lane.free.clone().try_acquire_owned(), self.free.clone().try_acquire_owned())
        {
            return Ok(Slot { lane, _own: own, _shared: shared });
        }
        // Prefetch is twice the slots. A host with one plugin turns nothing
        // away; with several, what one of them runs and has in line leaves a
        // part of the window to the others. Those beyond it are answered at
        // once, so that nobody's calls have to queue behind them. Out of a queue of
        // its own comes no more than is prefetched there.
        let ahead = lane.waiting.fetch_add(1, Ordering::Relaxed);
        let _in_line = InLine(&lane.waiting);
        if ahead >= self.total && line != Line::OwnQueue {
            return Err(Refused::Full(ahead));
        }
        // A call that would end too late takes the time of one that would not.
        if let Some(deadline) = deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            let before = ahead.saturating_add(lane.limit);
            if !lane.pace().in_time(before, left) {
                return Err(Refused::TooLate(ahead));
            }
        }
        let slot = async {
            let own = lane.free.clone().acquire_owned().await;
            let shared = self.free.clone().acquire_owned().await;
            match (own, shared) {
                (Ok(own), Ok(shared)) => {
                    Ok(Slot { lane: lane.clone(), _own: own, _shared: shared })
                }
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
                    pace: Mutex::default(),
                });
                lanes.insert(plugin.id().name.clone(), lane.clone());
                lane
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_line_that_moves_too_slowly_for_a_deadline_is_known() {
        let mut pace = Pace::default();
        let begun = Instant::now();
        assert!(pace.in_time(1_000, MS), "nothing is known yet");
        for nth in 0..100 {
            pace.done(begun + MS * 10 * nth, true);
        }
        assert!(pace.in_time(50, MS * 1_000));
        assert!(!pace.in_time(51, MS * 1_000));
        // Then nobody waits for a minute: that is no pace.
        pace.done(begun + MS * 1_000, false);
        pace.done(begun + MS * 61_000, true);
        assert!(pace.in_time(50, MS * 1_000));
        for nth in 1..100 {
            pace.done(begun + MS * 61_000 + MS * nth, true);
        }
        assert!(pace.in_time(450, MS * 1_000), "it has become faster");
    }
}
