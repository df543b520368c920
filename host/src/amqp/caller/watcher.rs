//! Somebody who is told of everything that happens to a caller's requests.

use std::sync::Arc;

use bytes::Bytes;

use crate::message::Properties;

/// What happens to requests and to the connection they are sent over.
#[derive(Debug)]
pub enum CallerEvent<'a> {
    /// A request is about to be sent, for the first time or again.
    Sending {
        /// The request's id.
        id: &'a str,
    },
    /// The broker has it. It may still come back, see `Returned`.
    Confirmed {
        /// The request's id.
        id: &'a str,
    },
    /// No queue has taken it. This may come before or after its confirm.
    Returned {
        /// The request's id.
        id: &'a str,
    },
    /// A message in the reply queue.
    Reply {
        /// Its properties.
        properties: &'a Properties,
        /// Its body.
        body: &'a Bytes,
        /// Whether the broker says that we may have seen it.
        redelivered: bool,
    },
    /// The broker was lost, for this reason.
    Lost(&'a str),
    /// It was found again; replies come to this queue now.
    Back(&'a str),
}

/// Takes events, on whatever task they happen; does not wait.
#[derive(Clone)]
pub struct Watcher(Arc<dyn Fn(CallerEvent<'_>) + Send + Sync>);

impl Watcher {
    /// One that calls this.
    pub fn new(take: impl Fn(CallerEvent<'_>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(take))
    }

    pub(super) fn tell(&self, event: CallerEvent<'_>) {
        (self.0)(event);
    }
}

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watcher")
    }
}
