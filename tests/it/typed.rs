//! Plugins whose functions have types: JSON in, JSON out.

use bytes::Bytes;
use rpchost::plugins::{Engine, Inspection, Kind, Plugins, Source, inspect};
use serde_json::{Value, json};

use crate::core::{House, error, header, house, limits, status};
use crate::support::fake_broker::delivery;
use crate::support::guests;
use crate::support::host::command;

/// Values that come back as they are, each of a function of the interface
/// `echo`. The text is as the host writes it.
pub const ECHOES: &[(&str, &[&str])] = &[
    ("bool", &["true", "false"]),
    ("u8", &["0", "255"]),
    ("s8", &["-128", "127"]),
    ("u16", &["65535"]),
    ("s16", &["-32768"]),
    ("u32", &["4294967295"]),
    ("s32", &["-2147483648"]),
    ("u64", &["0", "9007199254740991", "\"9007199254740992\"", "\"18446744073709551615\""]),
    ("s64", &["-9007199254740991", "\"-9007199254740992\"", "\"-9223372036854775808\""]),
    ("f32", &["0.1", "-0.0", "3.4028235e+38", "\"NaN\"", "\"Infinity\"", "\"-Infinity\""]),
    ("f64", &["0.1", "-0.0", "5e-324", "1.7976931348623157e+308", "\"NaN\"", "\"Infinity\""]),
    ("char", &["\"a\"", "\"é\"", "\"🦀\"", "\"\\u0000\"", "\"\\\"\""]),
    ("string", &["\"\"", "\"hello\"", "\"é🦀\\n\\\"\""]),
    ("bytes", &["\"\"", "\"AAEC/w==\""]),
    ("numbers", &["[]", "[1,2,4294967295]"]),
    ("floats", &["[0.5,\"NaN\",-1.0]"]),
    ("strings", &["[]", "[\"\",\"a\",\"é\"]"]),
    ("lists", &["[[],[1],[-2,3]]"]),
    ("blobs", &["[\"\",\"QQ==\"]"]),
    ("bools", &["[true,false]"]),
    ("chars", &["[\"a\",\"é\"]"]),
    ("tuple", &["[1,\"a\",0.5]"]),
    ("pairs", &["[[\"a\",1],[\"b\",\"9007199254740993\"]]"]),
    ("point", &["{\"x\":1.0,\"y\":-2.5}"]),
    ("points", &["[]", "[{\"x\":1.0,\"y\":2.0},{\"x\":0.0,\"y\":0.0}]"]),
    ("user", &["{\"user-id\":7,\"type\":\"admin\",\"nick\":null}"]),
    ("bundle", &[BUNDLE]),
    (
        "shape",
        &[
            "{\"circle\":2.5}",
            "{\"polygon\":[{\"x\":1.0,\"y\":2.0}]}",
            "{\"labelled\":[\"a\",-7]}",
            "\"nothing\"",
        ],
    ),
    ("shapes", &["[\"nothing\",{\"circle\":1.0}]"]),
    ("color", &["\"red\"", "\"dark-blue\""]),
    ("access", &["[]", "[\"read\",\"run-it\"]", "[\"read\",\"write\",\"run-it\"]"]),
    ("many", &["[\"f0\",\"f8\",\"f16\"]"]),
    ("option", &["null", "0", "7"]),
    ("option-string", &["null", "\"\""]),
    ("option-option", &["null", "{\"some\":null}", "{\"some\":7}"]),
    (
        "three-options",
        &["null", "{\"some\":null}", "{\"some\":{\"some\":null}}", "{\"some\":{\"some\":true}}"],
    ),
    ("option-point", &["null", "{\"x\":1.0,\"y\":2.0}"]),
    ("result", &["[{\"ok\":1},{\"err\":\"no\"}]"]),
    ("result-ok", &["[{\"ok\":1},{\"err\":null}]"]),
    ("result-err", &["[{\"ok\":null},{\"err\":\"red\"}]"]),
    ("result-none", &["[{\"ok\":null},{\"err\":null}]"]),
    ("result-result", &["[{\"ok\":{\"ok\":1}},{\"ok\":{\"err\":true}},{\"err\":0.5}]"]),
];

