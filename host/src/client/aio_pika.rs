//! `aio-pika`: `aio_pika.patterns.JsonRPC`.
//!
//! The method is the queue's name, also behind an exchange of its own, where it is
//! `<exchange>::<method>`: both ways lead to the same queue. Its sibling `RPC` speaks
//! in pickles, which are code; they are neither written nor read.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::errors::{Raised, as_text, some, stray};
use super::{Answer, Encoded, Params};
use crate::message::{PICKLE, Properties};

#[derive(Deserialize)]
struct Failed<'a> {
    #[serde(borrow)]
    error: Error<'a>,
}

#[derive(Deserialize)]
struct Error<'a> {
    #[serde(rename = "type", default)]
    name: Option<String>,
    #[serde(borrow, default)]
    message: Option<&'a RawValue>,
    #[serde(borrow, default)]
    args: Option<&'a RawValue>,
}

pub(super) fn encode(params: Params) -> Result<Encoded, String> {
    let body = params.value()?.unwrap_or_else(|| "{}".to_owned());
    if !body.starts_with('{') {
        let text = "aio-pika's methods take named arguments only: write `name=value`";
        return Err(text.to_owned());
    }
    Ok(Encoded { kind: Some("call".to_owned()), ..Encoded::json(body) })
}

pub(super) fn decode(properties: &Properties, body: &Bytes) -> Answer {
    if properties.content_type.as_deref() == Some(PICKLE) {
        let text = "the service speaks in pickles, which are not read here; use \
                    `aio_pika.patterns.JsonRPC` there";
        return Raised::saying(text).answer(properties);
    }
    match properties.kind.as_deref() {
        Some("result") => Answer::Result(body.clone()),
        Some("error") => match serde_json::from_slice::<Failed<'_>>(body) {
            Ok(Failed { error }) => {
                let message = error.message.map(as_text).unwrap_or_default();
                let (name, args) = (error.name.as_deref(), some(error.args));
                Raised { name, args, ..Raised::saying(&message) }.answer(properties)
            }
            // What cannot be written as JSON is answered as its text.
            Err(_) => Raised::saying(&String::from_utf8_lossy(body)).answer(properties),
        },
        _ => stray("aio-pika's", body),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::error_in;
    use super::*;

    fn decoded(kind: &str, body: &'static str) -> Answer {
        let properties = Properties { kind: Some(kind.to_owned()), ..Properties::default() };
        decode(&properties, &Bytes::from_static(body.as_bytes()))
    }

    #[test]
    fn a_request_is_as_the_library_writes_it() {
        let request = encode(Params::Json(r#"{"n":30}"#.into())).unwrap();
        assert_eq!(request.kind.as_deref(), Some("call"));
        assert_eq!(request.body, br#"{"n":30}"#);
        assert_eq!(encode(Params::Body(Vec::new())).unwrap().body, b"{}");
        assert!(encode(Params::Argument("30".into())).unwrap_err().contains("name=value"));
    }

    #[test]
    fn results_and_errors_are_told_by_the_type() {
        assert_eq!(decoded("result", "832040"), Answer::Result(Bytes::from_static(b"832040")));
        assert_eq!(
            decoded(
                "error",
                r#"{"error": {"type": "ValueError", "message": "ValueError('bad thing')", "args": ["bad thing"]}}"#
            ),
            Answer::Error(
                r#"{"error":{"kind":"application","message":"ValueError('bad thing')","data":{"type":"ValueError","args":["bad thing"]}}}"#
                    .to_owned()
            )
        );
        assert!(matches!(decoded("call", "{}"), Answer::Error(_)));
        let content_type = Some(PICKLE.to_owned());
        let properties = Properties { content_type, ..Properties::default() };
        let pickled = error_in(decode(&properties, &Bytes::new()));
        assert!(pickled.contains("JsonRPC"), "{pickled}");
    }
}
