//! Versions that keep failing: they rest, or the old one comes back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use lapin::BasicProperties;
use rpchost::dispatch::{Dispatcher, ReplyPolicy, Stopping};
use rpchost::message::{Delivery, HeaderValue, Reply};
use rpchost::plugins::{Engine, Plugins};
use rpchost::telemetry::Telemetry;

use crate::author::with_cases;
use crate::core::{error, header, limits, status};
use crate::support::fake_broker::{FakeBroker, delivery};
use crate::support::host::{Host, Options};
use crate::support::ledger::{Load, call};
use crate::support::{broker, guests, unique, until};

/// A dispatcher over plugins that can be swapped, without a directory to look at.
struct Stage {
    dispatcher: Arc<Dispatcher>,
    plugins: Plugins,
    engine: Engine,
    telemetry: Telemetry,
    directory: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        let plugins = Plugins::new(None);
        let telemetry = Telemetry::new().unwrap();
        let dispatcher = Dispatcher::new(
            plugins.clone(),
            limits(),
            ReplyPolicy::new(&[]),
            Stopping::default(),
            telemetry.clone(),
        );
        Self {
            dispatcher: Arc::new(dispatcher),
            plugins,
            engine: Engine::new(8).unwrap(),
            telemetry,
            directory: tempfile::tempdir().unwrap(),
        }
    }

    /// Serves a file in place of the last one of that name.
    fn put(&self, name: &str, wasm: &[u8], config: &str) {
        let path = self.directory.path().join(format!("{name}.wasm"));
        std::fs::write(&path, wasm).unwrap();
        std::fs::write(path.with_extension("toml"), config).unwrap();
        self.plugins.load_file(&self.engine, &path, &limits()).unwrap();
    }

    async fn reply(&self, delivery: &Delivery) -> Reply {
        let broker = FakeBroker::new();
        self.dispatcher.answer(delivery, &broker).await;
        broker.reply()
    }

    async fn ask(&self, method: &str, body: &str) -> String {
        status(&self.reply(&delivery(Some(method), body.to_owned())).await)
    }

    /// The statuses of as many calls, one after the other.
    async fn asks(&self, count: usize, method: &str, body: &str) -> Vec<String> {
        let mut statuses = Vec::new();
        for _ in 0..count {
            statuses.push(self.ask(method, body).await);
        }
        statuses
    }

    /// The same, all at once.
    async fn asks_at_once(&self, count: usize, method: &str) -> Vec<String> {
        let calls = (0..count).map(|_| {
            let (dispatcher, asked) = (self.dispatcher.clone(), delivery(Some(method), ""));
            tokio::spawn(async move {
                let broker = FakeBroker::new();
                dispatcher.answer(&asked, &broker).await;
                status(&broker.reply())
            })
        });
        join_all(calls).await.into_iter().map(Result::unwrap).collect()
    }

    fn has_metric(&self, line: &str) -> bool {
        self.telemetry.scrape().unwrap().lines().any(|known| known == line)
    }
}

fn orders() -> Vec<u8> {
    guests::guest("orders").wasm
}

#[tokio::test]
async fn a_plugin_that_keeps_trapping_rests_and_others_do_not() {
    let stage = Stage::new();
    stage.put("orders", &orders(), "");
    stage.put("hello", &guests::guest("hello").wasm, "");
    assert_eq!(stage.asks(20, "orders", "trap").await, ["trap"; 20]);
    let begun = Instant::now();
    let reply = stage.reply(&delivery(Some("orders"), "count")).await;
    assert!(begun.elapsed() < Duration::from_secs(1), "at once");
    let resting = error(&reply);
    assert_eq!(status(&reply), "circuit-open");
    assert_eq!((&resting["code"], &resting["retryable"]), (&(-32006).into(), &true.into()));
    let text = resting["message"].as_str().unwrap();
    assert_eq!(text, "the plugin `orders` keeps failing and rests; try again in 5 s");
    assert!(header(&reply, "rpchost-plugin").unwrap().starts_with("orders@"));
    assert_eq!(stage.ask("hello", "").await, "ok");
    assert!(stage.has_metric("rpchost_circuit_open{plugin=\"orders\"} 1"));
    assert!(stage.has_metric("rpchost_circuit_opened_total{plugin=\"orders\"} 1"));

    // After the rest one call is let through; it fails, and the next rest is longer.
    until("a probe", Duration::from_secs(10), || async {
        stage.ask("orders", "trap").await == "trap"
    })
    .await;
    let probed = Instant::now();
    assert_eq!(stage.ask("orders", "count").await, "circuit-open");
    until("a good probe", Duration::from_secs(20), || async {
        stage.ask("orders", "count").await == "ok"
    })
    .await;
    assert!(probed.elapsed() >= Duration::from_secs(9), "{:?}", probed.elapsed());
    assert_eq!(stage.asks(10, "orders", "count").await, ["ok"; 10]);
    assert!(stage.has_metric("rpchost_circuit_open{plugin=\"orders\"} 0"));
}

