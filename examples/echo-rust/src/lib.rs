//! Answers with the body, the content type and the headers of the request.

use exports::rpchost::rpc::handler::{Guest, Message, RpcError};

wit_bindgen::generate!({ path: "../../wit", world: "minimal" });

struct Echo;

impl Guest for Echo {
    /// Requests and replies have the same type, so there is nothing to copy.
    fn handle(_method: String, request: Message) -> Result<Message, RpcError> {
        Ok(request)
    }
}

export!(Echo);
