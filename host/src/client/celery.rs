//! `celery`: a task of protocol 2, with its result by `rpc://` (celery 5).
//!
//! The method is the header `task`. A worker may tell more than once how a task
//! stands; only its last word is the answer.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::errors::{APPLICATION, Raised, as_text, some, stray};
use super::{Answer, Encoded, Params};
use crate::message::{HeaderValue, Properties};

/// How a task may have ended; all other states are on the way there.
const ENDED: [&str; 3] = ["SUCCESS", "FAILURE", "REVOKED"];

/// Longest text that shows a worker's log what a task is called with, in bytes.
const SHOWN: usize = 1024;

#[derive(Deserialize)]
struct Reply<'a> {
    status: String,
    #[serde(borrow, default)]
    result: Option<&'a RawValue>,
    #[serde(default)]
    traceback: Option<String>,
}

#[derive(Deserialize)]
struct Error<'a> {
    exc_type: String,
    #[serde(default)]
    exc_module: Option<String>,
    #[serde(borrow, default)]
    exc_message: Option<&'a RawValue>,
}

pub(super) fn encode(method: &str, params: Params, id: &str) -> Result<Encoded, String> {
    let (args, kwargs) = params.args_and_kwargs()?;
    let text = |text: &str| HeaderValue::Text(text.to_owned());
    let shown = |part: &str| {
        let mut part = part.to_owned();
        crate::message::truncate(&mut part, SHOWN);
        HeaderValue::Text(part)
    };
    let nothing = || HeaderValue::Null;
    let headers = [
        ("lang", text("py")),
        ("task", text(method)),
        ("id", text(id)),
        ("shadow", nothing()),
        ("eta", nothing()),
        ("expires", nothing()),
        ("group", nothing()),
        ("group_index", nothing()),
        ("retries", HeaderValue::Int(0)),
        ("timelimit", HeaderValue::List(vec![nothing(), nothing()])),
        ("root_id", text(id)),
        ("parent_id", nothing()),
        ("argsrepr", shown(&args)),
        ("kwargsrepr", shown(&kwargs)),
        ("origin", text("rpchost")),
        ("ignore_result", HeaderValue::Bool(false)),
        ("replaced_task_nesting", HeaderValue::Int(0)),
        ("stamped_headers", nothing()),
        ("stamps", HeaderValue::Table(Vec::new())),
    ];
    let body = format!(
        r#"[{args},{kwargs},{{"callbacks":null,"errbacks":null,"chain":null,"chord":null}}]"#
    );
    Ok(Encoded {
        content_encoding: Some("utf-8"),
        headers: headers.map(|(name, value)| (name.to_owned(), value)).into(),
        ..Encoded::json(body)
    })
}

/// Whether a reply tells how a task stands that has not ended.
pub(super) fn is_interim(body: &[u8]) -> bool {
    serde_json::from_slice::<Reply<'_>>(body)
        .is_ok_and(|reply| !ENDED.contains(&reply.status.as_str()))
}

pub(super) fn decode(properties: &Properties, body: &Bytes) -> Answer {
    let Ok(reply) = serde_json::from_slice::<Reply<'_>>(body) else {
        return stray("Celery's", body);
    };
    let result = reply.result.map_or("null", RawValue::get);
    if reply.status == "SUCCESS" {
        return Answer::Result(Bytes::from(result.to_owned()));
    }
    let Ok(error) = serde_json::from_str::<Error<'_>>(result) else {
        return stray("Celery's", body);
    };
    let name = match error.exc_module.as_deref() {
        None | Some("builtins") => error.exc_type.clone(),
        Some(module) => format!("{module}.{}", error.exc_type),
    };
    let args = some(error.exc_message);
    let message = args.map(message).unwrap_or_default();
    let unknown = error.exc_type == "NotRegistered";
    Raised {
        kind: if unknown { "method-not-found" } else { APPLICATION },
        name: Some(&name),
        args,
        traceback: reply.traceback.as_deref(),
        ..Raised::saying(&message)
    }
    .answer(properties)
}

/// An exception has a list of arguments; of one it is the message.
fn message(args: &RawValue) -> String {
    match serde_json::from_str::<Vec<&RawValue>>(args.get()).as_deref() {
        Ok([only]) => as_text(only),
        _ => as_text(args),
    }
}

#[cfg(test)]
mod tests {
    use super::super::CallDialect::Celery;
    use super::super::testing::{decoded, error_in};
    use super::*;

    #[test]
    fn a_request_is_as_the_library_writes_it() {
        let both = Params::Both { args: "[40]".into(), kwargs: r#"{"b":2}"#.into() };
        let request = encode("math.add", both, "4f1d").unwrap();
        assert_eq!(
            request.body,
            br#"[[40],{"b":2},{"callbacks":null,"errbacks":null,"chain":null,"chord":null}]"#
        );
        assert_eq!(request.content_type, Some("application/json"));
        assert_eq!(request.content_encoding, Some("utf-8"));
        let header = |name: &str| {
            let (_, value) = request.headers.iter().find(|(key, _)| key == name).unwrap();
            value.clone()
        };
        assert_eq!(request.headers.len(), 19);
        assert_eq!(header("task"), HeaderValue::Text("math.add".to_owned()));
        assert_eq!(header("id"), HeaderValue::Text("4f1d".to_owned()));
        assert_eq!(header("argsrepr"), HeaderValue::Text("[40]".to_owned()));
        assert_eq!(header("eta"), HeaderValue::Null);
    }

    #[test]
    fn the_last_word_is_the_answer() {
        let success = r#"{"status": "SUCCESS", "result": 832040, "traceback": null, "children": [], "task_id": "4f1d"}"#;
        assert_eq!(decoded(Celery, success), Answer::Result(Bytes::from_static(b"832040")));
        assert!(!is_interim(success.as_bytes()));
        assert!(is_interim(br#"{"status":"STARTED","result":{"pid":7},"task_id":"4f1d"}"#));
        assert!(is_interim(br#"{"status":"RETRY","result":null,"task_id":"4f1d"}"#));
        assert!(!is_interim(b"no JSON"));
    }

    #[test]
    fn exceptions_are_read() {
        assert_eq!(
            decoded(
                Celery,
                r#"{"status": "FAILURE", "result": {"exc_type": "ValueError", "exc_message": ["bad thing"], "exc_module": "builtins"}, "traceback": "T", "task_id": "4f1d"}"#
            ),
            Answer::Error(
                r#"{"error":{"kind":"application","message":"bad thing","data":{"type":"ValueError","args":["bad thing"],"traceback":"T"}}}"#
                    .to_owned()
            )
        );
        let missing = error_in(decoded(
            Celery,
            r#"{"status":"FAILURE","result":{"exc_type":"NotRegistered","exc_message":["nope"],"exc_module":"celery.exceptions"},"task_id":"4f1d"}"#,
        ));
        assert!(missing.contains(r#""kind":"method-not-found","message":"nope""#), "{missing}");
        assert!(missing.contains(r#""type":"celery.exceptions.NotRegistered""#), "{missing}");
        assert!(matches!(decoded(Celery, r#"{"status":"FAILURE"}"#), Answer::Error(_)));
    }
}
