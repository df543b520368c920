//! What a component exports, as functions with names and types of ours.
//!
//! Read once, at load. What cannot be called is part of it, with the reason.
//! A component is somebody else's, and its types can be far larger than its
//! file: every copy of a name is charged before it is made.

use std::fmt::{self, Write as _};
use std::ops::ControlFlow;

use anyhow::bail;
use wasmtime::component::types::{ComponentFunc, ComponentItem, Type as Wasm};
use wasmtime::component::{Component, ComponentExportIndex};

use super::types::{Case, Field, Integer, Signature, Type};
use crate::message::truncate;

/// Most functions of one plugin, callable or not: room for any interface that
/// a person wrote, and a bound on what is kept of one that nobody did.
const MAX_FUNCTIONS: usize = 1_000;

/// Bytes of the types of all of a plugin's functions, with the names in them. A
/// thousand functions of a hundred types each, with ordinary names, take half.
const MAX_BYTES: usize = 16 << 20;

/// Bytes of the names of a plugin's functions, each with its interface's. All the
/// names that a function can be called by take some eight times that.
const MAX_NAMES: usize = 1 << 20;

/// Longest text of a function's type in bytes: more than a person reads.
const MAX_SHOWN: usize = 4096;

/// Longest reason why a function cannot be called in bytes: it may name a
/// parameter, and names may have 100,000 bytes.
const MAX_REASON: usize = 256;

/// Most types within one function's type, every use counted: WIT types do not
/// recurse, but a few of them can stand for billions.
const MAX_TYPES: usize = 10_000;

/// How deep the types of a function may be nested; as deep as any JSON reader
/// goes, with room for the envelope.
const MAX_DEPTH: usize = 64;

/// Most flags of a type; the component model's own limit.
const MAX_FLAGS: usize = 32;

/// One exported function.
#[derive(Debug)]
pub(in super::super) struct Function {
    /// As the component names it, such as `acme:math/math@1.2.0`; `None` for a
    /// function of the world itself.
    pub(super) interface: Option<String>,
    pub(super) name: String,
    /// Its type as text, from `func` on.
    pub(in super::super) shown: String,
    /// How to call it, or why it cannot be called.
    pub(in super::super) call: Result<Callable, String>,
}

/// What is needed to call a function.
#[derive(Debug)]
pub(in super::super) struct Callable {
    pub(super) signature: Signature,
    pub(super) index: ComponentExportIndex,
}

/// The functions that a component means for others: not those of WASI and of
/// `rpchost`, nor what toolchains add for themselves.
///
/// # Errors
///
/// When there are too many, or their names are too long.
pub(in super::super) fn functions(
    component: &Component,
    engine: &wasmtime::Engine,
) -> anyhow::Result<Vec<Function>> {
    let mut found = Vec::new();
    let (mut room, mut names) = (Room(MAX_BYTES), Room(MAX_NAMES));
    let too_much = visit(component, engine, &mut |interface, name, function| {
        if found.len() == MAX_FUNCTIONS {
            return ControlFlow::Break(format!(
                "it exports more than {MAX_FUNCTIONS} functions, the limit"
            ));
        }
        if !names.take(name.len().saturating_add(interface.map_or(0, str::len))) {
            return ControlFlow::Break(format!(
                "the names of its functions have more than {}, the limit",
                shown_size(MAX_NAMES)
            ));
        }
        let index = match interface {
            None => component.get_export_index(None, name),
            Some(interface) => component
                .get_export_index(None, interface)
                .and_then(|outer| component.get_export_index(Some(&outer), name)),
        };
        found.push(Function::new(interface, name, function, index, &mut room));
        ControlFlow::Continue(())
    });
    match too_much {
        ControlFlow::Break(reason) => bail!(reason),
        ControlFlow::Continue(()) => Ok(found),
    }
}

/// Whether there is any.
pub(in super::super) fn any(component: &Component, engine: &wasmtime::Engine) -> bool {
    visit(component, engine, &mut |_, _, _| ControlFlow::Break(())).is_break()
}

