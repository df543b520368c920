//! Calls in flight, and which message belongs to which.
//!
//! Knows ids and nothing of connections, so a call outlives the connection it
//! was sent over. A reply that nobody waits for is dropped and counted by its
//! reason: a second one, one that came too late, one that was never asked for.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{CallCounts, CallerEvent, Watcher};
use crate::message::Properties;

/// Ended calls that are remembered, to tell why a reply is not wanted: what a
/// load of some thousand calls a second ends within a second or two.
const REMEMBERED: usize = 8192;

/// What ends the wait of a call.
#[derive(Debug)]
pub(super) enum Came {
    /// Its reply.
    Reply(Box<Properties>, Bytes),
    /// The request itself: no queue took it.
    Returned,
}

/// How a call ended that is no longer in flight.
#[derive(Debug, Clone, Copy)]
enum Ended {
    Answered,
    /// Nobody waits any more.
    Left,
}

/// All calls in flight.
#[derive(Debug)]
pub(super) struct Pending {
    /// Makes ids that nobody else makes and nobody can guess.
    prefix: String,
    next: AtomicU64,
    /// Is told of everything, and gets all replies.
    watcher: Option<Watcher>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: HashMap<String, Waiting>,
    ended: HashMap<String, Ended>,
    /// The keys of `ended`, oldest first.
    order: VecDeque<String>,
    counts: CallCounts,
}

/// What a call in flight is known by.
#[derive(Debug)]
struct Waiting {
    tell: oneshot::Sender<Came>,
    interim: Option<fn(&[u8]) -> bool>,
}

/// A call in flight; it is no longer when this is dropped.
#[derive(Debug)]
pub(super) struct Ticket<'a> {
    pending: &'a Pending,
    /// Both `correlation_id` and `message_id` of the request.
    pub(super) id: String,
    pub(super) came: oneshot::Receiver<Came>,
}

impl Pending {
    pub(super) fn new(watcher: Option<Watcher>) -> Self {
        Self {
            prefix: format!("{:032x}", rand::random::<u128>()),
            next: AtomicU64::new(1),
            watcher,
            inner: Mutex::default(),
        }
    }

