//! What the dialects of Python's libraries have in common: arguments by position
//! and by name at once, and errors that are exceptions.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::message::{Arguments, CallError, ErrorKind};

/// Longest name of an exception that a handler may choose, in bytes; a class
/// name in a client's log.
const MAX_NAME: usize = 100;

/// The module of exceptions that Python does not have.
const OURS: &str = "rpchost";

/// Python's own module.
const BUILTINS: &str = "builtins";

/// Python's own exceptions that a handler may name: those that are raised by
/// programs, not by the interpreter's end.
const BUILTIN: [&str; 26] = [
    "ArithmeticError",
    "AssertionError",
    "AttributeError",
    "BufferError",
    "ConnectionError",
    "EOFError",
    "Exception",
    "FileExistsError",
    "FileNotFoundError",
    "FloatingPointError",
    "ImportError",
    "IndexError",
    "InterruptedError",
    "KeyError",
    "LookupError",
    "MemoryError",
    "NotImplementedError",
    "OSError",
    "OverflowError",
    "PermissionError",
    "ReferenceError",
    "RuntimeError",
    "TimeoutError",
    "TypeError",
    "ValueError",
    "ZeroDivisionError",
];

/// Positional and named arguments; each may be absent or `null`.
pub(super) fn arguments(
    args: Option<&RawValue>,
    kwargs: Option<&RawValue>,
) -> Result<Arguments, String> {
    let part = |value: Option<&RawValue>, name: &str, open: u8, empty: &'static str| {
        let Some(value) = value.filter(|value| value.get() != "null") else {
            return Ok(Bytes::from_static(empty.as_bytes()));
        };
        if value.get().as_bytes().first() != Some(&open) {
            let form = if open == b'[' { "an array" } else { "an object" };
            return Err(format!("`{name}` must be {form}"));
        }
        Ok(Bytes::copy_from_slice(value.get().as_bytes()))
    };
    Ok(Arguments::Call {
        args: part(args, "args", b'[', "[]")?,
        kwargs: part(kwargs, "kwargs", b'{', "{}")?,
    })
}

/// An error as an exception.
#[derive(Debug)]
pub(super) struct Exception<'a> {
    pub(super) module: &'static str,
    pub(super) name: Cow<'a, str>,
    pub(super) message: &'a str,
    /// What it was raised with: the handler's own list, or the message alone.
    pub(super) args: Value,
    stack: Vec<String>,
}

/// What is read of an error's data.
#[derive(Debug, Default, Deserialize)]
struct Data {
    #[serde(rename = "type")]
    name: Option<Value>,
    args: Option<Value>,
    stack: Option<Value>,
}

impl<'a> Exception<'a> {
    pub(super) fn of(error: &'a CallError) -> Self {
        let text = error.data.as_deref().unwrap_or("null");
        let data: Data = serde_json::from_str(text).unwrap_or_default();
        let is_ours = !matches!(error.kind, ErrorKind::Application { .. });
        let (name, args) = match data.name {
            _ if is_ours => (None, None),
            Some(Value::String(name)) if is_name(&name) => {
                (Some(name), data.args.filter(Value::is_array))
            }
            _ => case(text, &error.message).map_or((None, None), |(name, value)| {
                (Some(name), value.map(|value| json!([value])))
            }),
        };
        let (module, name) = match name {
            Some(name) if BUILTIN.contains(&name.as_str()) => (BUILTINS, Cow::Owned(name)),
            Some(name) => (OURS, Cow::Owned(name)),
            None => {
                let (module, name) = known_as(error.kind);
                (module, Cow::Borrowed(name))
            }
        };
        let args = args.unwrap_or_else(|| json!([error.message]));
        let stack = match data.stack {
            Some(Value::Array(frames)) if is_ours => {
                frames.into_iter().filter_map(|frame| frame.as_str().map(str::to_owned)).collect()
            }
            _ => Vec::new(),
        };
        Self { module, name, message: &error.message, args, stack }
    }

    /// `Type: message`, as Python's own tracebacks end.
    pub(super) fn line(&self) -> String {
        format!("{}: {}", self.name, self.message)
    }

    /// The guest's stack as Python would write it: the innermost function last.
    pub(super) fn traceback(&self) -> String {
        let mut text = String::new();
        if !self.stack.is_empty() {
            text.push_str("Traceback (most recent call last):\n");
            for frame in self.stack.iter().rev() {
                text.push_str("  in ");
                text.push_str(frame);
                text.push('\n');
            }
        }
        text.push_str(&self.line());
        text
    }
}

