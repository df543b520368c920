//! `rpchost compile-component`: a helper of a host, see `plugins::Helper`.
//!
//! A plugin on standard input, behind its WIT if there is one, becomes native code on
//! standard output, or a sentence on standard error.

use std::io::Read as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;

use super::output;
use crate::plugins::{Concurrency, Confined, INVALID, Source, UNABLE};

/// Arguments of `compile-component`.
#[derive(Debug, Args)]
pub(super) struct CompileArgs {
    /// Most address space, in bytes
    #[arg(long)]
    memory: u64,

    /// Most processor time, in seconds
    #[arg(long)]
    cpu: u64,

    /// For a component with a `stream`, a `future` or an `async func`
    #[arg(long)]
    concurrency: bool,

    /// Bytes of WIT before those of the plugin
    #[arg(long)]
    wit_bytes: Option<usize>,
}

pub(super) fn run(args: &CompileArgs) -> ExitCode {
    let begin = || {
        let concurrency = if args.concurrency { Concurrency::On } else { Concurrency::Off };
        let compiler = Confined::enter(args.memory, args.cpu, concurrency)?;
        let mut bytes = Vec::new();
        std::io::stdin().lock().read_to_end(&mut bytes).context("failed to read the plugin")?;
        anyhow::Ok((compiler, bytes))
    };
    let compile =
        |(compiler, bytes): (Confined, Vec<u8>)| compiler.compile(source(&bytes, args.wit_bytes)?);
    let (code, error) = match begin().map(compile) {
        Ok(Ok(native)) => match output::exactly(&native).context("failed to write the code") {
            Ok(()) => return ExitCode::SUCCESS,
            Err(error) => (UNABLE, error),
        },
        Ok(Err(error)) => (INVALID, error),
        Err(error) => (UNABLE, error),
    };
    output::error_line(&format!("{error:#}"));
    ExitCode::from(code)
}

fn source(bytes: &[u8], wit: Option<usize>) -> anyhow::Result<Source<'_>> {
    let Some(length) = wit else { return Ok(Source { wasm: bytes, wit: None }) };
    let (wit, wasm) = bytes.split_at_checked(length).context("the plugin is cut short")?;
    let wit = std::str::from_utf8(wit).context("its WIT file is not UTF-8")?;
    Ok(Source { wasm, wit: Some(wit) })
}
