//! `rpchost compile-component`: a helper of a host, see `plugins::Helper`.
//!
//! A component on standard input becomes native code on standard output, or a
//! sentence on standard error.

use std::io::Read as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;

use super::output;
use crate::plugins::{Confined, INVALID, UNABLE};

/// Arguments of `compile-component`.
#[derive(Debug, Args)]
pub(super) struct CompileArgs {
    /// Most address space, in bytes
    #[arg(long)]
    memory: u64,

    /// Most processor time, in seconds
    #[arg(long)]
    cpu: u64,
}

pub(super) fn run(args: &CompileArgs) -> ExitCode {
    let begin = || {
        let compiler = Confined::enter(args.memory, args.cpu)?;
        let mut bytes = Vec::new();
        std::io::stdin().lock().read_to_end(&mut bytes).context("failed to read the component")?;
        anyhow::Ok((compiler, bytes))
    };
    let (code, error) = match begin().map(|(compiler, bytes)| compiler.compile(&bytes)) {
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
