//! Core modules: which of them run as they are, and how those with WIT metadata
//! become components.
//!
//! Everything here reads bytes that nobody vouches for. A host leaves it to a
//! helper, see `compile`.

use std::borrow::Cow;

use anyhow::{Context as _, anyhow, bail};
use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME as PREVIEW1,
    WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER as COMMAND_ADAPTER,
    WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER as REACTOR_ADAPTER,
};
use wasmparser::{BinaryReaderError, ExternalKind, Parser, Payload, TypeRef};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata, metadata};
use wit_parser::{PackageName, Resolve, SourceMap, WorldId};

use super::engine::Engine;
use super::kind::Kind;

/// What a plugin is made of.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The file.
    pub wasm: &'a [u8],
    /// The text of `<plugin>.wit` beside a core module, if there is one.
    pub wit: Option<&'a str>,
}

/// What the compiler is given of a [`Source`].
pub(super) enum Prepared<'a> {
    Component(Cow<'a, [u8]>),
    /// A core module that is a program: it exports `_start`.
    Program(&'a [u8]),
}

/// The custom sections in which binding generators leave a module's types.
const METADATA: &str = "component-type";

/// What a program begins with, by the rules of WASI 0.1.
pub(super) const START: &str = "_start";

/// `rpchost:rpc`, for those whose WIT names it.
const RPC: [(&str, &str); 4] = [
    ("handler.wit", include_str!("../../../wit/handler.wit")),
    ("rpc-types.wit", include_str!("../../../wit/rpc-types.wit")),
    ("call-context.wit", include_str!("../../../wit/call-context.wit")),
    ("worlds.wit", include_str!("../../../wit/worlds.wit")),
];

/// Whether a file is a core module, by its first bytes.
pub(super) fn is_core(wasm: &[u8]) -> bool {
    wasm.starts_with(b"\0asm\x01\0\0\0")
}

/// Makes of a file what can be compiled.
///
/// # Errors
///
/// Says why it is neither a component, nor can be made one, nor is a program.
pub(super) fn prepare<'a>(
    engine: &wasmtime::Engine,
    source: Source<'a>,
) -> anyhow::Result<Prepared<'a>> {
    let wasm = source.wasm;
    if !is_core(wasm) {
        return Ok(Prepared::Component(Cow::Borrowed(wasm)));
    }
    // What reads modules below takes it for granted that they are valid.
    wasmtime::Module::validate(engine, wasm)
        .map_err(|error| anyhow!("it is not a valid core module: {error:#}"))?;
    let outline = Outline::read(wasm)?;
    let described = match source.wit {
        _ if outline.has_metadata => Cow::Borrowed(wasm),
        Some(wit) => Cow::Owned(embed(wasm, wit)?),
        None if outline.has_start => return Ok(Prepared::Program(wasm)),
        None => bail!(
            "it is a core module that says nothing of its types: it has no WIT metadata, and no \
             `{START}` that would make it a program; put its WIT beside it as `<plugin>.wit`, or \
             make it a component (`wasm-tools component new`, or build it for `wasm32-wasip2`)"
        ),
    };
    // Libraries that are linked into a program may bring metadata of what
    // they would import elsewhere. It is a program all the same.
    if outline.has_start && outline.is_preview1 && !exports_something(&described)? {
        return Ok(Prepared::Program(wasm));
    }
    encode(&described, outline.has_start)
        .map(|component| Prepared::Component(Cow::Owned(component)))
}

/// A component of whatever can be made one; a program stays what it is.
///
/// # Errors
///
/// Says why it is neither.
pub fn componentize(engine: &Engine, wasm: &[u8]) -> anyhow::Result<Vec<u8>> {
    Kind::of_bytes(wasm)?;
    Ok(match prepare(engine.wasmtime(), Source { wasm, wit: None })? {
        Prepared::Component(component) => component.into_owned(),
        Prepared::Program(program) => program.to_vec(),
    })
}

/// What a module shows of itself.
#[derive(Debug, Default)]
struct Outline {
    has_metadata: bool,
    has_start: bool,
    /// Whether all it imports is WASI 0.1.
    is_preview1: bool,
}