#[tokio::test]
async fn time_outs_and_exhausted_memory_count_as_traps_do() {
    let stage = Stage::new();
    stage.put("orders", &orders(), "timeout = \"10ms\"");
    assert_eq!(stage.asks(20, "orders", "loop").await, ["timeout"; 20]);
    assert_eq!(stage.ask("orders", "count").await, "circuit-open");
    stage.put("hog", &guests::guest("memory-hog").wasm, "");
    assert_eq!(stage.asks(20, "hog", "").await, ["resource-exhausted"; 20]);
    assert_eq!(stage.ask("hog", "").await, "circuit-open");
    stage.put("start", &guests::guest("start-trap").wasm, "");
    assert_eq!(stage.asks(20, "start", "").await, ["instantiate-failed"; 20]);
    assert_eq!(stage.ask("start", "").await, "circuit-open");
}

#[tokio::test]
async fn errors_and_what_callers_do_wrong_do_not_count() {
    let stage = Stage::new();
    stage.put("orders", &orders(), "");
    stage.put("typed", &guests::built("typed"), "");
    assert_eq!(stage.asks(100, "orders", "error").await, ["application"; 100]);
    assert_eq!(stage.asks(100, "typed.add", "[1]").await, ["invalid-params"; 100]);
    assert_eq!(stage.asks(30, "typed.divide", "[1,0]").await, ["application"; 30]);
    let mut hurried = delivery(Some("orders"), "loop");
    hurried.properties.headers = vec![("rpc-timeout-ms".to_owned(), HeaderValue::Int(5))];
    for _ in 0..30 {
        hurried.received_at = Instant::now();
        assert_eq!(status(&stage.reply(&hurried).await), "timeout");
    }
    // One failure in three is answered as what it is, however many there are.
    for _ in 0..50 {
        for (order, outcome) in [("count", "ok"), ("trap", "trap"), ("error", "application")] {
            assert_eq!(stage.ask("orders", order).await, outcome);
        }
    }
}

#[tokio::test]
async fn a_new_file_begins_with_a_closed_circuit() {
    let stage = Stage::new();
    stage.put("orders", &orders(), "");
    stage.asks(20, "orders", "trap").await;
    assert_eq!(stage.ask("orders", "count").await, "circuit-open");
    stage.put("orders", &guests::marked(&orders(), 1), "");
    assert_eq!(stage.ask("orders", "count").await, "ok");
    // The one before was not healthy, so there is nothing to come back to.
    assert_eq!(stage.asks(19, "orders", "trap").await, ["trap"; 19]);
    assert_eq!(stage.ask("orders", "count").await, "ok");
    assert_eq!(stage.ask("orders", "trap").await, "trap");
    assert_eq!(stage.ask("orders", "count").await, "circuit-open");
}

