//! What can be called: told to people and to callers.

use bytes::Bytes;
use jsonschema::{Draft, Validator};
use rpchost::config::Limits;
use rpchost::message::{Arguments, Outcome, Request};
use rpchost::plugins::{Engine, Inspection, Method, Plugins, Source, inspect};
use serde_json::{Value, json};

use crate::core::{error, header, house, limits};
use crate::support::fake_broker::delivery;
use crate::support::guests;
use crate::typed::ECHOES;

/// Plugins without anything around them.
struct Served {
    engine: Engine,
    plugins: Plugins,
    directory: tempfile::TempDir,
}

impl Served {
    fn new(plugins: &[(&str, &[u8])]) -> Self {
        let served = Self {
            engine: Engine::new(2).unwrap(),
            plugins: Plugins::new(None),
            directory: tempfile::tempdir().unwrap(),
        };
        plugins.iter().for_each(|(name, wasm)| served.load(name, wasm));
        served
    }

    fn load(&self, name: &str, wasm: &[u8]) {
        let path = self.directory.path().join(format!("{name}.wasm"));
        std::fs::write(&path, wasm).unwrap();
        self.plugins.load_file(&self.engine, &path, &limits()).unwrap();
    }

    fn ask(&self, method: &str, arguments: &str) -> Outcome {
        let arguments = Arguments::Json(Bytes::from(arguments.to_owned()));
        let request = Request { method: Some(method.to_owned()), arguments };
        let Limits { max_body, .. } = limits();
        self.plugins.own_method(&request, max_body).expect("a method of the host")
    }

    fn told(&self, method: &str, arguments: &str) -> Value {
        let told = self.ask(method, arguments).unwrap();
        assert_eq!(told.content_type.as_deref(), Some("application/json"));
        serde_json::from_slice(&told.body).unwrap()
    }

    /// Names of the methods in the OpenRPC document.
    fn names(&self) -> Vec<String> {
        names(&self.told("rpc.discover", ""))
    }
}

fn names(document: &Value) -> Vec<String> {
    let methods = document["methods"].as_array().expect("methods");
    methods.iter().map(|method| method["name"].as_str().unwrap().to_owned()).collect()
}

fn validator(schema: &Value) -> Validator {
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema", "{schema}");
    let meta = jsonschema::meta::validate(schema);
    assert!(meta.is_ok(), "{schema}");
    jsonschema::options().with_draft(Draft::Draft202012).build(schema).unwrap()
}

fn inspected() -> Inspection {
    let wasm = guests::built("typed");
    inspect(&Engine::new(1).unwrap(), "typed", Source { wasm: &wasm, wit: None }).unwrap()
}

