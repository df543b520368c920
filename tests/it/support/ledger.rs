//! A client that keeps a ledger: what was sent, confirmed and answered.
//!
//! Survives everything the broker does, as a caller that cares would: requests
//! are persistent, mandatory and confirmed, and the reply queue is durable. A
//! request whose confirm was lost counts as unknown, not as sent.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// An answer to one request.
#[derive(Debug, Clone)]
pub struct Answer {
    /// `rpchost-status`.
    pub status: String,
    /// `rpchost-plugin`.
    pub plugin: String,
    /// The body.
    pub body: Vec<u8>,
    /// Whether `rpchost-redelivered` is set.
    pub redelivered: bool,
    /// When it came.
    pub at: Instant,
}

/// One request's line in the ledger.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The method it asked for.
    pub method: String,
    /// The body it had.
    pub body: Vec<u8>,
    /// When it was first published.
    pub sent: Instant,
    /// Whether the broker has confirmed it.
    pub confirmed: bool,
    /// Every answer that came.
    pub answers: Vec<Answer>,
}

/// The whole ledger.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    entries: Arc<Mutex<HashMap<String, Entry>>>,
    unexpected: Arc<Mutex<Vec<String>>>,
}

impl Ledger {
    /// A copy of the entries.
    pub fn entries(&self) -> HashMap<String, Entry> {
        self.entries.lock().expect("the ledger").clone()
    }

    /// Confirmed requests.
    pub fn confirmed(&self) -> usize {
        self.count(|entry| entry.confirmed)
    }

    /// Confirmed requests without an answer.
    pub fn lost(&self) -> usize {
        self.count(|entry| entry.confirmed && entry.answers.is_empty())
    }

    /// Ids and methods of those, for the person who looks for the reason.
    fn unanswered(&self) -> Vec<(String, String)> {
        let entries = self.entries.lock().expect("the ledger");
        let lost = entries.iter().filter(|(_, entry)| entry.confirmed && entry.answers.is_empty());
        lost.map(|(id, entry)| (id.clone(), entry.method.clone())).take(10).collect()
    }

    /// Answers beyond the first.
    pub fn duplicates(&self) -> usize {
        let entries = self.entries.lock().expect("the ledger");
        entries.values().map(|entry| entry.answers.len().saturating_sub(1)).sum()
    }

    /// Answers that nobody asked for.
    pub fn unexpected(&self) -> Vec<String> {
        self.unexpected.lock().expect("the ledger").clone()
    }

    /// Entries for which `is` holds.
    pub fn count(&self, is: impl Fn(&Entry) -> bool) -> usize {
        self.entries.lock().expect("the ledger").values().filter(|entry| is(entry)).count()
    }

