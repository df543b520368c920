//! The publishes of one channel, all made by one task, and what the broker says of each.
//!
//! One task, so that the broker counts them as the library does: lapin takes the number of a
//! publish and then queues its frames, both in one poll, but not in one step. Of two threads, the
//! one with the first number could queue its frames last. Each publish would then get the other's
//! confirm, and where one of them is a refusal, one message would be lost and the other sent twice.
//!
//! And because it is cheaper: the library tells of each publish twice, when it is written and when
//! it is confirmed, from a thread of its own. This task is woken once for all that was told
//! meanwhile, those who wait for a confirm once each, from where they run.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation, ConnectionStatus};
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;
use tokio_util::task::AbortOnDropHandle;

use super::connect::{Patience, no_confirm};

/// Publishes that may wait to be made; whoever has more waits himself.
const WAITING: usize = 4_096;

/// Most that are taken at once.
const BATCH: usize = 256;

/// The `message_id` of a publish, by which the broker's answers are told apart: the library hands a
/// returned message to whichever publish is confirmed next.
#[derive(Debug)]
pub(super) struct Id {
    number: u64,
    pub(super) text: String,
}

/// A message to publish.
#[derive(Debug)]
pub(super) struct Publish {
    pub(super) id: Id,
    pub(super) exchange: ShortString,
    pub(super) routing_key: ShortString,
    pub(super) options: BasicPublishOptions,
    pub(super) body: Bytes,
    pub(super) properties: BasicProperties,
}

/// What the broker said of a publish, and whether it has returned the message.
pub(super) type Said = lapin::Result<(Confirmation, bool)>;

/// Publishes on a channel in confirm mode.
#[derive(Debug)]
pub(super) struct Confirms {
    wanted: mpsc::Sender<(Publish, oneshot::Sender<Said>)>,
    next: AtomicU64,
    prefix: String,
    _making: AbortOnDropHandle<()>,
}

/// Who waits for a confirm.
#[derive(Debug)]
struct Waiting {
    tell: oneshot::Sender<Said>,
    waited: Patience,
    returned: bool,
}

impl Confirms {
    pub(super) fn start(channel: Channel, status: ConnectionStatus) -> Self {
        let (wanted, taken) = mpsc::channel(WAITING);
        let prefix = format!("{:016x}-", rand::random::<u64>());
        let making = tokio::spawn(make(channel, status, prefix.clone(), taken));
        Self { wanted, next: AtomicU64::new(0), prefix, _making: AbortOnDropHandle::new(making) }
    }

    /// Names a message that is about to be published.
    pub(super) fn id(&self) -> Id {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        Id { number, text: format!("{}{number}", self.prefix) }
    }

    /// Publishes, and waits for the broker's confirm, with a limit while the broker takes any.
    ///
    /// # Errors
    ///
    /// When channel or connection are lost, or no confirm comes.
    pub(super) async fn publish(&self, publish: Publish) -> Said {
        // The task ends before its owner only with the runtime.
        let over = || std::io::Error::other("the runtime ends");
        let (tell, told) = oneshot::channel();
        self.wanted.send((publish, tell)).await.map_err(|_| over())?;
        told.await.map_err(|_| over())?
    }
}

async fn make(
    channel: Channel,
    status: ConnectionStatus,
    prefix: String,
    mut wanted: mpsc::Receiver<(Publish, oneshot::Sender<Said>)>,
) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut under_way = FuturesUnordered::new();
    let mut waiting: HashMap<u64, Waiting> = HashMap::new();
    let mut look = tokio::time::interval(Patience::LOOK);
    // A host that was stopped for a while has not waited meanwhile.
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            count = wanted.recv_many(&mut batch, BATCH) => {
                if count == 0 {
                    return;
                }
                for (publish, tell) in batch.drain(..) {
                    let one_more = Waiting { tell, waited: Patience::default(), returned: false };
                    waiting.insert(publish.id.number, one_more);
                    under_way.push(one(&channel, publish));
                }
            }
            Some(first) = under_way.next() => {
                // With all that was said meanwhile.
                let mut next = Some(first);
                while let Some((number, said)) = next {
                    let whose = said.as_ref().ok().and_then(|said| returned(said, &prefix));
                    if let Some(whose) = whose.and_then(|whose| waiting.get_mut(&whose)) {
                        whose.returned = true;
                    }
                    if let Some(Waiting { tell, returned, .. }) = waiting.remove(&number) {
                        // Who does not wait any more does not want to know.
                        let _gone = tell.send(said.map(|said| (said, returned)));
                    }
                    next = under_way.next().now_or_never().flatten();
                }
            }
            _ = look.tick() => {
                let blocked = status.blocked();
                let overdue = waiting.extract_if(|_, waiting| waiting.waited.ends(blocked));
                for (_, Waiting { tell, .. }) in overdue {
                    let _gone = tell.send(Err(no_confirm()));
                }
            }
        }
    }
}

/// The number of the message that the library has handed over with a confirm.
fn returned(said: &Confirmation, prefix: &str) -> Option<u64> {
    let (Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned))) = said else {
        return None;
    };
    let id = returned.delivery.properties.message_id().as_ref()?;
    id.as_str().strip_prefix(prefix)?.parse().ok()
}

async fn one(channel: &Channel, publish: Publish) -> (u64, lapin::Result<Confirmation>) {
    let Publish { id, exchange, routing_key, options, body, properties } = publish;
    let published = async {
        channel.basic_publish(exchange, routing_key, options, &body, properties).await?.await
    };
    (id.number, published.await)
}
