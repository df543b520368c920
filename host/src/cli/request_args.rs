//! How a request is typed, for all the subcommands that send some.

use std::io::Read as _;

use clap::{Args, ValueEnum};
use serde_json::value::RawValue;

use crate::client::{self, CallDialect, Params};

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

    /// How a request is written
    #[arg(long, value_enum, default_value_t = DialectName::Plain)]
    dialect: DialectName,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DialectName {
    Plain,
    JsonRpc,
}

impl RequestArgs {
    pub(super) fn dialect(&self) -> CallDialect {
        match self.dialect {
            DialectName::Plain => CallDialect::Plain,
            DialectName::JsonRpc => CallDialect::JsonRpc,
        }
    }

    /// What is sent along.
    pub(super) fn params(&self) -> Result<Params, String> {
        if let Some(params) = &self.params {
            return serde_json::from_str::<&RawValue>(params)
                .map(|json| Params::Json(json.get().to_owned()))
                .map_err(|error| format!("`--params` is not JSON: {error}"));
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
