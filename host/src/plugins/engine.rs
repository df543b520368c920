//! The engine that compiles and runs every plugin.
//!
//! One `wasmtime::Engine` for the whole process: an engine per plugin costs
//! gigabytes, and indices of one engine mean nothing in another. A second one
//! is for the few components that cannot be had without concurrency. Owns the
//! switches and the pool of instances. How bytes become code is `compile`'s to
//! know.

use std::sync::Arc;

use anyhow::Context as _;
use tracing::{info, warn};
use wasmtime::component::Linker;
use wasmtime::{Config, Enabled, InstanceAllocationStrategy, PoolingAllocationConfig};

use super::compile::{Code, Compiler, Helper};
use super::core_module::Source;
use super::pool::Room;
use super::reports::Reports;
use super::store::CallState;
use super::ticker::Ticker;
use super::turns::Turns;
use super::waiting::needs_concurrency;
use crate::capabilities;
use crate::state_dir::StateDir;
use crate::telemetry::Telemetry;

/// Native stack for a guest. wasmtime's default; deeper recursion traps.
const MAX_WASM_STACK: usize = 512 * 1024;

/// Dirtied bytes of a memory slot that are reset by copying instead of being
/// given back to the kernel.
const KEEP_RESIDENT: usize = 1024 * 1024;

/// Core instances, memories and tables of one component. A Rust component has
/// 3 core instances, one linked by componentize-py about 50.
pub(super) const MAX_CORE_INSTANCES: u32 = 100;
/// See [`MAX_CORE_INSTANCES`].
pub(super) const MAX_MEMORIES: u32 = 20;
/// See [`MAX_CORE_INSTANCES`].
pub(super) const MAX_TABLES: u32 = 100;
/// Elements of one table. componentize-py's largest stays below 20,000.
pub(super) const MAX_TABLE_ELEMENTS: usize = 200_000;

/// Most memories of all calls together: 40 TiB of address space.
const MOST_MEMORIES: u32 = 10_000;

/// Compiles components and holds what every store needs.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
    /// The one for components with functions that wait.
    waiting: Option<Arc<Inner>>,
}

struct Inner {
    engine: wasmtime::Engine,
    linker: Linker<CallState>,
    core_linker: wasmtime::Linker<CallState>,
    compiler: Compiler,
    room: Arc<Room>,
    reports: Reports,
    telemetry: Telemetry,
    turns: Turns,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

impl Engine {
    /// Makes an engine that compiles in this process. `calls` is the number of
    /// calls that can run at once.
    ///
    /// # Errors
    ///
    /// When this machine cannot run WebAssembly at all.
    pub fn new(calls: usize) -> anyhow::Result<Self> {
        Self::make(calls, None, &Telemetry::new()?, |_, _| Compiler::here())
    }

    /// Makes an engine that has helpers compile, and keeps what they made in
    /// `state`.
    ///
    /// # Errors
    ///
    /// When this machine cannot run WebAssembly at all.
    pub fn with_helper(
        calls: usize,
        helper: Helper,
        state: Option<&StateDir>,
        telemetry: Telemetry,
    ) -> anyhow::Result<Self> {
        let (lines, counted) = (helper.clone(), telemetry.clone());
        Self::make(calls, Some(lines), &counted, move |engine, concurrency| {
            let (helper, telemetry) = (helper.clone(), telemetry.clone());
            Ok(Compiler::helper(helper, concurrency, state, engine, telemetry))
        })
    }

    /// Makes both engines and starts their ticker.
    fn make(
        calls: usize,
        lines: Option<Helper>,
        telemetry: &Telemetry,
        compiler: impl Fn(&wasmtime::Engine, Concurrency) -> anyhow::Result<Compiler>,
    ) -> anyhow::Result<Self> {
        let room = Room::beside(calls);
        let alive = calls.saturating_add(room.most());
        let engine = match wasmtime::Engine::new(&config(Some(pool(alive)), Concurrency::Off)) {
            Ok(engine) => engine,
            Err(error) => {
                // Happens where virtual memory is limited, as with `ulimit -v`.
                warn!(
                    "no room for a pool of instances, every call will pay for its own memory: \
                     {error:#}"
                );
                wasmtime::Engine::new(&config(None, Concurrency::Off))
                    .map_err(anyhow::Error::from)
                    .context("failed to start the WebAssembly engine")?
            }
        };
        // Without a pool: few components need it, and two pools would not fit
        // into the address space.
        let waiting = wasmtime::Engine::new(&config(None, Concurrency::On))
            .map_err(anyhow::Error::from)
            .context("failed to start the engine for functions that wait")?;
        let ticker = Ticker::start(vec![engine.weak(), waiting.weak()])?;
        let reports = Reports::start(lines)?;
        let turns = Turns::new(cores(), ticker);
        let inner = |engine: wasmtime::Engine, concurrency| {
            let mut linker = Linker::new(&engine);
            capabilities::link(&mut linker)?;
            let mut core_linker = wasmtime::Linker::new(&engine);
            capabilities::link_core(&mut core_linker)?;
            let compiler = compiler(&engine, concurrency)?;
            anyhow::Ok(Arc::new(Inner {
                engine,
                linker,
                core_linker,
                compiler,
                room: room.clone(),
                reports: reports.clone(),
                telemetry: telemetry.clone(),
                turns: turns.clone(),
            }))
        };
        let waiting = Some(inner(waiting, Concurrency::On)?);
        Ok(Self { inner: inner(engine, Concurrency::Off)?, waiting })
    }

