//! Languages that take each other's place under load, and all of them side by side in one host.

use std::collections::BTreeMap;
use std::time::Duration;

use lapin::BasicProperties;
use serde_json::{Value as Json, json};
use sha2::{Digest as _, Sha256};

use super::examples::{Language, USUAL};
use crate::support::host::{Host, Options};
use crate::support::ledger::{Entry, Load, call, header};
use crate::support::{broker, unique, until};

/// Requests a second: while a version is compiled and tried, hundreds are sent.
const RATE: u32 = 200;

/// How long a version may take to be compiled, tried and served, on a machine with other work.
const PATIENCE: Duration = Duration::from_secs(180);

/// Answers that a language gives before the next takes over.
const TURN: usize = 20;

/// How often each language has its turn.
const ROUNDS: usize = 3;

/// The reply header `rpchost-plugin` of a component that is served as `plugin`.
fn identity(plugin: &str, wasm: &[u8]) -> String {
    let digest: String =
        Sha256::digest(wasm).iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    format!("{plugin}@{digest}")
}

/// The request of this number: both functions, and an error of each.
fn request(number: u64) -> (&'static str, Json) {
    let value = |by: f64| (number % 1000) as f64 / 4.0 + by;
    match number % 4 {
        0 => ("fib", json!(number % 79)),
        1 => ("fib", json!(79 + number % 50)),
        2 => {
            let readings = [("high", 1.5), ("low", -0.5), ("middle", 0.0), ("high", 1.5)];
            let reading = |(sensor, by)| json!({"sensor": sensor, "value": value(by)});
            ("statistics", json!(readings.map(reading)))
        }
        _ => ("statistics", json!([{"sensor": format!("s{number}"), "value": "NaN"}])),
    }
}

/// What is right for a request: its status, and the result or the error's data.
fn right(method: &str, argument: &Json) -> (&'static str, Json) {
    if method == "fib" {
        let n = argument.as_u64().unwrap();
        let (mut a, mut b) = (0u64, 1u64);
        for _ in 0..n.min(78) {
            (a, b) = (b, a + b);
        }
        return if n > 78 { ("application", json!("too-large")) } else { ("ok", json!(a)) };
    }
    if argument[0]["value"] == "NaN" {
        return ("application", json!({"not-a-number": argument[0]["sensor"]}));
    }
    let value = |index: usize| argument[index]["value"].as_f64().unwrap();
    // Quarters, and sixteenths of their sum: nothing is rounded.
    let summary = json!({
        "count": 4,
        "mean": (value(0) + value(1) + value(2) + value(3)) / 4.0,
        "median": (value(2) + value(0)) / 2.0,
        "lowest": argument[1],
        "highest": argument[0],
    });
    ("ok", summary)
}

/// The result of an answer, or the data of its error.
fn told(status: &str, body: &[u8]) -> Json {
    let mut told: Json = serde_json::from_slice(body).expect("JSON");
    if status == "ok" { told } else { told["error"]["data"].take() }
}

/// A plugin `math` is called all the time while each language takes its turn. Then all of them are
/// served side by side, and asked the same.
pub(super) async fn swapped(languages: &[&Language]) {
    let broker = broker::shared().await;
    let queue = unique("languages");
    let last = languages.last().expect("a language").component();
    let host = Host::start(&Options::new(&broker.amqp_url(), &queue), &[("math", last)]);
    let load = Load::start(&broker.amqp_url(), &queue, RATE, |number| {
        let (method, argument) = request(number);
        (format!("math.{method}"), argument.to_string().into_bytes())
    })
    .await;
    for language in languages.repeat(ROUNDS) {
        let own = identity("math", language.component());
        let is_own = |entry: &Entry| entry.answers.iter().any(|answer| answer.plugin == own);
        let due = load.ledger.count(is_own) + TURN;
        host.put("math", language.component());
        let turn = format!("answers in {}", language.name);
        until(&turn, PATIENCE, || async { load.ledger.count(is_own) >= due }).await;
    }
    let ledger = load.finish(Duration::from_secs(60)).await;
    assert_eq!((ledger.lost(), ledger.duplicates()), (0, 0));
    assert!(ledger.unexpected().is_empty());
    let names: BTreeMap<_, _> = languages
        .iter()
        .map(|language| (identity("math", language.component()), language.name))
        .collect();
    let mut answers: BTreeMap<&str, usize> = BTreeMap::new();
    for entry in ledger.entries().values() {
        let Some(answer) = entry.answers.first() else { continue };
        let language = names.get(&answer.plugin).expect("one of the components");
        let method = entry.method.strip_prefix("math.").expect("a method");
        let argument: Json = serde_json::from_slice(&entry.body).unwrap();
        let what = format!("{language}: {method} {argument}");
        let got = (answer.status.as_str(), told(&answer.status, &answer.body));
        assert_eq!(got, right(method, &argument), "{what}");
        *answers.entry(language).or_default() += 1;
    }
    eprintln!("answers: {answers:?}");
    assert_eq!(answers.len(), languages.len(), "{answers:?}");
    let replaced = host.log().matches("plugin replaced").count();
    assert_eq!(replaced, languages.len() * ROUNDS, "each swap was one");
    side_by_side(&host, &queue, languages).await;
}

