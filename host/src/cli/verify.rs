//! `rpchost verify`: is anything lost?

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{ArgMatches, Args};
use indicatif::{ProgressBar, ProgressStyle};

use super::output;
use super::request_args::RequestArgs;
use super::signals::Stop;
use super::trace::{Format, SwitchArgs, say_power};
use super::{USAGE, client, runtime};
use crate::amqp::Power;
use crate::client::{CallDialect, Route};
use crate::config::Config;
use crate::verify::{
    self, Counts, Expected, Failed, MOST_QUEUES, Observer, Options, Requests, Source,
};

/// Something was lost, wrong or unexpected.
const FAILED: u8 = 1;
/// Nobody to answer.
const NOBODY: u8 = 4;

/// More a second than one connection carries.
const HIGHEST_RATE: i64 = 100_000;

/// How long to send unless anything was said.
const USUAL_DURATION: Duration = Duration::from_secs(10);

/// How often the line on the terminal moves.
const REDRAW: Duration = Duration::from_millis(200);

/// Arguments of `verify`.
#[derive(Debug, Args)]
#[command(after_help = "\
In arguments, bodies and `--expect`, `{number}` stands for the number of the request and `{id}` for \
its id, which nobody else's has. Without ARG, the id is the body, and METHOD has to echo it.

A request is lost if the broker has confirmed it and `--wait` after it was sent nothing has come. \
What was not confirmed is sent again under the same id, so it may be answered twice.

Exit codes: 0 all was answered, and rightly; 1 something was lost, wrong or unexpected, or never \
confirmed; 2 wrong usage; 4 nobody to answer. Duplicates and late answers are counted, and are \
no failure. Ctrl-C ends the sending, a second one the waiting.")]
pub(super) struct VerifyArgs {
    /// The method; a service of one method may need none
    method: Option<String>,

    #[command(flatten)]
    request: RequestArgs,

    /// The right result [default: the id where it is the body, else any that is no error]
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    expect: Option<String>,

    /// Requests a second
    #[arg(long, value_name = "N", default_value_t = 10,
        value_parser = clap::value_parser!(u32).range(1..=HIGHEST_RATE))]
    rate: u32,

    /// Send this many [default: as many as fit into `--duration`]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,

    /// Send for this long; `0s` until Ctrl-C [default: 10s, with `--count` no limit]
    #[arg(long, value_name = "DURATION", value_parser = super::duration)]
    duration: Option<Duration>,

    /// Report a request that was not answered for this long
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = super::duration)]
    overdue: Duration,

    /// At the end, wait until the last request was sent this long ago
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = super::duration)]
    wait: Duration,

    /// Find out from the Firehose at which stage a request was lost; it slows the broker down
    #[arg(long)]
    trace: bool,

    #[command(flatten)]
    switch: SwitchArgs,

    /// Publish to this exchange instead of a queue
    #[arg(long, value_name = "NAME")]
    exchange: Option<String>,

    /// … with this routing key; of `nameko`, unless given, METHOD
    #[arg(long, value_name = "KEY", requires = "exchange")]
    key: Option<String>,

    /// Answers that each request has to bring, where several services get it
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "consume",
        value_parser = clap::value_parser!(u32).range(1..))]
    answers: u32,

    /// Empty this queue, and tick off what is in it instead of answers; repeatable
    #[arg(long, value_name = "QUEUE")]
    consume: Vec<String>,

    /// How to print the report
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,

    /// Queue to send to [default: the file's listener of the dialect, else by the dialect]
    #[arg(long, env = "RPCHOST_QUEUE", value_name = "NAME")]
    queue: Option<String>,

    /// Broker, as for `serve`; repeatable
    #[arg(long, env = "RPCHOST_AMQP_URL", hide_env_values = true, value_name = "URL")]
    amqp_url: Vec<String>,
}

pub(super) fn run(args: &VerifyArgs, matches: &ArgMatches) -> ExitCode {
    match verify(args, matches) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(FAILED),
        Err(Failed::Usage(text)) => {
            output::error(text);
            ExitCode::from(USAGE)
        }
        Err(Failed::Nobody(text)) => {
            output::error(text);
            ExitCode::from(NOBODY)
        }
    }
}

