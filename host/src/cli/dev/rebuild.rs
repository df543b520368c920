//! Projects that are built whenever they change.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::super::local::Local;
use super::super::{build, output};
use crate::author::{Project, Sources};
use crate::config::{Config, Limits};
use crate::plugins::Engine;

/// Builds at once. Each takes what cores there are.
const AT_ONCE: usize = 1;

/// Projects, and where they go.
#[derive(Debug)]
pub(super) struct Rebuilds {
    projects: Vec<(PathBuf, Sources)>,
    local: Local,
    limits: Limits,
    plugins: PathBuf,
}

impl Rebuilds {
    /// Builds each project once, and says what came of it; one that cannot be built may be mended
    /// later. Blocks.
    ///
    /// # Errors
    ///
    /// When there is no project, or it cannot be watched.
    pub(super) fn first(directories: &[PathBuf], config: &Config) -> anyhow::Result<Self> {
        let mut projects = Vec::with_capacity(directories.len());
        for directory in directories {
            // Before it is built: what changes meanwhile is built again.
            let project = Project::open(directory)?;
            projects.push((project.directory.clone(), project.sources()?));
        }
        let local = Local::open(config)?;
        for (directory, _) in &projects {
            say(directory, &local.engine, &config.limits, &config.plugins);
        }
        Ok(Self { projects, local, limits: config.limits, plugins: config.plugins.clone() })
    }

    /// Builds again what changes, for as long as it is polled.
    pub(super) async fn keep(self) {
        let turn = Arc::new(Semaphore::new(AT_ONCE));
        let keeping = self.projects.into_iter().map(|(directory, mut sources)| {
            let (turn, engine) = (turn.clone(), self.local.engine.clone());
            let (limits, plugins) = (self.limits, self.plugins.clone());
            async move {
                loop {
                    if let Err(error) = sources.changed().await {
                        output::error(format_args!(
                            "`{}` is not watched any more: {error:#}",
                            directory.display()
                        ));
                        return;
                    }
                    let Ok(_turn) = turn.acquire().await else { return };
                    let (directory, plugins) = (directory.clone(), plugins.clone());
                    let engine = engine.clone();
                    let building = tokio::task::spawn_blocking(move || {
                        say(&directory, &engine, &limits, &plugins);
                    });
                    if let Err(error) = building.await {
                        output::error(format_args!("a build was cut off: {error}"));
                    }
                }
            }
        });
        futures_util::future::join_all(keeping).await;
    }
}

/// Builds a project and puts it where the host finds it.
fn say(directory: &Path, engine: &Engine, limits: &Limits, plugins: &Path) {
    let built = Project::open(directory).and_then(|project| {
        let built = build::into(&project, engine, limits, Some(plugins));
        built.map_err(|error| error.context(format!("`{}` is not built", project.config.name)))
    });
    match built {
        Ok(line) => output::line(&line),
        Err(error) => {
            build::failed(&error);
            output::error("what was built before goes on serving; save a file to try again");
        }
    }
}
