//! What people type, and what they read: flags, exit codes, sentences.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use lapin::BasicProperties;
use lapin::options::{BasicPublishOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::support::host::{Host, Options, command};
use super::support::secrecy::betrayed;
use super::support::{broker, guests, unique, until};

/// Longer than anything here takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// What "at once" means to a person: no waiting for a time limit.
const AT_ONCE: Duration = Duration::from_secs(4);

/// A password that must not be seen anywhere.
const CANARY: &str = "kanarienvogel42";

/// Directives for the places that write what goes over the wire.
const FRAMES: &str = "info,lapin=trace,lapin::internal_rpc=trace,lapin::io_loop=trace,\
     lapin::frames=trace,amq_protocol_tcp=trace,tcp_stream=trace";

/// Nobody listens on port 1 (`tcpmux`).
const NOBODY: &str = "amqp://guest:kanarienvogel42@127.0.0.1:1/%2f";

// Help and usage

#[tokio::test]
async fn help_and_version_end_well() {
    let version = run(&["--version"]).await;
    assert_eq!(version.out, concat!("rpchost ", env!("CARGO_PKG_VERSION"), "\n"));
    version.ended_with(0);
    for args in [
        &["--help"][..],
        &["help"],
        &["serve", "--help"],
        &["dev", "--help"],
        &["call", "--help"],
        &["inspect", "--help"],
    ] {
        let help = run(args).await;
        help.ended_with(0);
        assert!(help.out.contains("Usage: rpchost"), "{args:?}: {}", help.out);
        assert_eq!(help.err, "", "{args:?}");
    }
}

#[tokio::test]
async fn help_shows_no_password_of_the_environment() {
    for args in [["serve", "--help"], ["call", "--help"], ["dev", "--help"]] {
        let help = run_with(&args, |command| command.env("RPCHOST_AMQP_URL", NOBODY)).await;
        help.ended_with(0);
        help.keeps_the_secret();
    }
}

#[tokio::test]
async fn wrong_usage_ends_with_2_and_says_what_was_wrong() {
    for (args, named) in [
        (&["serve", "--nonsense"][..], "--nonsense"),
        (&["srve"], "srve"),
        (&[], "Usage: rpchost"),
        (&["call", "--dialect", "celery"], "METHOD"),
        (&["inspect", "x.wasm", "-o", "xml"], "xml"),
        (&["call", "m", "--timeout", "soon"], "soon"),
        (&["call", "m", "--timeout", "0s"], "0s"),
        (&["call", "m", "--params", "{"], "--params"),
        (&["call", "m", "--body", "@/nonexistent/body"], "/nonexistent/body"),
        (&["call", "m", "1", "n=2"], "mixed"),
        (&["call", "m", "1", "--params", "[1]"], "--params"),
        (&["call", "m", "1", "--body", "x"], "--body"),
        (&["call", "m", "--dialect", "soap"], "soap"),
        (&["call", "m", "--file", "/nonexistent/x.wasm"], "/nonexistent/x.wasm"),
        (&["call", "m", "--file", "/etc/passwd"], "/etc/passwd"),
    ] {
        let ran = run(args).await;
        ran.ended_with(2);
        assert!(ran.err.contains(named), "{args:?} says nothing of `{named}`: {}", ran.err);
        assert_eq!(ran.out, "", "{args:?}");
    }
}

// Configuration

#[tokio::test]
async fn everything_wrong_with_a_configuration_is_said_at_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("host.toml");
    let text =
        "queue = \"jobs\"\nmax_body = \"1MiB\"\ncall-timeout = 30\nmemory-limit = \"1TiB\"\n";
    fs::write(&file, text).expect("the file");
    let path = file.to_str().expect("UTF-8");
    let ran = run_with(&["serve", "--config", path, "--dialect", "soap"], |command| {
        command.env("RPCHOST_ADMIN", "nonsense")
    })
    .await;
    ran.ended_with(2);
    assert_eq!(ran.out, "");
    for (place, what) in [
        (format!("file `{path}` line 2 key `max_body`"), "did you mean `max-body`?"),
        (format!("file `{path}` line 3 key `call-timeout`"), "unit"),
        (format!("file `{path}` line 4 key `memory-limit`"), "4GiB"),
        ("flag `--dialect`".to_owned(), "`plain`"),
        ("environment `RPCHOST_ADMIN`".to_owned(), "127.0.0.1:7070"),
    ] {
        let line = ran.err.lines().find(|line| line.starts_with(&place));
        let line = line.unwrap_or_else(|| panic!("nothing of {place}: {}", ran.err));
        assert!(line.contains(what), "{line}");
    }
    assert_eq!(ran.err.lines().count(), 5, "{}", ran.err);
}

#[tokio::test]
async fn a_configuration_file_that_is_named_has_to_be_there() {
    let ran = run(&["serve", "--config", "/nonexistent/host.toml"]).await;
    ran.ended_with(2);
    ran.is_one_sentence_with("/nonexistent/host.toml");
}

