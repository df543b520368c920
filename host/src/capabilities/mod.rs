//! What guests may import, and what they get.
//!
//! Everything a toolchain imports by itself is linked, and nothing is granted:
//! no file, no socket, no environment, no argument. Owns the guest's side of a
//! store; refuses to know which plugin it is or how it is called.

mod call_context;
mod stdio;

use anyhow::Context as _;
use wasmtime::component::{HasSelf, Linker, ResourceTable};
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

pub use call_context::CallFacts;
pub use stdio::{Captured, Stdio};

/// Most entries of a guest's resource table: open streams, pollables and the
/// like. Enough for any handler, and a bound on what it makes the host keep.
const MAX_RESOURCES: usize = 1_000;

/// Most bytes of randomness handed out in one call of the host, for the same
/// reason.
const MAX_RANDOM: u64 = 64 * 1024;

/// The part of a store that guests reach through their imports.
pub struct GuestState {
    wasi: WasiCtx,
    table: ResourceTable,
    facts: CallFacts,
    stdout: Stdio,
    stderr: Stdio,
}

impl std::fmt::Debug for GuestState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuestState").field("facts", &self.facts).finish_non_exhaustive()
    }
}

impl GuestState {
    /// The state for one call: nothing granted, both outputs captured.
    pub fn new(facts: CallFacts) -> Self {
        let stdout = Stdio::default();
        let stderr = Stdio::default();
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_RESOURCES);
        let wasi = WasiCtxBuilder::new()
            .stdout(stdout.clone())
            .stderr(stderr.clone())
            .max_random_size(MAX_RANDOM)
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .build();
        Self { wasi, table, facts, stdout, stderr }
    }

    /// What the guest has written to standard output so far.
    pub fn stdout(&self) -> Captured {
        self.stdout.captured()
    }

    /// What the guest has written to standard error so far.
    pub fn stderr(&self) -> Captured {
        self.stderr.captured()
    }

    fn facts(&self) -> &CallFacts {
        &self.facts
    }
}

/// A store's data that holds a [`GuestState`].
pub trait Guest: Send + 'static {
    /// The guest's part.
    fn guest(&mut self) -> &mut GuestState;
}

impl WasiView for GuestState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

/// Links everything that components may import.
///
/// # Errors
///
/// When two of the interfaces claim one name; a fault of this program.
pub fn link<T: Guest + WasiView>(linker: &mut Linker<T>) -> anyhow::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)
        .map_err(anyhow::Error::from)
        .context("failed to link WASI 0.2")?;
    call_context::bindings::rpchost::rpc::call_context::add_to_linker::<_, HasSelf<GuestState>>(
        linker,
        |state: &mut T| state.guest(),
    )
    .map_err(anyhow::Error::from)
    .context("failed to link `rpchost:rpc/call-context`")?;
    Ok(())
}
