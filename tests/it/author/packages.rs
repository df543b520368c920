//! The examples that do something real with packages of npm, crates.io and PyPI, built as their
//! READMEs say.

use std::path::{Path, PathBuf};

use super::{copy_folder, err, out, rpchost, workplace};
use crate::support::guests;

/// A copy of an example.
fn copy(name: &str, into: &Path) -> PathBuf {
    let project = into.join(name);
    copy_folder(&guests::root().join("examples").join(name), &project);
    project
}

/// Builds it, has it pass its cases, and calls it.
fn answers(project: &Path, file: &str, method: &str, args: &[&str], expected: &str) {
    for command in ["build", "test"] {
        let done = rpchost(project, &[command]);
        assert!(done.status.success(), "{command}: {}{}", out(&done), err(&done));
    }
    let mut call = vec!["call", "--timeout", "60s", "--file", file, method];
    call.extend(args);
    let called = rpchost(project, &call);
    assert_eq!(out(&called), expected, "{}", err(&called));
}

#[test]
fn markdown_in_javascript() {
    let folder = workplace("author");
    let project = copy("markdown-javascript", folder.path());
    let markdown = "markdown=# Hi <b>you</b>";
    let html = "\"<h1>Hi &lt;b&gt;you&lt;/b&gt;</h1>\\n\"\n";
    answers(&project, "build/markdown.wasm", "markdown.render", &[markdown], html);
}

#[test]
fn thumbnails_in_rust() {
    let folder = workplace("author");
    let project = copy("thumbnail-rust", folder.path());
    // A GIF, by its first bytes.
    let args = ["\"R0lGODdhCAAEAIEA\"", "64", "64"];
    let method = "thumbnail.thumbnail";
    answers(&project, "build/thumbnail.wasm", method, &args, "");
    let refused = rpchost(
        &project,
        &[&["call", "--file", "build/thumbnail.wasm", method], &args[..]].concat(),
    );
    assert!(err(&refused).contains("it begins as image/gif does"), "{}", err(&refused));
}

#[test]
fn json_schema_in_python() {
    let folder = workplace("author");
    let project = copy("schema-python", folder.path());
    let environment = guests::root().join("target/author/schema-venv");
    std::os::unix::fs::symlink(environment, project.join(".venv")).unwrap();
    let args = ["\"[1, 2]\"", r#""{\"items\": {\"minimum\": 2}}""#];
    let fault = "[{\"path\":\"/0\",\"rule\":\"/items/minimum\",\
                 \"message\":\"1 is less than the minimum of 2\"}]\n";
    answers(&project, "build/schema.wasm", "schema.check", &args, fault);
}
