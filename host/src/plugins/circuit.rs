//! When a version of a plugin has failed too often to be called.
//!
//! A version whose guests keep trapping or running out of time rests: its calls
//! are answered at once, and after the rest single ones are let through to see
//! whether it has recovered. One that begins so right after it replaced a healthy
//! version is condemned instead: it is called no more, and the old one comes back.
//!
//! [`Breaker`] is the state machine, with the clock handed in; [`Circuit`] is
//! what calls share. What a version answers, errors of its own included, is none
//! of their business.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::message::ErrorKind;

/// Calls that are looked back on.
const LAST: usize = 40;

/// Failures among them that make a version rest: at least half of its last
/// calls, so that a guest that fails now and then goes on, and few enough for
/// one that always fails to stop at its twentieth call.
const FAILURES: usize = 20;

/// Older calls say nothing about now. A minute is enough for the time-outs of
/// a slow plugin with few slots to be seen together.
const MEMORY: Duration = Duration::from_secs(60);

/// The first rest: longer than a passing trouble, such as a bad batch of
/// requests, and not much longer than a caller waits before it tries again.
const FIRST_REST: Duration = Duration::from_secs(5);

/// The longest: each rest is twice the last one up to this, so that a plugin
/// that has recovered is found out within a minute.
const LONGEST_REST: Duration = Duration::from_secs(60);

/// How long a version that has replaced a healthy one is on trial, from the end
/// of its first call: what a new file does wrong it does at once, and later
/// failures have other reasons.
const TRIAL: Duration = Duration::from_secs(60);

/// Failures that end a trial, if they are half of the calls that were looked
/// back on: few, because callers would be served by the old version.
const TRIAL_FAILURES: usize = 5;

/// What a call says about the version that served it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// The guest returned, with whatever result.
    Sound,
    /// The guest was ended, for a reason that is its own.
    Failed,
}

/// A turn for the worse or the better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// It rests from now on, after this many failures among so many calls.
    Opened { failures: usize, calls: usize, rest: Duration },
    /// A probe has failed: it rests on.
    Reopened { rest: Duration },
    /// A probe has succeeded.
    Closed,
    /// It is not called any more.
    Condemned,
}

/// How a call was let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Open,
    Probe,
}

#[derive(Debug)]
enum State {
    /// Calls go through.
    Closed,
    /// None does, until then.
    Resting { until: Instant, rest: Duration },
    /// One is under way that decides.
    Probing { rest: Duration },
    /// None does, ever again, after this many failures among so many calls.
    Condemned { failures: usize, calls: usize },
}

/// The state machine.
#[derive(Debug)]
struct Breaker {
    state: State,
    /// The last verdicts, the oldest first.
    last: VecDeque<(Instant, Verdict)>,
    on_trial: bool,
    /// When the first call that says something had ended.
    first: Option<Instant>,
    /// Whether a call has ever gone well.
    proven: bool,
}

impl Breaker {
    fn new() -> Self {
        Self {
            state: State::Closed,
            last: VecDeque::new(),
            on_trial: false,
            first: None,
            proven: false,
        }
    }

    /// How long callers should wait, if a call would not be let through.
    fn rest(&self, now: Instant) -> Option<Duration> {
        match self.state {
            State::Closed => None,
            State::Resting { until, .. } if until <= now => None,
            State::Resting { until, .. } => Some(until.saturating_duration_since(now)),
            // A probe takes no longer than the plugin's time limit.
            State::Probing { rest } => Some(rest.min(FIRST_REST)),
            State::Condemned { .. } => Some(FIRST_REST),
        }
    }

    fn enter(&mut self, now: Instant) -> Result<Way, Duration> {
        if let Some(rest) = self.rest(now) {
            return Err(rest);
        }
        match self.state {
            State::Resting { rest, .. } => {
                self.state = State::Probing { rest };
                Ok(Way::Probe)
            }
            _ => Ok(Way::Open),
        }
    }

