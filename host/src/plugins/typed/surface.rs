//! What a component exports, as functions with names and types of ours.
//!
//! Read once, at load. What cannot be called is part of it, with the reason.

use wasmtime::component::types::{ComponentFunc, ComponentItem, Type as Wasm};
use wasmtime::component::{Component, ComponentExportIndex};

use super::types::{Case, Field, Integer, Signature, Type};

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
    /// Its type as text.
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
pub(in super::super) fn functions(
    component: &Component,
    engine: &wasmtime::Engine,
) -> Vec<Function> {
    let mut found = Vec::new();
    for (name, item) in component.component_type().exports(engine) {
        match item.ty {
            ComponentItem::ComponentFunc(function) if !is_componentize_qjs(name, &function) => {
                let index = component.get_export_index(None, name);
                found.push(Function::new(None, name, &function, index));
            }
            ComponentItem::ComponentInstance(instance) if !is_not_for_callers(name) => {
                let outer = component.get_export_index(None, name);
                for (own, item) in instance.exports(engine) {
                    if let ComponentItem::ComponentFunc(function) = item.ty {
                        let index = outer
                            .as_ref()
                            .and_then(|outer| component.get_export_index(Some(outer), own));
                        found.push(Function::new(Some(name), own, &function, index));
                    }
                }
            }
            _ => {}
        }
    }
    found
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
    ) -> Self {
        let signature = signature(function);
        let call = match (&signature, index) {
            (Err(reason), _) => Err(reason.clone()),
            (Ok(_), _) if name.starts_with('[') => Err("it belongs to a resource".to_owned()),
            (Ok(_), _) if function.async_() => Err("it is an `async` function".to_owned()),
            (Ok(_), None) => Err("the component does not say where it is".to_owned()),
            (Ok(signature), Some(index)) => Ok(Callable { signature: signature.clone(), index }),
        };
        let shown = match &signature {
            Ok(signature) => signature.to_string(),
            Err(_) => outline(function),
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
    pub(super) fn wit_names(&self) -> Vec<String> {
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
    let mut left = MAX_TYPES;
    let params = function
        .params()
        .map(|(name, ty)| {
            let ty = reflect(&ty, &mut left, 0)
                .map_err(|reason| format!("its parameter `{name}` {reason}"))?;
            Ok(Field { name: name.to_owned(), ty })
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

/// A function's type where some of it has no notation of ours.
fn outline(function: &ComponentFunc) -> String {
    let shown = |ty: &Wasm| match reflect(ty, &mut MAX_TYPES.clone(), 0) {
        Ok(ty) => ty.to_string(),
        Err(_) => "…".to_owned(),
    };
    let params: Vec<_> =
        function.params().map(|(name, ty)| format!("{name}: {}", shown(&ty))).collect();
    let result = function.results().next();
    let result = result.map(|ty| format!(" -> {}", shown(&ty))).unwrap_or_default();
    format!("({}){result}", params.join(", "))
}

/// A type as ours. `left` is what of [`MAX_TYPES`] may still be used.
fn reflect(ty: &Wasm, left: &mut usize, depth: usize) -> Result<Type, String> {
    let mut spend = |count: usize| match left.checked_sub(count) {
        Some(rest) => {
            *left = rest;
            Ok(())
        }
        None => Err(format!("is of more than {MAX_TYPES} types")),
    };
    spend(1)?;
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
                    Ok(Field { name: field.name.to_owned(), ty })
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
                    Ok(Case { name: case.name.to_owned(), ty })
                })
                .collect::<Result<_, String>>()?,
        ),
        Wasm::Enum(cases) => {
            spend(cases.names().len())?;
            Type::Enum(cases.names().map(str::to_owned).collect())
        }
        Wasm::Flags(flags) if flags.names().len() > MAX_FLAGS => {
            return Err(format!("has more than {MAX_FLAGS} flags"));
        }
        Wasm::Flags(flags) => Type::Flags(flags.names().map(str::to_owned).collect()),
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

fn inner(ty: &Wasm, left: &mut usize, depth: usize) -> Result<Box<Type>, String> {
    reflect(ty, left, depth + 1).map(Box::new)
}
