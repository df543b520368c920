//! The nouns of a call, from the delivery to its settlement.
//!
//! Plain data: no I/O, no wire format, no knowledge of AMQP frames or of
//! WebAssembly. What these values look like on the wire is decided in
//! [`crate::wire`]; how they get there, in [`crate::amqp`].

mod aside;
mod dialect;
mod identity;
mod terms;
mod words;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

pub use aside::{Death, Note, Original, Place, Reason, SetAside};
pub use dialect::{Dialect, EnvelopeReply, Form};
pub use identity::Identity;
pub use terms::Terms;
pub use words::{NAMEKO_EXCHANGE, NEST_NO_HANDLER, PICKLE, STATUS};

/// One message as the broker delivered it.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Number of the delivery on its channel (AMQP 0-9-1 section 1.8.3.13).
    pub tag: u64,
    /// Name of the queue it was consumed from.
    pub queue: Arc<str>,
    /// What it is read and answered by.
    pub terms: Arc<Terms>,
    /// Exchange it was published to; empty for the default exchange.
    pub exchange: String,
    /// Routing key it was published with.
    pub routing_key: String,
    /// Whether the broker says that it may have been delivered before.
    pub redelivered: bool,
    /// When this host received it; the zero of all relative time limits.
    pub received_at: Instant,
    /// The same moment by the wall clock, for absolute deadlines.
    pub received_wall: SystemTime,
    /// The message's properties.
    pub properties: Properties,
    /// The message's body.
    pub body: Bytes,
    /// Set when this host can no longer answer the delivery.
    pub revoked: Revoked,
    /// Cancelled when its queue is left: what has not begun is given back then.
    pub leaving: CancellationToken,
    /// What publishes it again as it was.
    pub original: Original,
    /// What a host wrote on it, if it comes from a queue of such requests.
    pub set_aside: Option<Box<SetAside>>,
}

impl Delivery {
    /// Which delivery of the message this is, from 1. Quorum queues count
    /// (`x-delivery-count`); of others only the flag is known. The header is
    /// believed only together with the flag, which a client cannot forge.
    pub fn attempt(&self) -> u32 {
        if !self.redelivered {
            return 1;
        }
        let counted = match self.properties.header("x-delivery-count") {
            Some(HeaderValue::Int(count)) => u32::try_from(*count).unwrap_or(0),
            Some(HeaderValue::UInt(count)) => u32::try_from(*count).unwrap_or(0),
            _ => 0,
        };
        counted.max(1).saturating_add(1)
    }
}

/// A flag shared by all deliveries of a session: once it is set the broker
/// delivers them again, and an answer from here would be a duplicate.
#[derive(Debug, Clone, Default)]
pub struct Revoked(Arc<AtomicBool>);

