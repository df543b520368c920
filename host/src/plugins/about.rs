//! What a plugin's file says of itself: its version, what it is for, what its functions do, and
//! the cases it must pass.
//!
//! Custom sections of the outermost component or module, written by `author::embed` and by other
//! tools; nothing in them is needed to serve. They are read within bounds, since nobody vouches
//! for them.

use std::collections::BTreeMap;
use std::ops::Range;

use anyhow::{Context as _, bail};
use wasmparser::{Chunk, Parser, Payload};

use super::cases;
use crate::config::Case;

/// The section with the plugin's version, by the conventions of `wasm-tools metadata`.
pub const VERSION_SECTION: &str = "version";

/// The section with what it is for, by the same.
pub const DESCRIPTION_SECTION: &str = "description";

/// The section with what functions do: a JSON object, of names as WIT has them without a version,
/// such as `acme:math/math.fib`, or `fib` for one of the world.
pub const DOCS_SECTION: &str = "rpchost:docs";

/// The section with the cases: a JSON array.
pub const CASES_SECTION: &str = "rpchost:cases";

/// Longest version or description that is read, in bytes.
const MAX_TEXT: usize = 1024;

/// Largest section of documentation, in bytes: as much as a book.
const MAX_DOCS: usize = 512 * 1024;

/// Largest section of cases, in bytes. It is kept in memory as long as the plugin serves.
const MAX_CASES_BYTES: usize = 1 << 20;

/// All of them.
const SECTIONS: [&str; 4] = [VERSION_SECTION, DESCRIPTION_SECTION, DOCS_SECTION, CASES_SECTION];

/// What was found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct About {
    /// The plugin's version, as its author counts.
    pub version: Option<String>,
    /// What it is for.
    pub description: Option<String>,
    docs: BTreeMap<String, String>,
    /// What a version must pass before it serves.
    pub cases: Vec<Case>,
}

impl About {
    /// Reads a file that has been found valid.
    ///
    /// # Errors
    ///
    /// When its cases cannot be read: to take them for none would drop the self-test.
    pub fn read(wasm: &[u8]) -> anyhow::Result<Self> {
        let mut about = Self::default();
        for Custom { name, data, .. } in sections(wasm) {
            match name {
                VERSION_SECTION => about.version = text(data),
                DESCRIPTION_SECTION => about.description = text(data),
                // What cannot be read is not shown.
                DOCS_SECTION if data.len() <= MAX_DOCS => {
                    about.docs = serde_json::from_slice(data).unwrap_or_default();
                }
                CASES_SECTION if data.len() > MAX_CASES_BYTES => bail!(
                    "its section `{CASES_SECTION}` has {} bytes, the limit is {MAX_CASES_BYTES}",
                    data.len()
                ),
                CASES_SECTION => {
                    about.cases = cases::from_json(data)
                        .with_context(|| format!("its section `{CASES_SECTION}` is unusable"))?;
                }
                _ => {}
            }
        }
        Ok(about)
    }

    /// What a function does, by its names in WIT, or by its own if it is one of the world.
    pub(super) fn doc(&self, wit_names: &[String], own: &str) -> Option<&str> {
        let mut names = wit_names.iter().map(String::as_str).chain([own]);
        names.find_map(|name| self.docs.get(name)).map(String::as_str)
    }
}

/// A text that people read, in one line.
fn text(data: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(data.get(..MAX_TEXT.min(data.len()))?).ok()?;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    (!line.is_empty() && !line.chars().any(char::is_control)).then_some(line)
}

/// The same file, where it says nothing of itself.
#[must_use]
pub fn without_sections(wasm: &[u8]) -> Vec<u8> {
    let mut kept = Vec::with_capacity(wasm.len());
    let mut from = 0;
    for Custom { whole, .. } in sections(wasm).iter().filter(|s| SECTIONS.contains(&s.name)) {
        kept.extend(wasm.get(from..whole.start).unwrap_or_default());
        from = whole.end;
    }
    kept.extend(wasm.get(from..).unwrap_or_default());
    kept
}

/// A custom section.
struct Custom<'a> {
    name: &'a str,
    data: &'a [u8],
    /// Where it is in the file, from its first byte to its last.
    whole: Range<usize>,
}

/// The custom sections of the outermost component or module; those inside of it are passed over.
fn sections(wasm: &[u8]) -> Vec<Custom<'_>> {
    let mut found = Vec::new();
    let mut at: usize = 0;
    let mut rest = wasm;
    let mut parser = Parser::new(0);
    while let Ok(Chunk::Parsed { consumed, payload }) = parser.parse(rest, true) {
        let mut passed = consumed;
        match payload {
            Payload::ModuleSection { unchecked_range, .. }
            | Payload::ComponentSection { unchecked_range, .. } => {
                passed = passed.saturating_add(unchecked_range.len());
            }
            Payload::CodeSectionStart { size, .. } => {
                passed = passed.saturating_add(size as usize);
                parser.skip_section();
            }
            Payload::CustomSection(section) => found.push(Custom {
                name: section.name(),
                data: section.data(),
                whole: at..at.saturating_add(consumed),
            }),
            Payload::End(_) => break,
            _ => {}
        }
        let Some(after) = rest.get(passed..) else { break };
        rest = after;
        at = at.saturating_add(passed);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A custom section of less than 128 bytes.
    fn section(name: &str, data: &[u8]) -> Vec<u8> {
        let length = u8::try_from(1 + name.len() + data.len()).unwrap();
        assert!(length < 128);
        [&[0, length, name.len() as u8], name.as_bytes(), data].concat()
    }

    #[test]
    fn what_a_file_says_of_itself_is_read_from_the_outermost_alone() {
        let inner = "(component (core module (@custom \"version\" \"9\") (func (export \"f\"))))";
        let module = "(module (@custom \"version\" \"9\") (func (export \"f\") nop))";
        for (wat, inner_version) in [(inner, None), (module, Some("9"))] {
            let mut wasm = wat::parse_str(wat).unwrap();
            let before = About::read(&wasm).unwrap();
            assert_eq!(before.version.as_deref(), inner_version);
            wasm.extend(section("version", b"1.2"));
            wasm.extend(section("description", b" Says\n hello "));
            wasm.extend(section("rpchost:docs", br#"{"a:b/c.d": "Greets.", "e": "Else."}"#));
            wasm.extend(section("rpchost:cases", br#"[{"body":"x","text":"y"}]"#));
            let about = About::read(&wasm).unwrap();
            assert_eq!(about.version.as_deref(), Some("1.2"));
            assert_eq!(about.description.as_deref(), Some("Says hello"));
            assert_eq!(about.doc(&["a:b/c.d".to_owned()], "d"), Some("Greets."));
            assert_eq!((about.doc(&[], "e"), about.doc(&[], "d")), (Some("Else."), None));
            assert_eq!(about.cases.len(), 1);
            let mut without = without_sections(&wasm);
            assert_eq!(About::read(&without).unwrap(), About::default());
            // What others have put there, and all that is inside, stays.
            let mut with_theirs = wat::parse_str(wat).unwrap();
            with_theirs.extend(section("theirs", b"x"));
            wasm.extend(section("theirs", b"x"));
            if inner_version.is_none() {
                assert_eq!(without_sections(&wasm), with_theirs);
            }
            without.extend(section("version", b"2"));
            assert_eq!(About::read(&without).unwrap().version.as_deref(), Some("2"));
            wasm.extend(section("rpchost:cases", b"[{}]"));
            let error = format!("{:#}", About::read(&wasm).unwrap_err());
            assert!(error.starts_with("its section `rpchost:cases` is unusable"), "{error}");
        }
    }
}
