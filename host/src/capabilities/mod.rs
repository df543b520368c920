//! What guests may import, and what they get.
//!
//! Everything a toolchain imports by itself is linked, and nothing is granted:
//! no file, no socket, nothing of the host's environment. Owns the guest's side of a
//! store; refuses to know which plugin it is or how it is called.

mod call_context;
mod guest_log;
mod logging;
mod program;
mod stdio;

use std::sync::Arc;

use anyhow::Context as _;
use tracing::Level;
use wasmtime::component::{HasSelf, Linker};
use wasmtime_wasi::p1::{self, WasiP1Ctx};
use wasmtime_wasi::p2::pipe::MemoryInputPipe;
use wasmtime_wasi::{I32Exit, WasiCtxBuilder, WasiCtxView, WasiView};

pub use call_context::CallFacts;
use guest_log::GuestLog;
pub use guest_log::{LogLimit, Speaker, printable};
use program::Output;
pub use program::Program;
use stdio::Stdio;

/// Most entries of a guest's resource table: open streams, pollables and the
/// like. Enough for any handler, and a bound on what it makes the host keep.
const MAX_RESOURCES: usize = 1_000;

/// Most bytes of randomness handed out in one call of the host, for the same
/// reason.
const MAX_RANDOM: u64 = 64 * 1024;

/// The part of a store that guests reach through their imports.
pub struct GuestState {
    /// WASI 0.1 for core modules, and within it 0.2 for components. `None` until the guest asks
    /// for some of it, which most never do.
    wasi: Option<WasiP1Ctx>,
    log: Arc<GuestLog>,
    /// What a program writes there is its `output` instead.
    stdout: Option<Stdio>,
    stderr: Stdio,
    output: Option<Output>,
}

impl std::fmt::Debug for GuestState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuestState").field("log", &self.log).finish_non_exhaustive()
    }
}

impl GuestState {
    /// The state for one call: nothing granted, both outputs go to the log.
    pub fn new(facts: CallFacts) -> Self {
        let log = Arc::new(GuestLog::new(facts));
        let (stdout, stderr) = (Stdio::stdout(log.clone()), Stdio::stderr(log.clone()));
        Self { wasi: None, log, stdout: Some(stdout), stderr, output: None }
    }

    /// The state for one call of a program, which is granted what `program`
    /// says and nothing else.
    pub fn for_program(facts: CallFacts, program: Program) -> Self {
        let output = Output::new(program.most);
        let mut wasi = WasiCtxBuilder::new();
        wasi.args(&program.arguments)
            .envs(&program.variables)
            .stdin(MemoryInputPipe::new(program.input))
            .stdout(output.clone());
        let log = Arc::new(GuestLog::new(facts));
        let stderr = Stdio::stderr(log.clone());
        let wasi = Some(bounded(wasi.stderr(stderr.clone())));
        Self { wasi, log, stdout: None, stderr, output: Some(output) }
    }

    fn wasi(&mut self) -> &mut WasiP1Ctx {
        self.wasi.get_or_insert_with(|| {
            let mut wasi = WasiCtxBuilder::new();
            if let Some(stdout) = &self.stdout {
                wasi.stdout(stdout.clone());
            }
            bounded(wasi.stderr(self.stderr.clone()))
        })
    }

    /// Makes it the state for another call of the same instance: nothing of the
    /// last one can be read from here.
    pub fn begin(&mut self, facts: CallFacts) {
        let log = Arc::new(GuestLog::new(facts));
        // Streams that the guest holds on to share these.
        self.stdout.iter().chain([&self.stderr]).for_each(|stream| stream.begin(&log));
        self.log = log;
    }

    /// The last of what the guest has written to standard error in this call, at most 4 KiB.
    pub fn stderr_tail(&self) -> String {
        self.stderr.tail()
    }

    /// A property of the request, by the name that `call-context` has for it.
    pub fn property(&self, name: &str) -> Option<&str> {
        let properties = &self.facts().properties;
        properties.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str())
    }

    /// Takes the result of a program; `None` if it was more than it may be.
    pub fn take_output(&self) -> Option<Vec<u8>> {
        self.output.as_ref().map_or_else(|| Some(Vec::new()), Output::take)
    }

    fn facts(&self) -> &CallFacts {
        &self.log.facts
    }

    /// Writes what the guest says through `wasi:logging`, each line of it.
    fn write_log(&self, level: Level, context: &str, message: &str) {
        if self.log.is_on(level) {
            let context = if context.is_empty() { "log" } else { context };
            self.log.lines(level, context, message);
        }
    }
}

/// A guest's WASI, with the limits of all.
fn bounded(wasi: &mut WasiCtxBuilder) -> WasiP1Ctx {
    let wasi = wasi.max_random_size(MAX_RANDOM).allow_tcp(false).allow_udp(false);
    let mut wasi = wasi.allow_ip_name_lookup(false).build_p1();
    wasi.ctx().table.set_max_capacity(MAX_RESOURCES);
    wasi
}

impl Drop for GuestState {
    /// The call is over, however it ended: lines without an end are lines too.
    fn drop(&mut self) {
        self.stdout.iter().chain([&self.stderr]).for_each(Stdio::finish);
    }
}

/// A store's data that holds a [`GuestState`].
pub trait Guest: Send + 'static {
    /// The guest's part.
    fn guest(&mut self) -> &mut GuestState;
}

impl WasiView for GuestState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi().ctx()
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
    logging::link(linker)
}

/// Links everything that core modules may import: WASI 0.1.
///
/// # Errors
///
/// When a name is claimed twice; a fault of this program.
pub fn link_core<T: Guest>(linker: &mut wasmtime::Linker<T>) -> anyhow::Result<()> {
    p1::add_to_linker_async(linker, |state: &mut T| state.guest().wasi())
        .map_err(anyhow::Error::from)
        .context("failed to link WASI 0.1")?;
    // wasmtime's own takes a status of 126 and more for an error of the host,
    // and programs end with -1 and 255 as they like.
    linker.allow_shadowing(true);
    linker
        .func_wrap("wasi_snapshot_preview1", "proc_exit", |status: i32| -> wasmtime::Result<()> {
            Err(I32Exit(status).into())
        })
        .map_err(anyhow::Error::from)
        .context("failed to link WASI 0.1")?;
    linker.allow_shadowing(false);
    Ok(())
}
