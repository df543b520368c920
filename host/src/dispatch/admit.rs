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

/// How long a call waits behind a full line at most, where the line is likely to have moved on by
/// then. Short calls of one caller come all at once; a refusal costs the caller more than that.
const BRIEFLY: Duration = Duration::from_millis(100);

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
    /// When a call was done last, if somebody has waited ever since.
    last: Option<Instant>,
    /// From one call that is done to the next, smoothed, and when that was seen.
    between: Option<(Duration, Instant)>,
    /// When the line began that waits, or waited last.
    since: Option<Instant>,
}

impl Pace {
    /// How much a new interval counts.
    const WEIGHT: u32 = 8;

    /// Notes that a call has left its slot, `done` or given up. What passes while
    /// nobody waits says nothing about how fast a line moves.
    fn left(&mut self, now: Instant, done: bool, somebody_waits: bool) {
        if done && let Some(last) = self.last {
            let between = now.saturating_duration_since(last);
            let smoothed = self.between.map_or(between, |(before, _)| {
                (before * (Self::WEIGHT - 1) + between) / Self::WEIGHT
            });
            self.between = Some((smoothed, now));
        }
        self.last = match (somebody_waits, done) {
            (false, _) => None,
            (true, true) => Some(now),
            (true, false) => self.last,
        };
    }

    /// Whether a line of this many is likely to have moved on within [`BRIEFLY`]: it did so lately,
    /// or has only begun.
    fn is_quick(&self, waiting: usize, now: Instant) -> bool {
        let waiting = u32::try_from(waiting).unwrap_or(u32::MAX);
        let seen = self.between.map(|(_, seen)| seen);
        let lately = [seen, self.since].into_iter().flatten().max();
        lately.is_some_and(|then| now.saturating_duration_since(then) <= BRIEFLY)
            && self.between.is_none_or(|(between, _)| between.saturating_mul(waiting) <= BRIEFLY)
    }

    /// Whether a call with this many before it, waiting or running, is likely to
    /// be done in time. Twice the average is allowed for: the line need only be
    /// long enough that it is never empty. Where all are refused nothing is
    /// learned any more, so what was seen counts for as long as a call may wait.
    fn in_time(&self, before: usize, now: Instant, left: Duration) -> bool {
        let Some((between, seen)) = self.between else { return true };
        let before = u32::try_from(before).unwrap_or(u32::MAX);
        let needed = between.saturating_mul(before).saturating_mul(2);
        needed <= left || now.saturating_duration_since(seen) > left
    }
}

/// The right to run one call, given back on drop.
#[derive(Debug)]
pub(super) struct Slot {
    lane: Arc<Lane>,
    done: bool,
    own: OwnedSemaphorePermit,
    shared: OwnedSemaphorePermit,
}

impl Slot {
    /// Whether there are others for calls of this plugin.
    pub(super) fn leaves_others(&self) -> bool {
        let left = |permit: &OwnedSemaphorePermit| permit.semaphore().available_permits() > 0;
        left(&self.own) && left(&self.shared)
    }

    fn new(lane: Arc<Lane>, own: OwnedSemaphorePermit, shared: OwnedSemaphorePermit) -> Self {
        Self { lane, done: false, own, shared }
    }

    /// Gives the slot back. A call that ran out of time has freed its slot, and
    /// many do so at the same time; the line is no faster for it.
    pub(super) fn give_back(mut self, in_time: bool) {
        self.done = in_time;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let somebody_waits = self.lane.waiting.load(Ordering::Relaxed) > 0;
        self.lane.pace().left(Instant::now(), self.done, somebody_waits);
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
            return Ok(Slot::new(lane, own, shared));
        }
        // Prefetch is twice the slots. A host with one plugin that has all of them
        // turns nothing away; else what one runs and has in line leaves a
        // part of the window to the others. Those beyond it are answered at
        // once, so that nobody's calls have to queue behind them, unless the line is likely to
        // move on. Out of a queue of its own comes no more than is prefetched there.
        let ahead = lane.waiting.fetch_add(1, Ordering::Relaxed);
        let _in_line = InLine(&lane.waiting);
        let now = Instant::now();
        if ahead == 0 {
            lane.pace().since = Some(now);
        }
        let beyond = ahead >= self.total && line != Line::OwnQueue;
        if beyond && !lane.pace().is_quick(ahead, now) {
            return Err(Refused::Full(ahead));
        }
        // A call that would end too late takes the time of one that would not.
        if let Some(deadline) = deadline {
            let left = deadline.saturating_duration_since(now);
            let before = ahead.saturating_add(lane.limit);
            if !lane.pace().in_time(before, now, left) {
                return Err(Refused::TooLate(ahead));
            }
        }
        let slot = async {
            let own = lane.free.clone().acquire_owned().await;
            let shared = self.free.clone().acquire_owned().await;
            match (own, shared) {
                (Ok(own), Ok(shared)) => Ok(Slot::new(lane.clone(), own, shared)),
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
        let patience = async {
            match beyond {
                true => tokio::time::sleep(BRIEFLY).await,
                false => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = stopping.cancelled() => Err(Refused::Stopping),
            slot = slot => slot,
            () = late => Err(Refused::Late),
            () = patience => Err(Refused::Full(ahead)),
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
        let at = |ms| begun + MS * ms;
        assert!(pace.in_time(1_000, begun, MS), "nothing is known yet");
        for nth in 0..100 {
            pace.left(at(10 * nth), true, true);
        }
        assert!(pace.in_time(50, at(990), MS * 1_000));
        assert!(!pace.in_time(51, at(990), MS * 1_000));
        // Time-outs are no sign that it moves.
        pace.left(at(995), false, true);
        assert!(!pace.in_time(51, at(995), MS * 1_000));
        // Then nobody waits for a minute: that is no pace.
        pace.left(at(1_000), false, false);
        pace.left(at(61_000), true, true);
        assert!(pace.in_time(50, at(1_000), MS * 1_000));
        for nth in 1..100 {
            pace.left(at(61_000 + nth), true, true);
        }
        assert!(pace.in_time(450, at(61_100), MS * 1_000), "it has become faster");
    }

    #[test]
    fn a_full_line_that_moves_on_is_waited_for_and_no_other() {
        let begun = Instant::now();
        let at = |us| begun + Duration::from_micros(us);
        let mut pace = Pace { since: Some(begun), ..Pace::default() };
        assert!(pace.is_quick(64, begun + BRIEFLY), "it has only begun");
        assert!(!pace.is_quick(64, begun + BRIEFLY + MS), "it should have moved by then");
        for nth in 0..100 {
            pace.left(at(100 * nth), true, true);
        }
        assert!(pace.is_quick(64, at(10_000)));
        assert!(!pace.is_quick(64, at(10_000) + BRIEFLY + MS), "it does not move any more");
        pace.since = Some(begun + MS * 60_000);
        assert!(pace.is_quick(64, begun + MS * 60_000), "another has only begun");
        for nth in 0..100 {
            pace.left(begun + MS * (60_000 + 10 * nth), true, true);
        }
        assert!(!pace.is_quick(64, begun + MS * 60_990), "64 take longer than that");
    }

    #[test]
    fn what_was_seen_long_ago_refuses_nobody() {
        let mut pace = Pace::default();
        let begun = Instant::now();
        let at = |ms| begun + MS * ms;
        // One at a time, and a slow one that somebody waited for.
        pace.left(at(0), true, true);
        pace.left(at(6_000), true, false);
        assert!(!pace.in_time(1, at(6_001), MS * 10_000));
        assert!(pace.in_time(1, at(16_001), MS * 10_000), "nothing was learned since");
    }
}