    /// The engine that can run a plugin: this one, unless it has functions that
    /// wait.
    pub(super) fn suited_to(&self, source: Source<'_>) -> Self {
        match &self.waiting {
            Some(waiting) if needs_concurrency(source) => {
                Self { inner: waiting.clone(), waiting: None }
            }
            _ => self.clone(),
        }
    }

    /// Turns for a plugin's calls, which it shares with the other plugins.
    pub(super) fn turns(&self) -> Turns {
        self.inner.turns.for_a_plugin()
    }

    /// Makes a plugin's file callable: out of the cache, or by compiling it.
    /// Blocks; not for async threads.
    ///
    /// # Errors
    ///
    /// When the file is nothing that this engine runs, or more than may be
    /// compiled.
    pub(super) fn compile(&self, source: Source<'_>) -> anyhow::Result<Code> {
        self.inner.compiler.compile(&self.inner.engine, source)
    }

    pub(super) fn wasmtime(&self) -> &wasmtime::Engine {
        &self.inner.engine
    }

    /// Room for idle instances, of all plugins together.
    pub(super) fn room(&self) -> &Arc<Room> {
        &self.inner.room
    }

    pub(super) fn reports(&self) -> &Reports {
        &self.inner.reports
    }

    pub(super) fn telemetry(&self) -> &Telemetry {
        &self.inner.telemetry
    }

    pub(super) fn linker(&self) -> &Linker<CallState> {
        &self.inner.linker
    }

    /// For core modules.
    pub(super) fn core_linker(&self) -> &wasmtime::Linker<CallState> {
        &self.inner.core_linker
    }
}

/// Cores that this process may use.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Whether guests may have functions that wait: a `stream`, a `future`, an
/// `async func`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Concurrency {
    /// They may not.
    Off,
    /// They may. No such function is called, but the others of that component.
    On,
}

/// The settings of every engine: those with a pool run what those without
/// one have compiled.
pub(super) fn config(pool: Option<PoolingAllocationConfig>, concurrency: Concurrency) -> Config {
    let mut config = Config::new();
    // Interruption by epochs costs a tenth of what fuel does.
    config.epoch_interruption(true);
    // Component-model concurrency costs every call about nine microseconds
    // and is where most of the year's advisories were. Only components that
    // cannot be had without it get it.
    config.concurrency_support(concurrency == Concurrency::On);
    // Proposals that no supported toolchain needs are closed. Their cargo
    // features stay compiled in: builds without them had faults of their own.
    config.wasm_gc(false);
    config.gc_support(false);
    config.wasm_function_references(false);
    config.wasm_exceptions(false);
    config.wasm_memory64(false);
    config.wasm_threads(false);
    config.shared_memory(false);
    config.wasm_stack_switching(false);
    // `map<K, V>` is a part of WASI 0.3.1 and off until wasmtime says so itself.
    config.wasm_component_model_map(true);
    // Names of functions are enough for a reply; file names stay out of it.
    config.wasm_backtrace_details(wasmtime::WasmBacktraceDetails::Disable);
    config.max_wasm_stack(MAX_WASM_STACK);
    if let Some(pool) = pool {
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    }
    config
}

/// Room for as many instances, running or idle.
fn pool(alive: usize) -> PoolingAllocationConfig {
    let alive = u32::try_from(alive).unwrap_or(u32::MAX);
    let mut pool = PoolingAllocationConfig::new();
    // As many as the biggest components would need in every slot, so that a
    // slot is all that a call has to wait for. A store that is idle keeps its
    // stack. Only address space is taken: 4
    // GiB for each memory, of which there are 128 TiB.
    let memories = alive.saturating_mul(MAX_MEMORIES).min(MOST_MEMORIES).max(alive);
    pool.total_component_instances(alive)
        .total_core_instances(alive.saturating_mul(MAX_CORE_INSTANCES))
        .total_memories(memories)
        .total_tables(alive.saturating_mul(MAX_TABLES))
        .total_stacks(alive)
        .max_core_instances_per_component(MAX_CORE_INSTANCES)
        .max_memories_per_component(MAX_MEMORIES)
        .max_tables_per_component(MAX_TABLES)
        // All of them may be of one module.
        .max_memories_per_module(MAX_MEMORIES)
        .max_tables_per_module(MAX_TABLES)
        .table_elements(MAX_TABLE_ELEMENTS)
        .max_core_instance_size(4 * 1024 * 1024)
        .max_component_instance_size(4 * 1024 * 1024)
        .max_unused_warm_slots(alive)
        .linear_memory_keep_resident(KEEP_RESIDENT)
        .table_keep_resident(64 * 1024);
    // Resetting only the dirtied pages makes a fresh instance three times
    // cheaper, ten times on several cores. In 48.0 it forgets pages that were
    // swapped out, which would show one guest another's memory.
    let scan = swap_is_off();
    if !scan {
        info!("swap is on: instances are reset the slower, safe way");
    }
    pool.pagemap_scan(if scan { Enabled::Auto } else { Enabled::No });
    pool
}

/// Whether no page of this machine can be swapped out. Where that cannot be
/// told it counts as swap.
fn swap_is_off() -> bool {
    std::fs::read_to_string("/proc/swaps").is_ok_and(|swaps| swaps.lines().count() <= 1)
}
