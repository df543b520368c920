//! Faults of every kind, one after the other, under load, and a ledger of all requests.
//!
//! The short run has each once; `tests/soak.sh storm` has more than five hundred among a million
//! requests, in pieces, with brokers and hosts of their own for each. `tests/README.md` has the
//! figures. Each request and each answer too many is attributed to a fault: a request to
//! the one that came last, an answer too many to the first that its request was there for.

mod alone;
mod clustered;
mod tally;

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::support::host::Host;
use crate::support::ledger::Load;
use crate::support::{guests, until};
use alone::Alone;
use clustered::Clustered;
use tally::{Strike, Tally};

/// What a host asks of the broker ahead of its acks: the most that is answered again when it dies.
const PREFETCH: usize = 64;

/// The flags that go with it. Short heartbeats, so that what freezes is noticed soon.
const FLAGS: [&str; 6] = ["--max-in-flight", "32", "--heartbeat", "2s", "--connect-timeout", "2s"];

/// How long whatever was struck may take to serve again. The machine may be busy, and a cluster
/// takes its time to agree.
const PATIENCE: Duration = Duration::from_secs(90);

/// How long something frozen is frozen: longer than its peers believe in it (two heartbeats, and
/// RabbitMQ looks once in each).
const FROZEN: Duration = Duration::from_secs(7);

/// What can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    HostStopped,
    PluginSwapped,
    HostKilled,
    HostFrozen,
    BrokerKilled,
    BrokerStopped,
    BrokerFrozen,
    ConnectionsClosed,
    MemoryAlarm,
    PermissionsRevoked,
    QueueDeleted,
    LeaderKilled,
    NodeParted,
    NodeFrozen,
}

impl Fault {
    /// As the table says it.
    fn name(self) -> &'static str {
        match self {
            Self::HostStopped => "host stopped, another takes over",
            Self::PluginSwapped => "plugin swapped",
            Self::HostKilled => "host killed",
            Self::HostFrozen => "host frozen",
            Self::BrokerKilled => "broker killed",
            Self::BrokerStopped => "broker stopped",
            Self::BrokerFrozen => "broker frozen",
            Self::ConnectionsClosed => "connections closed by the operator",
            Self::MemoryAlarm => "memory alarm",
            Self::PermissionsRevoked => "permissions revoked",
            Self::QueueDeleted => "queue deleted",
            Self::LeaderKilled => "cluster: leader killed",
            Self::NodeParted => "cluster: node parted",
            Self::NodeFrozen => "cluster: node frozen",
        }
    }

    /// How many hosts may lose what they were answering.
    fn hosts(self) -> usize {
        match self {
            Self::HostStopped | Self::PluginSwapped | Self::MemoryAlarm => 0,
            Self::HostKilled | Self::HostFrozen => 1,
            _ => HOSTS,
        }
    }
}

/// Hosts that serve the queue.
const HOSTS: usize = 2;

/// How much of it.
#[derive(Debug, Clone, Copy)]
struct Scale {
    pieces: u64,
    /// Faults of each kind in a piece.
    faults: u64,
    /// Requests in a piece.
    requests: u64,
}

impl Scale {
    fn asked_for() -> Self {
        let number = |variable: &str, unless| {
            std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(unless)
        };
        Self {
            pieces: number("RPCHOST_TEST_PIECES", 1),
            faults: number("RPCHOST_TEST_FAULTS", 1),
            requests: number("RPCHOST_TEST_REQUESTS", 1_000),
        }
    }
}

/// Where the requests are sent, and what is struck.
trait Stage {
    /// Has it happen, and gives back what was taken.
    async fn strike(&mut self, fault: Fault, nth: u64);

    /// The hosts that have to be ready again.
    fn hosts(&self) -> &[Host];

    /// What the brokers know, for the person who looks for the reason of a loss.
    async fn explain(&self) -> String {
        String::new()
    }
}

/// What has to happen on one stage in one ledger.
struct Act {
    kinds: &'static [Fault],
    /// Its share of a piece's requests, in hundredths.
    share: u64,
}

/// Nothing may be answered twice in these.
const CALM: Act = Act { kinds: &[Fault::HostStopped, Fault::PluginSwapped], share: 25 };

