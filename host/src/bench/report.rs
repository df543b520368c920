//! What was measured, as text and as JSON.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::plan::{Load, Options};
use super::tally::{Second, Tally};
use crate::client::CallDialect;

/// Percentiles that are told.
const QUANTILES: [(&str, f64); 6] =
    [("p50", 0.5), ("p75", 0.75), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99), ("p99.9", 0.999)];

/// Where the bars of the histogram begin and end, within a decade.
const STEPS: [u64; 6] = [10, 15, 20, 30, 50, 70];

/// Why a broker that raised an alarm brings nothing about.
pub(super) const BLOCKED: &str = "the broker takes nothing, for want of memory or disk";

/// Columns of the longest bar.
const LONGEST_BAR: u64 = 40;

/// What a run comes down to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Every call that counts has brought a result.
    Good,
    /// Some have brought errors; or there was none.
    Errors,
    /// Some were not answered, or not even sent.
    Unanswered,
    /// The broker was lost, or nobody is there to answer any more.
    Nobody,
}

/// What was measured.
#[derive(Debug, Clone)]
pub struct Report {
    /// What was asked for.
    pub options: Arc<Options>,
    /// How long was measured.
    pub measured: Duration,
    /// The calls.
    pub tally: Tally,
    /// The measured time, second by second.
    pub seconds: Vec<Second>,
    /// Processor time of this process, within the measured time.
    pub own_cpu: Duration,
    /// That of others; none where there is no such process.
    pub processes: Vec<(String, Option<Duration>)>,
    /// Why calls were not answered, if the broker knows.
    pub because: Option<String>,
    /// Why it ended before its time.
    pub lost: Option<String>,
    /// Whether somebody ended it before its time.
    pub cut_short: bool,
    /// Nor was it waited for what was unanswered then.
    pub gave_up: bool,
}

impl Report {
    pub(super) fn new(options: Arc<Options>) -> Result<Self, String> {
        Ok(Self {
            options,
            measured: Duration::ZERO,
            tally: Tally::new()?,
            seconds: Vec::new(),
            own_cpu: Duration::ZERO,
            processes: Vec::new(),
            because: None,
            lost: None,
            cut_short: false,
            gave_up: false,
        })
    }

    /// What it comes down to; the gravest of what happened.
    pub fn outcome(&self) -> Outcome {
        let Tally { results, unanswered, unsent, unsent_blocked, .. } = self.tally;
        if self.lost.is_some() || (self.because.is_some() && results == 0) {
            Outcome::Nobody
        } else if unanswered + unsent + unsent_blocked > 0 {
            Outcome::Unanswered
        } else if !self.tally.errors.is_empty() || results == 0 {
            Outcome::Errors
        } else {
            Outcome::Good
        }
    }

    /// Results a second.
    pub fn rate(&self) -> f64 {
        match self.measured.as_secs_f64() {
            0.0 => 0.0,
            seconds => self.tally.results_in_time as f64 / seconds,
        }
    }

    /// The method, where a property of the request names it.
    fn method(&self) -> Option<&str> {
        let Options { request, dialect, .. } = &*self.options;
        request.kind.as_deref().filter(|_| *dialect == CallDialect::Plain)
    }

    /// One line: what was measured.
    pub fn title(&self) -> String {
        let Options { load, connections, request, .. } = &*self.options;
        let method = self.method().unwrap_or(&request.queue);
        let load = match load {
            Load::InFlight(calls) => format!("{} in flight", thousands((*calls).into())),
            Load::Rate(rate) => format!("{} a second", thousands((*rate).into())),
        };
        let replies = if request.reply_queue { "reply queue" } else { "direct reply-to" };
        let connections = match connections {
            1 => String::new(),
            connections => format!(", {connections} connections"),
        };
        let persistent = if request.persistent { ", persistent" } else { "" };
        format!(
            "{}: {load} for {:.1} s, {} bytes, {replies}{connections}{persistent}",
            crate::trace::escaped(method),
            self.measured.as_secs_f64(),
            thousands(request.body.len() as u64),
        )
    }

