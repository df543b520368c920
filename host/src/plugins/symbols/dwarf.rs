//! DWARF in WebAssembly: which module a place is in, and what its sections say.
//!
//! Addresses are bytes from the beginning of a module's code section
//! (<https://yurydelendik.github.io/webassembly-dwarf/>). Runs in a helper, but
//! for [`has_lines`]: the readers of DWARF recurse as deep as it is nested, and
//! take as much memory as it says.

use gimli::{Dwarf, EndianSlice, LittleEndian};
use wasmparser::{Encoding, Parser, Payload, TypeRef};

use super::Line;
use crate::plugins::stack::{Place, demangled};

/// Most functions shown at one place: that many were inlined into each other.
const MAX_INLINED: usize = 16;

/// Longest path in bytes; of longer ones the end is kept, which tells more.
const MAX_PATH: usize = 200;

/// A core module with what is needed of it.
#[derive(Default)]
struct Module<'a> {
    /// Where its code section is.
    code: std::ops::Range<usize>,
    imported: usize,
    /// Where its own functions begin; only of a file that is no component.
    functions: Vec<usize>,
    sections: Vec<(&'a str, &'a [u8])>,
}

/// Whether any module of a file carries lines.
pub(super) fn has_lines(wasm: &[u8]) -> bool {
    let has = |module: &Module<'_>| module.sections.iter().any(|(name, _)| *name == ".debug_line");
    modules(wasm).1.iter().any(has)
}

/// The lines of each place: innermost first, the function itself last. Empty
/// where the file does not say.
pub(super) fn lines(wasm: &[u8], places: &[Place]) -> Vec<Vec<Line>> {
    let (is_component, modules) = modules(wasm);
    let mut found: Vec<Vec<Line>> = vec![Vec::new(); places.len()];
    for module in &modules {
        let addresses: Vec<_> = places.iter().map(|at| module.address(at, is_component)).collect();
        if addresses.iter().all(Option::is_none) {
            continue;
        }
        let Some(context) = module.context() else { continue };
        for (address, found) in addresses.into_iter().zip(&mut found) {
            if let Some(address) = address {
                *found = lines_at(&context, address);
            }
        }
    }
    found
}

type Reader<'a> = EndianSlice<'a, LittleEndian>;

impl<'a> Module<'a> {
    fn address(&self, place: &Place, is_component: bool) -> Option<u64> {
        let offset = if is_component {
            place.offset
        } else {
            // The module was compiled as it is, or within a component.
            let function = usize::try_from(place.function).ok()?.checked_sub(self.imported)?;
            self.functions.get(function)?.checked_add(place.within)?
        };
        let inside = self.code.contains(&offset);
        inside.then(|| offset.saturating_sub(self.code.start) as u64)
    }

    fn context(&self) -> Option<addr2line::Context<Reader<'a>>> {
        let section = |id: gimli::SectionId| {
            let named = self.sections.iter().find(|(name, _)| *name == id.name());
            let bytes = named.map_or(&[][..], |(_, bytes)| *bytes);
            Ok::<_, gimli::Error>(EndianSlice::new(bytes, LittleEndian))
        };
        addr2line::Context::from_dwarf(Dwarf::load(section).ok()?).ok()
    }
}

fn lines_at(context: &addr2line::Context<Reader<'_>>, address: u64) -> Vec<Line> {
    let mut lines = Vec::new();
    let Ok(mut frames) = context.find_frames(address).skip_all_loads() else { return lines };
    // What is malformed further out does not spoil what was found.
    while let Ok(Some(frame)) = frames.next() {
        let Some(location) = frame.location else { continue };
        let function = frame.function.as_ref().and_then(|name| name.raw_name().ok());
        let Some(file) = location.file else { continue };
        let line = Line {
            function: function.map(|name| demangled(&name)),
            file: shortened(file),
            line: location.line,
            column: location.column,
        };
        // The last one is the function itself, and stays.
        if lines.len() >= MAX_INLINED {
            lines.pop();
        }
        lines.push(line);
    }
    lines
}

fn shortened(path: &str) -> String {
    // Rust's own library, without the commit that it is of.
    let path = path
        .strip_prefix("/rustc/")
        .and_then(|rest| rest.split_once('/'))
        .filter(|(_, rest)| rest.starts_with("library/"))
        .map_or(path, |(_, rest)| rest);
    if path.len() <= MAX_PATH {
        return path.to_owned();
    }
    let start = path.ceil_char_boundary(path.len().saturating_sub(MAX_PATH));
    format!("…{}", path.get(start..).unwrap_or_default())
}

/// The core modules of a file, and whether it is a component. What cannot be
/// read ends the list.
fn modules(wasm: &[u8]) -> (bool, Vec<Module<'_>>) {
    let mut is_component = false;
    let mut modules = Vec::new();
    // What is open around the place that is read: a module, or a component.
    let mut open: Vec<Option<Module<'_>>> = Vec::new();
    for payload in Parser::new(0).parse_all(wasm) {
        let Ok(payload) = payload else { break };
        if let Payload::Version { encoding, .. } = &payload {
            let is_module = *encoding == Encoding::Module;
            is_component |= !is_module;
            open.push(is_module.then(Module::default));
            continue;
        }
        if let Payload::End(_) = &payload {
            modules.extend(open.pop().flatten());
            continue;
        }
        let Some(Some(module)) = open.last_mut() else { continue };
        match payload {
            Payload::ImportSection(imports) => {
                let imports = imports.into_imports().flatten();
                let functions = imports
                    .filter(|import| matches!(import.ty, TypeRef::Func(_) | TypeRef::FuncExact(_)));
                module.imported = module.imported.saturating_add(functions.count());
            }
            Payload::CodeSectionStart { range, .. } => module.code = range,
            Payload::CodeSectionEntry(body) if !is_component => {
                module.functions.push(body.range().start);
            }
            Payload::CustomSection(section) if section.name().starts_with(".debug_") => {
                module.sections.push((section.name(), section.data()));
            }
            _ => {}
        }
    }
    (is_component, modules)
}
