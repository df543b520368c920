//! Requests that kill hosts. A host cannot be made to abort by what it is sent,
//! so here whichever process runs a certain request is aborted from outside:
//! it is the one whose calls take processor time.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lapin::BasicProperties;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use rpchost::private_broker::PrivateBroker;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::support::asks::Asks;
use crate::support::host::{Host, Options, command};
use crate::support::{broker, guests, unique, until};

/// A machine that builds something else meanwhile takes its time.
const PATIENCE: Duration = Duration::from_secs(90);

/// Computes for far longer than it is let live.
const KILLER: &str = "misbehave.cpu-25000";

/// Processor time that one thread of a host needs for calls before its process
/// is taken for the one that runs the killer, in ticks of 10 ms. The innocent
/// sleep; what a thread needs beside them is a tenth of this.
const TELLING: u64 = 50;

/// Aborts processes that compute, and counts them.
struct Reaper {
    /// Hosts to look at; their children are, too.
    hosts: Arc<Mutex<HashSet<u32>>>,
    stop: CancellationToken,
}

impl Reaper {
    fn start() -> Self {
        let (hosts, stop) = (Arc::<Mutex<HashSet<u32>>>::default(), CancellationToken::new());
        let (looked_at, over) = (hosts.clone(), stop.clone());
        std::thread::spawn(move || {
            while !over.is_cancelled() {
                let hosts = looked_at.lock().unwrap().clone();
                for process in hosts.iter().copied().chain(lanes(&hosts)) {
                    if busiest(process) >= TELLING {
                        let pid = Pid::from_raw(i32::try_from(process).unwrap()).unwrap();
                        // It may have ended by itself.
                        let _ended = kill_process(pid, Signal::ABORT);
                    }
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Self { hosts, stop }
    }

    fn watch(&self, host: &Host) {
        self.hosts.lock().unwrap().insert(host.id());
    }

    fn forget(&self, host: &Host) {
        self.hosts.lock().unwrap().remove(&host.id());
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Processes of these hosts that run suspects.
fn lanes(hosts: &HashSet<u32>) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let is_lane = |process: &u32| {
        let line = std::fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
        let is_lane = line.split(|byte| *byte == 0).nth(1) == Some(b"suspect-lane");
        is_lane && parent(*process).is_some_and(|parent| hosts.contains(&parent))
    };
    processes.filter(is_lane).collect()
}

fn parent(process: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name may hold anything; what follows it does not.
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// Processor time of the thread for calls that has had most, in ticks. Without what
/// the kernel needed: to reap a process takes it seconds while others look for
/// processes as we do here.
fn busiest(process: u32) -> u64 {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{process}/task")) else { return 0 };
    let times = threads.filter_map(|thread| {
        let stat = std::fs::read_to_string(thread.ok()?.path().join("stat")).ok()?;
        let (name, rest) = stat.rsplit_once(") ")?;
        if !name.contains("(call") {
            return None;
        }
        rest.split(' ').nth(11)?.parse::<u64>().ok()
    });
    times.max().unwrap_or(0)
}

/// Hosts that are started again when they die, as a supervisor would.
struct Supervised {
    options: Vec<Options>,
    plugins: Vec<u8>,
    hosts: Vec<Host>,
    deaths: Vec<u32>,
    reaper: Reaper,
}

impl Supervised {
    fn start(options: Vec<Options>) -> Self {
        let plugins = guests::built("misbehave");
        let reaper = Reaper::start();
        let start = |options: &Options| {
            let host = Host::start(options, &[("misbehave", &plugins)]);
            reaper.watch(&host);
            host
        };
        let hosts: Vec<Host> = options.iter().map(start).collect();
        Self { deaths: vec![0; hosts.len()], options, plugins, hosts, reaper }
    }

    /// Starts those again that have died.
    fn tend(&mut self) {
        for (index, host) in self.hosts.iter_mut().enumerate() {
            if !host.is_running() {
                self.reaper.forget(host);
                self.deaths[index] += 1;
                *host = Host::start(&self.options[index], &[("misbehave", &self.plugins)]);
                self.reaper.watch(host);
            }
        }
    }

    async fn until_answered(&mut self, asks: &Asks, ids: &[String], patience: Duration) {
        let begun = Instant::now();
        while let Some(missing) = ids.iter().find(|id| asks.statuses(id).is_empty()) {
            let logs = || self.hosts.iter().map(Host::log).collect::<Vec<_>>().join("\n");
            let in_time = begun.elapsed() < patience;
            assert!(in_time, "no answer to {missing}: {:?}\n{}", self.deaths, logs());
            self.tend();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// One that kills among fifty that take their time, and what there is to see
/// afterwards.
async fn one_killer_among_fifty(url: &str, queue: &str, options: Vec<Options>, most_deaths: u32) {
    let mut hosts = Supervised::start(options);
    let asks = Asks::connect(url).await;
    let kind = |name: &str| BasicProperties::default().with_type(name.into());
    let mut ids = Vec::new();
    for number in 0..50 {
        if number == 25 {
            asks.ask(queue, "killer", kind(KILLER), b"deadly").await;
        }
        let id = format!("healthy-{number}");
        // Five of them run as long as the killer needs to be seen.
        let slow = if number % 10 == 0 { "misbehave.slow-2000" } else { "misbehave.slow-50" };
        asks.ask(queue, &id, kind(slow), b"").await;
        ids.push(id);
    }
    let begun = Instant::now();
    hosts.until_answered(&asks, &ids, PATIENCE).await;
    eprintln!("{queue}: the innocent were answered within {:?}", begun.elapsed());
    hosts.until_answered(&asks, &["killer".to_owned()], PATIENCE).await;
    eprintln!("{queue}: the killer after {:?}; deaths {:?}", begun.elapsed(), hosts.deaths);

    for id in &ids {
        let statuses = asks.statuses(id);
        assert!(statuses.iter().all(|status| status == "ok"), "{id}: {statuses:?}");
    }
    assert_eq!(asks.statuses("killer"), ["quarantined"]);
    let body: Value = serde_json::from_slice(&asks.body("killer")).unwrap();
    assert_eq!(body["error"]["code"], -32010, "{body}");
    assert_eq!(body["error"]["retryable"], false);
    let deaths: u32 = hosts.deaths.iter().sum();
    assert!((1..=most_deaths).contains(&deaths), "{:?}", hosts.deaths);
    for place in ["", ".suspect"] {
        let name = format!("{queue}{place}");
        until(&format!("an empty `{name}`"), PATIENCE, || async {
            asks.ready(&name).await == Some(0)
        })
        .await;
    }
    assert_eq!(asks.ready(&format!("{queue}.parked")).await, Some(1));
    let listed = command(&["parked", "list", "-o", "json", "--queue", queue, "--amqp-url", url])
        .output()
        .unwrap();
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed[0]["reason"], "quarantined", "{listed}");
    assert_eq!((&listed[0]["method"], &listed[0]["size"]), (&KILLER.into(), &6.into()));
    // An orderly end leaves no journal behind.
    hosts.hosts.clear();
}

async fn classic(url: &str, queue: &str) {
    let connection = broker::connect(url).await;
    let channel = connection.create_channel().await.unwrap();
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), durable, FieldTable::default()).await.unwrap();
}

fn options(url: &str, queue: &str, state: &Path) -> Options {
    Options::new(url, queue).state(state)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_kills_its_host_is_quarantined_and_the_others_are_served() {
    let url = broker::shared().await.amqp_url();
    let state = tempfile::tempdir().unwrap();
    let queue = unique("killer");
    let one = options(&url, &queue, state.path());
    // One host dies once, and then knows.
    one_killer_among_fifty(&url, &queue, vec![one], 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_on_a_classic_queue_with_two_hosts_that_know_nothing_of_each_other() {
    let url = broker::shared().await.amqp_url();
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let queue = unique("killer-classic");
    classic(&url, &queue).await;
    let both = [one.path(), two.path()].map(|state| options(&url, &queue, state));
    one_killer_among_fifty(&url, &queue, both.to_vec(), 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_several_queues_is_no_different() {
    let url = broker::shared().await.amqp_url();
    let state = tempfile::tempdir().unwrap();
    let (other, queue) = (unique("killer-none"), unique("killer-second"));
    let file = format!("[[listener]]\nqueue = '{other}'\n\n[[listener]]\nqueue = '{queue}'\n");
    let one = Options::in_file(&url, &file).state(state.path());
    one_killer_among_fifty(&url, &queue, vec![one], 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hosts_that_share_a_state_directory_learn_from_one_death() {
    let url = broker::shared().await.amqp_url();
    let state = tempfile::tempdir().unwrap();
    let queue = unique("killer-shared");
    let both = [(); 2].map(|()| Options::new(&url, &queue).shared_state(state.path()));
    one_killer_among_fifty(&url, &queue, both.to_vec(), 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_journal_the_brokers_count_is_enough() {
    let url = broker::shared().await.amqp_url();
    let state = tempfile::tempdir().unwrap();
    // A file where the folder has to be.
    std::fs::write(state.path().join("journal"), "in the way").unwrap();
    let queue = unique("killer-count");
    let one = options(&url, &queue, state.path());
    one_killer_among_fifty(&url, &queue, vec![one], 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rabbitmq_4_is_no_different() {
    let broker: PrivateBroker = broker::rabbitmq_4().await;
    let url = broker.amqp_url();
    let state = tempfile::tempdir().unwrap();
    let queue = unique("killer-4");
    one_killer_among_fifty(&url, &queue, vec![options(&url, &queue, state.path())], 1).await;
    let queue = unique("killer-4-classic");
    classic(&url, &queue).await;
    one_killer_among_fifty(&url, &queue, vec![options(&url, &queue, state.path())], 1).await;
    broker.remove().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_stops_takes_its_lane_along_and_counts_nothing_against_a_request() {
    let url = broker::shared().await.amqp_url();
    let state = tempfile::tempdir().unwrap();
    let queue = unique("lane-stop");
    let options = options(&url, &queue, state.path()).args(&["--drain-timeout", "500ms"]);
    let misbehave = guests::built("misbehave");
    let mut host = Host::start(&options, &[("misbehave", &misbehave)]);
    let asks = Asks::connect(&url).await;
    let slow = BasicProperties::default().with_type("misbehave.slow-6000".into());
    asks.ask(&queue, "slow", slow, b"").await;
    let runs = || async { host.metric("rpchost_in_flight") == 1.0 };
    until("the call", PATIENCE, runs).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    host.signal(Signal::KILL);
    host.ended(PATIENCE).await;
    // Stopped in order four times while its lane is at work.
    for round in 0..4 {
        host = Host::start(&options, &[("misbehave", &misbehave)]);
        let ids = HashSet::from([host.id()]);
        until("a lane", PATIENCE, || async { !lanes(&ids).is_empty() }).await;
        let lane = lanes(&ids)[0];
        // It begins to run as soon as it has loaded its plugin.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        host.signal(Signal::TERM);
        let status = host.ended(PATIENCE).await;
        assert_eq!(status.code(), Some(0), "{}", host.log());
        assert!(!Path::new(&format!("/proc/{lane}")).exists(), "round {round}: the lane is left");
    }
    let _host = Host::start(&options, &[("misbehave", &misbehave)]);
    assert_eq!(asks.answered("slow", PATIENCE).await, "ok", "it never killed anything but once");
    assert_eq!(std::fs::read_dir(state.path().join("journal")).unwrap().count(), 2);
}
