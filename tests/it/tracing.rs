//! `rpchost trace`, on brokers of its own: the Firehose is a virtual host's.

use std::process::Stdio;
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, ExchangeKind};
use rpchost::private_broker::PrivateBroker;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

use super::support::host::{Host, Options, command};
use super::support::{broker, guests, unique, until};

/// Longer than anything here takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// `rpchost trace` while it runs.
struct Trace {
    child: Child,
    out: Lines<BufReader<ChildStdout>>,
    err: Lines<BufReader<ChildStderr>>,
    /// What it said first: by what the Firehose is on.
    said: String,
}

impl Trace {
    async fn start(broker: &PrivateBroker, how: How, args: &[&str]) -> Self {
        let mut trace = Command::from(command(&["trace"]));
        trace.args(args).args(["--amqp-url", &broker.amqp_url()]);
        match how {
            How::Management => {
                trace.args(["--management", &format!("http://{}", broker.management_address())]);
            }
            How::Ctl => {
                trace.arg("--ctl").arg(broker.ctl_script());
            }
            How::Neither => {}
        }
        trace.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = trace.spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut err = BufReader::new(child.stderr.take().unwrap()).lines();
        let said = tokio::time::timeout(PATIENCE, err.next_line()).await.expect("a word in time");
        let said = said.unwrap().unwrap_or_default();
        assert!(said.starts_with("rpchost: tracing `"), "{said}");
        Self { child, out, err, said }
    }

    async fn line(&mut self) -> String {
        let line = tokio::time::timeout(PATIENCE, self.out.next_line()).await;
        line.expect("a line in time").unwrap().expect("a line")
    }

    async fn json(&mut self) -> Value {
        serde_json::from_str(&self.line().await).unwrap()
    }

    fn signal(&self, signal: Signal) {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        kill_process(id.unwrap(), signal).unwrap();
    }

