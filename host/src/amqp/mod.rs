//! The broker: the only room that knows lapin.
//!
//! A [`Session`] is what one connection attempt brought: the connection that
//! consumes and the one that replies. A [`QueueConsumer`] is a queue with a
//! channel of the session. What is lost is opened anew; a delivery is never
//! settled on another channel than the one that brought it, because it can only
//! be settled through its own consumer.

mod aside;
#[cfg(test)]
mod broken;
mod confirms;
mod connect;
mod consumer;
mod consumers;
mod convert;
mod dead_letters;
mod filter;
mod firehose;
mod management;
mod note;
mod own_queues;
mod parked;
mod refusals;
mod replies;
mod reply_nodes;
mod reply_size;
mod session;
mod settle;
mod strategy;
mod topology;
mod turn;

pub use connect::{Connector, OpenError};
pub use consumer::{Closed, Incoming, QueueConsumer};
pub use dead_letters::{DeadLetters, Undertaker};
pub use parked::{ParkedQueue, ParkedRequest};
pub use session::{Role, Session};

mod caller;
mod collect;
mod load;
pub use caller::{CallCounts, Caller, CallerError, CallerEvent, Outgoing, Watcher};
pub use collect::{Collected, Collector};
pub use firehose::{Copied, Firehose, FirehoseOptions, Power, Seen};
pub use load::{LoadLink, LoadReply, LoadRequest};
