//! The dialects that requests can be written in; the doc comments are the help texts.

use clap::ValueEnum;

use crate::message::Dialect;

/// A dialect that requests can be written in.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CallDialect {
    /// METHOD in the property `type`, the body as it is
    #[default]
    Plain,
    /// JSON-RPC 2.0
    JsonRpc,
    /// {"request": {"func": METHOD, "args": …, "kwargs": …}}
    Envelope,
    /// A service of Nameko; METHOD is service.method
    Nameko,
    /// A microservice of NestJS; METHOD is the pattern, a text or an object such as
    /// '{"cmd":"sum"}'
    #[value(name = "nestjs")]
    NestJs,
    /// A task of Celery, in the queue `celery` unless --queue says otherwise; needs the worker's
    /// results
    Celery,
    /// A method of aio-pika's JsonRPC, which is the queue's name; named arguments only
    AioPika,
}

impl From<CallDialect> for Dialect {
    fn from(dialect: CallDialect) -> Self {
        match dialect {
            CallDialect::Plain => Self::Plain,
            CallDialect::JsonRpc => Self::JsonRpc,
            CallDialect::Envelope => Self::Envelope,
            CallDialect::Nameko => Self::Nameko,
            CallDialect::NestJs => Self::NestJs,
            CallDialect::Celery => Self::Celery,
            CallDialect::AioPika => Self::AioPika,
        }
    }
}

impl CallDialect {
    /// As it is typed.
    #[must_use]
    pub fn name(self) -> &'static str {
        Dialect::from(self).name()
    }

    /// Whether the method decides where its requests go, and nobody else.
    #[must_use]
    pub const fn routes_by_method(self) -> bool {
        matches!(self, Self::Nameko | Self::AioPika)
    }

    /// Why one request cannot be sent again and again over a connection that takes its
    /// answers by `reply_to` alone.
    #[must_use]
    pub const fn not_for_load(self) -> Option<&'static str> {
        match self {
            Self::Nameko => Some(
                "`bench` does not speak `nameko`: answers come through an exchange of its own, \
                 which would be measured with the service",
            ),
            Self::Celery => Some(
                "`bench` does not speak `celery`: each task needs an id of its own, and `bench` \
                 sends the same message again and again",
            ),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dialect_is_typed_as_everywhere() {
        for dialect in CallDialect::value_variants() {
            let typed = dialect.to_possible_value().unwrap();
            assert_eq!(typed.get_name(), dialect.name());
        }
    }
}
