//! Queues that belong to a request queue and are the hosts' own: made when they
//! are needed, used as they are where they exist.

use lapin::options::QueueDeclareOptions;
use lapin::protocol::AMQPSoftError;
use lapin::types::{AMQPValue, FieldTable, LongString};
use tracing::info;

use super::connect::Connected;
use super::convert::short;
use super::topology::{close, is_soft};
use crate::config::QueueKind;

/// Most requests that wait in one of these queues: a hundred times what a host
/// has in flight. More are refused, and stay where they are.
const MOST: i64 = 10_000;

/// How often these queues deliver one request: as good as always. Without a number
/// RabbitMQ 4 ends what was delivered twenty times, and looking at a parked
/// request is a delivery. Its own number for "never", -1, is taken by 3.10 as
/// well, which then drops whatever comes back for the first time.
const MOST_DELIVERIES: i64 = 1_000_000_000;

/// What is beyond a queue's bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beyond {
    /// Nothing: it has none.
    Unbounded,
    /// It is refused.
    Refused,
}

/// Makes sure that the queue exists; `kind` is that of the request queue.
pub(super) async fn ensure(
    connection: &Connected,
    name: &str,
    kind: QueueKind,
    beyond: Beyond,
) -> lapin::Result<()> {
    if exists(connection, name).await?.is_some() {
        return Ok(());
    }
    declare(connection, name, arguments(kind, beyond)).await?;
    info!(queue = name, "queue created");
    Ok(())
}

/// Makes sure that a queue exists which callers consume: one that is made is
/// durable, and nothing else is said of it.
pub(super) async fn ensure_plain(connection: &Connected, name: &str) -> lapin::Result<()> {
    if exists(connection, name).await?.is_none() {
        declare(connection, name, FieldTable::default()).await?;
        info!(queue = name, "queue for replies created");
    }
    Ok(())
}

/// Messages that wait in a queue; `None` if there is none of that name.
pub(super) async fn exists(connection: &Connected, name: &str) -> lapin::Result<Option<u32>> {
    let channel = connection.create_channel().await?;
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let name = short(name).unwrap_or_default();
    match channel.queue_declare(name, passive, FieldTable::default()).await {
        Ok(queue) => {
            close(&channel).await;
            Ok(Some(queue.message_count()))
        }
        Err(error) if is_soft(&error, &AMQPSoftError::NOTFOUND) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn declare(connection: &Connected, name: &str, arguments: FieldTable) -> lapin::Result<()> {
    let channel = connection.create_channel().await?;
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(short(name).unwrap_or_default(), durable, arguments).await?;
    close(&channel).await;
    Ok(())
}

fn arguments(kind: QueueKind, beyond: Beyond) -> FieldTable {
    let text = |text: &str| AMQPValue::LongString(LongString::from(text));
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text(kind.amqp_name()));
    if kind == QueueKind::Quorum {
        arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(MOST_DELIVERIES));
    }
    if beyond == Beyond::Refused {
        arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(MOST));
        arguments.insert("x-overflow".into(), text("reject-publish"));
    }
    arguments
}
