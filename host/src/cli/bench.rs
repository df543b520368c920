//! `rpchost bench`: how fast is a service?

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{ArgMatches, Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

use super::output;
use super::request_args::RequestArgs;
use super::signals::Stop;
use super::trace::Format;
use super::{USAGE, client, runtime};
use crate::amqp::{CallerError, LoadRequest};
use crate::bench::{
    self, HIGHEST_RATE, Load, MOST_CONNECTIONS, MOST_IN_FLIGHT, Observer, Options, Outcome, Report,
    Second,
};
use crate::client::{self as calls, Params};

/// Answers were errors.
const ERRORS: u8 = 1;
/// No answer in time.
const LATE: u8 = 3;
/// Nobody to answer.
const NOBODY: u8 = 4;

/// How often the line on the terminal moves.
const REDRAW: Duration = Duration::from_millis(200);

/// Bodies that may be made; larger ones come from a file.
const LARGEST_SIZE: u64 = 128 << 20;

/// The id in the bodies of dialects that have one there.
const BODY_ID: &str = "bench000";

/// Longer than anybody watches, and short enough to keep each second of it.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Arguments of `bench`.
#[derive(Debug, Args)]
#[command(after_help = "\
With `--in-flight`, the next call is sent when one is answered: it finds the highest rate. With \
`--rate`, calls are sent when they are due, and a latency counts from that time, so that a call \
that had to wait for others is as slow as its caller found it.

Requests are neither confirmed nor do they expire; `verify` is for finding out whether any is lost.

Exit codes: 0 every call brought a result; 1 some brought errors; 2 wrong usage; 3 some were not \
answered, or were due and not sent; 4 nobody to answer, or the broker was lost. Ctrl-C ends the sending, a second one the \
waiting; the report is of what was measured until then.")]
pub(super) struct BenchArgs {
    /// The method; a service of one method may need none
    method: Option<String>,

    #[command(flatten)]
    request: RequestArgs,

    /// A body of this size, such as `16B` or `64KiB`
    #[arg(long, value_name = "SIZE", conflicts_with_all = ["args", "params", "body"])]
    size: Option<ByteSize>,

    /// Calls at once [default: 128]
    #[arg(long, value_name = "N", conflicts_with = "rate",
        value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_IN_FLIGHT)))]
    in_flight: Option<u32>,

    /// Calls a second, whether the service keeps up or not
    #[arg(long, value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=i64::from(HIGHEST_RATE)))]
    rate: Option<u32>,

    /// Measure for this long
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = super::duration)]
    duration: Duration,

    /// Before that, call for this long without counting
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = super::duration)]
    warm_up: Duration,

    /// Longest wait for an answer
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = super::duration)]
    timeout: Duration,

    /// Connections that share the calls
    #[arg(long, value_name = "N", default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_CONNECTIONS)))]
    connections: u32,

    /// Where answers are sent
    #[arg(long, value_enum, default_value_t = Replies::Direct)]
    replies: Replies,

    /// Requests that survive a restart of the broker
    #[arg(long)]
    persistent: bool,

    /// Show the processor time of this process, too, such as the service's; repeatable
    #[arg(long, value_name = "[NAME=]PID", value_parser = process)]
    pid: Vec<(String, u32)>,

    /// How to print the report
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,

    /// Draw the report, too
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,

    /// Queue to send to [default: the file's listener of the dialect, else by the dialect]
    #[arg(long, env = "RPCHOST_QUEUE", value_name = "NAME")]
    queue: Option<String>,

    /// Broker, as for `serve`; repeatable
    #[arg(long, env = "RPCHOST_AMQP_URL", hide_env_values = true, value_name = "URL")]
    amqp_url: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Replies {
    /// By direct reply-to, which needs no queue
    Direct,
    /// To an exclusive queue of each connection
    Queue,
}

pub(super) fn run(args: &BenchArgs, matches: &ArgMatches) -> ExitCode {
    let report = match measure(args, matches) {
        Ok(report) => report,
        Err(CallerError::Unsendable(text)) => {
            output::error(text);
            return ExitCode::from(USAGE);
        }
        Err(error) => {
            output::error(error);
            return ExitCode::from(NOBODY);
        }
    };
    match args.output {
        Format::Text => report.lines().iter().for_each(|line| output::line(line)),
        Format::Json => output::line(&report.json().to_string()),
    }
    if let Some(file) = &args.plot {
        let drawn = bench::svg(&report).and_then(|svg| {
            std::fs::write(file, svg)
                .map_err(|error| format!("`{}` cannot be written: {error}", file.display()))
        });
        if let Err(text) = drawn {
            output::error(text);
            return ExitCode::from(USAGE);
        }
    }
    match report.outcome() {
        Outcome::Good => ExitCode::SUCCESS,
        Outcome::Errors => ExitCode::from(ERRORS),
        Outcome::Unanswered => ExitCode::from(LATE),
        Outcome::Nobody => ExitCode::from(NOBODY),
    }
}

