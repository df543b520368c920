//! The client's side: publishes requests and waits for their replies.
//!
//! A [`Caller`] has one connection at a time and opens another whenever it is
//! lost. Calls outlive connections: one whose request was confirmed waits on
//! for its reply, which comes to a durable queue; one whose request was not is
//! sent again under the same `message_id`. So a request may run twice, and a
//! reply may come twice, of which the first counts.

mod link;
mod pending;
mod request;
mod watcher;

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use lapin::types::ShortString;
use lapin::{BasicProperties, Consumer, ErrorKind};
use tokio::sync::{Semaphore, watch};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

use self::link::{Link, NoBinding, Requests, Sent};
use self::pending::{Came, Pending};
use self::request::properties;
use super::connect::{Connector, OpenError};
use super::consumers::NoCount;
use super::convert::short;
use crate::message::Properties;

pub use self::request::Outgoing;
pub(super) use self::request::common_properties;
pub use self::watcher::{CallerEvent, Watcher};

/// Calls of one caller that may wait for their replies at once; more wait for
/// their turn. Each costs about a kilobyte here, its body and its reply.
const MOST_IN_FLIGHT: usize = 10_000;

/// How often a channel may be closed by the broker while a request is under way
/// on it. The broker does not say over which request it closes; one that is not
/// at fault is hardly there three times.
const CLOSED_OVER_IT: u32 = 3;

/// The broker keeps times to live in 32 bits (milliseconds).
const LONGEST_EXPIRATION: u128 = u32::MAX as u128;

/// How long an orderly close may take. The answers are here already; a broker
/// that hangs must not hold them up.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

/// A connection that lived this long was a good one: the next is opened at once.
/// After one that died sooner there is a pause, and longer ones after more.
const GOOD_LINK: Duration = Duration::from_secs(5);

/// Why there is no reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallerError {
    /// The request cannot be sent as it is.
    Unsendable(String),
    /// There is nobody to answer: no broker, no queue, no consumer, or a queue
    /// that does not take the request.
    Nobody(String),
    /// No answer in time.
    Late {
        /// The time limit.
        after: Duration,
        /// What stood in the way, where that is known.
        because: Option<String>,
    },
}

impl std::fmt::Display for CallerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unsendable(reason) | Self::Nobody(reason) => f.write_str(reason),
            Self::Late { after, because: None } => write!(f, "no answer within {after:?}"),
            Self::Late { after, because: Some(because) } => {
                write!(f, "no answer within {after:?}: {because}")
            }
        }
    }
}

impl std::error::Error for CallerError {}

/// What a caller has seen since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CallCounts {
    /// Replies that their calls got.
    pub answered: u64,
    /// Replies to calls that had one; dropped.
    pub duplicates: u64,
    /// Replies to calls that had run out of time; dropped.
    pub late: u64,
    /// Replies with an id of no call, or of one that ended long ago; dropped.
    pub unknown: u64,
    /// Connections opened.
    pub connections: u64,
    /// Channels for requests opened.
    pub channels: u64,
}

/// Calls methods over one connection, as many at once as one likes, with a
/// reply queue of its own.
#[derive(Debug)]
pub struct Caller {
    pending: Arc<Pending>,
    slots: Semaphore,
    state: watch::Receiver<State>,
    keeper: AbortOnDropHandle<()>,
}

/// The connection as it stands.
#[derive(Debug, Clone)]
enum State {
    Up(Arc<Link>),
    /// Lost, and why the last attempt to open another has failed.
    Down(String),
}

/// How far a call has come, for the sentence when it is late.
#[derive(Debug, Default)]
struct Progress {
    confirmed: bool,
    /// Where it was sent last.
    requests: Weak<Requests>,
}

impl Caller {
    /// Connects, and declares the reply queue. Each configured broker is tried
    /// once, so that a person learns at once that there is none; connections
    /// that are lost later are opened again for as long as it takes.
    ///
    /// # Errors
    ///
    /// When no broker can be reached, or it refuses.
    pub async fn connect(connector: &Arc<Connector>) -> Result<Self, CallerError> {
        Self::open(connector, Pending::new(None)).await
    }

