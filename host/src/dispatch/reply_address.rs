//! Whether a reply may be sent where a request asks for it.
//!
//! A client chooses `reply_to` freely, and the host publishes there with the
//! host's permissions. Two kinds of addresses do harm: a queue consumed here
//! (the host would answer itself), by its name or by a key that leads there, and
//! a malformed direct reply-to address, which makes RabbitMQ close the connection
//! that publishes to it.

use std::collections::HashSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use base64::Engine as _;
use bytes::Bytes;
use wildmatch::WildMatch;

use crate::config::{Exchange, RANDOM_END, ServedQueue};
use crate::message::Delivery;

/// Prefix of the pseudo-queues of RabbitMQ's direct reply-to.
const DIRECT: &str = "amq.rabbitmq.reply-to";

/// Ends of the names of queues that are consumed here, or kept for a person.
const OWN: [&str; 4] = ["", ".suspect", ".dead", ".parked"];

/// Longest queue name in bytes (AMQP 0-9-1 section 4.2.5.3).
const MAX_NAME: usize = 255;

/// Where a reply goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyAddress<'a> {
    /// Nobody waits for it.
    Nobody,
    /// An ordinary queue, or a key of the listener's exchange for replies.
    Queue(&'a Bytes),
    /// The listener's queue for those who name none.
    Fixed(&'a Bytes),
    /// A consumer of direct reply-to, and the number of the node it is connected
    /// to; delivered at most once, never returned.
    Direct(&'a Bytes, u64),
}

/// Why no reply is sent to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressRefused {
    /// It is a queue that this host consumes, or leads to one.
    OwnQueue,
    /// It begins as a direct reply-to address and is none.
    Malformed,
    /// The operator's patterns do not allow it.
    NotAllowed,
}

impl AddressRefused {
    /// All reasons, for labels that are made from a closed set.
    pub const ALL: [Self; 3] = [Self::OwnQueue, Self::Malformed, Self::NotAllowed];

    /// The reason in a word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OwnQueue => "own-queue",
            Self::Malformed => "malformed",
            Self::NotAllowed => "not-allowed",
        }
    }
}

/// The operator's rule for reply addresses.
#[derive(Debug)]
pub struct ReplyPolicy {
    allow: Vec<WildMatch>,
    consumed: ArcSwap<Consumed>,
}

/// What leads to the queues that are consumed here.
#[derive(Debug, Default)]
struct Consumed {
    names: HashSet<Bytes>,
    /// Beginnings of names that the host made an end for.
    exclusive: Vec<Bytes>,
    exchanges: Vec<Exchange>,
}

impl Consumed {
    fn has(&self, address: &[u8]) -> bool {
        self.names.contains(address)
            || self.exclusive.iter().any(|name| {
                let end =
                    address.strip_prefix(name.as_ref()).and_then(|end| end.strip_prefix(b"."));
                end.is_some_and(|end| {
                    end.len() == RANDOM_END && end.iter().all(u8::is_ascii_hexdigit)
                })
            })
    }
}

impl ReplyPolicy {
    /// Allows addresses that match one of the patterns (`*` for any text, `?`
    /// for any character); without patterns, all.
    pub fn new(patterns: &[String]) -> Self {
        let allow = patterns.iter().map(|pattern| WildMatch::new(pattern)).collect();
        Self { allow, consumed: ArcSwap::default() }
    }

    /// Which queues are consumed from now on.
    pub fn consumes(&self, queues: &[Arc<ServedQueue>]) {
        let mut consumed = Consumed::default();
        for served in queues {
            let ServedQueue { queue, exclusive, exchange, .. } = &**served;
            for own in OWN {
                consumed.names.insert(Bytes::from(format!("{}{own}", queue.name)));
            }
            if *exclusive {
                consumed.exclusive.push(Bytes::from(queue.name.clone()));
            }
            consumed.exchanges.extend(exchange.clone());
        }
        self.consumed.store(consumed.into());
    }

