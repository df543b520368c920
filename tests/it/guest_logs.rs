//! What guests write, as an operator finds it in the log.

use std::time::Duration;

use lapin::BasicProperties;
use rustix::process::Signal;
use serde_json::Value;

use crate::support::host::{Host, Options};
use crate::support::{broker, guests, ledger, unique, until};

/// Calls methods one after the other on a host with these plugins, and returns
/// it when its log says `done`.
async fn logged(
    plugins: &[(&str, &[u8])],
    args: &[&str],
    methods: &[&str],
    done: &str,
) -> (Host, String) {
    let broker = broker::shared().await;
    let queue = unique("guest-logs");
    let host = Host::start(&Options::new(&broker.amqp_url(), &queue).args(args), plugins);
    let connection = broker::connect(&broker.amqp_url()).await;
    let channel = connection.create_channel().await.unwrap();
    for method in methods {
        let asked = BasicProperties::default()
            .with_type((*method).into())
            .with_correlation_id(format!("for {method}").into());
        ledger::call(&channel, &queue, asked, b"a secret of the caller").await;
    }
    until(done, Duration::from_secs(10), || async { host.log().contains(done) }).await;
    let log = host.log();
    assert!(!log.contains("a secret"), "{log}");
    (host, log)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_says_whose_it_is_and_nothing_it_holds_can_say_so_too() {
    let guest = guests::built("misbehave");
    let last = "line separator";
    let (_host, log) =
        logged(&[("misbehave", &guest)], &[], &["misbehave.log-injection"], last).await;
    let prefix =
        "guest{plugin=misbehave method=misbehave.log-injection correlation_id=\"for misbehave";
    let lines: Vec<_> = log.lines().filter(|line| line.contains(prefix)).collect();
    assert!(lines.len() >= 9, "{log}");
    assert!(lines.iter().all(|line| line.contains(" INFO ")), "{log}");
    for line in log.lines() {
        assert!(line.starts_with("20"), "a line that is not ours: {line:?}");
        let controls = line.chars().filter(|c| c.is_control() || *c == '\u{202e}').count();
        assert_eq!(controls, 0, "{line:?}");
        // Whatever a guest says about itself, the host said first whose it is.
        if line.contains("forged") {
            assert!(line.find("guest{").unwrap() < line.find("forged").unwrap(), "{line}");
        }
    }
    assert!(log.contains("\\u{1b}[31mred"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_is_an_object_where_the_log_is_json() {
    let guest = guests::built("misbehave");
    let (_host, log) = logged(
        &[("misbehave", &guest)],
        &["--log-format", "json"],
        &["misbehave.log-injection"],
        "line separator",
    )
    .await;
    let events: Vec<Value> =
        log.lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
    let of_guest: Vec<_> = events.iter().filter(|event| event["target"] == "guest").collect();
    let find = |text: &str| {
        let has = |event: &&&Value| event["fields"]["message"].as_str().unwrap().contains(text);
        *of_guest.iter().find(has).unwrap_or_else(|| panic!("{text}: {log}"))
    };
    let red = find("[31mred");
    assert_eq!(red["level"], "INFO");
    assert_eq!(red["fields"]["from"], "stderr");
    assert_eq!(red["span"]["plugin"], "misbehave");
    assert_eq!(red["span"]["method"], "misbehave.log-injection");
    assert_eq!(red["span"]["correlation_id"], "for misbehave.log-injection");
    assert!(!red["fields"]["message"].as_str().unwrap().contains('\u{1b}'));
    assert_eq!(find("rpchost ready")["fields"]["from"], "stdout");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_levels_of_wasi_logging_are_those_of_the_log() {
    let guests = ["logger", "logger-unversioned"].map(|name| (name, guests::guest(name).wasm));
    let plugins: Vec<_> = guests.iter().map(|(name, wasm)| (*name, wasm.as_slice())).collect();
    let methods = ["logger", "logger-unversioned"];
    for (level, shown) in [
        ("info,guest=trace", &["TRACE", "DEBUG", " INFO", " WARN", "ERROR"][..]),
        ("info", &[" INFO", " WARN", "ERROR"]),
        ("warn", &[" WARN", "ERROR"]),
    ] {
        let done = "plugin=logger-unversioned";
        let (_host, log) = logged(&plugins, &["--log-level", level], &methods, done).await;
        for name in methods {
            let whose = format!("guest{{plugin={name} ");
            let lines: Vec<_> = log
                .lines()
                .filter(|line| line.contains(&whose) && line.contains("a guest says so"))
                .collect();
            // `critical` is an error too.
            assert_eq!(lines.len(), shown.len() + 1, "{log}");
            for level in shown {
                assert!(lines.iter().any(|line| line.contains(level)), "{level}: {log}");
            }
            assert!(lines.iter().all(|line| line.contains("from=orders")), "{log}");
            assert!(log.contains("\\u{1b}[31mred") && log.contains("and a second line"), "{log}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_cut_counted_and_said_once() {
    let guest = guests::built("misbehave");
    let methods =
        ["misbehave.stdout-no-newline", "misbehave.stdout-flood", "misbehave.stderr-flood"];
    let complaint = "`misbehave` writes more than 100 lines a second to the log";
    let (host, log) = logged(&[("misbehave", &guest)], &[], &methods, complaint).await;
    assert_eq!(log.matches(complaint).count(), 1, "{}", log.len());
    // A burst of a thousand lines, and those of some seconds.
    let lines = log.matches("the quick brown fox").count();
    assert!((1_000..3_000).contains(&lines), "{lines} lines");
    // One line without an end: its first 4 KiB, and how much more there was.
    let endless = log.lines().find(|line| line.contains(&"x".repeat(4096))).expect("the line");
    assert!(endless.contains("more bytes)") && endless.len() < 5_000, "{} bytes", endless.len());
    let dropped = host.metric("rpchost_guest_log_lines_dropped_total{plugin=\"misbehave\"}");
    assert!(dropped > 1_000_000.0, "{dropped}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_log_nobody_takes_serves_and_stops_as_ever() {
    let broker = broker::shared().await;
    let queue = unique("unheard");
    let options = Options::new(&broker.amqp_url(), &queue).unheard();
    let (guest, hello) = (guests::built("misbehave"), guests::guest("hello").wasm);
    let mut host = Host::start(&options, &[("misbehave", &guest)]);
    let connection = broker::connect(&broker.amqp_url()).await;
    let channel = connection.create_channel().await.unwrap();
    for _ in 0..3 {
        let asked = BasicProperties::default().with_type("misbehave.log-injection".into());
        let reply = ledger::call(&channel, &queue, asked, b"").await;
        assert_eq!(ledger::header(&reply, "rpchost-status").as_deref(), Some("ok"));
    }
    // The host has something to say itself.
    host.put("hello", &hello);
    until("the new plugin", Duration::from_secs(10), || async {
        let asked = BasicProperties::default().with_type("hello".into());
        ledger::call(&channel, &queue, asked, b"").await.data == b"hello"
    })
    .await;
    assert_eq!(host.metric("rpchost_panics_total"), 0.0);
    host.signal(Signal::TERM);
    assert_eq!(host.ended(Duration::from_secs(20)).await.code(), Some(0));
}
