//! Services of other libraries, called by `rpchost call`: each a small program of
//! `tests/clients`, as that library's own users write it.

use std::process::Stdio;
use std::time::Duration;

use rpchost::private_broker::PrivateBroker;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::support::host::command;
use crate::support::{broker, guests, unique};

/// How long a service may take to start, on a busy machine. Its own share is a few
/// seconds.
const READY: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn a_nameko_service_is_called() {
    let broker = own_broker().await;
    let url = broker.amqp_url();
    let call = Calls { url: &url, dialect: "nameko" };
    // Before anybody has served.
    call.nobody(&["math.fib", "30"], "there is no exchange `nameko-rpc`").await;
    let service = python("nameko_service.py", &[&url]).await;
    call.result(&["math.fib", "30"], "832040").await;
    call.result(&["math.fib", "n=30"], "832040").await;
    call.result(&["math.add", "40", "b=2"], "42").await;
    call.result(&["math.add", "--params", "[40, 2]"], "42").await;
    call.result(&["math.nothing"], "null").await;
    call.error(
        &["math.fib", "93"],
        json!({
            "kind": "application",
            "message": "('too large', 93)",
            "data": { "type": "__main__.OutOfRange", "args": ["too large", "93"] },
        }),
    )
    .await;
    call.error(
        &["math.nope", "1"],
        json!({
            "kind": "method-not-found",
            "message": "nope",
            "data": { "type": "nameko.exceptions.MethodNotFound", "args": ["nope"] },
        }),
    )
    .await;
    let told = call.told(&["math.fib", "1", "2"]).await;
    assert_eq!(told["kind"], "invalid-params", "{told}");
    call.nobody(&["nobody.fib", "1"], "`nameko-rpc` has no queue for the key `nobody.fib`").await;
    call.usage(&["fib", "30"], "`service.method`").await;
    call.usage(&["math.fib", "30", "--queue", "q"], "leave out `--queue`").await;
    drop(service);
    gone(&url, "rpc-math").await;
    call.nobody(&["math.fib", "30"], "nobody consumes the queue `rpc-math`").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_celery_worker_is_called() {
    let broker = own_broker().await;
    let url = broker.amqp_url();
    let call = Calls { url: &url, dialect: "celery" };
    call.nobody(&["math.fib", "30"], "there is no queue `celery`").await;
    let _service = python("celery_service.py", &[&url]).await;
    call.result(&["math.fib", "30"], "832040").await;
    call.result(&["math.add", "40", "b=2"], "42").await;
    call.result(&["math.second_time"], "\"done\"").await;
    let told = call.told(&["math.fib", "93"]).await;
    assert_eq!(told["kind"], "application", "{told}");
    assert_eq!(told["message"], r#"["too large", 93]"#, "{told}");
    assert_eq!(told["data"]["type"], "ValueError", "{told}");
    assert_eq!(told["data"]["args"], json!(["too large", 93]), "{told}");
    assert!(told["data"]["traceback"].as_str().unwrap().starts_with("Traceback"), "{told}");
    let told = call.told(&["math.nope"]).await;
    assert_eq!(told["kind"], "method-not-found", "{told}");
    assert_eq!(told["data"]["type"], "celery.exceptions.NotRegistered", "{told}");
    let told = call.told(&["math.fib", "1", "2"]).await;
    assert_eq!(told["data"]["type"], "TypeError", "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_of_aio_pika_are_called() {
    let broker = own_broker().await;
    let url = broker.amqp_url();
    let _service = python("aio_pika_service.py", &[&url]).await;
    let call = Calls { url: &url, dialect: "aio-pika" };
    call.result(&["math.fib", "n=30"], "832040").await;
    call.result(&["nothing"], "null").await;
    call.result(&["sums::fib", "n=30"], "832040").await;
    call.error(
        &["math.fib", "n=93"],
        json!({
            "kind": "application",
            "message": "ValueError('too large', 93)",
            "data": { "type": "ValueError", "args": ["too large", 93] },
        }),
    )
    .await;
    let told = call.told(&["math.fib", "m=1"]).await;
    assert_eq!(told["data"]["type"], "TypeError", "{told}");
    let told = call.told(&["pickled", "n=1"]).await;
    assert!(told["message"].as_str().unwrap().contains("pickles"), "{told}");
    call.nobody(&["nope", "n=1"], "there is no queue `nope`").await;
    call.usage(&["math.fib", "30"], "write `name=value`").await;
    call.usage(&["math.fib", "n=30", "--queue", "q"], "leave out `--queue`").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_reads_envelopes_is_called() {
    let broker = broker::shared().await;
    let url = broker.amqp_url();
    let call = Calls { url: &url, dialect: "envelope" };
    for form in ["response", "flat"] {
        let queue = unique("envelope");
        let _service = python("envelope_service.py", &[&url, &queue, form]).await;
        let with = |args: &[&'static str]| to_queue(args, &queue);
        call.result(&with(&["math:fib", "30"]), "832040").await;
        call.result(&with(&["math:fib", "n=30"]), "832040").await;
        let told = call.told(&with(&["math:fib", "93"])).await;
        assert_eq!(told["message"], "ValueError: too large", "{told}");
        let traced = told["data"]["traceback"].is_string();
        assert_eq!(traced, form == "response", "{told}");
        let told = call.told(&with(&["math:nope", "1"])).await;
        assert_eq!(told["message"], "KeyError: 'math:nope'", "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_microservice_of_nestjs_is_called() {
    let broker = broker::shared().await;
    let url = broker.amqp_url();
    let queue = unique("nestjs-service");
    let mut node = Command::new("node");
    node.arg(guests::root().join("tests/clients/node/nestjs_service.js"));
    node.env("NODE_PATH", guests::root().join("target/clients/node/node_modules"));
    let _service = ready(node, &[&url, &queue]).await;
    let call = Calls { url: &url, dialect: "nestjs" };
    let with = |args: &[&'static str]| to_queue(args, &queue);
    call.result(&with(&[r#"{"cmd":"fib"}"#, "n=30"]), "832040").await;
    call.result(&with(&["add", "40", "2"]), "42").await;
    call.result(&with(&["nothing"]), "null").await;
    call.error(&with(&[r#"{"cmd":"fib"}"#, "n=93"]), json!({ "code": 42, "message": "too large" }))
        .await;
    call.error(
        &with(&["broken"]),
        json!({ "status": "error", "message": "Internal server error" }),
    )
    .await;
    let message = "There is no matching message handler defined in the remote service.";
    call.error(&with(&["nope"]), json!({ "kind": "method-not-found", "message": message })).await;
}

/// The host answers each as its library's service does, and says itself which kind of
/// error it is.
#[tokio::test]
async fn a_file_is_called_in_every_dialect() {
    let file = guests::root().join("target/guests/math.wasm");
    let file = file.to_str().expect("a path");
    for (dialect, method, [good, bad]) in [
        ("plain", "fib", ["30", "93"]),
        ("json-rpc", "fib", ["30", "93"]),
        ("envelope", "math:fib", ["30", "93"]),
        ("nameko", "fib", ["30", "93"]),
        ("celery", "math.fib", ["n=30", "n=93"]),
        ("nestjs", r#"{"cmd":"math.fib"}"#, ["n=30", "n=93"]),
        ("nestjs", "fib", ["30", "93"]),
        ("aio-pika", "fib", ["n=30", "n=93"]),
    ] {
        let call = Calls { url: "amqp://127.0.0.1:1", dialect };
        call.result(&[method, good, "--file", file], "832040").await;
        let told = call.told(&[method, bad, "--file", file]).await;
        assert!(told["message"].as_str().unwrap().ends_with("too-large"), "{dialect}: {told}");
        let kind = told.get("kind").unwrap_or(&told["data"]["kind"]);
        assert_eq!(kind, "application", "{dialect}: {told}");
    }
    let call = Calls { url: "amqp://127.0.0.1:1", dialect: "celery" };
    let told = call.told(&["fib", "x", "--file", file]).await;
    assert_eq!(told["kind"], "invalid-params", "{told}");
    assert_eq!(told["data"]["type"], "TypeError", "{told}");
}

/// What is checked is the same with all of them: ids, answers, what is not the last word.
#[tokio::test(flavor = "multi_thread")]
async fn verify_and_bench_speak_what_they_can() {
    let broker = own_broker().await;
    let url = broker.amqp_url();
    let run = |args: &'static [&'static str]| ended(&url, args);
    let nobody = run(&["verify", "math.fib", "30", "--dialect", "nameko", "--count", "1"]).await;
    assert_eq!(nobody.0, Some(4), "{nobody:?}");
    assert!(nobody.1.contains("there is no exchange `nameko-rpc`"), "{nobody:?}");

    let _nameko = python("nameko_service.py", &[&url]).await;
    let _celery = python("celery_service.py", &[&url]).await;
    let _aio_pika = python("aio_pika_service.py", &[&url]).await;
    let _envelope = python("envelope_service.py", &[&url, "requests", "response"]).await;
    let (rate, count) = (["--rate", "50"], ["--count", "25"]);
    let checks: [(&[&str], &str); 5] = [
        (&["math.add", "{number}", "b=0", "--dialect", "nameko"], "{number}"),
        (&["math.add", "{number}", "b=0", "--dialect", "celery"], "{number}"),
        // It says twice how it stands before it says what came of it.
        (&["math.second_time", "--params", "[]", "--dialect", "celery"], "done"),
        (&["math.fib", "n=30", "--dialect", "aio-pika"], "832040"),
        (&["math:fib", "30", "--dialect", "envelope", "--queue", "requests"], "832040"),
    ];
    for (args, expect) in checks {
        let all = [&["verify"], args, &rate, &count, &["--expect", expect]].concat();
        let (code, text) = ended(&url, &all).await;
        assert_eq!(code, Some(0), "{args:?}: {text}");
    }
    for args in [
        &["math.fib", "n=3", "--dialect", "aio-pika"][..],
        &["math:fib", "3", "--dialect", "envelope", "--queue", "requests"],
    ] {
        let short = ["--duration", "1s", "--warm-up", "0s", "--in-flight", "4"];
        let (code, text) = ended(&url, &[&["bench"], args, &short].concat()).await;
        assert_eq!(code, Some(0), "{args:?}: {text}");
    }
    for (args, part) in [
        (&["bench", "math.fib", "1", "--dialect", "nameko"][..], "does not speak `nameko`"),
        (&["bench", "math.fib", "1", "--dialect", "celery"], "an id of its own"),
        (&["bench", "--dialect", "nestjs"], "NestJS needs a METHOD"),
        (&["bench", "m", "1", "--dialect", "aio-pika"], "write `name=value`"),
        (
            &["verify", "a.b", "--dialect", "aio-pika", "--exchange", "x"],
            "METHOD says where the request goes; leave out `--exchange`",
        ),
        (&["verify", "m", "1", "n=1"], "cannot be mixed"),
    ] {
        let (code, text) = run(args).await;
        assert!(code == Some(2) && text.contains(part), "{args:?}: {code:?} {text}");
    }
}

/// `rpchost` with these arguments: its exit code, and all that it says.
async fn ended(url: &str, args: &[&str]) -> (Option<i32>, String) {
    let mut rpchost = Command::from(command(args));
    rpchost.env("RPCHOST_AMQP_URL", url).stdin(Stdio::null()).kill_on_drop(true);
    let output = rpchost.output().await.expect("rpchost");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

/// `rpchost call` in one dialect.
struct Calls<'a> {
    url: &'a str,
    dialect: &'a str,
}

impl Calls<'_> {
    async fn run(&self, args: &[impl AsRef<str>]) -> (Option<i32>, String, String) {
        let mut call = vec!["call"];
        call.extend(args.iter().map(AsRef::as_ref));
        call.extend(["--dialect", self.dialect, "--timeout", "60s"]);
        let mut call = Command::from(command(&call));
        call.env("RPCHOST_AMQP_URL", self.url).stdin(Stdio::null()).kill_on_drop(true);
        let output = call.output().await.expect("rpchost");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    async fn result(&self, args: &[impl AsRef<str>], result: &str) {
        let (code, out, err) = self.run(args).await;
        assert_eq!((code, out.trim_end()), (Some(0), result), "{err}");
    }

    /// What stands in `{"error": …}` on standard error.
    async fn told(&self, args: &[impl AsRef<str>]) -> Value {
        let (code, out, err) = self.run(args).await;
        assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
        let told: Value = serde_json::from_str(&err).unwrap_or_else(|_| panic!("no JSON: {err}"));
        told["error"].clone()
    }

    async fn error(&self, args: &[impl AsRef<str>], error: Value) {
        assert_eq!(self.told(args).await, error);
    }

    async fn nobody(&self, args: &[impl AsRef<str>], part: &str) {
        let (code, _, err) = self.run(args).await;
        assert!(code == Some(4) && err.contains(part), "{code:?}: {err}");
    }

    async fn usage(&self, args: &[impl AsRef<str>], part: &str) {
        let (code, _, err) = self.run(args).await;
        assert!(code == Some(2) && err.contains(part), "{code:?}: {err}");
    }
}

/// The arguments, and the queue that is meant.
fn to_queue<'a>(args: &[&'a str], queue: &'a str) -> Vec<&'a str> {
    [args, &["--queue", queue]].concat()
}

/// Exchanges and queues of these libraries have no prefix.
async fn own_broker() -> PrivateBroker {
    PrivateBroker::start().await.expect("a broker")
}

async fn python(program: &str, args: &[&str]) -> Child {
    let mut python = Command::new(guests::root().join("target/venv/bin/python"));
    python.arg(guests::root().join("tests/clients/python").join(program));
    ready(python, args).await
}

/// Starts a service and waits until it says that it is ready. It is killed when it is
/// dropped.
async fn ready(mut program: Command, args: &[&str]) -> Child {
    let what = format!("{program:?}");
    program.args(args).env("HOME", "/nonexistent").stdin(Stdio::null()).kill_on_drop(true);
    let mut service =
        program.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap_or_else(|error| {
            panic!("{error}: {what}; run `tests/run.sh` once, which installs what this needs")
        });
    let mut lines = BufReader::new(service.stdout.take().expect("its output")).lines();
    let saying = async {
        while let Some(line) = lines.next_line().await.expect("its output") {
            if line == "ready" {
                return;
            }
        }
        // What it logs of exceptions later is a few lines, for which the pipe has room.
        let mut said = String::new();
        service.stderr.as_mut().expect("stderr").read_to_string(&mut said).await.expect("text");
        panic!("{what} has ended: {said}");
    };
    tokio::time::timeout(READY, saying)
        .await
        .unwrap_or_else(|_| panic!("{what} was not ready within {READY:?}"));
    service
}

/// Waits until nobody consumes a queue any more.
async fn gone(url: &str, queue: &str) {
    use lapin::options::QueueDeclareOptions;
    use lapin::types::FieldTable;
    let connection = broker::connect(url).await;
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    crate::support::until("the end of the service's consumer", READY, || async {
        let channel = connection.create_channel().await.expect("a channel");
        let found = channel.queue_declare(queue.into(), passive, FieldTable::default()).await;
        found.is_ok_and(|queue| queue.consumer_count() == 0)
    })
    .await;
}
