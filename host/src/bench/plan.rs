//! What is to be sent, and when each call is due.
//!
//! Pure: knows times and numbers, and neither connections nor clocks.

use std::time::{Duration, Instant};

use crate::amqp::LoadRequest;
use crate::client::CallDialect;

/// Calls that may wait for their answers at once, over all connections. Each
/// costs some hundred bytes here, and its request and reply in the broker.
pub const MOST_IN_FLIGHT: u32 = 100_000;

/// Bytes of bodies that may be in flight at once: they lie in this process, in
/// the broker and in the service, perhaps at the same time.
pub(super) const MOST_BYTES: u64 = 1 << 30;

/// More calls a second than a broker carries on any machine.
pub const HIGHEST_RATE: u32 = 1_000_000;

/// Each has a thread here, buffers of some megabytes, and processes in the broker.
pub const MOST_CONNECTIONS: u32 = 64;

/// How calls follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// So many calls at once: the next is sent when one is answered.
    InFlight(u32),
    /// So many calls a second, whether the service keeps up or not.
    Rate(u32),
}

/// What to measure, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// How calls follow each other.
    pub load: Load,
    /// Connections that share the calls.
    pub connections: u32,
    /// Calls that fall into this time are sent and not counted.
    pub warm_up: Duration,
    /// How long is counted.
    pub duration: Duration,
    /// A call is given up after this time.
    pub timeout: Duration,
    /// The request.
    pub request: LoadRequest,
    /// How it is written, and its replies.
    pub dialect: CallDialect,
    /// Processes whose processor time is measured, too: name and id.
    pub processes: Vec<(String, u32)>,
}

impl Options {
    /// What cannot be measured like this, and which limit says so.
    ///
    /// # Errors
    ///
    /// A sentence.
    pub fn check(&self) -> Result<(), String> {
        let connections = self.connections;
        let (least, named) = match self.load {
            Load::InFlight(calls) if calls < connections => {
                return Err(format!(
                    "`--connections {connections}` is more than `--in-flight {calls}`: each needs \
                     a call"
                ));
            }
            Load::InFlight(calls) => (calls, format!("`--in-flight {calls}`")),
            // At a rate there are as many as fit, and each connection needs one.
            Load::Rate(_) => (connections, format!("`--connections {connections}` with a call")),
        };
        let body = self.request.body.len() as u64;
        if u64::from(least).saturating_mul(body) > MOST_BYTES {
            return Err(format!(
                "{named} of {body} bytes each are more than the {MOST_BYTES} bytes that may be in \
                 flight"
            ));
        }
        Ok(())
    }

    /// The calls of one connection, when the first is due at `start`.
    pub(super) fn pace(&self, connection: u32, start: Instant) -> Pace {
        let connections = self.connections.max(1);
        match self.load {
            Load::InFlight(calls) => {
                let extra = u32::from(connection < calls % connections);
                Pace::Closed { most: (calls / connections + extra) as usize }
            }
            Load::Rate(rate) => {
                let body = (self.request.body.len() as u64).max(1);
                let fitting = MOST_BYTES / body / u64::from(connections);
                let most = u64::from(MOST_IN_FLIGHT / connections).min(fitting);
                Pace::Open {
                    start,
                    number: connection.into(),
                    step: connections.into(),
                    rate: rate.max(1).into(),
                    most: usize::try_from(most).unwrap_or(usize::MAX),
                }
            }
        }
    }
}

/// When the calls of one connection are due.
#[derive(Debug)]
pub(super) enum Pace {
    /// As soon as there are fewer than this.
    Closed { most: usize },
    /// At times that were fixed from the start. Connections take turns: this one
    /// has the calls `number`, `number + step` …
    Open { start: Instant, number: u64, step: u64, rate: u64, most: usize },
}

impl Pace {
    /// The time that the next call is meant for, if that has come. With too many
    /// unanswered it waits, and the time it was meant for stays what it is: the
    /// wait is part of its latency.
    pub(super) fn due(&mut self, now: Instant, unanswered: usize) -> Option<Instant> {
        match self {
            Self::Closed { most } => (unanswered < *most).then_some(now),
            Self::Open { start, number, step, rate, most } => {
                let at = time_of(*number, *start, *rate)?;
                if at > now || unanswered >= *most {
                    return None;
                }
                *number = number.saturating_add(*step);
                Some(at)
            }
        }
    }

    /// Calls that may be sent besides those that are unanswered.
    pub(super) fn room(&self, unanswered: usize) -> usize {
        let (Self::Closed { most } | Self::Open { most, .. }) = self;
        most.saturating_sub(unanswered)
    }

