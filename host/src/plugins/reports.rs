//! The log's side of a trap: the whole stack with source lines, and the guest's
//! last words, under the id that the caller was given.
//!
//! A call only hands over what it has; a thread of its own, of the lowest
//! priority, looks lines up and writes. A plugin that traps a thousand times a
//! second is reported once, and counted.

use std::collections::HashMap;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tracing::warn;

use super::compile::{Helper, be_nice};
use super::stack::{Place, Stack};
use super::symbols::{Line, Symbols};
use crate::capabilities::printable;
use crate::message::{ErrorKind, PluginId};

/// How often what was left out is said.
const ROUND: Duration = Duration::from_secs(60);

/// Reports of one plugin in a [`ROUND`]: with some thirty lines each, still a
/// log that can be read.
const MOST_REPORTS: usize = 10;

/// How long a report is remembered and not repeated while its like goes on.
const REPEAT: Duration = Duration::from_secs(600);

/// Reports that wait to be written, of all plugins. Each takes up to 20 KiB.
const MOST_WAITING: usize = 64;

/// Longest line in bytes, and most frames and lines of standard error.
const MAX_LINE: usize = 1024;
const MAX_LINES: usize = 100;

/// A call that ended without an answer, and all that is known of it.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) id: String,
    pub(super) plugin: PluginId,
    pub(super) file: Option<Arc<Path>>,
    pub(super) method: String,
    pub(super) correlation_id: Option<String>,
    pub(super) kind: ErrorKind,
    pub(super) text: String,
    pub(super) stack: Stack,
    pub(super) stderr: String,
}

/// Takes reports. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Reports {
    books: Arc<Mutex<HashMap<Arc<str>, Book>>>,
    queue: SyncSender<Report>,
}

/// What was reported of one plugin.
#[derive(Debug)]
struct Book {
    /// When the round began.
    since: Instant,
    /// Reports in this round.
    reports: usize,
    /// By id.
    known: HashMap<String, Known>,
    /// How many of other ids were left out in this round.
    others: u64,
}

#[derive(Debug)]
struct Known {
    reported: Instant,
    /// How many of its like were left out in this round.
    again: u64,
}

impl Reports {
    /// Starts the thread that writes; it ends with the last clone.
    ///
    /// # Errors
    ///
    /// When the system gives no thread.
    pub(super) fn start(helper: Option<Helper>) -> anyhow::Result<Self> {
        let (queue, reports) = mpsc::sync_channel(MOST_WAITING);
        let books = Arc::new(Mutex::new(HashMap::new()));
        let writer = Writer { books: books.clone(), symbols: Symbols::new(helper) };
        std::thread::Builder::new()
            .name("traps".to_owned())
            .spawn(move || writer.run(&reports))
            .context("failed to start the thread that reports traps")?;
        Ok(Self { books, queue })
    }

    /// Has a report written, unless there were enough. Never waits.
    pub(super) fn offer(&self, plugin: &Arc<str>, id: &str, report: impl FnOnce() -> Report) {
        if !tracing::enabled!(target: "trap", tracing::Level::WARN) {
            return;
        }
        {
            let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
            let book = books.entry(plugin.clone()).or_insert_with(Book::new);
            if !book.admits(id) {
                return;
            }
        }
        if self.queue.try_send(report()).is_err() {
            let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(book) = books.get_mut(plugin) {
                book.known.remove(id);
                book.others = book.others.saturating_add(1);
            }
        }
    }
}

impl Book {
    fn new() -> Self {
        Self { since: Instant::now(), reports: 0, known: HashMap::new(), others: 0 }
    }

    /// Whether a report is to be written. If not, it is counted.
    fn admits(&mut self, id: &str) -> bool {
        if let Some(known) = self.known.get_mut(id) {
            known.again = known.again.saturating_add(1);
            return false;
        }
        if self.reports >= MOST_REPORTS {
            self.others = self.others.saturating_add(1);
            return false;
        }
        self.reports = self.reports.saturating_add(1);
        self.known.insert(id.to_owned(), Known { reported: Instant::now(), again: 0 });
        true
    }

    /// Begins the next round: what was left out in this one, by id and of
    /// others. What has not come again is forgotten, and reported next time.
    fn turn(&mut self) -> (Vec<(String, u64)>, u64) {
        let again = self.known.iter().filter(|(_, known)| known.again > 0);
        let mut again: Vec<_> = again.map(|(id, known)| (id.clone(), known.again)).collect();
        again.sort_unstable();
        self.known.retain(|_, known| {
            std::mem::take(&mut known.again) > 0 && known.reported.elapsed() < REPEAT
        });
        self.since = Instant::now();
        self.reports = 0;
        (again, std::mem::take(&mut self.others))
    }
}

/// The thread's side.
struct Writer {
    books: Arc<Mutex<HashMap<Arc<str>, Book>>>,
    symbols: Symbols,
}

