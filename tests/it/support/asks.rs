//! A client that sends a few requests and looks at every answer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection};

use super::ledger::header;
use super::{broker, until};

/// The client. Its answers are kept by correlation id.
#[derive(Debug)]
pub struct Asks {
    connection: Connection,
    /// In confirm mode.
    pub channel: Channel,
    /// Where answers come to.
    pub replies: ShortString,
    answers: Arc<Mutex<HashMap<String, Vec<Delivery>>>>,
}

impl Asks {
    /// Connects and consumes a reply queue of its own.
    ///
    /// # Panics
    ///
    /// When the broker does not let it.
    pub async fn connect(url: &str) -> Self {
        let connection = broker::connect(url).await;
        let channel = connection.create_channel().await.expect("a channel");
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
        let own = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        let none = FieldTable::default;
        let queue = channel.queue_declare("".into(), own, none()).await.expect("a reply queue");
        let replies = queue.name().clone();
        let no_ack = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let mut incoming = channel
            .basic_consume(replies.clone(), "".into(), no_ack, none())
            .await
            .expect("a consumer");
        let answers: Arc<Mutex<HashMap<String, Vec<Delivery>>>> = Arc::default();
        let kept = answers.clone();
        tokio::spawn(async move {
            while let Some(Ok(answer)) = incoming.next().await {
                let id = answer.properties.correlation_id().as_ref().map_or("", |id| id.as_str());
                kept.lock().expect("the answers").entry(id.to_owned()).or_default().push(answer);
            }
        });
        Self { connection, channel, replies, answers }
    }

    /// Sends a persistent request with this correlation id, confirmed.
    ///
    /// # Panics
    ///
    /// When the broker does not take it.
    pub async fn ask(&self, queue: &str, id: &str, properties: BasicProperties, body: &[u8]) {
        let properties = properties.with_reply_to(self.replies.clone());
        self.send(queue, properties.with_correlation_id(id.into()).with_delivery_mode(2), body)
            .await;
    }

    /// Sends a message as it is, confirmed.
    ///
    /// # Panics
    ///
    /// When the broker does not take it.
    pub async fn send(&self, queue: &str, properties: BasicProperties, body: &[u8]) {
        let options = BasicPublishOptions::default();
        self.channel
            .basic_publish("".into(), queue.into(), options, body, properties)
            .await
            .expect("a publish")
            .await
            .expect("a confirm");
    }

    /// The statuses of all answers to a request so far.
    ///
    /// # Panics
    ///
    /// When an answer has none.
    pub fn statuses(&self, id: &str) -> Vec<String> {
        let answers = self.answers.lock().expect("the answers");
        let of = answers.get(id).map(Vec::as_slice).unwrap_or_default();
        of.iter().map(|answer| header(answer, "rpchost-status").expect("a status")).collect()
    }

    /// Whether each answer to a request so far says that it may not be the only one.
    pub fn marks(&self, id: &str) -> Vec<bool> {
        let answers = self.answers.lock().expect("the answers");
        let of = answers.get(id).map(Vec::as_slice).unwrap_or_default();
        of.iter().map(|answer| header(answer, "rpchost-redelivered").is_some()).collect()
    }

    /// The plugins that all answers to a request so far came from.
    ///
    /// # Panics
    ///
    /// When an answer names none.
    pub fn plugins(&self, id: &str) -> Vec<String> {
        let answers = self.answers.lock().expect("the answers");
        let of = answers.get(id).map(Vec::as_slice).unwrap_or_default();
        let plugin = |answer: &Delivery| {
            let id = header(answer, "rpchost-plugin").expect("a plugin");
            id.split('@').next().unwrap_or_default().to_owned()
        };
        of.iter().map(plugin).collect()
    }

    /// The body of a request's first answer.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn body(&self, id: &str) -> Vec<u8> {
        self.answers.lock().expect("the answers")[id][0].data.clone()
    }

    /// Waits for an answer and gives its status.
    pub async fn answered(&self, id: &str, patience: Duration) -> String {
        until(&format!("an answer to {id}"), patience, || async { !self.statuses(id).is_empty() })
            .await;
        self.statuses(id)[0].clone()
    }

    /// Messages that are ready in a queue; `None` if there is no such queue.
    ///
    /// # Panics
    ///
    /// When the broker cannot be asked.
    pub async fn ready(&self, queue: &str) -> Option<u32> {
        let channel = self.connection.create_channel().await.expect("a channel");
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let declared = channel.queue_declare(queue.into(), passive, FieldTable::default()).await;
        let waiting = declared.ok()?.message_count();
        channel.close(200, "done".into()).await.expect("a closed channel");
        Some(waiting)
    }
}
