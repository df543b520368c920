//! Words of the dialects that both sides must say alike: who serves and who calls.

/// The reply header that says what came of it: `ok`, or the kind of the first error.
pub const STATUS: &str = "rpchost-status";

/// Nameko's exchange unless it is configured otherwise (`rpc_exchange`).
pub const NAMEKO_EXCHANGE: &str = "nameko-rpc";

/// What Nest says when it has no handler for a pattern; programs compare it.
pub const NEST_NO_HANDLER: &str =
    "There is no matching message handler defined in the remote service.";

/// The content type of the messages of aio-pika's `RPC`.
pub const PICKLE: &str = "application/python-pickle";