impl Writer {
    fn run(mut self, reports: &Receiver<Report>) {
        be_nice();
        loop {
            let idle = self.books.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
            // A book begins with a report, which ends the waiting.
            let next = if idle {
                reports.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                reports.recv_timeout(ROUND / 12)
            };
            match next {
                Ok(report) => self.write(&report),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.turn(Duration::ZERO),
            }
            self.turn(ROUND);
        }
    }

    /// Says what was left out in rounds that are over.
    fn turn(&self, round: Duration) {
        let mut over = Vec::new();
        self.books.lock().unwrap_or_else(PoisonError::into_inner).retain(|plugin, book| {
            if book.since.elapsed() < round {
                return true;
            }
            over.push((plugin.clone(), book.turn()));
            // The plugin may be gone, or well.
            !book.known.is_empty()
        });
        for (plugin, (again, others)) in over {
            for (id, count) in again {
                let _span = tracing::error_span!(target: "trap", "trap", %id).entered();
                warn!(target: "trap", %plugin, "the same happened {count} more times");
            }
            if others > 0 {
                warn!(
                    target: "trap", %plugin,
                    "`{plugin}` trapped {others} more times in other ways; too many to be written"
                );
            }
        }
    }

    fn write(&mut self, report: &Report) {
        let Report { id, plugin, method, text, kind, .. } = report;
        let found = self.symbols.find(plugin, report.file.as_deref(), &report.stack);
        let _span = tracing::error_span!(target: "trap", "trap", %id).entered();
        warn!(
            target: "trap",
            plugin = %plugin.short(),
            method = %printable(method, MAX_LINE),
            correlation_id = report.correlation_id.as_deref(),
            status = kind.name(),
            "{}", printable(text, MAX_LINE)
        );
        let line = |text: &str| warn!(target: "trap", "{}", printable(text, MAX_LINE));
        stack_lines(&report.stack, &found.lines).iter().take(MAX_LINES).for_each(|text| line(text));
        if let Some(reason) = &found.without {
            line(&format!("no source lines: {reason}"));
        }
        let stderr: Vec<_> = report.stderr.lines().filter(|line| !line.is_empty()).collect();
        for text in stderr.iter().skip(stderr.len().saturating_sub(MAX_LINES)) {
            line(&format!("stderr: {text}"));
        }
    }
}

/// The stack from the innermost function out. What a recursion repeats is
/// written once.
fn stack_lines(stack: &Stack, found: &HashMap<Place, Vec<Line>>) -> Vec<String> {
    let mut lines = Vec::new();
    let mut frames = stack.frames().iter().enumerate().peekable();
    while let Some((number, frame)) = frames.next() {
        let places = frame.place.and_then(|place| found.get(&place));
        lines.extend(frame_lines(number, &frame.name, places.map_or(&[], |lines| lines)));
        let mut more = 0_usize;
        while frames.next_if(|(_, next)| *next == frame).is_some() {
            more = more.saturating_add(1);
        }
        if more > 0 {
            lines.push(format!("   and {more} more of the same"));
        }
    }
    lines
}

/// ` 3 outer at src/lib.rs:7:5`, after a line for each function that the
/// compiler has put into it.
fn frame_lines(number: usize, name: &str, places: &[Line]) -> Vec<String> {
    let Some((own, inlined)) = places.split_last() else {
        return vec![format!("{number:>2} {name}")];
    };
    let inlined = inlined.iter().map(|line| {
        let name = line.function.as_deref().unwrap_or("(a function without a name)");
        format!("{number:>2} {name} at {line}, inlined")
    });
    inlined.chain([format!("{number:>2} {name} at {own}")]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_a_kind_is_reported_and_the_rest_counted() {
        let mut book = Book::new();
        assert!(book.admits("a"));
        assert!((0..1000).all(|_| !book.admits("a")));
        assert!(book.admits("b"));
        let (again, others) = book.turn();
        assert_eq!((again, others), (vec![("a".to_owned(), 1000)], 0));
        assert!(!book.admits("a"), "it goes on, and was reported a minute ago");
        assert!(book.admits("b"), "it had stopped");
    }

    #[test]
    fn a_recursion_is_written_once() {
        let stack = Stack::named(&["leaf", "recurse", "recurse", "recurse", "handle"]);
        assert_eq!(
            stack_lines(&stack, &HashMap::new()),
            [" 0 leaf", " 1 recurse", "   and 2 more of the same", " 4 handle"]
        );
    }

    #[test]
    fn a_plugin_that_traps_in_ever_new_ways_is_reported_a_few_times() {
        let mut book = Book::new();
        let admitted = (0..1000).filter(|number| book.admits(&format!("{number}"))).count();
        assert_eq!(admitted, MOST_REPORTS);
        assert_eq!(book.turn(), (Vec::new(), 990));
        assert!(book.known.is_empty());
    }
}