    /// The address that a request asks for, if a reply may be sent there.
    ///
    /// # Errors
    ///
    /// Says why not.
    pub fn check<'a>(&self, delivery: &'a Delivery) -> Result<ReplyAddress<'a>, AddressRefused> {
        let asked = delivery.properties.reply_to.as_ref().filter(|asked| !asked.is_empty());
        let Some(address) = asked else {
            // The operator has named it; only a plugin that came later may
            // have a queue of that name.
            return match &delivery.terms.reply_queue {
                None => Ok(ReplyAddress::Nobody),
                Some(queue) if self.is_consumed(delivery, queue) => Err(AddressRefused::OwnQueue),
                Some(queue) => Ok(ReplyAddress::Fixed(queue)),
            };
        };
        let leads_here = match &delivery.terms.reply_exchange {
            None => self.is_consumed(delivery, address),
            Some(exchange) => {
                let key = String::from_utf8_lossy(address);
                let consumed = self.consumed.load();
                let mut bound = consumed.exchanges.iter();
                bound.any(|bound| bound.name == **exchange && bound.routes(&key))
            }
        };
        if leads_here {
            return Err(AddressRefused::OwnQueue);
        }
        if address.len() > MAX_NAME {
            return Err(AddressRefused::Malformed);
        }
        let text = String::from_utf8_lossy(address);
        let checked = match text.strip_prefix(DIRECT) {
            Some(rest) => match direct_node(rest) {
                Some(node) => ReplyAddress::Direct(address, node),
                None => return Err(AddressRefused::Malformed),
            },
            None => ReplyAddress::Queue(address),
        };
        if !self.allow.is_empty() && !self.allow.iter().any(|pattern| pattern.matches(&text)) {
            return Err(AddressRefused::NotAllowed);
        }
        Ok(checked)
    }

    /// Whether hosts consume a queue, or keep it beside one that they do.
    fn is_consumed(&self, delivery: &Delivery, address: &[u8]) -> bool {
        let rest = address.strip_prefix(delivery.queue.as_bytes());
        rest.is_some_and(|rest| OWN.iter().any(|own| own.as_bytes() == rest))
            || self.consumed.load().has(address)
    }
}

/// The node in what follows the prefix, if that is `.`, an Erlang process id and
/// a key of 16 bytes, both in base64, as RabbitMQ's `rabbit_direct_reply_to`
/// writes them. The id is an external term: 131, `NEW_PID_EXT` (88), an atom
/// `reply@` and digits, and twelve bytes.
fn direct_node(rest: &str) -> Option<u64> {
    const KEY: usize = 16;
    let (pid, key) = rest.strip_prefix('.')?.split_once('.')?;
    let base64 = base64::engine::general_purpose::STANDARD;
    let (pid, key) = (base64.decode(pid).ok()?, base64.decode(key).ok()?);
    if key.len() != KEY {
        return None;
    }
    node_of(&pid)
}

