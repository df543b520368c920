//! RabbitMQ's RPC tutorial as an rpchost handler: the request is a decimal
//! number, the reply is that Fibonacci number.

use exports::rpchost::rpc::handler::{Guest, Message, RpcError};

wit_bindgen::generate!({ path: "../../wit", world: "minimal" });

struct Fib;

impl Guest for Fib {
    fn handle(_method: String, request: Message) -> Result<Message, RpcError> {
        match String::from_utf8_lossy(&request.body).trim().parse() {
            Ok(n @ 0..=92) => Ok(Message {
                body: fib(n).to_string().into_bytes(),
                content_type: Some("text/plain".into()),
                headers: vec![],
            }),
            _ => Err(RpcError {
                code: 1,
                message: "the body must be a whole number from 0 to 92, such as `30`".into(),
                data: Some(r#"{"min":0,"max":92}"#.into()),
                retryable: false,
            }),
        }
    }
}

/// Slow on purpose, as in the tutorial. 92 is the last number whose result
/// fits a signed 64-bit integer too, but from about 50 the host's call timeout
/// comes first.
fn fib(n: u64) -> u64 {
    if n < 2 { n } else { fib(n - 1) + fib(n - 2) }
}

export!(Fib);
