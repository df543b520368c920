//! Plugins that are programs, and core modules that become components.

mod core_modules;
mod hostile;
mod languages;

use std::time::Duration;

use bytes::Bytes;
use rpchost::message::{Delivery, HeaderValue};
use serde_json::{Value, json};

use crate::core::{House, error, header, house, status};
use crate::support::fake_broker::delivery;
use crate::support::guests;
use crate::support::host::command;

/// The same program for WASI 0.1 and 0.2, under the name `program`.
const TARGETS: [&str; 2] = ["program-p1", "program-p2"];

fn program(target: &str) -> House {
    house(&[("program", &guests::built(target), "")], None)
}

/// A delivery with headers.
fn with_headers(method: &str, body: &str, headers: &[(&str, HeaderValue)]) -> Delivery {
    let mut delivery = delivery(Some(method), Bytes::from(body.to_owned()));
    let own = |(name, value): &(&str, HeaderValue)| ((*name).to_owned(), value.clone());
    delivery.properties.headers = headers.iter().map(own).collect();
    delivery
}

#[tokio::test]
async fn the_body_is_the_input_and_the_output_is_the_result() {
    for target in TARGETS {
        let house = program(target);
        for body in ["", "30", "two\nlines\n", "\u{0}é"] {
            let reply = house.reply(&delivery(Some("program"), body)).await;
            assert_eq!((status(&reply).as_str(), reply.body.as_ref()), ("ok", body.as_bytes()));
            assert_eq!((reply.content_type, reply.kind), (None, None), "{target}");
            let plugin = reply.headers.iter().find(|(name, _)| name == "rpchost-plugin");
            assert!(plugin.is_some_and(|(_, id)| id.starts_with("program@")), "{target}");
        }
        let upper = house.call("program.upper", "a\nb").await;
        assert_eq!(upper, ("ok".to_owned(), "A\nB\n".to_owned()), "{target}");
        assert_eq!(house.call("program.nothing", "x").await, ("ok".to_owned(), String::new()));
        assert_eq!(house.call("program.ignore", "x").await.1, "done", "input that nobody reads");
        let megabytes = "0123456789abcdef".repeat(1 << 18);
        assert_eq!(house.call("program", &megabytes).await.1, megabytes, "{target}");
    }
}

#[tokio::test]
async fn a_program_finds_method_and_headers_and_nothing_of_the_hosts() {
    let text = |text: &str| HeaderValue::Text(text.to_owned());
    let headers = [
        ("x-tenant", text("blue")),
        ("X-Tenant", text("red")),
        ("Retry.Count", HeaderValue::Int(3)),
        ("größe", text("ü")),
        ("nul", text("a\0b")),
    ];
    for target in TARGETS {
        let house = program(target);
        let reply = house.reply(&with_headers("program:about", "the body", &headers)).await;
        let lines = [
            "argument program",
            "argument program.about",
            "variable RPC_HEADER_GR__E=ü",
            "variable RPC_HEADER_RETRY_COUNT=3",
            "variable RPC_HEADER_X_TENANT=blue",
            "variable RPC_METHOD=program.about",
            "input the body\n",
        ];
        assert_eq!(String::from_utf8_lossy(&reply.body), lines.join("\n"), "{target}");
        let outside = house.call("program.outside", "").await;
        assert_eq!(outside, ("ok".to_owned(), "nothing".to_owned()), "{target}");
        let clock = house.call("program.clock", "").await.1;
        let [seconds, slept] = clock.split(' ').collect::<Vec<_>>()[..] else { panic!("{clock}") };
        assert!(seconds.parse::<u64>().unwrap() > 1_700_000_000, "{clock}");
        assert!(slept.parse::<u64>().unwrap() >= 5, "{clock}");
    }
}

#[tokio::test]
async fn a_failing_exit_is_an_error_with_the_last_of_stderr() {
    // `wasi:cli/exit` knows success and failure only.
    for (target, seven, three) in [("program-p1", 7, 3), ("program-p2", 1, 1)] {
        let house = program(target);
        assert_eq!(house.call("program.exit-0", "").await.0, "ok", "an end like any other");
        let failed = error(&house.reply(&delivery(Some("program.exit-7"), "")).await);
        let expected = json!({
            "code": seven,
            "kind": "application",
            "message": format!("the plugin `program` exited with status {seven}"),
            "retryable": false,
            "data": { "status": seven, "stderr": "" },
        });
        assert_eq!(failed, expected, "{target}");

        let failed = error(&house.reply(&delivery(Some("program.error"), "")).await);
        assert_eq!((&failed["kind"], &failed["code"]), (&json!("application"), &json!(1)));
        let said = failed["message"].as_str().unwrap();
        assert!(said.contains("the program is not content"), "{target}: {said}");

        let failed = error(&house.reply(&delivery(Some("program.complain"), "")).await);
        assert_eq!((&failed["kind"], &failed["code"]), (&json!("application"), &json!(three)));
        let stderr = failed["data"]["stderr"].as_str().unwrap();
        assert!(stderr.ends_with("complaint 99999\nthe last complaint"), "{target}: {stderr}");
        assert!((3000..=4096).contains(&stderr.len()), "{target}: {} bytes", stderr.len());
        let said = failed["message"].as_str().unwrap();
        assert!(said.ends_with(": the last complaint"), "{target}: {said}");
    }
    // Beyond what WASI 0.1 wants, and what C's `exit(-1)` becomes.
    let house = program("program-p1");
    for (exit, code) in [(126, 126), (255, 255), (-1, -1), (-32601, -32000)] {
        let method = format!("program.exit-{exit}");
        let failed = error(&house.reply(&delivery(Some(&method), "")).await);
        assert_eq!((&failed["kind"], &failed["code"]), (&json!("application"), &json!(code)));
    }
}

