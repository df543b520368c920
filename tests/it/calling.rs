//! The client, and everything that can happen to a call: `rpchost call` as a
//! person meets it, and the `Caller` beneath it with many calls at once.

use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection, Consumer};
use rpchost::amqp::{Caller, CallerError, Connector, Outgoing};
use rpchost::config::{Profile, ServeArgs, resolve};
use rpchost::private_broker::PrivateBroker;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use super::support::host::{Host, Options, command};
use super::support::proxy::Proxy;
use super::support::raw::{self, Client, Props};
use super::support::{broker, guests, unique, until};

/// Longer than anything here takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What "at once" means to a person: no waiting for a time limit.
const AT_ONCE: Duration = Duration::from_secs(5);

// rpchost call

#[tokio::test]
async fn a_broker_that_never_answers_is_given_up_after_the_time_to_connect() {
    // The system accepts for it; nobody ever answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("amqp://127.0.0.1:{}", silent.local_addr().unwrap().port());
    let mut call = rpchost_call(&url, "q", &["m", "--timeout", "50s"]);
    let called = Called::by(call.env("RPCHOST_CONNECT_TIMEOUT", "1s")).await;
    assert_eq!(called.code, Some(4), "{called:?}");
    assert!(called.err.contains("no answer within 1s"), "{called:?}");
    assert!(called.took < AT_ONCE, "{called:?}");
}

#[tokio::test]
async fn of_several_brokers_each_is_tried_once() {
    let (url, queue) = (broker::shared().await.amqp_url(), unique("several"));
    let _host = host(&url, &queue);
    let both = format!("amqp://127.0.0.1:1,{url}");
    let mut call = rpchost_call("", &queue, &["misbehave", "hello"]);
    let called = Called::by(call.env("RPCHOST_AMQP_URL", &both)).await;
    assert_eq!((called.code, called.out.as_str()), (Some(0), "hello\n"), "{called:?}");

    let neither = "amqp://127.0.0.1:1,amqp://127.0.0.1:2";
    let mut call = rpchost_call("", &queue, &["misbehave", "hello"]);
    let called = Called::by(call.env("RPCHOST_AMQP_URL", neither)).await;
    assert_eq!(called.code, Some(4), "{called:?}");
    assert!(called.err.contains("127.0.0.1:1") && called.err.contains("127.0.0.1:2"), "{called:?}");
    assert!(called.took < AT_ONCE, "{called:?}");
}

#[tokio::test]
async fn a_file_is_called_in_process_whatever_the_variables_say() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fib.wasm");
    std::fs::write(&path, guests::built("fib")).unwrap();
    let args = ["call", "fib", "30", "--file", path.to_str().unwrap()];
    let mut call = Command::from(command(&args));
    call.env("RPCHOST_AMQP_URL", "amqp://127.0.0.1:1").env("RPCHOST_QUEUE", "q");
    let called = Called::by(&mut call).await;
    assert_eq!((called.code, called.out.as_str()), (Some(0), "832040\n"), "{called:?}");

    let mut call = Command::from(command(&args));
    let called = Called::by(call.args(["--queue", "q"])).await;
    assert_eq!(called.code, Some(2), "{called:?}");
    assert!(called.err.contains("--file") && called.err.contains("--queue"), "{called:?}");
}

#[tokio::test]
async fn a_name_that_amqp_cannot_carry_is_wrong_usage() {
    let (url, queue) = (broker::shared().await.amqp_url(), unique("long"));
    let _server = Server::start(&url, &queue).await;
    let called = Called::by(&mut rpchost_call(&url, &queue, &[&"m".repeat(300)])).await;
    assert_eq!(called.code, Some(2), "{called:?}");
    assert!(called.err.contains("255"), "{called:?}");
}

