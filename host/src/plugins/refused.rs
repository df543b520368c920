//! Files that are not served as they are now, and why: for callers who ask, and for metrics.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::typed::Room;
use crate::capabilities::printable;

/// Most bytes of a reason that callers are told; the log has all of it.
const MAX_REASON: usize = 1024;

/// Bytes of what callers are told of a file beside its name and the reason: the names of members,
/// a cause and a digest.
const ENTRY: usize = 160;

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
    /// What there is no room for is counted.
    pub(super) fn told(
        &self,
        only: Option<&str>,
        room: &mut Room,
        omitted: &mut usize,
        serving: impl Fn(&str) -> Option<String>,
    ) -> Vec<Json> {
        let mut told = Vec::new();
        for (name, Refused { cause, reason }) in &self.0 {
            if only.is_some_and(|only| only != &**name) {
                continue;
            }
            let reason = printable(reason, MAX_REASON);
            if room.take(ENTRY + name.len() + reason.len()).is_err() {
                *omitted += 1;
                continue;
            }
            told.push(json!({
                "name": &**name,
                "cause": cause.name(),
                "reason": reason,
                "serving": serving(name),
            }));
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_callers_are_told_has_a_bound() {
        let mut files = RefusedFiles::default();
        for number in 0..100 {
            let refused = Refused { cause: Cause::Invalid, reason: "x".repeat(2 * MAX_REASON) };
            files.insert(&format!("file-{number}"), refused);
        }
        let told = |only, bytes| {
            let mut omitted = 0;
            let told =
                files.told(only, &mut Room::of(bytes), &mut omitted, |_| Some("0".repeat(71)));
            (told.len(), omitted, json!(told).to_string().len())
        };
        let (shown, omitted, bytes) = told(None, 20_000);
        assert_eq!(shown + omitted, 100);
        assert!((10..20).contains(&shown) && bytes <= 20_000, "{shown} in {bytes} bytes");
        assert_eq!(told(None, 1 << 20).1, 0);
        assert_eq!((told(Some("file-7"), 1 << 20).0, told(Some("file-x"), 1 << 20).0), (1, 0));
    }
}
