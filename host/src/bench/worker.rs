//! One connection's share of the calls: sends what is due, ticks off what comes.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Said;
use super::plan::Pace;
use super::report::BLOCKED;
use super::tally::{SecondTally, Tally, fault};
use super::timer::Timer;
use crate::amqp::{LoadLink, LoadReply};
use crate::client::CallDialect;

/// Requests that are published before the next look for replies.
const MOST_AT_ONCE: usize = 64;

/// At a rate, calls that are due within this time go out together: waking up for
/// each would cost more than all the rest, and what they are late by counts.
const BREATH: Duration = Duration::from_micros(400);

/// How often to look for calls to be given up, and for the end of a second.
const LOOK: Duration = Duration::from_millis(100);

/// The time that is measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    /// When the first call is due.
    pub(super) start: Instant,
    /// When the warm-up ends.
    pub(super) from: Instant,
    /// When the last call has been sent.
    pub(super) until: Instant,
}

impl Window {
    fn has(&self, at: Instant) -> bool {
        self.from <= at && at < self.until
    }

    /// The last moment of it.
    fn last(&self) -> Instant {
        self.until.checked_sub(Duration::from_nanos(1)).unwrap_or(self.until)
    }
}

/// A call that waits for its answer.
#[derive(Debug)]
struct Begun {
    /// When it was meant to be sent.
    meant: Instant,
    /// When it was sent.
    sent: Instant,
}

/// What came of one connection.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) tally: Tally,
    /// Why it ended before its time.
    pub(super) lost: Option<String>,
    /// Why calls may have been unanswered.
    pub(super) because: Option<String>,
}

/// One connection at work.
#[derive(Debug)]
pub(super) struct Worker {
    link: LoadLink,
    pace: Pace,
    window: Window,
    timeout: Duration,
    dialect: CallDialect,
    /// Calls in flight, of which there are as many as the pace allows.
    open: HashMap<u64, Begun>,
    next: u64,
    /// Once the window is over: how many of the calls that were due by then may still
    /// go out. There was room for them, but nobody had got round to it.
    overdue: Option<usize>,
    /// Whether the broker took nothing then.
    was_blocked: bool,
    tally: Tally,
    second: SecondTally,
    say: mpsc::UnboundedSender<Said>,
}

impl Worker {
    pub(super) fn new(
        link: LoadLink,
        pace: Pace,
        window: Window,
        timeout: Duration,
        dialect: CallDialect,
        say: mpsc::UnboundedSender<Said>,
    ) -> Result<Self, String> {
        Ok(Self {
            link,
            pace,
            window,
            timeout,
            dialect,
            open: HashMap::new(),
            next: 0,
            overdue: None,
            was_blocked: false,
            tally: Tally::new()?,
            second: SecondTally::new(0)?,
            say,
        })
    }

    /// Works until all is sent, and answered or given up. `stop` ends the
    /// sending, `quit` the waiting.
    pub(super) async fn run(mut self, stop: &CancellationToken, quit: &CancellationToken) -> Ended {
        let lost = self.work(stop, quit).await.err();
        if self.window.from < self.window.until {
            self.say_second();
        }
        let waiting = self.open.values().filter(|begun| self.window.has(begun.meant)).count();
        self.tally.unanswered += waiting as u64;
        // What a lost connection has kept from ever being due is not unsent.
        let until = if lost.is_some() { Instant::now() } else { self.window.until };
        let all = self.pace.left_until(self.window.until.min(until));
        let unsent = all.saturating_sub(self.pace.left_until(self.window.from));
        if self.was_blocked {
            self.tally.unsent_blocked = unsent;
        } else {
            self.tally.unsent = unsent;
        }
        let because = match (&lost, self.tally.unanswered) {
            (None, 1..) if !quit.is_cancelled() => self.why().await,
            _ => None,
        };
        self.link.close().await;
        Ended { tally: self.tally, lost, because }
    }

    async fn work(
        &mut self,
        stop: &CancellationToken,
        quit: &CancellationToken,
    ) -> Result<(), String> {
        let timer = Timer::new().map_err(|error| format!("no timer: {error}"))?;
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut replies = Vec::with_capacity(MOST_AT_ONCE);
        loop {
            let within = Instant::now() < self.window.until;
            let wake = if within || self.is_overdue() { self.send()? } else { None };
            if !within && self.open.is_empty() && !self.is_overdue() {
                return Ok(());
            }
            if wake.is_some_and(|at| at <= Instant::now()) {
                // The connection is served by this thread, too.
                tokio::task::yield_now().await;
            }
            tokio::select! {
                received = self.link.receive(&mut replies) => {
                    received?;
                    self.take(&mut replies)?;
                }
                waited = wait(&timer, wake) => waited.map_err(|error| format!("no timer: {error}"))?,
                _ = look.tick() => self.look()?,
                () = stop.cancelled(), if within => self.window.until = Instant::now(),
                () = quit.cancelled() => return Ok(()),
            }
        }
    }

