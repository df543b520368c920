//! The helper's side: a process that compiles one plugin and ends.
//!
//! It is this executable, started by a host with a subcommand of its own. It
//! has no environment but a setting of its allocator, none of the host's
//! descriptors but three pipes, and limits that hold before it has read a byte.

use anyhow::{Context as _, anyhow};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};

use super::Threads;
use crate::plugins::core_module::{self, Prepared, Source};
use crate::plugins::engine::{self, Concurrency};
use crate::plugins::kind::explain_invalid;

/// A process that may do nothing but compile.
#[derive(Debug)]
pub struct Confined {
    engine: wasmtime::Engine,
    threads: Threads,
}

impl Confined {
    /// Limits this process for good, so that nothing it will read can hurt
    /// others: `memory` bytes of address space, `cpu` seconds of processor
    /// time.
    ///
    /// # Errors
    ///
    /// When a limit cannot be set; then nothing should be compiled.
    pub fn enter(memory: u64, cpu: u64, concurrency: Concurrency) -> anyhow::Result<Self> {
        limit(memory, cpu)?;
        let engine = wasmtime::Engine::new(&engine::config(None, concurrency))
            .map_err(anyhow::Error::from)
            .context("failed to start the compiler")?;
        Ok(Self { engine, threads: Threads::start()? })
    }

    /// Compiles a plugin to native code for this machine.
    ///
    /// # Errors
    ///
    /// Says why the file can be no plugin.
    pub fn compile(&self, source: Source<'_>) -> anyhow::Result<Vec<u8>> {
        match core_module::prepare(&self.engine, source)? {
            Prepared::Component(bytes) => self
                .threads
                .run(|| self.engine.precompile_component(&bytes))
                .map_err(|error| explain_invalid(&error)),
            Prepared::Program(bytes) => self
                .threads
                .run(|| self.engine.precompile_module(bytes))
                .map_err(|error| anyhow!("it cannot be compiled: {error:#}")),
        }
    }
}

/// Limits this process for good; see [`Confined::enter`].
///
/// # Errors
///
/// When a limit cannot be set.
pub(in crate::plugins) fn limit(memory: u64, cpu: u64) -> anyhow::Result<()> {
    // A host that dies takes its helpers along.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .context("failed to be tied to the host")?;
    give_way();
    // Where memory runs out for the machine or the container before our own
    // limit is reached, the kernel shall end this process and not the host.
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "1000") {
        tracing::debug!("failed to be the first to go: {error}");
    }
    for (resource, limit, most, name) in [
        (Resource::As, memory, memory, "memory"),
        // At the lower limit comes the signal that says why, at the upper one
        // the one that says nothing.
        (Resource::Cpu, cpu, cpu.saturating_add(1), "processor time"),
        // No dump of two gigabytes, and no file at all: results go into a pipe.
        (Resource::Core, 0, 0, "core dumps"),
        (Resource::Fsize, 0, 0, "files"),
    ] {
        // What is limited further already stays so.
        let allowed = getrlimit(resource).maximum.unwrap_or(u64::MAX);
        let limit = Rlimit { current: Some(limit.min(allowed)), maximum: Some(most.min(allowed)) };
        setrlimit(resource, limit).with_context(|| format!("failed to limit {name}"))?;
    }
    Ok(())
}

/// Leaves the processors to others. The loader that started this process has
/// the lowest priority already, but where the kernel groups processes by
/// session, that counts within the session alone, and the broker may be in
/// another; so this process gets a session of its own. That one gets a tenth
/// of another's share: with the least, a start beside somebody's build took
/// minutes instead of seconds.
/// Best effort: without it calls are slowed while a plugin compiles.
fn give_way() {
    const GROUP: &str = "/proc/self/autogroup";
    let lowered = rustix::process::setsid()
        .map_err(std::io::Error::from)
        .and_then(|_| std::fs::exists(GROUP))
        .and_then(|grouped| if grouped { std::fs::write(GROUP, "10") } else { Ok(()) });
    if let Err(error) = lowered {
        tracing::debug!("failed to give way: {error}");
    }
    super::be_nice();
}
