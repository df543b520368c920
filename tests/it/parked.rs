//! Requests that were set aside, and what people do with them.

use std::time::Duration;

use lapin::BasicProperties;
use lapin::options::{BasicGetOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, LongString};
use rpchost::private_broker::PrivateBroker;
use rustix::process::Signal;
use serde_json::Value;

use crate::support::asks::Asks;
use crate::support::host::{Host, Options, command};
use crate::support::raw::{self, Client, Props};
use crate::support::{broker, guests, unique, until};

const PATIENCE: Duration = Duration::from_secs(60);

struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

/// `rpchost parked …`, as somebody types it.
async fn parked(url: &str, queue: &str, args: &[&str]) -> Said {
    let mut command = command(&["parked"]);
    command.args(args).args(["--queue", queue, "--amqp-url", url]);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
}

async fn list(url: &str, queue: &str) -> Vec<Value> {
    let said = parked(url, queue, &["list", "-o", "json"]).await;
    assert_eq!(said.code, Some(0), "{}", said.err);
    serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {}", said.out))
}

/// A queue for answers that takes none.
async fn full(asks: &Asks) -> String {
    let name = unique("full");
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(0));
    let refuse = AMQPValue::LongString(LongString::from("reject-publish"));
    arguments.insert("x-overflow".into(), refuse);
    let options = QueueDeclareOptions { auto_delete: true, ..QueueDeclareOptions::default() };
    asks.channel.queue_declare(name.as_str().into(), options, arguments).await.unwrap();
    // A limit of nothing holds one back only once there is one.
    asks.send(&name, BasicProperties::default(), b"in the way").await;
    name
}

fn headers(pairs: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in pairs {
        table.insert((*name).into(), value.clone());
    }
    table
}

