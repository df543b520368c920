//! What a file is and needs, for a person who wants to know before serving it.

use anyhow::Context as _;
use wasmtime::component::Component;
use wasmtime::component::types::{ComponentFunc, ComponentItem, Type};

use super::engine::Engine;
use super::kind::Kind;

/// What was found out about a component.
#[derive(Debug)]
pub struct Inspection {
    /// Its kind, or why it has none.
    pub kind: Result<Kind, String>,
    /// Methods with their signatures.
    pub methods: Vec<Method>,
    /// Imports, in the component's order.
    pub imports: Vec<Import>,
}

/// One method.
#[derive(Debug)]
pub struct Method {
    /// As callers name it.
    pub name: String,
    /// In the words of WIT.
    pub signature: String,
}

/// One import.
#[derive(Debug)]
pub struct Import {
    /// As the component names it.
    pub name: String,
    /// What the host does about it.
    pub offer: Offer,
}

/// What a guest gets of an import.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// It works.
    Granted,
    /// It is linked, and empty or refused: no file, socket, variable, argument.
    Nothing,
    /// The component does not load because of it.
    Unknown,
}

/// Looks at a component under the name it would be served as.
///
/// # Errors
///
/// When the bytes are no component at all.
pub fn inspect(engine: &Engine, name: &str, bytes: &[u8]) -> anyhow::Result<Inspection> {
    Kind::of_bytes(bytes)?;
    let component = engine.compile(bytes).context("it is not a valid component")?;
    let wasmtime = engine.wasmtime();
    let kind = Kind::of_component(&component, wasmtime, None);
    let methods = match &kind {
        Ok(Kind::Handler | Kind::Command) => {
            let signature = match &kind {
                Ok(Kind::Command) => "stdin -> stdout",
                _ => "bytes -> bytes",
            };
            [name.to_owned(), format!("{name}.<anything>")]
                .map(|name| Method { name, signature: signature.to_owned() })
                .into()
        }
        Ok(Kind::Typed) => typed_methods(&component, wasmtime, name),
        Err(_) => Vec::new(),
    };
    let imports = component
        .component_type()
        .imports(wasmtime)
        .map(|(import, _)| Import { name: import.to_owned(), offer: offer(import) })
        .collect();
    Ok(Inspection { kind: kind.map_err(|error| format!("{error:#}")), methods, imports })
}

fn offer(import: &str) -> Offer {
    const EMPTY: [&str; 4] =
        ["wasi:filesystem/", "wasi:sockets/", "wasi:cli/environment@", "wasi:cli/stdin@"];
    const WORKING: [&str; 4] = ["wasi:cli/", "wasi:io/", "wasi:clocks/", "wasi:random/"];
    let stable = import.contains("@0.2.");
    let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| import.starts_with(prefix));
    if import.starts_with("rpchost:rpc/call-context@0.1.")
        || import.starts_with("rpchost:rpc/rpc-types@0.1.")
    {
        Offer::Granted
    } else if stable && begins(&EMPTY) {
        Offer::Nothing
    } else if stable && begins(&WORKING) {
        Offer::Granted
    } else {
        Offer::Unknown
    }
}

fn typed_methods(component: &Component, engine: &wasmtime::Engine, name: &str) -> Vec<Method> {
    let mut methods = Vec::new();
    let ty = component.component_type();
    for (export, item) in ty.exports(engine) {
        if export.starts_with("wasi:") || export.starts_with("rpchost:") {
            continue;
        }
        match item.ty {
            ComponentItem::ComponentFunc(function) => {
                methods.push(method(name, export, &function));
            }
            ComponentItem::ComponentInstance(instance) => {
                for (function_name, item) in instance.exports(engine) {
                    if let ComponentItem::ComponentFunc(function) = item.ty {
                        methods.push(method(name, function_name, &function));
                    }
                }
            }
            _ => {}
        }
    }
    methods
}

fn method(plugin: &str, function_name: &str, function: &ComponentFunc) -> Method {
    let params: Vec<_> =
        function.params().map(|(param, ty)| format!("{param}: {}", type_name(&ty))).collect();
    let results: Vec<_> = function.results().map(|ty| type_name(&ty)).collect();
    let arrow = if results.is_empty() { "" } else { " -> " };
    Method {
        name: format!("{plugin}.{function_name}"),
        signature: format!("({}){arrow}{}", params.join(", "), results.join(", ")),
    }
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
