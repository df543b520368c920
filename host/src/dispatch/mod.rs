//! The life of one request, from delivery to settlement.
//!
//! [`Dispatcher::answer`] can be read from top to bottom; the rest of the room
//! is its details. Knows no AMQP library and no WebAssembly: the broker is a
//! three-method trait, a plugin is something that can be called.

mod admit;
mod deadline;
mod outcast;
mod repeats;
mod reply_address;
mod seen;
mod suspicion;

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use futures_util::{FutureExt as _, StreamExt as _, stream};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::config::{Limits, OnRedelivery, ServedQueue};
use crate::message::{
    Answered, CallError, Delivery, ErrorKind, HeaderValue, Note, Place, Reason, Reply, Request,
    Settlement,
};
use crate::plugins::{Invocation, Plugin, Plugins, leave};
use crate::telemetry::Telemetry;
use crate::wire;
use admit::{Line, Refused, Slots};
use deadline::RequestDeadline;
use repeats::{Key, Repeats};
pub use reply_address::{AddressRefused, ReplyAddress, ReplyPolicy};
pub use seen::{Seen, Watcher};
use suspicion::Verdict;
pub use suspicion::{Lane, Suspicion};

/// Calls of one batch that run at once. Together with the bound on a batch it
/// keeps one message from taking every slot.
const BATCH_CONCURRENCY: usize = 8;

/// Largest body in bytes that is decoded, or encoded, on the thread that receives requests:
/// it takes about a hundred microseconds where it is JSON.
const LARGE: usize = 128 * 1024;

/// Headers that a redelivery adds: what was acceptable at first stays so.
const COUNTED: [&str; 2] = ["x-delivery-count", "x-acquired-count"];

/// What a dispatcher needs of the session that brought a delivery.
pub trait Broker: Sync {
    /// Sends a reply and waits until the broker has taken it over.
    fn publish(&self, reply: Reply) -> impl Future<Output = Result<(), PublishError>> + Send;

    /// Settles a delivery of this session. A delivery of a lost session is
    /// settled by the loss itself.
    fn settle(&self, tag: u64, settlement: Settlement) -> impl Future<Output = ()> + Send;

    /// Puts a copy of a request into another queue of ours, and waits until the
    /// broker has it. The delivery is still to be settled.
    fn set_aside(
        &self,
        delivery: &Delivery,
        place: Place,
        note: &Note,
    ) -> impl Future<Output = Result<(), PublishError>> + Send;
}

/// Why a reply did not reach a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublishError {
    /// There is no such queue: the caller is gone.
    Unroutable,
    /// The broker will not take it, however often it is offered.
    Undeliverable,
    /// It has more bytes than this, the broker's limit.
    TooLarge(u64),
    /// Its headers have more bytes than this, the largest frame.
    HeadersTooLarge(u64),
    /// The session that brought the request is lost; it is delivered again.
    SessionLost,
}

/// How a host stops. First each queue is left, as its deliveries are told; later
/// nothing is waited for.
#[derive(Debug, Clone, Default)]
pub struct Stopping {
    /// Calls that still run are given back.
    pub given_up: CancellationToken,
}

/// Answers deliveries. One for all sessions; cheap to share.
#[derive(Debug)]
pub struct Dispatcher {
    plugins: Plugins,
    limits: Limits,
    addresses: ReplyPolicy,
    slots: Arc<Slots>,
    repeats: Repeats,
    suspicion: Suspicion,
    stopping: Stopping,
    telemetry: Telemetry,
    watcher: Option<Watcher>,
}

/// What came of a delivery's calls.
enum Work {
    Answer(Reply),
    Nothing,
    SetAside(Note),
    GivenBack,
}

impl Dispatcher {
    /// A dispatcher for whatever queues there are.
    pub fn new(
        plugins: Plugins,
        limits: Limits,
        addresses: ReplyPolicy,
        stopping: Stopping,
        telemetry: Telemetry,
    ) -> Self {
        let slots = Arc::new(Slots::new(limits.max_in_flight));
        let (repeats, suspicion) = (Repeats::new(), Suspicion::default());
        let watcher = None;
        Self { plugins, limits, addresses, slots, repeats, suspicion, stopping, telemetry, watcher }
    }

