//! What the servers of a dialect usually declare, so that its clients find a host that was told
//! nothing but the dialect.

use super::listener::{ExchangeKind, METHOD, Per};
use super::{DEFAULT_QUEUE, QueueKind};
use crate::message::{Dialect, NAMEKO_EXCHANGE};

/// A dialect's queue and exchange.
#[derive(Clone, Copy)]
pub(super) struct Usual {
    /// The name, or the pattern of the names.
    pub queue: &'static str,
    /// By the profile if it is `None`.
    pub kind: Option<QueueKind>,
    /// Where the broker puts what it takes out of the queue, if clients count on it.
    pub dead_letter_exchange: Option<&'static str>,
    /// Whether the host may have its own place for that. Not where callers declare the queue as
    /// well: what they say must be the same.
    pub dead_letters: bool,
    pub per: Per,
    pub exchange: Option<(&'static str, ExchangeKind)>,
    /// What the queue is bound by; its name if it is `None`.
    pub key: Option<&'static str>,
}

pub(super) fn usual(dialect: Dialect) -> Usual {
    let own = Usual {
        queue: DEFAULT_QUEUE,
        kind: None,
        dead_letter_exchange: None,
        dead_letters: true,
        per: Per::Listener,
        exchange: None,
        key: None,
    };
    let theirs = Usual { kind: Some(QueueKind::Classic), dead_letters: false, ..own };
    match dialect {
        Dialect::Auto | Dialect::Plain | Dialect::JsonRpc => own,
        Dialect::Envelope | Dialect::NestJs => theirs,
        // One queue for each service, bound for all its methods.
        Dialect::Nameko => Usual {
            queue: "rpc-{plugin}",
            per: Per::Plugin,
            exchange: Some((NAMEKO_EXCHANGE, ExchangeKind::Topic)),
            key: Some("{plugin}.*"),
            ..theirs
        },
        Dialect::Celery => {
            Usual { queue: "celery", exchange: Some(("celery", ExchangeKind::Direct)), ..theirs }
        }
        // One queue for each method, in the default exchange; calls that expire come back to their
        // caller by this exchange.
        Dialect::AioPika => Usual {
            queue: METHOD,
            kind: Some(QueueKind::Transient),
            dead_letter_exchange: Some("rpc.dlx"),
            per: Per::Method,
            ..theirs
        },
    }
}