    /// Whether the window is over, and calls are left that were due in it and may
    /// still be sent.
    fn is_overdue(&mut self) -> bool {
        if self.overdue.is_none() {
            self.was_blocked = self.link.is_blocked();
            let in_flight = self.in_flight();
            let room = self.pace.room(in_flight);
            self.overdue = Some(if self.was_blocked { 0 } else { room });
        }
        self.overdue != Some(0) && self.pace.left_until(self.window.until) > 0
    }

    /// Calls that wait for an answer or, of those that were given up, for the
    /// broker to take them.
    fn in_flight(&self) -> usize {
        self.open.len().max(self.link.unwritten())
    }

    /// Sends what is due; when to send more, where that is known.
    fn send(&mut self) -> Result<Option<Instant>, String> {
        if self.link.is_blocked() {
            // Looked at again with the next look, unless the window is over.
            if self.overdue.is_some() {
                (self.overdue, self.was_blocked) = (Some(0), true);
            }
            return Ok(None);
        }
        for _ in 0..MOST_AT_ONCE {
            let (now, in_flight) = (Instant::now(), self.in_flight());
            let Some(meant) = self.pace.due(now.min(self.window.last()), in_flight) else {
                self.overdue = self.overdue.map(|_| 0);
                return Ok(self.pace.next(in_flight).map(|next| next.max(now + BREATH)));
            };
            if !self.link.publish(self.next) {
                // The replies say why.
                return Ok(None);
            }
            self.open.insert(self.next, Begun { meant, sent: now });
            self.next += 1;
            if self.window.has(meant) {
                self.tally.sent(now.saturating_duration_since(meant));
            }
            self.overdue = self.overdue.map(|left| left.saturating_sub(1));
            if self.overdue == Some(0) {
                return Ok(None);
            }
        }
        Ok(Some(Instant::now()))
    }

    /// Ticks off calls. Replies that come together came at the same time, as far
    /// as anybody knows.
    fn take(&mut self, replies: &mut Vec<LoadReply>) -> Result<(), String> {
        let now = Instant::now();
        self.turn_to(now)?;
        let in_time = self.window.has(now);
        for reply in replies.drain(..) {
            let Some(begun) = reply.number.and_then(|number| self.open.remove(&number)) else {
                self.tally.extra += 1;
                continue;
            };
            let counts = self.window.has(begun.meant);
            let latency = now.saturating_duration_since(begun.meant);
            self.tally.replies += u64::from(in_time);
            match fault(self.dialect, reply.kind, reply.status, reply.body) {
                None => {
                    if counts {
                        self.tally.result(latency);
                    }
                    if in_time {
                        self.tally.results_in_time += 1;
                        self.second.result(latency);
                    }
                }
                Some(fault) => {
                    if counts {
                        self.tally.error(&fault);
                    }
                    self.second.errors += u64::from(in_time);
                }
            }
        }
        Ok(())
    }

    /// Gives up calls that have waited for too long.
    fn look(&mut self) -> Result<(), String> {
        let now = Instant::now();
        self.turn_to(now)?;
        let (timeout, window) = (self.timeout, self.window);
        let mut given_up = 0;
        self.open.retain(|_, begun| {
            let waits = now.saturating_duration_since(begun.sent) < timeout;
            given_up += u64::from(!waits && window.has(begun.meant));
            waits
        });
        self.tally.unanswered += given_up;
        Ok(())
    }

    /// Tells what came of each second that is over.
    fn turn_to(&mut self, now: Instant) -> Result<(), String> {
        let now = now.min(self.window.until);
        let number = now.saturating_duration_since(self.window.from).as_secs();
        while self.second.number < number
            && self.window.from + Duration::from_secs(self.second.number + 1) < self.window.until
        {
            let next = SecondTally::new(self.second.number + 1)?;
            self.say_second();
            self.second = next;
        }
        Ok(())
    }

    fn say_second(&mut self) {
        self.second.in_flight = self.open.len() as u64;
        let _nobody_may_listen_any_more = self.say.send(Said::Second(self.second.clone()));
    }

    /// Why calls are not answered, if the broker knows.
    async fn why(&self) -> Option<String> {
        if self.link.is_blocked() {
            return Some(BLOCKED.to_owned());
        }
        self.link.is_consumed().await.err().map(|error| error.to_string())
    }
}

/// Waits until that time, or for ever.
async fn wait(timer: &Timer, at: Option<Instant>) -> std::io::Result<()> {
    match at {
        Some(at) => timer.until(at).await,
        None => std::future::pending().await,
    }
}
