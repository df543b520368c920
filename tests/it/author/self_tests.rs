//! What a host does with cases that fail by no fault of the version, or kill the host.

use std::io::Read as _;
use std::process::Stdio;

use rpchost::capabilities::CallFacts;
use rpchost::message::Arguments;
use rpchost::plugins::Invocation;

use super::*;
use crate::support::host::command;

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_finds_no_room_for_its_cases_is_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("busy.wasm"), guests::built("misbehave")).unwrap();
    std::fs::write(folder.path().join("busy.toml"), "timeout = '5s'\n").unwrap();
    let plugins = Plugins::new(None);
    let telemetry = Telemetry::new().unwrap();
    // Two instances, one of them to be idle.
    let engine = Engine::new(1).unwrap();
    let limits = crate::core::limits();
    let reloader =
        Reloader::new(folder.path().to_owned(), engine, limits, plugins.clone(), telemetry.clone());
    let reloader = reloader.unwrap().first_look().await.unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(reloader.run(stop.clone()));
    let sleeping: Vec<_> = (0..2)
        .map(|_| {
            let (plugin, method) = plugins.find(Some("busy.sleep")).unwrap();
            tokio::spawn(async move {
                let deadline = Instant::now() + plugin.timeout();
                let invocation = Invocation {
                    method: &method,
                    arguments: &Arguments::Body(bytes::Bytes::new()),
                    content_type: None,
                    headers: &[],
                    facts: CallFacts { deadline, ..CallFacts::none() },
                };
                plugin.call(invocation).await.unwrap_err().kind.name()
            })
        })
        .collect();
    // Long enough for both to have begun.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let version = guests::version("version-0001");
    std::fs::write(folder.path().join("v.wasm"), with_cases(&version, &["version-0001"])).unwrap();
    let refused =
        || telemetry.scrape().unwrap().contains("rpchost_plugin_loads_total{result=\"refused\"} 1");
    until(refused).await;
    assert!(!plugins.has("v"));
    for slept in sleeping {
        assert_eq!(slept.await.unwrap(), "timeout");
    }
    // Nobody touches the file.
    until(|| plugins.has("v")).await;
    stop.cancel();
    running.await.unwrap();
}

#[test]
fn what_has_killed_three_hosts_in_its_self_test_is_not_tested_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let (plugins, state) = (folder.path().join("plugins"), folder.path().join("state"));
    std::fs::create_dir(&plugins).unwrap();
    let wasm = with_cases(&guests::guest("loop").wasm, &["never"]);
    std::fs::write(plugins.join("fatal.wasm"), wasm).unwrap();
    let start = || {
        let mut host = command(&["serve", "--admin", "off", "--connect-attempts", "1"]);
        host.args(["--amqp-url", "amqp://127.0.0.1:1", "--plugins"]).arg(&plugins);
        host.arg("--state-dir").arg(&state);
        host.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let mark = || {
        let marks = std::fs::read_dir(state.join("self-tests")).into_iter().flatten();
        marks.flatten().map(|mark| mark.metadata().map_or(0, |mark| mark.len())).sum::<u64>()
    };
    for deaths in 1..=3 {
        let mut host = start();
        let end = Instant::now() + SOON;
        while mark() < deaths {
            assert!(Instant::now() < end, "no self-test began in {SOON:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
        host.kill().unwrap();
        host.wait().unwrap();
    }
    let mut host = start();
    let mut log = String::new();
    host.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    host.wait().unwrap();
    let said = "3 hosts died while they ran its cases, which are not run any more; mend the file";
    assert!(log.contains(said), "{log}");
    // As its operator likes, it is served untested.
    std::fs::write(plugins.join("fatal.toml"), "self-test = false\n").unwrap();
    let served = start().wait_with_output().unwrap();
    let log = String::from_utf8_lossy(&served.stderr).into_owned();
    assert!(log.contains("fatal") && !log.contains("hosts died"), "{log}");
}

#[test]
fn test_builds_what_is_there_now_and_knows_what_the_plugin_directory_says() {
    let folder = tempfile::tempdir().unwrap();
    let plugins = folder.path().join("plugins");
    std::fs::create_dir(&plugins).unwrap();
    let hello = guests::guest("hello").wasm;
    let case = "[[case]]\nbody = 'x'\ntext = 'hello'\n";
    let project = project(folder.path(), "greeter", &hello, case);
    let test = || rpchost(&project, &["test"]);
    assert!(test().status.success());
    // Saved with a time long past, as `git checkout`, `cp -p` and `tar` do.
    let source = project.join("made.wat.wasm");
    std::fs::write(&source, guests::guest("unreachable").wasm).unwrap();
    let long_ago = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1);
    std::fs::File::options().write(true).open(&source).unwrap().set_modified(long_ago).unwrap();
    let tested = test();
    assert!(out(&tested).contains("got the error `trap`"), "{}{}", out(&tested), err(&tested));
    assert_eq!(std::fs::read_dir(&plugins).unwrap().count(), 0, "`test` puts nothing there");
    // Needs more memory than a plugin has.
    std::fs::write(&source, guests::guest("big-initial-memory").wasm).unwrap();
    let refused = rpchost(&project, &["build"]);
    assert_eq!(refused.status.code(), Some(1), "{}", err(&refused));
    std::fs::write(plugins.join("greeter.toml"), "memory-limit = '2GiB'\n").unwrap();
    let built = rpchost(&project, &["build"]);
    assert!(built.status.success(), "{}", err(&built));
    std::fs::write(plugins.join("greeter.toml"), "kind = 'command'\n").unwrap();
    let refused = rpchost(&project, &["build"]);
    assert!(err(&refused).contains("`kind = \"command\"`, but"), "{}", err(&refused));
}

#[test]
fn cases_say_nothing_about_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let traps = guests::guest("unreachable").wasm;
    // A plugin that fails so often in a row rests.
    let cases = "[[case]]\nerror = 'trap'\n".repeat(30);
    let project = project(folder.path(), "trapper", &traps, &cases);
    let tested = rpchost(&project, &["test"]);
    assert!(tested.status.success(), "{}{}", out(&tested), err(&tested));
    assert!(out(&tested).ends_with("30 passed\n"), "{}", out(&tested));
}

#[test]
fn what_an_earlier_build_has_said_is_not_said_again() {
    let folder = tempfile::tempdir().unwrap();
    let hello = with_cases(&guests::guest("hello").wasm, &["goodbye"]);
    let hello = guests::with_section(&hello, "description", b"Of old");
    let project = project(folder.path(), "greeter", &hello, "");
    let built = rpchost(&project, &["build"]);
    assert!(built.status.success(), "{}", err(&built));
    let shown = out(&rpchost(&project, &["inspect", "build/greeter.wasm"]));
    assert!(shown.contains("From elsewhere"), "{shown}");
    assert!(!shown.contains("Of old") && !shown.contains("cases"), "{shown}");
}
