//! Rules of the house that a compiler does not check. Every message says the
//! file, the line and the rule.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rpchost::config::Language;

use super::support::guests::root;
use super::support::host::command;

/// Which rooms a room may use. `room::Item` opens the door for that item only.
///
/// `architecture.md` gives the reasons. `cli` may use every room, and `main`
/// nothing but `cli`.
const DOORS: [(&str, &[&str]); 20] = [
    ("message", &[]),
    ("config", &["message"]),
    ("wire", &["message"]),
    ("telemetry", &["message", "dispatch::PublishError", "dispatch::AddressRefused"]),
    ("capabilities", &["message", "config", "telemetry", "client"]),
    ("plugins", &["message", "config", "telemetry", "capabilities", "state_dir"]),
    ("dispatch", &["message", "config", "wire", "plugins", "telemetry", "journal"]),
    ("amqp", &["message", "config", "telemetry", "dispatch::Broker", "dispatch::PublishError"]),
    ("client", &["message", "config", "amqp"]),
    ("admin", &["message", "config", "plugins", "telemetry"]),
    ("author", &["config", "plugins"]),
    ("trace", &["message"]),
    ("bench", &["message", "amqp", "client", "trace"]),
    ("verify", &["message", "amqp", "client", "trace"]),
    ("private_broker", &[]),
    ("state_dir", &[]),
    ("journal", &["message", "state_dir"]),
    (
        "serve",
        &[
            "message",
            "config",
            "wire",
            "plugins",
            "capabilities",
            "dispatch",
            "amqp",
            "client",
            "telemetry",
            "admin",
            "state_dir",
            "journal",
        ],
    ),
    (
        "cli",
        &[
            "message",
            "config",
            "wire",
            "plugins",
            "capabilities",
            "dispatch",
            "amqp",
            "client",
            "telemetry",
            "admin",
            "author",
            "state_dir",
            "serve",
            "private_broker",
            "trace",
            "bench",
            "verify",
        ],
    ),
    ("main", &["cli"]),
];

/// Where a library may be named: paths below `host/src`.
const OWNERS: [(&str, &[&str]); 26] = [
    ("wasmtime", &["plugins/", "capabilities/"]),
    ("wasmtime_wasi", &["plugins/", "capabilities/"]),
    ("wit_component", &["plugins/core_module.rs", "author/wit.rs"]),
    (
        "wit_parser",
        &["plugins/core_module.rs", "author/wit.rs", "author/javascript.rs", "author/unsigned.rs"],
    ),
    ("wit_bindgen_c", &["author/bindings.rs"]),
    ("wit_bindgen_core", &["author/bindings.rs"]),
    ("wit_bindgen_go", &["author/bindings.rs"]),
    ("wasm_encoder", &["author/embed.rs"]),
    ("wasm_metadata", &["author/embed.rs"]),
    (
        "wasmparser",
        &[
            "plugins/about.rs",
            "plugins/core_module.rs",
            "plugins/inspect.rs",
            "plugins/symbols/dwarf.rs",
            "plugins/waiting.rs",
        ],
    ),
    ("gimli", &["plugins/symbols/dwarf.rs"]),
    ("addr2line", &["plugins/symbols/dwarf.rs"]),
    ("lapin", &["amqp/"]),
    ("amq_protocol", &["amqp/filter/"]),
    ("ignore", &["author/sources.rs"]),
    ("notify", &["plugins/watch.rs", "author/sources.rs"]),
    ("axum", &["admin.rs"]),
    ("clap", &["config/", "cli/", "client/dialect.rs"]),
    ("console", &["cli/"]),
    ("hdrhistogram", &["bench/"]),
    ("indicatif", &["cli/"]),
    ("plotters", &["bench/plot.rs"]),
    ("prometheus", &["telemetry.rs", "telemetry/"]),
    ("tikv_jemallocator", &["main.rs"]),
    ("toml", &["config/"]),
    ("ureq", &["amqp/management.rs"]),
];

