//! Replies: published with confirms, on connections that consume nothing.
//!
//! A reply address can make RabbitMQ close the connection that publishes to
//! it (a direct reply-to address of a node that is gone: error 541). On a
//! connection of its own that costs no delivery; the replies that were under
//! way are then sent again one at a time on another, where the culprit shows.
//! What a broker is known to choke on is not sent to it twice.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use lapin::options::ConfirmSelectOptions;
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::{ErrorKind, Event};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::confirms::{Confirmed, Confirms, Unsendable};
use super::connect::{Connected, Connector, OpenError, within};
use super::refusals::Refusals;
use super::reply_nodes::{ReplyNodes, Route};
use super::reply_size::{ReplySize, Size};
use super::topology::is_soft;
use crate::config::BrokerUrl;
use crate::dispatch::PublishError;
use crate::message::Reply;
use crate::telemetry::{Held, Telemetry};

/// How often a direct reply is sent alone before the broker's connection closing
/// or its channel being closed over it is called the reply's own fault.
const ALONE_DIRECT: u32 = 2;

/// The same for a reply to an ordinary queue, which is rarely to blame: a node that
/// is about to stop closes connections, too, and is asked again for a second and a half.
const ALONE: u32 = 6;

/// How often a reply is tried that may not be published, while others are taken: for about ten
/// seconds, which is longer than an operator takes for two commands.
const FORBIDDEN: u32 = 15;

/// After so many refusals another connection is tried: RabbitMQ 3.10 refuses for a
/// channel what it cannot pass to the leader that the channel knew first.
const STALE: u32 = 4;

/// How long a connection is used at least before refusals replace it.
const FRESH: Duration = Duration::from_secs(5);

/// Publishes a session's replies.
#[derive(Debug)]
pub(super) struct Replies {
    connector: Arc<Connector>,
    url: BrokerUrl,
    /// Set when the session is over; nothing is worth sending then.
    over: CancellationToken,
    telemetry: Telemetry,
    /// The connection that all replies share, while it lives.
    shared: Mutex<Option<(Arc<Link>, Held)>>,
    /// The connection for one reply at a time.
    alone: Mutex<Option<Arc<Link>>>,
    nodes: ReplyNodes,
    refusals: Refusals,
    /// How many were taken.
    through: AtomicU64,
    /// Held by who opens a connection in place of one that works.
    replacing: Mutex<()>,
    size: ReplySize,
}

/// One connection in confirm mode.
#[derive(Debug)]
struct Link {
    id: u64,
    opened: Instant,
    connection: Connected,
    confirms: Confirms,
}

/// How one attempt to publish ended.
enum Attempt {
    Confirmed,
    Returned,
    Refused,
    HeadersTooLarge(u64),
    Lost(lapin::Error),
}

impl Replies {
    /// Opens the shared connection.
    pub(super) async fn open(
        connector: Arc<Connector>,
        url: BrokerUrl,
        over: CancellationToken,
        telemetry: Telemetry,
    ) -> Result<Arc<Self>, OpenError> {
        let replies = Arc::new(Self {
            connector,
            url,
            over,
            telemetry,
            shared: Mutex::new(None),
            alone: Mutex::new(None),
            nodes: ReplyNodes::default(),
            refusals: Refusals::default(),
            through: AtomicU64::new(0),
            replacing: Mutex::default(),
            size: ReplySize::default(),
        });
        let link = replies.connect("replies").await?;
        *replies.shared.lock().await = Some((link, replies.telemetry.replying()));
        Ok(replies)
    }

    /// Sends a reply until the broker has it, or will never have it.
    pub(super) async fn publish(self: &Arc<Self>, reply: &Reply) -> Result<(), PublishError> {
        tokio::select! {
            done = self.publish_until_taken(reply) => done,
            () = self.over.cancelled() => Err(PublishError::SessionLost),
        }
    }

    async fn publish_until_taken(self: &Arc<Self>, reply: &Reply) -> Result<(), PublishError> {
        match self.size.of(reply.body.len(), Instant::now()) {
            Size::Fits => {}
            Size::Doubtful => return Box::pin(self.publish_alone(reply)).await,
            Size::TooLarge(most) => return Err(PublishError::TooLarge(most)),
        }
        match reply.direct_node.map(|node| self.nodes.route(node, Instant::now())) {
            None | Some(Route::Shared) => {}
            Some(Route::Alone) => return Box::pin(self.publish_alone(reply)).await,
            Some(Route::Nowhere) => return Err(PublishError::Undeliverable),
        }
        let mut offers = 0;
        loop {
            let link = self.shared().await;
            match self.attempt(&link, reply).await {
                Attempt::Confirmed => {
                    self.refusals.over(reply, offers);
                    self.tried(reply, false);
                    return Ok(());
                }
                Attempt::Returned => return Err(PublishError::Unroutable),
                Attempt::HeadersTooLarge(most) => return Err(PublishError::HeadersTooLarge(most)),
                Attempt::Refused => {
                    offers += 1;
                    self.refusals.wait(reply, offers).await?;
                    if offers.is_multiple_of(STALE) {
                        Box::pin(self.replace(&link)).await;
                    }
                }
                Attempt::Lost(error) => {
                    self.size.learn_from(&error, Instant::now());
                    self.discard(&link, &error).await;
                    return Box::pin(self.publish_alone(&reply.again())).await;
                }
            }
        }
    }

