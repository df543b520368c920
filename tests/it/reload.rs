//! Plugins that come, change and go, under load.

use std::collections::HashSet;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use lapin::BasicProperties;
use sha2::{Digest as _, Sha256};

use crate::support::host::{Host, Options};
use crate::support::ledger::{Load, call};
use crate::support::{broker, guests, unique, until};

fn digest(wasm: &[u8]) -> String {
    Sha256::digest(wasm).iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

/// The version with this number, and the body it answers with.
fn version(number: u32) -> (String, Vec<u8>) {
    let mark = format!("v-{number:010}");
    let wasm = guests::version(&mark);
    (mark, wasm)
}

/// What `method` answers now: its status and body.
async fn ask(channel: &lapin::Channel, queue: &str, method: &str) -> (String, String) {
    let reply =
        call(channel, queue, BasicProperties::default().with_type(method.into()), b"").await;
    let status = crate::support::ledger::header(&reply, "rpchost-status").unwrap_or_default();
    (status, String::from_utf8_lossy(&reply.data).into_owned())
}

/// Swaps of the long run; the short one does a quarter.
fn swaps() -> u32 {
    std::env::var("RPCHOST_TEST_SWAPS").ok().and_then(|text| text.parse().ok()).unwrap_or(25)
}

/// Overwrites a file in place, slowly.
async fn copy_slowly(path: &Path, bytes: &[u8]) {
    let mut file = fs::File::create(path).unwrap();
    for chunk in bytes.chunks(bytes.len() / 5 + 1) {
        file.write_all(chunk).unwrap();
        file.flush().unwrap();
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn swaps_under_load_fail_no_call_and_every_answer_is_of_one_version() {
    let broker = broker::shared().await;
    let queue = unique("swap");
    let (first, wasm) = version(0);
    let host = Host::start(&Options::new(&broker.amqp_url(), &queue), &[("version", &wasm)]);
    let load =
        Load::start(&broker.amqp_url(), &queue, 500, |_| ("version".to_owned(), Vec::new())).await;
    let swaps = swaps();
    let mut last = first;
    for number in 1..=swaps {
        let (mark, wasm) = version(number);
        let path = host.plugins().join("version.wasm");
        match number % 5 {
            // Every fifth is broken: cut short, or not what it should be.
            0 => {
                let broken = if number % 2 == 0 { &wasm[..wasm.len() / 2] } else { b"not wasm" };
                host.put("version", broken);
                tokio::time::sleep(Duration::from_millis(300)).await;
                continue;
            }
            1 | 3 => host.put("version", &wasm),
            _ => copy_slowly(&path, &wasm).await,
        }
        last = mark;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    // A broken file may be the newest on disk; the last good one serves.
    let connection = broker::connect(&broker.amqp_url()).await;
    let channel = connection.create_channel().await.unwrap();
    until("the last version", Duration::from_secs(5), || async {
        ask(&channel, &queue, "version").await.1 == last
    })
    .await;
    let before_the_end = load.ledger.entries().len();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let ledger = load.finish(Duration::from_secs(20)).await;
    assert_eq!(ledger.lost(), 0);
    assert_eq!(ledger.duplicates(), 0);
    let mut seen = HashSet::new();
    let mut at_the_end = HashSet::new();
    for (id, entry) in ledger.entries() {
        let Some(answer) = entry.answers.first() else { continue };
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status, "ok", "{body}");
        let number: u32 = body.strip_prefix("v-").expect(&body).parse().expect("a number");
        let (_, wasm) = version(number);
        assert_eq!(answer.plugin, format!("version@{}", digest(&wasm)), "one version each");
        let turn: usize = id.rsplit('-').next().unwrap().parse().unwrap();
        if turn > before_the_end {
            at_the_end.insert(body.clone());
        }
        seen.insert(body);
    }
    assert!(seen.len() as u32 > swaps / 4, "only {} versions were seen", seen.len());
    assert_eq!(at_the_end, HashSet::from([last]), "at the end only the last answers");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_serve_changes_nothing_and_is_reported_once() {
    let broker = broker::shared().await;
    let queue = unique("broken");
    let (mark, wasm) = version(1);
    let host = Host::start(&Options::new(&broker.amqp_url(), &queue), &[("version", &wasm)]);
    let connection = broker::connect(&broker.amqp_url()).await;
    let channel = connection.create_channel().await.unwrap();
    let wrong_world = guests::guest("no-export").wasm;
    let wrong_version = guests::guest("wrong-version").wasm;
    let core_module = wat::parse_str("(module)").unwrap();
    let precompiled = b"\x7fELF\x02\x01\x01".to_vec();
    for (broken, reason) in [
        (Vec::new(), "it is empty"),
        (b"hello".to_vec(), "it is not a WebAssembly file"),
        (wasm[..wasm.len() - 40].to_vec(), "it is not a valid component"),
        (core_module, "it is a core module"),
        (precompiled, "it is precompiled native code"),
        (wrong_world, "exports nothing that can be called"),
        (wrong_version, "exports nothing that can be called"),
    ] {
        host.put("version", &broken);
        until(reason, Duration::from_secs(5), || async { host.log().contains(reason) }).await;
        assert_eq!(ask(&channel, &queue, "version").await, ("ok".to_owned(), mark.clone()));
    }
    until("all reports", Duration::from_secs(5), || async {
        host.log().matches("is refused").count() == 7
    })
    .await;
    // A look every five seconds finds the same broken file again and says nothing.
    let said = host.log().matches("is refused").count();
    tokio::time::sleep(Duration::from_millis(5500)).await;
    assert_eq!(host.log().matches("is refused").count(), said);
    // Unreadable, and then readable again: nothing has changed.
    let (second, wasm) = version(2);
    host.put("version", &wasm);
    until("the new version", Duration::from_secs(5), || async {
        ask(&channel, &queue, "version").await.1 == second
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_of_saving_a_file_is_noticed() {
    let broker = broker::shared().await;
    let queue = unique("saving");
    let host =
        Host::start(&Options::new(&broker.amqp_url(), &queue), &[("version", &version(0).1)]);
    let connection = broker::connect(&broker.amqp_url()).await;
    let channel = connection.create_channel().await.unwrap();
    let path = host.plugins().join("version.wasm");
    let serves = async |mark: &str, how: &str| {
        until(how, Duration::from_secs(4), || async {
            ask(&channel, &queue, "version").await.1 == mark
        })
        .await;
    };

    let (mark, wasm) = version(1);
    host.put("version", &wasm);
    serves(&mark, "rename over").await;

    let (mark, wasm) = version(2);
    fs::write(&path, &wasm).unwrap();
    serves(&mark, "truncate and write").await;

    // As vim does with `backupcopy=no`: the old one moves away first.
    let (mark, wasm) = version(3);
    fs::rename(&path, host.plugins().join("version.wasm~")).unwrap();
    fs::write(&path, &wasm).unwrap();
    serves(&mark, "rename away and write").await;

    let (mark, wasm) = version(4);
    fs::remove_file(&path).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (gap, _) = ask(&channel, &queue, "version").await;
    assert_eq!(gap, "ok", "a deleted plugin serves on for two seconds");
    fs::write(&path, &wasm).unwrap();
    serves(&mark, "remove, then write").await;

    // A hard link appears without being written or closed.
    let (mark, wasm) = version(5);
    let other = host.plugins().join("elsewhere");
    fs::write(&other, &wasm).unwrap();
    fs::remove_file(&path).unwrap();
    fs::hard_link(&other, &path).unwrap();
    serves(&mark, "hard link").await;

    // As Kubernetes mounts a config map: `..data` is swapped, the file is not.
    let data = host.plugins().join("..data");
    for number in [6, 7] {
        let (mark, wasm) = version(number);
        let folder = format!("..2026-{number}");
        fs::create_dir(host.plugins().join(&folder)).unwrap();
        fs::write(host.plugins().join(&folder).join("version.wasm"), &wasm).unwrap();
        let temporary = host.plugins().join("..data_tmp");
        std::os::unix::fs::symlink(&folder, &temporary).unwrap();
        fs::rename(&temporary, &data).unwrap();
        if number == 6 {
            let link = host.plugins().join(".link");
            std::os::unix::fs::symlink("..data/version.wasm", &link).unwrap();
            fs::rename(&link, &path).unwrap();
        }
        serves(&mark, "symlink swap").await;
    }

    // The whole directory is replaced.
    let (mark, wasm) = version(8);
    let fresh = host.plugins().with_extension("new");
    fs::create_dir(&fresh).unwrap();
    fs::write(fresh.join("version.wasm"), &wasm).unwrap();
    fs::rename(host.plugins(), host.plugins().with_extension("old")).unwrap();
    fs::rename(&fresh, host.plugins()).unwrap();
    serves(&mark, "directory replaced").await;
    // And is still watched.
    let (mark, wasm) = version(9);
    host.put("version", &wasm);
    serves(&mark, "rename in the new directory").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_plugin_is_gone_after_its_grace_and_the_first_one_begins_the_consuming() {
    let broker = broker::shared().await;
    let queue = unique("gone");
    let host = Host::start(&Options::new(&broker.amqp_url(), &queue), &[]);
    assert!(host.ready.contains(" methods=0 "), "{}", host.ready);
    assert_eq!(host.get("/readyz").0, 503, "nothing is consumed yet");
    let (mark, wasm) = version(1);
    host.put("version", &wasm);
    until("readiness", Duration::from_secs(5), || async { host.get("/readyz").0 == 200 }).await;
    let connection = broker::connect(&broker.amqp_url()).await;
    let channel = connection.create_channel().await.unwrap();
    assert_eq!(ask(&channel, &queue, "version").await.1, mark);
    fs::remove_file(host.plugins().join("version.wasm")).unwrap();
    until("its end", Duration::from_secs(5), || async {
        ask(&channel, &queue, "version").await.0 == "method-not-found"
    })
    .await;
    let (_, body) = ask(&channel, &queue, "version").await;
    assert!(body.contains("\"retryable\":true"), "just after a change: {body}");
    until("calm", Duration::from_secs(5), || async {
        ask(&channel, &queue, "version").await.1.contains("\"retryable\":false")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_in_flight_end_on_the_version_they_began_with() {
    let broker = broker::shared().await;
    let queue = unique("inflight");
    let misbehave = guests::built("misbehave");
    let host = Host::start(&Options::new(&broker.amqp_url(), &queue), &[("job", &misbehave)]);
    let old = format!("job@{}", digest(&misbehave));
    let connection = broker::connect(&broker.amqp_url()).await;
    let channel = connection.create_channel().await.unwrap();
    let slow = tokio::spawn({
        let (channel, queue) = (channel.clone(), queue.clone());
        async move {
            let asked = BasicProperties::default().with_type("job.slow-1500".into());
            call(&channel, &queue, asked, b"").await
        }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (mark, wasm) = version(1);
    host.put("job", &wasm);
    until("the new version", Duration::from_secs(1), || async {
        ask(&channel, &queue, "job").await.1 == mark
    })
    .await;
    assert!(!slow.is_finished());
    let reply = slow.await.unwrap();
    assert_eq!(reply.data, b"done");
    assert_eq!(crate::support::ledger::header(&reply, "rpchost-plugin"), Some(old));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugins_configuration_is_reloaded_with_it() {
    let broker = broker::shared().await;
    let queue = unique("config");
    let looping = guests::guest("loop").wasm;
    let options = Options::new(&broker.amqp_url(), &queue).args(&["--call-timeout", "8s"]);
    let host = Host::start(&options, &[("loop", &looping)]);
    let connection = broker::connect(&broker.amqp_url()).await;
    let channel = connection.create_channel().await.unwrap();
    let config = host.plugins().join("loop.toml");
    fs::write(&config, "timeout = \"soon\"\nnonsense = 1\n").unwrap();
    until("the complaint", Duration::from_secs(5), || async {
        host.log().contains("nonsense") && host.log().contains("timeout")
    })
    .await;
    fs::write(&config, "timeout = \"50ms\"\n").unwrap();
    until("the new limit", Duration::from_secs(5), || async {
        host.log().matches("plugin replaced").count() == 1
    })
    .await;
    let begun = std::time::Instant::now();
    assert_eq!(ask(&channel, &queue, "loop").await.0, "timeout");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}