    /// The same with more to go by when hosts die.
    #[must_use]
    pub fn with_suspicion(self, suspicion: Suspicion) -> Self {
        Self { suspicion, ..self }
    }

    /// The same with somebody who sees each call.
    #[must_use]
    pub fn with_watcher(self, watcher: Option<Watcher>) -> Self {
        Self { watcher, ..self }
    }

    /// Serves one delivery. Cannot fail: every path settles it exactly once.
    pub async fn answer(&self, delivery: &Delivery, broker: &impl Broker) -> Settlement {
        let settlement = match self.addresses.check(delivery) {
            // An answer there would harm others, so the work is not done either.
            Err(refused) => {
                self.telemetry.reply_address_refused(refused);
                Settlement::Ack
            }
            Ok(address) => match self.suspicion.judge(delivery).await {
                Verdict::Clear => self.serve(delivery, address, broker).await,
                // What is rare is on the heap, here and below: the future of a request is as
                // large as the largest of its parts, and all that wait for confirms have one.
                Verdict::Suspect(crashes) => {
                    Box::pin(self.isolate(delivery, address, crashes, broker)).await
                }
                Verdict::Guilty(crashes) => {
                    Box::pin(self.quarantine(delivery, address, crashes, broker)).await
                }
                Verdict::Unanswerable(crashes) => {
                    Box::pin(self.park_unanswered(delivery, crashes, broker)).await
                }
            },
        };
        broker.settle(delivery.tag, settlement).await;
        self.telemetry.settled(settlement, delivery.received_at.elapsed());
        settlement
    }

    /// Tells the rule for reply addresses which queues are consumed.
    pub fn consumes(&self, queues: &[Arc<ServedQueue>]) {
        self.addresses.consumes(queues);
    }

    /// Runs a request and answers it.
    async fn serve(
        &self,
        delivery: &Delivery,
        address: ReplyAddress<'_>,
        broker: &impl Broker,
    ) -> Settlement {
        let work = self.work(delivery, address).instrument(span(delivery));
        let working = AssertUnwindSafe(work).catch_unwind();
        match working.await.unwrap_or_else(|_| self.panicked(delivery, address)) {
            Work::GivenBack if self.suspicion.is_lane() => {
                Box::pin(self.put_back(delivery, broker)).await
            }
            Work::GivenBack => Settlement::Requeue,
            Work::Nothing => Settlement::Ack,
            Work::SetAside(note) => {
                match Box::pin(self.set_aside(delivery, Place::Parked, &note, broker)).await {
                    Err(PublishError::SessionLost) => Settlement::Requeue,
                    // There is nobody to be told, and it was counted.
                    Ok(()) | Err(_) => Settlement::Ack,
                }
            }
            Work::Answer(reply) => self.reply(delivery, address, reply, broker).await,
        }
    }

    /// Decodes, routes, admits, calls and encodes.
    async fn work(&self, delivery: &Delivery, address: ReplyAddress<'_>) -> Work {
        if self.is_left(delivery).await {
            return Work::GivenBack;
        }
        if delivery.body.len() > LARGE {
            leave().await;
        }
        let form = delivery.terms.form;
        // Reading it takes no time worth a note, but where a host has died before …
        let reading = delivery.redelivered.then(|| self.suspicion.begin(delivery));
        let decoded = match self.acceptable(delivery) {
            Ok(()) => wire::decode(delivery, form),
            Err(error)
                if matches!(address, ReplyAddress::Nobody)
                    && delivery.properties.headers_lost.is_some() =>
            {
                let detail = format!("{}; nobody waits for an answer", error.message);
                return Work::SetAside(Note { reason: Reason::Unreadable, detail, crashes: 0 });
            }
            Err(error) => wire::refuse(delivery, form, error),
        };
        let max_body = usize::try_from(self.limits.max_body).unwrap_or(usize::MAX);
        drop(reading);
        let (calls, mut encoder) = decoded.into_parts(max_body);
        let alone = calls.len() == 1;
        let deadline = RequestDeadline::of(delivery);
        let deadline = &deadline;
        let one = |(nth, call): (usize, wire::Call)| async move {
            let (request, to) = call.into_request();
            let watched = self.watcher.as_ref().map(|to| (to, Watcher::note(&request)));
            let begun = Instant::now();
            let answered = self.call(delivery, request, deadline, nth, alone).await;
            if let (Some((watcher, asked)), Some(answered)) = (watched, &answered) {
                watcher.tell(asked, answered, begun.elapsed());
            }
            answered.map(|answered| (to, answered))
        };
        let mut calls = calls.into_iter().enumerate();
        let answered = async {
            // What a batch needs costs as much as a short call.
            if alone {
                let call = calls.next()?;
                let (to, answered) = one(call).await?;
                encoder.push(&to, answered);
                return Some(());
            }
            let mut run = std::pin::pin!(stream::iter(calls).map(one).buffered(BATCH_CONCURRENCY));
            while let Some(answered) = run.next().await {
                let (to, answered) = answered?;
                encoder.push(&to, answered);
            }
            Some(())
        };
        let answered = tokio::select! {
            // Most are answered when they are asked for the first time.
            biased;
            answered = answered => answered,
            () = self.stopping.given_up.cancelled() => None,
        };
        match answered {
            Some(()) => finish(encoder, delivery, address),
            None => Work::GivenBack,
        }
    }