#[tokio::test]
async fn the_old_version_comes_back_when_a_new_one_fails_at_once() {
    let stage = Stage::new();
    let bad = guests::guest("unreachable").wasm;
    stage.put("job", &orders(), "");
    assert_eq!(stage.ask("job", "count").await, "ok");
    let good = header(&stage.reply(&delivery(Some("job"), "")).await, "rpchost-plugin");
    stage.put("job", &bad, "");
    assert_eq!(stage.asks(5, "job", "count").await, ["trap"; 5]);
    let reply = stage.reply(&delivery(Some("job"), "count")).await;
    assert_eq!((status(&reply).as_str(), header(&reply, "rpchost-plugin")), ("ok", good.clone()));
    // A file that nobody called is not what is come back to.
    stage.put("job", &guests::marked(&bad, 1), "");
    stage.put("job", &guests::marked(&bad, 2), "");
    stage.asks(5, "job", "count").await;
    let reply = stage.reply(&delivery(Some("job"), "count")).await;
    assert_eq!((status(&reply).as_str(), header(&reply, "rpchost-plugin")), ("ok", good));
    // And one that has proved itself is.
    stage.put("job", &guests::marked(&orders(), 3), "");
    let third = header(&stage.reply(&delivery(Some("job"), "")).await, "rpchost-plugin");
    stage.put("job", &bad, "");
    stage.asks(5, "job", "count").await;
    let reply = stage.reply(&delivery(Some("job"), "count")).await;
    assert_eq!((status(&reply).as_str(), header(&reply, "rpchost-plugin")), ("ok", third));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_makes_a_plugin_fail_is_taken_back_too() {
    let stage = Stage::new();
    let misbehave = guests::built("misbehave");
    stage.put("job", &misbehave, "timeout = \"5s\"");
    assert_eq!(stage.ask("job.slow-100", "").await, "ok");
    stage.put("job", &misbehave, "timeout = \"10ms\"");
    assert_eq!(stage.asks(5, "job.slow-100", "").await, ["timeout"; 5]);
    assert_eq!(stage.ask("job.slow-100", "").await, "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_in_flight_end_where_they_began_and_waiting_ones_begin_on_the_old_version() {
    let stage = Stage::new();
    let misbehave = guests::built("misbehave");
    stage.put("job", &orders(), "");
    stage.put("job", &misbehave, "timeout = \"5s\"");
    let slow = tokio::spawn({
        let (dispatcher, asked) = (stage.dispatcher.clone(), delivery(Some("job.slow-700"), ""));
        async move {
            let broker = FakeBroker::new();
            dispatcher.answer(&asked, &broker).await;
            broker.reply()
        }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(stage.asks(5, "job.panic", "").await, ["trap"; 5]);
    assert_eq!(stage.reply(&delivery(Some("job.panic"), "")).await.body, "0001");
    assert!(!slow.is_finished());
    assert_eq!(slow.await.unwrap().body, "done");

    stage.put("line", &orders(), "max-concurrency = 1");
    stage.put("line", &guests::guest("unreachable").wasm, "max-concurrency = 1");
    // As many as have room in the line.
    let mut statuses = stage.asks_at_once(8, "line").await;
    statuses.sort();
    assert_eq!(statuses, ["ok", "ok", "ok", "trap", "trap", "trap", "trap", "trap"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_runs_as_many_calls_as_it_may_and_no_more() {
    let stage = Stage::new();
    let misbehave = guests::built("misbehave");
    stage.put("job", &misbehave, "max-concurrency = 2\ntimeout = \"5s\"");
    stage.put("hello", &guests::guest("hello").wasm, "");
    let begun = Instant::now();
    let slow = stage.asks_at_once(6, "job.slow-200");
    let others = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let begun = Instant::now();
        let statuses = stage.asks_at_once(6, "hello").await;
        (statuses, begun.elapsed())
    };
    let (slow, (others, took)) = tokio::join!(slow, others);
    assert_eq!((slow, others), (vec!["ok".to_owned(); 6], vec!["ok".to_owned(); 6]));
    assert!(begun.elapsed() >= Duration::from_millis(600), "two at a time: {:?}", begun.elapsed());
    assert!(took < Duration::from_millis(150), "and others beside them: {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_under_load_costs_a_few_calls_and_is_not_tried_again() {
    let broker = broker::shared().await;
    let queue = unique("rollback");
    let good = guests::version("v-0000000001");
    let bad = guests::guest("unreachable").wasm;
    let host = Host::start(&Options::new(&broker.amqp_url(), &queue), &[("job", &good)]);
    let load =
        Load::start(&broker.amqp_url(), &queue, 300, |_| ("job".to_owned(), Vec::new())).await;
    until("answers", Duration::from_secs(10), || async { load.ledger.confirmed() > 200 }).await;
    host.put("job", &bad);
    until("the old version", Duration::from_secs(10), || async {
        host.log().contains("is taken back")
    })
    .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let ledger = load.finish(Duration::from_secs(20)).await;
    assert_eq!((ledger.lost(), ledger.duplicates()), (0, 0));
    let entries = ledger.entries();
    let statuses: Vec<&str> = entries
        .values()
        .filter_map(|entry| entry.answers.first())
        .map(|answer| answer.status.as_str())
        .collect();
    let failed = statuses.iter().filter(|status| **status != "ok").count();
    eprintln!("{failed} of {} calls met the bad file", statuses.len());
    // Five decide; those that had begun meanwhile fail, too.
    assert!((5..40).contains(&failed), "{failed} of {}", statuses.len());
    assert!(statuses.iter().all(|status| ["ok", "trap"].contains(status)));
    assert_eq!(host.metric("rpchost_rollbacks_total{plugin=\"job\"}"), 1.0);
    let held = |reason: &str| {
        host.metric(&format!("rpchost_plugin_refused{{plugin=\"job\",reason=\"{reason}\"}}"))
    };
    assert_eq!(held("taken-back"), 1.0);

    let connection = broker::connect(&broker.amqp_url()).await;
    let channel = connection.create_channel().await.unwrap();
    let ask = |method: &'static str| {
        let (channel, queue) = (channel.clone(), queue.clone());
        async move {
            let asked = BasicProperties::default().with_type(method.into());
            String::from_utf8_lossy(&call(&channel, &queue, asked, b"").await.data).into_owned()
        }
    };
    assert!(ask("rpchost.describe").await.contains("\"cause\":\"taken-back\""));
    // Nor when it is written again, nor under another name, nor by a rescan.
    host.put("job", &bad);
    host.put("copy", &bad);
    until("the copy's refusal", Duration::from_secs(5), || async {
        host.log().contains("`copy.wasm` is refused: its contents were taken back as `job@")
    })
    .await;
    tokio::time::sleep(Duration::from_millis(5500)).await;
    assert_eq!(ask("job").await, "v-0000000001");
    assert!(ask("copy").await.contains("method-not-found"));
    assert_eq!(host.log().matches("taken back").count(), 2, "each is said once");
    assert_eq!(host.metric("rpchost_rollbacks_total{plugin=\"job\"}"), 1.0);
    // The old contents are what serves anyway; new ones are accepted.
    host.put("job", &good);
    host.put("copy", &guests::marked(&good, 1));
    until("another file", Duration::from_secs(5), || async { ask("copy").await == "v-0000000001" })
        .await;
    assert_eq!(held("taken-back"), 0.0);
    host.put("job", &bad);
    until("the report", Duration::from_secs(5), || async {
        host.log().contains("`job.wasm` is refused and `job@")
    })
    .await;
    assert_eq!(ask("job").await, "v-0000000001");
    host.put("job", &guests::version("v-0000000002"));
    until("a better version", Duration::from_secs(5), || async {
        ask("job").await == "v-0000000002"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_keeps_its_own_reason_when_the_version_before_it_is_taken_back() {
    let broker = broker::shared().await;
    let queue = unique("reasons");
    let good = guests::version("v-0000000001");
    let host = Host::start(&Options::new(&broker.amqp_url(), &queue), &[("job", &good)]);
    let connection = broker::connect(&broker.amqp_url()).await;
    let channel = connection.create_channel().await.unwrap();
    let ask = || async {
        let asked = BasicProperties::default().with_type("job".into());
        String::from_utf8_lossy(&call(&channel, &queue, asked, b"").await.data).into_owned()
    };
    assert_eq!(ask().await, "v-0000000001");
    host.put("job", &guests::guest("unreachable").wasm);
    until("the second version", Duration::from_secs(20), || async {
        ask().await.contains("trapped")
    })
    .await;
    let never = guests::version("v-0000000003");
    host.put("job", &with_cases(&never, &["v-0000000004"]));
    let held = |reason: &str| {
        host.metric(&format!("rpchost_plugin_refused{{plugin=\"job\",reason=\"{reason}\"}}"))
    };
    until("the third version's refusal", Duration::from_secs(20), || async {
        held("self-test") == 1.0
    })
    .await;
    until("the first version", Duration::from_secs(20), || async { ask().await == "v-0000000001" })
        .await;
    until("the rollback", Duration::from_secs(20), || async {
        host.metric("rpchost_rollbacks_total{plugin=\"job\"}") == 1.0
    })
    .await;
    assert_eq!((held("self-test"), held("taken-back")), (1.0, 0.0));
}
