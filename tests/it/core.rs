//! A request's life, with plugins and without a broker.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rpchost::config::Limits;
use rpchost::dispatch::{Dispatcher, PublishError, ReplyPolicy, Stopping};
use rpchost::message::{Delivery, HeaderValue, Reply, Revoked, Settlement};
use rpchost::plugins::{Engine, Plugins, Threads};
use rpchost::telemetry::Telemetry;
use serde_json::{Value, json};

use crate::support::fake_broker::{Done, FakeBroker, delivery};
use crate::support::guests;

/// Short limits, so that what must be interrupted is interrupted soon.
pub fn limits() -> Limits {
    Limits {
        max_in_flight: 8,
        prefetch: 16,
        call_timeout: Duration::from_millis(500),
        memory: 64 << 20,
        max_body: 16 << 20,
        max_headers: 128,
    }
}

pub struct House {
    dispatcher: Arc<Dispatcher>,
    stopping: Stopping,
    _directory: tempfile::TempDir,
}

/// A dispatcher over these plugins; each is a name, a component and the text
/// of its configuration.
pub fn house(plugins: &[(&str, &[u8], &str)], default: Option<&str>) -> House {
    let directory = tempfile::tempdir().unwrap();
    let engine = Engine::new(8).unwrap();
    let served = Plugins::new(default.map(str::to_owned));
    for (name, wasm, config) in plugins {
        let path = directory.path().join(format!("{name}.wasm"));
        std::fs::write(&path, wasm).unwrap();
        if !config.is_empty() {
            std::fs::write(directory.path().join(format!("{name}.toml")), config).unwrap();
        }
        served.load_file(&engine, &path, &limits()).unwrap();
    }
    House::of(served, directory)
}

/// A dispatcher over WAT guests by their own names.
fn wat(names: &[&str]) -> House {
    let guests: Vec<_> = names.iter().map(|name| guests::guest(name)).collect();
    let plugins: Vec<_> =
        guests.iter().map(|guest| (guest.name.as_str(), guest.wasm.as_slice(), "")).collect();
    house(&plugins, None)
}

impl House {
    /// A dispatcher over what is served, out of files of that directory.
    pub fn of(served: Plugins, directory: tempfile::TempDir) -> Self {
        let stopping = Stopping::default();
        let dispatcher = Arc::new(Dispatcher::new(
            served,
            limits(),
            ReplyPolicy::new(&[]),
            stopping.clone(),
            Telemetry::new().unwrap(),
        ));
        Self { dispatcher, stopping, _directory: directory }
    }

    pub async fn reply(&self, delivery: &Delivery) -> Reply {
        let broker = FakeBroker::new();
        let settlement = self.dispatcher.answer(delivery, &broker).await;
        assert_eq!(settlement, Settlement::Ack);
        broker.reply()
    }

    /// `rpchost-status` and the body of the answer to `method`.
    pub async fn call(&self, method: &str, body: &str) -> (String, String) {
        let reply = self.reply(&delivery(Some(method), Bytes::from(body.to_owned()))).await;
        (status(&reply), String::from_utf8_lossy(&reply.body).into_owned())
    }
}

pub fn status(reply: &Reply) -> String {
    header(reply, "rpchost-status").unwrap_or_default()
}

pub fn header(reply: &Reply, name: &str) -> Option<String> {
    reply.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
}

pub fn error(reply: &Reply) -> Value {
    let mut body: Value = serde_json::from_slice(&reply.body).unwrap();
    body["error"].take()
}

/// Every guest of the fixtures comes to the end that its first line says.
#[tokio::test(flavor = "multi_thread")]
async fn every_guest_ends_as_it_should_and_harms_nobody() {
    let engine = Engine::new(8).unwrap();
    let directory = tempfile::tempdir().unwrap();
    for guest in guests::all() {
        let path = directory.path().join(format!("{}.wasm", guest.name));
        std::fs::write(&path, &guest.wasm).unwrap();
        let served = Plugins::new(None);
        if let Err(refused) = served.load_file(&engine, &path, &limits()) {
            let text = format!("{refused:#}");
            assert!(guest.expect.contains(&"refused-at-load".to_owned()), "{}: {text}", guest.name);
            continue;
        }
        let dispatcher = Dispatcher::new(
            served,
            limits(),
            ReplyPolicy::new(&[]),
            Stopping::default(),
            Telemetry::new().unwrap(),
        );
        let broker = FakeBroker::new();
        let begun = Instant::now();
        let body = guest.send.clone().unwrap_or_else(|| "x".to_owned());
        dispatcher.answer(&delivery(Some(&guest.name), body), &broker).await;
        let reply = broker.reply();
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        assert!(
            guest.expect.contains(&status(&reply)),
            "{}: {} instead of {:?}: {}",
            guest.name,
            status(&reply),
            guest.expect,
            text.chars().take(300).collect::<String>()
        );
        assert!(begun.elapsed() < Duration::from_secs(5), "{} took too long", guest.name);
        if let (Some(body), "ok") = (&guest.body, status(&reply).as_str()) {
            assert_eq!(&text, body, "{}", guest.name);
        }
        if status(&reply) != "ok" {
            assert!(text.len() < 64 * 1024, "{}: an error of {} bytes", guest.name, text.len());
        }
        assert_eq!(
            broker.done().last(),
            Some(&Done::Settled(7, Settlement::Ack)),
            "{}: answered first, settled last",
            guest.name
        );
    }
}

