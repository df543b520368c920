//! `examples/math`: one service in every language, and the same answers from each.

use std::path::PathBuf;
use std::sync::OnceLock;

use super::{copy_folder, err, out, rpchost, workplace};
use crate::support::guests;

/// A language of the examples, and where its component is kept once it was made.
pub(super) struct Language {
    /// As its folder is called, and `rpchost new --lang`.
    pub(super) name: &'static str,
    /// The folder below `target/` where its tools are.
    place: &'static str,
    made: OnceLock<Vec<u8>>,
}

impl Language {
    const fn new(name: &'static str, place: &'static str) -> Self {
        Self { name, place, made: OnceLock::new() }
    }

    /// Its component. The first who asks builds it and runs its cases, for all of this run.
    pub(super) fn component(&self) -> &[u8] {
        self.made.get_or_init(|| {
            let folder = workplace(self.place);
            let project = folder.path().join(self.name);
            copy_folder(&examples().join(self.name), &project);
            // Builds as `rpchost build` does.
            let tested = rpchost(&project, &["test"]);
            assert!(tested.status.success(), "{}: {}{}", self.name, out(&tested), err(&tested));
            assert!(out(&tested).ends_with("12 passed\n"), "{}: {}", self.name, out(&tested));
            assert_eq!(err(&tested), "", "{}", self.name);
            std::fs::read(project.join("build/math.wasm")).unwrap()
        })
    }
}

/// Those whose tools `tests/run.sh` installs.
pub(super) static USUAL: [Language; 6] = [
    Language::new("rust", "author"),
    Language::new("python", "author"),
    Language::new("javascript", "author"),
    Language::new("typescript", "author"),
    Language::new("c", "author"),
    Language::new("go", "author"),
];

/// Those of the long runs.
pub(super) static RARE: [Language; 2] =
    [Language::new("zig", "author"), Language::new("assemblyscript", "author-rare")];

fn examples() -> PathBuf {
    guests::root().join("examples/math")
}

/// Calls the component of a language without a broker, as an author would.
pub(super) fn called(language: &Language) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("math.wasm"), language.component()).unwrap();
    let call = ["call", "--timeout", "60s", "--file", "math.wasm"];
    let fib = rpchost(folder.path(), &[&call[..], &["fib", "30"]].concat());
    assert_eq!(out(&fib), "832040\n", "{}: {}", language.name, err(&fib));
    let readings = r#"[{"sensor":"roof","value":21.5},{"sensor":"cellar","value":"NaN"}]"#;
    let refused = rpchost(folder.path(), &[&call[..], &["statistics", readings]].concat());
    assert_eq!(refused.status.code(), Some(1), "{}: {}", language.name, out(&refused));
    let told: serde_json::Value = serde_json::from_str(&err(&refused)).expect("JSON");
    let error = &told["error"];
    assert_eq!(error["kind"], "application", "{}: {told}", language.name);
    assert_eq!(error["message"], "not-a-number: cellar", "{}: {told}", language.name);
    assert_eq!(error["data"]["not-a-number"], "cellar", "{}: {told}", language.name);
    let shown = out(&rpchost(folder.path(), &["inspect", "math.wasm"]));
    for part in ["Sums up what sensors have measured.", "cases      12"] {
        assert!(shown.contains(part), "{}: {shown}", language.name);
    }
}

#[test]
fn rust() {
    called(&USUAL[0]);
}

#[test]
fn python() {
    called(&USUAL[1]);
}

#[test]
fn javascript() {
    called(&USUAL[2]);
}

#[test]
fn typescript() {
    called(&USUAL[3]);
}

#[test]
fn c() {
    called(&USUAL[4]);
}

#[test]
fn go() {
    called(&USUAL[5]);
}
