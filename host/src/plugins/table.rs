//! The routing table: from the names that callers use to plugins.
//!
//! Made at load; nothing from the wire is looked up anywhere else.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::warn;

use super::discovery::Told;
use super::plugin::Plugin;
use super::refused::{Refused, RefusedFiles};
use super::served;
use super::typed::{normal, resolve};

/// Most remembered changes; older ones are dropped first. They only decide
/// whether an error is called retryable.
const MAX_CHANGES: usize = 256;

/// Most names in a warning.
const MAX_SHOWN: usize = 8;

/// Characters that may stand between a plugin's name and the rest.
pub(super) const SEPARATORS: [char; 3] = ['.', ':', '/'];

/// An immutable set of plugins and their names.
#[derive(Debug, Clone)]
pub(super) struct Table {
    plugins: BTreeMap<Arc<str>, Served>,
    /// Names that do not begin with a plugin's: the plugin, and what stands
    /// behind its name in the canonical one.
    aliases: HashMap<String, (Arc<str>, String)>,
    /// Aliases that two methods could claim.
    ambiguous: BTreeSet<String>,
    default: Option<String>,
    warned_of_no_default: bool,
    changes: Vec<(Arc<str>, Instant)>,
    told: Told,
    /// Plugins that are about to go. They serve, and nothing more is fetched
    /// for them.
    leaving: BTreeSet<Arc<str>>,
    refused: RefusedFiles,
}

/// A plugin that is served.
#[derive(Debug, Clone)]
struct Served {
    newest: Arc<Plugin>,
    /// The healthy version that it has replaced, for as long as it is on trial.
    before: Option<Arc<Plugin>>,
}

impl Served {
    /// The version that calls go to. A condemned one is left at once, before
    /// the reloader makes it official.
    fn plugin(&self) -> &Arc<Plugin> {
        match &self.before {
            Some(before) if self.newest.circuit().is_condemned() => before,
            _ => &self.newest,
        }
    }

    /// The version that the next one may have to make room for again.
    fn worth_coming_back_to(self, now: Instant) -> Option<Arc<Plugin>> {
        let circuit = self.newest.circuit();
        let is_known = circuit.is_proven() || self.before.is_none();
        if is_known && circuit.stand_by(now) { Some(self.newest) } else { self.before }
    }
}

impl Table {
    pub(super) fn new(default: Option<String>) -> Self {
        Self {
            plugins: BTreeMap::new(),
            aliases: HashMap::new(),
            ambiguous: BTreeSet::new(),
            default,
            warned_of_no_default: false,
            changes: Vec::new(),
            told: Told::default(),
            leaving: BTreeSet::new(),
            refused: RefusedFiles::default(),
        }
    }

    /// What callers were told about this table.
    pub(super) fn told(&self) -> &Told {
        &self.told
    }

    /// A method by any of its names; `None` stands for the default method.
    pub(super) fn find(&self, method: Option<&str>) -> Option<(Arc<Plugin>, String)> {
        let name = match method {
            Some(name) => name,
            None => self.default_method()?,
        };
        if self.is_ambiguous(name) {
            return None;
        }
        if let Some(found) = self.find_by_plugin(name) {
            return Some(found);
        }
        let (plugin, method) = self.aliases.get(&normal(name))?;
        let plugin = self.plugins.get(plugin)?.plugin();
        Some((plugin.clone(), plugin.canonical(Some(method))?))
    }

    /// Whether a name is an alias that two methods could claim.
    pub(super) fn is_ambiguous(&self, name: &str) -> bool {
        !self.ambiguous.is_empty() && self.ambiguous.contains(&normal(name))
    }

    /// A method whose name begins with the plugin's.
    fn find_by_plugin(&self, name: &str) -> Option<(Arc<Plugin>, String)> {
        let (plugin, rest) = match name.split_once(SEPARATORS) {
            Some((plugin, rest)) => (plugin, Some(rest)),
            None => (name, None),
        };
        let plugin = self.plugins.get(plugin)?.plugin();
        Some((plugin.clone(), plugin.canonical(rest)?))
    }

    /// Why a method cannot be called that is there all the same.
    pub(super) fn why_not_callable(&self, name: &str) -> Option<String> {
        let (plugin, method) = name.split_once(SEPARATORS)?;
        let reason = self.plugins.get(plugin)?.plugin().why_not_callable(method)?;
        Some(format!("`{name}` cannot be called: {reason}"))
    }

