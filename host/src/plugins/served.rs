//! What is served, for those who listen on behalf of it.

use std::collections::BTreeMap;
use std::sync::Arc;

/// The plugins that requests may be fetched for, and their methods.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Served {
    /// Number of methods of all plugins, those that are about to go included.
    pub methods: usize,
    /// The plugins that stay, each with the canonical names of its methods.
    pub plugins: BTreeMap<Arc<str>, Vec<String>>,
}
