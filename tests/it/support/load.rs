//! A client that sends requests at a rate, whatever happens to its broker, and keeps a ledger.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::ledger::{Answer, Entry, Ledger, header};

/// A frozen broker takes connections and says nothing.
const CONNECT: Duration = Duration::from_secs(5);

/// A confirm that takes longer may never come: RabbitMQ 3.10 forgets about a channel that has
/// published to a quorum queue while that had no leader. An alarm is no reason to be impatient.
const CONFIRM: Duration = Duration::from_secs(15);

/// What is asked, and of whom.
#[derive(Debug, Clone)]
pub struct Asking {
    /// Brokers, tried in turn.
    pub urls: Vec<String>,
    /// The queue of requests.
    pub queue: String,
    /// Requests a second.
    pub rate: u32,
    /// The arguments of the reply queue.
    pub replies: FieldTable,
    /// Replies that are read a second, at most; they are taken out one by one then.
    pub reading: Option<u32>,
    /// One of so many requests wants its answer in a queue that is there. The others are
    /// strays, whose answers come back to the host.
    pub homes: u64,
}

impl Asking {
    /// One broker, and an ordinary reply queue.
    pub fn new(url: &str, queue: &str, rate: u32) -> Self {
        Self {
            urls: vec![url.to_owned()],
            queue: queue.to_owned(),
            rate,
            replies: FieldTable::default(),
            reading: None,
            homes: 1,
        }
    }

    /// Connects to the broker whose turn it is.
    async fn connect(&self, attempt: u64) -> lapin::Result<Connection> {
        let turn = usize::try_from(attempt).unwrap_or_default() % self.urls.len();
        let connecting = Connection::connect(&self.urls[turn], ConnectionProperties::default());
        tokio::time::timeout(CONNECT, connecting).await.unwrap_or_else(|_| Err(gone()))
    }
}

/// A load that is running.
#[derive(Debug)]
pub struct Load {
    /// What is known so far.
    pub ledger: Ledger,
    stop: CancellationToken,
    over: CancellationToken,
    tasks: JoinSet<()>,
    asking: Asking,
    replies: String,
}

impl Load {
    /// Sends `rate` requests a second to `queue`; `make` gives each its method
    /// and body.
    ///
    /// # Panics
    ///
    /// As [`Load::begin`].
    pub async fn start(
        url: &str,
        queue: &str,
        rate: u32,
        make: impl Fn(u64) -> (String, Vec<u8>) + Send + Sync + 'static,
    ) -> Self {
        Self::begin(Asking::new(url, queue, rate), make).await
    }

    /// Begins to send; `make` gives each request its method and body.
    ///
    /// # Panics
    ///
    /// When the reply queue cannot be declared; answers have to have a home
    /// before anything is asked.
    pub async fn begin(
        asking: Asking,
        make: impl Fn(u64) -> (String, Vec<u8>) + Send + Sync + 'static,
    ) -> Self {
        let ledger = Ledger::default();
        let (stop, over) = (CancellationToken::new(), CancellationToken::new());
        let replies = super::unique("replies");
        let connection = asking.connect(0).await.expect("a connection");
        declare_replies(&connection, &replies, &asking).await.expect("a reply queue");
        let mut tasks = JoinSet::new();
        tasks.spawn(again_and_again(over.clone(), {
            let (asking, replies, ledger) = (asking.clone(), replies.clone(), ledger.clone());
            move |attempt| receive(attempt, asking.clone(), replies.clone(), ledger.clone())
        }));
        let sender = Arc::new(Sender {
            asking: asking.clone(),
            replies: replies.clone(),
            make: Box::new(make),
            ledger: ledger.clone(),
            stop: stop.clone(),
            next: AtomicU64::new(0),
        });
        tasks.spawn(again_and_again(stop.clone(), move |attempt| {
            let sender = sender.clone();
            async move { sender.send(attempt).await }
        }));
        Self { ledger, stop, over, tasks, asking, replies }
    }

    /// Sends no more, waits for the answers that are due, and cleans up.
    ///
    /// # Panics
    ///
    /// When some do not come within `patience`.
    pub async fn finish(self, patience: Duration) -> Ledger {
        self.stop().await;
        self.ledger.settle(patience).await;
        self.end(Duration::ZERO).await
    }

    /// The same, whatever the ledger says.
    pub async fn end(mut self, patience: Duration) -> Ledger {
        self.stop().await;
        self.ledger.wait(patience).await;
        self.over.cancel();
        while self.tasks.join_next().await.is_some() {}
        if let Ok(connection) = self.asking.connect(0).await
            && let Ok(channel) = connection.create_channel().await
        {
            let name = self.replies.as_str().into();
            // Best effort: the broker is thrown away anyway.
            let _deleted = channel.queue_delete(name, QueueDeleteOptions::default()).await;
        }
        self.ledger
    }

