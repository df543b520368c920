//! What a file is and needs, for a person who wants to know before serving it.

use std::path::Path;

use anyhow::Context as _;
use wasmtime::Module;
use wasmtime::component::Component;

use super::compile::Code;
use super::core_module::Source;
use super::engine::Engine;
use super::kind::Kind;
use super::{scan, typed};

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

/// Looks at a file under the name it would be served as.
///
/// # Errors
///
/// When it cannot be read, or is nothing that could be a plugin.
pub fn inspect_file(engine: &Engine, name: &str, path: &Path) -> anyhow::Result<Inspection> {
    let wasm = std::fs::read(path).context("it cannot be read")?;
    let wit = scan::read_wit_beside(path, &wasm)?;
    inspect(engine, name, Source { wasm: &wasm, wit: wit.as_deref() })
}

/// Looks at a plugin under the name it would be served as.
///
/// # Errors
///
/// When the bytes are nothing that could be a plugin.
pub fn inspect(engine: &Engine, name: &str, source: Source<'_>) -> anyhow::Result<Inspection> {
    Kind::of_bytes(source.wasm)?;
    let component = match engine.compile(source)? {
        Code::Component(component) => component,
        Code::Program(module) => return Ok(program(name, &module)),
    };
    let wasmtime = engine.wasmtime();
    let kind = Kind::of_component(&component, wasmtime, None);
    let methods = match &kind {
        Ok(Kind::Handler) => any_method(name, "bytes -> bytes"),
        Ok(Kind::Command) => any_method(name, PROGRAM),
        Ok(Kind::Typed) => typed_methods(&component, wasmtime, name)?,
        Err(_) => Vec::new(),
    };
    let imports = component
        .component_type()
        .imports(wasmtime)
        .map(|(import, _)| Import {
            name: import.to_owned(),
            offer: match &kind {
                Ok(Kind::Command) if is_for_programs(import) => Offer::Granted,
                _ => offer(import),
            },
        })
        .collect();
    Ok(Inspection { kind: kind.map_err(|error| format!("{error:#}")), methods, imports })
}

/// How a program is called.
const PROGRAM: &str = "stdin -> stdout";

/// A core module that runs as it is.
fn program(name: &str, module: &Module) -> Inspection {
    let offer = |import: wasmtime::ImportType<'_>| {
        let nothing = ["path_", "sock_"].iter().any(|begin| import.name().starts_with(begin));
        match import.module() {
            "wasi_snapshot_preview1" if nothing => Offer::Nothing,
            "wasi_snapshot_preview1" => Offer::Granted,
            _ => Offer::Unknown,
        }
    };
    let imports = module.imports().map(|import| Import {
        name: format!("{}::{}", import.module(), import.name()),
        offer: offer(import),
    });
    Inspection {
        kind: Ok(Kind::Command),
        methods: any_method(name, PROGRAM),
        imports: imports.collect(),
    }
}

/// The methods of a plugin that answers to its name and to all that begin with it.
fn any_method(name: &str, signature: &str) -> Vec<Method> {
    [name.to_owned(), format!("{name}.<anything>")]
        .map(|name| Method { name, signature: signature.to_owned(), not_callable: None })
        .into()
}

/// What holds something for programs and for nobody else.
fn is_for_programs(import: &str) -> bool {
    ["wasi:cli/environment@0.2.", "wasi:cli/stdin@0.2."].iter().any(|name| import.starts_with(name))
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

fn typed_methods(
    component: &Component,
    engine: &wasmtime::Engine,
    plugin: &str,
) -> anyhow::Result<Vec<Method>> {
    let methods = typed::named(typed::functions(component, engine)?)
        .map(|(name, function)| Method {
            name: format!("{plugin}.{name}"),
            signature: function.shown,
            not_callable: function.call.err(),
        })
        .collect();
    Ok(methods)
}
