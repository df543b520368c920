//! What is sent under a number, and what should come back.

use bytes::Bytes;
use serde_json::Value;

use crate::client::{self, Answer, CallDialect, Encoded, Params};
use crate::message::Properties;

/// What a body is made of. `{number}` stands for the request's number, `{id}` for
/// its id.
#[derive(Debug, Clone)]
pub enum Source {
    /// Nothing was said: the id.
    Id,
    /// Arguments as a person types them.
    Args(Vec<String>),
    /// All arguments as one JSON value.
    Json(String),
    /// The body itself.
    Body(Vec<u8>),
}

/// How requests are made and answers judged.
#[derive(Debug, Clone)]
pub struct Requests {
    /// How they are written.
    pub dialect: CallDialect,
    /// The method; a service of one method may need none.
    pub method: Option<String>,
    /// The body.
    pub source: Source,
    /// The result that is right; with none, that of an echo where only the id
    /// is sent, else any that is no error.
    pub expect: Option<String>,
}

impl Requests {
    /// The request of this number.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub(super) fn encode(&self, number: u64, id: &str) -> Result<Encoded, String> {
        let fill = |text: &str| fill(text, number, id);
        let params = match &self.source {
            Source::Id => Params::Body(id.as_bytes().to_vec()),
            Source::Args(args) => {
                client::params_of(&args.iter().map(|arg| fill(arg)).collect::<Vec<_>>())?
            }
            Source::Json(text) => Params::json(&fill(text))?,
            Source::Body(body) => Params::Body(match std::str::from_utf8(body) {
                Ok(text) => fill(text).into_bytes(),
                Err(_) => body.clone(),
            }),
        };
        client::encode(self.dialect, self.method.as_deref(), params, id)
    }

    /// Whether a reply is not the answer, but on the way to it.
    pub(super) fn is_interim(&self, body: &[u8]) -> bool {
        client::interim(self.dialect).is_some_and(|interim| interim(body))
    }

    /// What is wrong with a reply, if anything is.
    pub(super) fn wrong(
        &self,
        number: u64,
        id: &str,
        properties: &Properties,
        body: &Bytes,
    ) -> Option<String> {
        let result = match client::decode(self.dialect, properties, body.clone()) {
            Answer::Error(error) => return Some(error),
            Answer::Result(result) => result,
        };
        let expected = match (&self.expect, &self.source) {
            (Some(text), _) => fill(text, number, id),
            (None, Source::Id) => id.to_owned(),
            (None, _) => return None,
        };
        let shown = || String::from_utf8_lossy(&result).into_owned();
        (!is_same(&expected, &result)).then(|| format!("{} instead of {expected}", shown()))
    }

    /// What is wrong with our own request, as it came out of a queue.
    pub(super) fn changed(&self, number: u64, id: &str, body: &Bytes) -> Option<String> {
        let sent = self.encode(number, id).ok()?;
        (sent.body != *body)
            .then(|| format!("{} instead of what was sent", String::from_utf8_lossy(body)))
    }
}

fn fill(text: &str, number: u64, id: &str) -> String {
    text.replace("{number}", &number.to_string()).replace("{id}", id)
}

/// Whether a result is the expected one: the same bytes, the same JSON value,
/// or a JSON string that says it. A handler that echoes JSON-RPC gets, and
/// gives, a list of one.
fn is_same(expected: &str, result: &[u8]) -> bool {
    if expected.as_bytes() == result.trim_ascii_end() {
        return true;
    }
    let Ok(result) = serde_json::from_slice::<Value>(result) else { return false };
    let says = |value: &Value| {
        value.as_str() == Some(expected)
            || serde_json::from_str::<Value>(expected).is_ok_and(|expected| expected == *value)
    };
    says(&result) || matches!(result.as_array().map(Vec::as_slice), Some([only]) if says(only))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(source: Source, expect: Option<&str>) -> Requests {
        let expect = expect.map(str::to_owned);
        Requests { dialect: CallDialect::Plain, method: None, source, expect }
    }

    #[test]
    fn numbers_and_ids_are_filled_in() {
        let args = vec!["{number}".to_owned(), "x{id}".to_owned()];
        let encoded = requests(Source::Args(args), None).encode(7, "r-7").unwrap();
        assert_eq!(encoded.body, br#"[7,"xr-7"]"#);
        assert_eq!(encoded.kind, None);
        let encoded = requests(Source::Id, None).encode(7, "r-7").unwrap();
        assert_eq!(encoded.body, b"r-7");
        let json = requests(Source::Json(r#"{"a":{number}}"#.to_owned()), None);
        assert_eq!(json.encode(7, "r-7").unwrap().body, br#"{"a":7}"#);
        assert!(requests(Source::Json("{number".to_owned()), None).encode(7, "r-7").is_err());
    }

    #[test]
    fn a_result_is_the_expected_one_as_text_or_as_json() {
        let wrong = |expect: Option<&str>, source: Source, body: &'static str| {
            let properties = Properties::default();
            requests(source, expect).wrong(
                2,
                "r-2",
                &properties,
                &Bytes::from_static(body.as_bytes()),
            )
        };
        for right in ["r-2", "r-2\n", r#""r-2""#, r#"["r-2"]"#] {
            assert_eq!(wrong(None, Source::Id, right), None, "{right}");
        }
        assert_eq!(wrong(None, Source::Id, "r-3").unwrap(), "r-3 instead of r-2");
        assert_eq!(wrong(Some(r#"{"a":{number}}"#), Source::Id, r#"{ "a": 2 }"#), None);
        assert_eq!(wrong(None, Source::Args(vec!["x".to_owned()]), "anything"), None);
        assert!(wrong(Some("1"), Source::Args(Vec::new()), "2").is_some());
        let error = Properties { kind: Some("error".to_owned()), ..Properties::default() };
        let judged = requests(Source::Id, None).wrong(2, "r-2", &error, &Bytes::from_static(b"{}"));
        assert_eq!(judged.unwrap(), "{}");
    }
}
