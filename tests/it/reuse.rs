//! Instances that serve more than one call: `instances = "reuse"`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use lapin::BasicProperties;
use rpchost::config::PluginConfig;
use rpchost::message::{HeaderValue, PluginId};
use rpchost::plugins::{Engine, Plugin, Source};
use serde_json::Value;

use crate::core::{House, house, limits, status};
use crate::support::fake_broker::delivery;
use crate::support::host::{Host, Options};
use crate::support::ledger::call;
use crate::support::{broker, guests, unique, until};

const REUSE: &str = "instances = \"reuse\"";

fn orders(config: &str) -> House {
    house(&[("orders", &guests::guest("orders").wasm, config)], None)
}

impl House {
    /// What the guest has counted, this call included.
    async fn count(&self, order: &str) -> u32 {
        let (status, body) = self.call("orders", order).await;
        assert_eq!(status, "ok", "{body}");
        body.parse().expect("a count")
    }
}

#[tokio::test]
async fn state_survives_a_call_only_where_it_is_asked_for() {
    let fresh = orders("");
    let said = orders("instances = \"per-call\"");
    let reused = orders(REUSE);
    for call in 1..=20 {
        assert_eq!(fresh.count("").await, 1);
        assert_eq!(said.count("").await, 1);
        assert_eq!(reused.count("").await, call);
    }
}