const BUNDLE: &str = concat!(
    r#"{"a":true,"b":-1,"c":2,"d":-3,"e":"18446744073709551615","f":0.5,"g":0.25,"h":"é","#,
    r#""i":"text","j":"AP8=","k":[{"x":1.0,"y":2.0}],"l":[9,"t"],"m":{"circle":1.5},"#,
    r#""n":"dark-blue","o":["write"],"p":{"some":null},"q":{"err":"no"}}"#,
);

fn typed() -> House {
    house(&[("typed", &guests::built("typed"), "")], None)
}

/// Calls in `json-rpc`; the whole answer.
async fn json_rpc(house: &House, method: &str, params: Option<&str>) -> Value {
    let params = params.map(|params| format!(",\"params\":{params}")).unwrap_or_default();
    let body = format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":{method:?}{params}}}");
    let reply = house.reply(&delivery(None, body)).await;
    serde_json::from_slice(&reply.body).expect("JSON")
}

fn ok(text: &str) -> (String, String) {
    ("ok".to_owned(), text.to_owned())
}

#[tokio::test]
async fn every_type_goes_through_a_guest_of_an_unmodified_toolchain_and_back() {
    let house = typed();
    for (function, values) in ECHOES {
        let method = format!("typed.echo-{function}");
        for value in *values {
            assert_eq!(house.call(&method, value).await, ok(value), "{method}");
            let answer = json_rpc(&house, &method, Some(&format!("[{value}]"))).await;
            let expected: Value = serde_json::from_str(value).expect("JSON");
            assert_eq!(answer["result"], expected, "{method}: {answer}");
        }
    }
    let bundles = format!("[{BUNDLE},{BUNDLE}]");
    assert_eq!(house.call("typed.echo-bundles", &bundles).await, ok(&bundles));
}

#[tokio::test]
async fn more_arguments_than_a_core_function_takes_arrive_in_order() {
    let house = typed();
    let sent =
        r#"[1,2,3,4,-5,-6,-7,-8,0.5,0.25,true,"x","text","AQI=",null,"red",["read","run-it"]]"#;
    let (status, body) = house.call("typed.echo-seventeen", sent).await;
    assert_eq!(status, "ok", "{body}");
    let told: Vec<String> = serde_json::from_str(&body).expect("JSON");
    let expected = [
        "1", "2", "3", "4", "-5", "-6", "-7", "-8", "0.5", "0.25", "true", "'x'", "\"text\"",
        "[1, 2]", "None",
    ];
    assert_eq!(told[..15], expected);
    assert!(told[15].ends_with("Red"), "{}", told[15]);
    assert!(told[16].contains("bits: 5"), "{}", told[16]);
}

#[tokio::test]
async fn a_plain_body_is_the_argument_and_the_reply_is_json() {
    let house = typed();
    let reply = house.reply(&delivery(Some("typed.fib"), "30")).await;
    assert_eq!(reply.body, "832040");
    assert_eq!(reply.content_type.as_deref(), Some("application/json"));
    assert_eq!(header(&reply, "rpchost-status").as_deref(), Some("ok"));
    assert!(header(&reply, "rpchost-plugin").is_some_and(|id| id.starts_with("typed@")));
    for (method, body, expected) in [
        ("typed.add", "[1,2]", "3"),
        ("typed.add", "{\"b\":2,\"a\":1}", "3"),
        ("typed.fib", "{\"n\":10}", "55"),
        ("typed.nothing", "", "null"),
        ("typed.nothing", "null", "null"),
        ("typed.version", "", "\"1.2.0\""),
        ("typed.divide", "[7,2]", "3"),
        ("typed.check", "\"good\"", "null"),
        ("typed.longest", "[[{\"x\":3,\"y\":4}]]", "5.0"),
        ("typed.longest", "[[{\"x\":3,\"y\":4}],2]", "10.0"),
        ("typed.longest", "{\"points\":[{\"x\":3,\"y\":4}],\"in_unit\":\"imperial\"}", "2.5"),
    ] {
        assert_eq!(house.call(method, body).await, ok(expected), "{method} {body}");
    }
}

