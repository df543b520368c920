//! The threads that requests are answered on.
//!
//! Short ones are answered on the thread that receives them, one after the other: handing each to
//! another thread costs more than they do, or not much less, and their replies and acks would go
//! out one by one. A request that takes longer, or is not so short and stands in a pile, leaves for
//! a pool of threads, for good: its future is moved there between two polls. So the thread that
//! receives is always soon free again.
//!
//! Who finds that something takes longer says so with [`leave`]; [`Threads::answer`] does the
//! moving. Anywhere else, such as on the pool, there is nowhere to go, and `leave` does nothing.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::runtime::{Builder, Handle, Runtime};

use super::engine::cores;

/// How long a plugin's calls may be on average, in time that they keep a core busy, to be run
/// where they are received. Moving one to another thread costs about a tenth of it.
const SHORT: Duration = Duration::from_micros(100);

/// The same in a pile: as long as this thread has so much to do that nobody else has anything, the
/// broker included, other cores do nothing. Twice what moving a call costs.
const SHORT_IN_A_PILE: Duration = Duration::from_micros(20);

/// Calls that may be on their way to each of the other cores. Where so many wait for it, it is not
/// free; with fewer, waking it would cost more than it takes over.
const ON_THEIR_WAY: usize = 8;

/// What has waited this long for the thread that receives is in a pile.
const PILED_UP: Duration = Duration::from_micros(250);

/// What has waited this long for the thread that receives has found it overloaded, and goes to
/// others: on a machine with many cores they have nothing to do. More than the short calls that
/// are begun at once (`serve`) can take.
const BEHIND: Duration = Duration::from_millis(4);

thread_local! {
    /// Whether what is polled can leave, and if so, whether it wants to.
    static LEAVING: Cell<Option<bool>> = const { Cell::new(None) };
    /// Whether what is polled, and can leave, was in a pile until now, and another core is free.
    static IN_A_PILE: Cell<bool> = const { Cell::new(false) };
}

/// The pool. Ends, with what runs there, when it is dropped.
#[derive(Debug)]
pub struct Threads {
    /// Taken when it is dropped.
    runtime: Option<Runtime>,
    pool: Pool,
}

/// The way to it.
#[derive(Debug, Clone)]
struct Pool {
    handle: Handle,
    /// Requests that were moved there and have not gone on yet.
    coming: Arc<AtomicUsize>,
    cores: usize,
}

impl Pool {
    fn take(&self, answering: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.coming.fetch_add(1, Ordering::Relaxed);
        let coming = Coming(self.coming.clone());
        // Polled there at once, with wakers of there.
        self.handle.spawn(async move {
            drop(coming);
            answering.await;
        });
    }

    /// Whether a core may have nothing to do, apart from the one that receives.
    fn has_room(&self) -> bool {
        let others = self.cores.saturating_sub(1);
        self.coming.load(Ordering::Relaxed) < others.saturating_mul(ON_THEIR_WAY)
    }
}

/// A request on its way.
struct Coming(Arc<AtomicUsize>);

impl Drop for Coming {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Threads {
    /// Starts as many threads as there are cores, and one: guests that are busy use as many as
    /// there are cores (see `turns`), all else has the other.
    ///
    /// # Errors
    ///
    /// When the system gives no threads.
    pub fn start() -> anyhow::Result<Self> {
        let cores = cores();
        let runtime = Builder::new_multi_thread()
            .worker_threads(cores.saturating_add(1))
            .thread_name("call")
            .enable_all()
            .build()
            .context("failed to start the threads for calls")?;
        let pool = Pool { handle: runtime.handle().clone(), coming: Arc::default(), cores };
        Ok(Self { runtime: Some(runtime), pool })
    }

    /// Answers a request on this thread, until it leaves.
    pub fn answer(&self, answering: impl Future<Output = ()> + Send + 'static) {
        let answering = Box::pin(answering);
        let (since, pool) = (Some(Instant::now()), self.pool.clone());
        tokio::spawn(Here { answering: Some(answering), since, pool });
    }

    /// Does something that is not for the thread that receives.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.pool.handle.spawn(work);
    }

    /// The same, for those who have work later.
    pub(super) fn handle(&self) -> Handle {
        self.pool.handle.clone()
    }
}