#[tokio::test]
async fn a_wrong_url_is_refused_without_its_password() {
    let wrong = format!("amqp//guest:{CANARY}@host");
    let from_environment =
        run_with(&["serve"], |command| command.env("RPCHOST_AMQP_URL", &wrong)).await;
    from_environment.ended_with(2);
    assert!(from_environment.err.contains("RPCHOST_AMQP_URL"), "{}", from_environment.err);
    from_environment.keeps_the_secret();

    let from_flag = run(&["serve", "--amqp-url", &wrong]).await;
    from_flag.ended_with(2);
    from_flag.keeps_the_secret();

    let called = run(&["call", "m", "--amqp-url", &wrong]).await;
    called.ended_with(2);
    called.keeps_the_secret();

    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("host.toml");
    fs::write(&file, format!("amqp-url = \"{wrong}\"\nbroken = = \"{CANARY}\"\n")).expect("a file");
    let from_file = run(&["serve", "--config", file.to_str().expect("UTF-8")]).await;
    from_file.ended_with(2);
    from_file.keeps_the_secret();
}

#[tokio::test]
async fn a_missing_plugin_directory_ends_with_2_and_one_sentence() {
    let ran = run(&["serve", "--plugins", "/nonexistent/plugins", "--admin", "off"]).await;
    ran.ended_with(2);
    ran.is_one_sentence_with("/nonexistent/plugins");
    assert_eq!(ran.out, "");
}

#[tokio::test]
async fn a_taken_admin_address_ends_with_2_and_one_sentence() {
    let plugins = tempfile::tempdir().expect("a directory");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let plugins = plugins.path().to_str().expect("UTF-8");
    let ran = run(&["serve", "--plugins", plugins, "--admin", &address]).await;
    ran.ended_with(2);
    ran.is_one_sentence_with(&address);
}

// The broker at start

#[tokio::test]
async fn a_wrong_password_ends_with_1_and_one_sentence_without_the_password() {
    let port = broker::shared().await.port();
    let url = format!("amqp://guest:{CANARY}@127.0.0.1:{port}/%2f");
    for level in ["info", "debug"] {
        let mut serving = Serving::start(&url, &["--log-level", level]);
        let ran = serving.ended().await;
        ran.ended_with(1);
        ran.keeps_the_secret();
        assert_eq!(ran.out, "");
        let sentence = ran.last_sentence();
        assert!(sentence.contains("password") && sentence.contains("guest"), "{sentence}");
        if level == "info" {
            let about: Vec<_> = ran.err.lines().filter(|line| line.contains("refuse")).collect();
            assert_eq!(about.len(), 1, "{}", ran.err);
        }
    }
}

#[tokio::test]
async fn a_wrong_virtual_host_ends_with_1_and_one_sentence() {
    let port = broker::shared().await.port();
    let url = format!("amqp://guest:guest@127.0.0.1:{port}/nowhere");
    let ran = Serving::start(&url, &[]).ended().await;
    ran.ended_with(1);
    let sentence = ran.last_sentence();
    assert!(sentence.contains("virtual host") && sentence.contains("nowhere"), "{sentence}");
}

#[tokio::test]
async fn an_unreachable_broker_is_tried_for_ever_and_said_so() {
    // The first round over all of them is made at once.
    let urls: Vec<String> =
        (1..=30).map(|host| NOBODY.replace("127.0.0.1", &format!("127.0.0.{host}"))).collect();
    let mut serving = Serving::start(&urls.join(","), &[]);
    until("the log names the broker", PATIENCE, async || serving.err().contains("127.0.0.1:1/"))
        .await;
    // Attempts come again within a second; a host that gave up would be gone.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        assert!(serving.is_running(), "it gave up: {}", serving.err());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(serving.out(), "", "it is not ready");
    // Now and then, not each of thirty times and more.
    let said = serving.err().lines().filter(|line| line.contains("cannot reach")).count();
    assert!((1..=15).contains(&said), "{}", serving.err());
    serving.signal(Signal::TERM);
    let ran = serving.ended().await;
    ran.ended_with(0);
    ran.keeps_the_secret();
}

#[tokio::test]
async fn attempts_to_connect_can_be_bounded() {
    let ran = Serving::start(NOBODY, &["--connect-attempts", "3"]).ended().await;
    ran.ended_with(1);
    let sentence = ran.last_sentence();
    assert!(sentence.contains("after attempt 3") && sentence.contains("127.0.0.1:1"), "{sentence}");
    ran.keeps_the_secret();
    assert_eq!(ran.out, "");
}

#[tokio::test]
async fn of_two_brokers_the_living_one_serves() {
    let (url, queue) = (broker::shared().await.amqp_url(), unique("two-urls"));
    let urls = format!("{NOBODY},{url}");
    let host = Host::start(&Options::new(&urls, &queue).args(CLASSIC), &[hello().plugin()]);
    let called = call(&url, &queue, &["hello"]).await;
    called.ended_with(0);
    assert_eq!(called.out, "hello\n");
    drop(host);
}