    /// For people.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![self.title(), String::new()];
        self.counts(&mut lines);
        self.latencies(&mut lines);
        self.cpu(&mut lines);
        let mut remark = |text: String| lines.push(text);
        if self.lost.is_some() || self.cut_short {
            remark(String::new());
        }
        if let Some(lost) = &self.lost {
            remark(format!("ended before its time, the broker was lost: {lost}"));
        }
        if self.cut_short {
            remark(if self.gave_up {
                "cut short: what is unanswered may only be on its way".to_owned()
            } else {
                "cut short".to_owned()
            });
        }
        lines
    }

    fn counts(&self, lines: &mut Vec<String>) {
        let tally = &self.tally;
        let mut line = |name: &str, count: u64, remark: String| {
            let count = thousands(count);
            lines.push(format!("{name:<12}{count:>13}   {remark}").trim_end().to_owned());
        };
        line("calls", tally.sent, String::new());
        line("results", tally.results, format!("{} a second", thousands(self.rate() as u64)));
        for (kind, errors) in &tally.errors {
            line("errors", errors.count, format!("{kind}: {}", errors.example));
        }
        if tally.unanswered > 0 {
            let after = humantime::format_duration(self.options.timeout);
            let when = if self.gave_up {
                "when it was ended".to_owned()
            } else {
                format!("within {after}")
            };
            let because = self.because.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
            line("unanswered", tally.unanswered, format!("{when}{because}"));
        }
        if tally.unsent > 0 {
            let remark = "due, but too many were unanswered: the service does not keep up";
            line("not sent", tally.unsent, remark.to_owned());
        }
        if tally.unsent_blocked > 0 {
            let remark = format!("due, but {BLOCKED}");
            line("not sent", tally.unsent_blocked, remark);
        }
        if tally.extra > 0 {
            let remark = "replies that came late, twice or unasked";
            line("extra", tally.extra, remark.to_owned());
        }
    }

    fn latencies(&self, lines: &mut Vec<String>) {
        let latency = &self.tally.latency;
        if latency.is_empty() {
            return;
        }
        lines.push(String::new());
        let mut line = |name: &str, nanos: f64, remark: String| {
            let time = time(nanos);
            lines.push(format!("{name:<12}{time:>13}   {remark}").trim_end().to_owned());
        };
        line("mean", latency.mean(), String::new());
        for (name, quantile) in QUANTILES {
            line(name, latency.value_at_quantile(quantile) as f64, String::new());
        }
        line("max", latency.max() as f64, String::new());
        if let Load::Rate(_) = self.options.load {
            let lag = self.tally.lag.value_at_quantile(0.99) as f64;
            let remark = "p99; sent later than due, which is counted above";
            line("client late", lag, remark.to_owned());
        }
        lines.push(String::new());
        let bars = self.bars();
        let most = bars.iter().map(|(_, _, count)| *count).max().unwrap_or(1).max(1);
        for (from, to, count) in bars {
            let bar = "█".repeat(usize::try_from(count * LONGEST_BAR / most).unwrap_or_default());
            let (from, to, count) = (time(from as f64), time(to as f64), thousands(count));
            lines.push(format!("{from:>9} – {to:<8}{count:>13}   {bar}").trim_end().to_owned());
        }
    }

    fn cpu(&self, lines: &mut Vec<String>) {
        if self.tally.replies == 0 {
            return;
        }
        lines.push(String::new());
        let mut line = |name: &str, used: Option<Duration>| {
            let text = match used {
                Some(used) => format!(
                    "{:>10.2} ms   of CPU per 1,000 calls, {:.0} % of a core",
                    self.cpu_per_thousand(used),
                    100.0 * self.cores(used)
                ),
                None => format!("{:>13}   no such process", "–"),
            };
            lines.push(format!("{name:<12}{text}"));
        };
        line("this client", Some(self.own_cpu));
        for (name, used) in &self.processes {
            line(&crate::trace::escaped(name), *used);
        }
    }

    /// Milliseconds of processor time per 1,000 replies.
    fn cpu_per_thousand(&self, used: Duration) -> f64 {
        1e6 * used.as_secs_f64() / self.tally.replies.max(1) as f64
    }

    fn cores(&self, used: Duration) -> f64 {
        match self.measured.as_secs_f64() {
            0.0 => 0.0,
            seconds => used.as_secs_f64() / seconds,
        }
    }

    /// The histogram: from, to (nanoseconds), count; without the empty ends.
    pub(super) fn bars(&self) -> Vec<(u64, u64, u64)> {
        let latency = &self.tally.latency;
        if latency.is_empty() {
            return Vec::new();
        }
        let mut bars: Vec<(u64, u64, u64)> = Vec::new();
        let mut from = 0;
        for to in bounds() {
            bars.push((from, to, 0));
            from = to;
            if to > latency.max() {
                break;
            }
        }
        for value in latency.iter_recorded() {
            let at = bars.partition_point(|(_, to, _)| *to <= value.value_iterated_to());
            if let Some((_, _, count)) = bars.get_mut(at) {
                *count += value.count_at_value();
            }
        }
        let first = bars.iter().position(|(_, _, count)| *count > 0).unwrap_or(0);
        bars.split_off(first)
    }

    /// For machines.
    pub fn json(&self) -> Value {
        let Options { load, connections, request, warm_up, timeout, .. } = &*self.options;
        let tally = &self.tally;
        let micros = |nanos: u64| tenths(nanos as f64 / 1e3);
        let mut latency = Map::new();
        latency.insert("min".to_owned(), micros(tally.latency.min()));
        latency.insert("mean".to_owned(), tenths(tally.latency.mean() / 1e3));
        for (name, quantile) in QUANTILES {
            latency.insert(name.to_owned(), micros(tally.latency.value_at_quantile(quantile)));
        }
        latency.insert("max".to_owned(), micros(tally.latency.max()));
        let errors: Map<String, Value> = tally
            .errors
            .iter()
            .map(|(kind, errors)| {
                (kind.clone(), json!({ "count": errors.count, "example": errors.example }))
            })
            .collect();
        let usage = |used: Duration| {
            json!({
                "ms_per_1000_calls": hundredths(self.cpu_per_thousand(used)),
                "cores": hundredths(self.cores(used)),
            })
        };
        let processes: Map<String, Value> = self
            .processes
            .iter()
            .map(|(name, used)| (name.clone(), used.map_or(Value::Null, usage)))
            .collect();
        let bars = |bars: Vec<(u64, u64, u64)>| -> Value {
            let bar = |(from, to, count)| json!({ "from": micros(from), "to": micros(to), "count": count });
            bars.into_iter().map(bar).collect()
        };
        let second = |second: &Second| {
            json!({
                "second": second.number,
                "results": second.results,
                "errors": second.errors,
                "in_flight": second.in_flight,
                "p50": micros(nanos(second.p50)),
                "p99": micros(nanos(second.p99)),
            })
        };
        let (in_flight, rate) = match load {
            Load::InFlight(calls) => (Some(calls), None),
            Load::Rate(rate) => (None, Some(rate)),
        };
        json!({
            "ok": self.outcome() == Outcome::Good,
            "method": self.method(),
            "queue": request.queue,
            "in_flight": in_flight,
            "rate": rate,
            "connections": connections,
            "body_bytes": request.body.len(),
            "reply_queue": request.reply_queue,
            "persistent": request.persistent,
            "warm_up_s": warm_up.as_secs_f64(),
            "measured_s": self.measured.as_secs_f64(),
            "timeout_s": timeout.as_secs_f64(),
            "calls": tally.sent,
            "results": tally.results,
            "errors": errors,
            "unanswered": tally.unanswered,
            "unanswered_because": self.because,
            "not_sent": tally.unsent + tally.unsent_blocked,
            "not_sent_blocked": tally.unsent_blocked,
            "extra": tally.extra,
            "results_per_second": tenths(self.rate()),
            "latency_us": latency,
            "sent_late_us": {
                "p50": micros(tally.lag.value_at_quantile(0.5)),
                "p99": micros(tally.lag.value_at_quantile(0.99)),
                "max": micros(tally.lag.max()),
            },
            "cpu": usage(self.own_cpu),
            "processes": processes,
            "histogram_us": bars(self.bars()),
            "seconds": self.seconds.iter().map(second).collect::<Value>(),
            "lost": self.lost,
            "cut_short": self.cut_short,
        })
    }
}

