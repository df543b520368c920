//! Random types, and random values of them.

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::types::{Case, Field, Integer, Type};
use super::super::value::Value;
use super::{notation, read, text};

/// More names than any random type has.
const NAMES: [&str; 6] = ["a", "b-c", "user-id", "x1", "some", "ok"];

const INTEGERS: [Integer; 8] = [
    Integer::S8,
    Integer::U8,
    Integer::S16,
    Integer::U16,
    Integer::S32,
    Integer::U32,
    Integer::S64,
    Integer::U64,
];

fn names(count: usize) -> Vec<String> {
    NAMES.iter().take(count).map(|name| (*name).to_owned()).collect()
}

fn scalar() -> impl Strategy<Value = Type> {
    prop_oneof![
        Just(Type::Bool),
        prop::sample::select(&INTEGERS[..]).prop_map(Type::Integer),
        Just(Type::F32),
        Just(Type::F64),
        Just(Type::Char),
        Just(Type::String),
        Just(Type::Bytes),
        (1..=NAMES.len()).prop_map(|count| Type::Enum(names(count))),
        (1..=32usize).prop_map(|count| {
            Type::Flags((0..count).map(|number| format!("f{number}")).collect())
        }),
    ]
}

fn key() -> impl Strategy<Value = Type> {
    prop_oneof![
        Just(Type::Bool),
        prop::sample::select(&INTEGERS[..]).prop_map(Type::Integer),
        Just(Type::Char),
        Just(Type::String),
    ]
}

/// Any type of at most a few dozen nodes.
pub(super) fn any_type() -> impl Strategy<Value = Type> {
    scalar().prop_recursive(4, 24, 4, |inner| {
        let optional = prop::option::of(inner.clone().prop_map(Box::new));
        prop_oneof![
            inner.clone().prop_map(|ty| match ty {
                Type::Integer(Integer::U8) => Type::Bytes,
                ty => Type::List(Box::new(ty)),
            }),
            (key(), inner.clone()).prop_map(|(key, ty)| Type::Map(Box::new(key), Box::new(ty))),
            vec(inner.clone(), 1..4).prop_map(Type::Tuple),
            vec(inner.clone(), 1..=NAMES.len()).prop_map(|types| {
                let field = |(name, ty)| Field { name, ty };
                Type::Record(names(types.len()).into_iter().zip(types).map(field).collect())
            }),
            vec(prop::option::of(inner.clone()), 1..=NAMES.len()).prop_map(|types| {
                let case = |(name, ty)| Case { name, ty };
                Type::Variant(names(types.len()).into_iter().zip(types).map(case).collect())
            }),
            inner.prop_map(|ty| Type::Option(Box::new(ty))),
            (optional.clone(), optional).prop_map(|(ok, err)| Type::Result(ok, err)),
        ]
    })
}

/// Any value of a type.
pub(super) fn any_value(ty: &Type) -> BoxedStrategy<Value> {
    match ty {
        Type::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
        Type::Integer(integer) => {
            let (least, most) = integer.range();
            let edge = 1i128 << 53;
            let edges = vec![least, most, 0, edge - 1, edge, 1 - edge, -edge];
            prop_oneof![least..=most, prop::sample::select(edges)]
                .prop_map(move |number| {
                    let number = number.clamp(least, most);
                    match u64::try_from(number) {
                        Ok(number) if least == 0 => Value::Unsigned(number),
                        _ => Value::Signed(i64::try_from(number).unwrap()),
                    }
                })
                .boxed()
        }
        Type::F32 => any::<u32>().prop_map(|bits| Value::F32(f32::from_bits(bits))).boxed(),
        Type::F64 => any::<u64>().prop_map(|bits| Value::F64(f64::from_bits(bits))).boxed(),
        Type::Char => any::<char>().prop_map(Value::Char).boxed(),
        Type::String => any::<String>().prop_map(Value::String).boxed(),
        Type::Bytes => vec(any::<u8>(), 0..64).prop_map(Value::Bytes).boxed(),
        Type::List(element) => vec(any_value(element), 0..4).prop_map(Value::List).boxed(),
        Type::Map(key, value) => vec((any_value(key), any_value(value)), 0..4)
            .prop_map(|mut entries| {
                let mut seen = Vec::new();
                entries.retain(|(key, _)| {
                    let new = !seen.contains(key);
                    seen.push(key.clone());
                    new
                });
                Value::Map(entries)
            })
            .boxed(),
        Type::Record(fields) => {
            let values: Vec<_> = fields.iter().map(|field| any_value(&field.ty)).collect();
            values.prop_map(Value::Fields).boxed()
        }
        Type::Tuple(types) => {
            types.iter().map(any_value).collect::<Vec<_>>().prop_map(Value::Fields).boxed()
        }
        Type::Variant(cases) => any_case(cases.iter().map(|case| case.ty.as_ref())),
        Type::Enum(names) => any_case(names.iter().map(|_| None)),
        Type::Option(ty) => any_case([None, Some(&**ty)].into_iter()),
        Type::Result(ok, err) => any_case([ok.as_deref(), err.as_deref()].into_iter()),
        Type::Flags(names) => {
            let known = u32::MAX >> (32 - names.len());
            any::<u32>().prop_map(move |bits| Value::Flags(bits & known)).boxed()
        }
    }
}

