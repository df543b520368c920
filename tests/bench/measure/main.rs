//! Measures rpchost and its peers on one private broker, interleaved, several
//! rounds, and writes a table and pictures. `tests/bench/run.sh` builds and
//! installs what it needs.
//!
//!     measure [--scaling] [--rounds N] [--duration DURATION] [--out DIR] [--only CASE]… [--peer PEER]…

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::indexing_slicing,
    reason = "a program for the terminal; one that goes wrong measures nothing"
)]

mod cases;
mod machine;
mod servers;
mod tell;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use futures_util::future::try_join_all;
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Connection, ConnectionProperties};
use rpchost::private_broker::PrivateBroker;
use serde_json::Value;
use tokio::process::Command;

use self::cases::{CASES, Case, Load, SCALING};
use self::servers::{Peer, Places, Server};

/// What is measured, and where it goes.
struct Args {
    rounds: usize,
    duration: String,
    out: PathBuf,
    only: Vec<String>,
    peers: Vec<String>,
    scaling: bool,
}

/// What one run of `rpchost bench` says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// Calls a second.
    pub(crate) rate: f64,
    /// Microseconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    /// Milliseconds of processor time per 1,000 calls.
    pub(crate) server: f64,
    pub(crate) broker: f64,
    pub(crate) client: f64,
}

/// Who is measured by `--scaling`: the host, and what a host could at best be in lapin.
const SCALED: [&str; 2] = ["rpchost", "lapin-batch"];

/// Samples by case and peer, one for each round.
pub(crate) type Samples = BTreeMap<(usize, usize), Vec<Sample>>;

#[tokio::main]
async fn main() -> Result<()> {
    let args = args()?;
    let places = Places::find()?;
    let peers: Vec<Peer> = servers::PEERS
        .into_iter()
        .filter(|peer| args.peers.is_empty() || args.peers.iter().any(|name| name == peer.name))
        .filter(|peer| !args.scaling || SCALED.contains(&peer.name))
        .collect();
    let all: &[Case] = if args.scaling { &SCALING } else { &CASES };
    let cases: Vec<(usize, Case)> = all
        .iter()
        .copied()
        .enumerate()
        .filter(|(_, case)| args.only.is_empty() || args.only.iter().any(|name| name == case.name))
        .collect();
    if peers.is_empty() || cases.is_empty() {
        bail!("nothing to measure: `--peer` and `--only` take names of the table");
    }
    std::fs::create_dir_all(&args.out)?;
    eprintln!("starting a private broker …");
    let broker = PrivateBroker::start().await?;
    let measured = measure(&args, &places, &broker, &peers, &cases).await;
    let machine = machine::describe(&places, &broker).await;
    broker.remove().await?;
    let samples = measured?;
    let mut table = tell::about(&machine?, args.rounds, &args.duration);
    if args.scaling {
        table += &tell::scaling(&peers, &cases, &samples);
        std::fs::write(args.out.join("scaling.md"), &table)?;
    } else {
        table += &tell::table(&peers, &cases, &samples);
        std::fs::write(args.out.join("results.md"), &table)?;
        for (number, case) in &cases {
            let svg = tell::picture(case, &peers, *number, &samples);
            std::fs::write(args.out.join(format!("{}.svg", case.name)), svg)?;
        }
    }
    println!("{table}");
    eprintln!("written to {}", args.out.display());
    Ok(())
}

fn args() -> Result<Args> {
    let mut args = Args {
        // Many and short: a shared machine is a third faster in one second than in the next.
        rounds: 12,
        duration: "1500ms".to_owned(),
        out: PathBuf::from("target/bench"),
        only: Vec::new(),
        peers: Vec::new(),
        scaling: false,
    };
    let mut given = std::env::args().skip(1);
    while let Some(flag) = given.next() {
        if flag == "--scaling" {
            args.scaling = true;
            continue;
        }
        let value = given.next().with_context(|| format!("`{flag}` needs a value"))?;
        match flag.as_str() {
            "--rounds" => args.rounds = value.parse().context("`--rounds` is a number")?,
            "--duration" => args.duration = value,
            "--out" => args.out = value.into(),
            "--only" => args.only.push(value),
            "--peer" => args.peers.push(value),
            _ => bail!("`{flag}`: --scaling, --rounds, --duration, --out, --only or --peer"),
        }
    }
    Ok(args)
}

async fn measure(
    args: &Args,
    places: &Places,
    broker: &PrivateBroker,
    peers: &[Peer],
    cases: &[(usize, Case)],
) -> Result<Samples> {
    let mut samples = Samples::new();
    for (number, case) in cases {
        eprintln!("{}: {}", case.name, case.title);
        let rate = match case.load {
            Load::InFlight(_) => None,
            Load::ShareOfPeak(percent) => match held_by_all(&samples, peers, percent) {
                Some(rate) => Some(rate),
                None => {
                    eprintln!("  left out: it needs the case `{}` before it", CASES[0].name);
                    continue;
                }
            },
        };
        // All serve at the same time, each its queue; those not measured are idle.
        let mut servers = Vec::new();
        for (which, peer) in peers.iter().enumerate() {
            if rate.is_some_and(|rate| !holds(&samples, which, rate)) {
                eprintln!("  {} cannot hold that rate", peer.name);
                continue;
            }
            let mut of_peer = Vec::new();
            for nth in 0..case.hosts {
                let queue = format!("bench-{number}-{}-{}", peer.name, nth % case.queues);
                declare(broker, &queue, case).await?;
                let started = Server::start(peer, places, &broker.amqp_url(), &queue, case).await;
                let server = started.with_context(|| format!("`{}` was not started", peer.name))?;
                server.check(places, case.work).await?;
                of_peer.push(server);
            }
            servers.push((which, of_peer));
        }
        for round in 0..args.rounds {
            // Another begins each round: what goes on beside it hits all alike.
            let count = servers.len();
            for turn in 0..count {
                let (which, server) = &servers[(turn + round) % count];
                let sample = run(args, places, broker, server, case, rate).await?;
                let name = peers[*which].name;
                eprintln!(
                    "  {}/{} {name:<14}{:>9.0} a second, p99 {:>8.2} ms, CPU {:>7.2} {:>6.2} {:>6.2} ms",
                    round + 1,
                    args.rounds,
                    sample.rate,
                    sample.p99 / 1e3,
                    sample.server,
                    sample.broker,
                    sample.client,
                );
                samples.entry((*number, *which)).or_default().push(sample);
            }
        }
        for server in servers.into_iter().flat_map(|(_, of_peer)| of_peer) {
            server.end().await?;
        }
    }
    Ok(samples)
}

