//! Core modules: with types in them or beside them they become components;
//! without, and without a start, they are refused.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rpchost::plugins::{Budget, Engine, Helper, Plugins, Reloader};
use rpchost::state_dir::{Claim, StateDir};
use rpchost::telemetry::Telemetry;
use tokio_util::sync::CancellationToken;

use crate::core::{House, house, limits};
use crate::support::host::{binary, command};
use crate::support::{guests, until};

const ADD: &str = "(module (func (export \"add\") (param i32 i32) (result i32) \
                   (i32.add (local.get 0) (local.get 1))))";
const ADD_WIT: &str = "package a:b; world w { export add: func(a: u32, b: u32) -> u32; }";

fn wasm(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// A plugin with a WIT file beside it, or why it is refused.
pub fn with_wit(name: &str, wasm: &[u8], wit: &str) -> Result<House, String> {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join(format!("{name}.wit")), wit).unwrap();
    let path = directory.path().join(format!("{name}.wasm"));
    fs::write(&path, wasm).unwrap();
    let served = Plugins::new(None);
    let engine = Engine::new(8).unwrap();
    served.load_file(&engine, &path, &limits()).map_err(|error| format!("{error:#}"))?;
    Ok(House::of(served, directory))
}

/// Why a file is refused.
fn refusal(wasm: &[u8]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("plugin.wasm");
    fs::write(&path, wasm).unwrap();
    let engine = Engine::new(1).unwrap();
    let loaded = Plugins::new(None).load_file(&engine, &path, &limits());
    format!("{:#}", loaded.expect_err("a refusal"))
}

#[tokio::test]
async fn a_module_that_brings_its_types_is_a_component() {
    // `fib` of the examples, by the targets whose modules are not components.
    for target in ["fib-p1", "fib-unknown"] {
        let fib = guests::built(target);
        assert!(fib.starts_with(b"\0asm\x01\0\0\0"), "{target}");
        let house = house(&[("fib", &fib, "")], None);
        assert_eq!(
            house.call("fib", "30").await,
            ("ok".to_owned(), "832040".to_owned()),
            "{target}"
        );
    }
}

#[tokio::test]
async fn a_module_with_its_types_beside_it_is_a_component() {
    let house = with_wit("sum", &wasm(ADD), ADD_WIT).unwrap();
    assert_eq!(house.call("sum", "[2, 3]").await, ("ok".to_owned(), "5".to_owned()));
    assert_eq!(house.call("sum.add", "{\"a\":1,\"b\":1}").await.1, "2");
    // The interfaces of this host need not be repeated there.
    let handler = fs::read_to_string(guests::root().join("tests/fixtures/wat/hello.wat")).unwrap();
    let wit = "package a:b; world w { export rpchost:rpc/handler@0.1.0; }";
    let house = with_wit("hello", &wasm(&handler), wit).unwrap();
    assert_eq!(house.call("hello", "").await, ("ok".to_owned(), "hello".to_owned()));
}

#[tokio::test]
async fn a_file_beside_a_component_is_not_looked_into() {
    let house = with_wit("hello", &guests::guest("hello").wasm, "this is no WIT").unwrap();
    assert_eq!(house.call("hello", "").await.1, "hello");
}

#[tokio::test]
async fn a_program_stays_one_whatever_its_libraries_import() {
    let program = "(module (memory (export \"memory\") 1) (func (export \"_start\")))";
    let wit = "package a:b; interface i { f: func(); } world w { import i; }";
    let house = with_wit("program", &wasm(program), wit).unwrap();
    assert_eq!(house.call("program.x", "").await, ("ok".to_owned(), String::new()));
}

