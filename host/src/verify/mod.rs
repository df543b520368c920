//! The reliability check: numbered requests at a rate, each written down before
//! it is sent, confirmed, and ticked off when its answer comes.
//!
//! `ledger` and `stage` know what is missing and where it was seen last,
//! `request` what is sent and what is right, `report` how it is told. This file
//! is the run: it wires them to a caller, to the queues that are looked into,
//! and to the Firehose. Knows no terminal; who runs it is told by [`Observer`].

mod ledger;
mod report;
mod request;
mod stage;
mod tracer;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::ledger::{Answered, Ledger, MOST_OPEN};
use self::tracer::Tracer;
use crate::amqp::{
    Caller, CallerError, CallerEvent, Collected, Collector, Connector, Outgoing, Power, Watcher,
};
use crate::message::Properties;

pub use ledger::{Counts, Expected, Missing, Strange};
pub use report::Report;
pub use request::{Requests, Source};
pub use stage::Stage;

/// Queues that one message may be looked for in: bits of a number.
pub const MOST_QUEUES: usize = 64;

/// How often the sender looks what is due.
const TICK: Duration = Duration::from_millis(5);

/// How often to look for what is overdue, and to send again what no queue took.
const DETECT: Duration = Duration::from_secs(1);

/// At the end, how long to wait for second answers, and for the last copies of
/// the Firehose.
const LINGER: Duration = Duration::from_secs(1);

/// What to check, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// Exchange and routing key, or queue, as in [`Outgoing`].
    pub exchange: String,
    /// See `exchange`.
    pub key: String,
    /// Where answers are published to, as in [`Outgoing`].
    pub reply_exchange: Option<String>,
    /// What each request has to bring.
    pub expected: Expected,
    /// The requests.
    pub requests: Requests,
    /// Requests a second.
    pub rate: u32,
    /// How many requests; none is no limit.
    pub count: Option<u64>,
    /// For how long to send; none is until it is stopped.
    pub duration: Option<Duration>,
    /// A request that has waited for this long is overdue.
    pub overdue: Duration,
    /// A request that has waited for this long at the end is lost.
    pub wait: Duration,
    /// Whether to read the Firehose, and a command that switches it on.
    pub trace: Option<Option<Vec<String>>>,
}

/// Is told how a run goes.
pub trait Observer: Send + Sync {
    /// Something that a person should know now.
    fn say(&self, text: &str);
    /// The Firehose's state, and its broker.
    fn traced(&self, power: &Power, broker: &str);
    /// The numbers as they stand, and how many requests are open.
    fn progress(&self, counts: Counts, open: usize);
}

/// Why there was nothing to check.
#[derive(Debug)]
pub enum Failed {
    /// The requests cannot be sent as they are.
    Usage(String),
    /// No broker, no queue, nobody to answer.
    Nobody(String),
}

impl From<CallerError> for Failed {
    fn from(error: CallerError) -> Self {
        match error {
            CallerError::Unsendable(text) => Self::Usage(text),
            error => Self::Nobody(error.to_string()),
        }
    }
}

/// What the parts of a run share.
struct Run {
    options: Options,
    observer: Arc<dyn Observer>,
    ledger: Mutex<Ledger>,
    /// Queues that our replies come to.
    replies: Mutex<Vec<String>>,
}

/// Runs a check. `stop` ends the sending, and what was sent is waited for;
/// `quit` ends it at once.
///
/// # Errors
///
/// When it cannot begin.
pub async fn run(
    connector: Arc<Connector>,
    options: Options,
    observer: Arc<dyn Observer>,
    stop: CancellationToken,
    quit: CancellationToken,
) -> Result<Report, Failed> {
    options.requests.encode(1, "1").map_err(Failed::Usage)?;
    let started = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let name = format!("{}-{:08x}", started.as_millis(), rand::random::<u32>());
    let run = Arc::new(Run {
        ledger: Mutex::new(Ledger::new(name.clone(), options.expected.clone())),
        replies: Mutex::default(),
        options,
        observer,
    });
    let caller = Arc::new(Caller::watched(&connector, watcher(run.clone())).await?);
    run.replies().extend(caller.reply_queue());
    let copies = run.all(&caller, connector, &stop, &quit).await;
    let connections = caller.counts().connections;
    // Where a request is still to be sent, the reply queue expires by itself.
    if let Some(caller) = Arc::into_inner(caller) {
        caller.close().await;
    }
    Ok(run.report(name, connections, copies?, quit.is_cancelled()))
}

