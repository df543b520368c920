//! Listeners: exchanges of every type, several queues, queues that plugins have of
//! their own, and topologies that callers expect.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation};
use rpchost::private_broker::PrivateBroker;
use rustix::process::Signal;
use serde_json::Value;

use crate::support::asks::Asks;
use crate::support::host::{Host, Options};
use crate::support::ledger::Load;
use crate::support::{broker, guests, unique, until};

const PATIENCE: Duration = Duration::from_secs(60);

fn hello() -> Vec<u8> {
    guests::guest("hello").wasm
}

/// Publishes a request with `asks`' address for replies; whether it was routed.
async fn publish(asks: &Asks, exchange: &str, key: &str, id: &str, body: &[u8]) -> bool {
    let properties = BasicProperties::default()
        .with_reply_to(asks.replies.clone())
        .with_correlation_id(id.into());
    publish_as(&asks.channel, exchange, key, properties, body).await
}

async fn publish_as(
    channel: &Channel,
    exchange: &str,
    key: &str,
    properties: BasicProperties,
    body: &[u8],
) -> bool {
    let mandatory = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let confirmed = channel
        .basic_publish(exchange.into(), key.into(), mandatory, body, properties)
        .await
        .unwrap()
        .await
        .unwrap();
    matches!(confirmed, Confirmation::Ack(None))
}

