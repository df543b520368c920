//! Clients as they are: what RabbitMQ's RPC tutorials end with, over every
//! way a queue may have been declared before.

use std::process::Command;
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::BasicProperties;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use rpchost::private_broker::PrivateBroker;

use crate::support::host::{Host, Options};
use crate::support::ledger::{call, header};
use crate::support::{broker, guests, unique};

/// Starts a host that serves `fib` alone.
fn fib(url: &str, queue: &str) -> Host {
    Host::start(&Options::new(url, queue), &[("fib", &guests::built("fib"))])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_30_is_answered_832040_over_an_exclusive_reply_queue() {
    let broker = broker::shared().await;
    let queue = unique("tutorial");
    let _host = fib(&broker.amqp_url(), &queue);
    let connection = broker::connect(&broker.amqp_url()).await;
    let channel = connection.create_channel().await.unwrap();
    let asked = BasicProperties::default().with_correlation_id("4f5e".into());
    let reply = call(&channel, &queue, asked, b"30").await;
    assert_eq!(reply.data, b"832040");
    assert_eq!(reply.properties.correlation_id().as_ref().unwrap().as_str(), "4f5e");
    assert_eq!(header(&reply, "rpchost-status").as_deref(), Some("ok"));
    assert!(header(&reply, "rpchost-plugin").unwrap().starts_with("fib@"));
    assert_eq!(*reply.properties.delivery_mode(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_30_is_answered_832040_over_direct_reply_to() {
    let broker = broker::shared().await;
    let queue = unique("direct");
    let _host = fib(&broker.amqp_url(), &queue);
    let connection = broker::connect(&broker.amqp_url()).await;
    let channel = connection.create_channel().await.unwrap();
    let no_ack = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let mut replies = channel
        .basic_consume("amq.rabbitmq.reply-to".into(), "".into(), no_ack, FieldTable::default())
        .await
        .unwrap();
    let properties = BasicProperties::default()
        .with_reply_to("amq.rabbitmq.reply-to".into())
        .with_correlation_id("1".into());
    channel
        .basic_publish(
            "".into(),
            queue.as_str().into(),
            BasicPublishOptions::default(),
            b"30",
            properties,
        )
        .await
        .unwrap();
    let reply = tokio::time::timeout(Duration::from_secs(10), replies.next()).await;
    assert_eq!(reply.unwrap().unwrap().unwrap().data, b"832040");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_is_served_as_it_was_declared_before() {
    let broker = broker::shared().await;
    let connection = broker::connect(&broker.amqp_url()).await;
    let quorum = || {
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        arguments
    };
    for (kind, durable, arguments) in [
        ("classic", true, FieldTable::default()),
        ("transient", false, FieldTable::default()),
        ("quorum", true, quorum()),
    ] {
        let queue = unique(kind);
        let channel = connection.create_channel().await.unwrap();
        let options = QueueDeclareOptions { durable, ..QueueDeclareOptions::default() };
        channel.queue_declare(queue.as_str().into(), options, arguments).await.unwrap();
        let host = fib(&broker.amqp_url(), &queue);
        let reply = call(&channel, &queue, BasicProperties::default(), b"30").await;
        assert_eq!(reply.data, b"832040", "{kind}");
        // The default asks for a quorum queue; anything else is said once.
        let said = host.log().matches("used as it is, although it differs").count();
        assert_eq!(said, usize::from(kind != "quorum"), "{kind}: {}", host.log());
        drop(host);
        let delete = QueueDeleteOptions::default();
        channel.queue_delete(queue.as_str().into(), delete).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_caller_of_the_examples_gets_its_answer() {
    let broker = broker::shared().await;
    let queue = unique("pika");
    let _host = fib(&broker.amqp_url(), &queue);
    let python = guests::root().join("target/venv/bin/python");
    assert!(python.exists(), "{}: run `tests/run.sh` once", python.display());
    let script = guests::root().join("examples/callers/python-pika/fib_rpc_client.py");
    let run = |number: &str| {
        Command::new(&python)
            .arg(&script)
            .args([number, "--url", &broker.amqp_url(), "--queue", &queue])
            .output()
            .expect("python")
    };
    let good = run("30");
    assert_eq!(String::from_utf8_lossy(&good.stdout).trim(), "832040", "{good:?}");
    let bad = run("93");
    assert_eq!(bad.status.code(), Some(1), "{bad:?}");
}

/// Opens a TLS listener on the shared broker: its port, and the certificate
/// that has to be trusted.
async fn tls_listener(broker: &PrivateBroker) -> (u16, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (cert, key) = (directory.path().join("cert.pem"), directory.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let start = format!(
        "rabbit_networking:start_ssl_listener({{\"127.0.0.1\", {port}}}, \
         [{{certfile, \"{}\"}}, {{keyfile, \"{}\"}}], 1).",
        cert.display(),
        key.display()
    );
    broker.ctl(&["eval", &start]).await.unwrap();
    (port, directory)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_behind_tls_is_served_if_it_is_trusted() {
    let broker = broker::shared().await;
    let (port, directory) = tls_listener(broker).await;
    let queue = unique("tls");
    let url = format!("amqps://guest:guest@localhost:{port}/%2f");
    let cert = directory.path().join("cert.pem");
    let options = Options::new(&url, &queue).args(&["--tls-ca", cert.to_str().unwrap()]);
    let _host = Host::start(&options, &[("fib", &guests::built("fib"))]);
    let connection = broker::connect(&broker.amqp_url()).await;
    let channel = connection.create_channel().await.unwrap();
    let reply = call(&channel, &queue, BasicProperties::default(), b"30").await;
    assert_eq!(reply.data, b"832040");
    // Nobody has said that this certificate is to be trusted.
    let untrusted = crate::support::host::command(&["serve", "--connect-attempts", "1"])
        .env("RPCHOST_AMQP_URL", &url)
        .args(["--admin", "off", "--plugins"])
        .arg(directory.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&untrusted.stderr);
    assert_eq!(untrusted.status.code(), Some(1), "{said}");
    assert!(said.to_lowercase().contains("certificate"), "{said}");
}
