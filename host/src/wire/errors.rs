//! What errors are called on the wire: their numbers, and what comes with them.

use std::borrow::Cow;

use serde_json::json;
use serde_json::value::RawValue;

use crate::message::{CallError, ErrorKind};

/// The number of an error, after JSON-RPC 2.0 section 5.1: -32768 to -32000
/// belong to the protocol and the host.
pub fn error_code(kind: ErrorKind) -> i32 {
    match kind {
        ErrorKind::ParseError => -32700,
        ErrorKind::BadRequest => -32600,
        ErrorKind::MethodNotFound { .. } => -32601,
        ErrorKind::InvalidParams => -32602,
        ErrorKind::Internal => -32603,
        ErrorKind::Application { code, .. } => {
            if (-32768..=-32000).contains(&code) {
                -32000
            } else {
                code
            }
        }
        ErrorKind::Trap => -32001,
        ErrorKind::Timeout => -32002,
        ErrorKind::DeadlineExceeded => -32003,
        ErrorKind::ResourceExhausted => -32004,
        ErrorKind::Overloaded => -32005,
        ErrorKind::CircuitOpen => -32006,
        ErrorKind::MaybeExecuted => -32009,
        ErrorKind::Quarantined => -32010,
        ErrorKind::InstantiateFailed => -32011,
    }
}

/// Whether sending the same request again, later, may succeed.
pub fn retryable(kind: ErrorKind) -> bool {
    match kind {
        ErrorKind::Application { retryable, .. } | ErrorKind::MethodNotFound { retryable } => {
            retryable
        }
        ErrorKind::Internal | ErrorKind::Overloaded | ErrorKind::CircuitOpen => true,
        _ => false,
    }
}

/// An error's data as a JSON text: what parses is passed on byte for byte,
/// what does not is sent as a string.
pub(super) fn error_data(error: &CallError) -> Cow<'_, str> {
    match &error.data {
        None => Cow::Borrowed("null"),
        Some(text) if serde_json::from_str::<&RawValue>(text).is_ok() => Cow::Borrowed(text.trim()),
        Some(text) => Cow::Owned(json!(text).to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn application_codes_keep_out_of_the_hosts_range() {
        let code = |code| error_code(ErrorKind::Application { code, retryable: false });
        assert_eq!(code(-32001), -32000);
        assert_eq!(code(-32769), -32769);
        assert_eq!(code(-31999), -31999);
        assert_eq!(code(7), 7);
    }

    #[test]
    fn every_kind_has_its_own_code() {
        let mut codes: Vec<_> = ErrorKind::ALL.iter().map(|kind| error_code(*kind)).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), ErrorKind::ALL.len());
    }
}