/// Where `unsafe` may stand, with its proof beside it: paths below `host/src`.
const UNSAFE: [&str; 2] = ["plugins/compile/native.rs", "plugins/typed/abi.rs"];

/// What may end a process or a task where an error should be returned.
const PANICS: [&str; 6] =
    [".unwrap(", ".expect(", "panic!(", "todo!(", "unimplemented!(", "unreachable!("];

/// Files that are longer are two files.
const MOST_LINES: usize = 600;

/// The visible top level, and what tools expect there. Dot-files are theirs.
const TOP_LEVEL: [&str; 12] = [
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "examples",
    "host",
    "plugins",
    "rust-toolchain.toml",
    "tests",
    "wit",
];

#[test]
fn rooms_use_only_the_doors_they_may_open() {
    let doors: BTreeMap<&str, &[&str]> = DOORS.into_iter().collect();
    for module in modules() {
        assert!(doors.contains_key(module.as_str()), "`{module}` of lib.rs is not in DOORS");
    }
    let mut broken = Vec::new();
    for source in sources() {
        let room = source.room();
        if room == "lib" {
            continue;
        }
        let allowed = doors.get(room.as_str()).copied().unwrap_or_default();
        for (line, path) in source.own_paths() {
            let used = path.first().map(String::as_str).unwrap_or_default();
            let item = path.iter().take(2).cloned().collect::<Vec<_>>().join("::");
            if used != room && !allowed.contains(&used) && !allowed.contains(&item.as_str()) {
                let may =
                    if allowed.is_empty() { "no room".to_owned() } else { allowed.join(", ") };
                broken.push(source.at(line, &format!("`{room}` uses `{item}` but may use {may}")));
            }
        }
        for line in source.supers_out_of_the_room() {
            broken.push(source.at(line, "another room is named `crate::…`, not `super::…`"));
        }
    }
    none(&broken);
}

#[test]
fn libraries_are_named_only_by_the_room_that_owns_them() {
    let mut broken = Vec::new();
    for source in sources() {
        for (library, owners) in OWNERS {
            if owners.iter().any(|owner| source.path.starts_with(owner)) {
                continue;
            }
            for line in source.lines_that(|code| names_library(code, library)) {
                let places = owners.join(" and ");
                broken.push(source.at(line, &format!("`{library}` is named only in {places}")));
            }
        }
    }
    none(&broken);
}

#[test]
fn nothing_is_unsafe_but_what_says_why() {
    let mut broken = Vec::new();
    for source in sources() {
        if UNSAFE.contains(&source.path.as_str()) {
            continue;
        }
        for line in source.lines_that(|code| has_word(code, "unsafe")) {
            broken.push(source.at(line, "`unsafe` has no place here"));
        }
    }
    none(&broken);
}

#[test]
fn nothing_panics_on_purpose_outside_tests() {
    let mut broken = Vec::new();
    for source in sources() {
        for call in PANICS {
            for line in source.lines_that(|code| code.contains(call)) {
                broken.push(source.at(line, &format!("`{call}…)` where an error is returned")));
            }
        }
    }
    none(&broken);
}

#[test]
fn files_are_short_and_say_first_what_they_own() {
    let mut broken = Vec::new();
    for path in rust_files(&root().join("host/src")) {
        let text = fs::read_to_string(&path).expect("a source");
        let shown = path.strip_prefix(root()).expect("a path below the root").display().to_string();
        let lines = text.lines().count();
        if lines > MOST_LINES {
            broken.push(format!("{shown}:{lines}: a file has at most {MOST_LINES} lines"));
        }
        if !text.starts_with("//!") {
            broken.push(format!("{shown}:1: a file begins with `//!`: what it owns"));
        }
    }
    none(&broken);
}

#[test]
fn the_top_level_is_what_a_newcomer_can_take_in() {
    let strange: Vec<String> = top_level()
        .into_iter()
        .filter(|name| !name.starts_with('.') && !TOP_LEVEL.contains(&name.as_str()))
        .map(|name| format!("{name}:1: not one of the names at the top level"))
        .collect();
    none(&strange);
}

