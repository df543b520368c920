//! `plain`: the method in the property `type`, the body as it is.

use bytes::Bytes;
use serde_json::json;
use serde_json::value::RawValue;

use super::arguments::MIXED;
use super::errors::{Raised, status};
use super::{Answer, Encoded, JSON, Params};
use crate::message::Properties;

pub(super) fn encode(method: Option<&str>, params: Params) -> Result<Encoded, String> {
    let (body, content_type) = match params {
        Params::Body(body) => (body, None),
        Params::Argument(text) => (text.into_bytes(), None),
        Params::Both { .. } => return Err(MIXED.to_owned()),
        Params::Json(text) => (text.into_bytes(), Some(JSON)),
    };
    Ok(Encoded { kind: method.map(str::to_owned), content_type, body, ..Encoded::default() })
}

pub(super) fn decode(properties: &Properties, body: Bytes) -> Answer {
    if properties.kind.as_deref() != Some("error") {
        // A queue may be served in another dialect, whose errors look otherwise.
        return match status(properties) {
            Some(_) => Raised::saying(&String::from_utf8_lossy(&body)).answer(properties),
            None => Answer::Result(body),
        };
    }
    let text = String::from_utf8_lossy(&body);
    if serde_json::from_str::<&RawValue>(&text).is_ok() {
        Answer::Error(text.into_owned())
    } else {
        Answer::Error(json!({ "error": { "message": text } }).to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::error_in;
    use super::*;
    use crate::message::{HeaderValue, STATUS};

    #[test]
    fn what_a_host_calls_an_error_is_no_result() {
        let body = Bytes::from_static(br#"{"err":"no","status":"error"}"#);
        let answer = |status: &str| {
            let headers = vec![(STATUS.to_owned(), HeaderValue::Text(status.to_owned()))];
            decode(&Properties { headers, ..Properties::default() }, body.clone())
        };
        assert_eq!(answer("ok"), Answer::Result(body.clone()));
        assert_eq!(
            error_in(answer("bad-request")),
            r#"{"error":{"kind":"bad-request","message":"{\"err\":\"no\",\"status\":\"error\"}"}}"#
        );
    }

    #[test]
    fn a_single_argument_is_the_body_and_json_for_a_method_that_takes_it() {
        for (arg, body, json) in [("30", "30", "30"), ("hi", "hi", "\"hi\""), ("", "", "\"\"")] {
            let params = Params::Argument(arg.to_owned());
            let plain = |params| encode(Some("m"), params).unwrap();
            assert_eq!(plain(params.clone()).body, body.as_bytes());
            assert_eq!(plain(params.for_json()).body, json.as_bytes());
            assert_eq!(plain(Params::Json("1".into())).content_type, Some(JSON));
        }
    }
}
