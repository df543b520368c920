//! Cases: a request, and what must come of it.
//!
//! Written down as JSON they travel in the plugin's file; run against a version, they say whether
//! it does what its author wanted. What they and a guest say is shown on one line, and cut:
//! nobody vouches for either.

use std::time::Instant;

use anyhow::{anyhow, bail};
use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};
use serde_json::{Map, Value as Json, json};

use super::circuit::Circuit;
use super::plugin::{Invocation, Plugin};
use crate::capabilities::{CallFacts, printable};
use crate::config::{Case, CaseInput, Expected, MAX_CASE_TEXT, MAX_CASES};
use crate::message::{Arguments, CallError, ErrorKind, Outcome};

/// Longest part of an answer that is shown where another was expected, in bytes.
const MAX_SHOWN: usize = 200;

/// Longest part of a request that is shown where a case has no name, in bytes.
const MAX_CALL_SHOWN: usize = 60;

/// Words that an expected error may have.
#[must_use]
pub fn error_kinds() -> Vec<&'static str> {
    ErrorKind::ALL.iter().map(|kind| kind.name()).collect()
}

/// Cases as they travel: with the keys of the project's file, and JSON as text.
#[must_use]
pub fn to_json(cases: &[Case]) -> String {
    let all: Vec<Json> = cases.iter().map(one_to_json).collect();
    json!(all).to_string()
}

fn one_to_json(case: &Case) -> Json {
    let mut members = Map::new();
    let mut put = |key: &str, value: Option<&str>| {
        if let Some(value) = value {
            members.insert(key.to_owned(), json!(value));
        }
    };
    put("name", Some(case.name.as_str()).filter(|name| !name.is_empty()));
    put("method", case.method.as_deref());
    match &case.input {
        CaseInput::Params(text) => put("params", Some(text)),
        CaseInput::Body(text) => put("body", Some(text)),
    }
    match &case.expected {
        Expected::Result(text) => put("result", Some(text)),
        Expected::Text(text) => put("text", Some(text)),
        Expected::Error { kind, code, message, data } => {
            put("error", Some(kind));
            put("message", message.as_deref());
            put("data", data.as_deref());
            if let Some(code) = code {
                members.insert("code".to_owned(), json!(code));
            }
        }
    }
    Json::Object(members)
}

/// Reads them back. Memory is taken for as many as there may be and no more, whatever the text
/// has.
///
/// # Errors
///
/// Says what is wrong, and in which of them.
pub(super) fn from_json(text: &[u8]) -> anyhow::Result<Vec<Case>> {
    let read: Result<Written, _> = serde_json::from_slice(text);
    // The library repeats what it did not expect.
    let written = read.map_err(|error| anyhow!(printable(&error.to_string(), MAX_SHOWN)))?;
    Ok(written.0)
}

/// All of them, as they are written.
struct Written(Vec<Case>);

/// One of them, as it is written.
#[derive(Default, Deserialize)]
#[serde(default)]
struct WrittenCase {
    name: Option<String>,
    method: Option<String>,
    params: Option<String>,
    body: Option<String>,
    result: Option<String>,
    text: Option<String>,
    error: Option<String>,
    code: Option<i32>,
    message: Option<String>,
    data: Option<String>,
}

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_seq(Cases).map(Self)
    }
}

/// Takes them one after the other.
struct Cases;

impl<'de> Visitor<'de> for Cases {
    type Value = Vec<Case>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list of cases")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Vec<Case>, A::Error> {
        let mut cases = Vec::new();
        loop {
            let number = cases.len() + 1;
            let wrong = |error: &dyn std::fmt::Display| {
                A::Error::custom(format_args!("case {number}: {error}"))
            };
            let Some(case) = all.next_element().map_err(|error| wrong(&error))? else {
                return Ok(cases);
            };
            if number > MAX_CASES {
                return Err(A::Error::custom(format_args!(
                    "it has more than {MAX_CASES} cases, the limit"
                )));
            }
            cases.push(of_written(case).map_err(|error| wrong(&error))?);
        }
    }
}

