//! `rpchost trace`: the Firehose, filtered and readable.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytesize::ByteSize;
use clap::{ArgMatches, Args, ValueEnum};

use super::output::{self, Lines};
use super::signals::Stop;
use super::{USAGE, client, runtime};
use crate::amqp::{Copied, Firehose, FirehoseOptions, Power, Seen};
use crate::trace::{Call, Calls, Event, Table, call_as_json, event_as_json};

/// The Firehose is still on, or the output could not be made.
const FAILED: u8 = 1;
/// No broker, or one that refuses.
const NOBODY: u8 = 4;

/// A pattern is a routing key of AMQP, in bytes.
const LONGEST_PATTERN: usize = 255;

/// How long a call is followed: callers of RPC give up before.
const CALL_PATIENCE: Duration = Duration::from_secs(60);

/// How long a reader that takes nothing is waited for at the end.
const LAST_LINES: Duration = Duration::from_secs(1);

/// How often to look for calls that nobody answers.
const LOOK: Duration = Duration::from_secs(1);

/// Arguments of `trace`.
#[derive(Debug, Args)]
#[command(after_help = "\
The Firehose makes RabbitMQ copy every message of the virtual host, at the node that `trace` is \
connected to; that costs a busy broker a third of its throughput. It is switched on through the \
management API (`--management`, or the usual address) or by `rabbitmqctl`, and off again at the \
end, unless it was on before.

Exit codes: 0 ended as asked; 1 the Firehose could not be switched off again; 2 wrong usage; \
4 no broker, or refused.")]
pub(super) struct TraceArgs {
    /// `publish.EXCHANGE` or `deliver.QUEUE`, with `*` for a word and `#` for any [default: #]
    #[arg(value_name = "PATTERN")]
    patterns: Vec<String>,

    /// How to print it; `json` is an object to a line
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,

    /// Publishes and deliveries, calls (a request and its reply in one line), or both
    #[arg(long, value_enum, default_value_t = Show::All)]
    show: Show,

    /// Bytes of a payload that are shown
    #[arg(long, value_name = "SIZE", default_value = "1KiB")]
    max_payload: ByteSize,

    /// In text, show properties and headers too
    #[arg(long)]
    headers: bool,

    /// End after this many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,

    /// End after this time
    #[arg(long, value_name = "DURATION", value_parser = super::duration)]
    duration: Option<Duration>,

    #[command(flatten)]
    switch: SwitchArgs,

    /// Broker to look at, as for `serve`; repeatable
    #[arg(long, env = "RPCHOST_AMQP_URL", hide_env_values = true, value_name = "URL")]
    amqp_url: Vec<String>,
}

/// By what to switch the Firehose on and off.
#[derive(Debug, Args)]
pub(super) struct SwitchArgs {
    /// The broker's management API, to switch the Firehose on [default: port 15672 of a broker at 5672]
    #[arg(long, env = "RPCHOST_MANAGEMENT", hide_env_values = true, value_name = "URL")]
    pub(super) management: Option<String>,

    /// A command to switch it on instead, such as `rabbitmqctl -n NODE`
    #[arg(long, env = "RPCHOST_CTL", value_name = "COMMAND")]
    pub(super) ctl: Option<String>,
}

impl SwitchArgs {
    /// The address; an empty variable is one that is not set.
    pub(super) fn management(&self) -> Option<&str> {
        self.management.as_deref().filter(|management| !management.is_empty())
    }

