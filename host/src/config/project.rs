//! `rpchost-plugin.toml`, which makes a folder a project: what the plugin is called and made of,
//! and the cases it must pass.
//!
//! Knows the keys of that file and the words for languages and kinds; refuses to know tools, the
//! disk, and how a case is run.

use std::path::Path;

use serde_json::value::RawValue;

use super::file::{Keys, Section, Table};
use super::plugin::PluginKind;
use super::problem::{Origin, Problems};
use super::units::one_of;
use super::written::Raw;

/// Name of the file.
pub const PROJECT_FILE: &str = "rpchost-plugin.toml";

/// Most cases of a project: a self-test runs before a version serves, and has to be over soon.
pub const MAX_CASES: usize = 64;

/// Longest text of a case, in bytes. Cases travel in the plugin, and every host reads them.
pub const MAX_CASE_TEXT: usize = 64 * 1024;

/// Longest description, in bytes: a sentence or two.
const MAX_DESCRIPTION: usize = 1024;

const CASE_KEYS: [&str; 10] =
    ["name", "method", "params", "body", "result", "text", "error", "code", "message", "data"];

const KEYS: Keys<'static> = Keys {
    known: &["name", "version", "description", "kind", "language", "build", "output"],
    lists: &[("case", &CASE_KEYS)],
    reserved: &[],
};

/// A project, as its file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProjectConfig {
    /// The plugin's name, and its file's stem.
    pub name: String,
    /// Its version, in whatever form.
    pub version: Option<String>,
    /// What it is for.
    pub description: Option<String>,
    /// What it has to be.
    pub kind: Option<PluginKind>,
    /// How it is made.
    pub recipe: Recipe,
    /// What it is tried with.
    pub cases: Vec<Case>,
}

/// How a project becomes a component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recipe {
    /// By the tools of this language.
    Language(Language),
    /// By a command of the project's own, which leaves the file `output`.
    Own {
        /// Program and arguments; no shell.
        build: Vec<String>,
        /// The file that it makes, below the project.
        output: String,
    },
}

/// Languages whose tools are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Language {
    /// By cargo.
    Rust,
    /// By componentize-py.
    Python,
    /// By componentize-qjs.
    JavaScript,
    /// The same, after esbuild.
    TypeScript,
    /// By `zig cc`.
    C,
    /// By Go's own compiler.
    Go,
    /// By Zig's compiler.
    Zig,
    /// By asc.
    AssemblyScript,
}

impl Language {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 8] = [
        Self::Rust,
        Self::Python,
        Self::JavaScript,
        Self::TypeScript,
        Self::C,
        Self::Go,
        Self::Zig,
        Self::AssemblyScript,
    ];

    /// As it is typed.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::Python => "python",
            Self::JavaScript => "javascript",
            Self::TypeScript => "typescript",
            Self::C => "c",
            Self::Go => "go",
            Self::Zig => "zig",
            Self::AssemblyScript => "assemblyscript",
        }
    }
}

/// A request, and what must come of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// What it shows; may be empty.
    pub name: String,
    /// What stands behind the plugin's name in the method's.
    pub method: Option<String>,
    /// What is sent.
    pub input: CaseInput,
    /// What must come back.
    pub expected: Expected,
}

/// What a case sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaseInput {
    /// A JSON text.
    Params(String),
    /// A body as it is.
    Body(String),
}

/// What a case expects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// A result that is this JSON, whatever its spaces.
    Result(String),
    /// A result that is this text.
    Text(String),
    /// An error.
    Error {
        /// Its kind, such as `application`.
        kind: String,
        /// Its number, where that matters.
        code: Option<i32>,
        /// A part of its message, where that matters.
        message: Option<String>,
        /// Its data as JSON, where that matters.
        data: Option<String>,
    },
}

