//! Between the socket and lapin: what RabbitMQ delivers and lapin cannot take.
//!
//! RabbitMQ passes on whatever a client sends: properties and header names that
//! are not UTF-8, tables nested thousands deep, header frames beyond the limit.
//! One such message makes lapin 4.12 close the connection or overflow its
//! stack, and is then requeued for the next host. The filter makes every frame
//! safe, and loses nothing that is needed to answer: ids and reply addresses
//! are kept byte for byte, 0 to 255 of them.
//!
//! - [`connect`] gives a connection with the filter in it;
//! - a property that is not UTF-8 is read and set by [`bytes`] and [`with_bytes`],
//!   a routing key by [`with_routing_key`];
//! - [`headers_lost`] tells why a message has lost its headers, if it has: it
//!   should be answered as a bad request.
//!
//! Refuses to know what a message is for. Each file below can be read alone:
//! `wire`, `table`, `content`, `methods`: bytes; `delivered`, `published`: what
//! is changed; `inbound`, `outbound`: frames from pieces; `stream`: waiting;
//! `cut`: the end of it; `raw`: the application's side.
//!
//! Written against lapin 4.12 and amq-protocol 10.6, and relies on three things
//! that are not in their documentation: which bytes the parser accepts (the
//! tests compare), that a write which was not accepted is offered again, and
//! that a content header is written directly after its `basic.publish`.

mod connect;
mod content;
mod cut;
mod delivered;
mod inbound;
mod methods;
mod outbound;
mod published;
mod raw;
mod stream;
mod table;
#[cfg(test)]
mod testing;
mod wire;

pub(super) use connect::connect;
pub(super) use raw::HEADERS as HEADERS_LOST;
pub(super) use raw::{Property, bytes, headers_lost, is_reserved, with_bytes, with_routing_key};
