//! Instances that are used again: `instances = "reuse"`.
//!
//! A pool belongs to one version of one plugin. A call takes an instance out of
//! it, or starts one, and owns it while it runs: whatever ends the call other
//! than the guest's own return drops the instance with it. Given back is only
//! what returned, is not worn out, and finds room among the idle ones.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use wasmtime::Store;

use super::store::{self, CallState};
use crate::capabilities::CallFacts;

/// Calls that one instance serves. A stock Go handler breaks after 1,000 to
/// 2,000 calls of 1 KiB, sooner with larger ones; starting one anew for every
/// 250th call costs the slowest toolchain 3 µs a call.
const MAX_CALLS: u32 = 250;

/// Memory that an instance may have grown by since it started, in bytes. What
/// one large request made it take is the host's for as long as it is idle.
/// Half of what its limit left it, where that is less: the next call must find
/// room, too.
const MAX_GROWTH: u64 = 16 << 20;

/// How long an instance waits for a call: longer than the pauses of a plugin
/// that is in use, short enough that the memory of a burst comes back.
pub(super) const MAX_IDLE_TIME: Duration = Duration::from_secs(10);

/// Most idle instances of all plugins. The engine has room for these beside
/// the calls that run, so idle ones keep no call from starting.
const MAX_IDLE: usize = 256;

/// Most memory of all idle instances together, in bytes.
const MAX_IDLE_MEMORY: u64 = 512 << 20;

/// What idle instances take, of all plugins together.
#[derive(Debug)]
pub(super) struct Room {
    most: usize,
    taken: Mutex<Taken>,
}

/// A number of instances and their memory.
#[derive(Debug, Default, Clone, Copy)]
struct Taken {
    instances: usize,
    bytes: u64,
}

/// One instance's share of a [`Room`], given back on drop.
#[derive(Debug)]
struct Place {
    room: Arc<Room>,
    bytes: u64,
}

impl Room {
    /// Room for the idle instances of a host that runs as many calls at once.
    pub(super) fn beside(calls: usize) -> Arc<Self> {
        Arc::new(Self { most: calls.min(MAX_IDLE), taken: Mutex::default() })
    }

    /// Most instances that are idle at once.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    fn take(self: &Arc<Self>, bytes: u64) -> Option<Place> {
        let mut taken = lock(&self.taken);
        let more = taken.bytes.saturating_add(bytes);
        if taken.instances >= self.most || more > MAX_IDLE_MEMORY {
            return None;
        }
        *taken = Taken { instances: taken.instances + 1, bytes: more };
        Some(Place { room: self.clone(), bytes })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = lock(&self.room.taken);
        taken.instances = taken.instances.saturating_sub(1);
        taken.bytes = taken.bytes.saturating_sub(self.bytes);
    }
}

/// An instance that a call owns. `E` is what it is called through.
pub(super) struct Leased<E> {
    pub(super) store: Store<CallState>,
    /// `None` until it was started.
    pub(super) exports: Option<E>,
    /// Bytes of memory it started with.
    began_with: u64,
    /// Calls it has served.
    calls: u32,
}

impl<E> Leased<E> {
    /// One that has yet to start, in this store.
    pub(super) fn fresh(store: Store<CallState>) -> Self {
        Self { store, exports: None, began_with: 0, calls: 0 }
    }

    /// Keeps what the instance was started as.
    pub(super) fn started(&mut self, exports: E) {
        self.exports = Some(exports);
        self.began_with = self.store.data().limiter.used();
    }

    /// Whether it may serve no further call.
    fn is_worn(&self) -> bool {
        let limiter = &self.store.data().limiter;
        let grown = limiter.used().saturating_sub(self.began_with);
        let room = limiter.memory().saturating_sub(self.began_with);
        // What was refused growth may have lost its footing without a trap.
        self.exports.is_none()
            || limiter.denied.is_some()
            || self.calls >= MAX_CALLS
            || grown > MAX_GROWTH.min(room / 2)
    }
}

