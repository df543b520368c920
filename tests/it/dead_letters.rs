//! Requests that the broker takes out of the queue: who waits for them is told.

use std::time::Duration;

use lapin::BasicProperties;
use lapin::options::{
    BasicGetOptions, BasicNackOptions, ExchangeDeclareOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldArray, FieldTable, LongString};
use rpchost::private_broker::PrivateBroker;
use rustix::process::Signal;
use serde_json::Value;

use crate::support::asks::Asks;
use crate::support::host::{Host, Options};
use crate::support::{broker, guests, unique, until};

const PATIENCE: Duration = Duration::from_secs(60);

/// A host that makes its queue and is gone again.
async fn made_by_a_host(options: &Options) {
    let mut host = Host::start(options, &[("hello", &guests::guest("hello").wasm)]);
    host.signal(Signal::TERM);
    assert_eq!(host.ended(PATIENCE).await.code(), Some(0), "{}", host.log());
}

fn serve(options: &Options) -> Host {
    Host::start(options, &[("hello", &guests::guest("hello").wasm)])
}

/// Takes the first request and gives it back, or rejects it.
async fn take(asks: &Asks, queue: &str, requeue: bool) -> bool {
    let get = BasicGetOptions { no_ack: false };
    let Some(got) = asks.channel.basic_get(queue.into(), get).await.unwrap() else { return false };
    got.delivery.nack(BasicNackOptions { requeue, multiple: false }).await.unwrap();
    true
}

async fn callers_are_told_what_became_of_their_requests(url: &str, kind: &str) {
    let asks = Asks::connect(url).await;
    let queue = unique("dead");
    let options = Options::new(url, &queue).args(&["--queue-type", kind]);
    made_by_a_host(&options).await;
    assert_eq!(asks.ready(&format!("{queue}.dead")).await, Some(0));
    let none = BasicProperties::default;
    asks.ask(&queue, "expired", none().with_expiration("1".into()), b"").await;
    until("its end", PATIENCE, || async { asks.ready(&queue).await == Some(0) }).await;
    asks.ask(&queue, "rejected", none(), b"").await;
    until("a rejected one", PATIENCE, || take(&asks, &queue, false)).await;
    // JSON-RPC wants its own id back.
    let call = br#"{"jsonrpc":"2.0","method":"hello","id":"mine"}"#;
    asks.ask(&queue, "json", none().with_expiration("1".into()), call).await;
    until("its end", PATIENCE, || async { asks.ready(&queue).await == Some(0) }).await;
    asks.ask(&queue, "fine", none(), b"").await;
    let host = serve(&options);
    assert_eq!(asks.answered("expired", PATIENCE).await, "deadline-exceeded");
    assert_eq!(asks.answered("rejected", PATIENCE).await, "internal");
    assert_eq!(asks.answered("json", PATIENCE).await, "deadline-exceeded");
    let body: Value = serde_json::from_slice(&asks.body("json")).unwrap();
    assert_eq!((&body["id"], &body["error"]["code"]), (&"mine".into(), &(-32003).into()));
    assert_eq!(asks.answered("fine", PATIENCE).await, "ok");
    until("nothing dead", PATIENCE, || async {
        asks.ready(&format!("{queue}.dead")).await == Some(0)
    })
    .await;
    assert_eq!(host.metric("rpchost_dead_lettered_total{reason=\"expired\"}"), 2.0);
    assert_eq!(host.metric("rpchost_dead_lettered_total{reason=\"rejected\"}"), 1.0);
    // It is no difference that this host has made it.
    assert!(!host.log().contains("WARN"), "{}", host.log());
}

async fn what_was_delivered_too_often_is_quarantined_and_parked(url: &str) {
    let asks = Asks::connect(url).await;
    let queue = unique("limit");
    let options = Options::new(url, &queue).args(&["--queue-arg", "x-delivery-limit=2"]);
    made_by_a_host(&options).await;
    asks.ask(&queue, "often", BasicProperties::default(), b"").await;
    // From 4.3 on, giving back does not count, but what is lost with a channel does.
    let dead = format!("{queue}.dead");
    until("its end", PATIENCE, || async {
        take(&asks, &queue, true).await;
        asks.ready(&dead).await == Some(1)
    })
    .await;
    let _host = serve(&options);
    assert_eq!(asks.answered("often", PATIENCE).await, "quarantined");
    until("nothing dead", PATIENCE, || async { asks.ready(&dead).await == Some(0) }).await;
    assert_eq!(asks.ready(&format!("{queue}.parked")).await, Some(1));
}

