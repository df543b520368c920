//! What goes past lapin: deliveries, publishes, acks and confirms.
//!
//! lapin hands each of them from thread to thread and makes a promise or two for it, which costs
//! more than all that the host does for a short call. So the frames that a request and its answer
//! consist of are taken out of what is read, and put into what is written, right here. Everything
//! else is lapin's: connecting, authentication, TLS, heartbeats, channels, consumers, errors and
//! closing. A channel goes past lapin for as long as somebody holds its [`Deliveries`] or
//! [`Confirms`]; nobody then publishes on it, or acks, with lapin's own functions.
//!
//! Knows whole frames and whose they are. `pump` moves the bytes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use amq_protocol::protocol::AMQPError;
use amq_protocol::protocol::basic::parse_properties;
use lapin::types::ShortString;
use lapin::{BasicProperties, ErrorKind};
use tokio::sync::{Notify, mpsc};

use super::content::{self, Content};
use super::methods::{self, CHANNEL_CLOSE, CHANNEL_CLOSE_OK, CONNECTION_CLOSE};
use super::outbound::Outbound;
use super::raw::Property;
use super::wire::{
    self, BODY, FrameHead, HEADER, METHOD, Reader, first_frame, put_frame, put_frame_of, put_long,
    put_short,
};

/// Body bytes that memory is set aside for before they have come: a header may say any number.
const MOST_AT_ONCE: usize = 1 << 20;

/// Memory for frames that a buffer keeps from one write to the next, in bytes: to get it anew from
/// the system costs more than to fill it. A connection has one such buffer, and each channel.
pub(super) const KEPT: usize = 4 << 20;

/// The way past lapin, of one connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bypass(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// There is something to write.
    written: Notify,
}

/// A channel that goes past lapin. Its number alone says too little: lapin uses it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChannelKey {
    pub(crate) number: u16,
    serial: u64,
}

#[derive(Debug, Default)]
struct State {
    channels: HashMap<u16, Channel>,
    /// How many there were.
    serial: u64,
    /// Why the connection has ended, once it has.
    over: Option<lapin::Error>,
}

#[derive(Debug)]
struct Channel {
    serial: u64,
    to: Taker,
    /// A message that is not all there.
    content: Option<Coming>,
    /// Whole frames, to be written.
    out: Vec<u8>,
    /// How many times something was put there, was taken from there, and was written.
    put: u64,
    taken: u64,
    written: u64,
}

/// Who gets the frames of a channel.
#[derive(Debug)]
enum Taker {
    /// No more than the prefetch window can wait here; of one that does not ack, no more than it is
    /// sent.
    Deliveries(mpsc::UnboundedSender<Delivered>),
    /// One for each publish at most, and one for each that is returned.
    Confirms(mpsc::UnboundedSender<Said>),
    /// It is being closed. What still comes is not lapin's either, which would not know what it is.
    Nobody,
}

/// A delivery as the broker sent it.
#[derive(Debug)]
pub(crate) struct Delivered {
    pub(crate) delivery_tag: u64,
    pub(crate) redelivered: bool,
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
    pub(crate) properties: BasicProperties,
    pub(crate) data: Vec<u8>,
}

/// What the broker says of publishes, which it counts from 1.
#[derive(Debug)]
pub(crate) enum Said {
    /// It has taken a message over, or refused it; with `multiple`, all up to it.
    Of { tag: u64, multiple: bool, taken: bool },
    /// It has sent one back, whose `message_id` this is. What it says of it comes after.
    Returned(ShortString),
    /// It says nothing more, because channel or connection are closed.
    Lost(lapin::Error),
}

/// A message of which not all frames have come.
#[derive(Debug)]
struct Coming {
    method: Begun,
    properties: BasicProperties,
    body: Vec<u8>,
    /// Bytes of the body that have not come; `None` before the content header.
    left: Option<u64>,
}

#[derive(Debug)]
enum Begun {
    Delivery { delivery_tag: u64, redelivered: bool, exchange: String, routing_key: String },
    Return,
}

impl Bypass {
    /// The deliveries of a channel from now on. They end with the channel.
    pub(crate) fn deliveries(
        &self,
        channel: u16,
    ) -> (ChannelKey, mpsc::UnboundedReceiver<Delivered>) {
        let (tell, told) = mpsc::unbounded_channel();
        (self.state().open(channel, Taker::Deliveries(tell)), told)
    }

