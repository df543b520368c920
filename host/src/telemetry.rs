//! Every metric and its log line: one method per event.
//!
//! Labels come from loaded plugins and closed sets only, so that no caller can
//! make a series. INFO is never per message; WARN means recovered, nothing
//! lost; ERROR means lost, or that a person is needed.

mod metrics;

use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use prometheus::{Encoder as _, IntGauge, TextEncoder};
use tracing::{debug, error, info, warn};

use crate::message::{Answered, Death, Note, Place, PluginId, Reason, Settlement};
use metrics::Metrics;

/// All metrics of a host. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Telemetry(Arc<Told>);

/// The metrics, and what was said of late.
#[derive(Debug)]
struct Told {
    metrics: Metrics,
    said: Mutex<Said>,
    said_of_replies: Mutex<Said>,
}

impl Deref for Told {
    type Target = Metrics;

    fn deref(&self) -> &Metrics {
        &self.metrics
    }
}

/// Lines about one matter that are written in [`MINUTE`]; an outage of an hour
/// is an hour of the same line.
const COMPLAINTS: u32 = 6;

/// See [`COMPLAINTS`].
const MINUTE: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Said {
    since: Instant,
    lines: u32,
    withheld: u64,
}

/// What the compile cache had for a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// What was needed.
    Hit,
    /// Nothing.
    Miss,
    /// Something that must not be used.
    Unfit,
}

/// How publishing a reply ended, as a label.
pub type Published = Result<(), crate::dispatch::PublishError>;

/// Adds one to a gauge for as long as it lives.
#[derive(Debug)]
pub struct Held(IntGauge);

impl Held {
    fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Telemetry {
    /// Registers every metric.
    ///
    /// # Errors
    ///
    /// When two metrics have one name; a fault of this program.
    pub fn new() -> anyhow::Result<Self> {
        let metrics = Metrics::new().context("failed to make the metrics")?;
        let (said, said_of_replies) = (Said::nothing_yet(), Said::nothing_yet());
        Ok(Self(Arc::new(Told { metrics, said, said_of_replies })))
    }

    /// All metrics in the text format that Prometheus scrapes.
    ///
    /// # Errors
    ///
    /// When a value cannot be written as text; a fault of this program.
    pub fn scrape(&self) -> anyhow::Result<String> {
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&self.0.registry.gather(), &mut text)
            .context("failed to write the metrics")?;
        String::from_utf8(text).context("failed to write the metrics")
    }

    /// A message was delivered; it is in flight for as long as the value lives.
    pub fn delivered(&self) -> Held {
        self.0.deliveries.inc();
        Held::new(&self.0.in_flight)
    }

    /// A delivery was settled; `age` is the time since it was received.
    pub fn settled(&self, settlement: Settlement, age: Duration) {
        let label = match settlement {
            Settlement::Ack => "ack",
            Settlement::Requeue => "requeue",
        };
        self.0.settled.with_label_values(&[label]).inc();
        self.0.request_seconds.observe(age.as_secs_f64());
    }

    /// A call has an outcome; `ran` is the time it ran, if it did.
    pub fn answered(&self, answered: &Answered, ran: Option<Duration>) {
        let plugin = answered.plugin.as_ref().map_or("", |id| &*id.name);
        let status = match &answered.outcome {
            Ok(_) => "ok",
            Err(error) => error.kind.name(),
        };
        self.0.requests.with_label_values(&[plugin, status]).inc();
        if let Some(ran) = ran {
            self.0.call_seconds.with_label_values(&[plugin]).observe(ran.as_secs_f64());
        }
        if let Err(error) = &answered.outcome {
            debug!(plugin, status, "{:?}", error.message);
        }
    }

    /// A redelivered request was answered out of memory.
    pub fn replayed(&self) {
        self.0.replayed.inc();
    }

    /// Host code panicked while it handled a request.
    pub fn panicked(&self) {
        self.0.panics.inc();
        error!("a request made the host fail and was answered `internal`; please report this");
    }