#[tokio::test]
async fn what_a_function_does_not_take_is_answered_with_the_place() {
    let house = typed();
    for (method, body, kind, path) in [
        ("typed.add", "[1]", "invalid-params", "b"),
        ("typed.add", "[1,2,3]", "invalid-params", "[2]"),
        ("typed.add", "{\"a\":1}", "invalid-params", "b"),
        ("typed.add", "{\"a\":1,\"b\":2,\"c\":3}", "invalid-params", "c"),
        ("typed.add", "[1,\"x\"]", "invalid-params", "b"),
        ("typed.add", "[1,4294967296]", "invalid-params", "b"),
        ("typed.add", "", "invalid-params", "a"),
        ("typed.add", "null", "invalid-params", "a"),
        ("typed.fib", "-1", "invalid-params", "n"),
        ("typed.fib", "1.5", "invalid-params", "n"),
        ("typed.fib", "\"x\"", "invalid-params", "n"),
        ("typed.fib", "[30]", "invalid-params", "n"),
        ("typed.fib", "", "invalid-params", "n"),
        ("typed.fib", "null", "invalid-params", "n"),
        ("typed.fib", "thirty", "parse-error", ""),
        ("typed.fib", "30 40", "parse-error", ""),
        ("typed.nothing", "1", "invalid-params", ""),
        ("typed.nothing", "x", "parse-error", ""),
        ("typed.longest", "[[{\"x\":1,\"y\":2},{\"x\":\"1\"}]]", "invalid-params", "points[1].x"),
        ("typed.nope", "1", "method-not-found", ""),
        ("typed.open", "\"x\"", "method-not-found", ""),
        ("typed", "1", "method-not-found", ""),
        ("typed.", "1", "method-not-found", ""),
    ] {
        let reply = house.reply(&delivery(Some(method), body)).await;
        let error = error(&reply);
        assert_eq!(status(&reply), kind, "{method} {body}: {error}");
        assert_eq!(error["data"]["path"].as_str().unwrap_or_default(), path, "{method} {body}");
    }
    let missing = error(&house.reply(&delivery(Some("typed.add"), "[1]")).await);
    assert_eq!(missing["code"], -32602);
    assert_eq!(missing["retryable"], false);
    assert_eq!(
        missing["message"],
        "`b`: it is missing; expected u32; the function is (a: u32, b: u32) -> u64"
    );
}

#[tokio::test]
async fn json_rpc_params_are_by_position_or_name() {
    let house = typed();
    for (method, params, result) in [
        ("typed.fib", Some("[30]"), json!(832_040)),
        ("typed.fib", Some("{\"n\":30}"), json!(832_040)),
        ("typed.nothing", None, Value::Null),
        ("typed.nothing", Some("[]"), Value::Null),
        ("typed.add", Some("[1,2]"), json!(3)),
        ("typed.echo-u64", Some("[9007199254740993]"), json!("9007199254740993")),
        ("typed.echo-point", Some("[{\"x\":1,\"y\":2}]"), json!({ "x": 1.0, "y": 2.0 })),
        ("typed.echo-point", Some("{\"v\":{\"x\":1,\"y\":2}}"), json!({ "x": 1.0, "y": 2.0 })),
    ] {
        let answer = json_rpc(&house, method, params).await;
        assert!(answer.get("error").is_none(), "{method} {params:?}: {answer}");
        assert_eq!(answer["result"], result, "{method} {params:?}");
    }
    for (method, params, code, path) in [
        ("typed.fib", None, -32602, "n"),
        ("typed.fib", Some("[]"), -32602, "n"),
        ("typed.fib", Some("[1,2]"), -32602, "[1]"),
        ("typed.fib", Some("{\"m\":1}"), -32602, "m"),
        ("typed.fib", Some("[-1]"), -32602, "n"),
        ("typed.add", Some("{\"a\":1}"), -32602, "b"),
        ("typed.nope", Some("[1]"), -32601, ""),
    ] {
        let answer = json_rpc(&house, method, params).await;
        assert_eq!(answer["error"]["code"], code, "{method} {params:?}: {answer}");
        let data = &answer["error"]["data"]["data"];
        assert_eq!(data["path"].as_str().unwrap_or_default(), path, "{method} {params:?}");
    }
}