#[tokio::test]
async fn a_trap_names_itself_and_the_guests_functions() {
    let house = wat(&["unreachable"]);
    let reply = house.reply(&delivery(Some("unreachable"), "")).await;
    let error = error(&reply);
    assert_eq!(error["kind"], "trap");
    assert_eq!(error["code"], -32001);
    assert_eq!(error["retryable"], false);
    assert_eq!(error["data"]["trap"], "unreachable");
    assert_eq!(error["data"]["stack"][0], "inner");
    assert_eq!(reply.kind, Some("error"));
    assert!(header(&reply, "rpchost-plugin").unwrap().starts_with("unreachable@"));
}

#[tokio::test]
async fn nothing_survives_a_call() {
    let house = wat(&["counter"]);
    for _ in 0..50 {
        assert_eq!(house.call("counter", "").await, ("ok".to_owned(), "1".to_owned()));
    }
}

#[tokio::test]
async fn a_method_is_found_by_its_aliases_and_the_handler_is_told_the_canonical_name() {
    let house = wat(&["method-echo", "hello"]);
    for (asked, told) in [
        ("method-echo", "method-echo"),
        ("method-echo.sum", "method-echo.sum"),
        ("method-echo:sum", "method-echo.sum"),
        ("method-echo/sum", "method-echo.sum"),
        ("method-echo.a.b:c", "method-echo.a.b:c"),
    ] {
        assert_eq!(house.call(asked, "").await.1, told, "{asked}");
    }
    for unknown in ["Method-echo", "method", "nope", "../hello", "__proto__", " hello"] {
        assert_eq!(house.call(unknown, "").await.0, "method-not-found", "{unknown}");
    }
}

#[tokio::test]
async fn a_message_without_a_method_goes_to_the_default() {
    let hello = guests::guest("hello").wasm;
    let echo = guests::guest("method-echo").wasm;
    let asked = delivery(None, "");
    let only = house(&[("hello", &hello, "")], None);
    assert_eq!(status(&only.reply(&asked).await), "ok");
    let two = house(&[("hello", &hello, ""), ("echo", &echo, "")], None);
    let reply = two.reply(&asked).await;
    assert_eq!(status(&reply), "method-not-found");
    assert!(error(&reply)["message"].as_str().unwrap().contains("--default-method"));
    let named = house(&[("hello", &hello, ""), ("default", &echo, "")], None);
    assert_eq!(named.reply(&asked).await.body, "default");
    let chosen = house(&[("hello", &hello, ""), ("echo", &echo, "")], Some("echo.x"));
    assert_eq!(chosen.reply(&asked).await.body, "echo.x");
}

#[tokio::test]
async fn only_headers_that_may_pass_reach_the_caller() {
    let house = wat(&["cc-header"]);
    let reply = house.reply(&delivery(Some("cc-header"), "")).await;
    let names: Vec<_> = reply.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["x-good", "rpchost-status", "rpchost-plugin"]);
    assert_eq!(status(&reply), "ok");
}

#[tokio::test]
async fn a_deadline_in_the_past_is_answered_without_running() {
    let house = wat(&["hello"]);
    let mut late = delivery(Some("hello"), "");
    late.properties.headers = vec![("rpc-deadline-ms".to_owned(), HeaderValue::Int(1))];
    assert_eq!(status(&house.reply(&late).await), "deadline-exceeded");
    for bad in [
        HeaderValue::Int(0),
        HeaderValue::Int(-5),
        HeaderValue::Text("soon".to_owned()),
        HeaderValue::Float(1.5),
        HeaderValue::Null,
    ] {
        let mut asked = delivery(Some("hello"), "");
        asked.properties.headers = vec![("rpc-timeout-ms".to_owned(), bad.clone())];
        assert_eq!(status(&house.reply(&asked).await), "bad-request", "{bad:?}");
    }
    let mut asked = delivery(Some("hello"), "");
    asked.properties.expiration = Some("abc".to_owned());
    assert_eq!(status(&house.reply(&asked).await), "bad-request");
}

