//! The metrics themselves: names, labels and buckets, all registered in one place.

use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

/// Bounds of the buckets for calls, in seconds: from a warm scalar call to
/// RabbitMQ's patience.
const CALL_BUCKETS: [f64; 14] =
    [1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 1e-3, 5e-3, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0, 300.0];

/// Bounds of the buckets for compiling, in seconds: from a small component in
/// Rust to the longest that a helper may take.
const COMPILE_BUCKETS: [f64; 9] = [0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 15.0, 60.0, 600.0];

/// Every metric, registered.
#[derive(Debug)]
pub(super) struct Metrics {
    pub(super) registry: Registry,
    pub(super) requests: IntCounterVec,
    pub(super) call_seconds: HistogramVec,
    pub(super) request_seconds: prometheus::Histogram,
    pub(super) deliveries: IntCounter,
    pub(super) settled: IntCounterVec,
    pub(super) in_flight: IntGauge,
    pub(super) replies: IntCounterVec,
    pub(super) addresses_refused: IntCounterVec,
    pub(super) panics: IntCounter,
    pub(super) replayed: IntCounter,
    pub(super) set_aside: IntCounterVec,
    pub(super) buried: IntCounterVec,
    pub(super) lanes: IntCounterVec,
    pub(super) parked: IntGauge,
    pub(super) plugin_loads: IntCounterVec,
    pub(super) plugins: IntGauge,
    pub(super) circuit_open: IntGaugeVec,
    pub(super) circuit_opened: IntCounterVec,
    pub(super) plugin_refused: IntGaugeVec,
    pub(super) rollbacks: IntCounterVec,
    pub(super) guest_lines_dropped: IntCounterVec,
    pub(super) compile_cache: IntCounterVec,
    pub(super) compile_seconds: prometheus::Histogram,
    pub(super) connected: IntGauge,
    pub(super) queues_waiting: IntGauge,
    pub(super) replying: IntGauge,
    pub(super) blocked: IntGauge,
    pub(super) sessions: IntCounterVec,
}

impl Metrics {
    pub(super) fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            prometheus::Result::Ok(counters)
        };
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            prometheus::Result::Ok(counter)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            prometheus::Result::Ok(gauge)
        };
        let call_seconds = HistogramVec::new(
            HistogramOpts::new("rpchost_call_seconds", "Time that calls ran, starting included.")
                .buckets(CALL_BUCKETS.to_vec()),
            &["plugin"],
        )?;
        registry.register(Box::new(call_seconds.clone()))?;
        let circuit_open = IntGaugeVec::new(
            Opts::new("rpchost_circuit_open", "1 while a plugin rests because it keeps failing."),
            &["plugin"],
        )?;
        registry.register(Box::new(circuit_open.clone()))?;
        let plugin_refused = IntGaugeVec::new(
            Opts::new("rpchost_plugin_refused", "1 while a file is not served as it is, by cause."),
            &["plugin", "reason"],
        )?;
        registry.register(Box::new(plugin_refused.clone()))?;
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
            let histogram = prometheus::Histogram::with_opts(options)?;
            registry.register(Box::new(histogram.clone()))?;
            prometheus::Result::Ok(histogram)
        };
        Ok(Self {
            requests: counters(
                "rpchost_requests_total",
                "Calls by plugin (empty where none was found) and status.",
                &["plugin", "status"],
            )?,
            call_seconds,
            request_seconds: histogram(
                "rpchost_request_seconds",
                "Time from receiving a request to settling it.",
                &CALL_BUCKETS,
            )?,
            deliveries: counter("rpchost_deliveries_total", "Messages received.")?,
            settled: counters(
                "rpchost_settlements_total",
                "Deliveries settled, by how.",
                &["settlement"],
            )?,
            in_flight: gauge("rpchost_in_flight", "Deliveries received and not yet settled.")?,
            replies: counters(
                "rpchost_replies_total",
                "Replies by what became of them.",
                &["result"],
            )?,
            addresses_refused: counters(
                "rpchost_reply_addresses_refused_total",
                "Requests whose reply address is not answered, by reason.",
                &["reason"],
            )?,
            replayed: counter(
                "rpchost_replayed_total",
                "Redelivered requests answered without running again.",
            )?,
            set_aside: counters(
                "rpchost_set_aside_total",
                "Requests set aside, by where to, why, and whether the broker took them.",
                &["to", "reason", "result"],
            )?,
            buried: counters(
                "rpchost_dead_lettered_total",
                "Requests that the broker took out of the queue and this host answered, by reason.",
                &["reason"],
            )?,
            lanes: counters(
                "rpchost_suspect_lanes_total",
                "Events of the process that runs suspects.",
                &["event"],
            )?,
            parked: gauge(
                "rpchost_parked",
                "Requests that are parked and wait for a person, as of the last ten seconds.",
            )?,
            panics: counter("rpchost_panics_total", "Faults of the host itself.")?,
            plugin_loads: counters(
                "rpchost_plugin_loads_total",
                "Files tried, by result.",
                &["result"],
            )?,
            plugins: gauge("rpchost_plugins", "Plugins served now.")?,
            circuit_open,
            circuit_opened: counters(
                "rpchost_circuit_opened_total",
                "Times that a plugin began to rest because it kept failing.",
                &["plugin"],
            )?,
            plugin_refused,
            rollbacks: counters(
                "rpchost_rollbacks_total",
                "Versions that failed right after they came, and were taken back.",
                &["plugin"],
            )?,
            guest_lines_dropped: counters(
                "rpchost_guest_log_lines_dropped_total",
                "Lines of guests that are not in the log because there were too many.",
                &["plugin"],
            )?,
            compile_cache: counters(
                "rpchost_compile_cache_total",
                "Components looked up among those compiled before, by result.",
                &["result"],
            )?,
            compile_seconds: histogram(
                "rpchost_compile_seconds",
                "Time that helpers took for a component, or until they gave it up.",
                &COMPILE_BUCKETS,
            )?,
            connected: gauge("rpchost_connected", "1 while queues are consumed.")?,
            queues_waiting: gauge(
                "rpchost_queues_waiting",
                "Queues that are to be consumed and are not.",
            )?,
            replying: gauge("rpchost_replying", "1 while the connection for replies is open.")?,
            blocked: gauge(
                "rpchost_blocked",
                "Above 0 while the broker takes no replies: an alarm, or no permission.",
            )?,
            sessions: counters(
                "rpchost_sessions_total",
                "Events of the broker's connections.",
                &["event"],
            )?,
            registry,
        })
    }
}
