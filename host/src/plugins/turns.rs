//! Turns on the cores, for calls that keep one busy.
//!
//! A call that ends before it is interrupted needs none. One that was busy until then goes
//! on in turns, of which there are as many as cores and one less than threads
//! for calls, so that those that are not as long need not wait for it.
//! Between plugins the turns are a tick long and go round, so that none can
//! take a core from another. Among the calls of one plugin the first goes on
//! first: with all of them in step, a plugin that has more to do than it can
//! would end every call too late.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::PollSemaphore;

use super::threads::{self, Typical};
use super::ticker::{TICK, Ticker};

/// How long a call is before the others of its plugin, in time that it was busy:
/// one that never ends must not keep them from running at all.
const FIRST: Duration = Duration::from_millis(50);

/// The turns of one plugin.
#[derive(Debug, Clone)]
pub(super) struct Turns {
    /// Of all plugins.
    shared: Arc<Semaphore>,
    /// Held from turn to turn.
    own: Arc<Semaphore>,
    /// How long its calls take.
    typical: Arc<Typical>,
    ticker: Ticker,
    cores: usize,
}

impl Turns {
    pub(super) fn new(cores: usize, ticker: Ticker) -> Self {
        let semaphore = || Arc::new(Semaphore::new(cores));
        Self { shared: semaphore(), own: semaphore(), typical: Arc::default(), ticker, cores }
    }

    /// For another plugin on the same cores.
    pub(super) fn for_a_plugin(&self) -> Self {
        let own = Arc::new(Semaphore::new(self.cores));
        Self { own, typical: Arc::default(), ..self.clone() }
    }

    /// Where requests are received stays only a call that is likely to be short. With the last slot
    /// (`slots_left` is false) it does so in a pile, too: those behind it would wait for it.
    pub(super) async fn leave_unless_short(&self, slots_left: bool) {
        if !self.typical.is_short(slots_left) {
            threads::leave().await;
        }
    }

    /// Forgets how long calls take.
    pub(super) fn forget(&self) {
        self.typical.forget();
    }

    /// Runs a guest, which yields at every tick. One that turns out not to be short leaves as well.
    pub(super) async fn run<F: Future>(&self, run: F) -> F::Output {
        let mut ticking = self.ticker.ticking();
        let mut run = std::pin::pin!(run);
        let mut woken: Option<Arc<Woken>> = None;
        let mut own = PollSemaphore::new(self.own.clone());
        let mut shared = PollSemaphore::new(self.shared.clone());
        let mut place: Option<(OwnedSemaphorePermit, Duration)> = None;
        let mut turns = 0_u32;
        let mut spent = Duration::ZERO;
        std::future::poll_fn(|context| {
            // The first time it may have been another program that kept the core busy.
            if turns > 1 && threads::must_leave() {
                self.typical.note_so_far(spent);
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            // Nobody closes the semaphores, so there is always a turn to come.
            if turns > 0 && place.is_none() {
                place = ready!(own.poll_acquire(context)).map(|permit| (permit, Duration::ZERO));
            }
            let turn = if turns > 0 { ready!(shared.poll_acquire(context)) } else { None };
            let begun = Instant::now();
            let (polled, yielded) = match &place {
                None => (run.as_mut().poll(context), true),
                Some(_) => {
                    let woken = woken.get_or_insert_default();
                    woken.begin(context.waker());
                    let waker = Waker::from(woken.clone());
                    let polled = run.as_mut().poll(&mut Context::from_waker(&waker));
                    (polled, woken.is())
                }
            };
            drop(turn);
            let took = begun.elapsed();
            spent = spent.saturating_add(took);
            // Also one that is never interrupted, because it yields before, again and again.
            if polled.is_pending() && (turns > 0 || spent >= TICK / 2) {
                turns = turns.saturating_add(1);
                ticking.is_busy();
            }
            if polled.is_ready() {
                self.typical.note(spent, turns > 1);
            }
            if let Some((_, before)) = &mut place {
                *before = before.saturating_add(took);
            }
            // One that waits for something else lets the next go on meanwhile.
            if place.as_ref().is_some_and(|(_, before)| !yielded || *before >= FIRST) {
                place = None;
            }
            polled
        })
        .await
    }
}

/// Tells a guest that has only yielded, and so woken itself, from one that waits.
#[derive(Debug, Default)]
struct Woken {
    itself: AtomicBool,
    task: AtomicWaker,
}

impl Woken {
    fn begin(&self, task: &Waker) {
        self.task.register(task);
        self.itself.store(false, Ordering::Relaxed);
    }

    fn is(&self) -> bool {
        self.itself.load(Ordering::Relaxed)
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.itself.store(true, Ordering::Relaxed);
        self.task.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns() -> Turns {
        Turns::new(1, Ticker::start(Vec::new()).unwrap())
    }

    /// Keeps a core busy for so many ticks.
    async fn computes(ticks: u32) {
        for _ in 0..ticks {
            let begun = Instant::now();
            while begun.elapsed() < TICK {}
            yields().await;
        }
    }

    /// As wasmtime does it, within the poll; tokio's own comes after it.
    async fn yields() {
        let mut yielded = false;
        std::future::poll_fn(|context| {
            if std::mem::replace(&mut yielded, true) {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    #[tokio::test]
    async fn the_first_of_a_plugin_ends_first_and_another_plugin_need_not_wait() {
        let turns = turns();
        let (one, other) = (turns.for_a_plugin(), turns.for_a_plugin());
        let ended = std::sync::Mutex::new(Vec::new());
        let call = async |turns: &Turns, name, ticks| {
            turns.run(computes(ticks)).await;
            ended.lock().unwrap().push(name);
        };
        // In this order, in every round. Far below FIRST, also on a busy machine.
        futures_util::join!(
            call(&one, "first", 5),
            call(&one, "second", 5),
            call(&one, "third", 5),
            call(&other, "other", 7),
        );
        assert_eq!(*ended.lock().unwrap(), ["first", "other", "second", "third"]);
    }

    #[tokio::test]
    async fn one_that_never_ends_lets_the_others_of_its_plugin_go_on() {
        let turns = turns();
        let endless = turns.run(computes(u32::MAX));
        let ends = turns.run(computes(5));
        let ended = tokio::select! {
            () = endless => false,
            () = ends => true,
        };
        assert!(ended);
    }

    #[tokio::test]
    async fn one_that_yields_before_it_is_interrupted_takes_turns_too() {
        let turns = turns();
        let _none_left = turns.shared.clone().acquire_owned().await.unwrap();
        let mut done = 0;
        let pieces = turns.run(async {
            loop {
                let begun = Instant::now();
                while begun.elapsed() < TICK / 10 {}
                done += 1;
                yields().await;
            }
        });
        let stood = tokio::time::timeout(50 * TICK, pieces).await;
        assert!(stood.is_err());
        assert!(done <= 6, "{done} pieces without a turn");
    }

    #[tokio::test]
    async fn one_that_waits_keeps_nobody_waiting() {
        let turns = turns();
        let waits = turns.run(async {
            computes(3).await;
            // And on, to where it waits.
            let begun = Instant::now();
            while begun.elapsed() < TICK {}
            std::future::pending::<()>().await
        });
        let ends = turns.run(computes(5));
        let ended = tokio::select! {
            () = waits => false,
            () = ends => true,
        };
        assert!(ended);
    }
}
