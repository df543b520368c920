//! Messages that no library would send and RabbitMQ delivers all the same:
//! each is answered, its id byte for byte, and the one after it too.

use std::collections::HashMap;

use rpchost::private_broker::PrivateBroker;

use crate::support::host::{Host, Options};
use crate::support::raw::{
    APP_ID, CLUSTER_ID, CONTENT_ENCODING, CONTENT_TYPE, CORRELATION_ID, Client, HEADERS,
    MESSAGE_ID, Props, REPLY_TO, TYPE, long, short,
};
use crate::support::{broker, guests, unique};

/// One message, and whether an answer is due.
struct Nasty {
    name: String,
    props: Props,
    body: Vec<u8>,
    answered: bool,
}

/// Bytes that are no UTF-8, or that are and should not be trusted.
fn contents(length: usize) -> Vec<(&'static str, Vec<u8>)> {
    let random = (0..length).map(|at| (at * 131 + 197) as u8).collect();
    let mut cut = vec![b'a'; length];
    if let Some(last) = cut.last_mut() {
        *last = 0xC3;
    }
    let control = b"\0\r\n\x1b[31m".iter().copied().cycle().take(length).collect();
    vec![("ff", vec![0xFF; length]), ("random", random), ("cut", cut), ("control", control)]
}

fn entry(name: &[u8], kind: u8, value: &[u8]) -> Vec<u8> {
    [&short(name)[..], &[kind], value].concat()
}

/// `depth` arrays, or tables, in each other.
fn nested(depth: usize, kind: u8) -> Vec<u8> {
    let mut inner = Vec::new();
    for _ in 0..depth {
        inner = match kind {
            b'A' => [&[b'A'][..], &long(&inner)].concat(),
            _ => [&short(b"k")[..], b"F", &long(&inner)].concat(),
        };
    }
    if kind == b'A' { [&short(b"deep")[..], &inner].concat() } else { inner }
}