impl ProjectConfig {
    /// Reads the text of a file; `path` is how problems call it. `error_kinds` are the words that
    /// an expected error may have.
    ///
    /// # Errors
    /// All that is wrong with it, at once.
    pub fn parse(text: &str, path: &Path, error_kinds: &[&str]) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let table = Table::parse(text, path, &KEYS, &mut problems);
        let file = || Origin::File { path: path.to_owned(), line: None, key: None };
        if !problems.is_empty() && table.find("name").is_none() {
            return Err(problems);
        }
        let mut text_of = |key: &str| table.find(key)?.one(&mut problems, own_text);
        let (name, version, output) = (text_of("name"), text_of("version"), text_of("output"));
        let description = table.find("description").and_then(|written| {
            written.one(&mut problems, |raw| within(own_text(raw)?, MAX_DESCRIPTION))
        });
        let kind = table.find("kind").and_then(|written| {
            let kinds = [
                ("typed", PluginKind::Typed),
                ("handler", PluginKind::Handler),
                ("command", PluginKind::Command),
            ];
            written.one(&mut problems, |raw| one_of(raw.text()?, &kinds, &[]))
        });
        let language = table.find("language").and_then(|written| {
            let known = Language::ALL.map(|language| (language.name(), language));
            written.one(&mut problems, |raw| one_of(raw.text()?, &known, &[]))
        });
        let build = table.find("build").map(|written| written.many(&mut problems, own_text));
        let recipe = match (language, build, output) {
            (Some(language), None, None) => Some(Recipe::Language(language)),
            (None, Some(build), Some(output)) => Some(Recipe::Own { build, output }),
            (None, None, None) if !problems.is_empty() => None,
            _ => {
                problems.add(
                    file(),
                    "says how the plugin is made in one of two ways: `language = \"…\"`, or a \
                     command `build = [\"…\"]` and the file `output = \"….wasm\"` that it makes",
                );
                None
            }
        };
        if name.is_none() && table.find("name").is_none() {
            problems.add(file(), "has no `name`, which is the plugin's");
        }
        let cases = table.list("case");
        if cases.len() > MAX_CASES {
            problems.add(file(), format!("has {} cases, the limit is {MAX_CASES}", cases.len()));
        }
        let cases =
            cases.iter().filter_map(|section| case(section, error_kinds, &mut problems)).collect();
        match (name, recipe) {
            (Some(name), Some(recipe)) => {
                problems.unless_any(Self { name, version, description, kind, recipe, cases })
            }
            _ => Err(problems),
        }
    }
}

/// A text that may be long, and for cases empty.
fn any_text(raw: &Raw) -> Result<String, String> {
    match raw {
        Raw::Text(text) => within(text.clone(), MAX_CASE_TEXT),
        other => other.text().map(str::to_owned),
    }
}

fn own_text(raw: &Raw) -> Result<String, String> {
    raw.text().map(str::to_owned)
}

fn within(text: String, limit: usize) -> Result<String, String> {
    if text.len() > limit {
        return Err(format!("has {} bytes, the limit is {limit}", text.len()));
    }
    Ok(text)
}

fn json(raw: &Raw) -> Result<String, String> {
    let text = any_text(raw)?;
    match serde_json::from_str::<&RawValue>(&text) {
        Ok(_) => Ok(text),
        Err(error) => {
            Err(format!("is not JSON (a text needs its quotes, as in '\"hi\"'): {error}"))
        }
    }
}

