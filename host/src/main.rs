//! The process: exit codes, nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    rpchost::cli::run()
}
