//! Files on disk become callable plugins.
//!
//! The whole face of the room: a routing table that readers see as one
//! immutable snapshot ([`Plugins::find`]), and a [`Reloader`] that replaces it.
//! Knows nothing of queues and messages on their way.

mod about;
mod cases;
mod circuit;
mod command;
mod compile;
mod condemned;
mod core_module;
mod describe;
mod discovery;
mod engine;
mod headers;
mod inspect;
mod kind;
mod loaders;
mod plugin;
mod pool;
mod refused;
mod reload;
mod reports;
mod scan;
mod self_test;
mod served;
mod signature;
mod stack;
mod store;
mod symbols;
mod table;
mod threads;
mod ticker;
mod trap;
mod turns;
mod typed;
mod waiting;
mod watch;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch as watch_channel};

pub use about::{
    About, CASES_SECTION, DESCRIPTION_SECTION, DOCS_SECTION, VERSION_SECTION, without_sections,
};
pub use cases::{
    Failure, error_kinds, run as run_case, shown as case_shown, to_json as cases_to_json,
};
use circuit::Turn;
pub use compile::{Budget, COMPILE_COMMAND, Confined, Helper, INVALID, UNABLE};
pub use core_module::{Source, componentize};
pub use describe::Method;
pub use engine::{Concurrency, Engine};
pub use inspect::{Import, Inspection, Offer, inspect, inspect_file};
pub use kind::Kind;
use loaders::Refusal;
pub use plugin::{Invocation, Plugin};
use refused::Cause;
pub use reload::{Reloader, RescanHandle};
pub use scan::is_name as is_plugin_name;
pub use self_test::{MAX_SELF_TEST, SelfTests};
pub use served::Served;
pub use stack::Place;
pub use symbols::{FIND_LINES_COMMAND, find_lines};
use table::Table;
pub use threads::{Threads, leave};

use crate::config::{Limits, PluginConfig};
use crate::message::{CallError, ErrorKind, PluginId, Terms};
use crate::telemetry::Telemetry;

/// How long after a plugin's change an unknown method may be worth another
/// try: the time a deleted plugin goes on serving.
const CHANGE_SETTLES: Duration = Duration::from_secs(2);

/// Longest part of an unknown method's name that is repeated in an error.
const MAX_NAME_SHOWN: usize = 128;

/// The plugins that are being served. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Plugins {
    table: Arc<ArcSwap<Table>>,
    served: Arc<watch_channel::Sender<Served>>,
    /// Wakes the reloader when a version was condemned.
    condemned: Arc<Notify>,
}

impl Plugins {
    /// An empty set, where messages that name no method go to `default`.
    pub fn new(default: Option<String>) -> Self {
        Self {
            table: Arc::new(ArcSwap::from_pointee(Table::new(default))),
            served: Arc::default(),
            condemned: Arc::default(),
        }
    }

    /// The plugin that serves a method, and the method's canonical name. The
    /// plugin's version stays as it is for as long as the `Arc` is held.
    ///
    /// # Errors
    ///
    /// `method-not-found`, retryable just after a change of that plugin.
    pub fn find(&self, method: Option<&str>) -> Result<(Arc<Plugin>, String), CallError> {
        let table = self.table.load();
        table.find(method).ok_or_else(|| {
            let not_callable = method.and_then(|name| table.why_not_callable(name));
            let retryable = not_callable.is_none()
                && table.changed_since(method, Instant::now(), CHANGE_SETTLES);
            let message = not_callable.unwrap_or_else(|| match method {
                Some(name) => {
                    let is_ambiguous = table.is_ambiguous(name);
                    let mut name = name.to_owned();
                    crate::message::truncate(&mut name, MAX_NAME_SHOWN);
                    if is_ambiguous {
                        format!(
                            "`{name}` could be several methods, so it is none of them: name the \
                             plugin first, as in `PLUGIN.FUNCTION`"
                        )
                    } else {
                        format!("there is no method `{name}`")
                    }
                }
                None => table.why_no_default(),
            });
            CallError::new(ErrorKind::MethodNotFound { retryable }, message)
        })
    }

