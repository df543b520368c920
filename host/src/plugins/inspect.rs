//! What a file is and needs, for a person who wants to know before serving it.

use wasmtime::component::Component;

use super::engine::Engine;
use super::kind::Kind;
use super::typed;

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
    /// Why no caller can use it, if none can.
    pub not_callable: Option<String>,
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
    let component = engine.compile(bytes)?;
    let wasmtime = engine.wasmtime();
    let kind = Kind::of_component(&component, wasmtime, None);
    let methods = match &kind {
        Ok(Kind::Handler | Kind::Command) => {
            let signature = match &kind {
                Ok(Kind::Command) => "stdin -> stdout",
                _ => "bytes -> bytes",
            };
            [name.to_owned(), format!("{name}.<anything>")]
                .map(|name| Method { name, signature: signature.to_owned(), not_callable: None })
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

fn typed_methods(component: &Component, engine: &wasmtime::Engine, plugin: &str) -> Vec<Method> {
    typed::named(typed::functions(component, engine))
        .map(|(name, function)| Method {
            name: format!("{plugin}.{name}"),
            signature: function.shown,
            not_callable: function.call.err(),
        })
        .collect()
}
