//! Why a call ended without an answer: from wasmtime's errors to ours.
//!
//! The only place that knows wasmtime's error types. What reaches a caller is
//! the trap's name, the guest's functions and its own last words, never a file
//! of the guest's or of the host's. `reports` writes the rest to the log, under
//! the id that the caller gets.

use std::path::Path;
use std::sync::Arc;

use serde_json::json;
use sha2::{Digest as _, Sha256};
use wasmtime::{PoolConcurrencyLimitError, Trap};
use wasmtime_wasi::I32Exit;

use super::reports::{Report, Reports};
use super::stack::Stack;
use super::store::CallState;
use crate::capabilities::printable;
use crate::message::{CallError, ErrorKind, PluginId};

/// Lines of a guest's standard error in a reply, the last ones.
const MAX_STDERR_LINES: usize = 10;

/// Bytes of them. With the stack's it is less than an error may have.
const MAX_STDERR: usize = 1024;

/// Bytes of the line that says why, in the message itself.
const MAX_WORDS: usize = 256;

/// A guest that exits, by the name that traps have.
const EXIT: &str = "exit";

/// How far a call had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Starting,
    Running,
}

/// A call that ended without an answer.
pub(super) struct Ended<'a> {
    pub(super) plugin: &'a PluginId,
    /// Where the plugin's file was found.
    pub(super) file: Option<&'a Arc<Path>>,
    pub(super) method: &'a str,
    pub(super) stage: Stage,
    pub(super) state: &'a CallState,
}

/// What a call ended with, in words.
struct Verdict {
    kind: ErrorKind,
    trap: &'static str,
    text: String,
}

impl Verdict {
    /// Whether the runtime of the guest's language has ended the call, which says why before.
    /// Of what the host or the processor has ended, the guest's last words know nothing.
    fn is_of_its_runtime(&self) -> bool {
        let by_itself = matches!(self.kind, ErrorKind::Trap | ErrorKind::InstantiateFailed);
        by_itself && [trap_name(Trap::UnreachableCodeReached), EXIT].contains(&self.trap)
    }
}

/// The error of a call that ended; without wasmtime's it was dropped because
/// its time was up. Reports it, unless it is no fault of the plugin.
pub(super) fn explain(
    ended: &Ended<'_>,
    error: Option<&wasmtime::Error>,
    reports: &Reports,
) -> CallError {
    let verdict = match classify(ended, error) {
        Ok(verdict) => verdict,
        Err(error) => return error,
    };
    let stack = error.map(Stack::of).unwrap_or_default();
    let stderr = ended.state.guest.stderr_tail();
    let id = id(ended.plugin, &verdict, &stack);
    let mut data = json!({ "trap": verdict.trap, "id": id, "stack": stack.shortened() });
    let last_lines = last_lines(&stderr);
    if !last_lines.is_empty()
        && let Some(data) = data.as_object_mut()
    {
        data.insert("stderr".to_owned(), last_lines.into());
    }
    let text = match last_words(&stderr) {
        Some(words) if verdict.is_of_its_runtime() => {
            format!("{}; it said: {}", verdict.text, printable(words, MAX_WORDS))
        }
        _ => verdict.text,
    };
    let call_error = CallError::new(verdict.kind, text).with_data(data.to_string());
    reports.offer(&ended.plugin.name, &id, || Report {
        id: id.clone(),
        plugin: ended.plugin.clone(),
        file: ended.file.cloned(),
        method: ended.method.to_owned(),
        correlation_id: ended.state.guest.property("correlation-id").map(str::to_owned),
        kind: verdict.kind,
        text: call_error.message.clone(),
        stack,
        stderr,
    });
    call_error
}