    /// When to look again, where the clock decides that and no reply.
    pub(super) fn next(&self, unanswered: usize) -> Option<Instant> {
        match self {
            Self::Open { start, number, rate, most, .. } if unanswered < *most => {
                time_of(*number, *start, *rate)
            }
            Self::Open { .. } | Self::Closed { .. } => None,
        }
    }

    /// Calls that were meant for a time before `end` and have not been due.
    pub(super) fn left_until(&self, end: Instant) -> u64 {
        match self {
            Self::Closed { .. } => 0,
            Self::Open { start, number, step, rate, .. } => {
                let nanos = end.saturating_duration_since(*start).as_nanos();
                let total = nanos.saturating_mul(u128::from(*rate)).div_ceil(1_000_000_000);
                let left = total.saturating_sub(u128::from(*number)).div_ceil(u128::from(*step));
                u64::try_from(left).unwrap_or(u64::MAX)
            }
        }
    }
}

/// When a call is due: counted from the start, so that nothing adds up.
fn time_of(number: u64, start: Instant, rate: u64) -> Option<Instant> {
    let nanos = u128::from(number) * 1_000_000_000 / u128::from(rate);
    start.checked_add(Duration::from_nanos(u64::try_from(nanos).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(load: Load, connections: u32, body: usize) -> Options {
        Options {
            load,
            connections,
            warm_up: Duration::ZERO,
            duration: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            request: LoadRequest {
                queue: "q".to_owned(),
                kind: None,
                content_type: None,
                body: vec![0; body],
                persistent: false,
                reply_queue: false,
            },
            dialect: CallDialect::Plain,
            processes: Vec::new(),
        }
    }

    #[test]
    fn connections_share_the_calls_in_flight() {
        let now = Instant::now();
        let options = options(Load::InFlight(10), 4, 0);
        let shares: Vec<usize> = (0..4)
            .map(|connection| {
                let mut pace = options.pace(connection, now);
                (0..).take_while(|open| pace.due(now, *open).is_some()).count()
            })
            .collect();
        assert_eq!(shares, [3, 3, 2, 2]);
        assert_eq!(options.pace(0, now).next(0), None);
        assert_eq!(options.pace(0, now).left_until(now + Duration::from_secs(9)), 0);
    }

    #[test]
    fn connections_take_turns_at_a_rate_and_nothing_drifts() {
        let start = Instant::now();
        let options = options(Load::Rate(3), 2, 0);
        let mut times = Vec::new();
        for connection in 0..2 {
            let mut pace = options.pace(connection, start);
            let later = start + Duration::from_secs(100_000);
            for _ in 0..3 {
                times.push((pace.due(later, 0).unwrap() - start).as_nanos());
            }
            let left = pace.left_until(start + Duration::from_secs(4));
            assert_eq!(left, 3, "12 calls in 4 s, 6 of each, 3 are gone");
        }
        times.sort_unstable();
        assert_eq!(
            times,
            [0, 333_333_333, 666_666_666, 1_000_000_000, 1_333_333_333, 1_666_666_666]
        );
    }

    #[test]
    fn what_waits_for_others_keeps_the_time_it_was_meant_for() {
        let start = Instant::now();
        let mut pace = options(Load::Rate(10), 1, 100 << 20).pace(0, start);
        assert_eq!(pace.due(start, 0), Some(start));
        let second = start + Duration::from_millis(100);
        assert_eq!((pace.next(9), pace.next(10)), (Some(second), None));
        assert_eq!(pace.due(start, 0), None, "too early");
        // Ten of these bodies fit.
        assert_eq!(pace.due(start + Duration::from_secs(5), 10), None);
        assert_eq!(pace.due(start + Duration::from_secs(9), 9), Some(second));
    }

    #[test]
    fn impossible_wishes_are_refused_with_the_limit() {
        assert!(options(Load::InFlight(128), 1, 16).check().is_ok());
        let text = options(Load::InFlight(2), 3, 16).check().unwrap_err();
        assert!(text.contains("`--connections 3`"), "{text}");
        let text = options(Load::InFlight(1025), 1, 1 << 20).check().unwrap_err();
        assert!(text.contains("1073741824 bytes"), "{text}");
        assert!(options(Load::Rate(1), 64, 16 << 20).check().is_ok());
        let text = options(Load::Rate(1), 64, (16 << 20) + 1).check().unwrap_err();
        assert!(text.contains("`--connections 64` with a call of 16777217 bytes each"), "{text}");
    }
}
