//! A project's WIT: its world, and what the comments in it say.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::{Function, Package, Resolve, WorldId, WorldItem};

/// The world of the templates; another one serves if it is the only one.
const WORLD: &str = "plugin";

/// What the host's log is called.
const LOGGING: &str = "wasi:logging/logging@0.1.0-draft";

/// Its WIT.
const LOGGING_WIT: &str = include_str!("../../templates/javascript/logging.wit");

/// The WIT of a project.
#[derive(Debug)]
pub(super) struct Wit {
    /// The folder.
    pub(super) path: PathBuf,
    /// Everything in it.
    pub(super) resolve: Resolve,
    /// The world that the plugin is of.
    pub(super) world: WorldId,
    /// That world's name.
    pub(super) name: String,
}

impl Wit {
    /// Reads a folder, if there is one.
    pub(super) fn read(path: &Path) -> anyhow::Result<Option<Self>> {
        if !path.is_dir() {
            return Ok(None);
        }
        let mut resolve = Resolve::default();
        let pushed = resolve.push_dir(path);
        // With the file, the line and a drawing of the place.
        let (package, _) = pushed.map_err(|error| anyhow!("{}", resolve.render_error(&error)))?;
        let world = resolve
            .select_world(&[package], Some(WORLD))
            .or_else(|_| resolve.select_world(&[package], None))
            .with_context(|| {
                format!("`{}` needs one world, or one called `{WORLD}`", path.display())
            })?;
        let name = resolve.worlds.get(world).map(|world| world.name.clone()).unwrap_or_default();
        Ok(Some(Self { path: path.to_owned(), resolve, world, name }))
    }

    /// What the exported functions do, by their names: `acme:math/math.fib`, or `fib` for one of
    /// the world itself.
    pub(super) fn docs(&self) -> BTreeMap<String, String> {
        let mut docs = BTreeMap::new();
        let mut note = |name: String, function: &Function| {
            if let Some(text) = function.docs.contents.as_deref().map(str::trim)
                && !text.is_empty()
            {
                docs.insert(name, text.to_owned());
            }
        };
        let world = self.resolve.worlds.get(self.world);
        for (key, item) in world.into_iter().flat_map(|world| &world.exports) {
            match item {
                WorldItem::Function(function) => note(function.name.clone(), function),
                WorldItem::Interface { id, .. } => {
                    let interface = self.resolve.name_world_key(key);
                    let interface = interface.split('@').next().unwrap_or_default();
                    // What everybody exports is described elsewhere, and no method.
                    if ["rpchost:", "wasi:"].iter().any(|theirs| interface.starts_with(theirs)) {
                        continue;
                    }
                    let found = self.resolve.interfaces.get(*id);
                    for function in found.into_iter().flat_map(|found| found.functions.values()) {
                        note(format!("{interface}.{}", function.name), function);
                    }
                }
                WorldItem::Type { .. } => {}
            }
        }
        docs
    }

    /// What a module exports for this world: interface and function as WIT has them, and the name
    /// of the export.
    pub(super) fn exports(&self) -> Vec<(Option<String>, String, String)> {
        let world = self.resolve.worlds.get(self.world);
        let mut exports = Vec::new();
        for (key, item) in world.into_iter().flat_map(|world| &world.exports) {
            match item {
                WorldItem::Function(function) => {
                    exports.push((None, function.name.clone(), function.name.clone()));
                }
                WorldItem::Interface { id, .. } => {
                    let whole = self.resolve.name_world_key(key);
                    let short = whole.split('@').next().unwrap_or_default();
                    let short = short.rsplit('/').next().unwrap_or_default();
                    let found = self.resolve.interfaces.get(*id);
                    for name in found.into_iter().flat_map(|found| found.functions.keys()) {
                        let export = format!("{whole}#{name}");
                        exports.push((Some(short.to_owned()), name.clone(), export));
                    }
                }
                WorldItem::Type { .. } => {}
            }
        }
        exports
    }

    /// The namespaces of what the world imports.
    pub(super) fn namespaces(&self) -> BTreeSet<String> {
        let world = self.resolve.worlds.get(self.world);
        let imports = world.into_iter().flat_map(|world| world.imports.keys());
        let names = imports.map(|key| self.resolve.name_world_key(key));
        names.filter_map(|name| Some(name.split_once(':')?.0.to_owned())).collect()
    }

    /// Copies the WIT to a folder, with a world that may write to the host's log as well. Returns
    /// that world's name.
    pub(super) fn with_logging(&self, to: &Path) -> anyhow::Result<String> {
        let unwritable = || format!("`{}` cannot be written", to.display());
        if to.exists() {
            std::fs::remove_dir_all(to).with_context(unwritable)?;
        }
        copy(&self.path, to).with_context(unwritable)?;
        let world = format!("{}-and-log", self.name);
        let own = format!("world {world} {{ include {}; import {LOGGING}; }}\n", self.name);
        std::fs::write(to.join("rpchost-log.wit"), own).with_context(unwritable)?;
        let is_logging = |package: &Package| {
            (package.name.namespace.as_str(), package.name.name.as_str()) == ("wasi", "logging")
        };
        if !self.resolve.packages.iter().any(|(_, package)| is_logging(package)) {
            let deps = to.join("deps");
            std::fs::create_dir_all(&deps)
                .and_then(|()| std::fs::write(deps.join("wasi-logging.wit"), LOGGING_WIT))
                .with_context(unwritable)?;
        }
        Ok(world)
    }

    /// A core module with the world's types in it, for languages whose tools leave them out.
    pub(super) fn describe(&self, module: &[u8]) -> anyhow::Result<Vec<u8>> {
        let mut described = module.to_vec();
        embed_component_metadata(&mut described, &self.resolve, self.world, StringEncoding::UTF8)
            .context("its WIT does not fit what the tools made")?;
        Ok(described)
    }
}

/// Copies a folder of WIT, with its `deps`.
fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