#[test]
fn the_architecture_names_every_module() {
    let path = "host/ARCHITECTURE.md";
    let text = read(path);
    let missing: Vec<String> = modules()
        .into_iter()
        .filter(|module| {
            let end = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
            !text.split('`').skip(1).step_by(2).any(|code| {
                code.strip_prefix("crate::")
                    .unwrap_or(code)
                    .strip_prefix(module.as_str())
                    .is_some_and(end)
            })
        })
        .map(|module| format!("{path}:1: the module `{module}` of lib.rs is not named"))
        .collect();
    none(&missing);
}

#[test]
fn the_readme_names_every_flag_of_serve_with_its_default() {
    let readme = read("README.md");
    let mut missing = Vec::new();
    let flags = flags_of_serve();
    assert!(flags.len() > 20, "`rpchost serve --help` was not understood: {flags:?}");
    for (flag, default) in flags {
        // With or without the name of its value.
        let named = format!("`--{flag}");
        let is_named = |line: &&str| {
            line.match_indices(&named).any(|(at, _)| {
                let rest = line.get(at + named.len()..).unwrap_or_default();
                rest.starts_with(['`', ' ', '='])
            })
        };
        let lines: Vec<(usize, &str)> = readme
            .lines()
            .enumerate()
            .map(|(index, line)| (index + 1, line))
            .filter(|(_, line)| is_named(line))
            .collect();
        if lines.is_empty() {
            missing.push(format!("README.md:1: the flag `--{flag}` of `serve` is not named"));
        }
        // A row of the table says the default, where it is one word.
        let row = lines.iter().find(|(_, line)| line.starts_with("| `--"));
        if let (Some(default), Some((line, row))) = (default, row)
            && !row.contains(&format!("`{default}`"))
        {
            missing.push(format!(
                "README.md:{line}: the default of `--{flag}` is `{default}` by `--help`"
            ));
        }
    }
    none(&missing);
}

#[test]
fn the_handler_in_the_readme_is_the_one_that_is_built() {
    let (readme, path) = (read("README.md"), "examples/fib-rust/src/lib.rs");
    let example = read(path);
    let mut blocks = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (index, line) in readme.lines().enumerate() {
        match &mut open {
            None if line.trim_start().starts_with("```rust") => {
                open = Some((index + 1, String::new()))
            }
            Some(_) if line.trim_start().starts_with("```") => blocks.extend(open.take()),
            Some((_, block)) => {
                block.push_str(line);
                block.push('\n');
            }
            None => {}
        }
    }
    assert!(!blocks.is_empty(), "README.md:1: there is no ```rust block with a handler");
    let strange: Vec<String> = blocks
        .into_iter()
        .filter(|(_, block)| !example.contains(block.as_str()))
        .map(|(line, _)| format!("README.md:{line}: this is not a part of {path}"))
        .collect();
    none(&strange);
}

#[test]
fn the_example_in_every_language_has_one_interface_and_the_same_cases() {
    let folder = "examples/math";
    let readme = read(&format!("{folder}/README.md"));
    let mut broken = Vec::new();
    let mut same: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for language in Language::ALL.map(Language::name) {
        let project = format!("{folder}/{language}");
        same.entry("wit/world.wit").or_default().insert(read(&format!("{project}/wit/world.wit")));
        let path = format!("{project}/rpchost-plugin.toml");
        let (text, own) = (read(&path), format!("language = \"{language}\"\n"));
        if !text.contains(&own) {
            broken.push(format!("{path}:1: it does not say `{}`", own.trim_end()));
        }
        same.entry("rpchost-plugin.toml").or_default().insert(text.replace(&own, ""));
        if !readme.contains(&format!("| [{language}]({language}) |")) {
            broken.push(format!("{folder}/README.md:1: there is no row of `{language}`"));
        }
    }
    for (name, texts) in same.iter().filter(|(_, texts)| texts.len() > 1) {
        broken
            .push(format!("{folder}/*/{name}:1: there are {} of one that is shared", texts.len()));
    }
    none(&broken);
}

