//! One publish after the other, so that the broker counts them as the library does.
//!
//! lapin takes the number of a publish and then queues its frames; both in one poll, but not in one
//! step. Of two threads, the one with the first number could queue its frames last. Each publish
//! would then get the other's confirm, and where one of them is a refusal, one message would be
//! lost and the other sent twice.

use std::sync::{Mutex, PoisonError};

/// Whose turn it is to publish on a channel.
#[derive(Debug, Default)]
pub(super) struct Turn(Mutex<()>);

impl Turn {
    /// Publishes in turn. Only polls take turns, none waits for what the broker says.
    pub(super) async fn publish<T>(&self, publishing: impl Future<Output = T>) -> T {
        let mut publishing = std::pin::pin!(publishing);
        let polling = std::future::poll_fn(|context| {
            let _turn = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            publishing.as_mut().poll(context)
        });
        polling.await
    }
}