async fn only_the_broker_says_what_is_dead_and_why(url: &str) {
    let asks = Asks::connect(url).await;
    let queue = unique("forged");
    let options = Options::new(url, &queue);
    made_by_a_host(&options).await;
    let dead = format!("{queue}.dead");
    let mut death = FieldTable::default();
    for (name, value) in [("reason", "delivery_limit"), ("exchange", "billing")] {
        death.insert(name.into(), AMQPValue::LongString(LongString::from(value)));
    }
    let mut headers = FieldTable::default();
    let deaths = FieldArray::from(vec![AMQPValue::FieldTable(death)]);
    headers.insert("x-death".into(), AMQPValue::FieldArray(deaths));
    asks.ask(&dead, "forged", BasicProperties::default().with_headers(headers), b"").await;
    let _host = serve(&options);
    assert_eq!(asks.answered("forged", PATIENCE).await, "internal");
    until("nothing dead", PATIENCE, || async { asks.ready(&dead).await == Some(0) }).await;
    assert_eq!(asks.ready(&format!("{queue}.parked")).await, None);
}

async fn a_full_queue_tells_the_oldest(url: &str) {
    let asks = Asks::connect(url).await;
    let queue = unique("full");
    let options = Options::new(url, &queue).args(&["--queue-arg", "x-max-length=1"]);
    made_by_a_host(&options).await;
    for id in ["first", "second"] {
        asks.ask(&queue, id, BasicProperties::default(), b"").await;
    }
    let dead = format!("{queue}.dead");
    until("one too many", PATIENCE, || async { asks.ready(&dead).await == Some(1) }).await;
    let _host = serve(&options);
    assert_eq!(asks.answered("first", PATIENCE).await, "overloaded");
    assert_eq!(asks.answered("second", PATIENCE).await, "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quorum_queue_on_rabbitmq_3() {
    let url = broker::shared().await.amqp_url();
    callers_are_told_what_became_of_their_requests(&url, "quorum").await;
    what_was_delivered_too_often_is_quarantined_and_parked(&url).await;
    a_full_queue_tells_the_oldest(&url).await;
    only_the_broker_says_what_is_dead_and_why(&url).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_classic_queue_on_rabbitmq_3() {
    let url = broker::shared().await.amqp_url();
    callers_are_told_what_became_of_their_requests(&url, "classic").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_on_rabbitmq_4() {
    let broker: PrivateBroker = broker::rabbitmq_4().await;
    let url = broker.amqp_url();
    callers_are_told_what_became_of_their_requests(&url, "quorum").await;
    callers_are_told_what_became_of_their_requests(&url, "classic").await;
    what_was_delivered_too_often_is_quarantined_and_parked(&url).await;
    a_full_queue_tells_the_oldest(&url).await;
    broker.remove().await.unwrap();
}

/// A queue that was there, with an exchange and a queue that happen to be
/// called as ours are.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_somebody_elses_is_left_alone() {
    let url = broker::shared().await.amqp_url();
    let asks = Asks::connect(&url).await;
    let queue = unique("theirs");
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let mut arguments = FieldTable::default();
    let exchange = AMQPValue::LongString(LongString::from(format!("{queue}.dlx")));
    arguments.insert("x-dead-letter-exchange".into(), exchange);
    let (name, dead) = (queue.as_str(), format!("{queue}.dead"));
    asks.channel.queue_declare(name.into(), durable, arguments).await.unwrap();
    asks.channel.queue_declare(dead.as_str().into(), durable, FieldTable::default()).await.unwrap();
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let kind = lapin::ExchangeKind::Fanout;
    let dlx = format!("{queue}.dlx");
    asks.channel
        .exchange_declare(dlx.as_str().into(), kind, options, FieldTable::default())
        .await
        .unwrap();
    asks.send(&dead, BasicProperties::default().with_reply_to(asks.replies.clone()), b"").await;
    let _host = serve(&Options::new(&url, &queue));
    asks.ask(&queue, "call", BasicProperties::default(), b"").await;
    assert_eq!(asks.answered("call", PATIENCE).await, "ok");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(asks.ready(&dead).await, Some(1));
    assert_eq!(asks.statuses(""), Vec::<String>::new());
}
