//! Schemas, held against values of any type.

use jsonschema::Draft;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::Value as Json;

use super::super::schema::{Full, Room, Way, any, schema};
use super::super::types::Type;
use super::{random, text, ty};

fn takes(ty: &Type, way: Way, json: &Json) -> bool {
    let schema = schema(ty, way, &mut Room::of(1 << 24)).unwrap();
    let built = jsonschema::options().with_draft(Draft::Draft202012).build(&schema);
    built.unwrap().is_valid(json)
}

#[test]
fn random_values_of_random_types_are_what_their_schema_says() {
    let typed = random::any_type().prop_flat_map(|ty| {
        let values = random::any_value(&ty);
        (Just(ty), values)
    });
    TestRunner::new(Config { cases: 500, failure_persistence: None, ..Config::default() })
        .run(&typed, |(ty, value)| {
            for value in [value, any(&ty)] {
                let json: Json = serde_json::from_str(&text(&ty, &value)).unwrap();
                prop_assert!(takes(&ty, Way::Out, &json), "{}: {}", ty, json);
                prop_assert!(takes(&ty, Way::In, &json), "{}: {}", ty, json);
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_schema_takes_no_more_room_than_it_says() {
    let deep = format!("{}u64{}", "option<".repeat(40), ">".repeat(40));
    for notation in [
        "bool",
        "s64",
        "u64",
        "f64",
        "char",
        "list<u8>",
        "map<bool, char>",
        "result",
        &deep,
        "record {user-id: u32, nick: option<string>}",
        "enum {metric, old-style}",
        "variant {circle(f64), nothing}",
        "flags {read, write}",
        "tuple<u8, u64, f32>",
    ] {
        let ty = ty(notation);
        let bytes = schema(&ty, Way::Out, &mut Room::of(1 << 20)).unwrap().to_string().len();
        let full = schema(&ty, Way::Out, &mut Room::of(bytes - 1));
        assert_eq!(full, Err(Full), "{notation}: {bytes} bytes of text in less room");
    }
}