fn case(section: &Section, error_kinds: &[&str], problems: &mut Problems) -> Option<Case> {
    let before = problems.len();
    let mut get = |key: &str, read: fn(&Raw) -> Result<String, String>| {
        section.find(key).and_then(|written| written.one(problems, read))
    };
    let (name, method) = (get("name", own_text), get("method", own_text));
    let (params, body) = (get("params", json), get("body", any_text));
    let (result, text, message) =
        (get("result", json), get("text", any_text), get("message", any_text));
    let data = get("data", json);
    let error = section.find("error").and_then(|written| {
        let known: Vec<(&str, &str)> = error_kinds.iter().map(|kind| (*kind, *kind)).collect();
        written.one(problems, |raw| one_of(raw.text()?, &known, &[]).map(str::to_owned))
    });
    let code = section.find("code").and_then(|written| {
        written.one(problems, |raw| {
            let text = raw.number()?;
            text.parse::<i32>().map_err(|_| format!("`{text}` is no number of 32 bits"))
        })
    });
    if problems.len() > before {
        return None;
    }
    let input = match (params, body) {
        (Some(params), None) => CaseInput::Params(params),
        (None, Some(body)) => CaseInput::Body(body),
        (None, None) => CaseInput::Body(String::new()),
        (Some(_), Some(_)) => {
            problems.add(section.origin.clone(), "has both `params` and `body`; write one");
            return None;
        }
    };
    let only_errors = code.is_some() || message.is_some() || data.is_some();
    let expected = match (result, text, error) {
        (Some(result), None, None) if !only_errors => Expected::Result(result),
        (None, Some(text), None) if !only_errors => Expected::Text(text),
        (None, None, Some(kind)) => Expected::Error { kind, code, message, data },
        _ => {
            problems.add(
                section.origin.clone(),
                "says what must come back in one of three ways: `result` (JSON), `text`, or \
                 `error` (a kind), the last with `code`, `message` and `data` if they matter",
            );
            return None;
        }
    };
    Some(Case { name: name.unwrap_or_default(), method, input, expected })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "name = 'hello'\nlanguage = 'rust'\n";

    fn parse(text: &str) -> Result<ProjectConfig, String> {
        ProjectConfig::parse(text, Path::new("p.toml"), &["application", "trap"])
            .map_err(|problems| problems.to_string())
    }

    #[test]
    fn a_project_says_what_it_is_and_its_cases() {
        let text = format!(
            "{HEAD}version = '1.2.0'\ndescription = 'Says hello'\nkind = 'typed'\n\
             [[case]]\nmethod = 'greet'\nparams = '\"you\"'\nresult = '\"Hello\"'\n\
             [[case]]\nname = 'empty'\nbody = ''\nerror = 'application'\ncode = 1\ndata = 'null'"
        );
        let project = parse(&text).unwrap();
        assert_eq!((project.name.as_str(), project.kind), ("hello", Some(PluginKind::Typed)));
        assert_eq!(project.recipe, Recipe::Language(Language::Rust));
        let [first, second] = project.cases.as_slice() else { panic!("{project:?}") };
        assert_eq!(first.input, CaseInput::Params("\"you\"".into()));
        assert_eq!(first.expected, Expected::Result("\"Hello\"".into()));
        assert_eq!(second.input, CaseInput::Body(String::new()));
        let expected = Expected::Error {
            kind: "application".into(),
            code: Some(1),
            message: None,
            data: Some("null".into()),
        };
        assert_eq!(second.expected, expected);
        let own = parse("name = 'x'\nbuild = ['make', 'x']\noutput = 'x.wasm'").unwrap();
        let build = vec!["make".to_owned(), "x".to_owned()];
        assert_eq!(own.recipe, Recipe::Own { build, output: "x.wasm".into() });
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line_and_all_at_once() {
        for (text, problem) in [
            ("language = 'rust'", "has no `name`"),
            ("name = 'x'", "in one of two ways"),
            ("name = 'x'\nlanguage = 'cobol'", "`cobol` is not known; write `rust`, `python`"),
            ("name = 'x'\nlanguage = 'c'\nbuild = 'make'", "in one of two ways"),
            ("name = 'x'\nlanguage = 'c'\nlang = 'c'", "`lang`  is not a key"),
        ] {
            let said = parse(text).unwrap_err();
            assert!(said.contains(problem), "{text}: {said}");
        }
        for (case, problem) in [
            ("params = 'hi'\ntext = ''", "line 4 key `case.params`  is not JSON"),
            ("params = '1'\nbody = '1'\ntext = ''", "has both"),
            ("params = '1'", "in one of three ways"),
            ("result = '1'\ncode = 1", "in one of three ways"),
            ("result = '1'\nerror = 'trap'", "in one of three ways"),
            ("error = 'boom'", "`boom` is not known; write `application` or `trap`"),
            ("expect = '1'", "is not a key"),
        ] {
            let said = parse(&format!("{HEAD}[[case]]\n{case}")).unwrap_err();
            assert!(said.contains(problem), "{case}: {said}");
        }
        let said = parse(&format!("{HEAD}[[case]]\nparams = '1'\n[[case]]\nerror = 'x'"));
        assert_eq!(said.unwrap_err().lines().count(), 2);
    }
}
