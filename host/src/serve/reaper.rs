//! The reaper: answers requests that the broker has taken out of the queue, so
//! that nobody waits for them in vain.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::amqp::{DeadLetters, Session};
use crate::config::ServedQueue;
use crate::dispatch::Dispatcher;

/// When to look again for what was there to consume and is not now.
const AGAIN: Duration = Duration::from_secs(60);

/// The same where nothing was: an operator may make it. Until then RabbitMQ writes
/// an error into its log each time.
const IN_VAIN: Duration = Duration::from_secs(600);

/// Works until `stop`, or for as long as the session lives.
pub(super) async fn reap(
    session: Arc<Session>,
    served: Arc<ServedQueue>,
    dispatcher: Arc<Dispatcher>,
    stop: CancellationToken,
) {
    loop {
        let opened = tokio::select! {
            opened = DeadLetters::of(&session, &served) => opened,
            () = session.abandoned() => return,
            () = stop.cancelled() => return,
        };
        let mut pause = AGAIN;
        match opened {
            Ok(None) => pause = IN_VAIN,
            Ok(Some(mut dead)) => {
                let dispatcher = &dispatcher;
                let reaping = async {
                    dead.each(&stop, |delivery, death, broker| async move {
                        dispatcher.bury(&delivery, death, &broker).await;
                    })
                    .await;
                    dead.close().await;
                };
                // Not cut by `stop`: whoever was answered must not be answered again.
                tokio::select! {
                    () = reaping => {}
                    () = session.abandoned() => return,
                }
            }
            Err(reason) => debug!("cannot consume dead requests: {reason}"),
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = session.abandoned() => return,
            () = stop.cancelled() => return,
        }
    }
}
