//! The integration tests, in one binary. Each module is one way of looking at
//! the host; those that need a broker start a private one and share it.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test that cannot go on has failed, and says so"
)]
#![expect(unreachable_pub, reason = "one binary: what is public here is public to its modules")]

mod support;

/// Bytes in, bytes out: golden transcripts of the dialects.
mod wire;

/// A request's life, with plugins and without a broker.
mod core;

/// What becomes of requests that a host suspects, without a broker.
mod suspicion;

/// Plugins whose functions have types, and without a broker.
mod typed;

/// Plugins that are programs, and core modules that become components.
mod commands;

/// Projects, their tools, and the cases that plugins bring.
mod author;

/// Instances that serve more than one call.
mod reuse;

/// Versions that keep failing.
mod circuit;
/// What a trap shows, to its caller and to the operator.
mod traps;

/// What guests write, as it stands in the log.
mod guest_logs;

/// What can be called: told to people and to callers.
mod discovery;

/// The release binary, a real broker, and clients as they are.
mod clients;

/// A client library for each language, sending as its tutorial does.
mod libraries;

/// Queues, exchanges and bindings, as callers expect them.
mod listeners;

/// Libraries that bring their own form of RPC.
mod frameworks;

/// Services of other libraries, called by `rpchost call`.
mod dialects;

/// Guests that misbehave, among healthy calls.
mod hostile;

/// Plugins that come, change and go under load.
mod reload;

/// What is left after thousands of swaps, and what many plugins cost.
mod endurance;

/// Helpers that compile, and what is kept of their work.
mod compile;

/// Hosts and brokers that die.
mod faults;

/// Requests that kill hosts.
mod quarantine;

/// Requests that were set aside, and what people do with them.
mod parked;

/// Requests that the broker takes out of the queue.
mod dead_letters;

/// A cluster that loses nodes, behind HAProxy and without.
mod cluster;

/// What `examples/callers` ships.
mod callers;

/// What `examples/deploy` ships.
mod deploy;

/// Several brokers: which of them is connected to.
mod brokers;

/// What brokers refuse while a host runs.
mod refusals;

/// Messages that nobody should send.
mod messages;

/// Messages that no library would send.
mod frames;

/// Methods that are told: to people, and to shells that complete them.
mod listing;

/// The client, and everything that can happen to a call.
mod calling;

/// The Firehose, as people see it.
mod tracing;

/// The reliability check, on services good and broken.
mod verifying;

/// The load generator, on services good, slow and broken.
mod benching;

/// What people type, and what they read.
mod command_line;

/// Rules of the house that a compiler does not check.
mod tidy;