impl Drop for Threads {
    /// Waits for nobody: a runtime that is dropped where others run would be a panic.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A request that has not left yet.
struct Here {
    /// `None` once it has.
    answering: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// When it came; `None` once it was begun.
    since: Option<Instant>,
    pool: Pool,
}

impl Future for Here {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let waited = self.since.take().map_or(Duration::ZERO, |since| since.elapsed());
        let Some(mut answering) = self.answering.take() else { return Poll::Ready(()) };
        if waited < BEHIND {
            let asking = Asking::begin(waited >= PILED_UP && self.pool.has_room());
            if answering.as_mut().poll(context).is_ready() {
                return Poll::Ready(());
            }
            if !asking.wants() {
                self.answering = Some(answering);
                return Poll::Pending;
            }
        }
        self.pool.take(answering);
        Poll::Ready(())
    }
}

/// While something is polled that can leave.
struct Asking;

impl Asking {
    fn begin(in_a_pile: bool) -> Self {
        LEAVING.set(Some(false));
        IN_A_PILE.set(in_a_pile);
        Self
    }

    fn wants(&self) -> bool {
        LEAVING.get() == Some(true)
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        LEAVING.set(None);
        IN_A_PILE.set(false);
    }
}

/// Asks for the request that is polled here to leave. If it can, it has to return `Pending`, with
/// its own waker woken, to be polled again elsewhere.
pub(super) fn must_leave() -> bool {
    let can = LEAVING.get().is_some();
    if can {
        LEAVING.set(Some(true));
    }
    can
}

