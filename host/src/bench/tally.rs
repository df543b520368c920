//! What came of the calls: counts, latencies, errors by kind, and each second by
//! itself.
//!
//! Pure. A connection fills a tally of its own; at the end they are added.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::Value;

use crate::client::{self, Answer, CallDialect};
use crate::message::{HeaderValue, Properties, STATUS};
use crate::trace::escaped;

/// Significant digits of a latency: 4.98 ms is told from 4.99 ms.
const DIGITS: u8 = 3;

/// The same within one second, which is drawn and not compared.
const DIGITS_OF_A_SECOND: u8 = 2;

/// Nanoseconds of a day; longer times count as this.
const LONGEST: u64 = 24 * 60 * 60 * 1_000_000_000;

/// Kinds of errors that are told apart. The host has 16; a service that makes up
/// a kind for each reply must not fill the memory.
const MOST_KINDS: usize = 32;

/// Where all further kinds are counted.
const OTHER_KINDS: &str = "(other kinds)";

/// Characters of a kind, and of the example of it.
const LONGEST_KIND: usize = 64;
const LONGEST_EXAMPLE: usize = 120;

/// Counts and times of the calls that were meant for the measured time.
#[derive(Debug, Clone)]
pub struct Tally {
    /// Nanoseconds from when a call was meant to be sent to its result.
    pub latency: Histogram<u64>,
    /// Nanoseconds from when a call was meant to be sent to when it was.
    pub lag: Histogram<u64>,
    /// Calls that were sent.
    pub sent: u64,
    /// Of which so many brought a result,
    pub results: u64,
    /// so many were given up,
    pub unanswered: u64,
    /// and the others brought an error.
    pub errors: BTreeMap<String, ErrorKindCount>,
    /// Calls that were due and not sent, because too many were unanswered.
    pub unsent: u64,
    /// The same, because the broker took nothing.
    pub unsent_blocked: u64,
    /// Replies that came after their call was given up, or a second time, or that
    /// nobody asked for.
    pub extra: u64,
    /// Replies that came within the measured time, whenever they were asked for.
    pub replies: u64,
    /// Of which so many were results.
    pub results_in_time: u64,
}

/// Errors of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorKindCount {
    /// How many.
    pub count: u64,
    /// What the first of them said.
    pub example: String,
}

/// A histogram of all times that a run can have. It is of its full size from the
/// start, some 300 KB: one that grows would clamp what is recorded saturating.
fn histogram(digits: u8) -> Result<Histogram<u64>, String> {
    Histogram::new_with_max(LONGEST, digits)
        .map_err(|error| format!("no histogram of {digits} digits: {error}"))
}

impl Tally {
    /// An empty one.
    ///
    /// # Errors
    ///
    /// When the library does not take the number of digits.
    pub fn new() -> Result<Self, String> {
        Ok(Self {
            latency: histogram(DIGITS)?,
            lag: histogram(DIGITS)?,
            sent: 0,
            results: 0,
            unanswered: 0,
            errors: BTreeMap::new(),
            unsent: 0,
            unsent_blocked: 0,
            extra: 0,
            replies: 0,
            results_in_time: 0,
        })
    }

    /// A call that counts was sent, so long after it was due.
    pub(super) fn sent(&mut self, lag: Duration) {
        self.sent += 1;
        self.lag.saturating_record(nanos(lag));
    }

    /// A call that counts has brought a result.
    pub(super) fn result(&mut self, latency: Duration) {
        self.results += 1;
        self.latency.saturating_record(nanos(latency));
    }

    /// A call that counts has brought an error.
    pub(super) fn error(&mut self, error: &Fault) {
        self.count_error(&error.kind, 1, &error.text);
    }

    /// Errors of all kinds.
    pub fn errors_in_all(&self) -> u64 {
        self.errors.values().map(|kind| kind.count).sum()
    }