#[tokio::test]
async fn a_password_in_a_flag_earns_a_warning_and_is_not_repeated() {
    let plugins = tempfile::tempdir().expect("a directory");
    let plugins = plugins.path().to_str().expect("UTF-8");
    let state = tempfile::tempdir().expect("a directory");
    let state = state.path().to_str().expect("UTF-8");
    let ran = run(&[
        "serve",
        "--amqp-url",
        NOBODY,
        "--connect-attempts",
        "1",
        "--plugins",
        plugins,
        "--state-dir",
        state,
        "--admin",
        "off",
    ])
    .await;
    ran.ended_with(1);
    ran.keeps_the_secret();
    let warned = ran.err.lines().any(|line| line.contains("WARN") && line.contains("--amqp-url"));
    assert!(warned, "{}", ran.err);

    // Tools for people say it before their own sentence.
    let tools: [(&[&str], i32); 5] = [
        (&["call", "m"], 4),
        (&["bench", "m", "--duration", "1s"], 4),
        (&["verify", "m", "--count", "1"], 4),
        (&["trace", "--duration", "1s"], 4),
        (&["parked", "list"], 4),
    ];
    for (tool, code) in tools {
        let ran = run(&[tool, &["--amqp-url", NOBODY]].concat()).await;
        ran.ended_with(code);
        ran.keeps_the_secret();
        let first = ran.err.lines().next().unwrap_or_default();
        let begins = "rpchost: warning: the password in `--amqp-url`";
        assert!(first.starts_with(begins), "{tool:?}: {}", ran.err);
        assert!(ran.err.lines().count() >= 2, "{tool:?}: {}", ran.err);
    }
}

#[tokio::test]
async fn a_password_is_nowhere_in_the_log_of_a_host_that_serves() {
    let broker = broker::shared().await;
    let (user, queue) = (unique("canary"), unique("canary"));
    broker.ctl(&["add_user", &user, CANARY]).await.expect("a user");
    broker.ctl(&["set_permissions", &user, ".*", ".*", ".*"]).await.expect("its permissions");
    let port = broker.port();
    let url = format!("amqp://{user}:{CANARY}@127.0.0.1:{port}/%2f");
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("password");
    fs::write(&file, format!("{CANARY}\n")).expect("the password file");
    let file = file.to_str().expect("UTF-8");
    let without = format!("amqp://{user}@127.0.0.1:{port}/%2f");
    for (url, level, args) in [
        (&url, "debug", &[][..]),
        (&without, "trace", &["--amqp-password-file", file]),
        (&url, "debug,lapin=trace", &["--log-format", "json"]),
        (&url, FRAMES, &[]),
    ] {
        let options = Options::new(url, &queue).args(CLASSIC).args(args);
        let mut host = Host::start(&options.args(&["--log-level", level]), &[hello().plugin()]);
        let called = call(&broker.amqp_url(), &queue, &["hello"]).await;
        called.ended_with(0);
        let (_, metrics) = host.get("/metrics");
        assert!(!metrics.contains(CANARY));
        host.signal(Signal::TERM);
        assert_eq!(host.ended(PATIENCE).await.code(), Some(0));
        assert!(!host.ready.contains(CANARY));
        if let Some(line) = betrayed(&host.log(), CANARY) {
            panic!("the password stands in the log at level {level}: {line}");
        }
    }
    broker.ctl(&["delete_user", &user]).await.expect("no user");
}

// The ready line, and the life of a host

#[tokio::test]
async fn stdout_holds_the_ready_line_and_nothing_else() {
    let (url, queue) = (broker::shared().await.amqp_url(), unique("ready"));
    let mut serving = Serving::with_plugins(
        &url,
        &[&["--queue", &queue, "--max-in-flight", "7", "--admin", "127.0.0.1:0"], CLASSIC].concat(),
        &[hello().plugin(), ("mirror", &guests::guest("mirror").wasm)],
    );
    until("the ready line", PATIENCE, async || serving.out().contains('\n')).await;
    let called = call(&url, &queue, &["hello"]).await;
    called.ended_with(0);
    serving.signal(Signal::TERM);
    let ran = serving.ended().await;
    ran.ended_with(0);
    let address = ran.out.trim_end().rsplit_once("admin=").expect("an address").1;
    let port = address.strip_prefix("127.0.0.1:").and_then(|port| port.parse::<u16>().ok());
    assert!(port.is_some_and(|port| port != 0), "{address}");
    let expected =
        format!("rpchost ready queue={queue} methods=2 max-in-flight=7 admin={address}\n");
    assert_eq!(ran.out, expected);
}

#[tokio::test]
async fn the_admin_address_can_be_off_and_calls_are_32_per_core() {
    let (url, queue) = (broker::shared().await.amqp_url(), unique("admin-off"));
    let options = Options::new(&url, &queue).args(CLASSIC);
    let serving = Serving::with_plugins(
        &options.url,
        &[&["--queue", &queue], CLASSIC].concat(),
        &[hello().plugin()],
    );
    until("the ready line", PATIENCE, async || serving.out().contains('\n')).await;
    let calls = 32 * std::thread::available_parallelism().expect("the cores").get();
    let expected =
        format!("rpchost ready queue={queue} methods=1 max-in-flight={calls} admin=off\n");
    assert_eq!(serving.out(), expected);
}

