//! The ticks by which guests are interrupted.
//!
//! A thread of its own advances the epoch of the engines every millisecond, not the async runtime:
//! a busy one must still be interrupted. It rests while no guest runs, so that an idle host costs
//! next to nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use wasmtime::EngineWeak;

/// Time between two ticks: the longest a guest overruns its deadline, and the longest turn of a
/// call on a core that others wait for.
pub(super) const TICK: Duration = Duration::from_millis(1);

/// Ticks without a guest after which it rests. Waking it costs as much as some of them.
const IDLE_TICKS: u32 = 20;

/// How often it looks whether there is an engine left.
const LOOK: Duration = Duration::from_secs(10);

/// The ticker, as those who run guests see it.
#[derive(Debug, Clone)]
pub(super) struct Ticker {
    shared: Arc<Shared>,
    thread: Thread,
}

#[derive(Debug, Default)]
struct Shared {
    /// Guests that run.
    guests: AtomicUsize,
    resting: AtomicBool,
}

/// A guest runs for as long as this lives.
#[derive(Debug)]
pub(super) struct Ticking<'a>(&'a Shared);

impl Ticker {
    /// Starts the thread. It ends with the last of the engines.
    pub(super) fn start(mut engines: Vec<EngineWeak>) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared::default());
        let seen = shared.clone();
        let ticking = move || {
            tick(&seen, |ticks| {
                engines.retain(|engine| match engine.upgrade() {
                    Some(engine) => {
                        (0..ticks).for_each(|_| engine.increment_epoch());
                        true
                    }
                    None => false,
                });
                !engines.is_empty()
            });
        };
        let thread = thread::Builder::new()
            .name("epoch".to_owned())
            .spawn(ticking)
            .context("failed to start the epoch thread")?;
        Ok(Self { shared, thread: thread.thread().clone() })
    }

    /// Has it tick.
    pub(super) fn ticking(&self) -> Ticking<'_> {
        // Ordered with the looks of the thread: either it sees the guest, or we see that it rests.
        self.shared.guests.fetch_add(1, Ordering::SeqCst);
        if self.shared.resting.load(Ordering::SeqCst) {
            self.thread.unpark();
        }
        Ticking(&self.shared)
    }
}

impl Drop for Ticking<'_> {
    fn drop(&mut self) {
        self.0.guests.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Ticks without drift, until `advance` says that there is nobody left.
fn tick(shared: &Shared, mut advance: impl FnMut(u32) -> bool) {
    let mut next = Instant::now() + TICK;
    let mut idle = 0;
    loop {
        thread::sleep(next.saturating_duration_since(Instant::now()));
        let mut ticks = 0;
        while next <= Instant::now() {
            next += TICK;
            ticks += 1;
        }
        if !advance(ticks) {
            return;
        }
        idle = if shared.guests.load(Ordering::SeqCst) == 0 { idle + ticks } else { 0 };
        if idle < IDLE_TICKS {
            continue;
        }
        idle = 0;
        shared.resting.store(true, Ordering::SeqCst);
        while shared.guests.load(Ordering::SeqCst) == 0 {
            thread::park_timeout(LOOK);
            if !advance(0) {
                return;
            }
        }
        shared.resting.store(false, Ordering::SeqCst);
        next = Instant::now() + TICK;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn it_ticks_while_a_guest_runs_and_rests_when_none_does() {
        let shared = Arc::new(Shared::default());
        let (tell, told) = mpsc::channel();
        let seen = shared.clone();
        let thread =
            thread::spawn(move || tick(&seen, |ticks| ticks == 0 || tell.send(ticks).is_ok()));
        let ticker = Ticker { shared: shared.clone(), thread: thread.thread().clone() };
        for _ in 0..3 {
            while !shared.resting.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            told.try_iter().for_each(drop);
            thread::sleep(TICK * 20);
            assert_eq!(told.try_iter().sum::<u32>(), 0);
            let guest = ticker.ticking();
            // For as long as it runs, however long.
            for _ in 0..2 * IDLE_TICKS {
                told.recv_timeout(Duration::from_secs(10)).unwrap();
            }
            drop(guest);
        }
        drop(told);
        let _awake = ticker.ticking();
        thread.join().unwrap();
    }
}
