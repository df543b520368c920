//! Helpers that compile, and what is kept of their work.

use std::fs;
use std::path::{Path, PathBuf};

use std::time::{Duration, Instant};

use lapin::BasicProperties;
use rpchost::config::Limits;
use rpchost::plugins::{Budget, Engine, Helper, Plugins, Reloader};
use rpchost::state_dir::{Claim, StateDir};
use rpchost::telemetry::Telemetry;
use rustix::process::{Pid, Signal, kill_process};
use tokio_util::sync::CancellationToken;

use crate::support::host::{Host, Options, binary, command};
use crate::support::ledger::{Load, call, header};
use crate::support::{broker, guests, unique, until};

/// Longer than a bomb takes to meet the limits, on a machine with other work.
const PATIENCE: Duration = Duration::from_secs(500);

fn helper(budget: Budget) -> Helper {
    Helper { program: PathBuf::from(binary()), budget }
}

/// What loading this component comes to, through `helper`.
fn load_with(helper: Helper, wasm: &[u8]) -> Result<(), String> {
    let engine = Engine::with_helper(1, helper, None, Telemetry::new().unwrap()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("plugin.wasm");
    fs::write(&path, wasm).unwrap();
    let loaded = Plugins::new(None).load_file(&engine, &path, &limits());
    loaded.map_err(|error| format!("{error:#}"))
}

fn limits() -> Limits {
    crate::core::limits()
}

/// `hello`, and beside it a module that nobody uses but everybody compiles.
fn hello_with(module: &[u8]) -> Vec<u8> {
    let mut wasm = guests::guest("hello").wasm;
    wasm.push(1);
    leb(&mut wasm, module.len());
    wasm.extend_from_slice(module);
    wasm
}

/// A core module of that many functions without parameters or results.
fn module(functions: usize, body: &[u8]) -> Vec<u8> {
    let mut wasm = b"\0asm\x01\0\0\0".to_vec();
    section(&mut wasm, 1, &[1, 0x60, 0, 0]);
    let mut types = Vec::new();
    leb(&mut types, functions);
    types.resize(types.len() + functions, 0);
    section(&mut wasm, 3, &types);
    let mut code = Vec::new();
    leb(&mut code, functions);
    for _ in 0..functions {
        leb(&mut code, body.len());
        code.extend_from_slice(body);
    }
    section(&mut wasm, 10, &code);
    wasm
}

fn section(wasm: &mut Vec<u8>, id: u8, content: &[u8]) {
    wasm.push(id);
    leb(wasm, content.len());
    wasm.extend_from_slice(content);
}

fn leb(bytes: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        bytes.push(u8::try_from(number & 0x7f).unwrap() | 0x80);
        number >>= 7;
    }
    bytes.push(u8::try_from(number).unwrap());
}

/// A function of a thousand variables that are changed under ever new
/// conditions, which compilers take hard.
fn tangled(conditions: usize) -> Vec<u8> {
    let mut body = vec![1];
    leb(&mut body, 1000);
    body.push(0x7f);
    for index in 0..conditions {
        let (one, other) = (index % 1000, index * 7 % 1000);
        body.push(0x20);
        leb(&mut body, one);
        body.extend_from_slice(&[0x04, 0x40, 0x20]);
        leb(&mut body, other);
        body.extend_from_slice(&[0x41, 1, 0x6a, 0x21]);
        leb(&mut body, one);
        body.push(0x0b);
    }
    body.push(0x0b);
    body
}

/// Several seconds of work, within the limits.
fn heavy() -> Vec<u8> {
    hello_with(&module(12, &tangled(12_000)))
}

/// More than any helper may do: 64 MB, a million functions.
fn bomb() -> Vec<u8> {
    let wasm = hello_with(&module(1_000_000, &tangled(5)));
    assert!((60_000_000..70_000_000).contains(&wasm.len()), "{} bytes", wasm.len());
    wasm
}

