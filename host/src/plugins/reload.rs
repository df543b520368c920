//! Keeps the plugins as the directory has them.
//!
//! Level-triggered: every look compares the whole directory with what is
//! served, whatever the events said. One look at a time, on a blocking thread,
//! so that neither reading nor compiling ever delays a call. A file that
//! cannot serve changes nothing and is reported once.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::scan::{self, Found, Signature};
use super::watch::{Bell, Hints, Watch};
use super::{CHANGE_SETTLES, Engine, Plugins};
use crate::config::Limits;
use crate::telemetry::Telemetry;

/// How long a file must stay as it is before it is taken, unless it was
/// renamed into place or closed after writing.
const QUIET: Duration = Duration::from_millis(300);

/// How long a deleted plugin goes on serving, so that `rm` and `cp` leave no
/// gap.
const GRACE: Duration = CHANGE_SETTLES;

/// Time between two looks that nothing has asked for.
const PERIOD: Duration = Duration::from_secs(5);

/// Least time between two looks, so that a log file written to in the plugin
/// directory does not keep a core busy.
const PAUSE: Duration = Duration::from_millis(20);

/// The writer's side of [`Plugins`].
#[derive(Debug)]
pub struct Reloader {
    directory: PathBuf,
    engine: Engine,
    limits: Limits,
    plugins: Plugins,
    telemetry: Telemetry,
    bell: Bell,
    watch: Option<(Identity, Watch)>,
    watch_failed: bool,
    files: BTreeMap<String, File>,
    misnamed: BTreeSet<String>,
    trouble: Option<String>,
}

/// Which directory a path led to: its real path, device and inode.
type Identity = (PathBuf, u64, u64);

/// Asks a running [`Reloader`] for a look. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RescanHandle(Bell);

impl RescanHandle {
    /// Has every changed file taken at once.
    pub fn rescan(&self) {
        self.0.ring_for_all();
    }
}

/// What is known about one file.
#[derive(Debug)]
struct File {
    /// As last listed.
    seen: Result<Signature, String>,
    /// When it was first listed like that.
    since: Instant,
    /// Whether what was listed has been dealt with.
    settled: bool,
    /// Since when it is gone.
    gone: Option<Instant>,
    /// What was last tried: digest and configuration.
    tried: Option<(String, Option<String>)>,
    /// What is served of it: the same.
    served: Option<(String, Option<String>)>,
    /// The reason that was reported last.
    reported: Option<String>,
}

impl Reloader {
    /// Prepares to keep `plugins` as `directory` has them.
    pub fn new(
        directory: PathBuf,
        engine: Engine,
        limits: Limits,
        plugins: Plugins,
        telemetry: Telemetry,
    ) -> Self {
        Self {
            directory,
            engine,
            limits,
            plugins,
            telemetry,
            bell: Bell::default(),
            watch: None,
            watch_failed: false,
            files: BTreeMap::new(),
            misnamed: BTreeSet::new(),
            trouble: None,
        }
    }

    /// A handle that asks for looks.
    pub fn handle(&self) -> RescanHandle {
        RescanHandle(self.bell.clone())
    }

    /// Tries everything that is in the directory now.
    ///
    /// # Errors
    ///
    /// When the thread that does the work is lost.
    pub async fn first_look(mut self) -> anyhow::Result<Self> {
        self.bell.ring_for_all();
        tokio::task::spawn_blocking(move || {
            self.look();
            self
        })
        .await
        .context("failed to load the plugins")
    }

