//! Requests that the broker takes out of the queue: where they go, and how they
//! are consumed from there.
//!
//! Only a queue that the host creates is given an exchange for them. Whether an
//! exchange that exists is the hosts' own is told by what it is: nobody else
//! makes an internal one of that name.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use lapin::options::{
    BasicConsumeOptions, BasicQosOptions, ExchangeDeclareOptions, QueueBindOptions,
};
use lapin::protocol::AMQPSoftError;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::{Channel, ExchangeKind};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::connect::Connected;
use super::consumer::Deliveries;
use super::convert::{self, Origin, short};
use super::own_queues::{self, Beyond};
use super::session::Session;
use super::settle::Settler;
use super::topology::{close, is_soft};
use crate::config::{QueueConfig, QueueKind, ServedQueue};
use crate::dispatch::{Broker, PublishError};
use crate::message::{Death, Delivery, HeaderValue, Note, Place, Reply, Revoked, Settlement};

/// How often a quorum queue delivers a request that nobody settles: RabbitMQ
/// 4's own number. A host that dies costs every request it had in flight one,
/// so a small number would end the innocent with the guilty.
const DELIVERY_LIMIT: i64 = 20;

/// Dead requests that are answered at once.
const PREFETCH: u16 = 16;

fn exchange(queue: &str) -> ShortString {
    short(&format!("{queue}.dlx")).unwrap_or_default()
}

fn dead(queue: &str) -> String {
    format!("{queue}.dead")
}