/// How many consume a queue; `None` if there is no such queue.
async fn consumers(broker: &PrivateBroker, queue: &str) -> Option<u32> {
    let connection = broker::connect(&broker.amqp_url()).await;
    let channel = connection.create_channel().await.unwrap();
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let declared = channel.queue_declare(queue.into(), passive, FieldTable::default()).await;
    let count = declared.ok().map(|queue| queue.consumer_count());
    connection.close(200, "done".into()).await.unwrap();
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_exchange_sends_each_key_where_the_tutorial_says() {
    let broker = broker::shared().await;
    let (exchange, one, two) = (unique("animals"), unique("q1"), unique("q2"));
    let file = format!(
        "[[listener]]\nqueue = '{one}'\nqueue-type = 'classic'\nexchange = '{exchange}'\n\
         exchange-type = 'topic'\nbind = '*.orange.*'\ndefault-method = 'first'\n\
         [[listener]]\nqueue = '{two}'\nexchange = '{exchange}'\nexchange-type = 'topic'\n\
         bind = ['*.*.rabbit', 'lazy.#']\ndefault-method = 'second'\n"
    );
    let plugins = [("first", hello()), ("second", guests::version("the-second!!"))];
    let host = Host::start(
        &Options::in_file(&broker.amqp_url(), &file),
        &plugins.each_ref().map(|(name, wasm)| (*name, wasm.as_slice())),
    );
    assert!(host.ready.contains(&format!("queue={one},{two} ")), "{}", host.ready);
    let asks = Asks::connect(&broker.amqp_url()).await;
    let expected: [(&str, &[&str]); 6] = [
        ("quick.orange.rabbit", &["first", "second"]),
        ("lazy.orange.fox", &["first", "second"]),
        ("lazy.pink.rabbit", &["second"]),
        ("quick.brown.fox", &[]),
        ("orange", &[]),
        ("quick.orange.male.rabbit", &[]),
    ];
    for (key, plugins) in expected {
        let routed = publish(&asks, &exchange, key, key, b"").await;
        assert_eq!(routed, !plugins.is_empty(), "{key}");
        until(key, PATIENCE, || async { asks.statuses(key).len() >= plugins.len() }).await;
        let mut from = asks.plugins(key);
        from.sort();
        assert_eq!(from, plugins, "{key}");
    }
    // Once each, also after a while.
    tokio::time::sleep(Duration::from_millis(300)).await;
    for (key, plugins) in expected {
        assert_eq!(asks.statuses(key).len(), plugins.len(), "{key}");
    }
    assert!(!host.log().contains("WARN"), "{}", host.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fanout_reaches_each_host_of_its_own_queue_and_one_of_those_that_share() {
    let broker = broker::shared().await;
    let (exchange, shared, own) = (unique("news"), unique("shared"), unique("own"));
    let file = format!(
        "[[listener]]\nqueue = '{shared}'\nexchange = '{exchange}'\nexchange-type = 'fanout'\n\
         default-method = 'hello'\n\
         [[listener]]\nqueue = '{own}'\nexclusive = true\nexchange = '{exchange}'\n\
         exchange-type = 'fanout'\ndefault-method = 'hello'\n"
    );
    let options = Options::in_file(&broker.amqp_url(), &file);
    let one = Host::start(&options, &[("hello", &hello())]);
    let _two = Host::start(&options, &[("hello", &hello())]);
    let asks = Asks::connect(&broker.amqp_url()).await;
    for round in ["a", "b", "c"] {
        assert!(publish(&asks, &exchange, "any", round, b"").await);
    }
    for round in ["a", "b", "c"] {
        until("three answers", PATIENCE, || async { asks.statuses(round).len() == 3 }).await;
    }
    drop(one);
    // Its own queue goes with it; what is shared does not.
    until("the end of its queue", PATIENCE, || async {
        let id = unique("after");
        publish(&asks, &exchange, "any", &id, b"").await;
        until("an answer", PATIENCE, || async { asks.statuses(&id).len() >= 2 }).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        asks.statuses(&id).len() == 2
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_headers_exchange_goes_by_headers_and_a_direct_one_by_the_key_which_may_be_the_method() {
    let broker = broker::shared().await;
    let (by_headers, direct) = (unique("headers"), unique("direct"));
    let file = format!(
        "[[listener]]\nqueue = '{by_headers}.q'\nexchange = '{by_headers}'\n\
         exchange-type = 'headers'\nexchange-durable = false\n\
         bind-arg = ['x-match=any', 'kind=report', 'pages=7']\ndefault-method = 'hello'\n\
         [[listener]]\nqueue = '{direct}.q'\nexchange = '{direct}'\n\
         bind = ['hello', 'echo']\nmethod-by-key = true\n"
    );
    let options = Options::in_file(&broker.amqp_url(), &file);
    let _host = Host::start(&options, &[("hello", &hello()), ("echo", &guests::built("echo"))]);
    let asks = Asks::connect(&broker.amqp_url()).await;
    for (name, value, routed) in [
        ("kind", AMQPValue::LongString("report".into()), true),
        ("pages", AMQPValue::LongInt(7), true),
        ("kind", AMQPValue::LongString("letter".into()), false),
    ] {
        let mut headers = FieldTable::default();
        headers.insert(name.into(), value);
        let id = unique("headers");
        let properties = BasicProperties::default()
            .with_headers(headers)
            .with_reply_to(asks.replies.clone())
            .with_correlation_id(id.as_str().into());
        assert_eq!(publish_as(&asks.channel, &by_headers, "", properties, b"").await, routed);
        if routed {
            assert_eq!(asks.answered(&id, PATIENCE).await, "ok");
        }
    }
    for (method, body) in [("hello", "hello"), ("echo", "what is sent")] {
        assert!(publish(&asks, &direct, method, method, b"what is sent").await);
        assert_eq!(asks.answered(method, PATIENCE).await, "ok");
        assert_eq!(asks.body(method), body.as_bytes());
    }
    assert!(!publish(&asks, &direct, "nobody", "nobody", b"").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugins_own_queue_is_consumed_only_while_it_is_loaded() {
    let broker = broker::shared().await;
    let prefix = unique("own");
    let file = format!("[[listener]]\nqueue = '{prefix}.{{plugin}}'\nper-plugin = true\n");
    let host = Host::start(&Options::in_file(&broker.amqp_url(), &file), &[("hello", &hello())]);
    assert!(host.ready.contains(&format!("queue={prefix}.hello ")), "{}", host.ready);
    let asks = Asks::connect(&broker.amqp_url()).await;
    let (first, later) = (format!("{prefix}.hello"), format!("{prefix}.echo"));
    let consumed = |queue: &str| {
        let queue = queue.to_owned();
        async move { consumers(broker, &queue).await }
    };
    // Its name is the queue's, so nothing has to name it.
    asks.ask(&first, "unnamed", BasicProperties::default(), b"").await;
    assert_eq!(asks.answered("unnamed", PATIENCE).await, "ok");
    assert_eq!(consumed(&later).await, None);
    host.put("echo", &guests::built("echo"));
    until("its queue", PATIENCE, || async { consumed(&later).await == Some(1) }).await;
    asks.ask(&later, "echo", BasicProperties::default(), b"it").await;
    assert_eq!(asks.answered("echo", PATIENCE).await, "ok");
    std::fs::remove_file(host.plugins().join("echo.wasm")).unwrap();
    until("its leave", PATIENCE, || async { consumed(&later).await == Some(0) }).await;
    until("its end", PATIENCE, || async { host.log().contains("plugin removed") }).await;
    // Now it waits, for whoever has the plugin.
    asks.ask(&later, "waiting", BasicProperties::default(), b"you").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(asks.statuses("waiting"), [""; 0]);
    assert_eq!(host.get("/readyz").0, 200);
    host.put("echo", &guests::built("echo"));
    assert_eq!(asks.answered("waiting", PATIENCE).await, "ok");
    assert_eq!(asks.body("waiting"), b"you");
    assert_eq!(consumed(&first).await, Some(1), "the other one was never left");
    assert!(!host.log().contains("WARN"), "{}", host.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_is_rolled_out_over_three_hosts_without_a_failed_call() {
    let broker = broker::shared().await;
    let prefix = unique("rollout");
    let file = format!(
        "[[listener]]\nqueue = '{prefix}.{{plugin}}'\nper-plugin = true\n\
         [[listener]]\nqueue = '{prefix}'\n"
    );
    let options = Options::in_file(&broker.amqp_url(), &file);
    let (old, new) = (guests::version("the-old-one!"), guests::version("the-new-one!"));
    // The third has another plugin, and comes to this one later.
    let hosts = [
        Host::start(&options, &[("version", &old), ("hello", &hello())]),
        Host::start(&options, &[("version", &old)]),
        Host::start(&options, &[("hello", &hello())]),
    ];
    let make = |_| ("version".to_owned(), Vec::new());
    let load = Load::start(&broker.amqp_url(), &format!("{prefix}.version"), 200, make).await;
    let answers = |mark: &'static str| {
        let ledger = load.ledger.clone();
        async move {
            let so_far = ledger.count(|entry| {
                entry.answers.first().is_some_and(|answer| answer.body == mark.as_bytes())
            });
            until(mark, PATIENCE, || async {
                let now = ledger.count(|entry| {
                    entry.answers.first().is_some_and(|answer| answer.body == mark.as_bytes())
                });
                now > so_far + 50
            })
            .await;
        }
    };
    answers("the-old-one!").await;
    hosts[2].put("version", &new);
    answers("the-new-one!").await;
    for host in &hosts[..2] {
        // Gone for good from this host, under load, and then there again.
        std::fs::remove_file(host.plugins().join("version.wasm")).unwrap();
        until("its end", PATIENCE, || async { host.log().contains("plugin removed") }).await;
        answers("the-new-one!").await;
        host.put("version", &new);
        answers("the-new-one!").await;
    }
    let ledger = load.finish(PATIENCE).await;
    let failed = ledger.count(|entry| {
        entry.answers.len() != 1 || entry.answers.iter().any(|answer| answer.status != "ok")
    });
    assert_eq!((ledger.lost(), failed), (0, 0), "of {}", ledger.confirmed());
    assert!(ledger.confirmed() > 500, "{}", ledger.confirmed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_waits_in_its_own_queue_and_leaves_the_others_alone() {
    let broker = broker::shared().await;
    let prefix = unique("flood");
    let file = format!(
        "max-in-flight = 8\n[[listener]]\nqueue = '{prefix}.{{plugin}}'\nper-plugin = true\n"
    );
    let host = Host::start(
        &Options::in_file(&broker.amqp_url(), &file),
        &[("misbehave", &guests::built("misbehave")), ("hello", &hello())],
    );
    let asks = Asks::connect(&broker.amqp_url()).await;
    let queue = format!("{prefix}.hello");
    let measured = async |calls: usize| {
        let mut took = Vec::with_capacity(calls);
        for _ in 0..calls {
            let (id, begun) = (unique("call"), Instant::now());
            asks.ask(&queue, &id, BasicProperties::default(), b"").await;
            assert_eq!(asks.answered(&id, PATIENCE).await, "ok");
            took.push(begun.elapsed());
        }
        took.sort();
        took[calls * 99 / 100 - 1]
    };
    let alone = measured(100).await;
    let flood: Vec<String> = (0..200).map(|n| format!("flood-{n}")).collect();
    for id in &flood {
        let slow = BasicProperties::default().with_type("slow-150".into());
        asks.ask(&format!("{prefix}.misbehave"), id, slow, b"").await;
    }
    let during = measured(100).await;
    let left = asks.ready(&format!("{prefix}.misbehave")).await;
    assert!(left > Some(0), "it was no flood");
    eprintln!("p99 of a call alone: {alone:?}; while another plugin is flooded: {during:?}");
    assert!(during < Duration::from_secs(1), "{during:?}");
    for id in &flood {
        assert_eq!(asks.answered(id, PATIENCE).await, "ok", "it waited, and was not turned away");
    }
    drop(host);
}

/// A caller of document A that has no address for replies: answers come through
/// a fixed queue and are known by the ids in their bodies.
async fn through_replies(channel: &Channel, queue: &str, id: &str) -> Value {
    let no_ack = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let consuming = channel.basic_consume(queue.into(), "".into(), no_ack, FieldTable::default());
    let mut incoming = consuming.await.unwrap();
    let search = async {
        loop {
            let reply = incoming.next().await.unwrap().unwrap();
            let body: Value = serde_json::from_slice(&reply.data).unwrap();
            if body["id"] == id {
                return body;
            }
        }
    };
    tokio::time::timeout(PATIENCE, search).await.expect("an answer")
}

#[tokio::test(flavor = "multi_thread")]
async fn both_callers_of_the_document_are_served_over_its_topology() {
    // Its names have no prefix: this broker is its own.
    let broker = PrivateBroker::start().await.unwrap();
    let file = "[[listener]]\nqueue = 'rpc_queue'\nexchange = 'rpc_exchange'\n\
                exchange-durable = false\nbind = 'rpc./'\ndialect = 'envelope'\nprefetch = 1\n\
                [[listener]]\nqueue = 'requests'\nexchange = 'rpc_exchange'\n\
                exchange-durable = false\nbind = '/.request./'\ndialect = 'envelope'\n\
                prefetch = 1\nreply-queue = 'replies'\n\
                [[listener]]\nqueue = 'rpc./'\ndialect = 'envelope'\n";
    let typed = guests::built("typed");
    let _host = Host::start(
        &Options::in_file(&broker.amqp_url(), file),
        &[("typed", &typed), ("misbehave", &guests::built("misbehave"))],
    );
    let asks = Asks::connect(&broker.amqp_url()).await;
    // They declare what is there already, each in its own way.
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    for queue in ["rpc_queue", "requests", "replies"] {
        let declared = asks.channel.queue_declare(queue.into(), durable, FieldTable::default());
        declared.await.unwrap();
    }
    let exchange = lapin::options::ExchangeDeclareOptions::default();
    let direct = lapin::ExchangeKind::Direct;
    asks.channel
        .exchange_declare("rpc_exchange".into(), direct, exchange, FieldTable::default())
        .await
        .unwrap();
    let request = |id: &str, func: &str, args: &str| {
        format!(
            r#"{{"request": {{"id": "{id}", "func": "{func}", "args": {args}, "kwargs": {{}}}}}}"#
        )
    };
    // The first: an address and an id, by either exchange.
    for (exchange, id) in [("rpc_exchange", "4f5e6a7b"), ("", "4f5e6a7c")] {
        let body = request(id, "typed:fib", "[30]");
        assert!(publish(&asks, exchange, "rpc./", id, body.as_bytes()).await);
        assert_eq!(asks.answered(id, PATIENCE).await, "ok");
        let reply: Value = serde_json::from_slice(&asks.body(id)).unwrap();
        let expected: Value =
            serde_json::json!({"response": {"result": "{\"result\":832040}", "error": ""}});
        assert_eq!(reply, expected);
    }
    let body = request("4f5e6a7d", "misbehave:panic", "[]");
    assert!(publish(&asks, "rpc_exchange", "rpc./", "trap", body.as_bytes()).await);
    asks.answered("trap", PATIENCE).await;
    let reply: Value = serde_json::from_slice(&asks.body("trap")).unwrap();
    let error: Value = serde_json::from_str(reply["response"]["error"].as_str().unwrap()).unwrap();
    assert!(error["error"].as_str().unwrap().starts_with("Trap: "), "{error}");
    let traceback = error["traceback"].as_str().unwrap();
    assert!(traceback.starts_with("Traceback (most recent call last):\n  "), "{traceback}");
    // The second: neither, and answered through the queue that the text names.
    let json = || {
        BasicProperties::default()
            .with_content_type("application/json".into())
            .with_delivery_mode(2)
    };
    for (id, args) in [("0a1b2c3d", "[30]"), ("0a1b2c3e", "[\"x\"]")] {
        let body = request(id, "typed:fib", args);
        let routed =
            publish_as(&asks.channel, "rpc_exchange", "/.request./", json(), body.as_bytes());
        assert!(routed.await);
        let connection = broker::connect(&broker.amqp_url()).await;
        let channel = connection.create_channel().await.unwrap();
        let reply = through_replies(&channel, "replies", id).await;
        if args == "[30]" {
            assert_eq!(reply, serde_json::json!({"id": id, "result": 832040}));
        } else {
            let text = reply["error"]["exception"].as_str().unwrap();
            assert!(text.starts_with("TypeError: "), "{reply}");
        }
        connection.close(200, "done".into()).await.unwrap();
    }
    broker.remove().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_deleted_is_declared_again_and_the_others_go_on() {
    let broker = broker::shared().await;
    let (exchange, lost, kept) = (unique("x"), unique("lost"), unique("kept"));
    let file = format!(
        "[[listener]]\nqueue = '{lost}'\nexchange = '{exchange}'\nbind = 'lost'\n\
         [[listener]]\nqueue = '{kept}'\n"
    );
    let host = Host::start(
        &Options::in_file(&broker.amqp_url(), &file),
        &[("misbehave", &guests::built("misbehave")), ("hello", &hello())],
    );
    let asks = Asks::connect(&broker.amqp_url()).await;
    let kind = |name: &str| BasicProperties::default().with_type(name.into());
    asks.ask(&lost, "runs", kind("misbehave.slow-1500"), b"").await;
    asks.ask(&kept, "runs too", kind("misbehave.slow-1500"), b"").await;
    until("both", PATIENCE, || async { host.metric("rpchost_in_flight") == 2.0 }).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    asks.channel.queue_delete(lost.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    until("the queue", PATIENCE, || async { consumers(broker, &lost).await == Some(1) }).await;
    // With its binding; and what ran is answered.
    let properties = kind("hello").with_reply_to(asks.replies.clone());
    let properties = properties.with_correlation_id("again".into());
    assert!(publish_as(&asks.channel, &exchange, "lost", properties, b"").await);
    assert_eq!(asks.answered("again", PATIENCE).await, "ok");
    for id in ["runs", "runs too"] {
        assert_eq!(asks.answered(id, PATIENCE).await, "ok");
    }
    assert_eq!(host.metric("rpchost_sessions_total{event=\"opened\"}"), 1.0);
    assert_eq!(host.metric("rpchost_sessions_total{event=\"queue-lost\"}"), 1.0);
    assert_eq!(host.get("/readyz").0, 200);
    assert_eq!(asks.statuses("runs too").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_declared_again_after_a_broker_that_died() {
    let mut broker = PrivateBroker::start().await.unwrap();
    let file = "[[listener]]\nqueue = 'jobs'\nqueue-type = 'transient'\nexchange = 'work'\n\
                exchange-type = 'topic'\nexchange-durable = false\nbind = 'jobs.#'\n\
                default-method = 'hello'\nreply-queue = 'results'\n\
                [[listener]]\nqueue = 'rpc.{plugin}'\nper-plugin = true\nqueue-type = 'transient'\n\
                [[listener]]\nqueue = 'mine'\nexclusive = true\nexchange = 'all'\n\
                exchange-type = 'fanout'\nexchange-durable = false\ndefault-method = 'hello'\n";
    let mut host = Host::start(&Options::in_file(&broker.amqp_url(), file), &[("hello", &hello())]);
    broker.kill().await.unwrap();
    until("not ready", PATIENCE, || async { host.get("/readyz").0 == 503 }).await;
    broker.start_again().await.unwrap();
    until("ready", PATIENCE, || async { host.get("/readyz").0 == 200 }).await;
    let asks = Asks::connect(&broker.amqp_url()).await;
    for (exchange, key, id) in [("work", "jobs.now", "a"), ("", "rpc.hello", "b"), ("all", "", "c")]
    {
        assert!(publish(&asks, exchange, key, id, b"").await, "{exchange} {key}");
        assert_eq!(asks.answered(id, PATIENCE).await, "ok");
    }
    host.signal(Signal::TERM);
    assert_eq!(host.ended(PATIENCE).await.code(), Some(0));
    broker.remove().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_queue_of_the_host_is_answered_into() {
    let broker = broker::shared().await;
    let (one, two) = (unique("one"), unique("two"));
    let file = format!("[[listener]]\nqueue = '{one}'\n[[listener]]\nqueue = '{two}'\n");
    let host = Host::start(&Options::in_file(&broker.amqp_url(), &file), &[("hello", &hello())]);
    let asks = Asks::connect(&broker.amqp_url()).await;
    for (queue, reply_to) in [(&one, &one), (&one, &two), (&two, &format!("{one}.parked"))] {
        let to = BasicProperties::default().with_reply_to(reply_to.as_str().into());
        asks.send(queue, to, b"").await;
    }
    let refused = "rpchost_reply_addresses_refused_total{reason=\"own-queue\"}";
    until("three refusals", PATIENCE, || async { host.metric(refused) == 3.0 }).await;
    assert_eq!(host.metric("rpchost_requests_total{plugin=\"hello\",status=\"ok\"}"), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_host_leaves_every_queue_and_answers_what_runs() {
    let broker = broker::shared().await;
    let prefix = unique("stop");
    let file = format!(
        "[[listener]]\nqueue = '{prefix}.{{plugin}}'\nper-plugin = true\n\
         [[listener]]\nqueue = '{prefix}'\n"
    );
    let misbehave = guests::built("misbehave");
    let plugins: &[(&str, &[u8])] = &[("misbehave", &misbehave), ("hello", &hello())];
    let options = Options::in_file(&broker.amqp_url(), &file);
    let mut host = Host::start(&options, plugins);
    let asks = Arc::new(Asks::connect(&broker.amqp_url()).await);
    let slow = || BasicProperties::default().with_type("misbehave.slow-1000".into());
    asks.ask(&format!("{prefix}.misbehave"), "own", slow(), b"").await;
    asks.ask(&prefix, "shared", slow(), b"").await;
    until("both", PATIENCE, || async { host.metric("rpchost_in_flight") == 2.0 }).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    host.signal(Signal::TERM);
    assert_eq!(host.ended(PATIENCE).await.code(), Some(0), "{}", host.log());
    for id in ["own", "shared"] {
        assert_eq!(asks.answered(id, PATIENCE).await, "ok");
    }
    for queue in [format!("{prefix}.misbehave"), format!("{prefix}.hello"), prefix.clone()] {
        assert_eq!(asks.ready(&queue).await, Some(0), "{queue}");
    }
}
