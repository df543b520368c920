//! Setting requests aside: each by a confirmed publish to a queue of our own.
//!
//! Rare, and never in a hurry: one at a time, on a connection that is opened
//! with the first. With one message under way, a message that comes back is
//! that one, and its id may be the sender's own.

use std::sync::Arc;
use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::sync::{Mutex, Notify};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::connect::{Connected, Connector, OpenError, explain, no_confirm, within};
use super::convert::short;
use super::note;
use super::own_queues::{self, Beyond};
use crate::config::{BrokerUrl, QueueKind};
use crate::dispatch::PublishError;
use crate::message::{Delivery, Note, Place};

/// The pause after an attempt that has failed. There is no last one: the
/// request waits unsettled, and goes back when its session ends.
const PAUSE: Duration = Duration::from_millis(500);

/// Moves requests to where they are set aside.
#[derive(Debug)]
pub(super) struct Asides {
    connector: Arc<Connector>,
    url: BrokerUrl,
    over: CancellationToken,
    publisher: Mutex<Option<Publisher>>,
    /// Told of each that was put there.
    suspect: Notify,
    parked: Notify,
}

impl Asides {
    /// Works until `over` is cancelled. Opens nothing yet.
    pub(super) fn new(connector: Arc<Connector>, url: BrokerUrl, over: CancellationToken) -> Self {
        Self {
            connector,
            url,
            over,
            publisher: Mutex::new(None),
            suspect: Notify::new(),
            parked: Notify::new(),
        }
    }

    /// Told of each request that was put there.
    pub(super) fn put_to(&self, place: Place) -> &Notify {
        match place {
            Place::Suspect => &self.suspect,
            Place::Parked => &self.parked,
        }
    }

    /// Puts a request aside; done when the broker has it. `kind` is that of its
    /// queue.
    pub(super) async fn put(
        &self,
        delivery: &Delivery,
        kind: QueueKind,
        place: Place,
        note: &Note,
    ) -> Result<(), PublishError> {
        tokio::select! {
            put = self.try_put(delivery, kind, place, note) => put,
            () = self.over.cancelled() => Err(PublishError::SessionLost),
        }
    }

    async fn try_put(
        &self,
        delivery: &Delivery,
        kind: QueueKind,
        place: Place,
        note: &Note,
    ) -> Result<(), PublishError> {
        let Some(original) = delivery.original.get::<BasicProperties>() else {
            // Not delivered by this library, so there is nothing to move.
            return Err(PublishError::Undeliverable);
        };
        let mut publisher = self.publisher.lock().await;
        loop {
            let attempt = async {
                let open = match publisher.take() {
                    Some(open) => open,
                    None => Publisher::open(&self.connector, &self.url, "set aside").await?,
                };
                let name = place.queue(&delivery.queue);
                open.ensure(&name, kind).await?;
                let (user, frame) = (self.url.username(), open.connection.frame_max());
                let properties = note::put(original, delivery, &delivery.queue, note, user, frame);
                let taken = open.publish("", &name, &delivery.body, properties).await;
                let taken = taken.map_err(|error| explain(&error, &self.url))?;
                Ok::<_, OpenError>((open, taken))
            };
            match attempt.await {
                Ok((open, taken)) => {
                    *publisher = Some(open);
                    match taken {
                        Taken::Confirmed => {
                            self.put_to(place).notify_one();
                            return Ok(());
                        }
                        Taken::Refused => return Err(PublishError::Undeliverable),
                        // The queue was deleted just now.
                        Taken::Returned => {}
                    }
                }
                Err(OpenError::Refused(reason)) => {
                    warn!("a request cannot be set aside: {reason}");
                    return Err(PublishError::Undeliverable);
                }
                Err(OpenError::Unreachable(reason)) => {
                    debug!("a request is not set aside yet: {reason}");
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Closes what is open.
    pub(super) async fn close(&self) {
        if let Some(publisher) = self.publisher.lock().await.take() {
            publisher.close().await;
        }
    }
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// The broker has it, in the queue.
    Confirmed,
    /// There is no such queue.
    Returned,
    /// The queue takes no more.
    Refused,
}

/// A connection that publishes one message at a time.
#[derive(Debug)]
pub(super) struct Publisher {
    pub(super) connection: Connected,
    channel: Channel,
    url: BrokerUrl,
    timeout: Duration,
}

impl Publisher {
    pub(super) async fn open(
        connector: &Connector,
        url: &BrokerUrl,
        purpose: &str,
    ) -> Result<Self, OpenError> {
        let connection = connector.connect(url, purpose).await?;
        let timeout = connector.timeout();
        let opening = async {
            let channel = connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            Ok(channel)
        };
        let channel = within(timeout, url, opening).await?;
        Ok(Self { connection, channel, url: url.clone(), timeout })
    }

    async fn ensure(&self, name: &str, kind: QueueKind) -> Result<(), OpenError> {
        let ensuring = own_queues::ensure(&self.connection, name, kind, Beyond::Refused);
        within(self.timeout, &self.url, ensuring).await
    }

    /// Publishes a message and waits for its confirm, with a limit while the broker takes any.
    pub(super) async fn publish(
        &self,
        exchange: &str,
        key: &str,
        body: &[u8],
        properties: BasicProperties,
    ) -> lapin::Result<Taken> {
        let mandatory = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let exchange = short(exchange).unwrap_or_default();
        let key = short(key).unwrap_or_default();
        let published = async {
            self.channel.basic_publish(exchange, key, mandatory, body, properties).await?.await
        };
        let confirmation = tokio::select! {
            confirmation = published => confirmation?,
            () = self.connection.overdue() => return Err(no_confirm()),
        };
        Ok(match confirmation {
            Confirmation::Ack(None) | Confirmation::NotRequested => Taken::Confirmed,
            Confirmation::Ack(Some(_)) => Taken::Returned,
            Confirmation::Nack(_) => Taken::Refused,
        })
    }

    pub(super) async fn close(self) {
        let closing = async { self.connection.close(200, "done".into()).await };
        if let Err(error) = within(self.timeout, &self.url, closing).await {
            debug!("a connection was not closed in order: {error}");
        }
    }
}
