//! JSON text as values of WIT.
//!
//! Reads straight into values, guided by the type: nothing is kept of what the
//! type does not ask for. The other half of the mapping is in [`super::write`];
//! `wit/README.md` has it as a table.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurposeConfig, Simd};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::number;
use super::reader::{MAX_SHOWN, Reader, Refused, cut, no_such_name, shown};
use super::types::{Case, Field, Integer, Type};
use super::value::Value;

const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
static BASE64: LazyLock<Simd> = LazyLock::new(|| Simd::standard(LENIENT));
static BASE64_URL: LazyLock<Simd> = LazyLock::new(|| Simd::url_safe(LENIENT));

impl<'t> Reader<'t> {
    /// A seed for the value that stands under this name.
    pub(super) fn value<'r>(&'r mut self, field: &'t Field) -> Seed<'r, 't> {
        self.enter(field.name.as_str());
        Seed { reader: self, ty: &field.ty }
    }
}

/// Reads one value of a type.
pub(super) struct Seed<'r, 't> {
    reader: &'r mut Reader<'t>,
    ty: &'t Type,
}

impl<'t> Seed<'_, 't> {
    fn seed(&mut self, ty: &'t Type) -> Seed<'_, 't> {
        Seed { reader: self.reader, ty }
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_, '_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(mut self, deserializer: D) -> Result<Value, D::Error> {
        self.reader.take()?;
        match self.ty {
            Type::Integer(integer) => self.integer(*integer, deserializer),
            Type::F32 | Type::F64 => self.float(deserializer),
            Type::Option(inner) => deserializer.deserialize_option(OptionSeed(self.seed(inner))),
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl Seed<'_, '_> {
    fn integer<'de, D: Deserializer<'de>>(
        &mut self,
        integer: Integer,
        deserializer: D,
    ) -> Result<Value, D::Error> {
        let text = scalar_text(deserializer)?;
        match number::integer(text, integer) {
            Ok(value) => Ok(value),
            Err(got) => Err(self.reader.wrong(self.ty, &got.cut(MAX_SHOWN))),
        }
    }

    fn float<'de, D: Deserializer<'de>>(&mut self, deserializer: D) -> Result<Value, D::Error> {
        let text = scalar_text(deserializer)?;
        let value = match self.ty {
            Type::F32 => number::float(text).map(Value::F32),
            _ => number::float(text).map(Value::F64),
        };
        value.map_err(|got| self.reader.wrong(self.ty, &got.cut(MAX_SHOWN)))
    }

    /// A case by its name alone.
    fn case<E: Error>(&mut self, name: &str) -> Result<Value, E> {
        let (index, payload) = match self.ty {
            Type::Enum(names) => (position(names.iter().map(String::as_str), name), None),
            Type::Variant(cases) => {
                let index = position(cases.iter().map(|case| case.name.as_str()), name);
                (index, index.and_then(|index| cases.get(index)?.ty.as_ref()))
            }
            Type::Result(ok, err) => {
                let index = position(RESULT.into_iter(), name);
                (index, if index == Some(0) { ok.as_deref() } else { err.as_deref() })
            }
            _ => (None, None),
        };
        match (index, payload) {
            (Some(index), None) => Ok(Value::Case(case_number(index), None)),
            (Some(_), Some(payload)) => Err(self.reader.refuse(format_args!(
                "the case `{}` carries a value: write {{\"{0}\": …}} with {}",
                cut(name),
                shown(payload)
            ))),
            (None, _) => Err(E::custom(self.no_case(name))),
        }
    }

    fn no_case(&mut self, name: &str) -> Refused {
        let (ty, name) = (shown(self.ty), cut(name));
        self.reader.note(format_args!("expected {ty}, which has no `{name}`"))
    }
}

const BYTE: Type = Type::Integer(Integer::U8);

const RESULT: [&str; 2] = ["ok", "err"];

impl<'de> Visitor<'de> for Seed<'_, '_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", shown(self.ty))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        match self.ty {
            Type::Bool => Ok(Value::Bool(value)),
            ty => Err(self.reader.wrong(ty, if value { "true" } else { "false" })),
        }
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Value, E> {
        Err(self.reader.wrong(self.ty, "a number"))
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Value, E> {
        Err(self.reader.wrong(self.ty, "a number"))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Value, E> {
        Err(self.reader.wrong(self.ty, "a number"))
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Err(self.reader.wrong(self.ty, "null"))
    }

    fn visit_str<E: Error>(mut self, text: &str) -> Result<Value, E> {
        match self.ty {
            Type::String => Ok(Value::String(text.to_owned())),
            Type::Char => {
                let mut chars = text.chars();
                match (chars.next(), chars.next()) {
                    (Some(only), None) => Ok(Value::Char(only)),
                    _ => Err(self.reader.wrong(
                        self.ty,
                        &format!("a string of {} characters", text.chars().count()),
                    )),
                }
            }
            Type::Bytes => bytes_of(text).map(Value::Bytes).map_err(|error| {
                self.reader.refuse(format_args!("expected list<u8> as base64: {error}"))
            }),
            Type::Enum(_) | Type::Variant(_) | Type::Result(..) => self.case(text),
            ty => Err(self.reader.wrong(ty, "a string")),
        }
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Value, E> {
        match self.ty {
            Type::String => Ok(Value::String(text)),
            _ => self.visit_str(&text),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Value, A::Error> {
        let reader = self.reader;
        match self.ty {
            Type::List(element) => elements(reader, element, seq).map(Value::List),
            Type::Bytes => elements(reader, &BYTE, seq).map(|numbers| {
                let byte = |value| match value {
                    Value::Unsigned(byte) => u8::try_from(byte).ok(),
                    _ => None,
                };
                Value::Bytes(numbers.into_iter().filter_map(byte).collect())
            }),
            Type::Tuple(types) => tuple(reader, self.ty, types, seq),
            Type::Flags(names) => flags(reader, self.ty, names, seq),
            ty => Err(reader.wrong(ty, "an array")),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Value, A::Error> {
        match self.ty {
            Type::Record(fields) => record(self.reader, fields, map).map(Value::Fields),
            Type::Map(key, value) => entries(self.reader, key, value, map),
            Type::Variant(cases) => {
                let payload = |index| cases.get(index).map(|case: &Case| case.ty.as_ref());
                self.one_case(cases.iter().map(|case| case.name.as_str()), payload, map)
            }
            Type::Result(ok, err) => {
                let payload = |index| Some(if index == 0 { ok.as_deref() } else { err.as_deref() });
                self.one_case(RESULT.into_iter(), payload, map)
            }
            ty => Err(self.reader.wrong(ty, "an object")),
        }
    }
}

impl<'t> Seed<'_, 't> {
    /// `{"name": value}`.
    fn one_case<'de, 'n, A: MapAccess<'de>>(
        mut self,
        names: impl Iterator<Item = &'n str>,
        payload: impl FnOnce(usize) -> Option<Option<&'t Type>>,
        mut map: A,
    ) -> Result<Value, A::Error> {
        let key = Key(|name: &str| {
            let index = position(names, name).ok_or_else(|| self.no_case(name))?;
            self.reader.enter(name.to_owned());
            Ok(index)
        });
        let Some(index) = map.next_key_seed(key)? else {
            return Err(self.reader.wrong(self.ty, "an empty object"));
        };
        let value = match payload(index).flatten() {
            Some(ty) => Some(Box::new(map.next_value_seed(self.seed(ty))?)),
            None => {
                map.next_value_seed(Null(self.reader))?;
                None
            }
        };
        self.reader.leave();
        match map.next_key_seed(Key(|name: &str| Ok(cut(name))))? {
            None => Ok(Value::Case(case_number(index), value)),
            Some(second) => Err(self.reader.refuse(format_args!(
                "expected an object of one member, the case; it also has `{second}`"
            ))),
        }
    }
}

/// Reads what an option may be instead of `null`.
struct OptionSeed<'r, 't>(Seed<'r, 't>);

impl<'de> Visitor<'de> for OptionSeed<'_, '_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "option<{}>", shown(self.0.ty))
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        Ok(Value::none())
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::none())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let inner = self.0;
        if inner.ty.is_optional() {
            deserializer.deserialize_any(SomeSeed(inner))
        } else {
            inner.deserialize(deserializer).map(Value::some)
        }
    }
}

/// Reads the `{"some": …}` of an option of an option.
struct SomeSeed<'r, 't>(Seed<'r, 't>);

impl SomeSeed<'_, '_> {
    fn wrong<E: Error>(self, got: &str) -> E {
        let ty = shown(self.0.ty);
        self.0.reader.refuse(format_args!(
            "expected option<{ty}>, which is null or {{\"some\": …}}, got {got}"
        ))
    }
}

impl<'de> Visitor<'de> for SomeSeed<'_, '_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "option<{}>", shown(self.0.ty))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Value, E> {
        Err(self.wrong("a boolean"))
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Value, E> {
        Err(self.wrong("a number"))
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Value, E> {
        Err(self.wrong("a number"))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Value, E> {
        Err(self.wrong("a number"))
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Value, E> {
        Err(self.wrong("a string"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Value, A::Error> {
        Err(self.wrong("an array"))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Value, A::Error> {
        let ty = self.0.ty;
        match self.0.one_case(["some"].into_iter(), |_| Some(Some(ty)), map)? {
            Value::Case(0, Some(value)) => Ok(Value::Case(1, Some(value))),
            other => Ok(other),
        }
    }
}

/// Reads a `null` and nothing else.
struct Null<'r, 't>(&'r mut Reader<'t>);

impl<'de> DeserializeSeed<'de> for Null<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let raw = <&RawValue as serde::Deserialize>::deserialize(deserializer)?;
        match raw.get() {
            "null" => Ok(()),
            _ => Err(self.0.refuse("the case carries no value: expected null")),
        }
    }
}

/// Reads the name of a member.
struct Key<F>(F);

impl<'de, T, F: FnOnce(&str) -> Result<T, Refused>> DeserializeSeed<'de> for Key<F> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<T, F: FnOnce(&str) -> Result<T, Refused>> Visitor<'_> for Key<F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<T, E> {
        (self.0)(name).map_err(E::custom)
    }
}

fn elements<'de, 't, A: SeqAccess<'de>>(
    reader: &mut Reader<'t>,
    ty: &'t Type,
    mut seq: A,
) -> Result<Vec<Value>, A::Error> {
    let mut values = Vec::new();
    loop {
        reader.enter_element(values.len());
        let value = seq.next_element_seed(Seed { reader, ty })?;
        reader.leave();
        match value {
            Some(value) => values.push(value),
            None => return Ok(values),
        }
    }
}

fn tuple<'de, 't, A: SeqAccess<'de>>(
    reader: &mut Reader<'t>,
    whole: &Type,
    types: &'t [Type],
    mut seq: A,
) -> Result<Value, A::Error> {
    let mut values = Vec::with_capacity(types.len());
    for (index, ty) in types.iter().enumerate() {
        reader.enter_element(index);
        match seq.next_element_seed(Seed { reader, ty })? {
            Some(value) => values.push(value),
            None => return Err(reader.refuse(format_args!("it is missing in {}", shown(whole)))),
        }
        reader.leave();
    }
    if seq.next_element::<&RawValue>()?.is_some() {
        let reason = format_args!("it is one too many for {}", shown(whole));
        return Err(reader.refuse_element(types.len(), reason));
    }
    Ok(Value::Fields(values))
}

fn flags<'de, A: SeqAccess<'de>>(
    reader: &mut Reader<'_>,
    ty: &Type,
    names: &[String],
    mut seq: A,
) -> Result<Value, A::Error> {
    let mut bits = 0u32;
    let mut index = 0;
    loop {
        reader.enter_element(index);
        let Some(raw) = seq.next_element::<&RawValue>()? else { break };
        let name = serde_json::from_str::<Cow<'_, str>>(raw.get()).ok();
        let bit = name.and_then(|name| position(names.iter().map(String::as_str), &name));
        let Some(bit) = bit else {
            let got = cut(raw.get());
            return Err(reader.refuse(format_args!("{got} is none of {}", shown(ty))));
        };
        if bits & (1 << bit) != 0 {
            return Err(reader.refuse("the flag is named twice"));
        }
        bits |= 1 << bit;
        reader.leave();
        index += 1;
    }
    reader.leave();
    Ok(Value::Flags(bits))
}

/// The fields of a record, or arguments by name, in the order of the type.
/// Options may be missing.
pub(super) fn record<'de, 't, A: MapAccess<'de>>(
    reader: &mut Reader<'t>,
    fields: &'t [Field],
    mut map: A,
) -> Result<Vec<Value>, A::Error> {
    let mut values: Vec<Option<Value>> = Vec::new();
    values.resize_with(fields.len(), || None);
    // Members mostly come in the order of the type; looking where the last one
    // was found keeps a large record linear.
    let mut last = 0;
    loop {
        let key = Key(|name: &str| {
            let begin = last + 1;
            let found = (begin..fields.len())
                .chain(0..begin.min(fields.len()))
                .find(|at| fields.get(*at).is_some_and(|field| same_name(&field.name, name)));
            let Some(at) = found else {
                let names: Vec<_> = fields.iter().map(|field| field.name.as_str()).collect();
                return Err(reader.note_member(name, no_such_name(&names)));
            };
            if values.get(at).is_some_and(Option::is_some) {
                return Err(reader.note_member(name, "it is there twice"));
            }
            Ok(at)
        });
        let Some(at) = map.next_key_seed(key)? else { break };
        last = at;
        if let (Some(field), Some(value)) = (fields.get(at), values.get_mut(at)) {
            *value = Some(map.next_value_seed(reader.value(field))?);
            reader.leave();
        }
    }
    let mut whole = Vec::with_capacity(fields.len());
    for (field, value) in fields.iter().zip(values) {
        whole.push(match value {
            Some(value) => value,
            None => reader.missing(field)?,
        });
    }
    Ok(whole)
}

