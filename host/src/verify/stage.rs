//! How far a request has come, by what the Firehose has copied.

use super::ledger::Expected;

/// Queues of one request that are told apart; a message that goes to more is
/// counted by number.
const MOST_QUEUES: usize = 64;

/// What was seen of one request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Marks {
    /// Times that it was published.
    pub(super) published: u32,
    /// Queues that it went to.
    pub(super) routed: Vec<String>,
    /// Queues that it was delivered from.
    pub(super) delivered: Vec<String>,
    /// Deliveries.
    pub(super) deliveries: u32,
    /// Replies that were published …
    pub(super) replies: u32,
    /// … of which a queue took this many, …
    pub(super) replies_routed: u32,
    /// … and of which this many were delivered to us.
    pub(super) replies_delivered: u32,
    /// Whether copies are missing since it was sent.
    pub(super) gap: bool,
}

/// Where a request was seen last, in the order of its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// It has not reached the exchange.
    NotPublished,
    /// It has reached the exchange, and no queue took it.
    NotQueued,
    /// It went to these queues, which have not delivered it. The default
    /// exchange names a queue whether it exists or not.
    NotDelivered(Vec<String>),
    /// It was delivered this often, and not answered as often as expected.
    NotAnswered(u32),
    /// A reply was published, and no queue took it.
    ReplyNotQueued,
    /// A reply is in our queue, and has not reached us.
    ReplyNotDelivered,
    /// All was delivered to us, and not ticked off: a fault of this check.
    NotTickedOff,
    /// As the one within, as far as is known: copies are missing.
    Unsure(Box<Stage>),
}

impl Stage {
    /// A word for machines.
    pub fn name(&self) -> &'static str {
        match self {
            Self::NotPublished => "not-published",
            Self::NotQueued => "not-queued",
            Self::NotDelivered(_) => "not-delivered",
            Self::NotAnswered(_) => "not-answered",
            Self::ReplyNotQueued => "reply-not-queued",
            Self::ReplyNotDelivered => "reply-not-delivered",
            Self::NotTickedOff => "not-ticked-off",
            Self::Unsure(_) => "unsure",
        }
    }
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotPublished => f.write_str("never reached the exchange"),
            Self::NotQueued => f.write_str("reached the exchange, and no queue took it"),
            Self::NotDelivered(queues) => {
                let names: Vec<String> =
                    queues.iter().map(|queue| format!("`{}`", queue.escape_debug())).collect();
                write!(f, "sent to {}, never delivered from there", names.join(", "))
            }
            Self::NotAnswered(1) => f.write_str("delivered once, not answered"),
            Self::NotAnswered(times) => write!(f, "delivered {times} times, not answered"),
            Self::ReplyNotQueued => f.write_str("answered, and no queue took the answer"),
            Self::ReplyNotDelivered => f.write_str("answered, and the answer did not come to us"),
            Self::NotTickedOff => f.write_str("delivered to us, and not ticked off"),
            Self::Unsure(stage) => {
                write!(f, "unsure, the trace has a gap; as far as seen: {stage}")
            }
        }
    }
}

impl Marks {
    pub(super) fn routed_to(&mut self, queues: &[String]) {
        self.published = self.published.saturating_add(1);
        for queue in queues {
            add(&mut self.routed, queue);
        }
    }

    pub(super) fn delivered_from(&mut self, queue: &str) {
        self.deliveries = self.deliveries.saturating_add(1);
        add(&mut self.delivered, queue);
    }

    pub(super) fn reply(&mut self, routed: bool) {
        self.replies = self.replies.saturating_add(1);
        self.replies_routed = self.replies_routed.saturating_add(u32::from(routed));
    }

    /// `missing` are the queues of [`Expected::Queues`] that it did not come
    /// from.
    pub(super) fn stage(&self, expected: &Expected, missing: &[String]) -> Stage {
        let stage = self.last_seen(expected, missing);
        if self.gap { Stage::Unsure(Box::new(stage)) } else { stage }
    }

    fn last_seen(&self, expected: &Expected, missing: &[String]) -> Stage {
        // A delivery says as much as a publish, and may be seen where that was
        // not.
        if self.published == 0 && self.deliveries == 0 {
            return Stage::NotPublished;
        }
        if self.routed.is_empty() && self.delivered.is_empty() {
            return Stage::NotQueued;
        }
        let stuck = |queues: &mut dyn Iterator<Item = &String>| -> Vec<String> {
            queues.filter(|queue| !self.delivered.contains(queue)).cloned().collect()
        };
        match expected {
            Expected::Queues(_) => {
                // A queue that is not bound is one that did not take it.
                if missing.iter().any(|queue| !self.routed.contains(queue)) {
                    return Stage::NotQueued;
                }
                let stuck = stuck(&mut missing.iter());
                if stuck.is_empty() { Stage::NotTickedOff } else { Stage::NotDelivered(stuck) }
            }
            Expected::Answers(expected) => {
                let stuck = stuck(&mut self.routed.iter());
                if !stuck.is_empty() && self.replies < *expected {
                    Stage::NotDelivered(stuck)
                } else if self.replies < *expected {
                    Stage::NotAnswered(self.deliveries)
                } else if self.replies_routed < *expected {
                    Stage::ReplyNotQueued
                } else if self.replies_delivered < *expected {
                    Stage::ReplyNotDelivered
                } else {
                    Stage::NotTickedOff
                }
            }
        }
    }
}

fn add(names: &mut Vec<String>, name: &str) {
    if names.len() < MOST_QUEUES && !names.iter().any(|known| known == name) {
        names.push(name.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_of_a_requests_life_moves_it_on() {
        let (one, q) = (Expected::Answers(1), ["q".to_owned()]);
        let mut marks = Marks::default();
        assert_eq!(marks.stage(&one, &[]), Stage::NotPublished);
        marks.routed_to(&[]);
        assert_eq!(marks.stage(&one, &[]), Stage::NotQueued);
        marks.routed_to(&q);
        assert_eq!(marks.stage(&one, &[]), Stage::NotDelivered(q.to_vec()));
        marks.delivered_from("q");
        assert_eq!(marks.stage(&one, &[]), Stage::NotAnswered(1));
        marks.reply(false);
        assert_eq!(marks.stage(&one, &[]), Stage::ReplyNotQueued);
        marks.reply(true);
        assert_eq!(marks.stage(&one, &[]), Stage::ReplyNotDelivered);
        marks.gap = true;
        let said = marks.stage(&one, &[]).to_string();
        assert!(said.contains("gap") && said.contains("did not come to us"), "{said}");
    }

    #[test]
    fn of_several_queues_the_one_that_lacks_it_is_named() {
        let queues = ["a", "b"].map(str::to_owned);
        let expected = Expected::Queues(queues.to_vec());
        let mut marks = Marks::default();
        marks.routed_to(&queues);
        marks.delivered_from("a");
        let missing = ["b".to_owned()];
        assert_eq!(marks.stage(&expected, &missing), Stage::NotDelivered(missing.to_vec()));
        marks.delivered_from("b");
        assert_eq!(marks.stage(&expected, &missing), Stage::NotTickedOff);
        let unbound = ["c".to_owned()];
        assert_eq!(marks.stage(&expected, &unbound), Stage::NotQueued);
    }
}
