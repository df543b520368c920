//! A session: one queue consumed over one connection, until it is lost.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Connection, Consumer, Event};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::aside::Asides;
use super::connect::{Connector, OpenError, within};
use super::own_queues::{self, Beyond};
use super::replies::Replies;
use super::settle::Settler;
use super::{convert, topology};
use crate::config::{BrokerUrl, QueueConfig};
use crate::dispatch::{Broker, PublishError};
use crate::message::{Delivery, Note, Place, Reply, Revoked, Settlement};
use crate::telemetry::Telemetry;

/// How long an orderly close may take, per step. A broker that blocks or
/// hangs never answers.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

/// Which requests are consumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Those of the queue itself.
    Host,
    /// Those that were taken out of it because they may have killed a host.
    Lane,
}

/// A queue that is being consumed, and the way to answer.
#[derive(Debug)]
pub struct Session {
    connection: Connection,
    channel: Channel,
    consumer_tag: ShortString,
    /// The queue of the clients, whoever is consumed.
    queue: Arc<str>,
    role: Role,
    settler: Settler,
    replies: Arc<Replies>,
    asides: Asides,
    revoked: Revoked,
    over: CancellationToken,
    failed: watch::Receiver<Option<String>>,
    url: BrokerUrl,
    timeout: Duration,
}

/// The deliveries of a session, in the broker's order.
#[derive(Debug)]
pub struct Incoming {
    consumer: Consumer,
    queue: Arc<str>,
    revoked: Revoked,
    /// Who we are for the broker, where notes of hosts are read.
    lane_of: Option<String>,
}

/// Why no more deliveries come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Closed {
    /// The consumer was cancelled: by us, or because its queue is gone.
    Cancelled,
    /// The channel or the connection failed.
    Failed(String),
}

impl Session {
    /// Connects twice and makes sure of the queue. Every step has the
    /// connector's time limit. `say_differences` is whether differences between the
    /// queue and the configuration are worth a word.
    ///
    /// # Errors
    ///
    /// Whether another try is worth it.
    pub async fn open(
        connector: &Arc<Connector>,
        url: &BrokerUrl,
        queue: &QueueConfig,
        role: Role,
        prefetch: u16,
        say_differences: bool,
        telemetry: &Telemetry,
    ) -> Result<Self, OpenError> {
        let connection = connector.connect(url, "requests").await?;
        let failed = follow_failures(&connection);
        let opening = async {
            match role {
                Role::Host => {
                    topology::ensure_queue(&connection, queue, say_differences).await?;
                }
                Role::Lane => {
                    let name = Place::Suspect.queue(&queue.name);
                    own_queues::ensure(&connection, &name, queue.kind, Beyond::Refused).await?;
                }
            }
            let channel = connection.create_channel().await?;
            channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
            lapin::Result::Ok(channel)
        };
        let timeout = connector.timeout();
        let channel = within(timeout, url, opening).await?;
        let over = CancellationToken::new();
        let replies =
            Replies::open(connector.clone(), url.clone(), over.clone(), telemetry.clone()).await?;
        let settler = Settler::start(channel.clone());
        let name: Arc<str> = Arc::from(queue.name.as_str());
        let asides =
            Asides::new(connector.clone(), url.clone(), name.clone(), queue.kind, over.clone());
        let consumer_tag = format!("rpchost-{:016x}", rand::random::<u64>());
        Ok(Self {
            connection,
            channel,
            consumer_tag: convert::short(&consumer_tag).unwrap_or_default(),
            queue: name,
            role,
            settler,
            replies,
            asides,
            revoked: Revoked::default(),
            over,
            failed,
            url: url.clone(),
            timeout,
        })
    }

