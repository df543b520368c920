//! What is left after thousands of swaps, and what many plugins cost.
//!
//! Figures are printed (`--nocapture`). In `tests/soak.sh` they are held to the
//! project's bars too; beside other tests on a busy machine they would not say much.

use std::time::{Duration, Instant};

use lapin::BasicProperties;

use crate::support::host::{Host, Options};
use crate::support::ledger::{Ledger, Load, call};
use crate::support::{broker, guests, unique, until};

/// Versions that are swapped for each other, so that most swaps compile
/// nothing and there can be many.
const VERSIONS: u32 = 8;

/// Whether the machine is ours alone, so that times say something.
fn strict() -> bool {
    std::env::var_os("RPCHOST_TEST_STRICT").is_some()
}

fn number(variable: &str, unless: u32) -> u32 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(unless)
}

/// The version with this number, and the body it answers with.
fn version(number: u32) -> (String, Vec<u8>) {
    let mark = format!("v-{number:010}");
    let wasm = guests::version(&mark);
    (mark, wasm)
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_swaps_leave_nothing_behind() {
    let broker = broker::shared().await;
    let queue = unique("swaps");
    let (_, first) = version(0);
    let host = Host::start(&Options::new(&broker.amqp_url(), &queue), &[("version", &first)]);
    let connection = broker::connect(&broker.amqp_url()).await;
    let channel = connection.create_channel().await.unwrap();
    let versions: Vec<_> = (0..VERSIONS).map(version).collect();
    let swaps = number("RPCHOST_TEST_QUICK_SWAPS", 300);
    let mut early = None;
    let begun = Instant::now();
    for swap in 1..=swaps {
        let (mark, wasm) = &versions[(swap % VERSIONS) as usize];
        host.put("version", wasm);
        until("the new version", Duration::from_secs(20), || async {
            let asked = BasicProperties::default().with_type("version".into());
            call(&channel, &queue, asked, b"").await.data == mark.as_bytes()
        })
        .await;
        // A slot of the pool keeps the mappings of what it ran last, so there
        // are more until each has had its turn.
        if swap == swaps / 2 {
            early = Some((host.held(), host.resident()));
        }
    }
    let ((descriptors, mappings), resident) = early.expect("enough swaps");
    let ((descriptors_now, mappings_now), resident_now) = (host.held(), host.resident());
    eprintln!(
        "{swaps} swaps in {:?}: descriptors {descriptors} → {descriptors_now}, mappings \
         {mappings} → {mappings_now}, resident {} → {} KiB",
        begun.elapsed(),
        resident >> 10,
        resident_now >> 10,
    );
    // A few come and go with connections, threads and the allocator's arenas;
    // one for each swap would be hundreds.
    assert!(descriptors_now <= descriptors + 8, "{descriptors} → {descriptors_now} descriptors");
    assert!(mappings_now <= mappings + 64, "{mappings} → {mappings_now} mappings");
    assert!(resident_now <= resident + (24 << 20), "{resident} → {resident_now} bytes");
}

/// Calls of `method`, in the order of their times: the median and the 99th of a
/// hundred.
fn times(ledger: &Ledger, method: &str) -> (Duration, Duration) {
    let mut times: Vec<Duration> = (ledger.entries().values())
        .filter(|entry| entry.method == method)
        .filter_map(|entry| Some(entry.answers.first()?.at - entry.sent))
        .collect();
    times.sort();
    assert!(times.len() > 200, "{} calls of `{method}`", times.len());
    (times[times.len() / 2], times[times.len() * 99 / 100])
}

#[tokio::test(flavor = "multi_thread")]
async fn others_are_answered_soon_while_four_plugins_burn() {
    const SECONDS: u64 = 5;
    let broker = broker::shared().await;
    let queue = unique("burn");
    let burning = guests::guest("loop").wasm;
    let burners = ["burn-a", "burn-b", "burn-c", "burn-d"];
    let copies = burners.map(|name| guests::named(&burning, name));
    let hello = guests::guest("hello").wasm;
    let mut plugins: Vec<(&str, &[u8])> = vec![("hello", &hello)];
    plugins.extend(burners.iter().zip(&copies).map(|(name, wasm)| (*name, wasm.as_slice())));
    let options = Options::new(&broker.amqp_url(), &queue).args(&["--call-timeout", "2s"]);
    let host = Host::start(&options, &plugins);
    let url = broker.amqp_url();
    let healthy = || Load::start(&url, &queue, 200, |_| ("hello".to_owned(), Vec::new()));

    let alone = healthy().await;
    tokio::time::sleep(Duration::from_secs(SECONDS)).await;
    let alone = alone.finish(Duration::from_secs(20)).await;

    // Four every two seconds, and each takes that long: they always burn.
    let burn = Load::start(&broker.amqp_url(), &queue, 2, move |number| {
        (burners[usize::try_from(number).unwrap() % burners.len()].to_owned(), Vec::new())
    })
    .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let beside = healthy().await;
    tokio::time::sleep(Duration::from_secs(SECONDS)).await;
    let beside = beside.finish(Duration::from_secs(20)).await;
    let burnt = burn.finish(Duration::from_secs(20)).await;

    let (median, p99) = times(&alone, "hello");
    let (median_beside, p99_beside) = times(&beside, "hello");
    eprintln!(
        "alone: median {median:?}, p99 {p99:?}; while four burn: median {median_beside:?}, p99 \
         {p99_beside:?}"
    );
    let is = |ledger: &Ledger, status: &str| {
        ledger.count(|entry| entry.answers.iter().all(|answer| answer.status == status))
    };
    assert_eq!(is(&alone, "ok"), alone.entries().len());
    assert_eq!(is(&beside, "ok"), beside.entries().len());
    assert_eq!(is(&burnt, "timeout"), burnt.entries().len());
    let most = if strict() { Duration::from_millis(25) } else { Duration::from_secs(1) };
    assert!(p99_beside < p99 + most, "{p99:?} → {p99_beside:?}");
    drop(host);
}

/// Ninety-nine small plugins, none like another.
fn small() -> Vec<(String, Vec<u8>)> {
    let kinds = ["fib", "echo", "typed"];
    let built = kinds.map(guests::built);
    (0..99)
        .map(|number| {
            let name = format!("{}-{number}", kinds[number % kinds.len()]);
            let wasm = guests::named(&built[number % kinds.len()], &name);
            (name, wasm)
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_plugins_are_ready_soon_and_small_while_nobody_calls_them() {
    let broker = broker::shared().await;
    let queue = unique("hundred");
    // Kept between runs: compiling them all takes half a minute.
    let state = guests::root().join("target/tmp/endurance");
    std::fs::create_dir_all(&state).unwrap();
    std::fs::set_permissions(&state, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let options = Options::new(&broker.amqp_url(), &queue).state(&state);
    let small = small();
    let python = guests::built("python");
    let few: Vec<(&str, &[u8])> =
        small.iter().map(|(name, wasm)| (name.as_str(), wasm.as_slice())).collect();
    let mut all = few.clone();
    all.push(("python", &python));

    // Cold or warm, whatever is there; then surely warm.
    drop(Host::start(&options, &all));
    let empty = Host::start(&options, &[]);
    let (without, begin) = (empty.resident(), empty.cpu());
    drop(empty);
    let host = Host::start(&options, &few);
    let with_small = host.resident();
    drop(host);
    let host = Host::start(&options, &all);
    let (cpu, with_python) = (host.cpu(), host.resident());
    assert!(host.metric("rpchost_plugins") >= 100.0);
    let each = with_small.saturating_sub(without) / small.len() as u64;
    eprintln!(
        "ready with 100 plugins after {cpu:?} of processor time, of which {begin:?} without any; \
         resident {} MiB, a small plugin {} KiB, one of Python {} MiB",
        with_python >> 20,
        each >> 10,
        with_python.saturating_sub(with_small) >> 20,
    );
    let most = Duration::from_secs(if strict() { 1 } else { 4 });
    assert!(cpu < most, "ready after {cpu:?} of processor time");
    assert!(each < 1 << 20, "{each} bytes for an idle plugin");

    let connection = broker::connect(&broker.amqp_url()).await;
    let channel = connection.create_channel().await.unwrap();
    let asked = BasicProperties::default().with_type("python.fib".into());
    assert_eq!(call(&channel, &queue, asked, b"30").await.data, b"832040");
}