/// The helpers of a process that runs.
fn helpers_of(host: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").unwrap().map_while(Result::ok);
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers
        .filter(|pid| {
            let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).ok();
            // Behind the name in brackets: the state, and the parent.
            let parent = read("stat").and_then(|stat| {
                stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse::<u32>().ok()
            });
            parent == Some(host)
                && read("cmdline").is_some_and(|line| line.contains("compile-component"))
        })
        .collect()
}

fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, signal).expect("a signal");
}

/// A program in place of the helper. Written by another process: one that is
/// forked elsewhere at this moment must not hold it open for writing.
fn script(directory: &Path, text: &str) -> Helper {
    let (source, program) = (directory.join("script"), directory.join("helper"));
    fs::write(&source, text).unwrap();
    let mut install = std::process::Command::new("install");
    assert!(install.args(["-m", "755"]).arg(source).arg(&program).status().unwrap().success());
    Helper { program, budget: Budget::default() }
}

#[test]
fn a_bomb_meets_the_limits_of_its_helper() {
    let heavy = heavy();
    let hello = guests::guest("hello").wasm;
    let budget = Budget::default();
    for (budget, wasm, said) in [
        (Budget { memory: 320 << 20, ..budget }, &heavy, "takes more than 320.0 MiB of memory"),
        (Budget { cpu: 1, ..budget }, &heavy, "takes more than 1 s of processor time"),
        (Budget { wall: Duration::from_millis(300), ..budget }, &heavy, "not done after 300ms"),
        (Budget { output: 1024, ..budget }, &hello, "native code has more than 1.0 KiB"),
    ] {
        let refused = load_with(helper(budget), wasm).unwrap_err();
        assert!(refused.contains(said), "{refused}");
    }
    load_with(helper(budget), &hello).unwrap();
}

#[test]
fn a_component_that_is_none_is_refused_in_the_words_of_the_compiler() {
    let wasm = guests::guest("hello").wasm;
    let refused = load_with(helper(Budget::default()), &wasm[..wasm.len() - 40]).unwrap_err();
    assert!(
        refused.contains("it is not a valid component: failed to parse WebAssembly"),
        "{refused}"
    );
}

