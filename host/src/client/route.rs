//! Where requests of a dialect go, and which way their answers come back.

use super::CallDialect;
use crate::message::NAMEKO_EXCHANGE;

/// The way of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Route {
    /// Exchange that it is published to; empty is the default exchange.
    pub exchange: String,
    /// Routing key; the queue, in the default exchange.
    pub key: String,
    /// The queue that the service consumes. Behind an exchange it may have another
    /// name than this, the usual one.
    pub queue: String,
    /// Exchange that the answer is published to, with the reply queue's name as
    /// key, where it is not the default exchange.
    pub reply_exchange: Option<&'static str>,
}

impl Route {
    /// The usual way of a dialect, for a service that consumes this queue.
    #[must_use]
    pub fn new(dialect: CallDialect, method: &str, queue: String) -> Self {
        match dialect {
            CallDialect::Nameko => Self {
                exchange: NAMEKO_EXCHANGE.to_owned(),
                key: method.to_owned(),
                queue,
                reply_exchange: Some(NAMEKO_EXCHANGE),
            },
            _ => Self { key: queue.clone(), queue, ..Self::default() },
        }
    }
}

impl CallDialect {
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
    fn requests_go_where_the_services_of_the_dialect_listen() {
        let route = Route::new(CallDialect::Nameko, "math.fib", "rpc-math".to_owned());
        assert_eq!((route.exchange.as_str(), route.key.as_str()), ("nameko-rpc", "math.fib"));
        assert_eq!(route.reply_exchange, Some("nameko-rpc"));
        for dialect in [CallDialect::Plain, CallDialect::Celery, CallDialect::AioPika] {
            let route = Route::new(dialect, "fib", "q".to_owned());
            assert_eq!((route.exchange.as_str(), route.key.as_str()), ("", "q"));
            assert_eq!(route.reply_exchange, None);
        }
    }
}
