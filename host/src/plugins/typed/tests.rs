//! The mapping, and its way through a guest's memory.

mod guest;
mod malformed;
mod notation;
mod random;
mod schema;
mod table;

use super::reader::{MAX_VALUES, Reader};
use super::types::{Field, Signature, Type};
use super::value::Value;
use super::{arguments, write};
use crate::message::{Arguments, CallError, ErrorKind};

/// The type that is written like this.
fn ty(notation: &str) -> Type {
    notation::parse(notation)
}

/// One value, read as the only argument of a function.
fn read(ty: &Type, json: &str) -> Result<Value, CallError> {
    let params = vec![Field { name: "v".to_owned(), ty: ty.clone() }];
    let signature = Signature { params, result: None };
    let body = Arguments::Json(format!("[{json}]").into_bytes().into());
    arguments::read(&signature, &body).map(|mut values| values.remove(0))
}

fn text(ty: &Type, value: &Value) -> String {
    String::from_utf8(write::write(ty, value, usize::MAX).unwrap()).unwrap()
}

#[test]
fn names_go_on_where_positions_end() {
    let params = ["a", "b", "c"].map(|name| Field { name: name.to_owned(), ty: ty("u8") }).to_vec();
    let signature = Signature { params, result: None };
    let read = |args: &str, kwargs: &str| {
        let arguments =
            Arguments::Call { args: args.to_owned().into(), kwargs: kwargs.to_owned().into() };
        let values = arguments::read(&signature, &arguments).map_err(|error| {
            assert_eq!(error.kind, ErrorKind::InvalidParams, "{error:?}");
            error.message.split("; the function").next().unwrap().to_owned()
        })?;
        let texts = values.iter().map(|value| text(&ty("u8"), value));
        Ok(texts.collect::<Vec<_>>().join(","))
    };
    for (args, kwargs) in [
        ("[1,2,3]", "{}"),
        ("[1,2,3]", " { } "),
        ("[1]", r#"{"c":3,"b":2}"#),
        ("[ ]", r#"{"c":3,"b":2,"a":1}"#),
    ] {
        assert_eq!(read(args, kwargs), Ok("1,2,3".to_owned()), "{args} {kwargs}");
    }
    for (args, kwargs, refused) in [
        ("[1]", r#"{"a":1,"b":2,"c":3}"#, "`a`: it is there twice"),
        ("[1]", r#"{"b":2,"b":2,"c":3}"#, "`b`: it is there twice"),
        ("[1,2,3,4]", r#"{"a":1}"#, "`[3]`: the function takes 3 arguments"),
        ("[1,2]", "{}", "`c`: it is missing; expected u8"),
        ("[1]", r#"{"b":2,"d":3}"#, "`d`: there is nothing of this name; there is `a`, `b`, `c`"),
        ("[1,true]", r#"{"c":3}"#, "`b`: expected u8, got true"),
    ] {
        assert_eq!(read(args, kwargs), Err(refused.to_owned()), "{args} {kwargs}");
    }
}

#[test]
fn a_text_ends_at_its_limit() {
    let list = ty("list<string>");
    let value = read(&list, r#"["a","\n","é"]"#).unwrap();
    let length = text(&list, &value).len();
    assert!(write::write(&list, &value, length).is_ok());
    for limit in 0..length {
        let ended = write::write(&list, &value, limit);
        assert_eq!(ended, Err(write::Unwritable::TooLong), "{limit}");
    }
    let bytes = Value::Bytes(vec![7; 3]);
    assert_eq!(write::write(&Type::Bytes, &bytes, 5), Err(write::Unwritable::TooLong));
    assert_eq!(write::write(&Type::Bytes, &bytes, 6).as_deref(), Ok(&br#""BwcH""#[..]));
}

#[test]
fn arguments_have_no_more_values_than_may_be() {
    let list = ty("list<u32>");
    let most = MAX_VALUES;
    let of = |count: usize| format!("[{}0]", "0,".repeat(count - 1));
    // The list is a value too.
    assert!(read(&list, &of(most - 1)).is_ok());
    let refused = read(&list, &of(most)).unwrap_err();
    assert!(refused.message.contains("more than 1000000 values"), "{}", refused.message);
    assert!(read(&Type::Bytes, &format!("\"{}\"", "A".repeat(8 << 20))).is_ok());
}

#[test]
fn a_key_that_comes_twice_from_a_guest_has_its_last_value() {
    let map = ty("map<string, u8>");
    let entry = |key: &str, value| (Value::String(key.to_owned()), Value::Unsigned(value));
    let value = Value::Map(vec![entry("a", 1), entry("b", 2), entry("a", 3)]);
    assert_eq!(text(&map, &value), r#"{"b":2,"a":3}"#);
}

#[test]
fn a_path_leads_to_the_value() {
    let mut reader = Reader::new();
    let field = Field { name: "points".to_owned(), ty: Type::Bool };
    let _ = reader.value(&field);
    let _: serde_json::Error = reader.refuse("no");
    assert_eq!(reader.refusal().map(|refusal| refusal.path).as_deref(), Some("points"));
}
