//! Names of the forms that requests and replies may have. What each looks like is
//! decided in [`crate::wire`].

/// A dialect as configured for a queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Dialect {
    /// Found out per message, see [`crate::wire::decode`].
    #[default]
    Auto,
    /// Method in a property or header, body as it is.
    Plain,
    /// JSON-RPC 2.0, and 1.1 as RabbitMQ's Java library speaks it.
    JsonRpc,
    /// `{"request": {"func": …, "args": …, "kwargs": …}}`.
    Envelope,
    /// Nameko's RPC.
    Nameko,
    /// NestJS's `ClientRMQ`.
    NestJs,
    /// Celery's task protocol 2 with results by `rpc://`.
    Celery,
    /// aio-pika's `JsonRPC`.
    AioPika,
}

impl Dialect {
    /// All of them, in the order of the documentation.
    pub const ALL: [Self; 8] = [
        Self::Auto,
        Self::Plain,
        Self::JsonRpc,
        Self::Envelope,
        Self::Nameko,
        Self::NestJs,
        Self::Celery,
        Self::AioPika,
    ];

    /// As it is typed.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Plain => "plain",
            Self::JsonRpc => "json-rpc",
            Self::Envelope => "envelope",
            Self::Nameko => "nameko",
            Self::NestJs => "nestjs",
            Self::Celery => "celery",
            Self::AioPika => "aio-pika",
        }
    }
}

/// How the messages of a queue are read and answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Form {
    /// The dialect.
    pub dialect: Dialect,
    /// Whether a message that names no method asks for the one that its routing
    /// key names.
    pub method_by_key: bool,
    /// The form of `envelope`'s replies; by the request if it is `None`.
    pub envelope_reply: Option<EnvelopeReply>,
}

impl From<Dialect> for Form {
    fn from(dialect: Dialect) -> Self {
        Self { dialect, ..Self::default() }
    }
}

/// A form of the replies of [`Dialect::Envelope`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnvelopeReply {
    /// `{"response": {"result": "{\"result\":…}", "error": ""}}`; for requests with
    /// a `reply_to`, unless another is configured.
    Response,
    /// `{"id": …, "result": …}` or `{"id": …, "error": {"exception": …}}`; for those
    /// without, whose caller has nothing but the id to know its answer by.
    Flat,
    /// `{"status": "success", "result": …}`.
    Status,
}

impl EnvelopeReply {
    /// All of them, in the order of the documentation.
    pub const ALL: [Self; 3] = [Self::Response, Self::Flat, Self::Status];

    /// As it is typed.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Response => "response",
            Self::Flat => "flat",
            Self::Status => "status",
        }
    }
}