    /// Whether the queue is of a plugin that is not served any more. Then it is not
    /// consumed any more either, and others have the plugin, or will have. Waits
    /// for that, so that what is given back does not come again at once.
    async fn is_left(&self, delivery: &Delivery) -> bool {
        let Some(plugin) = delivery.terms.plugin.as_deref() else { return false };
        if self.plugins.has(plugin) {
            return false;
        }
        let mut served = self.plugins.served();
        tokio::select! {
            () = delivery.leaving.cancelled() => true,
            () = self.stopping.given_up.cancelled() => true,
            // It has come back meanwhile.
            _ = served.wait_for(|served| served.plugins.contains_key(plugin)) => false,
        }
    }

    /// The answer to a request that made the host itself fail.
    fn panicked(&self, delivery: &Delivery, address: ReplyAddress<'_>) -> Work {
        let error =
            CallError::new(ErrorKind::Internal, "the host failed while it handled this request");
        self.unread(delivery, address, error)
    }

    /// An answer to a request that cannot be read without harm.
    fn unread(&self, delivery: &Delivery, address: ReplyAddress<'_>, error: CallError) -> Work {
        self.telemetry.panicked();
        let refused = wire::refuse(delivery, delivery.terms.form, error);
        let (calls, mut encoder) = refused.into_parts(usize::MAX);
        for call in calls {
            let (request, to) = call.into_request();
            if let Err(error) = request {
                encoder.push(&to, Answered::unrouted(error));
            }
        }
        finish(encoder, delivery, address)
    }

    /// Bounds on the message itself.
    fn acceptable(&self, delivery: &Delivery) -> Result<(), CallError> {
        let refuse = |text| Err(CallError::new(ErrorKind::BadRequest, text));
        let (bytes, max_body) = (delivery.body.len() as u64, self.limits.max_body);
        if bytes > max_body {
            return refuse(format!("the body has {bytes} bytes, the limit is {max_body}"));
        }
        if let Some(reason) = &delivery.properties.headers_lost {
            return refuse(format!("the headers cannot be read: {reason}"));
        }
        let theirs = |(name, _): &&(String, HeaderValue)| !COUNTED.contains(&name.as_str());
        let headers = delivery.properties.headers.iter().filter(theirs).count();
        let max_headers = self.limits.max_headers;
        if headers > max_headers {
            return refuse(format!(
                "the message has {headers} headers, the limit is {max_headers}"
            ));
        }
        Ok(())
    }

