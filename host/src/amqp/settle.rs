//! Settlements on their way to the broker, many in one frame.
//!
//! A delivery is settled on the channel that brought it. Those that are done
//! up to some number are acked in one frame (`multiple`, AMQP 0-9-1 section
//! 1.8.3.13), which is where most of the cost of acks goes; those that
//! overtook a slow one are acked by themselves, so that the prefetch window
//! stays open.

use std::collections::BTreeMap;

use lapin::Channel;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::debug;

use super::filter::{Bypass, ChannelKey, put_ack, put_requeue};
use crate::message::Settlement;

/// Most settlements taken at once. More than a prefetch window brings nothing.
const BATCH: usize = 256;

/// Settlements that may wait to be written. Whoever has more to say waits;
/// the broker is slow then, and so must we be.
const WAITING: usize = 4_096;

/// Writes a session's settlements.
#[derive(Debug)]
pub(super) struct Settler {
    tell: mpsc::Sender<(u64, Settlement)>,
    writing: JoinHandle<()>,
}

impl Settler {
    pub(super) fn start(channel: Channel, key: ChannelKey, bypass: Bypass) -> Self {
        let (tell, told) = mpsc::channel(WAITING);
        Self { tell, writing: tokio::spawn(write(channel, key, bypass, told)) }
    }

    /// Settles a delivery, soon.
    pub(super) async fn settle(&self, tag: u64, settlement: Settlement) {
        if self.tell.send((tag, settlement)).await.is_err() {
            debug!(tag, "a delivery was not settled: its channel is gone");
        }
    }

    /// Waits until everything is written.
    pub(super) async fn finish(self) {
        drop(self.tell);
        if let Err(error) = self.writing.await {
            debug!("settlements were cut off: {error}");
        }
    }
}

/// Holds the channel, which is closed once nobody does.
async fn write(
    _channel: Channel,
    key: ChannelKey,
    bypass: Bypass,
    mut told: mpsc::Receiver<(u64, Settlement)>,
) {
    let mut window = Window::default();
    let mut batch = Vec::with_capacity(BATCH);
    while told.recv_many(&mut batch, BATCH).await > 0 {
        let written = bypass.write(key, |out| {
            for frame in window.frames(batch.drain(..)) {
                match frame {
                    Frame::Ack { tag, multiple } => put_ack(out, key.number, tag, multiple),
                    Frame::Requeue { tag } => put_requeue(out, key.number, tag),
                }
            }
        });
        if !written {
            debug!("deliveries were not settled: their channel is gone, and they come again");
            return;
        }
    }
}

/// One frame to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Frame {
    Ack { tag: u64, multiple: bool },
    Requeue { tag: u64 },
}

/// Which deliveries of a channel are settled. Tags count from 1 without gaps.
#[derive(Debug, Default)]
struct Window {
    /// Everything up to this tag is settled.
    settled: u64,
    /// Settled beyond it: the first and the last tag of each run of neighbours.
    /// There are no more runs than deliveries that are not settled, which the
    /// prefetch window bounds; tags beside a slow one are not.
    ahead: BTreeMap<u64, u64>,
}

impl Window {
    /// Notes that a delivery is settled.
    fn settle(&mut self, tag: u64) {
        if tag <= self.settled {
            return;
        }
        let (mut first, mut last) = (tag, tag);
        if let Some((&before, &end)) = self.ahead.range(..=tag).next_back()
            && end.saturating_add(1) >= tag
        {
            first = before;
            last = last.max(end);
        }
        if let Some(end) = self.ahead.remove(&last.saturating_add(1)) {
            last = end;
        }
        if first == self.settled.saturating_add(1) {
            self.ahead.remove(&first);
            self.settled = last;
        } else {
            self.ahead.insert(first, last);
        }
    }

