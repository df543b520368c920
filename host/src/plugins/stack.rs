//! A guest's stack at its end: functions by names that a person can read.

use std::fmt::Write as _;

use cpp_demangle::{DemangleOptions, ParseOptions, Symbol};
use wasmtime::{Error, WasmBacktrace};

use crate::capabilities::printable;

/// Most frames of a guest's stack in an error.
const MAX_FRAMES: usize = 20;

/// Longest function name, in bytes; those of generics have no bound.
const MAX_NAME: usize = 160;

/// Bytes of all names in an error, so that with the last lines of standard
/// error they are less than the 4 KiB that an error may have.
const MAX_NAMES: usize = 2560;

/// Longest mangled name that is looked at. Its meaning may be exponentially
/// longer than it is; of C++ names, so may be the time to find that out.
const MAX_MANGLED: usize = 1024;
const MAX_MANGLED_CPP: usize = 256;

/// From the innermost function out.
#[derive(Debug, Default)]
pub(super) struct Stack(Vec<Frame>);

/// One call of a function of the guest.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// The function's name as it is written in the source.
    pub(super) name: String,
    /// What finds its line.
    pub(super) place: Option<Place>,
}

/// A place in a plugin's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// Bytes from the beginning of what was compiled: of the file, unless that
    /// was a core module and made a component at load.
    pub offset: usize,
    /// The function's number in its core module.
    pub function: u32,
    /// Bytes from the function's beginning.
    pub within: usize,
}

impl Stack {
    /// The stack that wasmtime has kept with an error.
    pub(super) fn of(error: &Error) -> Self {
        let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() else { return Self::default() };
        let frames = backtrace.frames().iter().map(|frame| {
            let function = frame.func_index();
            let name = frame.func_name().map_or_else(|| format!("function {function}"), demangled);
            let ours = frame.module().name().is_some_and(|name| name.starts_with(ADAPTER));
            let place = frame.module_offset().zip(frame.func_offset()).filter(|_| !ours);
            Frame { name, place: place.map(|(offset, within)| Place { offset, function, within }) }
        });
        Self(frames.collect())
    }

    #[cfg(test)]
    pub(super) fn named(names: &[&str]) -> Self {
        Self(names.iter().map(|name| Frame { name: (*name).to_owned(), place: None }).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn frames(&self) -> &[Frame] {
        &self.0
    }

    /// The names for a caller: without those that every panic of a Rust guest
    /// begins with, and not too many.
    pub(super) fn shortened(&self) -> Vec<&str> {
        let machinery = self.0.iter().take_while(|frame| is_panic_machinery(&frame.name)).count();
        // A stack that is all machinery is shown whole.
        let skip = if machinery == self.0.len() { 0 } else { machinery };
        let mut room = MAX_NAMES;
        let names = self.0.iter().skip(skip).take(MAX_FRAMES).map(|frame| frame.name.as_str());
        names
            .take_while(|name| {
                room.checked_sub(name.len()).is_some_and(|left| {
                    room = left;
                    true
                })
            })
            .collect()
    }

    /// Numbers that tell this stack from others; `exact` ones also tell places
    /// in one function apart.
    pub(super) fn places(&self, exact: bool, mut visit: impl FnMut(u64)) {
        for place in self.0.iter().filter_map(|frame| frame.place) {
            visit(if exact { place.offset as u64 } else { u64::from(place.function) });
        }
    }
}

/// How modules are named that were put around a core module to make it a
/// component; they have no source.
const ADAPTER: &str = "wit-component:";

fn is_panic_machinery(name: &str) -> bool {
    const PREFIXES: [&str; 8] =
        ["abort", "std::", "core::", "alloc::", "__rust", "rust_", "dlmalloc", "__abort"];
    PREFIXES.iter().any(|prefix| name.trim_start_matches('<').starts_with(prefix))
}

/// A name as its language writes it.
pub(super) fn demangled(name: &str) -> String {
    let mut shown = Bounded(String::new());
    let begin = name.get(..name.floor_char_boundary(MAX_MANGLED)).unwrap_or_default();
    // What does not fit ends the writing with an error, and is cut.
    if begin.len() < name.len() {
        let _is_cut = shown.write_str(begin);
    } else if let Ok(rust) = rustc_demangle::try_demangle(name) {
        let _is_cut = write!(shown, "{rust:#}");
    } else if let Some(cpp) = cpp(name) {
        let _is_cut = cpp.structured_demangle(&mut shown, &DemangleOptions::default());
    } else {
        let _is_cut = shown.write_str(name);
    }
    printable(&shown.0, MAX_NAME)
}

fn cpp(name: &str) -> Option<Symbol<&str>> {
    if !name.starts_with("_Z") || name.len() > MAX_MANGLED_CPP {
        return None;
    }
    Symbol::new_with_options(name, &ParseOptions::default()).ok()
}

/// Takes a little more than is shown, so that what is cut has a mark.
struct Bounded(String);

impl std::fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        const ROOM: usize = MAX_NAME + 8;
        let left = ROOM.saturating_sub(self.0.len());
        if text.len() <= left {
            self.0.push_str(text);
            return Ok(());
        }
        self.0.push_str(text.get(..text.floor_char_boundary(left)).unwrap_or_default());
        Err(std::fmt::Error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_their_languages_write_them() {
        for (name, shown) in [
            ("handle", "handle"),
            ("main.(*Server).serve", "main.(*Server).serve"),
            ("_ZN4echo5inner17h0123456789abcdefE", "echo::inner"),
            ("_RNvCskwGfYPst2Cb_3foo16example_function", "foo::example_function"),
            ("_ZN3foo3barEiPKc", "foo::bar(int, char const*)"),
            ("_Z", "_Z"),
            ("two\nlines", "two\\nlines"),
        ] {
            assert_eq!(demangled(name), shown);
        }
    }

    #[test]
    fn names_without_end_are_cut() {
        let long = "n".repeat(1 << 20);
        let generic = format!("_ZN{}17h0123456789abcdefE", "3foo".repeat(200));
        // Each substitution doubles what was before.
        let cpp = format!("_Z1fIiE{}", "S_S0_S1_".repeat(20));
        for name in [long, generic, cpp] {
            let shown = demangled(&name);
            assert!(shown.len() <= MAX_NAME, "{} bytes", shown.len());
        }
    }
}