/// Where bars begin and end, in nanoseconds: from 10 µs on, six to a decade.
fn bounds() -> impl Iterator<Item = u64> {
    (3..18).flat_map(|power| STEPS.map(|step| step * 10_u64.pow(power)))
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A time for people, with three digits, such as `4.98 ms`.
pub fn short(duration: Duration) -> String {
    time(duration.as_nanos() as f64)
}

/// A number with two digits behind the point.
fn hundredths(number: f64) -> Value {
    json!((number * 100.0).round() / 100.0)
}

/// A number with one digit behind the point.
fn tenths(number: f64) -> Value {
    json!((number * 10.0).round() / 10.0)
}

/// A time with three digits, such as `4.98 ms`.
fn time(nanos: f64) -> String {
    let (number, unit) = match nanos {
        ..1e3 => (nanos, "ns"),
        1e3..1e6 => (nanos / 1e3, "µs"),
        1e6..1e9 => (nanos / 1e6, "ms"),
        _ => (nanos / 1e9, "s"),
    };
    match number {
        ..9.995 => format!("{number:.2} {unit}"),
        9.995..99.95 => format!("{number:.1} {unit}"),
        _ => format!("{number:.0} {unit}"),
    }
}

/// A number with commas.
pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        // Writing to a string does not fail.
        let _written = text.write_char(digit);
    }
    text
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::amqp::LoadRequest;

    /// A report of 1,000 calls, of which one brought an error and one nothing.
    pub(in crate::bench) fn report() -> Report {
        let options = Options {
            load: Load::InFlight(128),
            connections: 2,
            warm_up: Duration::from_secs(1),
            duration: Duration::from_secs(2),
            timeout: Duration::from_secs(10),
            request: LoadRequest {
                queue: "q".to_owned(),
                kind: Some("ec<h>o\x1b".to_owned()),
                content_type: None,
                body: vec![b'x'; 2048],
                persistent: false,
                reply_queue: false,
            },
            dialect: CallDialect::Plain,
            processes: vec![("server".to_owned(), 7)],
        };
        let mut report = Report::new(Arc::new(options)).unwrap();
        let tally = &mut report.tally;
        for number in 1..=1000 {
            tally.sent(Duration::ZERO);
            if number <= 998 {
                tally.result(Duration::from_micros(10 * number));
            }
        }
        let told = bytes::Bytes::from_static(br#"{"error":{"kind":"trap","message":"boom"}}"#);
        let kind = Some("error".to_owned());
        tally.error(&super::super::tally::fault(CallDialect::Plain, kind, None, told).unwrap());
        (tally.unanswered, tally.replies, tally.results_in_time) = (1, 999, 998);
        report.measured = Duration::from_secs(2);
        report.own_cpu = Duration::from_millis(9);
        report.processes = vec![("server".to_owned(), Some(Duration::from_millis(20)))];
        let second = |number| Second {
            number,
            length: Duration::from_secs(1),
            results: 499,
            errors: 0,
            in_flight: 128,
            p50: Duration::from_millis(5),
            p99: Duration::from_millis(9),
        };
        report.seconds = vec![second(0), second(1)];
        report
    }

    #[test]
    fn the_text_is_aligned_and_says_everything() {
        let lines = report().lines();
        let text = lines.join("\n");
        for part in [
            "128 in flight for 2.0 s, 2,048 bytes, direct reply-to, 2 connections",
            "calls               1,000",
            "results               998   499 a second",
            "errors                  1   trap: boom",
            "unanswered              1   within 10s",
            "p50               4.99 ms",
            "p99.9             9.9",
            "this client       9.01 ms   of CPU per 1,000 calls, 0 % of a core",
            "server           20.02 ms   of CPU per 1,000 calls, 1 % of a core",
            "  7.00 ms – 10.0 ms",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert!(!text.contains('\x1b'));
        assert!(lines.iter().all(|line| line.trim_end() == line), "{text}");
    }

    #[test]
    fn what_was_not_sent_is_told_with_its_cause() {
        let mut report = report();
        assert!(!report.lines().join("\n").contains("not sent"));
        (report.tally.unsent, report.tally.unsent_blocked) = (2, 3000);
        let text = report.lines().join("\n");
        for part in [
            "not sent                2   due, but too many were unanswered: the service does not",
            "not sent            3,000   due, but the broker takes nothing, for want of memory",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        let json = report.json();
        assert_eq!((&json["not_sent"], &json["not_sent_blocked"]), (&3002.into(), &3000.into()));
        assert_eq!(json["ok"], false);
    }

    #[test]
    fn the_bars_have_every_result_once() {
        let bars = report().bars();
        assert_eq!(bars.iter().map(|(_, _, count)| count).sum::<u64>(), 998);
        assert!(bars.windows(2).all(|pair| pair[0].1 == pair[1].0), "no gaps: {bars:?}");
        assert_eq!(bars.first().unwrap().0, 10_000, "{bars:?}");
        assert_eq!(bars.last().unwrap().1, 10_000_000, "{bars:?}");
        let mut empty = report();
        empty.tally = Tally::new().unwrap();
        assert!(empty.bars().is_empty());
        assert!(empty.json()["histogram_us"].as_array().unwrap().is_empty());
    }

    #[test]
    fn the_json_adds_up() {
        let json = report().json();
        assert_eq!(json["ok"], false);
        assert_eq!(json["errors"]["trap"]["count"], 1);
        assert_eq!(json["results_per_second"], 499.0);
        assert_eq!(json["in_flight"], 128);
        assert!(json["rate"].is_null());
        let p50 = json["latency_us"]["p50"].as_f64().unwrap();
        assert!((4985.0..5000.0).contains(&p50), "{p50}");
        assert_eq!(json["cpu"]["ms_per_1000_calls"], 9.01);
        assert_eq!(json["processes"]["server"]["cores"], 0.01);
        assert_eq!(json["seconds"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn who_gave_up_did_not_wait() {
        let mut report = report();
        report.cut_short = true;
        let text = report.lines().join("\n");
        assert!(text.contains("1   within 10s"), "{text}");
        report.gave_up = true;
        let text = report.lines().join("\n");
        assert!(text.contains("1   when it was ended"), "{text}");
        assert!(!text.contains("within"), "{text}");
    }

    #[test]
    fn the_gravest_of_what_happened_counts() {
        let mut report = report();
        assert_eq!(report.outcome(), Outcome::Unanswered);
        report.lost = Some("gone".to_owned());
        assert_eq!(report.outcome(), Outcome::Nobody);
        (report.lost, report.tally.unanswered) = (None, 0);
        assert_eq!(report.outcome(), Outcome::Errors);
        report.tally.errors.clear();
        assert_eq!(report.outcome(), Outcome::Good);
        report.tally.unsent = 1;
        assert_eq!(report.outcome(), Outcome::Unanswered);
        (report.tally.unsent, report.tally.unsent_blocked) = (0, 1);
        assert_eq!(report.outcome(), Outcome::Unanswered);
        report.tally.unsent_blocked = 0;
        report.tally.results = 0;
        assert_eq!(report.outcome(), Outcome::Errors);
        (report.because, report.tally.unanswered) = (Some("no queue".to_owned()), 9);
        assert_eq!(report.outcome(), Outcome::Nobody);
    }

    #[test]
    fn numbers_are_for_people() {
        assert_eq!(
            ["0", "999", "1,000", "1,234,567"],
            [0, 999, 1000, 1_234_567].map(thousands)[..]
        );
        let times = [0.0, 999.0, 1000.0, 9_994.0, 99_960.0, 4_980_000.0, 1.5e9, 1e12];
        let texts =
            ["0.00 ns", "999 ns", "1.00 µs", "9.99 µs", "100 µs", "4.98 ms", "1.50 s", "1000 s"];
        assert_eq!(times.map(time), texts);
    }
}
