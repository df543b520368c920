//! Queues, exchanges and bindings: used as they are, created only where they are
//! missing.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::{Channel, ErrorKind};
use tracing::{debug, info, warn};

use super::connect::Connected;
use super::convert::short;
use super::{dead_letters, own_queues};
use crate::config::{
    ArgValue, Exchange, ExchangeKind, QueueConfig, QueueKind, RANDOM_END, ServedQueue,
};

/// Makes sure that a queue exists, that it is bound as it should be, and that its
/// queue for replies is there. `say_differences` compares what exists with what
/// was asked for and says once how it differs. Returns the name of the queue.
pub(super) async fn ensure(
    connection: &Connected,
    served: &ServedQueue,
    say_differences: bool,
) -> lapin::Result<String> {
    let name = if served.exclusive {
        declare_exclusive(connection, &served.queue).await?
    } else {
        ensure_queue(connection, served, say_differences).await?;
        served.queue.name.clone()
    };
    if let Some(exchange) = &served.exchange {
        ensure_exchange(connection, exchange, say_differences).await?;
        let channel = connection.create_channel().await?;
        for key in &exchange.keys {
            let (queue, from) = (short(&name), short(&exchange.name));
            let (Some(queue), Some(from), Some(key)) = (queue, from, short(key)) else { continue };
            let (options, args) = (QueueBindOptions::default(), table(&exchange.args));
            channel.queue_bind(queue, from, key, options, args).await?;
        }
        close(&channel).await;
    }
    if let Some(replies) = &served.terms.reply_queue {
        let replies = String::from_utf8_lossy(replies);
        // As callers declare a queue who say nothing about it: durable, and no more.
        own_queues::ensure_plain(connection, &replies).await?;
    }
    Ok(name)
}

/// A queue of this connection alone, which is gone when nobody consumes it any
/// more.
async fn declare_exclusive(connection: &Connected, queue: &QueueConfig) -> lapin::Result<String> {
    let name = format!("{}.{:0width$x}", queue.name, rand::random::<u64>(), width = RANDOM_END);
    let options = QueueDeclareOptions {
        exclusive: true,
        auto_delete: true,
        durable: queue.kind != QueueKind::Transient,
        ..QueueDeclareOptions::default()
    };
    let channel = connection.create_channel().await?;
    channel.queue_declare(short(&name).unwrap_or_default(), options, arguments(queue)).await?;
    close(&channel).await;
    Ok(name)
}

/// Declared passively first, on a channel of its own: a failed declaration
/// closes the channel that asked.
async fn ensure_exchange(
    connection: &Connected,
    exchange: &Exchange,
    say_differences: bool,
) -> lapin::Result<()> {
    let passive = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
    let active = ExchangeDeclareOptions { durable: exchange.durable, ..Default::default() };
    match declare_exchange(connection, exchange, passive).await {
        Ok(()) if !say_differences => Ok(()),
        Ok(()) => match declare_exchange(connection, exchange, active).await {
            Ok(()) => Ok(()),
            Err(error) if is_soft(&error, &AMQPSoftError::PRECONDITIONFAILED) => {
                warn!(
                    exchange = exchange.name,
                    "the exchange exists and is used as it is, although it differs from what its \
                     listener says: {error}"
                );
                Ok(())
            }
            // Not allowed to declare: then there is nothing to compare with.
            Err(error) if is_soft(&error, &AMQPSoftError::ACCESSREFUSED) => Ok(()),
            Err(error) => Err(error),
        },
        Err(error) if is_soft(&error, &AMQPSoftError::NOTFOUND) => {
            declare_exchange(connection, exchange, active).await?;
            info!(exchange = exchange.name, kind = exchange.kind.name(), "exchange created");
            Ok(())
        }
        Err(error) => Err(error),
    }
}

async fn declare_exchange(
    connection: &Connected,
    exchange: &Exchange,
    options: ExchangeDeclareOptions,
) -> lapin::Result<()> {
    let kind = match exchange.kind {
        ExchangeKind::Direct => lapin::ExchangeKind::Direct,
        ExchangeKind::Topic => lapin::ExchangeKind::Topic,
        ExchangeKind::Fanout => lapin::ExchangeKind::Fanout,
        ExchangeKind::Headers => lapin::ExchangeKind::Headers,
    };
    let (name, none) = (short(&exchange.name).unwrap_or_default(), FieldTable::default());
    let channel = connection.create_channel().await?;
    channel.exchange_declare(name, kind, options, none).await?;
    close(&channel).await;
    Ok(())
}

/// Declared passively first, like an exchange.
async fn ensure_queue(
    connection: &Connected,
    served: &ServedQueue,
    say_differences: bool,
) -> lapin::Result<()> {
    let queue = &served.queue;
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
                compare(connection, served).await?;
            }
            Ok(())
        }
        Err(error) if is_soft(&error, &AMQPSoftError::NOTFOUND) => {
            let dead_letters = served.dead_letters && dead_letters::make(connection, queue).await?;
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
async fn compare(connection: &Connected, served: &ServedQueue) -> lapin::Result<()> {
    let queue = &served.queue;
    // As a host would make it now, or without a place for dead requests, as
    // others do: that is no difference that anybody asked for.
    let wanted = served.dead_letters;
    if wanted && declare(&connection.create_channel().await?, queue, true).await.is_ok() {
        return Ok(());
    }
    match declare(&connection.create_channel().await?, queue, false).await {
        Ok(()) if !wanted => {}
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
    for (name, value) in table(&queue.args).inner() {
        arguments.insert(name.clone(), value.clone());
    }
    arguments
}

fn table(args: &[(String, ArgValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in args {
        let value = match value {
            ArgValue::Int(value) => AMQPValue::LongLongInt(*value),
            ArgValue::Bool(value) => AMQPValue::Boolean(*value),
            ArgValue::Text(value) => AMQPValue::LongString(LongString::from(value.as_str())),
        };
        if let Some(name) = short(name) {
            table.insert(name, value);
        }
    }
    table
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
