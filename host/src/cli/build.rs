//! `rpchost build`: a project becomes a component, and a host takes it.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::local::Local;
use super::{USAGE, environment, output};
use crate::author::{Built, Project, ToolFailed};
use crate::config::{Config, DEFAULT_PLUGINS, Limits, Profile, ServeArgs, resolve};
use crate::plugins::Engine;

/// Time between two steps of what turns on a terminal.
const TURN: Duration = Duration::from_millis(100);

/// Arguments of `build`.
#[derive(Debug, Args)]
pub(super) struct BuildArgs {
    /// The project
    #[arg(default_value = ".", value_name = "DIR")]
    directory: PathBuf,

    /// Plugin directory to put it into [default: that of rpchost.toml, else `plugins` in this or the
    /// nearest folder above]
    #[arg(long, env = "RPCHOST_PLUGINS", value_name = "DIR")]
    plugins: Option<PathBuf>,
}

pub(super) fn run(args: &BuildArgs) -> ExitCode {
    let (project, config) = match open(&args.directory) {
        Ok(found) => found,
        Err(error) => {
            output::error(format_args!("{error:#}"));
            return ExitCode::from(USAGE);
        }
    };
    let plugins = args.plugins.clone().or_else(|| place(&project, &config));
    let built = Local::open(&config)
        .and_then(|local| into(&project, &local.engine, &config.limits, plugins.as_deref()));
    match built {
        Ok(line) => {
            output::line(&line);
            ExitCode::SUCCESS
        }
        Err(error) => failed(&error),
    }
}

/// Builds a project and puts it into a plugin directory, if there is one; says what came of it.
pub(super) fn into(
    project: &Project,
    engine: &Engine,
    limits: &Limits,
    plugins: Option<&Path>,
) -> anyhow::Result<String> {
    let begun = Instant::now();
    let built = make(project, engine, limits, plugins)?;
    let installed = plugins.map(|plugins| project.install(plugins)).transpose()?;
    let size = ByteSize(built.size as u64).display().iec();
    let took = begun.elapsed().as_secs_f64();
    let name = &project.config.name;
    Ok(match installed {
        Some(file) => format!("{name}: {size} in {took:.1}s, {}", shown(&file)),
        None => format!(
            "{name}: {size} in {took:.1}s, {}; no `plugins` folder is near, so name one with \
             --plugins to have it served",
            shown(&built.file)
        ),
    })
}

/// A path as it is seen from here.
fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).unwrap_or(path).display().to_string()
}

/// A project, and the configuration that a host started here would have.
pub(super) fn open(directory: &Path) -> anyhow::Result<(Project, Config)> {
    let config =
        resolve(&ServeArgs::default(), &clap::ArgMatches::default(), Profile::Serve, &environment)
            .map_err(|problems| anyhow::anyhow!("{problems}"))?;
    Ok((Project::open(directory)?, config))
}

/// The plugin directory that a project's component goes to, where none was named.
pub(super) fn place(project: &Project, config: &Config) -> Option<PathBuf> {
    let named = Some(&config.plugins).filter(|named| named.as_os_str() != DEFAULT_PLUGINS);
    named.cloned().or_else(|| project.nearest_plugins())
}

/// Builds, and shows on a terminal what is being done.
pub(super) fn make(
    project: &Project,
    engine: &Engine,
    limits: &Limits,
    plugins: Option<&Path>,
) -> anyhow::Result<Built> {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(TURN);
    let colour = std::io::stderr().is_terminal();
    let mut shown = |what: &str| bar.set_message(what.to_owned());
    let built = project.build(engine, limits, plugins, colour, &mut shown);
    bar.finish_and_clear();
    if let Ok(built) = &built {
        raw(&built.said);
    }
    built
}

/// Says why there is no component: a tool's own words first, as it wrote them.
pub(super) fn failed(error: &anyhow::Error) -> ExitCode {
    if let Some(tool) = error.downcast_ref::<ToolFailed>() {
        raw(&tool.said);
    }
    output::error(format_args!("{error:#}"));
    ExitCode::FAILURE
}

fn raw(bytes: &[u8]) {
    let mut out = std::io::stderr().lock();
    let _nowhere_else_to_say_it = out.write_all(bytes).and_then(|()| out.flush());
}
