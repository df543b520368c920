//! `plain`: the method in the property `type`, the body as it is.

use bytes::Bytes;
use serde_json::json;
use serde_json::value::RawValue;

use super::{Answer, Encoded, JSON, Params};
use crate::message::Properties;

pub(super) fn encode(method: Option<&str>, params: Params) -> Result<Encoded, String> {
    let (body, content_type) = match params {
        Params::Body(body) => (body, None),
        Params::Argument(text) => (text.into_bytes(), None),
        both @ Params::Both { .. } => (both.value()?.unwrap_or_default().into_bytes(), Some(JSON)),
        Params::Json(text) => (text.into_bytes(), Some(JSON)),
    };
    Ok(Encoded { kind: method.map(str::to_owned), content_type, body, ..Encoded::default() })
}

pub(super) fn decode(properties: &Properties, body: Bytes) -> Answer {
    if properties.kind.as_deref() != Some("error") {
        return Answer::Result(body);
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
    use super::*;

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
