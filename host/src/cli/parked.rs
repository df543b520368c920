//! `rpchost parked`: requests that were set aside, for the person who decides
//! what becomes of them.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use clap::{ArgMatches, Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};

use super::{USAGE, output};
use crate::amqp::{OpenError, ParkedQueue, ParkedRequest};
use crate::config::Per;
use crate::message::{Form as Written, HeaderValue};
use crate::wire;

/// An id that is not there, or a queue that does not take a request.
const NOT_DONE: u8 = 1;
/// No broker lets us in.
const NOBODY: u8 = 4;

/// Most bytes of a body that are shown on a terminal; `-o json` has all.
const SHOWN: usize = 16 * 1024;

/// Arguments of `parked`.
#[derive(Debug, Args)]
pub(super) struct ParkedArgs {
    #[command(subcommand)]
    action: Action,

    /// The queue that they were sent to [default: the first listener's]
    #[arg(long, global = true, env = "RPCHOST_QUEUE", value_name = "NAME")]
    queue: Option<String>,

    /// Broker, as for `serve`; repeatable
    #[arg(
        long,
        global = true,
        env = "RPCHOST_AMQP_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    amqp_url: Vec<String>,

    /// Form of the output
    #[arg(long, short, global = true, value_enum, default_value_t = Form::Text)]
    output: Form,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Which there are: id, method, age, reason and size
    List {
        /// Most requests to show
        #[arg(long, value_name = "N", default_value_t = 1000)]
        limit: u32,
    },
    /// One of them with its properties, headers and body
    Show {
        /// The id, from `list`
        id: String,
    },
    /// Send some to the queue again; each is removed when the queue has it
    Replay(Which),
    /// Remove some for good
    Drop(Which),
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// Ids, from `list`
    #[arg(value_name = "ID")]
    ids: Vec<String>,

    /// All that are there now
    #[arg(long)]
    all: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    Text,
    Json,
}

/// Why it was not done, and the exit code that says so.
struct Failed(u8, String);

impl From<OpenError> for Failed {
    fn from(error: OpenError) -> Self {
        Self(NOBODY, error.to_string())
    }
}

pub(super) fn run(args: &ParkedArgs, matches: &ArgMatches) -> ExitCode {
    // The runtime is needed by every action, so it comes first.
    let done = super::runtime()
        .map_err(|error| Failed(NOT_DONE, format!("{error:#}")))
        .and_then(|runtime| runtime.block_on(parked(args, matches)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failed(code, text)) => {
            output::error(text);
            ExitCode::from(code)
        }
    }
}

async fn parked(args: &ParkedArgs, matches: &ArgMatches) -> Result<(), Failed> {
    let (config, connector) =
        super::client(&args.amqp_url, None, matches).map_err(|text| Failed(USAGE, text))?;
    let named =
        super::named_queue(args.queue.as_deref(), matches).map_err(|text| Failed(USAGE, text))?;
    let (name, written): (&str, Written) = match (&named, config.listeners.first()) {
        (Some(name), _) => {
            let listener = config.listener_of(name);
            (name, listener.map(|listener| listener.form).unwrap_or_default())
        }
        (None, Some(first)) if first.per == Per::Listener => (&first.queue.name, first.form),
        (None, Some(first)) => {
            let name = &first.queue.name;
            let text = format!("there are several queues, `{name}`; name one with `--queue`");
            return Err(Failed(USAGE, text));
        }
        (None, None) => {
            return Err(Failed(USAGE, "the configuration has no listener".to_owned()));
        }
    };
    let queue = ParkedQueue::open(&connector, name).await?;
    let done = match &args.action {
        Action::List { limit } => list(queue.as_ref(), name, written, *limit, args.output).await,
        Action::Show { id } => show(queue.as_ref(), id, written, args.output).await,
        Action::Replay(which) => each(queue.as_ref(), which, true, args.output).await,
        Action::Drop(which) => each(queue.as_ref(), which, false, args.output).await,
    };
    // What was only looked at goes back; what was done has reached the broker.
    let closed = match queue {
        Some(queue) => queue.close().await,
        None => Ok(()),
    };
    done?;
    Ok(closed?)
}