    /// Sends one suspect on a connection that it can close without harm. Others have their turn
    /// between its attempts.
    async fn publish_alone(self: &Arc<Self>, reply: &Reply) -> Result<(), PublishError> {
        let mut reply = Cow::Borrowed(reply);
        let (mut offers, mut blamed, mut lost, mut forbidden) = (0, 0, 0, 0);
        let through = self.through.load(Ordering::Relaxed);
        let mut _forbidden = None;
        loop {
            match self.attempt_alone(&reply, offers).await? {
                Attempt::Confirmed => {
                    self.refusals.over(&reply, offers);
                    self.size.taken(reply.body.len());
                    self.tried(&reply, false);
                    return Ok(());
                }
                Attempt::Returned => return Err(PublishError::Unroutable),
                Attempt::HeadersTooLarge(most) => return Err(PublishError::HeadersTooLarge(most)),
                Attempt::Refused => {
                    offers += 1;
                    self.refusals.wait(&reply, offers).await?;
                }
                Attempt::Lost(error) => {
                    self.size.learn_from(&error, Instant::now());
                    self.fits(&reply)?;
                    if is_refusal(&error) {
                        forbidden += 1;
                        // Where others get through it is this exchange, or this key, that may not
                        // be published to. Else it is no reply's fault: none can be sent until
                        // somebody gives the permission back.
                        if forbidden >= FORBIDDEN && self.through.load(Ordering::Relaxed) > through
                        {
                            return Err(PublishError::Undeliverable);
                        }
                        _forbidden = Some(self.telemetry.replies_refused(&error.to_string()));
                    } else if is_answer(&error) {
                        blamed += 1;
                        let most = if reply.direct_node.is_some() { ALONE_DIRECT } else { ALONE };
                        if blamed == most {
                            self.tried(&reply, true);
                            return Err(PublishError::Undeliverable);
                        }
                    }
                    lost += 1;
                    reply = Cow::Owned(reply.again());
                    tokio::time::sleep(backoff(lost)).await;
                }
            }
        }
    }

    /// One attempt of a suspect that was refused `offers` times.
    async fn attempt_alone(
        self: &Arc<Self>,
        reply: &Reply,
        offers: u32,
    ) -> Result<Attempt, PublishError> {
        let mut alone = self.alone.lock().await;
        // Another one may have failed while this one waited.
        self.fits(reply)?;
        if let Some(node) = reply.direct_node
            && self.nodes.route(node, Instant::now()) == Route::Nowhere
        {
            return Err(PublishError::Undeliverable);
        }
        let link = match alone.take() {
            Some(link) => link,
            None => self.reconnect("suspects").await,
        };
        let attempt = self.attempt(&link, reply).await;
        let is_worn = match attempt {
            Attempt::Lost(_) => true,
            Attempt::Refused => (offers + 1).is_multiple_of(STALE),
            _ => false,
        };
        *alone = (!is_worn).then_some(link);
        Ok(attempt)
    }

    /// Notes what a direct reply says about its caller's node.
    fn tried(&self, reply: &Reply, failed: bool) {
        if let Some(node) = reply.direct_node {
            self.nodes.tried(node, failed, Instant::now());
        }
    }

    async fn attempt(&self, link: &Link, reply: &Reply) -> Attempt {
        let said = link.confirms.publish(reply).await;
        #[cfg(test)]
        let said = said.map(super::broken::judge);
        match said {
            Err(Unsendable::Headers(most)) => Attempt::HeadersTooLarge(most),
            Err(Unsendable::Address) | Ok(Ok(Confirmed { returned: true, .. })) => {
                Attempt::Returned
            }
            Ok(Err(error)) => Attempt::Lost(error),
            Ok(Ok(Confirmed { taken: false, .. })) => Attempt::Refused,
            Ok(Ok(Confirmed { taken: true, .. })) => {
                self.through.fetch_add(1, Ordering::Relaxed);
                Attempt::Confirmed
            }
        }
    }

    /// Whether a reply is worth a try.
    fn fits(&self, reply: &Reply) -> Result<(), PublishError> {
        match self.size.of(reply.body.len(), Instant::now()) {
            Size::TooLarge(most) => Err(PublishError::TooLarge(most)),
            Size::Fits | Size::Doubtful => Ok(()),
        }
    }

    /// The shared connection, opened again if it was lost.
    async fn shared(self: &Arc<Self>) -> Arc<Link> {
        let mut shared = self.shared.lock().await;
        match &*shared {
            Some((link, _)) => link.clone(),
            None => {
                let link = Box::pin(self.reconnect("replies")).await;
                *shared = Some((link.clone(), self.telemetry.replying()));
                link
            }
        }
    }