#[tokio::test]
async fn a_callers_time_limit_interrupts_a_call() {
    let house = wat(&["loop"]);
    for header in ["rpc-timeout-ms", "expiration"] {
        let mut asked = delivery(Some("loop"), "");
        if header == "expiration" {
            asked.properties.expiration = Some("50".to_owned());
        } else {
            asked.properties.headers = vec![(header.to_owned(), HeaderValue::Text("50".into()))];
        }
        let begun = Instant::now();
        assert_eq!(status(&house.reply(&asked).await), "timeout", "{header}");
        assert!(begun.elapsed() < Duration::from_millis(400), "{header}: {:?}", begun.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_sleeps_in_the_host_is_interrupted_too() {
    let house = house(&[("misbehave", &guests::built("misbehave"), "")], None);
    for behaviour in ["sleep", "drip"] {
        let begun = Instant::now();
        let (status, _) = house.call(&format!("misbehave.{behaviour}"), "").await;
        assert_eq!(status, "timeout");
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(500) && took < Duration::from_secs(2), "{took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_gets_nothing_that_was_not_granted() {
    let house = house(&[("misbehave", &guests::built("misbehave"), "")], None);
    for behaviour in ["files", "env", "network"] {
        let answer = house.call(&format!("misbehave.{behaviour}"), "").await;
        assert_eq!(answer, ("ok".to_owned(), "nothing".to_owned()), "{behaviour}");
    }
    for (behaviour, expected) in [
        ("panic", "trap"),
        ("abort", "trap"),
        ("exit-0", "trap"),
        ("exit-3", "trap"),
        ("recurse", "trap"),
        ("leak", "resource-exhausted"),
        ("random-flood", "trap"),
        ("stderr-flood", "ok"),
        ("log-injection", "ok"),
    ] {
        assert_eq!(
            house.call(&format!("misbehave.{behaviour}"), "").await.0,
            expected,
            "{behaviour}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_learns_about_its_delivery() {
    let house = house(&[("misbehave", &guests::built("misbehave"), "")], None);
    let mut asked = delivery(Some("misbehave.context"), "");
    asked.redelivered = true;
    let reply = house.reply(&asked).await;
    let facts: Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(facts["attempt"], 2);
    assert_eq!(facts["reply-expected"], true);
    assert_eq!(facts["cancelled"], false);
    assert_eq!(facts["queue"], "rpc_queue");
    assert_eq!(facts["correlation-id"], "id-1");
    assert_eq!(header(&reply, "rpchost-redelivered").as_deref(), Some("true"));
}

#[tokio::test]
async fn a_plugin_may_refuse_to_run_twice() {
    let hello = guests::guest("hello").wasm;
    let house = house(&[("hello", &hello, "on-redelivery = \"refuse\"")], None);
    let mut asked = delivery(Some("hello"), "");
    assert_eq!(status(&house.reply(&asked).await), "ok");
    asked.redelivered = true;
    let reply = house.reply(&asked).await;
    assert_eq!(status(&reply), "maybe-executed");
    assert_eq!(error(&reply)["code"], -32009);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_may_have_its_answers_given_again() {
    let clock = guests::built("misbehave");
    let house = house(&[("misbehave", &clock, "on-redelivery = \"replay\"")], None);
    let mut asked = delivery(Some("misbehave.clock"), "x");
    asked.properties.message_id = Some("m-1".to_owned());
    let first = house.reply(&asked).await.body;
    // Not redelivered: another request, run again.
    assert_ne!(house.reply(&asked).await.body, first);
    let second = {
        asked.redelivered = true;
        house.reply(&asked).await
    };
    assert_ne!(second.body, first, "the latest answer is the one that is known");
    assert_eq!(house.reply(&asked).await.body, second.body);
    assert_eq!(header(&second, "rpchost-redelivered").as_deref(), Some("true"));
    for change in [
        |asked: &mut Delivery| asked.properties.message_id = Some("m-2".to_owned()),
        |asked: &mut Delivery| asked.properties.message_id = None,
        |asked: &mut Delivery| asked.properties.user_id = Some("other".to_owned()),
        |asked: &mut Delivery| asked.body = Bytes::from_static(b"y"),
    ] {
        let mut other = asked.clone();
        change(&mut other);
        assert_ne!(house.reply(&other).await.body, second.body, "{:?}", other.properties);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_call_of_a_batch_has_its_own_answer_given_again() {
    let clock = guests::built("misbehave");
    let house = house(&[("misbehave", &clock, "on-redelivery = \"replay\"")], None);
    // One that is never the same twice, and two that say what they were asked.
    let call = |id: u8, method: &str| {
        format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":[{id}]}}"#)
    };
    let (clock, echo) = ("misbehave.clock", "misbehave");
    let calls = [call(1, clock), call(2, echo), call(3, echo)].join(",");
    let mut asked = delivery(None, format!("[{calls}]"));
    asked.properties.message_id = Some("m-1".to_owned());
    let first = house.reply(&asked).await.body;
    let answers: Vec<Value> = serde_json::from_slice(&first).unwrap();
    assert_eq!((&answers[1]["result"], &answers[2]["result"]), (&json!([2]), &json!([3])));
    asked.redelivered = true;
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(house.reply(&asked).await.body, first);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_guest_says_when_nobody_waits_any_more_is_not_given_again() {
    let clock = guests::built("misbehave");
    let house = house(&[("misbehave", &clock, "on-redelivery = \"replay\"")], None);
    let mut asked = delivery(Some("misbehave.clock"), "x");
    asked.properties.message_id = Some("m-1".to_owned());
    asked.revoked.set();
    let unwanted = house.reply(&asked).await.body;
    asked.redelivered = true;
    asked.revoked = Revoked::default();
    let answer = house.reply(&asked).await.body;
    assert_ne!(answer, unwanted);
    assert_eq!(house.reply(&asked).await.body, answer, "this one is");
}

#[tokio::test]
async fn a_plugins_own_limits_hold() {
    let guest = guests::guest("loop").wasm;
    let house = house(&[("loop", &guest, "timeout = \"60ms\"")], None);
    let begun = Instant::now();
    assert_eq!(house.call("loop", "").await.0, "timeout");
    assert!(begun.elapsed() < Duration::from_millis(400), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_message_beyond_the_limits_is_refused_and_settled() {
    let house = wat(&["hello"]);
    let large = delivery(Some("hello"), vec![0; (16 << 20) + 1]);
    let reply = house.reply(&large).await;
    assert_eq!(status(&reply), "bad-request");
    assert!(error(&reply)["message"].as_str().unwrap().contains("16777216"));
    let mut asked = delivery(Some("hello"), "");
    asked.properties.headers =
        (0..129).map(|number| (format!("h{number}"), HeaderValue::Null)).collect();
    assert_eq!(status(&house.reply(&asked).await), "bad-request");
}

#[tokio::test]
async fn a_request_that_must_not_be_answered_is_settled_and_not_run() {
    let house = wat(&["hello"]);
    for address in ["rpc_queue", "amq.rabbitmq.reply-to.x.y", "amq.rabbitmq.reply-to"] {
        let mut asked = delivery(Some("hello"), "");
        asked.properties.reply_to = Some(address.into());
        let broker = FakeBroker::new();
        assert_eq!(house.dispatcher.answer(&asked, &broker).await, Settlement::Ack);
        assert_eq!(broker.done(), [Done::Settled(7, Settlement::Ack)], "{address}");
    }
}

#[tokio::test]
async fn a_request_that_wants_no_answer_is_run_and_settled() {
    let house = wat(&["hello"]);
    for address in [None, Some(Bytes::new())] {
        let mut asked = delivery(Some("hello"), "");
        asked.properties.reply_to = address;
        let broker = FakeBroker::new();
        assert_eq!(house.dispatcher.answer(&asked, &broker).await, Settlement::Ack);
        assert_eq!(broker.done(), [Done::Settled(7, Settlement::Ack)]);
    }
}

#[tokio::test]
async fn what_becomes_of_a_reply_decides_the_settlement() {
    let house = wat(&["hello"]);
    for (result, expected) in [
        (Ok(()), Settlement::Ack),
        (Err(PublishError::Unroutable), Settlement::Ack),
        (Err(PublishError::Undeliverable), Settlement::Ack),
        (Err(PublishError::SessionLost), Settlement::Requeue),
    ] {
        let broker = FakeBroker::that_answers(result);
        let settled = house.dispatcher.answer(&delivery(Some("hello"), ""), &broker).await;
        assert_eq!(settled, expected, "{result:?}");
        let last = broker.done().last().cloned();
        assert_eq!(last, Some(Done::Settled(7, expected)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_host_gives_back_what_has_not_started_and_then_what_runs() {
    let misbehave = guests::built("misbehave");
    let house = house(&[("misbehave", &misbehave, "timeout = \"10s\"")], None);
    let broker = Arc::new(FakeBroker::new());
    let running = tokio::spawn({
        let (dispatcher, broker) = (house.dispatcher.clone(), broker.clone());
        let asked = delivery(Some("misbehave.slow-5000"), "");
        async move { dispatcher.answer(&asked, &*broker).await }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let fresh = delivery(Some("misbehave"), "");
    fresh.leaving.cancel();
    let fresh = house.dispatcher.answer(&fresh, &*broker).await;
    assert_eq!(fresh, Settlement::Requeue);
    assert!(!running.is_finished());
    house.stopping.given_up.cancel();
    assert_eq!(running.await.unwrap(), Settlement::Requeue);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_line_is_answered_at_once_and_other_plugins_are_not_held_up() {
    let misbehave = guests::built("misbehave");
    let hello = guests::guest("hello").wasm;
    let house = house(
        &[
            ("misbehave", &misbehave, "timeout = \"5s\"\nmax-concurrency = 2"),
            ("hello", &hello, ""),
        ],
        None,
    );
    let mut waiting = Vec::new();
    for _ in 0..10 {
        let dispatcher = house.dispatcher.clone();
        waiting.push(tokio::spawn(async move {
            let broker = FakeBroker::new();
            dispatcher.answer(&delivery(Some("misbehave.slow-600"), ""), &broker).await;
            status(&broker.reply())
        }));
    }
    // Two run and eight wait: as many as there are slots. The next is refused.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let begun = Instant::now();
    let (refused, text) = house.call("misbehave.slow-600", "").await;
    assert_eq!(refused, "overloaded", "{text}");
    assert!(text.contains("\"retryable\":true"));
    assert_eq!(house.call("hello", "").await.0, "ok");
    assert!(begun.elapsed() < Duration::from_millis(200), "{:?}", begun.elapsed());
    for call in waiting {
        assert_eq!(call.await.unwrap(), "ok");
    }
}

/// As a host that starts finds them in its queue.
#[tokio::test]
async fn short_calls_that_come_all_at_once_wait_for_each_other() {
    let hello = guests::guest("hello").wasm;
    let plugins = [("hello", hello.as_slice(), "max-concurrency = 1"), ("other", &hello, "")];
    let house = house(&plugins, None);
    let threads = Threads::start().unwrap();
    for method in ["hello", "other"].repeat(3) {
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        // More than the slots and the line of either.
        for _ in 0..100 {
            let (dispatcher, tell) = (house.dispatcher.clone(), tell.clone());
            threads.answer(async move {
                let broker = FakeBroker::new();
                dispatcher.answer(&delivery(Some(method), ""), &broker).await;
                tell.send(status(&broker.reply())).unwrap();
            });
        }
        drop(tell);
        while let Some(status) = told.recv().await {
            assert_eq!(status, "ok", "{method}");
        }
    }
}

#[tokio::test]
async fn what_could_begin_after_its_deadline_only_is_not_run() {
    let house = wat(&["loop"]);
    // From here on it is known to take long, and is run elsewhere.
    assert_eq!(house.call("loop", "").await.0, "timeout");
    let threads = Threads::start().unwrap();
    // All of that is busy.
    for _ in 0..64 {
        threads.spawn(async { std::thread::sleep(Duration::from_millis(100)) });
    }
    let mut asked = delivery(Some("loop"), "");
    asked.properties.headers =
        vec![("rpc-timeout-ms".to_owned(), HeaderValue::Text("50".to_owned()))];
    let (tell, told) = tokio::sync::oneshot::channel();
    let dispatcher = house.dispatcher.clone();
    threads.answer(async move {
        let broker = FakeBroker::new();
        dispatcher.answer(&asked, &broker).await;
        tell.send(status(&broker.reply())).unwrap();
    });
    assert_eq!(told.await.unwrap(), "deadline-exceeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_plugin_leaves_slots_to_the_others() {
    let looping = guests::guest("loop").wasm;
    let hello = guests::guest("hello").wasm;
    let house = house(&[("loop", &looping, "timeout = \"3s\""), ("hello", &hello, "")], None);
    let mut waiting = Vec::new();
    for _ in 0..8 {
        let dispatcher = house.dispatcher.clone();
        waiting.push(tokio::spawn(async move {
            dispatcher.answer(&delivery(Some("loop"), ""), &FakeBroker::new()).await;
        }));
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    for _ in 0..3 {
        let begun = Instant::now();
        assert_eq!(house.call("hello", "").await.0, "ok");
        assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
    }
    house.stopping.given_up.cancel();
    for call in waiting {
        call.await.unwrap();
    }
}
