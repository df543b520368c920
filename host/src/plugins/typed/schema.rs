//! Types of WIT as JSON Schema (2020-12), and a value of each as an example.
//!
//! A schema describes the second column of the table in `wit/README.md`: what
//! the host writes, and takes. What it takes besides is left out, so that what
//! is made from a schema is the plain form.

use serde_json::{Map, Value as Json, json};

use super::types::{Field, Integer, Signature, Type};
use super::value::Value;
use super::write::{self, MAX_SAFE_INTEGER};

/// The dialect that every schema names.
const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// Most that the schema of one type takes as text, in bytes, beside its names
/// and the types in it.
const TYPE_COST: usize = 128;

/// What the schemas of a function take beside those of its types: names of
/// members, and of parameters once more.
const SHAPE_COST: usize = 512;

/// Longest example in bytes; longer ones explain nothing.
const MAX_EXAMPLE: usize = 4096;

/// Bytes of schemas that may still be made: types do not recurse, but a few of
/// them can stand for a great many.
#[derive(Debug)]
pub(in super::super) struct Room(usize);

/// There is no room for this schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Full;

impl Room {
    /// Room for about as many bytes.
    pub(in super::super) fn of(bytes: usize) -> Self {
        Self(bytes)
    }

    /// Takes some of it.
    pub(in super::super) fn take(&mut self, bytes: usize) -> Result<(), Full> {
        let left = self.0.checked_sub(bytes);
        self.0 = left.unwrap_or(0);
        left.map(|_| ()).ok_or(Full)
    }
}

/// Which way a value goes: a caller may leave out options, the host does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    In,
    Out,
}

/// What callers send a function and get from it.
#[derive(Debug)]
pub(in super::super) struct Shape {
    /// Schema of all arguments, by name and by position.
    pub(in super::super) params: Json,
    /// Each parameter: its name, whether it has to be there, its schema.
    pub(in super::super) each: Vec<(String, bool, Json)>,
    /// Schema of the result.
    pub(in super::super) result: Json,
    /// Schema of the data of its own errors, where it has some.
    pub(in super::super) error: Option<Json>,
    /// Arguments by position, and a result; where they are short enough.
    pub(in super::super) example: Option<(Json, Json)>,
}

impl Shape {
    /// # Errors
    ///
    /// Where there is no room for it.
    pub(in super::super) fn of(signature: &Signature, room: &mut Room) -> Result<Self, Full> {
        let names: usize = signature.params.iter().map(|param| param.name.len()).sum();
        let per_param = signature.params.len().saturating_mul(TYPE_COST);
        room.take(SHAPE_COST.saturating_add(names).saturating_add(per_param))?;
        let mut each = Vec::with_capacity(signature.params.len());
        for param in &signature.params {
            let schema = schema(&param.ty, Way::In, room)?;
            each.push((param.name.clone(), !param.ty.is_optional(), schema));
        }
        let (ok, err) = match &signature.result {
            Some(Type::Result(ok, err)) => (ok.as_deref(), Some(err.as_deref())),
            ty => (ty.as_ref(), None),
        };
        Ok(Self {
            params: document(params(&signature.params, room)?),
            each,
            result: document(payload(ok, Way::Out, room)?),
            error: err.map(|err| payload(err, Way::Out, room).map(document)).transpose()?,
            example: example(&signature.params, ok, room),
        })
    }
}

/// A schema that stands alone says which dialect it is of.
fn document(schema: Json) -> Json {
    let mut whole = Map::new();
    whole.insert("$schema".to_owned(), json!(DIALECT));
    match schema {
        Json::Object(members) => whole.extend(members),
        other => {
            whole.insert("allOf".to_owned(), json!([other]));
        }
    }
    Json::Object(whole)
}