#[tokio::test]
async fn what_a_program_should_not_do_ends_with_its_kind() {
    for target in TARGETS {
        let house = program(target);
        for (method, kind) in [
            ("panic", "trap"),
            ("abort", "trap"),
            ("recurse", "trap"),
            ("loop", "timeout"),
            ("sleep", "timeout"),
            ("at-once", "ok"),
            ("too-much", "resource-exhausted"),
            ("flood", "resource-exhausted"),
            ("leak", "resource-exhausted"),
            ("give-up", "resource-exhausted"),
            ("grow", "ok"),
        ] {
            let (status, body) = house.call(&format!("program.{method}"), "x").await;
            assert_eq!(status, kind, "{target} {method}: {body}");
            assert_eq!(house.call("program", "well").await.1, "well", "after {method}");
        }
        let panicked = error(&house.reply(&delivery(Some("program.panic"), "")).await);
        assert_eq!(panicked["data"]["trap"], "unreachable");
        let stack = panicked["data"]["stack"].as_array().unwrap();
        assert!(stack.iter().any(|name| name.as_str().unwrap().contains("main")), "{stack:?}");
        let flooded = error(&house.reply(&delivery(Some("program.flood"), "")).await);
        let text = "the result of the plugin `program` has more than 16777216 bytes, the limit";
        assert_eq!(flooded["message"], text);
    }
}

#[tokio::test]
async fn json_rpc_calls_programs_too() {
    for target in TARGETS {
        let house = program(target);
        let ask = async |method: &str, params: Value| {
            let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
            let reply = house.reply(&delivery(None, body.to_string())).await;
            serde_json::from_slice::<Value>(&reply.body).unwrap()
        };
        let answer = ask("program", json!({"n": [1, null]})).await;
        assert_eq!(answer["result"], json!({"n": [1, null]}), "what is JSON goes in as JSON");
        assert_eq!(ask("program.upper", json!(["a"])).await["result"], json!(["A"]));
        assert_eq!(ask("program.ignore", json!([])).await["result"], "done", "{target}");
        let failed = ask("program.complain", json!([])).await;
        assert_eq!(failed["error"]["data"]["kind"], "application");
        let stderr = failed["error"]["data"]["data"]["stderr"].as_str().unwrap();
        assert!(stderr.ends_with("the last complaint"), "{stderr}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_run_beside_each_other_and_keep_nothing() {
    let house = std::sync::Arc::new(program("program-p1"));
    let calls: Vec<_> = (0..200)
        .map(|number| {
            let house = house.clone();
            tokio::spawn(async move { house.call("program", &number.to_string()).await })
        })
        .collect();
    for (number, call) in calls.into_iter().enumerate() {
        let (status, body) = call.await.unwrap();
        // A line has as many places as calls may run.
        assert!(status == "overloaded" || body == number.to_string(), "{number}: {status} {body}");
    }
}

#[test]
fn a_program_is_called_and_looked_at_without_a_broker() {
    for (target, import, files) in [
        ("program-p1", "wasi_snapshot_preview1::environ_get", "wasi_snapshot_preview1::path_open"),
        ("program-p2", "wasi:cli/environment@0.2", "wasi:filesystem/types@0.2"),
    ] {
        let file = guests::root().join(format!("target/guests/{target}.wasm"));
        let file = file.to_str().unwrap();
        let upper = format!("{target}.upper");
        for (args, code, out) in [
            (&["upper", "shout"][..], 0, "SHOUT\n"),
            (&[&upper, "--body", "a"], 0, "A\n"),
            (&[target, "text"], 0, "text\n"),
            (&["exit-0"], 0, ""),
            (&["exit-3"], 1, ""),
        ] {
            let output = command(&[&["call", "--file", file], args].concat()).output().unwrap();
            let err = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(code), "{args:?}: {err}");
            assert_eq!(String::from_utf8_lossy(&output.stdout).trim_end(), out.trim_end());
        }
        let output = command(&["inspect", file, "-o", "json"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let inspected: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(inspected["kind"], "command");
        let offer = |name: &str| {
            let imports = inspected["imports"].as_array().unwrap();
            let found = imports.iter().find(|i| i["name"].as_str().unwrap().starts_with(name));
            found.map(|import| import["granted"].as_bool().unwrap())
        };
        assert_eq!(offer(import), Some(true), "{inspected:#}");
        assert_eq!(offer(files), Some(false), "{inspected:#}");
    }
}

#[tokio::test]
async fn a_programs_own_limits_hold() {
    let slow = guests::built("program-p1");
    let house = house(
        &[
            ("program", &slow, "timeout = '100ms'\nkind = 'command'"),
            ("small", &slow, "memory-limit = '4MiB'"),
        ],
        None,
    );
    let begun = std::time::Instant::now();
    assert_eq!(house.call("program.sleep", "").await.0, "timeout");
    assert!(begun.elapsed() >= Duration::from_millis(100));
    assert_eq!(house.call("small", "x").await.0, "ok");
    let reply = house.reply(&delivery(Some("small.leak"), "")).await;
    assert_eq!(header(&reply, "rpchost-status").as_deref(), Some("resource-exhausted"));
    assert!(error(&reply)["message"].as_str().unwrap().contains("4.0 MiB"));
}
