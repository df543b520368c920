//! Values into a guest's memory and out of it: the canonical ABI.
//!
//! wasmtime does this for types that are known when the host is built, and for
//! its own `Val`, which takes forty bytes and thirty nanoseconds for each byte
//! of a `list<u8>`. This file does it for a type that is known at load, with a
//! `list<u8>` copied as a whole. Layouts, memory and `cabi_realloc` stay
//! wasmtime's: what is here decides where which value goes.
//!
//! # Why the `unsafe impl`s hold
//!
//! There is no unsafe block, and no access to memory that is not checked. What
//! the traits want to be promised (wasmtime 48, `component::ComponentType`):
//!
//! - *`Lower` is a sequence of `ValRaw` large enough for the call.* That of
//!   [`Arguments`] is an array of as many as the canonical ABI ever passes, as
//!   in wasmtime's own `Func::call`. A result is at most one value, or the
//!   address of the rest.
//! - *What the callee reads is initialized.* [`Slots`] begins as zeros and is
//!   written as a whole.
//! - *Sizes and alignments are right.* They are asked of wasmtime for the real
//!   type; those of the Rust types are not used, because wasmtime uses them only
//!   for what does not fit into `Lower`.
//! - *No value can pass for a pointer of the host.* The canonical ABI of values
//!   has numbers only; handles and references are refused.
//!
//! A value that does not match the type is an error like any other.

mod lift;
mod lower;

use std::mem::MaybeUninit;

use wasmtime::component::__internal::wasmtime_environ::component::{MAX_FLAT_PARAMS, VariantInfo};
use wasmtime::component::__internal::{
    CanonicalAbiInfo, ComponentTypes, InstanceType, InterfaceType, LiftContext, LowerContext,
};
use wasmtime::component::{ComponentNamedList, ComponentType, Lift, Lower};
use wasmtime::{Result, ValRaw, bail, format_err};

use super::value::Value;
use lift::{lift, load, within};
use lower::{Slots, each, lower, store_fields};

/// The arguments of any function.
#[derive(Debug)]
pub(super) struct Arguments(pub(super) Vec<Value>);

/// The result of any function.
#[derive(Debug)]
pub(super) struct Returned(pub(super) Option<Value>);

#[expect(unsafe_code, reason = "the proof is at the top of the file")]
unsafe impl ComponentType for Arguments {
    type Lower = [ValRaw; MAX_FLAT_PARAMS];
    const ABI: CanonicalAbiInfo = CanonicalAbiInfo::ZERO;

    fn typecheck(ty: &InterfaceType, _: &InstanceType<'_>) -> Result<()> {
        is_tuple(ty)
    }
}

#[expect(unsafe_code, reason = "the proof is at the top of the file")]
unsafe impl ComponentNamedList for Arguments {}

#[expect(unsafe_code, reason = "the proof is at the top of the file")]
unsafe impl Lower for Arguments {
    fn linear_lower_to_flat<T>(
        &self,
        cx: &mut LowerContext<'_, T>,
        ty: InterfaceType,
        dst: &mut MaybeUninit<Self::Lower>,
    ) -> Result<()> {
        let mut slots = Slots::new();
        let types = cx.types;
        let InterfaceType::Tuple(index) = ty else { bail!("parameters are a tuple") };
        let params = &types[index];
        if params.abi.flat_count(MAX_FLAT_PARAMS).is_some() {
            each(&params.types, &self.0, |ty, value| lower(cx, ty, value, &mut slots))?;
        } else {
            let size = usize::try_from(params.abi.size32)?;
            let at = cx.realloc(0, 0, params.abi.align32, size)?;
            store_fields(cx, &params.types, &self.0, at)?;
            slots.push(at as u64)?;
        }
        dst.write(slots.raw);
        Ok(())
    }

    fn linear_lower_to_memory<T>(
        &self,
        _: &mut LowerContext<'_, T>,
        _: InterfaceType,
        _: usize,
    ) -> Result<()> {
        bail!("arguments are not a part of other values")
    }
}

#[expect(unsafe_code, reason = "the proof is at the top of the file")]
unsafe impl ComponentType for Returned {
    type Lower = ValRaw;
    const ABI: CanonicalAbiInfo = CanonicalAbiInfo::ZERO;

    fn typecheck(ty: &InterfaceType, _: &InstanceType<'_>) -> Result<()> {
        is_tuple(ty)
    }
}

#[expect(unsafe_code, reason = "the proof is at the top of the file")]
unsafe impl ComponentNamedList for Returned {}

#[expect(unsafe_code, reason = "the proof is at the top of the file")]
unsafe impl Lift for Returned {
    fn linear_lift_from_flat(
        cx: &mut LiftContext<'_>,
        ty: InterfaceType,
        src: &Self::Lower,
    ) -> Result<Self> {
        let types: &ComponentTypes = cx.types;
        let InterfaceType::Tuple(index) = ty else { bail!("results are a tuple") };
        let results = &types[index];
        let ty = match *results.types {
            [] => return Ok(Self(None)),
            [ty] => ty,
            _ => bail!("a function has one result at most"),
        };
        if results.abi.flat_count(1).is_some() {
            return Ok(Self(Some(lift(types, ty, src)?)));
        }
        let at = usize::try_from(src.get_u32())?;
        let bytes = within(cx, at, 1, &results.abi)?;
        Ok(Self(Some(load(cx, types, ty, bytes)?)))
    }

    fn linear_lift_from_memory(
        _: &mut LiftContext<'_>,
        _: InterfaceType,
        _: &[u8],
    ) -> Result<Self> {
        bail!("a result is not a part of other values")
    }
}

fn is_tuple(ty: &InterfaceType) -> Result<()> {
    match ty {
        InterfaceType::Tuple(_) => Ok(()),
        _ => bail!("parameters and results are tuples"),
    }
}

/// The bits of as many flags.
fn known_flags(count: usize) -> u32 {
    u32::MAX.checked_shr(32u32.saturating_sub(count as u32)).unwrap_or(0)
}

/// The layout of a type's case, and the type of what it carries.
fn case(
    types: &ComponentTypes,
    ty: InterfaceType,
    case: u32,
) -> Result<(&VariantInfo, Option<InterfaceType>)> {
    let number = usize::try_from(case)?;
    let found = match ty {
        InterfaceType::Variant(index) => {
            let variant = &types[index];
            variant.cases.get_index(number).map(|(_, payload)| (&variant.info, *payload))
        }
        InterfaceType::Enum(index) => {
            let cases = &types[index];
            (number < cases.names.len()).then_some((&cases.info, None))
        }
        InterfaceType::Option(index) => {
            let option = &types[index];
            let payloads = [None, Some(option.ty)];
            payloads.get(number).map(|payload| (&option.info, *payload))
        }
        InterfaceType::Result(index) => {
            let result = &types[index];
            [result.ok, result.err].get(number).map(|payload| (&result.info, *payload))
        }
        _ => bail!("a type without cases"),
    };
    found.ok_or_else(|| format_err!("invalid variant discriminant {case}"))
}

/// The types of a record's or tuple's fields.
fn fields(types: &ComponentTypes, ty: InterfaceType) -> Option<Vec<InterfaceType>> {
    match ty {
        InterfaceType::Record(index) => {
            Some(types[index].fields.iter().map(|field| field.ty).collect())
        }
        InterfaceType::Tuple(index) => Some(types[index].types.to_vec()),
        _ => None,
    }
}

fn mismatch<T>(ty: InterfaceType) -> Result<T> {
    bail!("a value that is not of the type {ty:?}")
}
