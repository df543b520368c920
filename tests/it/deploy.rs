//! What `examples/deploy` ships, run where that can be done, else checked by the tool that reads it.
//!
//! Two machines with HAProxy and Keepalived are two network namespaces, with the shipped files in
//! them as they are: their addresses are free there.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use rpchost::private_broker::PrivateBroker;

use crate::support::balancers::{ADDRESS, Balancer, Network};
use crate::support::cluster::{longest_gap, slowest_answer};
use crate::support::guests::{built, root};
use crate::support::haproxy;
use crate::support::host::{Host, Options, binary, command};
use crate::support::ledger::Load;
use crate::support::proxy::Proxy;
use crate::support::{unique, until};

/// Set for the process that runs in a network of its own.
const INSIDE: &str = "RPCHOST_TEST_NETWORK";

/// What takes two announcements at most on a machine that does nothing else.
const TWO_ANNOUNCEMENTS: Duration = Duration::from_secs(8);

fn work(number: u64) -> (String, Vec<u8>) {
    ("echo".to_owned(), number.to_string().into_bytes())
}

fn measured(what: &str, took: Duration) {
    eprintln!("deploy: {what}: {:.2} s", took.as_secs_f64());
}

/// Runs a test of this file again, as root of a network of its own.
fn in_a_network_of_its_own(test: &str) {
    let mut unshare = Command::new("unshare");
    unshare.arg("--net");
    if !rustix::process::geteuid().is_root() {
        unshare.arg("--map-root-user");
    }
    let output = unshare
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", test])
        .env(INSIDE, "1")
        .output()
        .expect("`unshare`, from Debian's package `util-linux`");
    let said = String::from_utf8_lossy(&output.stderr);
    eprintln!("{said}");
    assert!(
        output.status.success(),
        "the test in a network of its own failed; making one needs root or user namespaces\n{}",
        String::from_utf8_lossy(&output.stdout)
    );
}

/// One host, one load and `rpchost call`, all of which know one address.
#[tokio::test(flavor = "multi_thread")]
async fn the_standby_takes_over_the_address_and_calls_go_on() {
    if std::env::var_os(INSIDE).is_none() {
        let test = "deploy::the_standby_takes_over_the_address_and_calls_go_on";
        return tokio::task::spawn_blocking(move || in_a_network_of_its_own(test)).await.unwrap();
    }
    let network = Network::new();
    let broker = PrivateBroker::start().await.unwrap();
    let mut nodes = Vec::new();
    for node in ["192.0.2.11", "192.0.2.12", "192.0.2.13"] {
        network.address(node);
        nodes.push(Proxy::at((node, 5672), broker.port()).await);
    }
    let first = Balancer::start(&network, 1);
    until("an address", Duration::from_secs(20), || async { first.has_address() }).await;
    let second = Balancer::start(&network, 2);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(first.has_address() && !second.has_address());

    let queue = unique("address");
    let url = format!("amqp://guest:guest@{ADDRESS}:5670/%2f");
    let options =
        Options::new(&url, &queue).args(&["--queue-type", "classic", "--heartbeat", "2s"]);
    let host = Host::start(&options, &[("echo", &built("echo"))]);
    let load = Load::start(&format!("{url}?heartbeat=1"), &queue, 50, work).await;
    let calls = || {
        let args = ["call", "echo", "over", "--queue", &queue, "--timeout", "20s"];
        let output = command(&args).env("RPCHOST_AMQP_URL", &url).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "over", "{said}");
    };
    calls();

    // HAProxy is gone, its machine is not: every client learns at once that its connection is.
    let begun = Instant::now();
    first.kill_haproxy();
    until("the address", Duration::from_secs(20), || async { second.has_address() }).await;
    measured("HAProxy killed, the address moved after", begun.elapsed());
    serves_again(&load).await;
    let gap = longest_gap(&load.ledger, begun);
    measured("HAProxy killed, no answer for", gap);
    assert!(gap < TWO_ANNOUNCEMENTS, "{gap:?}");
    assert!(!first.has_address());
    calls();
    first.start_haproxy();
    // It stands by now, and takes nothing back.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(second.has_address() && !first.has_address());

    // The machine is gone, and says nothing any more: not even that connections are closed.
    let begun = Instant::now();
    second.unplug();
    until("the address", Duration::from_secs(20), || async { first.has_address() }).await;
    measured("a machine lost, the address moved after", begun.elapsed());
    serves_again(&load).await;
    let gap = longest_gap(&load.ledger, begun);
    measured("a machine lost, no answer for", gap);
    assert!(gap < TWO_ANNOUNCEMENTS, "{gap:?}");
    calls();

    let ledger = load.finish(Duration::from_secs(30)).await;
    measured("the slowest answer of all took", slowest_answer(&ledger));
    assert_eq!(ledger.lost(), 0);
    assert_eq!(ledger.unexpected(), Vec::<String>::new());
    drop((host, nodes, first, second));
    broker.remove().await.unwrap();
}