/// All arguments: an object by name or an array by position.
fn params(params: &[Field], room: &mut Room) -> Result<Json, Full> {
    room.take(TYPE_COST)?;
    if params.is_empty() {
        return Ok(json!({
            "type": ["array", "object", "null"], "maxItems": 0, "maxProperties": 0,
        }));
    }
    let mut schema = record(params, Way::In, room)?;
    let last = params.iter().rposition(|param| !param.ty.is_optional());
    // Names of parameters are words with hyphens; nothing in them has to be
    // escaped in a pointer.
    let places = params.iter().map(|param| json!({"$ref": format!("#/properties/{}", param.name)}));
    schema.insert("type".to_owned(), json!(["array", "object"]));
    schema.insert("prefixItems".to_owned(), places.collect());
    schema.insert("items".to_owned(), json!(false));
    schema.insert("minItems".to_owned(), json!(last.map_or(0, |last| last + 1)));
    room.take(params.len().saturating_mul(TYPE_COST))?;
    Ok(Json::Object(schema))
}

fn payload(ty: Option<&Type>, way: Way, room: &mut Room) -> Result<Json, Full> {
    match ty {
        Some(ty) => schema(ty, way, room),
        None => room.take(TYPE_COST).map(|()| json!({"type": "null"})),
    }
}