    /// Begins a call, under an id of ours unless one is given. What `interim` tells
    /// of is no reply yet.
    pub(super) fn begin(&self, id: Option<&str>, interim: Option<fn(&[u8]) -> bool>) -> Ticket<'_> {
        let ours = || format!("{}-{}", self.prefix, self.next.fetch_add(1, Ordering::Relaxed));
        let id = id.map_or_else(ours, str::to_owned);
        let (tell, came) = oneshot::channel();
        self.inner().waiting.insert(id.clone(), Waiting { tell, interim });
        Ticket { pending: self, id, came }
    }

    /// Hands a reply to the call it belongs to, if there is one. `redelivered`
    /// is what the broker says of it: one that we had taken, but not yet acked
    /// when the connection was lost, is nobody's second answer.
    pub(super) fn reply(&self, properties: Properties, body: Bytes, redelivered: bool) {
        if self.watcher.is_some() {
            self.tell(CallerEvent::Reply { properties: &properties, body: &body, redelivered });
            return;
        }
        let id = properties.correlation_id.as_deref().and_then(|id| std::str::from_utf8(id).ok());
        let id = id.unwrap_or_default().to_owned();
        let mut inner = self.inner();
        let interim = inner.waiting.get(&id).and_then(|waiting| waiting.interim);
        if interim.is_some_and(|interim| interim(&body)) {
            return;
        }
        if let Some(waiting) = inner.waiting.remove(&id) {
            inner.remember(id, Ended::Answered);
            inner.counts.answered += 1;
            drop(inner);
            // Its call may have run out of time at this very moment.
            let _in_time = waiting.tell.send(Came::Reply(Box::new(properties), body));
            return;
        }
        let unwanted = match inner.ended.get(&id) {
            Some(Ended::Answered) if redelivered => return,
            Some(Ended::Answered) => &mut inner.counts.duplicates,
            Some(Ended::Left) => &mut inner.counts.late,
            None => &mut inner.counts.unknown,
        };
        *unwanted += 1;
        drop(inner);
        tracing::debug!(%id, "a reply that nobody waits for was dropped");
    }

    /// Ends the call whose request the broker has given back.
    pub(super) fn returned(&self, id: &str) {
        self.tell(CallerEvent::Returned { id });
        let waiting = self.inner().waiting.remove(id);
        if let Some(waiting) = waiting {
            // As above.
            let _in_time = waiting.tell.send(Came::Returned);
        }
    }

    /// Tells the watcher, if there is one.
    pub(super) fn tell(&self, event: CallerEvent<'_>) {
        if let Some(watcher) = &self.watcher {
            watcher.tell(event);
        }
    }

    pub(super) fn counts(&self) -> CallCounts {
        self.inner().counts
    }

    /// Changes the counters.
    pub(super) fn count(&self, change: impl FnOnce(&mut CallCounts)) {
        change(&mut self.inner().counts);
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn remember(&mut self, id: String, how: Ended) {
        if self.order.len() == REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.ended.remove(&oldest);
        }
        self.order.push_back(id.clone());
        self.ended.insert(id, how);
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut inner = self.pending.inner();
        if inner.waiting.remove(&self.id).is_some() {
            inner.remember(std::mem::take(&mut self.id), Ended::Left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply_to(id: &[u8]) -> Properties {
        Properties { correlation_id: Some(Bytes::copy_from_slice(id)), ..Properties::default() }
    }

    #[test]
    fn a_reply_reaches_its_call_and_what_nobody_waits_for_is_counted() {
        let pending = Pending::new(None);
        let mut first = pending.begin(None, None);
        let mut second = pending.begin(None, None);
        assert_ne!(first.id, second.id);
        pending.reply(reply_to(second.id.as_bytes()), Bytes::from_static(b"two"), false);
        pending.reply(reply_to(second.id.as_bytes()), Bytes::from_static(b"again"), false);
        pending.reply(reply_to(second.id.as_bytes()), Bytes::from_static(b"two"), true);
        assert!(first.came.try_recv().is_err());
        assert!(matches!(second.came.try_recv(), Ok(Came::Reply(_, body)) if body == "two"));

        let late = first.id.clone();
        drop(first);
        pending.reply(reply_to(late.as_bytes()), Bytes::new(), false);
        pending.reply(reply_to(b"never asked"), Bytes::new(), false);
        pending.reply(reply_to(b"\xFF\xFE"), Bytes::new(), false);
        pending.reply(Properties::default(), Bytes::new(), false);
        let counts = pending.counts();
        assert_eq!((counts.answered, counts.duplicates, counts.late, counts.unknown), (1, 1, 1, 3));
    }

    #[test]
    fn what_is_on_the_way_to_an_answer_is_waited_out() {
        let pending = Pending::new(None);
        let mut call = pending.begin(Some("7"), Some(|body| body == b"wait"));
        pending.reply(reply_to(b"7"), Bytes::from_static(b"wait"), false);
        assert!(call.came.try_recv().is_err());
        pending.reply(reply_to(b"7"), Bytes::from_static(b"done"), false);
        assert!(matches!(call.came.try_recv(), Ok(Came::Reply(_, body)) if body == "done"));
        assert_eq!(pending.counts().unknown, 0);
    }

    #[test]
    fn a_returned_request_ends_its_own_call_only() {
        let pending = Pending::new(None);
        let mut here = pending.begin(None, None);
        let mut gone = pending.begin(None, None);
        pending.returned(&gone.id);
        assert!(matches!(gone.came.try_recv(), Ok(Came::Returned)));
        assert!(here.came.try_recv().is_err());
    }

    #[test]
    fn calls_that_ended_are_forgotten_in_time() {
        let pending = Pending::new(None);
        let first = pending.begin(None, None).id.clone();
        for _ in 0..REMEMBERED {
            drop(pending.begin(None, None));
        }
        let inner = pending.inner();
        assert_eq!((inner.waiting.len(), inner.ended.len()), (0, REMEMBERED));
        assert!(!inner.ended.contains_key(&first));
        assert_eq!(inner.order.len(), REMEMBERED);
    }
}
