//! What is refused, where, and in which words.

use super::super::arguments;
use super::super::types::{Field, Signature};
use super::{notation, read, ty};
use crate::message::{Arguments, CallError, ErrorKind};

/// A type, a JSON value, the path behind the parameter's name `v`, and a part of
/// the reason.
const REFUSED: &[(&str, &str, &str, &str)] = &[
    ("bool", "1", "v", "expected bool, got a number"),
    ("bool", "\"true\"", "v", "got a string"),
    ("bool", "null", "v", "got null"),
    ("u8", "256", "v", "not within 0 to 255"),
    ("u8", "-1", "v", "not within 0 to 255"),
    ("u8", "1.5", "v", "not a whole number"),
    ("u8", "\"256\"", "v", "not within"),
    ("u8", "\"\"", "v", "expected u8"),
    ("u8", "\"a\"", "v", "expected u8"),
    ("u8", "true", "v", "got true"),
    ("u8", "null", "v", "got null"),
    ("u8", "[1]", "v", "got an array"),
    ("u8", "{}", "v", "got an object"),
    ("s8", "128", "v", "not within -128 to 127"),
    ("s8", "-129", "v", "not within"),
    ("u16", "65536", "v", "not within"),
    ("s16", "-32769", "v", "not within"),
    ("u32", "4294967296", "v", "not within 0 to 4294967295"),
    ("u32", "1e10", "v", "not within"),
    ("s32", "2147483648", "v", "not within"),
    ("u64", "18446744073709551616", "v", "not within"),
    ("u64", "\"18446744073709551616\"", "v", "not within"),
    ("u64", "-1", "v", "not within"),
    ("s64", "9223372036854775808", "v", "not within"),
    ("s64", "\"-9223372036854775809\"", "v", "not within"),
    ("s64", "0.1", "v", "not a whole number"),
    ("f32", "1e39", "v", "out of range"),
    ("f32", "\"1.0\"", "v", "expected f32, got a string"),
    ("f32", "\"nan\"", "v", "expected f32, got a string"),
    ("f64", "1e400", "v", "out of range"),
    ("f64", "-1e400", "v", "out of range"),
    ("f64", "null", "v", "got null"),
    ("f64", "[]", "v", "got an array"),
    ("char", "\"\"", "v", "a string of 0 characters"),
    ("char", "\"ab\"", "v", "a string of 2 characters"),
    ("char", "\"e\u{301}\"", "v", "a string of 2 characters"),
    ("char", "97", "v", "got a number"),
    ("string", "1", "v", "expected string, got a number"),
    ("string", "null", "v", "got null"),
    ("string", "[\"a\"]", "v", "got an array"),
    ("list<u8>", "\"a\"", "v", "base64"),
    ("list<u8>", "\"a b=\"", "v", "base64"),
    ("list<u8>", "\"QQ==\\n\"", "v", "base64"),
    ("list<u8>", "\"QR==\"", "v", "base64"),
    ("list<u8>", "[1,256]", "v[1]", "not within 0 to 255"),
    ("list<u8>", "[1,\"x\"]", "v[1]", "expected u8"),
    ("list<u8>", "7", "v", "got a number"),
    ("list<u32>", "1", "v", "expected list<u32>, got a number"),
    ("list<u32>", "{}", "v", "got an object"),
    ("list<u32>", "[1,2,-3]", "v[2]", "not within"),
    ("list<u32>", "[1,null]", "v[1]", "got null"),
    ("list<list<u32>>", "[[],[1,true]]", "v[1][1]", "got true"),
    ("tuple<u8, string>", "[1]", "v[1]", "missing"),
    ("tuple<u8, string>", "[]", "v[0]", "missing"),
    ("tuple<u8, string>", "[1,\"a\",2]", "v[2]", "too many"),
    ("tuple<u8, string>", "[\"a\",1]", "v[0]", "expected u8"),
    ("tuple<u8, string>", "{\"0\":1}", "v", "got an object"),
    ("record {x: f64, y: f64}", "{\"x\":1}", "v.y", "missing; expected f64"),
    ("record {x: f64, y: f64}", "{}", "v.x", "missing"),
    ("record {x: f64, y: f64}", "{\"x\":1,\"y\":2,\"z\":3}", "v.z", "there is `x`, `y`"),
    ("record {x: f64, y: f64}", "{\"x\":1,\"y\":2,\"x\":3}", "v.x", "twice"),
    ("record {x: f64, y: f64}", "{\"x\":1,\"y\":\"2\"}", "v.y", "expected f64"),
    ("record {x: f64, y: f64}", "[1,2]", "v", "got an array"),
    ("record {x: f64, y: f64}", "{\"X\":1,\"y\":2}", "v.X", "nothing of this name"),
    ("record {x: f64, y: f64}", "{\"a b\":1}", "v[\"a b\"]", "nothing of this name"),
    ("record {x: f64, y: f64}", "{\"\":1}", "v[\"\"]", "nothing of this name"),
    ("record {user-id: u8}", "{\"user-id\":1,\"user_id\":1}", "v.user_id", "twice"),
    ("record {user-id: u8}", "{\"userId\":1}", "v.userId", "nothing of this name"),
    ("record {p: list<record {x: u8}>}", "{\"p\":[{\"x\":1},{\"x\":300}]}", "v.p[1].x", "within"),
    ("variant {circle(f64), nothing}", "\"circle\"", "v", "carries a value"),
    ("variant {circle(f64), nothing}", "\"square\"", "v", "has no `square`"),
    ("variant {circle(f64), nothing}", "{\"circle\":\"2\"}", "v.circle", "expected f64"),
    ("variant {circle(f64), nothing}", "{\"circle\":null}", "v.circle", "got null"),
    ("variant {circle(f64), nothing}", "{\"nothing\":1}", "v.nothing", "carries no value"),
    ("variant {circle(f64), nothing}", "{\"square\":1}", "v", "has no `square`"),
    ("variant {circle(f64), nothing}", "{}", "v", "an empty object"),
    ("variant {circle(f64), nothing}", "{\"circle\":1,\"nothing\":null}", "v", "`nothing`"),
    ("variant {circle(f64), nothing}", "0", "v", "got a number"),
    ("variant {circle(f64), nothing}", "null", "v", "got null"),
    ("enum {metric, imperial}", "\"Metric\"", "v", "has no `Metric`"),
    ("enum {metric, imperial}", "0", "v", "got a number"),
    ("enum {metric, imperial}", "{\"metric\":null}", "v", "got an object"),
    ("enum {metric, imperial}", "[\"metric\"]", "v", "got an array"),
    ("flags {read, write}", "\"read\"", "v", "expected flags {read, write}"),
    ("flags {read, write}", "[\"run\"]", "v[0]", "none of flags"),
    ("flags {read, write}", "[\"read\",\"read\"]", "v[1]", "twice"),
    ("flags {read, write}", "[1]", "v[0]", "none of"),
    ("flags {read, write}", "3", "v", "got a number"),
    ("option<u8>", "\"x\"", "v", "expected u8"),
    ("option<u8>", "{\"some\":1}", "v", "got an object"),
    ("option<option<u8>>", "1", "v", "null or {\"some\": …}, got a number"),
    ("option<option<u8>>", "{\"none\":null}", "v", "has no `none`"),
    ("option<option<u8>>", "{\"some\":true}", "v.some", "got true"),
    ("result<u8, string>", "\"ok\"", "v", "carries a value"),
    ("result<u8, string>", "{\"ok\":\"a\"}", "v.ok", "expected u8"),
    ("result<u8, string>", "{\"err\":1}", "v.err", "expected string"),
    ("result<u8, string>", "{\"value\":1}", "v", "has no `value`"),
    ("result<u8, string>", "7", "v", "got a number"),
    ("result", "{\"ok\":1}", "v.ok", "carries no value"),
    ("map<string, u8>", "[[\"a\",1]]", "v", "got an array"),
    ("map<string, u8>", "{\"a\":1,\"a\":2}", "v.a", "twice"),
    ("map<string, u8>", "{\"a\":-1}", "v.a", "not within"),
    ("map<u8, u8>", "{\"256\":1}", "v.256", "not within"),
    ("map<u8, u8>", "{\"1\":1,\"01\":1}", "v.01", "twice"),
    ("map<bool, u8>", "{\"yes\":1}", "v.yes", "expected bool"),
    ("map<char, u8>", "{\"ab\":1}", "v.ab", "a string of 2 characters"),
];

