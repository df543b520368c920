//! What a file is and needs, for a person who wants to know before serving it.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Context as _;
use wasmparser::{KnownCustom, Parser, Payload};
use wasmtime::Module;
use wasmtime::component::Component;

use super::about::About;
use super::compile::Code;
use super::core_module::Source;
use super::describe::Method;
use super::engine::Engine;
use super::kind::Kind;
use super::scan;
use super::typed::{self, Room};

/// Room for schemas: as many methods as a plugin may have, of ordinary size.
const MAX_SCHEMAS: usize = 16 * 1024 * 1024;

/// Longest name or version of a tool that is kept, in characters.
const MAX_TOOL: usize = 64;

/// Most tools that are kept.
const MAX_TOOLS: usize = 32;

/// What was found out about a component.
#[derive(Debug)]
pub struct Inspection {
    /// SHA-256 of the file, lower-case hex.
    pub digest: String,
    /// Bytes of the file.
    pub size: u64,
    /// Its kind, or why it has none.
    pub kind: Result<Kind, String>,
    /// Names and versions of the tools that say they have made it, or a part.
    pub toolchain: Vec<(String, String)>,
    /// What the file says of itself.
    pub about: About,
    /// Methods with their signatures.
    pub methods: Vec<Method>,
    /// Imports, in the component's order.
    pub imports: Vec<Import>,
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
    let engine = &engine.suited_to(source);
    let about = About::read(source.wasm)?;
    let (kind, methods, imports) = match engine.compile(source)? {
        Code::Component(component) => of_component(engine, name, &component, &about),
        Code::Program(module) => {
            (Ok(Kind::Command), Method::untyped(Kind::Command, name), of_program(&module))
        }
    };
    Ok(Inspection {
        digest: scan::digest(source.wasm),
        size: source.wasm.len() as u64,
        kind,
        toolchain: toolchain(source.wasm),
        about,
        methods,
        imports,
    })
}

type Found = (Result<Kind, String>, Vec<Method>, Vec<Import>);

fn of_component(engine: &Engine, name: &str, component: &Component, about: &About) -> Found {
    let wasmtime = engine.wasmtime();
    let (kind, methods) = match Kind::of_component(component, wasmtime, None) {
        Ok(Kind::Typed) => match typed::functions(component, wasmtime) {
            Ok(functions) => {
                let room = &mut Room::of(MAX_SCHEMAS);
                let methods = typed::named(functions)
                    .map(|(own, function)| {
                        let wit_names = function.wit_names();
                        Method::typed(name, &function.described(&own, &wit_names), about, room)
                    })
                    .collect();
                (Ok(Kind::Typed), methods)
            }
            Err(error) => (Err(format!("{error:#}")), Vec::new()),
        },
        Ok(kind) => (Ok(kind), Method::untyped(kind, name)),
        Err(error) => (Err(format!("{error:#}")), Vec::new()),
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
    (kind.map_err(|error| format!("{error:#}")), methods, imports)
}

/// What a core module imports that runs as it is.
fn of_program(module: &Module) -> Vec<Import> {
    let offer = |import: &wasmtime::ImportType<'_>| {
        let nothing = ["path_", "sock_"].iter().any(|begin| import.name().starts_with(begin));
        match import.module() {
            "wasi_snapshot_preview1" if nothing => Offer::Nothing,
            "wasi_snapshot_preview1" => Offer::Granted,
            _ => Offer::Unknown,
        }
    };
    let import = |import: wasmtime::ImportType<'_>| Import {
        name: format!("{}::{}", import.module(), import.name()),
        offer: offer(&import),
    };
    module.imports().map(import).collect()
}

/// The tools that the `producers` sections name, compilers first. Languages are
/// left out: every guest says `C`, because of its libc.
fn toolchain(bytes: &[u8]) -> Vec<(String, String)> {
    let mut tools = BTreeSet::new();
    for payload in Parser::new(0).parse_all(bytes) {
        // What cannot be read was compiled all the same; the rest stays unsaid.
        let Ok(payload) = payload else { break };
        let Payload::CustomSection(section) = payload else { continue };
        let KnownCustom::Producers(fields) = section.as_known() else { continue };
        for field in fields.into_iter().flatten() {
            if field.name == "language" {
                continue;
            }
            for value in field.values.into_iter().flatten() {
                let shown = |text: &str| text.chars().take(MAX_TOOL).collect::<String>();
                // Without the commit that it was built from.
                let version = value.version.split(' ').next().unwrap_or_default();
                let rank = !matches!(value.name, "rustc" | "Go" | "TinyGo" | "componentize-py");
                tools.insert((rank, shown(value.name), shown(version)));
            }
            while tools.len() > MAX_TOOLS {
                tools.pop_last();
            }
        }
    }
    tools.into_iter().map(|(_, name, version)| (name, version)).collect()
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
        || ["wasi:logging/logging@0.1.0-draft", "wasi:logging/logging"].contains(&import)
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