/// Everything; `answers` is the queue that the answers go to.
fn nasty(queue: &str, answers: &[u8]) -> Vec<Nasty> {
    let mut all: Vec<Nasty> = Vec::new();
    let mut add = |name: String, props: Props, body: &[u8], answered: bool| {
        let props = match (answered, props.get(REPLY_TO)) {
            (true, None) => props.with(REPLY_TO, answers),
            _ => props,
        };
        // Each has an id of its own; some are only that.
        let props = match props.get(CORRELATION_ID) {
            None => {
                let number = u32::try_from(all.len()).unwrap();
                props.with(CORRELATION_ID, &[&[0xFE, 0x00][..], &number.to_be_bytes()].concat())
            }
            Some(_) => props,
        };
        all.push(Nasty { name, props, body: body.to_vec(), answered });
    };
    let strings = [
        (CONTENT_TYPE, "content-type"),
        (CONTENT_ENCODING, "content-encoding"),
        (CORRELATION_ID, "correlation-id"),
        (MESSAGE_ID, "message-id"),
        (TYPE, "type"),
        (APP_ID, "app-id"),
        (CLUSTER_ID, "cluster-id"),
    ];
    for (property, name) in strings {
        for length in [1, 16, 127, 220, 221, 255] {
            for (what, bytes) in contents(length) {
                let props = Props::default().with(property, &bytes);
                add(format!("{name} of {length} bytes: {what}"), props, b"x", true);
            }
        }
    }
    let mut bad = Props::default();
    for (property, _) in strings {
        bad = bad.with(property, &[0xF5; 255]);
    }
    add("all strings bad at once".to_owned(), bad, b"x", true);

    // Tables.
    let fields: [(u8, &[u8]); 16] = [
        (b't', &[1]),
        (b'b', &[0x80]),
        (b'B', &[0xFF]),
        (b's', &[0x80, 0]),
        (b'u', &[0xFF, 0xFF]),
        (b'I', &[0x80, 0, 0, 0]),
        (b'i', &[0xFF; 4]),
        (b'l', &[0x80, 0, 0, 0, 0, 0, 0, 0]),
        (b'f', &[0x3F, 0x80, 0, 0]),
        (b'd', &[0x3F, 0xF0, 0, 0, 0, 0, 0, 0]),
        (b'D', &[255, 0, 0, 0, 1]),
        (b'S', &[0, 0, 0, 2, 0xFF, 0xFE]),
        (b'x', &[0, 0, 0, 2, 0xFF, 0xFE]),
        (b'T', &[0xFF; 8]),
        (b'V', &[]),
        (b'A', &[0, 0, 0, 0]),
    ];
    let headers = |table: &[u8]| Props::default().with(HEADERS, table);
    for (kind, value) in fields {
        let table = entry(b"field", kind, value);
        add(format!("a field of type {}", kind as char), headers(&table), b"x", true);
    }
    let every: Vec<u8> =
        fields.iter().flat_map(|(kind, value)| entry(&[*kind], *kind, value)).collect();
    add("fields of all types".to_owned(), headers(&every), b"x", true);
    for depth in [1, 2, 16, 31, 32, 33, 64, 100, 500, 1_000, 5_000, 10_000, 20_000, 26_000] {
        add(format!("arrays nested {depth} deep"), headers(&nested(depth, b'A')), b"x", true);
    }
    for depth in [1, 2, 16, 31, 32, 33, 64, 100, 500, 1_000, 5_000, 10_000, 18_000] {
        add(format!("tables nested {depth} deep"), headers(&nested(depth, b'F')), b"x", true);
    }
    for (what, key) in [
        ("empty", &b""[..]),
        ("not UTF-8", &[0xFF; 8]),
        ("of 255 bytes", &[b'k'; 255]),
        ("of 255 bad bytes", &[0xC3; 255]),
        ("with NUL", b"a\0b"),
        ("CC-like", b"cc"),
        ("forged id", b"rpchost-raw-correlation-id"),
        ("forged address", b"rpchost-raw-reply-to"),
        ("forged routing key", b"rpchost-raw-routing-key"),
        ("forged loss", b"rpchost-raw-headers"),
        ("forged status", b"rpchost-status"),
        ("forged count", b"x-delivery-count"),
    ] {
        for kind in [b'S', b'x'] {
            let table = entry(key, kind, &long(b"amq.fanout"));
            let name = format!("a header's name {what}, as {}", kind as char);
            add(name, headers(&table), b"x", true);
        }
    }
    let twice = [entry(b"k", b'S', &long(b"1")), entry(b"k", b'S', &long(b"2"))].concat();
    add("a header twice".to_owned(), headers(&twice), b"x", true);
    for count in [127_u32, 128, 129, 1_000, 18_000] {
        let table: Vec<u8> =
            (0..count).flat_map(|at| entry(&at.to_be_bytes()[1..], b'V', &[])).collect();
        add(format!("{count} headers"), headers(&table), b"x", true);
    }
    for (name, value) in [
        ("rpc-deadline-ms", &b"soon"[..]),
        ("rpc-deadline-ms", b"-1"),
        ("rpc-deadline-ms", b"99999999999999999999999999"),
        ("rpc-timeout-ms", b"0"),
        ("rpc-timeout-ms", b"1.5"),
        ("rpc-timeout-ms", &[0xFF, 0xFF]),
        ("rpc-method", &[0xFF, 0xFF]),
        ("rpc-method", b"../../etc/passwd"),
        ("traceparent", b"\r\nforged"),
    ] {
        let table = entry(name.as_bytes(), b'S', &long(value));
        let name = format!("{name}: {:?}", String::from_utf8_lossy(value));
        add(name, headers(&table), b"x", true);
    }
    // Content header frames at the limit: 131072 bytes with their eight of
    // frame; RabbitMQ lets eight more pass.
    for payload in [4_096, 131_000, 131_056, 131_063, 131_064, 131_065, 131_068, 131_071, 131_072] {
        let fill = |bytes: usize| {
            Props::default()
                .with(CORRELATION_ID, &u64::try_from(payload).unwrap().to_be_bytes())
                .with(REPLY_TO, answers)
                .with(HEADERS, &entry(b"big", b'S', &long(&vec![b'x'; bytes])))
        };
        let props = fill(payload - fill(0).size());
        assert_eq!(props.size(), payload);
        add(format!("a content header of {payload} bytes"), props, b"x", true);
    }

    // Bodies.
    for (name, body) in [
        ("nothing", &b""[..]),
        ("half a call", br#"{"jsonrpc":"2.0","method":"#),
        ("a call to nothing", br#"{"jsonrpc":"2.0","method":"","id":1}"#),
        ("a call with a bad id", br#"{"jsonrpc":"2.0","method":"hello","id":{}}"#),
        ("a huge number", br#"{"jsonrpc":"2.0","method":"hello","params":[1e400],"id":1}"#),
        ("a lone surrogate", br#"{"jsonrpc":"2.0","method":"\ud800","id":1}"#),
        ("an empty name", br#"{"jsonrpc":"2.0","method":"__proto__","id":1}"#),
        ("twice the same key", br#"{"jsonrpc":"2.0","jsonrpc":"1.0","method":"hello","id":1}"#),
        ("no UTF-8", b"{\"jsonrpc\":\"2.0\",\"method\":\"\xFF\",\"id\":1}"),
        ("NULs", &[0; 1_000]),
    ] {
        add(format!("a body: {name}"), Props::default(), body, true);
    }
    let deep = [&br#"{"jsonrpc":"2.0","method":"hello","id":1,"params":"#[..], &[b'['; 100_000]];
    add("a body: 100,000 brackets".to_owned(), Props::default(), &deep.concat(), true);

    // Reply addresses that nobody can be answered at.
    for (name, address) in [
        ("the request queue", queue.as_bytes()),
        ("missing", b"no-such-queue"),
        ("missing and not UTF-8", &[0xFF; 40]),
        ("255 bad bytes", &[0xFE; 255]),
        ("NUL", b"\0"),
        ("forged", b"amq.rabbitmq.reply-to.x.y"),
        ("forged, bad base64", b"amq.rabbitmq.reply-to.@@@.@@@"),
        ("forged, short", b"amq.rabbitmq.reply-to.AAAA.bbbb"),
        ("forged, not UTF-8", b"amq.rabbitmq.reply-to.\xFF.\xFF"),
        ("the placeholder", b"rpchost-raw"),
    ] {
        let props = Props::default().with(REPLY_TO, address);
        add(format!("a reply address: {name}"), props, b"x", false);
    }
    all
}

/// Sends every message, each followed by a healthy one.
fn endure(port: u16, host: &Host, queue: &str) {
    let answers = unique("frames").into_bytes();
    let mut client = Client::connect(port);
    client.reply_queue(&answers);
    let all = nasty(queue, &answers);
    assert!(all.len() >= 250, "{}", all.len());
    let mut due: HashMap<Vec<u8>, usize> = HashMap::new();
    for (number, nasty) in all.iter().enumerate() {
        client.publish(queue.as_bytes(), &nasty.props, &nasty.body);
        if nasty.answered {
            let id = nasty.props.get(CORRELATION_ID).unwrap().to_vec();
            *due.entry(id).or_default() += 1;
        }
        let probe = format!("probe-{number}").into_bytes();
        let healthy = Props::default()
            .with(TYPE, b"hello")
            .with(CORRELATION_ID, &probe)
            .with(REPLY_TO, &answers);
        client.publish(queue.as_bytes(), &healthy, b"x");
        loop {
            let (props, body) = client.delivery();
            let id = props.get(CORRELATION_ID).unwrap_or_default().to_vec();
            if id == probe {
                assert_eq!(body, b"hello", "after {}", nasty.name);
                break;
            }
            let left = due.get_mut(&id).unwrap_or_else(|| panic!("not asked for: {props:?}"));
            *left -= 1;
        }
    }
    // The last ones may still be on their way.
    while due.values().any(|left| *left > 0) {
        let (props, _) = client.delivery();
        let id = props.get(CORRELATION_ID).unwrap_or_default().to_vec();
        *due.get_mut(&id).unwrap_or_else(|| panic!("not asked for: {props:?}")) -= 1;
    }
    assert_eq!(host.metric("rpchost_sessions_total{event=\"lost\"}"), 0.0);
    assert_eq!(host.metric("rpchost_panics_total"), 0.0);
}

/// Serves `hello` from this broker and sends everything.
async fn outlived(broker: &PrivateBroker) {
    let queue = unique("nasty");
    let hello = guests::guest("hello").wasm;
    let options = Options::new(&broker.amqp_url(), &queue).args(&["--queue-type", "classic"]);
    let mut host = Host::start(&options, &[("hello", &hello)]);
    let port = broker.port();
    let host = tokio::task::spawn_blocking(move || {
        endure(port, &host, &queue);
        assert!(host.is_running());
        (host, queue)
    });
    let (host, queue) = host.await.unwrap();
    let connection = broker::connect(&broker.amqp_url()).await;
    let channel = connection.create_channel().await.unwrap();
    crate::support::until("an empty queue", std::time::Duration::from_secs(10), || async {
        let passive = lapin::options::QueueDeclareOptions { passive: true, ..Default::default() };
        let declared =
            channel.queue_declare(queue.as_str().into(), passive, Default::default()).await;
        declared.unwrap().message_count() == 0 && host.metric("rpchost_in_flight") == 0.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_no_library_would_send_are_answered_and_outlived() {
    outlived(broker::shared().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rabbitmq_4_is_served_and_its_worst_messages_are_outlived() {
    let broker = broker::rabbitmq_4().await;
    assert!(broker.ctl(&["version"]).await.unwrap().trim().starts_with("4."));
    outlived(&broker).await;
    // The queue that a host makes there by itself, a quorum queue.
    let queue = unique("four");
    let options = Options::new(&broker.amqp_url(), &queue);
    let host = Host::start(&options, &[("fib", &guests::built("fib"))]);
    let connection = broker::connect(&broker.amqp_url()).await;
    let channel = connection.create_channel().await.unwrap();
    let asked = lapin::BasicProperties::default();
    let reply = crate::support::ledger::call(&channel, &queue, asked, b"30").await;
    assert_eq!(reply.data, b"832040");
    drop(host);
    broker.remove().await.unwrap();
}
