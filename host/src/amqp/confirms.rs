//! The publishes of one channel, and what the broker says of each.
//!
//! The broker counts publishes as they come. So a publish takes its number and its place among the
//! frames to be written in one step; of two at the same time, each would else get the other's
//! confirm, and where one of them is a refusal, one message would be lost and the other sent twice.
//! A message that comes back is known by its `message_id`, which holds that number.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lapin::{Channel, ConnectionStatus};
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;
use tokio_util::task::AbortOnDropHandle;

use super::connect::{Connected, Patience, no_confirm};
use super::convert;
use super::filter::{Bypass, ChannelKey, Said, put_publish};
use crate::message::Reply;

/// What the broker has said of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Confirmed {
    /// Whether it has taken the message over, or refused it.
    pub(super) taken: bool,
    /// Whether it has sent the message back.
    pub(super) returned: bool,
}

/// Why a message cannot be published at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unsendable {
    /// The address or an id is longer than it can be.
    Address,
    /// The headers have more bytes than this, the largest frame.
    Headers(u64),
}

/// Publishes on a channel in confirm mode, which is used for nothing else.
#[derive(Debug)]
pub(super) struct Confirms {
    /// The library closes it once nobody holds it.
    _channel: Channel,
    key: ChannelKey,
    bypass: Bypass,
    frame_max: usize,
    /// Of every `message_id`, before the number.
    prefix: String,
    waiting: Arc<Mutex<Waiting>>,
    _hearing: AbortOnDropHandle<()>,
}

/// Those who wait for a confirm.
#[derive(Debug)]
struct Waiting {
    /// In the order of their numbers; `None` where all was said.
    line: VecDeque<Option<Waiter>>,
    /// The number of the first of them.
    first: u64,
    /// Why nothing more is said, once that is so.
    lost: Option<lapin::Error>,
}

#[derive(Debug)]
struct Waiter {
    tell: oneshot::Sender<lapin::Result<Confirmed>>,
    waited: Patience,
    returned: bool,
}

impl Confirms {
    pub(super) fn start(channel: Channel, connection: &Connected) -> Self {
        let bypass = connection.bypass().clone();
        let (key, said) = bypass.confirms(channel.id());
        let prefix = format!("{:016x}-", rand::random::<u64>());
        let waiting = Waiting { line: VecDeque::new(), first: 1, lost: None };
        let waiting = Arc::new(Mutex::new(waiting));
        let status = connection.status().clone();
        let hearing = tokio::spawn(hear(waiting.clone(), said, status, prefix.clone()));
        let frame_max = connection.frame_max();
        let _hearing = AbortOnDropHandle::new(hearing);
        Self { _channel: channel, key, bypass, frame_max, prefix, waiting, _hearing }
    }

    /// Publishes, and waits for the broker's confirm, with a limit while the broker takes any.
    ///
    /// # Errors
    ///
    /// When nothing was published; within, when channel or connection are lost, or no confirm comes.
    pub(super) async fn publish(
        &self,
        reply: &Reply,
    ) -> Result<lapin::Result<Confirmed>, Unsendable> {
        let told = {
            let mut waiting = lock(&self.waiting);
            if let Some(error) = &waiting.lost {
                return Ok(Err(error.clone()));
            }
            let id = format!("{}{}", self.prefix, waiting.next());
            let message = convert::message(reply, &id).ok_or(Unsendable::Address)?;
            let (key, frame_max) = (self.key, self.frame_max);
            let mut fits = true;
            let put = |out: &mut _| fits = put_publish(out, key.number, frame_max, &message);
            // What is not written, because the channel is closed, is soon told why.
            let _written = self.bypass.write(key, put);
            if !fits {
                return Err(Unsendable::Headers(frame_max as u64));
            }
            let (tell, told) = oneshot::channel();
            let waiter = Waiter { tell, waited: Patience::default(), returned: false };
            waiting.line.push_back(Some(waiter));
            told
        };
        Ok(told.await.unwrap_or_else(|_| Err(gone())))
    }
}

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

fn gone() -> lapin::Error {
    std::io::Error::new(std::io::ErrorKind::NotConnected, "the channel for replies is closed")
        .into()
}