#[test]
fn the_rules_see_through_comments_literals_and_tests() {
    let source = Source::new(
        "plugins/x.rs",
        concat!(
            "//! wasmtime::Engine\n",
            "use crate::{message::{self, Reply as R}, wire::*};\n",
            "/* unsafe /* nested */ panic!() */\n",
            "const A: &str = \"crate::serve \\\" .unwrap()\"; const B: char = '\"';\n",
            "const C: &str = r#\"lapin::x\"#; fn f<'a>(x: &'a str) -> char { '\\'' }\n",
            "#[cfg(test)]\n",
            "#[expect(clippy::x)]\n",
            "mod tests {\n    fn f() { x.unwrap(); }\n}\n",
            "#[cfg(test)]\n",
            "mod more;\n",
            "fn g() { let _ = unsafe { crate::serve::Host }; super::super::amqp::x() }\n",
        ),
    );
    let paths: Vec<String> = source
        .own_paths()
        .into_iter()
        .map(|(line, path)| format!("{line} {}", path.join("::")))
        .collect();
    assert_eq!(paths, ["2 message::self", "2 message::Reply", "2 wire::*", "13 serve::Host"]);
    assert_eq!(source.lines_that(|code| has_word(code, "unsafe")), [13]);
    assert!(
        source.lines_that(|code| code.contains(".unwrap(") || code.contains("panic!")).is_empty()
    );
    assert!(source.lines_that(|code| names_library(code, "wasmtime")).is_empty());
    assert_eq!(source.supers_out_of_the_room(), [13]);
    assert_eq!(source.test_modules, [PathBuf::from("plugins/x/more")]);
    assert!(names_library("fn f(x: wasmtime::Engine)", "wasmtime"));
    assert!(names_library("use wasmtime_wasi;", "wasmtime_wasi"));
    assert!(!names_library("let wasmtime = engine.wasmtime();", "wasmtime"));
    assert!(!names_library("wasmtime_wasi::x()", "wasmtime"));
}

fn none(broken: &[String]) {
    assert!(broken.is_empty(), "{} rule(s) broken:\n{}", broken.len(), broken.join("\n"));
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}:1: {error}"))
}

/// The modules that lib.rs declares.
fn modules() -> Vec<String> {
    read("host/src/lib.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ").or_else(|| line.strip_prefix("mod ")))
        .filter_map(|rest| rest.strip_suffix(';'))
        .map(str::to_owned)
        .collect()
}

/// Long flags and, where it is a single word, their default.
fn flags_of_serve() -> Vec<(String, Option<String>)> {
    // One flag to a line and its help on the next, whatever the terminal.
    let output = command(&["serve", "--help"]).env("COLUMNS", "400").output().expect("the binary");
    let help = String::from_utf8(output.stdout).expect("UTF-8");
    let mut flags: Vec<(String, Option<String>)> = Vec::new();
    for line in help.lines() {
        let first = line.trim_start();
        if let Some(rest) = first.strip_prefix("-h, --").or_else(|| first.strip_prefix("--")) {
            let name: String =
                rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect();
            flags.push((name, None));
        }
        if let Some((_, default)) = line.split_once("[default: ")
            && let Some((default, _)) = default.split_once(']')
            && let Some((_, known)) = flags.last_mut()
            && !default.contains([' ', '$'])
            && default != "none"
        {
            *known = Some(default.to_owned());
        }
    }
    flags.retain(|(name, _)| name != "help");
    flags
}

