//! Guests: WAT made into components in memory, and those built from Rust.

use std::path::{Path, PathBuf};

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::abi::{AbiVariant, WasmType};
use wit_parser::{Resolve, WorldId, WorldItem};

/// The project's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a parent").to_owned()
}

/// A WAT guest, and what its first lines say should come of calling it.
#[derive(Debug, Clone)]
pub struct Guest {
    /// The file's stem.
    pub name: String,
    /// Statuses that are right, the preferred one first.
    pub expect: Vec<String>,
    /// The body that an `ok` must have, where the file says one.
    pub body: Option<String>,
    /// The body to send, where not every one will do.
    pub send: Option<String>,
    /// The component.
    pub wasm: Vec<u8>,
}

/// All of `tests/fixtures/wat`, sorted by name.
pub fn all() -> Vec<Guest> {
    let directory = root().join("tests/fixtures/wat");
    let mut names: Vec<String> = std::fs::read_dir(&directory)
        .expect("the fixtures")
        .filter_map(|entry| {
            let name = entry.expect("an entry").file_name().into_string().expect("UTF-8");
            name.strip_suffix(".wat").map(str::to_owned)
        })
        .collect();
    names.sort();
    names.iter().map(|name| guest(name)).collect()
}

/// One of them.
///
/// # Panics
///
/// When there is no such guest or it cannot be encoded.
pub fn guest(name: &str) -> Guest {
    let directory = root().join("tests/fixtures/wat");
    let text = std::fs::read_to_string(directory.join(format!("{name}.wat")))
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    let expect = text
        .lines()
        .next()
        .and_then(|line| line.strip_prefix(";; expect: "))
        .unwrap_or_else(|| panic!("{name}: the first line says what to expect"))
        .split('|')
        .map(|status| status.trim().to_owned())
        .collect();
    let said = |what: &str| {
        let mut head = text.lines().take_while(|line| line.starts_with(";; "));
        head.find_map(|line| line.strip_prefix(what)).map(|body| body.trim().to_owned())
    };
    let (body, send) = (said(";; body:"), said(";; send:"));
    Guest { name: name.to_owned(), expect, body, send, wasm: encode(name, &text, &[]) }
}

/// One of them, with more custom sections at the end of its module.
///
/// # Panics
///
/// When there is no such guest or it cannot be encoded.
pub fn with_sections(name: &str, sections: &[(&str, &[u8])]) -> Vec<u8> {
    let path = root().join(format!("tests/fixtures/wat/{name}.wat"));
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{name}: {error}"));
    encode(name, &text, sections)
}

/// The guest `version` with its twelve-byte mark replaced by `mark`.
pub fn version(mark: &str) -> Vec<u8> {
    const MARK: &[u8] = b"VERSION_MARK";
    assert_eq!(mark.len(), MARK.len(), "a mark has twelve bytes");
    let mut wasm = guest("version").wasm;
    let at = wasm.windows(MARK.len()).position(|window| window == MARK).expect("the mark");
    wasm[at..at + MARK.len()].copy_from_slice(mark.as_bytes());
    wasm
}

/// The same component with a custom section behind all others.
pub fn with_section(wasm: &[u8], name: &str, contents: &[u8]) -> Vec<u8> {
    let name_length = leb128(name.len());
    let length = leb128(name_length.len() + name.len() + contents.len());
    [wasm, &[0], &length, &name_length, name.as_bytes(), contents].concat()
}

/// The same component under another digest: a section that nobody reads says
/// a name.
pub fn named(wasm: &[u8], name: &str) -> Vec<u8> {
    let length = u8::try_from(name.len()).expect("a short name");
    assert!(length < 120, "lengths of one byte");
    let mut wasm = wasm.to_vec();
    wasm.extend([0, length + 1, length]);
    wasm.extend(name.as_bytes());
    wasm
}

fn encode(name: &str, wat: &str, sections: &[(&str, &[u8])]) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let (ours, _) = resolve.push_dir(root().join("wit")).expect("the WIT package");
    let own = root().join(format!("tests/fixtures/wat/{name}.wit"));
    let world = if own.exists() {
        let text = std::fs::read_to_string(&own).expect("the guest's WIT");
        let package = resolve.push_str(&own, &text).expect("the guest's WIT");
        resolve.select_world(&[package], None)
    } else {
        resolve.select_world(&[ours], Some("minimal"))
    }
    .unwrap_or_else(|error| panic!("{name}: {error:#}"));
    component(&resolve, world, wat, sections)
}

