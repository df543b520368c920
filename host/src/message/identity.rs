//! What makes a message the same one when it is delivered again.

use sha2::{Digest as _, Sha256};

use super::Delivery;

/// Bytes of the body that count, beside its length: enough to tell requests
/// apart, and a bound on what it costs.
const BODY: usize = 1024;

/// A digest of what a message brings with it each time: queue, ids, reply
/// address, user, type and body. It is the same for every host.
///
/// Two messages may have the same one, if somebody sends the same twice. Then
/// one is suspected with the other, which costs it a detour and nothing else.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity(pub [u8; Self::BYTES]);

impl Identity {
    /// Its size in bytes.
    pub const BYTES: usize = 32;

    /// The identity of a delivery's message.
    pub fn of(delivery: &Delivery) -> Self {
        let properties = &delivery.properties;
        let mut digest = Sha256::new();
        // Each part with its length, so that no two can run into each other.
        let mut add = |part: Option<&[u8]>| {
            let length = part.map_or(u64::MAX, |part| part.len() as u64);
            digest.update(length.to_le_bytes());
            digest.update(part.unwrap_or_default());
        };
        add(Some(delivery.queue.as_bytes()));
        add(properties.message_id.as_deref().map(str::as_bytes));
        add(properties.correlation_id.as_deref());
        add(properties.reply_to.as_deref());
        add(properties.user_id.as_deref().map(str::as_bytes));
        add(properties.kind.as_deref().map(str::as_bytes));
        add(Some(&(delivery.body.len() as u64).to_le_bytes()));
        add(Some(delivery.body.get(..BODY).unwrap_or(&delivery.body)));
        Self(digest.finalize().into())
    }
}

/// Its first six bytes in hex, which is what people are shown.
impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().take(6).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({self})")
    }
}
