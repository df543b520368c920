//! Several brokers: which of them a host connects to, and where it goes when that one dies.

use std::time::Duration;

use lapin::{BasicProperties, Connection};
use rpchost::private_broker::PrivateBroker;

use crate::support::host::{Host, Options, command};
use crate::support::ledger::call;
use crate::support::secrecy::betrayed;
use crate::support::{broker, guests, unique, until};

/// Its letters stand in the log in no form.
const SECRET: &str = "canary-secret";

/// The user that may look at connections, and nothing else.
const WATCHER: &str = "watcher";

/// A configuration file that stays as long as the value lives.
fn file(text: &str) -> tempfile::TempPath {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file.into_temp_path()
}

/// Starts a host with the brokers of `config` alone.
fn start(config: &std::path::Path, queue: &str, args: &[&str]) -> Host {
    let hello = guests::guest("hello").wasm;
    let config = config.to_str().unwrap();
    // An empty variable is one that is not set.
    let options = Options::new("", queue).args(&["--config", config]).args(args);
    Host::start(&options, &[("hello", &hello)])
}

/// How often a host said that it consumes from `broker`.
fn sessions(host: &Host, broker: &PrivateBroker) -> usize {
    let address = format!("127.0.0.1:{}", broker.port());
    let consumes = |line: &&str| line.contains("consuming") && line.contains(&address);
    host.log().lines().filter(consumes).count()
}

/// Waits until a host has come to `broker` for the `nth` time, and calls it there.
async fn serves_at(host: &Host, broker: &PrivateBroker, queue: &str, nth: usize) {
    until("a session", Duration::from_secs(10), || async { sessions(host, broker) == nth }).await;
    let connection = broker::connect(&broker.amqp_url()).await;
    let channel = connection.create_channel().await.unwrap();
    let reply = call(&channel, queue, BasicProperties::default(), b"").await;
    assert_eq!(reply.data, b"hello");
}

async fn with_watcher() -> PrivateBroker {
    let broker = PrivateBroker::start_with_management().await.unwrap();
    broker.ctl(&["add_user", WATCHER, SECRET]).await.unwrap();
    broker.ctl(&["set_user_tags", WATCHER, "monitoring"]).await.unwrap();
    broker
}

/// Two brokers with management, through the deaths of both.
#[tokio::test(flavor = "multi_thread")]
async fn the_broker_with_the_fewest_connections_is_found_and_left_when_it_dies() {
    let (loaded, idle) = tokio::join!(with_watcher(), with_watcher());
    let (mut loaded, mut idle) = (loaded, idle);
    let url = loaded.amqp_url();
    let mut connections: Vec<Connection> = Vec::new();
    for _ in 0..5 {
        connections.push(broker::connect(&url).await);
    }
    let section = |broker: &PrivateBroker| {
        format!(
            "[[broker]]\nurl = '{}'\nmanagement = 'http://{WATCHER}:{SECRET}@{}'\n",
            broker.amqp_url(),
            broker.management_address()
        )
    };
    let config =
        file(&format!("strategy = 'least-connections'\n{}{}", section(&loaded), section(&idle)));
    let queue = unique("fewest");
    // The HTTP library is asked for everything; each line has the name of who says it.
    let level = "info,ureq=trace,ureq_proto=trace,ureq_proto::util=trace";
    let args = ["--log-level", level, "--log-format", "json", "--queue-type", "classic"];
    let host = start(&config, &queue, &args);
    serves_at(&host, &idle, &queue, 1).await;
    assert_eq!(sessions(&host, &loaded), 0);

    drop(connections);
    idle.kill().await.unwrap();
    serves_at(&host, &loaded, &queue, 1).await;

    idle.start_again().await.unwrap();
    loaded.kill().await.unwrap();
    serves_at(&host, &idle, &queue, 2).await;

    let log = host.log();
    let said = |words: &str| log.lines().filter(|line| line.contains(words)).count();
    let warned = |broker: &PrivateBroker| {
        said(&format!(
            "\"WARN\",\"fields\":{{\"message\":\"the management API `http://{}` ",
            broker.management_address()
        ))
    };
    assert_eq!(warned(&loaded), 1, "it was asked, and that is said once");
    // The first to die was asked only if its session had lived for long enough to be a good one.
    assert_eq!(said("answers again"), warned(&idle), "and once when it was back");
    assert!(said("\"ureq") > 0, "what it does is logged");
    assert_eq!(said("ureq_proto"), 0, "but not what it sends");
    assert_eq!(betrayed(&log, SECRET), None);
    drop(host);
    tokio::try_join!(loaded.remove(), idle.remove()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_moves_on_when_its_broker_dies_by_every_other_strategy() {
    let (first, second) = tokio::join!(PrivateBroker::start(), PrivateBroker::start());
    let (mut first, second) = (first.unwrap(), second.unwrap());
    let sections = format!(
        "[[broker]]\nurl = '{}'\nweight = 3\n[[broker]]\nurl = '{}'\n",
        first.amqp_url(),
        second.amqp_url()
    );
    let hosts: Vec<(Host, String)> =
        ["round-robin", "weighted-round-robin", "random", "weighted-random", "source-hash"]
            .map(|strategy| {
                let config = file(&format!("strategy = '{strategy}'\n{sections}"));
                let queue = unique(strategy);
                (start(&config, &queue, &["--queue-type", "classic"]), queue)
            })
            .into();
    // These two begin where anybody can tell.
    for (host, queue) in hosts.iter().take(2) {
        serves_at(host, &first, queue, 1).await;
    }
    first.kill().await.unwrap();
    for (host, queue) in &hosts {
        serves_at(host, &second, queue, 1).await;
    }
    // A client goes on to the next as well.
    let (_, queue) = hosts.first().unwrap();
    let config = file(&sections);
    let called = command(&["call", "hello", "--queue", queue])
        .env("RPCHOST_CONFIG", &*config)
        .output()
        .unwrap();
    assert!(called.status.success(), "{}", String::from_utf8_lossy(&called.stderr));
    drop(hosts);
    tokio::try_join!(first.remove(), second.remove()).unwrap();
}

#[test]
fn a_client_asks_no_management_api() {
    let management = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    management.set_nonblocking(true).unwrap();
    let port = management.local_addr().unwrap().port();
    let section = |number: u16| {
        format!(
            "[[broker]]\nurl = 'amqp://127.0.0.1:{number}'\n\
             management = 'http://127.0.0.1:{port}'\n"
        )
    };
    let config = file(&format!("strategy = 'least-connections'\n{}{}", section(1), section(2)));
    let called = command(&["call", "hello"]).env("RPCHOST_CONFIG", &*config).output().unwrap();
    let err = String::from_utf8_lossy(&called.stderr);
    assert_eq!(called.status.code(), Some(4), "{err}");
    assert!(err.contains("127.0.0.1:1") && err.contains("127.0.0.1:2"), "{err}");
    let asked = management.accept().map(|(_, from)| from);
    assert!(asked.is_err(), "it was asked by {asked:?}");
}
