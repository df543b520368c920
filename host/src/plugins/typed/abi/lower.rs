//! Values into slots and into a guest's memory.

use wasmtime::component::__internal::wasmtime_environ::component::{
    MAX_FLAT_PARAMS, StringEncoding,
};
use wasmtime::component::__internal::{
    CanonicalAbiInfo, ComponentTypes, InterfaceType, LowerContext,
};
use wasmtime::{Result, ValRaw, bail, format_err};

use super::super::value::Value;
use super::{case, fields, known_flags, mismatch};

/// What a core function is called with.
pub(super) struct Slots {
    pub(super) raw: [ValRaw; MAX_FLAT_PARAMS],
    next: usize,
}

impl Slots {
    pub(super) fn new() -> Self {
        Self { raw: [ValRaw::u64(0); MAX_FLAT_PARAMS], next: 0 }
    }

    /// Whatever the type, a slot holds its bits and zeros above, which is also
    /// what the cases of a variant that share a slot are to be widened to.
    pub(super) fn push(&mut self, bits: u64) -> Result<()> {
        let slot = self.raw.get_mut(self.next).ok_or_else(|| format_err!("no slot is left"))?;
        *slot = ValRaw::u64(bits);
        self.next += 1;
        Ok(())
    }
}

/// Pairs types and values, of which there must be as many.
pub(super) fn each<'v>(
    types: &[InterfaceType],
    values: &'v [Value],
    mut with: impl FnMut(InterfaceType, &'v Value) -> Result<()>,
) -> Result<()> {
    if types.len() != values.len() {
        bail!("{} values for {} types", values.len(), types.len());
    }
    types.iter().zip(values).try_for_each(|(ty, value)| with(*ty, value))
}

/// Into slots.
pub(super) fn lower<T>(
    cx: &mut LowerContext<'_, T>,
    ty: InterfaceType,
    value: &Value,
    slots: &mut Slots,
) -> Result<()> {
    let types = cx.types;
    if let Some(bits) = bits(types, ty, value)? {
        return slots.push(bits);
    }
    if let Some((at, length)) = sequence(cx, ty, value)? {
        slots.push(at.into())?;
        return slots.push(length.into());
    }
    match value {
        Value::Fields(values) => match fields(types, ty) {
            Some(fields) => each(&fields, values, |ty, value| lower(cx, ty, value, slots)),
            None => mismatch(ty),
        },
        Value::Case(number, payload) => {
            let (_, payload_type) = case(types, ty, *number)?;
            let end = types.canonical_abi(&ty).flat_count(MAX_FLAT_PARAMS);
            let end = end.map(|count| slots.next + count);
            slots.push((*number).into())?;
            match (payload_type, payload) {
                (Some(ty), Some(value)) => lower(cx, ty, value, slots)?,
                (None, None) => {}
                _ => return mismatch(ty),
            }
            // Slots that only other cases use stay zero.
            slots.next = end.ok_or_else(|| format_err!("no slot is left"))?;
            Ok(())
        }
        _ => mismatch(ty),
    }
}

/// Into memory, at an address that is aligned for the type.
fn store<T>(
    cx: &mut LowerContext<'_, T>,
    ty: InterfaceType,
    value: &Value,
    at: usize,
) -> Result<()> {
    let types = cx.types;
    if let Some(bits) = bits(types, ty, value)? {
        let size = usize::try_from(types.canonical_abi(&ty).size32)?;
        return write(cx, at, bits.to_le_bytes().get(..size).unwrap_or_default());
    }
    if let Some((address, length)) = sequence(cx, ty, value)? {
        write(cx, at, &address.to_le_bytes())?;
        return write(cx, at + 4, &length.to_le_bytes());
    }
    match value {
        Value::Fields(values) => match fields(types, ty) {
            Some(fields) => store_fields(cx, &fields, values, at),
            None => mismatch(ty),
        },
        Value::Case(number, payload) => {
            let (info, payload_type) = case(types, ty, *number)?;
            let size = usize::try_from(info.size.byte_size())?;
            write(cx, at, number.to_le_bytes().get(..size).unwrap_or_default())?;
            match (payload_type, payload) {
                (Some(ty), Some(value)) => {
                    store(cx, ty, value, at + usize::try_from(info.payload_offset32)?)
                }
                (None, None) => Ok(()),
                _ => mismatch(ty),
            }
        }
        _ => mismatch(ty),
    }
}

pub(super) fn store_fields<T>(
    cx: &mut LowerContext<'_, T>,
    types: &[InterfaceType],
    values: &[Value],
    at: usize,
) -> Result<()> {
    let mut offset = 0;
    each(types, values, |ty, value| {
        let field = cx.types.canonical_abi(&ty).next_field32_size(&mut offset);
        store(cx, ty, value, at + field)
    })
}