#[test]
fn what_cannot_be_one_is_refused_with_the_reason() {
    let both = "(module (memory (export \"memory\") 1) (func (export \"_start\"))
                (func (export \"add\") (param i32 i32) (result i32) unreachable))";
    for (module, wit, reason) in [
        (ADD, "world", "its WIT file cannot be used: "),
        (ADD, "package a:b; world w { import nowhere:there/x; }", "nowhere:there"),
        (ADD, "package a:b; world v {} world w {}", "it has 2 worlds where one is needed"),
        (
            ADD,
            "package a:b; world w { export sub: func() -> u32; }",
            "cannot be made a component: ",
        ),
        (
            ADD,
            "package a:b; world w { export add: func(a: string) -> u32; }",
            "cannot be made a component: ",
        ),
        (ADD, "package a:b; world w { }", "it exports nothing that can be called"),
        (both, ADD_WIT, "it is both a command and a typed"),
    ] {
        let refused = with_wit("sum", &wasm(module), wit).err().expect(wit);
        assert!(refused.contains(reason), "{wit}: {refused}");
        assert!(!refused.contains('\n'), "{refused}");
    }
    for (module, reason) in [
        (ADD, "it has no WIT metadata, and no `_start` that would make it a program; put its WIT"),
        ("(module)", "it is a core module that says nothing of its types"),
        ("(module (func (export \"_start\") (param i32)))", "`_start` is no function without"),
        (
            "(module (import \"env\" \"f\" (func)) (func (export \"_start\")))",
            "unknown import: `env::f`",
        ),
        (
            "(module (import \"wasi_snapshot_preview1\" \"fork\" (func)) (func (export \"_start\")))",
            "`wasi_snapshot_preview1::fork`",
        ),
        ("(module (memory 2000) (func (export \"_start\")))", "it starts with 125.0 MiB of memory"),
        ("(module (table 9000000 funcref) (func (export \"_start\")))", "table"),
        ("(module (memory i64 1) (func (export \"_start\")))", "it is not a valid core module: "),
        ("(module (@custom \"component-type:x\" \"nonsense\"))", "its WIT metadata cannot be read"),
    ] {
        let refused = refusal(&wasm(module));
        assert!(refused.contains(reason), "{module}: {refused}");
        assert!(!refused.contains('\n'), "{refused}");
    }
    let mut cut = guests::built("program-p1");
    cut.truncate(cut.len() / 2);
    assert!(refusal(&cut).contains("it is not a valid core module: "), "{}", refusal(&cut));
}

#[test]
fn a_program_that_is_said_to_be_something_else_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("p.wasm"), guests::built("program-p1")).unwrap();
    fs::write(directory.path().join("p.toml"), "kind = 'typed'").unwrap();
    let engine = Engine::new(1).unwrap();
    let loaded = Plugins::new(None).load_file(&engine, &directory.path().join("p.wasm"), &limits());
    let refused = format!("{:#}", loaded.expect_err("a refusal"));
    assert!(refused.ends_with("says `kind = \"typed\"`, but it exports nothing of that kind"));
}

