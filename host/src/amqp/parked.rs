//! Looking at requests that were set aside, and sending them again or not.
//!
//! Over AMQP alone, one request at a time: each that was looked at stays with
//! us, unacked, until all were seen, and is given back then, or by the broker
//! if we are gone. So several people may do this at once and nothing is lost or
//! done twice by them; what one has in hand the other does not see.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use lapin::options::{BasicAckOptions, BasicGetOptions, BasicNackOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::aside::{Publisher, Taken};
use super::connect::{Connector, OpenError, within};
use super::convert::{self, short};
use super::{note, own_queues};
use crate::config::BrokerUrl;
use crate::message::{Delivery, Identity, Original, Place, Revoked, SetAside};

/// How long to wait until what was given back can be taken by the next: a quorum
/// queue has to agree on it first. Somebody who takes them at once would keep us
/// from ever seeing them there.
const GIVEN_BACK: Duration = Duration::from_secs(2);

/// How often to look for them meanwhile.
const LOOK: Duration = Duration::from_millis(10);

/// The parked requests of a queue.
#[derive(Debug)]
pub struct ParkedQueue {
    publisher: Publisher,
    channel: Channel,
    url: BrokerUrl,
    timeout: Duration,
    queue: String,
    /// How many we have in hand.
    held: AtomicU32,
    /// How many wait in it as it is opened.
    pub waiting: u32,
}

/// A request out of it, as it was when it came to a host.
#[derive(Debug)]
pub struct ParkedRequest {
    /// The request itself.
    pub delivery: Delivery,
    /// What the host has written on it.
    pub note: SetAside,
}

