//! On which terms the requests of a queue are served.

use std::sync::Arc;

use bytes::Bytes;

use super::Form;

/// What a listener says of every request that it brings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terms {
    /// How the message is read and its reply written.
    pub form: Form,
    /// Method of messages that name none; else the host's own rule decides.
    pub default_method: Option<String>,
    /// The plugin whose queue it is, if that has one of its own.
    pub plugin: Option<Arc<str>>,
    /// Where replies to a `reply_to` are published; by the dialect if it is `None`.
    pub reply_exchange: Option<Arc<str>>,
    /// The queue that answers go to where the message has no `reply_to`.
    pub reply_queue: Option<Bytes>,
}

impl From<Form> for Terms {
    fn from(form: Form) -> Self {
        Self { form, ..Self::default() }
    }
}