/// Goes on elsewhere, if this is the thread that receives.
pub async fn leave() {
    std::future::poll_fn(|context| {
        if must_leave() {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    })
    .await;
}

/// How long the calls of a plugin keep a core busy.
#[derive(Debug)]
pub(super) struct Typical(AtomicU64);

impl Default for Typical {
    /// Not known yet.
    fn default() -> Self {
        Self(AtomicU64::new(u64::MAX))
    }
}

impl Typical {
    /// How much a call counts: the mean of about so many.
    const WEIGHT: u64 = 8;

    /// Whether the next one, which is polled, is likely to be over soon, or soon enough where none
    /// `may_move`. Where nothing is known yet it is: all that were due would move otherwise, and
    /// stand in their plugin's line.
    pub(super) fn is_short(&self, may_move: bool) -> bool {
        let most = if may_move && IN_A_PILE.get() { SHORT_IN_A_PILE } else { SHORT };
        let mean = self.0.load(Ordering::Relaxed);
        mean == u64::MAX || u128::from(mean) <= most.as_nanos()
    }

    /// Notes how long one has taken that goes on, if nothing else is known: those behind it need not
    /// find out for themselves.
    pub(super) fn note_so_far(&self, took: Duration) {
        let took = nanoseconds(took);
        let _known = self.0.compare_exchange(u64::MAX, took, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Nothing is known any more.
    pub(super) fn forget(&self) {
        self.0.store(u64::MAX, Ordering::Relaxed);
    }

    /// How many times the mean a call counts at most that took no turns: its thread may have been
    /// kept from running, which says little about the next.
    const OUTLIER: u64 = 4;

    /// Notes how long one has taken, and whether that was in turns. Of two at the same time, one
    /// may not count.
    pub(super) fn note(&self, took: Duration, in_turns: bool) {
        let took = nanoseconds(took);
        let mean = match self.0.load(Ordering::Relaxed) {
            u64::MAX if in_turns => took,
            // The first of all is slower than the next.
            u64::MAX => took.min(nanoseconds(SHORT)),
            mean => {
                let outlier = mean.max(1_000).saturating_mul(Self::OUTLIER);
                let most = if in_turns { u64::MAX } else { outlier };
                mean - mean / Self::WEIGHT + took.min(most) / Self::WEIGHT
            }
        };
        self.0.store(mean, Ordering::Relaxed);
    }
}

/// One less than the value that says that nothing is known, at most.
fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).min(u64::MAX - 1)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use tokio::sync::oneshot;

    use super::*;

    /// Runs something as a request and returns what it tells.
    fn answered<T: Send + 'static>(
        answering: impl Future<Output = T> + Send + 'static,
        hold: Duration,
    ) -> T {
        let threads = Threads::start().unwrap();
        let here = Builder::new_current_thread().enable_all().build().unwrap();
        here.block_on(async {
            let (tell, told) = oneshot::channel();
            threads.answer(async move {
                let _told = tell.send(answering.await);
            });
            thread::sleep(hold);
            told.await.unwrap()
        })
    }

    fn here() -> thread::ThreadId {
        thread::current().id()
    }

    #[test]
    fn a_request_stays_until_it_leaves_and_then_stays_there() {
        let threads = async {
            let first = here();
            tokio::task::yield_now().await;
            let second = here();
            leave().await;
            let third = here();
            tokio::task::yield_now().await;
            leave().await;
            (first, second, third)
        };
        let (first, second, third) = answered(threads, Duration::ZERO);
        assert_eq!((first, second), (here(), here()));
        assert_ne!(third, here());
    }

    #[test]
    fn parts_of_a_request_leave_together() {
        // As the calls of a batch, each of which is polled through wakers of its own.
        let parts = async {
            use futures_util::StreamExt as _;
            let part = |nth| async move {
                if nth == 3 {
                    leave().await;
                }
                tokio::task::yield_now().await;
                nth
            };
            futures_util::stream::iter(0..8).map(part).buffered(8).collect::<Vec<_>>().await
        };
        assert_eq!(answered(parts, Duration::ZERO), (0..8).collect::<Vec<_>>());
    }

    #[test]
    fn what_finds_the_thread_overloaded_does_not_wait_for_it() {
        assert_ne!(answered(async { here() }, BEHIND * 2), here());
    }

    #[test]
    fn in_a_pile_fewer_calls_are_short() {
        let typical = Typical::default();
        typical.note(SHORT / 2, false);
        let asking = Asking::begin(false);
        assert!(typical.is_short(true));
        drop(asking);
        let asking = Asking::begin(true);
        assert!(!typical.is_short(true));
        assert!(typical.is_short(false));
        drop(asking);
        assert!(typical.is_short(true));
        let piled = |hold| answered(async { IN_A_PILE.get().then_some(here()) }, hold);
        // This thread may be interrupted at any time, but not each time.
        assert!((0..100).any(|_| piled(Duration::ZERO).is_none()));
        let others = std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1);
        let found = (0..100).any(|_| piled(PILED_UP * 2) == Some(here()));
        assert_eq!(found, others, "another core could take them");
        assert!(!IN_A_PILE.get());
    }

    #[test]
    fn a_core_that_many_calls_are_on_their_way_to_is_not_free() {
        let runtime = Builder::new_current_thread().build().unwrap();
        let pool = |cores| Pool { handle: runtime.handle().clone(), coming: Arc::default(), cores };
        assert!(!pool(1).has_room(), "the one that receives");
        let two = pool(2);
        assert!(two.has_room());
        let fill = || {
            for _ in 0..ON_THEIR_WAY {
                assert!(two.has_room());
                two.take(Box::pin(std::future::pending()));
            }
            assert!(!two.has_room());
        };
        fill();
        runtime.block_on(tokio::task::yield_now());
        assert!(two.has_room(), "they go on");
        fill();
        drop(runtime);
        assert!(two.has_room(), "they ended on their way");
    }

    #[test]
    fn one_that_panics_takes_nothing_with_it() {
        let (tell, told) = oneshot::channel::<()>();
        let threads = Threads::start().unwrap();
        let here = Builder::new_current_thread().enable_all().build().unwrap();
        here.block_on(async {
            threads.answer(async move {
                let _tell = tell;
                panic!("on purpose");
            });
            assert!(told.await.is_err());
            assert!(!must_leave(), "nothing is polled that could");
        });
    }

    #[test]
    fn calls_are_short_by_their_mean() {
        let typical = Typical::default();
        assert!(typical.is_short(true), "not known yet");
        typical.note(SHORT / 2, false);
        assert!(typical.is_short(true));
        typical.note_so_far(SHORT * 2);
        assert!(typical.is_short(true), "it is known");
        typical.note(Duration::MAX, false);
        assert!(typical.is_short(true), "it may have been interrupted");
        for _ in 0..10 {
            typical.note(SHORT * 20, false);
        }
        assert!(!typical.is_short(true));
        for _ in 0..100 {
            typical.note(SHORT / 2, false);
        }
        assert!(typical.is_short(true));
        typical.note(SHORT * 20, true);
        assert!(!typical.is_short(true), "it has kept a core busy");
        typical.note(Duration::ZERO, false);
        typical.forget();
        assert!(typical.is_short(true));
    }

    #[test]
    fn the_first_call_says_little_unless_it_keeps_a_core_busy() {
        let typical = Typical::default();
        typical.note(SHORT * 20, false);
        assert!(typical.is_short(true), "it may be the first that touches its code");
        typical.note(SHORT * 20, false);
        assert!(!typical.is_short(true));
        let typical = Typical::default();
        typical.note_so_far(SHORT * 20);
        assert!(!typical.is_short(true), "it goes on");
        let typical = Typical::default();
        typical.note(Duration::MAX, true);
        assert!(!typical.is_short(true));
    }
}