/// Shows each function, with the name of its interface and its own.
fn visit<B>(
    component: &Component,
    engine: &wasmtime::Engine,
    each: &mut impl FnMut(Option<&str>, &str, &ComponentFunc) -> ControlFlow<B>,
) -> ControlFlow<B> {
    for (name, item) in component.component_type().exports(engine) {
        match item.ty {
            ComponentItem::ComponentFunc(function) if !is_componentize_qjs(name, &function) => {
                each(None, name, &function)?;
            }
            ComponentItem::ComponentInstance(instance) if !is_not_for_callers(name) => {
                for (own, item) in instance.exports(engine) {
                    if let ComponentItem::ComponentFunc(function) = item.ty {
                        each(Some(name), own, &function)?;
                    }
                }
            }
            _ => {}
        }
    }
    ControlFlow::Continue(())
}

/// Bytes that are left.
struct Room(usize);

impl Room {
    /// Whether there were as many; they are taken then.
    fn take(&mut self, bytes: usize) -> bool {
        self.0.checked_sub(bytes).map(|rest| self.0 = rest).is_some()
    }
}

fn shown_size(bytes: usize) -> impl fmt::Display {
    bytesize::ByteSize(bytes as u64).display().iec()
}

/// What of a function's types may still be used.
struct Left<'a> {
    /// Of [`MAX_TYPES`].
    types: usize,
    room: &'a mut Room,
}

impl Left<'_> {
    fn of(room: &mut Room) -> Left<'_> {
        Left { types: MAX_TYPES, room }
    }

    /// Charges a type, or several.
    fn types(&mut self, count: usize) -> Result<(), String> {
        match self.types.checked_sub(count) {
            Some(rest) => self.types = rest,
            None => return Err(format!("is of more than {MAX_TYPES} types")),
        }
        self.bytes(count.saturating_mul(size_of::<Case>()))
    }

    /// Charges a name and copies it.
    fn name(&mut self, name: &str) -> Result<String, String> {
        self.bytes(name.len())?;
        Ok(name.to_owned())
    }

    fn bytes(&mut self, bytes: usize) -> Result<(), String> {
        if self.room.take(bytes) {
            return Ok(());
        }
        Err(format!(
            "is too large: the types of a plugin's functions may take {} in all",
            shown_size(MAX_BYTES)
        ))
    }
}

/// WASI's and our own interfaces, and the instance that componentize-py adds.
fn is_not_for_callers(interface: &str) -> bool {
    interface.starts_with("wasi:") || interface.starts_with("rpchost:") || interface == "exports"
}

/// The function with which componentize-qjs loads a script.
fn is_componentize_qjs(name: &str, function: &ComponentFunc) -> bool {
    name == "init" && function.params().map(|(name, _)| name).take(2).eq(["shim", "script"])
}

impl Function {
    fn new(
        interface: Option<&str>,
        name: &str,
        function: &ComponentFunc,
        index: Option<ComponentExportIndex>,
        room: &mut Room,
    ) -> Self {
        let signature = typed(function, room);
        let begin = if function.async_() { "async func" } else { "func" };
        let shown = match &signature {
            Ok(signature) => format!("{begin}{}", shown(signature)),
            Err(_) => format!("{begin}{}", outline(function, room)),
        };
        let call = match (signature, index) {
            (Err(mut reason), _) => {
                truncate(&mut reason, MAX_REASON);
                Err(reason)
            }
            (Ok(_), _) if name.starts_with('[') => Err("it belongs to a resource".to_owned()),
            (Ok(_), _) if function.async_() => Err("it is an `async` function".to_owned()),
            (Ok(_), None) => Err("the component does not say where it is".to_owned()),
            (Ok(signature), Some(index)) => Ok(Callable { signature, index }),
        };
        Self { interface: interface.map(str::to_owned), name: name.to_owned(), shown, call }
    }

