//! The routing table: from the names that callers use to plugins.
//!
//! Made at load; nothing from the wire is looked up anywhere else.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::warn;

use super::plugin::Plugin;
use super::typed::{normal, resolve};

/// Most remembered changes; older ones are dropped first. They only decide
/// whether an error is called retryable.
const MAX_CHANGES: usize = 256;

/// Most names in a warning.
const MAX_SHOWN: usize = 8;

/// Characters that may stand between a plugin's name and the rest.
const SEPARATORS: [char; 3] = ['.', ':', '/'];

/// An immutable set of plugins and their names.
#[derive(Debug, Clone)]
pub(super) struct Table {
    plugins: BTreeMap<Arc<str>, Arc<Plugin>>,
    /// Names that do not begin with a plugin's: the plugin, and what stands
    /// behind its name in the canonical one.
    aliases: HashMap<String, (Arc<str>, String)>,
    /// Aliases that two methods could claim.
    ambiguous: BTreeSet<String>,
    default: Option<String>,
    warned_of_no_default: bool,
    changes: Vec<(Arc<str>, Instant)>,
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
        }
    }

    /// A method by any of its names; `None` stands for the default method.
    pub(super) fn find(&self, method: Option<&str>) -> Option<(Arc<Plugin>, String)> {
        let name = match method {
            Some(name) => name,
            None => self.default_method()?,
        };
        if !self.ambiguous.is_empty() && self.ambiguous.contains(&normal(name)) {
            return None;
        }
        if let Some(found) = self.find_by_plugin(name) {
            return Some(found);
        }
        let (plugin, method) = self.aliases.get(&normal(name))?;
        let plugin = self.plugins.get(plugin)?;
        Some((plugin.clone(), plugin.canonical(Some(method))?))
    }

    /// A method whose name begins with the plugin's.
    fn find_by_plugin(&self, name: &str) -> Option<(Arc<Plugin>, String)> {
        let (plugin, rest) = match name.split_once(SEPARATORS) {
            Some((plugin, rest)) => (plugin, Some(rest)),
            None => (name, None),
        };
        let plugin = self.plugins.get(plugin)?;
        Some((plugin.clone(), plugin.canonical(rest)?))
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
        self.note_change(plugin.id().name.clone(), now);
        if let Some(replaced) = self.plugins.insert(plugin.id().name.clone(), plugin) {
            replaced.retire(true);
        }
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
        let (name, plugin) = self.plugins.remove_entry(name)?;
        plugin.retire(true);
        self.note_change(name, now);
        self.find_aliases();
        Some(plugin)
    }

    /// Finds out which aliases lead where, and warns of those that lead nowhere
    /// from now on.
    fn find_aliases(&mut self) {
        let claims = self.plugins.iter().flat_map(|(plugin, served)| {
            let claim = |(alias, method): (&str, &str)| {
                (normal(alias), (plugin.clone(), method.to_owned()))
            };
            served.wit_names().into_iter().map(claim).collect::<Vec<_>>()
        });
        let (aliases, mut ambiguous) = resolve([], claims);
        // A handler takes all names that begin with its own.
        let taken = aliases.keys().filter(|alias| self.find_by_plugin(alias).is_some());
        ambiguous.extend(taken.cloned());
        let new: Vec<_> =
            ambiguous.difference(&self.ambiguous).map(|alias| format!("`{alias}`")).collect();
        if !new.is_empty() {
            let shown: Vec<_> = new.iter().take(MAX_SHOWN).cloned().collect();
            warn!(
                "{} names could be several methods, so they are none of them: {}{}; name the \
                 plugin first, as in `PLUGIN.FUNCTION`",
                new.len(),
                shown.join(", "),
                if new.len() > shown.len() { ", …" } else { "" }
            );
        }
        self.aliases = aliases;
        self.ambiguous = ambiguous;
    }

    pub(super) fn plugins(&self) -> impl Iterator<Item = &Arc<Plugin>> {
        self.plugins.values()
    }

    /// Number of methods of all plugins.
    pub(super) fn methods(&self) -> usize {
        self.plugins.values().map(|plugin| plugin.methods()).sum()
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