    /// Sends no more.
    async fn stop(&self) {
        if !self.stop.is_cancelled() {
            self.stop.cancel();
            // The confirms of what was sent last are still on their way.
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

/// Runs a session until `end`, opening another whenever it fails.
async fn again_and_again<F, Fut>(end: CancellationToken, session: F)
where
    F: Fn(u64) -> Fut,
    Fut: Future<Output = lapin::Result<()>>,
{
    for attempt in 0.. {
        tokio::select! {
            () = end.cancelled() => return,
            ended = session(attempt) => if ended.is_ok() { return },
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn declare_replies(
    connection: &Connection,
    name: &str,
    asking: &Asking,
) -> lapin::Result<Channel> {
    let channel = connection.create_channel().await?;
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(name.into(), durable, asking.replies.clone()).await?;
    Ok(channel)
}

async fn receive(
    attempt: u64,
    asking: Asking,
    replies: String,
    ledger: Ledger,
) -> lapin::Result<()> {
    let connection = asking.connect(attempt).await?;
    let channel = declare_replies(&connection, &replies, &asking).await?;
    let ahead = if asking.reading.is_some() { 1 } else { 200 };
    channel.basic_qos(ahead, BasicQosOptions::default()).await?;
    let mut incoming = channel
        .basic_consume(
            replies.as_str().into(),
            "ledger".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await?;
    while let Some(delivery) = incoming.next().await {
        let delivery = delivery?;
        let tag = delivery.delivery_tag;
        note(&ledger, delivery);
        if let Some(rate) = asking.reading {
            tokio::time::sleep(Duration::from_secs(1) / rate).await;
        }
        channel.basic_ack(tag, BasicAckOptions::default()).await?;
    }
    Err(gone())
}

/// What a session ends with that has no error of the library's.
fn gone() -> lapin::Error {
    lapin::ErrorKind::ChannelsLimitReached.into()
}

fn note(ledger: &Ledger, delivery: Delivery) {
    let id = delivery.properties.correlation_id().as_ref().map(ToString::to_string);
    let answer = Answer {
        status: header(&delivery, "rpchost-status").unwrap_or_default(),
        plugin: header(&delivery, "rpchost-plugin").unwrap_or_default(),
        redelivered: header(&delivery, "rpchost-redelivered").is_some(),
        body: delivery.data,
        at: Instant::now(),
    };
    let mut entries = ledger.entries.lock().expect("the ledger");
    match id.as_ref().and_then(|id| entries.get_mut(id)) {
        // The ledger's own consumer may see a reply twice when it reconnects.
        Some(entry) if delivery.redelivered && !entry.answers.is_empty() => {}
        Some(entry) => entry.answers.push(answer),
        None => ledger.unexpected.lock().expect("the ledger").push(id.unwrap_or_default()),
    }
}

type Make = Box<dyn Fn(u64) -> (String, Vec<u8>) + Send + Sync>;

struct Sender {
    asking: Asking,
    replies: String,
    make: Make,
    ledger: Ledger,
    stop: CancellationToken,
    next: AtomicU64,
}

impl Sender {
    async fn send(&self, attempt: u64) -> lapin::Result<()> {
        let connection = self.asking.connect(attempt).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let mut tick = tokio::time::interval(Duration::from_secs(1) / self.asking.rate);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let stuck = Arc::new(AtomicBool::new(false));
        while !self.stop.is_cancelled() {
            tick.tick().await;
            if stuck.load(Ordering::SeqCst) {
                return Err(gone());
            }
            let number = self.next.fetch_add(1, Ordering::SeqCst) + 1;
            self.publish(&channel, number, &stuck).await?;
        }
        Ok(())
    }

    async fn publish(
        &self,
        channel: &Channel,
        number: u64,
        stuck: &Arc<AtomicBool>,
    ) -> lapin::Result<()> {
        let (method, body) = (self.make)(number);
        let id = format!("{}-{number}", self.replies);
        let stray = !number.is_multiple_of(self.asking.homes);
        let entry = Entry {
            method: method.clone(),
            body: body.clone(),
            sent: Instant::now(),
            confirmed: false,
            returned: false,
            stray,
            answers: Vec::new(),
        };
        self.ledger.entries.lock().expect("the ledger").insert(id.clone(), entry);
        let nowhere = format!("{}-nowhere", self.replies);
        let replies = if stray { &nowhere } else { &self.replies };
        let properties = BasicProperties::default()
            .with_type(method.as_str().into())
            .with_reply_to(replies.as_str().into())
            .with_correlation_id(id.as_str().into())
            .with_delivery_mode(2);
        let mandatory = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let queue = self.asking.queue.as_str().into();
        let confirm = channel.basic_publish("".into(), queue, mandatory, &body, properties).await?;
        let (ledger, stuck) = (self.ledger.clone(), stuck.clone());
        tokio::spawn(async move {
            let Ok(confirmation) = tokio::time::timeout(CONFIRM, confirm).await else {
                stuck.store(true, Ordering::SeqCst);
                return;
            };
            let mut entries = ledger.entries.lock().expect("the ledger");
            if let Ok(Confirmation::Ack(returned) | Confirmation::Nack(returned)) = &confirmation
                && let Some(returned) = returned
                // The library gives it to whichever publish is confirmed next.
                && let Some(whose) = returned.delivery.properties.correlation_id()
                && let Some(entry) = entries.get_mut(whose.as_str())
            {
                entry.returned = true;
            }
            if let Ok(Confirmation::Ack(_)) = confirmation
                && let Some(entry) = entries.get_mut(&id)
            {
                entry.confirmed = true;
            }
        });
        Ok(())
    }
}