/// A share of the lower peak of those that are compared at a rate: the host, and
/// native lapin as one would write it, as far as they are measured.
fn held_by_all(samples: &Samples, peers: &[Peer], percent: u32) -> Option<u32> {
    let peak = |name: &str| {
        let which = peers.iter().position(|peer| peer.name == name)?;
        Some(tell::median(samples.get(&(0, which))?.iter().map(|sample| sample.rate)))
    };
    let peaks = ["rpchost", "lapin"].into_iter().filter_map(peak);
    let lowest = peaks.fold(f64::INFINITY, f64::min);
    lowest.is_finite().then(|| (lowest * f64::from(percent) / 100.0) as u32)
}

/// Whether a peer has some room left at this rate.
fn holds(samples: &Samples, which: usize, rate: u32) -> bool {
    samples
        .get(&(0, which))
        .is_some_and(|of| tell::median(of.iter().map(|sample| sample.rate)) * 0.9 > f64::from(rate))
}

async fn declare(broker: &PrivateBroker, queue: &str, case: &Case) -> Result<()> {
    let connection =
        Connection::connect(&broker.amqp_url(), ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let mut arguments = FieldTable::default();
    let kind = if case.quorum { "quorum" } else { "classic" };
    arguments.insert("x-queue-type".into(), AMQPValue::LongString(kind.into()));
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), options, arguments).await?;
    connection.close(200, "done".into()).await?;
    Ok(())
}

/// One measurement, by an `rpchost bench` for each queue, all at the same time.
async fn run(
    args: &Args,
    places: &Places,
    broker: &PrivateBroker,
    servers: &[Server],
    case: &Case,
    rate: Option<u32>,
) -> Result<Sample> {
    let clients = servers.iter().take(case.queues).map(|server| {
        let on_queue = servers.iter().filter(|other| other.queue == server.queue);
        client(args, places, broker, on_queue.collect(), case, rate)
    });
    let samples: Vec<Sample> = try_join_all(clients).await?;
    let rate: f64 = samples.iter().map(|sample| sample.rate).sum();
    let worst = |number: fn(&Sample) -> f64| samples.iter().map(number).fold(0.0, f64::max);
    // Milliseconds in a second, of all clients and servers.
    let all = |number: fn(&Sample) -> f64| {
        samples.iter().map(|sample| number(sample) * sample.rate).sum::<f64>()
    };
    Ok(Sample {
        rate,
        p50: worst(|sample| sample.p50),
        p99: worst(|sample| sample.p99),
        server: all(|sample| sample.server) / rate,
        // Each of the clients has counted all that the broker does.
        broker: all(|sample| sample.broker) / rate / samples.len() as f64,
        client: all(|sample| sample.client) / rate,
    })
}

/// What one client measures, of the servers of its queue.
async fn client(
    args: &Args,
    places: &Places,
    broker: &PrivateBroker,
    servers: Vec<&Server>,
    case: &Case,
    rate: Option<u32>,
) -> Result<Sample> {
    let broker_pid = broker.pid().await.context("the broker does not run")?;
    let first = servers.first().context("nobody serves")?;
    let mut bench = Command::new(&places.rpchost);
    bench
        .args(["bench", case.work.method(), "-o", "json", "--warm-up", "1s"])
        .args(["--duration", &args.duration, "--queue", &first.queue])
        .args(["--amqp-url", &broker.amqp_url()])
        .args(["--pid", &format!("broker={}", broker_pid.as_raw_nonzero())])
        .args(case.body);
    for (nth, server) in servers.iter().enumerate() {
        bench.args(["--pid", &format!("server{nth}={}", server.pid())]);
    }
    match (case.load, rate) {
        (Load::InFlight(calls), _) => bench.args(["--in-flight", &calls.to_string()]),
        (Load::ShareOfPeak(_), rate) => bench.args(["--rate", &rate.unwrap_or(1).to_string()]),
    };
    if case.persistent {
        bench.arg("--persistent");
    }
    let output = bench.output().await?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let report = String::from_utf8_lossy(&output.stdout);
        bail!("`{}` has failed: {said}{report}", first.name);
    }
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let number = |path: &str| {
        report.pointer(path).and_then(Value::as_f64).with_context(|| format!("no `{path}`"))
    };
    let mut server = 0.0;
    for nth in 0..servers.len() {
        server += number(&format!("/processes/server{nth}/ms_per_1000_calls"))?;
    }
    Ok(Sample {
        rate: number("/results_per_second")?,
        p50: number("/latency_us/p50")?,
        p99: number("/latency_us/p99")?,
        server,
        broker: number("/processes/broker/ms_per_1000_calls")?,
        client: number("/cpu/ms_per_1000_calls")?,
    })
}
