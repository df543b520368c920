//! Methods that are told: to a person who names none, and to a shell that completes one.

use std::process::{Command, Output};

use crate::support::host::{Host, Options, command};
use crate::support::{broker, guests, unique};

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
}