impl Revoked {
    /// Marks every delivery that shares this flag.
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether the deliveries were given up.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Properties of a message (AMQP 0-9-1 section 1.8, class `basic`), as far as
/// a request can use them.
#[derive(Debug, Clone, Default)]
pub struct Properties {
    /// Where the answer goes, byte for byte: a queue's name need not be text.
    /// An empty one counts as absent.
    pub reply_to: Option<Bytes>,
    /// Copied to the reply byte for byte.
    pub correlation_id: Option<Bytes>,
    /// MIME type of the body.
    pub content_type: Option<String>,
    /// The publisher's own id of the message.
    pub message_id: Option<String>,
    /// The property `type`: the `plain` dialect's method.
    pub kind: Option<String>,
    /// Id of the publishing application.
    pub app_id: Option<String>,
    /// User the message was published as; the broker has checked it.
    pub user_id: Option<String>,
    /// Time to live in the queue, milliseconds as text.
    pub expiration: Option<String>,
    /// 2 asks for a persistent message.
    pub delivery_mode: Option<u8>,
    /// 0 to 255.
    pub priority: Option<u8>,
    /// Unix seconds.
    pub timestamp: Option<u64>,
    /// Application headers in the order of the broker's table.
    pub headers: Vec<(String, HeaderValue)>,
    /// Why the headers could not be read, if they could not.
    pub headers_lost: Option<String>,
}

impl Properties {
    /// The first header of that name.
    pub fn header(&self, name: &str) -> Option<&HeaderValue> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// The text of the first header of that name, if it is text.
    pub fn text_header(&self, name: &str) -> Option<&str> {
        match self.header(name)? {
            HeaderValue::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Whether the sender asked for a message that survives the broker.
    pub fn persistent(&self) -> bool {
        self.delivery_mode == Some(2)
    }
}

/// A value of an AMQP field table (section 4.2.5.5 and RabbitMQ's additions).
#[derive(Debug, Clone, PartialEq)]
pub enum HeaderValue {
    /// A long string that is UTF-8.
    Text(String),
    /// A long string or byte array that is not text.
    Bytes(Bytes),
    /// A boolean.
    Bool(bool),
    /// Any signed integer.
    Int(i64),
    /// Any unsigned integer.
    UInt(u64),
    /// A single or double precision number.
    Float(f64),
    /// A decimal: digits and the number of digits after the point.
    Decimal(u32, u8),
    /// Unix seconds.
    Timestamp(u64),
    /// An array.
    List(Vec<HeaderValue>),
    /// A nested table.
    Table(Vec<(String, HeaderValue)>),
    /// The void value.
    Null,
}

/// One call, free of any dialect.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The method named by the caller; `None` asks for the default method.
    pub method: Option<String>,
    /// What the method is called with.
    pub arguments: Arguments,
}

/// What a method is called with.
#[derive(Debug, Clone, PartialEq)]
pub enum Arguments {
    /// The body as it is; a handler gets it unchanged.
    Body(Bytes),
    /// A JSON text taken out of an envelope, an array by position or an object by
    /// name, or nothing; a handler gets it as its body.
    Json(Bytes),
    /// A JSON text taken out of an envelope that says nothing of position or name;
    /// a handler gets it as its body.
    Value(Bytes),
    /// By position and by name at once; a handler gets an object of the two.
    Call {
        /// A JSON array; without elements it is `[]`, to the letter or with spaces.
        args: Bytes,
        /// A JSON object, likewise.
        kwargs: Bytes,
    },
}

impl Arguments {
    /// The body that a handler gets.
    pub fn body(&self) -> Bytes {
        match self {
            Self::Body(body) | Self::Json(body) | Self::Value(body) => body.clone(),
            Self::Call { args, kwargs } => {
                let parts: [&[u8]; 5] = [b"{\"args\":", args, b",\"kwargs\":", kwargs, b"}"];
                Bytes::from(parts.concat())
            }
        }
    }

    /// Whether they were taken out of a JSON envelope.
    pub fn is_json(&self) -> bool {
        !matches!(self, Self::Body(_))
    }
}

/// What came of a call. Deliberately flat: a guest's `err` and a trap are both
/// `Err`, so that no `Ok(_)` can swallow either.
pub type Outcome = Result<ReturnValue, CallError>;

/// What a method returned.
#[derive(Debug, Clone, PartialEq)]
pub struct ReturnValue {
    /// The bytes.
    pub body: Bytes,
    /// MIME type, if the handler named one.
    pub content_type: Option<String>,
    /// Headers that AMQP can carry and a handler may set.
    pub headers: Vec<(String, String)>,
}

/// Why a call has no result.
#[derive(Debug, Clone, PartialEq)]
pub struct CallError {
    /// The closed vocabulary that callers can rely on.
    pub kind: ErrorKind,
    /// One sentence for a person, at most [`MAX_ERROR_TEXT`] bytes.
    pub message: String,
    /// More for a machine: a JSON text.
    pub data: Option<String>,
}

/// Kinds of errors, as the public contract lists them. Their numbers and names
/// on the wire are decided in [`crate::wire`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The body is not what its dialect requires.
    ParseError,
    /// Well-formed, but not a request; too large; too many headers.
    BadRequest,
    /// No method of that name. Retryable just after a plugin's change.
    MethodNotFound {
        /// Whether a plugin of that name was changed a moment ago.
        retryable: bool,
    },
    /// Wrong number, type or range of arguments.
    InvalidParams,
    /// A fault of the host itself.
    Internal,
    /// The handler's own error.
    Application {
        /// The handler's number, outside the range that belongs to the host.
        code: i32,
        /// Whether the handler says that trying again may help.
        retryable: bool,
    },
    /// The guest trapped or left without an answer.
    Trap,
    /// It ran past its limit.
    Timeout,
    /// The deadline had passed before it started.
    DeadlineExceeded,
    /// It ended after growth was refused, or its result is too large.
    ResourceExhausted,
    /// No slot and no room in the line.
    Overloaded,
    /// The plugin keeps failing and rests.
    CircuitOpen,
    /// Redelivered, and the plugin refuses to run twice.
    MaybeExecuted,
    /// Set aside after repeated crashes.
    Quarantined,
    /// It trapped while starting.
    InstantiateFailed,
}

impl ErrorKind {
    /// Every kind, for labels that are made from a closed set.
    pub const ALL: [Self; 15] = [
        Self::ParseError,
        Self::BadRequest,
        Self::MethodNotFound { retryable: false },
        Self::InvalidParams,
        Self::Internal,
        Self::Application { code: 0, retryable: false },
        Self::Trap,
        Self::Timeout,
        Self::DeadlineExceeded,
        Self::ResourceExhausted,
        Self::Overloaded,
        Self::CircuitOpen,
        Self::MaybeExecuted,
        Self::Quarantined,
        Self::InstantiateFailed,
    ];