/// The schema of a type's values.
pub(super) fn schema(ty: &Type, way: Way, room: &mut Room) -> Result<Json, Full> {
    room.take(TYPE_COST)?;
    Ok(match ty {
        Type::Bool => json!({"type": "boolean"}),
        Type::Integer(integer) => number(*integer),
        Type::F32 | Type::F64 => {
            json!({"anyOf": [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity"]}]})
        }
        Type::Char => json!({"type": "string", "minLength": 1, "maxLength": 1}),
        Type::String => json!({"type": "string"}),
        Type::Bytes => json!({"type": "string", "contentEncoding": "base64"}),
        Type::List(element) => json!({"type": "array", "items": schema(element, way, room)?}),
        Type::Map(key, value) => json!({
            "type": "object",
            "propertyNames": key_name(key),
            "additionalProperties": schema(value, way, room)?,
        }),
        Type::Record(fields) => Json::Object(record(fields, way, room)?),
        Type::Tuple(types) => {
            let items: Vec<_> =
                types.iter().map(|ty| schema(ty, way, room)).collect::<Result<_, _>>()?;
            json!({
                "type": "array", "prefixItems": items, "items": false, "minItems": types.len(),
            })
        }
        Type::Variant(cases) => {
            let cases: Vec<_> = cases
                .iter()
                .map(|named| match &named.ty {
                    Some(ty) => case(&named.name, Some(ty), way, room),
                    None => room.take(named.name.len()).map(|()| json!({"const": named.name})),
                })
                .collect::<Result<_, _>>()?;
            json!({ "oneOf": cases })
        }
        Type::Enum(names) => {
            room.take(names.iter().map(String::len).sum())?;
            json!({"type": "string", "enum": names})
        }
        Type::Flags(names) => {
            room.take(names.iter().map(String::len).sum())?;
            json!({
                "type": "array",
                "items": {"type": "string", "enum": names},
                "uniqueItems": true,
            })
        }
        Type::Option(inner) => {
            let some = match &**inner {
                Type::Option(_) => case("some", Some(inner), way, room)?,
                _ => schema(inner, way, room)?,
            };
            json!({"anyOf": [{"type": "null"}, some]})
        }
        Type::Result(ok, err) => json!({"oneOf": [
            case("ok", ok.as_deref(), way, room)?,
            case("err", err.as_deref(), way, room)?,
        ]}),
    })
}

fn number(integer: Integer) -> Json {
    let (least, most) = integer.range();
    let safe = |bound: i128| bound.clamp(-MAX_SAFE_INTEGER, MAX_SAFE_INTEGER);
    // Clamped, both fit.
    let bound = |bound: i128| i64::try_from(safe(bound)).unwrap_or(0);
    let number = json!({"type": "integer", "minimum": bound(least), "maximum": bound(most)});
    match integer {
        Integer::U64 => json!({"anyOf": [number, {"type": "string", "pattern": "^[0-9]+$"}]}),
        Integer::S64 => json!({"anyOf": [number, {"type": "string", "pattern": "^-?[0-9]+$"}]}),
        _ => number,
    }
}

fn key_name(key: &Type) -> Json {
    match key {
        Type::Bool => json!({"enum": ["true", "false"]}),
        Type::Integer(_) => json!({"pattern": "^-?[0-9]+$"}),
        Type::Char => json!({"minLength": 1, "maxLength": 1}),
        _ => json!(true),
    }
}

fn record(fields: &[Field], way: Way, room: &mut Room) -> Result<Map<String, Json>, Full> {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for field in fields {
        room.take(field.name.len().saturating_mul(2))?;
        properties.insert(field.name.clone(), schema(&field.ty, way, room)?);
        if way == Way::Out || !field.ty.is_optional() {
            required.push(json!(field.name));
        }
    }
    let mut schema = Map::new();
    schema.insert("type".to_owned(), json!("object"));
    schema.insert("properties".to_owned(), Json::Object(properties));
    schema.insert("required".to_owned(), Json::Array(required));
    schema.insert("additionalProperties".to_owned(), json!(false));
    Ok(schema)
}

/// `{"name": value}`.
fn case(name: &str, ty: Option<&Type>, way: Way, room: &mut Room) -> Result<Json, Full> {
    room.take(name.len().saturating_mul(2).saturating_add(TYPE_COST))?;
    let mut properties = Map::new();
    properties.insert(name.to_owned(), payload(ty, way, room)?);
    Ok(json!({
        "type": "object",
        "properties": properties,
        "required": [name],
        "additionalProperties": false,
    }))
}

/// Arguments by position and a result, as a caller would see them.
fn example(params: &[Field], result: Option<&Type>, room: &mut Room) -> Option<(Json, Json)> {
    let mut left = MAX_EXAMPLE;
    let mut shown = |ty: &Type| {
        let text = write::write(ty, &any(ty), left).ok()?;
        left -= text.len();
        room.take(text.len()).ok()?;
        serde_json::from_slice::<Json>(&text).ok()
    };
    let arguments = params.iter().map(|param| shown(&param.ty)).collect::<Option<Vec<_>>>()?;
    let result = result.map_or(Some(Json::Null), shown)?;
    Some((Json::Array(arguments), result))
}

/// A value of a type, as short as one that shows its form can be.
pub(super) fn any(ty: &Type) -> Value {
    match ty {
        Type::Bool => Value::Bool(true),
        Type::Integer(Integer::S8 | Integer::S16 | Integer::S32 | Integer::S64) => Value::Signed(1),
        Type::Integer(_) => Value::Unsigned(1),
        Type::F32 => Value::F32(1.5),
        Type::F64 => Value::F64(1.5),
        Type::Char => Value::Char('a'),
        Type::String => Value::String("text".to_owned()),
        Type::Bytes => Value::Bytes(b"bytes".to_vec()),
        Type::List(element) => Value::List(vec![any(element)]),
        Type::Map(key, value) => Value::Map(vec![(any(key), any(value))]),
        Type::Record(fields) => Value::Fields(fields.iter().map(|field| any(&field.ty)).collect()),
        Type::Tuple(types) => Value::Fields(types.iter().map(any).collect()),
        Type::Variant(cases) => {
            let first = cases.first().and_then(|case| case.ty.as_ref());
            Value::Case(0, first.map(|ty| Box::new(any(ty))))
        }
        Type::Enum(_) => Value::Case(0, None),
        Type::Flags(_) => Value::Flags(1),
        Type::Option(inner) => Value::some(any(inner)),
        Type::Result(ok, _) => Value::Case(0, ok.as_deref().map(|ty| Box::new(any(ty)))),
    }
}
