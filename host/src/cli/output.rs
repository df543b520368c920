//! Writing to the terminal, in one place.

use std::io::Write as _;

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

/// Writes a sentence about a failure to standard error.
pub(super) fn error(text: impl std::fmt::Display) {
    let _nowhere_else_to_say_it = writeln!(std::io::stderr().lock(), "rpchost: {text}");
}

/// Writes a line to standard error as it is.
pub(super) fn error_line(text: &str) {
    let _nowhere_else_to_say_it = writeln!(std::io::stderr().lock(), "{text}");
}
