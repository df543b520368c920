//! Calling a method: from what a person typed to a request, and from a reply
//! to a result or an error.
//!
//! Knows dialects from the caller's side; how messages travel is
//! [`crate::amqp::Caller`]'s business.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::json;
use serde_json::value::RawValue;

use crate::message::Properties;

/// What a method is called with.
#[derive(Debug, Clone, PartialEq)]
pub enum Params {
    /// The body itself.
    Body(Vec<u8>),
    /// The only argument that a person typed: the body as it is, except for a
    /// method that takes JSON; see [`Params::for_json`].
    Argument(String),
    /// A JSON text that stands for all arguments.
    Json(String),
}

impl Params {
    /// The same for a method that is known to take JSON.
    #[must_use]
    pub fn for_json(self) -> Self {
        match self {
            Self::Argument(text) => Self::Json(json_of(&text)),
            other => other,
        }
    }
}

/// Dialects that requests can be written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallDialect {
    /// Method in the property `type`.
    Plain,
    /// JSON-RPC 2.0.
    JsonRpc,
}

/// A request as it is published.
#[derive(Debug, Clone, PartialEq)]
pub struct Encoded {
    /// The property `type`.
    pub kind: Option<String>,
    /// MIME type of the body.
    pub content_type: Option<&'static str>,
    /// The body.
    pub body: Vec<u8>,
}

/// What came back.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// The result, as it is to be shown.
    Result(Bytes),
    /// The JSON text `{"error": {…}}`.
    Error(String),
}

/// The arguments that a person typed: JSON where it parses as JSON, else a
/// string; `name=value` is a named one. A single one is the body as it is, so
/// that handlers get just what was typed.
///
/// # Errors
///
/// When positional and named arguments are mixed.
pub fn params_of(args: &[String]) -> Result<Params, String> {
    let pairs: Vec<_> = args.iter().filter_map(|arg| named(arg)).collect();
    match (args, pairs.len()) {
        ([], _) => Ok(Params::Body(Vec::new())),
        ([only], 0) => Ok(Params::Argument(only.clone())),
        (_, 0) => {
            let items: Vec<_> = args.iter().map(|arg| json_of(arg)).collect();
            Ok(Params::Json(format!("[{}]", items.join(","))))
        }
        (_, count) if count == args.len() => Ok(Params::Json(format!("{{{}}}", pairs.join(",")))),
        _ => Err("positional and named arguments cannot be mixed".to_owned()),
    }
}

/// `name=value` as a member of a JSON object.
fn named(arg: &str) -> Option<String> {
    let (name, text) = arg.split_once('=')?;
    let is_name = name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    is_name.then(|| format!("{}:{}", json!(name), json_of(text)))
}

/// A text as JSON: itself, with every digit, if it is JSON; else a string.
fn json_of(text: &str) -> String {
    match serde_json::from_str::<&RawValue>(text) {
        Ok(value) => value.get().to_owned(),
        Err(_) => json!(text).to_string(),
    }
}

/// Writes a request.
pub fn encode(dialect: CallDialect, method: &str, params: Params) -> Encoded {
    match dialect {
        CallDialect::Plain => {
            let (body, content_type) = match params {
                Params::Body(body) => (body, None),
                Params::Argument(text) => (text.into_bytes(), None),
                Params::Json(text) => (text.into_bytes(), Some(JSON)),
            };
            Encoded { kind: Some(method.to_owned()), content_type, body }
        }
        CallDialect::JsonRpc => {
            let params = match params {
                Params::Json(text) => Some(text),
                Params::Argument(text) => Some(json_of(&text)),
                Params::Body(body) if body.is_empty() => None,
                Params::Body(body) => Some(json_of(&String::from_utf8_lossy(&body))),
            };
            // The protocol wants an array or an object.
            let params = params.map_or_else(String::new, |text| {
                if text.starts_with(['[', '{']) {
                    format!(r#","params":{text}"#)
                } else {
                    format!(r#","params":[{text}]"#)
                }
            });
            let body = format!(r#"{{"jsonrpc":"2.0","method":{}{params},"id":1}}"#, json!(method));
            Encoded { kind: None, content_type: Some(JSON), body: body.into_bytes() }
        }
    }
}

/// Writes a request; a service of one method may need none to be named.
///
/// # Errors
///
/// When the dialect needs a method and there is none.
pub fn encode_for(
    dialect: CallDialect,
    method: Option<&str>,
    params: Params,
) -> Result<Encoded, String> {
    match (method, dialect) {
        (Some(method), dialect) => Ok(encode(dialect, method, params)),
        (None, CallDialect::Plain) => {
            Ok(Encoded { kind: None, ..encode(CallDialect::Plain, "", params) })
        }
        (None, CallDialect::JsonRpc) => Err("JSON-RPC needs a METHOD".to_owned()),
    }
}

/// Reads a reply.
pub fn decode(dialect: CallDialect, properties: &Properties, body: Bytes) -> Answer {
    match dialect {
        CallDialect::Plain if properties.kind.as_deref() == Some("error") => {
            let text = String::from_utf8_lossy(&body);
            if serde_json::from_str::<&RawValue>(&text).is_ok() {
                Answer::Error(text.into_owned())
            } else {
                Answer::Error(json!({ "error": { "message": text } }).to_string())
            }
        }
        CallDialect::Plain => Answer::Result(body),
        CallDialect::JsonRpc => {
            let reply: BTreeMap<String, &RawValue> =
                serde_json::from_slice(&body).unwrap_or_default();
            match (reply.get("error"), reply.get("result")) {
                (Some(error), _) => Answer::Error(format!(r#"{{"error":{error}}}"#)),
                (None, Some(result)) => Answer::Result(Bytes::from(result.get().to_owned())),
                (None, None) => {
                    let text = String::from_utf8_lossy(&body);
                    let message = format!("the reply is not JSON-RPC: {text}");
                    Answer::Error(json!({ "error": { "message": message } }).to_string())
                }
            }
        }
    }
}

const JSON: &str = "application/json";

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(args: &[&str]) -> Result<Params, String> {
        params_of(&args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn one_argument_is_the_body_and_several_are_json() {
        assert_eq!(typed(&["30"]), Ok(Params::Argument("30".into())));
        assert_eq!(typed(&["hi there"]), Ok(Params::Argument("hi there".into())));
        assert_eq!(typed(&["1", "two", "[3]"]), Ok(Params::Json(r#"[1,"two",[3]]"#.into())));
        assert_eq!(typed(&["n=1", "s=a=b"]), Ok(Params::Json(r#"{"n":1,"s":"a=b"}"#.into())));
        assert!(typed(&["1", "n=2"]).is_err());
        for (arg, body, json) in [("30", "30", "30"), ("hi", "hi", "\"hi\""), ("", "", "\"\"")] {
            let params = typed(&[arg]).unwrap();
            let plain = |params| encode(CallDialect::Plain, "m", params).body;
            assert_eq!(plain(params.clone()), body.as_bytes());
            assert_eq!(plain(params.for_json()), json.as_bytes());
        }
        assert_eq!(Params::Body(b"hi".to_vec()).for_json(), Params::Body(b"hi".to_vec()));
    }
}
