//! The Firehose: copies of every publish and delivery of a virtual host, which
//! RabbitMQ makes while it is told to
//! (<https://www.rabbitmq.com/docs/firehose>).
//!
//! Owns the switch, the queue that the copies come to, and its end: whatever
//! way [`Firehose::close`] is reached, what was switched on is switched off.
//! Lives through lost connections, and says where copies are missing. What a
//! copy means is not its business.

mod switch;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::StreamExt as _;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions,
    QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::{Channel, Consumer};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use self::switch::{Switch, Way};
use super::connect::{Connected, Connector, OpenError, within};
use super::convert::{self, short};
use crate::config::BrokerUrl;
use crate::message::Properties;

pub use switch::Power;

/// Where the copies are published to.
const EXCHANGE: &str = "amq.rabbitmq.trace";

/// Copies that wait for a slow reader in the broker; older ones are dropped.
/// A few seconds of a busy broker, and no danger to its memory.
const MOST_WAITING: i32 = 20_000;

/// … and their bytes: 64 MiB.
const MOST_WAITING_BYTES: i32 = 64 << 20;

/// Copies on their way to us: with bodies of any size, this bounds our memory.
const AHEAD: u16 = 400;

/// Copies acked at once.
const ACKED_TOGETHER: u32 = 100;

/// Copies between the connection and whoever reads them.
const BUFFERED: usize = 64;

/// How often to look whether copies were dropped.
const LOOK: Duration = Duration::from_secs(1);

/// What is copied, and how the Firehose may be switched on.
#[derive(Debug, Clone)]
pub struct FirehoseOptions {
    /// Patterns of routing keys `publish.EXCHANGE` and `deliver.QUEUE`, as of
    /// a topic exchange.
    pub patterns: Vec<String>,
    /// A command in place of `rabbitmqctl`, in words.
    pub ctl: Option<Vec<String>>,
}

/// A copy of a message.
#[derive(Debug)]
pub struct Copied {
    /// When it reached us.
    pub at: SystemTime,
    /// `publish.EXCHANGE` or `deliver.QUEUE`.
    pub routing_key: String,
    /// The copy's own, which hold the original's.
    pub properties: Properties,
    /// The original's.
    pub body: Bytes,
}

/// What there is to see.
#[derive(Debug)]
pub enum Seen {
    /// A publish or a delivery.
    Copy(Box<Copied>),
    /// Copies were dropped, because we do not read as fast as they are made.
    Dropped,
    /// The broker was lost, for this reason; copies are missing from here …
    Lost(String),
    /// … to here.
    Back(Power),
}

/// The Firehose, while it is read.
#[derive(Debug)]
pub struct Firehose {
    seen: mpsc::Receiver<Seen>,
    stop: CancellationToken,
    keeper: JoinHandle<Result<(), String>>,
    /// The name of the broker, for people.
    broker: String,
}

impl Firehose {
    /// Connects (each broker is tried once), binds a queue, and then switches
    /// the Firehose on, unless it is.
    ///
    /// To be awaited to its end: half way, it may be on, and nobody switches it
    /// off again.
    ///
    /// # Errors
    ///
    /// When no broker can be reached, or it refuses.
    pub async fn open(
        connector: Arc<Connector>,
        options: FirehoseOptions,
    ) -> Result<(Self, Power), OpenError> {
        let mut failures = Vec::new();
        for attempt in 1..=u32::try_from(connector.brokers()).unwrap_or(u32::MAX) {
            match Session::open(&connector, attempt, &options).await {
                Ok(session) => {
                    let mut keeper = Keeper { connector, options, ours: None };
                    let power = keeper.switch_on(&session).await;
                    let (tell, seen) = mpsc::channel(BUFFERED);
                    let stop = CancellationToken::new();
                    let broker = session.url.to_string();
                    let keeper = tokio::spawn(keeper.keep(session, tell, stop.clone()));
                    return Ok((Self { seen, stop, keeper, broker }, power));
                }
                Err(refused @ OpenError::Refused(_)) => return Err(refused),
                Err(error) => failures.push(error.to_string()),
            }
        }
        Err(OpenError::Unreachable(failures.join("; ")))
    }

