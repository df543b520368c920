//! Guests that misbehave on the release binary, among healthy calls.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::support::host::{Host, Options};
use crate::support::ledger::Load;
use crate::support::{broker, guests, unique};

/// Guests that cannot be called, or take the whole time limit on purpose.
const SLOW: [&str; 5] =
    ["loop", "realloc-loop", "start-loop", "long-memory-fill", "post-return-loop"];

/// What `misbehave` does by method, and what must come of it.
const BEHAVIOURS: [(&str, &str); 14] = [
    ("panic", "trap"),
    ("abort", "trap"),
    ("exit-0", "trap"),
    ("exit-3", "trap"),
    ("recurse", "trap"),
    ("stdout-flood", "ok"),
    ("stderr-flood", "ok"),
    ("stdout-no-newline", "ok"),
    ("files", "ok"),
    ("env", "ok"),
    ("network", "ok"),
    ("random-flood", "trap"),
    ("log-injection", "ok"),
    ("sleep", "timeout"),
];

/// Calls of each misbehaving method. The slow ones hold a slot for their whole
/// time limit, so they are fewer in the short run.
fn rounds() -> u64 {
    std::env::var("RPCHOST_TEST_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20)
}

#[tokio::test(flavor = "multi_thread")]
async fn misbehaving_plugins_are_answered_and_healthy_calls_are_unharmed() {
    let broker = broker::shared().await;
    let queue = unique("hostile");
    let guests: Vec<_> = guests::all()
        .into_iter()
        .filter(|guest| !guest.expect.contains(&"refused-at-load".to_owned()))
        // Those that are particular about the body get another one here.
        .filter(|guest| guest.send.is_none())
        .collect();
    let misbehave = guests::built("misbehave");
    let mut plugins: Vec<(&str, &[u8])> =
        guests.iter().map(|guest| (guest.name.as_str(), guest.wasm.as_slice())).collect();
    plugins.push(("misbehave", &misbehave));
    let options = Options::new(&broker.amqp_url(), &queue).args(&["--call-timeout", "250ms"]);
    let mut host = Host::start(&options, &plugins);

    // In turn: one healthy call, one call that misbehaves.
    let mut expected: HashMap<String, Vec<String>> =
        guests.iter().map(|guest| (guest.name.clone(), guest.expect.clone())).collect();
    for (behaviour, status) in BEHAVIOURS {
        expected.insert(format!("misbehave.{behaviour}"), vec![status.to_owned()]);
    }
    let mut methods: Vec<String> = expected.keys().cloned().collect();
    methods.sort();
    assert!(methods.len() >= 25, "{methods:?}");
    let quick: Vec<String> =
        methods.iter().filter(|name| !SLOW.contains(&name.as_str())).cloned().collect();
    let rounds = rounds();
    // In the long run every method is called as often as any other; loops take
    // a core each, so the rate has to be lower then.
    let (rate, slow_every) = if rounds >= 100 { (150, 1) } else { (400, 4) };
    let total = rounds * methods.len() as u64 * 2;
    let load = {
        let (methods, quick) = (methods.clone(), quick);
        Load::start(&broker.amqp_url(), &queue, rate, move |number| {
            if number % 2 == 0 {
                return ("hello".to_owned(), b"healthy".to_vec());
            }
            let turn = usize::try_from(number / 2).unwrap();
            let has_slow = (turn / methods.len()).is_multiple_of(slow_every);
            let names = if has_slow { &methods } else { &quick };
            (names[turn % names.len()].clone(), b"x".to_vec())
        })
        .await
    };
    crate::support::until("enough calls", Duration::from_secs(240), || async {
        load.ledger.confirmed() as u64 >= total
    })
    .await;
    let early = host.resident();
    let ledger = load.finish(Duration::from_secs(60)).await;

    assert!(host.is_running());
    assert_eq!(ledger.lost(), 0);
    assert_eq!(ledger.duplicates(), 0, "nothing failed, so nothing is answered twice");
    assert_eq!(ledger.unexpected(), Vec::<String>::new());
    let mut shown = HashSet::new();
    for entry in ledger.entries().values().filter(|entry| !entry.answers.is_empty()) {
        let answer = &entry.answers[0];
        if entry.method == "hello" && entry.body == b"healthy" {
            assert_eq!((answer.status.as_str(), answer.body.as_slice()), ("ok", &b"hello"[..]));
            continue;
        }
        let right = &expected[&entry.method];
        if right.contains(&answer.status) {
            shown.insert(entry.method.clone());
        }
        // Whoever keeps failing is not called for a while.
        assert!(
            right.contains(&answer.status) || answer.status == "circuit-open",
            "{}: {} instead of {right:?}: {}",
            entry.method,
            answer.status,
            String::from_utf8_lossy(&answer.body).chars().take(300).collect::<String>()
        );
    }
    let never: Vec<&String> = methods.iter().filter(|name| !shown.contains(*name)).collect();
    assert!(never.is_empty(), "never called: {never:?}");
    // All instances are gone; what the pool keeps for the next is bounded.
    let late = host.resident();
    eprintln!("resident: {} MiB under load, {} MiB after it", early >> 20, late >> 20);
    assert!(late < early + (64 << 20), "memory grew from {early} to {late} bytes");
    assert!(late < 700 << 20, "{late} bytes resident");
    assert_eq!(host.get("/readyz").0, 200);
    assert!(!host.log().contains("panicked"), "{}", host.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_guest_prints_cannot_forge_a_line_of_the_log() {
    let broker = broker::shared().await;
    let queue = unique("forge");
    let misbehave = guests::built("misbehave");
    let options =
        Options::new(&broker.amqp_url(), &queue).args(&["--log-level", "info,guest=debug"]);
    let host = Host::start(&options, &[("misbehave", &misbehave)]);
    let connection = broker::connect(&broker.amqp_url()).await;
    let channel = connection.create_channel().await.unwrap();
    let asked = lapin::BasicProperties::default().with_type("misbehave.log-injection".into());
    crate::support::ledger::call(&channel, &queue, asked, b"x").await;
    crate::support::until("the guest's lines", Duration::from_secs(5), || async {
        host.log().contains("stderr")
    })
    .await;
    let log = host.log();
    assert!(!log.contains('\u{1b}'), "an escape character reached the log");
    for line in log.lines() {
        assert!(line.starts_with("20"), "a line that is not ours: {line:?}");
    }
}