    /// Ends it as Ctrl-C does; what it has shown meanwhile, and what it said.
    async fn end(mut self) -> (Vec<String>, String) {
        self.signal(Signal::TERM);
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        let status = ended.expect("an end in time").unwrap();
        let (mut shown, mut said) = (Vec::new(), String::new());
        while let Some(line) = self.out.next_line().await.unwrap() {
            shown.push(line);
        }
        while let Some(line) = self.err.next_line().await.unwrap() {
            said += &line;
        }
        assert_eq!(status.code(), Some(0), "{said}");
        (shown, said)
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum How {
    Management,
    Ctl,
    Neither,
}

async fn is_on(broker: &PrivateBroker) -> bool {
    broker.ctl(&["list_vhosts", "-q", "name", "tracing"]).await.unwrap().contains("/\ttrue")
}

/// The worked example of RabbitMQ's Firehose: two exchanges with a queue each,
/// and five queues for copies.
struct Example {
    channel: Channel,
}

const COPIES: [(&str, &str); 5] = [
    ("queue1", "publish.#"),
    ("queue2", "deliver.#"),
    ("queue3", "#"),
    ("queue4", "publish.exchange"),
    ("queue5", "deliver.queue"),
];

impl Example {
    async fn new(broker: &PrivateBroker) -> Self {
        let connection = broker::connect(&broker.amqp_url()).await;
        let channel = connection.create_channel().await.unwrap();
        let this = Self { channel };
        for (exchange, queue, key) in
            [("exchange", "queue", "rk"), ("exchange.another", "queue.another", "rk.another")]
        {
            let options = ExchangeDeclareOptions::default();
            let (kind, none) = (ExchangeKind::Direct, FieldTable::default());
            this.channel.exchange_declare(exchange.into(), kind, options, none).await.unwrap();
            this.queue(queue, exchange, key).await;
        }
        for (queue, pattern) in COPIES {
            this.queue(queue, "amq.rabbitmq.trace", pattern).await;
        }
        this
    }

    async fn queue(&self, name: &str, exchange: &str, key: &str) {
        let none = FieldTable::default();
        let options = QueueDeclareOptions::default();
        self.channel.queue_declare(name.into(), options, none.clone()).await.unwrap();
        let options = QueueBindOptions::default();
        let bind = self.channel.queue_bind(name.into(), exchange.into(), key.into(), options, none);
        bind.await.unwrap();
    }

    /// One message to each exchange, both consumed.
    async fn run(&self) {
        for (exchange, key) in [("exchange", "rk"), ("exchange.another", "rk.another")] {
            let (options, none) = (BasicPublishOptions::default(), BasicProperties::default());
            let publish =
                self.channel.basic_publish(exchange.into(), key.into(), options, b"hello", none);
            publish.await.unwrap();
        }
        for queue in ["queue", "queue.another"] {
            let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
            let consume =
                self.channel.basic_consume(queue.into(), "".into(), options, FieldTable::default());
            consume.await.unwrap().next().await.unwrap().unwrap();
        }
    }

    async fn counts(&self) -> [u32; 5] {
        let mut counts = [0; 5];
        for (count, (queue, _)) in counts.iter_mut().zip(COPIES) {
            let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            let asked = self.channel.queue_declare(queue.into(), passive, FieldTable::default());
            *count = asked.await.unwrap().message_count();
        }
        counts
    }
}

#[tokio::test]
async fn the_worked_example_ends_with_2_2_4_1_1_and_shows_its_four_events() {
    let broker = PrivateBroker::start_with_management().await.unwrap();
    worked_example(&broker, How::Management).await;
    // What else the virtual host has was not changed by it.
    let vhosts = broker.ctl(&["list_vhosts", "-q", "name", "description"]).await.unwrap();
    assert!(vhosts.contains("Default virtual host"), "{vhosts}");
    stays_on(&broker, How::Management).await;
    broker.remove().await.unwrap();
}

#[tokio::test]
async fn so_it_does_on_rabbitmq_4_where_rabbitmqctl_switches() {
    let broker = broker::rabbitmq_4().await;
    worked_example(&broker, How::Ctl).await;
    stays_on(&broker, How::Ctl).await;
    calls(&broker).await;
    broker.remove().await.unwrap();
}

async fn worked_example(broker: &PrivateBroker, how: How) {
    let example = Example::new(broker).await;
    let mut trace = Trace::start(broker, how, &["-o", "json"]).await;
    assert!(trace.said.contains("the Firehose is on, by"), "{}", trace.said);
    assert!(!trace.said.contains("guest:guest"), "{}", trace.said);
    assert!(is_on(broker).await);
    example.run().await;
    let mut events = Vec::new();
    for _ in 0..4 {
        let event = trace.json().await;
        let at = if event["event"] == "publish" { &event["exchange"] } else { &event["queue"] };
        assert_eq!(event["payload"], "hello", "{event}");
        events.push(format!("{} {}", event["event"], at).replace('"', ""));
    }
    events.sort();
    let expected =
        ["deliver queue", "deliver queue.another", "publish exchange", "publish exchange.another"];
    assert_eq!(events, expected);
    let (more, _) = trace.end().await;
    assert!(more.is_empty(), "each once: {more:?}");
    assert_eq!(example.counts().await, [2, 2, 4, 1, 1]);
    assert!(!is_on(broker).await);
    example.run().await;
    assert_eq!(example.counts().await, [2, 2, 4, 1, 1], "it is off");
}

/// What was on stays on; patterns choose, payloads are cut, text is aligned.
async fn stays_on(broker: &PrivateBroker, how: How) {
    broker.ctl(&["trace_on"]).await.unwrap();
    let example = Example::new(broker).await;
    let args = ["publish.exchange", "deliver.queue.another", "--max-payload", "3B"];
    let mut trace = Trace::start(broker, how, &args).await;
    assert!(trace.said.contains("was on already, and stays on"), "{}", trace.said);
    example.run().await;
    let lines = [trace.line().await, trace.line().await];
    assert!(lines[0].contains(" publish exchange rk → queue "), "{lines:?}");
    assert!(lines[1].contains(" deliver queue.another "), "{lines:?}");
    assert!(lines.iter().all(|line| line.ends_with("hel… (2 B more)")), "{lines:?}");
    let (more, _) = trace.end().await;
    assert!(more.is_empty(), "{more:?}");
    assert!(is_on(broker).await);
    broker.ctl(&["trace_off"]).await.unwrap();
}

/// A request and its reply in one line, through a queue and direct.
async fn calls(broker: &PrivateBroker) {
    let (url, queue) = (broker.amqp_url(), unique("calls"));
    let misbehave = guests::built("misbehave");
    let _host = Host::start(&Options::new(&url, &queue), &[("misbehave", &misbehave)]);
    let mut trace = Trace::start(broker, How::Ctl, &["-o", "json", "--show", "calls"]).await;
    for method in ["misbehave", "misbehave.panic"] {
        let mut call = Command::from(command(&["call", method, "hi", "--queue", &queue]));
        call.args(["--amqp-url", &url]).output().await.unwrap();
    }
    for (method, status) in [("misbehave", "ok"), ("misbehave.panic", "trap")] {
        let call = trace.json().await;
        assert_eq!((&call["event"], &call["method"]), (&"call".into(), &method.into()), "{call}");
        assert_eq!((&call["status"], &call["deliveries"]), (&status.into(), &1.into()), "{call}");
        assert_eq!(call["queue"], queue.as_str(), "{call}");
        let steps = ["waited_ms", "worked_ms", "back_ms"].map(|step| call[step].as_f64().unwrap());
        let total = call["total_ms"].as_f64().unwrap();
        assert!((steps.iter().sum::<f64>() - total).abs() < 0.1, "{call}");
    }
    let channel = broker::connect(&url).await.create_channel().await.unwrap();
    let no_ack = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let address = "amq.rabbitmq.reply-to";
    let consume = channel.basic_consume(address.into(), "".into(), no_ack, FieldTable::default());
    let mut replies = consume.await.unwrap();
    let properties = BasicProperties::default()
        .with_type("misbehave".into())
        .with_reply_to(address.into())
        .with_correlation_id("direct\u{1b}".into());
    let options = BasicPublishOptions::default();
    channel
        .basic_publish("".into(), queue.as_str().into(), options, b"x", properties)
        .await
        .unwrap();
    replies.next().await.unwrap().unwrap();
    let call = trace.json().await;
    assert_eq!((&call["correlation_id"], &call["status"]), (&"direct\u{1b}".into(), &"ok".into()));
    assert!(call["total_ms"].as_f64().unwrap() > 0.0 && call["back_ms"].is_null(), "{call}");
    trace.end().await;
}

#[tokio::test]
async fn where_it_cannot_be_switched_it_says_what_to_type() {
    let broker = PrivateBroker::start().await.unwrap();
    let mut trace = Trace::start(&broker, How::Neither, &["deliver.#", "--count", "1"]).await;
    assert!(trace.said.contains("type `rabbitmqctl trace_on -p /`"), "{}", trace.said);
    broker.ctl(&["trace_on"]).await.unwrap();
    let example = Example::new(&broker).await;
    example.run().await;
    assert!(trace.line().await.contains(" deliver queue "));
    let status = tokio::time::timeout(PATIENCE, trace.child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(is_on(&broker).await, "whoever switched it on will switch it off");
    broker.remove().await.unwrap();
}

#[tokio::test]
async fn a_reader_that_goes_away_or_stops_reading_harms_nobody() {
    let broker = PrivateBroker::start().await.unwrap();
    let channel = broker::connect(&broker.amqp_url()).await.create_channel().await.unwrap();
    let publish = async |count: usize| {
        for _ in 0..count {
            let (options, none) = (BasicPublishOptions::default(), BasicProperties::default());
            let (to, key) = ("amq.direct".into(), "nobody".into());
            channel.basic_publish(to, key, options, b"x", none).await.unwrap();
        }
    };
    // Somebody pipes into `head`.
    let mut trace = Trace::start(&broker, How::Ctl, &[]).await;
    publish(1).await;
    trace.line().await;
    drop(trace.out);
    publish(3).await;
    let status = tokio::time::timeout(PATIENCE, trace.child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(!is_on(&broker).await);

    // Somebody looks at the first page for a long time.
    let trace = Trace::start(&broker, How::Ctl, &["--max-payload", "1MiB"]).await;
    publish(40_000).await;
    let waiting = async || {
        let queues = broker.ctl(&["list_queues", "-q", "name", "messages_ready"]).await.unwrap();
        let ours = |line: &&str| line.starts_with("rpchost.trace.") && !line.contains("dropped");
        let line = queues.lines().find(ours).unwrap().to_owned();
        line.split('\t').nth(1).unwrap().parse::<u64>().unwrap()
    };
    until("the queue to be full", PATIENCE, async || waiting().await == 20_000).await;
    let Trace { mut child, mut out, mut err, .. } = trace;
    let reading = tokio::spawn(async move { while let Ok(Some(_)) = out.next_line().await {} });
    let said = tokio::time::timeout(PATIENCE, err.next_line()).await.unwrap().unwrap().unwrap();
    assert!(said.contains("events are missing"), "{said}");
    child.kill().await.unwrap();
    reading.await.unwrap();
    broker.ctl(&["trace_off"]).await.unwrap();

    // And Ctrl-C then.
    let mut trace = Trace::start(&broker, How::Ctl, &[]).await;
    publish(5000).await;
    trace.signal(Signal::INT);
    tokio::time::timeout(PATIENCE, trace.child.wait()).await.unwrap().unwrap();
    assert!(!is_on(&broker).await, "also when nobody reads");
    broker.remove().await.unwrap();
}

#[tokio::test]
async fn a_broker_that_dies_is_traced_again_when_it_is_back() {
    let mut broker = PrivateBroker::start().await.unwrap();
    let mut trace = Trace::start(&broker, How::Ctl, &["-o", "json", "publish.#"]).await;
    broker.kill().await.unwrap();
    broker.start_again().await.unwrap();
    let said = async |trace: &mut Trace, what: &str| {
        let said = tokio::time::timeout(2 * PATIENCE, trace.err.next_line()).await;
        let said = said.expect("a word in time").unwrap().expect("a word");
        assert!(said.contains(what), "{said}");
    };
    said(&mut trace, "lost the broker").await;
    said(&mut trace, "connected again").await;
    let example = Example::new(&broker).await;
    example.run().await;
    assert_eq!(trace.json().await["exchange"], "exchange");
    trace.end().await;
    assert!(!is_on(&broker).await);
    broker.remove().await.unwrap();
}
