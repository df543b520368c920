//! A listener: a queue, or one for each plugin or method, and the terms on which its requests are
//! served.
//!
//! Knows how the names of queues and keys are made out of patterns; refuses to know how they were
//! written, and how queues are declared.

use std::sync::Arc;

use bytes::Bytes;

use super::values::{MAX_QUEUE_NAME, MAX_SHORT_STRING};
use super::{ArgValue, Limits, QueueConfig};
use crate::message::{Form, Terms};

/// What a plugin's name stands for in the name of its queue, and in the keys it is bound by.
pub const PLUGIN: &str = "{plugin}";
/// What a method's name stands for, likewise.
pub const METHOD: &str = "{method}";

/// Hex digits at the end of an exclusive queue's name, after a dot.
pub const RANDOM_END: usize = 16;

/// One way in: a queue, or one for each plugin or method, and how its messages are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The queue; its name is a pattern where there are several.
    pub queue: QueueConfig,
    /// Whether there is one queue, or one for each of something.
    pub per: Per,
    /// Whether the queue belongs to this host alone and goes with its connection. Its name gets a
    /// random end then.
    pub exclusive: bool,
    /// Whether a queue that is created gets a place for what the broker takes out of it. A transient
    /// one is what callers of old declare, and then nothing else may be said of it.
    pub dead_letters: bool,
    /// Where the queue is bound; none is the default exchange.
    pub exchange: Option<Exchange>,
    /// How its messages are read.
    pub form: Form,
    /// Method of messages that name none, if one was chosen; not known to exist.
    pub default_method: Option<String>,
    /// Messages asked of the broker ahead of their acks, of each queue; by the host's limits if it
    /// is `None`.
    pub prefetch: Option<u16>,
    /// Where replies to a `reply_to` are published; by the dialect if it is `None`.
    pub reply_exchange: Option<String>,
    /// Where the answers of requests without `reply_to` go; nowhere if it is `None`.
    pub reply_queue: Option<String>,
}

/// What has a queue of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Per {
    /// The listener.
    #[default]
    Listener,
    /// Each plugin, while it is loaded.
    Plugin,
    /// Each method, while its plugin is loaded.
    Method,
}

/// An exchange that a queue is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// 1 to 255 bytes.
    pub name: String,
    /// What to create.
    pub kind: ExchangeKind,
    /// Whether it survives the broker.
    pub durable: bool,
    /// The keys of its bindings; at least one.
    pub keys: Vec<String>,
    /// The arguments of each binding; what an exchange of type `headers` goes by.
    pub args: Vec<(String, ArgValue)>,
}

/// How an exchange routes (AMQP 0-9-1, 3.1.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExchangeKind {
    /// By the whole key.
    #[default]
    Direct,
    /// By patterns of words.
    Topic,
    /// To every queue.
    Fanout,
    /// By headers.
    Headers,
}

impl ExchangeKind {
    pub(super) const ALL: [Self; 4] = [Self::Direct, Self::Topic, Self::Fanout, Self::Headers];

    /// As it is typed, and as AMQP calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Topic => "topic",
            Self::Fanout => "fanout",
            Self::Headers => "headers",
        }
    }
}

/// One queue as it is to be served, with every pattern filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedQueue {
    /// The queue. An exclusive one's name is only where the real one begins.
    pub queue: QueueConfig,
    /// See [`Listener::exclusive`].
    pub exclusive: bool,
    /// See [`Listener::dead_letters`].
    pub dead_letters: bool,
    /// Where it is bound.
    pub exchange: Option<Exchange>,
    /// Messages asked of the broker ahead of their acks.
    pub prefetch: u16,
    /// What its requests are read and answered by.
    pub terms: Arc<Terms>,
}

/// Bytes that the name of a queue may have, so that what the host makes of it is a name, too.
pub(super) fn longest_name(exclusive: bool) -> usize {
    if exclusive { MAX_SHORT_STRING - 1 - RANDOM_END } else { MAX_QUEUE_NAME }
}

/// Whose queue one of several is.
#[derive(Clone, Copy)]
struct Owner<'a> {
    plugin: &'a Arc<str>,
    /// What its name stands for.
    part: &'static str,
    name: &'a str,
}

impl Listener {
    /// A listener of which nothing but the queue was said.
    #[must_use]
    pub fn of(queue: QueueConfig) -> Self {
        Self {
            queue,
            per: Per::Listener,
            exclusive: false,
            dead_letters: true,
            exchange: None,
            form: Form::default(),
            default_method: None,
            prefetch: None,
            reply_exchange: None,
            reply_queue: None,
        }
    }

    /// Its one queue, if it has one.
    #[must_use]
    pub fn queue(&self, limits: &Limits) -> Option<ServedQueue> {
        (self.per == Per::Listener).then(|| self.served(limits, None))
    }