/// What it was; `Err` where there is nothing to report about the plugin.
fn classify(ended: &Ended<'_>, error: Option<&wasmtime::Error>) -> Result<Verdict, CallError> {
    let plugin = &ended.plugin.name;
    let Some(error) = error else { return Ok(timeout(ended)) };
    if error.is::<PoolConcurrencyLimitError>() {
        return Err(CallError::new(
            ErrorKind::Overloaded,
            format!("no room for another instance of the plugin `{plugin}`"),
        ));
    }
    let trap = error.downcast_ref::<Trap>().copied();
    if trap == Some(Trap::Interrupt) {
        return Ok(timeout(ended));
    }
    if let Some(denied) = &ended.state.limiter.denied {
        return Ok(Verdict {
            kind: ErrorKind::ResourceExhausted,
            trap: trap.map_or("guest-error", trap_name),
            text: format!("the plugin `{plugin}` ended after {denied}"),
        });
    }
    let (trap, text) = if let Some(trap) = trap {
        (trap_name(trap), trap_text(trap))
    } else if let Some(I32Exit(status)) = error.downcast_ref::<I32Exit>() {
        (EXIT, format!("it exited with status {status} instead of returning"))
    } else if is_hostcall_exhausted(error) {
        return Err(CallError::new(
            ErrorKind::ResourceExhausted,
            format!("the result of the plugin `{plugin}` is larger than the host's limit"),
        ));
    } else {
        // Lowering or lifting: lengths that lie, bad UTF-8, bad discriminants.
        ("guest-error", error.root_cause().to_string())
    };
    let (kind, did) = match ended.stage {
        Stage::Starting => (ErrorKind::InstantiateFailed, "trapped while starting"),
        Stage::Running => (ErrorKind::Trap, "trapped"),
    };
    Ok(Verdict { kind, trap, text: format!("the plugin `{plugin}` {did}: {text}") })
}

/// A call that ran past its limit.
fn timeout(ended: &Ended<'_>) -> Verdict {
    let doing = match ended.stage {
        Stage::Starting => "while starting",
        Stage::Running => "while running",
    };
    let plugin = &ended.plugin.name;
    let text = format!("the plugin `{plugin}` was interrupted {doing}: its time is up");
    Verdict { kind: ErrorKind::Timeout, trap: "interrupt", text }
}

/// Eight hexadecimal digits that are the same wherever this version ends like
/// this at this place. So the log has the report of every id that a caller
/// can name, also of those whose own report was left out as one of a thousand.
fn id(plugin: &PluginId, verdict: &Verdict, stack: &Stack) -> String {
    let mut digest = Sha256::new();
    for part in [&plugin.digest, verdict.kind.name(), verdict.trap] {
        digest.update(part);
        digest.update([0]);
    }
    // Where a loop was interrupted is chance; in which function, less so.
    let exact = verdict.kind != ErrorKind::Timeout;
    stack.places(exact, |number| digest.update(number.to_le_bytes()));
    if stack.is_empty() {
        digest.update(&verdict.text);
    }
    digest.finalize().iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// The end of a guest's standard error, as a caller may show it.
fn last_lines(stderr: &str) -> Vec<String> {
    let mut room = MAX_STDERR;
    let mut lines = Vec::new();
    let written = stderr.lines().filter(|line| !line.is_empty());
    for line in written.rev().take(MAX_STDERR_LINES) {
        let line = printable(line, MAX_STDERR);
        match room.checked_sub(line.len()) {
            Some(left) => room = left,
            None => break,
        }
        lines.push(line);
    }
    lines.reverse();
    lines
}

/// The line of a guest's standard error that says why it ended: what Python, Go and Rust write of
/// an exception or a panic, else the last one.
fn last_words(stderr: &str) -> Option<&str> {
    let lines: Vec<&str> = stderr
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with("note: run with `RUST_BACK"))
        .collect();
    let behind = |is_head: fn(&str) -> bool| {
        let head = lines.iter().rposition(|line| is_head(line))?;
        lines.iter().skip(head + 1).find(|line| !line.starts_with(char::is_whitespace))
    };
    let of_go = |line: &&&str| line.starts_with("panic: ") || line.starts_with("fatal error: ");
    // Python's exceptions end in a panic of what runs it, which says less.
    behind(|line| line.starts_with("Traceback (most recent call last)"))
        .or_else(|| lines.iter().find(of_go))
        .or_else(|| behind(|line| line.starts_with("thread '") && line.contains("panicked at ")))
        .or_else(|| lines.last())
        .map(|line| line.trim())
}

