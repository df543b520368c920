//! `rpchost verify`, against services that do what they should not, and against
//! a host whose broker dies.

use std::process::{Output, Stdio};
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, ExchangeKind};
use rpchost::private_broker::PrivateBroker;
use rustix::process::Signal;
use serde_json::Value;
use tokio::process::Command;
use tokio_util::task::AbortOnDropHandle;

use super::support::host::{Host, Options, command};
use super::support::{broker, guests, unique, until};

/// Longer than anything here takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// What a service does with the request of this number, from 0.
#[derive(Debug, Clone, Copy)]
enum Does {
    Echo,
    /// Acks and says nothing.
    Nothing,
    /// Keeps it, unacked.
    Keep,
    Twice,
    Late,
    Wrong,
    Error,
    /// Answers what nobody asked, too.
    Unasked,
    /// Answers to a queue that is not there.
    Elsewhere,
}

/// A service that behaves but for some of its requests, until it is dropped.
async fn service(
    url: &str,
    queue: &str,
    does: impl Fn(usize) -> Does + Send + 'static,
) -> AbortOnDropHandle<()> {
    let channel = broker::connect(url).await.create_channel().await.unwrap();
    declare(&channel, queue).await;
    channel.basic_qos(100, BasicQosOptions::default()).await.unwrap();
    let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
    let consume = channel.basic_consume(queue.into(), "".into(), options, none);
    let mut requests = consume.await.unwrap();
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut number = 0;
        while let Some(Ok(request)) = requests.next().await {
            let (does, channel) = (does(number), channel.clone());
            number += 1;
            tokio::spawn(async move { act(&channel, &request, does).await });
        }
    }))
}

async fn declare(channel: &Channel, queue: &str) {
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), options, FieldTable::default()).await.unwrap();
}

