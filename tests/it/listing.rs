//! Methods that are told: to a person who names none, and to a shell that completes one.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use crate::author::with_cases;
use crate::support::host::{Host, Options, command};
use crate::support::{broker, guests, unique};

/// How long a file may take to be tried, on a machine with other work.
const PATIENCE: Duration = Duration::from_secs(60);

fn said(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("the binary");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (status.code(), text(&stdout), text(&stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_without_a_method_lists_them_and_a_shell_completes_them() {
    let (url, queue) = (broker::shared().await.amqp_url(), unique("listing"));
    let plugins = [("math", &*guests::built("math")), ("echo", &*guests::built("echo"))];
    let host = Host::start(&Options::new(&url, &queue), &plugins);
    let call = |args: &[&str]| {
        let mut call = command(args);
        call.env("RPCHOST_AMQP_URL", &url).env("RPCHOST_QUEUE", &queue);
        said(&mut call)
    };
    let (code, out, err) = call(&["call"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.starts_with("METHOD "), "{out}");
    assert!(out.lines().any(|line| line.starts_with("echo ")), "{out}");
    let fib = out.lines().find(|line| line.starts_with("math.fib ")).expect("math.fib");
    assert!(fib.contains("func(n: u32) -> result<u64"), "{fib}");

    let complete = |words: &[&str]| {
        let mut complete = command(&["--", "rpchost"]);
        complete.args(words).env("COMPLETE", "fish");
        said(complete.env("RPCHOST_AMQP_URL", &url).env("RPCHOST_QUEUE", &queue))
    };
    let (_, names, _) = complete(&["call", "math.f"]);
    assert!(names.lines().any(|name| name == "math.fib"), "{names}");
    assert!(names.lines().all(|name| name.starts_with("math.f")), "{names}");
    let (_, commands, _) = complete(&["ca"]);
    assert!(commands.starts_with("call"), "{commands}");
    drop(host);
    // Nobody tells any more: no names, and no error in the middle of a line.
    let mut complete = command(&["--", "rpchost", "call", "math.f"]);
    complete.env("COMPLETE", "fish").env("RPCHOST_AMQP_URL", "amqp://127.0.0.1:1");
    assert_eq!(said(&mut complete), (Some(0), String::new(), String::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_host_says_what_it_serves_and_why_it_refuses_a_new_version() {
    let (url, queue) = (broker::shared().await.amqp_url(), unique("inspecting"));
    let [one, two] = ["version-0001", "version-0002"].map(guests::version);
    let plugins = [("v", &*with_cases(&one, &["version-0001"]))];
    let host = Host::start(&Options::new(&url, &queue), &plugins);
    let inspect = |args: &[&str]| {
        let mut inspect = command(&["inspect"]);
        inspect.args(args).env("RPCHOST_AMQP_URL", &url).env("RPCHOST_QUEUE", &queue);
        said(&mut inspect)
    };
    let (code, out, err) = inspect(&[]);
    assert_eq!(code, Some(0), "{err}");
    let serving: Vec<_> = out.lines().map(str::to_owned).collect();
    assert_eq!(serving.len(), 2, "{out}");
    assert!(serving[1].starts_with("v       handler  "), "{out}");
    let digest = serving[1].split_whitespace().nth(2).expect("a digest").to_owned();

    // It does not pass the case that it brings; and a file that is none at all.
    host.put("v", &with_cases(&two, &["version-0003"]));
    host.put("text", b"no WASM");
    let end = Instant::now() + PATIENCE;
    let out = loop {
        let (_, out, _) = inspect(&[]);
        if out.matches(" is refused ").count() == 2 {
            break out;
        }
        assert!(Instant::now() < end, "{out}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(lines[1], serving[1], "{out}");
    assert_eq!(lines[3], "text.wasm is refused (invalid), nothing serves in its place:");
    assert_eq!(lines[6], format!("v.wasm is refused (self-test), {digest} goes on serving:"));
    let reason = "1 of its 1 cases failed, as `says version-0003`: expected `version-0003`, got";
    assert!(lines[7].trim_start().starts_with(reason), "{out}");
    let (_, json, _) = inspect(&["-o", "json"]);
    let told: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(told["refused"][1]["cause"], "self-test", "{json}");
    assert!(told["refused"][1]["serving"].as_str().unwrap().contains(&digest), "{json}");
    let held = |plugin: &str, reason: &str| {
        host.metric(&format!("rpchost_plugin_refused{{plugin=\"{plugin}\",reason=\"{reason}\"}}"))
    };
    assert_eq!((held("v", "self-test"), held("text", "invalid")), (1.0, 1.0));

    // What is mended is not held against a file any more.
    host.put("v", &with_cases(&two, &["version-0002"]));
    let end = Instant::now() + PATIENCE;
    while inspect(&[]).1.matches(" is refused ").count() != 1 {
        assert!(Instant::now() < end, "{:?}", inspect(&[]));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_ne!(inspect(&[]).1.lines().nth(1), Some(&*serving[1]));
    drop(host);
    assert_eq!(inspect(&[]).0, Some(4));
}

#[test]
fn a_file_lists_its_methods_without_a_broker() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("math.wasm");
    std::fs::write(&path, guests::built("math")).unwrap();
    let (code, out, err) = said(command(&["call", "--file"]).arg(&path));
    assert_eq!(code, Some(0), "{err}");
    assert!(out.lines().any(|line| line.starts_with("math.fib ")), "{out}");
    let (code, _, err) = said(command(&["call", "--dialect", "celery", "--file"]).arg(&path));
    assert_eq!(code, Some(2));
    assert!(err.contains("a METHOD is missing"), "{err}");
    for flag in [["--queue", "q"], ["--amqp-url", "amqp://127.0.0.1:1"]] {
        let (code, out, err) = said(command(&["inspect"]).arg(&path).args(flag));
        assert_eq!((code, &*out), (Some(2), ""), "{flag:?}");
        assert!(err.contains("leave out `--queue` and `--amqp-url`"), "{err}");
    }
}