    /// Like [`Caller::connect`], with somebody who is told of everything that
    /// happens, and who gets the replies. For [`Caller::send`].
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn watched(
        connector: &Arc<Connector>,
        watcher: Watcher,
    ) -> Result<Self, CallerError> {
        Self::open(connector, Pending::new(Some(watcher))).await
    }

    async fn open(connector: &Arc<Connector>, pending: Pending) -> Result<Self, CallerError> {
        let pending = Arc::new(pending);
        let name = link::reply_queue();
        let mut failures: Vec<String> = Vec::new();
        for attempt in 1..=u32::try_from(connector.brokers()).unwrap_or(u32::MAX) {
            match open(connector, attempt, &name, 1, &pending).await {
                Ok((link, replies)) => {
                    let (tell, state) = watch::channel(State::Up(link.clone()));
                    let keeping = keep(connector.clone(), pending.clone(), tell, link, replies);
                    return Ok(Self {
                        pending,
                        slots: Semaphore::new(MOST_IN_FLIGHT),
                        state,
                        keeper: AbortOnDropHandle::new(tokio::spawn(keeping)),
                    });
                }
                Err(error) => failures.push(error.to_string()),
            }
        }
        Err(CallerError::Nobody(failures.join("; ")))
    }

    /// How many consume a queue; `None` where the broker does not tell.
    ///
    /// # Errors
    ///
    /// When there is no such queue, or the broker cannot be asked.
    pub async fn consumers(&self, queue: &str) -> Result<Option<u32>, CallerError> {
        let name = queue_name(queue)?;
        let link = match &*self.state.borrow() {
            State::Up(link) => link.clone(),
            State::Down(reason) => return Err(CallerError::Nobody(lost(reason))),
        };
        link.consumers(&name).await.map_err(|error| match error {
            NoCount::NoQueue => no_queue(queue),
            NoCount::Lost(reason) => CallerError::Nobody(lost(&reason)),
        })
    }

    /// Makes sure that answers which are published to an exchange come here.
    ///
    /// # Errors
    ///
    /// When there is no such exchange, or the broker does not let us.
    pub async fn replies_from(&self, exchange: &str) -> Result<(), CallerError> {
        let name = exchange_name(exchange)?;
        let mut last = 0;
        loop {
            let link = self.link_after(last).await?;
            if link.binds(&name).await.map_err(|error| unbound(exchange, error))? {
                return Ok(());
            }
            last = link.generation;
        }
    }

    /// Sends one request and waits for its reply, over as many connections as
    /// that takes.
    ///
    /// # Errors
    ///
    /// When the queue is missing or does not take the request, which is found
    /// out at once, or when no answer comes in time.
    pub async fn call(&self, request: &Outgoing) -> Result<(Properties, Bytes), CallerError> {
        let mut progress = Progress::default();
        let answering = self.answer(request, &mut progress);
        if let Ok(answered) = tokio::time::timeout(request.timeout, answering).await {
            return answered;
        }
        if let Some(requests) = progress.requests.upgrade() {
            requests.had_a_timeout();
        }
        let because = match &*self.state.borrow() {
            State::Down(reason) => Some(lost(reason)),
            State::Up(_) if !progress.confirmed => {
                Some("the broker has not confirmed the request".to_owned())
            }
            State::Up(_) => None,
        };
        Err(CallerError::Late { after: request.timeout, because })
    }

    /// Sends one request under this id, as often as it takes until the broker
    /// has confirmed it. The reply is not waited for: the watcher gets it.
    ///
    /// # Errors
    ///
    /// When no queue takes the request; it may be sent again later.
    pub async fn send(&self, request: &Outgoing, id: &str) -> Result<(), CallerError> {
        let queue = queue_name(&request.queue)?;
        let _slot = self.slots.acquire().await.map_err(|_| closed())?;
        let mut ticket = self.pending.begin(Some(id), request.interim);
        let properties = properties(request, &ticket.id)?;
        self.publish(request, &queue, properties, None, &mut Progress::default()).await?;
        match ticket.came.try_recv() {
            Ok(Came::Returned) => Err(unroutable(request)),
            Ok(Came::Reply(..)) | Err(_) => Ok(()),
        }
    }

    /// The name of the reply queue as it stands; another one after a node of a
    /// cluster was lost.
    pub fn reply_queue(&self) -> Option<String> {
        match &*self.state.borrow() {
            State::Up(link) => Some(link.reply_queue.as_str().to_owned()),
            State::Down(_) => None,
        }
    }

