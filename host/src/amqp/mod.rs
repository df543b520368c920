//! The broker: the only room that knows lapin.
//!
//! A [`Session`] is everything that one connection attempt brought: the
//! connection that consumes, the connection that replies, and the queue. When
//! any of it is lost the session is over and another one is opened; a delivery
//! of the old one is never settled on the new one, because it can only be
//! settled through its own session.

mod aside;
mod connect;
mod consumers;
mod convert;
mod dead_letters;
mod filter;
mod firehose;
mod management;
mod note;
mod own_queues;
mod parked;
mod replies;
mod reply_nodes;
mod reply_size;
mod session;
mod settle;
mod strategy;
mod topology;

pub use connect::{Connector, OpenError};
pub use dead_letters::{DeadLetters, Undertaker};
pub use parked::{ParkedQueue, ParkedRequest};
pub use session::{Closed, Incoming, Role, Session};

mod caller;
mod collect;
mod load;
pub use caller::{CallCounts, Caller, CallerError, CallerEvent, Outgoing, Watcher};
pub use collect::{Collected, Collector};
pub use firehose::{Copied, Firehose, FirehoseOptions, Power, Seen};
pub use load::{LoadLink, LoadReply, LoadRequest};
