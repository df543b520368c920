//! How a lane consumes: one queue of suspects after the other, one request at a
//! time, so that nobody is blamed who only waited.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::lane::IDLE;
use super::queues::{Context, End, answer, finish};
use super::wanted::Wanted;
use crate::amqp::{Closed, OpenError, Role};
use crate::config::ServedQueue;
use crate::message::Place;
use crate::plugins::Plugins;

/// How long a lane with several queues waits for another suspect of one.
const TURN: Duration = Duration::from_millis(200);

/// Time between two looks at several queues.
const LOOK: Duration = Duration::from_secs(1);

/// The same for one that is not there: RabbitMQ writes an error into its log each
/// time.
const LOOK_IN_VAIN: Duration = Duration::from_secs(10);

/// Works until there was nothing to do for a while, or the host stops.
pub(super) async fn take(
    context: &Context,
    plugins: &Plugins,
    wanted: &mut Wanted,
    stop: &CancellationToken,
) -> End {
    let session = &context.session;
    let served = plugins.served();
    let mut idle = Instant::now();
    let mut absent: BTreeMap<String, Instant> = BTreeMap::new();
    while idle.elapsed() < IDLE {
        let queues = wanted.now(&served.borrow());
        context.dispatcher.consumes(&queues);
        let patience = if queues.len() == 1 { IDLE } else { TURN };
        for queue in &queues {
            let name = &queue.queue.name;
            // A single one is worth a consumer that waits.
            if patience == TURN {
                if absent.get(name).is_some_and(|seen| seen.elapsed() < LOOK_IN_VAIN) {
                    continue;
                }
                match session.waiting(name, Place::Suspect).await {
                    Ok(None) => {
                        absent.insert(name.clone(), Instant::now());
                        continue;
                    }
                    Ok(Some(0)) => continue,
                    Ok(Some(_)) => {}
                    Err(error) => return End::NoQueue(error),
                }
            }
            match turn(context, queue, patience, stop).await {
                Ok(0) => {}
                Ok(_) => idle = Instant::now(),
                Err(end) => return end,
            }
            if stop.is_cancelled() {
                return End::Stop;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            reason = session.lost() => return End::Lost(reason),
            () = stop.cancelled() => return End::Stop,
        }
    }
    End::Stop
}

/// Runs the suspects of one queue until there are no more; how many there were.
async fn turn(
    context: &Context,
    served: &Arc<ServedQueue>,
    patience: Duration,
    stop: &CancellationToken,
) -> Result<usize, End> {
    let session = &context.session;
    let leaving = CancellationToken::new();
    let consuming = session.consume(served, Role::Lane, leaving, false);
    let (consumer, mut incoming) = consuming.await.map_err(|error| match error {
        OpenError::Refused(_) => End::NoQueue(error),
        OpenError::Unreachable(reason) => End::Lost(reason),
    })?;
    context.telemetry.consuming(&session.broker(), &Place::Suspect.queue(&served.queue.name));
    let (consumer, running) = (Arc::new(consumer), TaskTracker::new());
    let mut deliveries = 0;
    loop {
        tokio::select! {
            next = incoming.next() => match next {
                Ok(delivery) => {
                    deliveries += 1;
                    answer(context, &consumer, &running, delivery);
                }
                Err(Closed::Cancelled) => return Err(End::Lost("its queue is gone".to_owned())),
                Err(Closed::Failed(reason)) => return Err(End::Lost(reason)),
            },
            reason = session.lost() => return Err(End::Lost(reason)),
            () = stop.cancelled() => break,
            () = tokio::time::sleep(patience) => if running.is_empty() {
                break;
            },
        }
    }
    let finishing = finish(context, consumer, incoming, running);
    tokio::pin!(finishing);
    if tokio::time::timeout(context.patience, &mut finishing).await.is_err() {
        // What still runs is given back.
        context.stopping.given_up.cancel();
        finishing.await;
    }
    Ok(deliveries)
}