#[tokio::test]
async fn a_host_without_a_plugin_waits_for_the_first() {
    let (url, queue) = (broker::shared().await.amqp_url(), unique("empty"));
    let host = Host::start(&Options::new(&url, &queue).args(CLASSIC), &[]);
    assert!(host.ready.contains(" methods=0 "), "{}", host.ready);
    assert_eq!(host.get("/healthz").0, 200);
    assert_eq!(host.get("/readyz").0, 503);
    // It does not consume, so a call is told at once that nobody would answer.
    let called = call(&url, &queue, &["hello"]).await;
    called.ended_with(4);

    host.put("hello", &hello().wasm);
    until("it is ready", PATIENCE, async || host.get("/readyz").0 == 200).await;
    let called = call(&url, &queue, &["hello"]).await;
    called.ended_with(0);
    assert_eq!(called.out, "hello\n");
}

#[tokio::test]
async fn a_host_that_is_asked_to_stop_ends_with_0() {
    let url = broker::shared().await.amqp_url();
    for signal in [Signal::TERM, Signal::INT] {
        let queue = unique("stop");
        let options = Options::new(&url, &queue).args(CLASSIC);
        let mut host = Host::start(&options, &[hello().plugin()]);
        let begun = Instant::now();
        host.signal(signal);
        assert_eq!(host.ended(PATIENCE).await.code(), Some(0), "{signal:?}");
        assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn a_second_signal_ends_a_host_that_drains() {
    let (url, queue) = (broker::shared().await.amqp_url(), unique("second-signal"));
    let misbehave = guests::built("misbehave");
    let options = Options::new(&url, &queue).args(CLASSIC);
    let mut host = Host::start(&options, &[("misbehave", &misbehave)]);
    let connection = broker::connect(&url).await;
    let channel = connection.create_channel().await.expect("a channel");
    channel
        .basic_publish(
            "".into(),
            queue.as_str().into(),
            BasicPublishOptions::default(),
            b"",
            BasicProperties::default().with_type("misbehave.sleep".into()),
        )
        .await
        .expect("a request");
    until("the call runs", PATIENCE, async || host.metric("rpchost_in_flight") == 1.0).await;

    host.signal(Signal::TERM);
    until("it drains", PATIENCE, async || host.log().contains("stopping")).await;
    assert!(host.is_running(), "a call still runs");
    let begun = Instant::now();
    host.signal(Signal::TERM);
    assert_eq!(host.ended(PATIENCE).await.code(), Some(0));
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn the_log_in_json_is_json_line_by_line_whatever_guests_print() {
    let (url, queue) = (broker::shared().await.amqp_url(), unique("json-log"));
    let misbehave = guests::built("misbehave");
    let options = Options::new(&url, &queue).args(CLASSIC);
    let args = ["--log-format", "json", "--log-level", "debug"];
    let mut host = Host::start(
        &options.args(&args),
        &[("misbehave", &misbehave), ("no-export", &guests::guest("no-export").wasm)],
    );
    let called = call(&url, &queue, &["misbehave.log-injection"]).await;
    called.ended_with(0);
    host.signal(Signal::TERM);
    assert_eq!(host.ended(PATIENCE).await.code(), Some(0));
    let log = host.log();
    assert!(log.lines().count() > 5, "{log}");
    for line in log.lines() {
        let entry: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(entry["timestamp"].is_string() && entry["level"].is_string(), "{line}");
    }
    assert!(log.contains("no-export"), "a refused plugin is worth a line: {log}");
}

#[tokio::test]
async fn a_reader_that_goes_away_does_not_end_a_host() {
    let (url, queue) = (broker::shared().await.amqp_url(), unique("no-reader"));
    let (directory, plugins) = (tempfile::tempdir().expect("a directory"), "plugins");
    let plugins = directory.path().join(plugins);
    fs::create_dir(&plugins).expect("the plugin directory");
    fs::write(plugins.join("hello.wasm"), hello().wasm).expect("a plugin");
    let mut serve = Command::from(command(&["serve", "--queue", &queue, "--admin", "off"]));
    let mut child = serve
        .args(CLASSIC)
        .arg("--plugins")
        .arg(&plugins)
        .arg("--state-dir")
        .arg(directory.path().join("state"))
        .env("RPCHOST_AMQP_URL", &url)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(fs::File::create(directory.path().join("log")).expect("the log"))
        .kill_on_drop(true)
        .spawn()
        .expect("the host");
    drop(child.stdout.take());
    until("it answers", PATIENCE, async || call(&url, &queue, &["hello"]).await.code == Some(0))
        .await;
    assert_eq!(child.try_wait().expect("its status"), None);
}

#[tokio::test]
async fn a_reader_that_goes_away_does_not_make_other_commands_fail() {
    let hello = hello();
    for args in [
        &["call", "hello", "--file", hello.path()][..],
        &["inspect", hello.path()],
        &["--help"],
        &["--version"],
    ] {
        let mut child = Command::from(command(args))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the command");
        drop(child.stdout.take());
        let output = tokio::time::timeout(PATIENCE, child.wait_with_output())
            .await
            .expect("an end in time")
            .expect("an end");
        assert_eq!(output.status.code(), Some(0), "{args:?}: {output:?}");
        assert!(output.stderr.is_empty(), "{args:?}: {output:?}");
    }
}

// call, through the broker

#[tokio::test]
async fn a_call_prints_the_result_and_ends_with_0() {
    let (url, queue) = (broker::shared().await.amqp_url(), unique("call"));
    let fib = guests::built("fib");
    let mirror = guests::guest("mirror").wasm;
    let options = Options::new(&url, &queue).args(CLASSIC);
    let _host = Host::start(&options, &[("fib", &fib), ("mirror", &mirror)]);
    for (args, result) in [
        (&["fib", "30"][..], "832040\n"),
        (&["fib.of", "10", "--dialect", "plain"], "55\n"),
        (&["mirror", "hi there"], "hi there\n"),
        (&["mirror", "1", "two", "[3]"], "[1,\"two\",[3]]\n"),
        (&["mirror", "n=1", "s=a=b"], "{\"n\":1,\"s\":\"a=b\"}\n"),
        (&["mirror", "n=1", "--dialect", "json-rpc"], "{\"n\":1}\n"),
        (&["mirror", "hi", "--dialect", "json-rpc"], "[\"hi\"]\n"),
    ] {
        let called = call(&url, &queue, args).await;
        called.ended_with(0);
        assert_eq!(called.out, result, "{args:?}");
        assert_eq!(called.err, "", "{args:?}");
    }
    // The variables of `serve` are those of `call`.
    let called = run_with(&["call", "fib", "20"], |command| {
        command.env("RPCHOST_AMQP_URL", &url).env("RPCHOST_QUEUE", &queue)
    })
    .await;
    called.ended_with(0);
    assert_eq!(called.out, "6765\n");
}

#[tokio::test]
async fn an_error_of_the_handler_ends_with_1_as_json_on_stderr() {
    let (url, queue) = (broker::shared().await.amqp_url(), unique("call-error"));
    let fib = guests::built("fib");
    let options = Options::new(&url, &queue).args(CLASSIC);
    let _host = Host::start(&options, &[("fib", &fib)]);
    let message = "the body must be a whole number from 0 to 92, such as `30`";
    let called = call(&url, &queue, &["fib", "many"]).await;
    called.ended_with(1);
    assert_eq!(called.out, "");
    assert_eq!(
        called.error(),
        json!({ "error": {
            "code": 1, "kind": "application", "message": message, "retryable": false,
            "data": { "min": 0, "max": 92 },
        }})
    );
    let called = call(&url, &queue, &["fib", "many", "--dialect", "json-rpc"]).await;
    called.ended_with(1);
    assert_eq!(
        called.error(),
        json!({ "error": {
            "code": 1, "message": message,
            "data": { "kind": "application", "retryable": false, "data": { "min": 0, "max": 92 } },
        }})
    );
    let called = call(&url, &queue, &["nope", "1"]).await;
    called.ended_with(1);
    assert_eq!(called.error()["error"]["kind"], "method-not-found");
}

#[tokio::test]
async fn no_answer_in_time_ends_with_3() {
    let (url, queue) = (broker::shared().await.amqp_url(), unique("call-late"));
    let misbehave = guests::built("misbehave");
    let options = Options::new(&url, &queue).args(CLASSIC);
    let _host = Host::start(&options, &[("misbehave", &misbehave)]);
    let called = call(&url, &queue, &["misbehave.sleep", "--timeout", "500ms"]).await;
    called.ended_with(3);
    called.is_one_sentence_with("500ms");
    assert!(called.took < AT_ONCE, "{:?}", called.took);
}

#[tokio::test]
async fn nobody_to_answer_ends_with_4_at_once() {
    let url = broker::shared().await.amqp_url();
    let queue = unique("nobody");

    let missing = call(&url, &queue, &["m"]).await;
    missing.is_one_sentence_with(&queue);

    let connection = broker::connect(&url).await;
    let channel = connection.create_channel().await.expect("a channel");
    let exclusive = QueueDeclareOptions { auto_delete: true, ..QueueDeclareOptions::default() };
    channel
        .queue_declare(queue.as_str().into(), exclusive, FieldTable::default())
        .await
        .expect("a queue");
    let unheard = call(&url, &queue, &["m"]).await;
    unheard.is_one_sentence_with(&queue);
    channel.queue_delete(queue.as_str().into(), Default::default()).await.expect("no queue");

    let unreachable = call(NOBODY, &queue, &["m"]).await;
    unreachable.is_one_sentence_with("127.0.0.1:1");

    let port = broker::shared().await.port();
    let refused = format!("amqp://guest:{CANARY}@127.0.0.1:{port}/%2f");
    let refused = call(&refused, &queue, &["m"]).await;
    refused.is_one_sentence_with("password");

    for called in [missing, unheard, unreachable, refused] {
        called.ended_with(4);
        called.keeps_the_secret();
        assert_eq!(called.out, "");
        assert!(called.took < AT_ONCE, "{:?}: {}", called.took, called.err);
    }
}

// call, in-process

#[tokio::test]
async fn a_file_is_called_without_a_broker() {
    let fib = file("fib", &guests::built("fib"));
    for args in [["fib", "30"], ["of", "30"], ["fib.of", "30"], ["fib:of", "30"]] {
        let called = run(&["call", args[0], args[1], "--file", fib.path()]).await;
        called.ended_with(0);
        assert_eq!(called.out, "832040\n", "{args:?}");
    }
    let failed = run(&["call", "fib", "many", "--file", fib.path()]).await;
    failed.ended_with(1);
    assert_eq!(failed.error()["error"]["kind"], "application");
    assert_eq!(failed.out, "");
}

#[tokio::test]
async fn a_method_of_a_file_may_leave_out_the_plugin() {
    let echo = file("method-echo", &guests::guest("method-echo").wasm);
    for (method, told) in [
        ("method-echo", "method-echo"),
        ("method-echo.sum", "method-echo.sum"),
        ("method-echo:sum", "method-echo.sum"),
        ("sum", "method-echo.sum"),
    ] {
        let called = run(&["call", method, "--file", echo.path()]).await;
        called.ended_with(0);
        assert_eq!(called.out, format!("{told}\n"), "{method}");
    }
}

#[tokio::test]
async fn a_file_that_takes_too_long_is_no_answer_in_time() {
    let endless = file("loop", &guests::guest("loop").wasm);
    let called = run(&["call", "loop", "--timeout", "300ms", "--file", endless.path()]).await;
    assert!(called.took < AT_ONCE, "{:?}", called.took);
    called.ended_with(3);
}

#[tokio::test]
async fn a_file_that_cannot_be_served_is_wrong_usage() {
    let refused = file("no-export", &guests::guest("no-export").wasm);
    let called = run(&["call", "m", "--file", refused.path()]).await;
    called.ended_with(2);
    called.is_one_sentence_with("no-export.wasm");
}

#[tokio::test]
async fn arguments_are_json_else_text_and_one_alone_is_the_body() {
    let mirror = file("mirror", &guests::guest("mirror").wasm);
    let body = mirror.directory.path().join("body");
    fs::write(&body, "from a file").expect("a body");
    let at_body = format!("@{}", body.display());
    for (args, result) in [
        (&[][..], "\n"),
        (&["30"], "30\n"),
        (&["{\"a\": 1.0}"], "{\"a\": 1.0}\n"),
        (&["-5"], "-5\n"),
        (
            &["1", "-5", "true", "null", "\"q\"", "plain text"],
            "[1,-5,true,null,\"q\",\"plain text\"]\n",
        ),
        (&["n=1"], "{\"n\":1}\n"),
        (&["n=1", "deep={\"a\":[2]}", "s=text"], "{\"n\":1,\"deep\":{\"a\":[2]},\"s\":\"text\"}\n"),
        (&["1=2"], "1=2\n"),
        (&["--params", "{\"a\":1}"], "{\"a\":1}\n"),
        (&["--params", "[1,2]", "--dialect", "json-rpc"], "[1,2]\n"),
        (&["--body", "a=b"], "a=b\n"),
        (&["--body", "--dashes"], "--dashes\n"),
        (&["--body", "a line\n"], "a line\n"),
        (&["--body", &at_body], "from a file\n"),
        (&["5", "--dialect", "json-rpc"], "[5]\n"),
        (&["a=5", "--dialect", "json-rpc"], "{\"a\":5}\n"),
    ] {
        let command = [&["call", "mirror", "--file", mirror.path()], args].concat();
        let called = run(&command).await;
        called.ended_with(0);
        assert_eq!(called.out, result, "{args:?}");
    }
}

#[tokio::test]
async fn a_number_in_params_keeps_all_its_digits() {
    let mirror = file("mirror", &guests::guest("mirror").wasm);
    let exact = "{\"n\":12345678901234567890123,\"x\":1.10}";
    let params = run(&["call", "mirror", "--params", exact, "--file", mirror.path()]).await;
    assert_eq!(params.out, format!("{exact}\n"));
    let args = ["call", "mirror", "12345678901234567890123", "1.10", "--file", mirror.path()];
    assert_eq!(run(&args).await.out, "[12345678901234567890123,1.10]\n");
}

#[tokio::test]
async fn a_body_from_stdin_goes_through_byte_for_byte() {
    let mirror = file("mirror", &guests::guest("mirror").wasm);
    let bytes = b"\x00\xff\xfe no text\n\r";
    let input = mirror.directory.path().join("input");
    fs::write(&input, bytes).expect("the input");
    let called = run_with(&["call", "mirror", "--body", "-", "--file", mirror.path()], |command| {
        command.stdin(fs::File::open(&input).expect("the input"))
    })
    .await;
    called.ended_with(0);
    assert_eq!(called.bytes, bytes);
}

// inspect

#[tokio::test]
async fn inspect_tells_a_person_kind_methods_and_imports() {
    let hello = hello();
    let typed = file("typed", &guests::built("typed"));
    let shown = run(&["inspect", hello.path(), typed.path()]).await;
    shown.ended_with(0);
    let (first, second) = shown.out.split_once("\n\n").expect("an empty line between them");
    let lines: Vec<_> = first.lines().collect();
    let digest = lines[1].strip_prefix("sha256     ").expect("a digest");
    assert!(digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()), "{first}");
    assert!(lines[2].starts_with("size       ") && lines[2].contains(" KiB"), "{first}");
    assert!(lines[4].starts_with("toolchain  wit-component "), "{first}");
    assert_eq!((lines[0], lines[3]), ("plugin     hello", "kind       handler"));
    assert_eq!(
        lines[5..],
        [
            "methods    hello: bytes -> bytes",
            "           hello.<anything>: bytes -> bytes",
            "imports    rpchost:rpc/rpc-types@0.1.0  granted",
        ]
    );
    for part in [
        "\ntoolchain  rustc 1.",
        "typed.divide: func(a: s32, b: s32) -> result<s32, variant {overflow, bad-input(string)}>\n",
        "\n             [1,1] → 1\n",
        "\n             not callable: its result is a resource, or holds one\n",
    ] {
        assert!(second.contains(part), "no {part:?}: {second}");
    }
}

#[tokio::test]
async fn inspect_tells_a_program_what_is_granted() {
    let misbehave = file("misbehave", &guests::built("misbehave"));
    let shown = run(&["inspect", misbehave.path(), "-o", "json"]).await;
    shown.ended_with(0);
    let shown: Value = serde_json::from_str(&shown.out).expect("JSON");
    assert_eq!(shown["plugin"], "misbehave");
    assert_eq!(shown["kind"], "handler");
    assert_eq!(shown["methods"][0]["name"], "misbehave");
    assert_eq!(shown["methods"][1]["name"], "misbehave.<anything>");
    assert!(shown["digest"].as_str().is_some_and(|digest| digest.starts_with("sha256:")));
    assert_eq!(shown["size"], guests::built("misbehave").len());
    assert_eq!(shown["toolchain"][0]["name"], "rustc");
    let granted = |import: &str| {
        let imports = shown["imports"].as_array().expect("imports");
        let found = imports
            .iter()
            .find(|found| found["name"].as_str().is_some_and(|name| name.starts_with(import)));
        found.unwrap_or_else(|| panic!("no `{import}`"))["granted"].as_bool().expect("a boolean")
    };
    for import in ["rpchost:rpc/call-context@", "wasi:clocks/wall-clock@", "wasi:cli/stdout@"] {
        assert!(granted(import), "{import}");
    }
    for import in ["wasi:filesystem/types@", "wasi:sockets/tcp@", "wasi:cli/environment@"] {
        assert!(!granted(import), "{import}");
    }
}

#[tokio::test]
async fn inspect_says_why_a_file_is_not_served() {
    let unknown = file("unknown-import", &guests::guest("unknown-import").wasm);
    let shown = run(&["inspect", unknown.path(), "-o", "json"]).await;
    let shown: Value = serde_json::from_str(&shown.out).expect("JSON");
    let import = &shown["imports"][0];
    assert_eq!(import["name"], "acme:foo/bar@1.0.0");
    assert_eq!(import["granted"], false);

    let nothing = file("no-export", &guests::guest("no-export").wasm);
    let shown = run(&["inspect", nothing.path()]).await;
    shown.ended_with(1);
    assert!(shown.out.contains("rpchost:rpc/handler@0.1.0"), "{}", shown.out);

    // One that cannot be read spoils none of the others.
    let missing = "/nonexistent/x.wasm";
    let shown = run(&["inspect", hello().path(), missing, "-o", "json"]).await;
    shown.ended_with(1);
    shown.is_one_sentence_with(missing);
    let shown: Value = serde_json::from_str(&shown.out).expect("JSON");
    assert_eq!(shown[0]["plugin"], "hello");

    let text = file("text", b"(module)");
    for path in [text.path(), "/nonexistent/x.wasm"] {
        let shown = run(&["inspect", path]).await;
        assert!(matches!(shown.code, Some(1 | 2)), "{:?}", shown.code);
        shown.is_one_sentence_with(path);
        assert_eq!(shown.out, "");
    }
}

// What the tests stand on

/// A queue that is quick to make.
const CLASSIC: &[&str] = &["--queue-type", "classic"];

/// A command that has ended.
#[derive(Debug)]
struct Ran {
    what: String,
    code: Option<i32>,
    bytes: Vec<u8>,
    out: String,
    err: String,
    took: Duration,
}

impl Ran {
    fn ended_with(&self, code: i32) {
        let Self { what, out, err, .. } = self;
        assert_eq!(self.code, Some(code), "{what}\n--- stdout\n{out}\n--- stderr\n{err}");
    }

    /// stderr is one line, of `rpchost`, that names `what`.
    fn is_one_sentence_with(&self, what: &str) {
        let sentences = self.err.lines().filter(|line| !line.starts_with("rpchost: warning: "));
        assert_eq!(sentences.count(), 1, "{}: {}", self.what, self.err);
        assert!(self.err.contains(what), "{} says nothing of `{what}`: {}", self.what, self.err);
        assert!(!self.err.contains("panicked"), "{}", self.err);
    }

    /// What it said at its end, after the log.
    fn last_sentence(&self) -> &str {
        let last = self.err.lines().last().unwrap_or_default();
        assert!(last.starts_with("rpchost: "), "no sentence at the end: {}", self.err);
        last
    }

    fn keeps_the_secret(&self) {
        for text in [&self.out, &self.err] {
            assert_eq!(betrayed(text, CANARY), None, "{}: {text}", self.what);
        }
    }

    /// stderr as JSON.
    fn error(&self) -> Value {
        serde_json::from_str(&self.err).unwrap_or_else(|error| panic!("{error}: {}", self.err))
    }
}

async fn run(args: &[&str]) -> Ran {
    run_with(args, |command| command).await
}

/// Runs `rpchost` to its end; `with` sets more of the command.
async fn run_with(args: &[&str], with: impl FnOnce(&mut Command) -> &mut Command) -> Ran {
    let mut command = Command::from(command(args));
    command.stdin(Stdio::null()).kill_on_drop(true);
    with(&mut command);
    let begun = Instant::now();
    let output = tokio::time::timeout(PATIENCE, command.output())
        .await
        .unwrap_or_else(|_| panic!("{args:?} does not end"))
        .expect("the command");
    Ran {
        what: format!("rpchost {}", args.join(" ")),
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        bytes: output.stdout,
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
        took: begun.elapsed(),
    }
}

/// `rpchost call` through a broker.
async fn call(url: &str, queue: &str, args: &[&str]) -> Ran {
    let args = [&["call"], args, &["--queue", queue, "--amqp-url", url]].concat();
    run(&args).await
}

/// A component in a file of its own, which goes with it.
struct File {
    directory: TempDir,
    path: PathBuf,
    name: String,
    wasm: Vec<u8>,
}

impl File {
    fn path(&self) -> &str {
        self.path.to_str().expect("UTF-8")
    }

    fn plugin(&self) -> (&str, &[u8]) {
        (&self.name, &self.wasm)
    }
}

fn file(name: &str, wasm: &[u8]) -> File {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join(format!("{name}.wasm"));
    fs::write(&path, wasm).expect("a file");
    File { directory, path, name: name.to_owned(), wasm: wasm.to_vec() }
}

fn hello() -> File {
    file("hello", &guests::guest("hello").wasm)
}

/// A host that may end, or never be ready.
struct Serving {
    child: Child,
    args: String,
    begun: Instant,
    directory: TempDir,
}

impl Serving {
    /// `serve` without a plugin.
    fn start(url: &str, args: &[&str]) -> Self {
        Self::with_plugins(url, args, &[])
    }

    /// `serve` with these plugins; without an admin address, unless `args` name
    /// one.
    fn with_plugins(url: &str, args: &[&str], plugins: &[(&str, &[u8])]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        let folder = path.join("plugins");
        fs::create_dir(&folder).expect("the plugin directory");
        for (name, wasm) in plugins {
            fs::write(folder.join(format!("{name}.wasm")), wasm).expect("a plugin");
        }
        let output = |name: &str| fs::File::create(path.join(name)).expect("an output");
        let child = Command::from(command(&["serve"]))
            .args(args)
            .env("RPCHOST_ADMIN", "off")
            .env("RPCHOST_AMQP_URL", url)
            .env("RPCHOST_PLUGINS", &folder)
            .env("RPCHOST_STATE_DIR", path.join("state"))
            .stdin(Stdio::null())
            .stdout(output("out"))
            .stderr(output("err"))
            .kill_on_drop(true)
            .spawn()
            .expect("the host");
        Self { child, args: args.join(" "), begun: Instant::now(), directory }
    }

    fn out(&self) -> String {
        read(self.directory.path(), "out")
    }

    fn err(&self) -> String {
        read(self.directory.path(), "err")
    }

    fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("its status").is_none()
    }

    fn signal(&self, signal: Signal) {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        kill_process(id.expect("it runs"), signal).expect("a signal");
    }

    /// Waits for its end.
    async fn ended(&mut self) -> Ran {
        let Ok(status) = tokio::time::timeout(PATIENCE, self.child.wait()).await else {
            panic!("the host does not end:\n{}", self.err());
        };
        let out = self.out();
        Ran {
            what: format!("rpchost serve {}", self.args),
            code: status.expect("its status").code(),
            bytes: out.clone().into_bytes(),
            out,
            err: self.err(),
            took: self.begun.elapsed(),
        }
    }
}

fn read(directory: &Path, name: &str) -> String {
    String::from_utf8_lossy(&fs::read(directory.join(name)).expect("an output")).into_owned()
}
