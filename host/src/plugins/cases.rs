//! Cases: a request, and what must come of it.
//!
//! Written down as JSON they travel in the plugin's file; run against a version, they say whether
//! it does what its author wanted. Before a version serves it must pass those that it brings.

use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use serde_json::{Map, Value as Json, json};

use super::circuit::Circuit;
use super::plugin::{Invocation, Plugin};
use crate::capabilities::CallFacts;
use crate::config::{Case, CaseInput, Expected, MAX_CASE_TEXT, MAX_CASES};
use crate::message::{Arguments, CallError, ErrorKind, Outcome};

/// Longest that all cases of a version may take together before it serves. A plugin that needs
/// longer than this to show that it works should show less.
const SELF_TEST: Duration = Duration::from_secs(30);

/// Longest part of an answer that is shown where another was expected, in bytes.
const MAX_SHOWN: usize = 200;

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

/// Reads them back.
///
/// # Errors
///
/// Says what is wrong, and in which of them.
pub(super) fn from_json(text: &[u8]) -> anyhow::Result<Vec<Case>> {
    let all: Vec<Map<String, Json>> = serde_json::from_slice(text)?;
    if all.len() > MAX_CASES {
        bail!("it has {} cases, the limit is {MAX_CASES}", all.len());
    }
    let numbered = all.iter().enumerate();
    numbered
        .map(|(index, case)| one_of_json(case).with_context(|| format!("case {}", index + 1)))
        .collect()
}

fn one_of_json(case: &Map<String, Json>) -> anyhow::Result<Case> {
    let get = |key: &str| match case.get(key) {
        None => Ok(None),
        Some(Json::String(text)) if text.len() <= MAX_CASE_TEXT => Ok(Some(text.clone())),
        Some(Json::String(text)) => {
            Err(anyhow!("`{key}` has {} bytes, the limit is {MAX_CASE_TEXT}", text.len()))
        }
        Some(_) => Err(anyhow!("`{key}` is no text")),
    };
    let input = match (get("params")?, get("body")?) {
        (Some(params), None) => CaseInput::Params(params),
        (None, body) => CaseInput::Body(body.unwrap_or_default()),
        (Some(_), Some(_)) => bail!("it has both `params` and `body`"),
    };
    let code = case.get("code").and_then(Json::as_i64).and_then(|code| i32::try_from(code).ok());
    let expected = match (get("result")?, get("text")?, get("error")?) {
        (Some(result), None, None) => Expected::Result(result),
        (None, Some(text), None) => Expected::Text(text),
        (None, None, Some(kind)) => {
            Expected::Error { kind, code, message: get("message")?, data: get("data")? }
        }
        _ => bail!("it needs one of `result`, `text` and `error`"),
    };
    Ok(Case { name: get("name")?.unwrap_or_default(), method: get("method")?, input, expected })
}

/// As a person calls it: its name, else what it calls and with what.
#[must_use]
pub fn shown(case: &Case) -> String {
    if !case.name.is_empty() {
        return case.name.clone();
    }
    let (CaseInput::Params(input) | CaseInput::Body(input)) = &case.input;
    let whole = format!("{} {input}", case.method.as_deref().unwrap_or_default());
    cut(&whole.split_whitespace().collect::<Vec<_>>().join(" "), 60)
}