    /// A reply was published, or not.
    pub fn published(&self, published: Published) {
        use crate::dispatch::PublishError;
        let label = match published {
            Ok(()) => "confirmed",
            Err(PublishError::Unroutable) => "unroutable",
            Err(PublishError::Undeliverable) => "undeliverable",
            Err(PublishError::TooLarge(_) | PublishError::HeadersTooLarge(_)) => "too-large",
            Err(PublishError::SessionLost) => "session-lost",
        };
        self.0.replies.with_label_values(&[label]).inc();
        match published {
            Ok(()) => {}
            Err(PublishError::Undeliverable) => self.0.complain_of_replies(|| {
                warn!("a reply was given up: the broker does not take it");
            }),
            Err(PublishError::TooLarge(limit)) => self.0.complain_of_replies(|| {
                warn!(
                    "a reply is larger than the broker takes ({limit} bytes) and was answered \
                     `resource-exhausted`; raise the broker's `max_message_size`"
                );
            }),
            Err(PublishError::HeadersTooLarge(limit)) => self.0.complain_of_replies(|| {
                warn!(
                    "the headers of a reply are larger than a frame ({limit} bytes), and it was \
                     answered `resource-exhausted`; raise the broker's `frame_max`, and that of \
                     the URL"
                );
            }),
            Err(error) => debug!(?error, "a reply reached nobody"),
        }
    }

    /// A request was set aside, or could not be.
    pub fn set_aside(&self, place: Place, note: &Note, put: Published) {
        use crate::dispatch::PublishError;
        let (to, reason, detail) = (place.name(), note.reason.name(), &note.detail);
        let result = match put {
            Ok(()) => "confirmed",
            // It is delivered again, and set aside then.
            Err(PublishError::SessionLost) => return,
            Err(_) => "failed",
        };
        self.0.set_aside.with_label_values(&[to, reason, result]).inc();
        match (put, place, note.reason) {
            (Ok(()), Place::Parked, Reason::Quarantined | Reason::DeliveryLimit) => {
                self.0.complain(|| error!(reason, "a request was given up and parked: {detail}"));
            }
            (Ok(()), ..) => {
                self.0.complain(|| warn!(to, reason, "a request was set aside: {detail}"))
            }
            (Err(_), Place::Suspect, _) => self.0.complain(|| {
                warn!("a suspect cannot be set aside and runs among the others: {detail}");
            }),
            (Err(_), Place::Parked, _) => self.0.complain(|| {
                error!(reason, "a request could not be parked and is not kept: {detail}");
            }),
        }
    }

    /// The broker has taken a request out of its queue, and it is answered.
    pub fn buried(&self, death: Death) {
        self.0.buried.with_label_values(&[death.name()]).inc();
    }

    /// So many requests are parked, by whichever host.
    pub fn parked(&self, waiting: u32) {
        self.0.parked.set(waiting.into());
    }

    /// A process that runs suspects was started.
    pub fn lane_started(&self) {
        self.0.lanes.with_label_values(&["started"]).inc();
        self.0.complain(|| info!("a process of their own runs the requests that are suspect"));
    }

    /// A process that runs suspects has died, or could not be started.
    pub fn lane_died(&self, how: &str) {
        self.0.lanes.with_label_values(&["died"]).inc();
        self.0.complain(|| warn!("the process that runs suspects ended, starting another: {how}"));
    }

    /// A request's reply address is not answered.
    pub fn reply_address_refused(&self, refused: crate::dispatch::AddressRefused) {
        self.0.addresses_refused.with_label_values(&[refused.name()]).inc();
        debug!(reason = refused.name(), "a request's reply address is refused");
    }

    /// A plugin is served now; `took` is the time from its bytes to that.
    pub fn plugin_loaded(&self, id: &PluginId, replaced: bool, took: Duration) {
        self.0.plugin_loads.with_label_values(&["loaded"]).inc();
        if !replaced {
            self.0.plugins.inc();
        }
        // A new version begins anew.
        let _never_opened = self.0.circuit_open.remove_label_values(&[&id.name]);
        let how = if replaced { "replaced" } else { "loaded" };
        info!(plugin = %id.short(), took_ms = took.as_millis() as u64, "plugin {how}");
    }

    /// A file cannot be served.
    pub fn plugin_refused(&self, name: &str, reason: &str, serving: Option<&str>) {
        self.0.plugin_loads.with_label_values(&["refused"]).inc();
        match serving.and_then(|digest| digest.get(..12)) {
            Some(digest) => {
                warn!("`{name}.wasm` is refused and `{name}@{digest}` goes on serving: {reason}")
            }
            None => warn!("`{name}.wasm` is refused: {reason}"),
        }
    }

    /// A file is not served as it is now, for a cause that has a word.
    pub fn refused_now(&self, name: &str, cause: &str) {
        self.0.plugin_refused.with_label_values(&[name, cause]).set(1);
    }

    /// That is over.
    pub fn refused_no_more(&self, name: &str, cause: &str) {
        // Fails where it was never so, which is fine.
        let _never_refused = self.0.plugin_refused.remove_label_values(&[name, cause]);
    }