/// What is asked of all languages side by side, and what each answers, byte for byte.
const ANSWERS: [(&str, &str, &str); 11] = [
    ("fib", "1", "1"),
    ("fib", "50", "12586269025"),
    ("fib", "78", "8944394323791464"),
    ("fib", "4294967295", r#""too-large""#),
    ("statistics", "[]", r#""no-readings""#),
    ("statistics", r#"[{"sensor":"","value":"NaN"}]"#, r#"{"not-a-number":""}"#),
    (
        "statistics",
        r#"[{"sensor":"a","value":1},{"sensor":"größer \"b\"","value":"Infinity"}]"#,
        r#"{"not-a-number":"größer \"b\""}"#,
    ),
    (
        "statistics",
        r#"[{"sensor":"","value":-0.0}]"#,
        concat!(
            r#"{"count":1,"mean":0.0,"median":-0.0,"#,
            r#""lowest":{"sensor":"","value":-0.0},"highest":{"sensor":"","value":-0.0}}"#
        ),
    ),
    (
        // The sum is 0.6000000000000001; rounded less often, it would be 0.6.
        "statistics",
        concat!(
            r#"[{"sensor":"ä","value":0.1},{"sensor":"b","value":0.2},"#,
            r#"{"sensor":"c","value":0.3}]"#
        ),
        concat!(
            r#"{"count":3,"mean":0.20000000000000004,"median":0.2,"#,
            r#""lowest":{"sensor":"ä","value":0.1},"highest":{"sensor":"c","value":0.3}}"#
        ),
    ),
    (
        // Sorted as texts, 10 would come before 9.
        "statistics",
        concat!(
            r#"[{"sensor":"a","value":10},{"sensor":"b","value":-9.5},{"sensor":"c","value":9},"#,
            r#"{"sensor":"d","value":1024},{"sensor":"e","value":-9.5}]"#
        ),
        concat!(
            r#"{"count":5,"mean":204.8,"median":9.0,"#,
            r#""lowest":{"sensor":"b","value":-9.5},"highest":{"sensor":"d","value":1024.0}}"#
        ),
    ),
    (
        // Their sum is more than there is a number for.
        "statistics",
        r#"[{"sensor":"a","value":1.5e308},{"sensor":"b","value":1.5e308}]"#,
        concat!(
            r#"{"count":2,"mean":"Infinity","median":"Infinity","#,
            r#""lowest":{"sensor":"a","value":1.5e+308},"highest":{"sensor":"a","value":1.5e+308}}"#
        ),
    ),
];

/// Every language under a name of its own, in a host that has compiled them all.
async fn side_by_side(host: &Host, queue: &str, languages: &[&Language]) {
    let connection = broker::connect(&broker::shared().await.amqp_url()).await;
    let channel = connection.create_channel().await.unwrap();
    let ask = async |method: String, argument: &str| {
        let asked = BasicProperties::default().with_type(method.into());
        let reply = call(&channel, queue, asked, argument.as_bytes()).await;
        let status = header(&reply, "rpchost-status").expect("a status");
        (status, header(&reply, "rpchost-plugin"), reply.data)
    };
    for language in languages {
        let name = format!("math-{}", language.name);
        host.put(&name, language.component());
        until(&name, PATIENCE, || async {
            ask(format!("{name}.fib"), "0").await.0 != "method-not-found"
        })
        .await;
    }
    for (method, argument, expected) in ANSWERS {
        for language in languages {
            let name = format!("math-{}", language.name);
            let (status, plugin, body) = ask(format!("{name}.{method}"), argument).await;
            let what = format!("{name}.{method} {argument}");
            assert_eq!(plugin, Some(identity(&name, language.component())), "{what}");
            let said = if status == "ok" {
                String::from_utf8(body).expect("UTF-8")
            } else {
                assert_eq!(status, "application", "{what}: {}", String::from_utf8_lossy(&body));
                told(&status, &body).to_string()
            };
            assert_eq!(said, expected, "{what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn languages_take_turns_under_load_and_answer_alike() {
    swapped(&USUAL.each_ref()).await;
}
