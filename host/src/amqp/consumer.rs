//! A queue that is consumed, over a channel of its own: what happens to it, or to
//! the channel, does not touch the others of the session.

use std::sync::Arc;

use futures_util::StreamExt as _;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Consumer};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::connect::{Connected, OpenError};
use super::convert::{self, Origin};
use super::filter::{ChannelKey, Delivered};
use super::own_queues::{self, Beyond};
use super::session::{CLOSE_PATIENCE, Role, Session};
use super::settle::Settler;
use super::topology;
use crate::config::ServedQueue;
use crate::dispatch::{Broker, PublishError};
use crate::message::{Delivery, Note, Place, Reply, Revoked, Settlement};

/// A queue that is being consumed, and the way to answer its requests.
#[derive(Debug)]
pub struct QueueConsumer {
    session: Arc<Session>,
    served: Arc<ServedQueue>,
    /// As the broker knows it.
    name: String,
    channel: Channel,
    tag: ShortString,
    settler: Settler,
    revoked: Revoked,
    leaving: CancellationToken,
    over: CancellationToken,
}

/// The deliveries of a queue, in the broker's order.
#[derive(Debug)]
pub struct Incoming {
    deliveries: Deliveries,
    origin: Origin,
    /// Who we are for the broker, where notes of hosts are read.
    lane_of: Option<String>,
}

/// Why no more deliveries come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Closed {
    /// The consumer was cancelled: by us, or because its queue is gone.
    Cancelled,
    /// The channel or the connection failed.
    Failed(String),
}

impl QueueConsumer {
    pub(super) async fn open(
        session: Arc<Session>,
        served: Arc<ServedQueue>,
        role: Role,
        leaving: CancellationToken,
        say_differences: bool,
    ) -> lapin::Result<(Self, Incoming)> {
        let connection = session.connection();
        let (name, prefetch) = match role {
            Role::Host => {
                let name = topology::ensure(connection, &served, say_differences).await?;
                (name, served.prefetch)
            }
            Role::Lane => {
                let name = Place::Suspect.queue(&served.queue.name);
                own_queues::ensure(connection, &name, served.queue.kind, Beyond::Refused).await?;
                // One at a time: who waits must not be blamed for who runs.
                (name, 1)
            }
        };
        let channel = connection.create_channel().await?;
        channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
        let tag = format!("rpchost-{:016x}", rand::random::<u64>());
        let tag = convert::short(&tag).unwrap_or_default();
        let acks = BasicConsumeOptions::default();
        let deliveries = Deliveries::of(connection, &channel, &name, tag.clone(), acks).await?;
        let revoked = Revoked::default();
        let origin = Origin {
            queue: Arc::from(served.queue.name.as_str()),
            terms: served.terms.clone(),
            revoked: revoked.clone(),
            leaving: leaving.clone(),
        };
        let lane_of = (role == Role::Lane).then(|| session.user().to_owned());
        let bypass = connection.bypass().clone();
        let settler = Settler::start(channel.clone(), deliveries.key, bypass);
        let incoming = Incoming { deliveries, origin, lane_of };
        let over = session.over().child_token();
        let opened = Self { session, served, name, channel, tag, settler, revoked, leaving, over };
        Ok((opened, incoming))
    }

    /// Asks for no more deliveries; when the broker has agreed, what has not
    /// begun is given back. Those on their way still come, then
    /// [`Closed::Cancelled`]. Returns whether the broker has agreed.
    pub async fn cancel(&self) -> bool {
        let cancelling = self.channel.basic_cancel(self.tag.clone(), BasicCancelOptions::default());
        match tokio::time::timeout(CLOSE_PATIENCE, cancelling).await {
            Ok(Ok(())) => {
                // Only now: what is given back must not come back to us.
                self.leaving.cancel();
                return true;
            }
            Ok(Err(error)) => debug!("the consumer was not cancelled in order: {error}"),
            Err(_) => debug!("the broker did not answer the cancellation"),
        }
        false
    }

    /// Resolves when the consumer or its session was given up.
    pub async fn abandoned(&self) {
        self.over.cancelled().await;
    }

    /// Tells guests that their answers are no longer wanted.
    pub fn revoke(&self) {
        self.revoked.set();
    }

    /// Gives up: whatever is unsettled is delivered again, by the broker.
    pub fn abandon(&self) {
        self.revoked.set();
        self.leaving.cancel();
        self.over.cancel();
    }

    /// How many requests of its queue wait for somebody; `None` if there is no such queue.
    ///
    /// # Errors
    ///
    /// When the broker cannot be asked.
    pub async fn ready(&self) -> Result<Option<u32>, OpenError> {
        self.session.depth(&self.name).await
    }