    /// A plugin is no longer served.
    pub fn plugin_removed(&self, name: &str) {
        self.0.plugins.dec();
        // Series of what is not loaded would only ever grow in number.
        for status in std::iter::once("ok")
            .chain(crate::message::ErrorKind::ALL.iter().map(|kind| kind.name()))
        {
            // Fails for what was never counted, which is fine.
            let _never_counted = self.0.requests.remove_label_values(&[name, status]);
        }
        let _never_ran = self.0.call_seconds.remove_label_values(&[name]);
        let _never_opened = self.0.circuit_open.remove_label_values(&[name]);
        let _never_opened = self.0.circuit_opened.remove_label_values(&[name]);
        let _never_bad = self.0.rollbacks.remove_label_values(&[name]);
        let _never_dropped = self.0.guest_lines_dropped.remove_label_values(&[name]);
        info!(plugin = name, "plugin removed");
    }

    /// A version failed so often that it is not called for a while.
    pub fn circuit_opened(&self, id: &PluginId, failures: usize, calls: usize, rest: Duration) {
        self.0.circuit_opened.with_label_values(&[&id.name]).inc();
        self.0.circuit_open.with_label_values(&[&id.name]).set(1);
        warn!(
            plugin = %id.short(),
            "plugin rests for {rest:?}, and its calls are answered `circuit-open`: {failures} of \
             its last {calls} trapped or ran out of time"
        );
    }

    /// It still fails.
    pub fn circuit_reopened(&self, id: &PluginId, rest: Duration) {
        debug!(plugin = %id.short(), "plugin still fails, and rests for {rest:?} more");
    }

    /// It has recovered.
    pub fn circuit_closed(&self, id: &PluginId) {
        self.0.circuit_open.with_label_values(&[&id.name]).set(0);
        info!(plugin = %id.short(), "plugin has recovered, and is called again");
    }

    /// A version that failed right after it came was replaced by the old one.
    pub fn plugin_taken_back(
        &self,
        bad: &PluginId,
        back: &PluginId,
        failures: usize,
        calls: usize,
    ) {
        self.0.rollbacks.with_label_values(&[&bad.name]).inc();
        warn!(
            "`{}` serves again, and `{}` is taken back: {failures} of its last {calls} calls \
             trapped or ran out of time; it is not tried again until `{}.wasm` or its configuration \
             changes",
            back.short(),
            bad.short(),
            bad.name
        );
    }

    /// Lines that a guest wrote are not in the log.
    pub fn guest_lines_dropped(&self, plugin: &str, lines: u64) {
        self.0.guest_lines_dropped.with_label_values(&[plugin]).inc_by(lines);
    }

    /// A plugin's lines are dropped; `again` says how many since the last time
    /// that this was said.
    pub fn guest_writes_too_much(&self, plugin: &str, per_second: u32, again: Option<u64>) {
        match again {
            None => warn!(
                "`{plugin}` writes more than {per_second} lines a second to the log; what is \
                 beyond that is dropped"
            ),
            Some(lines) => warn!("{lines} more lines of `{plugin}` were dropped from the log"),
        }
    }

    /// A component was looked up among those compiled before.
    pub fn compile_cache(&self, lookup: Lookup) {
        let label = match lookup {
            Lookup::Hit => "hit",
            Lookup::Miss => "miss",
            Lookup::Unfit => "unfit",
        };
        self.0.compile_cache.with_label_values(&[label]).inc();
    }

    /// A component was compiled, or could not be.
    pub fn compiled(&self, took: Duration) {
        self.0.compile_seconds.observe(took.as_secs_f64());
    }

    /// A queue of the broker is consumed.
    pub fn consuming(&self, broker: &str, queue: &str) {
        info!(broker, queue, "consuming");
    }

    /// The broker is connected and the first of its queues consumed.
    pub fn session_opened(&self) {
        self.0.sessions.with_label_values(&["opened"]).inc();
        self.0.connected.set(1);
    }

    /// A queue is to be consumed and is not yet, for as long as the value lives.
    pub fn queue_waits(&self) -> Held {
        Held::new(&self.0.queues_waiting)
    }

    /// A queue is not consumed any more, while its connection lives.
    pub fn queue_lost(&self, queue: &str, reason: &str) {
        self.0.sessions.with_label_values(&["queue-lost"]).inc();
        self.0.complain(|| warn!(queue, "lost the queue, declaring it again: {reason}"));
    }

    /// A queue cannot be consumed, while others are.
    pub fn queue_failed(&self, queue: &str, attempt: u32, reason: &str) {
        self.0.sessions.with_label_values(&["queue-failed"]).inc();
        self.0.complain(|| {
            warn!(queue, attempt, "cannot consume the queue, trying on: {reason}");
        });
    }

