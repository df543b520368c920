//! `nameko`: `<service>.<method>` over Nameko's topic exchange (nameko 2.14).
//!
//! Answers come through that exchange as well; see [`super::Route`].

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::errors::{APPLICATION, Raised, as_text, some, stray};
use super::{Answer, Encoded, Params};
use crate::message::{HeaderValue, Properties};

/// Nameko's own exceptions, and what they are called here.
const KNOWN: [(&str, &str); 3] = [
    ("nameko.exceptions.MethodNotFound", "method-not-found"),
    ("nameko.exceptions.IncorrectSignature", "invalid-params"),
    ("nameko.exceptions.MalformedRequest", "bad-request"),
];

#[derive(Deserialize)]
struct Reply<'a> {
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Error<'a> {
    #[serde(default)]
    exc_type: Option<String>,
    #[serde(default)]
    exc_path: Option<String>,
    #[serde(borrow, default)]
    exc_args: Option<&'a RawValue>,
    #[serde(borrow, default)]
    value: Option<&'a RawValue>,
}

pub(super) fn encode(method: &str, params: Params, id: &str) -> Result<Encoded, String> {
    if method.split('.').filter(|part| !part.is_empty()).count() != 2 {
        return Err(format!("`{method}`: Nameko's methods are called `service.method`"));
    }
    let (args, kwargs) = params.args_and_kwargs()?;
    let stack = HeaderValue::List(vec![HeaderValue::Text(format!("rpchost.call.{id}"))]);
    Ok(Encoded {
        content_encoding: Some("utf-8"),
        headers: vec![("nameko.call_id_stack".to_owned(), stack)],
        ..Encoded::json(format!(r#"{{"args":{args},"kwargs":{kwargs}}}"#))
    })
}

pub(super) fn decode(properties: &Properties, body: &Bytes) -> Answer {
    let Ok(Reply { result, error }) = serde_json::from_slice(body) else {
        return stray("Nameko's", body);
    };
    let Some(error) = some(error) else {
        // `null` reads as nothing, and is a result.
        let result = result.map_or("null", RawValue::get);
        return Answer::Result(Bytes::from(result.to_owned()));
    };
    let Ok(error) = serde_json::from_str::<Error<'_>>(error.get()) else {
        return stray("Nameko's", body);
    };
    let name = error.exc_path.or(error.exc_type);
    let known = KNOWN.iter().find(|(path, _)| name.as_deref() == Some(*path));
    let message = error.value.map(as_text).unwrap_or_default();
    Raised {
        kind: known.map_or(APPLICATION, |(_, kind)| kind),
        name: name.as_deref(),
        args: some(error.exc_args),
        ..Raised::saying(&message)
    }
    .answer(properties)
}

#[cfg(test)]
mod tests {
    use super::super::CallDialect::Nameko;
    use super::super::testing::{decoded, error_in};
    use super::*;

    #[test]
    fn a_request_is_as_the_library_writes_it() {
        let request = encode("math.fib", Params::Argument("30".into()), "7").unwrap();
        assert_eq!(request.body, br#"{"args":[30],"kwargs":{}}"#);
        assert_eq!(request.content_type, Some("application/json"));
        assert_eq!(request.content_encoding, Some("utf-8"));
        assert_eq!(request.headers.len(), 1);
        for wrong in ["fib", "math.", "a.b.c", ""] {
            assert!(encode(wrong, Params::Body(Vec::new()), "7").is_err(), "{wrong}");
        }
    }

    #[test]
    fn results_and_exceptions_are_read() {
        let result = |text: &'static str| Answer::Result(Bytes::from_static(text.as_bytes()));
        assert_eq!(decoded(Nameko, r#"{"result": 832040, "error": null}"#), result("832040"));
        assert_eq!(decoded(Nameko, r#"{"result": null, "error": null}"#), result("null"));
        assert_eq!(
            decoded(
                Nameko,
                r#"{"result": null, "error": {"exc_type": "DivError", "exc_path": "math_service.DivError", "exc_args": ["bad thing", "9"], "value": "('bad thing', 9)"}}"#
            ),
            Answer::Error(
                r#"{"error":{"kind":"application","message":"('bad thing', 9)","data":{"type":"math_service.DivError","args":["bad thing", "9"]}}}"#
                    .to_owned()
            )
        );
        let missing = error_in(decoded(
            Nameko,
            r#"{"result":null,"error":{"exc_type":"MethodNotFound","exc_path":"nameko.exceptions.MethodNotFound","exc_args":["nope"],"value":"nope"}}"#,
        ));
        assert!(missing.contains(r#""kind":"method-not-found""#), "{missing}");
        assert!(matches!(decoded(Nameko, "832040"), Answer::Error(_)));
    }

    #[test]
    fn rpchost_says_itself_of_which_kind_an_error_is() {
        let status = HeaderValue::Text("trap".to_owned());
        let headers = vec![("rpchost-status".to_owned(), status)];
        let properties = Properties { headers, ..Properties::default() };
        let body = Bytes::from_static(
            br#"{"result":null,"error":{"exc_type":"Trap","exc_path":"rpchost.Trap","exc_args":["x"],"value":"x"}}"#,
        );
        let error = error_in(decode(&properties, &body));
        assert!(error.contains(r#""kind":"trap""#), "{error}");
    }
}
