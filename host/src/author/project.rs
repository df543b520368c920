//! A project on disk: what its file says, where its results are, and how they are made.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::recipes::Workshop;
use super::{embed, recipes, wit};
use crate::config::{Limits, PROJECT_FILE, PluginKind, ProjectConfig};
use crate::plugins::{Engine, Plugin, Plugins, componentize, error_kinds, is_plugin_name};

/// Where the results of a project are, and whatever is made on the way.
pub(super) const BUILD: &str = "build";

/// A project.
#[derive(Debug)]
pub struct Project {
    /// The folder that its file is in, absolute.
    pub directory: PathBuf,
    /// What its file says.
    pub config: ProjectConfig,
}

/// What came of building one.
#[derive(Debug)]
pub struct Built {
    /// The component, or a program as its tools made it.
    pub file: PathBuf,
    /// Its size in bytes.
    pub size: usize,
    /// What the tools said, if they warned of something.
    pub said: Vec<u8>,
}

impl Project {
    /// Reads the project in a folder.
    ///
    /// # Errors
    ///
    /// When there is none, or something is wrong with its file.
    pub fn open(directory: &Path) -> anyhow::Result<Self> {
        let path = directory.join(PROJECT_FILE);
        let text = std::fs::read_to_string(&path).with_context(|| {
            format!("`{}` cannot be read; `rpchost new` makes a project", path.display())
        })?;
        let config = ProjectConfig::parse(&text, &path, &error_kinds())
            .map_err(|problems| anyhow::anyhow!("{problems}"))?;
        if !is_plugin_name(&config.name) {
            bail!(
                "`{}` says `name = \"{}\"`, but a plugin's name has 1 to 64 of `a-z`, `0-9`, `_` \
                 and `-`, and begins with a letter or digit",
                path.display(),
                config.name
            );
        }
        let directory = directory
            .canonicalize()
            .with_context(|| format!("`{}` cannot be opened", directory.display()))?;
        Ok(Self { directory, config })
    }

    /// Where the component is, once it is built.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.build_directory().join(format!("{}.wasm", self.config.name))
    }

    pub(super) fn build_directory(&self) -> PathBuf {
        self.directory.join(BUILD)
    }

    /// Has the language's tools make the component, checks that a host would take it, and writes
    /// into it what the project says of it. Blocks. `plugins` is where it is meant to go, with the
    /// configuration that it has there; `progress` hears what is being done.
    ///
    /// # Errors
    ///
    /// [`ToolFailed`](super::ToolFailed) with a tool's own words, or what is missing or wrong.
    pub fn build(
        &self,
        engine: &Engine,
        limits: &Limits,
        plugins: Option<&Path>,
        colour: bool,
        progress: &mut dyn FnMut(&str),
    ) -> anyhow::Result<Built> {
        let wit = wit::Wit::read(&self.directory.join("wit"))?;
        let build = self.build_directory();
        std::fs::create_dir_all(&build)
            .with_context(|| format!("`{}` cannot be made", build.display()))?;
        let mut workshop = Workshop::new(self, wit.as_ref(), colour, progress);
        let raw = recipes::make(&mut workshop)?;
        let said = workshop.said();
        progress("checking");
        let component = componentize(engine, &raw).context("what the tools made is unusable")?;
        let docs = wit.map(|wit| wit.docs()).unwrap_or_default();
        let finished = embed::embed(&component, &self.config, &docs)?;
        let file = self.file();
        put(&file, &finished)?;
        if let Err(error) = self.check(engine, limits, plugins) {
            // Nothing may take it for the result of a build.
            std::fs::remove_file(&file)
                .with_context(|| format!("`{}` cannot be removed", file.display()))?;
            return Err(error);
        }
        Ok(Built { file, size: finished.len(), said })
    }

    /// Loads what was built as a host would.
    fn check(
        &self,
        engine: &Engine,
        limits: &Limits,
        plugins: Option<&Path>,
    ) -> anyhow::Result<()> {
        let plugin = self.load(engine, limits, plugins)?;
        let made = plugin.kind();
        match self.config.kind {
            Some(wanted) if made != wanted.into() => bail!(
                "`{PROJECT_FILE}` says `kind = \"{}\"`, but what was made is of the kind \
                 `{made}`",
                name_of(wanted)
            ),
            _ => Ok(()),
        }
    }

    /// Loads what was built, to be called, with the configuration that it has in `plugins`; where
    /// it goes nowhere, with one that is in the project.
    ///
    /// # Errors
    ///
    /// Says why a host would not take it.
    pub fn load(
        &self,
        engine: &Engine,
        limits: &Limits,
        plugins: Option<&Path>,
    ) -> anyhow::Result<std::sync::Arc<Plugin>> {
        let served = Plugins::new(None);
        let place = Some(plugins.unwrap_or(&self.directory));
        served.load_file_as_in(place, engine, &self.file(), limits)?;
        served.only().context("the plugin that was loaded is gone")
    }

    /// Puts what was built into a plugin directory, where a host finds all of it or nothing.
    ///
    /// # Errors
    ///
    /// When it cannot be written there.
    pub fn install(&self, plugins: &Path) -> anyhow::Result<PathBuf> {
        let file = self.file();
        let bytes =
            std::fs::read(&file).with_context(|| format!("`{}` cannot be read", file.display()))?;
        let to = plugins.join(format!("{}.wasm", self.config.name));
        put(&to, &bytes)?;
        Ok(to)
    }

    /// The plugin directory that is nearest: `plugins` in this folder or one above it.
    #[must_use]
    pub fn nearest_plugins(&self) -> Option<PathBuf> {
        self.directory.ancestors().map(|folder| folder.join("plugins")).find(|path| path.is_dir())
    }
}

fn name_of(kind: PluginKind) -> &'static str {
    super::KINDS.iter().find(|(_, known)| *known == kind).map_or("", |(name, _)| name)
}

/// Writes a file beside its place and renames it.
fn put(to: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    // What any file made here would have, for those who may read it.
    const MODE: u32 = 0o644;
    let unwritable = || format!("`{}` cannot be written", to.display());
    let folder = to.parent().unwrap_or_else(|| Path::new("."));
    // Hosts pass over hidden files.
    let mut file = tempfile::Builder::new()
        .prefix(".rpchost-")
        .permissions(std::fs::Permissions::from_mode(MODE))
        .tempfile_in(folder)
        .with_context(unwritable)?;
    file.write_all(bytes).with_context(unwritable)?;
    file.as_file().sync_all().with_context(unwritable)?;
    file.persist(to).with_context(unwritable)?;
    Ok(())
}
