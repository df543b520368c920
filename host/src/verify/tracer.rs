//! Reads the Firehose into the ledger: what is copied of our own requests and
//! of their replies.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::{Expected, Failed, Options, Run};
use crate::amqp::{Connector, Firehose, FirehoseOptions, Power, Seen};
use crate::trace::{Event, Kind};

/// Reads the Firehose into the ledger.
pub(super) struct Tracer {
    stop: CancellationToken,
    reading: AbortOnDropHandle<(u64, Result<(), String>)>,
}

impl Tracer {
    pub(super) async fn start(
        run: &Arc<Run>,
        connector: Arc<Connector>,
        ctl: Option<Vec<String>>,
    ) -> Result<Self, Failed> {
        let options = FirehoseOptions { patterns: patterns(&run.options), ctl };
        // On a task of its own: it must come to its end.
        let opening = tokio::spawn(Firehose::open(connector, options));
        let opened = opening.await.map_err(|error| Failed::Nobody(error.to_string()))?;
        let (firehose, power) = opened.map_err(|error| Failed::Nobody(error.to_string()))?;
        run.observer.traced(&power, firehose.broker());
        let (stop, run) = (CancellationToken::new(), run.clone());
        let reading = tokio::spawn(read(firehose, run, stop.clone()));
        Ok(Self { stop, reading: AbortOnDropHandle::new(reading) })
    }

    /// Switches the Firehose off; how many copies there were.
    pub(super) async fn end(self, run: &Run) -> u64 {
        self.stop.cancel();
        match self.reading.await {
            Ok((copies, Ok(()))) => copies,
            Ok((copies, Err(error))) => {
                run.observer.say(&error);
                copies
            }
            Err(error) => {
                run.observer.say(&format!("the Firehose may still be on: {error}"));
                0
            }
        }
    }
}

/// Only what can concern us: the Firehose copies everybody's messages.
fn patterns(options: &Options) -> Vec<String> {
    // Replies go to the default exchange, whose name is empty.
    let mut patterns = vec!["publish.".to_owned(), "deliver.rpchost.replies.#".to_owned()];
    if !options.exchange.is_empty() {
        patterns.push(format!("publish.{}", options.exchange));
    }
    match &options.expected {
        Expected::Queues(queues) => {
            patterns.extend(queues.iter().map(|queue| format!("deliver.{queue}")));
        }
        Expected::Answers(_) if options.exchange.is_empty() => {
            patterns.push(format!("deliver.{}", options.key));
        }
        Expected::Answers(_) => patterns.push("deliver.#".to_owned()),
    }
    patterns
}

async fn read(
    mut firehose: Firehose,
    run: Arc<Run>,
    stop: CancellationToken,
) -> (u64, Result<(), String>) {
    let mut copies = 0;
    loop {
        let seen = tokio::select! {
            seen = firehose.next() => seen,
            () = stop.cancelled() => break,
        };
        match seen {
            Some(Seen::Copy(copy)) => {
                let read = Event::read(&copy.routing_key, &copy.properties, &copy.body, 0, copy.at);
                if let Some(event) = read {
                    copies += 1;
                    run.mark(&event);
                }
            }
            Some(Seen::Dropped) => run.ledger().gap(false),
            Some(Seen::Lost(_)) => run.ledger().gap(true),
            Some(Seen::Back(power)) => {
                run.ledger().gap(matches!(power, Power::Unknown(_)));
                if let Power::Unknown(_) = power {
                    run.observer.traced(&power, firehose.broker());
                }
            }
            None => break,
        }
    }
    (copies, firehose.close().await)
}

impl Run {
    fn mark(&self, event: &Event) {
        let id = event.property("correlation_id").or(event.property("message_id"));
        let Some(id) = id.and_then(|id| std::str::from_utf8(id).ok()) else { return };
        let is_reply_queue = |name: &str| self.replies().iter().any(|queue| queue == name);
        let queue = event.queues.first().map(String::as_str).unwrap_or_default();
        match event.kind {
            Kind::Publish if is_reply_queue(event.routing_key()) => {
                self.ledger().mark(id, |marks| marks.reply(!event.queues.is_empty()));
            }
            Kind::Publish => self.ledger().mark(id, |marks| marks.routed_to(&event.queues)),
            Kind::Deliver if is_reply_queue(queue) => {
                self.ledger().mark(id, |marks| marks.replies_delivered += 1);
            }
            Kind::Deliver => self.ledger().mark(id, |marks| marks.delivered_from(queue)),
        }
    }
}
