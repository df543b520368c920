//! Bindings for languages whose own tools make none: C, which Zig reads too, Go, and the names of
//! exports for AssemblyScript.
//!
//! The generators are libraries here, of the same line as all that reads WIT, so that an author
//! needs a compiler and nothing else.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use serde_json::json;
use wit_bindgen_core::{Files, WorldGenerator};

use super::wit::Wit;

/// What Go's bindings need at run time: a module of our own in the place of
/// `go.bytecodealliance.org/pkg`, whose `cabi_realloc` never lets the collector run.
const GO_PACKAGE: [(&str, &str); 4] = [
    ("go.mod", include_str!("../../templates/go-runtime/go.mod.in")),
    ("wit/runtime/runtime.go", include_str!("../../templates/go-runtime/runtime.go.in")),
    ("wit/types/types.go", include_str!("../../templates/go-runtime/types.go.in")),
    ("wit/types/tuples.go", include_str!("../../templates/go-runtime/tuples.go.in")),
];

/// What asc runs after it has compiled.
const ASSEMBLYSCRIPT_EXPORTS: &str = include_str!("../../templates/assemblyscript/exports.mjs.in");

/// Writes `plugin.h`, `plugin.c` and `plugin_component_type.o`.
pub(super) fn c(wit: &Wit, to: &Path) -> anyhow::Result<()> {
    let options =
        wit_bindgen_c::Opts { rename_world: Some("plugin".to_owned()), ..Default::default() };
    write(&generate(&mut *options.build(), wit)?, to)
}

/// Writes packages into the project, below the names that `import` lines have, and what they need
/// at run time to `runtime`.
pub(super) fn go(wit: &Wit, to: &Path, runtime: &Path) -> anyhow::Result<()> {
    let options =
        wit_bindgen_go::Opts { format: wit_bindgen_go::Format::False, ..Default::default() };
    let mut files = generate(&mut *options.build(), wit)?;
    // The project has its own.
    files.remove("go.mod");
    write(&files, to)?;
    for (name, text) in GO_PACKAGE {
        put(&runtime.join(name), text.as_bytes())?;
    }
    Ok(())
}

/// Writes what has asc name exports as WIT does: `apiGreet` is `greet` of the interface `api`.
pub(super) fn assemblyscript(wit: &Wit, to: &Path) -> anyhow::Result<()> {
    let names: BTreeMap<String, String> = wit
        .exports()
        .into_iter()
        .map(|(interface, function, export)| {
            let words =
                interface.iter().flat_map(|name| name.split('-')).chain(function.split('-'));
            (camel(words), export)
        })
        .collect();
    let text = ASSEMBLYSCRIPT_EXPORTS.replace("@EXPORTS@", &format!("{:#}", json!(names)));
    put(to, text.as_bytes())
}

/// `api` and `greet` as `apiGreet`.
pub(super) fn camel<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let mut name = String::new();
    for word in words {
        let mut letters = word.chars();
        match letters.next() {
            Some(first) if !name.is_empty() => name.extend(first.to_uppercase()),
            first => name.extend(first),
        }
        name.push_str(letters.as_str());
    }
    name
}

fn generate(generator: &mut dyn WorldGenerator, wit: &Wit) -> anyhow::Result<Files> {
    let mut files = Files::default();
    let mut resolve = wit.resolve.clone();
    // Generators end in a panic where a type is none that they know.
    let generate = AssertUnwindSafe(|| generator.generate(&mut resolve, wit.world, &mut files));
    std::panic::catch_unwind(generate)
        .unwrap_or_else(|_| Err(anyhow!("there is a type in it that the generator does not know")))
        .map_err(|error| {
            anyhow!("no bindings can be made of `{}`: {error:#}", wit.path.display())
        })?;
    Ok(files)
}

fn write(files: &Files, to: &Path) -> anyhow::Result<()> {
    files.iter().try_for_each(|(name, bytes)| put(&to.join(name), bytes))
}

/// Writes a file, unless it is there already: compilers look at times.
fn put(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    if std::fs::read(path).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(path, bytes))
        .with_context(|| format!("`{}` cannot be written", path.display()))
}