    /// What the broker says of this channel's publishes from now on.
    pub(crate) fn confirms(&self, channel: u16) -> (ChannelKey, mpsc::UnboundedReceiver<Said>) {
        let (tell, told) = mpsc::unbounded_channel();
        (self.state().open(channel, Taker::Confirms(tell)), told)
    }

    /// Has whole frames written on a channel; false if it is closed, where another frame would
    /// close the connection.
    pub(crate) fn write(&self, key: ChannelKey, put: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut state = self.state();
        let Some(channel) = state.channels.get_mut(&key.number) else { return false };
        if channel.serial != key.serial || matches!(channel.to, Taker::Nobody) {
            return false;
        }
        put(&mut channel.out);
        channel.put += 1;
        drop(state);
        self.0.written.notify_one();
        true
    }

    /// How many times something was put on a channel that is not written yet: the broker may not
    /// take it.
    pub(crate) fn unwritten(&self, key: ChannelKey) -> u64 {
        let state = self.state();
        let channel =
            state.channels.get(&key.number).filter(|channel| channel.serial == key.serial);
        channel.map_or(0, |channel| channel.put - channel.written)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves when there is something to write.
    pub(super) async fn written(&self) {
        self.0.written.notified().await;
    }

    /// Appends what waits here to `out`, and behind it whole frames of lapin's. What lapin closes is
    /// closed for us as well from there on. Returns how many of lapin's bytes that were.
    pub(super) fn write_out(
        &self,
        lapins: &[u8],
        outbound: &mut Outbound,
        out: &mut Vec<u8>,
    ) -> usize {
        let mut state = self.state();
        // Such as a heartbeat, where nobody else has anything to say. Where lapin has nothing
        // either, it is only that what woke us was written with what came before.
        let only_lapin =
            !lapins.is_empty() && state.channels.values().all(|channel| channel.out.is_empty());
        if only_lapin {
            *out = Vec::new();
        }
        for channel in state.channels.values_mut() {
            if out.is_empty() && !channel.out.is_empty() {
                std::mem::swap(out, &mut channel.out);
            } else {
                out.append(&mut channel.out);
            }
            channel.out.shrink_to(if only_lapin { 0 } else { KEPT });
            channel.taken = channel.put;
        }
        let begin = out.len();
        let taken = outbound.filter(lapins, out);
        let mut rest = out.get(begin..).unwrap_or_default();
        while let Some((head, frame, after)) = first_frame(rest) {
            let method = wire::payload(frame).filter(|_| head.kind == METHOD).and_then(methods::id);
            if method == Some(CHANNEL_CLOSE)
                && let Some(channel) = state.channels.get_mut(&head.channel)
            {
                channel.end(&closed());
            }
            rest = after;
        }
        taken
    }

    /// All is written that was taken so far.
    pub(super) fn wrote(&self) {
        for channel in self.state().channels.values_mut() {
            channel.written = channel.taken;
        }
    }

    /// Sorts frames that were read: ours are taken, lapin's are appended to `to_lapin`. Returns how
    /// many bytes there were of whole frames.
    pub(super) fn sort(&self, bytes: &[u8], to_lapin: &mut Vec<u8>) -> usize {
        let mut state = self.state();
        let mut rest = bytes;
        while let Some((head, frame, after)) = first_frame(rest) {
            if !state.takes(head, frame) {
                to_lapin.extend_from_slice(frame);
            }
            rest = after;
        }
        bytes.len() - rest.len()
    }

    /// The connection has ended.
    pub(super) fn lost(&self, error: &lapin::Error) {
        let mut state = self.state();
        state.over.get_or_insert_with(|| error.clone());
        for (_, mut channel) in state.channels.drain() {
            channel.end(error);
        }
    }
}

impl State {
    fn open(&mut self, number: u16, to: Taker) -> ChannelKey {
        self.serial += 1;
        let serial = self.serial;
        let (content, out) = (None, Vec::new());
        let mut channel = Channel { serial, to, content, out, put: 0, taken: 0, written: 0 };
        match &self.over {
            Some(error) => channel.end(error),
            None => drop(self.channels.insert(number, channel)),
        }
        ChannelKey { number, serial }
    }

