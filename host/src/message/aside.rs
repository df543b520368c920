//! Setting a request aside: to where, why, and what is written on it.

use std::any::Any;
use std::sync::Arc;
use std::time::SystemTime;

/// Which queue of ours takes a request that is set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// Those that may have killed a host wait there to be run one at a time.
    Suspect,
    /// Those that are for a person to look at.
    Parked,
}

impl Place {
    /// Every place, for labels that are made from a closed set.
    pub const ALL: [Self; 2] = [Self::Suspect, Self::Parked];

    /// Its name, which is also the end of the queue's.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Suspect => "suspect",
            Self::Parked => "parked",
        }
    }

    /// The queue that takes what was consumed from `queue`.
    pub fn queue(self, queue: &str) -> String {
        format!("{queue}.{}", self.name())
    }
}

/// Why a request is set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A host died while it ran, or may have.
    Crash,
    /// That happened too often.
    Quarantined,
    /// The broker delivered it as often as the queue allows.
    DeliveryLimit,
    /// The broker does not take its answer.
    Undeliverable,
    /// Its headers cannot be read, and there is nobody to be told.
    Unreadable,
}

impl Reason {
    /// Every reason, for labels that are made from a closed set.
    pub const ALL: [Self; 5] = [
        Self::Crash,
        Self::Quarantined,
        Self::DeliveryLimit,
        Self::Undeliverable,
        Self::Unreadable,
    ];

    /// The reason in a word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Quarantined => "quarantined",
            Self::DeliveryLimit => "delivery-limit",
            Self::Undeliverable => "undeliverable",
            Self::Unreadable => "unreadable",
        }
    }
}

/// What is to be written on a request that is set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Why.
    pub reason: Reason,
    /// The same in a sentence for a person.
    pub detail: String,
    /// How often a host has died, or may have, while it ran.
    pub crashes: u32,
}

/// What was read from a request that was set aside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SetAside {
    /// Made when it was set aside; tells it from others.
    pub id: String,
    /// The name of a [`Reason`], unless somebody else has written it.
    pub reason: String,
    /// The same in a sentence.
    pub detail: String,
    /// The queue that it was consumed from.
    pub queue: String,
    /// The exchange that it came through; empty for the default one.
    pub exchange: String,
    /// The same where somebody has written it whose word does not count.
    pub doubtful_exchange: Option<String>,
    /// The routing key that it came with.
    pub routing_key: String,
    /// When.
    pub at: Option<SystemTime>,
    /// How often a host has died, or may have, while it ran.
    pub crashes: u32,
    /// Whether the broker has delivered it before since then.
    pub again: bool,
}

/// A delivery's properties as the broker's library gave them. Kept for the
/// one purpose of publishing the message again as it was; only the room that
/// made it can look into it.
#[derive(Clone, Default)]
pub struct Original(Option<Arc<dyn Any + Send + Sync>>);

impl Original {
    /// Keeps what a library gave.
    pub fn new(properties: impl Any + Send + Sync) -> Self {
        Self(Some(Arc::new(properties)))
    }

    /// What was kept, for who knows its type.
    pub fn get<T: Any>(&self) -> Option<&T> {
        self.0.as_ref()?.downcast_ref()
    }
}

impl std::fmt::Debug for Original {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Original").finish_non_exhaustive()
    }
}

/// Why the broker has taken a request out of its queue (`x-death`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Death {
    /// It waited longer than its `expiration`, or than the queue allows.
    Expired,
    /// It was delivered as often as the queue allows.
    DeliveryLimit,
    /// The queue was full.
    Full,
    /// A consumer has rejected it, or the broker does not say.
    Rejected,
}

impl Death {
    /// Every one, for labels that are made from a closed set.
    pub const ALL: [Self; 4] = [Self::Expired, Self::DeliveryLimit, Self::Full, Self::Rejected];

    /// In RabbitMQ's words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::DeliveryLimit => "delivery_limit",
            Self::Full => "maxlen",
            Self::Rejected => "rejected",
        }
    }

    /// What RabbitMQ's word means.
    pub fn of(name: &str) -> Self {
        Self::ALL.into_iter().find(|death| death.name() == name).unwrap_or(Self::Rejected)
    }
}
