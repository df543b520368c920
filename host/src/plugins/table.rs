//! The routing table: from the names that callers use to plugins.
//!
//! Made at load; nothing from the wire is looked up anywhere else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::warn;

use super::plugin::Plugin;

/// Most remembered changes; older ones are dropped first. They only decide
/// whether an error is called retryable.
const MAX_CHANGES: usize = 256;

/// Characters that may stand between a plugin's name and the rest.
const SEPARATORS: [char; 3] = ['.', ':', '/'];

/// An immutable set of plugins and their names.
#[derive(Debug, Clone)]
pub(super) struct Table {
    plugins: BTreeMap<Arc<str>, Arc<Plugin>>,
    default: Option<String>,
    warned_of_no_default: bool,
    changes: Vec<(Arc<str>, Instant)>,
}

impl Table {
    pub(super) fn new(default: Option<String>) -> Self {
        Self { plugins: BTreeMap::new(), default, warned_of_no_default: false, changes: Vec::new() }
    }

    /// A method by any of its names; `None` stands for the default method.
    pub(super) fn find(&self, method: Option<&str>) -> Option<(Arc<Plugin>, String)> {
        let name = match method {
            Some(name) => name,
            None => self.default_method()?,
        };
        let (plugin, rest) = match name.split_once(SEPARATORS) {
            Some((plugin, rest)) => (plugin, Some(rest)),
            None => (name, None),
        };
        let plugin = self.plugins.get(plugin)?;
        let canonical = match rest {
            Some(rest) => format!("{}.{rest}", plugin.id().name),
            None => plugin.id().name.to_string(),
        };
        Some((plugin.clone(), canonical))
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
        match (&self.default, self.plugins.len()) {
            (Some(name), _) => format!("the default method `{name}` is not there"),
            (None, 0) => "there is no method at all".to_owned(),
            (None, count) => format!(
                "the message names no method, and {count} plugins are served: name one in the \
                 property `type` or the header `rpc-method`, or have the operator name a default \
                 with `--default-method`"
            ),
        }
    }

    pub(super) fn insert(&mut self, plugin: Arc<Plugin>, now: Instant) {
        let had_default = self.default_method().is_some();
        self.note_change(plugin.id().name.clone(), now);
        self.plugins.insert(plugin.id().name.clone(), plugin);
        if had_default && self.default_method().is_none() && !self.warned_of_no_default {
            self.warned_of_no_default = true;
            let names: Vec<_> = self.plugins.keys().map(|name| format!("`{name}`")).collect();
            warn!(
                "messages that name no method are answered `method-not-found` from now on, \
                 because there are several: {}; name one with `--default-method`",
                names.join(", ")
            );
        }
    }

    pub(super) fn remove(&mut self, name: &str, now: Instant) -> Option<Arc<Plugin>> {
        let (name, plugin) = self.plugins.remove_entry(name)?;
        self.note_change(name, now);
        Some(plugin)
    }

    pub(super) fn plugins(&self) -> impl Iterator<Item = &Arc<Plugin>> {
        self.plugins.values()
    }

    /// Number of methods: a handler counts as one, whatever it answers to.
    pub(super) fn methods(&self) -> usize {
        self.plugins.len()
    }

    /// Whether the plugin that `method` belongs to was changed a moment ago;
    /// for the default method, any plugin.
    pub(super) fn changed_since(
        &self,
        method: Option<&str>,
        now: Instant,
        window: Duration,
    ) -> bool {
        let plugin = method.map(|name| name.split(SEPARATORS).next().unwrap_or(name));
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
