//! The host's side: starts a helper, feeds it a plugin, and takes what it
//! made or says why there is nothing.

use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{anyhow, bail};
use bytesize::ByteSize;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

use super::super::core_module::Source;
use super::super::engine::Concurrency;
use super::native::Native;

/// The subcommand that makes this executable a helper.
pub const COMPILE_COMMAND: &str = "compile-component";

/// How a helper ends whose file can be no plugin; it says why.
pub const INVALID: u8 = 1;

/// How a helper ends that could not begin.
pub const UNABLE: u8 = 3;

/// Most of what a helper says that is read, in bytes: a sentence.
const MAX_SAID: u64 = 4096;

/// What one compilation may take.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// Address space of the process, in bytes.
    pub memory: u64,
    /// Processor time of all its threads, in whole seconds.
    pub cpu: u64,
    /// Time from its start to its end.
    pub wall: Duration,
    /// Native code, in bytes.
    pub output: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            // Three times what the biggest known plugins need.
            memory: 2 << 30,
            // Six times what 18 MiB of Python take on a slow core. Two threads
            // spend it in half a minute, which is what a host that starts
            // waits for a bomb.
            cpu: 60,
            // Only for a helper that hangs. On a host whose cores are all busy
            // with calls it gets a small part of one, and that is no reason to
            // refuse a plugin.
            wall: Duration::from_secs(600),
            // Twice the largest file: native code of Python plugins has 1.9
            // times the size of theirs.
            output: 256 << 20,
        }
    }
}

/// A setting of the allocator, for a process whose address space is limited: what it does not use
/// any more is not kept, which would be a fifth of it.
pub(in crate::plugins) const THRIFTY: (&str, &str) = ("_RJEM_MALLOC_CONF", "retain:false");

/// Starts helpers.
#[derive(Debug, Clone)]
pub struct Helper {
    /// The executable `rpchost`.
    pub program: PathBuf,
    /// What each helper may take.
    pub budget: Budget,
}

impl Helper {
    /// Helpers of the executable that runs now, also where its file was
    /// replaced or deleted since: the link leads to the file itself.
    pub fn itself() -> Self {
        Self { program: PathBuf::from("/proc/self/exe"), budget: Budget::default() }
    }

