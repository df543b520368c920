//! `nestjs`: what NestJS's `ClientRMQ` sends (`@nestjs/microservices`).
//!
//! A METHOD that is a JSON object is the pattern itself, such as `{"cmd":"sum"}`;
//! any other is a pattern that is a text. Nest does not take one for the other.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::json;
use serde_json::value::RawValue;

use super::errors::{Raised, as_text, some, stray};
use super::{Answer, Encoded, Params};
use crate::message::{NEST_NO_HANDLER, Properties};

type Members<'a> = BTreeMap<String, &'a RawValue>;

pub(super) fn encode(method: &str, params: Params, id: &str) -> Result<Encoded, String> {
    let pattern = match serde_json::from_str::<Members<'_>>(method) {
        Ok(_) => method.trim().to_owned(),
        Err(_) => json!(method).to_string(),
    };
    // Its client refuses to send no data at all.
    let data = params.value()?.unwrap_or_else(|| "{}".to_owned());
    let body = format!(r#"{{"pattern":{pattern},"data":{data},"id":{}}}"#, json!(id));
    Ok(Encoded { body: body.into_bytes(), ..Encoded::default() })
}

pub(super) fn decode(properties: &Properties, body: &Bytes) -> Answer {
    let reply: Members<'_> = serde_json::from_slice(body).unwrap_or_default();
    if let Some(error) = some(reply.get("err").copied()) {
        // An object is as the service made it, with its own members.
        if serde_json::from_str::<Members<'_>>(error.get()).is_ok() {
            return Answer::Error(format!(r#"{{"error":{error}}}"#));
        }
        let message = as_text(error);
        let raised = Raised::saying(&message);
        let kind = if message == NEST_NO_HANDLER { "method-not-found" } else { raised.kind };
        return Raised { kind, ..raised }.answer(properties);
    }
    if let Some(response) = reply.get("response") {
        return Answer::Result(Bytes::from(response.get().to_owned()));
    }
    match reply.contains_key("isDisposed") {
        // A handler that returns nothing.
        true => Answer::Result(Bytes::from_static(b"null")),
        false => stray("NestJS's", body),
    }
}

#[cfg(test)]
mod tests {
    use super::super::CallDialect::NestJs;
    use super::super::testing::{decoded, error_in};
    use super::*;

    #[test]
    fn a_request_is_as_the_library_writes_it() {
        let body = |method: &str, params| {
            String::from_utf8(encode(method, params, "5f").unwrap().body).unwrap()
        };
        assert_eq!(
            body(r#"{"cmd":"math.fib"}"#, Params::Json(r#"{"n":30}"#.into())),
            r#"{"pattern":{"cmd":"math.fib"},"data":{"n":30},"id":"5f"}"#
        );
        assert_eq!(
            body("echo", Params::Argument("hi".into())),
            r#"{"pattern":"echo","data":"hi","id":"5f"}"#
        );
        assert_eq!(
            body("echo", Params::Body(Vec::new())),
            r#"{"pattern":"echo","data":{},"id":"5f"}"#
        );
    }

    #[test]
    fn results_and_errors_are_read() {
        let result = |text: &'static str| Answer::Result(Bytes::from_static(text.as_bytes()));
        assert_eq!(decoded(NestJs, r#"{"response":832040,"isDisposed":true}"#), result("832040"));
        assert_eq!(decoded(NestJs, r#"{"isDisposed":true}"#), result("null"));
        let error = |text: &str| Answer::Error(text.to_owned());
        assert_eq!(
            decoded(NestJs, r#"{"err":{"code":42,"message":"bad thing"},"isDisposed":true}"#),
            error(r#"{"error":{"code":42,"message":"bad thing"}}"#)
        );
        assert_eq!(
            decoded(NestJs, r#"{"err":"no","isDisposed":true}"#),
            error(r#"{"error":{"kind":"application","message":"no"}}"#)
        );
        let missing = error_in(decoded(
            NestJs,
            r#"{"id":"5f","err":"There is no matching message handler defined in the remote service.","status":"error"}"#,
        ));
        assert!(missing.contains(r#""kind":"method-not-found""#), "{missing}");
        assert!(matches!(decoded(NestJs, "832040"), Answer::Error(_)));
    }
}