    /// The interface without package and version: `math`.
    pub(super) fn short_interface(&self) -> Option<&str> {
        let (name, _) = split_version(self.interface.as_deref()?);
        Some(name.rsplit_once('/').map_or(name, |(_, short)| short))
    }

    /// The name as WIT has it, with and without the version:
    /// `acme:math/math.fib@1.2.0`, `acme:math/math.fib`.
    pub(in super::super) fn wit_names(&self) -> Vec<String> {
        let Some(interface) = self.interface.as_deref().filter(|name| name.contains('/')) else {
            return Vec::new();
        };
        let (name, version) = split_version(interface);
        let plain = format!("{name}.{}", self.name);
        match version {
            Some(version) => vec![format!("{plain}@{version}"), plain],
            None => vec![plain],
        }
    }
}

fn split_version(interface: &str) -> (&str, Option<&str>) {
    match interface.split_once('@') {
        Some((name, version)) => (name, Some(version)),
        None => (interface, None),
    }
}

/// A function's type, or why no caller can use it.
pub(in super::super) fn signature(function: &ComponentFunc) -> Result<Signature, String> {
    typed(function, &mut Room(MAX_BYTES))
}

fn typed(function: &ComponentFunc, room: &mut Room) -> Result<Signature, String> {
    let mut left = Left::of(room);
    let params = function
        .params()
        .map(|(name, ty)| {
            let ty = reflect(&ty, &mut left, 0)
                .map_err(|reason| format!("its parameter `{}` {reason}", short(name)))?;
            let name = left.name(name).map_err(|reason| format!("its type {reason}"))?;
            Ok(Field { name, ty })
        })
        .collect::<Result<_, String>>()?;
    let result = function
        .results()
        .next()
        .map(|ty| reflect(&ty, &mut left, 0))
        .transpose()
        .map_err(|reason| format!("its result {reason}"))?;
    Ok(Signature { params, result })
}

/// A name, cut so that there is room for what is said of it.
fn short(name: &str) -> String {
    let mut name = name.to_owned();
    truncate(&mut name, MAX_REASON / 4);
    name
}

/// A function's type as text, of at most [`MAX_SHOWN`] bytes.
pub(in super::super) fn shown(signature: &Signature) -> String {
    let mut text = Shown::default();
    // Ends where the text does.
    let _cut = write!(text, "{signature}");
    text.0
}

/// A function's type where some of it has no notation of ours.
fn outline(function: &ComponentFunc, room: &mut Room) -> String {
    let mut text = Shown::default();
    let _cut = write_outline(&mut text, function, room);
    text.0
}

fn write_outline(text: &mut Shown, function: &ComponentFunc, room: &mut Room) -> fmt::Result {
    let mut plain = |text: &mut Shown, ty: &Wasm| match reflect(ty, &mut Left::of(room), 0) {
        Ok(ty) => write!(text, "{ty}"),
        Err(_) => write!(text, "…"),
    };
    let mut part = |text: &mut Shown, ty: &Wasm| {
        let (name, of) = match ty {
            Wasm::Stream(stream) => ("stream", stream.ty()),
            Wasm::Future(future) => ("future", future.ty()),
            ty => return plain(text, ty),
        };
        write!(text, "{name}")?;
        let Some(of) = of else { return Ok(()) };
        write!(text, "<")?;
        plain(text, &of)?;
        write!(text, ">")
    };
    write!(text, "(")?;
    for (index, (name, ty)) in function.params().enumerate() {
        let comma = if index > 0 { ", " } else { "" };
        write!(text, "{comma}{name}: ")?;
        part(text, &ty)?;
    }
    write!(text, ")")?;
    if let Some(ty) = function.results().next() {
        write!(text, " -> ")?;
        part(text, &ty)?;
    }
    Ok(())
}

/// A text that takes no more than [`MAX_SHOWN`] bytes.
#[derive(Default)]
struct Shown(String);

