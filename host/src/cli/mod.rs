//! The command line: one file per subcommand.
//!
//! Maps what a person typed to calls of the library, and what came of it to
//! output and exit codes. The only room that prints.

mod bench;
mod build;
mod call;
mod compile;
mod complete;
mod dev;
mod inspect;
mod json;
mod lane;
mod lines;
mod local;
mod methods;
mod new;
mod output;
mod parked;
mod request_args;
mod serve;
mod signals;
mod test;
mod trace;
mod verify;

use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::amqp::Connector;
use crate::config::{
    Config, ManagementUrl, PASSWORD_IN_FLAG, Profile, ServeArgs, Strategy, queue_name, resolve,
};

/// Wrong usage or configuration.
pub(crate) const USAGE: u8 = 2;

/// Answers RPC calls from RabbitMQ with WebAssembly components.
#[derive(Debug, Parser)]
#[command(name = "rpchost", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Consume, call, reply: serves the plugin directory
    Serve(ServeArgs),
    /// Everything on one machine: a private broker and a host, until Ctrl-C
    Dev(dev::DevArgs),
    /// Call a method, through the broker or in-process
    Call(call::CallArgs),
    /// Show what a component is, offers and needs
    Inspect(inspect::InspectArgs),
    /// Make a handler project: a few files, in Rust, Python, JavaScript, C, Go or another language
    New(new::NewArgs),
    /// Make a component of a project, and put it where a host takes it
    Build(build::BuildArgs),
    /// Run the cases of a project
    Test(test::TestArgs),
    /// Requests that were set aside: look at them, send them again, drop them
    Parked(parked::ParkedArgs),
    // For hosts, not for people: like `serve`, for requests that are suspect.
    #[command(name = crate::serve::LANE_COMMAND, hide = true)]
    Lane(ServeArgs),
    /// Measure a service: calls as many at once, or as many a second, as you like
    Bench(bench::BenchArgs),
    /// Check that nothing is lost: numbered requests, ticked off as they are answered
    Verify(verify::VerifyArgs),
    /// Show the Firehose: every publish and delivery, and calls with their times
    Trace(trace::TraceArgs),
    // For hosts, not for people: it reads and writes what nobody types.
    #[command(name = crate::plugins::COMPILE_COMMAND, hide = true)]
    Compile(compile::CompileArgs),
    // The same.
    #[command(name = crate::plugins::FIND_LINES_COMMAND, hide = true)]
    FindLines(lines::LinesArgs),
}

/// Runs the command line of this process.
pub fn run() -> ExitCode {
    complete::answer();
    let matches = Cli::command().get_matches();
    let command = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli.command,
        Err(error) => error.exit(),
    };
    let Some((_, matches)) = matches.subcommand() else {
        return ExitCode::from(USAGE);
    };
    match command {
        Command::Serve(args) => serve::run(&args, matches),
        Command::Dev(args) => dev::run(&args, matches),
        Command::Call(args) => call::run(&args, matches),
        Command::Inspect(args) => inspect::run(&args, matches),
        Command::New(args) => new::run(&args),
        Command::Build(args) => build::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Parked(args) => parked::run(&args, matches),
        Command::Lane(args) => lane::run(&args, matches),
        Command::Bench(args) => bench::run(&args, matches),
        Command::Verify(args) => verify::run(&args, matches),
        Command::Trace(args) => trace::run(&args, matches),
        Command::Compile(args) => compile::run(&args),
        Command::FindLines(args) => lines::run(&args),
    }
}

/// The environment of this process.
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The configuration and the brokers of a client: the same rules as for `serve`
/// decide which broker and queue are meant. `management` is the API of all of
/// them, in place of what the file says.
///
/// # Errors
///
/// What is wrong with the usage or the configuration.
fn client(
    amqp_url: &[String],
    management: Option<&str>,
    matches: &clap::ArgMatches,
) -> Result<(Config, Connector), String> {
    let (config, connector) = quiet_client(amqp_url, management, matches)?;
    for warning in &config.warnings {
        output::error(format_args!("warning: {warning}"));
    }
    Ok((config, connector))
}

/// The same for who says the warnings of the configuration later.
fn quiet_client(
    amqp_url: &[String],
    management: Option<&str>,
    matches: &clap::ArgMatches,
) -> Result<(Config, Connector), String> {
    // Without `--queue`, which says only which of the queues is meant.
    let args = ServeArgs { amqp_url: amqp_url.to_vec(), ..ServeArgs::default() };
    let mut config = resolve(&args, matches, Profile::Client, &environment)
        .map_err(|problems| problems.to_string())?;
    // RabbitMQ's own default is nobody's secret; whoever tries things out with it
    // need not hear of it each time.
    let public = config.broker.brokers.iter().all(|broker| broker.url.password() == "guest");
    config.warnings.retain(|warning| !public || warning != PASSWORD_IN_FLAG);
    if config.broker.strategy == Strategy::LeastConnections {
        // A client comes and goes: not worth asking them all.
        config.broker.strategy = Strategy::Random;
    }
    if let Some(management) = management {
        let api =
            ManagementUrl::parse(management).map_err(|error| format!("`--management`: {error}"))?;
        for broker in &mut config.broker.brokers {
            broker.management = Some(api.clone().or_as_user_of(&broker.url));
        }
    }
    let connector = Connector::new(&config.broker, "rpchost".to_owned())
        .map_err(|error| format!("{error:#}"))?;
    Ok((config, connector))
}

/// Whether a flag was typed: clap's own checks count variables, too, which are set for good.
fn is_typed(matches: &clap::ArgMatches, flag: &str) -> bool {
    matches.value_source(flag) == Some(ValueSource::CommandLine)
}

/// The queue that a client's flag or variable names. The variable was read with the
/// configuration; an empty one is one that is not set.
///
/// # Errors
///
/// What is wrong with the flag.
fn named_queue(queue: Option<&str>, matches: &clap::ArgMatches) -> Result<Option<String>, String> {
    match queue {
        Some(name) if is_typed(matches, "queue") => {
            let name = queue_name(name).map_err(|text| format!("flag `--queue`: {text}"))?;
            Ok(Some(name))
        }
        variable => Ok(variable.filter(|name| !name.is_empty()).map(str::to_owned)),
    }
}

/// A duration as it is typed.
fn duration(text: &str) -> Result<std::time::Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| "write a duration such as `500ms`, `10s` or `2m`".to_owned())
}

/// A runtime of this thread: what waits for brokers is woken often, and to be woken on another
/// thread costs more than most of what is done then. Calls that are not short have threads of
/// their own (`plugins::Threads`).
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    use anyhow::Context as _;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start the async runtime")
}