/// What git tracks at the top; before the first commit, or outside of git,
/// what is there.
fn top_level() -> BTreeSet<String> {
    let listed = Command::new("git").arg("ls-files").current_dir(root()).output();
    let tracked: BTreeSet<String> = listed
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default()
        .lines()
        .filter_map(|path| path.split('/').next())
        .map(str::to_owned)
        .collect();
    if !tracked.is_empty() {
        return tracked;
    }
    fs::read_dir(root())
        .expect("the root")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter(|name| name != "target")
        .collect()
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// Everything in `host/src` that is not a test.
fn sources() -> Vec<Source> {
    let directory = root().join("host/src");
    let all: Vec<Source> = rust_files(&directory)
        .iter()
        .map(|path| {
            let shown = path.strip_prefix(&directory).expect("a path below").display().to_string();
            Source::new(&shown, &fs::read_to_string(path).expect("a source"))
        })
        .collect();
    assert!(all.len() > 20, "host/src was not found");
    let tests: Vec<PathBuf> =
        all.iter().flat_map(|source| source.test_modules.iter().cloned()).collect();
    let is_test = |source: &Source| {
        let path = Path::new(&source.path);
        tests.iter().any(|test| path.starts_with(test) || path == test.with_extension("rs"))
    };
    all.into_iter().filter(|source| !is_test(source)).collect()
}

/// A source file in which comments, literals and tests are blank.
struct Source {
    /// Below `host/src`.
    path: String,
    code: String,
    /// Modules in files of their own that are tests, below `host/src`.
    test_modules: Vec<PathBuf>,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let mut code = blank_comments_and_literals(text);
        let mut test_modules = Vec::new();
        while let Some(begin) = code.find("#[cfg(test)]") {
            let end = begin + end_of_item(&code[begin..]);
            let item = &code[begin..end];
            if let Some((_, name)) = item.rsplit_once("mod ")
                && let Some(name) = name.strip_suffix(';')
            {
                test_modules.push(directory_of_modules(path).join(name));
            }
            let blank: String = item.chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
            code.replace_range(begin..end, &blank);
        }
        Self { path: path.to_owned(), code, test_modules }
    }

    /// The module right below the crate's root.
    fn room(&self) -> String {
        let first = self.path.split('/').next().unwrap_or_default();
        first.strip_suffix(".rs").unwrap_or(first).to_owned()
    }

    fn at(&self, line: usize, rule: &str) -> String {
        format!("host/src/{}:{line}: {rule}", self.path)
    }

    fn lines_that(&self, is: impl Fn(&str) -> bool) -> Vec<usize> {
        (1..).zip(self.code.lines()).filter(|(_, code)| is(code)).map(|(line, _)| line).collect()
    }

    fn line_of(&self, at: usize) -> usize {
        1 + self.code[..at].matches('\n').count()
    }

    /// Every path of our own crate, with its line and without `crate`.
    fn own_paths(&self) -> Vec<(usize, Vec<String>)> {
        // The binary is a crate beside the library.
        let own = if self.path == "main.rs" { "rpchost::" } else { "crate::" };
        let mut found = Vec::new();
        for (at, _) in self.code.match_indices(own) {
            if self.code[..at].ends_with(is_word) {
                continue;
            }
            let mut paths = Vec::new();
            flatten(&self.code[at + own.len()..], &[], &mut paths);
            found.extend(paths.into_iter().map(|path| (self.line_of(at), path)));
        }
        found
    }

    /// Lines where a chain of `super` leads to the root of the crate.
    fn supers_out_of_the_room(&self) -> Vec<usize> {
        let inside = self.path.trim_end_matches(".rs").split('/').filter(|part| *part != "mod");
        let chain = "super::".repeat(inside.count());
        if matches!(self.room().as_str(), "lib" | "main") {
            return Vec::new();
        }
        self.lines_that(|code| code.contains(&chain))
    }
}

/// The folder of a file's own modules.
fn directory_of_modules(path: &str) -> PathBuf {
    let path = Path::new(path);
    match path.file_stem() {
        Some(stem) if stem != "mod" && stem != "lib" && stem != "main" => path.with_extension(""),
        _ => path.parent().unwrap_or(Path::new("")).to_owned(),
    }
}