fn any_case<'t>(payloads: impl Iterator<Item = Option<&'t Type>>) -> BoxedStrategy<Value> {
    let cases: Vec<BoxedStrategy<Value>> = payloads
        .enumerate()
        .map(|(number, payload)| {
            let number = u32::try_from(number).unwrap();
            match payload {
                None => Just(Value::Case(number, None)).boxed(),
                Some(ty) => any_value(ty)
                    .prop_map(move |value| Value::Case(number, Some(Box::new(value))))
                    .boxed(),
            }
        })
        .collect();
    proptest::strategy::Union::new(cases).boxed()
}

/// A type with a few values of it.
pub(super) fn typed_values() -> impl Strategy<Value = (Type, Vec<Value>)> {
    any_type().prop_flat_map(|ty| {
        let values = vec(any_value(&ty), 1..4);
        (Just(ty), values)
    })
}

/// Equal, where all NaNs are one.
pub(super) fn assert_same(ty: &Type, one: &Value, other: &Value) {
    assert_eq!(format!("{one:?}"), format!("{other:?}"), "{ty}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, failure_persistence: None, ..Default::default() })]

    #[test]
    fn nothing_is_lost_between_values_and_json((ty, values) in typed_values()) {
        for value in &values {
            let json = text(&ty, value);
            serde_json::from_str::<serde_json::Value>(&json).expect("JSON");
            let back = read(&ty, &json).unwrap_or_else(|error| panic!("{ty}: {json}: {error:?}"));
            assert_same(&ty, value, &back);
        }
    }

    #[test]
    fn a_type_is_what_its_notation_says(ty in any_type()) {
        assert_eq!(notation::parse(&ty.to_string()), ty);
    }

    #[test]
    fn any_json_is_taken_or_refused_with_a_path((ty, json) in (any_type(), any_json())) {
        if let Err(error) = read(&ty, &json) {
            assert_eq!(error.kind.name(), "invalid-params", "{ty}: {json}: {error:?}");
        }
    }

    #[test]
    fn any_text_is_taken_or_refused((ty, text) in (any_type(), ".*")) {
        if let Ok(value) = read(&ty, &text) {
            assert!(!super::text(&ty, &value).is_empty());
        }
    }
}

fn any_json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        prop::sample::select(&["null", "true", "false", "0", "-1", "1e3", "1.5", "{}", "[]"][..])
            .prop_map(str::to_owned),
        prop::sample::select(&NAMES[..]).prop_map(|name| format!("{name:?}")),
        any::<i64>().prop_map(|number| number.to_string()),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(","))),
            vec((prop::sample::select(&NAMES[..]), inner), 0..4).prop_map(|members| {
                let members: Vec<_> =
                    members.iter().map(|(name, value)| format!("{name:?}:{value}")).collect();
                format!("{{{}}}", members.join(","))
            }),
        ]
    })
}