#[tokio::test]
async fn a_functions_own_err_is_an_application_error() {
    let house = typed();
    for (method, body, message, data) in [
        (
            "typed.divide",
            "[1,0]",
            "bad-input: the divisor is 0",
            json!({ "bad-input": "the divisor is 0" }),
        ),
        ("typed.divide", "[-2147483648,-1]", "overflow", json!("overflow")),
        ("typed.check", "\"bad\"", "not good: bad", json!("not good: bad")),
        ("typed.refuse", "2", "`refuse` returned an error", json!("AAA=")),
    ] {
        let reply = house.reply(&delivery(Some(method), body)).await;
        assert_eq!(status(&reply), "application", "{method}");
        let error = error(&reply);
        assert_eq!(error["code"], 1);
        assert_eq!(error["message"], message);
        assert_eq!(error["data"], data);
    }
    let answer = json_rpc(&house, "typed.divide", Some("[1,0]")).await;
    assert_eq!(answer["error"]["code"], 1);
    assert_eq!(answer["error"]["data"]["kind"], "application");
    assert_eq!(answer["error"]["data"]["data"], json!({ "bad-input": "the divisor is 0" }));
    assert_eq!(house.call("typed.refuse", "100000").await.0, "resource-exhausted");
}

#[tokio::test]
async fn what_a_guest_does_wrong_is_told_as_for_handlers() {
    let house = typed();
    let reply = house.reply(&delivery(Some("typed.panic"), "\"no\"")).await;
    assert_eq!(status(&reply), "trap");
    assert_eq!(error(&reply)["data"]["trap"], "unreachable");
    for (method, body, kind) in [
        ("typed.grow", "1", "ok"),
        ("typed.grow", "100", "resource-exhausted"),
        ("typed.fib", "4294967295", "timeout"),
        // More values than one result may have.
        ("typed.zeros", "7000000", "resource-exhausted"),
        // Beyond the limit of a body once it is text.
        ("typed.blob", "14000000", "resource-exhausted"),
        ("typed.blob", "10000000", "ok"),
        ("typed.zeros", "400000", "ok"),
    ] {
        let (status, body) = house.call(method, body).await;
        let body: String = body.chars().take(200).collect();
        assert_eq!(status, kind, "{method}: {body}");
    }
    assert_eq!(house.call("typed.add", "[1,2]").await, ok("3"));
}

/// Two interfaces with a function name in common, and one with a version.
const NAMES: &str = "
    package acme:shapes@1.2.0;
    interface circle { area: func() -> u32; radius: func() -> u32; }
    interface square { area: func() -> u32; side-length: func() -> u32; }
    world shapes { export circle; export square; export count: func() -> u32; export init: func() -> u32; }
";