impl Outline {
    fn read(wasm: &[u8]) -> anyhow::Result<Self> {
        let mut outline = Self { is_preview1: true, ..Self::default() };
        for payload in Parser::new(0).parse_all(wasm) {
            match payload.map_err(|error| unreadable(&error))? {
                Payload::CustomSection(section) if section.name().starts_with(METADATA) => {
                    outline.has_metadata = true;
                }
                Payload::ImportSection(imports) => {
                    for import in imports.into_imports() {
                        let import = import.map_err(|error| unreadable(&error))?;
                        let is_function = matches!(import.ty, TypeRef::Func(_));
                        outline.is_preview1 &= is_function && import.module == PREVIEW1;
                    }
                }
                Payload::ExportSection(exports) => {
                    for export in exports {
                        let export = export.map_err(|error| unreadable(&error))?;
                        let is_function = export.kind == ExternalKind::Func;
                        outline.has_start |= is_function && export.name == START;
                    }
                }
                _ => {}
            }
        }
        Ok(outline)
    }
}

fn unreadable(error: &BinaryReaderError) -> anyhow::Error {
    anyhow!("it is not a valid core module: {error}")
}

/// Whether the world that a module's metadata tells of has exports.
fn exports_something(wasm: &[u8]) -> anyhow::Result<bool> {
    let (_, bindgen) = metadata::decode(wasm).map_err(unfit(UNREADABLE_METADATA))?;
    let world = bindgen.resolve.worlds.get(bindgen.world);
    Ok(world.is_some_and(|world| !world.exports.is_empty()))
}

const UNREADABLE_METADATA: &str = "its WIT metadata cannot be read";

/// A component of a module with metadata, and of the adapter from WASI 0.1 to
/// 0.2, which is left out where the module imports none of it.
fn encode(wasm: &[u8], is_program: bool) -> anyhow::Result<Vec<u8>> {
    let adapter = if is_program { COMMAND_ADAPTER } else { REACTOR_ADAPTER };
    ComponentEncoder::default()
        .module(wasm)
        .map_err(unfit(UNREADABLE_METADATA))?
        .adapter(PREVIEW1, adapter)
        .and_then(|mut encoder| encoder.encode())
        .map_err(unfit("it is a core module that cannot be made a component"))
}

/// What the encoder says of a module, in one line.
fn unfit(what: &str) -> impl Fn(anyhow::Error) -> anyhow::Error {
    move |error| {
        let said = format!("{error:#}");
        anyhow!("{what}: {}", said.split_whitespace().collect::<Vec<_>>().join(" "))
    }
}

/// The module with the metadata that its WIT file stands for.
fn embed(wasm: &[u8], wit: &str) -> anyhow::Result<Vec<u8>> {
    let (resolve, world) = world(wit).context("its WIT file cannot be used")?;
    let mut described = wasm.to_vec();
    embed_component_metadata(&mut described, &resolve, world, StringEncoding::UTF8)
        .context("its WIT file cannot be used")?;
    Ok(described)
}

/// The one world of a WIT text, which may use what `rpchost:rpc` has.
fn world(wit: &str) -> anyhow::Result<(Resolve, WorldId)> {
    let mut resolve = Resolve::default();
    let mut sources = SourceMap::default();
    sources.push_str("<plugin>.wit", wit);
    let group = sources.parse().map_err(|(sources, error)| one_line(&error.render(&sources)))?;
    let is_rpc = |name: &PackageName| name.namespace == "rpchost" && name.name == "rpc";
    let packages = || std::iter::once(&group.main).chain(&group.nested);
    let names_rpc = packages().any(|package| package.foreign_deps.keys().any(is_rpc));
    let brings_rpc = packages().any(|package| is_rpc(&package.name));
    if names_rpc && !brings_rpc {
        let mut ours = SourceMap::default();
        for (name, text) in RPC {
            ours.push_str(name, text);
        }
        let ours = ours.parse().map_err(|(_, error)| anyhow!("{error}"))?;
        resolve.push_group(ours)?;
    }
    let package =
        resolve.push_group(group).map_err(|error| one_line(&error.render(&resolve.source_map)))?;
    let worlds = resolve.packages.get(package).map(|package| &package.worlds);
    match worlds.into_iter().flatten().collect::<Vec<_>>()[..] {
        [(_, &world)] => Ok((resolve, world)),
        ref worlds => bail!("it has {} worlds where one is needed", worlds.len()),
    }
}

/// An error of the WIT parser, which draws pictures, as one line.
fn one_line(drawn: &str) -> anyhow::Error {
    let lines = drawn.lines().map(str::trim).filter(|line| !line.is_empty());
    anyhow!("{}", lines.take(2).collect::<Vec<_>>().join(" "))
}
