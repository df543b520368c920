//! Hosts and brokers that die. Each broker test has a broker of its own.

/// Wires that are cut at every frame.
mod cuts;

/// Answers of the broker that come late.
mod late;

/// All of it at once.
mod storm;

use std::time::{Duration, Instant};

use lapin::BasicProperties;
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use rpchost::private_broker::PrivateBroker;
use rustix::process::Signal;

use crate::support::host::{Host, Options};
use crate::support::ledger::{Load, call};
use crate::support::proxy::Proxy;
use crate::support::{broker, guests, unique, until};

/// How often hosts die in the short run; ten times in the long one.
fn rounds() -> usize {
    std::env::var("RPCHOST_TEST_DEATHS").ok().and_then(|text| text.parse().ok()).unwrap_or(4)
}

/// Declares a durable queue, as an operator would have.
async fn durable_queue(url: &str, name: &str) {
    let connection = broker::connect(url).await;
    let channel = connection.create_channel().await.unwrap();
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(name.into(), durable, FieldTable::default()).await.unwrap();
}

/// Every fourth call takes fifty milliseconds, so that there is always work
/// under way.
fn work(number: u64) -> (String, Vec<u8>) {
    let method = if number.is_multiple_of(4) { "misbehave.slow-50" } else { "misbehave" };
    (method.to_owned(), number.to_string().into_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_killed_under_load_lose_nothing() {
    let broker = broker::shared().await;
    let queue = unique("kill");
    durable_queue(&broker.amqp_url(), &queue).await;
    let misbehave = guests::built("misbehave");
    let options = Options::new(&broker.amqp_url(), &queue);
    let mut host = Host::start(&options, &[("misbehave", &misbehave)]);
    let load = Load::start(&broker.amqp_url(), &queue, 300, work).await;
    for _ in 0..rounds() {
        tokio::time::sleep(Duration::from_millis(700)).await;
        host.signal(Signal::KILL);
        host.ended(Duration::from_secs(5)).await;
        host = Host::start(&options, &[("misbehave", &misbehave)]);
    }
    let ledger = load.finish(Duration::from_secs(30)).await;
    assert!(ledger.confirmed() > 500, "{}", ledger.confirmed());
    assert_eq!(ledger.lost(), 0);
    // At most the prefetch window of each death is answered twice, and marked.
    let window = rounds() * 2 * 32 * std::thread::available_parallelism().unwrap().get();
    assert!(ledger.duplicates() <= window, "{} duplicates", ledger.duplicates());
    assert_eq!(ledger.verdict().unmarked, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_stopped_under_load_answer_everything_exactly_once() {
    let broker = broker::shared().await;
    let queue = unique("stop");
    durable_queue(&broker.amqp_url(), &queue).await;
    let misbehave = guests::built("misbehave");
    let options = Options::new(&broker.amqp_url(), &queue);
    let mut host = Host::start(&options, &[("misbehave", &misbehave)]);
    let load = Load::start(&broker.amqp_url(), &queue, 300, work).await;
    for _ in 0..rounds() {
        tokio::time::sleep(Duration::from_millis(500)).await;
        // The next one takes over before this one leaves.
        let next = Host::start(&options, &[("misbehave", &misbehave)]);
        host.signal(Signal::TERM);
        let status = host.ended(Duration::from_secs(20)).await;
        assert_eq!(status.code(), Some(0), "{}", host.log());
        host = next;
    }
    let ledger = load.finish(Duration::from_secs(30)).await;
    assert!(ledger.confirmed() > 500, "{}", ledger.confirmed());
    assert_eq!(ledger.lost(), 0);
    assert_eq!(ledger.duplicates(), 0);
    assert_eq!(ledger.unexpected(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_joins_late_gets_work_at_once() {
    let broker = broker::shared().await;
    let queue = unique("late");
    let misbehave = guests::built("misbehave");
    let options = Options::new(&broker.amqp_url(), &queue);
    let _first = Host::start(&options, &[("misbehave", &misbehave)]);
    let load = Load::start(&broker.amqp_url(), &queue, 300, work).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let second = Host::start(&options, &[("misbehave", &misbehave)]);
    until("work for the second host", Duration::from_secs(2), || async {
        second.metric("rpchost_deliveries_total") > 50.0
    })
    .await;
    let ledger = load.finish(Duration::from_secs(20)).await;
    assert_eq!((ledger.lost(), ledger.duplicates()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_outlive_the_drain_are_given_back() {
    let broker = broker::shared().await;
    let queue = unique("drain");
    let misbehave = guests::built("misbehave");
    let options = Options::new(&broker.amqp_url(), &queue).args(&["--drain-timeout", "500ms"]);
    let mut host = Host::start(&options, &[("misbehave", &misbehave)]);
    let connection = broker::connect(&broker.amqp_url()).await;
    let channel = connection.create_channel().await.unwrap();
    let slow = tokio::spawn({
        let (channel, queue) = (channel.clone(), queue.clone());
        async move {
            let asked = BasicProperties::default().with_type("misbehave.slow-3000".into());
            call(&channel, &queue, asked, b"").await
        }
    });
    until("the call", Duration::from_secs(5), || async { host.metric("rpchost_in_flight") == 1.0 })
        .await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    host.signal(Signal::TERM);
    let begun = Instant::now();
    assert_eq!(host.ended(Duration::from_secs(5)).await.code(), Some(0), "{}", host.log());
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    // Another host runs it again, and says so.
    let _next =
        Host::start(&Options::new(&broker.amqp_url(), &queue), &[("misbehave", &misbehave)]);
    let reply = slow.await.unwrap();
    assert_eq!(reply.data, b"done");
    let again = crate::support::ledger::header(&reply, "rpchost-redelivered");
    assert_eq!(again.as_deref(), Some("true"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_at_once() {
    let broker = broker::shared().await;
    let queue = unique("twice");
    let misbehave = guests::built("misbehave");
    let mut host =
        Host::start(&Options::new(&broker.amqp_url(), &queue), &[("misbehave", &misbehave)]);
    let connection = broker::connect(&broker.amqp_url()).await;
    let channel = connection.create_channel().await.unwrap();
    let asked = BasicProperties::default().with_type("misbehave.slow-8000".into());
    let publish = lapin::options::BasicPublishOptions::default();
    channel.basic_publish("".into(), queue.as_str().into(), publish, b"", asked).await.unwrap();
    until("the call", Duration::from_secs(5), || async { host.metric("rpchost_in_flight") == 1.0 })
        .await;
    host.signal(Signal::TERM);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(host.is_running(), "the first signal waits for what runs");
    host.signal(Signal::TERM);
    assert_eq!(host.ended(Duration::from_secs(2)).await.code(), Some(0));
}

/// One broker, one host and one load through everything a broker can do to
/// them; after each it serves again within two seconds of the broker's return.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_fails_in_every_way_is_outlived() {
    let mut broker = PrivateBroker::start().await.unwrap();
    let url = broker.amqp_url();
    let queue = unique("broker");
    durable_queue(&url, &queue).await;
    let misbehave = guests::built("misbehave");
    let host = Host::start(&Options::new(&url, &queue), &[("misbehave", &misbehave)]);
    let id = host.id();
    let load = Load::start(&url, &queue, 100, work).await;
    tokio::time::sleep(Duration::from_secs(1)).await;

    // Connections closed by the operator.
    for _ in 0..3 {
        broker.ctl(&["close_all_connections", "an operator's reason"]).await.unwrap();
        serves_again(&host, &load, "closed connections").await;
    }

    // Stopped in order, for a while.
    broker.ctl(&["stop_app"]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(host.get("/healthz").0, 200);
    assert_eq!(host.get("/readyz").0, 503);
    broker.ctl(&["start_app"]).await.unwrap();
    serves_again(&host, &load, "a stopped broker").await;

    // Killed.
    broker.kill().await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    broker.start_again().await.unwrap();
    serves_again(&host, &load, "a killed broker").await;

    // Memory alarm: replies wait, nothing is lost, nobody reconnects.
    let sessions = host.metric("rpchost_sessions_total{event=\"opened\"}");
    broker.ctl(&["set_vm_memory_high_watermark", "0.00001"]).await.unwrap();
    until("the alarm", Duration::from_secs(10), || async { host.get("/readyz").0 == 503 }).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    broker.ctl(&["set_vm_memory_high_watermark", "0.4"]).await.unwrap();
    serves_again(&host, &load, "an alarm").await;
    assert_eq!(host.metric("rpchost_sessions_total{event=\"opened\"}"), sessions);

    let ledger = load.finish(Duration::from_secs(30)).await;
    assert!(ledger.confirmed() > 300, "{}", ledger.confirmed());
    assert_eq!(ledger.lost(), 0);
    assert_eq!(host.id(), id);

    // The queue deleted: it is declared again, and served.
    let connection = broker::connect(&url).await;
    let channel = connection.create_channel().await.unwrap();
    channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    until("the queue", Duration::from_secs(2), || async {
        let Ok(channel) = connection.create_channel().await else { return false };
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let declared =
            channel.queue_declare(queue.as_str().into(), passive, FieldTable::default()).await;
        declared.is_ok_and(|queue| queue.consumer_count() == 1)
    })
    .await;
    let channel = connection.create_channel().await.unwrap();
    let asked = BasicProperties::default().with_type("misbehave".into());
    assert_eq!(call(&channel, &queue, asked, b"after").await.data, b"after");
    drop(host);
    broker.remove().await.unwrap();
}

/// Waits, for two seconds at most, until the host is ready and an answer came
/// after now.
async fn serves_again(host: &Host, load: &Load, after: &str) {
    let now = Instant::now();
    until(after, Duration::from_secs(2), || async {
        host.get("/readyz").0 == 200
            && load.ledger.count(|entry| {
                entry.sent > now && entry.answers.iter().any(|answer| answer.at > now)
            }) > 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_broker_is_left_for_another_and_comes_back() {
    let broker = PrivateBroker::start().await.unwrap();
    let url = broker.amqp_url();
    let queue = unique("frozen");
    durable_queue(&url, &queue).await;
    let hello = guests::guest("hello").wasm;
    let options =
        Options::new(&url, &queue).args(&["--heartbeat", "1s", "--connect-timeout", "1s"]);
    let host = Host::start(&options, &[("hello", &hello)]);
    broker.freeze().await.unwrap();
    until("the loss", Duration::from_secs(15), || async { host.get("/readyz").0 == 503 }).await;
    broker.thaw().await.unwrap();
    until("the return", Duration::from_secs(5), || async { host.get("/readyz").0 == 200 }).await;
    let connection = broker::connect(&url).await;
    let channel = connection.create_channel().await.unwrap();
    assert_eq!(call(&channel, &queue, BasicProperties::default(), b"").await.data, b"hello");
    drop(host);
    broker.remove().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_a_connection_that_cannot_be_had() {
    let broker = broker::shared().await;
    let proxy = Proxy::to(broker.port()).await;
    let options = Options::new(&proxy.url(), &unique("no-replies"));
    let mut host = Host::start(&options, &[("hello", &guests::guest("hello").wasm)]);
    // The second of a session, that for replies.
    proxy.cut_newest();
    until("the loss is noticed", Duration::from_secs(20), || async {
        host.metric("rpchost_sessions_total{event=\"failed\"}") >= 1.0
    })
    .await;
    assert_eq!(host.metric("rpchost_connected"), 1.0, "requests are consumed");
    host.signal(Signal::TERM);
    assert_eq!(host.ended(Duration::from_secs(20)).await.code(), Some(0));
}