    /// Adds another connection's.
    pub(super) fn add(&mut self, other: &Self) {
        // Fails only where a histogram is smaller, and all are of one size.
        for (to, from) in [(&mut self.latency, &other.latency), (&mut self.lag, &other.lag)] {
            if let Err(error) = to.add(from) {
                tracing::warn!("latencies of a connection are left out: {error}");
            }
        }
        self.sent += other.sent;
        self.results += other.results;
        self.unanswered += other.unanswered;
        self.unsent += other.unsent;
        self.unsent_blocked += other.unsent_blocked;
        self.extra += other.extra;
        self.replies += other.replies;
        self.results_in_time += other.results_in_time;
        for (kind, errors) in &other.errors {
            self.count_error(kind, errors.count, &errors.example);
        }
    }

    fn count_error(&mut self, kind: &str, count: u64, example: &str) {
        if let Some(known) = self.errors.get_mut(kind) {
            known.count += count;
            return;
        }
        let kind = if self.errors.len() < MOST_KINDS { kind } else { OTHER_KINDS };
        self.errors
            .entry(kind.to_owned())
            .or_insert_with(|| ErrorKindCount { count: 0, example: example.to_owned() })
            .count += count;
    }
}

/// An error, as a reply tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// The host's word for it; another service's code.
    pub(super) kind: String,
    /// What it says.
    pub(super) text: String,
}

/// Whether a reply is an error, and which. Safe to be shown.
pub(super) fn fault(
    dialect: CallDialect,
    kind: Option<String>,
    status: Option<String>,
    body: bytes::Bytes,
) -> Option<Fault> {
    let header = |status| (STATUS.to_owned(), HeaderValue::Text(status));
    let headers = status.map(header).into_iter().collect();
    let properties = Properties { kind, headers, ..Properties::default() };
    let Answer::Error(text) = client::decode(dialect, &properties, body) else { return None };
    let value: Value = serde_json::from_str(&text).unwrap_or_default();
    let error = value.get("error").unwrap_or(&value);
    let word = |at: &Value| at.get("kind").and_then(Value::as_str).map(str::to_owned);
    let kind = word(error)
        .or_else(|| word(error.get("data")?))
        .or_else(|| Some(format!("code {}", error.get("code")?.as_i64()?)))
        .unwrap_or_else(|| "error".to_owned());
    let text = error.get("message").and_then(Value::as_str).unwrap_or(&text);
    Some(Fault { kind: cut(&kind, LONGEST_KIND), text: cut(text, LONGEST_EXAMPLE) })
}

/// The beginning of a text, on one line and without what a terminal would act on.
fn cut(text: &str, longest: usize) -> String {
    let short: String = text.chars().take(longest).collect();
    let more = if short.len() < text.len() { "…" } else { "" };
    format!("{}{more}", escaped(&short))
}

/// One second of the measured time, counted by when replies came.
#[derive(Debug, Clone)]
pub(super) struct SecondTally {
    /// The second's number, from 0.
    pub(super) number: u64,
    pub(super) latency: Histogram<u64>,
    pub(super) errors: u64,
    /// Calls in flight at its end.
    pub(super) in_flight: u64,
}

impl SecondTally {
    pub(super) fn new(number: u64) -> Result<Self, String> {
        Ok(Self { number, latency: histogram(DIGITS_OF_A_SECOND)?, errors: 0, in_flight: 0 })
    }

    /// A result has come.
    pub(super) fn result(&mut self, latency: Duration) {
        self.latency.saturating_record(nanos(latency));
    }

    /// Adds another connection's.
    pub(super) fn add(&mut self, other: &Self) {
        if let Err(error) = self.latency.add(&other.latency) {
            tracing::warn!("latencies of a second are left out: {error}");
        }
        self.errors += other.errors;
        self.in_flight += other.in_flight;
    }

    /// What is kept of it; `length` is shorter for the last.
    pub(super) fn numbers(&self, length: Duration) -> Second {
        let of = |quantile| Duration::from_nanos(self.latency.value_at_quantile(quantile));
        Second {
            number: self.number,
            length,
            results: self.latency.len(),
            errors: self.errors,
            in_flight: self.in_flight,
            p50: of(0.5),
            p99: of(0.99),
        }
    }
}

/// One second in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Second {
    /// From 0, the beginning of the measured time.
    pub number: u64,
    /// A second, but for the last.
    pub length: Duration,
    /// Results that came.
    pub results: u64,
    /// Errors that came.
    pub errors: u64,
    /// Calls in flight at its end.
    pub in_flight: u64,
    /// Latency of half of the results.
    pub p50: Duration,
    /// Latency of all but one of a hundred.
    pub p99: Duration,
}

