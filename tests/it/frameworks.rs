//! Libraries that bring their own form of RPC: unmodified, each in a program of
//! `tests/clients` that makes a dozen calls, good and bad, and prints what its user
//! sees of each.

use std::path::Path;
use std::time::Duration;

use rpchost::private_broker::PrivateBroker;
use tokio::process::Command;

use crate::support::host::{Host, Options};
use crate::support::{broker, guests, unique};

/// How long a program may take, on a busy machine. Its own share is a few seconds.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a typed plugin says of `fib("x")`.
const NO_NUMBER: &str = "`n`: expected u32, got \"x\"; the function is (n: u32) -> u64";

/// What every trap says.
const TRAPPED: &str =
    "the plugin `typed` trapped: wasm trap: wasm `unreachable` instruction executed; it said: boom";

/// What every call says that took too long.
const LATE: &str = "the plugin `spin` was interrupted while running: its time is up";

#[tokio::test(flavor = "multi_thread")]
async fn nameko_raises_what_its_users_know() {
    // Nameko's exchange and queues have no prefix: this broker is its own.
    let broker = own_broker().await;
    let _host = serve(&broker, "[[listener]]\ndialect = 'nameko'\n");
    let said = said(python("nameko_rpc.py"), &[&broker.amqp_url()]).await;
    let remote = "nameko.exceptions.RemoteError";
    expect(
        &said,
        &[
            "result: 832040",
            "by name: 832040",
            "both: 42",
            &format!("application: {remote} BadInput bad-input: the divisor is 0"),
            "unknown method: nameko.exceptions.MethodNotFound there is no method `typed.nope`",
            "unknown service: nameko.exceptions.UnknownService Unknown service `nobody`",
            &format!("bad argument: nameko.exceptions.IncorrectSignature {NO_NUMBER}"),
            "too many: nameko.exceptions.IncorrectSignature `[1]`: the function takes 1 argument; \
             the function is (n: u32) -> u64",
            &format!("trap: {remote} Trap {TRAPPED}"),
            &format!("deadline: {remote} TimeoutError {LATE}"),
            "asynchronous: 55",
        ],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn celery_raises_what_its_users_know() {
    let broker = own_broker().await;
    let _host = serve(&broker, "[[listener]]\ndialect = 'celery'\n");
    let said = said(python("celery_rpc.py"), &[&broker.amqp_url()]).await;
    expect(
        &said,
        &[
            "result: 832040",
            "by name: 832040",
            "both: 42",
            "group: [34, 55]",
            "application: celery.exceptions.BadInput the divisor is 0",
            "unknown method: celery.exceptions.NotRegistered 'there is no method `typed.nope`'",
            &format!("bad argument: builtins.TypeError {NO_NUMBER}"),
            &format!("trap: celery.exceptions.Trap {TRAPPED}"),
            &format!(
                "deadline: billiard.exceptions.TimeLimitExceeded TimeLimitExceeded('{LATE}',)"
            ),
            "eta: builtins.ValueError waiting until a time (`eta`, `countdown`) is not available here",
            "expires: builtins.ValueError expiring (`expires`; set a `timeout` for the plugin or the \
             message's `expiration`) is not available here",
            "time limit: builtins.ValueError a time limit of the task's own (`time_limit`; set a \
             `timeout` for the plugin) is not available here",
            "chain: builtins.ValueError the task has `chain`; only single tasks are run here, and \
             nothing after them",
            "pickle: kombu.exceptions.ContentDisallowed the task is written as \
             `application/x-python-serialize`; only `application/json` is read (set \
             `task_serializer = \"json\"`)",
            "state: FAILURE Traceback (most recent call last):",
        ],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn aio_pika_raises_what_its_users_know() {
    let broker = own_broker().await;
    let _host = serve(&broker, "[[listener]]\ndialect = 'aio-pika'\n");
    let said = said(python("aio_pika_rpc.py"), &[&broker.amqp_url()]).await;
    let error = |case: &str, name: &str, message: &str, args: &str| {
        let inner =
            format!("{{'error': {{'type': '{name}', 'message': {message}, 'args': [{args}]}}}}");
        format!("{case}: JsonRPCError ('RPC exception', {inner})")
    };
    let missing = "`n`: it is missing; expected u32; the function is (n: u32) -> u64";
    expect(
        &said,
        &[
            "result: 832040",
            "proxy: 832040",
            &error(
                "application",
                "BadInput",
                "'BadInput: bad-input: the divisor is 0'",
                "'the divisor is 0'",
            ),
            // There is no queue of that name: the broker returns the request.
            "unknown method: MessageProcessError Message has been returned",
            &error(
                "bad argument",
                "TypeError",
                &format!("'TypeError: {NO_NUMBER}'"),
                &format!("'{NO_NUMBER}'"),
            ),
            &error(
                "no argument",
                "TypeError",
                &format!("'TypeError: {missing}'"),
                &format!("'{missing}'"),
            ),
            &error("trap", "Trap", &format!("'Trap: {TRAPPED}'"), &format!("'{TRAPPED}'")),
            &error(
                "deadline",
                "TimeoutError",
                &format!("'TimeoutError: {LATE}'"),
                &format!("'{LATE}'"),
            ),
            "pickle: RuntimeError pickled arguments are not read here; use \
             `aio_pika.patterns.JsonRPC`",
        ],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn faststream_gets_results_and_errors_as_values() {
    let broker = broker::shared().await;
    let queue = unique("faststream");
    let _host = serve(broker, &format!("queue = '{queue}'\n"));
    let said = said(python("faststream_rpc.py"), &[&broker.amqp_url(), &queue]).await;
    expect(
        &said,
        &[
            "text: 832040",
            "number: 832040",
            "header: 832040",
            "json-rpc: {'jsonrpc': '2.0', 'result': 832040, 'id': 1}",
            "application: error application",
            "unknown method: error method-not-found",
            "bad argument: error invalid-params",
            "no JSON: error parse-error",
            "trap: error trap",
            "deadline: error timeout",
        ],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nestjs_throws_what_its_users_know() {
    let broker = broker::shared().await;
    let queue = unique("nestjs");
    let listener = "queue-type = 'classic'\ndialect = 'nestjs'\n";
    let _host = serve(broker, &format!("queue = '{queue}'\n{listener}"));
    let said = said(node("nestjs_rpc.js"), &[&broker.amqp_url(), &queue]).await;
    expect(
        &said,
        &[
            "result: 832040",
            "text pattern: 832040",
            "by position: 42",
            "application: error application 1 bad-input: the divisor is 0",
            "unknown method: error There is no matching message handler defined in the remote service.",
            &format!("bad argument: error invalid-params -32602 {NO_NUMBER}"),
            &format!("trap: error trap -32001 {TRAPPED}"),
            &format!("deadline: error timeout -32002 {LATE}"),
            "event: sent",
        ],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn golevelup_gets_results_and_errors_as_values() {
    let broker = broker::shared().await;
    let queue = unique("golevelup");
    let _host = serve(broker, &format!("queue = '{queue}'\n"));
    let said = said(node("golevelup_rpc.js"), &[&broker.amqp_url(), &queue]).await;
    expect(
        &said,
        &[
            "result: 832040",
            "by name: 832040",
            "application: error application",
            "unknown method: error method-not-found",
            "bad argument: error invalid-params",
            "trap: error trap",
            "deadline: error timeout",
        ],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rabbitmq_client_gets_results_and_errors() {
    let broker = broker::shared().await;
    let queue = unique("rabbitmq-client");
    let _host = serve(broker, &format!("queue = '{queue}'\n"));
    let said = said(node("rabbitmq_client_rpc.js"), &[&broker.amqp_url(), &queue]).await;
    expect(
        &said,
        &[
            "text: 832040",
            "number: 832040",
            "application: error application",
            "unknown method: error method-not-found",
            "bad argument: error invalid-params",
            "no JSON: error parse-error",
            "trap: error trap",
            "deadline: error timeout",
        ],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rpc_clients_of_javas_library_are_answered() {
    let broker = broker::shared().await;
    let queue = unique("java-json");
    let _host = serve(broker, &format!("queue = '{queue}'\ndefault-method = 'typed.fib'\n"));
    let jars = ["amqp-client", "slf4j-api", "slf4j-nop"];
    let path = jars.map(|jar| format!("/usr/share/java/{jar}.jar")).join(":");
    let mut java = Command::new("java");
    java.args(["-cp", &path]).arg(guests::root().join("tests/clients/java/JsonRpc.java"));
    let said = said(java, &[&broker.amqp_url(), &queue]).await;
    expect(
        &said,
        &[
            "plain: 832040",
            "described: 1",
            "result: 832040",
            "two: 42",
            "application: 1 JSONRPCError",
            "unknown method: -32601 JSONRPCError",
            "bad argument: -32602 JSONRPCError",
            "trap: -32001 JSONRPCError",
            "deadline: -32002 JSONRPCError",
        ],
    );
}

async fn own_broker() -> PrivateBroker {
    PrivateBroker::start().await.expect("a broker")
}

/// A host with a typed plugin, and one that does not end within its 300 ms.
fn serve(broker: &PrivateBroker, file: &str) -> Host {
    let spin = guests::guest("loop").wasm;
    let typed = guests::built("typed");
    let options = Options::in_file(&broker.amqp_url(), file);
    let plugins: &[(&str, &[u8])] = &[("typed", &typed), ("spin", &spin)];
    Host::start_with(&options, plugins, &[("spin", "timeout = '300ms'\n")])
}

fn python(program: &str) -> Command {
    let mut python = Command::new(guests::root().join("target/venv/bin/python"));
    python.arg(guests::root().join("tests/clients/python").join(program));
    python
}

fn node(program: &str) -> Command {
    let mut node = Command::new("node");
    node.arg(guests::root().join("tests/clients/node").join(program));
    node.env("NODE_PATH", guests::root().join("target/clients/node/node_modules"));
    node
}

/// The lines that a program prints; it is killed when it takes too long.
async fn said(mut program: Command, args: &[&str]) -> String {
    let what = format!("{program:?}");
    let running =
        program.args(args).env("HOME", Path::new("/nonexistent")).kill_on_drop(true).output();
    let output = tokio::time::timeout(PATIENCE, running)
        .await
        .unwrap_or_else(|_| panic!("{what} did not end within {PATIENCE:?}"))
        .unwrap_or_else(|error| {
            panic!("{error}: {what}; run `tests/run.sh` once, which installs what this needs")
        });
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn expect(said: &str, lines: &[&str]) {
    let said: Vec<&str> = said.lines().collect();
    assert_eq!(said, lines, "\n{}", said.join("\n"));
}