#[test]
fn a_hundred_malformed_arguments_are_refused_with_their_path() {
    assert!(REFUSED.len() >= 100, "{}", REFUSED.len());
    for (notation, json, path, reason) in REFUSED {
        let error = match read(&ty(notation), json) {
            Ok(value) => panic!("{notation}: {json} is taken as {value:?}"),
            Err(error) => error,
        };
        assert_eq!(error.kind, ErrorKind::InvalidParams, "{notation}: {json}: {error:?}");
        assert_eq!(path_of(&error), *path, "{notation}: {json}: {error:?}");
        assert!(error.message.contains(reason), "{notation}: {json}: {}", error.message);
        assert!(error.message.contains("the function is (v: "), "{}", error.message);
    }
}

#[test]
fn what_is_no_json_is_a_parse_error_whatever_else_is_wrong_with_it() {
    for json in ["", "tru", "{", "[1,", "\"a", "01", "1 2", "{'a':1}", "\"\\ud800\"", "nul", "+1"] {
        for notation in ["u8", "string", "list<bool>", "record {a: u8}"] {
            let error = read(&ty(notation), &format!("{json},")).unwrap_err();
            assert_eq!(error.kind, ErrorKind::ParseError, "{notation}: {json}: {error:?}");
        }
    }
    let bytes = Arguments::Body(b"\"\xff\"".to_vec().into());
    let error = arguments::read(&signature("s: string"), &bytes).unwrap_err();
    assert_eq!(error.kind, ErrorKind::ParseError);
}

