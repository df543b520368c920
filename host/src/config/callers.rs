//! What the listeners tell those who call: where requests of a dialect go, and how those of a queue
//! are written.
//!
//! Knows what was configured; refuses to know how requests travel.

use super::listener::{Listener, METHOD, PLUGIN, Per};
use super::usual::usual;
use super::written::Raw;
use super::{Config, DEFAULT_QUEUE, values};
use crate::message::Dialect;

/// Where a caller's requests go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Called {
    /// The queue.
    pub queue: String,
    /// The exchange that it is bound to, if a listener says so.
    pub exchange: Option<String>,
    /// Where that one publishes replies, if it says so.
    pub reply_exchange: Option<String>,
}

impl Config {
    /// Where requests of a dialect go, to the queue that was `named` or else to that of the listener
    /// which reads them; the usual one of the dialect's services where they have one of their own.
    /// A pattern is filled with the method's name.
    ///
    /// # Errors
    /// When the queue is known to be read in another dialect.
    pub fn called(
        &self,
        dialect: Dialect,
        method: &str,
        named: Option<&str>,
    ) -> Result<Called, String> {
        let reads = |as_one: Dialect| self.listeners.iter().find(|one| one.form.dialect == as_one);
        let usual = usual(dialect).queue;
        let listener = match named {
            Some(queue) => self.listeners.iter().find(|one| one.queue.name == queue),
            // What is said of the queue that serves everything is meant for these callers, too.
            None if usual == DEFAULT_QUEUE => {
                reads(dialect).or(reads(Dialect::Auto)).or(self.listeners.first())
            }
            None => reads(dialect),
        };
        let pattern = listener.map_or(named.unwrap_or(usual), |listener| &listener.queue.name);
        let queue = match method.split(['.', ':', '/']).next() {
            Some(plugin) if !plugin.is_empty() => {
                pattern.replace(PLUGIN, plugin).replace(METHOD, method)
            }
            _ => pattern.to_owned(),
        };
        let Some(listener) = listener else { return Ok(Called { queue, ..Called::default() }) };
        let served_as = listener.form.dialect;
        if ![dialect, Dialect::Auto].contains(&served_as) {
            let name = served_as.name();
            return Err(format!("`{queue}` is served as `{name}`; write `--dialect {name}`"));
        }
        Ok(Called {
            queue,
            exchange: listener.exchange.as_ref().map(|exchange| exchange.name.clone()),
            reply_exchange: listener.reply_exchange.clone(),
        })
    }

    /// The listener that serves a queue: the one with that name, else the one with the longest
    /// pattern that could have made it.
    #[must_use]
    pub fn listener_of(&self, queue: &str) -> Option<&Listener> {
        let serving = self.listeners.iter().filter(|listener| listener.serves(queue));
        serving.max_by_key(|listener| (listener.per == Per::Listener, listener.queue.name.len()))
    }
}

/// The name of a queue as a caller types it.
///
/// # Errors
/// What is wrong with it.
pub fn queue_name(typed: &str) -> Result<String, String> {
    values::queue_name(Raw::Typed(typed.to_owned()).text()?)
}
