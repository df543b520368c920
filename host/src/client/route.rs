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
    pub reply_exchange: Option<String>,
}

impl Route {
    /// The way of a dialect to a service that consumes this queue. One that goes through
    /// an exchange has a usual one, in place of which the service may have others, for
    /// requests and for replies.
    #[must_use]
    pub fn new(
        dialect: CallDialect,
        method: &str,
        queue: String,
        exchange: Option<String>,
        reply_exchange: Option<String>,
    ) -> Self {
        if dialect != CallDialect::Nameko {
            return Self { key: queue.clone(), queue, ..Self::default() };
        }
        let exchange = exchange.unwrap_or_else(|| NAMEKO_EXCHANGE.to_owned());
        let reply_exchange = Some(reply_exchange.unwrap_or_else(|| exchange.clone()));
        Self { exchange, key: method.to_owned(), queue, reply_exchange }
    }

    /// The way through an exchange that was named, by `key`, or as the dialect has it.
    #[must_use]
    pub fn through(
        exchange: String,
        key: Option<String>,
        dialect: CallDialect,
        method: &str,
    ) -> Self {
        let by_method = dialect == CallDialect::Nameko;
        let usual_key = if by_method { method } else { "" };
        Self {
            key: key.unwrap_or_else(|| usual_key.to_owned()),
            reply_exchange: by_method.then(|| exchange.clone()),
            exchange,
            queue: String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_go_where_the_services_of_the_dialect_listen() {
        let nameko = |exchange: Option<&str>, replies: Option<&str>| {
            let owned = |name: Option<&str>| name.map(str::to_owned);
            let (queue, dialect) = ("rpc-math".to_owned(), CallDialect::Nameko);
            Route::new(dialect, "math.fib", queue, owned(exchange), owned(replies))
        };
        let usual = nameko(None, None);
        assert_eq!((usual.exchange.as_str(), usual.key.as_str()), ("nameko-rpc", "math.fib"));
        assert_eq!(usual.reply_exchange.as_deref(), Some("nameko-rpc"));
        let theirs = nameko(Some("my-rpc"), Some("answers"));
        assert_eq!(theirs.exchange, "my-rpc");
        assert_eq!(theirs.reply_exchange.as_deref(), Some("answers"));
        for dialect in [CallDialect::Plain, CallDialect::Celery, CallDialect::AioPika] {
            let exchange = Some("celery".to_owned());
            let route = Route::new(dialect, "fib", "q".to_owned(), exchange, None);
            assert_eq!((route.exchange.as_str(), route.key.as_str()), ("", "q"));
            assert_eq!(route.reply_exchange, None);
        }
    }

    #[test]
    fn an_exchange_that_is_named_is_taken() {
        let through = |dialect, key: Option<&str>| {
            Route::through("x".to_owned(), key.map(str::to_owned), dialect, "math.fib")
        };
        let nameko = through(CallDialect::Nameko, None);
        assert_eq!((nameko.exchange.as_str(), nameko.key.as_str()), ("x", "math.fib"));
        assert_eq!(nameko.reply_exchange.as_deref(), Some("x"));
        let plain = through(CallDialect::Plain, None);
        assert_eq!((plain.key.as_str(), plain.reply_exchange), ("", None));
        assert_eq!(through(CallDialect::Plain, Some("k")).key, "k");
    }
}
