//! A ledger: what was sent, confirmed and answered, and what is wrong with that.
//!
//! Whoever keeps it survives everything the broker does, as a caller that cares would: requests
//! are persistent, mandatory and confirmed, and the reply queue is durable. A request whose confirm
//! was lost counts as unknown, not as sent; one that came back was refused, not lost.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel};

pub use super::load::{Asking, Load};

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
    /// Whether the broker gave it back, because there was no queue.
    pub returned: bool,
    /// Whether it asked for its answer where no queue is.
    pub stray: bool,
    /// Every answer that came.
    pub answers: Vec<Answer>,
}

impl Entry {
    /// Whether it is still to be answered.
    pub fn is_open(&self) -> bool {
        self.confirmed && !self.returned && !self.stray && self.answers.is_empty()
    }

    /// Whether it was answered again, and nothing tells the two apart.
    pub fn is_unmarked(&self) -> bool {
        // The original may be late, and then the other one has the mark.
        let first = self.answers.first().is_some_and(|first| first.redelivered);
        !first && self.answers.iter().skip(1).any(|again| !again.redelivered)
    }
}

/// The whole ledger.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    pub(super) entries: Arc<Mutex<HashMap<String, Entry>>>,
    pub(super) unexpected: Arc<Mutex<Vec<String>>>,
}

/// What a ledger says in the end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Confirmed, in a queue, and never answered.
    pub lost: usize,
    /// Answers that nobody asked for.
    pub unexpected: usize,
    /// Answers that are errors.
    pub wrong: usize,
    /// Answers beyond the first.
    pub duplicates: usize,
    /// Requests answered again without a mark.
    pub unmarked: usize,
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
        self.count(Entry::is_open)
    }

    /// Ids and methods of those, for the person who looks for the reason.
    fn unanswered(&self) -> Vec<(String, String)> {
        let entries = self.entries.lock().expect("the ledger");
        let lost = entries.iter().filter(|(_, entry)| entry.is_open());
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

    /// Everything that can be wrong, counted.
    pub fn verdict(&self) -> Verdict {
        let wrong = |entry: &Entry| entry.answers.iter().any(|answer| answer.status != "ok");
        Verdict {
            lost: self.lost(),
            unexpected: self.unexpected().len(),
            wrong: self.count(wrong),
            duplicates: self.duplicates(),
            unmarked: self.count(Entry::is_unmarked),
        }
    }

    /// Entries for which `is` holds.
    pub fn count(&self, is: impl Fn(&Entry) -> bool) -> usize {
        self.entries.lock().expect("the ledger").values().filter(|entry| is(entry)).count()
    }

    /// Waits until every confirmed request is answered, or none was for as long as `patience`.
    pub async fn wait(&self, patience: Duration) {
        let (mut open, mut since) = (self.lost(), Instant::now());
        while open > 0 && since.elapsed() < patience {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let left = self.lost();
            if left != open {
                (open, since) = (left, Instant::now());
            }
        }
        // A duplicate that is under way is still to be seen.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }

    /// Waits until every confirmed request is answered.
    ///
    /// # Panics
    ///
    /// When no more answers come for as long as `patience`, and some are missing.
    pub async fn settle(&self, patience: Duration) {
        self.wait(patience).await;
        let (lost, confirmed) = (self.lost(), self.confirmed());
        let which = self.unanswered();
        assert!(lost == 0, "{lost} of {confirmed} confirmed requests have no answer: {which:?}");
        eprintln!("ledger: {confirmed} confirmed, 0 lost, {} answered again", self.duplicates());
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