#[test]
fn schemas_take_what_the_methods_take_and_nothing_else() {
    let inspection = inspected();
    let whole = |name: &str| {
        let name = format!("typed.{name}");
        let found = inspection.methods.iter().find(|method| method.name == name);
        found.map(Method::whole).unwrap_or_else(|| panic!("no `{name}`"))
    };
    for (function, values) in ECHOES {
        let method = whole(&format!("echo-{function}"));
        let (params, result) = (validator(&method["params"]), validator(&method["result"]));
        for value in *values {
            let value: Value = serde_json::from_str(value).unwrap();
            assert!(result.is_valid(&value), "{function}: {value}\n{}", method["result"]);
            assert!(params.is_valid(&json!([value])), "{function}: {value}\n{}", method["params"]);
            assert!(params.is_valid(&json!({"v": value})), "{function}: {value}");
            assert!(!params.is_valid(&json!({"v": value, "w": 1})), "{function}: another name");
            assert!(!params.is_valid(&json!([value, value])), "{function}: one too many");
        }
        let example = &method["example"];
        assert!(params.is_valid(&example["params"]), "{function}: {example}");
        assert!(result.is_valid(&example["result"]), "{function}: {example}");
    }
    for (function, wrong) in [
        ("bool", json!(1)),
        ("u8", json!(256)),
        ("s8", json!(-129)),
        ("u64", json!(-1)),
        ("f64", json!("nan")),
        ("char", json!("ab")),
        ("string", json!(null)),
        ("numbers", json!([-1])),
        ("tuple", json!([1, "a"])),
        ("point", json!({"x": 1})),
        ("user", json!({"user-id": 7, "type": "a", "age": 1})),
        ("shape", json!("circle")),
        ("shape", json!({"circle": 1, "labelled": ["a", 1]})),
        ("color", json!("green")),
        ("access", json!(["read", "read"])),
        ("option-option", json!(7)),
        ("result", json!([{"ok": 1, "err": "no"}])),
    ] {
        let method = whole(&format!("echo-{function}"));
        assert!(!validator(&method["params"]).is_valid(&json!([wrong])), "{function}: {wrong}");
    }
    let longest = validator(&whole("longest")["params"]);
    for (right, params) in [
        (true, json!([[]])),
        (true, json!({"points": [], "scale": 2})),
        (true, json!([[], null, "metric"])),
        (false, json!([])),
        (false, json!({"scale": 2})),
    ] {
        assert_eq!(longest.is_valid(&params), right, "{params}");
    }
    let nothing = validator(&whole("nothing")["params"]);
    assert!(nothing.is_valid(&json!([])) && !nothing.is_valid(&json!([1])));
    let divide = whole("divide");
    assert!(validator(&divide["result"]).is_valid(&json!(3)));
    let error = validator(&divide["error-data"]);
    assert!(error.is_valid(&json!("overflow")) && error.is_valid(&json!({"bad-input": "x"})));
    let open = whole("open");
    assert_eq!((&open["callable"], &open["params"]), (&json!(false), &Value::Null));
}

#[test]
fn the_published_schema_of_openrpc_takes_the_document() {
    let installed = guests::root().join("target/clients/node/node_modules");
    let read = |path: &str| {
        let path = installed.join(path);
        let text = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}; run `tests/run.sh`", path.display()));
        let mut schema: Value = serde_json::from_str(&text).unwrap();
        // They name a dialect of their own, which is draft 7 by another name.
        schema.as_object_mut().unwrap().remove("$schema");
        schema
    };
    // They refer to it with and without a slash at the end.
    let mut meta = read("@json-schema-tools/meta-schema/schema.json");
    meta.as_object_mut().unwrap().remove("$id");
    let meta = Draft::Draft7.create_resource(meta);
    let schema = jsonschema::options()
        .with_draft(Draft::Draft7)
        .with_resource("https://meta.json-schema.tools", meta.clone())
        .with_resource("https://meta.json-schema.tools/", meta)
        .build(&read("@open-rpc/spec/dist/1_3/schema.json"))
        .unwrap();
    let typed = guests::built("typed");
    let hello = guests::guest("hello").wasm;
    for plugins in [&[][..], &[("hello", hello.as_slice()), ("typed", &typed)]] {
        let document = Served::new(plugins).told("rpc.discover", "");
        let errors: Vec<_> = schema
            .iter_errors(&document)
            .map(|error| format!("{}: {error}", error.instance_path))
            .collect();
        assert!(errors.is_empty(), "{errors:#?}");
        assert_eq!(names(&document).is_empty(), plugins.is_empty());
    }
    assert!(!schema.is_valid(&json!({"openrpc": "1.3.2"})), "it takes anything");
}

#[test]
fn the_document_is_of_what_is_loaded_now() {
    let with =
        |functions: &str| guests::numbers(&format!("package a:b; world w {{ {functions} }}"));
    let served = Served::new(&[]);
    assert_eq!(served.names(), [""; 0]);
    served.load("math", &with("export one: func() -> u32; export two: func() -> u32;"));
    assert_eq!(served.names(), ["math.one", "math.two"]);
    served.load("hello", &guests::guest("hello").wasm);
    assert_eq!(served.names(), ["hello", "math.one", "math.two"]);
    served.load("math", &with("export three: func(n: u8) -> u32;"));
    assert_eq!(served.names(), ["hello", "math.three"]);
    let method = &served.told("rpc.discover", "")["methods"][1];
    assert_eq!(
        method["params"][0]["schema"],
        json!({"type": "integer", "minimum": 0, "maximum": 255})
    );
    let described = served.told("rpchost.describe", "[]");
    assert_eq!(described["plugins"][1]["methods"][0]["signature"], "func(n: u8) -> u32");
    assert_eq!(described["plugins"][0]["kind"], "handler");
}

