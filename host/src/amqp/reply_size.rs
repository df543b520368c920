//! The largest message that the broker takes, learnt from what it refused.
//!
//! RabbitMQ tells nobody its `max_message_size`, and closes the channel over a
//! message that is larger. It can be changed while we run, so what was learnt
//! is believed for a while only.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use lapin::ErrorKind;
use lapin::protocol::AMQPSoftError;

use super::topology::is_soft;

/// How long a limit is believed: somebody who has raised it need not wait
/// longer, and replies that are too large cost a channel no more often.
const BELIEVED: Duration = Duration::from_secs(60);

/// What to do with a reply of some size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    /// Nothing speaks against it.
    Fits,
    /// It was too large once. Whether it is now shows when it is sent by itself.
    Doubtful,
    /// It is larger than this, the broker's limit.
    TooLarge(u64),
}

/// What is known of the limit.
#[derive(Debug, Default)]
pub(super) struct ReplySize(Mutex<Option<Limit>>);

#[derive(Debug, Clone, Copy)]
struct Limit {
    most: u64,
    /// When the broker said so; `None` if it may have changed since.
    said: Option<Instant>,
}

impl ReplySize {
    /// Whether the broker may take so many bytes, as far as is known.
    pub(super) fn of(&self, bytes: usize, now: Instant) -> Size {
        let limit = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match limit {
            Some(Limit { most, said }) if bytes as u64 > most => match said {
                Some(said) if now.duration_since(said) < BELIEVED => Size::TooLarge(most),
                _ => Size::Doubtful,
            },
            _ => Size::Fits,
        }
    }

    /// A channel was lost; the broker may have said its limit with that.
    pub(super) fn learn_from(&self, error: &lapin::Error, now: Instant) {
        if let Some(most) = most_bytes(error) {
            self.learn(most, now);
        }
    }

    /// The connection was lost, and if not over its limit, the broker may come
    /// back with another.
    pub(super) fn doubt_after(&self, error: &lapin::Error) {
        if most_bytes(error).is_none() {
            self.doubt();
        }
    }

    /// The broker has taken so many bytes.
    pub(super) fn taken(&self, bytes: usize) {
        let mut limit = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        limit.take_if(|limit| bytes as u64 > limit.most);
    }

    fn learn(&self, most: u64, now: Instant) {
        let mut limit = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *limit = Some(Limit { most, said: Some(now) });
    }

    fn doubt(&self) {
        let mut limit = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(limit) = limit.as_mut() {
            limit.said = None;
        }
    }
}

/// The limit in the text with which RabbitMQ closes a channel over a message
/// that is larger: "message size 20 is larger than configured max size 10"; older
/// versions leave out words, the limit is always the last number.
fn most_bytes(error: &lapin::Error) -> Option<u64> {
    let ErrorKind::ProtocolError(protocol) = error.kind() else { return None };
    let text = protocol.get_message().as_str();
    if !is_soft(error, &AMQPSoftError::PRECONDITIONFAILED) || !text.contains("message size") {
        return None;
    }
    let numbers = text.split(|c: char| !c.is_ascii_digit());
    numbers.filter_map(|digits| digits.parse().ok()).next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_believed_for_a_while_and_forgotten_when_more_got_through() {
        let (size, now) = (ReplySize::default(), Instant::now());
        assert_eq!(size.of(usize::MAX, now), Size::Fits);
        size.learn(10, now);
        assert_eq!(size.of(10, now), Size::Fits);
        assert_eq!(size.of(11, now), Size::TooLarge(10));
        assert_eq!(size.of(11, now + BELIEVED), Size::Doubtful, "it may have been raised");
        size.learn(10, now + BELIEVED);
        assert_eq!(size.of(11, now + BELIEVED), Size::TooLarge(10), "it was not");
        size.taken(5);
        assert_eq!(size.of(11, now + BELIEVED), Size::TooLarge(10), "a small one says nothing");
        size.doubt();
        assert_eq!(size.of(11, now + BELIEVED), Size::Doubtful, "a broker that was lost");
        size.taken(11);
        assert_eq!(size.of(12, now), Size::Fits);
    }
}