    /// A session has ended for a reason that is not ours.
    pub fn session_lost(&self, reason: &str) {
        self.0.sessions.with_label_values(&["lost"]).inc();
        self.0.connected.set(0);
        self.0.complain(|| warn!("lost the broker, connecting again: {reason}"));
    }

    /// The session ended because the host stops.
    pub fn session_closed(&self) {
        self.0.sessions.with_label_values(&["closed"]).inc();
        self.0.connected.set(0);
    }

    /// Connecting failed. Said the first time and then now and then.
    pub fn connect_failed(&self, attempt: u32, reason: &str) {
        self.0.sessions.with_label_values(&["failed"]).inc();
        self.0.complain(|| warn!(attempt, "cannot reach the broker, trying on: {reason}"));
    }

    /// The connection for replies was lost while the one for requests lives.
    pub fn replies_lost(&self, reason: &str) {
        self.0.sessions.with_label_values(&["replies-lost"]).inc();
        self.0.complain(|| warn!("lost the connection for replies, opening another: {reason}"));
    }

    /// A connection for replies is open, for as long as the value lives.
    pub fn replying(&self) -> Held {
        Held::new(&self.0.replying)
    }

    /// The broker does not let this host publish; until the value is dropped.
    pub fn replies_refused(&self, reason: &str) -> Held {
        self.0.sessions.with_label_values(&["replies-refused"]).inc();
        self.0.complain(|| {
            error!("the broker refuses this host's replies, requests wait unanswered: {reason}");
        });
        Held::new(&self.0.blocked)
    }

    /// Whether requests are consumed and can be answered.
    pub fn is_ready(&self) -> bool {
        self.0.connected.get() >= 1
            && self.0.queues_waiting.get() == 0
            && self.0.replying.get() >= 1
            && self.0.blocked.get() == 0
    }

    /// The broker blocks publishing on a connection (memory or disk alarm),
    /// for as long as the value lives.
    pub fn blocked(&self, reason: &str) -> Held {
        warn!("the broker blocks publishing, replies wait: {reason}");
        Held::new(&self.0.blocked)
    }
}

impl Said {
    fn nothing_yet() -> Mutex<Self> {
        Mutex::new(Self { since: Instant::now(), lines: 0, withheld: 0 })
    }
}

/// Says what goes wrong about some matter at most [`COMPLAINTS`] times a
/// [`MINUTE`], and how often it was not said.
fn complain(said: &Mutex<Said>, matter: &str, say: impl FnOnce()) {
    let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
    let now = Instant::now();
    if now.saturating_duration_since(said.since) > MINUTE {
        if said.withheld > 0 {
            warn!("{} more lines about {matter} were left out", said.withheld);
        }
        *said = Said { since: now, lines: 0, withheld: 0 };
    }
    if said.lines < COMPLAINTS {
        said.lines += 1;
        say();
    } else {
        said.withheld += 1;
    }
}

impl Told {
    fn complain(&self, say: impl FnOnce()) {
        complain(&self.said, "the broker", say);
    }

    /// By itself: what callers bring about must not hide what happens to the
    /// broker.
    fn complain_of_replies(&self, say: impl FnOnce()) {
        complain(&self.said_of_replies, "replies", say);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::PublishError;

    /// What is logged meanwhile.
    fn logged(act: impl FnOnce()) -> String {
        let file = tempfile::tempfile().unwrap();
        let writer = Arc::new(file.try_clone().unwrap());
        let logs = tracing_subscriber::fmt().with_writer(writer).with_ansi(false).finish();
        tracing::subscriber::with_default(logs, act);
        let mut text = String::new();
        let mut file = file;
        std::io::Seek::rewind(&mut file).unwrap();
        std::io::Read::read_to_string(&mut file, &mut text).unwrap();
        text
    }

    #[test]
    fn no_caller_can_fill_the_log_or_hide_the_broker_in_it() {
        let telemetry = Telemetry::new().unwrap();
        let log = logged(|| {
            for _ in 0..1_000 {
                telemetry.published(Err(PublishError::Undeliverable));
                telemetry.published(Err(PublishError::TooLarge(10)));
                telemetry.published(Err(PublishError::Unroutable));
            }
            telemetry.session_lost("gone");
        });
        assert_eq!(log.matches("WARN").count(), COMPLAINTS as usize + 1, "{log}");
        assert!(log.contains("lost the broker"), "{log}");
        let counted = telemetry.scrape().unwrap();
        assert!(counted.contains("rpchost_replies_total{result=\"undeliverable\"} 1000"));
    }
}