    /// The configured method, else the plugin `default`, else the only one.
    fn default_method(&self) -> Option<&str> {
        if let Some(name) = &self.default {
            return Some(name);
        }
        if let Some((name, _)) = self.plugins.get_key_value("default") {
            return Some(name);
        }
        let mut names = self.plugins.keys();
        match (names.next(), names.next()) {
            (Some(only), None) => Some(only),
            _ => None,
        }
    }

    pub(super) fn why_no_default(&self) -> String {
        match (&self.default, self.methods()) {
            (Some(name), _) => format!("the default method `{name}` is not there"),
            (None, 0) => "there is no method at all".to_owned(),
            (None, count) => format!(
                "the message names no method, and there are {count}: name one in the \
                 property `type` or the header `rpc-method`, or have the operator name a default \
                 with `--default-method`"
            ),
        }
    }

    pub(super) fn insert(&mut self, plugin: Arc<Plugin>, now: Instant) {
        let had_default = self.find(None).is_some();
        self.leaving.remove(&plugin.id().name);
        self.note_change(plugin.id().name.clone(), now);
        let replaced = self.plugins.remove(&plugin.id().name);
        let before = replaced.and_then(|replaced| {
            replaced.newest.retire(true);
            replaced.worth_coming_back_to(now)
        });
        if before.is_some() {
            plugin.circuit().put_on_trial();
        }
        self.plugins.insert(plugin.id().name.clone(), Served { newest: plugin, before });
        self.find_aliases();
        if had_default && self.find(None).is_none() && !self.warned_of_no_default {
            self.warned_of_no_default = true;
            let names: Vec<_> = self.plugins.keys().map(|name| format!("`{name}`")).collect();
            warn!(
                "messages that name no method are answered `method-not-found` from now on, \
                 because there are several, of {}; name one with `--default-method`",
                names.join(", ")
            );
        }
    }

    pub(super) fn remove(&mut self, name: &str, now: Instant) -> Option<Arc<Plugin>> {
        let (name, served) = self.plugins.remove_entry(name)?;
        self.leaving.remove(&name);
        served.newest.retire(true);
        self.note_change(name, now);
        self.find_aliases();
        Some(served.newest)
    }

    /// Notes that a file is not served as it is now.
    pub(super) fn refuse(&mut self, name: &str, refused: Refused) {
        self.refused.insert(name, refused);
        self.told = Told::default();
    }

    /// Forgets what was held against a file.
    pub(super) fn accept(&mut self, name: &str) {
        self.refused.remove(name);
        self.told = Told::default();
    }

    pub(super) fn refused(&self) -> &RefusedFiles {
        &self.refused
    }

    /// Notes whether a plugin is about to go.
    pub(super) fn set_leaving(&mut self, name: &str, leaving: bool) {
        if !leaving {
            self.leaving.remove(name);
        } else if let Some((name, _)) = self.plugins.get_key_value(name) {
            self.leaving.insert(name.clone());
        }
    }

    pub(super) fn is_leaving(&self, name: &str) -> bool {
        self.leaving.contains(name)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.plugins.contains_key(name)
    }

    /// What requests may be fetched for.
    pub(super) fn served(&self) -> served::Served {
        let stay = self.plugins.iter().filter(|(name, _)| !self.leaving.contains(*name));
        let plugins = stay.map(|(name, one)| (name.clone(), one.plugin().method_names()));
        served::Served { methods: self.methods(), plugins: plugins.collect() }
    }

    /// Whether calls of its plugin go to this version.
    pub(super) fn serves(&self, plugin: &Plugin) -> bool {
        let served = self.plugins.get(&plugin.id().name).map(Served::plugin);
        served.is_some_and(|served| std::ptr::eq(Arc::as_ptr(served), plugin))
    }

    /// Versions that are condemned, each with the one that calls go to instead.
    pub(super) fn condemned(&self) -> Vec<(Arc<Plugin>, Arc<Plugin>)> {
        let condemned = self.plugins.values().filter(|one| one.newest.circuit().is_condemned());
        condemned.map(|one| (one.newest.clone(), one.plugin().clone())).collect()
    }

    /// Serves the version before the newest one again.
    pub(super) fn take_back(&mut self, name: &str, now: Instant) {
        let Some(served) = self.plugins.get_mut(name) else { return };
        let Some(before) = served.before.take() else { return };
        before.retire(false);
        served.newest.retire(true);
        served.newest = before;
        self.note_change(Arc::from(name), now);
        self.find_aliases();
    }

