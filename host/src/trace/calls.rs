//! Requests and their replies, joined by correlation id and reply address.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, SystemTime};

use super::{Event, Kind};
use crate::message::STATUS;

/// Calls that are followed at once. Each takes about a kilobyte, however large
/// its messages are; the oldest make room for further ones.
const MOST_OPEN: usize = 10_000;

/// Longest id and address that a call is followed by: AMQP's short strings end
/// there.
const LONGEST_NAME: usize = 255;

/// Replies to such an address are handed to their connection, and no delivery
/// of them is copied.
const DIRECT: &[u8] = b"amq.rabbitmq.reply-to";

/// A request, what became of it, and when.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// `correlation_id`.
    pub id: Vec<u8>,
    /// `reply_to`.
    pub reply_to: Vec<u8>,
    /// The property `type`, or the header `rpc-method`.
    pub method: Option<String>,
    /// Exchange and routing key of the request.
    pub exchange: String,
    /// See `exchange`.
    pub routing_key: String,
    /// The queue it was delivered from first, else the first it went to.
    pub queue: Option<String>,
    /// How often the request was delivered.
    pub deliveries: u32,
    /// `rpchost-status` of the reply, or `error` where its `type` says so.
    pub status: Option<String>,
    /// Bytes of the request's body.
    pub request_bytes: usize,
    /// Bytes of the reply's body.
    pub reply_bytes: Option<usize>,
    /// When the request was published.
    pub published: SystemTime,
    /// When it was delivered, the first time.
    pub delivered: Option<SystemTime>,
    /// When the reply was published.
    pub replied: Option<SystemTime>,
    /// When the reply was delivered.
    pub returned: Option<SystemTime>,
    /// Whether any queue took the reply; true of direct ones.
    pub reply_routed: bool,
}

impl Call {
    /// From request to the last that was seen of its reply; `None` of a call
    /// without one.
    pub fn total(&self) -> Option<Duration> {
        Some(between(self.published, self.returned.or(self.replied)?))
    }

    /// In the queue.
    pub fn waited(&self) -> Option<Duration> {
        Some(between(self.published, self.delivered?))
    }

    /// From the first delivery to the reply.
    pub fn worked(&self) -> Option<Duration> {
        Some(between(self.delivered?, self.replied?))
    }

    /// The reply, in its queue.
    pub fn back(&self) -> Option<Duration> {
        Some(between(self.replied?, self.returned?))
    }
}

/// By the wall clock, which may be set back between the two.
fn between(from: SystemTime, to: SystemTime) -> Duration {
    to.duration_since(from).unwrap_or_default()
}

/// What tells calls apart: the correlation id, and where the reply goes.
type Key = (Vec<u8>, Vec<u8>);

/// The calls that are not over.
#[derive(Debug)]
pub struct Calls {
    open: HashMap<Key, Call>,
    /// Keys in the order of the requests, some of which are over.
    order: VecDeque<(SystemTime, Key)>,
    patience: Duration,
}

impl Calls {
    /// A call that has no reply after `patience` is told as it is.
    pub fn new(patience: Duration) -> Self {
        Self { open: HashMap::new(), order: VecDeque::new(), patience }
    }

    /// Takes an event and gives the calls that are over by it.
    pub fn note(&mut self, event: &Event) -> Vec<Call> {
        let mut over = Vec::new();
        if let Some(id) = event.property("correlation_id").filter(|id| id.len() <= LONGEST_NAME) {
            match (event.kind, event.property("reply_to")) {
                (Kind::Publish, Some(reply_to)) if !reply_to.is_empty() => {
                    over.extend(self.request(id, reply_to, event));
                }
                (Kind::Deliver, Some(reply_to)) if !reply_to.is_empty() => {
                    self.delivery(id, reply_to, event);
                }
                (Kind::Publish, _) => over.extend(self.reply(id, event)),
                (Kind::Deliver, _) => over.extend(self.reply_delivery(id, event)),
            }
        }
        over.extend(self.expired(event.at));
        over
    }

    /// Calls without a reply that nobody waits for any longer.
    pub fn expired(&mut self, now: SystemTime) -> Vec<Call> {
        let mut over = Vec::new();
        while let Some((published, key)) = self.order.front() {
            let is_open = self.open.get(key).is_some_and(|call| call.published == *published);
            let is_old = between(*published, now) >= self.patience;
            if is_open && !is_old && self.open.len() <= MOST_OPEN {
                break;
            }
            // What is over leaves the line together with what is old.
            if is_open {
                over.extend(self.open.remove(key));
            }
            self.order.pop_front();
        }
        over
    }

    /// Everything that is still open, oldest first.
    pub fn rest(&mut self) -> Vec<Call> {
        let mut rest: Vec<Call> = self.open.drain().map(|(_, call)| call).collect();
        self.order.clear();
        rest.sort_by_key(|call| call.published);
        rest
    }

    /// An id that is used again ends the call that had it.
    fn request(&mut self, id: &[u8], reply_to: &[u8], event: &Event) -> Option<Call> {
        if reply_to.len() > LONGEST_NAME {
            return None;
        }
        let key = (id.to_vec(), reply_to.to_vec());
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        let method = event
            .property("type")
            .map(text)
            .or_else(|| event.header("rpc-method").map(str::to_owned));
        let call = Call {
            id: key.0.clone(),
            reply_to: key.1.clone(),
            method,
            exchange: event.exchange.clone(),
            routing_key: event.routing_key().to_owned(),
            queue: event.queues.first().cloned(),
            deliveries: 0,
            status: None,
            request_bytes: event.body_bytes,
            reply_bytes: None,
            published: event.at,
            delivered: None,
            replied: None,
            returned: None,
            reply_routed: false,
        };
        if self.order.len() >= 2 * MOST_OPEN {
            // Behind one that is still open may stand any number that are over.
            let open = &self.open;
            self.order.retain(|(at, key)| open.get(key).is_some_and(|call| call.published == *at));
        }
        self.order.push_back((event.at, key.clone()));
        self.open.insert(key, call)
    }

    fn delivery(&mut self, id: &[u8], reply_to: &[u8], event: &Event) {
        if let Some(call) = self.open.get_mut(&(id.to_vec(), reply_to.to_vec())) {
            if call.delivered.is_none() {
                call.delivered = Some(event.at);
                call.queue = event.queues.first().cloned();
            }
            call.deliveries = call.deliveries.saturating_add(1);
        }
    }

    fn reply(&mut self, id: &[u8], event: &Event) -> Option<Call> {
        let key = (id.to_vec(), event.routing_key().as_bytes().to_vec());
        let call = self.open.get_mut(&key)?;
        if call.replied.is_some() {
            // The second answer to one request is an event, not another call.
            return None;
        }
        let is_error = || (event.property("type")? == b"error").then(|| "error".to_owned());
        call.replied = Some(event.at);
        call.reply_bytes = Some(event.body_bytes);
        call.status = event.header(STATUS).map(str::to_owned).or_else(is_error);
        let direct = call.reply_to.starts_with(DIRECT);
        call.reply_routed = direct || !event.queues.is_empty();
        if direct || !call.reply_routed { self.open.remove(&key) } else { None }
    }

    fn reply_delivery(&mut self, id: &[u8], event: &Event) -> Option<Call> {
        let queue = event.queues.first().map(|queue| queue.as_bytes().to_vec());
        let key = (id.to_vec(), queue.unwrap_or_default());
        self.open.get_mut(&key)?.returned = Some(event.at);
        self.open.remove(&key)
    }
}
