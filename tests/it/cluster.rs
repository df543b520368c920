//! A RabbitMQ cluster of three nodes that die, freeze and come back, with hosts and callers behind
//! the HAProxy of `examples/deploy`, or on nodes of their own choice.
//!
//! Times are measured and printed. What is asserted is more generous: other tests run meanwhile.

use std::time::{Duration, Instant};

use lapin::BasicProperties;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;

use crate::support::cluster::{Cluster, longest_gap};
use crate::support::haproxy::Haproxy;
use crate::support::host::{Host, Options, command};
use crate::support::ledger::{Load, call};
use crate::support::{guests, unique, until};

/// What must take a second at most on a machine that does nothing else.
const SECOND: Duration = Duration::from_secs(5);

fn work(number: u64) -> (String, Vec<u8>) {
    ("echo".to_owned(), number.to_string().into_bytes())
}

fn through(port: u16) -> String {
    format!("amqp://guest:guest@127.0.0.1:{port}/%2f")
}

/// A person's call by way of a load balancer: `rpchost call`. The balancer may lead to a node that
/// is gone until its checks have told; whoever calls by hand tries again.
fn calls(port: u16, queue: &str) {
    const TRIES: u32 = 25;
    let args = ["call", "echo", "over", "--queue", queue, "--timeout", "20s"];
    for attempt in 1..=TRIES {
        let output = command(&args).env("RPCHOST_AMQP_URL", through(port)).output().unwrap();
        if String::from_utf8_lossy(&output.stdout).trim() == "over" {
            return;
        }
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(attempt < TRIES, "{said}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Waits until answers come again that were asked for after now.
async fn serves_again(load: &Load, after: &str, patience: Duration) {
    let now = Instant::now();
    until(after, patience, || async {
        load.ledger.count(|entry| entry.sent > now && !entry.answers.is_empty()) > 0
    })
    .await;
}

fn measured(what: &str, took: Duration) {
    eprintln!("cluster: {what}: {:.2} s", took.as_secs_f64());
}

/// The host and its callers see one address. Behind it are, from 0: the node that does everything,
/// the one that takes over, and the one that this test's own client is connected to.
#[tokio::test(flavor = "multi_thread")]
async fn a_quorum_queue_behind_haproxy_is_served_whichever_node_dies() {
    let mut cluster = Cluster::start().await;
    let (queue, direct) = (unique("quorum"), unique("direct"));
    cluster.declare(1, &queue, "quorum").await;
    let haproxy = Haproxy::start(&cluster.nodes).await;
    let echo = guests::built("echo");
    let host = Host::start(&Options::new(&through(haproxy.standby), &queue), &[("echo", &echo)]);
    calls(haproxy.balanced, &queue);
    assert_eq!(cluster.leader(2, &queue).await, Some(1));
    assert_eq!(cluster.consumers(2, &queue).await, [0]);
    let load = Load::start(&cluster.url(2), &queue, 100, work).await;
    serves_again(&load, "the beginning", SECOND).await;

    // The leader, with which the host has no connection.
    let begun = Instant::now();
    cluster.nodes[1].kill().await.unwrap();
    serves_again(&load, "the leader's death", SECOND).await;
    let gap = longest_gap(&load.ledger, begun);
    measured("the queue's leader killed, no answer for", gap);
    assert!(gap < SECOND, "{gap:?}");
    calls(haproxy.balanced, &queue);
    cluster.start_again(1, 2).await;
    until("HAProxy", Duration::from_secs(20), || async {
        haproxy.status("rabbitmq-standby", 2).starts_with("UP")
    })
    .await;

    // The node that the host is connected to, and the first of the standby's list.
    let begun = Instant::now();
    cluster.nodes[0].kill().await.unwrap();
    serves_again(&load, "the death of the host's node", SECOND).await;
    let gap = longest_gap(&load.ledger, begun);
    measured("the host's node killed, no answer for", gap);
    assert!(gap < SECOND, "{gap:?}");
    // The other consumer is listed until its node comes back: it might not be dead.
    assert!(cluster.consumers(2, &queue).await.contains(&1));
    calls(haproxy.balanced, &queue);
    cluster.start_again(0, 2).await;
    until("HAProxy", Duration::from_secs(20), || async {
        haproxy.status("rabbitmq-standby", 1).starts_with("UP")
    })
    .await;

    // The node that the host is connected to now freezes. HAProxy notices for this host; another
    // has nothing but its heartbeats. No leader is there: RabbitMQ itself may take half a minute to
    // see that a frozen one does not lead, and nothing that a host does changes that.
    cluster.declare(2, &direct, "quorum").await;
    cluster.lead(2, &queue).await;
    cluster.lead(2, &direct).await;
    let brokers = format!("{},{}", cluster.url(1), cluster.url(2));
    let alone = Options::new(&brokers, &direct).args(&[
        "--heartbeat",
        "2s",
        "--connect-timeout",
        "2s",
        "--strategy",
        "round-robin",
    ]);
    let alone = Host::start(&alone, &[("echo", &echo)]);
    assert_eq!(cluster.consumers(2, &direct).await, [1]);
    let begun = Instant::now();
    cluster.nodes[1].freeze().await.unwrap();
    let noticed = |host: &Host| host.metric("rpchost_sessions_total{event=\"lost\"}");
    let before = noticed(&host);
    let of_host = async {
        until("the loss", Duration::from_secs(20), || async { noticed(&host) > before }).await;
        begun.elapsed()
    };
    let of_alone = async {
        until("the loss", Duration::from_secs(20), || async { noticed(&alone) > 0.0 }).await;
        let lost = begun.elapsed();
        until("a session", Duration::from_secs(20), || async { alone.get("/readyz").0 == 200 })
            .await;
        (lost, begun.elapsed())
    };
    let (of_host, (lost, back)) = tokio::join!(of_host, of_alone);
    measured("a node frozen, noticed behind HAProxy after", of_host);
    measured("a node frozen, noticed by a heartbeat of 2 s after", lost);
    measured("… and consuming elsewhere after", back);
    assert!(lost < Duration::from_secs(4) + SECOND, "{lost:?}");
    serves_again(&load, "the frozen node", Duration::from_secs(30)).await;
    measured("… and no answer for", longest_gap(&load.ledger, begun));
    cluster.nodes[1].thaw().await.unwrap();
    serves_again(&load, "the thawed node", Duration::from_secs(30)).await;
    calls(haproxy.balanced, &queue);
    assert!(haproxy.page().contains("Statistics Report"), "{}", haproxy.page());

    let ledger = load.finish(Duration::from_secs(30)).await;
    assert!(ledger.confirmed() > 500, "{}", ledger.confirmed());
    assert_eq!(ledger.lost(), 0);
    assert_eq!(ledger.unexpected(), Vec::<String>::new());
    for entry in ledger.entries().values() {
        let marked = entry.answers.iter().filter(|answer| answer.redelivered).count();
        assert!(entry.answers.len() <= marked + 1, "an unmarked duplicate");
    }
    drop((host, alone, haproxy));
    cluster.remove().await;
}

/// A classic queue lives on one node. That it is gone comes as a cancellation, over a connection on
/// which nothing else is wrong.
#[tokio::test(flavor = "multi_thread")]
async fn a_classic_queue_whose_node_dies_is_waited_for_and_declared_again() {
    let mut cluster = Cluster::start().await;
    let queue = unique("classic");
    cluster.declare(1, &queue, "classic").await;
    let options = Options::new(&cluster.url(0), &queue).args(&[
        "--queue-type",
        "classic",
        "--heartbeat",
        "2s",
        "--connect-timeout",
        "2s",
    ]);
    let host = Host::start(&options, &[("echo", &guests::built("echo"))]);
    let asked = cluster.connect(2).await;
    let answers = async |what: &str| {
        let channel = asked.create_channel().await.unwrap();
        let reply = call(&channel, &queue, BasicProperties::default(), what.as_bytes()).await;
        assert_eq!(reply.data, what.as_bytes());
    };
    let consumed = async || {
        let Ok(channel) = asked.create_channel().await else { return false };
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let declared =
            channel.queue_declare(queue.as_str().into(), passive, FieldTable::default()).await;
        declared.is_ok_and(|queue| queue.consumer_count() == 1)
    };
    answers("before").await;

    for (round, comes_back) in [("its node comes back", true), ("its node is forgotten", false)] {
        let lost = host.metric("rpchost_sessions_total{event=\"lost\"}");
        let begun = Instant::now();
        cluster.nodes[1].kill().await.unwrap();
        until("the cancellation", Duration::from_secs(10), || async {
            host.metric("rpchost_sessions_total{event=\"lost\"}") > lost
        })
        .await;
        measured("the classic queue's node killed, noticed after", begun.elapsed());
        until("not ready", SECOND, || async { host.get("/readyz").0 == 503 }).await;
        assert_eq!(host.get("/healthz").0, 200);
        // It goes on trying, once a second.
        tokio::time::sleep(Duration::from_secs(3)).await;

        let begun = if comes_back {
            cluster.start_again(1, 2).await;
            Instant::now()
        } else {
            let name = cluster.nodes[1].node_name();
            cluster.nodes[0].ctl(&["forget_cluster_node", &name]).await.unwrap();
            Instant::now()
        };
        until("a consumer", Duration::from_secs(10), &consumed).await;
        measured(&format!("{round}, consumed again after"), begun.elapsed());
        until("ready", SECOND, || async { host.get("/readyz").0 == 200 }).await;
        answers(round).await;
    }
    drop(host);
    cluster.remove().await;
}