    /// Whether a frame is taken. What is not as it should be is left to lapin, which says so.
    fn takes(&mut self, head: FrameHead, frame: &[u8]) -> bool {
        let Some(payload) = wire::payload(frame) else { return false };
        if head.kind == METHOD {
            match methods::id(payload) {
                Some(CONNECTION_CLOSE) => {
                    if let Some(error) = closing(payload) {
                        for (_, mut channel) in self.channels.drain() {
                            channel.end(&error);
                        }
                    }
                    return false;
                }
                Some(CHANNEL_CLOSE) => {
                    if let Some(mut channel) = self.channels.remove(&head.channel)
                        && let Some(error) = closing(payload)
                    {
                        channel.end(&error);
                    }
                    return false;
                }
                Some(CHANNEL_CLOSE_OK) => {
                    self.channels.remove(&head.channel);
                    return false;
                }
                _ => {}
            }
        }
        let Some(channel) = self.channels.get_mut(&head.channel) else { return false };
        match head.kind {
            METHOD => channel.method(payload).is_some(),
            HEADER => channel.header(payload).is_some(),
            BODY => channel.body(payload).is_some(),
            _ => false,
        }
    }
}

impl Channel {
    /// Nobody gets anything any more.
    fn end(&mut self, error: &lapin::Error) {
        if let Taker::Confirms(tell) = std::mem::replace(&mut self.to, Taker::Nobody) {
            let _nobody = tell.send(Said::Lost(error.clone()));
        }
    }

    fn method(&mut self, payload: &[u8]) -> Option<()> {
        let mut reader = Reader(payload.get(4..)?);
        match (methods::id(payload)?, &self.to) {
            (methods::BASIC_DELIVER, Taker::Deliveries(_)) => {
                reader.short()?;
                let (delivery_tag, flags) = (reader.u64()?, reader.u8()?);
                let (exchange, routing_key) = (text(reader.short()?), text(reader.short()?));
                let redelivered = flags & 1 != 0;
                let begun = Begun::Delivery { delivery_tag, redelivered, exchange, routing_key };
                self.content = Some(Coming::of(begun));
            }
            (methods::BASIC_RETURN, Taker::Confirms(_)) => {
                self.content = Some(Coming::of(Begun::Return));
            }
            (methods::BASIC_ACK, Taker::Confirms(tell)) => {
                let (tag, flags) = (reader.u64()?, reader.u8()?);
                let _nobody = tell.send(Said::Of { tag, multiple: flags & 1 != 0, taken: true });
            }
            (methods::BASIC_NACK, Taker::Confirms(tell)) => {
                let (tag, flags) = (reader.u64()?, reader.u8()?);
                let _nobody = tell.send(Said::Of { tag, multiple: flags & 1 != 0, taken: false });
            }
            (methods::BASIC_DELIVER | methods::BASIC_RETURN, Taker::Nobody) => {
                self.content = Some(Coming::of(Begun::Return));
            }
            (methods::BASIC_ACK | methods::BASIC_NACK, Taker::Nobody) => {}
            _ => return None,
        }
        Some(())
    }

    fn header(&mut self, payload: &[u8]) -> Option<()> {
        let content = self.content.as_mut()?;
        let size = content::body_size(payload)?;
        // The filter has seen to it that it can be read.
        let (_, properties) = parse_properties(payload.get(content::PREAMBLE..)?).ok()?;
        content.properties = properties;
        content.left = Some(size);
        content.body.reserve(usize::try_from(size).unwrap_or(usize::MAX).min(MOST_AT_ONCE));
        self.end_content();
        Some(())
    }

    fn body(&mut self, payload: &[u8]) -> Option<()> {
        let content = self.content.as_mut()?;
        let left = content.left?;
        content.body.extend_from_slice(payload);
        content.left = Some(left.saturating_sub(payload.len() as u64));
        self.end_content();
        Some(())
    }

