//! Golden transcripts of the dialects: `tests/wire/<dialect>/<case>.json`, each
//! one exchange from the request's bytes to the reply's.
//!
//! `tests/wire/README.md` describes the format. Everything is compared exactly;
//! what a file does not name must not be there.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};
use rpchost::message::{
    Answered, Arguments, CallError, Delivery, Dialect, EnvelopeReply, ErrorKind, Form, HeaderValue,
    PluginId, Properties, Reply, Request, ReturnValue,
};
use rpchost::wire::{self, Decoded, MAX_BATCH};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::support::fake_broker::delivery;
use super::support::guests::root;

const DIALECTS: [&str; 7] =
    ["plain", "json-rpc", "envelope", "nameko", "nestjs", "celery", "aio-pika"];

/// What plugins in the transcripts are identified by; twelve digits of it show.
const DIGEST: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Where replies go in every transcript.
const REPLY_TO: &str = "answers";

/// Room enough for every transcript that does not say otherwise.
const LIMIT: usize = 1 << 20;

#[test]
fn every_transcript_is_reproduced_byte_for_byte() {
    let cases = all();
    let wrong: Vec<String> =
        cases.iter().filter_map(|(name, case)| case.difference(name)).collect();
    assert!(
        wrong.is_empty(),
        "{} of {} transcripts differ (`-` the file, `+` the code):\n\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
}

#[test]
fn every_error_kind_has_a_transcript_in_every_dialect() {
    let cases = all();
    for dialect in DIALECTS {
        let shown: BTreeSet<&str> = cases
            .iter()
            .filter(|(name, _)| name.starts_with(dialect))
            .flat_map(|(_, case)| case.kinds())
            .collect();
        for kind in ErrorKind::ALL {
            assert!(shown.contains(kind.name()), "no transcript of `{}` in {dialect}", kind.name());
        }
    }
}

#[test]
fn a_transcript_with_an_unknown_field_is_an_error() {
    let good = r#"{"about": "x", "request": {"body": ""}, "calls": [], "reply": null}"#;
    assert!(serde_json::from_str::<Case>(good).is_ok());
    for bad in [
        good.replace("about", "abuot"),
        good.replace(r#""body": """#, r#""body": "", "bdoy": """#),
        good.replace(r#""body": """#, r#""body": {"txt": ""}"#),
        good.replace("[]", r#"[{"methd": "x"}]"#),
        good.replace(r#", "reply": null"#, ""),
    ] {
        assert!(serde_json::from_str::<Case>(&bad).is_err(), "{bad}");
    }
}

#[test]
fn a_batch_of_the_largest_size_is_answered_call_by_call_in_order() {
    let items: Vec<String> = (0..MAX_BATCH)
        .map(|id| format!(r#"{{"jsonrpc":"2.0","method":"m","params":[{id}],"id":{id}}}"#))
        .collect();
    let delivery = delivery(None, format!("[{}]", items.join(",")));
    let (calls, mut encoder) = wire::decode(&delivery, Dialect::Auto).into_parts(LIMIT);
    assert_eq!(calls.len(), MAX_BATCH);
    for (at, call) in calls.into_iter().enumerate() {
        let (request, to) = call.into_request();
        let arguments = Arguments::Json(Bytes::from(format!("[{at}]")));
        assert_eq!(request, Ok(Request { method: Some("m".to_owned()), arguments }));
        encoder.push(&to, result(at.to_string().into()));
    }
    let reply = encoder.finish(&delivery, &REPLY_TO.into(), None).expect("a reply");
    let expected: Vec<String> = (0..MAX_BATCH)
        .map(|id| format!(r#"{{"jsonrpc":"2.0","result":{id},"id":{id}}}"#))
        .collect();
    assert_eq!(text(&reply.body), format!("[{}]", expected.join(",")));
}

#[test]
fn an_error_text_is_never_longer_than_the_contract_allows() {
    // What a dialect says of a hostile body must not repeat the body.
    let method = "m".repeat(100_000);
    for body in [
        format!(r#"{{"jsonrpc":"{method}","method":"m","id":1}}"#),
        format!(r#"{{"jsonrpc":"2.0","method":["{method}"],"id":1}}"#),
        format!(r#"{{"jsonrpc":"2.0","method":"m","params":"{method}","id":1}}"#),
        format!(r#"{{"jsonrpc":"2.0","method":"m","id":{{"{method}":1}}}}"#),
    ] {
        let (calls, _) = wire::decode(&delivery(None, body), Dialect::JsonRpc).into_parts(LIMIT);
        let error = calls[0].request.as_ref().expect_err("a refusal");
        assert!(error.message.len() <= 4096, "{} bytes", error.message.len());
        assert!(!error.message.contains("mmmm"), "{}", error.message);
    }
}

#[test]
fn hostile_bytes_never_panic_and_every_reply_is_well_formed() {
    // Fixed, so that a failure comes again; the long run goes on where the short one
    // ends.
    let mut rng = StdRng::seed_from_u64(0x0072_7063_686f_7374);
    let long: u64 = std::env::var("RPCHOST_TEST_WIRE_SECONDS")
        .map_or(0, |seconds| seconds.parse().expect("a number of seconds"));
    let until = Instant::now() + Duration::from_secs(long);
    let corpus: Vec<Delivery> = all()
        .into_iter()
        .map(|(_, case)| case.delivery())
        .filter(|delivery| delivery.body.len() < 4096)
        .collect();
    let bodies: Vec<Bytes> = corpus.iter().map(|delivery| delivery.body.clone()).collect();
    let mut round = 0;
    while round < 20_000 || Instant::now() < until {
        round += 1;
        let mut delivery = corpus[rng.random_range(0..corpus.len())].clone();
        delivery.body = hostile(&mut rng, &bodies).into();
        disturb(&mut rng, &mut delivery);
        delivery.redelivered = rng.random();
        for dialect in Dialect::ALL {
            check_reply(&mut rng, &delivery, wire::decode(&delivery, dialect), dialect, round);
            let error = CallError::new(ErrorKind::BadRequest, "too large");
            let refused = wire::refuse(&delivery, dialect, error);
            check_reply(&mut rng, &delivery, refused, dialect, round);
        }
    }
    eprintln!("{round} messages in every dialect");
}

#[test]
fn deep_nesting_is_refused_or_taken_without_using_up_the_stack() {
    for depth in [100, 1_000, 1_000_000] {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let nested = format!("{}1{}", open.repeat(depth), close.repeat(depth));
            let call = format!(r#"{{"jsonrpc":"2.0","method":"m","params":[{nested}],"id":1}}"#);
            for body in [nested.clone(), open.repeat(depth), call, format!("[{nested}]")] {
                for dialect in Dialect::ALL {
                    let delivery = delivery(None, body.clone());
                    let (calls, mut encoder) = wire::decode(&delivery, dialect).into_parts(LIMIT);
                    for call in calls {
                        let (request, to) = call.into_request();
                        let answered = match request {
                            Ok(_) => result(Bytes::from(nested.clone())),
                            Err(error) => Answered::unrouted(error),
                        };
                        encoder.push(&to, answered);
                    }
                    let _reply = encoder.finish(&delivery, &REPLY_TO.into(), None);
                }
            }
        }
    }
}

/// Answers every call somehow, and looks at what comes out.
fn check_reply(
    rng: &mut StdRng,
    delivery: &Delivery,
    decoded: Decoded,
    dialect: Dialect,
    round: usize,
) {
    let (calls, mut encoder) = decoded.into_parts(256);
    assert!((1..=MAX_BATCH).contains(&calls.len()), "round {round}: {} calls", calls.len());
    for call in calls {
        let (request, to) = call.into_request();
        let answered = match request {
            Err(error) => Answered::unrouted(error),
            Ok(_) if rng.random_ratio(1, 4) => {
                let data = String::from_utf8_lossy(&noise(rng)).into_owned();
                Answered::unrouted(CallError::new(ErrorKind::Trap, "t").with_data(data))
            }
            Ok(_) => result(Bytes::from(noise(rng))),
        };
        encoder.push(&to, answered);
    }
    let Some(reply) = encoder.finish(delivery, &REPLY_TO.into(), None) else { return };
    let names: BTreeSet<&str> = reply.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names.len(), reply.headers.len(), "round {round}: a header twice");
    let pickled = reply.content_type.as_deref() == Some("application/python-pickle");
    let wrapped = !matches!(dialect, Dialect::Auto | Dialect::Plain);
    if (wrapped || reply.kind == Some("error")) && !pickled {
        let body = text(&reply.body);
        let value: Result<&RawValue, _> = serde_json::from_str(&body);
        assert!(value.is_ok(), "round {round}: the reply is not JSON: {body}");
    }
}

fn result(body: Bytes) -> Answered {
    Answered {
        outcome: Ok(ReturnValue { body, content_type: None, headers: Vec::new() }),
        plugin: None,
    }
}

/// Changes what stands beside the body, or leaves it.
fn disturb(rng: &mut StdRng, delivery: &mut Delivery) {
    let properties = &mut delivery.properties;
    match rng.random_range(0..10) {
        0 => properties.kind = Some(word(rng)),
        1 => properties.content_type = Some(word(rng)),
        2 => properties.correlation_id = Some(Bytes::from(noise(rng))),
        3 => delivery.routing_key = word(rng),
        4 => delivery.exchange = word(rng),
        5 => properties.headers.push(("rpc-method".to_owned(), HeaderValue::Text(word(rng)))),
        6 => properties.headers.clear(),
        7 if !properties.headers.is_empty() => {
            let at = rng.random_range(0..properties.headers.len());
            let text = HeaderValue::Text(word(rng));
            properties.headers[at].1 = match rng.random_range(0..5) {
                0 => HeaderValue::Null,
                1 => HeaderValue::Int(rng.random()),
                2 => HeaderValue::Bytes(noise(rng).into()),
                3 => HeaderValue::List(vec![text, HeaderValue::Bool(rng.random())]),
                _ => text,
            };
        }
        _ => {}
    }
}

/// A body out of `corpus` that was damaged, or nothing but noise.
fn hostile(rng: &mut StdRng, corpus: &[Bytes]) -> Vec<u8> {
    if rng.random_ratio(1, 10) {
        return noise(rng);
    }
    let mut body = corpus[rng.random_range(0..corpus.len())].to_vec();
    for _ in 0..rng.random_range(1..6) {
        let at = rng.random_range(0..=body.len());
        match rng.random_range(0..6) {
            0 => body.truncate(at),
            1 => body.insert(at, rng.random()),
            2 if at < body.len() => body[at] ^= 1 << rng.random_range(0..8),
            3 if at < body.len() => drop(body.remove(at)),
            4 => {
                // Characters that mean something.
                let special = b"[]{}\",:\\n0-.eE\x00\xff ";
                body.insert(at, special[rng.random_range(0..special.len())]);
            }
            _ => {
                let other = &corpus[rng.random_range(0..corpus.len())];
                let tail = other.slice(rng.random_range(0..=other.len())..);
                body.truncate(at);
                body.extend_from_slice(&tail);
            }
        }
    }
    body
}

fn noise(rng: &mut StdRng) -> Vec<u8> {
    let mut bytes = vec![0; rng.random_range(0..64)];
    rng.fill_bytes(&mut bytes);
    if rng.random() {
        bytes.iter_mut().for_each(|byte| *byte = b"[]{}\",:\\u019.e-tfn "[usize::from(*byte) % 19]);
    }
    bytes
}

fn word(rng: &mut StdRng) -> String {
    (0..rng.random_range(0..8)).map(|_| rng.random::<char>()).collect()
}

/// Every transcript, by `<dialect>/<file>`, in the order of their names.
fn all() -> Vec<(String, Case)> {
    let mut cases = Vec::new();
    for dialect in DIALECTS {
        let directory: PathBuf = root().join("tests/wire").join(dialect);
        let entries = std::fs::read_dir(&directory)
            .unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
        for entry in entries {
            let path = entry.expect("an entry").path();
            let file = path.file_name().expect("a name").to_string_lossy().into_owned();
            assert!(file.ends_with(".json"), "{}: not a transcript", path.display());
            let text = std::fs::read_to_string(&path).expect("a transcript");
            let case = serde_json::from_str(&text)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            cases.push((format!("{dialect}/{file}"), case));
        }
    }
    cases.sort_by(|(a, _), (b, _)| a.cmp(b));
    cases
}

/// One transcript as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// What it shows, in a sentence.
    #[serde(rename = "about")]
    _about: String,
    /// `auto` if absent.
    dialect: Option<String>,
    /// Whether a message that names no method asks for the one of its key.
    #[serde(default)]
    method_by_key: bool,
    /// The form of `envelope`'s replies, if one is configured.
    envelope_reply: Option<String>,
    request: RequestFile,
    /// Refused as a whole with this, before anything was decoded.
    refused: Option<ErrorFile>,
    /// Largest reply body of a batch.
    limit: Option<usize>,
    /// What is decoded.
    calls: Vec<CallFile>,
    /// One for each call that can be run, in order.
    #[serde(default)]
    outcomes: Vec<OutcomeFile>,
    /// `null` where nobody is answered.
    #[serde(deserialize_with = "Option::deserialize")]
    reply: Option<ReplyFile>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestFile {
    #[serde(default)]
    exchange: String,
    #[serde(default)]
    routing_key: String,
    #[serde(default)]
    properties: PropertiesFile,
    #[serde(default)]
    headers: Map<String, Value>,
    #[serde(default)]
    redelivered: bool,
    body: Octets,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct PropertiesFile {
    #[serde(rename = "type")]
    kind: Option<String>,
    correlation_id: Option<Octets>,
    content_type: Option<String>,
    message_id: Option<String>,
    delivery_mode: Option<u8>,
    /// Absent is where every transcript's answers go; empty is nowhere.
    reply_to: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CallFile {
    method: Option<String>,
    /// The body as it came.
    body: Option<Octets>,
    /// JSON out of an envelope; neither this nor `body` is no arguments.
    params: Option<Box<RawValue>>,
    /// JSON out of an envelope that says nothing of position or name.
    value: Option<Box<RawValue>>,
    /// By position and by name, always together.
    args: Option<Box<RawValue>>,
    kwargs: Option<Box<RawValue>>,
    error: Option<ErrorFile>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OutcomeFile {
    plugin: Option<String>,
    result: Option<ResultFile>,
    error: Option<ErrorFile>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ResultFile {
    body: Octets,
    content_type: Option<String>,
    #[serde(default)]
    headers: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ErrorFile {
    kind: String,
    message: String,
    code: Option<i32>,
    retryable: Option<bool>,
    data: Option<Octets>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReplyFile {
    exchange: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    content_type: Option<String>,
    correlation_id: Option<Octets>,
    #[serde(default)]
    persistent: bool,
    headers: Map<String, Value>,
    body: Octets,
}

/// Bytes as a person can write them: a text, or an object with one of `json`
/// (the JSON text as it stands in the file), `base64`, `text`, `parts` (put
/// together), and perhaps `times`.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "Box<RawValue>")]
struct Octets(Bytes);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OctetsFile {
    json: Option<Box<RawValue>>,
    base64: Option<String>,
    text: Option<String>,
    parts: Option<Vec<Octets>>,
    times: Option<usize>,
}

impl TryFrom<Box<RawValue>> for Octets {
    type Error = String;

    fn try_from(raw: Box<RawValue>) -> Result<Self, String> {
        if raw.get().starts_with('"') {
            let text: String =
                serde_json::from_str(raw.get()).map_err(|error| error.to_string())?;
            return Ok(Self(text.into()));
        }
        let file: OctetsFile =
            serde_json::from_str(raw.get()).map_err(|error| error.to_string())?;
        let once = match (file.json, file.base64, file.text, file.parts) {
            (Some(json), None, None, None) => json.get().as_bytes().to_vec(),
            (None, Some(base64), None, None) => {
                BASE64.decode(base64).map_err(|error| error.to_string())?
            }
            (None, None, Some(text), None) => text.into_bytes(),
            (None, None, None, Some(parts)) => {
                parts.iter().flat_map(|part| part.0.to_vec()).collect()
            }
            _ => return Err("bytes are one of `json`, `base64`, `text`, `parts`".to_owned()),
        };
        Ok(Self(once.repeat(file.times.unwrap_or(1)).into()))
    }
}

impl Case {
    fn form(&self) -> Form {
        let named = |name: &str| Dialect::ALL.into_iter().find(|dialect| dialect.name() == name);
        Form {
            dialect: self
                .dialect
                .as_deref()
                .map_or(Dialect::Auto, |name| named(name).expect("the name of a dialect")),
            method_by_key: self.method_by_key,
            envelope_reply: self.envelope_reply.as_deref().map(|name| {
                let mut forms = EnvelopeReply::ALL.into_iter();
                forms.find(|form| form.name() == name).expect("the name of a form")
            }),
        }
    }

    fn delivery(&self) -> Delivery {
        let request = &self.request;
        let mut delivery = delivery(None, request.body.0.clone());
        delivery.redelivered = request.redelivered;
        delivery.exchange.clone_from(&request.exchange);
        delivery.routing_key.clone_from(&request.routing_key);
        let reply_to = request.properties.reply_to.clone().unwrap_or_else(|| REPLY_TO.to_owned());
        delivery.properties = Properties {
            reply_to: Some(reply_to.into()),
            kind: request.properties.kind.clone(),
            correlation_id: request.properties.correlation_id.as_ref().map(|id| id.0.clone()),
            content_type: request.properties.content_type.clone(),
            message_id: request.properties.message_id.clone(),
            delivery_mode: request.properties.delivery_mode,
            headers: request
                .headers
                .iter()
                .map(|(name, value)| (name.clone(), header_value(value)))
                .collect(),
            ..Properties::default()
        };
        delivery
    }

    /// Names of the error kinds that it shows on the wire.
    fn kinds(&self) -> Vec<&'static str> {
        let decoded = self.calls.iter().filter_map(|call| call.error.as_ref());
        let given = self.outcomes.iter().filter_map(|outcome| outcome.error.as_ref());
        decoded.chain(given).map(|error| error.error().kind.name()).collect()
    }

    /// What the code does otherwise than the file says, to be read by a person.
    fn difference(&self, name: &str) -> Option<String> {
        let delivery = self.delivery();
        let decoded = match &self.refused {
            None => wire::decode(&delivery, self.form()),
            Some(error) => wire::refuse(&delivery, self.form(), error.error()),
        };
        let mut expected: Vec<String> = self.calls.iter().map(CallFile::line).collect();
        let mut actual: Vec<String> =
            decoded.calls.iter().map(|call| call_line(&call.request)).collect();
        let mut outcomes = self.outcomes.iter();
        let (calls, mut encoder) = decoded.into_parts(self.limit.unwrap_or(LIMIT));
        for call in calls {
            let (request, to) = call.into_request();
            let answered = match request {
                Err(error) => Answered::unrouted(error),
                Ok(_) => match outcomes.next() {
                    Some(outcome) => outcome.answered(),
                    None => {
                        actual.push("a call without an outcome in the file".to_owned());
                        continue;
                    }
                },
            };
            encoder.push(&to, answered);
        }
        if outcomes.next().is_some() {
            expected.push("an outcome for a call that was not decoded".to_owned());
        }
        match &self.reply {
            Some(reply) => expected.extend(reply.lines()),
            None => expected.push("no reply".to_owned()),
        }
        match encoder.finish(&delivery, &REPLY_TO.into(), None) {
            Some(reply) => actual.extend(lines_of(&reply)),
            None => actual.push("no reply".to_owned()),
        }
        (expected != actual).then(|| side_by_side(name, &expected, &actual))
    }
}

impl CallFile {
    fn line(&self) -> String {
        call_line(&match &self.error {
            Some(error) => Err(error.error()),
            None => Ok(Request { method: self.method.clone(), arguments: self.arguments() }),
        })
    }
}

impl CallFile {
    fn arguments(&self) -> Arguments {
        let bytes = |raw: &RawValue| Bytes::from(raw.get().to_owned());
        match (&self.body, &self.params, &self.value, &self.args, &self.kwargs) {
            (Some(body), None, None, None, None) => Arguments::Body(body.0.clone()),
            (None, Some(params), None, None, None) => Arguments::Json(bytes(params)),
            (None, None, Some(value), None, None) => Arguments::Value(bytes(value)),
            (None, None, None, Some(args), Some(kwargs)) => {
                Arguments::Call { args: bytes(args), kwargs: bytes(kwargs) }
            }
            (None, None, None, None, None) => Arguments::Json(Bytes::new()),
            _ => panic!("a call has one of `body`, `params`, `value`, `args` and `kwargs`"),
        }
    }
}

impl OutcomeFile {
    fn answered(&self) -> Answered {
        let outcome = match (&self.result, &self.error) {
            (Some(result), None) => Ok(ReturnValue {
                body: result.body.0.clone(),
                content_type: result.content_type.clone(),
                headers: result
                    .headers
                    .iter()
                    .map(|(name, value)| (name.clone(), string(value)))
                    .collect(),
            }),
            (None, Some(error)) => Err(error.error()),
            _ => panic!("an outcome is a `result` or an `error`"),
        };
        let plugin = self
            .plugin
            .as_ref()
            .map(|name| PluginId { name: name.as_str().into(), digest: DIGEST.into() });
        Answered { outcome, plugin }
    }
}

impl ErrorFile {
    fn error(&self) -> CallError {
        let kind = ErrorKind::ALL
            .into_iter()
            .find(|kind| kind.name() == self.kind)
            .unwrap_or_else(|| panic!("`{}` is not a kind of error", self.kind));
        let kind = match (kind, self.code, self.retryable) {
            (ErrorKind::Application { .. }, Some(code), Some(retryable)) => {
                ErrorKind::Application { code, retryable }
            }
            (ErrorKind::MethodNotFound { .. }, None, Some(retryable)) => {
                ErrorKind::MethodNotFound { retryable }
            }
            (ErrorKind::Application { .. } | ErrorKind::MethodNotFound { .. }, ..)
            | (_, Some(_), _)
            | (_, _, Some(_)) => {
                panic!(
                    "`code` and `retryable` belong to application, `retryable` to method-not-found"
                )
            }
            (kind, None, None) => kind,
        };
        let error = CallError::new(kind, self.message.as_str());
        match &self.data {
            None => error,
            Some(data) => error.with_data(text(&data.0)),
        }
    }
}

impl ReplyFile {
    fn lines(&self) -> Vec<String> {
        let headers =
            self.headers.iter().map(|(name, value)| (name.clone(), string(value))).collect();
        lines_of(&Reply {
            exchange: self.exchange.as_deref().map(Into::into),
            routing_key: REPLY_TO.into(),
            direct_node: None,
            correlation_id: self.correlation_id.as_ref().map(|id| id.0.clone()),
            content_type: self.content_type.clone(),
            kind: match self.kind.as_deref() {
                None => None,
                Some("error") => Some("error"),
                Some("result") => Some("result"),
                Some(other) => panic!("no dialect has replies of type `{other}`"),
            },
            headers,
            persistent: self.persistent,
            body: self.body.0.clone(),
        })
    }
}

fn header_value(value: &Value) -> HeaderValue {
    match value {
        Value::Null => HeaderValue::Null,
        Value::Bool(value) => HeaderValue::Bool(*value),
        Value::String(text) => HeaderValue::Text(text.clone()),
        Value::Number(number) => HeaderValue::Int(number.as_i64().expect("a whole number")),
        Value::Array(items) => HeaderValue::List(items.iter().map(header_value).collect()),
        Value::Object(members) => HeaderValue::Table(
            members.iter().map(|(name, value)| (name.clone(), header_value(value))).collect(),
        ),
    }
}

fn string(value: &Value) -> String {
    value.as_str().expect("a header of a reply is a text").to_owned()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// One line that says all of a decoded call.
fn call_line(request: &Result<Request, CallError>) -> String {
    match request {
        Ok(request) => {
            let method = match &request.method {
                Some(method) => format!("{method:?}"),
                None => "the default method".to_owned(),
            };
            match &request.arguments {
                Arguments::Body(body) => format!("call {method} with the body {}", shown(body)),
                Arguments::Json(json) => format!("call {method} with the params {}", shown(json)),
                Arguments::Value(json) => format!("call {method} with the value {}", shown(json)),
                Arguments::Call { args, kwargs } => {
                    format!("call {method} with {} and {}", shown(args), shown(kwargs))
                }
            }
        }
        Err(error) => format!(
            "refused {} {:?} {:?}",
            error.kind.name(),
            error.message,
            error.data.as_deref().unwrap_or("without data")
        ),
    }
}

/// All of a reply; the order of headers means nothing in AMQP.
fn lines_of(reply: &Reply) -> Vec<String> {
    let mut lines = vec![
        format!("reply exchange      {:?}", reply.exchange),
        format!("reply to            {}", String::from_utf8_lossy(&reply.routing_key)),
        format!("reply type          {}", reply.kind.unwrap_or("none")),
        format!("reply content type  {:?}", reply.content_type),
        format!("reply correlation   {:?}", reply.correlation_id.as_deref().map(shown)),
        format!("reply persistent    {}", reply.persistent),
        format!("reply direct        {}", reply.direct_node.is_some()),
    ];
    let mut headers = reply.headers.clone();
    headers.sort();
    lines
        .extend(headers.iter().map(|(name, value)| format!("reply header        {name}: {value}")));
    lines.push(format!("reply body          {}", shown(&reply.body)));
    lines
}

fn shown(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.chars().all(|c| !c.is_control()) => format!("`{text}`"),
        Ok(text) => format!("{text:?}"),
        Err(_) => format!("base64 {}", BASE64.encode(bytes)),
    }
}

fn side_by_side(name: &str, expected: &[String], actual: &[String]) -> String {
    let mut text = format!("tests/wire/{name}\n");
    let missing = expected.iter().filter(|line| !actual.contains(line)).map(|line| ("-", line));
    let added = actual.iter().filter(|line| !expected.contains(line)).map(|line| ("+", line));
    for (sign, line) in missing.chain(added) {
        text.push_str(&format!("  {sign} {line}\n"));
    }
    if expected.len() == actual.len() && text.lines().count() == 1 {
        text.push_str("  the order differs\n");
    }
    text
}