/// The idle instances of one version of a plugin.
pub(super) struct Pool<E> {
    room: Arc<Room>,
    idle: Mutex<Vec<Idle<E>>>,
    /// Set when the version is no longer the one that serves.
    retired: AtomicBool,
}

struct Idle<E> {
    leased: Leased<E>,
    since: Instant,
    place: Place,
}

impl<E> Pool<E> {
    pub(super) fn new(room: Arc<Room>) -> Self {
        Self { room, idle: Mutex::default(), retired: AtomicBool::new(false) }
    }

    /// The instance that was used last, made ready for a call, if there is one.
    ///
    /// # Errors
    ///
    /// Gives the facts back where there is none.
    pub(super) fn take(&self, facts: CallFacts) -> Result<Leased<E>, CallFacts> {
        let taken = lock(&self.idle).pop();
        match taken {
            Some(Idle { mut leased, since, place }) if since.elapsed() < MAX_IDLE_TIME => {
                drop(place);
                store::begin(&mut leased.store, facts);
                Ok(leased)
            }
            // Those below it have waited longer still.
            Some(_) => {
                self.drop_idle(Instant::now());
                Err(facts)
            }
            None => Err(facts),
        }
    }

    /// Takes an instance back whose guest has returned, if it can serve again.
    pub(super) fn give_back(&self, mut leased: Leased<E>, now: Instant) {
        leased.calls = leased.calls.saturating_add(1);
        if self.retired.load(Ordering::Acquire) || leased.is_worn() {
            return;
        }
        store::forget(&mut leased.store);
        let bytes = leased.store.data().limiter.used();
        let mut idle = lock(&self.idle);
        // One plugin takes half at most, so that others can have some.
        let held = idle.iter().map(|one| one.place.bytes).fold(bytes, u64::saturating_add);
        if idle.len() >= self.room.most.div_ceil(2) || held > MAX_IDLE_MEMORY / 2 {
            drop(idle);
            return;
        }
        if let Some(place) = self.room.take(bytes) {
            idle.push(Idle { leased, since: now, place });
        }
        drop(idle);
        // A version that was replaced meanwhile keeps none.
        if self.retired.load(Ordering::Acquire) {
            self.drop_all();
        }
    }

    /// Drops what has been idle for too long.
    pub(super) fn drop_idle(&self, now: Instant) {
        let is_old = |one: &Idle<E>| now.saturating_duration_since(one.since) >= MAX_IDLE_TIME;
        let mut idle = lock(&self.idle);
        // The oldest come first, because the last one is taken first.
        let old = idle.iter().take_while(|one| is_old(one)).count();
        let old: Vec<_> = idle.drain(..old).collect();
        drop(idle);
        // Giving memory back takes its time, and the lock is not needed for it.
        drop(old);
    }

    /// Keeps nothing idle from now on, or does so again.
    pub(super) fn retire(&self, retired: bool) {
        self.retired.store(retired, Ordering::Release);
        if retired {
            self.drop_all();
        }
    }

    fn drop_all(&self) {
        let all = std::mem::take(&mut *lock(&self.idle));
        drop(all);
    }

