//! Errors of other libraries, in the form that a person gets from all of them:
//! `{"error": {"kind", "message", "data"}}`.
//!
//! `data` is what a handler would name its exception by: `type`, `args`, and the
//! traceback where the library sends one. What a library does not tell is left out.

use bytes::Bytes;
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::Answer;
use crate::message::{Properties, STATUS};

/// The kind of an error that the service itself has raised.
pub(super) const APPLICATION: &str = "application";

/// An error as a library tells it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Raised<'a> {
    /// The contract's word for it.
    pub(super) kind: &'a str,
    pub(super) message: &'a str,
    /// The exception's name.
    pub(super) name: Option<&'a str>,
    /// What it was raised with: a JSON text.
    pub(super) args: Option<&'a RawValue>,
    pub(super) traceback: Option<&'a str>,
}

#[derive(Serialize)]
struct Shown<'a> {
    error: Error<'a>,
}

#[derive(Serialize)]
struct Error<'a> {
    kind: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Data<'a>>,
}

#[derive(Serialize)]
struct Data<'a> {
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    args: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceback: Option<&'a str>,
}

impl<'a> Raised<'a> {
    /// One of which nothing is known but what it says.
    pub(super) fn saying(message: &'a str) -> Self {
        Self { kind: APPLICATION, message, name: None, args: None, traceback: None }
    }

    /// For a person. Where rpchost has answered, it says itself of what kind it is.
    pub(super) fn answer(self, properties: &Properties) -> Answer {
        let Self { kind, message, name, args, traceback } = self;
        let kind = status(properties).unwrap_or(kind);
        let traceback = traceback.filter(|text| !text.is_empty());
        let told = name.is_some() || args.is_some() || traceback.is_some();
        let data = told.then_some(Data { name, args, traceback });
        let shown = Shown { error: Error { kind, message, data } };
        // Text and JSON texts can always be written.
        Answer::Error(serde_json::to_string(&shown).unwrap_or_default())
    }
}

/// The kind of an error that rpchost has answered with; it says so whatever the dialect.
pub(super) fn status(properties: &Properties) -> Option<&str> {
    properties.text_header(STATUS).filter(|status| *status != "ok")
}

/// What is no answer of this dialect.
pub(super) fn stray(dialect: &str, body: &Bytes) -> Answer {
    let text = String::from_utf8_lossy(body);
    let message = format!("the reply is not {dialect}: {text}");
    Answer::Error(json!({ "error": { "message": message } }).to_string())
}

/// The text of a JSON string; any other value as it is written.
pub(super) fn as_text(value: &RawValue) -> String {
    serde_json::from_str(value.get()).unwrap_or_else(|_| value.get().to_owned())
}

/// Whether there is a value, and it is not `null`.
pub(super) fn some(value: Option<&RawValue>) -> Option<&RawValue> {
    value.filter(|value| value.get() != "null")
}
