//! `rpchost test`: the cases of a project, as a host would run them.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;

use super::local::Local;
use super::{USAGE, build, output};
use crate::author::Project;
use crate::config::{Config, PROJECT_FILE};
use crate::plugins::{MAX_SELF_TEST, case_shown, run_case};

/// Arguments of `test`.
#[derive(Debug, Args)]
pub(super) struct TestArgs {
    /// The project; it is built first
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
    let plugins = build::place(&project, &config);
    match tried(&project, &config, plugins.as_deref()) {
        Ok(tried) => {
            table(&tried).iter().for_each(|line| output::line(line));
            let passed = tried.iter().all(|case| case.outcome.is_ok());
            if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => build::failed(&error),
    }
}

fn tried(project: &Project, config: &Config, plugins: Option<&Path>) -> anyhow::Result<Vec<Tried>> {
    // Always: whether something has changed is for the tools to find out, who know all sources.
    let (local, limits) = (Local::open(config)?, &config.limits);
    build::make(project, &local.engine, limits, plugins)?;
    let plugin = project.load(&local.engine, limits, plugins)?;
    let runtime = super::runtime()?;
    let end = Instant::now() + MAX_SELF_TEST;
    let mut all = Vec::new();
    for case in &project.config.cases {
        let begun = Instant::now();
        let running = async { tokio::time::timeout_at(end.into(), run_case(&plugin, case)).await };
        let outcome = match runtime.block_on(running) {
            Ok(outcome) => outcome.map_err(|failure| failure.to_string()),
            Err(_) => Err(format!("a host waits for all cases together for {MAX_SELF_TEST:?}")),
        };
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