#[tokio::test]
async fn a_full_queue_ends_with_4_at_once() {
    let (url, queue) = (broker::shared().await.amqp_url(), unique("full"));
    let connection = broker::connect(&url).await;
    let channel = connection.create_channel().await.unwrap();
    let mut limits = FieldTable::default();
    limits.insert("x-max-length".into(), AMQPValue::LongInt(1));
    limits.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    let options = QueueDeclareOptions { auto_delete: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.as_str().into(), options, limits).await.unwrap();
    // A consumer that takes one message and keeps it; another one waits.
    channel.basic_qos(1, BasicQosOptions::default()).await.unwrap();
    let mut keeps = channel
        .basic_consume(
            queue.as_str().into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await
        .unwrap();
    publish(&channel, &queue, BasicProperties::default(), b"kept").await;
    keeps.next().await.unwrap().unwrap();
    publish(&channel, &queue, BasicProperties::default(), b"waits").await;
    let called = Called::by(&mut rpchost_call(&url, &queue, &["m", "--timeout", "50s"])).await;
    assert_eq!(called.code, Some(4), "{called:?}");
    assert!(called.err.contains(&queue) && called.err.contains("full"), "{called:?}");
    assert!(called.took < AT_ONCE, "{called:?}");
}

#[tokio::test]
async fn a_user_who_may_not_publish_is_told_so_at_once() {
    let broker = broker::shared().await;
    let (queue, user) = (unique("forbidden"), unique("user"));
    let _server = Server::start(&broker.amqp_url(), &queue).await;
    broker.ctl(&["add_user", &user, "kanarienvogel42"]).await.unwrap();
    broker.ctl(&["set_permissions", &user, "^rpchost[.]replies[.]", "^none$", ".*"]).await.unwrap();
    let url = format!("amqp://{user}:kanarienvogel42@127.0.0.1:{}/%2f", broker.port());
    let called = Called::by(&mut rpchost_call(&url, &queue, &["m", "--timeout", "50s"])).await;
    assert_eq!(called.code, Some(4), "{called:?}");
    assert!(called.err.contains("ACCESS_REFUSED"), "{called:?}");
    assert!(!called.err.contains("kanarienvogel42"), "{called:?}");
    assert!(called.took < AT_ONCE, "{called:?}");
    broker.ctl(&["delete_user", &user]).await.unwrap();
}

#[tokio::test]
async fn a_trap_is_shown_with_its_kind_and_stack() {
    let (url, queue) = (broker::shared().await.amqp_url(), unique("trap"));
    let _host = host(&url, &queue);
    for dialect in ["plain", "json-rpc"] {
        let args = ["misbehave.panic", "--dialect", dialect];
        let called = Called::by(&mut rpchost_call(&url, &queue, &args)).await;
        assert_eq!(called.code, Some(1), "{called:?}");
        let said: serde_json::Value = serde_json::from_str(&called.err).unwrap();
        let error = &said["error"];
        let (kind, data) = match dialect {
            "plain" => (&error["kind"], &error["data"]),
            _ => (&error["data"]["kind"], &error["data"]["data"]),
        };
        assert_eq!(kind, "trap", "{said}");
        let stack = data["stack"].as_array().expect("a stack");
        assert!(stack.iter().any(|frame| frame.as_str().unwrap().contains("handle")), "{said}");
    }
}

#[tokio::test]
async fn a_request_says_how_long_it_is_wanted_and_is_known_by_its_id() {
    let (url, queue) = (broker::shared().await.amqp_url(), unique("asked"));
    let mut server = Server::start(&url, &queue).await;
    let called = tokio::spawn({
        let mut call = rpchost_call(&url, &queue, &["m.f", "x", "--timeout", "3s"]);
        async move { Called::by(&mut call).await }
    });
    let request = server.next().await;
    let properties = &request.properties;
    assert_eq!(properties.message_id(), properties.correlation_id());
    assert_eq!(properties.delivery_mode(), &Some(2));
    let left: u64 = properties.expiration().as_ref().unwrap().as_str().parse().unwrap();
    assert!((1..=3000).contains(&left), "{left} ms");
    let replies = properties.reply_to().clone().unwrap();
    assert!(server.exists(&replies).await);
    // Nobody answers.
    let called = called.await.unwrap();
    assert_eq!(called.code, Some(3), "{called:?}");
    assert_eq!(called.err, "rpchost: no answer within 3s\n");
    assert!(!server.exists(&replies).await, "the reply queue is left behind");
}

#[tokio::test]
async fn a_word_is_a_body_or_a_string_as_the_method_has_it() {
    let (url, queue) = (broker::shared().await.amqp_url(), unique("word"));
    let (typed, echo) = (guests::built("typed"), guests::built("echo"));
    let _host = Host::start(&Options::new(&url, &queue), &[("typed", &typed), ("echo", &echo)]);
    for (method, word, said) in [
        ("echo", "Wörld", "Wörld\n"),
        ("typed.echo-string", "Wörld", "\"Wörld\"\n"),
        ("typed.echo-string", "\"Wörld\"", "\"Wörld\"\n"),
        ("typed.echo-string", "", "\"\"\n"),
        ("echo", "\"Wörld\"", "\"Wörld\"\n"),
    ] {
        let called = Called::by(&mut rpchost_call(&url, &queue, &[method, word])).await;
        assert_eq!((called.code, called.out.as_str()), (Some(0), said), "{method}: {called:?}");
    }
    let called = Called::by(&mut rpchost_call(&url, &queue, &["typed.fib", "many"])).await;
    assert_eq!(called.code, Some(1), "{called:?}");
    assert!((called.out.clone() + &called.err).contains("invalid-params"), "{called:?}");
}

#[tokio::test]
async fn the_first_signal_ends_a_call() {
    let (url, queue) = (broker::shared().await.amqp_url(), unique("signal"));
    let mut server = Server::start(&url, &queue).await;
    let mut call = rpchost_call(&url, &queue, &["m", "--timeout", "50s"]);
    let mut call = call.spawn().unwrap();
    server.next().await;
    let begun = Instant::now();
    // As Ctrl-C does, which would be ignored where the tests run in the background.
    signal(&call, Signal::TERM);
    let status = tokio::time::timeout(PATIENCE, call.wait()).await.unwrap().unwrap();
    assert_eq!(status.signal(), Some(15), "{status:?}");
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_host_that_dies_for_good_means_3_and_the_reason() {
    let (url, queue) = (broker::shared().await.amqp_url(), unique("dies"));
    let host = host(&url, &queue);
    let call = slow_call(&host, &url, &queue, 20_000, "6s").await;
    host.signal(Signal::KILL);
    let called = call.await.unwrap();
    assert_eq!(called.code, Some(3), "{called:?}");
    let reason = format!("no answer within 6s: nobody consumes the queue `{queue}` any more");
    assert!(called.err.contains(&reason), "{called:?}");
}

#[tokio::test]
async fn a_host_that_dies_is_replaced_by_another_in_time() {
    let (url, queue) = (broker::shared().await.amqp_url(), unique("replaced"));
    let first = host(&url, &queue);
    let call = slow_call(&first, &url, &queue, 1500, "50s").await;
    first.signal(Signal::KILL);
    let _second = host(&url, &queue);
    let called = call.await.unwrap();
    assert_eq!((called.code, called.out.as_str()), (Some(0), "done\n"), "{called:?}");
}

#[tokio::test]
async fn a_broker_that_ends_and_is_started_again_costs_a_call_nothing_but_time() {
    outlives(PrivateBroker::start().await.unwrap()).await;
}

#[tokio::test]
async fn rabbitmq_4_that_ends_and_is_started_again_costs_no_more() {
    outlives(broker::rabbitmq_4().await).await;
}

async fn outlives(mut broker: PrivateBroker) {
    let url = broker.amqp_url();
    let misbehave = guests::built("misbehave");
    // A quorum queue that has just been made does not survive kill -9.
    for (kind, kill) in [("classic", true), ("quorum", false)] {
        let queue = unique(kind);
        let options = Options::new(&url, &queue).args(&["--queue-type", kind]);
        let host = Host::start(&options, &[("misbehave", &misbehave)]);
        let call = slow_call(&host, &url, &queue, 2000, "120s").await;
        if kill {
            broker.kill().await.unwrap();
        } else {
            broker.stop().await.unwrap();
        }
        broker.start_again().await.unwrap();
        let called = call.await.unwrap();
        assert_eq!((called.code, called.out.as_str()), (Some(0), "done\n"), "{called:?}");
    }
    broker.remove().await.unwrap();
}

// The caller itself

#[tokio::test(flavor = "multi_thread")]
async fn many_calls_at_once_get_their_own_answers() {
    let (url, queue) = (broker::shared().await.amqp_url(), unique("many"));
    let _host = host(&url, &queue);
    let caller = Arc::new(caller(&url).await);
    let mut calls = JoinSet::new();
    for number in 0..200 {
        let (caller, request) = (caller.clone(), request(&queue, &format!("number {number}")));
        // Every fifth asks a queue that is not there, in between the others.
        let missing = Outgoing { queue: format!("{queue}-missing"), ..request.clone() };
        calls.spawn(async move {
            let (_, body) = caller.call(&request).await.unwrap();
            assert_eq!(body, request.body);
            if number % 5 == 0 {
                let error = caller.call(&missing).await.unwrap_err();
                assert_eq!(
                    error,
                    CallerError::Nobody(format!("there is no queue `{}`", missing.queue))
                );
            }
        });
    }
    while let Some(ended) = calls.join_next().await {
        ended.unwrap();
    }
    let counts = caller.counts();
    assert_eq!((counts.answered, counts.duplicates, counts.unknown), (200, 0, 0), "{counts:?}");
    assert_eq!((counts.connections, counts.channels), (1, 1), "{counts:?}");
    Arc::into_inner(caller).unwrap().close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn duplicates_and_unknown_ids_are_dropped_and_counted() {
    let broker = broker::shared().await;
    let (url, queue) = (broker.amqp_url(), unique("twice"));
    let mut server = Server::start(&url, &queue).await;
    let caller = Arc::new(caller(&url).await);
    let call = spawn_call(&caller, request(&queue, "1"));
    let first = server.next().await;
    let replies = first.properties.reply_to().clone().unwrap();

    // What no library would send goes first.
    let strange = Props::default().with(raw::CORRELATION_ID, b"\xFF\x00\xFE");
    // A connection that ends at once may take with it what was just sent.
    let _open = tokio::task::spawn_blocking({
        let (port, replies) = (broker.port(), replies.clone());
        move || {
            let mut client = Client::connect(port);
            client.publish(replies.as_str().as_bytes(), &strange, b"not yours");
            client.publish(replies.as_str().as_bytes(), &Props::default(), b"not yours");
            client
        }
    })
    .await
    .unwrap();
    until("the strange ones", PATIENCE, || async { caller.counts().unknown == 2 }).await;
    server.publish(&replies, "no such call", b"not yours").await;
    server.answer(&first, b"one").await;
    server.answer(&first, b"one again").await;
    assert_eq!(call.await.unwrap().unwrap(), "one");

    let call = spawn_call(&caller, request(&queue, "2"));
    let second = server.next().await;
    server.answer(&first, b"one a third time").await;
    server.answer(&second, b"two").await;
    assert_eq!(call.await.unwrap().unwrap(), "two");
    let counts = caller.counts();
    assert_eq!((counts.answered, counts.duplicates, counts.unknown), (2, 2, 3), "{counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_reply_is_not_taken_for_the_next_ones_and_the_channel_is_another() {
    let (url, queue) = (broker::shared().await.amqp_url(), unique("late"));
    let mut server = Server::start(&url, &queue).await;
    let caller = Arc::new(caller(&url).await);
    let timeout = Duration::from_millis(1500);
    let call = spawn_call(&caller, Outgoing { timeout, ..request(&queue, "1") });
    let first = server.next().await;
    let late = call.await.unwrap().unwrap_err();
    assert_eq!(late, CallerError::Late { after: timeout, because: None });

    let call = spawn_call(&caller, request(&queue, "2"));
    let second = server.next().await;
    server.answer(&first, b"one, late").await;
    until("the late one", PATIENCE, || async { caller.counts().late == 1 }).await;
    server.answer(&second, b"two").await;
    assert_eq!(call.await.unwrap().unwrap(), "two");
    let counts = caller.counts();
    assert_eq!((counts.answered, counts.connections, counts.channels), (1, 1, 2), "{counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_given_while_the_caller_is_cut_off_is_not_lost() {
    let broker = broker::shared().await;
    let (url, queue) = (broker.amqp_url(), unique("away"));
    let mut server = Server::start(&url, &queue).await;
    let proxy = Proxy::to(broker.port()).await;
    let caller = Arc::new(caller(&proxy.url()).await);
    let call = spawn_call(&caller, request(&queue, "1"));
    let asked = server.next().await;
    // So that the request is confirmed for certain.
    let other = spawn_call(&caller, request(&queue, "2"));
    let next = server.next().await;
    server.answer(&next, b"two").await;
    assert_eq!(other.await.unwrap().unwrap(), "two");

    proxy.cut();
    // Who calls meanwhile waits for the connection.
    let waiting = spawn_call(&caller, request(&queue, "3"));
    let timeout = Duration::from_millis(200);
    let short = Outgoing { timeout, ..request(&queue, "4") };
    let error = caller.call(&short).await.unwrap_err().to_string();
    assert!(error.contains("within 200ms: the broker was lost"), "{error}");
    server.answer(&asked, b"one").await;
    assert!(!call.is_finished());
    proxy.mend();
    assert_eq!(call.await.unwrap().unwrap(), "one");
    let third = server.next().await;
    assert_eq!(third.data, b"3");
    server.answer(&third, b"three").await;
    assert_eq!(waiting.await.unwrap().unwrap(), "three");
    let counts = caller.counts();
    assert_eq!((counts.answered, counts.duplicates, counts.connections), (3, 0, 2), "{counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_die_at_once_are_opened_with_pauses() {
    let broker = broker::shared().await;
    let proxy = Proxy::to(broker.port()).await;
    let caller = caller(&proxy.url()).await;
    let begun = Instant::now();
    let mut seen = 0;
    while begun.elapsed() < Duration::from_secs(4) {
        if caller.counts().connections > seen {
            seen = caller.counts().connections;
            proxy.cut();
            proxy.mend();
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // With pauses that grow to a second there is room for about ten.
    assert!((3..20).contains(&seen), "{seen} connections");
    caller.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_confirm_was_lost_is_sent_again_under_the_same_id() {
    let broker = broker::shared().await;
    let (url, queue) = (broker.amqp_url(), unique("unconfirmed"));
    let mut server = Server::start(&url, &queue).await;
    let proxy = Proxy::to(broker.port()).await;
    let caller = Arc::new(caller(&proxy.url()).await);
    // The channel for requests is there.
    let call = spawn_call(&caller, request(&queue, "0"));
    let warm = server.next().await;
    server.answer(&warm, b"zero").await;
    assert_eq!(call.await.unwrap().unwrap(), "zero");

    proxy.mute();
    let call = spawn_call(&caller, request(&queue, "1"));
    let first = server.next().await;
    proxy.cut();
    proxy.mend();
    let again = server.next().await;
    assert_eq!(first.properties.message_id(), again.properties.message_id());
    assert_eq!(first.properties.reply_to(), again.properties.reply_to());
    server.answer(&first, b"one").await;
    server.answer(&again, b"one").await;
    assert_eq!(call.await.unwrap().unwrap(), "one");
    until("the duplicate", PATIENCE, || async { caller.counts().duplicates == 1 }).await;
    assert_eq!(caller.counts().answered, 2);
}

// What they are made of

fn host(url: &str, queue: &str) -> Host {
    let misbehave = guests::built("misbehave");
    Host::start(&Options::new(url, queue), &[("misbehave", &misbehave)])
}

/// `rpchost call` through a broker; an empty URL is left out.
fn rpchost_call(url: &str, queue: &str, args: &[&str]) -> Command {
    let mut call = Command::from(command(&["call"]));
    call.args(args).args(["--queue", queue]);
    if !url.is_empty() {
        call.args(["--amqp-url", url]);
    }
    call.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    call
}

/// A call of `misbehave.slow-MS` that has reached the host.
async fn slow_call(
    host: &Host,
    url: &str,
    queue: &str,
    milliseconds: u32,
    timeout: &str,
) -> tokio::task::JoinHandle<Called> {
    let method = format!("misbehave.slow-{milliseconds}");
    let mut call = rpchost_call(url, queue, &[&method, "--timeout", timeout]);
    let called = tokio::spawn(async move { Called::by(&mut call).await });
    until("the call", PATIENCE, || async { host.metric("rpchost_in_flight") == 1.0 }).await;
    called
}

/// What came of a command.
#[derive(Debug)]
struct Called {
    code: Option<i32>,
    out: String,
    err: String,
    took: Duration,
}

impl Called {
    async fn by(command: &mut Command) -> Self {
        let begun = Instant::now();
        let output = tokio::time::timeout(3 * PATIENCE, command.output()).await;
        let output = output.expect("an end").expect("the command");
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
            took: begun.elapsed(),
        }
    }
}

fn signal(child: &Child, signal: Signal) {
    let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    kill_process(id.expect("it runs"), signal).expect("a signal");
}

async fn caller(url: &str) -> Caller {
    let args = ServeArgs { amqp_url: vec![url.to_owned()], ..ServeArgs::default() };
    let config = resolve(&args, &clap::ArgMatches::default(), Profile::Serve, &|_| None).unwrap();
    let connector = Connector::new(&config.broker, "calling".to_owned()).unwrap();
    Caller::connect(&Arc::new(connector)).await.unwrap()
}

fn request(queue: &str, body: &str) -> Outgoing {
    Outgoing {
        queue: queue.to_owned(),
        kind: Some("misbehave".to_owned()),
        body: body.as_bytes().to_vec(),
        timeout: PATIENCE,
        ..Outgoing::default()
    }
}

fn spawn_call(
    caller: &Arc<Caller>,
    request: Outgoing,
) -> tokio::task::JoinHandle<Result<Bytes, CallerError>> {
    let caller = caller.clone();
    tokio::spawn(async move { caller.call(&request).await.map(|(_, body)| body) })
}

/// A server that does what the test says.
struct Server {
    connection: Connection,
    channel: Channel,
    requests: Consumer,
}

impl Server {
    async fn start(url: &str, queue: &str) -> Self {
        let connection = broker::connect(url).await;
        let channel = connection.create_channel().await.unwrap();
        let options = QueueDeclareOptions { auto_delete: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(queue.into(), options, FieldTable::default()).await.unwrap();
        let no_ack = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let requests = channel
            .basic_consume(queue.into(), "".into(), no_ack, FieldTable::default())
            .await
            .unwrap();
        Self { connection, channel, requests }
    }

    async fn next(&mut self) -> Delivery {
        let next = tokio::time::timeout(PATIENCE, self.requests.next()).await;
        next.expect("a request in time").unwrap().unwrap()
    }

    async fn answer(&self, request: &Delivery, body: &[u8]) {
        let properties = &request.properties;
        let id = properties.correlation_id().as_ref().unwrap().as_str();
        self.publish(properties.reply_to().as_ref().unwrap(), id, body).await;
    }

    async fn publish(&self, to: &ShortString, id: &str, body: &[u8]) {
        let properties = BasicProperties::default().with_correlation_id(id.into());
        publish(&self.channel, to.as_str(), properties, body).await;
    }

    async fn exists(&self, queue: &ShortString) -> bool {
        let channel = self.connection.create_channel().await.unwrap();
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(queue.clone(), passive, FieldTable::default()).await.is_ok()
    }
}

async fn publish(channel: &Channel, queue: &str, properties: BasicProperties, body: &[u8]) {
    channel
        .basic_publish("".into(), queue.into(), BasicPublishOptions::default(), body, properties)
        .await
        .unwrap();
}
