//! `rpchost call`: a client for people.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use bytes::Bytes;
use clap::{ArgMatches, Args};
use clap_complete::engine::ArgValueCompleter;
use tokio_util::sync::CancellationToken;

use super::complete;
use super::local::Local;
use super::methods::{DESCRIBE, Described};
use super::request_args::RequestArgs;
use super::{USAGE, environment, is_typed, output};
use crate::amqp::{Caller, CallerError, Outgoing};
use crate::client::{self, Answer, CallDialect, Params, Route};
use crate::config::{Limits, Profile, ServeArgs, resolve};
use crate::dispatch::{Broker, Dispatcher, PublishError, ReplyPolicy, Stopping};
use crate::message::{
    Delivery, Dialect, ErrorKind, Form, HeaderValue, Note, Original, Place, Properties, Reply,
    Revoked, Settlement, Terms,
};
use crate::plugins::Plugins;
use crate::telemetry::Telemetry;

/// The handler answered with an error.
const ERROR: u8 = 1;
/// No answer in time.
const LATE: u8 = 3;
/// Nobody to answer.
const NOBODY: u8 = 4;

/// How long an answer is waited for, unless somebody says otherwise.
const TIMEOUT: &str = "10s";

/// How long to look for the reason when there was no answer in time: a broker
/// that is well answers in milliseconds.
const DIAGNOSIS: Duration = Duration::from_secs(1);

/// Arguments of `call`.
#[derive(Debug, Args)]
pub(super) struct CallArgs {
    /// The method, such as `fib` or `math.fib`; without one, what can be called is listed
    #[arg(add = ArgValueCompleter::new(complete::method))]
    method: Option<String>,

    #[command(flatten)]
    request: RequestArgs,

    /// Longest wait for the answer; connecting has RPCHOST_CONNECT_TIMEOUT
    #[arg(long, value_name = "DURATION", default_value = TIMEOUT)]
    timeout: String,

    /// Queue to send it to [default: the file's listener of the dialect, else by the dialect]
    #[arg(long, env = "RPCHOST_QUEUE", value_name = "NAME")]
    queue: Option<String>,

    /// Broker to call through, as for `serve`; repeatable
    #[arg(long, env = "RPCHOST_AMQP_URL", hide_env_values = true, value_name = "URL")]
    amqp_url: Vec<String>,

    /// Call this component in-process, without a broker
    #[arg(long, value_name = "X.wasm")]
    file: Option<PathBuf>,
}

/// Why a call has no answer.
enum Failed {
    Usage(String),
    Late(String),
    Nobody(String),
}

/// Ctrl-C is left to the system: it ends a client at once, as it should, and
/// the shell sees what it expects (130).
pub(super) fn run(args: &CallArgs, matches: &ArgMatches) -> ExitCode {
    let mut warnings = Vec::new();
    let called = call(args, matches, &mut warnings);
    show(called, warnings)
}

/// Asks a running host for what it says of itself, and shows it as `shown` has it. Who answers
/// something else is no host.
pub(super) fn describe(
    amqp_url: &[String],
    queue: Option<&str>,
    matches: &ArgMatches,
    shown: impl Fn(&Described) -> Option<Vec<String>>,
) -> ExitCode {
    let args = CallArgs {
        method: Some(DESCRIBE.to_owned()),
        request: RequestArgs::default(),
        timeout: TIMEOUT.to_owned(),
        queue: queue.map(str::to_owned),
        amqp_url: amqp_url.to_vec(),
        file: None,
    };
    let mut warnings = Vec::new();
    let called = call(&args, matches, &mut warnings).and_then(|answer| told(answer, shown));
    show(called, warnings)
}

/// What a host says of itself, as `shown` has it; as it came, where that has nothing.
fn told(
    answer: Answer,
    shown: impl Fn(&Described) -> Option<Vec<String>>,
) -> Result<Answer, Failed> {
    let Answer::Result(body) = answer else { return Ok(answer) };
    let described = Described::read(&body).ok_or_else(|| {
        let text = "who answers there does not say what can be called; name a METHOD";
        Failed::Nobody(text.to_owned())
    })?;
    Ok(Answer::Result(shown(&described).map_or(body, |lines| lines.join("\n").into())))
}

fn show(called: Result<Answer, Failed>, warnings: Vec<String>) -> ExitCode {
    // A handler's error stands alone on standard error: programs read it.
    if !matches!(called, Ok(Answer::Error(_))) {
        for warning in warnings {
            output::error(format_args!("warning: {warning}"));
        }
    }
    match called {
        Ok(Answer::Result(body)) => {
            output::result(&body);
            ExitCode::SUCCESS
        }
        Ok(Answer::Error(error)) => {
            output::error_result(&error);
            ExitCode::from(ERROR)
        }
        Err(Failed::Usage(text)) => {
            output::error(text);
            ExitCode::from(USAGE)
        }
        Err(Failed::Late(text)) => {
            output::error(text);
            ExitCode::from(LATE)
        }
        Err(Failed::Nobody(text)) => {
            output::error(text);
            ExitCode::from(NOBODY)
        }
    }
}