/// Requests whose answers nobody takes are run and parked; then looked at, sent
/// again and dropped.
async fn a_parked_request_is_listed_shown_replayed_and_dropped(url: &str) {
    let queue = unique("parked");
    let host = Host::start(&Options::new(url, &queue), &[("echo", &guests::built("echo"))]);
    let said = parked(url, &queue, &["list"]).await;
    assert_eq!(said.code, Some(0));
    assert_eq!(said.out, format!("no request of the queue `{queue}` is parked\n"));

    let asks = Asks::connect(url).await;
    let nowhere = full(&asks).await;
    let text = AMQPValue::LongString(LongString::from("theirs"));
    let properties = BasicProperties::default()
        .with_type("echo".into())
        .with_reply_to(nowhere.as_str().into())
        .with_correlation_id("an id".into())
        .with_content_type("text/plain".into())
        .with_message_id("m-1".into())
        .with_user_id("guest".into())
        .with_expiration("600000".into())
        .with_headers(headers(&[
            ("rpchost-aside", text.clone()),
            ("x-theirs", AMQPValue::ShortInt(-7)),
        ]));
    for body in [b"one".as_slice(), b"two \x1b[31m", b"three \xFF"] {
        asks.send(&queue, properties.clone(), body).await;
    }
    until("three parked", PATIENCE, || async { list(url, &queue).await.len() == 3 }).await;
    assert_eq!(asks.ready(&queue).await, Some(0));
    let set_aside = "rpchost_set_aside_total{reason=\"undeliverable\",result=\"confirmed\",\
                     to=\"parked\"}";
    assert_eq!(host.metric(set_aside), 3.0);

    let all = list(url, &queue).await;
    for request in &all {
        assert_eq!(
            (&request["reason"], &request["method"]),
            (&"undeliverable".into(), &"echo".into())
        );
        assert!(request["age_seconds"].as_u64().unwrap() < 600);
    }
    // They were given up at the same time, so any may be the first.
    let of_size = |size: usize| all.iter().find(|request| request["size"] == size).unwrap();
    let ids_by_body = [3, 9, 7].map(|size| of_size(size)["id"].as_str().unwrap());
    let id = |index: usize| ids_by_body[index].to_owned();
    let ids: Vec<&Value> = all.iter().map(|one| &one["id"]).collect();
    let said = parked(url, &queue, &["list"]).await;
    let lines: Vec<&str> = said.out.lines().collect();
    assert!(lines[0].starts_with("ID ") && lines[0].ends_with("SIZE"), "{}", said.out);
    assert!(lines[1].starts_with(ids[0].as_str().unwrap()) && lines.len() == 4, "{}", said.out);
    let said = parked(url, &queue, &["list", "--limit", "2"]).await;
    assert!(said.out.contains("and 1 more"), "{}", said.out);

    let said = parked(url, &queue, &["show", &id(0), "-o", "json"]).await;
    let shown: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(shown["headers"]["rpchost-aside"], "theirs", "theirs are theirs: {shown}");
    assert_eq!(shown["headers"]["x-theirs"], -7);
    assert_eq!(shown["properties"]["correlation_id"], "an id");
    assert_eq!(shown["properties"]["expiration"], "600000");
    assert_eq!(shown["properties"]["user_id"], "guest");
    assert_eq!((&shown["queue"], &shown["body"]), (&queue.as_str().into(), &"one".into()));
    let said = parked(url, &queue, &["show", &id(1)]).await;
    assert!(said.out.contains("two \\u{1b}[31m"), "a terminal obeys nothing: {}", said.out);
    let said = parked(url, &queue, &["show", &id(2), "-o", "json"]).await;
    let shown: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(shown["body"]["base64"], "dGhyZWUg/w==");

    // Several people at once: nothing is lost, and nothing stays hidden.
    let looks = (0..6).map(|_| parked(url, &queue, &["list", "-o", "json"]));
    for said in futures_util::future::join_all(looks).await {
        assert_eq!(said.code, Some(0), "{}", said.err);
    }
    until("all three again", PATIENCE, || async { list(url, &queue).await.len() == 3 }).await;
    // One after the other they see the same, in the same order.
    for _ in 0..5 {
        assert_eq!(list(url, &queue).await.iter().map(|one| &one["id"]).collect::<Vec<_>>(), ids);
    }

    let said = parked(url, &queue, &["drop", &id(1), "no-such-id"]).await;
    assert_eq!((said.code, said.out), (Some(1), format!("dropped {}\n", id(1))));
    assert!(said.err.contains("`no-such-id`"), "{}", said.err);

    // What is sent again is what came, and the host stopped lets us see it.
    host.signal(Signal::TERM);
    let mut host = host;
    host.ended(PATIENCE).await;
    let said = parked(url, &queue, &["replay", &id(0)]).await;
    assert_eq!((said.code, said.out), (Some(0), format!("replayed {}\n", id(0))), "{}", said.err);
    let channel = &asks.channel;
    let mut got = None;
    until("the request", PATIENCE, || async { asks.ready(&queue).await == Some(1) }).await;
    if let Some(message) =
        channel.basic_get(queue.as_str().into(), BasicGetOptions { no_ack: true }).await.unwrap()
    {
        got = Some(message.delivery);
    }
    let got = got.unwrap();
    let back = &got.properties;
    assert_eq!(got.data, b"one");
    assert_eq!(back.correlation_id().as_ref().unwrap().as_str(), "an id");
    assert_eq!(back.message_id().as_ref().unwrap().as_str(), "m-1");
    assert_eq!(back.expiration().as_ref().unwrap().as_str(), "600000");
    assert_eq!(back.user_id(), &None, "which only that user may publish");
    let mut kept = back.headers().as_ref().unwrap().inner().clone();
    // A quorum queue counts deliveries in a header of its own.
    kept.remove("x-delivery-count");
    assert_eq!(kept.len(), 2, "{kept:?}");
    assert_eq!(kept.get("rpchost-aside"), Some(&text));
    assert_eq!(kept.get("x-theirs"), Some(&AMQPValue::ShortInt(-7)));

    let said = parked(url, &queue, &["drop", "--all", "-o", "json"]).await;
    let dropped: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(dropped["dropped"], serde_json::json!([id(2)]));
    assert_eq!(list(url, &queue).await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn parked_requests_on_rabbitmq_3() {
    let url = broker::shared().await.amqp_url();
    a_parked_request_is_listed_shown_replayed_and_dropped(&url).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parked_requests_on_rabbitmq_4() {
    let broker: PrivateBroker = broker::rabbitmq_4().await;
    let url = broker.amqp_url();
    a_parked_request_is_listed_shown_replayed_and_dropped(&url).await;
    // Looking is a delivery, and that version ends what was delivered often.
    let queue = unique("parked-often");
    let _host = Host::start(&Options::new(&url, &queue), &[("echo", &guests::built("echo"))]);
    let asks = Asks::connect(&url).await;
    let nowhere = full(&asks).await;
    asks.send(&queue, BasicProperties::default().with_reply_to(nowhere.as_str().into()), b"x")
        .await;
    until("it parked", PATIENCE, || async { list(&url, &queue).await.len() == 1 }).await;
    for look in 0..25 {
        assert_eq!(list(&url, &queue).await.len(), 1, "look {look}");
    }
    broker.remove().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_can_read_and_nobody_waits_for_is_parked() {
    let broker = broker::shared().await;
    let url = broker.amqp_url();
    let queue = unique("unreadable");
    let host = Host::start(&Options::new(&url, &queue), &[("echo", &guests::built("echo"))]);
    let mut client = Client::connect(broker.port());
    // A header table that is nested a thousand deep, and an id that is no text.
    let mut table = Vec::new();
    for _ in 0..1000 {
        let mut outer = b"\x01kF".to_vec();
        outer.extend_from_slice(&u32::try_from(table.len()).unwrap().to_be_bytes());
        outer.extend_from_slice(&table);
        table = outer;
    }
    let props = Props::default().with(raw::HEADERS, &table).with(raw::CORRELATION_ID, b"\xFF\xFE");
    client.publish(queue.as_bytes(), &props, b"a body");
    until("it parked", PATIENCE, || async { list(&url, &queue).await.len() == 1 }).await;
    let one = list(&url, &queue).await.remove(0);
    assert_eq!(one["reason"], "unreadable", "{one}");
    let said = parked(&url, &queue, &["show", one["id"].as_str().unwrap(), "-o", "json"]).await;
    let shown: Value = serde_json::from_str(&said.out).unwrap();
    assert!(shown["detail"].as_str().unwrap().contains("nested"), "{shown}");
    assert_eq!(shown["properties"]["correlation_id"]["base64"], "//4=");
    assert_eq!(shown["body"], "a body");
    drop(host);
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_that_are_no_text_come_back_byte_for_byte() {
    let broker = broker::shared().await;
    let url = broker.amqp_url();
    let queue = unique("bytes");
    let mut host = Host::start(&Options::new(&url, &queue), &[("echo", &guests::built("echo"))]);
    let mut client = Client::connect(broker.port());
    // A header's name that is no text makes the headers unreadable.
    let unreadable = b"\x01\xFFV";
    let lengths = [(1, 2), (220, 221), (254, 255)];
    let long = |length: usize| -> Vec<u8> { (0..=255).rev().cycle().take(length).collect() };
    let mut sent = Vec::new();
    for (correlation, message) in lengths {
        let props = Props::default()
            .with(raw::HEADERS, unreadable)
            .with(raw::CORRELATION_ID, &long(correlation))
            .with(raw::MESSAGE_ID, &long(message));
        client.publish(queue.as_bytes(), &props, b"a body");
        sent.push((long(correlation), long(message)));
    }
    until("all parked", PATIENCE, || async { list(&url, &queue).await.len() == 3 }).await;
    host.signal(Signal::TERM);
    host.ended(PATIENCE).await;
    let asks = Asks::connect(&url).await;
    asks.channel
        .queue_delete(queue.as_str().into(), lapin::options::QueueDeleteOptions::default())
        .await
        .unwrap();
    // Nobody loses anything where there is no such queue.
    let said = parked(&url, &queue, &["replay", "--all"]).await;
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert!(said.err.contains("there is no queue"), "{}", said.err);
    client.reply_queue(queue.as_bytes());
    let said = parked(&url, &queue, &["replay", "--all"]).await;
    assert_eq!(said.code, Some(0), "{}", said.err);
    let mut back = Vec::new();
    for _ in lengths {
        let (props, body) = client.delivery();
        assert_eq!((body.as_slice(), props.get(raw::HEADERS)), (b"a body".as_slice(), None));
        let bytes = |property| props.get(property).unwrap().to_vec();
        back.push((bytes(raw::CORRELATION_ID), bytes(raw::MESSAGE_ID)));
    }
    back.sort_by_key(|(id, _)| id.len());
    assert_eq!(back, sent);
}

/// The key may name the method, and what came through an exchange goes through
/// it again.
#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_request_takes_the_way_that_it_came() {
    let url = broker::shared().await.amqp_url();
    let queue = unique("way");
    let host = Host::start(&Options::new(&url, &queue), &[("echo", &guests::built("echo"))]);
    let asks = Asks::connect(&url).await;
    let none = FieldTable::default;
    let bind = lapin::options::QueueBindOptions::default();
    let exchange = || "amq.topic".into();
    let key = format!("{queue}.echo");
    let (name, routing) = (queue.as_str().into(), key.as_str().into());
    asks.channel.queue_bind(name, exchange(), routing, bind, none()).await.unwrap();
    let nowhere = full(&asks).await;
    let copy = AMQPValue::FieldArray(vec![AMQPValue::LongString("elsewhere".into())].into());
    let properties = BasicProperties::default()
        .with_type("echo".into())
        .with_reply_to(nowhere.as_str().into())
        .with_headers(headers(&[("CC", copy)]));
    let options = lapin::options::BasicPublishOptions::default();
    asks.channel
        .basic_publish(exchange(), key.as_str().into(), options, b"x", properties)
        .await
        .unwrap()
        .await
        .unwrap();
    until("it parked", PATIENCE, || async { list(&url, &queue).await.len() == 1 }).await;
    let mut host = host;
    host.signal(Signal::TERM);
    host.ended(PATIENCE).await;
    let listed = list(&url, &queue).await;
    let shown = parked(&url, &queue, &["show", listed[0]["id"].as_str().unwrap()]).await.out;
    assert!(shown.contains("amq.topic") && shown.contains(&key), "{shown}");
    let said = parked(&url, &queue, &["replay", "--all"]).await;
    assert_eq!(said.code, Some(0), "{}", said.err);
    let get = BasicGetOptions { no_ack: true };
    let back = asks.channel.basic_get(queue.as_str().into(), get).await.unwrap().unwrap().delivery;
    assert_eq!((back.exchange.as_str(), back.routing_key.as_str()), ("amq.topic", key.as_str()));
    // A quorum queue may count deliveries in a header of its own.
    let all = back.properties.headers().clone().unwrap_or_default();
    let left: Vec<&str> = all.inner().keys().map(|name| name.as_str()).collect();
    let theirs: Vec<&&str> = left.iter().filter(|name| **name != "x-delivery-count").collect();
    assert!(theirs.is_empty(), "it was copied when it was sent, and that is enough: {left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_have_a_sentence_and_an_exit_code() {
    let url = broker::shared().await.amqp_url();
    let queue = unique("mistakes");
    let said = parked(&url, &queue, &["show", "nothing"]).await;
    assert_eq!((said.code, said.out.as_str()), (Some(1), ""), "{}", said.err);
    assert!(said.err.starts_with("rpchost: not parked: `nothing`"), "{}", said.err);
    let said = parked(&url, &queue, &["drop"]).await;
    assert_eq!(said.code, Some(2), "{}", said.err);
    let said = parked("amqp://guest:canary-7531@127.0.0.1:1", &queue, &["list"]).await;
    assert_eq!(said.code, Some(4), "{}", said.err);
    assert!(!said.err.contains("canary-7531"), "{}", said.err);
}