/// wasmtime keeps this error's type to itself; its text is all there is.
fn is_hostcall_exhausted(error: &wasmtime::Error) -> bool {
    error.chain().any(|cause| cause.to_string().contains("hostcalls has been exhausted"))
}

/// wasmtime's own words, but where they do not help who has written the guest.
fn trap_text(trap: Trap) -> String {
    match trap {
        Trap::CannotBlockSyncTask => "it waits for something asynchronous in a function that is \
            not `async`, and only such functions are served: have it wait as WASI 0.2 does \
            (`wasi:io/poll`), or not at all"
            .to_owned(),
        trap => trap.to_string(),
    }
}

fn trap_name(trap: Trap) -> &'static str {
    match trap {
        Trap::StackOverflow => "stack-overflow",
        Trap::MemoryOutOfBounds => "memory-out-of-bounds",
        Trap::HeapMisaligned => "heap-misaligned",
        Trap::TableOutOfBounds => "table-out-of-bounds",
        Trap::IndirectCallToNull => "indirect-call-to-null",
        Trap::BadSignature => "bad-signature",
        Trap::IntegerOverflow => "integer-overflow",
        Trap::IntegerDivisionByZero => "integer-division-by-zero",
        Trap::BadConversionToInteger => "bad-conversion-to-integer",
        Trap::UnreachableCodeReached => "unreachable",
        Trap::Interrupt => "interrupt",
        Trap::CannotEnterComponent => "cannot-enter-component",
        Trap::CannotBlockSyncTask => "cannot-block-sync-task",
        _ => "trap",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_that_says_why_is_found_in_what_languages_write() {
        let python = "Traceback (most recent call last):\n  File \"/0/app.py\", line 9, in plain\n\
            ValueError: n is 5\nthread '<unnamed>' (1) panicked at runtime/src/lib.rs:1280:25:\n\
            Python function threw an unexpected exception\nnote: run with `RUST_BACKTRACE=1`\n";
        let go =
            "about to\npanic: n is 5\n\ngoroutine 1 [running]:\nmain.f(0x5)\n\tmain.go:9 +0xb\n";
        let rust = "thread '<unnamed>' (1) panicked at src/lib.rs:34:24:\nn is 5\n\
            note: run with `RUST_BACKTRACE=1`\n";
        for (stderr, words) in [
            (python, Some("ValueError: n is 5")),
            (go, Some("panic: n is 5")),
            (rust, Some("n is 5")),
            (
                "thread '<unnamed>' (1) panicked at a.rs:1:1:\n\nnote: run with `RUST_BACKTRACE=1`\n",
                Some("thread '<unnamed>' (1) panicked at a.rs:1:1:"),
            ),
            ("first\nn is 5\n\n", Some("n is 5")),
            ("Traceback (most recent call last):\n", Some("Traceback (most recent call last):")),
            ("\n \n", None),
        ] {
            assert_eq!(last_words(stderr), words, "{stderr}");
        }
    }

    #[test]
    fn last_words_are_the_reason_where_a_runtime_has_ended_the_call() {
        for (kind, trap, is_so) in [
            (ErrorKind::Trap, "unreachable", true),
            (ErrorKind::Trap, "exit", true),
            (ErrorKind::InstantiateFailed, "unreachable", true),
            (ErrorKind::Trap, "memory-out-of-bounds", false),
            (ErrorKind::ResourceExhausted, "unreachable", false),
            (ErrorKind::Timeout, "interrupt", false),
        ] {
            let verdict = Verdict { kind, trap, text: String::new() };
            assert_eq!(verdict.is_of_its_runtime(), is_so, "{kind:?} {trap}");
        }
    }

    #[test]
    fn the_last_lines_are_few_short_and_harmless() {
        assert_eq!(last_lines("\n\none\r\n\x1b[2Jtwo\n\n"), ["one", "\\u{1b}[2Jtwo"]);
        let many: String = (0..100).map(|number| format!("line {number}\n")).collect();
        let lines = last_lines(&many);
        assert_eq!((lines.len(), lines.last().unwrap().as_str()), (10, "line 99"));
        let long = "x".repeat(4096);
        let lines = last_lines(&long);
        assert_eq!(lines.iter().map(String::len).sum::<usize>(), MAX_STDERR);
    }
}