async fn act(channel: &Channel, request: &Delivery, does: Does) {
    let to = request.properties.reply_to().as_ref().unwrap().to_string();
    let id = request.properties.correlation_id().as_ref().unwrap().to_string();
    match does {
        Does::Keep => return,
        Does::Nothing => {}
        Does::Echo => answer(channel, &to, &id, "", &request.data).await,
        Does::Twice => {
            answer(channel, &to, &id, "", &request.data).await;
            answer(channel, &to, &id, "", &request.data).await;
        }
        Does::Late => {
            tokio::time::sleep(Duration::from_millis(2500)).await;
            answer(channel, &to, &id, "", &request.data).await;
        }
        Does::Wrong => answer(channel, &to, &id, "", b"\x1b[31mno").await,
        Does::Error => answer(channel, &to, &id, "error", br#"{"error":{"code":1}}"#).await,
        Does::Unasked => {
            answer(channel, &to, &id, "", &request.data).await;
            answer(channel, &to, "nobody-1", "", b"surprise").await;
        }
        Does::Elsewhere => {
            answer(channel, "rpchost.replies.gone", &id, "", &request.data).await;
        }
    }
    request.acker.ack(BasicAckOptions::default()).await.unwrap();
}

async fn answer(channel: &Channel, to: &str, id: &str, kind: &str, body: &[u8]) {
    let mut properties = BasicProperties::default().with_correlation_id(id.into());
    if !kind.is_empty() {
        properties = properties.with_type(kind.into());
    }
    let options = BasicPublishOptions::default();
    channel.basic_publish("".into(), to.into(), options, body, properties).await.unwrap();
}

fn verify(url: &str, queue: &str, args: &[&str]) -> Command {
    let mut verify = Command::from(command(&["verify", "--queue", queue, "--amqp-url", url]));
    verify.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    verify.kill_on_drop(true);
    verify
}

async fn ended(mut verify: Command) -> Output {
    tokio::time::timeout(PATIENCE, verify.output()).await.expect("an end in time").unwrap()
}

/// Its exit code and its report.
async fn report(verify: Command) -> (Option<i32>, Value) {
    let output = ended(verify).await;
    let said = String::from_utf8_lossy(&output.stderr);
    let report = serde_json::from_slice(&output.stdout);
    (output.status.code(), report.unwrap_or_else(|error| panic!("{error}: {output:?} {said}")))
}

/// 20 requests, quickly, and little patience.
const QUICK: [&str; 10] =
    ["--count", "20", "--rate", "50", "--overdue", "1s", "--wait", "10s", "-o", "json"];

fn numbers(report: &Value, names: &[&str]) -> Vec<i64> {
    names.iter().map(|name| report[name].as_i64().unwrap_or(-1)).collect()
}

#[tokio::test]
async fn a_good_service_loses_nothing() {
    let (url, queue) = (broker::shared().await.amqp_url(), unique("good"));
    let _service = service(&url, &queue, |_| Does::Echo).await;
    let (code, report) = report(verify(&url, &queue, &QUICK)).await;
    assert_eq!((code, &report["ok"]), (Some(0), &true.into()), "{report}");
    let names = ["sent", "confirmed", "answered", "lost", "late", "duplicates", "wrong"];
    assert_eq!(numbers(&report, &names), [20, 20, 20, 0, 0, 0, 0], "{report}");
    assert_eq!(numbers(&report, &["unexpected", "connections", "copies"]), [0, 1, -1], "{report}");

    // In a pipe there is nothing but the report.
    let output = ended(verify(&url, &queue, &["--count", "3", "--rate", "100"])).await;
    let out = String::from_utf8_lossy(&output.stdout);
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{output:?}");
    assert!(out.lines().any(|line| line == "lost                0"), "{out}");
}

#[tokio::test]
async fn what_a_service_does_wrong_is_told_by_name() {
    let url = broker::shared().await.amqp_url();
    let cases = [
        (Does::Nothing, 1, "lost"),
        (Does::Twice, 0, "duplicates"),
        (Does::Late, 0, "late"),
        (Does::Wrong, 1, "wrong"),
        (Does::Error, 1, "wrong"),
        (Does::Unasked, 1, "unexpected"),
        (Does::Elsewhere, 1, "lost"),
    ];
    let checks = cases.map(async |(does, code, name)| {
        let queue = unique("broken");
        let some = move |number| if number % 5 == 2 { does } else { Does::Echo };
        let _service = service(&url, &queue, some).await;
        let (exit, report) = report(verify(&url, &queue, &QUICK)).await;
        assert_eq!(exit, Some(code), "{does:?}: {report}");
        for count in ["lost", "late", "duplicates", "wrong", "unexpected"] {
            // On a machine that is busy enough, any answer may be late.
            let is_right = match (count == name, count) {
                (true, "late") => report[count].as_i64() >= Some(4),
                (true, _) => report[count] == 4,
                (false, "late") => true,
                (false, _) => report[count] == 0,
            };
            assert!(is_right, "{does:?}: {count}: {report}");
        }
    });
    futures_util::future::join_all(checks).await;
}

#[tokio::test]
async fn the_text_names_the_first_and_is_harmless() {
    let (url, queue) = (broker::shared().await.amqp_url(), unique("text"));
    let does = |number| if number == 1 { Does::Nothing } else { Does::Wrong };
    let _service = service(&url, &queue, does).await;
    let args = ["--count", "3", "--rate", "50", "--overdue", "1s", "--wait", "3s"];
    let output = ended(verify(&url, &queue, &args)).await;
    let (out, err) = (output.stdout, String::from_utf8_lossy(&output.stderr).into_owned());
    let out = String::from_utf8(out).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(out.contains("\nlost: ") && out.contains(r"\u{1b}[31mno instead of "), "{out}");
    assert!(!out.contains('\u{1b}'), "{out:?}");
    assert!(
        err.starts_with("rpchost: overdue: ") && err.contains("-2, unanswered for 1s"),
        "{err}"
    );
}

#[tokio::test]
async fn methods_arguments_and_dialects_are_those_of_call() {
    let (url, queue) = (broker::shared().await.amqp_url(), unique("fib"));
    let (fib, misbehave) = (guests::built("fib"), guests::built("misbehave"));
    let _host =
        Host::start(&Options::new(&url, &queue), &[("fib", &fib), ("misbehave", &misbehave)]);
    let args = |more: &[&'static str]| [&QUICK[..], more].concat();
    for (more, code, wrong) in [
        (&["fib", "30", "--expect", "832040"][..], 0, 0),
        (&["fib", "--body", "30", "--expect", "832041"], 1, 20),
        (&["fib", "{number}"], 0, 0),
        (&["fib", "x"], 1, 20),
        (&["misbehave", "--dialect", "json-rpc"], 0, 0),
        (&["misbehave"], 0, 0),
    ] {
        let (exit, report) = report(verify(&url, &queue, &args(more))).await;
        assert_eq!((exit, &report["wrong"]), (Some(code), &wrong.into()), "{more:?}: {report}");
    }
    let output = ended(verify(&url, &queue, &["--dialect", "json-rpc"])).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let output = ended(verify(&url, &unique("none"), &["fib"])).await;
    assert_eq!(output.status.code(), Some(4), "{output:?}");
}

#[tokio::test]
async fn the_stage_of_a_loss_is_known_from_the_firehose() {
    let broker = PrivateBroker::start_with_management().await.unwrap();
    let api = format!("http://{}", broker.management_address());
    stages(&broker, &["--management", &api]).await;
    broker.remove().await.unwrap();
}

#[tokio::test]
async fn the_stage_of_a_loss_is_known_on_rabbitmq_4() {
    let broker = broker::rabbitmq_4().await;
    let ctl = broker.ctl_script();
    stages(&broker, &["--ctl", ctl.to_str().unwrap()]).await;
    broker.remove().await.unwrap();
}

async fn stages(broker: &PrivateBroker, switch: &[&str]) {
    let url = broker.amqp_url();
    for (does, stage) in [
        (Does::Nothing, "not-answered"),
        // The prefetch of 100 is used up by what was kept before.
        (Does::Keep, "not-delivered"),
        // The answer goes to a queue that nobody consumes, or that is not there.
        (Does::Elsewhere, "not-delivered"),
    ] {
        let queue = unique("stage");
        let _service = service(&url, &queue, move |_| does).await;
        if let Does::Keep = does {
            let channel = broker::connect(&url).await.create_channel().await.unwrap();
            for _ in 0..100 {
                let properties = BasicProperties::default()
                    .with_reply_to("x".into())
                    .with_correlation_id("x".into());
                let (options, to) = (BasicPublishOptions::default(), queue.as_str().into());
                channel.basic_publish("".into(), to, options, b"", properties).await.unwrap();
            }
        }
        let args = [&QUICK[..], &["--trace"], switch].concat();
        let (code, report) = report(verify(&url, &queue, &args)).await;
        assert_eq!((code, &report["lost"]), (Some(1), &20.into()), "{does:?}: {report}");
        for request in report["lost_requests"].as_array().unwrap() {
            assert_eq!(request["stage"], stage, "{does:?}: {request}");
        }
    }
    let tracing = broker.ctl(&["list_vhosts", "-q", "name", "tracing"]).await.unwrap();
    assert!(tracing.contains("/\tfalse"), "{tracing}");
}

#[tokio::test]
async fn of_several_queues_the_one_that_gets_nothing_is_named() {
    let broker = PrivateBroker::start_with_management().await.unwrap();
    let (url, api) = (broker.amqp_url(), format!("http://{}", broker.management_address()));
    let channel = broker::connect(&url).await.create_channel().await.unwrap();
    let options = ExchangeDeclareOptions::default();
    let (kind, none) = (ExchangeKind::Direct, FieldTable::default());
    channel.exchange_declare("fan".into(), kind, options, none).await.unwrap();
    for queue in ["one", "two", "three"] {
        declare(&channel, queue).await;
        if queue != "three" {
            let (options, none) = (QueueBindOptions::default(), FieldTable::default());
            let bind = channel.queue_bind(queue.into(), "fan".into(), "all".into(), options, none);
            bind.await.unwrap();
        }
    }
    let fan = ["--exchange", "fan", "--key", "all", "--consume", "one", "--consume", "two"];
    let both = [&QUICK[..], &fan].concat();
    let (code, good) = report(verify(&url, "unused", &both)).await;
    assert_eq!((code, numbers(&good, &["answered", "lost"])), (Some(0), vec![20, 0]), "{good}");

    let three = [&both[..], &["--consume", "three", "--trace", "--management", &api]].concat();
    let (code, bad) = report(verify(&url, "unused", &three)).await;
    assert_eq!((code, numbers(&bad, &["answered", "lost"])), (Some(1), vec![0, 20]), "{bad}");
    let request = &bad["lost_requests"][0];
    assert_eq!((&request["came"], &request["missing_from"][0]), (&2.into(), &"three".into()));
    assert_eq!(request["stage"], "not-queued", "{request}");

    // Services at each queue: an answer from each.
    let _one = service(&url, "one", |_| Does::Echo).await;
    let _two = service(&url, "two", |_| Does::Echo).await;
    let answers = [&QUICK[..], &["--exchange", "fan", "--key", "all", "--answers", "2"]].concat();
    let (code, good) = report(verify(&url, "unused", &answers)).await;
    assert_eq!((code, numbers(&good, &["answered", "lost"])), (Some(0), vec![20, 0]), "{good}");
    broker.remove().await.unwrap();
}

#[tokio::test]
async fn nothing_is_lost_while_broker_and_host_are_killed() {
    survives(PrivateBroker::start().await.unwrap()).await;
}

#[tokio::test]
async fn nothing_is_lost_on_rabbitmq_4_either() {
    survives(broker::rabbitmq_4().await).await;
}

async fn survives(mut broker: PrivateBroker) {
    let (url, queue) = (broker.amqp_url(), unique("survives"));
    let misbehave = guests::built("misbehave");
    let start = || {
        let options = Options::new(&url, &queue).args(&["--queue-type", "classic"]);
        Host::start(&options, &[("misbehave", &misbehave)])
    };
    let first = start();
    let ctl = broker.ctl_script();
    let args = ["misbehave", "--rate", "100", "--duration", "0s", "--wait", "60s", "-o", "json"];
    let mut verify = verify(&url, &queue, &args);
    verify.args(["--trace", "--ctl"]).arg(&ctl);
    let running = verify.spawn().unwrap();
    let id = running.id().and_then(|id| i32::try_from(id).ok());
    let running = tokio::spawn(running.wait_with_output());
    let asked = async |host: &Host, least: f64| {
        let deliveries = || async { host.metric("rpchost_deliveries_total") >= least };
        until("some requests", PATIENCE, deliveries).await;
    };
    asked(&first, 100.0).await;
    first.signal(Signal::KILL);
    let second = start();
    asked(&second, 200.0).await;
    broker.kill().await.unwrap();
    broker.start_again().await.unwrap();
    let before = second.metric("rpchost_deliveries_total");
    asked(&second, before + 200.0).await;
    let pid = rustix::process::Pid::from_raw(id.unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::INT).unwrap();
    let output = tokio::time::timeout(PATIENCE, running).await.unwrap().unwrap().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let names = ["lost", "unconfirmed", "wrong", "unexpected"];
    assert_eq!(numbers(&report, &names), [0, 0, 0, 0], "{report}");
    assert_eq!(output.status.code(), Some(0), "{report}");
    assert!(report["sent"].as_i64().unwrap() > 400, "{report}");
    assert!(report["connections"].as_i64().unwrap() > 1, "{report}");
    eprintln!("verify: {report}");
    broker.remove().await.unwrap();
}
