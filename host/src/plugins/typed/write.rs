//! Values of WIT as JSON text.
//!
//! The other half of the mapping is in [`super::read`]; `wit/README.md` has it
//! as a table.

use std::collections::HashMap;
use std::io::{self, Write as _};
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::{GeneralPurposeConfig, Simd};

use super::types::Type;
use super::value::Value;

/// The largest integer that every JSON library keeps exactly: 2^53 - 1 (RFC
/// 8259 section 6). Beyond it an integer is written as a string.
pub(super) const MAX_SAFE_INTEGER: i128 = (1 << 53) - 1;

static BASE64: LazyLock<Simd> = LazyLock::new(|| Simd::standard(GeneralPurposeConfig::new()));

/// Why a value has no text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unwritable {
    /// The text is longer than the limit.
    TooLong,
    /// The value is not of the type.
    Mismatch,
}

/// The JSON text of a value, of at most `limit` bytes.
pub(super) fn write(ty: &Type, value: &Value, limit: usize) -> Result<Vec<u8>, Unwritable> {
    let mut out = Limited { text: Vec::new(), limit };
    out.value(ty, value)?;
    Ok(out.text)
}

/// Text that does not grow beyond its limit.
struct Limited {
    text: Vec<u8>,
    limit: usize,
}

impl io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.text.len().saturating_add(bytes.len()) > self.limit {
            return Err(io::Error::other("the limit is reached"));
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl From<io::Error> for Unwritable {
    fn from(_: io::Error) -> Self {
        Self::TooLong
    }
}

impl Limited {
    fn raw(&mut self, text: &str) -> Result<(), Unwritable> {
        Ok(self.write_all(text.as_bytes())?)
    }

    /// A string, with what JSON wants escaped.
    fn string(&mut self, text: &str) -> Result<(), Unwritable> {
        serde_json::to_writer(self, text).map_err(|_| Unwritable::TooLong)
    }

    fn value(&mut self, ty: &Type, value: &Value) -> Result<(), Unwritable> {
        match (ty, value) {
            (Type::Bool, Value::Bool(true)) => self.raw("true"),
            (Type::Bool, Value::Bool(false)) => self.raw("false"),
            (Type::Integer(_), Value::Signed(number)) => self.integer((*number).into()),
            (Type::Integer(_), Value::Unsigned(number)) => self.integer((*number).into()),
            (Type::F32, Value::F32(number)) if number.is_finite() => {
                serde_json::to_writer(self, number).map_err(|_| Unwritable::TooLong)
            }
            (Type::F32, Value::F32(number)) => self.not_finite((*number).into()),
            (Type::F64, Value::F64(number)) if number.is_finite() => {
                serde_json::to_writer(self, number).map_err(|_| Unwritable::TooLong)
            }
            (Type::F64, Value::F64(number)) => self.not_finite(*number),
            (Type::Char, Value::Char(char)) => self.string(char.encode_utf8(&mut [0; 4])),
            (Type::String, Value::String(text)) => self.string(text),
            (Type::Bytes, Value::Bytes(bytes)) => self.bytes(bytes),
            (Type::List(element), Value::List(values)) => {
                self.array(values.iter().map(|value| (&**element, value)))
            }
            (Type::Tuple(types), Value::Fields(values)) if types.len() == values.len() => {
                self.array(types.iter().zip(values))
            }
            (Type::Map(_, ty), Value::Map(entries)) => self.map(ty, entries),
            (Type::Record(fields), Value::Fields(values)) if fields.len() == values.len() => {
                let mut before = "{";
                for (field, value) in fields.iter().zip(values) {
                    self.raw(before)?;
                    self.member(&field.name, Some(&field.ty), Some(value))?;
                    before = ",";
                }
                self.raw("}")
            }
            (Type::Variant(cases), Value::Case(index, payload)) => {
                let case = cases.get(*index as usize).ok_or(Unwritable::Mismatch)?;
                match (&case.ty, payload) {
                    (None, None) => self.string(&case.name),
                    (ty, payload) => self.case(&case.name, ty.as_ref(), payload.as_deref()),
                }
            }
            (Type::Enum(names), Value::Case(index, None)) => {
                self.string(names.get(*index as usize).ok_or(Unwritable::Mismatch)?)
            }
            (Type::Flags(names), Value::Flags(bits)) => {
                let set = names.iter().enumerate().filter(|(index, _)| bits >> index & 1 == 1);
                let set: Vec<_> = set.map(|(_, name)| name).collect();
                serde_json::to_writer(self, &set).map_err(|_| Unwritable::TooLong)
            }
            (Type::Option(_), Value::Case(0, None)) => self.raw("null"),
            (Type::Option(ty), Value::Case(1, Some(value))) => match &**ty {
                // Else `some(none)` would be `none`.
                Type::Option(_) => self.case("some", Some(ty), Some(value)),
                ty => self.value(ty, value),
            },
            (Type::Result(ok, err), Value::Case(index, payload)) => {
                let (name, ty) = if *index == 0 { ("ok", ok) } else { ("err", err) };
                self.case(name, ty.as_deref(), payload.as_deref())
            }
            _ => Err(Unwritable::Mismatch),
        }
    }

