//! From a plugin's bytes to code that runs.
//!
//! A host has each plugin compiled by a helper, a process with limits of
//! its own, and keeps the result; a compiler that runs wild on a hostile file
//! ends there. Commands that work on one file do as hosts do.
//! `native` is where bytes become code, and says why they may.

mod cache;
mod child;
mod helper;
mod native;

use std::time::Instant;

use anyhow::{Context as _, anyhow};
use tracing::warn;
use wasmtime::Module;
use wasmtime::component::Component;

use cache::{Cache, Found};
pub use child::Confined;
pub(super) use child::limit as confine;
pub use helper::{Budget, COMPILE_COMMAND, Helper, INVALID, UNABLE};
pub(super) use helper::{Passing, THRIFTY};

use super::core_module::{self, Prepared, Source};
use super::engine::Concurrency;
use super::kind::explain_invalid;
use crate::state_dir::StateDir;
use crate::telemetry::{Lookup, Telemetry};

/// Most threads that compile one plugin. They run at the lowest priority,
/// so that calls do not notice.
const COMPILE_THREADS: usize = 2;

/// The state directory's folder for what was compiled.
const FOLDER: &str = "compiled";

/// What was compiled, ready to be linked.
pub(super) enum Code {
    Component(Component),
    /// A program: a core module with `_start`.
    Program(Module),
}

/// Compiles plugins, or knows what became of them before.
#[derive(Debug)]
pub(super) struct Compiler(How);

#[derive(Debug)]
enum How {
    /// By threads of this process, each time.
    Here(Threads),
    /// By helpers, unless it was before.
    Helper { helper: Helper, concurrency: Concurrency, cache: Option<Cache>, telemetry: Telemetry },
}

impl Compiler {
    pub(super) fn here() -> anyhow::Result<Self> {
        Threads::start().map(|threads| Self(How::Here(threads)))
    }

    /// With `state`, what was compiled is kept there. A directory that cannot
    /// be used costs a warning.
    pub(super) fn helper(
        helper: Helper,
        concurrency: Concurrency,
        state: Option<&StateDir>,
        engine: &wasmtime::Engine,
        telemetry: Telemetry,
    ) -> Self {
        let open = |state: &StateDir| {
            state.folder(FOLDER).and_then(|folder| {
                Cache::open(folder, engine).with_context(|| format!("its folder `{FOLDER}`"))
            })
        };
        let cache = state.and_then(|state| {
            open(state)
                .inspect_err(|error| {
                    warn!(
                        "compiled plugins are not kept, the next start compiles them again: the \
                         state directory cannot be used: {error:#}"
                    );
                })
                .ok()
        });
        Self(How::Helper { helper, concurrency, cache, telemetry })
    }

    /// Makes a plugin's file callable. Blocks.
    ///
    /// # Errors
    ///
    /// When the file is no plugin, or takes more than a helper may use;
    /// [`Passing`] where another attempt may end better.
    pub(super) fn compile(
        &self,
        engine: &wasmtime::Engine,
        source: Source<'_>,
    ) -> anyhow::Result<Code> {
        match &self.0 {
            How::Here(threads) => match core_module::prepare(engine, source)? {
                Prepared::Component(bytes) => threads
                    .run(|| Component::new(engine, &bytes))
                    .map(Code::Component)
                    .map_err(|error| explain_invalid(&error)),
                Prepared::Program(bytes) => threads
                    .run(|| Module::new(engine, bytes))
                    .map(Code::Program)
                    .map_err(|error| anyhow!("it cannot be compiled: {error:#}")),
            },
            How::Helper { helper, concurrency, cache, telemetry } => {
                let kept = cache.as_ref().map(|cache| (cache, cache.name(source)));
                if let Some((cache, name)) = &kept {
                    let found = look_up(cache, name, engine);
                    telemetry.compile_cache(match &found {
                        Ok(Some(_)) => Lookup::Hit,
                        Ok(None) => Lookup::Miss,
                        Err(_) => Lookup::Unfit,
                    });
                    match found {
                        Ok(Some(code)) => return Ok(code),
                        Ok(None) => {}
                        Err(reason) => warn!(
                            "`{name}` of the compile cache is not used and made again: {reason}"
                        ),
                    }
                }
                let begun = Instant::now();
                let made = helper.compile(source, *concurrency);
                telemetry.compiled(begun.elapsed());
                let made = made?;
                let code = made.load(engine).context("what was compiled cannot be loaded")?;
                if let Some((cache, name)) = &kept {
                    cache.keep(name, &made);
                }
                Ok(code)
            }
        }
    }
}

fn look_up(cache: &Cache, name: &str, engine: &wasmtime::Engine) -> Result<Option<Code>, String> {
    match cache.find(name) {
        Found::Entry(native) => {
            native.load(engine).map(Some).map_err(|error| format!("it cannot be loaded: {error:#}"))
        }
        Found::Nothing => Ok(None),
        Found::Unfit(reason) => Err(reason),
    }
}

/// Threads that compile.
#[derive(Debug)]
struct Threads(rayon::ThreadPool);

impl Threads {
    fn start() -> anyhow::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        rayon::ThreadPoolBuilder::new()
            .num_threads(COMPILE_THREADS.min(cores))
            .thread_name(|index| format!("compile-{index}"))
            .start_handler(|_| be_nice())
            .build()
            .map(Self)
            .context("failed to start the threads that compile")
    }

    /// Runs what wasmtime does in parallel on these threads.
    fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.0.install(work)
    }
}

/// Lowers the priority of the calling thread. Best effort: without it calls
/// are slowed while a plugin loads, nothing else.
pub(super) fn be_nice() {
    const LOWEST: i32 = 19;
    let thread = rustix::thread::gettid();
    if let Err(error) = rustix::process::setpriority_process(Some(thread), LOWEST) {
        tracing::debug!("failed to lower a compiler's priority: {error}");
    }
}
