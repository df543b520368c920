//! Which broker nodes direct replies may be sent through.
//!
//! A direct reply-to address holds the number of the node its caller is
//! connected to. RabbitMQ 3 closes the connection that publishes to the number
//! of a node that is gone (error 541), and every number it has not seen costs
//! it an atom for ever. So numbers are remembered: one that has failed is
//! tried away from other replies, and only so many are known at a time. Anybody
//! can make numbers up; they cost those of real nodes nothing.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Most nodes known at a time: more than any cluster has.
const MAX_NODES: usize = 64;

/// A number that nothing got through to for this long makes room for others.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// A number that nothing ever got through to makes room this long after its last
/// failure. Made-up numbers that come without end are tried no faster than the
/// connection for suspects takes them: about ten a second, of which they get six.
const FORGED_AFTER: Duration = Duration::from_secs(10);

/// For how long after a failure nothing is sent to a node. Its callers are
/// disconnected, and a node does not come back faster.
const GONE_FOR: Duration = Duration::from_secs(1);

/// How a direct reply travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    /// With all the others.
    Shared,
    /// On the connection for suspects: the node has failed before, or there are
    /// more numbers than a cluster has nodes.
    Alone,
    /// Not at all.
    Nowhere,
}

/// What is known of the nodes.
#[derive(Debug, Default)]
pub(super) struct ReplyNodes(Mutex<HashMap<u64, Node>>);

#[derive(Debug, Clone, Copy, Default)]
struct Node {
    /// The last time that something got through.
    through: Option<Instant>,
    /// The last failure, until something gets through again.
    failed: Option<Instant>,
    /// Whether it came when there was no room, and has proved nothing yet.
    suspect: bool,
}

impl ReplyNodes {
    /// How a reply to this node is sent.
    pub(super) fn route(&self, number: u64, now: Instant) -> Route {
        let mut nodes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(node) = nodes.get(&number) {
            return match node.failed {
                Some(failed) if now.duration_since(failed) < GONE_FOR => Route::Nowhere,
                None if !node.suspect => Route::Shared,
                _ => Route::Alone,
            };
        }
        let suspect = nodes.len() >= MAX_NODES;
        if suspect {
            let Some(worst) = worst(&nodes, now) else { return Route::Nowhere };
            nodes.remove(&worst);
        }
        nodes.insert(number, Node { suspect, ..Node::default() });
        if suspect { Route::Alone } else { Route::Shared }
    }

    /// A reply got through, or made the broker close the connection.
    pub(super) fn tried(&self, number: u64, failed: bool, now: Instant) {
        let mut nodes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match nodes.get_mut(&number) {
            Some(node) if failed => node.failed = Some(now),
            Some(node) => *node = Node { through: Some(now), ..Node::default() },
            None => {}
        }
    }
}

/// The number that another can take the place of.
fn worst(nodes: &HashMap<u64, Node>, now: Instant) -> Option<u64> {
    let forged = nodes.iter().filter(|(_, node)| node.through.is_none());
    let forged = forged.filter_map(|(number, node)| Some((node.failed?, *number))).min();
    let idle = nodes.iter().filter_map(|(number, node)| Some((node.through?, *number))).min();
    match (forged, idle) {
        (Some((failed, number)), _) if now.duration_since(failed) >= FORGED_AFTER => Some(number),
        (_, Some((used, number))) if now.duration_since(used) >= FORGOTTEN_AFTER => Some(number),
        // A broker that takes any number, as RabbitMQ 4 does, proves nothing.
        (None, Some((_, number))) => Some(number),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_failed_is_left_alone_then_tried_apart_then_trusted_again() {
        let (nodes, now) = (ReplyNodes::default(), Instant::now());
        assert_eq!(nodes.route(7, now), Route::Shared);
        nodes.tried(7, true, now);
        assert_eq!(nodes.route(7, now), Route::Nowhere);
        assert_eq!(nodes.route(8, now), Route::Shared);
        assert_eq!(nodes.route(7, now + GONE_FOR), Route::Alone);
        nodes.tried(7, false, now + GONE_FOR);
        assert_eq!(nodes.route(7, now + GONE_FOR), Route::Shared);
    }

    #[test]
    fn numbers_that_somebody_made_up_cost_those_of_nodes_nothing() {
        let (nodes, now) = (ReplyNodes::default(), Instant::now());
        assert_eq!(nodes.route(0, now), Route::Shared);
        nodes.tried(0, false, now);
        for number in 1..MAX_NODES as u64 {
            assert_eq!(nodes.route(number, now), Route::Shared);
            nodes.tried(number, true, now);
        }
        assert_eq!(nodes.route(9_999, now), Route::Nowhere, "too many at once");
        assert_eq!(nodes.route(0, now), Route::Shared, "a known one goes on");
        let mut later = now;
        for number in 10_000..20_000 {
            later += FORGED_AFTER;
            assert_eq!(nodes.route(number, later), Route::Alone);
            assert_eq!(nodes.route(number, later), Route::Alone, "until it is known");
            nodes.tried(number, true, later);
            assert_eq!(nodes.route(0, later), Route::Shared, "a known one goes on");
            nodes.tried(0, false, later);
        }
        // A node that is new comes in between them.
        later += FORGED_AFTER;
        assert_eq!(nodes.route(1, later), Route::Alone);
        nodes.tried(1, false, later);
        assert_eq!(nodes.route(1, later), Route::Shared);
    }

    #[test]
    fn where_every_number_gets_through_none_is_turned_away() {
        let (nodes, now) = (ReplyNodes::default(), Instant::now());
        for number in 0..10_000 {
            assert_ne!(nodes.route(number, now), Route::Nowhere, "{number}");
            nodes.tried(number, false, now);
        }
        assert!(nodes.0.lock().unwrap().len() <= MAX_NODES);
    }
}