    /// A call has ended; `None` where it says nothing about the plugin.
    fn ended(&mut self, way: Way, verdict: Option<Verdict>, now: Instant) -> Option<Turn> {
        match (way, &self.state, verdict) {
            (Way::Probe, State::Probing { .. }, Some(Verdict::Sound)) => {
                self.state = State::Closed;
                self.last.clear();
                self.proven = true;
                Some(Turn::Closed)
            }
            (Way::Probe, State::Probing { rest }, Some(Verdict::Failed)) => {
                let rest = rest.saturating_mul(2).min(LONGEST_REST);
                self.state = State::Resting { until: now + rest, rest };
                Some(Turn::Reopened { rest })
            }
            (Way::Probe, State::Probing { rest }, None) => {
                self.state = State::Resting { until: now, rest: *rest };
                None
            }
            (Way::Open, State::Closed, Some(verdict)) => {
                self.first.get_or_insert(now);
                self.proven |= verdict == Verdict::Sound;
                if self.last.len() >= LAST {
                    self.last.pop_front();
                }
                self.last.push_back((now, verdict));
                (verdict == Verdict::Failed).then(|| self.judge(now)).flatten()
            }
            // What began before the rest says no more than was known.
            _ => None,
        }
    }

    /// Whether that was one failure too many.
    fn judge(&mut self, now: Instant) -> Option<Turn> {
        let (failures, calls) = self.look_back(now);
        if self.is_on_trial(now) && failures >= TRIAL_FAILURES && failures * 2 >= calls {
            self.state = State::Condemned { failures, calls };
            return Some(Turn::Condemned);
        }
        if failures < FAILURES {
            return None;
        }
        self.state = State::Resting { until: now + FIRST_REST, rest: FIRST_REST };
        Some(Turn::Opened { failures, calls, rest: FIRST_REST })
    }

    /// Failures and all calls of late.
    fn look_back(&mut self, now: Instant) -> (usize, usize) {
        let is_old = |at: Instant| now.saturating_duration_since(at) > MEMORY;
        while self.last.front().is_some_and(|(at, _)| is_old(*at)) {
            self.last.pop_front();
        }
        let failed = |(_, verdict): &&(Instant, Verdict)| *verdict == Verdict::Failed;
        (self.last.iter().filter(failed).count(), self.last.len())
    }

    fn is_on_trial(&self, now: Instant) -> bool {
        let is_over = |first: Instant| now.saturating_duration_since(first) > TRIAL;
        self.on_trial && !self.first.is_some_and(is_over)
    }

    /// Whether it is worth coming back to: it does not rest, and less than a
    /// quarter of its last calls have failed.
    fn is_healthy(&mut self, now: Instant) -> bool {
        let (failures, calls) = self.look_back(now);
        matches!(self.state, State::Closed) && failures * 4 <= calls
    }
}

/// One version's circuit.
#[derive(Debug)]
pub(super) struct Circuit {
    breaker: Mutex<Breaker>,
    condemned: AtomicBool,
    /// What nobody has been told yet; the last turn counts.
    news: Mutex<Option<Turn>>,
    has_news: AtomicBool,
}

/// A call that was let through. Dropped without a verdict it says nothing.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    circuit: &'a Circuit,
    way: Way,
    /// Whether the caller waits for less than the plugin may take.
    hurried: bool,
    verdict: Option<Verdict>,
}

impl Circuit {
    /// A closed circuit, as every new version has one.
    pub(super) fn new() -> Self {
        Self {
            breaker: Mutex::new(Breaker::new()),
            condemned: AtomicBool::new(false),
            news: Mutex::default(),
            has_news: AtomicBool::new(false),
        }
    }