fn helper() -> Helper {
    Helper { program: binary().into(), budget: Budget::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn helpers_make_the_same_of_them_and_it_is_kept() {
    let outer = tempfile::tempdir().unwrap();
    let telemetry = Telemetry::new().unwrap();
    let load = |name: &str, wasm: &[u8], wit: Option<&str>| {
        let state = StateDir::open(&outer.path().join("state"), Claim::Alone).unwrap();
        let engine = Engine::with_helper(2, helper(), Some(&state), telemetry.clone()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(format!("{name}.wasm"));
        fs::write(&path, wasm).unwrap();
        if let Some(wit) = wit {
            fs::write(path.with_extension("wit"), wit).unwrap();
        }
        let served = Plugins::new(None);
        let load = || served.load_file(&engine, &path, &limits());
        let loaded = tokio::task::block_in_place(load);
        loaded.map(|()| House::of(served, directory)).map_err(|error| format!("{error:#}"))
    };
    let kept = || fs::read_dir(outer.path().join("state/compiled")).unwrap().count() - 1;
    let program = guests::built("program-p1");
    let other_wit = ADD_WIT.replace("add: func(a: u32", "add: func(other: u32");
    for _ in 0..2 {
        let house = load("program", &program, None).unwrap();
        assert_eq!(house.call("program.upper", "a").await.1, "A\n");
        let house = load("fib", &guests::built("fib-p1"), None).unwrap();
        assert_eq!(house.call("fib", "10").await.1, "55");
        let house = load("sum", &wasm(ADD), Some(ADD_WIT)).unwrap();
        assert_eq!(house.call("sum", "{\"a\":1,\"b\":2}").await.1, "3");
        let house = load("sum", &wasm(ADD), Some(&other_wit)).unwrap();
        assert_eq!(house.call("sum", "{\"other\":1,\"b\":2}").await.1, "3");
        assert_eq!(kept(), 4, "each is kept once, and one for each WIT");
    }
    for (wasm, wit, reason) in [
        (wasm(ADD), None, "it is a core module that says nothing of its types"),
        (wasm(ADD), Some("world"), "its WIT file cannot be used: "),
        (program[..program.len() / 2].to_vec(), None, "it is not a valid core module: "),
        (
            wasm("(module (@custom \"component-type:x\" \"nonsense\"))"),
            None,
            "its WIT metadata cannot be read",
        ),
    ] {
        let refused = load("plugin", &wasm, wit).err().expect(reason);
        assert!(refused.contains(reason), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_file_beside_it_is_a_new_version() {
    let directory = tempfile::tempdir().unwrap();
    let put = |name: &str, bytes: &[u8]| put(directory.path(), name, bytes);
    put("sum.wit", ADD_WIT.as_bytes());
    put("sum.wasm", &wasm(ADD));
    let plugins = Plugins::new(None);
    let reloader = Reloader::new(
        directory.path().to_owned(),
        Engine::new(8).unwrap(),
        limits(),
        plugins.clone(),
        Telemetry::new().unwrap(),
    )
    .unwrap();
    let reloader = reloader.first_look().await.unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(reloader.run(stop.clone()));
    let finds = |method: &str| plugins.find(Some(method)).is_ok();
    assert!(finds("sum.add"));
    let renamed = ADD_WIT.replace("add:", "plus:");
    let plus = ADD.replace("\"add\"", "\"plus\"");
    // Neither fits the other; what fits serves on until both are there.
    put("sum.wit", renamed.as_bytes());
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(finds("sum.add"));
    put("sum.wasm", &wasm(&plus));
    until("the new version", Duration::from_secs(20), || async { finds("sum.plus") }).await;
    assert!(!finds("sum.add"));
    // The WIT alone.
    put("sum.wit", renamed.replace("package a:b", "package c:d").replace("world w {", "world w { export i; } interface i { plus: func(a: u32, b: u32) -> u32; } world v {").as_bytes());
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(finds("sum.plus"), "two worlds are refused");
    put("sum.wit", renamed.replace("plus: func(a: u32", "plus: func(first: u32").as_bytes());
    let house = House::of(plugins, tempfile::tempdir().unwrap());
    until("the new name", Duration::from_secs(20), || async {
        house.call("sum", "{\"first\":1,\"b\":2}").await.1 == "3"
    })
    .await;
    stop.cancel();
    running.await.unwrap();
}

fn put(directory: &Path, name: &str, bytes: &[u8]) {
    let temporary = directory.join(format!(".{name}.tmp"));
    fs::write(&temporary, bytes).unwrap();
    fs::rename(&temporary, directory.join(name)).unwrap();
}

#[test]
fn a_module_is_looked_at_with_the_file_beside_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sum.wasm");
    fs::write(&path, wasm(ADD)).unwrap();
    let path = path.to_str().unwrap();
    let refused = command(&["inspect", path]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("`<plugin>.wit`"));
    fs::write(directory.path().join("sum.wit"), ADD_WIT).unwrap();
    let shown = command(&["inspect", path]).output().unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("sum.add") && shown.contains("typed"), "{shown}");
    let called = command(&["call", "--file", path, "add", "40", "2"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&called.stdout), "42\n");
}