/// Passes on what the broker says, and that it says nothing.
async fn hear(
    waiting: Arc<Mutex<Waiting>>,
    mut said: mpsc::UnboundedReceiver<Said>,
    status: ConnectionStatus,
    prefix: String,
) {
    let mut look = tokio::time::interval(Patience::LOOK);
    // A host that was stopped for a while has not waited meanwhile.
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let first = tokio::select! {
            biased;
            first = said.recv() => first.unwrap_or_else(|| Said::Lost(gone())),
            _ = look.tick() => {
                let blocked = status.blocked();
                for waiter in &mut lock(&waiting).line {
                    if let Some(late) = waiter.take_if(|waiter| waiter.waited.ends(blocked)) {
                        late.tell(Err(no_confirm()));
                    }
                }
                continue;
            }
        };
        let mut waiting = lock(&waiting);
        let mut next = Some(first);
        while let Some(now) = next {
            match now {
                Said::Of { tag, multiple, taken } => waiting.say(tag, multiple, taken),
                Said::Returned(id) => {
                    let number = id.as_str().strip_prefix(&prefix);
                    waiting.returned(number.and_then(|number| number.parse().ok()));
                }
                Said::Lost(error) => return waiting.end(&error),
            }
            next = said.try_recv().ok();
        }
    }
}

impl Waiting {
    /// The number of the next publish.
    fn next(&self) -> u64 {
        self.first.saturating_add(self.line.len() as u64)
    }

    fn of(&mut self, number: u64) -> Option<&mut Option<Waiter>> {
        let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.line.get_mut(at)
    }

    /// The broker has taken, or refused, a message, or all up to it.
    fn say(&mut self, tag: u64, multiple: bool, taken: bool) {
        let first = if multiple { self.first } else { tag };
        for number in first..=tag {
            let Some(place) = self.of(number) else { break };
            if let Some(waiter) = place.take() {
                let returned = waiter.returned;
                waiter.tell(Ok(Confirmed { taken, returned }));
            }
        }
        while self.line.pop_front_if(|front| front.is_none()).is_some() {
            self.first = self.first.saturating_add(1);
        }
    }

    fn returned(&mut self, number: Option<u64>) {
        if let Some(Some(waiter)) = number.and_then(|number| self.of(number)) {
            waiter.returned = true;
        }
    }

    fn end(&mut self, error: &lapin::Error) {
        self.lost = Some(error.clone());
        for waiter in self.line.drain(..).flatten() {
            waiter.tell(Err(error.clone()));
        }
    }
}

impl Waiter {
    fn tell(self, said: lapin::Result<Confirmed>) {
        // Who does not wait any more does not want to know.
        let _gone = self.tell.send(said);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(count: usize) -> (Waiting, Vec<oneshot::Receiver<lapin::Result<Confirmed>>>) {
        let mut waiting = Waiting { line: VecDeque::new(), first: 1, lost: None };
        let told = (0..count).map(|_| {
            let (tell, told) = oneshot::channel();
            let waiter = Waiter { tell, waited: Patience::default(), returned: false };
            waiting.line.push_back(Some(waiter));
            told
        });
        let told = told.collect();
        (waiting, told)
    }

    /// What each has been told: `+` taken, `-` refused, `r` returned, `!` lost, `.` nothing.
    fn said(told: &mut [oneshot::Receiver<lapin::Result<Confirmed>>]) -> String {
        let one = |told: &mut oneshot::Receiver<_>| match told.try_recv() {
            Ok(Ok(Confirmed { returned: true, .. })) => 'r',
            Ok(Ok(Confirmed { taken: true, .. })) => '+',
            Ok(Ok(Confirmed { taken: false, .. })) => '-',
            Ok(Err(_)) => '!',
            Err(_) => '.',
        };
        told.iter_mut().map(one).collect()
    }

    #[test]
    fn each_gets_what_was_said_of_its_number() {
        let (mut waiting, mut told) = waiting(8);
        waiting.say(3, false, true);
        waiting.returned(Some(5));
        waiting.say(5, true, true);
        // Said before, and of what was never published.
        waiting.say(3, false, false);
        waiting.say(2, true, false);
        waiting.say(900, false, true);
        waiting.returned(Some(900));
        waiting.returned(None);
        waiting.say(7, false, false);
        assert_eq!((waiting.first, waiting.next()), (6, 9));
        waiting.say(6, false, true);
        assert_eq!((waiting.first, waiting.next()), (8, 9));
        waiting.end(&gone());
        assert_eq!(said(&mut told), "++++r+-!");
        assert!(waiting.lost.is_some());
    }

    #[test]
    fn all_of_them_at_once() {
        let (mut waiting, mut told) = waiting(4);
        waiting.say(u64::MAX, true, false);
        assert_eq!(said(&mut told), "----");
        assert_eq!((waiting.first, waiting.next()), (5, 5));
    }
}