fn of_written(case: WrittenCase) -> anyhow::Result<Case> {
    let WrittenCase { name, method, params, body, result, text, error, code, message, data } = case;
    let texts = [&name, &method, &params, &body, &result, &text, &error, &message, &data];
    if let Some(longest) = texts.into_iter().flatten().map(String::len).max()
        && longest > MAX_CASE_TEXT
    {
        bail!("a text of it has {longest} bytes, the limit is {MAX_CASE_TEXT}");
    }
    let input = match (params, body) {
        (Some(params), None) => CaseInput::Params(params),
        (None, body) => CaseInput::Body(body.unwrap_or_default()),
        (Some(_), Some(_)) => bail!("it has both `params` and `body`"),
    };
    let expected = match (result, text, error) {
        (Some(result), None, None) => Expected::Result(result),
        (None, Some(text), None) => Expected::Text(text),
        (None, None, Some(kind)) => Expected::Error { kind, code, message, data },
        _ => bail!("it needs one of `result`, `text` and `error`"),
    };
    Ok(Case { name: name.unwrap_or_default(), method, input, expected })
}

/// As a person calls it: its name, else what it calls and with what.
#[must_use]
pub fn shown(case: &Case) -> String {
    if !case.name.is_empty() {
        return printable(&case.name, MAX_SHOWN);
    }
    let (CaseInput::Params(input) | CaseInput::Body(input)) = &case.input;
    let whole = format!("{} {input}", case.method.as_deref().unwrap_or_default());
    printable(&whole.split_whitespace().collect::<Vec<_>>().join(" "), MAX_CALL_SHOWN)
}

/// A case that was not passed.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    /// What was expected, and what came instead.
    said: String,
    /// Whether that may have been this moment's fault and no fault of the version: it had no time
    /// or no room, or it was not even asked.
    pub(super) passing: bool,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.said)
    }
}

/// Runs a case, with the limits that any call of this plugin has. What comes of it says nothing
/// about other calls, nor they about it.
///
/// # Errors
///
/// Says what was expected, and what came instead.
pub async fn run(plugin: &Plugin, case: &Case) -> Result<(), Failure> {
    let Some(method) = plugin.canonical(case.method.as_deref()) else {
        let said = match &case.method {
            Some(name) => format!("there is no method `{}`", printable(name, MAX_SHOWN)),
            None => "there is more than one method; say which with `method`".to_owned(),
        };
        return Err(Failure { said, passing: false });
    };
    let (text, content_type) = match &case.input {
        CaseInput::Params(text) => (text, Some("application/json")),
        CaseInput::Body(text) => (text, None),
    };
    let arguments = Arguments::Body(Bytes::from(text.clone().into_bytes()));
    let deadline = Instant::now() + plugin.timeout();
    let facts = CallFacts { deadline, reply_expected: true, ..CallFacts::none() };
    let invocation =
        Invocation { method: &method, arguments: &arguments, content_type, headers: &[], facts };
    let circuit = Circuit::new();
    judge(&case.expected, &plugin.call_as(invocation, circuit.pass()).await)
}

fn judge(expected: &Expected, outcome: &Outcome) -> Result<(), Failure> {
    let fits = match (expected, outcome) {
        (Expected::Result(wanted), Ok(returned)) => is_json(&returned.body, wanted),
        (Expected::Text(wanted), Ok(returned)) => is_text(&returned.body, wanted),
        (Expected::Error { kind, code, message, data }, Err(error)) => {
            kind == error.kind.name()
                && code.is_none_or(|code| number(error) == Some(code))
                && message.as_ref().is_none_or(|part| error.message.contains(part.as_str()))
                && data.as_ref().is_none_or(|data| {
                    is_json(error.data.as_deref().unwrap_or("null").as_bytes(), data)
                })
        }
        _ => false,
    };
    if fits {
        return Ok(());
    }
    let (came, passing) = match outcome {
        Ok(returned) => {
            (format!("`{}`", shortened(&String::from_utf8_lossy(&returned.body))), false)
        }
        Err(error) => (came(error), is_passing(error.kind)),
    };
    Err(Failure { said: format!("expected {}, got {came}", wanted(expected)), passing })
}

/// Whether an error tells of the host and its load at least as much as of the plugin.
fn is_passing(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Timeout
            | ErrorKind::DeadlineExceeded
            | ErrorKind::Overloaded
            | ErrorKind::CircuitOpen
    )
}