#[test]
fn a_helper_that_cannot_start_or_dies_is_a_reason() {
    let hello = guests::guest("hello").wasm;
    let missing = Helper { program: PathBuf::from("/nonexistent"), budget: Budget::default() };
    let refused = load_with(missing, &hello).unwrap_err();
    assert!(refused.contains("could not be started: No such file"), "{refused}");
    for (text, said) in [
        ("#!/bin/sh\nkill -9 $$\n", "was killed"),
        ("#!/bin/sh\nkill -TERM $$\n", "was ended (signal: 15"),
        ("#!/bin/sh\nkill -SEGV $$\n", "the compiler failed on it (signal: 11"),
        ("#!/bin/sh\necho no threads >&2; exit 3\n", "it failed: no threads"),
        ("#!/bin/sh\necho this is no native code\n", "what was compiled cannot be loaded"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let refused = load_with(script(directory.path(), text), &hello).unwrap_err();
        assert!(refused.contains(said), "{refused}");
    }
}

#[test]
fn a_helper_knows_nothing_of_its_host() {
    let directory = tempfile::tempdir().unwrap();
    let seen = directory.path().join("seen");
    let text = format!(
        "#!/bin/sh\n{{ export -p; ls -l /proc/$$/fd; pwd; }} > {0}; exec {1} \"$@\"\n",
        seen.display(),
        binary()
    );
    let helper = script(directory.path(), &text.replace("ls -l", "/bin/ls -l"));
    load_with(helper, &guests::guest("hello").wasm).unwrap();
    let seen = fs::read_to_string(seen).unwrap();
    assert!(!seen.contains("CARGO") && !seen.contains("HOME"), "{seen}");
    assert!(!seen.contains("socket:") && !seen.contains("anon_inode:"), "{seen}");
    assert_eq!(seen.lines().last(), Some("/"), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_helper_that_was_killed_is_started_again() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path().join("plugins");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("hello.wasm"), guests::guest("hello").wasm).unwrap();
    let text = format!(
        "#!/bin/sh\n[ -e {0} ] || {{ : > {0}; kill -9 $$; }}\nexec {1} \"$@\"\n",
        directory.path().join("once").display(),
        binary()
    );
    let telemetry = Telemetry::new().unwrap();
    let helper = script(directory.path(), &text);
    let engine = Engine::with_helper(1, helper, None, telemetry.clone()).unwrap();
    let plugins = Plugins::new(None);
    let reloader = Reloader::new(folder, engine, limits(), plugins.clone(), telemetry).unwrap();
    let reloader = reloader.first_look().await.unwrap();
    assert!(plugins.names().is_empty());
    let stop = CancellationToken::new();
    let running = tokio::spawn(reloader.run(stop.clone()));
    until("another attempt", Duration::from_secs(60), || async { plugins.names().len() == 1 })
        .await;
    stop.cancel();
    running.await.unwrap();
}

/// A state directory, and engines that keep there what they compile.
struct Kept {
    outer: tempfile::TempDir,
    telemetry: Telemetry,
}

impl Kept {
    fn new() -> Self {
        Self { outer: tempfile::tempdir().unwrap(), telemetry: Telemetry::new().unwrap() }
    }

    /// Loads `hello` as a host would that starts now, and calls nothing.
    fn load(&self, wasm: &[u8]) {
        let state = StateDir::open(&self.outer.path().join("state"), Claim::Alone).unwrap();
        let helper = helper(Budget::default());
        let engine = Engine::with_helper(1, helper, Some(&state), self.telemetry.clone()).unwrap();
        let path = self.outer.path().join("hello.wasm");
        fs::write(&path, wasm).unwrap();
        Plugins::new(None).load_file(&engine, &path, &limits()).unwrap();
    }

    /// Hits, misses, and what was unfit; and how often something was compiled.
    fn counted(&self) -> [u64; 4] {
        let text = self.telemetry.scrape().unwrap();
        let sample = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
                .unwrap_or(0)
        };
        [
            sample("rpchost_compile_cache_total{result=\"hit\"}"),
            sample("rpchost_compile_cache_total{result=\"miss\"}"),
            sample("rpchost_compile_cache_total{result=\"unfit\"}"),
            sample("rpchost_compile_seconds_count"),
        ]
    }

    /// The one entry.
    fn entry(&self) -> PathBuf {
        let files = fs::read_dir(self.outer.path().join("state/compiled")).unwrap();
        let paths = files.map(|entry| entry.unwrap().path());
        let mut entries: Vec<_> =
            paths.filter(|path| path.extension().is_some_and(|end| end == "cwasm")).collect();
        assert_eq!(entries.len(), 1, "{entries:?}");
        entries.remove(0)
    }
}

