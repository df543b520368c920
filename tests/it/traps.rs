//! What a trap shows: to its caller, and to the operator who reads the log.

use std::time::{Duration, Instant};

use lapin::message::Delivery;
use lapin::{BasicProperties, Channel};
use serde_json::Value;

use crate::support::host::{Host, Options};
use crate::support::ledger::{self, header};
use crate::support::{broker, guests, unique, until};

/// A host with one plugin, and a way to call it.
struct Case {
    host: Host,
    queue: String,
    channel: Channel,
    _connection: lapin::Connection,
}

impl Case {
    async fn start(name: &str, plugins: &[(&str, &[u8])], args: &[&str]) -> Self {
        let broker = broker::shared().await;
        let queue = unique(name);
        let host = Host::start(&Options::new(&broker.amqp_url(), &queue).args(args), plugins);
        let connection = broker::connect(&broker.amqp_url()).await;
        let channel = connection.create_channel().await.unwrap();
        Self { host, queue, channel, _connection: connection }
    }

    async fn call(&self, method: &str, correlation_id: &str) -> Delivery {
        let asked = BasicProperties::default()
            .with_type(method.into())
            .with_correlation_id(correlation_id.into());
        ledger::call(&self.channel, &self.queue, asked, b"x").await
    }

    /// The `data` of a trap's error.
    async fn trap(&self, method: &str, correlation_id: &str) -> Value {
        let answer = self.call(method, correlation_id).await;
        assert_eq!(header(&answer, "rpchost-status").as_deref(), Some("trap"));
        let mut body: Value = serde_json::from_slice(&answer.data).unwrap();
        assert!(answer.data.len() < 4096, "{body:#}");
        body["error"]["data"].take()
    }

    /// The lines of a report, once they are all there.
    async fn report(&self, id: &Value, last: &str) -> Vec<String> {
        let id = format!("trap{{id={}}}", id.as_str().unwrap());
        until("the report", Duration::from_secs(30), || async {
            self.host.log().lines().any(|line| line.contains(&id) && line.contains(last))
        })
        .await;
        let log = self.host.log();
        log.lines().filter(|line| line.contains(&id)).map(str::to_owned).collect()
    }
}

