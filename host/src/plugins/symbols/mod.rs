//! From places in a plugin's code to lines of its source.
//!
//! DWARF of a hostile file can take a reader any time and memory, or all of its
//! stack. So it is read as components are compiled: by a helper, a process with
//! limits of its own. What it found is kept, and so is that it found nothing.

mod dwarf;
mod helper;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::compile::Helper;
use super::scan;
use super::stack::{Place, Stack};
use crate::message::PluginId;
pub use helper::{FIND_LINES_COMMAND, find_lines};

/// Places whose lines are kept: a few hundred stacks. Each takes some hundred
/// bytes.
const MOST_PLACES: usize = 10_000;

/// Versions of plugins that are known to have no lines.
const MOST_VERSIONS: usize = 1_000;

/// A line of a guest's source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Line {
    /// The function that the compiler has put there, or the one it is in.
    pub(super) function: Option<String>,
    /// As the compiler has seen it.
    file: String,
    line: Option<u32>,
    column: Option<u32>,
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.file)?;
        for number in [self.line, self.column].into_iter().map_while(|number| number) {
            write!(f, ":{number}")?;
        }
        Ok(())
    }
}

/// What was found for a stack.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Lines by place: the innermost function that was inlined first, the
    /// function itself last.
    pub(super) lines: HashMap<Place, Vec<Line>>,
    /// Why there are none.
    pub(super) without: Option<String>,
}

/// Finds lines.
#[derive(Debug)]
pub(super) struct Symbols {
    helper: Option<Helper>,
    /// By digest.
    known: HashMap<(Arc<str>, Place), Vec<Line>>,
    without: HashMap<Arc<str>, String>,
}

impl Symbols {
    /// Without a helper it finds nothing.
    pub(super) fn new(helper: Option<Helper>) -> Self {
        Self { helper, known: HashMap::new(), without: HashMap::new() }
    }

    /// The lines of a stack. Blocks, for milliseconds or up to the helper's
    /// limits.
    pub(super) fn find(&mut self, plugin: &PluginId, file: Option<&Path>, stack: &Stack) -> Found {
        let (Some(helper), Some(file)) = (&self.helper, file) else { return Found::default() };
        let places: Vec<Place> = stack.frames().iter().filter_map(|frame| frame.place).collect();
        let digest = &plugin.digest;
        if let Some(reason) = self.without.get(digest) {
            return Found { without: Some(reason.clone()), ..Found::default() };
        }
        let is_known = |place: &Place| self.known.contains_key(&(digest.clone(), *place));
        let missing: Vec<Place> = places.iter().filter(|place| !is_known(place)).copied().collect();
        if !missing.is_empty() {
            let Some(wasm) = read(file, digest) else {
                let without = Some("the file is not the one any more that was loaded".to_owned());
                return Found { without, ..Found::default() };
            };
            let looked_up = if dwarf::has_lines(&wasm) {
                helper::ask(helper, &wasm, &missing)
            } else {
                Err("the file carries no debug information".to_owned())
            };
            match looked_up {
                Ok(lines) => {
                    if self.known.len().saturating_add(missing.len()) > MOST_PLACES {
                        self.known.clear();
                    }
                    let found = missing.into_iter().zip(lines);
                    self.known.extend(found.map(|(place, at)| ((digest.clone(), place), at)));
                }
                Err(reason) => {
                    if self.without.len() >= MOST_VERSIONS {
                        self.without.clear();
                    }
                    self.without.insert(digest.clone(), reason.clone());
                    return Found { without: Some(reason), ..Found::default() };
                }
            }
        }
        let known = |place: Place| {
            let lines = self.known.get(&(digest.clone(), place))?;
            (!lines.is_empty()).then(|| (place, lines.clone()))
        };
        Found { lines: places.into_iter().filter_map(known).collect(), without: None }
    }
}

/// The file's bytes, if they still are those of that version.
fn read(file: &Path, digest: &str) -> Option<Vec<u8>> {
    let read = scan::read_file(file, scan::MAX_FILE);
    let wasm = read
        .inspect_err(|error| tracing::debug!("a plugin's file cannot be read again: {error:#}"))
        .ok()?;
    (scan::digest(&wasm) == digest).then_some(wasm)
}
