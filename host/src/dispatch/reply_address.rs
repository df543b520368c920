//! Whether a reply may be sent where a request asks for it.
//!
//! A client chooses `reply_to` freely, and the host publishes there with the
//! host's permissions. Two kinds of addresses do harm: a queue consumed here
//! (the host would answer itself), and a malformed direct reply-to address,
//! which makes RabbitMQ close the connection that publishes to it.

use base64::Engine as _;
use bytes::Bytes;
use wildmatch::WildMatch;

use crate::message::Properties;

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
    /// An ordinary queue.
    Queue(&'a Bytes),
    /// A consumer of direct reply-to, and the number of the node it is connected
    /// to; delivered at most once, never returned.
    Direct(&'a Bytes, u64),
}

/// Why no reply is sent to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressRefused {
    /// It is a queue that this host consumes.
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
}

impl ReplyPolicy {
    /// Allows addresses that match one of the patterns (`*` for any text, `?`
    /// for any character); without patterns, all.
    pub fn new(patterns: &[String]) -> Self {
        Self { allow: patterns.iter().map(|pattern| WildMatch::new(pattern)).collect() }
    }

    /// The address that a request asks for, if a reply may be sent there.
    ///
    /// # Errors
    ///
    /// Says why not.
    pub fn check<'a>(
        &self,
        properties: &'a Properties,
        consumed: &str,
    ) -> Result<ReplyAddress<'a>, AddressRefused> {
        let address = match &properties.reply_to {
            None => return Ok(ReplyAddress::Nobody),
            Some(address) if address.is_empty() => return Ok(ReplyAddress::Nobody),
            Some(address) => address,
        };
        // With those that hosts consume and keep beside it.
        if let Some(rest) = address.strip_prefix(consumed.as_bytes())
            && OWN.iter().any(|own| own.as_bytes() == rest)
        {
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
    use super::*;

    fn check(policy: &ReplyPolicy, reply_to: &str) -> Result<&'static str, AddressRefused> {
        let properties =
            Properties { reply_to: Some(reply_to.to_owned().into()), ..Properties::default() };
        policy.check(&properties, "rpc_queue").map(|address| match address {
            ReplyAddress::Nobody => "nobody",
            ReplyAddress::Queue(_) => "queue",
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
    fn patterns_bound_where_replies_go() {
        let some = ReplyPolicy::new(&["amq.gen-*".to_owned()]);
        assert_eq!(check(&some, "amq.gen-abc"), Ok("queue"));
        assert_eq!(check(&some, "orders"), Err(AddressRefused::NotAllowed));
    }
}