impl Second {
    /// Results a second.
    pub fn rate(&self) -> f64 {
        let length = self.length.as_secs_f64();
        if length > 0.0 { self.results as f64 / length } else { 0.0 }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind_of(dialect: CallDialect, kind: Option<&str>, body: &'static str) -> Option<String> {
        let body = bytes::Bytes::from_static(body.as_bytes());
        fault(dialect, kind.map(str::to_owned), None, body).map(|fault| fault.kind)
    }

    #[test]
    fn errors_have_the_kind_that_their_dialect_tells() {
        let (plain, rpc) = (CallDialect::Plain, CallDialect::JsonRpc);
        assert_eq!(kind_of(plain, None, r#"{"error":{"kind":"trap"}}"#), None, "a result");
        let told = r#"{"error":{"code":-32001,"kind":"trap","message":"m"}}"#;
        assert_eq!(kind_of(plain, Some("error"), told).unwrap(), "trap");
        assert_eq!(kind_of(plain, Some("error"), "no JSON").unwrap(), "error");
        let of_host = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"data":{"kind":"x"}}}"#;
        assert_eq!(kind_of(rpc, None, of_host).unwrap(), "x");
        let of_others = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"m"}}"#;
        assert_eq!(kind_of(rpc, None, of_others).unwrap(), "code -32601");
        assert_eq!(kind_of(rpc, None, r#"{"jsonrpc":"2.0","id":1,"result":1}"#), None);
        assert_eq!(kind_of(rpc, None, "no JSON").unwrap(), "error");
        let told = bytes::Bytes::from_static(br#"{"response":{"result":"","error":"boom"}}"#);
        let trap = fault(CallDialect::Envelope, None, Some("trap".to_owned()), told).unwrap();
        assert_eq!((trap.kind.as_str(), trap.text.as_str()), ("trap", "boom"));
        let told = bytes::Bytes::from_static(b"{\"error\":{\"kind\":\"\x1b[31m\"}}");
        let fault = fault(plain, Some("error".to_owned()), None, told).unwrap();
        assert!(!fault.kind.contains('\x1b') && !fault.text.contains('\x1b'), "{fault:?}");
    }

    #[test]
    fn tallies_add_up() {
        let fault = |kind: &str| Fault { kind: kind.to_owned(), text: format!("of {kind}") };
        let mut both = Tally::new().unwrap();
        for (latency, kind) in [(1, "a"), (3, "b")] {
            let mut one = Tally::new().unwrap();
            for _ in 0..2 {
                one.sent(Duration::from_micros(5));
            }
            one.result(Duration::from_millis(latency));
            one.error(&fault(kind));
            both.add(&one);
        }
        both.error(&fault("a"));
        assert_eq!((both.sent, both.results, both.errors_in_all()), (4, 2, 3));
        assert_eq!(both.errors.get("a").unwrap().count, 2);
        assert_eq!(both.errors.get("b").unwrap().example, "of b");
        assert_eq!(both.latency.len(), 2);
        let max = both.latency.max();
        assert!((2_990_000..=3_010_000).contains(&max), "{max}");
    }

    #[test]
    fn a_service_cannot_make_up_kinds_without_end() {
        let mut tally = Tally::new().unwrap();
        for number in 0..1000 {
            tally.error(&Fault { kind: format!("kind {number}"), text: String::new() });
        }
        assert_eq!(tally.errors.len(), MOST_KINDS + 1);
        assert_eq!(tally.errors_in_all(), 1000);
    }

    #[test]
    fn a_second_is_told_in_numbers() {
        let mut second = SecondTally::new(3).unwrap();
        for micros in 1..=100 {
            second.latency.saturating_record(micros * 1000);
        }
        let mut other = SecondTally::new(3).unwrap();
        other.errors = 2;
        second.add(&other);
        let numbers = second.numbers(Duration::from_millis(500));
        assert_eq!((numbers.results, numbers.errors), (100, 2));
        assert!((numbers.rate() - 200.0).abs() < 1e-9);
        let p99 = numbers.p99.as_micros();
        assert!((98..=100).contains(&p99), "{p99}");
    }
}