fn call(
    args: &CallArgs,
    matches: &ArgMatches,
    warnings: &mut Vec<String>,
) -> Result<Answer, Failed> {
    let typed = |flag| is_typed(matches, flag);
    if args.file.is_some() && (typed("queue") || typed("amqp_url")) {
        let text = "`--file` calls in-process: leave out `--queue` and `--amqp-url`";
        return Err(Failed::Usage(text.to_owned()));
    }
    let timeout = humantime::parse_duration(&args.timeout)
        .ok()
        .filter(|timeout| !timeout.is_zero())
        .ok_or_else(|| {
            Failed::Usage(format!(
                "`--timeout {}`: write a duration such as `500ms`, `10s` or `2m`",
                args.timeout
            ))
        })?;
    let params = args.request.params().map_err(Failed::Usage)?;
    let dialect = args.request.dialect;
    let runtime = super::runtime().map_err(|error| Failed::Nobody(format!("{error:#}")))?;
    let method = match &args.method {
        Some(method) => method,
        None if dialect != CallDialect::Plain => {
            let text = "a METHOD is missing; without one, `--dialect plain` lists what there is";
            return Err(Failed::Usage(text.to_owned()));
        }
        None => DESCRIBE,
    };
    let answered = match &args.file {
        Some(file) => {
            // Compiling blocks, so it is not for the runtime.
            let loaded = Loaded::from(file).map_err(|error| Failed::Usage(format!("{error:#}")))?;
            runtime.block_on(call_file(&loaded, file, method, dialect, params, timeout))
        }
        None => runtime.block_on(call_broker(args, method, matches, params, timeout, warnings)),
    };
    runtime.shutdown_background();
    match args.method {
        Some(_) => answered,
        None => told(answered?, |described| Some(described.table())),
    }
}

async fn call_broker(
    args: &CallArgs,
    method: &str,
    matches: &ArgMatches,
    params: Params,
    timeout: Duration,
    warnings: &mut Vec<String>,
) -> Result<Answer, Failed> {
    let dialect = args.request.dialect;
    // A text for who reads any bytes, or a JSON text without its quotes for who
    // reads JSON: only the method knows, and has not run when it says so.
    let quoted = match (&params, dialect) {
        (Params::Argument(text), CallDialect::Plain) => {
            Some((params.clone().for_json(), text.trim().is_empty()))
        }
        _ => None,
    };
    // A blank text is no JSON either, but it may be read as no arguments at all.
    let is_unread = |answer: &Answer, blank| {
        let kind = answer.kind();
        let is = |known: ErrorKind| kind.as_deref() == Some(known.name());
        is(ErrorKind::ParseError) || blank && is(ErrorKind::InvalidParams)
    };
    // The same rules as for `serve` decide which broker and queue are meant.
    let (mut config, connector) =
        super::quiet_client(&args.amqp_url, None, matches).map_err(Failed::Usage)?;
    warnings.append(&mut config.warnings);
    let route = args
        .request
        .route(&config, args.queue.as_deref(), Some(method), matches)
        .map_err(Failed::Usage)?;
    let outgoing = |params, timeout| -> Result<Outgoing, Failed> {
        let id = format!("{:032x}", rand::random::<u128>());
        let request = client::encode(dialect, Some(method), params, &id).map_err(Failed::Usage)?;
        Ok(Outgoing {
            exchange: route.exchange.clone(),
            queue: route.key.clone(),
            reply_exchange: route.reply_exchange.clone(),
            id: Some(id),
            kind: request.kind,
            content_type: request.content_type,
            content_encoding: request.content_encoding,
            headers: request.headers,
            body: request.body,
            // A person waits; writing one message to disk is not what for.
            persistent: true,
            timeout,
            interim: client::interim(dialect),
        })
    };
    let first = outgoing(params, timeout)?;
    let caller = Caller::connect(&Arc::new(connector)).await?;
    let calling = async {
        let begun = Instant::now();
        let (properties, body) = ask(&caller, &first, &route, timeout).await?;
        let answer = client::decode(dialect, &properties, body);
        match quoted {
            Some((quoted, blank)) if is_unread(&answer, blank) => {
                let again = outgoing(quoted, timeout.saturating_sub(begun.elapsed()))?;
                let (properties, body) = ask(&caller, &again, &route, timeout).await?;
                Ok(client::decode(dialect, &properties, body))
            }
            _ => Ok(answer),
        }
    };
    let answered = calling.await;
    caller.close().await;
    answered
}

