//! Guests that misbehave on the release binary, among healthy calls.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::support::host::{Host, Options};
use crate::support::ledger::Load;
use crate::support::{broker, guests, unique};

/// Guests that take the whole time limit on purpose.
const SLOW: [&str; 7] = [
    "loop",
    "realloc-loop",
    "start-loop",
    "long-memory-fill",
    "post-return-loop",
    "misbehave-sleep",
    "misbehave-drip",
];

/// What `misbehave` does by method, and what must come of it. On a busy machine
/// time may be up before memory is.
const BEHAVIOURS: [(&str, &str); 16] = [
    ("panic", "trap"),
    ("abort", "trap"),
    ("exit-0", "trap"),
    ("exit-3", "trap"),
    ("recurse", "trap"),
    ("leak", "resource-exhausted | timeout"),
    // 50 MB in lines: as many as the time allows are counted, most of them dropped.
    ("stdout-flood", "ok | timeout"),
    ("stderr-flood", "ok | timeout"),
    ("stdout-no-newline", "ok"),
    ("files", "ok"),
    ("env", "ok"),
    ("network", "ok"),
    ("random-flood", "trap"),
    ("log-injection", "ok"),
    ("sleep", "timeout"),
    ("drip", "timeout"),
];

/// What `typed` does by method and argument, and what must come of it.
const TYPED: [(&str, &str, &str); 8] = [
    ("panic", "\"no\"", "trap"),
    ("grow", "100", "resource-exhausted | timeout"),
    ("zeros", "7000000", "resource-exhausted | timeout"),
    ("blob", "14000000", "resource-exhausted | timeout"),
    ("refuse", "100000", "resource-exhausted"),
    ("divide", "[1,0]", "application"),
    ("fib", "\"30\" ", "ok"),
    ("open", "\"/\"", "method-not-found"),
];

/// A plugin that does one bad thing, and what must come of it.
#[derive(Debug, Clone)]
struct Hostile {
    plugin: String,
    wasm: Vec<u8>,
    method: String,
    body: Vec<u8>,
    right: Vec<String>,
}

/// Each its own plugin, so that each has its own line, pool and file.
fn hostile() -> Vec<Hostile> {
    let wat = guests::all()
        .into_iter()
        .filter(|guest| !guest.expect.contains(&"refused-at-load".to_owned()))
        .map(|guest| Hostile {
            method: guest.name.clone(),
            plugin: guest.name,
            wasm: guest.wasm,
            body: guest.send.unwrap_or_else(|| "x".to_owned()).into_bytes(),
            right: guest.expect,
        });
    let own = |of: &str, method: &str, body: &str, status: &str| {
        let plugin = format!("{of}-{method}");
        Hostile {
            wasm: guests::named(&guests::built(of), &plugin),
            method: format!("{plugin}.{method}"),
            plugin,
            body: body.as_bytes().to_vec(),
            right: status.split(" | ").map(str::to_owned).collect(),
        }
    };
    let misbehave = BEHAVIOURS.iter().map(|(method, status)| own("misbehave", method, "x", status));
    let typed = TYPED.iter().map(|(method, body, status)| own("typed", method, body, status));
    wat.chain(misbehave).chain(typed).collect()
}

/// Calls of each misbehaving method. The slow ones hold a slot for their whole
/// time limit, so they are fewer in the short run.
fn rounds() -> u64 {
    std::env::var("RPCHOST_TEST_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20)
}

#[tokio::test(flavor = "multi_thread")]
async fn misbehaving_plugins_are_answered_and_healthy_calls_are_unharmed() {
    let broker = broker::shared().await;
    let queue = unique("hostile");
    let hostile = hostile();
    assert!(hostile.len() >= 60, "{} hostile plugins", hostile.len());
    let plugins: Vec<(&str, &[u8])> =
        hostile.iter().map(|guest| (guest.plugin.as_str(), guest.wasm.as_slice())).collect();
    let options = Options::new(&broker.amqp_url(), &queue).args(&["--call-timeout", "250ms"]);
    let mut host = Host::start(&options, &plugins);

    // In turn: one healthy call, one call that misbehaves.
    let quick: Vec<Hostile> =
        hostile.iter().filter(|guest| !SLOW.contains(&guest.plugin.as_str())).cloned().collect();
    let rounds = rounds();
    // In the long run every method is called as often as any other; loops take
    // a core each, so the rate has to be lower then.
    let (rate, slow_every) = if rounds >= 100 { (150, 1) } else { (400, 4) };
    let total = rounds * hostile.len() as u64 * 2;
    let load = {
        let (hostile, quick) = (hostile.clone(), quick);
        Load::start(&broker.amqp_url(), &queue, rate, move |number| {
            if number % 2 == 0 {
                return ("hello".to_owned(), b"healthy".to_vec());
            }
            let turn = usize::try_from(number / 2).unwrap();
            let has_slow = (turn / hostile.len()).is_multiple_of(slow_every);
            let guests = if has_slow { &hostile } else { &quick };
            let guest = &guests[turn % guests.len()];
            (guest.method.clone(), guest.body.clone())
        })
        .await
    };
    let patience = Duration::from_secs(180 + 3 * total / u64::from(rate));
    crate::support::until("a part of the calls", patience, || async {
        load.ledger.confirmed() as u64 >= total / 4
    })
    .await;
    let early = host.resident();
    crate::support::until("enough calls", patience, || async {
        load.ledger.confirmed() as u64 >= total
    })
    .await;
    let ledger = load.finish(Duration::from_secs(60)).await;

    assert!(host.is_running());
    assert_eq!(ledger.lost(), 0);
    assert_eq!(ledger.duplicates(), 0, "nothing failed, so nothing is answered twice");
    assert_eq!(ledger.unexpected(), Vec::<String>::new());
    let mut shown = HashSet::new();
    let expected: HashMap<&str, &[String]> =
        hostile.iter().map(|guest| (guest.method.as_str(), guest.right.as_slice())).collect();
    for entry in ledger.entries().values().filter(|entry| !entry.answers.is_empty()) {
        let answer = &entry.answers[0];
        if entry.method == "hello" && entry.body == b"healthy" {
            assert_eq!((answer.status.as_str(), answer.body.as_slice()), ("ok", &b"hello"[..]));
            continue;
        }
        let right = expected[entry.method.as_str()];
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
    let mut never: Vec<&str> = expected.keys().copied().collect();
    never.retain(|name| !shown.contains(*name));
    assert!(never.is_empty(), "never called: {never:?}");
    // All instances are gone; what the pool keeps for the next is bounded.
    let late = host.resident();
    eprintln!(
        "{} hostile plugins; resident: {} MiB early, {} MiB after it",
        hostile.len(),
        early >> 20,
        late >> 20
    );
    assert!(late < early + (64 << 20), "memory grew from {early} to {late} bytes");
    assert!(late < 700 << 20, "{late} bytes resident");
    assert_eq!(host.get("/readyz").0, 200);
    // Guests panic, and say so in lines of their own.
    let log = host.log();
    let ours = |line: &&str| !line.contains(" guest{") && !line.contains(" trap{");
    let panicked: Vec<&str> =
        log.lines().filter(ours).filter(|line| line.contains("panicked")).collect();
    assert!(panicked.is_empty(), "{panicked:?}");
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
