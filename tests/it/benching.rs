//! `rpchost bench`, against a host and against services that are slow, that err
//! and that leave out answers. Times are compared with what a service does on
//! purpose, never with how fast this machine is.

use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel};
use rpchost::private_broker::PrivateBroker;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::process::Command;
use tokio_util::task::AbortOnDropHandle;

use super::support::host::{Host, Options, command};
use super::support::{broker, guests, unique};

/// Longer than anything here takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a service does with the request of this number, from 0.
#[derive(Debug, Clone, Copy)]
enum Does {
    Echo,
    /// Nothing, but an ack.
    Nothing,
    /// An echo after a time; the others wait.
    Sleep(Duration),
    /// An error of this kind.
    Error(&'static str),
    /// Two echos, and one that nobody asked for.
    Thrice,
}

/// A service that takes one request after the other, until it is dropped.
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
            let to = request.properties.reply_to().as_ref().unwrap().to_string();
            let id = request.properties.correlation_id().as_ref().unwrap().to_string();
            assert_eq!(request.properties.message_id().as_ref().unwrap().as_str(), id);
            match does(number) {
                Does::Nothing => {}
                Does::Echo => answer(&channel, &to, &id, "", &request.data).await,
                Does::Sleep(time) => {
                    tokio::time::sleep(time).await;
                    answer(&channel, &to, &id, "", &request.data).await;
                }
                Does::Error(kind) => {
                    let body = format!(r#"{{"error":{{"kind":"{kind}","message":"no"}}}}"#);
                    answer(&channel, &to, &id, "error", body.as_bytes()).await;
                }
                Does::Thrice => {
                    for id in [id.as_str(), id.as_str(), "nobody's"] {
                        answer(&channel, &to, id, "", &request.data).await;
                    }
                }
            }
            number += 1;
            request.acker.ack(BasicAckOptions::default()).await.unwrap();
        }
    }))
}

async fn declare(channel: &Channel, queue: &str) {
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), options, FieldTable::default()).await.unwrap();
}

async fn answer(channel: &Channel, to: &str, id: &str, kind: &str, body: &[u8]) {
    let mut properties = BasicProperties::default().with_correlation_id(id.into());
    if !kind.is_empty() {
        properties = properties.with_type(kind.into());
    }
    let options = BasicPublishOptions::default();
    channel.basic_publish("".into(), to.into(), options, body, properties).await.unwrap();
}

fn bench(url: &str, queue: &str, args: &[&str]) -> Command {
    let mut bench = Command::from(command(&["bench", "--queue", queue, "--amqp-url", url]));
    bench.args(["--warm-up", "200ms"]).args(args);
    bench.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    bench
}

async fn ended(mut bench: Command) -> Output {
    tokio::time::timeout(PATIENCE, bench.output()).await.expect("an end in time").unwrap()
}

/// Its exit code and its report, which adds up, and nothing on standard error.
async fn report(url: &str, queue: &str, args: &[&str]) -> (Option<i32>, Value) {
    let output = ended({
        let mut bench = bench(url, queue, args);
        bench.args(["-o", "json"]);
        bench
    })
    .await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said, "", "quiet in a pipe");
    let report = read(&output);
    (output.status.code(), report)
}

fn read(output: &Output) -> Value {
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let count = |name: &str| report[name].as_u64().unwrap_or_else(|| panic!("{name}: {report}"));
    let errors: u64 = report["errors"]
        .as_object()
        .unwrap()
        .values()
        .map(|kind| kind["count"].as_u64().unwrap())
        .sum();
    assert_eq!(count("calls"), count("results") + errors + count("unanswered"), "{report}");
    let bars = report["histogram_us"].as_array().unwrap();
    let in_bars: u64 = bars.iter().map(|bar| bar["count"].as_u64().unwrap()).sum();
    assert_eq!(in_bars, count("results"), "{report}");
    let latency: Vec<f64> = ["min", "p50", "p75", "p90", "p95", "p99", "p99.9", "max"]
        .iter()
        .map(|name| report["latency_us"][*name].as_f64().unwrap())
        .collect();
    assert!(latency.is_sorted(), "{report}");
    report
}