async fn list(
    queue: Option<&ParkedQueue>,
    name: &str,
    written: Written,
    limit: u32,
    form: Form,
) -> Result<(), Failed> {
    let mut requests = Vec::new();
    let waiting = queue.map_or(0, |queue| queue.waiting);
    if let Some(queue) = queue {
        for _ in 0..waiting.min(limit) {
            let Some(request) = queue.next().await? else { break };
            requests.push(summary(&request, written));
        }
    }
    // The broker gives back in its own order what somebody has looked at.
    requests.sort_by_key(|request| (request.at.is_none(), request.at));
    if form == Form::Json {
        output::line(&Value::Array(requests.iter().map(Summary::json).collect()).to_string());
        return Ok(());
    }
    if requests.is_empty() {
        output::line(&format!("no request of the queue `{name}` is parked"));
        return Ok(());
    }
    table(&requests);
    let left = waiting.saturating_sub(u32::try_from(requests.len()).unwrap_or(u32::MAX));
    if left > 0 {
        output::line(&format!("… and {left} more; see them with `--limit {waiting}`"));
    }
    Ok(())
}

async fn show(
    queue: Option<&ParkedQueue>,
    id: &str,
    written: Written,
    form: Form,
) -> Result<(), Failed> {
    if let Some(queue) = queue {
        for _ in 0..queue.waiting {
            let Some(request) = queue.next().await? else { break };
            if request.note.id == id {
                match form {
                    Form::Text => show_text(&request, written),
                    Form::Json => output::line(&whole(&request, written).to_string()),
                }
                return Ok(());
            }
        }
    }
    Err(missing(&[id]))
}

/// Replays or drops.
async fn each(
    queue: Option<&ParkedQueue>,
    which: &Which,
    replay: bool,
    form: Form,
) -> Result<(), Failed> {
    let mut left = which.ids.clone();
    let mut done = Vec::new();
    let mut failed = None;
    if let Some(queue) = queue {
        for _ in 0..queue.waiting {
            if left.is_empty() && !which.all {
                break;
            }
            let request = match queue.next().await {
                Ok(Some(request)) => request,
                Ok(None) => break,
                Err(error) => {
                    failed = Some(error.into());
                    break;
                }
            };
            let id = request.note.id.clone();
            if !which.all && !left.contains(&id) {
                continue;
            }
            let did =
                if replay { queue.replay(&request).await } else { queue.remove(&request).await };
            if let Err(error) = did {
                failed = Some(not_done(&id, replay, &error));
                if which.all {
                    left.push(id);
                }
                break;
            }
            left.retain(|other| *other != id);
            done.push(id);
        }
    }
    let did = if replay { "replayed" } else { "dropped" };
    for line in told(did, &done, &left, failed.is_some(), form) {
        output::line(&line);
    }
    match failed {
        Some(failed) => Err(failed),
        None if left.is_empty() => Ok(()),
        None => Err(missing(&left)),
    }
}

/// What came of it. Those that are `left` are not there if all were looked at, which is
/// unknown where one has `failed`.
fn told(did: &str, done: &[String], left: &[String], failed: bool, form: Form) -> Vec<String> {
    match form {
        Form::Json => {
            let (missing, not_done) = if failed { (&[][..], left) } else { (left, &[][..]) };
            vec![json!({ did: done, "missing": missing, "not_done": not_done }).to_string()]
        }
        Form::Text if done.is_empty() && left.is_empty() && !failed => {
            vec!["no request is parked".to_owned()]
        }
        Form::Text => done.iter().map(|id| format!("{did} {id}")).collect(),
    }
}

/// Why a request was not replayed or dropped.
fn not_done(id: &str, replay: bool, error: &OpenError) -> Failed {
    match (error, replay) {
        (OpenError::Refused(_), _) => Failed(NOT_DONE, format!("`{id}` stays parked: {error}")),
        (OpenError::Unreachable(_), true) => Failed(
            NOBODY,
            format!("`{id}` may have been sent, and may still be parked, too: {error}"),
        ),
        (OpenError::Unreachable(_), false) => {
            Failed(NOBODY, format!("`{id}` may still be parked: {error}"))
        }
    }
}