    /// The kind's name, as in the contract.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ParseError => "parse-error",
            Self::BadRequest => "bad-request",
            Self::MethodNotFound { .. } => "method-not-found",
            Self::InvalidParams => "invalid-params",
            Self::Internal => "internal",
            Self::Application { .. } => "application",
            Self::Trap => "trap",
            Self::Timeout => "timeout",
            Self::DeadlineExceeded => "deadline-exceeded",
            Self::ResourceExhausted => "resource-exhausted",
            Self::Overloaded => "overloaded",
            Self::CircuitOpen => "circuit-open",
            Self::MaybeExecuted => "maybe-executed",
            Self::Quarantined => "quarantined",
            Self::InstantiateFailed => "instantiate-failed",
        }
    }
}

/// Longest error text in bytes. Enough for a sentence and a guest's stack;
/// short enough that an error can be logged and held in memory by the hundred.
pub const MAX_ERROR_TEXT: usize = 4096;

impl CallError {
    /// An error with a text, which is cut at [`MAX_ERROR_TEXT`].
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let mut message = message.into();
        truncate(&mut message, MAX_ERROR_TEXT);
        Self { kind, message, data: None }
    }

    /// The same with a JSON text for machines.
    #[must_use]
    pub fn with_data(mut self, json: String) -> Self {
        self.data = Some(json);
        self
    }
}

/// Cuts a text to at most `limit` bytes, at a character's border.
pub fn truncate(text: &mut String, limit: usize) {
    if text.len() > limit {
        const MARK: &str = "…";
        text.truncate(text.floor_char_boundary(limit.saturating_sub(MARK.len())));
        text.push_str(MARK);
    }
}

/// An outcome, and which plugin it came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Answered {
    /// What came of the call.
    pub outcome: Outcome,
    /// The version that ran, or refused to; `None` where no plugin was found.
    pub plugin: Option<PluginId>,
}

impl Answered {
    /// An error from before a plugin was found.
    pub fn unrouted(error: CallError) -> Self {
        Self { outcome: Err(error), plugin: None }
    }
}

/// Which version of a plugin did the work.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PluginId {
    /// The file's stem.
    pub name: Arc<str>,
    /// SHA-256 of the file's bytes, in lower-case hex.
    pub digest: Arc<str>,
}

impl PluginId {
    /// `name@` and the first twelve digits of the digest.
    pub fn short(&self) -> String {
        format!("{}@{}", self.name, self.digest.get(..12).unwrap_or(&self.digest))
    }
}

/// The reply header that tells an answer that may not be the first.
pub const REDELIVERED: &str = "rpchost-redelivered";

/// A message on its way to a caller.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// Where it is published; none is the default exchange.
    pub exchange: Option<Arc<str>>,
    /// The request's `reply_to`, or the queue for those that have none.
    pub routing_key: Bytes,
    /// The number of the caller's node where the address belongs to RabbitMQ's
    /// direct reply-to, whose replies cannot be returned.
    pub direct_node: Option<u64>,
    /// The request's, byte for byte.
    pub correlation_id: Option<Bytes>,
    /// MIME type of the body.
    pub content_type: Option<String>,
    /// The property `type`, where the dialect has one.
    pub kind: Option<&'static str>,
    /// Headers, all text.
    pub headers: Vec<(String, String)>,
    /// Whether the request asked for persistence.
    pub persistent: bool,
    /// The body.
    pub body: Bytes,
}

impl Reply {
    /// The same for another attempt, when nobody knows whether the one before has arrived. The
    /// caller may see both, so this one says that it may not be the first.
    #[must_use]
    pub fn again(&self) -> Self {
        let mut again = self.clone();
        if again.headers.iter().all(|(name, _)| name != REDELIVERED) {
            again.headers.push((REDELIVERED.to_owned(), "true".to_owned()));
        }
        again
    }
}

/// What becomes of a delivery. Each gets exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// Done: the broker forgets it.
    Ack,
    /// Given back unanswered: the broker delivers it again.
    Requeue,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_text_is_cut_at_a_character() {
        let error = CallError::new(ErrorKind::Internal, "ä".repeat(MAX_ERROR_TEXT));
        assert!(error.message.len() <= MAX_ERROR_TEXT);
        assert!(error.message.ends_with('…'));
    }
}