impl ParkedQueue {
    /// Connects to the first broker that answers. `None` if there is no such
    /// queue, because nothing was ever parked.
    ///
    /// # Errors
    ///
    /// When no broker lets us in.
    pub async fn open(connector: &Connector, queue: &str) -> Result<Option<Self>, OpenError> {
        let mut failed = OpenError::Refused("the configuration names no broker".to_owned());
        for attempt in 1..=connector.brokers() {
            let attempt = u32::try_from(attempt).unwrap_or(u32::MAX);
            let Some(url) = connector.broker_for(attempt).await else { break };
            match Self::open_at(connector, url, queue).await {
                Ok(opened) => return Ok(opened),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    async fn open_at(
        connector: &Connector,
        url: &BrokerUrl,
        queue: &str,
    ) -> Result<Option<Self>, OpenError> {
        let timeout = connector.timeout();
        let publisher = Publisher::open(connector, url, "parked").await?;
        let name = Place::Parked.queue(queue);
        let counting = own_queues::exists(&publisher.connection, &name);
        let Some(waiting) = within(timeout, url, counting).await? else {
            publisher.close().await;
            return Ok(None);
        };
        let channel = within(timeout, url, publisher.connection.create_channel()).await?;
        let (url, queue) = (url.clone(), queue.to_owned());
        let held = AtomicU32::new(0);
        Ok(Some(Self { publisher, channel, url, timeout, queue, held, waiting }))
    }

    /// Takes the next request in hand; `None` after the last.
    ///
    /// # Errors
    ///
    /// When the broker is lost; then all in hand go back.
    pub async fn next(&self) -> Result<Option<ParkedRequest>, OpenError> {
        let name = short(&Place::Parked.queue(&self.queue)).unwrap_or_default();
        let getting = self.channel.basic_get(name, BasicGetOptions::default());
        let Some(got) = within(self.timeout, &self.url, getting).await? else {
            return Ok(None);
        };
        self.held.fetch_add(1, Ordering::Relaxed);
        let got = got.delivery;
        let (properties, read) = note::take(&got.properties, self.url.username());
        // One that has no note was put there by somebody else.
        let mut note = read
            .unwrap_or_else(|| SetAside { routing_key: self.queue.clone(), ..SetAside::default() });
        let delivery = Delivery {
            tag: got.delivery_tag,
            queue: self.queue.as_str().into(),
            terms: Arc::default(),
            exchange: note.exchange.clone(),
            routing_key: note.routing_key.clone(),
            redelivered: got.redelivered,
            received_at: Instant::now(),
            received_wall: SystemTime::now(),
            properties: convert::properties(&properties),
            body: Bytes::from(got.data),
            revoked: Revoked::default(),
            leaving: CancellationToken::new(),
            original: Original::new(properties),
            set_aside: None,
        };
        if note.id.is_empty() {
            note.id = Identity::of(&delivery).to_string();
        }
        Ok(Some(ParkedRequest { delivery, note }))
    }

    /// Sends a request again by the way that it came and, when the broker has
    /// it in a queue, removes it here.
    ///
    /// # Errors
    ///
    /// When no queue takes it; it stays parked.
    pub async fn replay(&self, request: &ParkedRequest) -> Result<(), OpenError> {
        let ParkedRequest { delivery, note } = request;
        if let Some(exchange) = &note.doubtful_exchange {
            return Err(OpenError::Refused(format!(
                "it says that it came through the exchange `{exchange}`, and that is believed only \
                 of a note by `{}`, who asks now; replay it as the host's user",
                self.url.username()
            )));
        }
        let original = delivery.original.get::<BasicProperties>();
        let properties = original.map(note::to_replay).unwrap_or_default();
        let (exchange, queue) = (note.exchange.as_str(), &self.queue);
        // The key may name the method, so it goes along where it can.
        let key = if exchange.is_empty() { queue } else { &note.routing_key };
        let publishing = self.publisher.publish(exchange, key, &delivery.body, properties);
        match within(self.timeout, &self.url, publishing).await? {
            Taken::Confirmed => self.remove(request).await,
            Taken::Returned if exchange.is_empty() => {
                Err(OpenError::Refused(format!("there is no queue `{queue}`; declare it first")))
            }
            Taken::Returned => Err(OpenError::Refused(format!(
                "the exchange `{exchange}`, through which it came, has no queue for `{key}`; \
                 bind one first"
            ))),
            Taken::Refused => {
                Err(OpenError::Refused(format!("the queue `{queue}` is full; try again later")))
            }
        }
    }

    /// Removes a request for good.
    ///
    /// # Errors
    ///
    /// When the broker is lost; then it may still be there.
    pub async fn remove(&self, request: &ParkedRequest) -> Result<(), OpenError> {
        let one = BasicAckOptions { multiple: false };
        within(self.timeout, &self.url, self.channel.basic_ack(request.delivery.tag, one)).await?;
        self.held.fetch_sub(1, Ordering::Relaxed);
        Ok(())
    }

    /// Gives back what is in hand, and waits until others can take it.
    ///
    /// # Errors
    ///
    /// When the broker does not confirm it; it gives back by itself, then.
    pub async fn close(self) -> Result<(), OpenError> {
        let held = self.held.load(Ordering::Relaxed);
        if held > 0 {
            let before = self.ready().await?;
            let all = BasicNackOptions { requeue: true, multiple: true };
            // The tag 0 stands for all of the channel (AMQP 0-9-1 section 1.8.3.13).
            within(self.timeout, &self.url, self.channel.basic_nack(0, all)).await?;
            let begun = Instant::now();
            while self.ready().await? < before.saturating_add(held) {
                if begun.elapsed() > GIVEN_BACK {
                    debug!(held, "others took what was given back, or the broker is slow");
                    break;
                }
                tokio::time::sleep(LOOK).await;
            }
        }
        // An ack has no answer of its own. The closing has, and comes after it.
        within(self.timeout, &self.url, self.channel.close(200, "done".into())).await?;
        self.publisher.close().await;
        Ok(())
    }

    /// How many can be taken now.
    async fn ready(&self) -> Result<u32, OpenError> {
        let name = short(&Place::Parked.queue(&self.queue)).unwrap_or_default();
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let asking = self.channel.queue_declare(name, passive, FieldTable::default());
        Ok(within(self.timeout, &self.url, asking).await?.message_count())
    }
}