    /// Number of idle instances.
    #[cfg(test)]
    fn len(&self) -> usize {
        lock(&self.idle).len()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::Engine;

    fn leased(engine: &Engine, bytes: u64) -> Leased<()> {
        let mut leased = Leased::fresh(store::new(engine, CallFacts::none(), 64 << 20, 1024));
        leased.started(());
        grow(&mut leased, bytes);
        leased
    }

    fn grow(leased: &mut Leased<()>, bytes: u64) {
        use wasmtime::ResourceLimiter as _;
        let limiter = &mut leased.store.data_mut().limiter;
        assert!(limiter.memory_growing(0, usize::try_from(bytes).unwrap(), None).unwrap());
    }

    #[test]
    fn an_instance_is_dropped_when_it_is_worn() {
        let engine = Engine::new(8).unwrap();
        let pool = Pool::new(Room::beside(8));
        let now = Instant::now();
        let mut one = leased(&engine, 0);
        for call in 1..=MAX_CALLS {
            pool.give_back(one, now);
            assert_eq!(pool.len(), usize::from(call < MAX_CALLS), "after call {call}");
            let Ok(again) = pool.take(CallFacts::none()) else { break };
            one = again;
        }
        assert_eq!(pool.len(), 0);

        pool.give_back(leased(&engine, MAX_GROWTH), now);
        assert_eq!(pool.len(), 1);
        pool.give_back(leased(&engine, MAX_GROWTH + 1), now);
        assert_eq!(pool.len(), 1, "it has grown too much");

        let mut refused = leased(&engine, 0);
        refused.store.data_mut().limiter.denied = Some("memory".to_owned());
        pool.give_back(refused, now);
        assert_eq!(pool.len(), 1, "it was refused growth");

        let unstarted = Leased::fresh(store::new(&engine, CallFacts::none(), 64 << 20, 1024));
        pool.give_back(unstarted, now);
        assert_eq!(pool.len(), 1, "it never started");
    }

    #[test]
    fn what_is_idle_for_too_long_is_dropped() {
        let engine = Engine::new(8).unwrap();
        let pool = Pool::new(Room::beside(8));
        let begun = Instant::now();
        pool.give_back(leased(&engine, 0), begun);
        pool.give_back(leased(&engine, 0), begun + MAX_IDLE_TIME / 2);
        pool.drop_idle(begun + MAX_IDLE_TIME - Duration::from_millis(1));
        assert_eq!(pool.len(), 2);
        pool.drop_idle(begun + MAX_IDLE_TIME);
        assert_eq!(pool.len(), 1);
        pool.drop_idle(begun + MAX_IDLE_TIME * 2);
        assert_eq!(pool.len(), 0);
        assert_eq!(lock(&pool.room.taken).instances, 0);
    }

    #[test]
    fn idle_instances_have_bounds_of_their_own_and_together() {
        let engine = Engine::new(8).unwrap();
        let room = Room::beside(8);
        let pools: Vec<Pool<()>> = (0..3).map(|_| Pool::new(room.clone())).collect();
        let now = Instant::now();
        for pool in &pools {
            for _ in 0..8 {
                pool.give_back(leased(&engine, 1 << 20), now);
            }
        }
        let kept: Vec<usize> = pools.iter().map(Pool::len).collect();
        assert_eq!(kept, [4, 4, 0], "one plugin has half, all together have eight");
        pools[0].retire(true);
        pools[0].give_back(leased(&engine, 0), now);
        pools[2].give_back(leased(&engine, 0), now);
        assert_eq!((pools[0].len(), pools[2].len()), (0, 1), "what one drops another can have");
        pools[0].retire(false);
        pools[0].give_back(leased(&engine, 0), now);
        assert_eq!(pools[0].len(), 1);

        let large = Room::beside(MAX_IDLE);
        let pool = Pool::new(large.clone());
        for _ in 0..MAX_IDLE {
            pool.give_back(leased(&engine, MAX_GROWTH), now);
        }
        assert_eq!(pool.len() as u64, MAX_IDLE_MEMORY / 2 / MAX_GROWTH);
        drop(pool);
        let taken = *lock(&large.taken);
        assert_eq!((taken.instances, taken.bytes), (0, 0));
    }

    #[test]
    fn nothing_of_a_call_is_left_in_an_idle_instance() {
        let engine = Engine::new(8).unwrap();
        let pool = Pool::new(Room::beside(8));
        let facts = |text: &str| CallFacts {
            properties: vec![("correlation-id", text.to_owned())],
            ..CallFacts::none()
        };
        let one = Leased::fresh(store::new(&engine, facts("secret"), 64 << 20, 1024));
        let mut one = Leased { exports: Some(()), ..one };
        assert!(format!("{:?}", one.store.data().guest).contains("secret"));
        one.calls = 1;
        pool.give_back(one, Instant::now());
        assert!(!format!("{:?}", lock(&pool.idle)[0].leased.store.data().guest).contains("secret"));
        let again = pool.take(facts("next")).ok().unwrap();
        assert!(format!("{:?}", again.store.data().guest).contains("next"));
    }
}
