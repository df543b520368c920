//! Is there anybody to answer? How many consume a queue.

use std::time::Duration;

use lapin::Connection;
use lapin::options::QueueDeclareOptions;
use lapin::protocol::AMQPSoftError;
use lapin::types::{FieldTable, ShortString};

use super::topology::is_soft;

/// Why a queue's consumers could not be counted.
#[derive(Debug)]
pub(super) enum NoCount {
    NoQueue,
    Lost(String),
}

/// How many consume a queue; `None` where the broker does not tell. Asked on a
/// channel of its own, which may fail.
///
/// # Errors
///
/// When there is no such queue, or when the broker cannot be asked.
pub(super) async fn consumers(
    connection: &Connection,
    timeout: Duration,
    queue: &ShortString,
) -> Result<Option<u32>, NoCount> {
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let asking = async {
        let channel = connection.create_channel().await?;
        channel.queue_declare(queue.clone(), passive, FieldTable::default()).await
    };
    match tokio::time::timeout(timeout, asking).await {
        Ok(Ok(queue)) => Ok(Some(queue.consumer_count())),
        Ok(Err(error)) if is_soft(&error, &AMQPSoftError::NOTFOUND) => Err(NoCount::NoQueue),
        // Not ours to see, such as another connection's exclusive queue.
        Ok(Err(error)) if error.is_amqp_soft_error() => Ok(None),
        Ok(Err(error)) => Err(NoCount::Lost(error.to_string())),
        Err(_) => Err(NoCount::Lost(format!("no answer within {timeout:?}"))),
    }
}
