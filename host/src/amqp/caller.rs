//! The client's side: publishes a request and waits for its reply.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::protocol::AMQPSoftError;
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Connection, Consumer};

use super::connect::{Connector, OpenError};
use super::convert::{self, short};
use super::topology::is_soft;
use crate::message::Properties;

/// A request to be sent.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Queue to send it to, by way of the default exchange.
    pub queue: String,
    /// The property `type`.
    pub kind: Option<String>,
    /// MIME type of the body.
    pub content_type: Option<&'static str>,
    /// The body.
    pub body: Vec<u8>,
    /// Longest wait for the answer. Sent along, so that the host does not
    /// work for nobody.
    pub timeout: Duration,
}

/// Why there is no reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallerError {
    /// There is nobody to answer: no broker, no queue, no consumer.
    Nobody(String),
    /// No answer in time.
    Late(Duration),
}

impl std::fmt::Display for CallerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Nobody(reason) => f.write_str(reason),
            Self::Late(timeout) => write!(f, "no answer within {timeout:?}"),
        }
    }
}

impl std::error::Error for CallerError {}

/// A connection that calls, with a reply queue of its own.
#[derive(Debug)]
pub struct Caller {
    connection: Connection,
    channel: Channel,
    replies: Consumer,
    reply_queue: ShortString,
}

impl Caller {
    /// Connects and declares an exclusive reply queue.
    ///
    /// # Errors
    ///
    /// When the broker cannot be reached or refuses.
    pub async fn connect(connector: &Arc<Connector>) -> Result<Self, CallerError> {
        let nobody = |error: OpenError| CallerError::Nobody(error.to_string());
        let mut failed = None;
        for _ in 0..connector.brokers().max(1) {
            let Some(url) = connector.pick() else { break };
            match connector.connect(url, "call").await {
                Ok(connection) => {
                    let opened = Self::open(connection).await;
                    return opened.map_err(|error| nobody(super::connect::explain(&error, url)));
                }
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.map_or_else(|| CallerError::Nobody("no broker is named".to_owned()), nobody))
    }

    async fn open(connection: Connection) -> lapin::Result<Self> {
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let exclusive = QueueDeclareOptions {
            exclusive: true,
            auto_delete: true,
            ..QueueDeclareOptions::default()
        };
        let queue =
            channel.queue_declare(ShortString::default(), exclusive, FieldTable::default()).await?;
        let reply_queue = queue.name().clone();
        let no_ack = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let replies = channel
            .basic_consume(
                reply_queue.clone(),
                ShortString::default(),
                no_ack,
                FieldTable::default(),
            )
            .await?;
        Ok(Self { connection, channel, replies, reply_queue })
    }

    /// Sends one request and waits for its reply.
    ///
    /// # Errors
    ///
    /// When nobody can answer, found out at once, or nobody does in time.
    pub async fn call(&mut self, request: &Outgoing) -> Result<(Properties, Bytes), CallerError> {
        match tokio::time::timeout(request.timeout, self.call_and_wait(request)).await {
            Ok(answered) => answered,
            Err(_) => Err(CallerError::Late(request.timeout)),
        }
    }

    async fn call_and_wait(
        &mut self,
        request: &Outgoing,
    ) -> Result<(Properties, Bytes), CallerError> {
        let failed = |error: lapin::Error| CallerError::Nobody(format!("lost the broker: {error}"));
        let queue = &request.queue;
        let name = short(queue).ok_or_else(|| {
            CallerError::Nobody(format!("`{queue}` is longer than a queue's name can be"))
        })?;
        self.look_for_consumers(&name).await?;
        let id = format!("{:032x}", rand::random::<u128>());
        let milliseconds = u64::try_from(request.timeout.as_millis()).unwrap_or(u64::MAX).max(1);
        let mut properties = BasicProperties::default()
            .with_reply_to(self.reply_queue.clone())
            .with_expiration(short(&milliseconds.to_string()).unwrap_or_default())
            .with_correlation_id(short(&id).unwrap_or_default())
            .with_message_id(short(&id).unwrap_or_default());
        if let Some(kind) = &request.kind {
            let kind = short(kind).ok_or_else(|| {
                CallerError::Nobody("the method's name is longer than 255 bytes".to_owned())
            })?;
            properties = properties.with_type(kind);
        }
        if let Some(content_type) = request.content_type.and_then(short) {
            properties = properties.with_content_type(content_type);
        }
        let mandatory = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let confirmed = self
            .channel
            .basic_publish(ShortString::default(), name, mandatory, &request.body, properties)
            .await
            .map_err(failed)?
            .await
            .map_err(failed)?;
        match confirmed {
            Confirmation::Ack(None) | Confirmation::NotRequested => {}
            Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)) => {
                return Err(CallerError::Nobody(format!("there is no queue `{queue}`")));
            }
            Confirmation::Nack(None) => {
                return Err(CallerError::Nobody(format!("the queue `{queue}` is full")));
            }
        }
        loop {
            let reply = match self.replies.next().await {
                Some(Ok(reply)) => reply,
                Some(Err(error)) => return Err(failed(error)),
                None => return Err(CallerError::Nobody("lost the reply queue".to_owned())),
            };
            if is_answer_to(&reply, &id) {
                return Ok((convert::properties(&reply.properties), Bytes::from(reply.data)));
            }
        }
    }

    /// Closes the connection in order, for as long as a moment.
    pub async fn close(self) {
        let closing = self.connection.close(200, "done".into());
        // The answer is already here; a broker that hangs must not hold it up.
        let _closed = tokio::time::timeout(Duration::from_secs(1), closing).await;
    }

    /// Asks the broker whether anybody listens, on a channel that may fail.
    async fn look_for_consumers(&self, name: &ShortString) -> Result<(), CallerError> {
        let failed = |error: lapin::Error| CallerError::Nobody(format!("lost the broker: {error}"));
        let channel = self.connection.create_channel().await.map_err(failed)?;
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        match channel.queue_declare(name.clone(), passive, FieldTable::default()).await {
            Ok(queue) if queue.consumer_count() == 0 => {
                Err(CallerError::Nobody(format!("nobody consumes the queue `{name}`")))
            }
            Ok(_) => Ok(()),
            Err(error) if is_soft(&error, &AMQPSoftError::NOTFOUND) => {
                Err(CallerError::Nobody(format!("there is no queue `{name}`")))
            }
            Err(error) => Err(failed(error)),
        }
    }
}

fn is_answer_to(reply: &Delivery, id: &str) -> bool {
    reply.properties.correlation_id().as_ref().is_some_and(|found| found.as_str() == id)
}
