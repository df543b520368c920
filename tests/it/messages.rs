//! Messages that nobody should send: the host serves on, nothing loops,
//! nothing is requeued for ever.

use std::time::{Duration, Instant};

use base64::Engine as _;
use futures_util::StreamExt as _;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel};

use crate::support::host::{Host, Options};
use crate::support::ledger::{call, header};
use crate::support::{broker, guests, unique, until};

async fn publish(channel: &Channel, queue: &str, properties: BasicProperties, body: &[u8]) {
    channel
        .basic_publish("".into(), queue.into(), BasicPublishOptions::default(), body, properties)
        .await
        .expect("a publish")
        .await
        .expect("a confirm");
}

async fn channel(url: &str) -> Channel {
    let connection = broker::connect(url).await;
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    channel
}

/// Messages that are ready in the queue. Those delivered and not settled do
/// not count; the host's own gauge tells those.
async fn ready(channel: &Channel, queue: &str) -> u32 {
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let declared = channel.queue_declare(queue.into(), passive, FieldTable::default()).await;
    declared.unwrap().message_count()
}

async fn drained(host: &Host, channel: &Channel, queue: &str, deliveries: f64) {
    until("an empty queue", Duration::from_secs(20), || async {
        host.metric("rpchost_in_flight") == 0.0
            && ready(channel, queue).await == 0
            && host.metric("rpchost_deliveries_total") >= deliveries
    })
    .await;
    // Nothing comes round again.
    let seen = host.metric("rpchost_deliveries_total");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(host.metric("rpchost_deliveries_total"), seen, "messages come again");
}