fn watcher(run: Arc<Run>) -> Watcher {
    Watcher::new(move |event| match event {
        CallerEvent::Sending { id } => run.ledger().sending(id),
        CallerEvent::Confirmed { id } => run.ledger().confirmed(id),
        CallerEvent::Returned { id } => run.ledger().returned(id),
        CallerEvent::Reply { body, .. } if run.options.requests.is_interim(body) => {}
        CallerEvent::Reply { properties, body, redelivered } => {
            let id = properties.correlation_id.as_deref().unwrap_or_default();
            let id = String::from_utf8_lossy(id);
            let marked = properties.text_header("rpchost-redelivered") == Some("true");
            let judge = |number| match &run.options.expected {
                Expected::Answers(_) => run.options.requests.wrong(number, &id, properties, body),
                Expected::Queues(_) => None,
            };
            // Where queues are looked into, an answer of a service beside us
            // counts for nothing.
            if matches!(run.options.expected, Expected::Answers(_)) {
                run.came(&id, None, judge, marked, redelivered);
            }
        }
        CallerEvent::Lost(reason) => {
            run.observer.say(&format!("lost the broker, connecting again: {reason}"));
        }
        CallerEvent::Back(queue) => {
            run.replies().push(queue.to_owned());
            run.observer.say("connected again");
        }
    })
}

impl Run {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replies(&self) -> MutexGuard<'_, Vec<String>> {
        self.replies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ticks off what has come; judged outside of the lock.
    fn came(
        &self,
        id: &str,
        queue: Option<u32>,
        judge: impl FnOnce(u64) -> Option<String>,
        marked: bool,
        redelivered: bool,
    ) {
        let number = self.ledger().number(id);
        let wrong = number.and_then(judge);
        let answer = Answered { id, queue, wrong: wrong.as_deref(), marked, redelivered };
        self.ledger().answered(answer, Instant::now());
    }

    /// One of our own messages, out of a queue; or somebody else's.
    fn collected(&self, message: &Collected) {
        let id = message_id(&message.properties);
        let judge = |number| self.options.requests.changed(number, &id, &message.body);
        let queue = u32::try_from(message.queue).ok();
        self.came(&id, queue, judge, message.redelivered, message.redelivered);
    }

    /// The run from its first look to the last answer; how many copies the
    /// Firehose has shown.
    async fn all(
        self: &Arc<Self>,
        caller: &Arc<Caller>,
        connector: Arc<Connector>,
        stop: &CancellationToken,
        quit: &CancellationToken,
    ) -> Result<Option<u64>, Failed> {
        let collector = self.begin(&connector, caller).await?;
        let tracer = match &self.options.trace {
            Some(ctl) => Some(Tracer::start(self, connector, ctl.clone()).await?),
            None => None,
        };
        let sent = self.send(caller, stop, quit).await;
        if sent.is_ok() {
            self.wait(caller, quit).await;
        }
        drop(collector);
        let copies = match tracer {
            Some(tracer) => Some(tracer.end(self).await),
            None => None,
        };
        sent?;
        Ok(copies)
    }

    /// Looks whether there is anybody to answer, and begins to consume.
    async fn begin(
        self: &Arc<Self>,
        connector: &Arc<Connector>,
        caller: &Caller,
    ) -> Result<Option<Collector>, Failed> {
        let Options { exchange, key, reply_exchange, expected, .. } = &self.options;
        match expected {
            Expected::Answers(_) => {
                if let Some(exchange) = reply_exchange {
                    caller.replies_from(exchange).await?;
                }
                if exchange.is_empty() && caller.consumers(key).await? == Some(0) {
                    return Err(Failed::Nobody(format!("nobody consumes the queue `{key}`")));
                }
                Ok(None)
            }
            Expected::Queues(queues) => {
                let run = self.clone();
                let take = move |message: Collected| run.collected(&message);
                let collecting = Collector::start(connector.clone(), queues, take).await;
                collecting.map(Some).map_err(|error| Failed::Nobody(error.to_string()))
            }
        }
    }