/// What is passed as address and length, after it was copied into the guest:
/// texts, lists and maps. `None` for other values.
fn sequence<T>(
    cx: &mut LowerContext<'_, T>,
    ty: InterfaceType,
    value: &Value,
) -> Result<Option<(u32, u32)>> {
    let types = cx.types;
    let (at, length) = match (ty, value) {
        (InterfaceType::String, Value::String(text)) => return string(cx, text).map(Some),
        (InterfaceType::List(index), Value::Bytes(bytes))
            if types[index].element == InterfaceType::U8 =>
        {
            (copy(cx, 1, bytes)?, bytes.len())
        }
        (InterfaceType::List(index), Value::List(values)) => {
            let element = types[index].element;
            let abi = types.canonical_abi(&element);
            let at = allocate(cx, abi, values.len())?;
            for (number, value) in values.iter().enumerate() {
                store(cx, element, value, at + number * abi.size32 as usize)?;
            }
            (at, values.len())
        }
        (InterfaceType::Map(index), Value::Map(entries)) => {
            let map = &types[index];
            let at = allocate(cx, &map.entry_abi, entries.len())?;
            for (number, (key, value)) in entries.iter().enumerate() {
                let entry = at + number * map.entry_abi.size32 as usize;
                store(cx, map.key, key, entry)?;
                store(cx, map.value, value, entry + map.value_offset32 as usize)?;
            }
            (at, entries.len())
        }
        _ => return Ok(None),
    };
    Ok(Some((u32::try_from(at)?, u32::try_from(length)?)))
}

/// A text in the encoding that the guest asked for.
fn string<T>(cx: &mut LowerContext<'_, T>, text: &str) -> Result<(u32, u32)> {
    /// Set in the length of a text that is UTF-16 where it may be Latin-1.
    const UTF16: u32 = 1 << 31;
    let utf16 = || text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
    let (at, length) = match cx.options().string_encoding {
        StringEncoding::Utf8 => (copy(cx, 1, text.as_bytes())?, u32::try_from(text.len())?),
        StringEncoding::Utf16 => {
            let units = utf16();
            (copy(cx, 2, &units)?, u32::try_from(units.len() / 2)?)
        }
        StringEncoding::CompactUtf16 => {
            let latin1: Option<Vec<u8>> =
                text.chars().map(|char| u8::try_from(u32::from(char)).ok()).collect();
            match latin1 {
                Some(bytes) => (copy(cx, 2, &bytes)?, u32::try_from(bytes.len())?),
                None => {
                    let units = utf16();
                    (copy(cx, 2, &units)?, u32::try_from(units.len() / 2)? | UTF16)
                }
            }
        }
    };
    Ok((u32::try_from(at)?, length))
}

fn allocate<T>(
    cx: &mut LowerContext<'_, T>,
    element: &CanonicalAbiInfo,
    count: usize,
) -> Result<usize> {
    let size = count
        .checked_mul(usize::try_from(element.size32)?)
        .ok_or_else(|| format_err!("a list that is larger than any memory"))?;
    cx.realloc(0, 0, element.align32, size)
}

fn copy<T>(cx: &mut LowerContext<'_, T>, align: u32, bytes: &[u8]) -> Result<usize> {
    let at = cx.realloc(0, 0, align, bytes.len())?;
    write(cx, at, bytes)?;
    Ok(at)
}

fn write<T>(cx: &mut LowerContext<'_, T>, at: usize, bytes: &[u8]) -> Result<()> {
    let room = cx.as_slice_mut().get_mut(at..).and_then(|rest| rest.get_mut(..bytes.len()));
    room.ok_or_else(|| format_err!("pointer out of bounds of memory"))?.copy_from_slice(bytes);
    Ok(())
}

/// The bits of what takes one slot whatever its value, and zeros above.
/// `None` for what takes none or several.
fn bits(types: &ComponentTypes, ty: InterfaceType, value: &Value) -> Result<Option<u64>> {
    let narrow = |number: i64| u64::from(number as i32 as u32);
    Ok(Some(match (ty, value) {
        (InterfaceType::Bool, Value::Bool(bool)) => u64::from(*bool),
        (InterfaceType::S8, Value::Signed(number)) => narrow(i8::try_from(*number)?.into()),
        (InterfaceType::S16, Value::Signed(number)) => narrow(i16::try_from(*number)?.into()),
        (InterfaceType::S32, Value::Signed(number)) => narrow(i32::try_from(*number)?.into()),
        (InterfaceType::S64, Value::Signed(number)) => number.cast_unsigned(),
        (InterfaceType::U8, Value::Unsigned(number)) => u8::try_from(*number)?.into(),
        (InterfaceType::U16, Value::Unsigned(number)) => u16::try_from(*number)?.into(),
        (InterfaceType::U32, Value::Unsigned(number)) => u32::try_from(*number)?.into(),
        (InterfaceType::U64, Value::Unsigned(number)) => *number,
        (InterfaceType::Float32, Value::F32(number)) => number.to_bits().into(),
        (InterfaceType::Float64, Value::F64(number)) => number.to_bits(),
        (InterfaceType::Char, Value::Char(char)) => u32::from(*char).into(),
        (InterfaceType::Flags(index), Value::Flags(bits)) => {
            let known = known_flags(types[index].names.len());
            if bits & !known != 0 {
                bail!("a flag that the type does not have");
            }
            (*bits).into()
        }
        _ => return Ok(None),
    }))
}