    /// Looks again on every hint and every few seconds, until stopped.
    pub async fn run(mut self, stop: CancellationToken) {
        let bell = self.bell.clone();
        let mut next = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = bell.rung() => {}
                () = tokio::time::sleep_until(next.into()) => {}
            }
            // What follows at once is seen by the same look.
            tokio::time::sleep(PAUSE).await;
            let looked = tokio::task::spawn_blocking(move || {
                let next = self.look();
                (self, next)
            });
            match looked.await {
                Ok((reloader, wake)) => {
                    self = reloader;
                    next = wake;
                }
                Err(lost) => {
                    error!("plugins are no longer reloaded, restart the host: {lost}");
                    return;
                }
            }
        }
    }

    /// One look at the directory. Returns when the next one is due.
    fn look(&mut self) -> Instant {
        self.keep_watching();
        let hints = self.bell.take();
        let now = Instant::now();
        let mut next = now + PERIOD;
        let listing = match scan::list(&self.directory) {
            Ok(listing) => {
                if self.trouble.take().is_some() {
                    info!("the plugin directory can be read again");
                }
                listing
            }
            Err(error) => {
                let reason = format!("{error:#}");
                if self.trouble.as_ref() != Some(&reason) {
                    warn!("{reason}; what was loaded goes on serving");
                    self.trouble = Some(reason);
                }
                return next;
            }
        };
        self.report_misnamed(listing.misnamed);
        let present: BTreeSet<String> =
            listing.found.iter().map(|found| found.name.clone()).collect();
        for found in listing.found {
            if let Some(due) = self.consider(found, &hints) {
                next = next.min(due);
            }
        }
        let absent: Vec<String> =
            self.files.keys().filter(|name| !present.contains(*name)).cloned().collect();
        for name in absent {
            if let Some(due) = self.consider_gone(&name) {
                next = next.min(due);
            }
        }
        next
    }

    /// Takes a file if it has changed and is complete. Returns when to look
    /// again if it may not be complete.
    fn consider(&mut self, found: Found, hints: &Hints) -> Option<Instant> {
        let now = Instant::now();
        let name = found.name;
        let file = self.files.entry(name.clone()).or_insert_with(|| File {
            seen: found.state.clone(),
            since: now,
            settled: false,
            gone: None,
            tried: None,
            served: None,
            reported: None,
        });
        file.gone = None;
        if file.seen != found.state {
            file.seen = found.state;
            file.since = now;
            file.settled = false;
        }
        // Written twice within one tick of the file system's clock, a file
        // looks as it did; the second event is all there is.
        if file.settled && !hints.is_named(&name) {
            return None;
        }
        let due = file.since + QUIET;
        if now < due && !hints.is_complete(&name) {
            return Some(due);
        }
        if let Err(reason) = &file.seen {
            let reason = reason.clone();
            file.settled = true;
            self.report(&name, reason);
            return None;
        }
        self.take(&name)
    }

    /// Reads a file, and serves it if it can be.
    fn take(&mut self, name: &str) -> Option<Instant> {
        let contents = match scan::read(&self.directory, name) {
            Ok(Some(contents)) => contents,
            // It is being written; the next look sees another signature.
            Ok(None) => return Some(Instant::now() + QUIET),
            Err(error) => {
                if let Some(file) = self.files.get_mut(name) {
                    file.settled = true;
                }
                self.report(name, format!("{error:#}"));
                return None;
            }
        };
        let file = self.files.get_mut(name)?;
        file.settled = true;
        file.seen = Ok(contents.signature.clone());
        let key = (contents.digest.clone(), contents.config.clone());
        if file.tried.as_ref() == Some(&key) {
            if file.served.as_ref() == Some(&key) {
                file.reported = None;
            }
            return None;
        }
        file.tried = Some(key.clone());
        if file.served.as_ref() == Some(&key) {
            file.reported = None;
            return None;
        }
        let begun = Instant::now();
        // Nothing in a file may end the reloading.
        let loading = AssertUnwindSafe(|| contents.load(&self.engine, name, &self.limits));
        let loaded = std::panic::catch_unwind(loading)
            .unwrap_or_else(|_| Err(anyhow!("the host failed while it loaded the file")));
        match loaded {
            Ok(plugin) => {
                let took = begun.elapsed();
                let replaced = file.served.replace(key).is_some();
                file.reported = None;
                self.plugins.replace(|table| table.insert(Arc::new(plugin), Instant::now()));
                self.telemetry.plugin_loaded(&contents.id(name), replaced, took);
            }
            Err(error) => self.report(name, format!("{error:#}")),
        }
        None
    }

    /// Forgets a file that stays away.
    fn consider_gone(&mut self, name: &str) -> Option<Instant> {
        let now = Instant::now();
        let file = self.files.get_mut(name)?;
        let due = *file.gone.get_or_insert(now) + GRACE;
        if now < due {
            return Some(due);
        }
        self.files.remove(name);
        let mut removed = None;
        self.plugins.replace(|table| removed = table.remove(name, now));
        if removed.is_some() {
            self.telemetry.plugin_removed(name);
        }
        None
    }

    fn report(&mut self, name: &str, reason: String) {
        let Some(file) = self.files.get_mut(name) else { return };
        if file.reported.as_ref() == Some(&reason) {
            return;
        }
        let serving = file.served.as_ref().map(|(digest, _)| digest.as_str());
        self.telemetry.plugin_refused(name, &reason, serving);
        file.reported = Some(reason);
    }

    fn report_misnamed(&mut self, misnamed: Vec<String>) {
        for name in &misnamed {
            if !self.misnamed.contains(name) {
                if name.ends_with(".cwasm") {
                    warn!(
                        "{name:?} is not served: precompiled code is never loaded from the \
                         plugin directory; put the `.wasm` file there"
                    );
                } else {
                    warn!(
                        "{name:?} is not served: a plugin's name has 1 to 64 of `a-z`, `0-9`, \
                         `_` and `-`, and begins with a letter or digit"
                    );
                }
            }
        }
        self.misnamed = misnamed.into_iter().collect();
    }

    /// Watches the directory that the path leads to now.
    fn keep_watching(&mut self) {
        // While it is away, the old watch on its parent sees it come back.
        let Ok(root) = self.directory.canonicalize() else { return };
        let Ok(metadata) = std::fs::metadata(&root) else { return };
        let identity = (root, metadata.dev(), metadata.ino());
        if self
            .watch
            .as_ref()
            .is_some_and(|(watched, watch)| *watched == identity && !watch.is_stale())
        {
            return;
        }
        match Watch::start(&self.directory, &self.bell) {
            Ok(watch) => {
                debug!("watching the plugin directory");
                self.watch = Some((identity, watch));
                self.watch_failed = false;
                // What changed before the watch began is seen by this look.
            }
            Err(error) => {
                self.watch = None;
                if !self.watch_failed {
                    warn!(
                        "the plugin directory cannot be watched, changes are found within \
                         {PERIOD:?}: {error}"
                    );
                    self.watch_failed = true;
                }
            }
        }
    }
}