/// Arguments by position. Options at the end may be missing.
pub(super) fn positions<'de, 't, A: SeqAccess<'de>>(
    reader: &mut Reader<'t>,
    fields: &'t [Field],
    mut seq: A,
) -> Result<Vec<Value>, A::Error> {
    let mut values = Vec::with_capacity(fields.len());
    for field in fields {
        let value = seq.next_element_seed(reader.value(field))?;
        reader.leave();
        values.push(match value {
            Some(value) => value,
            None => reader.missing(field)?,
        });
    }
    if seq.next_element::<&RawValue>()?.is_some() {
        let reason = match fields.len() {
            0 => "the function takes no argument".to_owned(),
            1 => "the function takes 1 argument".to_owned(),
            several => format!("the function takes {several} arguments"),
        };
        return Err(reader.refuse_element(fields.len(), reason));
    }
    Ok(values)
}

fn entries<'de, 't, A: MapAccess<'de>>(
    reader: &mut Reader<'t>,
    key: &Type,
    ty: &'t Type,
    mut map: A,
) -> Result<Value, A::Error> {
    let mut seen = HashSet::new();
    let mut entries = Vec::new();
    loop {
        let key = Key(|text: &str| {
            reader.enter(text.to_owned());
            let value = match map_key(key, text) {
                Ok(value) => value,
                Err(got) => return Err(reader.note(format_args!("expected {key}, got {got}"))),
            };
            // As it is written, so that `1` and `01` are the same.
            let canonical = match &value {
                Value::Signed(number) => number.to_string(),
                Value::Unsigned(number) => number.to_string(),
                _ => text.to_owned(),
            };
            if !seen.insert(canonical) {
                return Err(reader.note("the key is there twice"));
            }
            Ok(value)
        });
        let Some(key) = map.next_key_seed(key)? else { return Ok(Value::Map(entries)) };
        let value = map.next_value_seed(Seed { reader, ty })?;
        reader.leave();
        entries.push((key, value));
    }
}

