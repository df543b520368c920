//! How a request is typed, for all the subcommands that send some.

use std::io::Read as _;

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, ValueEnum};

use crate::client::{self, CallDialect, Params, Route};
use crate::config::Config;
use crate::message::Dialect;

/// Arguments and form of a request.
#[derive(Debug, Args)]
pub(super) struct RequestArgs {
    /// Arguments: JSON, else text; `name=value` is a named one; a single one is the body
    #[arg(value_name = "ARG", allow_negative_numbers = true)]
    pub(super) args: Vec<String>,

    /// All arguments as one JSON value
    #[arg(long, value_name = "JSON", conflicts_with_all = ["args", "body"])]
    pub(super) params: Option<String>,

    /// The body as it is: a text, `@FILE`, or `-` for standard input
    #[arg(long, value_name = "TEXT|@FILE|-", conflicts_with = "args", allow_hyphen_values = true)]
    body: Option<String>,

    /// How a request is written: as rpchost's own callers do, or as a library's client
    #[arg(long, value_enum, default_value_t = DialectName::Plain)]
    dialect: DialectName,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DialectName {
    /// METHOD in the property `type`, the body as it is
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

impl RequestArgs {
    pub(super) fn dialect(&self) -> CallDialect {
        match self.dialect {
            DialectName::Plain => CallDialect::Plain,
            DialectName::JsonRpc => CallDialect::JsonRpc,
            DialectName::Envelope => CallDialect::Envelope,
            DialectName::Nameko => CallDialect::Nameko,
            DialectName::NestJs => CallDialect::NestJs,
            DialectName::Celery => CallDialect::Celery,
            DialectName::AioPika => CallDialect::AioPika,
        }
    }

    /// Where the requests go: `queue` is what was named by flag or variable, and
    /// `matches` tells which.
    pub(super) fn route(
        &self,
        config: &Config,
        queue: Option<&str>,
        method: Option<&str>,
        matches: &ArgMatches,
    ) -> Result<Route, String> {
        let dialect = self.dialect();
        let method = method.unwrap_or_default();
        if dialect.routes_by_method()
            && matches.value_source("queue") == Some(ValueSource::CommandLine)
        {
            return Err(format!(
                "`--dialect {}`: METHOD says where the request goes; leave out `--queue`",
                self.dialect_name()
            ));
        }
        let queue = match (dialect, queue) {
            // Its workers have a queue of their own, whatever `serve` consumes here; a queue
            // that was named is the one that is meant.
            (CallDialect::Celery, Some(queue)) => queue.to_owned(),
            _ => config.queue_for(dialect.into(), method),
        };
        Ok(Route::new(dialect, method, queue))
    }

    /// The dialect as it is typed.
    pub(super) fn dialect_name(&self) -> &'static str {
        Dialect::from(self.dialect()).name()
    }

    /// What is sent along.
    pub(super) fn params(&self) -> Result<Params, String> {
        if let Some(params) = &self.params {
            return Params::json(params);
        }
        match self.body()? {
            None => client::params_of(&self.args),
            Some(body) => Ok(Params::Body(body)),
        }
    }

    /// What `--body` means: a text, `@FILE`, or `-` for standard input.
    pub(super) fn body(&self) -> Result<Option<Vec<u8>>, String> {
        let Some(text) = self.body.as_deref() else { return Ok(None) };
        let body = match (text, text.strip_prefix('@')) {
            ("-", _) => {
                let mut body = Vec::new();
                std::io::stdin()
                    .read_to_end(&mut body)
                    .map_err(|error| format!("standard input cannot be read: {error}"))?;
                body
            }
            (_, Some(path)) => {
                std::fs::read(path).map_err(|error| format!("`{path}` cannot be read: {error}"))?
            }
            (text, None) => text.as_bytes().to_vec(),
        };
        Ok(Some(body))
    }
}
