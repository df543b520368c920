//! A broker in memory that records what is done to it, in order.

use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use rpchost::dispatch::{Broker, PublishError};
use rpchost::message::{Delivery, Note, Original, Place, Properties, Reply, Revoked, Settlement};
use tokio_util::sync::CancellationToken;

/// One thing that was done.
#[derive(Debug, Clone, PartialEq)]
pub enum Done {
    /// A reply was published.
    Published(Reply),
    /// A request was set aside.
    SetAside(Place, Note),
    /// A delivery was settled.
    Settled(u64, Settlement),
}

/// Records, and answers every publish with `result`.
#[derive(Debug)]
pub struct FakeBroker {
    done: Mutex<Vec<Done>>,
    result: Result<(), PublishError>,
}

impl FakeBroker {
    /// A broker that confirms everything.
    pub fn new() -> Self {
        Self::that_answers(Ok(()))
    }

    /// A broker that answers every publish like this.
    pub fn that_answers(result: Result<(), PublishError>) -> Self {
        Self { done: Mutex::default(), result }
    }

    /// Everything that was done, in order.
    pub fn done(&self) -> Vec<Done> {
        self.done.lock().expect("the record").clone()
    }

    /// The only reply.
    ///
    /// # Panics
    ///
    /// When there is not exactly one.
    pub fn reply(&self) -> Reply {
        let replies: Vec<Reply> = self
            .done()
            .into_iter()
            .filter_map(|done| match done {
                Done::Published(reply) => Some(reply),
                Done::SetAside(..) | Done::Settled(..) => None,
            })
            .collect();
        assert_eq!(replies.len(), 1, "{replies:?}");
        replies[0].clone()
    }
}

impl Broker for FakeBroker {
    async fn publish(&self, reply: Reply) -> Result<(), PublishError> {
        self.done.lock().expect("the record").push(Done::Published(reply));
        self.result
    }

    async fn set_aside(
        &self,
        _delivery: &Delivery,
        place: Place,
        note: &Note,
    ) -> Result<(), PublishError> {
        self.done.lock().expect("the record").push(Done::SetAside(place, note.clone()));
        Ok(())
    }

    async fn settle(&self, tag: u64, settlement: Settlement) {
        self.done.lock().expect("the record").push(Done::Settled(tag, settlement));
    }
}

/// A delivery with tag 7, a reply queue and a correlation id.
pub fn delivery(kind: Option<&str>, body: impl Into<Bytes>) -> Delivery {
    Delivery {
        tag: 7,
        queue: "rpc_queue".into(),
        terms: Arc::default(),
        exchange: String::new(),
        routing_key: "rpc_queue".to_owned(),
        redelivered: false,
        received_at: Instant::now(),
        received_wall: SystemTime::now(),
        properties: Properties {
            reply_to: Some(Bytes::from_static(b"answers")),
            correlation_id: Some(Bytes::from_static(b"id-1")),
            kind: kind.map(str::to_owned),
            ..Properties::default()
        },
        body: body.into(),
        revoked: Revoked::default(),
        leaving: CancellationToken::new(),
        original: Original::default(),
        set_aside: None,
    }
}
