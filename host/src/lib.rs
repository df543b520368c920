//! rpchost answers RPC calls from RabbitMQ with WebAssembly components.
//!
//! A request's life, in the order of [`dispatch::Dispatcher::answer`]:
//! delivery → decode → route → admit → call (fresh instance) → outcome →
//! encode → publish, await confirm → settle. `ARCHITECTURE.md` beside the
//! sources says which room owns which step, and the rules between them.

pub mod admin;
pub mod amqp;
pub mod author;
pub mod bench;
pub mod capabilities;
pub mod cli;
pub mod client;
pub mod config;
pub mod dispatch;
pub mod journal;
pub mod message;
pub mod plugins;
pub mod private_broker;
pub mod serve;
pub mod state_dir;
pub mod telemetry;
pub mod trace;
pub mod verify;
pub mod wire;

/// Tests of the library use the support of the integration tests, where it has this name.
#[cfg(test)]
extern crate self as rpchost;