    fn integer(&mut self, number: i128) -> Result<(), Unwritable> {
        if number.abs() <= MAX_SAFE_INTEGER {
            Ok(write!(self, "{number}")?)
        } else {
            Ok(write!(self, "\"{number}\"")?)
        }
    }

    fn not_finite(&mut self, number: f64) -> Result<(), Unwritable> {
        self.raw(if number.is_nan() {
            "\"NaN\""
        } else if number > 0.0 {
            "\"Infinity\""
        } else {
            "\"-Infinity\""
        })
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), Unwritable> {
        let length = base64::encoded_len(bytes.len(), true).ok_or(Unwritable::TooLong)?;
        let begin = self.text.len().saturating_add(1);
        if begin.saturating_add(length).saturating_add(1) > self.limit {
            return Err(Unwritable::TooLong);
        }
        self.text.push(b'"');
        self.text.resize(begin + length, 0);
        let room = self.text.get_mut(begin..).unwrap_or_default();
        BASE64.encode_slice(bytes, room).map_err(|_| Unwritable::TooLong)?;
        self.text.push(b'"');
        Ok(())
    }

    fn array<'v>(
        &mut self,
        items: impl Iterator<Item = (&'v Type, &'v Value)>,
    ) -> Result<(), Unwritable> {
        self.raw("[")?;
        for (index, (ty, value)) in items.enumerate() {
            if index > 0 {
                self.raw(",")?;
            }
            self.value(ty, value)?;
        }
        self.raw("]")
    }

    /// `{"name": value}`.
    fn case(
        &mut self,
        name: &str,
        ty: Option<&Type>,
        value: Option<&Value>,
    ) -> Result<(), Unwritable> {
        self.raw("{")?;
        self.member(name, ty, value)?;
        self.raw("}")
    }

    fn member(
        &mut self,
        name: &str,
        ty: Option<&Type>,
        value: Option<&Value>,
    ) -> Result<(), Unwritable> {
        self.string(name)?;
        self.raw(":")?;
        match (ty, value) {
            (Some(ty), Some(value)) => self.value(ty, value),
            (None, None) => self.raw("null"),
            _ => Err(Unwritable::Mismatch),
        }
    }

    /// An object. A guest may send a key twice; the last one holds, as the
    /// component model has it.
    fn map(&mut self, ty: &Type, entries: &[(Value, Value)]) -> Result<(), Unwritable> {
        let mut last = HashMap::with_capacity(entries.len());
        for (index, (key, _)) in entries.iter().enumerate() {
            last.insert(key_text(key)?, index);
        }
        self.raw("{")?;
        let mut first = true;
        for (index, (key, value)) in entries.iter().enumerate() {
            let key = key_text(key)?;
            if last.get(&key) != Some(&index) {
                continue;
            }
            if !first {
                self.raw(",")?;
            }
            first = false;
            self.member(&key, Some(ty), Some(value))?;
        }
        self.raw("}")
    }
}

/// A map's key as the name of an object's member.
fn key_text(key: &Value) -> Result<String, Unwritable> {
    Ok(match key {
        Value::String(text) => text.clone(),
        Value::Bool(bool) => bool.to_string(),
        Value::Signed(number) => number.to_string(),
        Value::Unsigned(number) => number.to_string(),
        Value::Char(char) => char.to_string(),
        _ => return Err(Unwritable::Mismatch),
    })
}