    /// Sends requests as they are due, until there were enough.
    async fn send(
        self: &Arc<Self>,
        caller: &Arc<Caller>,
        stop: &CancellationToken,
        quit: &CancellationToken,
    ) -> Result<(), CallerError> {
        let Options { rate, count, duration, .. } = self.options;
        let begun = Instant::now();
        // What is due is counted from here: later than the beginning if the
        // ledger was full for a time.
        let (mut base, mut since_base) = (begun, 0u64);
        let mut full = false;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut detect = tokio::time::interval(DETECT);
        let mut sending = JoinSet::new();
        let mut sent = 0u64;
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                _ = detect.tick() => self.detect(caller, &mut sending)?,
                Some(ended) = sending.join_next() => {
                    unsendable(ended)?;
                    continue;
                }
                () = stop.cancelled() => break,
                () = quit.cancelled() => break,
            }
            if duration.is_some_and(|duration| begun.elapsed() >= duration) {
                break;
            }
            let due = base.elapsed().as_secs_f64() * f64::from(rate);
            while (since_base as f64) < due && count.is_none_or(|count| sent < count) {
                let recorded = self.ledger().record(Instant::now());
                let Some((number, id)) = recorded else {
                    if !std::mem::replace(&mut full, true) {
                        self.observer.say(&format!(
                            "{MOST_OPEN} requests are unanswered: no more are sent until some are"
                        ));
                    }
                    (base, since_base) = (Instant::now(), 0);
                    break;
                };
                full = false;
                since_base += 1;
                sent += 1;
                self.send_one(caller, number, id, &mut sending)?;
            }
            if count.is_some_and(|count| sent >= count) {
                break;
            }
        }
        // What is still to be confirmed goes on by itself.
        sending.detach_all();
        Ok(())
    }

    /// Sends one request, on a task of its own: it may take until the broker is
    /// back.
    fn send_one(
        self: &Arc<Self>,
        caller: &Arc<Caller>,
        number: u64,
        id: String,
        sending: &mut JoinSet<Result<(), CallerError>>,
    ) -> Result<(), CallerError> {
        let encoded = self.options.requests.encode(number, &id).map_err(CallerError::Unsendable)?;
        let request = Outgoing {
            exchange: self.options.exchange.clone(),
            queue: self.options.key.clone(),
            reply_exchange: self.options.reply_exchange.clone(),
            kind: encoded.kind,
            content_type: encoded.content_type,
            content_encoding: encoded.content_encoding,
            headers: encoded.headers,
            body: encoded.body,
            persistent: true,
            timeout: Duration::MAX,
            ..Outgoing::default()
        };
        // Weak: the caller is closed at the end, whatever is still to be sent.
        let (run, caller) = (self.clone(), Arc::downgrade(caller));
        sending.spawn(async move {
            let Some(caller) = caller.upgrade() else { return Ok(()) };
            let sent = caller.send(&request, &id).await;
            if let Err(CallerError::Nobody(reason)) = &sent {
                tracing::debug!(id, "not taken: {reason}");
                run.ledger().returned(&id);
            }
            sent
        });
        Ok(())
    }

    /// Says what is overdue, and sends again what no queue took.
    fn detect(
        self: &Arc<Self>,
        caller: &Arc<Caller>,
        sending: &mut JoinSet<Result<(), CallerError>>,
    ) -> Result<(), CallerError> {
        let (found, again) = {
            let mut ledger = self.ledger();
            (ledger.overdue(Instant::now(), self.options.overdue), ledger.refused())
        };
        if let Some((first, count)) = found {
            let after = self.options.overdue;
            self.observer.say(&match count {
                1 => format!("overdue: {first}, unanswered for {after:?}"),
                _ => {
                    format!("overdue: {count} requests, unanswered for {after:?}, from {first} on")
                }
            });
        }
        for (number, id) in again {
            self.send_one(caller, number, id, sending)?;
        }
        let (counts, open) = {
            let ledger = self.ledger();
            (ledger.counts(), ledger.open())
        };
        self.observer.progress(counts, open);
        Ok(())
    }

    /// Waits for what is due, and a moment for what should not come.
    async fn wait(self: &Arc<Self>, caller: &Arc<Caller>, quit: &CancellationToken) {
        let mut detect = tokio::time::interval(DETECT);
        let mut look = tokio::time::interval(TICK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut sending = JoinSet::new();
        loop {
            let newest = self.ledger().newest();
            if newest.is_none_or(|newest| newest.elapsed() >= self.options.wait) {
                break;
            }
            tokio::select! {
                _ = look.tick() => {}
                _ = detect.tick() => {
                    if let Err(error) = self.detect(caller, &mut sending) {
                        self.observer.say(&error.to_string());
                    }
                }
                () = quit.cancelled() => return,
            }
        }
        tokio::select! {
            () = tokio::time::sleep(LINGER) => {}
            () = quit.cancelled() => {}
        }
    }

    fn report(
        &self,
        name: String,
        connections: u64,
        copies: Option<u64>,
        was_cut_short: bool,
    ) -> Report {
        let ledger = self.ledger();
        // A Firehose that has shown nothing says nothing about anything.
        let traced = copies.is_some_and(|copies| copies > 0);
        let missing = ledger.missing(Instant::now(), traced);
        let (lost, unconfirmed) = missing.into_iter().partition(|missing| missing.confirmed);
        Report {
            run: name,
            rate: self.options.rate,
            counts: ledger.counts(),
            lost,
            unconfirmed,
            wrong: ledger.wrong.clone(),
            unexpected: ledger.unexpected.clone(),
            duplicates: ledger.duplicates.clone(),
            longest: ledger.longest(),
            connections,
            copies,
            was_cut_short,
        }
    }
}

fn unsendable(
    ended: Result<Result<(), CallerError>, tokio::task::JoinError>,
) -> Result<(), CallerError> {
    match ended {
        Ok(Err(error @ CallerError::Unsendable(_))) => Err(error),
        Ok(_) => Ok(()),
        Err(error) => Err(CallerError::Nobody(format!("a request was not sent: {error}"))),
    }
}

fn message_id(properties: &Properties) -> String {
    let correlation = || {
        let id = properties.correlation_id.as_deref()?;
        Some(String::from_utf8_lossy(id).into_owned())
    };
    properties.message_id.clone().or_else(correlation).unwrap_or_default()
}