/// Makes the exchange and the queue for what is taken out of `queue`; whether
/// the broker lets us.
pub(super) async fn make(connection: &Connected, queue: &QueueConfig) -> lapin::Result<bool> {
    if queue.args.iter().any(|(name, _)| name == "x-dead-letter-exchange") {
        // The operator has made one.
        return Ok(false);
    }
    let making = async {
        let channel = connection.create_channel().await?;
        declare_exchange(&channel, &queue.name).await?;
        own_queues::ensure(connection, &dead(&queue.name), queue.kind, Beyond::Unbounded).await?;
        let name = short(&dead(&queue.name)).unwrap_or_default();
        let (options, none) = (QueueBindOptions::default(), FieldTable::default());
        let key = ShortString::default();
        channel.queue_bind(name, exchange(&queue.name), key, options, none).await?;
        close(&channel).await;
        lapin::Result::Ok(())
    };
    match making.await {
        Ok(()) => Ok(true),
        // Not allowed, or somebody has an exchange of that name.
        Err(error)
            if is_soft(&error, &AMQPSoftError::ACCESSREFUSED)
                || is_soft(&error, &AMQPSoftError::PRECONDITIONFAILED) =>
        {
            warn_of_none(queue, &error);
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Says that the queue has no place for dead requests, and why.
pub(super) fn warn_of_none(queue: &QueueConfig, error: &lapin::Error) {
    warn!(
        queue = queue.name,
        "the queue is made without dead-lettering, so requests that expire in it are dropped by \
         the broker: {error}"
    );
}

async fn declare_exchange(channel: &lapin::Channel, queue: &str) -> lapin::Result<()> {
    let options = ExchangeDeclareOptions { durable: true, internal: true, ..Default::default() };
    let none = FieldTable::default();
    channel.exchange_declare(exchange(queue), ExchangeKind::Fanout, options, none).await
}

/// What the queue is declared with, beside what was asked for.
pub(super) fn add_arguments(queue: &QueueConfig, arguments: &mut FieldTable) {
    let text = |text: &str| AMQPValue::LongString(LongString::from(text));
    let asked = |name: &str| queue.args.iter().any(|(asked, _)| asked.starts_with(name));
    arguments.insert("x-dead-letter-exchange".into(), text(exchange(&queue.name).as_str()));
    if queue.kind != QueueKind::Quorum {
        return;
    }
    if !asked("x-delivery-limit") {
        arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(DELIVERY_LIMIT));
    }
    // Who bounds the queue decides what becomes of the rest; else nothing is
    // ever beyond it, and the broker keeps what it takes out until it is safe.
    if !asked("x-overflow") && !asked("x-max-length") && !asked("x-dead-letter-strategy") {
        arguments.insert("x-overflow".into(), text("reject-publish"));
        arguments.insert("x-dead-letter-strategy".into(), text("at-least-once"));
    }
}

/// Whether what is taken out of the queue comes to the hosts.
async fn is_ours(connection: &Connected, queue: &str) -> lapin::Result<bool> {
    let channel = connection.create_channel().await?;
    let passive = ExchangeDeclareOptions { passive: true, ..Default::default() };
    let (name, none) = (exchange(queue), FieldTable::default());
    let found = channel.exchange_declare(name, ExchangeKind::Fanout, passive, none).await;
    match found {
        Ok(()) => {}
        Err(error) if error.is_amqp_soft_error() => return Ok(false),
        Err(error) => return Err(error),
    }
    // It exists: this only compares.
    match declare_exchange(&channel, queue).await {
        Ok(()) => close(&channel).await,
        Err(error) if error.is_amqp_soft_error() => return Ok(false),
        Err(error) => return Err(error),
    }
    Ok(own_queues::exists(connection, &dead(queue)).await?.is_some())
}

/// Dead requests, one after the other.
#[derive(Debug)]
pub struct DeadLetters {
    session: Arc<Session>,
    served: Arc<ServedQueue>,
    channel: Channel,
    deliveries: Deliveries,
    settler: Settler,
}

/// What settles and answers them.
#[derive(Debug)]
pub struct Undertaker<'a> {
    session: &'a Session,
    kind: QueueKind,
    settler: &'a Settler,
}

impl DeadLetters {
    /// Begins to consume them; `None` if the queue has no place for them, or
    /// it is somebody else's.
    ///
    /// # Errors
    ///
    /// When the broker is lost, or does not let us.
    pub async fn of(
        session: &Arc<Session>,
        served: &Arc<ServedQueue>,
    ) -> Result<Option<Self>, String> {
        let opening = async {
            let (connection, queue) = (session.connection(), served.queue.name.as_str());
            if !is_ours(connection, queue).await? {
                return Ok(None);
            }
            let channel = connection.create_channel().await?;
            channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
            let (tag, acks) = (ShortString::default(), BasicConsumeOptions::default());
            let deliveries = Deliveries::of(connection, &channel, &dead(queue), tag, acks).await?;
            let bypass = connection.bypass().clone();
            let settler = Settler::start(channel.clone(), deliveries.key, bypass);
            let (session, served) = (session.clone(), served.clone());
            Ok(Some(Self { session, served, channel, deliveries, settler }))
        };
        opening.await.map_err(|error: lapin::Error| error.to_string())
    }

    /// Hands each dead request to `answer`, up to 16 at once, until there are
    /// no more, or `stop` says so; what is in hand is done then.
    pub async fn each<'a, F>(
        &'a mut self,
        stop: &CancellationToken,
        mut answer: impl FnMut(Delivery, Death, Undertaker<'a>) -> F,
    ) where
        F: Future<Output = ()>,
    {
        let Self { session, served, deliveries, settler, .. } = self;
        let session: &'a Session = session;
        let settler: &'a Settler = settler;
        let kind = served.queue.kind;
        let exchange = exchange(&served.queue.name);
        let origin = Origin {
            queue: served.queue.name.as_str().into(),
            terms: served.terms.clone(),
            revoked: Revoked::default(),
            leaving: CancellationToken::new(),
        };
        stream::unfold(deliveries, async |from| Some((from.next().await.ok()?, from)))
            .take_until(stop.cancelled())
            .for_each_concurrent(usize::from(PREFETCH), |dead| {
                let mut delivery = convert::delivery(dead, origin.clone());
                let death = undo_death(&mut delivery, exchange.as_str());
                answer(delivery, death, Undertaker { session, kind, settler })
            })
            .await;
    }

    /// Waits until what was answered is settled.
    pub async fn close(self) {
        self.settler.finish().await;
        close(&self.channel).await;
    }
}

impl Broker for Undertaker<'_> {
    async fn publish(&self, reply: Reply) -> Result<(), PublishError> {
        self.session.publish(&reply).await
    }

    async fn settle(&self, tag: u64, settlement: Settlement) {
        self.settler.settle(tag, settlement).await;
    }

    async fn set_aside(
        &self,
        delivery: &Delivery,
        place: Place,
        note: &Note,
    ) -> Result<(), PublishError> {
        self.session.set_aside(delivery, self.kind, place, note).await
    }
}

/// Why the broker has taken it out, and how it had come to the queue: the newest
/// entry of `x-death`, which the broker writes first. What came by another way than
/// `exchange`, to which clients cannot publish, can have anything written there.
fn undo_death(delivery: &mut Delivery, exchange: &str) -> Death {
    if delivery.exchange != exchange {
        return Death::Rejected;
    }
    let newest = match delivery.properties.header("x-death") {
        Some(HeaderValue::List(deaths)) => match deaths.first() {
            Some(HeaderValue::Table(newest)) => newest.as_slice(),
            _ => &[],
        },
        _ => &[],
    };
    let entry = |name| newest.iter().find(|(entry, _)| entry == name).map(|(_, value)| value);
    let text = |value: Option<&HeaderValue>| match value {
        Some(HeaderValue::Text(text)) => text.clone(),
        _ => String::new(),
    };
    let death = match entry("reason") {
        Some(HeaderValue::Text(reason)) => Death::of(reason),
        _ => Death::Rejected,
    };
    let exchange = text(entry("exchange"));
    let key = match entry("routing-keys") {
        Some(HeaderValue::List(keys)) => text(keys.first()),
        _ => delivery.routing_key.clone(),
    };
    (delivery.exchange, delivery.routing_key) = (exchange, key);
    death
}
