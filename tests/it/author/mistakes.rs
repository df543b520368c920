//! What authors get wrong, and the sentence that each mistake gets.

use std::path::Path;

use super::{err, out, rpchost};
use crate::support::guests;

/// Waits on a clock of WASI 0.3 before it answers.
const AWAITS_AN_IMPORT: &str = r#"(component
    (import "wasi:clocks/monotonic-clock@0.3.0" (instance
        (export "wait-for" (func async (param "how-long" u64)))))
    (core module $m (func (export "f") (result i32) (i32.const 5)))
    (core instance $i (instantiate $m))
    (func (export "f") (result u32) (canon lift (core func $i "f"))))"#;

/// The same, on something of its author's.
const AWAITS_ITS_OWN: &str = r#"(component
    (import "local:x/store" (instance (export "get" (func async (result u32)))))
    (core module $m (func (export "f") (result i32) (i32.const 5)))
    (core instance $i (instantiate $m))
    (func (export "f") (result u32) (canon lift (core func $i "f"))))"#;

/// Waits, where nothing can be waited for.
const WAITS: &str = r#"(component
    (core module $memory (memory (export "memory") 1))
    (core instance $memory (instantiate $memory))
    (alias core export $memory "memory" (core memory $m))
    (core func $new (canon waitable-set.new))
    (core func $wait (canon waitable-set.wait (memory $m)))
    (core module $main
        (import "" "new" (func $new (result i32)))
        (import "" "wait" (func $wait (param i32 i32) (result i32)))
        (func (export "f") (result i32) (call $wait (call $new) (i32.const 0))))
    (core instance $main (instantiate $main
        (with "" (instance (export "new" (func $new)) (export "wait" (func $wait))))))
    (func (export "f") (result u32) (canon lift (core func $main "f"))))"#;

/// Its one function returns a resource.
const RESOURCE: &str = r#"(component
    (type $file' (resource (rep i32)))
    (core module $m (func (export "open") (result i32) (i32.const 0)))
    (core instance $i (instantiate $m))
    (export $file "file" (type $file'))
    (func (export "open") (result (own $file)) (canon lift (core func $i "open"))))"#;

fn put(folder: &Path, wasm: &[u8]) {
    std::fs::write(folder.join("x.wasm"), wasm).unwrap();
}

#[test]
fn each_mistake_gets_a_sentence_that_helps() {
    let folder = tempfile::tempdir().unwrap();
    let text = |text: &str| wat::parse_str(text).unwrap();
    let guest = |name: &str| guests::guest(name).wasm;
    let mut unsaid = Vec::new();
    for (mistake, wasm, parts) in [
        (
            "a world without the export",
            guest("no-export"),
            &["export `rpchost:rpc/handler@0.1.0`"][..],
        ),
        ("a core module", text("(module)"), &["it is a core module", "wasm-tools component"]),
        ("a wrong version", guest("wrong-version"), &["`rpchost:rpc/handler@0.1.0`"]),
        ("a resource", text(RESOURCE), &["a resource"]),
        ("no WASM", b"hello".to_vec(), &["it is not a WebAssembly file"]),
        ("an import", guest("unknown-import"), &["`acme:foo/bar@1.0.0`"]),
        (
            "WASI 0.3",
            text(AWAITS_AN_IMPORT),
            &["`wasi:clocks/monotonic-clock@0.3.0`", "wait on an `async` import", "WASI 0.2"],
        ),
        (
            "an async import",
            text(AWAITS_ITS_OWN),
            &["`local:x/store`", "wait on an `async` import", "without `async`"],
        ),
    ] {
        put(folder.path(), &wasm);
        let inspected = rpchost(folder.path(), &["inspect", "x.wasm"]);
        let loaded = rpchost(folder.path(), &["call", "--file", "x.wasm"]);
        let said = format!("{}{}{}", out(&inspected), err(&inspected), err(&loaded));
        // Lines are broken where the terminal ends.
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        if !parts.iter().all(|part| said.contains(part)) {
            unsaid.push(format!("{mistake}: {said}"));
        }
    }
    assert!(unsaid.is_empty(), "{unsaid:#?}");
}

#[test]
fn a_function_that_waits_where_nothing_can_be_waited_for_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), &wat::parse_str(WAITS).unwrap());
    let called = rpchost(folder.path(), &["call", "--file", "x.wasm", "f"]);
    assert_eq!(called.status.code(), Some(1), "{}", out(&called));
    let told: serde_json::Value = serde_json::from_str(&err(&called)).expect("an error as JSON");
    assert_eq!(told["error"]["kind"], "trap", "{told}");
    assert_eq!(told["error"]["data"]["trap"], "cannot-block-sync-task", "{told}");
    let message = told["error"]["message"].as_str().unwrap();
    assert!(message.contains("waits for something asynchronous"), "{message}");
    assert!(message.contains("as WASI 0.2 does"), "{message}");
}