/// Length of the item that `code` begins with: to its `;` or closing brace.
fn end_of_item(code: &str) -> usize {
    let mut depth = 0usize;
    for (at, c) in code.char_indices() {
        match c {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => {
                depth = depth.saturating_sub(1);
                if depth == 0 && c == '}' {
                    return at + 1;
                }
            }
            ';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

/// The paths of a use-tree, or of an expression that begins with one. Returns
/// how much of `code` the tree takes.
fn flatten(code: &str, before: &[String], found: &mut Vec<Vec<String>>) -> usize {
    let mut path = before.to_vec();
    let mut at = 0;
    loop {
        at += code[at..].len() - code[at..].trim_start().len();
        let rest = &code[at..];
        if rest.starts_with('{') {
            at += 1;
            loop {
                at += code[at..].len() - code[at..].trim_start().len();
                match code[at..].chars().next() {
                    Some(',') => at += 1,
                    Some('}') | None => return (at + 1).min(code.len()),
                    Some(_) => match flatten(&code[at..], &path, found) {
                        0 => return at,
                        taken => at += taken,
                    },
                }
            }
        }
        let word: String = if rest.starts_with('*') {
            "*".to_owned()
        } else {
            rest.chars().take_while(|c| is_word(*c)).collect()
        };
        if word.is_empty() {
            break;
        }
        at += word.len();
        path.push(word);
        match code[at..].strip_prefix("::") {
            Some(_) => at += 2,
            None => break,
        }
    }
    if path.len() > before.len() {
        found.push(path);
    }
    // A new name does not matter.
    if let Some(name) = code[at..].trim_start().strip_prefix("as ") {
        at = code.len() - name.trim_start_matches(is_word).len();
    }
    at
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Whether `word` stands in `code`, not as a part of another.
fn has_word(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        !code[..at].ends_with(is_word) && !code[at + word.len()..].starts_with(is_word)
    })
}

/// Whether a path begins with the library: not a variable or method that has
/// its name.
fn names_library(code: &str, library: &str) -> bool {
    code.match_indices(library).any(|(at, _)| {
        let (before, after) = (&code[..at], &code[at + library.len()..]);
        let is_first = !before.ends_with(|c| is_word(c) || c == '.')
            && (!before.ends_with("::") || before.ends_with(" ::"));
        let is_used = before.trim_end().ends_with("use") && !after.starts_with(is_word);
        is_first && (after.starts_with("::") || is_used)
    })
}

/// The same text, with spaces for what is not code; lines stay where they are.
fn blank_comments_and_literals(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let length = match c {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => block_comment(rest),
            '"' => quoted(rest),
            'r' if !code.ends_with(|c| is_word(c) && c != 'b' && c != 'c') => raw_literal(rest),
            '\'' => character(rest),
            _ => 0,
        };
        if length == 0 {
            code.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            code.extend(rest[..length].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = &rest[length..];
        }
    }
    code
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while at < text.len() {
        if text[at..].starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if text[at..].starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

fn quoted(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// `r"…"`, `r#"…"#`; 0 for an identifier.
fn raw_literal(text: &str) -> usize {
    let hashes = text[1..].chars().take_while(|c| *c == '#').count();
    let Some(inner) = text[1 + hashes..].strip_prefix('"') else { return 0 };
    let end = format!("\"{}", "#".repeat(hashes));
    inner.find(&end).map_or(text.len(), |at| 2 + hashes + at + end.len())
}

/// `'x'`, `'\n'`; 0 for a lifetime.
fn character(text: &str) -> usize {
    let inner = &text[1..];
    match inner.chars().next() {
        Some('\\') => {
            // The character after the backslash may itself be a quote.
            inner.char_indices().skip(2).find(|(_, c)| *c == '\'').map_or(0, |(at, _)| at + 2)
        }
        Some(c) if inner[c.len_utf8()..].starts_with('\'') => 2 + c.len_utf8(),
        _ => 0,
    }
}