    /// One call, the `nth` of its delivery; `None` when it is given back because
    /// the host stops.
    async fn call(
        &self,
        delivery: &Delivery,
        request: Result<Request, CallError>,
        deadline: &Result<RequestDeadline, CallError>,
        nth: usize,
        alone: bool,
    ) -> Option<Answered> {
        let unrouted = |error| {
            let answered = Answered::unrouted(error);
            self.telemetry.answered(&answered, None);
            Some(answered)
        };
        let (request, deadline) = match (request, deadline) {
            (Ok(request), Ok(deadline)) => (request, deadline),
            (Err(error), _) => return unrouted(error),
            (_, Err(error)) => return unrouted(error.clone()),
        };
        if Plugins::is_own(&request) {
            leave().await;
        }
        // What the host itself is asked takes no slot and no sandbox.
        if let Some(outcome) = self.plugins.own_method(&request, self.limits.max_body) {
            let answered = Answered { outcome, plugin: None };
            self.telemetry.answered(&answered, None);
            return Some(answered);
        }
        let find = || self.plugins.find_on(&delivery.terms, request.method.as_deref());
        let (plugin, method) = match find() {
            Ok(found) => found,
            // Between the look before and this one.
            Err(_) if alone && self.is_left(delivery).await => return None,
            Err(error) => return unrouted(error),
        };
        let refuse = |kind, text| self.not_begun(&plugin, CallError::new(kind, text));
        if let Some(resting) = plugin.resting() {
            return self.not_begun(&plugin, resting);
        }
        let once = plugin.on_redelivery() == OnRedelivery::Refuse;
        if delivery.redelivered && once {
            return refuse(
                ErrorKind::MaybeExecuted,
                format!("the request may have run before, and `{method}` does not run twice"),
            );
        }
        let key = match plugin.on_redelivery() {
            OnRedelivery::Replay => Key::of(delivery, nth, &method),
            OnRedelivery::Run | OnRedelivery::Refuse => None,
        };
        if delivery.redelivered
            && let Some(known) = key.as_ref().and_then(|key| self.repeats.recall(key))
        {
            self.telemetry.replayed();
            return Some(known);
        }
        // What must not run twice is not given back, and neither is a part of
        // a batch, whose other parts may have run.
        let never = CancellationToken::new();
        let may_be_given_back = alone && !once;
        let stopping = if may_be_given_back { &delivery.leaving } else { &never };
        let line = match (self.plugins.several(), &delivery.terms.plugin) {
            (false, _) => Line::Only,
            (true, None) => Line::OneOfSeveral,
            (true, Some(_)) => Line::OwnQueue,
        };
        let slot = match self.slots.admit(&plugin, line, deadline.at(), stopping).await {
            Ok(slot) => slot,
            Err(Refused::Stopping) => return None,
            Err(Refused::Late) => return self.not_begun(&plugin, too_late(&method)),
            Err(Refused::Full(waiting)) => {
                return refuse(
                    ErrorKind::Overloaded,
                    format!("{waiting} calls of `{}` wait already", plugin.id().name),
                );
            }
            Err(Refused::TooLate(waiting)) => {
                return refuse(
                    ErrorKind::Overloaded,
                    format!(
                        "{waiting} calls of `{}` wait already, too many to be done by the deadline",
                        plugin.id().name
                    ),
                );
            }
        };
        // Who had to wait begins on the version that serves now, if the one it
        // waited for has failed too often meanwhile.
        let (plugin, method) = match plugin.resting() {
            None => (plugin, method),
            Some(_) => match find() {
                Ok(found) => found,
                Err(error) => return unrouted(error),
            },
        };
        // Before it is noted as one that runs, and before it has an instance, which another can use
        // while this one is on its way.
        plugin.leave_unless_short(slot.leaves_others()).await;
        let started = Instant::now();
        // Those who have left stand in a line again.
        if deadline.at().is_some_and(|deadline| deadline <= started) {
            return self.not_begun(&plugin, too_late(&method));
        }
        let own = started + plugin.timeout();
        let deadline = deadline.at().map_or(own, |asked| asked.min(own));
        let invocation = Invocation::of(delivery, &method, &request.arguments, deadline);
        let running = self.suspicion.begin(delivery);
        // What a sandbox needs is gone once it has returned.
        let outcome = Box::pin(plugin.call(invocation)).await;
        drop(running);
        let late = matches!(&outcome, Err(error) if error.kind == ErrorKind::Timeout);
        slot.give_back(!late);
        if outcome.as_ref().is_ok_and(|returned| returned.body.len() > LARGE) {
            leave().await;
        }
        self.plugins.heed(&plugin, &self.telemetry);
        let answered = Answered { outcome, plugin: Some(plugin.id().clone()) };
        self.telemetry.answered(&answered, Some(started.elapsed()));
        // A guest that was told that nobody waits any more may have returned
        // anything; that is not the answer.
        let unwanted = delivery.revoked.is_set() || self.stopping.given_up.is_cancelled();
        if let Some(key) = key.filter(|_| !unwanted) {
            self.repeats.remember(key, &answered);
        }
        Some(answered)
    }

