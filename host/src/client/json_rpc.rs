//! `json-rpc`: JSON-RPC 2.0.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::json;
use serde_json::value::RawValue;

use super::errors::{some, stray};
use super::{Answer, Encoded, Params};

pub(super) fn encode(method: &str, params: Params) -> Result<Encoded, String> {
    // The protocol wants an array or an object.
    let params = params.value()?.map_or_else(String::new, |text| {
        if text.starts_with(['[', '{']) {
            format!(r#","params":{text}"#)
        } else {
            format!(r#","params":[{text}]"#)
        }
    });
    let body = format!(r#"{{"jsonrpc":"2.0","method":{}{params},"id":1}}"#, json!(method));
    Ok(Encoded::json(body))
}

pub(super) fn decode(body: &Bytes) -> Answer {
    let reply: BTreeMap<String, &RawValue> = serde_json::from_slice(body).unwrap_or_default();
    // Version 1.0 has both, of which one is null.
    match (some(reply.get("error").copied()), reply.get("result")) {
        (Some(error), _) => Answer::Error(format!(r#"{{"error":{error}}}"#)),
        (None, Some(result)) => Answer::Result(Bytes::from(result.get().to_owned())),
        (None, None) => stray("JSON-RPC", body),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_an_array_or_an_object() {
        let body = |params| String::from_utf8(encode("fib", params).unwrap().body).unwrap();
        let with = |params: &str| format!(r#"{{"jsonrpc":"2.0","method":"fib"{params},"id":1}}"#);
        assert_eq!(body(Params::Body(Vec::new())), with(""));
        assert_eq!(body(Params::Argument("30".into())), with(r#","params":[30]"#));
        assert_eq!(body(Params::Argument("hi".into())), with(r#","params":["hi"]"#));
        assert_eq!(body(Params::Json(r#"{"n":1}"#.into())), with(r#","params":{"n":1}"#));
    }

    #[test]
    fn an_error_that_is_null_is_none() {
        let reply = Bytes::from_static(br#"{"result":1,"error":null,"id":1}"#);
        assert_eq!(decode(&reply), Answer::Result(Bytes::from_static(b"1")));
        let reply = Bytes::from_static(br#"{"result":null,"error":{"code":1},"id":1}"#);
        assert_eq!(decode(&reply), Answer::Error(r#"{"error":{"code":1}}"#.to_owned()));
    }
}
