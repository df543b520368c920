//! A session: the connections to one broker, until the one for requests is lost.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::{Connection, Event};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::aside::Asides;
use super::connect::{Connected, Connector, OpenError, within};
use super::consumer::{Incoming, QueueConsumer};
use super::own_queues;
use super::replies::Replies;
use super::topology;
use crate::config::{BrokerUrl, QueueKind, ServedQueue};
use crate::dispatch::PublishError;
use crate::message::{Delivery, Note, Place, Reply};
use crate::telemetry::Telemetry;

/// How long an orderly close may take, per step. A broker that blocks or
/// hangs never answers.
pub(super) const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

/// How long the broker may take to let a host consume: RabbitMQ waits for the leader of a quorum
/// queue, for up to 65 s. Who asks again before that leaves it more to do.
const LEADERLESS: Duration = Duration::from_secs(70);

/// Which requests are consumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Those of the queues themselves.
    Host,
    /// Those that were taken out of them because they may have killed a host.
    Lane,
}

/// A connection that queues are consumed over, and the way to answer.
#[derive(Debug)]
pub struct Session {
    connection: Connected,
    replies: Arc<Replies>,
    asides: Asides,
    over: CancellationToken,
    failed: watch::Receiver<Option<String>>,
    url: BrokerUrl,
    timeout: Duration,
}

impl Session {
    /// Connects twice. Every step has the connector's time limit.
    ///
    /// # Errors
    ///
    /// Whether another try is worth it.
    pub async fn open(
        connector: &Arc<Connector>,
        url: &BrokerUrl,
        telemetry: &Telemetry,
    ) -> Result<Self, OpenError> {
        let connection = connector.connect(url, "requests").await?;
        let failed = follow_failures(&connection);
        let over = CancellationToken::new();
        let replies =
            Replies::open(connector.clone(), url.clone(), over.clone(), telemetry.clone()).await?;
        let asides = Asides::new(connector.clone(), url.clone(), over.clone());
        let timeout = connector.timeout();
        Ok(Self { connection, replies, asides, over, failed, url: url.clone(), timeout })
    }

    /// Makes sure of a queue and of what leads to it, without consuming it.
    /// `say_differences` is whether differences between what there is and the
    /// configuration are worth a word.
    ///
    /// # Errors
    ///
    /// When the broker does not let us, or does not answer.
    pub async fn declare(
        &self,
        served: &ServedQueue,
        say_differences: bool,
    ) -> Result<(), OpenError> {
        self.within(topology::ensure(&self.connection, served, say_differences)).await?;
        Ok(())
    }

    /// Makes sure of a queue and begins to consume it, over a channel of its
    /// own. What has not begun is given back once `leaving` is cancelled.
    ///
    /// # Errors
    ///
    /// When the broker does not let us, or does not answer.
    pub async fn consume(
        self: &Arc<Self>,
        served: &Arc<ServedQueue>,
        role: Role,
        leaving: CancellationToken,
        say_differences: bool,
    ) -> Result<(QueueConsumer, Incoming), OpenError> {
        let opening =
            QueueConsumer::open(self.clone(), served.clone(), role, leaving, say_differences);
        let limit = match role {
            Role::Host => LEADERLESS,
            Role::Lane => self.timeout,
        };
        within(limit, &self.url, opening).await
    }

    /// How many requests of a queue wait where they were set aside; `None` if nothing
    /// ever was, so that there is no such queue.
    ///
    /// # Errors
    ///
    /// When the broker cannot be asked.
    pub async fn waiting(&self, queue: &str, place: Place) -> Result<Option<u32>, OpenError> {
        self.depth(&place.queue(queue)).await
    }

    /// How many messages of a queue are ready; `None` if there is no such queue.
    pub(super) async fn depth(&self, name: &str) -> Result<Option<u32>, OpenError> {
        self.within(own_queues::exists(&self.connection, name)).await
    }

    /// Resolves when this session has set a request aside there.
    pub async fn has_set_aside(&self, place: Place) {
        self.asides.put_to(place).notified().await;
    }

    pub(super) fn connection(&self) -> &Connected {
        &self.connection
    }

    /// Who we are for the broker.
    pub(super) fn user(&self) -> &str {
        self.url.username()
    }

    async fn within<T>(
        &self,
        step: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, OpenError> {
        within(self.timeout, &self.url, step).await
    }

    /// Resolves when the connection for requests has failed, with the reason.
    pub async fn lost(&self) -> String {
        let mut failed = self.failed.clone();
        match failed.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => "the connection is closed".to_owned(),
        }
    }

    /// Resolves when no more queues can be consumed over the connection for requests, which lives.
    pub async fn worn_out(&self) {
        self.connection.worn_out().await;
    }

    /// Cancelled when the session was given up.
    pub(super) fn over(&self) -> &CancellationToken {
        &self.over
    }

    /// Resolves when the session was given up.
    pub async fn abandoned(&self) {
        self.over.cancelled().await;
    }

    /// The broker, without its password.
    pub fn broker(&self) -> String {
        self.url.to_string()
    }

    /// Gives up: whatever is unsettled is delivered again, by the broker.
    pub fn abandon(&self) {
        self.over.cancel();
        self.connection.cut();
    }

    pub(super) async fn publish(&self, reply: &Reply) -> Result<(), PublishError> {
        self.replies.publish(reply).await
    }

    /// Moves a request; `kind` is that of its queue.
    pub(super) async fn set_aside(
        &self,
        delivery: &Delivery,
        kind: QueueKind,
        place: Place,
        note: &Note,
    ) -> Result<(), PublishError> {
        self.asides.put(delivery, kind, place, note).await
    }

    /// Closes in order. Its consumers have to be closed before.
    pub async fn close(self) {
        let Self { connection, replies, asides, over, .. } = self;
        match tokio::time::timeout(CLOSE_PATIENCE, connection.close(200, "done".into())).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!("the session was not closed in order: {error}"),
            Err(_) => debug!("the broker did not answer the closing"),
        }
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
