//! The client's side for a load generator: one connection that publishes without
//! waiting and takes replies as they come.
//!
//! Where [`Caller`](super::Caller) keeps each call over lost connections, this
//! keeps nothing: no confirms, no acks, no task and no wake-up for a single
//! message. What several messages have in common is done once for all that are
//! ready. A lost connection is its end.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _};
use lapin::message::Delivery;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection, Consumer};
use tracing::debug;

use super::caller::{CallerError, common_properties, lost, no_queue, queue_name};
use super::connect::{Connected, Connector, OpenError, within};
use super::consumers::{NoCount, consumers};
use super::convert::short;
use super::filter::{self, Property};
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
    channel: Arc<Channel>,
    replies: Consumer,
    queue: ShortString,
    /// What the properties of all requests have in common.
    properties: BasicProperties,
    body: Arc<[u8]>,
    unwritten: Unwritten,
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
        let LoadRequest { kind, content_type, persistent, .. } = request;
        let properties = common_properties(kind.as_deref(), *content_type, *persistent)?;
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
                connection,
                channel: Arc::new(channel),
                replies,
                queue,
                properties: properties.with_reply_to(address),
                body: request.body.as_slice().into(),
                unwritten: Unwritten::default(),
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
    /// message id. The first has the number 0, the next 1, and so on.
    ///
    /// lapin queues the frames when the future is polled for the first time; its
    /// thread writes all that wait at once. To be told that they are written
    /// would wake this task for each message, so one is asked now and then.
    ///
    /// # Errors
    ///
    /// When the connection is lost.
    pub fn publish(&mut self, number: u64) -> Result<(), String> {
        let id = short(&format!("{}{number}", self.prefix)).unwrap_or_default();
        let properties =
            self.properties.clone().with_correlation_id(id.clone()).with_message_id(id);
        let (channel, queue, body) = (self.channel.clone(), self.queue.clone(), self.body.clone());
        self.unwritten.begin(async move {
            let options = BasicPublishOptions::default();
            channel.basic_publish(ShortString::default(), queue, options, &body, properties).await
        })
    }

    /// Requests that may still lie in this process, because the broker does not
    /// take them.
    pub fn unwritten(&mut self) -> usize {
        usize::try_from(self.unwritten.count()).unwrap_or(usize::MAX)
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
        let mut next = self.replies.next().await;
        loop {
            match next {
                Some(Ok(delivery)) => into.push(self.reply(delivery)),
                Some(Err(error)) => return Err(error.to_string()),
                None => return Err("the broker has ended the consuming of replies".to_owned()),
            }
            if into.len() >= MOST_AT_ONCE {
                return Ok(());
            }
            next = match self.replies.next().now_or_never() {
                Some(next) => next,
                None => return Ok(()),
            };
        }
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

    fn reply(&mut self, delivery: Delivery) -> LoadReply {
        let Delivery { properties, data, .. } = delivery;
        let number = filter::bytes(&properties, Property::CorrelationId)
            .and_then(|id| std::str::from_utf8(id).ok())
            .and_then(|id| id.strip_prefix(&self.prefix)?.parse().ok());
        if let Some(number) = number {
            self.unwritten.answered(number);
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

/// Which requests are written: they are in the order in which they were begun.
#[derive(Default)]
struct Unwritten {
    begun: u64,
    /// The first so many of them are, as far as is known.
    written: u64,
    /// One that says when it is, and its place in the order.
    mark: Option<(u64, BoxFuture<'static, Result<(), String>>)>,
}

impl std::fmt::Debug for Unwritten {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { begun, written, .. } = self;
        f.debug_struct("Unwritten").field("begun", begun).field("written", written).finish()
    }
}

impl Unwritten {
    /// Begins to write one more.
    fn begin<T, E: std::fmt::Display>(
        &mut self,
        writing: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Result<(), String> {
        self.begun += 1;
        let writing = writing.map(|ended| ended.map(drop).map_err(|error| error.to_string()));
        if self.mark.is_some() {
            return writing.now_or_never().unwrap_or(Ok(()));
        }
        let mut writing = writing.boxed();
        match (&mut writing).now_or_never() {
            Some(ended) => {
                self.written = self.begun;
                ended
            }
            None => {
                self.mark = Some((self.begun, writing));
                Ok(())
            }
        }
    }

    /// What was answered was written, and all before it.
    fn answered(&mut self, number: u64) {
        self.written = self.written.max(number.saturating_add(1).min(self.begun));
    }

    /// Those of which it is not known.
    fn count(&mut self) -> u64 {
        // That one could not be written is told by the end of the replies.
        if let Some((place, writing)) = &mut self.mark
            && writing.now_or_never().is_some()
        {
            self.written = self.written.max(*place);
            self.mark = None;
        }
        self.begun - self.written
    }
}

/// A channel on which replies are consumed without acks, and their address.
///
/// Requests go out over the same channel, as direct reply-to demands. A queue is
/// exclusive: it goes with the connection, also after a kill.
async fn consume(
    connection: &Connection,
    reply_queue: bool,
) -> lapin::Result<(Channel, ShortString, Consumer)> {
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
    let none = FieldTable::default();
    let replies =
        channel.basic_consume(address.clone(), ShortString::default(), no_ack, none).await?;
    Ok((channel, address, replies))
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[test]
    fn what_is_written_is_told_by_one_now_and_then_and_by_answers() {
        let mut unwritten = Unwritten::default();
        let begin = |unwritten: &mut Unwritten| {
            let (tell, told) = oneshot::channel::<()>();
            unwritten.begin(told).unwrap();
            tell
        };
        let first = begin(&mut unwritten);
        let others: Vec<_> = (0..4).map(|_| begin(&mut unwritten)).collect();
        assert_eq!(unwritten.count(), 5);
        first.send(()).unwrap();
        // The others have nobody to tell.
        assert!(others.into_iter().all(|tell| tell.send(()).is_err()));
        assert_eq!(unwritten.count(), 4);
        unwritten.answered(2);
        assert_eq!(unwritten.count(), 2);
        let sixth = begin(&mut unwritten);
        assert_eq!(unwritten.count(), 3);
        sixth.send(()).unwrap();
        assert_eq!(unwritten.count(), 0);
        unwritten.answered(u64::MAX);
        assert_eq!(unwritten.count(), 0, "nobody answers what was not asked");
        let lost = unwritten.begin(std::future::ready(Err::<(), _>("lost")));
        assert_eq!(lost, Err("lost".to_owned()));
    }
}