#[test]
fn a_component_is_compiled_once_and_what_was_changed_is_not_run() {
    let (kept, other) = (Kept::new(), Kept::new());
    let hello = guests::guest("hello").wasm;
    kept.load(&hello);
    assert_eq!(kept.counted(), [0, 1, 0, 1]);
    kept.load(&hello);
    assert_eq!(kept.counted(), [1, 1, 0, 1]);
    // One byte of its code.
    let mut bytes = fs::read(kept.entry()).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(kept.entry(), &bytes).unwrap();
    kept.load(&hello);
    assert_eq!(kept.counted(), [1, 1, 1, 2]);
    kept.load(&hello);
    assert_eq!(kept.counted(), [2, 1, 1, 2]);
    // What another user's host has made of the very same component.
    other.load(&hello);
    fs::copy(other.entry(), kept.entry()).unwrap();
    kept.load(&hello);
    assert_eq!(kept.counted(), [2, 1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bomb_is_refused_while_calls_flow_and_other_plugins_load() {
    let broker = broker::shared().await;
    let queue = unique("bomb");
    let hello = guests::guest("hello").wasm;
    let mut host = Host::start(&Options::new(&broker.amqp_url(), &queue), &[("hello", &hello)]);
    let load =
        Load::start(&broker.amqp_url(), &queue, 200, |_| ("hello".to_owned(), b"x".to_vec())).await;
    until("calls", PATIENCE, || async { load.ledger.confirmed() > 2000 }).await;
    let resident = host.resident();
    let begun = Instant::now();
    host.put("bomb", &bomb());
    until("a helper", PATIENCE, || async { !helpers_of(host.id()).is_empty() }).await;

    // Behind the bomb, not after it.
    host.put("mirror", &guests::guest("mirror").wasm);
    let connection = broker::connect(&broker.amqp_url()).await;
    let channel = connection.create_channel().await.unwrap();
    until("the other plugin", PATIENCE, || async {
        let asked = BasicProperties::default().with_type("mirror".into());
        let reply = call(&channel, &queue, asked, b"x").await;
        header(&reply, "rpchost-status").as_deref() == Some("ok")
    })
    .await;
    assert!(!host.log().contains("`bomb.wasm` is refused"), "{}", host.log());

    let refused = "`bomb.wasm` is refused: compiling it takes more than";
    until("the bomb's end", PATIENCE, || async { host.log().contains(refused) }).await;
    let ended = Instant::now();
    eprintln!("the bomb was refused after {:?}", ended - begun);
    until("its helper's end", PATIENCE, || async { helpers_of(host.id()).is_empty() }).await;
    let grown = host.resident().saturating_sub(resident);
    assert!(grown < 400 << 20, "the host has grown by {grown} bytes");
    let ledger = load.finish(PATIENCE).await;
    assert!(host.is_running());
    assert_eq!((ledger.lost(), ledger.duplicates()), (0, 0));
    let p99 = |what: &str, is: &dyn Fn(Instant) -> bool| {
        let mut times: Vec<Duration> = (ledger.entries().values())
            .filter(|entry| is(entry.sent))
            .filter_map(|entry| Some(entry.answers.first()?.at - entry.sent))
            .collect();
        times.sort();
        let at = |percent: usize| times[times.len() * percent / 100];
        eprintln!("{} calls {what}: median {:?}, p99 {:?}", times.len(), at(50), at(99));
        at(99)
    };
    p99("before it", &|sent| sent < begun);
    let beside = p99("beside it", &|sent| sent > begun && sent < ended);
    assert_eq!(ledger.count(|entry| entry.answers.iter().any(|answer| answer.status != "ok")), 0);
    // A call that waits for the compiler would take half a minute.
    assert!(beside < Duration::from_secs(5), "{beside:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_helper_ends_with_its_host() {
    let broker = broker::shared().await;
    let queue = unique("orphan");
    let hello = guests::guest("hello").wasm;
    let mut host = Host::start(&Options::new(&broker.amqp_url(), &queue), &[("hello", &hello)]);
    host.put("bomb", &bomb());
    until("a helper", PATIENCE, || async { !helpers_of(host.id()).is_empty() }).await;
    let helpers = helpers_of(host.id());
    host.signal(Signal::KILL);
    host.ended(PATIENCE).await;
    until("its helper's end", Duration::from_secs(10), || async {
        // Nobody else may have taken the number for the same purpose.
        helpers.iter().all(|pid| {
            let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            !line.contains("compile-component")
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_a_compiler_and_a_killed_one_is_said() {
    let broker = broker::shared().await;
    let queue = unique("stop");
    let hello = guests::guest("hello").wasm;
    let mut host = Host::start(&Options::new(&broker.amqp_url(), &queue), &[("hello", &hello)]);
    host.put("bomb", &bomb());
    until("a helper", PATIENCE, || async { !helpers_of(host.id()).is_empty() }).await;
    signal(helpers_of(host.id())[0], Signal::KILL);
    until("a reason", PATIENCE, || async {
        host.log().contains("was killed, as happens where memory runs out; it is tried again")
    })
    .await;
    until("another helper", PATIENCE, || async { !helpers_of(host.id()).is_empty() }).await;
    host.signal(Signal::TERM);
    assert_eq!(host.ended(Duration::from_secs(10)).await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_state_directory_is_one_hosts_and_the_default_is_shared() {
    let broker = broker::shared().await;
    let (url, queue) = (broker.amqp_url(), unique("state"));
    let outer = tempfile::tempdir().unwrap();
    let named = outer.path().join("rpchost");
    let hello = guests::guest("hello").wasm;
    let plugins: &[(&str, &[u8])] = &[("hello", &hello)];
    let options = Options::new(&url, &queue);
    let alone = Host::start(&options.clone().state(&named), plugins);
    let said = command(&["serve", "--admin", "off"])
        .arg("--plugins")
        .arg(alone.plugins())
        .arg("--state-dir")
        .arg(&named)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&said.stderr);
    assert_eq!(said.status.code(), Some(2), "{text}");
    assert!(text.contains("is another running host's; give each host its own"), "{text}");
    // To one that was told nothing it is a warning: this is not its doing.
    let beside = Host::start(&options.clone().shared_state(outer.path()), plugins);
    assert_eq!(beside.log().matches("compiled plugins are not kept").count(), 1);
    drop((alone, beside));
    let one = Host::start(&options.clone().shared_state(outer.path()), plugins);
    let two = Host::start(&options.shared_state(outer.path()), plugins);
    for host in [one, two] {
        assert!(!host.log().contains("WARN"), "{}", host.log());
        assert_eq!(host.metric("rpchost_compile_cache_total{result=\"hit\"}"), 1.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_serves_without_a_state_directory_and_says_so_once() {
    let broker = broker::shared().await;
    let queue = unique("stateless");
    let (hello, mirror) = (guests::guest("hello").wasm, guests::guest("mirror").wasm);
    let outer = tempfile::tempdir().unwrap();
    let gone = outer.path().join("state");
    let options = Options::new(&broker.amqp_url(), &queue);
    // One that cannot be made, and one that takes nothing any more.
    for path in [Path::new("/dev/null/state"), &gone] {
        let host = Host::start(&options.clone().state(path), &[("hello", &hello)]);
        if path == gone {
            fs::remove_dir_all(&gone).unwrap();
        }
        for name in ["mirror", "third"] {
            host.put(name, &mirror);
            until(name, PATIENCE, || async { host.log().contains(&format!("plugin={name}@")) })
                .await;
        }
        assert_eq!(host.log().matches("compiled plugins are not kept").count(), 1);
        assert_eq!(host.metric("rpchost_plugins"), 3.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn compiled_code_in_the_plugin_directory_is_refused() {
    let broker = broker::shared().await;
    let queue = unique("cwasm");
    let (outer, hello) = (tempfile::tempdir().unwrap(), guests::guest("hello").wasm);
    let state = outer.path().join("state");
    let options = Options::new(&broker.amqp_url(), &queue).state(&state);
    let host = Host::start(&options, &[("hello", &hello)]);
    let compiled = fs::read_dir(state.join("compiled")).unwrap().map(|entry| entry.unwrap().path());
    let compiled = compiled.filter(|path| path.extension().is_some_and(|end| end == "cwasm"));
    let entry = fs::read(compiled.last().unwrap()).unwrap();
    fs::write(host.plugins().join("native.cwasm"), &entry).unwrap();
    host.put("bare", &entry[32..]);
    for reason in [
        "\"native.cwasm\" is not served: precompiled code is never loaded",
        "`bare.wasm` is refused: it is precompiled native code",
    ] {
        until(reason, PATIENCE, || async { host.log().contains(reason) }).await;
    }
    assert_eq!(host.metric("rpchost_plugins"), 1.0);
}
