//! What a file is: which kind of plugin, if any.

use anyhow::{anyhow, bail};
use wasmtime::component::Component;
use wasmtime::component::types::ComponentItem;

use super::typed;
use crate::config::PluginKind;

/// The kinds of plugins, found from a component's exports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Exports `rpchost:rpc/handler@0.1.x`.
    Handler,
    /// Exports functions of its own interfaces or world.
    Typed,
    /// Exports `wasi:cli/run`, or is a core module with `_start`.
    Command,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Handler => "handler",
            Self::Typed => "typed",
            Self::Command => "command",
        })
    }
}

/// The interface that makes a handler, without its patch version.
pub(super) const HANDLER: &str = "rpchost:rpc/handler@0.1.";

impl Kind {
    /// Refuses what is no WebAssembly, from the first bytes, in words that help.
    ///
    /// # Errors
    ///
    /// Says what the file is instead.
    pub fn of_bytes(bytes: &[u8]) -> anyhow::Result<()> {
        if wasmtime::Engine::detect_precompiled(bytes).is_some() || bytes.starts_with(b"\x7fELF") {
            bail!(
                "it is precompiled native code, which is never loaded from the plugin directory; \
                 put the `.wasm` file there that it was made of"
            );
        }
        match bytes {
            [] => bail!("it is empty"),
            [b'\0', b'a', b's', b'm', 1, 0, 0, 0, ..]
            | [b'\0', b'a', b's', b'm', _, _, 1, 0, ..] => Ok(()),
            [b'\0', b'a', b's', b'm', ..] => {
                bail!("it is of an unknown version of WebAssembly, or cut short")
            }
            _ => bail!("it is not a WebAssembly file"),
        }
    }

    /// The kind of a compiled component, or the one its configuration says.
    ///
    /// # Errors
    ///
    /// When it exports nothing that can be called, or things of two kinds and
    /// the configuration does not choose.
    pub fn of_component(
        component: &Component,
        engine: &wasmtime::Engine,
        wanted: Option<PluginKind>,
    ) -> anyhow::Result<Self> {
        let found = kinds(component, engine);
        match (wanted.map(Self::from), found.as_slice()) {
            (Some(wanted), _) if found.contains(&wanted) => Ok(wanted),
            (Some(wanted), _) => Err(wanted.not_found()),
            (None, [kind]) => Ok(*kind),
            (None, []) => bail!(
                "it exports nothing that can be called; export `rpchost:rpc/handler@0.1.0`, \
                 functions of an interface of your own, or `wasi:cli/run` (it exports {})",
                list_exports(component, engine)
            ),
            (None, [first, second, ..]) => bail!(
                "it is both a {first} and a {second}; say which with `kind` in the `.toml` of its name in \
                 the plugin directory"
            ),
        }
    }
}

impl Kind {
    /// The kind of a core module that runs as it is: a program.
    ///
    /// # Errors
    ///
    /// When its configuration says that it is something else.
    pub fn of_program(wanted: Option<PluginKind>) -> anyhow::Result<Self> {
        match wanted.map(Self::from) {
            None | Some(Self::Command) => Ok(Self::Command),
            Some(wanted) => Err(wanted.not_found()),
        }
    }

    fn not_found(self) -> anyhow::Error {
        anyhow!("its configuration says `kind = \"{self}\"`, but it exports nothing of that kind")
    }
}

impl From<PluginKind> for Kind {
    fn from(kind: PluginKind) -> Self {
        match kind {
            PluginKind::Handler => Self::Handler,
            PluginKind::Typed => Self::Typed,
            PluginKind::Command => Self::Command,
        }
    }
}

fn kinds(component: &Component, engine: &wasmtime::Engine) -> Vec<Kind> {
    let mut found = Vec::new();
    let ty = component.component_type();
    for (name, _) in ty.exports(engine) {
        let kind = if name.starts_with(HANDLER) {
            Kind::Handler
        } else if name.starts_with("wasi:cli/run@0.2.") {
            Kind::Command
        } else {
            continue;
        };
        if !found.contains(&kind) {
            found.push(kind);
        }
    }
    if typed::any(component, engine) {
        found.push(Kind::Typed);
    }
    found
}

fn list_exports(component: &Component, engine: &wasmtime::Engine) -> String {
    let ty = component.component_type();
    let names: Vec<_> = ty.exports(engine).map(|(name, _)| format!("`{name}`")).take(8).collect();
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

/// Says why the bytes cannot be compiled, in the compiler's words, and what to do about the usual reason.
pub(super) fn explain_invalid(error: &wasmtime::Error) -> anyhow::Error {
    let text = format!("{error:#}");
    let hint = if text.contains("component model async") {
        "; `async func`, `stream` and `future` are not served: build it without them"
    } else {
        ""
    };
    anyhow!("it is not a valid component: {text}{hint}")
}

/// Says which import is missing, and what to do about the usual ones; of a core module, none is
/// `async`.
pub(super) fn explain_import(
    error: &wasmtime::Error,
    of: Option<(&Component, &wasmtime::Engine)>,
) -> anyhow::Error {
    let text = format!("{error:#}");
    let hint = if text.contains("wasi:http") {
        "; HTTP is not offered to guests: build it without (componentize-js: `-d http`)"
    } else if of.is_some_and(|(component, engine)| waits_on(component, engine, &text)) {
        "; it would wait on an `async` import, and no such imports are offered: build it for WASI \
         0.2 (`wasm32-wasip2`), and without `async` in what its world imports"
    } else if text.contains("`wasi:") && text.contains("@0.3.") {
        "; WASI 0.3 is not offered: build it for WASI 0.2 (`wasm32-wasip2`)"
    } else {
        ""
    };
    anyhow!("it needs something that this host does not offer: {text}{hint}")
}

/// Whether an import that is named is an `async` function, or has one.
fn waits_on(component: &Component, engine: &wasmtime::Engine, named: &str) -> bool {
    let waits = |item: ComponentItem| match item {
        ComponentItem::ComponentFunc(function) => function.async_(),
        _ => false,
    };
    let ty = component.component_type();
    ty.imports(engine).filter(|(name, _)| named.contains(&format!("`{name}`"))).any(
        |(_, import)| match import.ty {
            ComponentItem::ComponentInstance(instance) => {
                instance.exports(engine).any(|(_, export)| waits(export.ty))
            }
            item => waits(item),
        },
    )
}