fn path_of(error: &CallError) -> String {
    let data: serde_json::Value = serde_json::from_str(error.data.as_deref().unwrap()).unwrap();
    data["path"].as_str().unwrap().to_owned()
}

/// A function of the parameters that are written like this.
fn signature(params: &str) -> Signature {
    let notation = format!("record {{{params}}}");
    let super::Type::Record(params) = notation::parse(&notation) else { panic!("{notation}") };
    let field = |field: Field| Field { ..field };
    Signature { params: params.into_iter().map(field).collect(), result: None }
}

fn bind(params: &str, arguments: &Arguments) -> Result<String, String> {
    match arguments::read(&signature(params), arguments) {
        Ok(values) => Ok(format!("{values:?}")),
        Err(error) => Err(match error.kind {
            ErrorKind::InvalidParams => path_of(&error),
            kind => kind.name().to_owned(),
        }),
    }
}

fn body(text: &str) -> Arguments {
    Arguments::Body(text.as_bytes().to_vec().into())
}

fn params(text: &str) -> Arguments {
    Arguments::Json(text.as_bytes().to_vec().into())
}

const N: &str = "[Unsigned(7)]";
const A_B: &str = "[Unsigned(1), Unsigned(2)]";
const A: &str = "[Unsigned(1), Case(0, None)]";