    /// The broker that it was opened at.
    pub fn broker(&self) -> &str {
        &self.broker
    }

    /// What comes next; `None` after the end.
    pub async fn next(&mut self) -> Option<Seen> {
        self.seen.recv().await
    }

    /// Switches the Firehose off, if we have switched it on, and closes.
    ///
    /// # Errors
    ///
    /// What to type, when it is still on.
    pub async fn close(self) -> Result<(), String> {
        self.stop.cancel();
        // The keeper may wait for room.
        drop(self.seen);
        self.keeper.await.map_err(|error| format!("the Firehose may still be on: {error}"))?
    }
}

/// Opens sessions one after the other.
struct Keeper {
    connector: Arc<Connector>,
    options: FirehoseOptions,
    /// By what to switch it off; set for good once we have switched it on.
    ours: Option<(Arc<Switch>, Way)>,
}

impl Keeper {
    async fn switch_on(&mut self, session: &Session) -> Power {
        let switch = Switch::new(&self.connector, &session.url, self.options.ctl.as_deref());
        let (power, way) = switch.on(session.queue.as_str()).await;
        if let Some(way) = way {
            self.ours = Some((Arc::new(switch), way));
        }
        power
    }

    async fn keep(
        mut self,
        mut session: Session,
        seen: mpsc::Sender<Seen>,
        stop: CancellationToken,
    ) -> Result<(), String> {
        loop {
            let lost = tokio::select! {
                lost = session.read(&seen) => lost,
                () = stop.cancelled() => break,
            };
            let Some(reason) = lost else { break };
            let reopened = async {
                seen.send(Seen::Lost(reason)).await.ok()?;
                Some(self.reopen().await)
            };
            let reopened = tokio::select! {
                reopened = reopened => reopened,
                () = stop.cancelled() => break,
            };
            let Some(again) = reopened else { break };
            session = again;
            // Not interrupted: see `Firehose::open`.
            let power = self.switch_on(&session).await;
            if seen.send(Seen::Back(power)).await.is_err() {
                break;
            }
        }
        let off = match &self.ours {
            Some((switch, way)) => switch.off(way).await,
            None => Ok(()),
        };
        session.close().await;
        off
    }

    async fn reopen(&self) -> Session {
        let mut attempt = 0;
        loop {
            attempt += 1;
            tokio::time::sleep(self.connector.wait_before(attempt)).await;
            match Session::open(&self.connector, attempt, &self.options).await {
                Ok(session) => return session,
                Err(error) => {
                    debug!(attempt, "no Firehose: {error}");
                    if let OpenError::Refused(_) = error {
                        tokio::time::sleep(Connector::REFUSED_WAIT).await;
                    }
                }
            }
        }
    }
}

/// One connection, with the queue that the copies come to.
struct Session {
    url: BrokerUrl,
    connection: Connected,
    channel: Channel,
    /// For the looks at `dropped`, beside the copies.
    looking: Channel,
    queue: ShortString,
    /// Where what the queue drops leaves a trace: one message.
    dropped: ShortString,
    copies: Consumer,
    timeout: Duration,
}