/// A shipped file, or the folder with all of them.
fn shipped(path: &str) -> PathBuf {
    root().join("examples/deploy").join(path)
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

#[test]
fn haproxy_and_keepalived_take_their_files() {
    let run = |program: &str, args: &[&str], file: &str| {
        let mut command = Command::new(program);
        // Keepalived's test of a file may end its whole process group.
        let output = command.args(args).arg(shipped(file)).process_group(0).output();
        let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
        assert!(output.status.success(), "{file}: {}: {}", output.status, said(&output));
    };
    run(haproxy::PROGRAM, &["-c", "-f"], "haproxy/haproxy.cfg");
    for file in ["keepalived/keepalived.conf", "lvs/keepalived.conf"] {
        run("/usr/sbin/keepalived", &["--log-console", "--config-test", "-f"], file);
    }
}

#[test]
fn systemd_takes_the_unit_and_finds_little_that_it_may_do() {
    // With what the unit starts, as if it were installed.
    let installed = tempfile::tempdir().unwrap();
    let at = |path: &str| installed.path().join(path);
    for directory in ["etc/systemd/system", "usr/local/bin", "bin"] {
        std::fs::create_dir_all(at(directory)).unwrap();
    }
    std::fs::copy(binary(), at("usr/local/bin/rpchost")).unwrap();
    std::fs::copy("/bin/kill", at("bin/kill")).unwrap();
    let unit = "rpchost.service";
    std::fs::copy(shipped("systemd").join(unit), at("etc/systemd/system").join(unit)).unwrap();
    let analyze = |args: &[&str]| {
        let mut command = Command::new("systemd-analyze");
        command.args(args).env("SYSTEMD_PAGER", "cat").output().expect("Debian's package `systemd`")
    };
    let root = format!("--root={}", installed.path().display());
    let verified = analyze(&["verify", "--recursive-errors=no", &root, unit]);
    // What it does not know it mentions, and succeeds.
    assert_eq!((verified.status.code(), said(&verified).as_str()), (Some(0), ""));
    // In tenths; 1.4 as shipped. Without a sandbox it is 9.6.
    let path = shipped("systemd").join(unit);
    let exposed =
        analyze(&["security", "--offline=true", "--threshold=15", path.to_str().unwrap()]);
    assert!(exposed.status.success(), "{}", said(&exposed));
}

/// Every variable that a shipped file sets is one of the host's.
#[test]
fn the_settings_in_shipped_files_are_the_hosts() {
    let no_name = |c: char| !c.is_ascii_uppercase() && c != '_';
    let help = said(&command(&["serve", "--help"]).output().unwrap());
    let known: Vec<&str> = help.split(no_name).collect();
    let mut seen = 0;
    for file in [
        "systemd/rpchost.service",
        "systemd/rpchost.env",
        "kubernetes/rpchost.yaml",
        "container/Containerfile",
    ] {
        let text = std::fs::read_to_string(shipped(file)).unwrap();
        for word in text.split(no_name).filter(|word| word.starts_with("RPCHOST_")) {
            assert!(known.contains(&word), "{file}: {word}");
            seen += 1;
        }
    }
    assert!(seen > 15, "{seen}");
}

#[test]
fn the_manifests_are_what_kubernetes_and_keda_expect() {
    let output = Command::new(root().join("target/venv/bin/python"))
        .arg(root().join("tests/deploy/manifests.py"))
        .args([shipped("kubernetes/rpchost.yaml"), shipped("kubernetes/keda.yaml")])
        .env("NODE_PATH", root().join("target/deploy/node_modules"))
        .output()
        .expect("Python, set up by `tests/run.sh`");
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(said(&output).matches(": valid").count(), 5, "{}", said(&output));
}

/// Everything of it but the compilation, see `tests/deploy/container.sh`.
#[tokio::test]
async fn the_container_answers_calls_as_nobody_in_particular() {
    let broker = crate::support::broker::shared().await;
    let queue = unique("container");
    let output = tokio::process::Command::new(root().join("tests/deploy/container.sh"))
        .arg(binary())
        .arg(root().join("target/guests/echo.wasm"))
        .args([&broker.amqp_url(), &queue])
        .output()
        .await
        .unwrap();
    let said = said(&output);
    assert!(output.status.success(), "{said}");
    for line in ["runs as 65532", "hello", "stopped"] {
        assert!(said.lines().any(|said| said == line), "{line}: {said}");
    }
}

async fn serves_again(load: &Load) {
    let now = Instant::now();
    until("an answer", Duration::from_secs(30), || async {
        load.ledger.count(|entry| entry.sent > now && !entry.answers.is_empty()) > 0
    })
    .await;
}
