//! Replies: published with confirms, on connections that consume nothing.
//!
//! A reply address can make RabbitMQ close the connection that publishes to
//! it (a direct reply-to address of a node that is gone: error 541). On a
//! connection of its own that costs no delivery; the replies that were under
//! way are then sent again one at a time on another, where the culprit shows.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::protocol::{AMQPErrorKind, AMQPHardError};
use lapin::{Channel, Confirmation, Connection, ErrorKind, Event};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::connect::{Connector, OpenError};
use super::convert;
use crate::config::BrokerUrl;
use crate::dispatch::PublishError;
use crate::message::Reply;
use crate::telemetry::Telemetry;

/// How often a reply is offered to a queue that refuses it (`reject-publish`),
/// with waits from 50 ms to 1 s: about ten seconds in all.
const OFFERS: u32 = 14;

/// How often a reply is sent alone before the broker's connection closing
/// under it is called the reply's own fault.
const ALONE: u32 = 2;

/// Publishes a session's replies.
#[derive(Debug)]
pub(super) struct Replies {
    connector: Arc<Connector>,
    url: BrokerUrl,
    /// Set when the session is over; nothing is worth sending then.
    over: CancellationToken,
    telemetry: Telemetry,
    /// The connection that all replies share, while it lives.
    shared: Mutex<Option<Arc<Link>>>,
    /// The connection for one reply at a time.
    alone: Mutex<Option<Arc<Link>>>,
    next_id: AtomicU64,
    prefix: String,
    /// Message ids under way. The library hands a returned message to whoever
    /// is confirmed next, so the id tells whose it is.
    under_way: StdMutex<HashSet<String>>,
}

/// One connection in confirm mode.
#[derive(Debug)]
struct Link {
    connection: Connection,
    channel: Channel,
}

/// How one attempt to publish ended.
enum Attempt {
    Confirmed,
    Returned,
    Refused,
    Lost(lapin::Error),
}

impl Replies {
    /// Opens the shared connection.
    pub(super) async fn open(
        connector: Arc<Connector>,
        url: BrokerUrl,
        over: CancellationToken,
        telemetry: Telemetry,
    ) -> Result<Self, OpenError> {
        let replies = Self {
            connector,
            url,
            over,
            telemetry,
            shared: Mutex::new(None),
            alone: Mutex::new(None),
            next_id: AtomicU64::new(0),
            prefix: format!("{:016x}", rand::random::<u64>()),
            under_way: StdMutex::default(),
        };
        let link = replies.connect("replies").await?;
        *replies.shared.lock().await = Some(link);
        replies.telemetry.replying(true);
        Ok(replies)
    }

    /// Sends a reply until the broker has it, or will never have it.
    pub(super) async fn publish(&self, reply: &Reply) -> Result<(), PublishError> {
        tokio::select! {
            done = self.publish_until_taken(reply) => done,
            () = self.over.cancelled() => Err(PublishError::SessionLost),
        }
    }

    async fn publish_until_taken(&self, reply: &Reply) -> Result<(), PublishError> {
        let mut offers = 0;
        loop {
            let link = self.shared().await;
            match self.attempt(&link, reply).await {
                Attempt::Confirmed => return Ok(()),
                Attempt::Returned => return Err(PublishError::Unroutable),
                Attempt::Refused => {
                    offers += 1;
                    if offers == OFFERS {
                        return Err(PublishError::Undeliverable);
                    }
                    tokio::time::sleep(backoff(offers)).await;
                }
                Attempt::Lost(error) => {
                    self.discard(&link, &error).await;
                    return self.publish_alone(reply).await;
                }
            }
        }
    }

    /// Sends one suspect on a connection that it can close without harm.
    async fn publish_alone(&self, reply: &Reply) -> Result<(), PublishError> {
        let mut alone = self.alone.lock().await;
        let mut blamed = 0;
        let mut offers = 0;
        loop {
            let link = match alone.take() {
                Some(link) => link,
                None => self.reconnect("suspects").await,
            };
            match self.attempt(&link, reply).await {
                Attempt::Confirmed => {
                    *alone = Some(link);
                    return Ok(());
                }
                Attempt::Returned => {
                    *alone = Some(link);
                    return Err(PublishError::Unroutable);
                }
                Attempt::Refused => {
                    *alone = Some(link);
                    offers += 1;
                    if offers == OFFERS {
                        return Err(PublishError::Undeliverable);
                    }
                    tokio::time::sleep(backoff(offers)).await;
                }
                Attempt::Lost(error) if is_internal_error(&error) => {
                    blamed += 1;
                    if blamed == ALONE {
                        return Err(PublishError::Undeliverable);
                    }
                }
                Attempt::Lost(_) => {}
            }
        }
    }