impl Session {
    async fn open(
        connector: &Connector,
        attempt: u32,
        options: &FirehoseOptions,
    ) -> Result<Self, OpenError> {
        let Some(url) = connector.broker_for(attempt).await else {
            return Err(OpenError::Unreachable("no broker is configured".to_owned()));
        };
        let connection = connector.connect(url, "trace").await?;
        let timeout = connector.timeout();
        let name = format!("rpchost.trace.{:032x}", rand::random::<u128>());
        let queue = short(&name).unwrap_or_default();
        let dropped = short(&format!("{name}.dropped")).unwrap_or_default();
        let opening = async {
            let channel = connection.create_channel().await?;
            let looking = connection.create_channel().await?;
            channel.basic_qos(AHEAD, BasicQosOptions::default()).await?;
            declare(&channel, &dropped, 1, None).await?;
            declare(&channel, &queue, MOST_WAITING, Some(&dropped)).await?;
            for pattern in options.patterns.iter().filter_map(|pattern| short(pattern)) {
                let bind = channel.queue_bind(
                    queue.clone(),
                    EXCHANGE.into(),
                    pattern,
                    QueueBindOptions::default(),
                    FieldTable::default(),
                );
                bind.await?;
            }
            let consume = channel.basic_consume(
                queue.clone(),
                ShortString::default(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            );
            let copies = consume.await?;
            lapin::Result::Ok((channel, looking, copies))
        };
        let (channel, looking, copies) = within(timeout, url, opening).await?;
        let url = url.clone();
        Ok(Self { url, connection, channel, looking, queue, dropped, copies, timeout })
    }

    /// Hands on what comes until the connection is lost, and says why; `None`
    /// when nobody reads any more.
    async fn read(&mut self, seen: &mpsc::Sender<Seen>) -> Option<String> {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut unacked = 0;
        loop {
            let next = tokio::select! {
                next = self.copies.next() => next,
                _ = look.tick() => {
                    match self.some_were_dropped().await {
                        Ok(true) => seen.send(Seen::Dropped).await.ok()?,
                        Ok(false) => {}
                        Err(reason) => return Some(reason),
                    }
                    continue;
                }
            };
            let copy = match next {
                Some(Ok(copy)) => copy,
                Some(Err(error)) => return Some(error.to_string()),
                None => return Some(format!("the queue `{}` is gone", self.queue)),
            };
            let tag = copy.delivery_tag;
            let copied = Copied {
                at: SystemTime::now(),
                routing_key: copy.routing_key.as_str().to_owned(),
                properties: convert::properties(&copy.properties),
                body: Bytes::from(copy.data),
            };
            seen.send(Seen::Copy(Box::new(copied))).await.ok()?;
            unacked += 1;
            if unacked == ACKED_TOGETHER {
                unacked = 0;
                if let Err(error) =
                    self.channel.basic_ack(tag, BasicAckOptions { multiple: true }).await
                {
                    return Some(error.to_string());
                }
            }
        }
    }

    async fn some_were_dropped(&self) -> Result<bool, String> {
        let purging = self.looking.queue_purge(self.dropped.clone(), QueuePurgeOptions::default());
        match tokio::time::timeout(self.timeout, purging).await {
            Ok(Ok(count)) => Ok(count > 0),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {:?}", self.timeout)),
        }
    }

    /// The queues are exclusive: they go with the connection.
    async fn close(self) {
        let closing = self.connection.close(200, "done".into());
        match tokio::time::timeout(self.timeout, closing).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!("the Firehose's connection was not closed in order: {error}"),
            Err(_) => debug!("the broker did not answer the closing"),
        }
    }
}

/// A queue of this connection alone, with bounds. What it drops goes to
/// `dropped`.
async fn declare(
    channel: &Channel,
    name: &ShortString,
    most: i32,
    dropped: Option<&ShortString>,
) -> lapin::Result<()> {
    let text = |text: &str| AMQPValue::LongString(LongString::from(text));
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("classic"));
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(most));
    arguments.insert("x-max-length-bytes".into(), AMQPValue::LongInt(MOST_WAITING_BYTES));
    if let Some(dropped) = dropped {
        arguments.insert("x-dead-letter-exchange".into(), text(""));
        arguments.insert("x-dead-letter-routing-key".into(), text(dropped.as_str()));
    }
    let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(name.clone(), exclusive, arguments).await?;
    Ok(())
}
