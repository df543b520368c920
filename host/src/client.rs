//! Calling a method: from what a person typed to a request, and from a reply
//! to a result or an error.
//!
//! Knows dialects from the caller's side; how messages travel is
//! [`crate::amqp::Caller`]'s business.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::message::Properties;

/// What a method is called with.
#[derive(Debug, Clone, PartialEq)]
pub enum Params {
    /// The body itself.
    Body(Vec<u8>),
    /// A JSON value that stands for all arguments.
    Json(Value),
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
    /// `{"error": {…}}`.
    Error(Value),
}

/// The arguments that a person typed: JSON where it parses as JSON, else a
/// string; `name=value` is a named one. A single one is the body as it is, so
/// that handlers get just what was typed.
///
/// # Errors
///
/// When positional and named arguments are mixed.
pub fn params_of(args: &[String]) -> Result<Params, String> {
    let value = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| json!(text));
    let named = |arg: &str| -> Option<(String, Value)> {
        let (name, text) = arg.split_once('=')?;
        let is_name = name.starts_with(|first: char| first.is_ascii_alphabetic())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        is_name.then(|| (name.to_owned(), value(text)))
    };
    let pairs: Vec<_> = args.iter().filter_map(|arg| named(arg)).collect();
    match (args, pairs.len()) {
        ([], _) => Ok(Params::Body(Vec::new())),
        ([only], 0) => Ok(Params::Body(only.clone().into_bytes())),
        (_, 0) => Ok(Params::Json(args.iter().map(|arg| value(arg)).collect())),
        (_, count) if count == args.len() => {
            Ok(Params::Json(Value::Object(pairs.into_iter().collect())))
        }
        _ => Err("positional and named arguments cannot be mixed".to_owned()),
    }
}

/// Writes a request.
pub fn encode(dialect: CallDialect, method: &str, params: Params) -> Encoded {
    match dialect {
        CallDialect::Plain => {
            let (body, content_type) = match params {
                Params::Body(body) => (body, None),
                Params::Json(value) => (value.to_string().into_bytes(), Some("application/json")),
            };
            Encoded { kind: Some(method.to_owned()), content_type, body }
        }
        CallDialect::JsonRpc => {
            let params = match params {
                Params::Json(value @ (Value::Array(_) | Value::Object(_))) => Some(value),
                Params::Json(value) => Some(json!([value])),
                Params::Body(body) if body.is_empty() => None,
                Params::Body(body) => Some(match serde_json::from_slice(&body) {
                    Ok(value @ (Value::Array(_) | Value::Object(_))) => value,
                    Ok(value) => json!([value]),
                    Err(_) => json!([String::from_utf8_lossy(&body)]),
                }),
            };
            let mut request = json!({ "jsonrpc": "2.0", "method": method, "id": 1 });
            if let (Some(params), Some(request)) = (params, request.as_object_mut()) {
                request.insert("params".to_owned(), params);
            }
            let body = request.to_string().into_bytes();
            Encoded { kind: None, content_type: Some("application/json"), body }
        }
    }
}

/// Reads a reply.
pub fn decode(dialect: CallDialect, properties: &Properties, body: Bytes) -> Answer {
    match dialect {
        CallDialect::Plain if properties.kind.as_deref() == Some("error") => {
            Answer::Error(serde_json::from_slice(&body).unwrap_or_else(
                |_| json!({ "error": { "message": String::from_utf8_lossy(&body) } }),
            ))
        }
        CallDialect::Plain => Answer::Result(body),
        CallDialect::JsonRpc => match serde_json::from_slice::<Value>(&body) {
            Ok(mut reply) => match (reply.get("error").cloned(), reply.get_mut("result")) {
                (Some(error), _) => Answer::Error(json!({ "error": error })),
                (None, Some(result)) => Answer::Result(Bytes::from(result.take().to_string())),
                (None, None) => no_json_rpc(&body),
            },
            Err(_) => no_json_rpc(&body),
        },
    }
}

fn no_json_rpc(body: &[u8]) -> Answer {
    let text = String::from_utf8_lossy(body);
    Answer::Error(json!({ "error": { "message": format!("the reply is not JSON-RPC: {text}") } }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(args: &[&str]) -> Result<Params, String> {
        params_of(&args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn one_argument_is_the_body_and_several_are_json() {
        assert_eq!(typed(&["30"]), Ok(Params::Body(b"30".to_vec())));
        assert_eq!(typed(&["hi there"]), Ok(Params::Body(b"hi there".to_vec())));
        assert_eq!(typed(&["1", "two", "[3]"]), Ok(Params::Json(json!([1, "two", [3]]))));
        assert_eq!(typed(&["n=1", "s=a=b"]), Ok(Params::Json(json!({"n": 1, "s": "a=b"}))));
        assert!(typed(&["1", "n=2"]).is_err());
    }
}