    async fn attempt(&self, link: &Link, reply: &Reply) -> Attempt {
        let id = format!("{}-{}", self.prefix, self.next_id.fetch_add(1, Ordering::Relaxed));
        let Some(routing_key) = convert::short(&reply.routing_key) else {
            return Attempt::Returned;
        };
        let options = BasicPublishOptions {
            // RabbitMQ returns every direct reply, delivered or not.
            mandatory: !reply.direct,
            ..BasicPublishOptions::default()
        };
        let properties = convert::reply_properties(reply, &id);
        self.under_way().insert(id.clone());
        let published = async {
            link.channel
                .basic_publish("".into(), routing_key, options, &reply.body, properties)
                .await?
                .await
        };
        let confirmation = published.await;
        let returned = match &confirmation {
            Ok(Confirmation::Ack(returned) | Confirmation::Nack(returned)) => returned.as_ref(),
            _ => None,
        };
        if let Some(returned) = returned {
            let whose = returned.delivery.properties.message_id().as_ref();
            if let Some(whose) = whose {
                self.under_way().remove(whose.as_str());
            }
        }
        let returned = !self.under_way().remove(&id);
        match confirmation {
            Err(error) => Attempt::Lost(error),
            Ok(_) if returned => Attempt::Returned,
            Ok(Confirmation::Nack(_)) => Attempt::Refused,
            Ok(Confirmation::Ack(_) | Confirmation::NotRequested) => Attempt::Confirmed,
        }
    }

    fn under_way(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The shared connection, opened again if it was lost.
    async fn shared(&self) -> Arc<Link> {
        let mut shared = self.shared.lock().await;
        match &*shared {
            Some(link) => link.clone(),
            None => {
                let link = self.reconnect("replies").await;
                self.telemetry.replying(true);
                *shared = Some(link.clone());
                link
            }
        }
    }

    async fn discard(&self, lost: &Arc<Link>, error: &lapin::Error) {
        let mut shared = self.shared.lock().await;
        if shared.as_ref().is_some_and(|link| Arc::ptr_eq(link, lost)) {
            *shared = None;
            self.telemetry.replying(false);
            self.telemetry.replies_lost(&error.to_string());
        }
    }

    /// Connects until it works; given up from outside when the session ends.
    async fn reconnect(&self, purpose: &str) -> Arc<Link> {
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

    async fn connect(&self, purpose: &str) -> Result<Arc<Link>, OpenError> {
        let connection = self.connector.connect(&self.url, purpose).await?;
        let opening = async {
            let channel = connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            lapin::Result::Ok(channel)
        };
        let channel = match tokio::time::timeout(self.connector.timeout(), opening).await {
            Ok(opened) => opened.map_err(|error| super::connect::explain(&error, &self.url))?,
            Err(_) => {
                return Err(OpenError::Unreachable(format!(
                    "`{}`: no answer within {:?}",
                    self.url,
                    self.connector.timeout()
                )));
            }
        };
        self.follow_alarms(&connection);
        Ok(Arc::new(Link { connection, channel }))
    }

    /// Tells telemetry when the broker blocks publishing and when it ends.
    fn follow_alarms(&self, connection: &Connection) {
        let mut events = connection.events_listener();
        let telemetry = self.telemetry.clone();
        let over = self.over.clone();
        tokio::spawn(async move {
            let mut blocked = false;
            loop {
                let event = tokio::select! {
                    event = events.next() => event,
                    () = over.cancelled() => None,
                };
                match event {
                    Some(Event::ConnectionBlocked(reason)) => {
                        blocked = true;
                        telemetry.blocked(Some(&reason));
                    }
                    Some(Event::ConnectionUnblocked) => {
                        blocked = false;
                        telemetry.blocked(None);
                    }
                    Some(Event::Error(error)) if !error.is_amqp_soft_error() => break,
                    None => break,
                    Some(_) => {}
                }
            }
            if blocked {
                telemetry.blocked(None);
            }
        });
    }

    /// Closes what is open, for as long as `patience`.
    pub(super) async fn close(&self, patience: Duration) {
        self.telemetry.replying(false);
        let links = [self.shared.lock().await.take(), self.alone.lock().await.take()];
        for link in links.into_iter().flatten() {
            let closing = link.connection.close(200, "done".into());
            // A blocked broker never answers; the process ends anyway.
            let _answered = tokio::time::timeout(patience, closing).await;
        }
    }
}

fn backoff(attempt: u32) -> Duration {
    Duration::from_millis(50 << attempt.saturating_sub(1).min(4)).min(Duration::from_secs(1))
}

fn is_internal_error(error: &lapin::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ProtocolError(protocol)
            if matches!(protocol.kind(), AMQPErrorKind::Hard(AMQPHardError::INTERNALERROR))
    )
}