    /// What was seen so far.
    pub fn counts(&self) -> CallCounts {
        self.pending.counts()
    }

    /// Deletes the reply queue and closes the connection, for as long as a
    /// moment. Where that fails, or this is never called, the queue expires.
    pub async fn close(self) {
        let Self { keeper, state, .. } = self;
        let link = match &*state.borrow() {
            State::Up(link) => link.clone(),
            State::Down(_) => return,
        };
        keeper.abort();
        match tokio::time::timeout(CLOSE_PATIENCE, link.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!("the caller was not closed in order: {error}"),
            Err(_) => debug!("the broker did not answer the closing"),
        }
    }

    async fn answer(
        &self,
        request: &Outgoing,
        progress: &mut Progress,
    ) -> Result<(Properties, Bytes), CallerError> {
        let begun = Instant::now();
        let queue = queue_name(&request.queue)?;
        let _slot = self.slots.acquire().await.map_err(|_| closed())?;
        let mut ticket = self.pending.begin(request.id.as_deref(), request.interim);
        let properties = properties(request, &ticket.id)?;
        // A fast answer overtakes its request's confirm.
        let early = tokio::select! {
            biased;
            came = &mut ticket.came => Some(came),
            sent = self.publish(request, &queue, properties, Some(begun), progress) => {
                sent?;
                None
            }
        };
        let came = match early {
            Some(came) => came,
            None => (&mut ticket.came).await,
        };
        match came {
            Ok(Came::Reply(properties, body)) => Ok((*properties, body)),
            Ok(Came::Returned) => Err(unroutable(request)),
            Err(_) => Err(closed()),
        }
    }

    /// Sends the request until the broker has confirmed it. One that was begun
    /// at a known time expires with its call.
    async fn publish(
        &self,
        request: &Outgoing,
        queue: &ShortString,
        properties: BasicProperties,
        begun: Option<Instant>,
        progress: &mut Progress,
    ) -> Result<(), CallerError> {
        let exchange = exchange_name(&request.exchange)?;
        let replies_from = request.reply_exchange.as_deref();
        let replies_from = replies_from.map(|name| Ok((name, exchange_name(name)?))).transpose()?;
        let id = properties.message_id().clone().unwrap_or_default();
        let mut closed_over_it = 0;
        let mut last = 0;
        loop {
            let link = self.link_after(last).await?;
            if let Some((name, exchange)) = &replies_from
                && !link.binds(exchange).await.map_err(|error| unbound(name, error))?
            {
                last = link.generation;
                continue;
            }
            let Some(requests) = link.requests().await else {
                last = link.generation;
                continue;
            };
            progress.requests = Arc::downgrade(&requests);
            let mut properties = properties.clone().with_reply_to(link.reply_queue.clone());
            if let Some(begun) = begun {
                let left = request.timeout.saturating_sub(begun.elapsed());
                properties = properties.with_expiration(expiration(left));
            }
            self.pending.tell(CallerEvent::Sending { id: id.as_str() });
            match requests.send(&exchange, queue, &request.body, properties).await {
                Sent::Confirmed => {
                    progress.confirmed = true;
                    self.pending.tell(CallerEvent::Confirmed { id: id.as_str() });
                    return Ok(());
                }
                Sent::Refused => {
                    return Err(CallerError::Nobody(format!(
                        "the queue `{}` does not take the request: it is full",
                        request.queue
                    )));
                }
                Sent::Unknown(error) => {
                    link.failed(&requests);
                    let Some(error) = error else { continue };
                    debug!("a request is sent again: {error}");
                    if error.is_amqp_soft_error() {
                        closed_over_it += 1;
                        if closed_over_it == CLOSED_OVER_IT {
                            return Err(refused(&error));
                        }
                    }
                }
            }
        }
    }

    /// A connection that is not older than or the same as the one given, when
    /// there is one.
    async fn link_after(&self, generation: u32) -> Result<Arc<Link>, CallerError> {
        let mut state = self.state.clone();
        let up = state
            .wait_for(|state| matches!(state, State::Up(link) if link.generation > generation))
            .await
            .map_err(|_| closed())?;
        match &*up {
            State::Up(link) => Ok(link.clone()),
            State::Down(reason) => Err(CallerError::Nobody(lost(reason))),
        }
    }
}

