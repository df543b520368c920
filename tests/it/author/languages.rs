//! From `new` to a call, in each language and kind.

use super::{err, out, rpchost, workplace};
use crate::core::house;

/// Makes a project of each kind, builds it, tests it and calls it.
pub(super) fn whole(place: &str, language: &str, kinds: &[&str]) {
    for kind in kinds {
        let folder = workplace(place);
        std::fs::create_dir(folder.path().join("plugins")).unwrap();
        let name = format!("my-{kind}");
        let what = format!("{language} {kind}");
        let made = rpchost(folder.path(), &["new", &name, "--lang", language, "--kind", kind]);
        assert!(made.status.success(), "{what}: {}", err(&made));
        let project = folder.path().join(&name);
        let built = rpchost(&project, &["build"]);
        assert!(built.status.success(), "{what}: {}{}", out(&built), err(&built));
        assert_eq!(err(&built), "", "{what}");
        let tested = rpchost(&project, &["test"]);
        assert!(tested.status.success(), "{what}: {}{}", out(&tested), err(&tested));
        assert!(out(&tested).ends_with("2 passed\n"), "{what}: {}", out(&tested));
        let file = format!("plugins/{name}.wasm");
        let method = if *kind == "typed" { "greet" } else { &name };
        let call: [&str; 7] = ["call", "--timeout", "60s", "--file", &file, method, "Wörld"];
        let called = rpchost(folder.path(), &call);
        let expected = match *kind {
            "typed" => "\"Hello, Wörld!\"\n",
            _ => "Hello, Wörld!\n",
        };
        assert_eq!(out(&called), expected, "{what}: {}", err(&called));
        if *kind == "typed" {
            let shown = out(&rpchost(folder.path(), &["inspect", &file]));
            assert!(shown.contains("Greets somebody by name."), "{what}: {shown}");
        }
    }
}

#[test]
fn rust() {
    whole("author", "rust", &["typed", "handler", "command"]);
}

#[test]
fn python() {
    whole("author", "python", &["typed", "handler", "command"]);
}

#[test]
fn javascript() {
    whole("author", "javascript", &["typed", "handler"]);
}

#[test]
fn typescript() {
    whole("author", "typescript", &["typed", "handler"]);
}

#[test]
fn c() {
    whole("author", "c", &["typed", "handler", "command"]);
}

#[test]
fn go() {
    whole("author", "go", &["typed", "handler", "command"]);
}

#[tokio::test]
async fn the_collector_of_go_never_runs_while_arguments_are_passed() {
    let folder = workplace("author");
    let new = ["new", "collects", "--lang", "go", "--kind", "handler"];
    assert!(rpchost(folder.path(), &new).status.success());
    let project = folder.path().join("collects");
    let built = rpchost(&project, &["build", "--plugins", "."]);
    assert!(built.status.success(), "{}", err(&built));
    let wasm = std::fs::read(project.join("collects.wasm")).unwrap();
    let house = house(&[("collects", &wasm, "instances = \"reuse\"\ntimeout = \"30s\"")], None);
    // An instance of Go as it comes traps after some hundred of these: its heap grows to a
    // multiple of what makes the collector run.
    let body = "x".repeat(32 * 1024);
    for call in 0..1000 {
        let (status, answer) = house.call("collects", &body).await;
        assert_eq!((status.as_str(), answer.len()), ("ok", body.len() + 8), "call {call}");
    }
}