fn numbers(report: &Value, names: &[&str]) -> Vec<i64> {
    names.iter().map(|name| report[name].as_i64().unwrap_or(-1)).collect()
}

#[tokio::test]
async fn calls_in_flight_are_counted_and_drawn() {
    let (url, queue) = (broker::shared().await.amqp_url(), unique("bench"));
    let host = Host::start(&Options::new(&url, &queue), &[("echo", &guests::built("echo"))]);
    let folder = tempfile::tempdir().unwrap();
    let plot = folder.path().join("plot.svg");
    let pid = format!("host={}", host.id());
    let args = ["echo", "--size", "16B", "--in-flight", "16", "--duration", "2s", "--pid", &pid];
    let (code, report) =
        report(&url, &queue, &[&args[..], &["--plot", plot.to_str().unwrap()]].concat()).await;
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(report["ok"], true, "{report}");
    assert!(report["results"].as_u64().unwrap() > 16, "{report}");
    assert!(report["cpu"]["ms_per_1000_calls"].as_f64().unwrap() > 0.0, "{report}");
    assert!(report["processes"]["host"]["ms_per_1000_calls"].as_f64().is_some(), "{report}");
    let seconds = report["seconds"].as_array().unwrap();
    assert_eq!(seconds.len(), 2, "{report}");
    assert!(seconds[0]["in_flight"].as_u64().unwrap() <= 16, "{report}");
    // Everything that was sent came in time, but for those in flight at an edge.
    let in_seconds: u64 = seconds.iter().map(|second| second["results"].as_u64().unwrap()).sum();
    assert!(in_seconds.abs_diff(report["results"].as_u64().unwrap()) <= 16, "{report}");
    let drawn = std::fs::read_to_string(&plot).unwrap();
    assert!(drawn.starts_with("<svg") && drawn.trim_end().ends_with("</svg>"), "{drawn}");
    // The warm-up was called, too, and is not among the counted.
    let answered = host.metric("rpchost_deliveries_total");
    assert!(answered > report["calls"].as_f64().unwrap(), "{answered} {report}");
}

#[tokio::test]
async fn a_rate_is_what_was_asked_for_over_any_connections_and_reply_addresses() {
    let (url, queue) = (broker::shared().await.amqp_url(), unique("bench"));
    let _host = Host::start(&Options::new(&url, &queue), &[("echo", &guests::built("echo"))]);
    for args in [
        &["echo", "x", "--rate", "300"][..],
        &["echo", "x", "--rate", "300", "--connections", "3", "--replies", "queue", "--persistent"],
        &["echo", "--params", "[1]", "--rate", "300", "--dialect", "json-rpc"],
    ] {
        let (code, report) = report(&url, &queue, &[args, &["--duration", "1s"]].concat()).await;
        assert_eq!(code, Some(0), "{report}");
        // The warm-up has whole calls, too, so that exactly these are meant for the rest.
        assert_eq!(numbers(&report, &["calls", "results", "not_sent"]), [300, 300, 0], "{report}");
    }
}

/// A client that waits for answers would see one call of 2 s and many fast ones.
#[tokio::test]
async fn at_a_rate_a_pause_of_the_service_is_the_latency_of_all_that_were_due() {
    let (url, queue) = (broker::shared().await.amqp_url(), unique("bench"));
    // Behind the warm-up, which has 20.
    let does = |number| if number == 60 { Does::Sleep(Duration::from_secs(2)) } else { Does::Echo };
    let _service = service(&url, &queue, does).await;
    let args = ["--body", "x", "--rate", "100", "--duration", "3s"];
    let (code, report) = report(&url, &queue, &args).await;
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(report["results"], 300, "{report}");
    // Of 300 calls, 200 were due within the pause, one after the other.
    let latency = |name: &str| report["latency_us"][name].as_f64().unwrap() / 1e6;
    assert!(latency("p90") > 1.0 && latency("p50") > 0.2, "{report}");
    assert!(latency("max") < 20.0, "{report}");
}