    /// The queues that it has for a plugin with these methods; instead of one whose name would be
    /// longer than a queue's can be, the name.
    #[must_use]
    pub fn queues_of(
        &self,
        limits: &Limits,
        plugin: &Arc<str>,
        methods: &[String],
    ) -> Vec<Result<ServedQueue, String>> {
        let owners: Vec<Owner<'_>> = match self.per {
            Per::Listener => Vec::new(),
            Per::Plugin => vec![Owner { plugin, part: PLUGIN, name: plugin }],
            Per::Method => {
                methods.iter().map(|method| Owner { plugin, part: METHOD, name: method }).collect()
            }
        };
        let served = owners.into_iter().map(|owner| {
            let served = self.served(limits, Some(owner));
            if served.queue.name.len() > longest_name(self.exclusive) {
                return Err(served.queue.name);
            }
            Ok(served)
        });
        served.collect()
    }

    /// Whether it may serve a queue of this name.
    #[must_use]
    pub fn serves(&self, queue: &str) -> bool {
        let part = match self.per {
            Per::Listener => return self.queue.name == queue,
            Per::Plugin => PLUGIN,
            Per::Method => METHOD,
        };
        self.queue.name.split_once(part).is_some_and(|(before, after)| {
            let owner = queue.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
            owner.is_some_and(|owner| !owner.is_empty())
        })
    }

    fn served(&self, limits: &Limits, owner: Option<Owner<'_>>) -> ServedQueue {
        let fill = |pattern: &str| match &owner {
            None => pattern.to_owned(),
            Some(owner) => pattern.replace(owner.part, owner.name),
        };
        let prefetch = match owner {
            None => limits.prefetch,
            // What floods it waits in the queue, not in the line for slots.
            Some(_) => u16::try_from(limits.max_in_flight).unwrap_or(u16::MAX),
        };
        let exchange = self.exchange.as_ref().map(|exchange| Exchange {
            keys: exchange.keys.iter().map(|key| fill(key)).collect(),
            ..exchange.clone()
        });
        // Who sends to a queue of its own has said what is meant.
        let default_method = owner.map(|owner| owner.name.to_owned());
        ServedQueue {
            queue: QueueConfig { name: fill(&self.queue.name), ..self.queue.clone() },
            exclusive: self.exclusive,
            dead_letters: self.dead_letters,
            exchange,
            prefetch: self.prefetch.unwrap_or(prefetch),
            terms: Arc::new(Terms {
                form: self.form,
                default_method: self.default_method.clone().or(default_method),
                plugin: owner.map(|owner| owner.plugin.clone()),
                reply_exchange: self.reply_exchange.as_deref().map(Arc::from),
                reply_queue: self.reply_queue.clone().map(Bytes::from),
            }),
        }
    }
}

impl Exchange {
    /// Whether a message with this key would be routed to the bound queue, as far as that does not
    /// depend on its headers.
    #[must_use]
    pub fn routes(&self, key: &str) -> bool {
        match self.kind {
            ExchangeKind::Direct => self.keys.iter().any(|bound| bound == key),
            ExchangeKind::Topic => self.keys.iter().any(|pattern| topic_matches(pattern, key)),
            ExchangeKind::Fanout | ExchangeKind::Headers => true,
        }
    }
}

/// `*` stands for one word, `#` for any number of them. Takes time in proportion to the product of
/// the lengths.
fn topic_matches(pattern: &str, key: &str) -> bool {
    let words: Vec<&str> = if key.is_empty() { Vec::new() } else { key.split('.').collect() };
    // Whether what was seen of the pattern matches the first so many words.
    let mut reached = vec![false; words.len().saturating_add(1)];
    if let Some(none) = reached.first_mut() {
        *none = true;
    }
    for part in pattern.split('.') {
        let mut next = vec![false; reached.len()];
        let mut before = false;
        for (at, (now, was)) in next.iter_mut().zip(&reached).enumerate() {
            let word = at.checked_sub(1).and_then(|at| words.get(at));
            *now = match part {
                // None more, or one more than the pattern has taken so far.
                "#" => *was || before,
                part => {
                    let last = at.checked_sub(1).and_then(|at| reached.get(at)).copied();
                    last == Some(true) && word.is_some_and(|word| part == "*" || part == *word)
                }
            };
            before = *now;
        }
        reached = next;
    }
    reached.last().copied().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topic_patterns_match_as_in_the_tutorial() {
        for (pattern, key, matches) in [
            ("*.orange.*", "quick.orange.rabbit", true),
            ("*.orange.*", "quick.orange.male.rabbit", false),
            ("*.*.rabbit", "lazy.pink.rabbit", true),
            ("lazy.#", "lazy.pink.rabbit", true),
            ("lazy.#", "lazy", true),
            ("lazy.#", "lazier.pink", false),
            ("#", "", true),
            ("#.end", "a.b.end", true),
            ("#.b.#.d", "a.b.c.c.d", true),
            ("#.b.#.d", "a.b.c.c", false),
            ("*", "", false),
            ("math.*", "math.fib", true),
        ] {
            assert_eq!(topic_matches(pattern, key), matches, "{pattern} {key}");
        }
        let long = "#.".repeat(100) + "x";
        assert!(!topic_matches(&long, &"a.".repeat(100)));
    }
}