/// What Python's users know an error of the host as.
fn known_as(kind: ErrorKind) -> (&'static str, &'static str) {
    match kind {
        ErrorKind::ParseError | ErrorKind::BadRequest => (BUILTINS, "ValueError"),
        ErrorKind::MethodNotFound { .. } => (BUILTINS, "LookupError"),
        ErrorKind::InvalidParams => (BUILTINS, "TypeError"),
        ErrorKind::Timeout | ErrorKind::DeadlineExceeded => (BUILTINS, "TimeoutError"),
        ErrorKind::ResourceExhausted => (BUILTINS, "MemoryError"),
        ErrorKind::Internal => (OURS, "InternalError"),
        ErrorKind::Application { .. } => (OURS, "ApplicationError"),
        ErrorKind::Trap => (OURS, "Trap"),
        ErrorKind::Overloaded => (OURS, "Overloaded"),
        ErrorKind::CircuitOpen => (OURS, "CircuitOpen"),
        ErrorKind::MaybeExecuted => (OURS, "MaybeExecuted"),
        ErrorKind::Quarantined => (OURS, "Quarantined"),
        ErrorKind::InstantiateFailed => (OURS, "InstantiateFailed"),
    }
}

/// `not-found` of a variant or an enum as `NotFound`, with the variant's value: the message of a
/// typed method's error begins with the case's name, and its data are the whole.
fn case(data: &str, message: &str) -> Option<(String, Option<Value>)> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let case = message.split_once(": ").map_or(message, |(case, _)| case);
    if !case.bytes().all(plain) {
        return None;
    }
    let value = match serde_json::from_str(data).ok()? {
        Value::String(name) if name == case => None,
        Value::Object(mut members) if members.len() == 1 => Some(members.remove(case)?),
        _ => return None,
    };
    let name: String = case
        .split('-')
        .map(|word| {
            let (first, rest) = word.split_at(word.len().min(1));
            format!("{}{rest}", first.to_ascii_uppercase())
        })
        .collect();
    is_name(&name).then_some((name, value))
}

/// Whether this is the name of a class: it is shown, and some clients make a class
/// of it.
fn is_name(name: &str) -> bool {
    name.len() <= MAX_NAME
        && name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn application(message: &str, data: &str) -> CallError {
        let kind = ErrorKind::Application { code: 1, retryable: false };
        CallError::new(kind, message).with_data(data.to_owned())
    }

    #[test]
    fn a_handler_names_its_exception() {
        let named = |message: &str, data: &str| {
            let error = application(message, data);
            let exception = Exception::of(&error);
            (format!("{}.{}", exception.module, exception.name), exception.args.to_string())
        };
        let message = |text: &str| json!([text]).to_string();
        for (text, data, name, args) in [
            ("bad", r#"{"type":"ValueError"}"#, "builtins.ValueError", message("bad")),
            (
                "bad",
                r#"{"type":"DivError","args":["a",9]}"#,
                "rpchost.DivError",
                r#"["a",9]"#.into(),
            ),
            ("not-found", r#""not-found""#, "rpchost.NotFound", message("not-found")),
            ("too-big", r#"{"too-big":{"by":3}}"#, "rpchost.TooBig", r#"[{"by":3}]"#.into()),
            ("too-big: 3", r#"{"too-big":"3"}"#, "rpchost.TooBig", message("3")),
            // A text that looks like a case with a value, and is none.
            (
                "timeout: no answer",
                r#""timeout: no answer""#,
                "rpchost.ApplicationError",
                message("timeout: no answer"),
            ),
            // No name of a class.
            ("bad", r#"{"type":"os.system"}"#, "rpchost.ApplicationError", message("bad")),
            ("bad", r#"{"type":""}"#, "rpchost.ApplicationError", message("bad")),
            ("No way", r#""No way""#, "rpchost.ApplicationError", message("No way")),
            ("bad", "not JSON", "rpchost.ApplicationError", message("bad")),
            ("bad", r#"{"stack":["a"],"args":7}"#, "rpchost.ApplicationError", message("bad")),
        ] {
            assert_eq!(named(text, data), (name.to_owned(), args), "{text} {data}");
        }
        // The interpreter's own end is nobody's error.
        assert_eq!(named("bye", r#"{"type":"SystemExit"}"#).0, "rpchost.SystemExit");
    }

    #[test]
    fn the_guests_stack_becomes_a_traceback() {
        let error = CallError::new(ErrorKind::Trap, "it trapped")
            .with_data(r#"{"trap":"unreachable","stack":["inner","outer"]}"#.to_owned());
        assert_eq!(
            Exception::of(&error).traceback(),
            "Traceback (most recent call last):\n  in outer\n  in inner\nTrap: it trapped"
        );
        let error = CallError::new(ErrorKind::Timeout, "late");
        assert_eq!(Exception::of(&error).traceback(), "TimeoutError: late");
    }
}