fn missing(ids: &[impl AsRef<str>]) -> Failed {
    let ids = ids.iter().map(|id| format!("`{}`", id.as_ref())).collect::<Vec<_>>().join(", ");
    let text = format!(
        "not parked: {ids}; `rpchost parked list` shows what is, unless somebody else has it in \
         hand just now"
    );
    Failed(NOT_DONE, text)
}

/// What a line of the list says.
struct Summary {
    id: String,
    method: String,
    at: Option<SystemTime>,
    reason: String,
    size: usize,
}

/// `written` is how requests of the queue are.
fn summary(request: &ParkedRequest, written: Written) -> Summary {
    let ParkedRequest { delivery, note } = request;
    let mut calls = wire::decode(delivery, written).calls;
    let method = match (calls.pop(), calls.len()) {
        (Some(call), 0) => match call.request {
            Ok(request) => request.method.unwrap_or_else(|| "(default)".to_owned()),
            Err(_) => "(unreadable)".to_owned(),
        },
        (_, others) => format!("({} calls)", others.saturating_add(1)),
    };
    let reason = if note.reason.is_empty() { "unknown".to_owned() } else { note.reason.clone() };
    Summary { id: note.id.clone(), method, at: note.at, reason, size: delivery.body.len() }
}

impl Summary {
    fn json(&self) -> Value {
        let at = self.at.map(|at| humantime::format_rfc3339_seconds(at).to_string());
        let age = self.at.map(|at| at.elapsed().unwrap_or_default().as_secs());
        json!({
            "id": self.id,
            "method": self.method,
            "set_aside": at,
            "age_seconds": age,
            "reason": self.reason,
            "size": self.size,
        })
    }
}

fn table(requests: &[Summary]) {
    let mut rows = vec![["ID", "METHOD", "AGE", "REASON", "SIZE"].map(str::to_owned)];
    rows.extend(requests.iter().map(|request| {
        let size = bytesize::ByteSize(request.size as u64).display().iec().to_string();
        let (method, reason) = (plain(&request.method), plain(&request.reason));
        [plain(&request.id), method, age(request.at), reason, size]
    }));
    output::table(&rows).iter().for_each(|line| output::line(line));
}

