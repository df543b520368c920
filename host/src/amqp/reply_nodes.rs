//! Which broker nodes direct replies may be sent through.
//!
//! A direct reply-to address holds the number of the node its caller is
//! connected to. RabbitMQ 3 closes the connection that publishes to the number
//! of a node that is gone (error 541), and every number it has not seen costs
//! it an atom for ever. So numbers are remembered: one that has failed is
//! tried away from other replies, and only so many are known at a time.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Most nodes known at a time: more than any cluster has.
const MAX_NODES: usize = 64;

/// A number that was not used for this long is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// For how long after a failure nothing is sent to a node. Its callers are
/// disconnected, and a node does not come back faster.
const GONE_FOR: Duration = Duration::from_secs(1);

/// How a direct reply travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    /// With all the others.
    Shared,
    /// On the connection for suspects: the node has failed before.
    Alone,
    /// Not at all.
    Nowhere,
}

/// What is known of the nodes.
#[derive(Debug, Default)]
pub(super) struct ReplyNodes(Mutex<HashMap<u64, Node>>);

#[derive(Debug, Clone, Copy)]
struct Node {
    used: Instant,
    /// The last failure, until something gets through again.
    failed: Option<Instant>,
}

impl ReplyNodes {
    /// How a reply to this node is sent.
    pub(super) fn route(&self, number: u64, now: Instant) -> Route {
        let mut nodes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if nodes.len() >= MAX_NODES && !nodes.contains_key(&number) {
            nodes.retain(|_, node| now.duration_since(node.used) < FORGOTTEN_AFTER);
            if nodes.len() >= MAX_NODES {
                return Route::Nowhere;
            }
        }
        let node = nodes.entry(number).or_insert(Node { used: now, failed: None });
        node.used = now;
        match node.failed {
            None => Route::Shared,
            Some(failed) if now.duration_since(failed) < GONE_FOR => Route::Nowhere,
            Some(_) => Route::Alone,
        }
    }

    /// A reply that was sent alone got through, or made the broker close the
    /// connection.
    pub(super) fn tried(&self, number: u64, failed: bool, now: Instant) {
        let mut nodes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(node) = nodes.get_mut(&number) {
            node.failed = failed.then_some(now);
        }
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
    fn only_so_many_nodes_are_known_at_a_time() {
        let (nodes, now) = (ReplyNodes::default(), Instant::now());
        for number in 0..MAX_NODES as u64 {
            assert_eq!(nodes.route(number, now), Route::Shared);
        }
        assert_eq!(nodes.route(9_999, now), Route::Nowhere);
        assert_eq!(nodes.route(0, now + FORGOTTEN_AFTER), Route::Shared, "known ones go on");
        assert_eq!(
            nodes.route(9_999, now + FORGOTTEN_AFTER),
            Route::Shared,
            "others are forgotten"
        );
        assert_eq!(nodes.route(1, now + FORGOTTEN_AFTER), Route::Shared);
    }
}
