//! `rpchost test`: the cases of a project, as a host would run them.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;

use super::{USAGE, build, output};
use crate::author::Project;
use crate::config::{Limits, PROJECT_FILE};
use crate::plugins::{case_shown, run_case};

/// Arguments of `test`.
#[derive(Debug, Args)]
pub(super) struct TestArgs {
    /// The project; it is built first, if it has changed
    #[arg(default_value = ".", value_name = "DIR")]
    directory: PathBuf,
}

/// A case that was run.
struct Tried {
    name: String,
    took: Duration,
    outcome: Result<(), String>,
}

pub(super) fn run(args: &TestArgs) -> ExitCode {
    let (project, config) = match build::open(&args.directory) {
        Ok(found) => found,
        Err(error) => {
            output::error(format_args!("{error:#}"));
            return ExitCode::from(USAGE);
        }
    };
    if project.config.cases.is_empty() {
        output::error(format_args!(
            "`{PROJECT_FILE}` has no `[[case]]`, so there is nothing to test"
        ));
        return ExitCode::from(USAGE);
    }
    match tried(&project, &config.limits) {
        Ok(tried) => {
            table(&tried).iter().for_each(|line| output::line(line));
            let passed = tried.iter().all(|case| case.outcome.is_ok());
            if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => build::failed(&error),
    }
}

fn tried(project: &Project, limits: &Limits) -> anyhow::Result<Vec<Tried>> {
    if project.is_stale()? {
        build::make(project, limits)?;
    }
    let plugin = project.load(limits)?;
    let runtime = super::runtime()?;
    let mut all = Vec::new();
    for case in &project.config.cases {
        let begun = Instant::now();
        let outcome = runtime.block_on(run_case(&plugin, case));
        let outcome = outcome.map_err(|failure| failure.to_string());
        all.push(Tried { name: case_shown(case), took: begun.elapsed(), outcome });
    }
    runtime.shutdown_background();
    Ok(all)
}

fn table(tried: &[Tried]) -> Vec<String> {
    let longest = tried.iter().map(|case| case.name.chars().count()).max().unwrap_or(0);
    let mut lines = Vec::new();
    for Tried { name, took, outcome } in tried {
        let word = if outcome.is_ok() { "ok" } else { "FAILED" };
        let ms = took.as_secs_f64() * 1000.0;
        lines.push(format!("{word:<7} {name:<longest$} {ms:>8.1} ms"));
        if let Err(difference) = outcome {
            lines.push(format!("        {difference}"));
        }
    }
    let failed = tried.iter().filter(|case| case.outcome.is_err()).count();
    lines.push(match failed {
        0 => format!("{} passed", tried.len()),
        failed => format!("{failed} of {} failed", tried.len()),
    });
    lines
}
