//! Hints that the plugin directory may have changed.
//!
//! The only file that knows notify. An event never says what to do, only that
//! a look is worth it and which files are surely complete: those that were
//! renamed into place or closed after writing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind, RenameMode};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tracing::debug;

/// Most names kept between two looks; beyond it, everything counts as named.
const MAX_NAMED: usize = 1_024;

/// Hints gathered since the last look.
#[derive(Debug, Default)]
pub(super) struct Hints {
    /// Plugins whose files are surely complete.
    pub(super) complete: BTreeSet<String>,
    /// Everything is surely complete, or it is not known what is.
    pub(super) all: bool,
    /// Somebody has asked for a look.
    pub(super) asked: bool,
}

impl Hints {
    /// Whether a plugin's files need not be waited for.
    pub(super) fn is_complete(&self, name: &str) -> bool {
        self.all || self.is_named(name)
    }

    /// Whether something was done to just this plugin's files.
    pub(super) fn is_named(&self, name: &str) -> bool {
        self.complete.contains(name)
    }
}

/// Where hints are gathered until somebody looks.
#[derive(Debug, Clone, Default)]
pub(super) struct Bell(Arc<(Mutex<Hints>, Notify)>);

impl Bell {
    /// Waits for the next hint. May return without one.
    pub(super) async fn rung(&self) {
        self.0.1.notified().await;
    }

    /// Takes what was gathered.
    pub(super) fn take(&self) -> Hints {
        std::mem::take(&mut *self.hints())
    }

    /// Asks for a look at everything, at once.
    pub(super) fn ring_for_all(&self) {
        self.hints().all = true;
        self.0.1.notify_one();
    }

    /// The same, because somebody wants it.
    pub(super) fn ask(&self) {
        self.hints().asked = true;
        self.ring_for_all();
    }

    fn ring(&self, complete: Option<String>) {
        if let Some(name) = complete {
            let mut hints = self.hints();
            hints.complete.insert(name);
            if hints.complete.len() > MAX_NAMED {
                hints.complete.clear();
                hints.all = true;
            }
        }
        self.0.1.notify_one();
    }

    fn hints(&self) -> std::sync::MutexGuard<'_, Hints> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Watches a directory until dropped.
#[derive(Debug)]
pub(super) struct Watch {
    _watcher: RecommendedWatcher,
    /// Set when the directory went away: the system has forgotten the watch
    /// then, even if the same directory comes back.
    stale: Arc<AtomicBool>,
}

impl Watch {
    /// Watches `directory`, and its parent for the directory being replaced.
    ///
    /// # Errors
    ///
    /// Where the system has no more watches to give. Plugins are then found
    /// by the periodic look alone.
    pub(super) fn start(directory: &Path, bell: &Bell) -> notify::Result<Self> {
        let root = directory.canonicalize().map_err(notify::Error::io)?;
        let bell = bell.clone();
        let watched = root.clone();
        let stale = Arc::new(AtomicBool::new(false));
        let gone = stale.clone();
        let mut watcher =
            notify::recommended_watcher(move |event: notify::Result<_>| match event {
                Ok(event) => hint(&watched, &event, &bell, &gone),
                Err(error) => {
                    debug!("the watcher lost sight of the plugin directory: {error}");
                    bell.ring_for_all();
                }
            })?;
        watcher.watch(&root, RecursiveMode::NonRecursive)?;
        if let Some(parent) = root.parent()
            && let Err(error) = watcher.watch(parent, RecursiveMode::NonRecursive)
        {
            debug!("failed to watch the plugin directory's parent: {error}");
        }
        Ok(Self { _watcher: watcher, stale })
    }

    /// Whether another watch has to be started.
    pub(super) fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Acquire)
    }
}

fn hint(root: &Path, event: &notify::Event, bell: &Bell, stale: &AtomicBool) {
    if event.need_rescan() {
        return bell.ring_for_all();
    }
    let (closed, renamed) = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => (true, false),
        // Our own reading; rescanning for it would never end.
        EventKind::Access(_) => return,
        EventKind::Modify(ModifyKind::Name(RenameMode::To)) => (false, true),
        // Says again what `From` and `To` have said.
        EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => return,
        _ => (false, false),
    };
    for path in &event.paths {
        if path.parent() == Some(root) {
            match plugin_of(path) {
                Some(name) => bell.ring((closed || renamed).then_some(name)),
                // What links may go through, as the `..data` of Kubernetes.
                None if renamed && !is_hidden_plugin(path) => bell.ring_for_all(),
                None => bell.ring(None),
            }
        } else if path == root {
            stale.store(true, Ordering::Release);
            bell.ring_for_all();
        }
    }
}

/// Whether a name is that of a file on its way to being a plugin.
fn is_hidden_plugin(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    name.starts_with(b".") && !name.starts_with(b"..")
}

fn plugin_of(path: &Path) -> Option<String> {
    let extension = path.extension()?;
    ["wasm", "toml", "wit"]
        .iter()
        .any(|known| extension == *known)
        .then(|| PathBuf::from(path.file_stem()?).to_str().map(str::to_owned))
        .flatten()
}
