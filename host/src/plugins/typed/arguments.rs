//! What a caller sent, as the arguments of a function.
//!
//! Two rules. In `json-rpc` the arguments are an array by position or an object
//! by name. In `plain` the body is the one argument of a function that has one;
//! of several it is an array or an object; of none it is empty or `null`. Who sends
//! both an array and an object names what comes after the positions.

use std::fmt;

use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::json;
use serde_json::value::RawValue;

use super::read;
use super::reader::Reader;
use super::types::{Field, Signature};
use super::value::Value;
use crate::message::{Arguments, CallError, ErrorKind};

/// Reads the arguments of a function.
///
/// # Errors
///
/// `parse-error` for what is no JSON, `invalid-params` with the path in its
/// data for what the function does not take.
pub(super) fn read(signature: &Signature, arguments: &Arguments) -> Result<Vec<Value>, CallError> {
    let params = signature.params.as_slice();
    let sent = match arguments {
        Arguments::Body(sent) | Arguments::Json(sent) | Arguments::Value(sent) => sent.clone(),
        Arguments::Call { args, kwargs } => by_position_and_name(params, args, kwargs),
    };
    let sent = &sent;
    // An empty body is no JSON; here it says that there is no argument.
    let first = sent.iter().copied().find(|byte| !byte.is_ascii_whitespace());
    let json: &[u8] = if first.is_some() { sent } else { b"null" };
    let whole = match (arguments, params, first) {
        // By name too, where an object can mean nothing else.
        (Arguments::Body(_) | Arguments::Value(_), [only], first) => match first {
            Some(b'{') if !only.ty.takes_objects() => None,
            first => first.map(|_| only),
        },
        _ => None,
    };
    let mut reader = Reader::new();
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let values = match whole {
        Some(only) => reader.value(only).deserialize(&mut deserializer).map(|value| vec![value]),
        None => deserializer.deserialize_any(All { reader: &mut reader, params }),
    };
    let error = match values.and_then(|values| deserializer.end().map(|()| values)) {
        Ok(values) => return Ok(values),
        Err(error) => error,
    };
    // A value may be refused before the text turns out to be no JSON.
    match (reader.refusal(), serde_json::from_slice::<&RawValue>(json)) {
        (Some(refusal), Ok(_)) => {
            let place = match refusal.path.as_str() {
                "" => String::new(),
                path => format!("`{path}`: "),
            };
            let message = format!("{place}{}; the function is {signature}", refusal.reason);
            Err(CallError::new(ErrorKind::InvalidParams, message)
                .with_data(json!({ "path": refusal.path }).to_string()))
        }
        (_, Err(error)) => Err(not_json(&error)),
        (None, Ok(_)) => Err(not_json(&error)),
    }
}

/// Positions and names made into one: an array if there are no names, else an
/// object. Too many positions are left to be refused when they are read.
fn by_position_and_name(params: &[Field], args: &Bytes, kwargs: &Bytes) -> Bytes {
    let Ok(positions) = serde_json::from_slice::<Vec<&RawValue>>(args) else {
        return args.clone();
    };
    let opened = kwargs.iter().position(|byte| *byte == b'{').map_or(0, |at| at + 1);
    let names = kwargs.get(opened..).unwrap_or_default();
    let no_names = names.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'}');
    if no_names || positions.len() > params.len() {
        return args.clone();
    }
    let mut all = b"{".to_vec();
    for (param, value) in params.iter().zip(positions) {
        all.extend_from_slice(json!(param.name).to_string().as_bytes());
        all.push(b':');
        all.extend_from_slice(value.get().as_bytes());
        all.push(b',');
    }
    all.extend_from_slice(names);
    Bytes::from(all)
}

fn not_json(error: &serde_json::Error) -> CallError {
    let text = format!("the arguments are not JSON (a text needs its quotes): {error}");
    CallError::new(ErrorKind::ParseError, text)
}

/// Reads all arguments: an array, an object or `null`.
struct All<'r, 't> {
    reader: &'r mut Reader<'t>,
    params: &'t [Field],
}

impl All<'_, '_> {
    fn wrong<E: Error>(self, got: &str) -> E {
        let expected = match self.params {
            [] => "no argument",
            _ => "the arguments as an array or an object",
        };
        self.reader.refuse(format_args!("expected {expected}, got {got}"))
    }
}

impl<'de> Visitor<'de> for All<'_, '_> {
    type Value = Vec<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "arguments")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Vec<Value>, E> {
        Err(self.wrong("a boolean"))
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Vec<Value>, E> {
        Err(self.wrong("a number"))
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Vec<Value>, E> {
        Err(self.wrong("a number"))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Vec<Value>, E> {
        Err(self.wrong("a number"))
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Vec<Value>, E> {
        Err(self.wrong("a string"))
    }

    fn visit_unit<E: Error>(self) -> Result<Vec<Value>, E> {
        self.params.iter().map(|param| self.reader.missing(param)).collect()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Vec<Value>, A::Error> {
        read::positions(self.reader, self.params, seq)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Vec<Value>, A::Error> {
        read::record(self.reader, self.params, map)
    }
}