fn wanted(expected: &Expected) -> String {
    match expected {
        Expected::Result(text) | Expected::Text(text) => format!("`{}`", shortened(text)),
        Expected::Error { kind, code, message, data } => {
            let code = code.map(|code| format!(" {code}")).unwrap_or_default();
            let part = |text: &Option<String>, what: &str| {
                let text = text.as_ref().map(|text| format!(", {what} `{}`", shortened(text)));
                text.unwrap_or_default()
            };
            let (kind, message) = (shortened(kind), part(message, "message"));
            format!("the error `{kind}`{code}{message}{}", part(data, "data"))
        }
    }
}

fn came(error: &CallError) -> String {
    let code = number(error).map(|code| format!(" {code}")).unwrap_or_default();
    let data = match &error.data {
        Some(data) => format!(", data `{}`", shortened(data)),
        None => String::new(),
    };
    let message = shortened(&error.message);
    format!("the error `{}`{code}, message `{message}`{data}", error.kind.name())
}

/// A handler's own number.
fn number(error: &CallError) -> Option<i32> {
    match error.kind {
        ErrorKind::Application { code, .. } => Some(code),
        _ => None,
    }
}

/// A text with at most one line's end more than was wanted: programs like to end so.
fn is_text(body: &[u8], wanted: &str) -> bool {
    body == wanted.as_bytes() || body.strip_suffix(b"\n") == Some(wanted.as_bytes())
}

fn is_json(body: &[u8], wanted: &str) -> bool {
    match (serde_json::from_slice::<Json>(body), serde_json::from_str::<Json>(wanted)) {
        (Ok(came), Ok(wanted)) => same(&came, &wanted),
        _ => false,
    }
}

/// The same value, where 2 and 2.0 are one number; whole ones are compared in full.
fn same(a: &Json, b: &Json) -> bool {
    match (a, b) {
        (Json::Number(x), Json::Number(y)) => {
            x == y || (x.is_f64() || y.is_f64()) && x.as_f64() == y.as_f64()
        }
        (Json::Array(x), Json::Array(y)) => {
            x.len() == y.len() && x.iter().zip(y).all(|(a, b)| same(a, b))
        }
        (Json::Object(x), Json::Object(y)) => {
            x.len() == y.len() && x.iter().all(|(key, a)| y.get(key).is_some_and(|b| same(a, b)))
        }
        _ => a == b,
    }
}