const STORM: Act = Act {
    kinds: &[
        Fault::HostKilled,
        Fault::HostFrozen,
        Fault::BrokerKilled,
        Fault::BrokerStopped,
        Fault::BrokerFrozen,
        Fault::ConnectionsClosed,
        Fault::MemoryAlarm,
        Fault::PermissionsRevoked,
    ],
    share: 50,
};

/// What is in a queue that is deleted is lost with it, so it is counted by itself.
const DELETION: Act = Act { kinds: &[Fault::QueueDeleted], share: 5 };

const CLUSTER: Act =
    Act { kinds: &[Fault::LeaderKilled, Fault::NodeParted, Fault::NodeFrozen], share: 20 };

/// Every fourth call takes fifty milliseconds, so that there is always work under way.
fn work(number: u64) -> (String, Vec<u8>) {
    let method = if number.is_multiple_of(4) { "misbehave.slow-50" } else { "misbehave" };
    (method.to_owned(), number.to_string().into_bytes())
}

/// The plugin, and the same under another digest.
fn versions() -> [Vec<u8>; 2] {
    let one = guests::built("misbehave");
    let other = guests::marked(&one, 1);
    [one, other]
}

/// Shows how far it is, on a terminal.
fn progress(scale: Scale, kinds: usize) -> ProgressBar {
    let faults = scale.pieces * scale.faults * kinds as u64;
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = "{elapsed_precise}  {bar:24}  {pos} of {len} faults  {msg}";
    ProgressBar::new(faults).with_style(ProgressStyle::with_template(style).expect("a template"))
}

/// One act: its faults in turn, until each was often enough and enough was asked.
async fn play(
    act: &Act,
    stage: &mut impl Stage,
    load: Load,
    scale: Scale,
    tally: &mut Tally,
    bar: &ProgressBar,
) {
    let mut strikes = Vec::new();
    serves_again(stage, &load, "the beginning").await;
    for nth in 0..scale.faults {
        for &fault in act.kinds {
            bar.set_message(format!("{} requests  {}", tally.requests(), fault.name()));
            let at = Instant::now();
            stage.strike(fault, nth).await;
            strikes.push(Strike { fault, at, over: Instant::now() });
            serves_again(stage, &load, fault.name()).await;
            bar.inc(1);
        }
    }
    let enough = usize::try_from(scale.requests * act.share / 100).expect("a number");
    while load.ledger.confirmed() < enough {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tally.add(&load.end(PATIENCE).await, &strikes);
    if tally.lost() > 0 {
        eprintln!("{}", stage.explain().await);
        stage.hosts().iter().for_each(|host| eprintln!("{}", host.log()));
    }
}

/// Waits until all hosts are ready, and a request is answered that was sent after now.
async fn serves_again(stage: &impl Stage, load: &Load, after: &str) {
    let now = Instant::now();
    let ready = || stage.hosts().iter().all(|host| host.get("/readyz").0 == 200);
    until(&format!("ready after: {after}"), PATIENCE, || async { ready() }).await;
    until(&format!("answers after: {after}"), PATIENCE, || async {
        load.ledger.count(|entry| entry.sent > now && !entry.answers.is_empty()) > 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_whatever_fails() {
    let scale = Scale::asked_for();
    let acts = [&CALM, &STORM, &DELETION];
    let bar = progress(scale, acts.iter().map(|act| act.kinds.len()).sum());
    let mut tally = Tally::default();
    for _ in 0..scale.pieces {
        for act in acts {
            let mut stage = Alone::start().await;
            let load = stage.load().await;
            play(act, &mut stage, load, scale, &mut tally, &bar).await;
            stage.end().await;
        }
        tally.check();
    }
    bar.finish_and_clear();
    eprintln!("{tally}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_whatever_fails_in_a_cluster() {
    let scale = Scale::asked_for();
    let bar = progress(scale, CLUSTER.kinds.len());
    let mut tally = Tally::default();
    for _ in 0..scale.pieces {
        let mut stage = Clustered::start().await;
        let load = stage.load().await;
        play(&CLUSTER, &mut stage, load, scale, &mut tally, &bar).await;
        stage.end().await;
        tally.check();
    }
    bar.finish_and_clear();
    eprintln!("{tally}");
}
