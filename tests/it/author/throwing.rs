//! What the caller is told when a handler throws, in each language's own way.

use std::path::Path;

use serde_json::{Value, json};

use super::{err, out, rpchost, workplace};
use crate::support::guests;

/// A language, the file of its handler, and what it says of an error without a place in the type
/// and of one that nobody has foreseen.
const THROWERS: [(&str, &str, &str, Bug); 4] = [
    ("python", "app.py", "; it said: ValueError: n must not be 5", Bug::Trap("KeyError: 'bug 5'")),
    ("javascript", "handler.js", "n must not be 5", Bug::Err("cannot read property 'bug 5' of")),
    (
        "go",
        "export_local_thrower_api/handler.go",
        "; it said: panic: n must not be 5",
        Bug::Trap("panic: assignment to entry in nil map"),
    ),
    ("c", "handler.c", "; it said: n must not be 5", Bug::Trap("n == 0 && \"bug\"")),
];

/// What becomes of a bug where the function's type has an error.
enum Bug {
    /// The call ends, and the words are in the trap's message.
    Trap(&'static str),
    /// The language makes the type's error of it.
    Err(&'static str),
}

/// Leaves a project nothing of the cases of its template.
fn without_cases(project: &Path) {
    let config = project.join("rpchost-plugin.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let (without, _) = text.split_once("[[case]]").expect("the template has cases");
    std::fs::write(&config, without).unwrap();
}

fn thrown(language: usize) {
    let (language, file, plain, bug) = &THROWERS[language];
    let folder = workplace("author");
    let made = rpchost(folder.path(), &["new", "thrower", "--lang", language]);
    assert!(made.status.success(), "{}", err(&made));
    let project = folder.path().join("thrower");
    let fixtures = guests::root().join("tests/fixtures/throwing");
    let source = Path::new(file).file_name().unwrap();
    std::fs::copy(fixtures.join(source), project.join(file)).unwrap();
    std::fs::copy(fixtures.join("thrower.wit"), project.join("wit/world.wit")).unwrap();
    without_cases(&project);
    let built = rpchost(folder.path(), &["build", "thrower", "--plugins", "."]);
    assert!(built.status.success(), "{language}: {}", err(&built));

    let error = |method: &str| {
        let called = rpchost(folder.path(), &["call", "--file", "thrower.wasm", method, "5"]);
        assert_eq!(called.status.code(), Some(1), "{language} {method}: {}", out(&called));
        let answer: Value = serde_json::from_str(&err(&called)).expect("an error as JSON");
        answer["error"].clone()
    };
    for (method, message, data) in [
        ("text", "text says 5", json!("text says 5")),
        ("structured", "record says 5", json!({ "code": 7, "message": "record says 5" })),
        ("choice", "not-found: nobody is 5", json!({ "not-found": "nobody is 5" })),
    ] {
        let error = error(method);
        assert_eq!(error["kind"], "application", "{language} {method}: {error}");
        assert_eq!(error["message"], message, "{language} {method}");
        assert_eq!(error["data"], data, "{language} {method}");
    }
    let message = |error: &Value| error["message"].as_str().unwrap_or_default().to_owned();
    let error_of_plain = error("plain");
    assert_eq!(error_of_plain["kind"], "trap", "{language}: {error_of_plain}");
    assert!(message(&error_of_plain).contains(plain), "{language}: {error_of_plain}");
    let (kind, words) = match bug {
        Bug::Trap(words) => ("trap", words),
        Bug::Err(words) => ("application", words),
    };
    let error_of_bug = error("bug");
    assert_eq!(error_of_bug["kind"], kind, "{language}: {error_of_bug}");
    assert!(message(&error_of_bug).contains(words), "{language}: {error_of_bug}");
}

#[test]
fn javascript_loses_nothing_of_a_u32_nor_of_what_is_thrown() {
    let folder = workplace("author");
    let made = rpchost(folder.path(), &["new", "unsigned", "--lang", "javascript"]);
    assert!(made.status.success(), "{}", err(&made));
    let project = folder.path().join("unsigned");
    let fixtures = guests::root().join("tests/fixtures/unsigned");
    std::fs::copy(fixtures.join("handler.js"), project.join("handler.js")).unwrap();
    std::fs::copy(fixtures.join("world.wit"), project.join("wit/world.wit")).unwrap();
    without_cases(&project);
    let built = rpchost(folder.path(), &["build", "unsigned", "--plugins", "."]);
    assert!(built.status.success(), "{}", err(&built));

    let call = |method: &str, argument: &str| {
        rpchost(folder.path(), &["call", "--file", "unsigned.wasm", method, argument])
    };
    const MOST: &str = "4294967295";
    for (method, argument, answer) in [
        ("same", MOST, MOST),
        ("delete", MOST, MOST),
        ("guarded", MOST, MOST),
        ("by-ID", MOST, "{\n  \"user-ID\": 4294967295,\n  \"name\": \"user 4294967295\"\n}"),
        ("nested", "{\"some\": 4294967295}", "{\n  \"some\": 4294967295\n}"),
        ("nested", "{\"some\": null}", "{\n  \"some\": null\n}"),
        ("nested", "null", "null"),
    ] {
        let called = call(method, argument);
        let expected: Value = serde_json::from_str(answer).unwrap();
        let told: Value = serde_json::from_str(&out(&called))
            .unwrap_or_else(|_| panic!("{method}: {}{}", out(&called), err(&called)));
        assert_eq!(told, expected, "{method}");
    }
    for (method, code, message) in [
        ("structured", 4_294_967_295_u32, "problem 4294967295"),
        ("foreign", 1, "no such user: 4294967295"),
    ] {
        let called = call(method, MOST);
        let told: Value = serde_json::from_str(&err(&called)).expect("an error as JSON");
        let error = &told["error"];
        assert_eq!(error["kind"], "application", "{method}: {told}");
        assert_eq!(error["data"], json!({ "code": code, "message": message }), "{method}");
    }
}

#[test]
fn python() {
    thrown(0);
}

#[test]
fn javascript() {
    thrown(1);
}

#[test]
fn go() {
    thrown(2);
}

#[test]
fn c() {
    thrown(3);
}
