//! `rpchost find-lines`: a helper of a host, see `plugins::find_lines`.

use std::process::ExitCode;

use clap::Args;

use super::output;
use crate::plugins::{Place, UNABLE, find_lines};

/// Arguments of `find-lines`.
#[derive(Debug, Args)]
pub(super) struct LinesArgs {
    /// Most address space, in bytes
    #[arg(long)]
    memory: u64,

    /// Most processor time, in seconds
    #[arg(long)]
    cpu: u64,

    /// Places in the file's code
    places: Vec<Place>,
}

pub(super) fn run(args: &LinesArgs) -> ExitCode {
    let input = std::io::stdin().lock();
    match find_lines(args.memory, args.cpu, &args.places, input) {
        Ok(answer) => {
            output::line(&answer);
            ExitCode::SUCCESS
        }
        Err(error) => {
            output::error(format_args!("{error:#}"));
            ExitCode::from(UNABLE)
        }
    }
}
