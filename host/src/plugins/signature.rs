//! Types of functions in the words of WIT.
//!
//! For people, and to tell at load whether a handler is what we would call:
//! wasmtime itself finds out at the first call.

use anyhow::bail;
use wasmtime::component::Component;
use wasmtime::component::types::{ComponentFunc, ComponentItem, Type};

/// `handle` of `rpchost:rpc/handler@0.1`, as [`of`] writes it.
const HANDLE: &str = "(method: string, request: {body: list<u8>, content-type: option<string>, \
     headers: list<tuple<string, string>>}) -> result<{body: list<u8>, content-type: \
     option<string>, headers: list<tuple<string, string>>}, {code: s32, message: string, data: \
     option<string>, retryable: bool}>";

/// Checks that the interface `rpchost:rpc/handler` has the type we call.
///
/// # Errors
///
/// Shows both types.
pub(super) fn check_handler(
    component: &Component,
    engine: &wasmtime::Engine,
) -> anyhow::Result<()> {
    let ty = component.component_type();
    let handlers = ty.exports(engine).filter(|(name, _)| name.starts_with(super::kind::HANDLER));
    for (name, item) in handlers {
        let ComponentItem::ComponentInstance(instance) = item.ty else {
            bail!("its export `{name}` is no interface");
        };
        match instance.exports(engine).find(|(name, _)| *name == "handle").map(|(_, item)| item.ty)
        {
            Some(ComponentItem::ComponentFunc(function)) => {
                let found = of(&function);
                if found != HANDLE {
                    bail!(
                        "its `handle` has the type `{found}`, and this host calls `{HANDLE}`; \
                         build it with the WIT files of this version"
                    );
                }
            }
            _ => bail!("its interface `{name}` has no function `handle`"),
        }
    }
    Ok(())
}

/// A function's type.
pub(super) fn of(function: &ComponentFunc) -> String {
    let params: Vec<_> =
        function.params().map(|(name, ty)| format!("{name}: {}", type_name(&ty))).collect();
    let results: Vec<_> = function.results().map(|ty| type_name(&ty)).collect();
    let arrow = if results.is_empty() { "" } else { " -> " };
    format!("({}){arrow}{}", params.join(", "), results.join(", "))
}

/// A type in the words of WIT; records and the like by their shape, because
/// components do not keep all names.
fn type_name(ty: &Type) -> String {
    let optional = |ty: Option<Type>| ty.map_or_else(|| "_".to_owned(), |ty| type_name(&ty));
    match ty {
        Type::Bool => "bool".to_owned(),
        Type::S8 => "s8".to_owned(),
        Type::U8 => "u8".to_owned(),
        Type::S16 => "s16".to_owned(),
        Type::U16 => "u16".to_owned(),
        Type::S32 => "s32".to_owned(),
        Type::U32 => "u32".to_owned(),
        Type::S64 => "s64".to_owned(),
        Type::U64 => "u64".to_owned(),
        Type::Float32 => "f32".to_owned(),
        Type::Float64 => "f64".to_owned(),
        Type::Char => "char".to_owned(),
        Type::String => "string".to_owned(),
        Type::List(list) => format!("list<{}>", type_name(&list.ty())),
        Type::Option(option) => format!("option<{}>", type_name(&option.ty())),
        Type::Result(result) => {
            format!("result<{}, {}>", optional(result.ok()), optional(result.err()))
        }
        Type::Tuple(tuple) => {
            let items: Vec<_> = tuple.types().map(|ty| type_name(&ty)).collect();
            format!("tuple<{}>", items.join(", "))
        }
        Type::Record(record) => {
            let fields: Vec<_> = record
                .fields()
                .map(|field| format!("{}: {}", field.name, type_name(&field.ty)))
                .collect();
            format!("{{{}}}", fields.join(", "))
        }
        Type::Variant(variant) => {
            let cases: Vec<_> = variant
                .cases()
                .map(|case| match case.ty {
                    Some(ty) => format!("{}({})", case.name, type_name(&ty)),
                    None => case.name.to_owned(),
                })
                .collect();
            cases.join(" | ")
        }
        Type::Enum(cases) => cases.names().collect::<Vec<_>>().join(" | "),
        Type::Flags(flags) => format!("flags {{{}}}", flags.names().collect::<Vec<_>>().join(", ")),
        Type::Own(_) | Type::Borrow(_) => "resource".to_owned(),
        _ => "not callable".to_owned(),
    }
}
