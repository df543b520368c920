//! Contents that are not tried again.
//!
//! Remembered by what they are, not by where they lie: the same bytes with the
//! same configuration are refused under every name. Forgotten with the process,
//! which has no older version to come back to when it starts.

use std::sync::Arc;

use super::loaders::Version;

/// Most contents remembered; the oldest are forgotten first. A person has to
/// change a file for each of them.
const MOST: usize = 100;

/// Versions that were taken back, with the reason. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Condemned(Arc<Vec<(Version, String)>>);

impl Condemned {
    /// Why a version is not tried again, if it is not.
    pub(super) fn reason(&self, version: &Version) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == version).map(|(_, reason)| reason.as_str())
    }

    /// Remembers a version.
    pub(super) fn insert(&mut self, version: Version, reason: String) {
        let known = Arc::make_mut(&mut self.0);
        known.retain(|(known, _)| *known != version);
        if known.len() >= MOST {
            known.remove(0);
        }
        known.push((version, reason));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bounded_number_is_remembered_each_once() {
        let version = |number: usize| (number.to_string(), None, None);
        let mut condemned = Condemned::default();
        for number in 0..=MOST {
            condemned.insert(version(number), "first".to_owned());
            condemned.insert(version(number), "second".to_owned());
        }
        assert_eq!(condemned.reason(&version(0)), None);
        assert_eq!(condemned.reason(&version(1)), Some("second"));
        assert_eq!(condemned.reason(&version(MOST)), Some("second"));
        let configured = ("1".to_owned(), Some("timeout = '2s'".to_owned()), None);
        assert_eq!(condemned.reason(&configured), None, "another configuration is another chance");
    }
}
