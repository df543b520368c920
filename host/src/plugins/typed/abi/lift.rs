//! Values out of the slot of a result and out of a guest's memory.

use wasmtime::component::__internal::{
    CanonicalAbiInfo, ComponentTypes, InterfaceType, LiftContext,
};
use wasmtime::component::Lift as _;
use wasmtime::{Result, ValRaw, bail, format_err};

use super::super::value::Value;
use super::{case, fields, known_flags, mismatch};

/// Out of the one slot of a result.
pub(super) fn lift(types: &ComponentTypes, ty: InterfaceType, slot: &ValRaw) -> Result<Value> {
    if let Some(fields) = fields(types, ty) {
        let values = fields.iter().map(|ty| lift(types, *ty, slot));
        return Ok(Value::Fields(values.collect::<Result<_>>()?));
    }
    match ty {
        InterfaceType::S64 | InterfaceType::U64 | InterfaceType::Float64 => {
            scalar(types, ty, slot.get_u64())
        }
        // A wasm function that returns 32 bits leaves the others as they were.
        _ => scalar(types, ty, slot.get_u32().into()),
    }
}

/// Out of memory: `bytes` are those of the value.
pub(super) fn load(
    cx: &mut LiftContext<'_>,
    types: &ComponentTypes,
    ty: InterfaceType,
    bytes: &[u8],
) -> Result<Value> {
    match ty {
        InterfaceType::String => String::linear_lift_from_memory(cx, ty, bytes).map(Value::String),
        InterfaceType::List(index) => {
            let element = types[index].element;
            let (at, count) = (word(bytes, 0)?, word(bytes, 4)?);
            let abi = types.canonical_abi(&element);
            let elements = within(cx, at, count, abi)?;
            if element == InterfaceType::U8 {
                cx.consume_fuel(count)?;
                return Ok(Value::Bytes(elements.to_vec()));
            }
            cx.consume_fuel_array(count, size_of::<Value>())?;
            let mut values = Vec::with_capacity(count);
            for number in 0..count {
                let bytes = part(elements, number * abi.size32 as usize, abi)?;
                values.push(load(cx, types, element, bytes)?);
            }
            Ok(Value::List(values))
        }
        InterfaceType::Map(index) => {
            let map = &types[index];
            let (at, count) = (word(bytes, 0)?, word(bytes, 4)?);
            let entries = within(cx, at, count, &map.entry_abi)?;
            cx.consume_fuel_array(count, size_of::<(Value, Value)>())?;
            let mut values = Vec::with_capacity(count);
            for number in 0..count {
                let entry = number * map.entry_abi.size32 as usize;
                let key = part(entries, entry, types.canonical_abi(&map.key))?;
                let value = entry + map.value_offset32 as usize;
                let value = part(entries, value, types.canonical_abi(&map.value))?;
                values.push((load(cx, types, map.key, key)?, load(cx, types, map.value, value)?));
            }
            Ok(Value::Map(values))
        }
        InterfaceType::Record(_) | InterfaceType::Tuple(_) => {
            let fields = fields(types, ty).unwrap_or_default();
            cx.consume_fuel_array(fields.len(), size_of::<Value>())?;
            let mut values = Vec::with_capacity(fields.len());
            let mut offset = 0;
            for ty in fields {
                let abi = types.canonical_abi(&ty);
                let bytes = part(bytes, abi.next_field32_size(&mut offset), abi)?;
                values.push(load(cx, types, ty, bytes)?);
            }
            Ok(Value::Fields(values))
        }
        InterfaceType::Variant(_)
        | InterfaceType::Enum(_)
        | InterfaceType::Option(_)
        | InterfaceType::Result(_) => {
            // Every type with cases has a first one, and one layout.
            let (info, _) = case(types, ty, 0)?;
            let number = number(bytes, usize::try_from(info.size.byte_size())?)?;
            let number = u32::try_from(number)?;
            let (info, payload) = case(types, ty, number)?;
            let payload = match payload {
                None => None,
                Some(ty) => {
                    cx.consume_fuel(size_of::<Value>())?;
                    let at = usize::try_from(info.payload_offset32)?;
                    let bytes = part(bytes, at, types.canonical_abi(&ty))?;
                    Some(Box::new(load(cx, types, ty, bytes)?))
                }
            };
            Ok(Value::Case(number, payload))
        }
        _ => scalar(types, ty, number(bytes, bytes.len())?),
    }
}