/// Receives replies over a connection until it is lost, then over another.
async fn keep(
    connector: Arc<Connector>,
    pending: Arc<Pending>,
    state: watch::Sender<State>,
    mut link: Arc<Link>,
    mut replies: Consumer,
) {
    let mut attempt = 0_u32;
    loop {
        let opened = Instant::now();
        let reason = link.receive(replies).await;
        if opened.elapsed() >= GOOD_LINK {
            attempt = 0;
        }
        warn!("lost the broker, connecting again: {reason}");
        pending.tell(CallerEvent::Lost(&reason));
        state.send_replace(State::Down(reason));
        let generation = link.generation.saturating_add(1);
        let name = link.reply_queue.clone();
        // Its channels and its connection close with it.
        drop(link);
        (link, replies) = loop {
            attempt = attempt.saturating_add(1);
            tokio::time::sleep(connector.wait_before(attempt)).await;
            let error = match open(&connector, attempt, &name, generation, &pending).await {
                Ok(opened) => break opened,
                Err(error) => error,
            };
            if let OpenError::Refused(_) = error {
                tokio::time::sleep(Connector::REFUSED_WAIT).await;
            }
            debug!(attempt, "no connection: {error}");
            state.send_replace(State::Down(error.to_string()));
        };
        info!("connected again");
        pending.tell(CallerEvent::Back(link.reply_queue.as_str()));
        state.send_replace(State::Up(link.clone()));
    }
}

/// Opens a connection to the broker for this attempt of a search, from 1.
async fn open(
    connector: &Connector,
    attempt: u32,
    reply_queue: &ShortString,
    generation: u32,
    pending: &Arc<Pending>,
) -> Result<(Arc<Link>, Consumer), OpenError> {
    let Some(url) = connector.broker_for(attempt).await else {
        return Err(OpenError::Unreachable("no broker is configured".to_owned()));
    };
    let opened = Link::open(connector, url, reply_queue, generation, pending).await?;
    pending.count(|counts| counts.connections += 1);
    Ok(opened)
}

/// The property of that name: whole milliseconds, at least one, because zero
/// would have the broker drop a message that nobody takes that very moment.
fn expiration(left: Duration) -> ShortString {
    let milliseconds = left.as_millis().clamp(1, LONGEST_EXPIRATION);
    short(&milliseconds.to_string()).unwrap_or_default()
}

pub(super) fn queue_name(queue: &str) -> Result<ShortString, CallerError> {
    short(queue).ok_or_else(|| {
        CallerError::Unsendable(format!(
            "`{queue}` is longer than a queue's name can be, which is 255 bytes"
        ))
    })
}

fn exchange_name(exchange: &str) -> Result<ShortString, CallerError> {
    short(exchange).ok_or_else(|| {
        CallerError::Unsendable("the exchange's name is longer than 255 bytes".to_owned())
    })
}

fn unbound(exchange: &str, error: NoBinding) -> CallerError {
    CallerError::Nobody(match error {
        NoBinding::NoExchange => format!("there is no exchange `{exchange}`"),
        NoBinding::Refused(reason) => {
            format!("the broker does not let answers of `{exchange}` come here: {reason}")
        }
    })
}

fn unroutable(request: &Outgoing) -> CallerError {
    let Outgoing { exchange, queue, .. } = request;
    if exchange.is_empty() {
        return no_queue(queue);
    }
    CallerError::Nobody(format!("the exchange `{exchange}` has no queue for the key `{queue}`"))
}

pub(super) fn no_queue(queue: &str) -> CallerError {
    CallerError::Nobody(format!("there is no queue `{queue}`"))
}

fn refused(error: &lapin::Error) -> CallerError {
    let reason = match error.kind() {
        ErrorKind::ProtocolError(protocol) => protocol.get_message().as_str().to_owned(),
        _ => error.to_string(),
    };
    CallerError::Nobody(format!("the broker does not take the request: {reason}"))
}

pub(super) fn lost(reason: &str) -> String {
    format!("the broker was lost: {reason}")
}

fn closed() -> CallerError {
    CallerError::Nobody("the caller is closed".to_owned())
}
