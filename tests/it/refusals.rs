//! What a broker refuses while a host runs: sizes, permissions, time.

use std::time::{Duration, Instant};

use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions,
    QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel};
use rpchost::private_broker::PrivateBroker;
use rustix::process::Signal;
use serde_json::Value;

use crate::support::host::{Host, Options};
use crate::support::ledger::{call, header};
use crate::support::{broker, guests, unique, until};

async fn channel(url: &str) -> Channel {
    let connection = broker::connect(url).await;
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    channel
}

/// The broker's limit on messages is a channel's, from the time it was opened.
async fn limit_messages(broker: &PrivateBroker, bytes: u64) {
    let set = format!("application:set_env(rabbit, max_message_size, {bytes}).");
    broker.ctl(&["eval", &set]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_larger_than_the_broker_takes_is_answered_as_such() {
    let broker = PrivateBroker::start().await.unwrap();
    let url = broker.amqp_url();
    let queue = unique("large");
    limit_messages(&broker, 100_000).await;
    let host = Host::start(&Options::new(&url, &queue), &[("echo", &guests::built("echo"))]);
    limit_messages(&broker, 100_000_000).await;
    let channel = channel(&url).await;
    let large = vec![b'x'; 200_000];
    for round in 1..=3 {
        let id = format!("large-{round}");
        let asked = || BasicProperties::default().with_correlation_id(id.as_str().into());
        let reply = call(&channel, &queue, asked(), &large).await;
        assert_eq!(header(&reply, "rpchost-status").as_deref(), Some("resource-exhausted"));
        assert!(header(&reply, "rpchost-plugin").unwrap().starts_with("echo@"));
        assert_eq!(reply.properties.correlation_id().as_ref().unwrap().as_str(), id);
        let body: Value = serde_json::from_slice(&reply.data).unwrap();
        assert_eq!(body["error"]["code"], -32004);
        assert!(body["error"]["message"].as_str().unwrap().contains("100000 bytes"), "{body}");
        let reply = call(&channel, &queue, asked(), b"small").await;
        assert_eq!(reply.data, b"small");
    }
    let text = "x".repeat(200_000);
    let request =
        format!(r#"{{"jsonrpc":"2.0","method":"echo","params":["{text}"],"id":"my-id"}}"#);
    let reply = call(&channel, &queue, BasicProperties::default(), request.as_bytes()).await;
    let body: Value = serde_json::from_slice(&reply.data).unwrap();
    assert_eq!((&body["id"], &body["error"]["code"]), (&"my-id".into(), &(-32004).into()));
    // The broker closed a channel over the first; the others were not sent to it.
    assert_eq!(host.metric("rpchost_sessions_total{event=\"replies-lost\"}"), 1.0);
    assert_eq!(host.metric("rpchost_sessions_total{event=\"lost\"}"), 0.0);
    assert_eq!(host.metric("rpchost_replies_total{result=\"too-large\"}"), 4.0);
    // After the loss of that connection for another reason, it is not sure any more.
    let listed = broker.ctl(&["list_connections", "-q", "pid", "client_properties"]).await.unwrap();
    let replies = listed.lines().find(|line| line.contains("replies")).expect("the connection");
    let pid = replies.split_whitespace().next().unwrap();
    broker.ctl(&["close_connection", pid, "test"]).await.unwrap();
    until("the loss", Duration::from_secs(20), || async {
        host.metric("rpchost_sessions_total{event=\"replies-lost\"}") >= 2.0
    })
    .await;
    let reply = call(&channel, &queue, BasicProperties::default(), &large).await;
    assert!(reply.data == large, "{}", String::from_utf8_lossy(&reply.data));
    assert_eq!(host.metric("rpchost_sessions_total{event=\"lost\"}"), 0.0);
    drop(host);
    broker.remove().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permission_that_vanishes_keeps_requests_until_it_is_back() {
    let broker = PrivateBroker::start().await.unwrap();
    let url = broker.amqp_url();
    let queue = unique("permission");
    broker.ctl(&["add_user", "host", "canary-7531"]).await.unwrap();
    let allow = ["set_permissions", "host", ".*", ".*", ".*"];
    broker.ctl(&allow).await.unwrap();
    let as_host = url.replace("guest:guest@", "host:canary-7531@");
    assert_ne!(as_host, url);
    let host =
        Host::start(&Options::new(&as_host, &queue), &[("hello", &guests::guest("hello").wasm)]);
    let channel = channel(&url).await;
    assert_eq!(call(&channel, &queue, BasicProperties::default(), b"").await.data, b"hello");
    // It may no longer publish. A channel remembers what it was allowed, so the
    // connections go too, as they do when somebody sees to it.
    broker.ctl(&["set_permissions", "host", ".*", "nothing", ".*"]).await.unwrap();
    broker.ctl(&["close_all_user_connections", "host", "permissions"]).await.unwrap();
    let waiting = {
        let (channel, queue) = (channel.clone(), queue.clone());
        tokio::spawn(async move { call(&channel, &queue, BasicProperties::default(), b"").await })
    };
    until("the refusal", Duration::from_secs(10), || async {
        host.metric("rpchost_sessions_total{event=\"replies-refused\"}") > 0.0
            && host.get("/readyz").0 == 503
    })
    .await;
    assert!(!waiting.is_finished(), "a request was given up");
    assert!(host.log().contains("ERROR"), "{}", host.log());
    broker.ctl(&allow).await.unwrap();
    let reply = tokio::time::timeout(Duration::from_secs(15), waiting).await;
    assert_eq!(reply.expect("an answer").unwrap().data, b"hello");
    until("the return", Duration::from_secs(10), || async { host.get("/readyz").0 == 200 }).await;
    assert!(!host.log().contains("canary-7531"), "a password in the log");
    drop(host);
    broker.remove().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_larger_than_a_frame_are_answered_as_such() {
    let broker = broker::shared().await;
    let queue = unique("large-headers");
    let url = format!("{}?frame_max=8192", broker.amqp_url());
    let guests = ["large-header", "hello"].map(|name| (name, guests::guest(name).wasm));
    let plugins: Vec<_> = guests.iter().map(|(name, wasm)| (*name, wasm.as_slice())).collect();
    let host = Host::start(&Options::new(&url, &queue), &plugins);
    let channel = channel(&broker.amqp_url()).await;
    let kind = |name: &str| BasicProperties::default().with_type(name.into());
    for _ in 0..3 {
        let reply = call(&channel, &queue, kind("large-header"), b"").await;
        assert_eq!(header(&reply, "rpchost-status").as_deref(), Some("resource-exhausted"));
        let said: Value = serde_json::from_slice(&reply.data).unwrap();
        let text = "the headers of the result are larger than the broker takes, 8192 bytes";
        assert_eq!(said["error"]["message"], text, "{said}");
        assert_eq!(call(&channel, &queue, kind("hello"), b"").await.data, b"hello");
    }
    assert_eq!(host.metric("rpchost_sessions_total{event=\"replies-lost\"}"), 0.0);
    assert_eq!(host.metric("rpchost_replies_total{result=\"too-large\"}"), 3.0);
}

/// A channel that the broker closes costs its number, of which there are few here.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_could_not_be_consumed_for_long_is_consumed_again() {
    let broker = PrivateBroker::start().await.unwrap();
    broker.ctl(&["eval", "application:set_env(rabbit, channel_max, 32)."]).await.unwrap();
    let url = broker.amqp_url();
    let (good, bad) = (unique("good"), unique("bad"));
    broker.ctl(&["add_user", "host", "canary-7531"]).await.unwrap();
    let allow = ["set_permissions", "host", ".*", ".*", ".*"];
    broker.ctl(&allow).await.unwrap();
    let as_host = url.replace("guest:guest@", "host:canary-7531@");
    let file = format!("[[listener]]\nqueue = '{good}'\n[[listener]]\nqueue = '{bad}'\n");
    let hello = guests::guest("hello").wasm;
    let host = Host::start(&Options::in_file(&as_host, &file), &[("hello", &hello)]);
    let channel = channel(&url).await;
    let ask = async |queue: &str| call(&channel, queue, BasicProperties::default(), b"").await.data;
    assert_eq!((ask(&good).await, ask(&bad).await), (b"hello".to_vec(), b"hello".to_vec()));
    // From now on it may make the queue, and not read it.
    let some = format!("^{good}");
    broker.ctl(&["set_permissions", "host", ".*", ".*", &some]).await.unwrap();
    channel.queue_delete(bad.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    // The first ends at the first refusal; the second for want of channels, as would the third.
    until("two other connections", Duration::from_secs(60), || async {
        assert_eq!(ask(&good).await, b"hello");
        host.metric("rpchost_sessions_total{event=\"lost\"}") >= 3.0
    })
    .await;
    broker.ctl(&allow).await.unwrap();
    until("the queue", Duration::from_secs(20), || async {
        host.metric("rpchost_queues_waiting") == 0.0
    })
    .await;
    assert_eq!((ask(&good).await, ask(&bad).await), (b"hello".to_vec(), b"hello".to_vec()));
    drop(host);
    broker.remove().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_may_not_be_published_keeps_no_other_waiting() {
    let broker = PrivateBroker::start().await.unwrap();
    let url = broker.amqp_url();
    let (queue, open, closed) = (unique("nameko"), unique("open"), unique("closed"));
    broker.ctl(&["add_user", "host", "canary-7531"]).await.unwrap();
    let may = format!("^(amq\\.default|{open}|{queue}.*)$");
    broker.ctl(&["set_permissions", "host", ".*", &may, ".*"]).await.unwrap();
    let as_host = url.replace("guest:guest@", "host:canary-7531@");
    let hello = guests::guest("hello").wasm;
    let options = Options::new(&as_host, &queue).args(&["--dialect", "nameko"]);
    let host = Host::start(&options, &[("hello", &hello)]);
    let channel = channel(&url).await;
    let none = FieldTable::default;
    let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    let replies = channel.queue_declare("".into(), exclusive, none()).await.unwrap();
    let replies = replies.name().clone();
    for exchange in [&open, &closed] {
        let (exchange, bind) = (exchange.as_str(), QueueBindOptions::default);
        let options = ExchangeDeclareOptions::default();
        channel
            .exchange_declare(exchange.into(), lapin::ExchangeKind::Direct, options, none())
            .await
            .unwrap();
        let request = queue.as_str().into();
        let key = "hello.greet".into();
        channel.queue_bind(request, exchange.into(), key, bind(), none()).await.unwrap();
        let key = replies.clone();
        channel.queue_bind(key.clone(), exchange.into(), key, bind(), none()).await.unwrap();
    }
    let ask = async |exchange: &str, id: &str| {
        let asked = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_reply_to(replies.clone())
            .with_correlation_id(id.into());
        let (options, body) = (BasicPublishOptions::default(), br#"{"args":[],"kwargs":{}}"#);
        let key = "hello.greet".into();
        let sent = channel.basic_publish(exchange.into(), key, options, body, asked).await;
        sent.unwrap().await.unwrap();
    };
    let answer = async || {
        let got = channel.basic_get(replies.clone(), BasicGetOptions { no_ack: true }).await;
        got.unwrap().and_then(|answer| answer.properties.correlation_id().clone())
    };
    ask(&closed, "never").await;
    until("the refusal", Duration::from_secs(10), || async {
        host.metric("rpchost_sessions_total{event=\"replies-refused\"}") > 0.0
    })
    .await;
    for id in ["one", "two", "three"] {
        ask(&open, id).await;
        until("an answer", Duration::from_secs(5), || async {
            answer().await.is_some_and(|answer| answer.as_str() == id)
        })
        .await;
    }
    // What may not be answered is kept.
    until("its end", Duration::from_secs(40), || async {
        host.metric("rpchost_replies_total{result=\"undeliverable\"}") == 1.0
    })
    .await;
    until("the return", Duration::from_secs(10), || async { host.get("/readyz").0 == 200 }).await;
    assert!(!host.log().contains("canary-7531"), "a password in the log");
    drop(host);
    broker.remove().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_times_consumers_out_costs_the_others_nothing() {
    let broker = PrivateBroker::start().await.unwrap();
    let url = broker.amqp_url();
    let queue = unique("consumer-timeout");
    let set = "application:set_env(rabbit, consumer_timeout, 2000), \
               application:set_env(rabbit, channel_tick_interval, 500).";
    broker.ctl(&["eval", set]).await.unwrap();
    let host = Host::start(
        &Options::new(&url, &queue),
        &[("misbehave", &guests::built("misbehave")), ("hello", &guests::guest("hello").wasm)],
    );
    std::fs::write(host.plugins().join("misbehave.toml"), "on-redelivery = \"refuse\"\n").unwrap();
    let channel = channel(&url).await;
    let kind = |name: &str| BasicProperties::default().with_type(name.into());
    until("the plugin's configuration", Duration::from_secs(10), || async {
        host.log().matches("plugin replaced").count() > 0
    })
    .await;
    let slow = {
        let (channel, queue) = (channel.clone(), queue.clone());
        let asked = kind("misbehave.slow-20000");
        tokio::spawn(async move { call(&channel, &queue, asked, b"").await })
    };
    let begun = Instant::now();
    while !slow.is_finished() {
        assert!(begun.elapsed() < Duration::from_secs(30), "no answer to the slow call");
        let reply = call(&channel, &queue, kind("hello"), b"").await;
        assert_eq!(reply.data, b"hello");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let reply = slow.await.unwrap();
    assert_eq!(header(&reply, "rpchost-status").as_deref(), Some("maybe-executed"));
    assert!(host.metric("rpchost_sessions_total{event=\"queue-lost\"}") >= 1.0);
    assert!(host.log().contains("imeout"), "the reason is said: {}", host.log());
    drop(host);
    broker.remove().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_does_not_wait_for_a_frozen_broker() {
    let broker = PrivateBroker::start().await.unwrap();
    let queue = unique("frozen-drain");
    let options = Options::new(&broker.amqp_url(), &queue).args(&["--drain-timeout", "2s"]);
    let mut host = Host::start(&options, &[("hello", &guests::guest("hello").wasm)]);
    broker.freeze().await.unwrap();
    host.signal(Signal::TERM);
    // The limit, and the patience of each step of closing.
    let status = host.ended(Duration::from_secs(12)).await;
    assert_eq!(status.code(), Some(0), "{}", host.log());
    broker.thaw().await.unwrap();
    broker.remove().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_may_not_read_the_queue_ends_the_host_with_one_sentence() {
    let broker = broker::shared().await;
    let (queue, user) = (unique("unreadable"), unique("reader"));
    let owner = channel(&broker.amqp_url()).await;
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    owner.queue_declare(queue.as_str().into(), durable, FieldTable::default()).await.unwrap();
    broker.ctl(&["add_user", &user, "canary-7531"]).await.unwrap();
    broker.ctl(&["set_permissions", &user, ".*", ".*", "nothing"]).await.unwrap();
    let url = broker.amqp_url().replace("guest:guest@", &format!("{user}:canary-7531@"));
    let plugins = tempfile::tempdir().unwrap();
    std::fs::write(plugins.path().join("hello.wasm"), &guests::guest("hello").wasm).unwrap();
    let output = crate::support::host::command(&["serve", "--admin", "off", "--queue", &queue])
        .env("RPCHOST_AMQP_URL", url)
        .arg("--plugins")
        .arg(plugins.path())
        .arg("--state-dir")
        .arg(plugins.path().join("state"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(output.stdout, b"");
    assert!(said.contains("refuse") && said.contains(&queue), "{said}");
    assert!(!said.contains("canary-7531"), "{said}");
}