#[test]
fn a_body_is_the_only_argument_or_all_of_several() {
    for (takes, sent, expected) in [
        ("", "", Ok("[]")),
        ("", " \n", Ok("[]")),
        ("", "null", Ok("[]")),
        ("", "[]", Ok("[]")),
        ("", "{}", Ok("[]")),
        ("", "1", Err("")),
        ("", "[1]", Err("[0]")),
        ("", "{\"a\":1}", Err("a")),
        ("", "x", Err("parse-error")),
        ("n: u32", "7", Ok(N)),
        ("n: u32", " 7 ", Ok(N)),
        ("n: u32", "{\"n\":7}", Ok(N)),
        ("n: u32", "[7]", Err("n")),
        ("n: u32", "{\"m\":7}", Err("m")),
        ("n: u32", "", Err("n")),
        ("n: u32", "null", Err("n")),
        ("n: u32", "7 8", Err("parse-error")),
        ("n: u32", "hello", Err("parse-error")),
        ("n: option<u32>", "", Ok("[Case(0, None)]")),
        ("n: option<u32>", "null", Ok("[Case(0, None)]")),
        ("n: option<u32>", "7", Ok("[Case(1, Some(Unsigned(7)))]")),
        ("l: list<u32>", "[7]", Ok("[List([Unsigned(7)])]")),
        ("l: list<u32>", "[]", Ok("[List([])]")),
        ("r: record {n: u32}", "{\"n\":7}", Ok("[Fields([Unsigned(7)])]")),
        ("r: record {n: u32}", "{\"r\":{\"n\":7}}", Err("r.r")),
        ("a: u32, b: u32", "[1,2]", Ok(A_B)),
        ("a: u32, b: u32", "{\"b\":2,\"a\":1}", Ok(A_B)),
        ("a: u32, b: u32", "[1]", Err("b")),
        ("a: u32, b: u32", "[1,2,3]", Err("[2]")),
        ("a: u32, b: u32", "{\"a\":1}", Err("b")),
        ("a: u32, b: u32", "{\"a\":1,\"b\":2,\"c\":3}", Err("c")),
        ("a: u32, b: u32", "{\"a\":1,\"b\":2,\"a\":3}", Err("a")),
        ("a: u32, b: u32", "[1,-2]", Err("b")),
        ("a: u32, b: u32", "", Err("a")),
        ("a: u32, b: u32", "null", Err("a")),
        ("a: u32, b: u32", "1", Err("")),
        ("a: u32, b: u32", "\"1\"", Err("")),
        ("a: u32, b: option<u32>", "[1]", Ok(A)),
        ("a: u32, b: option<u32>", "{\"a\":1}", Ok(A)),
        ("a: u32, b: option<u32>", "[1,null]", Ok(A)),
        ("user-id: u32, b: u32", "{\"user_id\":1,\"b\":2}", Ok(A_B)),
    ] {
        let bound = bind(takes, &body(sent));
        assert_eq!(bound.as_deref().map_err(String::as_str), expected, "({takes}): {sent}");
    }
}

#[test]
fn params_are_by_position_or_by_name() {
    for (takes, sent, expected) in [
        ("", "", Ok("[]")),
        ("", "[]", Ok("[]")),
        ("", "{}", Ok("[]")),
        ("", "[1]", Err("[0]")),
        ("n: u32", "[7]", Ok(N)),
        ("n: u32", "{\"n\":7}", Ok(N)),
        ("n: u32", "", Err("n")),
        ("n: u32", "[]", Err("n")),
        ("n: u32", "[7,8]", Err("[1]")),
        ("r: record {n: u32}", "[{\"n\":7}]", Ok("[Fields([Unsigned(7)])]")),
        ("r: record {n: u32}", "{\"r\":{\"n\":7}}", Ok("[Fields([Unsigned(7)])]")),
        ("r: record {n: u32}", "{\"n\":7}", Err("n")),
        ("l: list<u32>", "[[7]]", Ok("[List([Unsigned(7)])]")),
        ("l: list<u32>", "[7]", Err("l")),
        ("a: u32, b: u32", "[1,2]", Ok(A_B)),
    ] {
        let bound = bind(takes, &params(sent));
        assert_eq!(bound.as_deref().map_err(String::as_str), expected, "({takes}): {sent}");
    }
}
