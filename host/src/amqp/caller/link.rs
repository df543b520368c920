//! One connection of a caller: a channel for requests, which is renewed on
//! demand, and one for replies.
//!
//! Knows nothing of calls but their ids; whether to send again is decided by
//! the caller.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::protocol::AMQPSoftError;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Connection, Consumer, PublisherConfirm};
use tokio::sync::{Mutex, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::pending::Pending;
use crate::amqp::connect::{Connected, Connector, OpenError, within};
use crate::amqp::consumers::{NoCount, consumers};
use crate::amqp::topology::is_soft;
use crate::amqp::turn::Turn;
use crate::amqp::{convert, convert::short};
use crate::config::BrokerUrl;

/// How long the reply queue outlives its consumer. A caller that is cut off
/// reconnects within seconds of being able to; one that was killed leaves a
/// queue behind for this long. While the broker is down it does not count.
const REPLY_QUEUE_EXPIRES: Duration = Duration::from_secs(300);

/// Replies that may be on their way before the first of them is acked: more
/// than arrive while one ack is written.
const REPLIES_AHEAD: u16 = 1000;

/// A request channel is not renewed more often, however many calls run out of
/// time.
const RENEWAL: Duration = Duration::from_secs(1);

/// A connection with its two channels.
#[derive(Debug)]
pub(super) struct Link {
    /// Counts up from one connection of a caller to its next.
    pub(super) generation: u32,
    connection: Connected,
    pub(super) reply_queue: ShortString,
    replying: Channel,
    requests: Mutex<Option<Arc<Requests>>>,
    /// The exchange that the reply queue is bound to, if it is.
    bound: Mutex<Option<ShortString>>,
    /// Set when the connection is of no more use.
    over: CancellationToken,
    pending: Arc<Pending>,
    timeout: Duration,
}

/// A channel in confirm mode.
#[derive(Debug)]
pub(super) struct Requests {
    channel: Channel,
    turn: Turn,
    opened: Instant,
    spoilt: AtomicBool,
    /// Set when the channel is of no more use; the broker confirms nothing then.
    over: CancellationToken,
    pending: Weak<Pending>,
}

/// How one attempt to send a request ended.
#[derive(Debug)]
pub(super) enum Sent {
    /// The broker has it. A returned request is confirmed, too; its call is
    /// told so by [`Pending::returned`].
    Confirmed,
    /// The queue does not take it.
    Refused,
    /// Not known, because the channel or the connection failed.
    Unknown(Option<lapin::Error>),
}

/// Why answers of an exchange cannot come to the reply queue.
#[derive(Debug)]
pub(super) enum NoBinding {
    /// There is no such exchange.
    NoExchange,
    /// The broker says no.
    Refused(String),
}

impl Link {
    /// Connects, and declares and consumes the reply queue.
    ///
    /// The queue has a name of its own, is durable and not exclusive: an
    /// exclusive one would end with the connection, and an answer that is
    /// given while we are away would have nowhere to go.
    pub(super) async fn open(
        connector: &Connector,
        url: &BrokerUrl,
        reply_queue: &ShortString,
        generation: u32,
        pending: &Arc<Pending>,
    ) -> Result<(Arc<Self>, Consumer), OpenError> {
        let connection = connector.connect(url, "call").await?;
        let timeout = connector.timeout();
        let opening = async {
            let (replying, name) = declare_replies(&connection, reply_queue).await?;
            replying.basic_qos(REPLIES_AHEAD, BasicQosOptions::default()).await?;
            let replies = consume_replies(&replying, &name, generation).await?;
            lapin::Result::Ok((replying, name, replies))
        };
        let (replying, reply_queue, replies) = within(timeout, url, opening).await?;
        let link = Arc::new(Self {
            generation,
            connection,
            reply_queue,
            replying,
            requests: Mutex::new(None),
            bound: Mutex::new(None),
            over: CancellationToken::new(),
            pending: pending.clone(),
            timeout,
        });
        Ok((link, replies))
    }

    /// Hands replies to their calls until there are no more; says why.
    ///
    /// A reply is acked only when its call has it, so that one that is on its
    /// way when the connection fails is delivered again to the next.
    pub(super) async fn receive(&self, mut replies: Consumer) -> String {
        let (taken, acks) = watch::channel(0);
        tokio::spawn(acknowledge(self.replying.clone(), acks, self.over.clone()));
        let reason = loop {
            let next = tokio::select! {
                next = replies.next() => next,
                () = self.over.cancelled() => break "the connection failed".to_owned(),
            };
            match next {
                Some(Ok(reply)) => {
                    let properties = convert::properties(&reply.properties);
                    self.pending.reply(properties, reply.data.into(), reply.redelivered);
                    taken.send_replace(reply.delivery_tag);
                }
                Some(Err(error)) => break error.to_string(),
                None => break format!("the reply queue `{}` is gone", self.reply_queue),
            }
        };
        self.give_up();
        reason
    }

    /// The channel for requests: a new one if there is none or it is spoilt.
    /// `None` when the connection is of no more use.
    pub(super) async fn requests(&self) -> Option<Arc<Requests>> {
        let mut requests = self.requests.lock().await;
        if self.over.is_cancelled() {
            return None;
        }
        if let Some(open) = requests.as_ref().filter(|open| !open.is_spoilt()) {
            return Some(open.clone());
        }
        let opening = async {
            let channel = self.connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            lapin::Result::Ok(channel)
        };
        let opened = tokio::select! {
            opened = tokio::time::timeout(self.timeout, opening) => opened,
            () = self.over.cancelled() => return None,
        };
        let channel = match opened {
            Ok(Ok(channel)) => channel,
            failed => {
                debug!("a channel for requests could not be opened: {failed:?}");
                self.give_up();
                return None;
            }
        };
        self.pending.count(|counts| counts.channels += 1);
        let opened = Arc::new(Requests {
            channel,
            turn: Turn::default(),
            opened: Instant::now(),
            spoilt: AtomicBool::new(false),
            over: self.over.child_token(),
            pending: Arc::downgrade(&self.pending),
        });
        *requests = Some(opened.clone());
        Some(opened)
    }

    /// Binds the reply queue to an exchange, with its name as key; `false` when the
    /// connection is of no more use. The binding goes with the queue.
    pub(super) async fn binds(&self, exchange: &ShortString) -> Result<bool, NoBinding> {
        let mut bound = self.bound.lock().await;
        if bound.as_ref() == Some(exchange) {
            return Ok(!self.over.is_cancelled());
        }
        let binding = async {
            // A channel of its own, which the broker closes if it says no.
            let channel = self.connection.create_channel().await?;
            let (queue, none) = (self.reply_queue.clone(), FieldTable::default());
            let now = QueueBindOptions::default();
            channel.queue_bind(queue.clone(), exchange.clone(), queue, now, none).await
        };
        let ended = tokio::select! {
            ended = tokio::time::timeout(self.timeout, binding) => ended,
            () = self.over.cancelled() => return Ok(false),
        };
        match ended {
            Ok(Ok(())) => {
                *bound = Some(exchange.clone());
                Ok(true)
            }
            Ok(Err(error)) if is_soft(&error, &AMQPSoftError::NOTFOUND) => {
                Err(NoBinding::NoExchange)
            }
            Ok(Err(error)) if error.is_amqp_soft_error() => {
                Err(NoBinding::Refused(error.to_string()))
            }
            failed => {
                debug!("the reply queue could not be bound: {failed:?}");
                self.give_up();
                Ok(false)
            }
        }
    }

    /// What to do after a failure: another channel, or another connection.
    pub(super) fn failed(&self, requests: &Requests) {
        if self.connection.status().connected() {
            requests.spoilt.store(true, Ordering::Relaxed);
        } else {
            self.give_up();
        }
    }

    /// Declares the connection lost; whoever waits for it is told.
    fn give_up(&self) {
        self.over.cancel();
    }

    /// How many consume a queue; `None` where the broker does not tell.
    ///
    /// # Errors
    ///
    /// As those of [`consumers`].
    pub(super) async fn consumers(&self, queue: &ShortString) -> Result<Option<u32>, NoCount> {
        consumers(&self.connection, self.timeout, queue).await
    }

    /// Deletes the reply queue and closes the connection.
    pub(super) async fn close(&self) -> lapin::Result<()> {
        let now = QueueDeleteOptions::default();
        self.replying.queue_delete(self.reply_queue.clone(), now).await?;
        self.connection.close(200, "done".into()).await
    }
}

impl Requests {
    /// Sends a request and waits until the broker has it.
    pub(super) async fn send(
        &self,
        exchange: &ShortString,
        queue: &ShortString,
        body: &[u8],
        properties: BasicProperties,
    ) -> Sent {
        let mandatory = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let publishing = self.channel.basic_publish(
            exchange.clone(),
            queue.clone(),
            mandatory,
            body,
            properties,
        );
        let published = tokio::select! {
            published = self.turn.publish(publishing) => published,
            () = self.over.cancelled() => return Sent::Unknown(None),
        };
        let confirm = match published {
            Ok(confirm) => confirm,
            Err(error) => return Sent::Unknown(Some(error)),
        };
        // On a task of its own: a call may end before the broker has confirmed
        // its request, and what the library then says may concern another call.
        let (tell, sent) = oneshot::channel();
        tokio::spawn(confirmed(confirm, tell, self.pending.clone(), self.over.clone()));
        sent.await.unwrap_or(Sent::Unknown(None))
    }

    /// A call that was sent here has run out of time: the next one has another
    /// channel.
    ///
    /// A late reply needs no such thing, since it is dropped by its id. The
    /// channel itself is in doubt: on RabbitMQ 3.10, one that has published to
    /// a quorum queue while that had no leader may never get another request
    /// through.
    pub(super) fn had_a_timeout(&self) {
        if self.opened.elapsed() >= RENEWAL {
            self.spoilt.store(true, Ordering::Relaxed);
        }
    }

    fn is_spoilt(&self) -> bool {
        self.spoilt.load(Ordering::Relaxed)
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        self.over.cancel();
    }
}

/// Waits for a confirm. The library hands a returned message to whichever
/// publish is confirmed next, so its id tells whose it is.
async fn confirmed(
    confirm: PublisherConfirm,
    tell: oneshot::Sender<Sent>,
    pending: Weak<Pending>,
    over: CancellationToken,
) {
    let confirmation = tokio::select! {
        confirmation = confirm => confirmation,
        () = over.cancelled() => return,
    };
    let (sent, returned) = match confirmation {
        Ok(Confirmation::Ack(returned)) => (Sent::Confirmed, returned),
        Ok(Confirmation::Nack(returned)) => (Sent::Refused, returned),
        Ok(Confirmation::NotRequested) => (Sent::Confirmed, None),
        Err(error) => (Sent::Unknown(Some(error)), None),
    };
    if let Some(returned) = returned
        && let Some(pending) = pending.upgrade()
        && let Some(id) = returned.delivery.properties.message_id()
    {
        pending.returned(id.as_str());
    }
    // Its call may have ended.
    let _wanted = tell.send(sent);
}

/// Acks everything up to the last reply that was taken, as often as the broker
/// takes it.
async fn acknowledge(channel: Channel, mut taken: watch::Receiver<u64>, over: CancellationToken) {
    let multiple = BasicAckOptions { multiple: true };
    let acking = async {
        while taken.changed().await.is_ok() {
            let tag = *taken.borrow_and_update();
            if let Err(error) = channel.basic_ack(tag, multiple).await {
                // They come again, over the next connection, and are dropped.
                debug!("replies could not be acked: {error}");
                return;
            }
        }
    };
    tokio::select! {
        () = acking => {}
        () = over.cancelled() => {}
    }
}

/// Declares a reply queue and returns the channel it was done on, with its
/// name: another one if the queue's node of the cluster is down and the queue
/// with it.
async fn declare_replies(
    connection: &Connection,
    name: &ShortString,
) -> lapin::Result<(Channel, ShortString)> {
    let channel = connection.create_channel().await?;
    match declare(&channel, name).await {
        Ok(()) => Ok((channel, name.clone())),
        Err(error) if is_soft(&error, &AMQPSoftError::NOTFOUND) => {
            let channel = connection.create_channel().await?;
            let name = reply_queue();
            declare(&channel, &name).await?;
            Ok((channel, name))
        }
        Err(error) => Err(error),
    }
}

async fn declare(channel: &Channel, name: &ShortString) -> lapin::Result<()> {
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let milliseconds = i64::try_from(REPLY_QUEUE_EXPIRES.as_millis()).unwrap_or(i64::MAX);
    let mut arguments = FieldTable::default();
    // Replicating answers costs more than asking again, whatever the virtual
    // host's default is.
    let classic = AMQPValue::LongString(LongString::from("classic"));
    arguments.insert("x-queue-type".into(), classic);
    arguments.insert("x-expires".into(), AMQPValue::LongLongInt(milliseconds));
    channel.queue_declare(name.clone(), durable, arguments).await?;
    Ok(())
}

/// A later connection's consumer goes before an earlier one's: while the broker
/// has not noticed the loss of the earlier, it would send replies into the void.
async fn consume_replies(
    channel: &Channel,
    name: &ShortString,
    generation: u32,
) -> lapin::Result<Consumer> {
    let mut arguments = FieldTable::default();
    let priority = i32::try_from(generation).unwrap_or(i32::MAX);
    arguments.insert("x-priority".into(), AMQPValue::LongInt(priority));
    let options = BasicConsumeOptions::default();
    channel.basic_consume(name.clone(), ShortString::default(), options, arguments).await
}

/// A name for a reply queue that nobody else has.
pub(super) fn reply_queue() -> ShortString {
    short(&format!("rpchost.replies.{:032x}", rand::random::<u128>())).unwrap_or_default()
}