    /// Lets a call through. A caller who is `hurried` waits for less than the
    /// plugin may take, so that running out of time proves nothing.
    ///
    /// # Errors
    ///
    /// How long callers should wait, where none is let through.
    pub(super) fn enter(&self, now: Instant, hurried: bool) -> Result<Pass<'_>, Duration> {
        let way = lock(&self.breaker).enter(now)?;
        Ok(Pass { circuit: self, way, hurried, verdict: None })
    }

    /// Lets a call through that is there to find something out, whatever came of others.
    pub(super) fn pass(&self) -> Pass<'_> {
        Pass { circuit: self, way: Way::Open, hurried: false, verdict: None }
    }

    /// How long callers should wait, if a call would not be let through now.
    pub(super) fn rest(&self, now: Instant) -> Option<Duration> {
        lock(&self.breaker).rest(now)
    }

    /// Begins the trial of a version that replaces a healthy one.
    pub(super) fn put_on_trial(&self) {
        lock(&self.breaker).on_trial = true;
    }

    /// Ends the trial if its time is over. Returns whether it has ended well, so
    /// that nobody comes back to the old version any more.
    pub(super) fn end_trial(&self, now: Instant) -> bool {
        let mut breaker = lock(&self.breaker);
        if matches!(breaker.state, State::Condemned { .. }) || breaker.is_on_trial(now) {
            return false;
        }
        // A call that ends now with an earlier time condemns nothing any more.
        breaker.on_trial = false;
        true
    }

    /// Whether it is to be called no more.
    pub(super) fn is_condemned(&self) -> bool {
        self.condemned.load(Ordering::Acquire)
    }

    /// The failures that it is condemned for, and the calls they were among.
    pub(super) fn condemned_for(&self) -> Option<(usize, usize)> {
        match lock(&self.breaker).state {
            State::Condemned { failures, calls } => Some((failures, calls)),
            _ => None,
        }
    }

    /// Makes it the version that is come back to. Returns whether it is worth that. If so, its
    /// trial is over: there is none that could come back in its place.
    pub(super) fn stand_by(&self, now: Instant) -> bool {
        let mut breaker = lock(&self.breaker);
        let is_healthy = breaker.is_healthy(now);
        breaker.on_trial &= !is_healthy;
        is_healthy
    }

    /// Whether a call has ever gone well.
    pub(super) fn is_proven(&self) -> bool {
        lock(&self.breaker).proven
    }

    /// The last turn, told once.
    pub(super) fn news(&self) -> Option<Turn> {
        if !self.has_news.swap(false, Ordering::AcqRel) {
            return None;
        }
        lock(&self.news).take()
    }
}