#[tokio::test]
async fn a_method_has_the_names_that_the_contract_says() {
    let shapes = guests::numbers(NAMES);
    let house = house(&[("shapes", &shapes, "")], None);
    let mut numbers = std::collections::HashMap::new();
    for (canonical, aliases) in [
        (
            "shapes.circle.area",
            &[
                "shapes:circle.area",
                "shapes/circle.area",
                "acme:shapes/circle.area@1.2.0",
                "acme:shapes/circle.area",
            ][..],
        ),
        ("shapes.square.area", &["acme:shapes/square.area"]),
        ("shapes.radius", &["shapes.circle.radius", "shapes:radius", "shapes/radius"]),
        (
            "shapes.side-length",
            &[
                "shapes.side_length",
                "shapes:side_length",
                "shapes.square.side_length",
                "acme:shapes/square.side_length@1.2.0",
            ],
        ),
        ("shapes.count", &["shapes:count"]),
        ("shapes.init", &[]),
    ] {
        let (status, number) = house.call(canonical, "").await;
        assert_eq!(status, "ok", "{canonical}: {number}");
        for alias in aliases {
            assert_eq!(house.call(alias, "").await, ok(&number), "{alias}");
        }
        assert!(numbers.insert(number, canonical).is_none(), "{canonical}: {numbers:?}");
    }
    for unknown in [
        "shapes",
        "shapes.area",
        "shapes.circle",
        "shapes.triangle.area",
        "shapes.Radius",
        "circle.area",
        "radius",
        "acme:shapes/circle",
        "acme:shapes/circle.area@1.2.1",
        "acme:shapes/circle.area@1",
        "nonsense.init",
    ] {
        assert_eq!(house.call(unknown, "").await.0, "method-not-found", "{unknown}");
    }
}

#[tokio::test]
async fn a_name_that_two_could_claim_belongs_to_neither() {
    let shapes = guests::numbers(NAMES);
    let hello = guests::guest("hello").wasm;
    let two = house(&[("one", &shapes, ""), ("two", &shapes, "")], None);
    let (status, told) = two.call("acme:shapes/circle.area", "").await;
    assert_eq!(status, "method-not-found");
    assert!(
        told.contains("could be several methods") && told.contains("PLUGIN.FUNCTION"),
        "{told}"
    );
    assert_eq!(two.call("one.circle.area", "").await.0, "ok");
    assert_eq!(two.call("two.circle.area", "").await.0, "ok");
    // `acme` takes every name that begins with its own.
    let handler = house(&[("acme", &hello, ""), ("shapes", &shapes, "")], None);
    assert_eq!(handler.call("acme:shapes/circle.area", "").await.0, "method-not-found");
    assert_eq!(handler.call("acme.shapes/circle.area", "").await.0, "ok");
    assert_eq!(handler.call("shapes.circle.area", "").await.0, "ok");
    // The same interface of two packages, and of two versions.
    let versions = guests::numbers(
        "package acme:w;
         world w { export acme:a/math@1.0.0; export acme:a/math@2.0.0; }
         package acme:a@1.0.0 { interface math { fib: func() -> u32; } }
         package acme:a@2.0.0 { interface math { fib: func() -> u32; one: func() -> u32; } }",
    );
    let versions = house(&[("math", &versions, "")], None);
    let (_, first) = versions.call("math.acme:a/math.fib@1.0.0", "").await;
    let (_, second) = versions.call("acme:a/math.fib@2.0.0", "").await;
    assert_ne!(first, second);
    assert_eq!(versions.call("math.one", "").await.0, "ok");
    for nobodys in ["math.fib", "math.math.fib", "acme:a/math.fib"] {
        assert_eq!(versions.call(nobodys, "").await.0, "method-not-found", "{nobodys}");
    }
}

#[tokio::test]
async fn the_only_method_needs_no_name_and_the_second_ends_that() {
    let one = guests::numbers("package a:b; world w { export ping: func() -> u32; }");
    let two = guests::numbers(
        "package a:b; world w { export ping: func() -> u32; export pong: func() -> u32; }",
    );
    let asked = delivery(None, "");
    let only = house(&[("solo", &one, "")], None);
    assert_eq!(status(&only.reply(&asked).await), "ok");
    assert_eq!(only.call("solo", "").await, ok("1"));
    let several = house(&[("solo", &two, "")], None);
    let reply = several.reply(&asked).await;
    assert_eq!(status(&reply), "method-not-found");
    assert!(
        error(&reply)["message"].as_str().is_some_and(|text| text.contains("--default-method"))
    );
    let chosen = house(&[("solo", &two, "")], Some("solo.pong"));
    assert_eq!(chosen.reply(&asked).await.body, "2");
    let named = house(&[("default", &one, ""), ("solo", &two, "")], None);
    assert_eq!(named.reply(&asked).await.body, "1");
}

