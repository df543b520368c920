//! One client library for each language, sending as its RPC tutorial does:
//! the programs of `tests/clients`, against a host and a broker.
//!
//! A program takes the broker's URL, the queue and a body, prints the body of
//! the reply that has its correlation id, waits for ever for that one, and
//! ends with 1 if the reply is an error.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use rpchost::private_broker::PrivateBroker;
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::support::host::{Host, Options};
use crate::support::{broker, guests, unique, until};

/// How long a program may take, compiling and a busy machine included. Its own
/// share is below two seconds.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn the_python_library_is_answered() {
    let python = guests::root().join("target/venv/bin/python");
    is_answered("python", || command(&python, &[&source("python/rpc_client.py")])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_library_is_answered() {
    let modules = guests::root().join("target/clients/node/node_modules");
    is_answered("node", || {
        let mut node = command("node", &[&source("node/rpc_client.js")]);
        node.env("NODE_PATH", &modules);
        node
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_java_library_is_answered() {
    is_answered("java", java).await;
}

/// Its tutorial asks for all of them, with a new reply queue for each.
#[tokio::test(flavor = "multi_thread")]
async fn the_java_library_is_answered_32_times_in_a_row() {
    let broker = broker::shared().await;
    let queue = unique("java");
    let _host = serve(broker, &queue, "fib");
    let numbers: Vec<String> = (0..32).map(|number: u32| number.to_string()).collect();
    let answered = finish(start(java(), broker, &queue, &numbers)).await;
    let wanted: Vec<String> = (0..32).map(|number| fibonacci(number).to_string()).collect();
    assert_eq!(text(&answered).lines().collect::<Vec<_>>(), wanted, "{answered:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_go_library_is_answered() {
    let built = tempfile::tempdir().unwrap();
    let program = built.path().join("rpc_client");
    let mut go = command("go", &[OsStr::new("build"), OsStr::new("-o"), program.as_os_str()]);
    // The library is Debian's, in source; nothing is fetched.
    go.arg(source("go/rpc_client.go"))
        .env("GO111MODULE", "off")
        .env("GOPATH", "/usr/share/gocode")
        .env("GOCACHE", guests::root().join("target/clients/go"));
    build(go).await;
    is_answered("go", || Command::new(&program)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ruby_library_is_answered() {
    // Debian's: another one does not know Debian's libraries.
    is_answered("ruby", || command("/usr/bin/ruby", &[&source("ruby/rpc_client.rb")])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_php_library_is_answered() {
    // Debian's, as above.
    is_answered("php", || command("/usr/bin/php", &[&source("php/rpc_client.php")])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_c_library_is_answered() {
    let built = tempfile::tempdir().unwrap();
    let program = built.path().join("rpc_client");
    let mut cc = command("cc", &["-std=c11", "-Wall", "-Wextra", "-o"]);
    cc.arg(&program).arg(source("c/rpc_client.c")).arg("-lrabbitmq");
    build(cc).await;
    is_answered("c", || Command::new(&program)).await;
}

/// The library has an RPC client in it, which the tutorial does not use. That
/// one shows its user the body of a reply and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn the_ready_made_client_of_the_erlang_library_is_answered() {
    let broker = broker::shared().await;
    let libraries = erlang_libraries(broker).await;
    let queue = unique("erlang");
    for (plugin, code, wanted) in [("fib", 0, None), ("unreachable", 0, Some("trap"))] {
        let host = serve(broker, &queue, plugin);
        let client = erlang("amqp_rpc_client.escript", &libraries);
        let answered = finish(start(client, broker, &queue, &["30"])).await;
        expect(&answered, code, wanted);
        drop(host);
    }
}

/// It declares the request queue itself, transient, which fails where the
/// queue is durable: so the queue has to be its own, and the host follows.
#[tokio::test(flavor = "multi_thread")]
async fn the_erlang_library_is_answered_on_the_queue_it_has_declared_transient() {
    let broker = broker::shared().await;
    let libraries = erlang_libraries(broker).await;
    let queue = unique("erlang");
    let ask = || start(erlang("rpc_client.escript", &libraries), broker, &queue, &["30"]);
    let connection = broker::connect(&broker.amqp_url()).await;

    // Nobody serves yet: the queue is there once the request is.
    let asked = finish(ask());
    tokio::pin!(asked);
    let sent = until("the Erlang client's request", PATIENCE, || async {
        let Ok(channel) = connection.create_channel().await else { return false };
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let found =
            channel.queue_declare(queue.as_str().into(), passive, FieldTable::default()).await;
        found.is_ok_and(|queue| queue.message_count() == 1)
    });
    tokio::select! {
        ended = &mut asked => panic!("ended without an answer: {ended:?}"),
        () = sent => {}
    }
    let host = serve(broker, &queue, "fib");
    expect(&asked.await, 0, None);
    let log = host.log();
    let said: Vec<&str> =
        log.lines().filter(|line| line.contains("used as it is, although it differs")).collect();
    assert_eq!(said.len(), 1, "{log}");
    assert!(said[0].contains("durable"), "{log}");

    // Declared once more, while it is served.
    expect(&finish(ask()).await, 0, None);
    drop(host);
    let host = serve(broker, &queue, "unreachable");
    expect(&finish(ask()).await, 1, Some("trap"));
    drop(host);

    let channel = connection.create_channel().await.unwrap();
    let delete = QueueDeleteOptions::default();
    channel.queue_delete(queue.as_str().into(), delete).await.unwrap();
}

/// What every tutorial ends with: `30` is answered `832040`. The same message,
/// where the handler traps, is answered with an error.
async fn is_answered(language: &str, program: impl Fn() -> Command) {
    let broker = broker::shared().await;
    for (plugin, code, wanted) in [("fib", 0, None), ("unreachable", 1, Some("trap"))] {
        let queue = unique(language);
        let _host = serve(broker, &queue, plugin);
        expect(&finish(start(program(), broker, &queue, &["30"])).await, code, wanted);
    }
}

/// Checks how a program ended: with the result, or with an error of this kind.
fn expect(answered: &Output, code: i32, error: Option<&str>) {
    assert_eq!(answered.status.code(), Some(code), "{answered:?}");
    let body = text(answered);
    match error {
        None => assert_eq!(body.trim(), "832040", "{answered:?}"),
        Some(kind) => {
            let body: Value = serde_json::from_str(&body).expect("an error is JSON");
            assert_eq!(body["error"]["kind"], kind, "{answered:?}");
        }
    }
}

/// A host that serves one plugin alone, so that messages need not name it.
fn serve(broker: &PrivateBroker, queue: &str, plugin: &str) -> Host {
    let wasm = match plugin {
        "fib" => guests::built(plugin),
        _ => guests::guest(plugin).wasm,
    };
    Host::start(&Options::new(&broker.amqp_url(), queue), &[(plugin, &wasm)])
}

/// A file below `tests/clients`.
fn source(path: &str) -> PathBuf {
    guests::root().join("tests/clients").join(path)
}

fn command(program: impl AsRef<OsStr>, args: &[impl AsRef<OsStr>]) -> Command {
    let mut command = Command::new(program);
    command.args(args);
    command
}

/// Runs the source as it is: Java compiles it in memory.
fn java() -> Command {
    let jars = ["amqp-client", "slf4j-api", "slf4j-nop"];
    let path = jars.map(|jar| format!("/usr/share/java/{jar}.jar")).join(":");
    let mut java = command("java", &["-cp", &path]);
    java.arg(source("java/RpcClient.java"));
    java
}

fn erlang(script: &str, libraries: &Path) -> Command {
    let mut erlang = command("escript", &[&source("erlang").join(script)]);
    erlang.env("ERL_LIBS", libraries);
    erlang
}

/// Where the broker has its own libraries: the client is one of them.
async fn erlang_libraries(broker: &PrivateBroker) -> PathBuf {
    let shown = broker.ctl(&["eval", "filename:dirname(code:lib_dir(rabbit_common))."]).await;
    // As Erlang writes a text: in quotes.
    PathBuf::from(shown.unwrap().trim().trim_matches('"'))
}

/// Starts a program with the broker's URL, the queue and bodies. It is killed
/// when it is dropped.
fn start(
    mut program: Command,
    broker: &PrivateBroker,
    queue: &str,
    bodies: &[impl AsRef<OsStr>],
) -> Child {
    program.arg(broker.amqp_url()).arg(queue).args(bodies);
    spawn(program)
}

fn spawn(mut command: Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command.spawn().unwrap_or_else(|error| {
        panic!("{error}: {command:?}; run `tests/run.sh` once, which installs what this needs")
    })
}

/// Waits for its end.
async fn finish(program: Child) -> Output {
    tokio::time::timeout(PATIENCE, program.wait_with_output())
        .await
        .unwrap_or_else(|_| panic!("a client waited for {PATIENCE:?} in vain"))
        .expect("its output")
}

async fn build(compiler: Command) {
    let built = finish(spawn(compiler)).await;
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "run `tests/run.sh` once, it installs libraries: {said}");
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn fibonacci(number: u32) -> u64 {
    let mut pair = (0, 1);
    for _ in 0..number {
        pair = (pair.1, pair.0 + pair.1);
    }
    pair.0
}