fn contains(lines: &[String], parts: &[&str]) -> bool {
    lines.iter().any(|line| parts.iter().all(|part| line.contains(part)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_is_told_in_short_to_the_caller_and_in_full_to_the_log() {
    let guest = guests::built("misbehave-lines");
    let case = Case::start("lines", &[("misbehave", &guest)], &[]).await;
    let data = case.trap("misbehave.panic", "call-17").await;

    assert_eq!(data["trap"], "unreachable");
    let id = data["id"].as_str().unwrap();
    assert!(id.len() == 8 && id.bytes().all(|digit| digit.is_ascii_hexdigit()), "{id}");
    let stack: Vec<_> = data["stack"].as_array().unwrap().iter().map(Value::to_string).collect();
    assert!(contains(&stack, &["misbehave", "Guest>::handle"]), "{stack:?}");
    assert!(!contains(&stack, &[".rs"]), "functions only: {stack:?}");
    assert!(!contains(&stack, &["panicking"]), "without what every panic begins with: {stack:?}");
    let said: Vec<_> = data["stderr"].as_array().unwrap().iter().map(Value::to_string).collect();
    assert!(contains(&said, &["the guest panics on purpose"]), "{said:?}");

    let report = case.report(&data["id"], "stderr: the guest panics on purpose").await;
    assert!(contains(&report, &["WARN", "`misbehave` trapped", "call-17", "misbehave.panic"]));
    assert!(contains(&report, &["misbehave", "Guest>::handle at ", "src/lib.rs:"]), "{report:#?}");
    assert!(contains(&report, &["panicking"]), "the log has it whole: {report:#?}");

    assert!(contains(&report, &[" at library/core/src/panicking.rs:"]), "{report:#?}");

    // The same place again is the same id, and in the log already.
    let again = case.trap("misbehave.panic", "call-18").await;
    assert_eq!(again["id"], data["id"]);
    let other = case.trap("misbehave.recurse", "call-19").await;
    assert_ne!(other["id"], data["id"]);
    let report = case.report(&other["id"], "more of the same").await;
    assert!(report.len() < 10, "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_without_debug_information_is_reported_by_functions() {
    let guest = guests::guest("unreachable").wasm;
    let case = Case::start("no-lines", &[("unreachable", &guest)], &[]).await;
    let data = case.trap("unreachable", "call-1").await;
    assert_eq!(data["stack"], serde_json::json!(["inner", "outer", "handle"]));
    assert_eq!(data.get("stderr"), None);
    let report = case.report(&data["id"], "no source lines").await;
    for function in [" 0 inner", " 1 outer", " 2 handle"] {
        assert!(contains(&report, &[function]), "{report:#?}");
    }
    assert!(contains(&report, &["the file carries no debug information"]), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_traps_a_thousand_times_is_reported_once() {
    let guest = guests::built("misbehave-lines");
    let case = Case::start("often", &[("misbehave", &guest)], &[]).await;
    let first = case.trap("misbehave.panic", "first").await;
    case.report(&first["id"], "stderr: the guest panics on purpose").await;
    let before = case.host.log().len();
    let asked = || BasicProperties::default().with_type("misbehave.panic".into());
    for _ in 0..1000 {
        let options = lapin::options::BasicPublishOptions::default();
        let (queue, body) = (case.queue.as_str(), &b"x"[..]);
        let publish = case.channel.basic_publish("".into(), queue.into(), options, body, asked());
        publish.await.unwrap();
    }
    // A plugin that keeps failing rests, so not all of them trap.
    let answered = "rpchost_settlements_total{settlement=\"ack\"}";
    until("the calls", Duration::from_secs(30), || async { case.host.metric(answered) >= 1001.0 })
        .await;
    // What the guest itself writes is limited as its log, not here.
    let log = case.host.log().split_off(before);
    let reports = log.lines().filter(|line| line.contains(" WARN trap{")).count();
    assert_eq!(reports, 0, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn debug_information_that_harms_its_reader_harms_nobody_else() {
    let mut corrupt = guests::built("misbehave-lines");
    for at in
        positions(&corrupt, b".debug_line").into_iter().chain(positions(&corrupt, b".debug_info"))
    {
        for (offset, byte) in corrupt[at + 11..].iter_mut().take(2000).enumerate() {
            *byte = byte.wrapping_mul(31).wrapping_add(offset as u8);
        }
    }
    let nested = {
        let mut info = unit(&[]);
        // Ten million functions, each inlined into the one before.
        info.resize(info.len() + 10_000_000, 3);
        guests::with_sections(
            "unreachable",
            &[
                (".debug_abbrev", ABBREVIATIONS),
                (".debug_info", &sized(info)),
                (".debug_line", b""),
            ],
        )
    };
    let endless = {
        let mut program = LINE_HEADER.to_vec();
        // Fifty million rows of 24 bytes, one of a byte each.
        program.resize(program.len() + 50_000_000, 0x20);
        program.extend([0, 1, 1]);
        guests::with_sections(
            "unreachable",
            &[
                (".debug_abbrev", ABBREVIATIONS),
                (".debug_info", &sized(unit(&[0]))),
                (".debug_line", &sized(program)),
            ],
        )
    };
    let hello = guests::guest("hello").wasm;
    let plugins: [(&str, &[u8]); 4] =
        [("corrupt", &corrupt), ("nested", &nested), ("endless", &endless), ("hello", &hello)];
    let mut case = Case::start("harmful", &plugins, &[]).await;
    for (method, last) in [
        ("corrupt.panic", "stderr: the guest panics on purpose"),
        ("nested", "no source lines: the file's debug information cannot be read"),
        ("endless", "no source lines: "),
    ] {
        let begun = Instant::now();
        let data = case.trap(method, "call-1").await;
        assert!(begun.elapsed() < Duration::from_secs(5), "no caller waits for lines");
        let report = case.report(&data["id"], last).await;
        assert!(contains(&report, &["trapped"]), "{report:#?}");
        // And again: what harmed once is not read again.
        case.trap(method, "call-2").await;
        let healthy = case.call("hello", "call-3").await;
        assert_eq!(header(&healthy, "rpchost-status").as_deref(), Some("ok"));
    }
    assert!(case.host.is_running());
    assert!(!case.host.log().contains("panicked at host"), "{}", case.host.log());
}

fn positions(bytes: &[u8], part: &[u8]) -> Vec<usize> {
    let windows = bytes.windows(part.len()).enumerate();
    windows.filter(|(_, window)| *window == part).map(|(at, _)| at).collect()
}

/// 1: a unit with its addresses; 2: a function with them; 3: an inlined
/// function with nothing; 4: a unit with lines. All but the last have children.
const ABBREVIATIONS: &[u8] = &[
    1, 0x11, 1, 0x11, 0x01, 0x12, 0x06, 0, 0, 2, 0x2e, 1, 0x11, 0x01, 0x12, 0x06, 0, 0, 3, 0x1d, 1,
    0, 0, 4, 0x11, 0, 0x11, 0x01, 0x12, 0x06, 0x10, 0x17, 0, 0, 0,
];

/// The beginning of a unit of DWARF 4 around all code: with a function that is
/// still open, or with its lines and nothing else.
fn unit(lines: &[u32]) -> Vec<u8> {
    const ALL: [u8; 8] = [0, 0, 0, 0, 0xff, 0xff, 0xff, 0];
    let mut unit = vec![4, 0, 0, 0, 0, 0, 4];
    match lines.first() {
        None => {
            unit.push(1);
            unit.extend(ALL);
            unit.push(2);
            unit.extend(ALL);
        }
        Some(lines) => {
            unit.push(4);
            unit.extend(ALL);
            unit.extend(lines.to_le_bytes());
        }
    }
    unit
}

/// A line program of DWARF 4 with one file, at address 0.
const LINE_HEADER: &[u8] = &[
    4, 0, 28, 0, 0, 0, 1, 1, 1, 0xfb, 14, 13, 0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1, 0, b'a', b'.',
    b'r', b's', 0, 0, 0, 0, 0, 0, 5, 2, 0, 0, 0, 0,
];

/// With its length in front.
fn sized(contents: Vec<u8>) -> Vec<u8> {
    let mut sized = (contents.len() as u32).to_le_bytes().to_vec();
    sized.extend(contents);
    sized
}
