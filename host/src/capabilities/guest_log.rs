//! What guests write, as events of the host's log.
//!
//! Owns the way from a guest's text to an event with the target `guest`: one
//! event a line, cut, escaped and counted, so that no guest can forge a line or
//! fill a disk. Refuses to know where the text came from.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tracing::Level;

use super::CallFacts;
use crate::telemetry::Telemetry;

/// Longest line in bytes, before and after escaping. A line of a log is read
/// by a person; what is longer belongs into the reply.
pub(super) const MAX_LINE: usize = 4096;

/// Longest name or id beside a line, in bytes. They come from the caller.
const MAX_FIELD: usize = 256;

/// Lines of one plugin in a second, over a long time: with a host's usual line
/// of a hundred bytes, less than a gigabyte a day.
const LINES_PER_SECOND: u32 = 100;

/// Lines that a plugin may be ahead: what a burst of calls says is there whole.
const BURST: u32 = 1_000;

/// Lines that are looked at of what is written at once: ten times a burst. The rest is only
/// counted, so that no text keeps a core busy for long, where no time limit of a call reaches.
pub(super) const MOST_AT_ONCE: usize = 10_000;

/// How often a plugin that writes too much is complained about.
const COMPLAINT: Duration = Duration::from_secs(60);

/// How much one plugin may write. One for all of its calls.
#[derive(Debug)]
pub struct LogLimit {
    plugin: Arc<str>,
    telemetry: Telemetry,
    account: Mutex<Account>,
}

#[derive(Debug)]
struct Account {
    /// When all lines so far are paid for, at [`LINES_PER_SECOND`].
    paid: Instant,
    /// Lines that were dropped and not yet complained about.
    dropped: u64,
    complained: Option<Instant>,
}

impl LogLimit {
    /// A limit that nothing was taken of.
    pub fn new(plugin: Arc<str>, telemetry: Telemetry) -> Self {
        let account = Account { paid: Instant::now(), dropped: 0, complained: None };
        Self { plugin, telemetry, account: Mutex::new(account) }
    }

    /// Whether one more line may be written now.
    fn admits_line(&self) -> bool {
        const COST: Duration = Duration::from_nanos(1_000_000_000 / LINES_PER_SECOND as u64);
        const AHEAD: Duration = Duration::from_nanos(COST.as_nanos() as u64 * BURST as u64);
        let now = Instant::now();
        let mut account = self.account();
        let paid = account.paid.max(now);
        let admitted = paid.saturating_duration_since(now) < AHEAD;
        if admitted {
            account.paid = paid + COST;
        }
        admitted
    }