    /// Tells of a message that is all there.
    fn end_content(&mut self) {
        let Some(Coming { method, properties, body: data, .. }) =
            self.content.take_if(|content| content.left == Some(0))
        else {
            return;
        };
        match (method, &self.to) {
            (
                Begun::Delivery { delivery_tag, redelivered, exchange, routing_key },
                Taker::Deliveries(tell),
            ) => {
                let delivered = Delivered {
                    delivery_tag,
                    redelivered,
                    exchange,
                    routing_key,
                    properties,
                    data,
                };
                let _nobody = tell.send(delivered);
            }
            (Begun::Return, Taker::Confirms(tell)) => {
                if let Some(id) = properties.message_id() {
                    let _nobody = tell.send(Said::Returned(id.clone()));
                }
            }
            _ => {}
        }
    }
}

impl Coming {
    fn of(method: Begun) -> Self {
        let properties = BasicProperties::default();
        Self { method, properties, body: Vec::new(), left: None }
    }
}

/// The filter has put question marks where it was none.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The error of who publishes on a channel that lapin closes.
fn closed() -> lapin::Error {
    std::io::Error::new(std::io::ErrorKind::NotConnected, "the channel is closed").into()
}

/// The error that a broker closes a channel or connection with, as lapin tells it.
fn closing(payload: &[u8]) -> Option<lapin::Error> {
    let mut reader = Reader(payload.get(4..)?);
    let (code, text) = (reader.u16()?, text(reader.short()?));
    Some(match AMQPError::from_id(code, ShortString::try_new(&text).unwrap_or_default()) {
        Some(error) => ErrorKind::ProtocolError(error).into(),
        None => std::io::Error::other(format!("closed by the broker: {code} {text}")).into(),
    })
}

/// A message to publish past lapin. Names and ids are bytes, of which 255 fit.
#[derive(Debug, Clone)]
pub(crate) struct Message<'a> {
    pub(crate) exchange: &'a [u8],
    pub(crate) routing_key: &'a [u8],
    pub(crate) mandatory: bool,
    pub(crate) persistent: bool,
    pub(crate) content_type: Option<&'a [u8]>,
    pub(crate) headers: &'a [(String, String)],
    pub(crate) correlation_id: Option<&'a [u8]>,
    pub(crate) reply_to: Option<&'a [u8]>,
    pub(crate) message_id: &'a [u8],
    pub(crate) kind: Option<&'a [u8]>,
    pub(crate) body: &'a [u8],
}

/// Appends a `basic.publish` with its content, in frames of at most `frame_max` bytes. False, and
/// nothing is appended, where its headers are larger than that: they cannot be cut, and the broker
/// would close the connection.
pub(crate) fn put_publish(
    out: &mut Vec<u8>,
    channel: u16,
    frame_max: usize,
    message: &Message<'_>,
) -> bool {
    let Message { exchange, routing_key, body, .. } = message;
    let begin = out.len();
    put_frame_of(out, METHOD, channel, |out| {
        // Class, method, and two bytes that mean nothing any more.
        out.extend_from_slice(&[0, 60, 0, 40, 0, 0]);
        put_short(out, exchange);
        put_short(out, routing_key);
        out.push(u8::from(message.mandatory));
    });
    let header = out.len();
    put_frame_of(out, HEADER, channel, |out| {
        out.extend_from_slice(&[0, 60, 0, 0]);
        out.extend_from_slice(&(body.len() as u64).to_be_bytes());
        put_properties(out, message);
    });
    if out.len() - header > frame_max {
        out.truncate(begin);
        return false;
    }
    for piece in body.chunks(frame_max.saturating_sub(wire::OVERHEAD).max(1)) {
        put_frame(out, BODY, channel, piece);
    }
    true
}

fn put_properties(out: &mut Vec<u8>, message: &Message<'_>) {
    let mode = [if message.persistent { 2 } else { 1 }];
    let mut content = Content::of_mode(&mode);
    content.set_property(Property::ContentType, message.content_type);
    content.set_property(Property::CorrelationId, message.correlation_id);
    content.set_property(Property::ReplyTo, message.reply_to);
    content.set_property(Property::MessageId, Some(message.message_id));
    content.set_property(Property::Type, message.kind);
    let mut table = Vec::with_capacity(256);
    let mut headers = message.headers.iter();
    while let Some((name, value)) = headers.next() {
        // Of two with the same name the last one, as in any table.
        if headers.as_slice().iter().any(|(other, _)| other == name) {
            continue;
        }
        put_short(&mut table, name.as_bytes());
        table.push(b'S');
        put_long(&mut table, value.as_bytes());
    }
    content.put(out, (!table.is_empty()).then_some(&table));
}

/// Appends a `basic.ack`.
pub(crate) fn put_ack(out: &mut Vec<u8>, channel: u16, tag: u64, multiple: bool) {
    put_settlement(out, channel, 80, tag, u8::from(multiple));
}

/// Appends a `basic.nack` that puts one message back.
pub(crate) fn put_requeue(out: &mut Vec<u8>, channel: u16, tag: u64) {
    put_settlement(out, channel, 120, tag, 0b10);
}

fn put_settlement(out: &mut Vec<u8>, channel: u16, method: u8, tag: u64, flags: u8) {
    let mut payload = [0, 60, 0, method, 0, 0, 0, 0, 0, 0, 0, 0, flags];
    if let Some(place) = payload.get_mut(4..12) {
        place.copy_from_slice(&tag.to_be_bytes());
    }
    put_frame(out, METHOD, channel, &payload);
}