    /// Has further replies go over another connection. What is under way over this
    /// one is still confirmed.
    async fn replace(self: &Arc<Self>, worn: &Link) {
        if worn.opened.elapsed() < FRESH {
            return;
        }
        // Others go on over the old one meanwhile.
        let Ok(_alone) = self.replacing.try_lock() else { return };
        let is_worn = |shared: &Option<(Arc<Link>, Held)>| {
            shared.as_ref().is_some_and(|(link, _)| link.id == worn.id)
        };
        if !is_worn(&*self.shared.lock().await) {
            return;
        }
        match self.connect("replies").await {
            Ok(link) => {
                let mut shared = self.shared.lock().await;
                if is_worn(&shared) {
                    *shared = Some((link, self.telemetry.replying()));
                }
            }
            Err(error) => {
                debug!("replies that are refused go on over the same connection: {error}")
            }
        }
    }

    /// Gives up the shared connection, and opens another in the background, so
    /// that the host is ready again before there is something to say.
    async fn discard(self: &Arc<Self>, lost: &Link, error: &lapin::Error) {
        let mut shared = self.shared.lock().await;
        if shared.as_ref().is_none_or(|(link, _)| link.id != lost.id) {
            return;
        }
        *shared = None;
        self.size.doubt_after(error);
        self.telemetry.replies_lost(&error.to_string());
        let replies = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                _link = replies.shared() => {}
                () = replies.over.cancelled() => {}
            }
        });
    }

    /// Connects until it works; given up from outside when the session ends.
    async fn reconnect(self: &Arc<Self>, purpose: &str) -> Arc<Link> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.connect(purpose).await {
                Ok(link) => return link,
                Err(error) => self.telemetry.connect_failed(attempt, &error.to_string()),
            }
            tokio::time::sleep(backoff(attempt)).await;
        }
    }

    async fn connect(self: &Arc<Self>, purpose: &str) -> Result<Arc<Link>, OpenError> {
        let connection = self.connector.connect(&self.url, purpose).await?;
        let opening = async {
            let channel = connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            lapin::Result::Ok(channel)
        };
        let channel = within(self.connector.timeout(), &self.url, opening).await?;
        let link = Arc::new(Link {
            id: rand::random(),
            opened: Instant::now(),
            confirms: Confirms::start(channel, &connection),
            connection,
        });
        self.follow(&link);
        Ok(link)
    }

    /// Tells telemetry when the broker blocks publishing, and notices when the
    /// connection is lost while nobody publishes.
    fn follow(self: &Arc<Self>, link: &Arc<Link>) {
        let mut events = link.connection.events_listener();
        let (replies, link) = (Arc::downgrade(self), Arc::downgrade(link));
        let (telemetry, over) = (self.telemetry.clone(), self.over.clone());
        tokio::spawn(async move {
            let mut blocked = None;
            let lost = loop {
                let event = tokio::select! {
                    event = events.next() => event,
                    () = over.cancelled() => return,
                };
                match event {
                    Some(Event::ConnectionBlocked(reason)) => {
                        blocked = Some(telemetry.blocked(&reason));
                    }
                    Some(Event::ConnectionUnblocked) => blocked = None,
                    Some(Event::Error(error)) if !error.is_amqp_soft_error() => break error,
                    Some(_) => {}
                    None => return,
                }
            };
            drop(blocked);
            if let Some(link) = link.upgrade() {
                // Who waits for a confirm is told now, also where the socket takes nothing.
                link.connection.cut();
                if let Some(replies) = replies.upgrade() {
                    replies.discard(&link, &lost).await;
                }
            }
        });
    }

    /// Closes what is open, for as long as `patience` in all. The session has to
    /// be over: who looks for the broker holds the locks until then.
    pub(super) async fn close(&self, patience: Duration) {
        let closing = async {
            let shared = self.shared.lock().await.take().map(|(link, _)| link);
            let links = [shared, self.alone.lock().await.take()];
            for link in links.into_iter().flatten() {
                if let Err(error) = link.connection.close(200, "done".into()).await {
                    debug!("a connection for replies was not closed in order: {error}");
                }
            }
        };
        if tokio::time::timeout(patience, closing).await.is_err() {
            // A blocked broker never does; the process ends anyway.
            debug!("the broker did not answer the closing of the connections for replies");
        }
    }
}

fn backoff(attempt: u32) -> Duration {
    Duration::from_millis(50 << attempt.saturating_sub(1).min(4))
}

/// Whether the broker has closed the channel or connection over what was sent,
/// and not because it stops or an operator asked for it.
fn is_answer(error: &lapin::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ProtocolError(protocol)
            if !matches!(protocol.kind(), AMQPErrorKind::Hard(AMQPHardError::CONNECTIONFORCED))
    )
}

/// Whether this host may not publish at all.
fn is_refusal(error: &lapin::Error) -> bool {
    is_soft(error, &AMQPSoftError::ACCESSREFUSED)
}
