//! Makes a project out of the templates.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::{matrix, templates};
use crate::config::{Language, PluginKind};
use crate::plugins::is_plugin_name;

/// A project that was made.
#[derive(Debug)]
pub struct Created {
    /// Its folder.
    pub directory: PathBuf,
    /// Its files, relative to that.
    pub files: Vec<String>,
    /// What to type before the first build, if anything.
    pub prepare: Option<&'static str>,
}

/// Writes a project into a folder that is not there yet.
///
/// # Errors
///
/// When the language's tools cannot make that kind, the name cannot be a plugin's, or something is
/// there already: nothing is ever overwritten.
pub fn create(
    parent: &Path,
    name: &str,
    language: Language,
    kind: PluginKind,
) -> anyhow::Result<Created> {
    check_name(name)?;
    if let Err(reason) = matrix::offered(language, kind) {
        bail!("there is no template for {}: {reason}", language.name());
    }
    let directory = parent.join(name);
    // The one step that cannot be shared with anybody else who makes it at the same time.
    std::fs::create_dir(&directory).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => anyhow::anyhow!(
            "`{}` is there already, and nothing is overwritten; take another name, or remove it",
            directory.display()
        ),
        _ => anyhow::anyhow!("`{}` cannot be made: {error}", directory.display()),
    })?;
    let mut files = Vec::new();
    for (path, text) in templates::render(name, language, kind) {
        let to = directory.join(&path);
        let folder = to.parent().unwrap_or(&directory);
        std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(&to, text))
            .with_context(|| format!("`{}` cannot be written", to.display()))?;
        files.push(path);
    }
    Ok(Created { directory, files, prepare: templates::prepare(language) })
}

/// A plugin's name that WIT, and each language, takes as the name of a package.
fn check_name(name: &str) -> anyhow::Result<()> {
    if !is_plugin_name(name) {
        bail!(
            "`{name}` cannot be a plugin's name, which has 1 to 64 of `a-z`, `0-9`, `_` and `-`, \
             and begins with a letter or digit"
        );
    }
    let words = || name.split(['-', '_']);
    if !words().all(|word| word.starts_with(|first: char| first.is_ascii_lowercase())) {
        bail!(
            "`{name}` cannot name a package of WIT: each of its words, between `-`, begins with a \
             letter"
        );
    }
    if templates::is_reserved(name) {
        bail!(
            "`{name}` is a word of WIT or of a language's; take another name, such as `my-{name}`"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_package_can_have_are_refused_before_anything_is_written() {
        for name in ["hello", "my-plugin", "my_plugin", "v2", "a-b-c"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", "Hello", "3d", "my--plugin", "a-1", "record", "match", "-x", "x/y", ".."]
            .into_iter()
            .chain(["abstract", "try", "gen", "error_context", "deps"])
        {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
