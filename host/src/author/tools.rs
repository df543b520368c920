//! Finds the tools of languages, runs them, and keeps what they say.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context as _, anyhow};

/// Most that is kept of what a tool says, in bytes; its end is what matters.
const MAX_SAID: u64 = 1 << 20;

/// Where programs may be.
#[derive(Debug)]
pub(super) struct Tools {
    /// The project's own, and those of folders above.
    own: Vec<PathBuf>,
    path: Vec<PathBuf>,
}

/// A program to run, in the project's folder.
#[derive(Debug)]
pub(super) struct Step {
    /// As it is called for people.
    pub(super) name: &'static str,
    pub(super) program: PathBuf,
    pub(super) args: Vec<OsString>,
    pub(super) env: Vec<(&'static str, OsString)>,
}

/// What a tool wrote.
#[derive(Debug)]
pub(super) struct Wrote {
    pub(super) stdout: Vec<u8>,
    /// What is for people; with standard output, unless that was asked for.
    pub(super) said: Vec<u8>,
}

/// A tool ended with a failure.
#[derive(Debug)]
pub struct ToolFailed {
    /// The tool.
    pub name: &'static str,
    /// Its own words, as it wrote them.
    pub said: Vec<u8>,
    status: ExitStatus,
}

impl std::fmt::Display for ToolFailed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` failed ({})", self.name, self.status)
    }
}

impl std::error::Error for ToolFailed {}

impl Tools {
    /// Those that a project sees: in its virtual environment and its `node_modules`, in those of
    /// the folders above as far as nobody else can put anything there, and in the `PATH`.
    pub(super) fn of(directory: &Path) -> Self {
        let above = directory.ancestors().skip(1).take_while(|folder| is_own(folder));
        let own = std::iter::once(directory)
            .chain(above)
            .flat_map(|folder| [folder.join(".venv/bin"), folder.join("node_modules/.bin")]);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::split_paths(&path);
        let is_there = |place: &PathBuf| place.is_dir();
        Self { own: own.filter(is_there).collect(), path: path.filter(is_there).collect() }
    }

    /// The first program of these names, the project's own before others.
    ///
    /// # Errors
    ///
    /// Names the command that installs it.
    pub(super) fn find(&self, names: &[&str], install: &str) -> anyhow::Result<PathBuf> {
        first(&self.own.iter().chain(&self.path), names, install)
    }

    /// The same for programs that no project has of its own: of the `PATH` first.
    ///
    /// # Errors
    ///
    /// As [`Tools::find`].
    pub(super) fn find_shared(&self, names: &[&str], install: &str) -> anyhow::Result<PathBuf> {
        first(&self.path.iter().chain(&self.own), names, install)
    }
}

/// The first program in these places, by the first name that any has.
fn first<'a>(
    places: &(impl Iterator<Item = &'a PathBuf> + Clone),
    names: &[&str],
    install: &str,
) -> anyhow::Result<PathBuf> {
    let is_program = |path: &PathBuf| {
        let found = std::fs::metadata(path);
        found.is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    let here = |name: &&str| places.clone().map(|place| place.join(name)).find(is_program);
    names.iter().find_map(here).ok_or_else(|| {
        let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
        anyhow!("{} is not installed; run: {install}", names.join(" or "))
    })
}

/// Whether nobody but this user and root can put a program there.
fn is_own(folder: &Path) -> bool {
    const OTHERS_WRITE: u32 = 0o022;
    std::fs::metadata(folder).is_ok_and(|folder| {
        [0, rustix::process::geteuid().as_raw()].contains(&folder.uid())
            && folder.mode() & OTHERS_WRITE == 0
    })
}

impl Step {
    pub(super) fn new(name: &'static str, program: &Path) -> Self {
        Self { name, program: program.to_owned(), args: Vec::new(), env: Vec::new() }
    }

    pub(super) fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    pub(super) fn env(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.env.push((name, value.into()));
        self
    }

    /// Runs it. With `apart`, standard output is not what people read.
    pub(super) fn run(&self, directory: &Path, colour: bool, apart: bool) -> anyhow::Result<Wrote> {
        let unusable = || format!("`{}` cannot be run", self.name);
        // Files, not pipes: both streams stay in order, and none fills up.
        let said = tempfile::tempfile().with_context(unusable)?;
        let stdout = if apart {
            tempfile::tempfile().with_context(unusable)?
        } else {
            said.try_clone().with_context(unusable)?
        };
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(stdout.try_clone().with_context(unusable)?)
            .stderr(said.try_clone().with_context(unusable)?);
        if colour {
            command.env("CARGO_TERM_COLOR", "always").env("FORCE_COLOR", "1");
        }
        let status = command
            .status()
            .with_context(|| format!("`{}` cannot be started", self.program.display()))?;
        let said = read(said).with_context(unusable)?;
        if !status.success() {
            return Err(anyhow!(ToolFailed { name: self.name, said, status }));
        }
        let stdout = if apart { read(stdout).with_context(unusable)? } else { Vec::new() };
        Ok(Wrote { stdout, said })
    }
}

/// The end of a file, all of it if it is not too long.
fn read(mut file: File) -> std::io::Result<Vec<u8>> {
    let length = file.metadata()?.len();
    file.seek(std::io::SeekFrom::Start(length.saturating_sub(MAX_SAID)))?;
    let mut bytes = Vec::new();
    file.take(MAX_SAID).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(folder: &Path, mode: u32) {
        let places = folder.join("node_modules/.bin");
        std::fs::create_dir_all(&places).unwrap();
        for name in ["asc", "rustc"] {
            std::fs::write(places.join(name), "").unwrap();
            let runs = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(places.join(name), runs).unwrap();
        }
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn tools_of_folders_above_count_where_nobody_else_could_put_them() {
        for (mode, counts) in [(0o755, true), (0o775, false), (0o1777, false)] {
            let outer = tempfile::tempdir().unwrap();
            let project = outer.path().join("a/b");
            std::fs::create_dir_all(&project).unwrap();
            let closed = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(outer.path().join("a"), closed).unwrap();
            put(outer.path(), mode);
            let mut tools = Tools::of(&project);
            tools.path = vec![];
            let found = tools.find(&["asc"], "npm install");
            assert_eq!(found.is_ok(), counts, "{mode:o}");
            // What is in the project itself is the project.
            put(&project, mode);
            let own = Tools::of(&project).find(&["asc"], "npm install").unwrap();
            assert_eq!(own, project.join("node_modules/.bin/asc"));
        }
    }

    #[test]
    fn what_no_project_has_of_its_own_is_taken_from_the_path() {
        let project = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        put(project.path(), 0o755);
        put(other.path(), 0o755);
        let mut tools = Tools::of(project.path());
        let place = other.path().join("node_modules/.bin");
        tools.path = vec![place.clone()];
        assert_eq!(tools.find_shared(&["rustc"], "").unwrap(), place.join("rustc"));
        assert!(tools.find(&["rustc"], "").unwrap().starts_with(project.path()));
        let error = tools.find(&["zig", "python-zig"], "do this").unwrap_err().to_string();
        assert_eq!(error, "`zig` or `python-zig` is not installed; run: do this");
    }
}