/// In its largest unit: enough to tell today's from last week's.
fn age(at: Option<SystemTime>) -> String {
    let Some(at) = at else { return "?".to_owned() };
    let seconds = at.elapsed().unwrap_or(Duration::ZERO).as_secs();
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7_199 => format!("{}m", seconds / 60),
        7_200..=172_799 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Text from the network for a terminal: nothing in it that a terminal obeys.
fn plain(text: &str) -> String {
    let escape = |c: char| {
        if c.is_control() { c.escape_default().to_string() } else { c.to_string() }
    };
    text.chars().map(escape).collect()
}

fn show_text(request: &ParkedRequest, written: Written) {
    let summary = summary(request, written);
    let note = &request.note;
    let row = |name: &str, value: &str| output::line(&format!("{name:<16}  {}", plain(value)));
    row("id", &summary.id);
    row("method", &summary.method);
    row("reason", &summary.reason);
    if !note.detail.is_empty() {
        row("", &note.detail);
    }
    if let Some(at) = note.at {
        let at_text = humantime::format_rfc3339_seconds(at);
        row("set aside", &format!("{at_text}, {} ago", age(Some(at))));
    }
    if !note.exchange.is_empty() {
        row("exchange", &note.exchange);
    }
    row("routing-key", &note.routing_key);
    for (name, value) in properties(request) {
        row(&name.replace('_', "-"), &as_text(&value));
    }
    for (name, value) in &request.delivery.properties.headers {
        row("header", &format!("{name} = {}", as_text(&header(value))));
    }
    let body = &request.delivery.body;
    row("body", &format!("{} bytes", body.len()));
    let shown = body.get(..SHOWN).unwrap_or(body);
    output::line("");
    match std::str::from_utf8(shown) {
        Ok(text) => text.lines().for_each(|line| output::line(&plain(line))),
        Err(_) if shown.len() == body.len() => {
            output::line("(no text; `-o json` has it in base64)");
        }
        // Cut in the middle of a character, or no text at all.
        Err(_) => {
            String::from_utf8_lossy(shown).lines().for_each(|line| output::line(&plain(line)));
        }
    }
    if shown.len() < body.len() {
        output::line("… (`-o json` has all of it)");
    }
}

fn as_text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The properties that are there.
fn properties(request: &ParkedRequest) -> Map<String, Value> {
    let from = &request.delivery.properties;
    let all = [
        ("reply_to", from.reply_to.as_deref().map(bytes)),
        ("correlation_id", from.correlation_id.as_deref().map(bytes)),
        ("message_id", from.message_id.as_deref().map(Value::from)),
        ("type", from.kind.as_deref().map(Value::from)),
        ("content_type", from.content_type.as_deref().map(Value::from)),
        ("app_id", from.app_id.as_deref().map(Value::from)),
        ("user_id", from.user_id.as_deref().map(Value::from)),
        ("expiration", from.expiration.as_deref().map(Value::from)),
        ("delivery_mode", from.delivery_mode.map(Value::from)),
        ("priority", from.priority.map(Value::from)),
        ("timestamp", from.timestamp.map(Value::from)),
    ];
    all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

/// Everything, for machines.
fn whole(request: &ParkedRequest, written: Written) -> Value {
    let mut whole = summary(request, written).json();
    let note = &request.note;
    let headers: Map<String, Value> = request
        .delivery
        .properties
        .headers
        .iter()
        .map(|(name, value)| (name.clone(), header(value)))
        .collect();
    if let Some(object) = whole.as_object_mut() {
        object.insert("detail".to_owned(), note.detail.clone().into());
        object.insert("queue".to_owned(), note.queue.clone().into());
        object.insert("exchange".to_owned(), note.exchange.as_str().into());
        object.insert("routing_key".to_owned(), note.routing_key.as_str().into());
        object.insert("crashes".to_owned(), note.crashes.into());
        object.insert("properties".to_owned(), properties(request).into());
        object.insert("headers".to_owned(), headers.into());
        object.insert("body".to_owned(), bytes(&request.delivery.body));
    }
    whole
}

/// Bytes as a string, or as `{"base64": "…"}` where they are no text.
fn bytes(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => json!({ "base64": base64::engine::general_purpose::STANDARD.encode(bytes) }),
    }
}

fn header(value: &HeaderValue) -> Value {
    match value {
        HeaderValue::Text(text) => text.as_str().into(),
        HeaderValue::Bytes(raw) => bytes(raw),
        HeaderValue::Bool(value) => (*value).into(),
        HeaderValue::Int(value) => (*value).into(),
        HeaderValue::UInt(value) | HeaderValue::Timestamp(value) => (*value).into(),
        HeaderValue::Float(value) => (*value).into(),
        HeaderValue::Decimal(digits, scale) => {
            (f64::from(*digits) / 10f64.powi((*scale).into())).into()
        }
        HeaderValue::List(items) => items.iter().map(header).collect(),
        HeaderValue::Table(entries) => {
            entries.iter().map(|(name, value)| (name.clone(), header(value))).collect()
        }
        HeaderValue::Null => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_is_neither_done_nor_missing() {
        let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
        let (none, one) = (ids(&[]), ids(&["a"]));
        let text = |done: &[String], left: &[String], failed| {
            told("replayed", done, left, failed, Form::Text)
        };
        assert_eq!(text(&none, &none, false), ["no request is parked"]);
        assert_eq!(text(&none, &one, true), [""; 0]);
        assert_eq!(text(&none, &none, true), [""; 0], "the broker was lost before");
        assert_eq!(text(&one, &none, false), ["replayed a"]);
        let json = |failed| told("dropped", &none, &one, failed, Form::Json).concat();
        assert_eq!(json(true), r#"{"dropped":[],"missing":[],"not_done":["a"]}"#);
        assert_eq!(json(false), r#"{"dropped":[],"missing":["a"],"not_done":[]}"#);
    }
}