    /// Compiles in a process of its own. Blocks; not for async threads.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the file, or which limit it has met.
    /// [`Passing`] where another attempt may end better.
    pub(super) fn compile(
        &self,
        source: Source<'_>,
        concurrency: Concurrency,
    ) -> anyhow::Result<Native> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Passing(format!("{CANNOT_START}: {error}")))?;
        runtime.block_on(async {
            let mut child = self.spawn(source, concurrency)?;
            let talked =
                tokio::time::timeout(self.budget.wall, self.talk(&mut child, source)).await;
            // Dropping the child has it killed and reaped.
            talked.map_err(|_| {
                Passing(format!(
                    "compiling it was not done after {}, the limit",
                    humantime::format_duration(self.budget.wall)
                ))
            })?
        })
    }

    fn spawn(&self, source: Source<'_>, concurrency: Concurrency) -> anyhow::Result<Child> {
        let Budget { memory, cpu, .. } = self.budget;
        Command::new(&self.program)
            // What a list of processes shows.
            .arg0("rpchost")
            .arg(COMPILE_COMMAND)
            .arg(format!("--memory={memory}"))
            .arg(format!("--cpu={cpu}"))
            .args((concurrency == Concurrency::On).then_some("--concurrency"))
            .args(source.wit.map(|wit| format!("--wit-bytes={}", wit.len())))
            // A variable may hold the broker's password.
            .env_clear()
            .envs([THRIFTY])
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            // Compiling in this process instead would drop the protection just
            // when somebody has used up the machine's processes.
            .map_err(|error| anyhow!(Passing(format!("{CANNOT_START}: {error}"))))
    }

    async fn talk(&self, child: &mut Child, source: Source<'_>) -> anyhow::Result<Native> {
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(mut stdin), Some(stdout), Some(stderr)) = (stdin, stdout, stderr) else {
            bail!("the helper has no pipes");
        };
        let most = self.budget.output;
        // Each pipe is closed by the end of its block, so that a helper never
        // waits for a reader that has had enough.
        let feed = async move {
            // One that ends early says why itself.
            let _may_have_ended = async {
                stdin.write_all(source.wit.unwrap_or_default().as_bytes()).await?;
                stdin.write_all(source.wasm).await
            }
            .await;
        };
        let made = async move {
            let mut made = Vec::new();
            stdout.take(most.saturating_add(1)).read_to_end(&mut made).await.map(|_| made)
        };
        let said = async move {
            let mut said = Vec::new();
            stderr.take(MAX_SAID).read_to_end(&mut said).await.map(|_| said)
        };
        let ((), made, said) = tokio::join!(feed, made, said);
        // What fails here is this machine's, not the component's.
        let failed = |what: &str| {
            let what = what.to_owned();
            move |error: std::io::Error| {
                Passing(format!("{what} the process that compiles it: {error}"))
            }
        };
        let status = child.wait().await.map_err(failed("failed to wait for"))?;
        let made = made.map_err(failed("failed to read from"))?;
        if made.len() as u64 > most {
            bail!("its native code has more than {}, the limit", ByteSize(most).display().iec());
        }
        if status.success() {
            return Ok(Native::of(made));
        }
        let said = said.map_err(failed("failed to read from"))?;
        Err(self.explain(status, String::from_utf8_lossy(&said).trim()))
    }

    /// Why a helper has ended without a result.
    fn explain(&self, status: ExitStatus, said: &str) -> anyhow::Error {
        let Budget { memory, cpu, .. } = self.budget;
        let is = |signal: Signal| status.signal() == Some(signal.as_raw());
        if status.code() == Some(i32::from(INVALID)) {
            return anyhow!("{said}");
        }
        if is(Signal::XCPU) {
            return anyhow!("compiling it takes more than {cpu} s of processor time, the limit");
        }
        // The words of Rust's allocator when it gives up.
        if is(Signal::ABORT) && said.contains("memory allocation of") {
            return anyhow!(
                "compiling it takes more than {} of memory, the limit",
                ByteSize(memory).display().iec()
            );
        }
        if status.code() == Some(i32::from(UNABLE)) {
            return anyhow!(Passing(format!("the process that compiles it failed: {said}")));
        }
        if is(Signal::KILL) {
            return anyhow!(Passing(
                "the process that compiles it was killed, as happens where memory runs out"
                    .to_owned()
            ));
        }
        // No component brings these about: somebody ends processes.
        if is(Signal::TERM) || is(Signal::INT) || is(Signal::HUP) || is(Signal::QUIT) {
            return anyhow!(Passing(format!("the process that compiles it was ended ({status})")));
        }
        let line = said.lines().next().unwrap_or_default();
        anyhow!("the compiler failed on it ({status}): {line}")
    }
}

const CANNOT_START: &str = "the process that compiles it could not be started";

/// A failure that is not the component's: another attempt may end better.
#[derive(Debug)]
pub(in crate::plugins) struct Passing(String);

impl Passing {
    pub(in crate::plugins) fn new(said: impl Into<String>) -> Self {
        Self(said.into())
    }
}

impl std::fmt::Display for Passing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Passing {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_do_to_a_helper_passes_and_what_a_component_does_stays() {
        let helper = Helper::itself();
        let passing =
            |raw, said: &str| helper.explain(ExitStatus::from_raw(raw), said).is::<Passing>();
        for signal in [Signal::KILL, Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT] {
            assert!(passing(signal.as_raw(), ""), "{signal:?}");
        }
        for signal in [Signal::XCPU, Signal::SEGV, Signal::ABORT] {
            assert!(!passing(signal.as_raw(), "memory allocation of 8 bytes"), "{signal:?}");
        }
        assert!(passing(i32::from(UNABLE) << 8, ""));
        assert!(!passing(i32::from(INVALID) << 8, ""));
    }
}