    /// The frames that tell the broker about a batch of settlements.
    fn frames(&mut self, batch: impl Iterator<Item = (u64, Settlement)>) -> Vec<Frame> {
        let mut frames = Vec::new();
        let mut acks = Vec::new();
        for (tag, settlement) in batch {
            self.settle(tag);
            match settlement {
                Settlement::Ack => acks.push(tag),
                Settlement::Requeue => frames.push(Frame::Requeue { tag }),
            }
        }
        let (within, beyond): (Vec<u64>, Vec<u64>) =
            acks.into_iter().partition(|tag| *tag <= self.settled);
        // What was given back within it is settled already, by the frames before.
        match within.as_slice() {
            [] => {}
            [tag] => frames.push(Frame::Ack { tag: *tag, multiple: false }),
            several => {
                let last = several.iter().copied().max().unwrap_or_default();
                frames.push(Frame::Ack { tag: last, multiple: true });
            }
        }
        frames.extend(beyond.into_iter().map(|tag| Frame::Ack { tag, multiple: false }));
        frames
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn acks(window: &mut Window, tags: &[u64]) -> Vec<Frame> {
        window.frames(tags.iter().map(|tag| (*tag, Settlement::Ack)))
    }

    #[test]
    fn neighbours_are_acked_in_one_frame_and_the_rest_singly() {
        let mut window = Window::default();
        assert_eq!(acks(&mut window, &[1]), [Frame::Ack { tag: 1, multiple: false }]);
        assert_eq!(
            acks(&mut window, &[3, 2, 4, 7]),
            [Frame::Ack { tag: 4, multiple: true }, Frame::Ack { tag: 7, multiple: false }]
        );
        assert_eq!(
            acks(&mut window, &[5, 6, 8]),
            [Frame::Ack { tag: 8, multiple: true }],
            "7 was acked before, which does no harm"
        );
    }

    #[test]
    fn what_overtakes_a_slow_delivery_takes_no_room() {
        let mut window = Window::default();
        // The first and the thousandth are slow, and neighbours overtake each other.
        for tag in (2..100_000).step_by(2) {
            acks(&mut window, &[tag + 1]);
            if tag != 1_000 {
                acks(&mut window, &[tag]);
            }
            assert!(window.ahead.len() <= 3, "{tag}: {:?}", window.ahead);
        }
        assert_eq!(acks(&mut window, &[1]), [Frame::Ack { tag: 1, multiple: false }]);
        assert_eq!(acks(&mut window, &[1_000]), [Frame::Ack { tag: 1_000, multiple: false }]);
        assert_eq!((window.settled, window.ahead.len()), (99_999, 0));
    }

    #[test]
    fn what_is_not_settled_is_never_acked() {
        // Every order of settling seven deliveries, in batches of every size:
        // a frame may only cover what was settled.
        let mut random = 7u64;
        for _ in 0..2_000 {
            let mut window = Window::default();
            let mut left: Vec<u64> = (1..=40).collect();
            let mut settled = BTreeSet::new();
            let mut told = BTreeSet::new();
            while !left.is_empty() {
                let mut batch = Vec::new();
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                for step in 0..=(random >> 33) % 6 {
                    if left.is_empty() {
                        break;
                    }
                    let at = ((random >> 20).wrapping_add(step * 31)) as usize % left.len();
                    let tag = left.swap_remove(at);
                    let how =
                        if tag.is_multiple_of(7) { Settlement::Requeue } else { Settlement::Ack };
                    batch.push((tag, how));
                    settled.insert(tag);
                }
                for frame in window.frames(batch.into_iter()) {
                    let covered: Vec<u64> = match frame {
                        Frame::Ack { tag, multiple: true } => (1..=tag).collect(),
                        Frame::Ack { tag, multiple: false } | Frame::Requeue { tag } => vec![tag],
                    };
                    for tag in covered {
                        assert!(settled.contains(&tag), "{tag} was told and is not settled");
                        told.insert(tag);
                    }
                }
            }
            assert_eq!(told.len(), 40, "everything is told in the end");
        }
    }
}