/// Runs a case, with the limits that any call of this plugin has.
///
/// # Errors
///
/// Says what was expected, and what came instead.
pub async fn run(plugin: &Plugin, case: &Case) -> Result<(), String> {
    let Some(method) = plugin.canonical(case.method.as_deref()) else {
        return Err(match &case.method {
            Some(name) => format!("there is no method `{name}`"),
            None => "there is more than one method; say which with `method`".to_owned(),
        });
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
    judge(&case.expected, &plugin.call(invocation).await)
}

fn judge(expected: &Expected, outcome: &Outcome) -> Result<(), String> {
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
    let came = match outcome {
        Ok(returned) => format!("`{}`", cut(&String::from_utf8_lossy(&returned.body), MAX_SHOWN)),
        Err(error) => came(error),
    };
    Err(format!("expected {}, got {came}", wanted(expected)))
}

fn wanted(expected: &Expected) -> String {
    match expected {
        Expected::Result(text) | Expected::Text(text) => format!("`{}`", cut(text, MAX_SHOWN)),
        Expected::Error { kind, code, message, data } => {
            let code = code.map(|code| format!(" {code}")).unwrap_or_default();
            let part = |text: &Option<String>, what: &str| {
                let text = text.as_ref().map(|text| format!(", {what} `{}`", cut(text, MAX_SHOWN)));
                text.unwrap_or_default()
            };
            format!("the error `{kind}`{code}{}{}", part(message, "message"), part(data, "data"))
        }
    }
}

fn came(error: &CallError) -> String {
    let code = number(error).map(|code| format!(" {code}")).unwrap_or_default();
    let data = match &error.data {
        Some(data) => format!(", data `{}`", cut(data, MAX_SHOWN)),
        None => String::new(),
    };
    let message = cut(&error.message, MAX_SHOWN);
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

/// The same value, where 2 and 2.0 are one number.
fn same(a: &Json, b: &Json) -> bool {
    match (a, b) {
        (Json::Number(x), Json::Number(y)) => x == y || x.as_f64() == y.as_f64(),
        (Json::Array(x), Json::Array(y)) => {
            x.len() == y.len() && x.iter().zip(y).all(|(a, b)| same(a, b))
        }
        (Json::Object(x), Json::Object(y)) => {
            x.len() == y.len() && x.iter().all(|(key, a)| y.get(key).is_some_and(|b| same(a, b)))
        }
        _ => a == b,
    }
}

fn cut(text: &str, limit: usize) -> String {
    let mut text = text.to_owned();
    crate::message::truncate(&mut text, limit);
    text
}

/// Has a version pass the cases that its file brings. Blocks; not for async threads.
///
/// # Errors
///
/// Says which do not pass, and the first of them in full.
pub(super) fn self_test(plugin: Plugin) -> anyhow::Result<Plugin> {
    let cases = &plugin.about().cases;
    if cases.is_empty() {
        return Ok(plugin);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("its self-test could not be started")?;
    // What was tried is not what serves: an instance that is used again knows of its calls.
    plugin.retire(true);
    let failed = runtime.block_on(async {
        let all = async {
            let mut failed = Vec::new();
            for case in cases {
                if let Err(difference) = run(&plugin, case).await {
                    failed.push(format!("`{}`: {difference}", shown(case)));
                }
            }
            failed
        };
        tokio::time::timeout(SELF_TEST, all).await
    });
    plugin.retire(false);
    let hint = format!("`self-test = false` in `{}.toml` serves it untested", plugin.id().name);
    match failed {
        Ok(failed) => match failed.first() {
            None => Ok(plugin.with_circuit(Circuit::new())),
            Some(first) => bail!(
                "{} of its {} cases failed, the first is {first}; {hint}",
                failed.len(),
                cases.len()
            ),
        },
        Err(_) => {
            bail!("its {} cases were not over after {SELF_TEST:?}; {hint}", cases.len())
        }
    }
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
            (text("hi"), ok("hi\n\n"), "expected `hi`, got `hi\n\n`"),
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
            assert_eq!(judge(&expected, &outcome), Err(said.to_owned()));
        }
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
            ("{}", "invalid type"),
            ("[{}]", "case 1: it needs one of"),
            (r#"[{"text":"a","params":"1","body":"b"}]"#, "case 1: it has both"),
            (r#"[{"text":1}]"#, "case 1: `text` is no text"),
        ] {
            let error = format!("{:#}", from_json(text.as_bytes()).unwrap_err());
            assert!(error.contains(said), "{error}");
        }
    }
}
