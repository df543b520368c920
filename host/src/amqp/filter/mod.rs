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
//! - a property that is not UTF-8 is read by [`bytes`];
//! - a [`Bypass`] takes deliveries, publishes, acks and confirms past lapin, where they are bytes;
//! - [`headers_lost`] tells why a message has lost its headers, if it has: it
//!   should be answered as a bad request.
//!
//! Refuses to know what a message is for. Each file below can be read alone:
//! `wire`, `table`, `content`, `methods`: bytes; `delivered`, `published`: what
//! is changed; `inbound`: frames from pieces; `outbound`: the other direction; `pump`: when bytes are
//! moved; `bypass`: whose frames they are; `raw`: the application's side.
//!
//! Written against lapin 4.12 and amq-protocol 10.6, and relies on one thing that is not in their
//! documentation: which bytes the parser accepts (the tests compare).

mod bypass;
mod connect;
mod content;
mod delivered;
mod inbound;
mod methods;
mod outbound;
mod published;
mod pump;
mod raw;
mod table;
#[cfg(test)]
mod testing;
mod wire;

pub(super) use bypass::{
    Bypass, ChannelKey, Delivered, Message, Said, put_ack, put_publish, put_requeue,
};
pub(super) use connect::connect;
pub(super) use raw::HEADERS as HEADERS_LOST;
#[cfg(test)]
pub(super) use raw::carry;
pub(super) use raw::{Property, bytes, headers_lost, is_reserved};
pub(super) use wire::SHORT_MAX;
