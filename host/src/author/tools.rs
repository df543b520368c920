//! Finds the tools of languages, runs them, and keeps what they say.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context as _, anyhow};

/// Most that is kept of what a tool says, in bytes; its end is what matters.
const MAX_SAID: u64 = 1 << 20;

/// Where programs may be: those of the project first.
#[derive(Debug)]
pub(super) struct Tools {
    places: Vec<PathBuf>,
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
    /// the folders above, and in the `PATH`.
    pub(super) fn of(directory: &Path) -> Self {
        let own = directory
            .ancestors()
            .flat_map(|folder| [folder.join(".venv/bin"), folder.join("node_modules/.bin")]);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let places = own.chain(std::env::split_paths(&path)).filter(|place| place.is_dir());
        Self { places: places.collect() }
    }

    /// The first program of these names.
    ///
    /// # Errors
    ///
    /// Names the command that installs it.
    pub(super) fn find(&self, names: &[&str], install: &str) -> anyhow::Result<PathBuf> {
        let is_program = |path: &PathBuf| {
            let found = std::fs::metadata(path);
            found.is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
        };
        let here = |name: &&str| self.places.iter().map(|place| place.join(name)).find(is_program);
        names.iter().find_map(here).ok_or_else(|| {
            let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
            anyhow!("{} is not installed; run: {install}", names.join(" or "))
        })
    }
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