    /// The answer to a call that its plugin never sees.
    fn not_begun(&self, plugin: &Plugin, error: CallError) -> Option<Answered> {
        let answered = Answered { outcome: Err(error), plugin: Some(plugin.id().clone()) };
        self.telemetry.answered(&answered, None);
        Some(answered)
    }

    /// Publishes a reply. Whatever becomes of it, the request is not run again
    /// for it, unless the broker delivers it again.
    async fn reply(
        &self,
        delivery: &Delivery,
        address: ReplyAddress<'_>,
        reply: Reply,
        broker: &impl Broker,
    ) -> Settlement {
        let mut published = self.publish(reply, broker).await;
        let (what, limit) = match published {
            Err(PublishError::TooLarge(limit)) => ("the result is", Some(limit)),
            Err(PublishError::HeadersTooLarge(limit)) => {
                ("the headers of the result are", Some(limit))
            }
            _ => ("", None),
        };
        if let Some(limit) = limit {
            let text = format!("{what} larger than the broker takes, {limit} bytes");
            let error = CallError::new(ErrorKind::ResourceExhausted, text);
            if let Work::Answer(instead) = self.all_failed(delivery, address, &error) {
                published = Box::pin(self.publish(instead, broker)).await;
            }
        }
        let kept = matches!(address, ReplyAddress::Queue(_) | ReplyAddress::Fixed(_));
        if published == Err(PublishError::Undeliverable) && kept {
            let detail = "it was run, and the broker does not take its answer".to_owned();
            let note = Note { reason: Reason::Undeliverable, detail, crashes: 0 };
            // As for the reply: what cannot be kept is counted.
            published = Box::pin(self.set_aside(delivery, Place::Parked, &note, broker)).await;
        }
        match published {
            Err(PublishError::SessionLost) => Settlement::Requeue,
            Ok(()) | Err(_) => Settlement::Ack,
        }
    }

    async fn publish(&self, reply: Reply, broker: &impl Broker) -> Result<(), PublishError> {
        let published = tokio::select! {
            biased;
            published = broker.publish(reply) => published,
            () = self.stopping.given_up.cancelled() => Err(PublishError::SessionLost),
        };
        self.telemetry.published(published);
        published
    }
}

fn too_late(method: &str) -> CallError {
    let text = format!("the deadline passed before `{method}` was started");
    CallError::new(ErrorKind::DeadlineExceeded, text)
}

/// What every log line of the host about a request carries; those of guests have it
/// of their own. Off, and then free, unless debug lines are asked for.
fn span(delivery: &Delivery) -> tracing::Span {
    let properties = &delivery.properties;
    let span = tracing::debug_span!(
        "request",
        correlation_id = tracing::field::Empty,
        traceparent = tracing::field::Empty,
        tracestate = tracing::field::Empty,
    );
    if !span.is_disabled() {
        if let Some(id) = &properties.correlation_id {
            span.record("correlation_id", tracing::field::debug(String::from_utf8_lossy(id)));
        }
        for name in ["traceparent", "tracestate"] {
            if let Some(text) = properties.text_header(name) {
                span.record(name, tracing::field::debug(text));
            }
        }
    }
    span
}

fn finish(encoder: wire::Encoder, delivery: &Delivery, address: ReplyAddress<'_>) -> Work {
    let (routing_key, direct_node) = match address {
        ReplyAddress::Nobody => return Work::Nothing,
        ReplyAddress::Queue(name) | ReplyAddress::Fixed(name) => (name, None),
        ReplyAddress::Direct(name, node) => (name, Some(node)),
    };
    let Some(mut reply) = encoder.finish(delivery, routing_key, direct_node) else {
        return Work::Nothing;
    };
    match (address, &delivery.terms.reply_exchange) {
        (ReplyAddress::Queue(_), Some(exchange)) => reply.exchange = Some(exchange.clone()),
        (ReplyAddress::Queue(_), None) => {}
        // Queues, which the default exchange alone knows by their names.
        _ => reply.exchange = None,
    }
    Work::Answer(reply)
}