fn inspected(name: &str, wasm: &[u8]) -> Inspection {
    inspect(&Engine::new(1).unwrap(), name, Source { wasm, wit: None }).unwrap()
}

#[test]
fn inspect_lists_methods_as_wit_writes_them_and_says_what_cannot_be_called() {
    let inspection = inspected("typed", &guests::built("typed"));
    assert_eq!(inspection.kind, Ok(Kind::Typed));
    let method = |name: &str| {
        let found = inspection.methods.iter().find(|method| method.name == name);
        found.map(|method| (method.signature.as_str(), method.not_callable.as_deref()))
    };
    assert!(inspection.methods.len() >= 55, "{}", inspection.methods.len());
    assert_eq!(method("typed.version"), Some(("func() -> string", None)));
    assert_eq!(method("typed.add"), Some(("func(a: u32, b: u32) -> u64", None)));
    let divide = "func(a: s32, b: s32) -> result<s32, variant {overflow, bad-input(string)}>";
    assert_eq!(method("typed.divide"), Some((divide, None)));
    let open = method("typed.open").expect("the function `open`");
    assert_eq!(open, ("func(path: string) -> …", Some("its result is a resource, or holds one")));
    let size = method("typed.[method]file.size").expect("the method `size`");
    assert_eq!(size.1, Some("its parameter `self` is a resource, or holds one"));
}

fn refusal(wit: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("plugin.wasm");
    std::fs::write(&path, guests::numbers(wit)).unwrap();
    let engine = Engine::new(1).unwrap();
    let refused = Plugins::new(None).load_file(&engine, &path, &limits()).unwrap_err();
    format!("{refused:#}")
}

#[test]
fn a_plugin_without_a_function_that_can_be_called_is_refused_with_the_reasons() {
    // Twice as many types in each of these as in the one before.
    let doubled: String =
        (1..14).map(|n| format!("type t{n} = tuple<t{}, t{}>;", n - 1, n - 1)).collect();
    let many = format!(
        "package a:b; interface i {{ type t0 = tuple<u8, u8>; {doubled} f: func(v: list<t13>); }}
         world w {{ export i; }}"
    );
    assert!(refusal(&many).contains("`f`: its parameter `v` is of more than 10000 types"));
    let deep = format!("{}u8{}", "option<".repeat(70), ">".repeat(70));
    let text = refusal(&format!("package a:b; world w {{ export f: func(v: {deep}); }}"));
    assert!(text.contains("`f`: its parameter `v` is nested more than 64 deep"), "{text}");
    let functions: String = (0..1001).map(|n| format!("export n{n}: func();")).collect();
    let text = refusal(&format!("package a:b; world w {{ {functions} }}"));
    assert!(text.contains("it exports more than 1000 functions, the limit"), "{text}");
    for (ty, reason) in [
        ("stream<u8>", "its result is a stream, or holds one"),
        ("future<u8>", "its result is a future, or holds one"),
        ("option<stream>", "its result is a stream, or holds one"),
    ] {
        let text = refusal(&format!("package a:b; world w {{ export f: func() -> {ty}; }}"));
        assert!(text.contains(&format!("`f`: {reason}")), "{text}");
    }
    // The engine does not take this at all.
    let text = refusal("package a:b; world w { export f: func() -> error-context; }");
    assert!(text.contains("not a valid component"), "{text}");
}

