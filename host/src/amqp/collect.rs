//! Consumes queues and hands on what is in them, over as many connections as
//! that takes. For checks that want to see for themselves what a queue gets.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::select_all;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::types::{FieldTable, ShortString};
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use super::connect::{Connected, Connector, OpenError, within};
use super::convert::{self, short};
use crate::message::Properties;

/// Messages on their way from one queue: enough to keep it flowing.
const AHEAD: u16 = 64;

/// A message out of one of the queues.
#[derive(Debug)]
pub struct Collected {
    /// The queue's number in the list.
    pub queue: usize,
    /// The message's properties.
    pub properties: Properties,
    /// Its body.
    pub body: Bytes,
    /// Whether the broker says that it may have been delivered before.
    pub redelivered: bool,
}

/// Consumes until it is dropped. A message is acked when it was handed on.
#[derive(Debug)]
pub struct Collector {
    _keeper: AbortOnDropHandle<()>,
}

impl Collector {
    /// Consumes each of the queues, which must exist.
    ///
    /// # Errors
    ///
    /// When no broker can be reached, or a queue is missing.
    pub async fn start(
        connector: Arc<Connector>,
        queues: &[String],
        take: impl Fn(Collected) + Send + Sync + 'static,
    ) -> Result<Self, OpenError> {
        let names = queues.iter().map(|queue| {
            short(queue).ok_or_else(|| {
                OpenError::Refused(format!("`{queue}` is longer than a queue's name can be"))
            })
        });
        let names: Vec<ShortString> = names.collect::<Result<_, _>>()?;
        let mut failures = Vec::new();
        for attempt in 1..=u32::try_from(connector.brokers()).unwrap_or(u32::MAX) {
            match open(&connector, attempt, &names).await {
                Ok(session) => {
                    let keeping = keep(connector, names, session, take);
                    return Ok(Self { _keeper: AbortOnDropHandle::new(tokio::spawn(keeping)) });
                }
                Err(error) => failures.push(error.to_string()),
            }
        }
        Err(OpenError::Unreachable(failures.join("; ")))
    }
}

type Session = (Connected, Vec<lapin::Consumer>);

async fn keep(
    connector: Arc<Connector>,
    names: Vec<ShortString>,
    mut session: Session,
    take: impl Fn(Collected) + Send + Sync,
) {
    loop {
        let (_connection, consumers) = session;
        let reason = read(consumers, &take).await;
        debug!("lost the queues, connecting again: {reason}");
        let mut attempt = 0;
        session = loop {
            attempt += 1;
            tokio::time::sleep(connector.wait_before(attempt)).await;
            match open(&connector, attempt, &names).await {
                Ok(session) => break session,
                Err(error) => debug!(attempt, "no queues: {error}"),
            }
        };
    }
}

async fn read(consumers: Vec<lapin::Consumer>, take: &(impl Fn(Collected) + Sync)) -> String {
    // The end of any of them ends all: a queue that was deleted has no end but that.
    let numbered = consumers.into_iter().enumerate().map(|(queue, consumer)| {
        let ends = futures_util::stream::once(async { None });
        consumer.map(Some).chain(ends).map(move |next| (queue, next)).boxed()
    });
    let mut all = select_all(numbered);
    while let Some((queue, next)) = all.next().await {
        let delivery = match next {
            Some(Ok(delivery)) => delivery,
            Some(Err(error)) => return error.to_string(),
            None => return "a queue is gone".to_owned(),
        };
        let lapin::message::Delivery { properties, redelivered, data, acker, .. } = delivery;
        let properties = convert::properties(&properties);
        take(Collected { queue, properties, body: Bytes::from(data), redelivered });
        if let Err(error) = acker.ack(BasicAckOptions::default()).await {
            return error.to_string();
        }
    }
    "there are no queues".to_owned()
}

async fn open(
    connector: &Connector,
    attempt: u32,
    names: &[ShortString],
) -> Result<Session, OpenError> {
    let Some(url) = connector.broker_for(attempt).await else {
        return Err(OpenError::Unreachable("no broker is configured".to_owned()));
    };
    let connection = connector.connect(url, "collect").await?;
    let opening = async {
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let mut consumers = Vec::with_capacity(names.len());
        for name in names {
            let channel = connection.create_channel().await?;
            channel.queue_declare(name.clone(), passive, FieldTable::default()).await?;
            channel.basic_qos(AHEAD, BasicQosOptions::default()).await?;
            let consume = channel.basic_consume(
                name.clone(),
                ShortString::default(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            );
            consumers.push(consume.await?);
        }
        lapin::Result::Ok(consumers)
    };
    let consumers = within(connector.timeout(), url, opening).await?;
    Ok((connection, consumers))
}