fn verify(args: &VerifyArgs, matches: &ArgMatches) -> Result<bool, Failed> {
    let (config, connector) =
        client(&args.amqp_url, args.switch.management(), matches).map_err(Failed::Usage)?;
    let options = route(args, &config, matches)
        .and_then(|route| options(args, route))
        .map_err(Failed::Usage)?;
    let nobody = |error: &dyn std::fmt::Display| Failed::Nobody(error.to_string());
    let runtime = runtime().map_err(|error| nobody(&format!("{error:#}")))?;
    let shown = Arc::new(Shown::new(&options));
    let observer: Arc<dyn Observer> = shown.clone();
    let ran = runtime.block_on(async {
        let signals = Stop::listen().map_err(|error| nobody(&error))?;
        let say =
            || shown.say("no more are sent; waiting for what is unanswered (again to end now)");
        let connector = Arc::new(connector);
        signals.twice(say, |stop, quit| verify::run(connector, options, observer, stop, quit)).await
    });
    runtime.shutdown_background();
    shown.bar.finish_and_clear();
    let report = ran?;
    match args.output {
        Format::Text => report.lines().iter().for_each(|line| output::line(line)),
        Format::Json => output::line(&report.json().to_string()),
    }
    Ok(report.is_good())
}

fn route(args: &VerifyArgs, config: &Config, matches: &ArgMatches) -> Result<Route, String> {
    let (dialect, method) = (args.request.dialect, args.method.as_deref());
    let Some(exchange) = args.exchange.clone() else {
        return args.request.route(config, args.queue.as_deref(), method, matches);
    };
    if dialect == CallDialect::AioPika {
        let text =
            "`--dialect aio-pika`: METHOD says where the request goes; leave out `--exchange`";
        return Err(text.to_owned());
    }
    Ok(Route::through(exchange, args.key.clone(), dialect, method.unwrap_or_default()))
}

fn options(args: &VerifyArgs, route: Route) -> Result<Options, String> {
    if args.consume.len() > MOST_QUEUES {
        return Err(format!("`--consume`: at most {MOST_QUEUES} queues"));
    }
    let duration = match (args.duration, args.count) {
        (Some(Duration::ZERO), _) | (None, Some(_)) => None,
        (None, None) => Some(USUAL_DURATION),
        (duration, _) => duration,
    };
    Ok(Options {
        exchange: route.exchange,
        key: route.key,
        reply_exchange: route.reply_exchange,
        expected: match args.consume.as_slice() {
            [] => Expected::Answers(args.answers),
            queues => Expected::Queues(queues.to_vec()),
        },
        requests: Requests {
            dialect: args.request.dialect,
            method: args.method.clone(),
            source: source(&args.request)?,
            expect: args.expect.clone(),
        },
        rate: args.rate,
        count: args.count,
        duration,
        overdue: args.overdue,
        wait: args.wait,
        trace: args.trace.then(|| args.switch.ctl()),
    })
}

fn source(request: &RequestArgs) -> Result<Source, String> {
    if let Some(params) = &request.params {
        return Ok(Source::Json(params.clone()));
    }
    Ok(match request.body()? {
        None if request.args.is_empty() => Source::Id,
        None => Source::Args(request.args.clone()),
        Some(body) => Source::Body(body),
    })
}

/// A line on the terminal that moves, and sentences above it. Where standard
/// error is no terminal, the sentences alone.
struct Shown {
    bar: ProgressBar,
}

impl Shown {
    fn new(options: &Options) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self { bar: ProgressBar::hidden() };
        }
        let bar = match (options.count, options.duration) {
            (Some(count), _) => ProgressBar::new(count),
            (None, Some(duration)) => {
                ProgressBar::new(duration.as_secs().saturating_mul(options.rate.into()))
            }
            (None, None) => ProgressBar::new_spinner(),
        };
        let template = match bar.length() {
            Some(_) => "{bar:20} {elapsed:>4}  {msg}",
            None => "{spinner} {elapsed:>4}  {msg}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("━━─"));
        }
        bar.enable_steady_tick(REDRAW);
        Self { bar }
    }
}

impl Observer for Shown {
    fn say(&self, text: &str) {
        self.bar.suspend(|| output::error(text));
    }

    fn traced(&self, power: &Power, broker: &str) {
        self.bar.suspend(|| say_power(power, broker));
    }

    fn progress(&self, counts: Counts, open: usize) {
        self.bar.set_position(counts.answered);
        let strange = counts.wrong + counts.unexpected;
        let strange = if strange == 0 { String::new() } else { format!(", {strange} wrong") };
        self.bar.set_message(format!(
            "{} sent, {} answered, {open} open{strange}",
            counts.sent, counts.answered
        ));
    }
}
