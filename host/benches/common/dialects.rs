//! A request in each dialect, and its reply.

use bytes::Bytes;
use rpchost::message::{Answered, Delivery, Dialect, HeaderValue, ReturnValue};
use rpchost::wire;
use serde_json::json;

use super::delivery;

/// Of a request's body, and of a reply's.
pub(crate) const SIZE: usize = 1024;

/// Far beyond any reply here.
const LIMIT: usize = 1 << 20;

/// A request as each library sends it, with a text that makes it a KiB.
pub(crate) fn requests() -> Vec<(&'static str, Dialect, Delivery)> {
    let text = |around: usize| "x".repeat(SIZE - around);
    let with = |body: String| delivery(Bytes::from(body));
    let json_rpc = json!({"jsonrpc": "2.0", "method": "m", "params": [text(52)], "id": 1});
    let envelope =
        json!({"request": {"id": 1, "func": "m", "args": [text(55)], "kwargs": {}}}).to_string();
    let mut plain = with(text(0));
    plain.properties.kind = Some("m".to_owned());
    let mut nameko = with(json!({"args": [text(26)], "kwargs": {}}).to_string());
    nameko.routing_key = "service.m".to_owned();
    let nestjs = json!({"pattern": "m", "data": [text(40)], "id": "1"}).to_string();
    let nothing = json!({"callbacks": null, "errbacks": null, "chain": null, "chord": null});
    let mut celery = with(json!([[text(80)], {}, nothing]).to_string());
    celery.properties.content_type = Some("application/json".to_owned());
    for (name, value) in [("task", "m"), ("id", "7c8a"), ("lang", "py")] {
        let value = HeaderValue::Text(value.to_owned());
        celery.properties.headers.push((name.to_owned(), value));
    }
    let aio_pika = with(json!({"text": text(11)}).to_string());
    vec![
        ("plain", Dialect::Plain, plain),
        ("json-rpc", Dialect::JsonRpc, with(json_rpc.to_string())),
        ("envelope", Dialect::Envelope, with(envelope)),
        ("nameko", Dialect::Nameko, nameko),
        ("nestjs", Dialect::NestJs, with(nestjs)),
        ("celery", Dialect::Celery, celery),
        ("aio-pika", Dialect::AioPika, aio_pika),
        ("auto-json-rpc", Dialect::Auto, with(json_rpc.to_string())),
    ]
}

/// Reads a request, answers it, and writes the reply; how long that is.
pub(crate) fn answer(delivery: &Delivery, dialect: Dialect, result: &Answered) -> usize {
    let (calls, mut encoder) = wire::decode(delivery, dialect).into_parts(LIMIT);
    for call in calls {
        let (request, to) = call.into_request();
        assert!(request.is_ok(), "{request:?}");
        encoder.push(&to, result.clone());
    }
    let reply = encoder.finish(delivery, &"answers".into(), None).expect("a reply");
    reply.body.len()
}

/// A result of a KiB.
pub(crate) fn result() -> Answered {
    let body = Bytes::from(format!("{:?}", "y".repeat(SIZE - 2)));
    let content_type = Some("application/json".to_owned());
    Answered { outcome: Ok(ReturnValue { body, content_type, headers: Vec::new() }), plugin: None }
}