impl fmt::Write for Shown {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let full = self.0.len().saturating_add(part.len()) > MAX_SHOWN;
        let room = MAX_SHOWN.saturating_sub(self.0.len());
        let fits = part.get(..part.floor_char_boundary(room)).unwrap_or_default();
        self.0.push_str(fits);
        if full {
            self.0.push('…');
            return Err(fmt::Error);
        }
        Ok(())
    }
}

/// A type as ours.
fn reflect(ty: &Wasm, left: &mut Left<'_>, depth: usize) -> Result<Type, String> {
    left.types(1)?;
    if depth > MAX_DEPTH {
        return Err(format!("is nested more than {MAX_DEPTH} deep"));
    }
    Ok(match ty {
        Wasm::Bool => Type::Bool,
        Wasm::S8 => Type::Integer(Integer::S8),
        Wasm::U8 => Type::Integer(Integer::U8),
        Wasm::S16 => Type::Integer(Integer::S16),
        Wasm::U16 => Type::Integer(Integer::U16),
        Wasm::S32 => Type::Integer(Integer::S32),
        Wasm::U32 => Type::Integer(Integer::U32),
        Wasm::S64 => Type::Integer(Integer::S64),
        Wasm::U64 => Type::Integer(Integer::U64),
        Wasm::Float32 => Type::F32,
        Wasm::Float64 => Type::F64,
        Wasm::Char => Type::Char,
        Wasm::String => Type::String,
        Wasm::List(list) if list.ty() == Wasm::U8 => Type::Bytes,
        Wasm::List(list) => Type::List(inner(&list.ty(), left, depth)?),
        Wasm::Map(map) => {
            Type::Map(inner(&map.key(), left, depth)?, inner(&map.value(), left, depth)?)
        }
        Wasm::Record(record) => Type::Record(
            record
                .fields()
                .map(|field| {
                    let ty = reflect(&field.ty, left, depth + 1)?;
                    Ok(Field { name: left.name(field.name)?, ty })
                })
                .collect::<Result<_, String>>()?,
        ),
        Wasm::Tuple(tuple) => Type::Tuple(
            tuple.types().map(|ty| reflect(&ty, left, depth + 1)).collect::<Result<_, String>>()?,
        ),
        Wasm::Variant(variant) => Type::Variant(
            variant
                .cases()
                .map(|case| {
                    let ty = case.ty.map(|ty| reflect(&ty, left, depth + 1)).transpose()?;
                    Ok(Case { name: left.name(case.name)?, ty })
                })
                .collect::<Result<_, String>>()?,
        ),
        Wasm::Enum(cases) => {
            left.types(cases.names().len())?;
            Type::Enum(cases.names().map(|name| left.name(name)).collect::<Result<_, _>>()?)
        }
        Wasm::Flags(flags) if flags.names().len() > MAX_FLAGS => {
            return Err(format!("has more than {MAX_FLAGS} flags"));
        }
        Wasm::Flags(flags) => {
            Type::Flags(flags.names().map(|name| left.name(name)).collect::<Result<_, _>>()?)
        }
        Wasm::Option(option) => Type::Option(inner(&option.ty(), left, depth)?),
        Wasm::Result(result) => {
            let mut payload = |ty: Option<Wasm>| ty.map(|ty| inner(&ty, left, depth)).transpose();
            Type::Result(payload(result.ok())?, payload(result.err())?)
        }
        Wasm::Own(_) | Wasm::Borrow(_) => return Err("is a resource, or holds one".to_owned()),
        Wasm::Future(_) => return Err("is a future, or holds one".to_owned()),
        Wasm::Stream(_) => return Err("is a stream, or holds one".to_owned()),
        Wasm::ErrorContext => return Err("is an error-context, or holds one".to_owned()),
        Wasm::FixedLengthList(_) => {
            return Err("is a list of fixed length, or holds one".to_owned());
        }
    })
}

fn inner(ty: &Wasm, left: &mut Left<'_>, depth: usize) -> Result<Box<Type>, String> {
    reflect(ty, left, depth + 1).map(Box::new)
}
