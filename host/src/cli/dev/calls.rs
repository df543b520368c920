//! Each call as a line: what was asked, what came of it, and how long that took.

use std::time::Duration;

use console::Style;
use tokio::sync::mpsc;

use super::super::output;
use crate::capabilities::printable;
use crate::dispatch::Seen;

/// Bytes of arguments, and of a result, that are shown.
const SHOWN: usize = 120;

/// What marks a default method, which callers do not name.
const UNNAMED: &str = "(default)";

/// Writes calls to standard output until there are no more.
pub(super) async fn show(mut calls: mpsc::Receiver<Seen>) {
    while let Some(seen) = calls.recv().await {
        output::line(&line(&seen));
    }
}

fn line(seen: &Seen) -> String {
    let method = seen.method.as_deref().map_or_else(|| UNNAMED.to_owned(), text);
    let mut arguments = bytes(&seen.arguments);
    if !arguments.is_empty() {
        arguments.push(' ');
    }
    let (arrow, came) = match &seen.outcome {
        Ok(value) => (Style::new().green().apply_to("→"), bytes(&value.body)),
        Err(error) => (
            Style::new().red().apply_to("✗"),
            format!("{}: {}", error.kind.name(), text(&error.message)),
        ),
    };
    let took = Style::new().dim().apply_to(time(seen.took));
    let method = Style::new().bold().apply_to(method);
    format!("{method}  {arguments}{arrow} {came}  {took}")
}

/// Bytes as text, where they are.
fn bytes(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(whole) => text(whole),
        Err(_) => format!("({} bytes that are no text)", bytes.len()),
    }
}

/// Text as a terminal may show it, on one line.
fn text(whole: &str) -> String {
    let shown = printable(whole.trim_end(), SHOWN);
    if whole.trim_end().len() > SHOWN { format!("{shown}…") } else { shown }
}

fn time(took: Duration) -> String {
    let milliseconds = took.as_secs_f64() * 1_000.0;
    if milliseconds < 1_000.0 {
        format!("{milliseconds:.1} ms")
    } else {
        format!("{:.1} s", took.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::message::{CallError, ErrorKind, ReturnValue};

    fn shown(outcome: Result<&str, CallError>, arguments: &'static [u8]) -> String {
        let outcome = outcome.map(|body| ReturnValue {
            body: Bytes::copy_from_slice(body.as_bytes()),
            content_type: None,
            headers: Vec::new(),
        });
        let seen = Seen {
            method: Some("math.fib".into()),
            arguments: Bytes::from_static(arguments),
            outcome,
            took: Duration::from_micros(420),
        };
        console::strip_ansi_codes(&line(&seen)).into_owned()
    }

    #[test]
    fn a_call_is_one_line() {
        assert_eq!(shown(Ok("832040\n"), b"[30]"), "math.fib  [30] → 832040  0.4 ms");
        let error = CallError::new(ErrorKind::InvalidParams, "n: too\nlarge");
        let said = "math.fib  [95] ✗ invalid-params: n: too\\nlarge  0.4 ms";
        assert_eq!(shown(Err(error), b"[95]"), said);
        assert!(shown(Ok("x"), b"\xff\x00").contains("(2 bytes that are no text)"));
        assert_eq!(shown(Ok("x"), b""), "math.fib  → x  0.4 ms");
        let long = shown(Ok(&"a".repeat(500)), b"");
        assert!(long.chars().count() < 150 && long.contains("a…"), "{long}");
    }
}
