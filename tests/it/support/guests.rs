//! Guests: WAT made into components in memory, and those built from Rust.

use std::path::{Path, PathBuf};

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

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
    let body = text
        .lines()
        .nth(1)
        .and_then(|line| line.strip_prefix(";; body:"))
        .map(|body| body.trim().to_owned());
    Guest { name: name.to_owned(), expect, body, wasm: encode(name, &text) }
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

fn encode(name: &str, wat: &str) -> Vec<u8> {
    let mut module = wat::parse_str(wat).unwrap_or_else(|error| panic!("{name}: {error}"));
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
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)
        .unwrap_or_else(|error| panic!("{name}: {error:#}"));
    ComponentEncoder::default()
        .module(&module)
        .and_then(|encoder| encoder.validate(true).encode())
        .unwrap_or_else(|error| panic!("{name}: {error:#}"))
}

/// A guest that is built from Rust by `tests/run.sh`: `fib`, `echo` or
/// `misbehave`.
///
/// # Panics
///
/// When it was not built.
pub fn built(name: &str) -> Vec<u8> {
    let path = root().join(format!("target/guests/{name}.wasm"));
    std::fs::read(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; run `tests/run.sh` once", path.display()))
}
