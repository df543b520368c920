//! Files that are not served as they are now, and why: for callers who ask, and for metrics.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value as Json, json};

use crate::capabilities::printable;

/// Most bytes of a reason that callers are told; the log has all of it.
const MAX_REASON: usize = 1024;

/// Why, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// It cannot be read, or is nothing that this host can serve.
    Invalid,
    /// It does not pass the cases that it brings.
    SelfTest,
    /// It failed right after it came.
    TakenBack,
}

impl Cause {
    /// As metrics have it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::SelfTest => "self-test",
            Self::TakenBack => "taken-back",
        }
    }
}

/// What is held against a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) cause: Cause,
    pub(super) reason: String,
}

/// The files that are refused now, by their plugin's name.
#[derive(Debug, Clone, Default)]
pub(super) struct RefusedFiles(BTreeMap<Arc<str>, Refused>);

impl RefusedFiles {
    pub(super) fn insert(&mut self, name: &str, refused: Refused) {
        self.0.insert(Arc::from(name), refused);
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// What callers are told, of all or of one; `serving` knows the digest of what serves instead.
    pub(super) fn told(
        &self,
        only: Option<&str>,
        serving: impl Fn(&str) -> Option<String>,
    ) -> Vec<Json> {
        let wanted = self.0.iter().filter(|(name, _)| only.is_none_or(|only| only == &***name));
        wanted
            .map(|(name, Refused { cause, reason })| {
                json!({
                    "name": &**name,
                    "cause": cause.name(),
                    "reason": printable(reason, MAX_REASON),
                    "serving": serving(name),
                })
            })
            .collect()
    }
}
