//! Calls as somebody wants to see them who develops a plugin.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::message::{Answered, CallError, Outcome, Request};

/// Calls that may wait to be shown. A terminal that is slower sees fewer.
const WAITING: usize = 256;

/// One call, and what came of it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The method that was asked for; `None` for the default one, or if nobody could tell.
    pub method: Option<Arc<str>>,
    /// Its arguments, as a handler gets them.
    pub arguments: Bytes,
    /// The result or error.
    pub outcome: Outcome,
    /// From when it was read until it was done, with its time in the line.
    pub took: Duration,
}

/// Tells of calls.
#[derive(Debug, Clone)]
pub struct Watcher(mpsc::Sender<Seen>);

impl Watcher {
    /// A watcher, and where its calls come out.
    pub fn new() -> (Self, mpsc::Receiver<Seen>) {
        let (tell, told) = mpsc::channel(WAITING);
        (Self(tell), told)
    }

    /// What is to be told later, taken from a request that is about to be served.
    pub(super) fn note(request: &Result<Request, CallError>) -> (Option<Arc<str>>, Bytes) {
        match request {
            Ok(request) => (request.method.as_deref().map(Arc::from), request.arguments.body()),
            Err(_) => (None, Bytes::new()),
        }
    }

    /// Tells of one that is done, if there is room.
    pub(super) fn tell(
        &self,
        (method, arguments): (Option<Arc<str>>, Bytes),
        answered: &Answered,
        took: Duration,
    ) {
        let outcome = answered.outcome.clone();
        // One that is not seen is no harm.
        let _full = self.0.try_send(Seen { method, arguments, outcome, took });
    }
}
