//! How a request is typed, for all the subcommands that send some.

use std::io::Read as _;

use clap::{ArgMatches, Args};

use super::{is_typed, named_queue};
use crate::client::{self, CallDialect, Params, Route};
use crate::config::{Called, Config};

/// Arguments and form of a request.
#[derive(Debug, Default, Args)]
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
    #[arg(long, value_enum, default_value_t = CallDialect::Plain)]
    pub(super) dialect: CallDialect,
}

impl RequestArgs {
    /// Where the requests go: `queue` is what was named by flag or variable, and
    /// `matches` tells which.
    pub(super) fn route(
        &self,
        config: &Config,
        queue: Option<&str>,
        method: Option<&str>,
        matches: &ArgMatches,
    ) -> Result<Route, String> {
        let dialect = self.dialect;
        let method = method.unwrap_or_default();
        let mut named = named_queue(queue, matches)?;
        if dialect.routes_by_method() {
            if is_typed(matches, "queue") {
                return Err(format!(
                    "`--dialect {}`: METHOD says where the request goes; leave out `--queue`",
                    dialect.name()
                ));
            }
            named = None;
        }
        let Called { queue, exchange, reply_exchange } =
            config.called(dialect.into(), method, named.as_deref())?;
        Ok(Route::new(dialect, method, queue, exchange, reply_exchange))
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