/// A value of a type that takes one slot, of the bits that are the type's.
fn scalar(types: &ComponentTypes, ty: InterfaceType, bits: u64) -> Result<Value> {
    Ok(match ty {
        InterfaceType::Bool => Value::Bool(bits != 0),
        InterfaceType::S8 => Value::Signed((bits as i8).into()),
        InterfaceType::S16 => Value::Signed((bits as i16).into()),
        InterfaceType::S32 => Value::Signed((bits as i32).into()),
        InterfaceType::S64 => Value::Signed(bits.cast_signed()),
        InterfaceType::U8 => Value::Unsigned((bits as u8).into()),
        InterfaceType::U16 => Value::Unsigned((bits as u16).into()),
        InterfaceType::U32 => Value::Unsigned((bits as u32).into()),
        InterfaceType::U64 => Value::Unsigned(bits),
        InterfaceType::Float32 => Value::F32(f32::from_bits(bits as u32)),
        InterfaceType::Float64 => Value::F64(f64::from_bits(bits)),
        InterfaceType::Char => {
            let char = u32::try_from(bits).ok().and_then(char::from_u32);
            Value::Char(char.ok_or_else(|| format_err!("{bits:#x} is no `char`"))?)
        }
        InterfaceType::Flags(index) => {
            // Bits that the type does not have are to be ignored.
            Value::Flags(bits as u32 & known_flags(types[index].names.len()))
        }
        InterfaceType::Variant(_)
        | InterfaceType::Enum(_)
        | InterfaceType::Option(_)
        | InterfaceType::Result(_) => {
            let number = u32::try_from(bits)?;
            match case(types, ty, number)? {
                (_, None) => Value::Case(number, None),
                // Of no slot, such as an empty record: components have none.
                (_, Some(_)) => return mismatch(ty),
            }
        }
        _ => return mismatch(ty),
    })
}

/// As many values at an address of the guest's memory.
pub(super) fn within<'a>(
    cx: &LiftContext<'a>,
    at: usize,
    count: usize,
    abi: &CanonicalAbiInfo,
) -> Result<&'a [u8]> {
    if !at.is_multiple_of(usize::try_from(abi.align32)?) {
        bail!("pointer not aligned");
    }
    let size = count.checked_mul(usize::try_from(abi.size32)?);
    size.and_then(|size| cx.memory().get(at..)?.get(..size))
        .ok_or_else(|| format_err!("pointer out of bounds of memory"))
}

fn part<'a>(bytes: &'a [u8], at: usize, abi: &CanonicalAbiInfo) -> Result<&'a [u8]> {
    let size = usize::try_from(abi.size32)?;
    bytes
        .get(at..)
        .and_then(|rest| rest.get(..size))
        .ok_or_else(|| format_err!("a value that ends before its type"))
}

/// The first bytes as a number, zeros above.
fn number(bytes: &[u8], size: usize) -> Result<u64> {
    let mut number = [0; 8];
    let (to, from) = (number.get_mut(..size), bytes.get(..size));
    match (to, from) {
        (Some(to), Some(from)) => to.copy_from_slice(from),
        _ => bail!("a value that ends before its type"),
    }
    Ok(u64::from_le_bytes(number))
}

fn word(bytes: &[u8], at: usize) -> Result<usize> {
    Ok(usize::try_from(number(bytes.get(at..).unwrap_or_default(), 4)?)?)
}