    /// Waits until every confirmed request is answered.
    ///
    /// # Panics
    ///
    /// When some are not within `patience`.
    pub async fn settle(&self, patience: Duration) {
        let begun = Instant::now();
        while self.lost() > 0 {
            assert!(
                begun.elapsed() < patience,
                "{} of {} confirmed requests have no answer: {:?}",
                self.lost(),
                self.confirmed(),
                self.unanswered()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // A duplicate that is under way is still to be seen.
        tokio::time::sleep(Duration::from_millis(300)).await;
        eprintln!(
            "ledger: {} confirmed, {} lost, {} answered again",
            self.confirmed(),
            self.lost(),
            self.duplicates()
        );
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
    url: String,
    replies: String,
}

impl Load {
    /// Sends `rate` requests a second to `queue`; `make` gives each its method
    /// and body.
    ///
    /// # Panics
    ///
    /// When the reply queue cannot be declared; answers have to have a home
    /// before anything is asked.
    pub async fn start(
        url: &str,
        queue: &str,
        rate: u32,
        make: impl Fn(u64) -> (String, Vec<u8>) + Send + Sync + 'static,
    ) -> Self {
        let ledger = Ledger::default();
        let (stop, over) = (CancellationToken::new(), CancellationToken::new());
        let replies = super::unique("replies");
        declare_replies(&super::broker::connect(url).await, &replies).await.expect("a reply queue");
        let mut tasks = JoinSet::new();
        tasks.spawn(again_and_again(over.clone(), {
            let (url, replies, ledger) = (url.to_owned(), replies.clone(), ledger.clone());
            move || receive(url.clone(), replies.clone(), ledger.clone())
        }));
        let sender = Arc::new(Sender {
            url: url.to_owned(),
            queue: queue.to_owned(),
            replies: replies.clone(),
            rate,
            make: Box::new(make),
            ledger: ledger.clone(),
            stop: stop.clone(),
            next: Mutex::new(0),
        });
        tasks.spawn(again_and_again(stop.clone(), move || {
            let sender = sender.clone();
            async move { sender.send().await }
        }));
        Self { ledger, stop, over, tasks, url: url.to_owned(), replies }
    }

    /// Sends no more, waits for the answers that are due, and cleans up.
    pub async fn finish(mut self, patience: Duration) -> Ledger {
        self.stop.cancel();
        // The confirms of what was sent last are still on their way.
        tokio::time::sleep(Duration::from_millis(500)).await;
        self.ledger.settle(patience).await;
        self.over.cancel();
        while self.tasks.join_next().await.is_some() {}
        if let Ok(connection) =
            Connection::connect(&self.url, ConnectionProperties::default()).await
            && let Ok(channel) = connection.create_channel().await
        {
            let name = self.replies.as_str().into();
            // Best effort: the broker is thrown away anyway.
            let _deleted = channel.queue_delete(name, QueueDeleteOptions::default()).await;
        }
        self.ledger
    }
}

/// Runs a session until `end`, opening another whenever it fails.
async fn again_and_again<F, Fut>(end: CancellationToken, session: F)
where
    F: Fn() -> Fut,
    Fut: Future<Output = lapin::Result<()>>,
{
    loop {
        tokio::select! {
            () = end.cancelled() => return,
            ended = session() => if ended.is_ok() { return },
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn declare_replies(connection: &Connection, name: &str) -> lapin::Result<Channel> {
    let channel = connection.create_channel().await?;
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(name.into(), durable, FieldTable::default()).await?;
    Ok(channel)
}

async fn receive(url: String, replies: String, ledger: Ledger) -> lapin::Result<()> {
    let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
    let channel = declare_replies(&connection, &replies).await?;
    channel.basic_qos(200, BasicQosOptions::default()).await?;
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
        channel.basic_ack(tag, BasicAckOptions::default()).await?;
    }
    Err(lapin::ErrorKind::ChannelsLimitReached.into())
}

fn note(ledger: &Ledger, delivery: Delivery) {
    let id = delivery.properties.correlation_id().as_ref().map(ToString::to_string);
    let header = |name: &str| {
        let headers = delivery.properties.headers().as_ref()?;
        match headers.inner().get(name)? {
            AMQPValue::LongString(text) => Some(text.to_string()),
            _ => None,
        }
    };
    let answer = Answer {
        status: header("rpchost-status").unwrap_or_default(),
        plugin: header("rpchost-plugin").unwrap_or_default(),
        redelivered: header("rpchost-redelivered").is_some(),
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
    url: String,
    queue: String,
    replies: String,
    rate: u32,
    make: Make,
    ledger: Ledger,
    stop: CancellationToken,
    next: Mutex<u64>,
}

impl Sender {
    async fn send(&self) -> lapin::Result<()> {
        let connection = Connection::connect(&self.url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let mut tick = tokio::time::interval(Duration::from_secs(1) / self.rate);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        while !self.stop.is_cancelled() {
            tick.tick().await;
            let number = {
                let mut next = self.next.lock().expect("the number");
                *next += 1;
                *next
            };
            self.publish(&channel, number).await?;
        }
        Ok(())
    }

    async fn publish(&self, channel: &Channel, number: u64) -> lapin::Result<()> {
        let (method, body) = (self.make)(number);
        let id = format!("{}-{number}", self.replies);
        let entry = Entry {
            method: method.clone(),
            body: body.clone(),
            sent: Instant::now(),
            confirmed: false,
            answers: Vec::new(),
        };
        self.ledger.entries.lock().expect("the ledger").insert(id.clone(), entry);
        let properties = BasicProperties::default()
            .with_type(method.as_str().into())
            .with_reply_to(self.replies.as_str().into())
            .with_correlation_id(id.as_str().into())
            .with_delivery_mode(2);
        let confirm = channel
            .basic_publish(
                "".into(),
                self.queue.as_str().into(),
                BasicPublishOptions { mandatory: false, ..BasicPublishOptions::default() },
                &body,
                properties,
            )
            .await?;
        let ledger = self.ledger.clone();
        tokio::spawn(async move {
            if let Ok(Confirmation::Ack(_)) = confirm.await
                && let Some(entry) = ledger.entries.lock().expect("the ledger").get_mut(&id)
            {
                entry.confirmed = true;
            }
        });
        Ok(())
    }
}

/// Sends one request and waits for its answer: properties and body.
///
/// # Panics
///
/// When none comes within ten seconds.
pub async fn call(
    channel: &Channel,
    queue: &str,
    properties: BasicProperties,
    body: &[u8],
) -> Delivery {
    let exclusive = QueueDeclareOptions {
        exclusive: true,
        auto_delete: true,
        ..QueueDeclareOptions::default()
    };
    let replies = channel
        .queue_declare("".into(), exclusive, FieldTable::default())
        .await
        .expect("a reply queue");
    let no_ack = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let mut incoming = channel
        .basic_consume(replies.name().clone(), "".into(), no_ack, FieldTable::default())
        .await
        .expect("a consumer");
    let properties = properties.with_reply_to(replies.name().clone());
    channel
        .basic_publish("".into(), queue.into(), BasicPublishOptions::default(), body, properties)
        .await
        .expect("a publish");
    tokio::time::timeout(Duration::from_secs(10), incoming.next())
        .await
        .expect("an answer in time")
        .expect("an answer")
        .expect("an answer")
}

/// A text header of a message.
pub fn header(message: &Delivery, name: &str) -> Option<String> {
    match message.properties.headers().as_ref()?.inner().get(name)? {
        AMQPValue::LongString(text) => Some(text.to_string()),
        _ => None,
    }
}
