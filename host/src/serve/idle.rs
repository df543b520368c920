//! A consumer that gets nothing, although there is something.
//!
//! RabbitMQ can forget a consumer whose channel lives: a node that was away for a moment, a queue that
//! has moved. To a host that looks like silence. So one that has nothing to do asks how many requests
//! wait; if that is some twice in a row, it consumes anew. Of a queue with a single active consumer, all
//! others are idle for good reason; so whoever asks in vain waits twice as long each time.

use std::time::{Duration, Instant};

/// How long a consumer may be idle before it asks, and between two questions.
const LOOK: Duration = Duration::from_secs(30);

/// The longest it becomes.
const LONGEST: Duration = Duration::from_secs(3_600);

/// Times that requests have to wait for somebody else, before the consumer is believed forgotten.
const ENOUGH: u32 = 2;

/// How idle a consumer is.
#[derive(Debug)]
pub(super) struct Idle {
    pause: Duration,
    look: Instant,
    /// Since the last look.
    delivered: bool,
    seen: u32,
}

impl Idle {
    pub(super) fn new(now: Instant) -> Self {
        Self { pause: LOOK, look: now + LOOK, delivered: false, seen: 0 }
    }

    /// A request has come.
    pub(super) fn delivered(&mut self) {
        (self.delivered, self.pause) = (true, LOOK);
    }

    /// When to look again.
    pub(super) fn look(&self) -> Instant {
        self.look
    }

    /// Whether the broker has to be asked, now that it is time; `busy` is whether a call runs.
    pub(super) fn is_worth_a_look(&mut self, busy: bool, now: Instant) -> bool {
        self.look = now + self.pause;
        let idle = !std::mem::take(&mut self.delivered) && !busy;
        if !idle {
            self.seen = 0;
        }
        idle
    }

    /// So many requests wait. Whether the consumer is forgotten.
    pub(super) fn is_forgotten(&mut self, ready: u32) -> bool {
        self.seen = if ready == 0 { 0 } else { self.seen + 1 };
        self.seen >= ENOUGH
    }

    /// Begins anew, as a consumer does.
    pub(super) fn again(&mut self, now: Instant) {
        self.pause = self.pause.saturating_mul(2).min(LONGEST);
        (self.look, self.delivered, self.seen) = (now + self.pause, false, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_gets_nothing_twice_although_requests_wait_is_forgotten() {
        let now = Instant::now();
        let mut idle = Idle::new(now);
        assert_eq!(idle.look(), now + LOOK);
        assert!(idle.is_worth_a_look(false, now));
        assert!(!idle.is_forgotten(3));
        assert!(idle.is_worth_a_look(false, now));
        assert!(idle.is_forgotten(3));
        // It asks less often now, until something comes.
        idle.again(now);
        assert_eq!(idle.look(), now + 2 * LOOK);
        idle.delivered();
        assert!(!idle.is_worth_a_look(false, now));
        assert_eq!(idle.look(), now + LOOK);
    }

    #[test]
    fn work_or_an_empty_queue_between_two_looks_is_reason_enough_for_silence() {
        let now = Instant::now();
        let mut idle = Idle::new(now);
        for between in [0, 1, 2] {
            assert!(idle.is_worth_a_look(false, now));
            assert!(!idle.is_forgotten(1));
            match between {
                0 => assert!(!idle.is_worth_a_look(true, now)),
                1 => assert!(!idle.is_forgotten(0)),
                _ => {
                    idle.delivered();
                    assert!(!idle.is_worth_a_look(false, now));
                }
            }
        }
    }
}