/// A component out of core WAT.
fn component(resolve: &Resolve, world: WorldId, wat: &str, sections: &[(&str, &[u8])]) -> Vec<u8> {
    let mut module = wat::parse_str(wat).unwrap_or_else(|error| panic!("{wat}: {error}"));
    for (name, contents) in sections {
        let name_length = leb128(name.len());
        module.push(0);
        module.extend(leb128(name_length.len() + name.len() + contents.len()));
        module.extend(name_length);
        module.extend(name.as_bytes());
        module.extend(*contents);
    }
    embed_component_metadata(&mut module, resolve, world, StringEncoding::UTF8)
        .unwrap_or_else(|error| panic!("{wat}: {error:#}"));
    ComponentEncoder::default()
        .module(&module)
        .and_then(|encoder| encoder.validate(true).encode())
        .unwrap_or_else(|error| panic!("{wat}: {error:#}"))
}

/// A number as WebAssembly writes lengths.
fn leb128(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// A component with the functions of a WIT text, whose only world it is. Those
/// of type `func() -> u32` return 1, 2, 3 in the order of the text; others trap.
///
/// # Panics
///
/// When it is no WIT.
pub fn numbers(wit: &str) -> Vec<u8> {
    let (resolve, world) = world(wit);
    let mut functions = Vec::new();
    for (key, item) in &resolve.worlds[world].exports {
        match item {
            WorldItem::Function(function) => functions.push((function.name.clone(), function)),
            WorldItem::Interface { id, .. } => {
                let interface = resolve.name_world_key(key);
                let all = resolve.interfaces[*id].functions.values();
                functions.extend(all.map(|f| (format!("{interface}#{}", f.name), f)));
            }
            WorldItem::Type { .. } => {}
        }
    }
    let mut module = "(module (memory (export \"memory\") 1)".to_owned();
    module.push_str(
        "(func (export \"cabi_realloc\") (param i32 i32 i32 i32) (result i32) unreachable)",
    );
    for (index, (name, function)) in functions.iter().enumerate() {
        let signature = resolve.wasm_signature(AbiVariant::GuestExport, function);
        let list = |types: &[WasmType]| {
            let name = |ty: &WasmType| match ty {
                WasmType::I32 | WasmType::Pointer | WasmType::Length => "i32 ",
                WasmType::I64 | WasmType::PointerOrI64 => "i64 ",
                WasmType::F32 => "f32 ",
                WasmType::F64 => "f64 ",
            };
            types.iter().map(name).collect::<String>()
        };
        let (params, results) = (list(&signature.params), list(&signature.results));
        let body = match (params.as_str(), results.as_str()) {
            ("", "i32 ") => format!("i32.const {}", index + 1),
            _ => "unreachable".to_owned(),
        };
        module.push_str(&format!(
            "(func (export {name:?}) (param {params}) (result {results}) {body})"
        ));
    }
    module.push(')');
    component(&resolve, world, &module, &[])
}

/// The only world of a WIT text.
fn world(wit: &str) -> (Resolve, WorldId) {
    let mut resolve = Resolve::default();
    let package = resolve.push_str("guest.wit", wit).unwrap_or_else(|e| panic!("{wit}: {e:#}"));
    let world = resolve.select_world(&[package], None).expect("one world");
    (resolve, world)
}

/// A component whose world is that of a WIT text, out of core WAT.
///
/// # Panics
///
/// When they do not fit together.
pub fn of_world(wit: &str, wat: &str) -> Vec<u8> {
    let (resolve, world) = world(wit);
    component(&resolve, world, wat, &[])
}

/// The same component with other bytes: a section that nobody reads is added.
pub fn marked(wasm: &[u8], mark: u8) -> Vec<u8> {
    let mut wasm = wasm.to_vec();
    // Section 0, four bytes long: a name of one byte, and two bytes of content.
    wasm.extend([0, 4, 1, b'x', mark, mark]);
    wasm
}

/// A guest that is built from Rust by `tests/run.sh`: `fib`, `echo`,
/// `misbehave` or `typed`; or from Python, `python`.
///
/// # Panics
///
/// When it was not built.
pub fn built(name: &str) -> Vec<u8> {
    let path = root().join(format!("target/guests/{name}.wasm"));
    std::fs::read(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; run `tests/run.sh` once", path.display()))
}