#[tokio::test]
async fn a_typed_plugins_instances_are_used_again_too() {
    let wasm = guests::of_world(
        "package test:counter; world counter { export next: func() -> u32; }",
        "(module (memory (export \"memory\") 1) (global $n (mut i32) (i32.const 0))
           (func (export \"cabi_realloc\") (param i32 i32 i32 i32) (result i32) unreachable)
           (func (export \"next\") (result i32)
             (global.set $n (i32.add (global.get $n) (i32.const 1))) (global.get $n)))",
    );
    let fresh = house(&[("counter", &wasm, "")], None);
    let reused = house(&[("counter", &wasm, REUSE)], None);
    for call in 1..=20 {
        assert_eq!(fresh.call("counter.next", "").await.1, "1");
        assert_eq!(reused.call("counter.next", "").await.1, call.to_string());
    }
}

#[tokio::test]
async fn an_instance_goes_after_whatever_may_have_broken_it() {
    let house = orders(&format!("{REUSE}\ntimeout = \"50ms\""));
    for (order, outcome) in [("trap", "trap"), ("loop", "timeout")] {
        assert_eq!(house.count("").await, 1);
        assert_eq!(house.count("").await, 2);
        assert_eq!(house.call("orders", order).await.0, outcome);
        assert_eq!(house.count("").await, 1, "after `{order}`");
        assert_eq!(house.call("orders", order).await.0, outcome, "a fresh one, too");
    }
    // Growth beyond the bound, and growth that was refused, are answered as usual.
    for order in ["grow", "hog"] {
        assert_eq!(house.count("").await, 1);
        assert_eq!(house.count(order).await, 2);
        assert_eq!(house.count("").await, 1, "after `{order}`");
        house.call("orders", "trap").await;
    }
    // A handler's own error is an answer like any other.
    assert_eq!(house.count("").await, 1);
    assert_eq!(house.call("orders", "error").await.0, "application");
    assert_eq!(house.count("").await, 3);
}

#[tokio::test]
async fn an_instance_of_a_caller_who_does_not_wait_goes_too() {
    let house = orders(REUSE);
    assert_eq!(house.count("").await, 1);
    let mut hurried = delivery(Some("orders"), "loop");
    hurried.properties.headers = vec![("rpc-timeout-ms".to_owned(), HeaderValue::Int(20))];
    assert_eq!(status(&house.reply(&hurried).await), "timeout");
    assert_eq!(house.count("").await, 1);
}

#[tokio::test]
async fn an_instance_serves_a_number_of_calls() {
    let house = orders(REUSE);
    let mut counts = Vec::new();
    for _ in 0..600 {
        counts.push(house.count("").await);
    }
    assert_eq!(counts.iter().filter(|count| **count == 1).count(), 3, "{counts:?}");
    assert_eq!(counts.iter().max(), Some(&250));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_instance_serves_one_call_at_a_time() {
    let misbehave = guests::built("misbehave");
    let house = Arc::new(house(&[("misbehave", &misbehave, REUSE)], None));
    let begun = Instant::now();
    let calls = (0..4).map(|_| {
        let house = house.clone();
        tokio::spawn(async move { house.call("misbehave.slow-300", "").await })
    });
    for answer in join_all(calls).await {
        assert_eq!(answer.unwrap(), ("ok".to_owned(), "done".to_owned()));
    }
    assert!(begun.elapsed() < Duration::from_millis(1100), "one after the other");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_learns_about_itself_and_not_about_the_last_one() {
    let house = house(&[("misbehave", &guests::built("misbehave"), REUSE)], None);
    let mut first = delivery(Some("misbehave.context"), "");
    first.properties.message_id = Some("m-1".to_owned());
    first.properties.headers =
        vec![("traceparent".to_owned(), HeaderValue::Text("00-first".to_owned()))];
    first.redelivered = true;
    let mut second = delivery(Some("misbehave.context"), "");
    second.properties.correlation_id = Some(Bytes::from_static(b"id-2"));
    for (asked, facts) in [
        (&first, serde_json::json!(["id-1", "m-1", "00-first", 2])),
        (&second, serde_json::json!(["id-2", null, null, 1])),
        (&first, serde_json::json!(["id-1", "m-1", "00-first", 2])),
    ] {
        let told: Value = serde_json::from_slice(&house.reply(asked).await.body).unwrap();
        let told = ["correlation-id", "message-id", "traceparent", "attempt"].map(|key| &told[key]);
        assert_eq!(serde_json::json!(told), facts);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_instances_keep_no_other_call_from_starting() {
    let orders = guests::guest("orders").wasm;
    let hello = guests::guest("hello").wasm;
    let names: Vec<String> = (0..6).map(|number| format!("orders-{number}")).collect();
    let mut plugins: Vec<(&str, &[u8], &str)> =
        names.iter().map(|name| (name.as_str(), orders.as_slice(), REUSE)).collect();
    plugins.push(("hello", &hello, ""));
    // A host of eight slots.
    let house = Arc::new(house(&plugins, None));
    for _ in 0..10 {
        let calls = (0..8).flat_map(|_| names.iter().map(String::as_str).chain(["hello"]));
        let calls = calls.map(|name| {
            let (house, name) = (house.clone(), name.to_owned());
            tokio::spawn(async move { (house.call(&name, "").await, name) })
        });
        for answer in join_all(calls).await {
            let ((status, body), name) = answer.unwrap();
            // Seven plugins share the slots; a full line is another matter.
            assert!(status == "ok" || body.contains("wait already"), "{name}: {body}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_cannot_be_used_again_and_says_so() {
    let refused = PluginConfig::parse("instances = 'always'", "x.toml").unwrap_err().to_string();
    assert!(refused.contains("write `per-call` or `reuse`"), "{refused}");
    let wasm = guests::of_world(
        "package wasi:cli@0.2.0; interface run { run: func() -> result; } world w { export run; }",
        "(module (memory (export \"memory\") 1)
           (func (export \"cabi_realloc\") (param i32 i32 i32 i32) (result i32) unreachable)
           (func (export \"wasi:cli/run@0.2.0#run\") (result i32) i32.const 0))",
    );
    let engine = Engine::new(1).unwrap();
    let id = PluginId { name: "job".into(), digest: "0".into() };
    let config = PluginConfig::parse(REUSE, "job.toml").unwrap();
    let source = Source { wasm: &wasm, wit: None };
    let error = Plugin::load(&engine, id, source, &config, &limits()).unwrap_err();
    let text = format!("{error:#}");
    assert!(text.contains("a command ends with its call") && text.contains("`job.toml`"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_has_instances_of_its_own() {
    let broker = broker::shared().await;
    let queue = unique("reuse-swap");
    let first = guests::guest("orders").wasm;
    let host = Host::start(&Options::new(&broker.amqp_url(), &queue), &[]);
    std::fs::write(host.plugins().join("orders.toml"), REUSE).unwrap();
    host.put("orders", &first);
    let connection = broker::connect(&broker.amqp_url()).await;
    let channel = connection.create_channel().await.unwrap();
    let count = || async {
        let asked = BasicProperties::default().with_type("orders".into());
        String::from_utf8_lossy(&call(&channel, &queue, asked, b"").await.data).into_owned()
    };
    until("the first version", Duration::from_secs(5), || async { count().await == "0003" }).await;
    host.put("orders", &guests::marked(&first, 1));
    until("the second", Duration::from_secs(5), || async { count().await == "0001" }).await;
    assert_eq!(count().await, "0002");
    // Without the configuration nothing survives; with it again, it begins anew.
    std::fs::remove_file(host.plugins().join("orders.toml")).unwrap();
    until("no state", Duration::from_secs(5), || async {
        count().await == "0001" && count().await == "0001"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_of_a_burst_comes_back() {
    let broker = broker::shared().await;
    let queue = unique("reuse-memory");
    let host = Host::start(&Options::new(&broker.amqp_url(), &queue), &[]);
    let orders = guests::guest("orders").wasm;
    let names: Vec<String> = (0..12).map(|number| format!("orders-{number}")).collect();
    for name in &names {
        std::fs::write(host.plugins().join(format!("{name}.toml")), REUSE).unwrap();
        host.put(name, &orders);
    }
    until("the plugins", Duration::from_secs(10), || async {
        host.metric("rpchost_plugins") == 12.0
    })
    .await;
    let connection = broker::connect(&broker.amqp_url()).await;
    let channel = connection.create_channel().await.unwrap();
    let before = host.resident();
    // Each keeps an instance with 10 MiB.
    for name in &names {
        let asked = BasicProperties::default().with_type(name.as_str().into());
        assert_eq!(call(&channel, &queue, asked, b"keep").await.data, b"0001");
    }
    let burst = host.resident();
    assert!(burst > before + (100 << 20), "{} MiB are kept", (burst - before) >> 20);
    until("the memory", Duration::from_secs(30), || async {
        host.resident() < before + (24 << 20)
    })
    .await;
}