#[tokio::test]
async fn javas_client_is_told_of_every_procedure_unless_a_plugin_has_the_name() {
    let hello = guests::guest("hello").wasm;
    let typed = guests::built("typed");
    let house = house(&[("hello", &hello, ""), ("typed", &typed, "")], None);
    let asked = r#"{"method":"system.describe","id":null,"params":[],"version":"1.1"}"#;
    let reply = house.reply(&delivery(None, asked.to_owned())).await;
    let answer: Value = serde_json::from_slice(&reply.body).expect("JSON");
    assert_eq!(answer["version"], "1.1", "{answer}");
    let procs = answer["result"]["procs"].as_array().expect("procedures");
    let proc = |name: &str| {
        procs.iter().find(|proc| proc["name"] == name).unwrap_or_else(|| panic!("{name}: {answer}"))
    };
    let fib = proc("typed.fib");
    assert_eq!(fib["params"], json!([{"name": "n", "type": "num"}]));
    // A `u64` may be a text, too.
    assert_eq!((&fib["return"], &fib["idempotent"]), (&json!("any"), &json!(false)));
    assert_eq!(proc("typed.panic")["params"][0]["type"], "str");
    assert_eq!(proc("hello")["params"], json!([{"name": "body", "type": "any"}]));
    assert!(procs.iter().all(|proc| proc["name"] != "typed.open"), "it cannot be called");

    let house = self::house(&[("system", &hello, "")], None);
    assert_eq!(house.call("system.describe", "").await.1, "hello");
}

#[tokio::test]
async fn no_plugin_takes_the_hosts_own_methods_in_any_dialect() {
    let hello = guests::guest("hello").wasm;
    let house = house(&[("rpc", &hello, ""), ("rpchost", &hello, "")], None);
    for method in ["rpc.discover", "rpc:discover", "rpchost.describe"] {
        let reply = house.reply(&delivery(Some(method), "")).await;
        let plain: Value = serde_json::from_slice(&reply.body).expect("JSON");
        assert_eq!(header(&reply, "rpchost-status").as_deref(), Some("ok"), "{method}");
        assert_eq!(header(&reply, "rpchost-plugin"), None, "{method}");
        assert_eq!(reply.content_type.as_deref(), Some("application/json"));
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method});
        let reply = house.reply(&delivery(None, body.to_string())).await;
        let answer: Value = serde_json::from_slice(&reply.body).expect("JSON");
        assert_eq!(answer["result"], plain, "{method}");
    }
    assert_eq!(house.call("rpc.discovery", "").await, ("ok".to_owned(), "hello".to_owned()));
    assert_eq!(house.call("rpchost", "").await.1, "hello");
    for (method, body, kind) in [
        ("rpc.discover", "[1]", "invalid-params"),
        ("rpchost.describe", "{\"plugin\":1}", "invalid-params"),
        ("rpchost.describe", "\"nobody\"", "invalid-params"),
        ("rpchost.describe", "{", "parse-error"),
    ] {
        let reply = house.reply(&delivery(Some(method), body)).await;
        assert_eq!(error(&reply)["kind"], kind, "{method} {body}");
    }
}

#[test]
fn one_plugin_or_method_is_described_whole() {
    let served = Served::new(&[("typed", &guests::built("typed"))]);
    let all = served.told("rpchost.describe", "");
    assert_eq!(all["omitted"], 0);
    let methods = |told: &Value| told["plugins"][0]["methods"].as_array().unwrap().clone();
    assert!(methods(&all).iter().all(|method| method["params"].is_null()), "names and types only");
    let plugin = methods(&served.told("rpchost.describe", "[\"typed\"]"));
    assert_eq!(plugin.len(), methods(&all).len());
    let found = |name: &str| plugin.iter().find(|method| method["name"] == name).unwrap().clone();
    assert_eq!(found("typed.add")["example"], json!({"params": [1, 1], "result": 1}));
    assert_eq!(found("typed.open")["reason"], "its result is a resource, or holds one");
    for name in ["typed.add", "typed:add", "acme:typed/math.add"] {
        let told = served.told("rpchost.describe", &json!({"about": name}).to_string());
        assert_eq!(methods(&told), [found("typed.add")], "{name}");
    }
    let digest = all["plugins"][0]["digest"].as_str().unwrap();
    assert!(digest.starts_with("sha256:") && digest.len() == 71, "{digest}");
}

