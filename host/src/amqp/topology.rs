//! The queue: used as it is, created only where it is missing.

use lapin::options::QueueDeclareOptions;
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::{Channel, Connection, ErrorKind};
use tracing::{debug, info, warn};

use super::convert::short;
use super::dead_letters;
use crate::config::{ArgValue, QueueConfig, QueueKind};

/// Makes sure that the queue exists. `say_differences` compares an existing
/// queue with what was asked for and says once how it differs.
///
/// Declared passively first, on a channel of its own: a failed declaration
/// closes the channel that asked.
pub(super) async fn ensure_queue(
    connection: &Connection,
    queue: &QueueConfig,
    say_differences: bool,
) -> lapin::Result<()> {
    let Some(name) = short(&queue.name) else {
        // The configuration was checked; the broker would say the same.
        return Ok(());
    };
    let channel = connection.create_channel().await?;
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    match channel.queue_declare(name, passive, FieldTable::default()).await {
        Ok(_) => {
            close(&channel).await;
            if say_differences {
                compare(connection, queue).await?;
            }
            Ok(())
        }
        Err(error) if is_soft(&error, &AMQPSoftError::NOTFOUND) => {
            let dead_letters = dead_letters::make(connection, queue).await?;
            let channel = connection.create_channel().await?;
            match declare(&channel, queue, dead_letters).await {
                // That wants more permissions: to publish to the exchange.
                Err(error) if dead_letters && is_soft(&error, &AMQPSoftError::ACCESSREFUSED) => {
                    let channel = connection.create_channel().await?;
                    declare(&channel, queue, false).await?;
                    dead_letters::warn_of_none(queue, &error);
                }
                declared => declared?,
            }
            info!(queue = queue.name, kind = %queue.kind, "queue created");
            Ok(())
        }
        Err(error) => Err(error),
    }
}

async fn declare(channel: &Channel, queue: &QueueConfig, dead_letters: bool) -> lapin::Result<()> {
    let options = QueueDeclareOptions {
        durable: queue.kind != QueueKind::Transient,
        ..QueueDeclareOptions::default()
    };
    if let Some(name) = short(&queue.name) {
        let mut arguments = arguments(queue);
        if dead_letters {
            dead_letters::add_arguments(queue, &mut arguments);
        }
        channel.queue_declare(name, options, arguments).await?;
        close(channel).await;
    }
    Ok(())
}

/// Declares an existing queue as it was asked for, so that the broker tells
/// the first difference; nothing changes either way.
async fn compare(connection: &Connection, queue: &QueueConfig) -> lapin::Result<()> {
    // As a host would make it now, or without a place for dead requests, as
    // others do: that is no difference that anybody asked for.
    if let Ok(()) = declare(&connection.create_channel().await?, queue, true).await {
        return Ok(());
    }
    match declare(&connection.create_channel().await?, queue, false).await {
        Ok(()) => info!(
            queue = queue.name,
            "the queue has no dead-lettering to this host: what expires in it is not answered"
        ),
        Err(error) if is_soft(&error, &AMQPSoftError::PRECONDITIONFAILED) => {
            warn!(
                queue = queue.name,
                "the queue exists and is used as it is, although it differs from `--queue-type \
                 {}`: {error}",
                queue.kind
            );
        }
        // Not allowed to declare: then there is nothing to compare with.
        Err(error) if is_soft(&error, &AMQPSoftError::ACCESSREFUSED) => {
            debug!("the queue could not be compared with the configuration: {error}");
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

fn arguments(queue: &QueueConfig) -> FieldTable {
    let mut arguments = FieldTable::default();
    if queue.kind == QueueKind::Quorum {
        arguments.insert("x-queue-type".into(), AMQPValue::LongString(LongString::from("quorum")));
    }
    for (name, value) in &queue.args {
        let value = match value {
            ArgValue::Int(value) => AMQPValue::LongLongInt(*value),
            ArgValue::Bool(value) => AMQPValue::Boolean(*value),
            ArgValue::Text(value) => AMQPValue::LongString(LongString::from(value.as_str())),
        };
        if let Some(name) = short(name) {
            arguments.insert(name, value);
        }
    }
    arguments
}

pub(super) async fn close(channel: &Channel) {
    if let Err(error) = channel.close(200, "done".into()).await {
        debug!("a helper channel did not close: {error}");
    }
}

pub(super) fn is_soft(error: &lapin::Error, kind: &AMQPSoftError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ProtocolError(protocol)
            if matches!(protocol.kind(), AMQPErrorKind::Soft(soft) if soft == kind)
    )
}