    /// The same on the terms of a listener: in a plugin's own queue a method is
    /// looked for in that plugin first, and a listener may have a default
    /// method.
    ///
    /// # Errors
    ///
    /// As [`Plugins::find`].
    pub fn find_on(
        &self,
        terms: &Terms,
        method: Option<&str>,
    ) -> Result<(Arc<Plugin>, String), CallError> {
        let Some(name) = method else {
            let Some(default) = terms.default_method.as_deref() else { return self.find(None) };
            return self.find(Some(default)).map_err(|mut error| {
                error.message = format!(
                    "the message names no method, and the default method `{default}` is not there"
                );
                error
            });
        };
        if let Some(own) = &terms.plugin {
            let is_full = name
                .strip_prefix(&**own)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(table::SEPARATORS));
            if !is_full && let Ok(found) = self.find(Some(&format!("{own}.{name}"))) {
                return Ok(found);
            }
        }
        self.find(method)
    }

    /// Whether there is a plugin of that name, which may be about to go.
    pub fn has(&self, plugin: &str) -> bool {
        self.table.load().has(plugin)
    }

    /// Whether more than one plugin is served.
    pub fn several(&self) -> bool {
        self.table.load().plugins().nth(1).is_some()
    }

    /// The plugin, if there is just one.
    pub fn only(&self) -> Option<Arc<Plugin>> {
        let table = self.table.load();
        let mut plugins = table.plugins();
        plugins.next().filter(|_| plugins.next().is_none()).cloned()
    }

    /// Names of the plugins that are served now, sorted.
    pub fn names(&self) -> Vec<Arc<str>> {
        self.table.load().plugins().map(|plugin| plugin.id().name.clone()).collect()
    }

    /// Serves one file, outside of any plugin directory. Blocks.
    ///
    /// # Errors
    ///
    /// Says why the file cannot serve.
    pub fn load_file(&self, engine: &Engine, path: &Path, limits: &Limits) -> anyhow::Result<()> {
        self.load_file_as_in(None, engine, path, limits)
    }

    /// The same with the configuration that it has in the directory `place`, where it is put only
    /// later. Blocks.
    ///
    /// # Errors
    ///
    /// Says why the file could not serve there.
    pub fn load_file_as_in(
        &self,
        place: Option<&Path>,
        engine: &Engine,
        path: &Path,
        limits: &Limits,
    ) -> anyhow::Result<()> {
        let file = || format!("`{}`", path.display());
        let directory = match path.parent() {
            Some(directory) if !directory.as_os_str().is_empty() => directory,
            _ => Path::new("."),
        };
        let name = path
            .file_name()
            .and_then(|name| name.to_str()?.strip_suffix(".wasm"))
            .filter(|stem| scan::is_name(stem))
            .with_context(|| {
                format!("{} is not named as a plugin is, such as `fib.wasm`", file())
            })?;
        let mut contents = scan::read(directory, name)
            .with_context(file)?
            .with_context(|| format!("{} is being written", file()))?;
        if let Some(place) = place {
            contents.config = scan::read_config(place, name).with_context(file)?;
        }
        let plugin = contents.load(engine, name, limits).with_context(file)?;
        self.replace(|table| table.insert(Arc::new(plugin), Instant::now()));
        Ok(())
    }

    /// What is served, as it changes.
    pub fn served(&self) -> watch_channel::Receiver<Served> {
        self.served.subscribe()
    }

    /// Passes on what calls have found out about a version's health.
    pub fn heed(&self, plugin: &Plugin, telemetry: &Telemetry) {
        match plugin.circuit().news() {
            None => {}
            Some(Turn::Condemned) => self.condemned.notify_one(),
            // Of a version that was replaced meanwhile nobody needs to know.
            Some(_) if !self.table.load().serves(plugin) => {}
            Some(Turn::Opened { failures, calls, rest }) => {
                telemetry.circuit_opened(plugin.id(), failures, calls, rest);
            }
            Some(Turn::Reopened { rest }) => telemetry.circuit_reopened(plugin.id(), rest),
            Some(Turn::Closed) => telemetry.circuit_closed(plugin.id()),
        }
    }

    /// Notes whether a plugin is about to go, and nothing more is to be fetched
    /// for it.
    fn set_leaving(&self, name: &str, leaving: bool) {
        if self.table.load().is_leaving(name) != leaving {
            self.replace(|table| table.set_leaving(name, leaving));
        }
    }

    /// Waits until a version was condemned. May return without one.
    async fn has_condemned(&self) {
        self.condemned.notified().await;
    }

    /// Versions that are condemned, each with the one that calls go to instead.
    fn condemned(&self) -> Vec<(Arc<Plugin>, Arc<Plugin>)> {
        self.table.load().condemned()
    }

    /// Lets go of versions that were kept for the trial of others.
    fn drop_outlived(&self, now: Instant) {
        if self.table.load().has_outlived(now) {
            self.replace(|table| table.drop_outlived(now));
        }
    }

    /// Gives back the memory of instances that nobody has called for a while.
    fn drop_idle(&self, now: Instant) {
        for plugin in self.table.load().plugins() {
            plugin.drop_idle(now);
        }
    }

    /// Replaces the table as a whole. One writer only: the reloader.
    fn replace(&self, change: impl FnOnce(&mut Table)) {
        let mut table = Table::clone(&self.table.load());
        change(&mut table);
        let served = table.served();
        self.table.store(Arc::new(table));
        self.served.send_if_modified(|told| {
            let changed = *told != served;
            *told = served;
            changed
        });
    }
}

impl scan::Contents {
    fn id(&self, name: &str) -> PluginId {
        PluginId { name: Arc::from(name), digest: Arc::from(self.digest.as_str()) }
    }

    fn source(&self) -> Source<'_> {
        Source { wasm: &self.wasm, wit: self.wit.as_deref() }
    }

    fn config(&self, name: &str) -> anyhow::Result<PluginConfig> {
        Ok(match &self.config {
            Some(text) => PluginConfig::parse(text, &format!("{name}.toml"))?,
            None => PluginConfig::default(),
        })
    }

    /// Makes a plugin of what was read, and has it pass the cases that it brings.
    fn load_and_test(
        &self,
        engine: &Engine,
        name: &str,
        limits: &Limits,
        tests: Option<&SelfTests>,
    ) -> Result<Plugin, Refusal> {
        let refusal = |cause| move |error| Refusal::new(cause, &error);
        let plugin = self.load(engine, name, limits).map_err(refusal(Cause::Invalid))?;
        let config = self.config(name).map_err(refusal(Cause::Invalid))?;
        match tests {
            Some(tests) if config.self_test => tests.run(plugin).map_err(refusal(Cause::SelfTest)),
            _ => Ok(plugin),
        }
    }

    /// Makes a plugin of what was read.
    fn load(&self, engine: &Engine, name: &str, limits: &Limits) -> anyhow::Result<Plugin> {
        let config = self.config(name)?;
        let plugin = Plugin::load(engine, self.id(name), self.source(), &config, limits)?;
        Ok(plugin.of_file(&self.file))
    }
}