    /// Begins to consume.
    ///
    /// # Errors
    ///
    /// When the broker does not let us, or does not answer.
    pub async fn consume(&self) -> Result<Incoming, OpenError> {
        let name = self.consumed();
        let consuming = self.channel.basic_consume(
            convert::short(&name).unwrap_or_default(),
            self.consumer_tag.clone(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        let consumer = within(self.timeout, &self.url, consuming).await?;
        let lane = self.role == Role::Lane;
        Ok(Incoming {
            consumer,
            queue: self.queue.clone(),
            revoked: self.revoked.clone(),
            lane_of: lane.then(|| self.url.username().to_owned()),
        })
    }

    /// The queue of the clients.
    pub fn queue(&self) -> &str {
        &self.queue
    }

    /// How many requests wait where they were set aside; `None` if nothing ever
    /// was, so that there is no such queue.
    ///
    /// # Errors
    ///
    /// When the broker cannot be asked.
    pub async fn waiting(&self, place: Place) -> Result<Option<u32>, OpenError> {
        let name = place.queue(&self.queue);
        let asking = own_queues::exists(&self.connection, &name);
        within(self.timeout, &self.url, asking).await
    }

    /// Resolves when this session has set a request aside there.
    pub async fn has_set_aside(&self, place: Place) {
        self.asides.put_to(place).notified().await;
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The queue that is consumed.
    pub fn consumed(&self) -> String {
        match self.role {
            Role::Host => self.queue.to_string(),
            Role::Lane => Place::Suspect.queue(&self.queue),
        }
    }

    /// Resolves when the connection for requests has failed, with the reason.
    pub async fn lost(&self) -> String {
        let mut failed = self.failed.clone();
        match failed.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => "the connection is closed".to_owned(),
        }
    }

    /// Resolves when the session was given up.
    pub async fn abandoned(&self) {
        self.over.cancelled().await;
    }

    /// The broker, without its password.
    pub fn broker(&self) -> String {
        self.url.to_string()
    }

    /// Asks for no more deliveries. Those on their way still come, then
    /// [`Closed::Cancelled`]. Returns whether the broker has agreed.
    pub async fn cancel(&self) -> bool {
        let cancelling =
            self.channel.basic_cancel(self.consumer_tag.clone(), BasicCancelOptions::default());
        match tokio::time::timeout(CLOSE_PATIENCE, cancelling).await {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => debug!("the consumer was not cancelled in order: {error}"),
            Err(_) => debug!("the broker did not answer the cancellation"),
        }
        false
    }

    /// Tells guests that their answers are no longer wanted.
    pub fn revoke(&self) {
        self.revoked.set();
    }

    /// Gives up: whatever is unsettled is delivered again, by the broker.
    pub fn abandon(&self) {
        self.revoked.set();
        self.over.cancel();
    }

    /// Closes in order, so that every settlement has reached the broker.
    pub async fn close(self) {
        let Self { connection, channel, settler, replies, asides, revoked, over, .. } = self;
        let closing = async {
            settler.finish().await;
            channel.close(200, "done".into()).await?;
            connection.close(200, "done".into()).await
        };
        match tokio::time::timeout(CLOSE_PATIENCE, closing).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!("the session was not closed in order: {error}"),
            Err(_) => debug!("the broker did not answer the closing"),
        }
        revoked.set();
        // First, because it ends a search for the broker that may be under way.
        over.cancel();
        replies.close(CLOSE_PATIENCE).await;
        if tokio::time::timeout(CLOSE_PATIENCE, asides.close()).await.is_err() {
            debug!("the connection that sets aside was not closed in time");
        }
    }
}

/// Notes the first failure of a connection. The library's events have one
/// reader each, so there is one such task per connection.
fn follow_failures(connection: &Connection) -> watch::Receiver<Option<String>> {
    let mut events = connection.events_listener();
    let (tell, failed) = watch::channel(None);
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            if let Event::Error(error) = event
                // A channel's own business; whoever uses it is told.
                && !error.is_amqp_soft_error()
            {
                tell.send_replace(Some(error.to_string()));
                return;
            }
        }
    });
    failed
}

impl Incoming {
    /// The next delivery.
    ///
    /// # Errors
    ///
    /// When there are no more, and why.
    pub async fn next(&mut self) -> Result<Delivery, Closed> {
        match self.consumer.next().await {
            Some(Ok(delivery)) => {
                let (queue, revoked) = (self.queue.clone(), self.revoked.clone());
                Ok(match &self.lane_of {
                    None => convert::delivery(delivery, queue, revoked),
                    Some(user) => convert::restored(delivery, queue, revoked, user),
                })
            }
            Some(Err(error)) => Err(Closed::Failed(error.to_string())),
            None => Err(Closed::Cancelled),
        }
    }
}

impl Broker for Session {
    async fn publish(&self, reply: Reply) -> Result<(), PublishError> {
        self.replies.publish(&reply).await
    }

    async fn set_aside(
        &self,
        delivery: &Delivery,
        place: Place,
        note: &Note,
    ) -> Result<(), PublishError> {
        self.asides.put(delivery, place, note).await
    }

    async fn settle(&self, tag: u64, settlement: Settlement) {
        self.settler.settle(tag, settlement).await;
    }
}
