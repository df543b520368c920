//! The client's side for a load generator: one connection that publishes without
//! waiting and takes replies as they come, past lapin.
//!
//! Where [`Caller`](super::Caller) keeps each call over lost connections, this
//! keeps nothing: no confirms, no acks, no task and no wake-up for a single
//! message. A lost connection is its end.

use std::time::Duration;

use bytes::Bytes;
use lapin::Channel;
use lapin::options::{BasicConsumeOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use tracing::debug;

use super::caller::{CallerError, common_properties, lost, no_queue, queue_name};
use super::connect::{Connected, Connector, OpenError, within};
use super::consumer::{Closed, Deliveries};
use super::consumers::{NoCount, consumers};
use super::convert::short;
use super::filter::{self, Delivered, Message, Property, put_publish};
use crate::message::STATUS;

/// The pseudo-queue of direct reply-to.
const DIRECT: &str = "amq.rabbitmq.reply-to";

/// Replies that are taken at once. While they are handled, nothing is
/// published, so this bounds how long the service may have nothing to do.
const MOST_AT_ONCE: usize = 64;

/// How long an orderly close may take; all that matters is over by then.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

/// A request that is sent again and again.
#[derive(Debug, Clone)]
pub struct LoadRequest {
    /// Queue to send it to, by way of the default exchange.
    pub queue: String,
    /// The property `type`.
    pub kind: Option<String>,
    /// MIME type of the body.
    pub content_type: Option<&'static str>,
    /// The body.
    pub body: Vec<u8>,
    /// Whether it survives a restart of the broker in a durable queue.
    pub persistent: bool,
    /// Whether replies go to a queue of the connection's own, instead of by
    /// direct reply-to.
    pub reply_queue: bool,
}

/// A reply, as far as it matters.
#[derive(Debug)]
pub struct LoadReply {
    /// The number of its request, if it is one of this connection's.
    pub number: Option<u64>,
    /// The property `type`.
    pub kind: Option<String>,
    /// Its header `rpchost-status`, unless that is `ok`.
    pub status: Option<String>,
    /// The body.
    pub body: Bytes,
}

/// A connection with a request to send and a consumer of its replies.
#[derive(Debug)]
pub struct LoadLink {
    connection: Connected,
    /// Open for as long as it is held.
    _channel: Channel,
    replies: Deliveries,
    request: LoadRequest,
    /// The request's queue, as it is asked for.
    queue: ShortString,
    /// Where replies are to go.
    address: ShortString,
    frame_max: usize,
    /// How many were published.
    begun: u64,
    /// The first so many of them were written, because one of them was answered.
    answered: u64,
    /// Ids begin with it; nobody else's do.
    prefix: String,
    timeout: Duration,
}

impl LoadLink {
    /// Connects to the first broker that is there, looks whether anybody
    /// consumes the queue, and consumes replies.
    ///
    /// # Errors
    ///
    /// When the request cannot be sent as it is, or there is nobody to answer.
    pub async fn open(connector: &Connector, request: &LoadRequest) -> Result<Self, CallerError> {
        let queue = queue_name(&request.queue)?;
        // Whether it can be sent.
        common_properties(request.kind.as_deref(), request.content_type, request.persistent)?;
        let mut failures = Vec::new();
        for attempt in 1..=u32::try_from(connector.brokers()).unwrap_or(u32::MAX) {
            let Some(url) = connector.broker_for(attempt).await else { break };
            let timeout = connector.timeout();
            let opening = async {
                let connection = connector.connect(url, "bench").await?;
                let consuming = consume(&connection, request.reply_queue);
                let (channel, address, replies) = within(timeout, url, consuming).await?;
                Ok::<_, OpenError>((connection, channel, address, replies))
            };
            let (connection, channel, address, replies) = match opening.await {
                Ok(opened) => opened,
                Err(error) => {
                    failures.push(error.to_string());
                    continue;
                }
            };
            let link = Self {
                frame_max: connection.frame_max(),
                connection,
                _channel: channel,
                replies,
                request: request.clone(),
                queue,
                address,
                begun: 0,
                answered: 0,
                prefix: format!("bench-{:016x}-", rand::random::<u64>()),
                timeout,
            };
            link.is_consumed().await?;
            return Ok(link);
        }
        Err(CallerError::Nobody(failures.join("; ")))
    }

    /// Whether there is a queue, and anybody who consumes it.
    ///
    /// # Errors
    ///
    /// What is missing.
    pub async fn is_consumed(&self) -> Result<(), CallerError> {
        let queue = self.queue.as_str();
        match consumers(&self.connection, self.timeout, &self.queue).await {
            Ok(Some(0)) => Err(CallerError::Nobody(format!("nobody consumes the queue `{queue}`"))),
            Ok(_) => Ok(()),
            Err(NoCount::NoQueue) => Err(no_queue(queue)),
            Err(NoCount::Lost(reason)) => Err(CallerError::Nobody(lost(&reason))),
        }
    }

    /// Publishes the request under this number, as its correlation id and its
    /// message id. The first has the number 0, the next 1, and so on. False where
    /// the connection is lost; the replies tell why.
    pub fn publish(&mut self, number: u64) -> bool {
        let LoadRequest { kind, content_type, persistent, body, .. } = &self.request;
        let id = format!("{}{number}", self.prefix);
        let message = Message {
            exchange: b"",
            routing_key: self.queue.as_str().as_bytes(),
            mandatory: false,
            persistent: *persistent,
            content_type: content_type.map(str::as_bytes),
            headers: &[],
            correlation_id: Some(id.as_bytes()),
            reply_to: Some(self.address.as_str().as_bytes()),
            message_id: id.as_bytes(),
            kind: kind.as_deref().map(str::as_bytes),
            body,
        };
        let (key, frame_max) = (self.replies.key, self.frame_max);
        let bypass = self.connection.bypass();
        let put = bypass.write(key, |out| {
            // Its headers are few.
            let _fits = put_publish(out, key.number, frame_max, &message);
        });
        self.begun += u64::from(put);
        put
    }

    /// Requests that may still lie in this process, because the broker does not
    /// take them.
    pub fn unwritten(&self) -> usize {
        let unwritten = self.connection.bypass().unwritten(self.replies.key);
        usize::try_from(unwritten.min(self.begun - self.answered)).unwrap_or(usize::MAX)
    }

    /// Whether the broker has stopped reading what is published, as it does when
    /// it runs out of memory or disk.
    pub fn is_blocked(&self) -> bool {
        self.connection.status().blocked()
    }

    /// Waits for a reply and takes all that have come. Drops none when it is
    /// dropped itself.
    ///
    /// # Errors
    ///
    /// When the connection or the reply queue is lost.
    pub async fn receive(&mut self, into: &mut Vec<LoadReply>) -> Result<(), String> {
        let first = self.replies.next().await.map_err(|closed| match closed {
            Closed::Failed(reason) => reason,
            Closed::Cancelled => "the broker has ended the consuming of replies".to_owned(),
        })?;
        let mut next = Some(first);
        while let Some(delivered) = next {
            into.push(self.reply(delivered));
            next = if into.len() < MOST_AT_ONCE { self.replies.ready() } else { None };
        }
        Ok(())
    }

    /// Closes the connection; a reply queue goes with it.
    pub async fn close(self) {
        let closing = self.connection.close(200, "done".into());
        match tokio::time::timeout(CLOSE_PATIENCE, closing).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!("the connection was not closed in order: {error}"),
            Err(_) => debug!("the broker did not answer the closing"),
        }
    }

    fn reply(&mut self, delivered: Delivered) -> LoadReply {
        let Delivered { properties, data, .. } = delivered;
        let number = filter::bytes(&properties, Property::CorrelationId)
            .and_then(|id| std::str::from_utf8(id).ok())
            .and_then(|id| id.strip_prefix(&self.prefix)?.parse::<u64>().ok());
        if let Some(number) = number {
            // What was answered was written, and all before it.
            self.answered = self.answered.max(number.saturating_add(1).min(self.begun));
        }
        let kind = filter::bytes(&properties, Property::Type)
            .map(|kind| String::from_utf8_lossy(kind).into_owned());
        let status = properties.headers().as_ref().and_then(|headers| headers.inner().get(STATUS));
        let status = match status {
            Some(AMQPValue::LongString(text)) if text.as_bytes() != b"ok" => {
                Some(String::from_utf8_lossy(text.as_bytes()).into_owned())
            }
            _ => None,
        };
        LoadReply { number, kind, status, body: Bytes::from(data) }
    }
}

/// A channel on which replies are consumed without acks, and their address.
///
/// Requests go out over the same channel, as direct reply-to demands. A queue is
/// exclusive: it goes with the connection, also after a kill.
async fn consume(
    connection: &Connected,
    reply_queue: bool,
) -> lapin::Result<(Channel, ShortString, Deliveries)> {
    let channel = connection.create_channel().await?;
    let address = if reply_queue {
        let name = format!("rpchost.replies.{:032x}", rand::random::<u128>());
        let exclusive = QueueDeclareOptions {
            exclusive: true,
            auto_delete: true,
            ..QueueDeclareOptions::default()
        };
        let name = short(&name).unwrap_or_default();
        channel.queue_declare(name.clone(), exclusive, FieldTable::default()).await?;
        name
    } else {
        DIRECT.into()
    };
    let no_ack = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let tag = ShortString::default();
    let replies = Deliveries::of(connection, &channel, address.as_str(), tag, no_ack).await?;
    Ok((channel, address, replies))
}
