//! Core modules that misuse WASI 0.1, where no library stands between.

use bytes::Bytes;

use crate::core::{House, house};
use crate::support::fake_broker::delivery;

/// A module of these functions' types and imports, with a memory of a page.
fn module(body: &str) -> Vec<u8> {
    let text = format!(
        r#"(module
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (import "wasi_snapshot_preview1" "fd_write"
                (func $write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_read"
                (func $read (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "environ_get"
                (func $environ (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "environ_sizes_get"
                (func $environ-sizes (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "args_get"
                (func $args (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "random_get"
                (func $random (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "poll_oneoff"
                (func $poll (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_renumber"
                (func $renumber (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
            (import "wasi_snapshot_preview1" "path_open"
                (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "sock_accept"
                (func $accept (param i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 64) "hello\n")
            {body})"#
    );
    wat::parse_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn served(body: &str) -> House {
    house(&[("program", &module(body), "")], None)
}

#[tokio::test]
async fn each_is_answered_with_its_kind() {
    for (what, code, kinds) in [
        ("returns", "", &["ok"][..]),
        ("exits well", "(call $exit (i32.const 0))", &["ok"]),
        ("exits with 7", "(call $exit (i32.const 7))", &["application"]),
        ("exits with 255", "(call $exit (i32.const 255))", &["application"]),
        ("traps", "unreachable", &["trap"]),
        ("recurses", "call $start", &["trap"]),
        ("loops", "(loop (br 0))", &["timeout"]),
        ("asks for ever", "(loop (drop (call $environ-sizes (i32.const 0) (i32.const 4))) (br 0))", &["timeout"]),
        (
            "writes to stdout for ever",
            "(i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 60000))
             (loop (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))) (br 0))",
            &["resource-exhausted"],
        ),
        (
            "writes to stderr for ever",
            "(i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 60000))
             (loop (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8))) (br 0))",
            &["timeout"],
        ),
        (
            "writes from beyond its memory",
            "(i32.store (i32.const 0) (i32.const 65000)) (i32.store (i32.const 4) (i32.const 60000))
             (if (i32.eqz (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
                (then unreachable))",
            &["ok", "trap"],
        ),
        (
            "writes a list that lies beyond its memory",
            "(drop (call $write (i32.const 1) (i32.const 65532) (i32.const 0x7fffffff) (i32.const 8)))",
            &["ok", "trap"],
        ),
        (
            "reads to beyond its memory",
            "(i32.store (i32.const 0) (i32.const -16)) (i32.store (i32.const 4) (i32.const -1))
             (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))",
            &["ok", "trap"],
        ),
        ("wants variables beyond its memory", "(drop (call $environ (i32.const -4) (i32.const -4)))", &["ok", "trap"]),
        ("wants arguments beyond its memory", "(drop (call $args (i32.const 65535) (i32.const 65535)))", &["ok", "trap"]),
        ("wants much randomness", "(drop (call $random (i32.const 0) (i32.const -1)))", &["ok", "trap"]),
        (
            "waits for many things",
            "(drop (memory.grow (i32.const 600)))
             (drop (call $poll (i32.const 0) (i32.const 0) (i32.const 400000) (i32.const 8)))",
            &["ok", "trap", "resource-exhausted"],
        ),
        ("waits for a billion things", "(drop (call $poll (i32.const 0) (i32.const 0) (i32.const 0x40000000) (i32.const 8)))", &["ok", "trap"]),
        (
            "opens without a directory",
            "(if (i32.eqz (call $open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 5) (i32.const 0)
                (i64.const 0) (i64.const 0) (i32.const 0) (i32.const 8))) (then unreachable))",
            &["ok"],
        ),
        ("accepts without a socket", "(if (i32.eqz (call $accept (i32.const 3) (i32.const 0) (i32.const 8))) (then unreachable))", &["ok"]),
        (
            "renumbers and closes",
            "(drop (call $renumber (i32.const 1) (i32.const 0x7fffffff))) (drop (call $close (i32.const 0)))
             (drop (call $close (i32.const 2))) (drop (call $renumber (i32.const 7) (i32.const 1)))",
            &["ok"],
        ),
        (
            "grows until it is refused",
            "(loop (br_if 0 (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) unreachable",
            &["resource-exhausted"],
        ),
        (
            "says no after it was refused",
            "(loop (br_if 0 (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) (call $exit (i32.const 1))",
            &["resource-exhausted"],
        ),
        ("grows until it is refused, and goes on", "(loop (br_if 0 (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))", &["ok"]),
    ] {
        let house = served(&format!("(func $start (export \"_start\") {code})"));
        for _ in 0..2 {
            let (status, text) = house.call("program", "some input").await;
            assert!(kinds.contains(&status.as_str()), "{what}: {status} {text}");
        }
    }
}

#[tokio::test]
async fn a_module_may_have_several_memories_and_tables() {
    let several = "(memory 1) (memory 1) (table 5 funcref) (table 6 funcref) (table 5 funcref)";
    let house = served(&format!("{several} (func (export \"_start\"))"));
    assert_eq!(house.call("program", "").await.0, "ok");
}

#[tokio::test]
async fn what_begins_badly_is_said_to() {
    for (body, kind) in [
        ("(func $s unreachable) (start $s)", "instantiate-failed"),
        ("(func $s (loop (br 0))) (start $s)", "timeout"),
        ("(func $s (call $exit (i32.const 4))) (start $s)", "application"),
    ] {
        let house = served(&format!("{body} (func (export \"_start\"))"));
        assert_eq!(house.call("program", "").await.0, kind, "{body}");
    }
}

#[tokio::test]
async fn what_was_written_before_a_trap_is_no_result() {
    let house = served(
        "(func (export \"_start\")
            (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 6))
            (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
            unreachable)",
    );
    let reply = house.reply(&delivery(Some("program"), Bytes::new())).await;
    assert!(!String::from_utf8_lossy(&reply.body).contains("hello"));
}