#[tokio::test]
async fn errors_are_counted_by_their_kind() {
    let (url, queue) = (broker::shared().await.amqp_url(), unique("bench"));
    let does = |number| match number % 3 {
        0 => Does::Error("trap"),
        1 => Does::Error("timeout"),
        _ => Does::Echo,
    };
    let _service = service(&url, &queue, does).await;
    let (code, report) = report(&url, &queue, &["x", "--in-flight", "4", "--duration", "1s"]).await;
    assert_eq!(code, Some(1), "{report}");
    let count = |kind: &str| report["errors"][kind]["count"].as_u64().unwrap();
    let (traps, timeouts) = (count("trap"), count("timeout"));
    assert!(traps > 0 && traps.abs_diff(timeouts) <= 4, "{report}");
    assert_eq!(report["errors"]["trap"]["example"], "no", "{report}");
    let mut text = bench(&url, &queue, &["x", "--in-flight", "4", "--duration", "300ms"]);
    text.env("RPCHOST_QUEUE", "another");
    let output = ended(text).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("trap: no") && text.contains("p99.9"), "{text}");
}

#[tokio::test]
async fn half_of_the_answers_are_missed() {
    let (url, queue) = (broker::shared().await.amqp_url(), unique("bench"));
    let does = |number| if number % 2 == 0 { Does::Echo } else { Does::Nothing };
    let _service = service(&url, &queue, does).await;
    let args = ["--rate", "100", "--duration", "1s", "--timeout", "3s"];
    let (code, report) = report(&url, &queue, &args).await;
    assert_eq!(code, Some(3), "{report}");
    let names = ["calls", "results", "unanswered"];
    assert_eq!(numbers(&report, &names), [100, 50, 50], "{report}");
    // The service is there.
    assert_eq!(report["unanswered_because"], Value::Null, "{report}");
}

#[tokio::test]
async fn second_answers_and_strange_ones_are_extra() {
    let (url, queue) = (broker::shared().await.amqp_url(), unique("bench"));
    let does = |number| if number % 10 == 0 { Does::Thrice } else { Does::Echo };
    let _service = service(&url, &queue, does).await;
    let args = ["--rate", "100", "--duration", "1s"];
    let (code, report) = report(&url, &queue, &args).await;
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(report["results"], 100, "{report}");
    // 120 calls with the warm-up; of the last the strange ones may be too late.
    let extra = report["extra"].as_u64().unwrap();
    assert!((20..=24).contains(&extra), "{report}");
}