    /// Closes the channel of a consumer that was given up, in the background.
    pub fn leave_channel(&self) {
        let channel = self.channel.clone();
        tokio::spawn(async move {
            if tokio::time::timeout(CLOSE_PATIENCE, topology::close(&channel)).await.is_err() {
                debug!("the broker did not answer the closing of a channel");
            }
        });
    }

    /// Closes in order, so that every settlement has reached the broker.
    pub async fn close(self) {
        let Self { channel, settler, revoked, over, .. } = self;
        let closing = async {
            settler.finish().await;
            channel.close(200, "done".into()).await
        };
        match tokio::time::timeout(CLOSE_PATIENCE, closing).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!("a consumer's channel was not closed in order: {error}"),
            Err(_) => debug!("the broker did not answer the closing of a channel"),
        }
        revoked.set();
        over.cancel();
    }
}

/// Begins to consume. If that is given up, what the broker still says is heard: a consumer
/// that nobody reads would keep what it is given for as long as the connection lives.
///
/// # Errors
///
/// As the broker's.
async fn consume(
    channel: &Channel,
    queue: &str,
    tag: ShortString,
    options: BasicConsumeOptions,
) -> lapin::Result<Consumer> {
    let (tell, told) = oneshot::channel();
    let (channel, queue) = (channel.clone(), convert::short(queue).unwrap_or_default());
    tokio::spawn(async move {
        let consumed = channel.basic_consume(queue, tag, options, FieldTable::default()).await;
        if let Err(Ok(_late)) = tell.send(consumed) {
            topology::close(&channel).await;
        }
    });
    // Unsaid only where the runtime ends.
    told.await.unwrap_or_else(|ended| Err(std::io::Error::other(ended).into()))
}

impl Incoming {
    /// The next delivery.
    ///
    /// # Errors
    ///
    /// When there are no more, and why.
    pub async fn next(&mut self) -> Result<Delivery, Closed> {
        let delivered = self.deliveries.next().await?;
        Ok(self.converted(delivered))
    }

    /// The next one, if it is there already.
    pub fn ready(&mut self) -> Option<Delivery> {
        self.deliveries.ready().map(|delivered| self.converted(delivered))
    }

    fn converted(&self, delivered: Delivered) -> Delivery {
        match &self.lane_of {
            None => convert::delivery(delivered, self.origin.clone()),
            Some(user) => convert::restored(delivered, self.origin.clone(), user),
        }
    }
}

/// What a consumer gets, past lapin, which knows when it ends.
#[derive(Debug)]
pub(super) struct Deliveries {
    pub(super) key: ChannelKey,
    past: mpsc::UnboundedReceiver<Delivered>,
    consumer: Consumer,
    /// Why there are no more, said only once by the library.
    closed: Option<Closed>,
}

impl Deliveries {
    /// Begins to consume on a channel that is for nothing else.
    ///
    /// # Errors
    ///
    /// As the broker's.
    pub(super) async fn of(
        connection: &Connected,
        channel: &Channel,
        queue: &str,
        tag: ShortString,
        options: BasicConsumeOptions,
    ) -> lapin::Result<Self> {
        // Before the first can come.
        let (key, past) = connection.bypass().deliveries(channel.id());
        let consumer = consume(channel, queue, tag, options).await?;
        Ok(Self { key, past, consumer, closed: None })
    }

    /// The next one.
    ///
    /// # Errors
    ///
    /// When there are no more, and why.
    pub(super) async fn next(&mut self) -> Result<Delivered, Closed> {
        while self.closed.is_none() {
            let ended = tokio::select! {
                biased;
                Some(delivered) = self.past.recv() => return Ok(delivered),
                ended = self.consumer.next() => ended,
            };
            self.closed = Some(match ended {
                Some(Err(error)) => Closed::Failed(error.to_string()),
                Some(Ok(_)) => Closed::Failed("a delivery came another way".to_owned()),
                None => Closed::Cancelled,
            });
        }
        // What came before the end.
        self.past.try_recv().map_err(|_| self.closed.clone().unwrap_or(Closed::Cancelled))
    }
    /// The next one, if it is there already.
    pub(super) fn ready(&mut self) -> Option<Delivered> {
        self.past.try_recv().ok()
    }
}

impl Broker for QueueConsumer {
    async fn publish(&self, reply: Reply) -> Result<(), PublishError> {
        self.session.publish(&reply).await
    }

    async fn set_aside(
        &self,
        delivery: &Delivery,
        place: Place,
        note: &Note,
    ) -> Result<(), PublishError> {
        self.session.set_aside(delivery, self.served.queue.kind, place, note).await
    }

    async fn settle(&self, tag: u64, settlement: Settlement) {
        self.settler.settle(tag, settlement).await;
    }
}
