//! The ticks by which guests are interrupted.
//!
//! A thread of its own advances the epoch of the engines, not the async runtime: a busy one must
//! still be interrupted. Each tick takes a core from somebody, so there are only as many as are of
//! use: while all guests are over before they could be interrupted there are few, and none while
//! no guest runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use wasmtime::EngineWeak;

/// Time between two ticks while a guest keeps a core busy: the longest turn of a call on a core
/// that others wait for.
pub(super) const TICK: Duration = Duration::from_millis(1);

/// The same while none is known to: how long a guest runs at most until it is.
const FIRST_TICK: Duration = Duration::from_millis(4);

/// Ticks without a guest after which it rests. Waking it costs as much as some of them.
const IDLE_TICKS: u32 = 5;

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
    /// Those among them that have kept a core busy.
    busy: AtomicUsize,
    resting: AtomicBool,
}

/// A guest runs for as long as this lives.
#[derive(Debug)]
pub(super) struct Ticking<'a> {
    ticker: &'a Ticker,
    busy: bool,
}

impl Ticker {
    /// Starts the thread. It ends with the last of the engines.
    pub(super) fn start(mut engines: Vec<EngineWeak>) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared::default());
        let seen = shared.clone();
        let ticking = move || {
            tick(&seen, |at| {
                engines.retain(|engine| match engine.upgrade() {
                    Some(engine) => {
                        if at.is_some() {
                            engine.increment_epoch();
                        }
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
        Ticking { ticker: self, busy: false }
    }
}

impl Ticking<'_> {
    /// Has it tick faster: this guest keeps a core busy.
    pub(super) fn is_busy(&mut self) {
        if std::mem::replace(&mut self.busy, true) {
            return;
        }
        if self.ticker.shared.busy.fetch_add(1, Ordering::SeqCst) == 0 {
            self.ticker.thread.unpark();
        }
    }
}

impl Drop for Ticking<'_> {
    fn drop(&mut self) {
        let Shared { guests, busy, .. } = &*self.ticker.shared;
        if self.busy {
            busy.fetch_sub(1, Ordering::SeqCst);
        }
        guests.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Ticks until `advance`, which is told when it is a tick, and not only a look, says that there is
/// nobody left.
fn tick(shared: &Shared, mut advance: impl FnMut(Option<Instant>) -> bool) {
    let mut last = Instant::now();
    let mut idle = 0;
    loop {
        let busy = shared.busy.load(Ordering::SeqCst) > 0;
        let left = (if busy { TICK } else { FIRST_TICK }).saturating_sub(last.elapsed());
        if !left.is_zero() {
            // Woken before where a guest is busy now.
            thread::park_timeout(left);
            continue;
        }
        last = Instant::now();
        if !advance(Some(last)) {
            return;
        }
        idle = if shared.guests.load(Ordering::SeqCst) == 0 { idle + 1 } else { 0 };
        if idle < IDLE_TICKS {
            continue;
        }
        idle = 0;
        shared.resting.store(true, Ordering::SeqCst);
        while shared.guests.load(Ordering::SeqCst) == 0 {
            thread::park_timeout(LOOK);
            if !advance(None) {
                return;
            }
        }
        shared.resting.store(false, Ordering::SeqCst);
        last = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A ticker, and when it has ticked.
    fn ticker() -> (Ticker, mpsc::Receiver<Instant>, thread::JoinHandle<()>) {
        let shared = Arc::new(Shared::default());
        let (tell, told) = mpsc::channel();
        let seen = shared.clone();
        let ticks = move |at: Option<Instant>| at.is_none_or(|at| tell.send(at).is_ok());
        let thread = thread::spawn(move || tick(&seen, ticks));
        (Ticker { shared, thread: thread.thread().clone() }, told, thread)
    }

    #[test]
    fn it_ticks_while_a_guest_runs_and_rests_when_none_does() {
        let (ticker, told, thread) = ticker();
        for _ in 0..3 {
            while !ticker.shared.resting.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            told.try_iter().for_each(drop);
            thread::sleep(FIRST_TICK * 5);
            assert_eq!(told.try_iter().count(), 0);
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

    #[test]
    fn it_ticks_faster_while_a_guest_keeps_a_core_busy() {
        let (ticker, told, thread) = ticker();
        let mut guest = ticker.ticking();
        let shortest = |ticks: usize| {
            told.try_iter().for_each(drop);
            let at: Vec<Instant> = told.iter().take(ticks).collect();
            at.windows(2).map(|two| two[1] - two[0]).min().unwrap()
        };
        assert!(shortest(10) >= FIRST_TICK);
        guest.is_busy();
        guest.is_busy();
        // Of so many, one is in time on any machine.
        let busy = shortest(200);
        assert!((TICK..FIRST_TICK).contains(&busy), "{busy:?}");
        drop(guest);
        assert_eq!(ticker.shared.busy.load(Ordering::SeqCst), 0);
        let _slow = ticker.ticking();
        told.recv().unwrap();
        assert!(shortest(10) >= FIRST_TICK);
        drop(told);
        thread.join().unwrap();
    }
}