    /// Counts lines that are not written, and says so now and then.
    fn drop_lines(&self, lines: u64) {
        self.telemetry.guest_lines_dropped(&self.plugin, lines);
        let now = Instant::now();
        let mut account = self.account();
        account.dropped = account.dropped.saturating_add(lines);
        let rested = |then| now.saturating_duration_since(then) >= COMPLAINT;
        if account.complained.is_none_or(rested) {
            let dropped = std::mem::take(&mut account.dropped);
            let again = account.complained.replace(now).map(|_| dropped);
            drop(account);
            self.telemetry.guest_writes_too_much(&self.plugin, LINES_PER_SECOND, again);
        }
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whose lines they are: a method of a plugin.
#[derive(Debug, Clone)]
pub struct Speaker {
    /// The plugin's.
    pub limit: Arc<LogLimit>,
    /// The canonical name of the method.
    pub method: String,
}

/// The log of one call. Costs nothing until something is written.
#[derive(Debug)]
pub(super) struct GuestLog {
    pub(super) facts: CallFacts,
    /// What every line begins with, and no guest can write.
    span: OnceLock<tracing::Span>,
}

/// Calls a macro of `tracing` with the level's name; levels of events are
/// fixed where they are written.
macro_rules! at {
    ($level:expr, $macro:ident) => {
        match $level {
            Level::TRACE => $macro!(Level::TRACE),
            Level::DEBUG => $macro!(Level::DEBUG),
            Level::INFO => $macro!(Level::INFO),
            Level::WARN => $macro!(Level::WARN),
            _ => $macro!(Level::ERROR),
        }
    };
}

impl GuestLog {
    pub(super) fn new(facts: CallFacts) -> Self {
        Self { facts, span: OnceLock::new() }
    }

    /// Whether a line of that level is written at all.
    pub(super) fn is_on(&self, level: Level) -> bool {
        macro_rules! enabled {
            ($level:expr) => {
                tracing::enabled!(target: "guest", $level)
            };
        }
        self.facts.speaker.is_some() && at!(level, enabled)
    }

    /// Writes one line. `source` says where it comes from: `stdout`, or the
    /// context that the guest named. `beyond` more bytes were cut before. False
    /// if it was dropped, as the next one will be.
    pub(super) fn line(&self, level: Level, source: &str, text: &str, beyond: u64) -> bool {
        let Some(speaker) = &self.facts.speaker else { return true };
        if text.is_empty() && beyond == 0 {
            return true;
        }
        if !speaker.limit.admits_line() {
            speaker.limit.drop_lines(1);
            return false;
        }
        let mut line = printable(text, MAX_LINE);
        if beyond > 0 {
            // Writing to a string cannot fail.
            let _cannot_fail = write!(line, "… ({beyond} more bytes)");
        }
        let source = printable(source, MAX_FIELD);
        let span = self.span.get_or_init(|| self.span(speaker));
        macro_rules! event {
            ($level:expr) => {
                tracing::event!(target: "guest", parent: span, $level, from = %source, "{line}")
            };
        }
        at!(level, event);
        true
    }

    /// Writes each line of a text, until one is dropped: those behind it are too much as well.
    pub(super) fn lines(&self, level: Level, source: &str, text: &str) {
        let mut rest = text;
        for _ in 0..MOST_AT_ONCE {
            let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
            rest = after;
            if !self.line(level, source, line.strip_suffix('\r').unwrap_or(line), 0) {
                break;
            }
            if rest.is_empty() {
                return;
            }
        }
        let unfinished = u64::from(!rest.is_empty() && !rest.ends_with('\n'));
        self.drop_lines(ends(rest.as_bytes()).saturating_add(unfinished));
    }

    /// Counts lines that came with one that was dropped.
    pub(super) fn drop_lines(&self, lines: u64) {
        if let Some(speaker) = self.facts.speaker.as_ref().filter(|_| lines > 0) {
            speaker.limit.drop_lines(lines);
        }
    }

    fn span(&self, speaker: &Speaker) -> tracing::Span {
        let property = |name: &str| {
            let mut named = self.facts.properties.iter().filter(|(key, _)| *key == name);
            named.next().map(|(_, value)| printable(value, MAX_FIELD))
        };
        tracing::error_span!(
            target: "guest",
            parent: None,
            "guest",
            plugin = %speaker.limit.plugin,
            method = %printable(&speaker.method, MAX_FIELD),
            correlation_id = property("correlation-id").as_deref(),
            traceparent = property("traceparent").as_deref(),
        )
    }
}

/// How many lines end in a text.
pub(super) fn ends(text: &[u8]) -> u64 {
    text.iter().map(|byte| u64::from(*byte == b'\n')).sum()
}

/// A guest's text as a terminal may show it: at most `limit` bytes, and with
/// escapes for controls and for what breaks lines or turns their direction.
pub fn printable(text: &str, limit: usize) -> String {
    let mut shown = String::with_capacity(text.len().min(limit));
    for c in text.chars() {
        if is_safe(c) {
            shown.push(c);
        } else {
            shown.extend(c.escape_default());
        }
        if shown.len() > limit {
            break;
        }
    }
    crate::message::truncate(&mut shown, limit);
    shown
}

fn is_safe(c: char) -> bool {
    !c.is_control()
        && !matches!(
            c,
            // Marks of direction, separators of lines and paragraphs, embeddings and
            // overrides, isolates, and the mark that is no space.
            '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        for (text, shown) in [
            ("plain, “quoted” and नमस्ते\\", "plain, “quoted” and नमस्ते\\"),
            ("\x1b[31mred\x1b[0m", "\\u{1b}[31mred\\u{1b}[0m"),
            ("a\r\nb\tc\0", "a\\r\\nb\\tc\\u{0}"),
            ("c1 \u{9b}31m override \u{202e}x", "c1 \\u{9b}31m override \\u{202e}x"),
        ] {
            assert_eq!(printable(text, 100), shown);
        }
        assert_eq!(printable(&"\x1b".repeat(50), 100).len(), 100);
    }

    #[test]
    fn a_plugin_gets_its_burst_and_then_a_hundred_lines_a_second() {
        let telemetry = Telemetry::new().unwrap();
        let limit = LogLimit::new("loud".into(), telemetry.clone());
        let begun = Instant::now();
        let admitted = (0..5_000).filter(|_| limit.admits_line()).count();
        (admitted..5_000).for_each(|_| limit.drop_lines(1));
        let later = begun.elapsed().as_secs_f64() * f64::from(LINES_PER_SECOND);
        assert!(admitted >= BURST as usize, "{admitted}");
        assert!(admitted as f64 <= f64::from(BURST) + later + 1.0, "{admitted}");
        let dropped = format!(
            "rpchost_guest_log_lines_dropped_total{{plugin=\"loud\"}} {}",
            5_000 - admitted
        );
        assert!(telemetry.scrape().unwrap().contains(&dropped), "{dropped}");
    }

    #[test]
    fn of_what_is_written_at_once_the_rest_is_counted() {
        let lines = 20 * MOST_AT_ONCE;
        let text = |line: &str| line.repeat(lines);
        // With an end and without one, and lines of nothing behind which there are others.
        for (text, least) in [
            (text("a\n"), lines - 2 * BURST as usize),
            (text("\na"), lines - 2 * BURST as usize),
            (text("\n") + &text("a\n"), lines - MOST_AT_ONCE),
        ] {
            let telemetry = Telemetry::new().unwrap();
            let limit = Arc::new(LogLimit::new("loud".into(), telemetry.clone()));
            let speaker = Speaker { limit, method: "loud".to_owned() };
            let log = GuestLog::new(CallFacts { speaker: Some(speaker), ..CallFacts::none() });
            log.lines(Level::INFO, "log", &text);
            let scraped = telemetry.scrape().unwrap();
            let dropped = scraped.lines().find_map(|line| {
                line.strip_prefix("rpchost_guest_log_lines_dropped_total{plugin=\"loud\"} ")
            });
            let dropped: usize = dropped.expect("the metric").parse().unwrap();
            let written = text.matches('\n').count() + 1 - dropped;
            assert!(dropped >= least && written >= BURST as usize, "{dropped} of {lines}");
        }
    }
}
