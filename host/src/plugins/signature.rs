//! Whether a handler is what we would call.
//!
//! Told at load; wasmtime itself finds out at the first call.

use anyhow::bail;
use wasmtime::component::Component;
use wasmtime::component::types::ComponentItem;

use super::typed;

/// `handle` of `rpchost:rpc/handler@0.1`, as the types of WIT are written here.
const HANDLE: &str = "(method: string, request: record {body: list<u8>, content-type: \
     option<string>, headers: list<tuple<string, string>>}) -> result<record {body: list<u8>, \
     content-type: option<string>, headers: list<tuple<string, string>>}, record {code: s32, \
     message: string, data: option<string>, retryable: bool}>";

/// Checks that the interface `rpchost:rpc/handler` has the type we call.
///
/// # Errors
///
/// Shows both types.
pub(super) fn check_handler(
    component: &Component,
    engine: &wasmtime::Engine,
) -> anyhow::Result<()> {
    let ty = component.component_type();
    let handlers = ty.exports(engine).filter(|(name, _)| name.starts_with(super::kind::HANDLER));
    for (name, item) in handlers {
        let ComponentItem::ComponentInstance(instance) = item.ty else {
            bail!("its export `{name}` is no interface");
        };
        match instance.exports(engine).find(|(name, _)| *name == "handle").map(|(_, item)| item.ty)
        {
            Some(ComponentItem::ComponentFunc(function)) => {
                let found = match typed::signature(&function) {
                    Ok(signature) => typed::shown(&signature),
                    Err(reason) => bail!("its `handle` is not what this host calls: {reason}"),
                };
                if found != HANDLE {
                    bail!(
                        "its `handle` has the type `{found}`, and this host calls `{HANDLE}`; \
                         build it with the WIT files of this version"
                    );
                }
            }
            _ => bail!("its interface `{name}` has no function `handle`"),
        }
    }
    Ok(())
}