/// As many functions of as many types as a plugin may have.
fn vast() -> Vec<u8> {
    let fields: String = (0..90).map(|n| format!("field{n}: u64,")).collect();
    let functions: String = (0..900).map(|n| format!("fun{n}: func(v: tuple<r,r,r,r>);")).collect();
    guests::numbers(&format!(
        "package a:b; interface i {{ record r {{ {fields} }} {functions} }}
         world w {{ export i; }}"
    ))
}

#[test]
fn an_answer_is_bounded_whatever_is_loaded() {
    let wasm = vast();
    let served = Served::new(&[("a", &wasm), ("b", &wasm), ("c", &guests::guest("hello").wasm)]);
    for (method, arguments) in
        [("rpc.discover", ""), ("rpchost.describe", ""), ("rpchost.describe", "[\"a\"]")]
    {
        let told = served.ask(method, arguments).unwrap();
        let bytes = told.body.len();
        assert!((10_000..=4 << 20).contains(&bytes), "{method}: {bytes} bytes");
        let told: Value = serde_json::from_slice(&told.body).unwrap();
        let says = told["omitted"].as_u64().map(|omitted| omitted > 0);
        let says = says
            .unwrap_or_else(|| told["info"]["description"].as_str().unwrap().contains("but for"));
        assert!(says, "{method}: nothing says that it is not all");
    }
    let one = served.told("rpchost.describe", "[\"b.fun99\"]");
    assert_eq!(one["plugins"][0]["methods"][0]["name"], "b.fun99");
    assert!(one["plugins"][0]["methods"][0]["params"].is_object());
    let arguments = Arguments::Json(Bytes::new());
    let request = Request { method: Some("rpc.discover".to_owned()), arguments };
    let refused = served.plugins.own_method(&request, 1000).unwrap().unwrap_err();
    assert_eq!(refused.kind.name(), "resource-exhausted");
}

#[tokio::test]
async fn a_function_that_cannot_be_called_is_listed_and_the_others_are_served() {
    for (listed, reason) in [
        ("tail: func() -> stream<u8>", "its result is a stream, or holds one"),
        ("tail: func(v: future<u8>)", "its parameter `v` is a future, or holds one"),
        ("tail: async func() -> u32", "it is an `async` function"),
        ("tail: async func() -> stream<u32>", "its result is a stream, or holds one"),
    ] {
        let wasm = guests::numbers(&format!(
            "package a:b; interface i {{ ping: func() -> u32; {listed}; echo: func(v: u32); }}
             world w {{ export i; }}"
        ));
        let house = house(&[("mixed", &wasm, "")], None);
        assert_eq!(
            house.call("mixed.ping", "").await,
            ("ok".to_owned(), "1".to_owned()),
            "{listed}"
        );
        assert_eq!(house.call("mixed.echo", "7").await.0, "trap", "{listed}");
        let reply = house.reply(&delivery(Some("mixed.tail"), "")).await;
        let error = error(&reply);
        assert_eq!(error["kind"], "method-not-found", "{listed}");
        assert_eq!(error["retryable"], false, "{listed}");
        let text = error["message"].as_str().unwrap();
        assert_eq!(text, format!("`mixed.tail` cannot be called: {reason}"));
        let told = house.call("rpchost.describe", "").await.1;
        assert!(told.contains(reason), "{told}");
        let (_, signature) = listed.split_once(": ").unwrap();
        assert!(told.contains(&format!("\"{signature}\"")), "{told}");
        assert!(!house.call("rpc.discover", "").await.1.contains("tail"));
    }
}
