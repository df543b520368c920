//! `envelope`: `{"request": {"id", "func", "args", "kwargs"}}`.
//!
//! Replies have one of three forms, and are told apart by their members; see
//! [`EnvelopeReply`](crate::message::EnvelopeReply). In the first, result and error
//! are texts that hold JSON themselves.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::json;
use serde_json::value::RawValue;

use super::errors::{Raised, as_text, some, stray};
use super::{Answer, Encoded, Params};
use crate::message::Properties;

/// As long as the ids that these callers make.
const ID: usize = 8;

type Members<'a> = BTreeMap<String, &'a RawValue>;

pub(super) fn encode(method: &str, params: Params, id: &str) -> Result<Encoded, String> {
    let (args, kwargs) = params.args_and_kwargs()?;
    let id = json!(id.get(..ID).unwrap_or(id));
    let func = json!(method);
    Ok(Encoded::json(format!(
        r#"{{"request":{{"id":{id},"func":{func},"args":{args},"kwargs":{kwargs}}}}}"#
    )))
}

pub(super) fn decode(properties: &Properties, body: &Bytes) -> Answer {
    let reply: Members<'_> = serde_json::from_slice(body).unwrap_or_default();
    let inner: Members<'_> = reply
        .get("response")
        .and_then(|inner| serde_json::from_str(inner.get()).ok())
        .unwrap_or_default();
    let is_text = !inner.is_empty();
    let reply = if is_text { &inner } else { &reply };
    let error = some(reply.get("error").copied()).filter(|error| error.get() != "\"\"");
    if let Some(error) = error {
        return failed(properties, reply, error);
    }
    match reply.get("result") {
        Some(result) if is_text => Answer::Result(Bytes::from(result_of(result))),
        Some(result) => Answer::Result(Bytes::from(result.get().to_owned())),
        None => stray("an envelope", body),
    }
}

/// The result out of the JSON that the text holds, where it is one.
fn result_of(value: &RawValue) -> String {
    let held = serde_json::from_str::<String>(value.get()).ok().and_then(|text| {
        let members: Members<'_> = serde_json::from_str(&text).ok()?;
        members.get("result").map(|result| result.get().to_owned())
    });
    held.unwrap_or_else(|| value.get().to_owned())
}

fn failed(properties: &Properties, reply: &Members<'_>, error: &RawValue) -> Answer {
    let text = as_text(error);
    let told: Members<'_> = serde_json::from_str(&text).unwrap_or_default();
    let message = told.get("error").or_else(|| told.get("exception")).map(|told| as_text(told));
    let traceback = told.get("traceback").or_else(|| reply.get("traceback")).map(|at| as_text(at));
    let raised = Raised::saying(message.as_deref().unwrap_or(&text));
    Raised { traceback: traceback.as_deref(), ..raised }.answer(properties)
}

#[cfg(test)]
mod tests {
    use super::super::CallDialect::Envelope;
    use super::super::testing::{decoded, error_in};
    use super::*;

    #[test]
    fn a_request_is_as_these_callers_write_it() {
        let request = encode("math:fib", Params::Argument("30".into()), "1a2b3c4d5e6f").unwrap();
        let body = br#"{"request":{"id":"1a2b3c4d","func":"math:fib","args":[30],"kwargs":{}}}"#;
        assert_eq!(request, Encoded::json(String::from_utf8(body.to_vec()).unwrap()));
    }

    #[test]
    fn replies_of_all_forms_are_read() {
        for body in [
            r#"{"response":{"result":"{\"result\": 832040}","error":""}}"#,
            r#"{"response":{"result":832040,"error":null}}"#,
            r#"{"id":"1a2b3c4d","result":832040}"#,
            r#"{"status":"success","result":832040}"#,
        ] {
            assert_eq!(
                decoded(Envelope, body),
                Answer::Result(Bytes::from_static(b"832040")),
                "{body}"
            );
        }
        // A text is what the handler has returned, whatever it holds.
        let text = r#"{"status":"success","result":"{\"result\":1}"}"#;
        let result = Bytes::from_static(br#""{\"result\":1}""#);
        assert_eq!(decoded(Envelope, text), Answer::Result(result));
        let said = |data: &str| {
            Answer::Error(format!(
                r#"{{"error":{{"kind":"application","message":"ValueError: bad"{data}}}}}"#
            ))
        };
        let traced = r#","data":{"traceback":"T"}"#;
        for (body, data) in [
            (
                r#"{"response":{"result":"","error":"{\"error\":\"ValueError: bad\",\"traceback\":\"T\"}"}}"#,
                traced,
            ),
            (r#"{"response":{"result":"","error":"ValueError: bad"}}"#, ""),
            (r#"{"id":"1","error":{"exception":"ValueError: bad","traceback":"T"}}"#, traced),
            (r#"{"status":"error","error":"ValueError: bad","traceback":"T"}"#, traced),
        ] {
            assert_eq!(decoded(Envelope, body), said(data), "{body}");
        }
        let stray = error_in(decoded(Envelope, "832040"));
        assert!(stray.contains("the reply is not an envelope: 832040"), "{stray}");
    }
}