impl Pass<'_> {
    /// The guest has returned, with whatever result.
    pub(super) fn returned(mut self) {
        self.verdict = Some(Verdict::Sound);
    }

    /// The guest was ended before it could.
    pub(super) fn ended_by(mut self, kind: ErrorKind) {
        self.verdict = match kind {
            // Growth was refused, and then it trapped.
            ErrorKind::Trap | ErrorKind::InstantiateFailed | ErrorKind::ResourceExhausted => {
                Some(Verdict::Failed)
            }
            ErrorKind::Timeout if !self.hurried => Some(Verdict::Failed),
            _ => None,
        };
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let turn = lock(&self.circuit.breaker).ended(self.way, self.verdict, Instant::now());
        if let Some(turn) = turn {
            if turn == Turn::Condemned {
                self.circuit.condemned.store(true, Ordering::Release);
            }
            *lock(&self.circuit.news) = Some(turn);
            self.circuit.has_news.store(true, Ordering::Release);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const FAILED: Option<Verdict> = Some(Verdict::Failed);
    const SOUND: Option<Verdict> = Some(Verdict::Sound);

    /// Calls one after the other, a millisecond each; the last turn they took.
    fn calls(
        breaker: &mut Breaker,
        now: &mut Instant,
        verdicts: impl IntoIterator<Item = Option<Verdict>>,
    ) -> Option<Turn> {
        let mut turn = None;
        for verdict in verdicts {
            let way = breaker.enter(*now).expect("let through");
            *now += MS;
            turn = breaker.ended(way, verdict, *now).or(turn);
        }
        turn
    }

    fn of(verdict: Option<Verdict>, count: usize) -> impl Iterator<Item = Option<Verdict>> {
        std::iter::repeat_n(verdict, count)
    }

    /// A breaker that has just opened.
    fn resting() -> (Breaker, Instant) {
        let (mut breaker, mut now) = (Breaker::new(), Instant::now());
        assert!(calls(&mut breaker, &mut now, of(FAILED, FAILURES)).is_some());
        (breaker, now)
    }

    #[test]
    fn a_version_that_always_fails_rests_after_its_twentieth_call() {
        let (mut breaker, mut now) = (Breaker::new(), Instant::now());
        assert_eq!(calls(&mut breaker, &mut now, of(FAILED, FAILURES - 1)), None);
        let opened = Turn::Opened { failures: FAILURES, calls: FAILURES, rest: FIRST_REST };
        assert_eq!(calls(&mut breaker, &mut now, of(FAILED, 1)), Some(opened));
        assert_eq!(breaker.enter(now), Err(FIRST_REST));
        assert_eq!(breaker.enter(now + FIRST_REST - MS), Err(MS));
    }

    #[test]
    fn one_that_fails_less_than_every_other_time_never_rests() {
        let (mut breaker, mut now) = (Breaker::new(), Instant::now());
        for _ in 0..1_000 {
            let turn = calls(&mut breaker, &mut now, [SOUND, FAILED, SOUND, FAILED, SOUND]);
            assert_eq!(turn, None);
        }
        assert!(!breaker.is_healthy(now), "but it is not worth coming back to");
        // A healthy past does not keep it from resting once it fails always.
        calls(&mut breaker, &mut now, of(SOUND, 1_000));
        assert!(breaker.is_healthy(now));
        assert!(calls(&mut breaker, &mut now, of(FAILED, FAILURES)).is_some());
    }

    #[test]
    fn old_failures_and_calls_that_say_nothing_do_not_count() {
        let (mut breaker, mut now) = (Breaker::new(), Instant::now());
        for _ in 0..100 {
            assert_eq!(calls(&mut breaker, &mut now, [FAILED]), None);
            now += MEMORY / 10;
        }
        assert_eq!(calls(&mut breaker, &mut now, of(None, 1_000)), None);
        assert_eq!(breaker.enter(now), Ok(Way::Open));
    }

    #[test]
    fn after_the_rest_one_call_at_a_time_finds_out() {
        let (mut breaker, now) = resting();
        let now = now + FIRST_REST;
        assert_eq!(breaker.enter(now), Ok(Way::Probe));
        assert!(breaker.enter(now).is_err(), "one at a time");
        // A caller who does not wait has proved nothing: the next one tries.
        assert_eq!(breaker.ended(Way::Probe, None, now), None);
        assert_eq!(breaker.enter(now), Ok(Way::Probe));
        assert_eq!(breaker.ended(Way::Probe, SOUND, now), Some(Turn::Closed));
        assert_eq!(breaker.enter(now), Ok(Way::Open));
        assert!(breaker.is_healthy(now));
    }

    #[test]
    fn each_rest_is_longer_up_to_a_minute_and_the_next_trouble_begins_anew() {
        let (mut breaker, mut now) = resting();
        let mut rests = Vec::new();
        for _ in 0..6 {
            now += breaker.rest(now).unwrap();
            assert_eq!(breaker.enter(now), Ok(Way::Probe));
            match breaker.ended(Way::Probe, FAILED, now) {
                Some(Turn::Reopened { rest }) => rests.push(rest.as_secs()),
                turn => panic!("{turn:?}"),
            }
        }
        assert_eq!(rests, [10, 20, 40, 60, 60, 60]);
        now += breaker.rest(now).unwrap();
        let probe = breaker.enter(now).unwrap();
        assert_eq!(breaker.ended(probe, SOUND, now), Some(Turn::Closed));
        assert!(calls(&mut breaker, &mut now, of(FAILED, FAILURES)).is_some());
        assert_eq!(breaker.rest(now), Some(FIRST_REST));
    }

    #[test]
    fn calls_that_began_before_the_rest_change_nothing() {
        let (mut breaker, now) = resting();
        for verdict in [SOUND, FAILED, None] {
            assert_eq!(breaker.ended(Way::Open, verdict, now), None);
        }
        assert_eq!(breaker.rest(now), Some(FIRST_REST));
        let probe = breaker.enter(now + FIRST_REST).unwrap();
        assert_eq!(breaker.ended(Way::Open, FAILED, now + FIRST_REST), None);
        assert_eq!(breaker.ended(probe, SOUND, now + FIRST_REST), Some(Turn::Closed));
    }

    #[test]
    fn a_new_version_that_fails_at_once_is_condemned() {
        let (mut breaker, mut now) = (Breaker::new(), Instant::now());
        breaker.on_trial = true;
        // It waits for its first call as long as it takes.
        now += TRIAL * 100;
        assert_eq!(calls(&mut breaker, &mut now, of(FAILED, TRIAL_FAILURES - 1)), None);
        let turn = calls(&mut breaker, &mut now, of(FAILED, 1));
        assert_eq!(turn, Some(Turn::Condemned));
        assert!(breaker.enter(now + LONGEST_REST * 10).is_err(), "for good");
        assert!(!breaker.is_healthy(now));
    }

    #[test]
    fn a_trial_ends_a_minute_after_the_first_call() {
        let (mut breaker, mut now) = (Breaker::new(), Instant::now());
        breaker.on_trial = true;
        calls(&mut breaker, &mut now, of(SOUND, 1));
        now += TRIAL + MS;
        assert!(!breaker.is_on_trial(now));
        now -= TRIAL / 2;
        assert!(breaker.is_on_trial(now));
        breaker.on_trial = false;
        let turn = calls(&mut breaker, &mut now, of(FAILED, FAILURES));
        assert!(matches!(turn, Some(Turn::Opened { .. })), "{turn:?}");
    }

    #[test]
    fn a_version_that_others_come_back_to_is_on_trial_no_more() {
        let circuit = Circuit::new();
        circuit.put_on_trial();
        let call = || circuit.enter(Instant::now(), false).expect("let through");
        call().ended_by(ErrorKind::Trap);
        assert!(!circuit.stand_by(Instant::now()), "it is not worth it");
        (0..TRIAL_FAILURES).for_each(|_| call().returned());
        assert!(circuit.stand_by(Instant::now()));
        let others: Vec<_> = (0..FAILURES).map(|_| call()).collect();
        others.into_iter().for_each(|call| call.ended_by(ErrorKind::Trap));
        assert!(!circuit.is_condemned());
        assert!(matches!(circuit.news(), Some(Turn::Opened { .. })), "it rests as any other");
    }

    #[test]
    fn on_trial_too_half_of_the_calls_may_go_well() {
        let (mut breaker, mut now) = (Breaker::new(), Instant::now());
        breaker.on_trial = true;
        for _ in 0..100 {
            assert_eq!(calls(&mut breaker, &mut now, [SOUND, SOUND, FAILED]), None);
        }
    }

    #[test]
    fn news_are_told_once_and_a_dropped_pass_says_nothing() {
        let circuit = Circuit::new();
        circuit.put_on_trial();
        for _ in 0..100 {
            drop(circuit.enter(Instant::now(), false).unwrap());
            circuit.enter(Instant::now(), false).unwrap().ended_by(ErrorKind::Overloaded);
            circuit.enter(Instant::now(), true).unwrap().ended_by(ErrorKind::Timeout);
        }
        assert_eq!(circuit.news(), None);
        use ErrorKind::{InstantiateFailed, ResourceExhausted, Timeout, Trap};
        for kind in [Trap, InstantiateFailed, ResourceExhausted, Timeout, Trap] {
            assert!(!circuit.is_condemned());
            circuit.enter(Instant::now(), false).unwrap().ended_by(kind);
        }
        assert!(circuit.is_condemned());
        assert_eq!(circuit.condemned_for(), Some((TRIAL_FAILURES, TRIAL_FAILURES)));
        assert_eq!(circuit.news(), Some(Turn::Condemned));
        assert_eq!(circuit.news(), None);
        assert!(circuit.enter(Instant::now(), false).is_err());
    }
}