/// A map's key out of a member's name.
fn map_key(ty: &Type, text: &str) -> Result<Value, String> {
    let mut chars = text.chars();
    match (ty, text) {
        (Type::String, _) => Ok(Value::String(text.to_owned())),
        (Type::Bool, "true") => Ok(Value::Bool(true)),
        (Type::Bool, "false") => Ok(Value::Bool(false)),
        (Type::Integer(integer), _) => {
            number::integer_of_text(text, *integer).map_err(|got| got.cut(MAX_SHOWN))
        }
        (Type::Char, _) => match (chars.next(), chars.next()) {
            (Some(only), None) => Ok(Value::Char(only)),
            _ => Err(format!("a string of {} characters", text.chars().count())),
        },
        _ => Err(format!("{:?}", cut(text))),
    }
}

/// Any JSON value, as the text it is.
fn scalar_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<&'de str, D::Error> {
    <&RawValue as serde::Deserialize>::deserialize(deserializer).map(RawValue::get)
}

/// RFC 4648, both alphabets, padded or not.
fn bytes_of(text: &str) -> Result<Vec<u8>, base64::DecodeError> {
    match BASE64.decode(text) {
        // The usual one is tried first, so that nothing has to be searched.
        Err(base64::DecodeError::InvalidByte(_, b'-' | b'_')) => BASE64_URL.decode(text),
        decoded => decoded,
    }
}

/// The place of a name among those of a type.
fn position<'n>(mut names: impl Iterator<Item = &'n str>, name: &str) -> Option<usize> {
    names.position(|own| same_name(own, name))
}

/// Whether a caller's name is that of a type, where `_` stands for `-` too.
fn same_name(own: &str, name: &str) -> bool {
    own.len() == name.len()
        && own.bytes().zip(name.bytes()).all(|(own, b)| own == b || (own == b'-' && b == b'_'))
}

/// A type has fewer cases than would not fit: its nodes are counted at load.
fn case_number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}