    /// The command, in words.
    pub(super) fn ctl(&self) -> Option<Vec<String>> {
        let words: Vec<String> =
            self.ctl.as_deref()?.split_whitespace().map(str::to_owned).collect();
        (!words.is_empty()).then_some(words)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Show {
    All,
    Events,
    Calls,
}

pub(super) fn run(args: &TraceArgs, matches: &ArgMatches) -> ExitCode {
    if let Some(long) = args.patterns.iter().find(|pattern| pattern.len() > LONGEST_PATTERN) {
        output::error(format_args!("`{long}`: a pattern has at most {LONGEST_PATTERN} bytes"));
        return ExitCode::from(USAGE);
    }
    let connector = match client(&args.amqp_url, args.switch.management(), matches) {
        Ok((_, connector)) => Arc::new(connector),
        Err(text) => {
            output::error(text);
            return ExitCode::from(USAGE);
        }
    };
    let patterns = match args.patterns.as_slice() {
        [] => vec!["#".to_owned()],
        patterns => patterns.to_vec(),
    };
    let options = FirehoseOptions { patterns, ctl: args.switch.ctl() };
    let traced = runtime().and_then(|runtime| {
        let traced = runtime.block_on(trace(args, connector, options));
        runtime.shutdown_background();
        traced
    });
    traced.unwrap_or_else(|error| {
        output::error(format_args!("{error:#}"));
        ExitCode::from(FAILED)
    })
}

async fn trace(
    args: &TraceArgs,
    connector: Arc<crate::amqp::Connector>,
    options: FirehoseOptions,
) -> anyhow::Result<ExitCode> {
    let mut stop = Stop::listen()?;
    // On a task of its own: it must come to its end, whatever signal arrives.
    let mut opening = tokio::spawn(Firehose::open(connector, options));
    let mut stopped = false;
    let opened = tokio::select! {
        opened = &mut opening => opened,
        () = stop.next() => {
            stopped = true;
            opening.await
        }
    };
    let (mut firehose, power) = match opened? {
        Ok(opened) => opened,
        Err(error) => {
            output::error(error);
            return Ok(ExitCode::from(NOBODY));
        }
    };
    say_power(&power, firehose.broker());
    let mut shown = Shown::new(args);
    if !stopped {
        tokio::select! {
            () = shown.all(&mut firehose) => {}
            () = stop.next() => {}
            () = at_end(args.duration) => {}
        }
    }
    // First of all: the broker must not wait for our reader.
    let closed = tokio::select! {
        closed = firehose.close() => closed,
        () = stop.next() => {
            Err("ended before the Firehose was switched off; it may still be on".to_owned())
        }
    };
    let read = tokio::time::timeout(LAST_LINES, shown.finish()).await;
    if read.is_err() {
        tracing::debug!("nobody has read the last lines");
    }
    Ok(match closed {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            output::error(text);
            ExitCode::from(FAILED)
        }
    })
}

/// The end of the time that was asked for, if any was.
async fn at_end(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}

/// Says what is on, and what it costs.
pub(super) fn say_power(power: &Power, broker: &str) {
    match power {
        Power::WasOn => output::error(format_args!(
            "tracing `{broker}`: the Firehose was on already, and stays on. It costs a busy \
             broker a third of its throughput"
        )),
        Power::SwitchedOn(by) => output::error(format_args!(
            "tracing `{broker}`: the Firehose is on, by {by}, until this ends. It costs a busy \
             broker a third of its throughput"
        )),
        Power::Unknown(why) => output::error(format_args!(
            "tracing `{broker}`, but the Firehose cannot be switched on from here; unless it is \
             on, nothing will be seen: {why}"
        )),
    }
}

/// What is shown, and to whom.
struct Shown<'a> {
    args: &'a TraceArgs,
    lines: Lines,
    table: Table,
    calls: Calls,
    events: u64,
}

impl<'a> Shown<'a> {
    fn new(args: &'a TraceArgs) -> Self {
        Self {
            args,
            lines: Lines::start(),
            table: Table::new(output::width()),
            calls: Calls::new(CALL_PATIENCE),
            events: 0,
        }
    }

    /// Shows what comes, until enough was shown or nobody reads it.
    async fn all(&mut self, firehose: &mut Firehose) {
        if self.args.output == Format::Text
            && std::io::stdout().is_terminal()
            && !self.lines.line(self.table.header()).await
        {
            return;
        }
        let mut look = tokio::time::interval(LOOK);
        loop {
            let seen = tokio::select! {
                seen = firehose.next() => seen,
                () = self.lines.unread() => return,
                _ = look.tick() => {
                    let over = self.calls.expired(SystemTime::now());
                    if !self.show_calls(over).await {
                        return;
                    }
                    continue;
                }
            };
            let goes_on = match seen {
                Some(Seen::Copy(copy)) => self.copy(&copy).await,
                Some(Seen::Dropped) => {
                    output::error("events are missing: they come faster than they are read here");
                    true
                }
                Some(Seen::Lost(reason)) => {
                    output::error(format_args!("lost the broker, connecting again: {reason}"));
                    true
                }
                Some(Seen::Back(power)) => {
                    output::error("connected again; what happened meanwhile is missing");
                    if let Power::Unknown(_) = &power {
                        say_power(&power, firehose.broker());
                    }
                    true
                }
                None => false,
            };
            if !goes_on {
                return;
            }
        }
    }

    async fn copy(&mut self, copy: &Copied) -> bool {
        let most = usize::try_from(self.args.max_payload.as_u64()).unwrap_or(usize::MAX);
        let read = Event::read(&copy.routing_key, &copy.properties, &copy.body, most, copy.at);
        let Some(event) = read else { return true };
        if self.args.show != Show::Calls && !self.show_event(&event).await {
            return false;
        }
        let over = self.calls.note(&event);
        if !self.show_calls(over).await {
            return false;
        }
        self.events += 1;
        self.args.count.is_none_or(|count| self.events < count)
    }

    async fn show_event(&self, event: &Event) -> bool {
        match self.args.output {
            Format::Json => self.lines.line(event_as_json(event).to_string()).await,
            Format::Text => {
                let mut shown = self.lines.line(self.table.event(event)).await;
                if self.args.headers {
                    for line in self.table.details(event) {
                        shown = self.lines.line(line).await;
                    }
                }
                shown
            }
        }
    }

    async fn show_calls(&self, calls: Vec<Call>) -> bool {
        if self.args.show == Show::Events {
            return true;
        }
        for call in calls {
            let line = match self.args.output {
                Format::Json => call_as_json(&call).to_string(),
                Format::Text => self.table.call(&call),
            };
            if !self.lines.line(line).await {
                return false;
            }
        }
        true
    }

    /// What is known of calls that are not over, and the end.
    async fn finish(mut self) {
        let rest = self.calls.rest();
        self.show_calls(rest).await;
        self.lines.finish().await;
    }
}
