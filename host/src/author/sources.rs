//! What a project is made of, and when it changes.
//!
//! Tools write into projects, too. So an event of the file system is only a reason to look, and what
//! counts is contents: whatever the project's `.gitignore` names is not read.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use ignore::{DirEntry, WalkBuilder};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;

use super::project::{BUILD, Project};

/// How long nothing may happen before a change counts as done: editors write several files, and one
/// in several steps.
const CALM: Duration = Duration::from_millis(150);

/// How often it is looked before what is in the way is an error.
const LOOKS: u32 = 20;

/// The contents of all sources, digested.
type Contents = [u8; 32];

/// Waits for changes of a project.
#[derive(Debug)]
pub struct Sources {
    directory: PathBuf,
    rung: Arc<Notify>,
    watcher: RecommendedWatcher,
    seen: Contents,
}

impl Project {
    /// Watches the sources as they are now.
    ///
    /// # Errors
    ///
    /// When they cannot be read, or the system has no more watches to give.
    pub fn sources(&self) -> anyhow::Result<Sources> {
        let rung = Arc::new(Notify::new());
        let ring = rung.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading is no change; ours would be followed by another look.
            if !event.is_ok_and(|event| matches!(event.kind, EventKind::Access(_))) {
                ring.notify_one();
            }
        })?;
        let mut sources =
            Sources { directory: self.directory.clone(), rung, watcher, seen: Contents::default() };
        sources.seen = sources.look()?;
        Ok(sources)
    }
}

impl Sources {
    /// Waits until they are others than at the last time, and at rest.
    ///
    /// # Errors
    ///
    /// When they cannot be read, such as when the project is gone.
    pub async fn changed(&mut self) -> anyhow::Result<()> {
        loop {
            self.rung.notified().await;
            while tokio::time::timeout(CALM, self.rung.notified()).await.is_ok() {}
            let now = self.settled().await?;
            if std::mem::replace(&mut self.seen, now) != now {
                return Ok(());
            }
        }
    }

    /// Looks until it can: what tools make on the way may be gone before it is read. A host that
    /// serves meanwhile waits; it is one for developing.
    async fn settled(&mut self) -> anyhow::Result<Contents> {
        for _ in 1..LOOKS {
            if let Ok(contents) = self.look() {
                return Ok(contents);
            }
            tokio::time::sleep(CALM).await;
        }
        self.look()
    }

    /// Reads all of them, and watches each folder that they are in.
    fn look(&mut self) -> anyhow::Result<Contents> {
        let mut all = Sha256::new();
        let walk = WalkBuilder::new(&self.directory)
            .require_git(false)
            .filter_entry(is_source)
            .sort_by_file_path(Path::cmp)
            .build();
        for entry in walk {
            let entry = entry?;
            let path = entry.path();
            let kind = entry.file_type();
            if kind.is_some_and(|kind| kind.is_dir()) {
                self.watcher
                    .watch(path, RecursiveMode::NonRecursive)
                    .with_context(|| format!("`{}` cannot be watched", path.display()))?;
            } else if kind.is_some_and(|kind| kind.is_file()) {
                // One that is gone by now is a change that is still to be told.
                let contents = std::fs::read(path).map(Sha256::digest).unwrap_or_default();
                all.update(path.as_os_str().as_encoded_bytes());
                all.update(contents);
            }
        }
        Ok(all.finalize().into())
    }
}

/// Results are none, whatever the project says about them.
fn is_source(entry: &DirEntry) -> bool {
    let results = [BUILD, "target", "node_modules", "__pycache__"];
    entry.depth() == 0 || !results.iter().any(|name| entry.file_name() == *name)
}
