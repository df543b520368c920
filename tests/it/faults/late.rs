//! A broker that takes longer than the host waits, or forgets: nothing is left behind that keeps requests.

use std::time::Duration;

use lapin::BasicProperties;
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;

use crate::support::asks::Asks;
use crate::support::cutter::Cutter;
use crate::support::host::{Host, Options};
use crate::support::{broker, guests, unique, until};

/// A machine that builds something else meanwhile takes its time.
const PATIENCE: Duration = Duration::from_secs(90);

/// More than the prefetch windows of all consumers that a host may have left behind.
const REQUESTS: usize = 500;

/// A host whose way to the broker is a task of ours.
async fn host(options: Options) -> Host {
    let start = move || Host::start(&options, &[("echo", &guests::built("echo"))]);
    tokio::task::spawn_blocking(start).await.expect("a host")
}

async fn consumers(asks: &Asks, queue: &str) -> u32 {
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let none = FieldTable::default();
    let found = asks.channel.queue_declare(queue.into(), passive, none).await;
    found.expect("the queue").consumer_count()
}

async fn all_are_answered(asks: &Asks, queue: &str) {
    let ids: Vec<String> = (0..REQUESTS).map(|number| format!("{queue}-{number}")).collect();
    for id in &ids {
        asks.ask(queue, id, BasicProperties::default().with_type("echo".into()), b"x").await;
    }
    until("all answers", PATIENCE, || async { ids.iter().all(|id| !asks.statuses(id).is_empty()) })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_comes_too_late_keeps_nothing() {
    let broker = broker::shared().await;
    let cutter = Cutter::to(broker.port()).await;
    let queue = unique("late");
    cutter.delay("basic.consume", Duration::from_secs(4));
    let options = Options::new(&cutter.url(), &queue).args(&["--connect-timeout", "1s"]);
    let mending = async {
        tokio::time::sleep(Duration::from_secs(6)).await;
        cutter.delay("", Duration::ZERO);
    };
    let (host, ()) = tokio::join!(host(options), mending);
    assert!(host.log().contains("no answer within 1s"), "{}", host.log());
    let asks = Asks::connect(&broker.amqp_url()).await;
    until("one consumer", PATIENCE, || async { consumers(&asks, &queue).await == 1 }).await;
    all_are_answered(&asks, &queue).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_slow_is_asked_for_once_and_the_session_lives() {
    let broker = broker::shared().await;
    let cutter = Cutter::to(broker.port()).await;
    let (slow, other) = (unique("slow"), unique("other"));
    let file = format!("[[listener]]\nqueue = '{slow}'\n[[listener]]\nqueue = '{other}'\n");
    let options = Options::in_file(&cutter.url(), &file).args(&["--connect-timeout", "1s"]);
    let host = host(options).await;
    let asks = Asks::connect(&broker.amqp_url()).await;
    cutter.delay("basic.consume", Duration::from_secs(5));
    asks.channel.queue_delete(slow.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    until("a word about it", PATIENCE, || async { host.log().contains("no answer within") }).await;
    all_are_answered(&asks, &other).await;
    until("one consumer", PATIENCE, || async { consumers(&asks, &slow).await == 1 }).await;
    all_are_answered(&asks, &slow).await;
    assert!(!host.log().contains("lost the broker"), "{}", host.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirm_that_does_not_come_is_not_waited_for() {
    let broker = broker::shared().await;
    let cutter = Cutter::to(broker.port()).await;
    let queue = unique("forgotten");
    // What is held back holds back the heartbeats behind it.
    let options = Options::new(&cutter.url(), &queue).args(&["--heartbeat", "2m"]);
    let _host = host(options).await;
    let asks = Asks::connect(&broker.amqp_url()).await;
    cutter.delay("basic.publish", PATIENCE);
    asks.ask(&queue, "one", BasicProperties::default().with_type("echo".into()), b"x").await;
    until("the reply", PATIENCE, || async { cutter.delayed() > 0 }).await;
    cutter.delay("", Duration::ZERO);
    assert_eq!(asks.answered("one", PATIENCE).await, "ok");
    // It came by another way than the first, which is still held back.
    assert!(asks.marks("one")[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_gets_nothing_although_requests_wait_is_replaced() {
    let broker = broker::shared().await;
    let cutter = Cutter::to(broker.port()).await;
    let queue = unique("forgotten");
    // Its prefetch window is 4.
    let options = Options::new(&cutter.url(), &queue).args(&["--max-in-flight", "2"]);
    let host = host(options).await;
    let asks = Asks::connect(&broker.amqp_url()).await;
    cutter.swallow(true);
    let ids: Vec<String> = (0..10).map(|number| format!("{queue}-{number}")).collect();
    for id in &ids {
        asks.ask(&queue, id, BasicProperties::default().with_type("echo".into()), b"x").await;
    }
    until("deliveries that vanish", PATIENCE, || async { asks.ready(&queue).await == Some(6) })
        .await;
    cutter.swallow(false);
    for id in &ids {
        assert_eq!(asks.answered(id, 2 * PATIENCE).await, "ok");
    }
    assert!(host.log().contains("requests wait and the broker delivers none"), "{}", host.log());
}