    /// Whether a trial is over, so that a version can go.
    pub(super) fn has_outlived(&self, now: Instant) -> bool {
        let is_over = |one: &Served| one.newest.circuit().end_trial(now);
        self.plugins.values().any(|one| one.before.is_some() && is_over(one))
    }

    /// Lets go of versions that nobody comes back to.
    pub(super) fn drop_outlived(&mut self, now: Instant) {
        for served in self.plugins.values_mut() {
            if served.newest.circuit().end_trial(now) {
                served.before = None;
            }
        }
    }

    /// Finds out which aliases lead where, and warns of those that lead nowhere
    /// from now on.
    fn find_aliases(&mut self) {
        let claims = self.plugins.iter().flat_map(|(plugin, served)| {
            let claim = |(alias, method): (&str, &str)| {
                (normal(alias), (plugin.clone(), method.to_owned()))
            };
            served.plugin().wit_names().into_iter().map(claim).collect::<Vec<_>>()
        });
        let (aliases, mut ambiguous) = resolve([], claims);
        // A handler takes all names that begin with its own.
        let taken = aliases.keys().filter(|alias| self.find_by_plugin(alias).is_some());
        ambiguous.extend(taken.cloned());
        let new: BTreeSet<_> = ambiguous.difference(&self.ambiguous).cloned().collect();
        if !new.is_empty() {
            warn!(
                "{} names could be several methods, so they are none of them: {}; {} claim them, \
                 so name the plugin first, as in `PLUGIN.FUNCTION`",
                new.len(),
                shown(new.iter()),
                shown(self.claimants(&new).into_iter())
            );
        }
        self.aliases = aliases;
        self.ambiguous = ambiguous;
        self.told = Told::default();
    }

    /// The plugins that have a method of such a name, or take it for one that begins with their own.
    fn claimants(&self, aliases: &BTreeSet<String>) -> BTreeSet<&str> {
        let claim = |name: &str, plugin: &Plugin| {
            let owns = |alias: &String| alias.split(SEPARATORS).next() == Some(name);
            let has = |(alias, _): (&str, &str)| aliases.contains(&normal(alias));
            aliases.iter().any(owns) || plugin.wit_names().into_iter().any(has)
        };
        let all = self.plugins.iter().filter(|(name, served)| claim(name, served.plugin()));
        all.map(|(name, _)| &**name).collect()
    }

    /// What calls of a plugin go to.
    pub(super) fn plugin(&self, name: &str) -> Option<&Arc<Plugin>> {
        self.plugins.get(name).map(Served::plugin)
    }

    pub(super) fn plugins(&self) -> impl Iterator<Item = &Arc<Plugin>> {
        self.plugins.values().map(Served::plugin)
    }

    /// Number of methods of all plugins.
    pub(super) fn methods(&self) -> usize {
        self.plugins().map(|plugin| plugin.methods()).sum()
    }

    /// Whether the plugin that `method` belongs to was changed a moment ago;
    /// for the default method and for names of WIT, any plugin.
    pub(super) fn changed_since(
        &self,
        method: Option<&str>,
        now: Instant,
        window: Duration,
    ) -> bool {
        // A name of WIT does not say which plugin it was of.
        let is_wit = |name: &&str| name.contains(':') && name.contains('/');
        let plugin = method
            .filter(|name| !is_wit(name))
            .map(|name| name.split(SEPARATORS).next().unwrap_or(name));
        self.changes.iter().any(|(name, at)| {
            now.saturating_duration_since(*at) < window
                && plugin.is_none_or(|plugin| plugin == &**name)
        })
    }

    fn note_change(&mut self, name: Arc<str>, now: Instant) {
        self.changes.retain(|(changed, _)| *changed != name);
        if self.changes.len() >= MAX_CHANGES {
            self.changes.remove(0);
        }
        self.changes.push((name, now));
    }
}

/// The first few of these names, for a warning.
fn shown(names: impl ExactSizeIterator<Item = impl std::fmt::Display>) -> String {
    let more = if names.len() > MAX_SHOWN { ", …" } else { "" };
    let first: Vec<_> = names.take(MAX_SHOWN).map(|name| format!("`{name}`")).collect();
    format!("{}{more}", first.join(", "))
}