fn node_of(term: &[u8]) -> Option<u64> {
    const NUMBER_AND_SERIAL: usize = 12;
    let (length, rest) = match term {
        // ATOM_UTF8_EXT with a two-byte length.
        [131, 88, 118, high, low, rest @ ..] => {
            (usize::from(u16::from_be_bytes([*high, *low])), rest)
        }
        // ATOM_EXT, the older form of the same.
        [131, 88, 100, high, low, rest @ ..] => {
            (usize::from(u16::from_be_bytes([*high, *low])), rest)
        }
        // SMALL_ATOM_UTF8_EXT with a one-byte length.
        [131, 88, 119, length, rest @ ..] => (usize::from(*length), rest),
        _ => return None,
    };
    let (node, rest) = rest.split_at_checked(length)?;
    let digits = node.strip_prefix(b"reply@")?;
    let is_number = (1..=10).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    if rest.len() != NUMBER_AND_SERIAL || !is_number {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::{Instant, SystemTime};

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::config::{ExchangeKind, QueueConfig, QueueKind};
    use crate::message::{Original, Properties, Revoked, Terms};

    fn check(policy: &ReplyPolicy, reply_to: &str) -> Result<&'static str, AddressRefused> {
        check_on(policy, reply_to, Terms::default())
    }

    fn check_on(
        policy: &ReplyPolicy,
        reply_to: &str,
        terms: Terms,
    ) -> Result<&'static str, AddressRefused> {
        let delivery = Delivery {
            tag: 1,
            queue: "rpc_queue".into(),
            terms: Arc::new(terms),
            exchange: String::new(),
            routing_key: String::new(),
            redelivered: false,
            received_at: Instant::now(),
            received_wall: SystemTime::now(),
            properties: Properties {
                reply_to: Some(reply_to.to_owned().into()),
                ..Properties::default()
            },
            body: Bytes::new(),
            revoked: Revoked::default(),
            leaving: CancellationToken::new(),
            original: Original::default(),
            set_aside: None,
        };
        policy.check(&delivery).map(|address| match address {
            ReplyAddress::Nobody => "nobody",
            ReplyAddress::Queue(_) => "queue",
            ReplyAddress::Fixed(_) => "fixed",
            ReplyAddress::Direct(_, 42) => "direct",
            ReplyAddress::Direct(..) => "direct, but of another node",
        })
    }

    fn direct(term: &[u8]) -> String {
        let base64 = base64::engine::general_purpose::STANDARD;
        format!("{DIRECT}.{}.{}", base64.encode(term), base64.encode([7; 16]))
    }

    #[test]
    fn only_addresses_that_rabbitmq_made_are_direct() {
        let any = ReplyPolicy::new(&[]);
        let mut pid = vec![131, 88, 118, 0, 8];
        pid.extend_from_slice(b"reply@42");
        pid.extend_from_slice(&[0; 12]);
        assert_eq!(check(&any, &direct(&pid)), Ok("direct"));
        pid.push(0);
        assert_eq!(check(&any, &direct(&pid)), Err(AddressRefused::Malformed));
        for forged in [
            "amq.rabbitmq.reply-to",
            "amq.rabbitmq.reply-to.",
            "amq.rabbitmq.reply-to.x.y",
            "amq.rabbitmq.reply-to.AAAA.bbbb",
            "amq.rabbitmq.reply-to.@@@.@@@",
            "amq.rabbitmq.reply-to-x",
        ] {
            assert_eq!(check(&any, forged), Err(AddressRefused::Malformed), "{forged}");
        }
    }

    #[test]
    fn the_consumed_queue_is_never_answered() {
        let any = ReplyPolicy::new(&["*".to_owned()]);
        assert_eq!(check(&any, "rpc_queue"), Err(AddressRefused::OwnQueue));
        assert_eq!(check(&any, "rpc_queue.suspect"), Err(AddressRefused::OwnQueue));
        assert_eq!(check(&any, "rpc_queue2"), Ok("queue"));
        assert_eq!(check(&any, ""), Ok("nobody"));
    }

    #[test]
    fn no_reply_comes_back_by_any_way() {
        let any = ReplyPolicy::new(&[]);
        let queue = |name: &str, exclusive, exchange| ServedQueue {
            queue: QueueConfig { name: name.to_owned(), kind: QueueKind::Classic, args: vec![] },
            exclusive,
            dead_letters: false,
            exchange,
            prefetch: 1,
            terms: Arc::default(),
        };
        let bound = Exchange {
            name: "services".to_owned(),
            kind: ExchangeKind::Topic,
            durable: true,
            keys: vec!["math.*".to_owned()],
            args: Vec::new(),
        };
        let (math, news) = (queue("math", false, Some(bound)), queue("news", true, None));
        any.consumes(&[Arc::new(math), Arc::new(news)]);
        assert_eq!(check(&any, "math"), Err(AddressRefused::OwnQueue));
        assert_eq!(check(&any, "math.dead"), Err(AddressRefused::OwnQueue));
        assert_eq!(check(&any, "news.0123456789abcdef"), Err(AddressRefused::OwnQueue));
        assert_eq!(check(&any, "news.today"), Ok("queue"));
        assert_eq!(check(&any, "math.fib"), Ok("queue"), "a queue's name, not a key");
        let by = || Terms { reply_exchange: Some("services".into()), ..Terms::default() };
        assert_eq!(check_on(&any, "math.fib", by()), Err(AddressRefused::OwnQueue));
        assert_eq!(check_on(&any, "math", by()), Ok("queue"), "a key that leads nowhere");
        let fixed = |name: &'static str| Terms {
            reply_queue: Some(Bytes::from_static(name.as_bytes())),
            ..Terms::default()
        };
        assert_eq!(check_on(&any, "", fixed("replies")), Ok("fixed"));
        assert_eq!(check_on(&any, "mine", fixed("replies")), Ok("queue"));
        assert_eq!(check_on(&any, "", fixed("math")), Err(AddressRefused::OwnQueue));
    }

    #[test]
    fn patterns_bound_where_replies_go() {
        let some = ReplyPolicy::new(&["amq.gen-*".to_owned()]);
        assert_eq!(check(&some, "amq.gen-abc"), Ok("queue"));
        assert_eq!(check(&some, "orders"), Err(AddressRefused::NotAllowed));
    }
}