#[tokio::test]
async fn without_anybody_to_answer_it_says_so_at_once() {
    let (url, queue) = (broker::shared().await.amqp_url(), unique("bench"));
    let said = async |url: &str, queue: &str, args: &[&str]| {
        let begun = Instant::now();
        let output = ended(bench(url, queue, args)).await;
        assert!(begun.elapsed() < Duration::from_secs(60), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, text) = said(&url, &queue, &[]).await;
    assert_eq!((code, text), (Some(4), format!("rpchost: there is no queue `{queue}`\n")));
    let connection = broker::connect(&url).await;
    declare(&connection.create_channel().await.unwrap(), &queue).await;
    let (code, text) = said(&url, &queue, &["--connections", "2"]).await;
    assert_eq!((code, text), (Some(4), format!("rpchost: nobody consumes the queue `{queue}`\n")));
    let (code, text) = said("amqp://127.0.0.1:1", &queue, &[]).await;
    assert_eq!(code, Some(4), "{text}");
    assert!(text.contains("127.0.0.1:1"), "{text}");
}

#[tokio::test]
async fn impossible_wishes_are_wrong_usage() {
    for (args, part) in [
        (&["--in-flight", "1", "--rate", "1"][..], "cannot be used with"),
        (&["--in-flight", "1", "--connections", "2"], "each needs a call"),
        (&["--in-flight", "0"], "0 is not in 1..=100000"),
        (&["--duration", "0s"], "must be longer"),
        (&["--duration", "1y"], "at most 24h"),
        (&["--dialect", "json-rpc"], "JSON-RPC needs a METHOD"),
        (&["x", "--params", "{"], "`--params` is not JSON"),
        (&["x", "--size", "1GiB"], "`--size`: at most 128.0 MiB"),
        (&["x", "--in-flight", "2000", "--size", "1MiB"], "may be in flight"),
        (&["x", "--pid", "me=too"], "write a process id"),
    ] {
        let output = ended(bench("amqp://127.0.0.1:1", "q", args)).await;
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
        assert!(text.contains(part), "{args:?}: {text}");
    }
}

#[tokio::test]
async fn an_interrupt_ends_it_with_a_report() {
    let (url, queue) = (broker::shared().await.amqp_url(), unique("bench"));
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let does = move |number| {
        if number == 100 {
            tell.send(()).unwrap();
        }
        Does::Echo
    };
    let _service = service(&url, &queue, does).await;
    let args = ["--rate", "100", "--duration", "1h", "-o", "json"];
    let child = bench(&url, &queue, &args).spawn().unwrap();
    told.recv().await.unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.unwrap().unwrap();
    let report = read(&output);
    assert_eq!(output.status.code(), Some(0), "{report}");
    assert_eq!(report["cut_short"], true, "{report}");
    assert_eq!(report["unanswered"], 0, "{report}");
    assert!(report["results"].as_u64().unwrap() > 0, "{report}");
}

#[tokio::test]
async fn a_broker_that_dies_ends_it_with_a_report() {
    let mut broker = PrivateBroker::start().await.unwrap();
    let (url, queue) = (broker.amqp_url(), unique("bench"));
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let does = move |number| {
        if number == 100 {
            tell.send(()).unwrap();
        }
        Does::Echo
    };
    let _service = service(&url, &queue, does).await;
    let args = ["--rate", "100", "--duration", "1h", "--connections", "2", "-o", "json"];
    let child = bench(&url, &queue, &args).spawn().unwrap();
    told.recv().await.unwrap();
    broker.kill().await.unwrap();
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.unwrap().unwrap();
    let report = read(&output);
    assert_eq!(output.status.code(), Some(4), "{report}");
    assert!(report["lost"].is_string() && report["cut_short"] == false, "{report}");
    assert!(report["results"].as_u64().unwrap() > 0, "{report}");
    broker.remove().await.unwrap();
}

/// What an alarm keeps from being sent is no success, and what a frozen broker does
/// not take does not pile up here, however soon calls are given up.
#[tokio::test]
async fn a_broker_that_takes_nothing_is_told_and_fills_no_memory() {
    let broker = PrivateBroker::start().await.unwrap();
    let (url, queue) = (broker.amqp_url(), unique("bench"));
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let does = move |number| {
        if number == 20 {
            tell.send(()).unwrap();
        }
        Does::Echo
    };
    let _service = service(&url, &queue, does).await;
    let args = ["--rate", "100", "--duration", "5s", "--timeout", "1s", "-o", "json"];
    let child = bench(&url, &queue, &args).spawn().unwrap();
    told.recv().await.unwrap();
    broker.ctl(&["set_vm_memory_high_watermark", "0.00001"]).await.unwrap();
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.unwrap().unwrap();
    let report = read(&output);
    assert_eq!(output.status.code(), Some(3), "{report}");
    assert!(report["not_sent_blocked"].as_u64().unwrap() > 0, "{report}");
    assert_eq!(report["not_sent"], report["not_sent_blocked"], "{report}");
    assert_eq!(report["ok"], false);
    broker.ctl(&["set_vm_memory_high_watermark", "0.4"]).await.unwrap();

    const CALLS: u64 = 16;
    let args = ["--size", "1MiB", "--in-flight", "16", "--timeout", "50ms", "--duration", "4s"];
    let child = bench(&url, &queue, &args).spawn().unwrap();
    let pid = child.id().unwrap();
    // Into the warm-up, or what comes after it.
    tokio::time::sleep(Duration::from_millis(500)).await;
    broker.freeze().await.unwrap();
    let waiting = child.wait_with_output();
    tokio::pin!(waiting);
    let mut most = 0;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        tokio::select! {
            _ended = &mut waiting => break,
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
        }
        most = most.max(resident(pid));
    }
    broker.thaw().await.unwrap();
    // Calls that wait, calls that were given up, and what lapin and the system have of each.
    assert!(most < (8 * CALLS + 64) << 20, "{most} bytes");
    broker.remove().await.unwrap();
}

/// Resident memory of a process, in bytes.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
