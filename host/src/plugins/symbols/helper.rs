//! The process that reads a file's DWARF: this executable again, which finds
//! some lines within limits, and ends.

use std::fs::File;
use std::io::{Read, Seek as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use rustix::fs::MemfdFlags;
use rustix::process::Signal;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

use super::{Line, dwarf};
use crate::plugins::compile::{Helper, THRIFTY, confine};
use crate::plugins::stack::Place;

/// The subcommand that makes this executable such a process.
pub const FIND_LINES_COMMAND: &str = "find-lines";

/// Address space of the process: eight times the largest file.
const MEMORY: u64 = 1 << 30;

/// Processor time in seconds: a hundred times what a plugin's file of some
/// megabytes takes.
const CPU: u64 = 2;

/// Time from its start to its end. It has the lowest priority, and on a host
/// whose cores are all busy gets a small part of one.
const WALL: Duration = Duration::from_secs(20);

/// Most that is read of its answer: the longest lines of the deepest stack.
const OUTPUT: u64 = 1 << 20;

/// The helper's side: finds the lines of `places` in the WebAssembly that
/// `input` gives, within limits that hold for this process from now on. The
/// answer is for the host that asked.
///
/// # Errors
///
/// When a limit cannot be set or nothing can be read.
pub fn find_lines(
    memory: u64,
    cpu: u64,
    places: &[Place],
    mut input: impl Read,
) -> anyhow::Result<String> {
    confine(memory, cpu)?;
    let mut wasm = Vec::new();
    input.read_to_end(&mut wasm).context("failed to read the file")?;
    serde_json::to_string(&dwarf::lines(&wasm, places)).context("failed to write the lines")
}

/// The host's side: asks a helper. Blocks.
///
/// # Errors
///
/// Says why nothing is known of this file, and need not be asked again.
pub(super) fn ask(
    helper: &Helper,
    wasm: &[u8],
    places: &[Place],
) -> Result<Vec<Vec<Line>>, String> {
    talk(helper, wasm, places).map_err(|error| format!("{error:#}"))
}

fn talk(helper: &Helper, wasm: &[u8], places: &[Place]) -> anyhow::Result<Vec<Vec<Line>>> {
    let file = in_memory(wasm).context("they cannot be looked up now")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("they cannot be looked up now")?;
    let (status, answer) = runtime.block_on(async {
        let mut child = Command::new(&helper.program)
            .arg0("rpchost")
            .arg(FIND_LINES_COMMAND)
            .arg(format!("--memory={MEMORY}"))
            .arg(format!("--cpu={CPU}"))
            .args(places.iter().map(Place::to_string))
            // A variable may hold the broker's password.
            .env_clear()
            .envs([THRIFTY])
            .current_dir("/")
            .stdin(Stdio::from(file))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("they cannot be looked up now")?;
        let stdout = child.stdout.take().context("the helper has no pipe")?;
        let talk = async {
            let mut answer = Vec::new();
            stdout.take(OUTPUT).read_to_end(&mut answer).await?;
            anyhow::Ok((child.wait().await?, answer))
        };
        let waited = tokio::time::timeout(WALL, talk).await;
        waited.with_context(|| {
            format!("looking them up was not done after {}", humantime::format_duration(WALL))
        })?
    })?;
    explain(status)?;
    let lines: Vec<Vec<Line>> = serde_json::from_slice(&answer).context("the answer is unfit")?;
    anyhow::ensure!(lines.len() == places.len(), "the answer is unfit");
    Ok(lines)
}

/// The file as a descriptor that a child can read at its own pace.
fn in_memory(wasm: &[u8]) -> anyhow::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("plugin", MemfdFlags::CLOEXEC)?);
    file.write_all(wasm)?;
    file.rewind()?;
    Ok(file)
}

fn explain(status: ExitStatus) -> anyhow::Result<()> {
    if status.success() {
        return Ok(());
    }
    let is = |signal: Signal| status.signal() == Some(signal.as_raw());
    if is(Signal::XCPU) {
        anyhow::bail!("looking them up takes more than {CPU} s of processor time, the limit");
    }
    anyhow::bail!("the file's debug information cannot be read ({status})")
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}", self.offset, self.function, self.within)
    }
}

impl std::str::FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unfit = || format!("`{text}` is no place");
        let mut numbers = text.splitn(3, ':').map(str::parse::<usize>);
        let mut next = || numbers.next().and_then(Result::ok).ok_or_else(unfit);
        let (offset, function, within) = (next()?, next()?, next()?);
        let function = u32::try_from(function).map_err(|_| unfit())?;
        Ok(Self { offset, function, within })
    }
}