fn measure(args: &BenchArgs, matches: &ArgMatches) -> Result<Report, CallerError> {
    let (config, connector) =
        client(&args.amqp_url, None, matches).map_err(CallerError::Unsendable)?;
    let route = args.request.route(&config, args.queue.as_deref(), args.method.as_deref(), matches);
    let options =
        route.and_then(|route| options(args, route.queue)).map_err(CallerError::Unsendable)?;
    let nobody = |error: &dyn std::fmt::Display| CallerError::Nobody(error.to_string());
    let runtime = runtime().map_err(|error| nobody(&format!("{error:#}")))?;
    let shown = Arc::new(Shown::new(options.duration));
    let observer: Arc<dyn Observer> = shown.clone();
    let ran = runtime.block_on(async {
        let signals = Stop::listen().map_err(|error| nobody(&error))?;
        let connector = Arc::new(connector);
        signals
            .twice(|| {}, |stop, quit| bench::run(connector, options, observer, stop, quit))
            .await
    });
    runtime.shutdown_background();
    shown.bar.finish_and_clear();
    ran
}

fn options(args: &BenchArgs, queue: String) -> Result<Options, String> {
    for (flag, time) in [("duration", args.duration), ("timeout", args.timeout)] {
        if time.is_zero() {
            return Err(format!("`--{flag} 0s`: must be longer"));
        }
    }
    for (flag, time) in [("duration", args.duration), ("warm-up", args.warm_up)] {
        if time > LONGEST {
            return Err(format!("`--{flag}`: at most 24h"));
        }
    }
    let dialect = args.request.dialect;
    if let Some(reason) = dialect.not_for_load() {
        return Err(reason.to_owned());
    }
    // Every message is the same; what tells them apart is outside of the body.
    let encoded = calls::encode(dialect, args.method.as_deref(), params(args)?, BODY_ID)?;
    let options = Options {
        load: match (args.rate, args.in_flight) {
            (Some(rate), _) => Load::Rate(rate),
            (None, in_flight) => Load::InFlight(in_flight.unwrap_or(128)),
        },
        connections: args.connections,
        warm_up: args.warm_up,
        duration: args.duration,
        timeout: args.timeout,
        request: LoadRequest {
            queue,
            kind: encoded.kind,
            content_type: encoded.content_type,
            body: encoded.body,
            persistent: args.persistent,
            reply_queue: args.replies == Replies::Queue,
        },
        dialect,
        processes: args.pid.clone(),
    };
    options.check()?;
    Ok(options)
}

fn params(args: &BenchArgs) -> Result<Params, String> {
    if let Some(ByteSize(size)) = args.size {
        if size > LARGEST_SIZE {
            return Err(format!("`--size`: at most {}", ByteSize(LARGEST_SIZE)));
        }
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        return Ok(Params::Body(vec![b'x'; size]));
    }
    args.request.params()
}

/// `PID` or `NAME=PID`.
fn process(text: &str) -> Result<(String, u32), String> {
    let (name, pid) = match text.split_once('=') {
        Some((name, pid)) => (name.to_owned(), pid),
        None => (format!("pid {text}"), text),
    };
    let pid =
        pid.parse().map_err(|_| "write a process id, or a name, `=` and the id".to_owned())?;
    Ok((name, pid))
}

/// A line on the terminal that moves; nothing where standard error is none.
struct Shown {
    bar: ProgressBar,
}

impl Shown {
    fn new(duration: Duration) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self { bar: ProgressBar::hidden() };
        }
        let bar = ProgressBar::new(duration.as_secs_f64().ceil() as u64);
        if let Ok(style) = ProgressStyle::with_template("{bar:20} {elapsed:>4}  {msg}") {
            bar.set_style(style.progress_chars("━━─"));
        }
        bar.set_message("connecting");
        bar.enable_steady_tick(REDRAW);
        Self { bar }
    }
}

impl Observer for Shown {
    fn began(&self) {
        self.bar.reset_elapsed();
        self.bar.set_message("warming up");
    }

    fn second(&self, second: &Second) {
        self.bar.set_position(second.number + 1);
        let errors = match second.errors {
            0 => String::new(),
            errors => format!(", {errors} errors"),
        };
        self.bar.set_message(format!(
            "{:.0} a second, p50 {}, p99 {}, {} in flight{errors}",
            second.rate(),
            bench::short(second.p50),
            bench::short(second.p99),
            second.in_flight,
        ));
    }

    fn sent(&self) {
        if let Some(length) = self.bar.length() {
            self.bar.set_position(length);
        }
    }
}