fn shortened(text: &str) -> String {
    printable(text, MAX_SHOWN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::ReturnValue;

    fn ok(body: &str) -> Outcome {
        let body = Bytes::copy_from_slice(body.as_bytes());
        Ok(ReturnValue { body, content_type: None, headers: Vec::new() })
    }

    fn error(data: Option<&str>) -> Outcome {
        let kind = ErrorKind::Application { code: 7, retryable: false };
        let mut error = CallError::new(kind, "no such user");
        error.data = data.map(str::to_owned);
        Err(error)
    }

    fn fails(code: Option<i32>, message: Option<&str>, data: Option<&str>) -> Expected {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let (message, data) = (owned(message), owned(data));
        Expected::Error { kind: "application".to_owned(), code, message, data }
    }

    #[test]
    fn what_came_is_compared_with_what_was_expected() {
        let result = |text: &str| Expected::Result(text.to_owned());
        let text = |text: &str| Expected::Text(text.to_owned());
        for (expected, outcome) in [
            (result("{\"a\": 2, \"b\": [1]}"), ok("{\"b\":[1.0],\"a\":2.0}")),
            (result("18446744073709551615"), ok("18446744073709551615")),
            (text("hi"), ok("hi")),
            (text("hi"), ok("hi\n")),
            (fails(None, None, None), error(None)),
            (fails(Some(7), Some("such"), Some("null")), error(None)),
            (fails(None, None, Some("{\"id\":1}")), error(Some("{ \"id\": 1 }"))),
        ] {
            assert_eq!(judge(&expected, &outcome), Ok(()), "{expected:?}");
        }
        for (expected, outcome, said) in [
            (result("1"), ok("2"), "expected `1`, got `2`"),
            (result("1"), ok("\"1\""), "expected `1`, got `\"1\"`"),
            (result("[1]"), ok("[1,1]"), "expected `[1]`, got `[1,1]`"),
            (
                result("9007199254740992"),
                ok("9007199254740993"),
                "expected `9007199254740992`, got `9007199254740993`",
            ),
            (text("hi"), ok("hi\n\n"), "expected `hi`, got `hi\\n\\n`"),
            (
                text("hi"),
                error(None),
                "expected `hi`, got the error `application` 7, message `no such user`",
            ),
            (
                fails(Some(8), None, Some("1")),
                error(Some("1")),
                "expected the error `application` 8, data `1`, got the error `application` 7, \
                 message `no such user`, data `1`",
            ),
            (fails(None, None, None), ok("1"), "expected the error `application`, got `1`"),
        ] {
            let failure = judge(&expected, &outcome).unwrap_err();
            assert_eq!((failure.to_string().as_str(), failure.passing), (said, false));
        }
    }

    #[test]
    fn what_the_moment_may_have_brought_about_is_told_from_what_the_version_does() {
        let passing = |expected: &Expected, kind| {
            judge(expected, &Err(CallError::new(kind, "so it is"))).map_err(|error| error.passing)
        };
        let text = Expected::Text("hi".to_owned());
        for kind in [ErrorKind::Timeout, ErrorKind::Overloaded, ErrorKind::CircuitOpen] {
            assert_eq!(passing(&text, kind), Err(true), "{kind:?}");
            let expected = Expected::Error {
                kind: kind.name().to_owned(),
                code: None,
                message: None,
                data: None,
            };
            assert_eq!(passing(&expected, kind), Ok(()));
        }
        for kind in [ErrorKind::Trap, ErrorKind::Internal, ErrorKind::InvalidParams] {
            assert_eq!(passing(&text, kind), Err(false), "{kind:?}");
        }
    }

    #[test]
    fn neither_a_file_nor_a_guest_can_write_a_line_of_the_log() {
        let forged = format!("x\n2026-01-01 ERROR forged\x1b[31m{}", "y".repeat(100_000));
        let named = |name: &str| Case {
            name: name.to_owned(),
            method: Some(forged.clone()),
            input: CaseInput::Body(forged.clone()),
            expected: Expected::Error {
                kind: forged.clone(),
                code: None,
                message: Some(forged.clone()),
                data: Some(forged.clone()),
            },
        };
        let of_guest = judge(&named("").expected, &ok(&forged)).unwrap_err().to_string();
        for text in [shown(&named(&forged)), shown(&named("")), of_guest] {
            assert!(text.len() < 1000 && !text.contains(char::is_control), "{text}");
        }
        let strange = json!([{ "error": "trap", "code": forged }]).to_string();
        let error = from_json(strange.as_bytes()).unwrap_err().to_string();
        assert!(error.len() <= MAX_SHOWN && !error.contains(char::is_control), "{error}");
    }

    #[test]
    fn cases_travel_as_json() {
        let case = |input, expected| Case {
            name: "a case".to_owned(),
            method: Some("m".to_owned()),
            input,
            expected,
        };
        let cases = [
            case(CaseInput::Params("[1]".to_owned()), Expected::Result("1.50".to_owned())),
            case(CaseInput::Body("ä\n".to_owned()), Expected::Text(String::new())),
            case(CaseInput::Body(String::new()), fails(Some(-1), Some("m"), Some("{}"))),
        ];
        assert_eq!(from_json(to_json(&cases).as_bytes()).unwrap(), cases);
        for (text, said) in [
            ("{}", "invalid type: map, expected a list of cases"),
            ("[{}]", "case 1: it needs one of"),
            (r#"[{"text":""},{"text":"a","params":"1","body":"b"}]"#, "case 2: it has both"),
            (r#"[{"text":1}]"#, "case 1: invalid type: integer `1`, expected a string"),
            (r#"[{"error":"trap","code":3000000000}]"#, "case 1: invalid value"),
        ] {
            let error = format!("{:#}", from_json(text.as_bytes()).unwrap_err());
            assert!(error.contains(said), "{error}");
        }
    }
    #[test]
    fn there_are_so_many_cases_of_such_a_length_and_no_more() {
        let many = |count: usize| format!("[{}]", vec![r#"{"text":""}"#; count].join(","));
        assert_eq!(from_json(many(MAX_CASES).as_bytes()).unwrap().len(), MAX_CASES);
        // What comes behind the first too many is not even looked at.
        let more = many(MAX_CASES + 1).replace(']', ", nonsense");
        let error = from_json(more.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("more than 64 cases"), "{error}");
        let long = format!(r#"[{{"text":"{}"}}]"#, "x".repeat(MAX_CASE_TEXT + 1));
        let error = from_json(long.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("case 1: a text of it has 65537 bytes, the limit is"), "{error}");
    }
}