#[tokio::test(flavor = "multi_thread")]
async fn reply_addresses_that_would_do_harm_are_settled_counted_and_not_answered() {
    let broker = broker::shared().await;
    let queue = unique("addresses");
    let host = Host::start(
        &Options::new(&broker.amqp_url(), &queue),
        &[("hello", &guests::guest("hello").wasm)],
    );
    let channel = channel(&broker.amqp_url()).await;
    // A well-formed address of a node that is not there: RabbitMQ closes the
    // connection that answers it.
    let mut pid = vec![131, 88, 118, 0, 8];
    pid.extend_from_slice(b"reply@42");
    pid.extend_from_slice(&[0, 0, 1, 2, 0, 0, 0, 0, 1, 2, 3, 4]);
    let base64 = base64::engine::general_purpose::STANDARD;
    let dead_node =
        format!("amq.rabbitmq.reply-to.{}.{}", base64.encode(&pid), base64.encode([9; 16]));
    let addresses = [
        queue.as_str(),
        "no-such-queue",
        "amq.rabbitmq.reply-to.x.y",
        "amq.rabbitmq.reply-to.@@@.@@@",
        "amq.rabbitmq.reply-to.",
        dead_node.as_str(),
    ];
    let before = host.id();
    for round in 0..5 {
        for address in addresses {
            let properties = BasicProperties::default()
                .with_reply_to(address.into())
                .with_correlation_id(format!("{round}").into());
            publish(&channel, &queue, properties, b"x").await;
        }
        // Innocents among them are answered.
        let reply = call(&channel, &queue, BasicProperties::default(), b"x").await;
        assert_eq!(reply.data, b"hello");
    }
    drained(&host, &channel, &queue, 35.0).await;
    assert_eq!(host.id(), before);
    let refused = |reason| {
        host.metric(&format!("rpchost_reply_addresses_refused_total{{reason=\"{reason}\"}}"))
    };
    assert_eq!(refused("own-queue"), 5.0);
    assert_eq!(refused("malformed"), 15.0);
    assert_eq!(host.metric("rpchost_replies_total{result=\"unroutable\"}"), 5.0);
    assert_eq!(host.metric("rpchost_replies_total{result=\"undeliverable\"}"), 5.0);
    assert_eq!(host.metric("rpchost_sessions_total{event=\"lost\"}"), 0.0, "requests flowed on");
    assert_eq!(host.get("/readyz").0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_requests_that_name_the_request_queue_are_gone_in_one_pass() {
    let broker = broker::shared().await;
    let queue = unique("loop");
    let host = Host::start(
        &Options::new(&broker.amqp_url(), &queue),
        &[("hello", &guests::guest("hello").wasm)],
    );
    let channel = channel(&broker.amqp_url()).await;
    let mut confirms = Vec::new();
    for _ in 0..10_000 {
        let properties = BasicProperties::default().with_reply_to(queue.as_str().into());
        let published = channel
            .basic_publish(
                "".into(),
                queue.as_str().into(),
                BasicPublishOptions::default(),
                b"x",
                properties,
            )
            .await
            .unwrap();
        confirms.push(published);
    }
    for confirm in confirms {
        confirm.await.unwrap();
    }
    drained(&host, &channel, &queue, 10_000.0).await;
    assert_eq!(host.metric("rpchost_deliveries_total"), 10_000.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_lack_things_are_served() {
    let broker = broker::shared().await;
    let queue = unique("lacking");
    let host =
        Host::start(&Options::new(&broker.amqp_url(), &queue), &[("echo", &guests::built("echo"))]);
    let channel = channel(&broker.amqp_url()).await;
    // No reply_to, empty reply_to: run, settled, nobody told.
    publish(&channel, &queue, BasicProperties::default(), b"x").await;
    publish(&channel, &queue, BasicProperties::default().with_reply_to("".into()), b"x").await;
    drained(&host, &channel, &queue, 2.0).await;
    assert_eq!(host.metric("rpchost_requests_total{plugin=\"echo\",status=\"ok\"}"), 2.0);
    // No correlation id: the reply has none either.
    let reply = call(&channel, &queue, BasicProperties::default(), b"x").await;
    assert_eq!(reply.properties.correlation_id(), &None);
    // Empty body, and one of sixteen mebibytes, which is the limit.
    let reply = call(&channel, &queue, BasicProperties::default(), b"").await;
    assert_eq!(reply.data, b"");
    let large = vec![b'x'; 16 << 20];
    let reply = call(&channel, &queue, BasicProperties::default(), &large).await;
    assert_eq!(reply.data.len(), large.len());
    let reply =
        call(&channel, &queue, BasicProperties::default(), &vec![b'x'; (16 << 20) + 1]).await;
    assert_eq!(header(&reply, "rpchost-status").as_deref(), Some("bad-request"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_carries_nothing_of_the_request_but_its_correlation_id() {
    let broker = broker::shared().await;
    let queue = unique("copied");
    let _host = Host::start(
        &Options::new(&broker.amqp_url(), &queue),
        &[("hello", &guests::guest("hello").wasm)],
    );
    let channel = channel(&broker.amqp_url()).await;
    let mut headers = FieldTable::default();
    headers.insert("x-mine".into(), AMQPValue::LongString("secret".into()));
    headers.insert("rpchost-status".into(), AMQPValue::LongString("forged".into()));
    let id = "\u{7f}\r\n\u{1b}[31mä".to_owned() + &"x".repeat(200);
    let asked = BasicProperties::default()
        .with_correlation_id(id.as_str().into())
        .with_message_id("mine".into())
        .with_app_id("mine".into())
        .with_user_id("guest".into())
        .with_expiration("60000".into())
        .with_priority(3)
        .with_timestamp(1)
        .with_delivery_mode(2)
        .with_content_type("text/mine".into())
        .with_headers(headers);
    let reply = call(&channel, &queue, asked, b"x").await;
    let properties = &reply.properties;
    assert_eq!(properties.correlation_id().as_ref().unwrap().as_str(), id);
    assert_eq!(*properties.delivery_mode(), Some(2), "as persistent as the request");
    assert_eq!(properties.reply_to(), &None);
    assert_eq!(properties.app_id(), &None);
    assert_eq!(properties.user_id(), &None);
    assert_eq!(properties.expiration(), &None);
    assert_eq!(properties.priority(), &None);
    assert_eq!(properties.timestamp(), &None);
    let names: Vec<_> = properties
        .headers()
        .as_ref()
        .unwrap()
        .inner()
        .keys()
        .map(|name| name.as_str().to_owned())
        .collect();
    assert_eq!(names, ["rpchost-plugin", "rpchost-status"]);
    assert_eq!(header(&reply, "rpchost-status").as_deref(), Some("ok"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_and_its_notifications_are_answered_in_one_message() {
    let broker = broker::shared().await;
    let queue = unique("batch");
    let _host = Host::start(
        &Options::new(&broker.amqp_url(), &queue),
        &[("fib", &guests::built("fib")), ("hello", &guests::guest("hello").wasm)],
    );
    let channel = channel(&broker.amqp_url()).await;
    let batch = r#"[{"jsonrpc":"2.0","method":"hello","id":"a"},
        {"jsonrpc":"2.0","method":"hello"},{"jsonrpc":"2.0","method":"nope","id":2},1]"#;
    let reply = call(&channel, &queue, BasicProperties::default(), batch.as_bytes()).await;
    let answers: serde_json::Value = serde_json::from_slice(&reply.data).unwrap();
    assert_eq!(answers[0]["result"], "hello");
    assert_eq!(answers[1]["error"]["code"], -32601);
    assert_eq!(answers[2]["error"]["code"], -32600);
    assert_eq!(answers.as_array().unwrap().len(), 3);
}

/// Messages wait while a slow one runs; a burst beyond the line of the plugin
/// is never dropped.
#[tokio::test(flavor = "multi_thread")]
async fn a_burst_for_one_plugin_is_answered_in_full() {
    let broker = broker::shared().await;
    let queue = unique("burst");
    let _host = Host::start(
        &Options::new(&broker.amqp_url(), &queue),
        &[("hello", &guests::guest("hello").wasm)],
    );
    let channel = channel(&broker.amqp_url()).await;
    let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    let replies = channel.queue_declare("".into(), exclusive, FieldTable::default()).await.unwrap();
    let no_ack = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let mut incoming = channel
        .basic_consume(replies.name().clone(), "".into(), no_ack, FieldTable::default())
        .await
        .unwrap();
    for number in 0..2_000 {
        let properties = BasicProperties::default()
            .with_reply_to(replies.name().clone())
            .with_correlation_id(format!("{number}").into());
        channel
            .basic_publish(
                "".into(),
                queue.as_str().into(),
                BasicPublishOptions::default(),
                b"x",
                properties,
            )
            .await
            .unwrap();
    }
    let begun = Instant::now();
    for _ in 0..2_000 {
        let reply = tokio::time::timeout(Duration::from_secs(10), incoming.next()).await;
        let reply = reply.expect("an answer in time").unwrap().unwrap();
        assert_eq!(header(&reply, "rpchost-status").as_deref(), Some("ok"));
    }
    assert!(begun.elapsed() < Duration::from_secs(20));
}