/// One call, where a person wants to know why there is no answer within `timeout`, of which
/// the request has what is left.
async fn ask(
    caller: &Caller,
    request: &Outgoing,
    route: &Route,
    timeout: Duration,
) -> Result<(Properties, Bytes), CallerError> {
    let queue = &route.queue;
    match caller.consumers(queue).await {
        Ok(Some(0)) => {
            return Err(CallerError::Nobody(format!("nobody consumes the queue `{queue}`")));
        }
        // Behind an exchange, the queue may have another name; the broker tells
        // whether there is one.
        Err(CallerError::Nobody(_)) if !route.exchange.is_empty() => {}
        Ok(_) => {}
        Err(error) => return Err(error),
    }
    // From here on it is waited for: a host that dies may be back in time, or
    // another takes its place.
    let mut because = match caller.call(request).await {
        Err(CallerError::Late { because, .. }) => because,
        called => return called,
    };
    if because.is_none() {
        because = match tokio::time::timeout(DIAGNOSIS, caller.consumers(queue)).await {
            Ok(Ok(Some(0))) => Some(format!("nobody consumes the queue `{queue}` any more")),
            Ok(Err(error)) => Some(error.to_string()),
            Ok(Ok(_)) | Err(_) => None,
        };
    }
    Err(CallerError::Late { after: timeout, because })
}

impl From<CallerError> for Failed {
    fn from(error: CallerError) -> Self {
        let text = error.to_string();
        match error {
            CallerError::Unsendable(_) => Self::Usage(text),
            CallerError::Nobody(_) => Self::Nobody(text),
            CallerError::Late { .. } => Self::Late(text),
        }
    }
}

/// A file as the only plugin, with the limits of `serve`.
struct Loaded {
    plugins: Plugins,
    limits: Limits,
    _local: Local,
}

impl Loaded {
    fn from(file: &Path) -> anyhow::Result<Self> {
        let config =
            resolve(&ServeArgs::default(), &ArgMatches::default(), Profile::Serve, &environment)
                .map_err(|problems| anyhow::anyhow!("{problems}"))?;
        let (plugins, local) = (Plugins::new(None), Local::open(&config)?);
        plugins.load_file(&local.engine, file, &config.limits)?;
        Ok(Self { plugins, limits: config.limits, _local: local })
    }
}

/// Serves one request out of a file, with the code of `serve`.
async fn call_file(
    Loaded { plugins, limits, .. }: &Loaded,
    file: &Path,
    method: &str,
    dialect: CallDialect,
    params: Params,
    timeout: Duration,
) -> Result<Answer, Failed> {
    let usage = |error: anyhow::Error| Failed::Usage(format!("{error:#}"));
    let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    // METHOD may leave out the plugin.
    let full = method == stem
        || Plugins::is_own_method(method)
        // A pattern of NestJS says the whole.
        || method.starts_with('{')
        || method.strip_prefix(&*stem).is_some_and(|rest| rest.starts_with(['.', ':', '/']));
    let method = if full { method.to_owned() } else { format!("{stem}.{method}") };
    let typed = plugins.find(Some(&method)).is_ok_and(|(plugin, _)| plugin.is_typed());
    // What takes the whole body takes it as JSON; all other dialects carry nothing else.
    let params = if typed && dialect == CallDialect::Plain { params.for_json() } else { params };
    let request = client::encode(dialect, Some(&method), params, "call").map_err(Failed::Usage)?;
    let route = Route::new(dialect, &method, method.clone(), None, None);
    let telemetry = Telemetry::new().map_err(usage)?;
    let dispatcher = Dispatcher::new(
        plugins.clone(),
        *limits,
        ReplyPolicy::new(&[]),
        Stopping::default(),
        telemetry,
    );
    let delivery = Delivery {
        tag: 1,
        queue: route.queue.as_str().into(),
        terms: Arc::new(Terms::from(Form::from(Dialect::from(dialect)))),
        exchange: route.exchange,
        routing_key: route.key,
        redelivered: false,
        received_at: Instant::now(),
        received_wall: SystemTime::now(),
        properties: Properties {
            reply_to: Some(Bytes::from_static(b"call")),
            kind: request.kind,
            content_type: request.content_type.map(str::to_owned),
            headers: request.headers,
            ..Properties::default()
        },
        body: Bytes::from(request.body),
        revoked: Revoked::default(),
        leaving: CancellationToken::new(),
        original: Original::default(),
        set_aside: None,
    };
    let replies = Kept::default();
    if tokio::time::timeout(timeout, dispatcher.answer(&delivery, &replies)).await.is_err() {
        return Err(CallerError::Late { after: timeout, because: None }.into());
    }
    let reply = replies.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    let reply = reply
        .context("the call was not answered")
        .map_err(|error| Failed::Nobody(format!("{error:#}")))?;
    let headers = reply.headers.into_iter();
    let properties = Properties {
        kind: reply.kind.map(str::to_owned),
        content_type: reply.content_type,
        headers: headers.map(|(name, value)| (name, HeaderValue::Text(value))).collect(),
        ..Properties::default()
    };
    Ok(client::decode(dialect, &properties, reply.body))
}

/// A broker that keeps the reply.
#[derive(Debug, Default)]
struct Kept(Mutex<Option<Reply>>);

impl Broker for Kept {
    async fn publish(&self, reply: Reply) -> Result<(), PublishError> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(reply);
        Ok(())
    }

    async fn settle(&self, _tag: u64, _settlement: Settlement) {}

    /// There is nowhere to put it: the person who calls has it.
    async fn set_aside(&self, _: &Delivery, _: Place, _: &Note) -> Result<(), PublishError> {
        Err(PublishError::Undeliverable)
    }
}