#[test]
fn types_that_are_larger_than_their_file_take_no_memory() {
    // Each function has a copy of its types: nine megabytes of names.
    let cases: Vec<_> = (0..9_000).map(|n| format!("c{n}-{}", "x".repeat(1_000))).collect();
    let functions: String = (0..20).map(|n| format!("f{n}: func() -> e;")).collect();
    let wasm = guests::numbers(&format!(
        "package a:b; interface i {{ enum e {{ {} }} {functions} }} world w {{ export i; }}",
        cases.join(", ")
    ));
    let inspection = inspected("large", &wasm);
    assert_eq!(inspection.methods.len(), 20);
    let refused: Vec<_> =
        inspection.methods.iter().filter_map(|method| method.not_callable.as_deref()).collect();
    assert_eq!(refused.len(), 19, "there is room for one");
    for reason in refused {
        assert!(reason.contains("its result is too large"), "{reason}");
        assert!(reason.contains("16.0 MiB"), "{reason}");
    }
    for method in &inspection.methods {
        assert!(method.signature.len() < 5_000, "{}", method.signature.len());
    }
    // Names of functions and parameters count as well.
    let long = "x".repeat(90_000);
    let functions: String = (0..100).map(|n| format!("export f{n}-{long}: func();")).collect();
    let text = refusal(&format!("package a:b; world w {{ {functions} }}"));
    assert!(text.contains("the names of its functions have more than 1.0 MiB"), "{text}");
    let text = refusal(&format!(
        "package a:b; interface i {{ resource r; f: func({long}: own<r>); }} world w {{ export i; }}"
    ));
    assert!(text.contains("is a resource, or holds one"), "{text}");
    assert!(text.len() < 1_000, "{text}");
}

#[tokio::test]
async fn what_toolchains_export_for_themselves_is_no_method() {
    let wasm = guests::numbers(
        "package a:b; world w {
             export init: func(shim: string, script: string) -> u32;
             export exports: interface { init: func() -> u32; }
             export ping: func() -> u32;
         }",
    );
    let inspection = inspected("tool", &wasm);
    let names: Vec<_> = inspection.methods.iter().map(|method| method.name.as_str()).collect();
    assert_eq!(names, ["tool.ping"]);
    let house = house(&[("tool", &wasm, "")], None);
    assert_eq!(house.call("tool", "").await.0, "ok");
    for name in ["tool.init", "tool.exports.init", "exports.init"] {
        assert_eq!(house.call(name, "").await.0, "method-not-found", "{name}");
    }
}

#[tokio::test]
async fn large_bytes_go_through() {
    let house = typed();
    let sent = format!("\"{}\"", "QUJD".repeat(2 << 20));
    let reply = house.reply(&delivery(Some("typed.echo-bytes"), Bytes::from(sent.clone()))).await;
    assert_eq!(status(&reply), "ok");
    assert_eq!(reply.body, sent);
}

#[test]
fn a_typed_file_is_called_without_a_broker() {
    let file = guests::root().join("target/guests/typed.wasm");
    let file = file.to_str().unwrap();
    for (args, code, out) in [
        (&["add", "1", "2"][..], 0, "3\n"),
        (&["typed.add", "a=1", "b=2"], 0, "3\n"),
        (&["fib", "30", "--dialect", "json-rpc"], 0, "832040\n"),
        (&["fib", "n=10"], 0, "55\n"),
        (&["acme:typed/math.fib", "10"], 0, "55\n"),
        (&["version"], 0, "\"1.2.0\"\n"),
        (&["add", "--params", "[1,2]"], 0, "3\n"),
        (&["check", "good"], 0, "null\n"),
        (&["echo-string", "hi there"], 0, "\"hi there\"\n"),
        (&["echo-string", "hi", "--dialect", "json-rpc"], 0, "\"hi\"\n"),
        (&["echo-string", "--body", "hi"], 1, ""),
        (&["add", "1"], 1, ""),
        (&["divide", "1", "0"], 1, ""),
    ] {
        let output = command(&[&["call", "--file", file], args].concat()).output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {err}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), out, "{args:?}: {err}");
    }
}
