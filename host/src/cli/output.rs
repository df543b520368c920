//! Writing to the terminal, in one place.

use std::io::{BufWriter, IsTerminal as _, Write as _};

use tokio::sync::{mpsc, oneshot};

use super::json;

/// Lines between whoever makes them and a terminal that takes them slowly.
const BUFFERED_LINES: usize = 256;

/// Writes a line to standard output. A reader that has gone away is not our
/// error: whoever pipes into `head` wants no more.
pub(super) fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    let _reader_may_be_gone = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Writes bytes to standard output as they are, with a line's end if they are
/// text without one.
pub(super) fn bytes(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    let is_open_line = std::str::from_utf8(bytes).is_ok() && !bytes.ends_with(b"\n");
    let end: &[u8] = if is_open_line { b"\n" } else { b"" };
    let _reader_may_be_gone =
        out.write_all(bytes).and_then(|()| out.write_all(end)).and_then(|()| out.flush());
}

/// Writes bytes to standard output, all of them and nothing else.
pub(super) fn exactly(bytes: &[u8]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush())
}

/// Writes a result: JSON indented and coloured for a person, as it is for a program.
pub(super) fn result(bytes: &[u8]) {
    match std::io::stdout().is_terminal().then(|| json::shown(bytes)).flatten() {
        Some(shown) => line(&shown),
        None => self::bytes(bytes),
    }
}

/// The same of an error, on standard error.
pub(super) fn error_result(text: &str) {
    let shown = std::io::stderr().is_terminal().then(|| json::shown(text.as_bytes())).flatten();
    error_line(shown.as_deref().unwrap_or(text));
}

/// Writes a sentence about a failure to standard error.
pub(super) fn error(text: impl std::fmt::Display) {
    let _nowhere_else_to_say_it = writeln!(std::io::stderr().lock(), "rpchost: {text}");
}

/// Writes a line to standard error as it is.
pub(super) fn error_line(text: &str) {
    let _nowhere_else_to_say_it = writeln!(std::io::stderr().lock(), "{text}");
}

/// Lines to standard output from a thread of its own: a reader that is slow
/// holds up nothing but the lines.
#[derive(Debug)]
pub(super) struct Lines {
    lines: mpsc::Sender<String>,
    done: oneshot::Receiver<()>,
}

impl Lines {
    pub(super) fn start() -> Self {
        let (lines, mut made) = mpsc::channel::<String>(BUFFERED_LINES);
        let (tell, done) = oneshot::channel();
        std::thread::spawn(move || {
            let mut out = BufWriter::new(std::io::stdout().lock());
            while let Some(line) = made.blocking_recv() {
                let written = writeln!(out, "{line}");
                if written
                    .and_then(|()| if made.is_empty() { out.flush() } else { Ok(()) })
                    .is_err()
                {
                    break;
                }
            }
            let _nobody_may_wait = tell.send(());
        });
        Self { lines, done }
    }

    /// Writes a line, when its turn comes; false when nobody reads any more.
    pub(super) async fn line(&self, text: String) -> bool {
        self.lines.send(text).await.is_ok()
    }

    /// Waits until nobody reads any more, such as `head` that has seen enough.
    pub(super) async fn unread(&self) {
        self.lines.closed().await;
    }

    /// Waits until what was written is read, or nobody reads any more.
    pub(super) async fn finish(self) {
        drop(self.lines);
        let _either_way_it_is_over = self.done.await;
    }
}

/// The lines of a table: each column as wide as its widest cell.
pub(super) fn table<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> Vec<String> {
    let mut widths = [0; COLUMNS];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let line = |row: &[String; COLUMNS]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// Columns of the terminal that standard output is; of something else, what
/// `COLUMNS` says, if anything.
pub(super) fn width() -> Option<usize> {
    let columns = || std::env::var("COLUMNS").ok()?.parse().ok();
    console::Term::stdout().size_checked().map(|(_, columns)| columns.into()).or_else(columns)
}
