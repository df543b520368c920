//! Keeps the plugins as the directory has them.
//!
//! Level-triggered: every look compares the whole directory with what is
//! served, whatever the events said. One look at a time, on a blocking thread;
//! files are read and compiled by the loaders, so that neither delays a call,
//! and none that takes long delays another. A file that cannot serve changes
//! nothing and is reported once.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::condemned::Condemned;
use super::loaders::{Done, Job, Loaders, Outcome, Read, Refusal, Tried, Version};
use super::refused::{Cause, Refused};
use super::scan::{self, Found, Signature};
use super::watch::{Bell, Hints, Watch};
use super::{CHANGE_SETTLES, Engine, Plugin, Plugins, SelfTests};
use crate::config::Limits;
use crate::telemetry::Telemetry;

/// How long a file must stay as it is before it is taken, unless it was
/// renamed into place or closed after writing.
const QUIET: Duration = Duration::from_millis(300);

/// How long a deleted plugin goes on serving, so that `rm` and `cp` leave no
/// gap.
const GRACE: Duration = CHANGE_SETTLES;

/// How long before its end nothing more is fetched for it: what was fetched by
/// then is begun, or given back, while it can still be called.
const FAREWELL: Duration = Duration::from_secs(1);

/// Time between two looks that nothing has asked for.
const PERIOD: Duration = Duration::from_secs(5);

/// Least time between two looks, so that a log file written to in the plugin
/// directory does not keep a core busy.
const PAUSE: Duration = Duration::from_millis(20);

/// What follows a change within this time is seen by the same look, such as the
/// configuration that is renamed after its plugin.
const TOGETHER: Duration = Duration::from_millis(5);

/// How long a look waits for the loaders: what loads as quickly as most files
/// is served by the look that found it.
const PATIENCE: Duration = Duration::from_secs(1);

/// Time to the next look while files load that took longer.
const LOADING: Duration = Duration::from_millis(200);

/// Times that a file is tried again that could not be compiled, or tested, for
/// a reason not its own.
const RETRIES: u32 = 2;

/// Rest before that: what ran out has to come back.
const REST: Duration = Duration::from_secs(10);

/// The writer's side of [`Plugins`].
#[derive(Debug)]
pub struct Reloader {
    directory: PathBuf,
    loaders: Loaders,
    /// The last job's.
    tickets: u64,
    plugins: Plugins,
    telemetry: Telemetry,
    bell: Bell,
    watch: Option<(Identity, Watch)>,
    watch_failed: bool,
    files: BTreeMap<String, File>,
    misnamed: BTreeSet<String>,
    condemned: Condemned,
    tests: Option<Arc<SelfTests>>,
    trouble: Option<String>,
}

/// Which directory a path led to: its real path, device and inode.
type Identity = (PathBuf, u64, u64);

/// Asks a running [`Reloader`] for a look. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RescanHandle(Bell);

impl RescanHandle {
    /// Has every changed file taken at once, and what failed for a reason that may have passed
    /// tried again.
    pub fn rescan(&self) {
        self.0.ask();
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
    /// The ticket of the job that loads it.
    loading: Option<u64>,
    /// Whether it may have changed since that job was made.
    again: bool,
    /// Attempts that failed for a reason that is not the file's.
    failures: u32,
    /// When it is tried again after one.
    rests: Option<Instant>,
    /// What was last tried: what is reported is of this version. Absent where that is of none, so
    /// that whatever comes next is tried.
    tried: Option<Version>,
    /// What is served of it.
    served: Option<Version>,
    /// What those that may serve, or serve again, were made of.
    versions: Vec<(Weak<Plugin>, Version)>,
    /// What was reported last.
    reported: Option<Refused>,
}

impl Reloader {
    /// Prepares to keep `plugins` as `directory` has them.
    ///
    /// # Errors
    ///
    /// When the system gives no threads, and outside of a runtime.
    pub fn new(
        directory: PathBuf,
        engine: Engine,
        limits: Limits,
        plugins: Plugins,
        telemetry: Telemetry,
    ) -> anyhow::Result<Self> {
        let runtime = Handle::try_current().context("plugins are tested on a runtime")?;
        Ok(Self {
            loaders: Loaders::start(directory.clone(), engine, limits)?,
            tickets: 0,
            directory,
            plugins,
            telemetry,
            bell: Bell::default(),
            watch: None,
            watch_failed: false,
            files: BTreeMap::new(),
            misnamed: BTreeSet::new(),
            condemned: Condemned::default(),
            tests: Some(Arc::new(SelfTests::on(runtime, None))),
            trouble: None,
        })
    }

    /// The same with other self-tests, or with none.
    #[must_use]
    pub fn with_self_tests(self, tests: Option<SelfTests>) -> Self {
        Self { tests: tests.map(Arc::new), ..self }
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
            while self.is_loading() {
                self.take_until(Instant::now() + PERIOD);
            }
            self
        })
        .await
        .context("failed to load the plugins")
    }

    /// Looks again on every hint and every few seconds, until stopped.
    pub async fn run(mut self, stop: CancellationToken) {
        let (bell, plugins) = (self.bell.clone(), self.plugins.clone());
        let mut next = Instant::now();
        let mut rested = next;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = bell.rung() => {}
                () = plugins.has_condemned() => {}
                () = tokio::time::sleep_until(next.into()) => {}
            }
            tokio::time::sleep_until(rested.max(Instant::now() + TOGETHER).into()).await;
            let looked = tokio::task::spawn_blocking(move || {
                let next = self.look();
                (self, next)
            });
            match looked.await {
                Ok((reloader, wake)) => {
                    self = reloader;
                    next = wake;
                    rested = Instant::now() + PAUSE;
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
        self.take_back();
        self.plugins.drop_outlived(Instant::now());
        self.plugins.drop_idle(Instant::now());
        self.keep_watching();
        let hints = self.bell.take();
        // Before the listing, which may be of a later state.
        let early = self.take_until(Instant::now());
        let now = Instant::now();
        let mut next = early.map_or(now + PERIOD, |due| due.min(now + PERIOD));
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
        if let Some(due) = self.take_until(Instant::now() + PATIENCE) {
            next = next.min(due);
        }
        if self.is_loading() {
            next = next.min(Instant::now() + LOADING);
        }
        next
    }

    /// Has a file loaded if it has changed and is complete. Returns when to
    /// look again if it may not be complete.
    fn consider(&mut self, found: Found, hints: &Hints) -> Option<Instant> {
        let now = Instant::now();
        let name = found.name;
        let file = self.files.entry(name.clone()).or_insert_with(|| File {
            seen: found.state.clone(),
            since: now,
            settled: false,
            gone: None,
            loading: None,
            again: false,
            failures: 0,
            rests: None,
            tried: None,
            served: None,
            versions: Vec::new(),
            reported: None,
        });
        let is_back = file.gone.take().is_some();
        if is_back {
            self.plugins.set_leaving(&name, false);
        }
        // What may end better now, or was of no version at all.
        let asked = hints.asked && file.tried.is_none();
        let named = asked || hints.is_named(&name);
        if file.seen != found.state {
            file.seen = found.state;
            file.since = now;
            file.settled = false;
            file.again = true;
            file.failures = 0;
            file.rests = None;
        }
        file.again |= named;
        if file.loading.is_some() {
            return None;
        }
        if let Some(rests) = file.rests
            && !named
            && now < rests
        {
            return Some(rests);
        }
        // Written twice within one tick of the file system's clock, a file
        // looks as it did; the second event is all there is.
        if file.settled && !named {
            return None;
        }
        let due = file.since + QUIET;
        if now < due && !hints.is_complete(&name) {
            return Some(due);
        }
        file.rests = None;
        if let Err(reason) = &file.seen {
            let reason = reason.clone();
            file.settled = true;
            file.tried = None;
            self.report(&name, Cause::Invalid, reason);
            return None;
        }
        self.tickets = self.tickets.wrapping_add(1);
        file.loading = Some(self.tickets);
        file.again = false;
        let known = [file.tried.clone(), file.served.clone()];
        let condemned = self.condemned.clone();
        let (ticket, tests) = (self.tickets, self.tests.clone());
        let job = Job { ticket, name: name.clone(), known, condemned, tests };
        if let Err(lost) = self.loaders.load(job) {
            file.loading = None;
            self.report(&name, Cause::Invalid, format!("{lost:#}"));
        }
        None
    }

    /// Whether a file is being loaded.
    fn is_loading(&self) -> bool {
        self.files.values().any(|file| file.loading.is_some())
    }

    /// Takes what the loaders do until `end`, or until they have nothing to
    /// do. Returns when the next look is due for it.
    fn take_until(&mut self, end: Instant) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        while self.is_loading()
            && let Some(done) = self.loaders.next(end)
        {
            if let Some(due) = self.take(done) {
                next = Some(next.map_or(due, |next| next.min(due)));
            }
        }
        next
    }

    /// Serves what was loaded. Returns when to look at the file again.
    fn take(&mut self, done: Done) -> Option<Instant> {
        let Done { ticket, name, outcome } = done;
        // What is found out about a version is lost with it.
        self.take_back();
        // A file that went away meanwhile, and perhaps came back, is another.
        let file = self.files.get_mut(&name).filter(|file| file.loading == Some(ticket))?;
        file.loading = None;
        let (signature, version, tried) = match outcome {
            // The next look sees another signature.
            Outcome::Changing => return Some(Instant::now() + QUIET),
            Outcome::Unreadable(reason) => {
                file.settled = !file.again;
                file.tried = None;
                self.report(&name, Cause::Invalid, reason);
                return None;
            }
            Outcome::OutOfReach(reason) => {
                file.settled = false;
                file.tried = None;
                let rests = Instant::now() + REST;
                file.rests = Some(rests);
                self.report(&name, Cause::Invalid, reason);
                return Some(rests);
            }
            Outcome::Read(read) => {
                let Read { signature, version, tried } = *read;
                (signature, version, tried)
            }
        };
        // What has happened to the file since it was given to the loaders may
        // be what they saw, or not.
        file.settled = !file.again;
        if file.settled {
            file.seen = Ok(signature);
        }
        let due = (!file.settled).then(|| file.since + QUIET);
        let served = file.served.as_ref() == Some(&version);
        let Some(Tried { id, took, plugin }) = tried else {
            file.tried = Some(version.clone());
            if served {
                self.clear(&name);
            } else if let Some(reason) = self.condemned.reason(&version) {
                let reason = reason.to_owned();
                self.report(&name, Cause::TakenBack, reason);
            }
            return due;
        };
        match plugin {
            Ok(plugin) => {
                file.failures = 0;
                file.tried = Some(version.clone());
                let replaced = file.served.replace(version.clone()).is_some();
                let plugin = Arc::new(plugin);
                file.versions.retain(|(plugin, _)| plugin.strong_count() > 0);
                file.versions.push((Arc::downgrade(&plugin), version));
                self.plugins.replace(|table| table.insert(plugin, Instant::now()));
                self.telemetry.plugin_loaded(&id, replaced, took);
                self.clear(&name);
                due
            }
            Err(Refusal { refused: Refused { cause, reason }, passing: true })
                if file.failures < RETRIES =>
            {
                file.failures += 1;
                file.settled = false;
                file.tried = None;
                let rests = Instant::now() + REST;
                file.rests = Some(rests);
                self.report(&name, cause, format!("{reason}; it is tried again in {REST:?}"));
                Some(rests)
            }
            Err(Refusal { refused, passing }) => {
                file.failures = 0;
                // What may end better is tried again by whoever touches the file or asks for it.
                file.tried = (!passing).then_some(version);
                self.report(&name, refused.cause, refused.reason);
                due
            }
        }
    }

    /// Makes official that calls have left versions which failed right after they
    /// came: the old ones serve, and the contents are not tried again.
    fn take_back(&mut self) {
        for (bad, back) in self.plugins.condemned() {
            let Some((failures, calls)) = bad.circuit().condemned_for() else { continue };
            let reason = format!(
                "its contents were taken back as `{}`, because {failures} of its last {calls} \
                 calls trapped or ran out of time; they are tried again when the file or its \
                 configuration changes",
                bad.id().short()
            );
            let name = bad.id().name.clone();
            self.plugins.replace(|table| table.take_back(&name, Instant::now()));
            self.telemetry.plugin_taken_back(bad.id(), back.id(), failures, calls);
            let Some(file) = self.files.get_mut(&*name) else { continue };
            let version = |plugin: &Arc<Plugin>| {
                let is_it =
                    |known: &Weak<Plugin>| std::ptr::eq(known.as_ptr(), Arc::as_ptr(plugin));
                let found = file.versions.iter().find(|(known, _)| is_it(known));
                found.map(|(_, version)| version.clone())
            };
            let (bad, back) = (version(&bad), version(&back));
            file.served = back;
            let Some(bad) = bad else { continue };
            // Another version may be in its place by now, with a reason of its own.
            let is_there = file.tried.as_ref() == Some(&bad);
            self.condemned.insert(bad, reason.clone());
            if is_there {
                self.hold(&name, Refused { cause: Cause::TakenBack, reason });
            }
        }
    }

    /// Forgets a file that stays away.
    fn consider_gone(&mut self, name: &str) -> Option<Instant> {
        let now = Instant::now();
        let file = self.files.get_mut(name)?;
        let due = *file.gone.get_or_insert(now) + GRACE;
        let leaves = due.checked_sub(FAREWELL).unwrap_or(due);
        if now < leaves {
            return Some(leaves);
        }
        self.plugins.set_leaving(name, true);
        if now < due {
            return Some(due);
        }
        self.clear(name);
        self.files.remove(name);
        let mut removed = None;
        self.plugins.replace(|table| removed = table.remove(name, now));
        if removed.is_some() {
            self.telemetry.plugin_removed(name);
        }
        None
    }

    fn report(&mut self, name: &str, cause: Cause, reason: String) {
        let Some(file) = self.files.get_mut(name) else { return };
        let refused = Refused { cause, reason };
        if file.reported.as_ref() == Some(&refused) {
            return;
        }
        let serving = file.served.as_ref().map(|(digest, ..)| digest.as_str());
        self.telemetry.plugin_refused(name, &refused.reason, serving);
        self.hold(name, refused);
    }

    /// Holds something against a file, for those who ask, in place of what was held before.
    fn hold(&mut self, name: &str, refused: Refused) {
        let Some(file) = self.files.get_mut(name) else { return };
        let before = file.reported.replace(refused.clone());
        self.telemetry.refused_now(name, refused.cause.name());
        if let Some(before) = before.filter(|before| before.cause != refused.cause) {
            self.telemetry.refused_no_more(name, before.cause.name());
        }
        self.plugins.replace(|table| table.refuse(name, refused));
    }

    /// Nothing is held against a file any more.
    fn clear(&mut self, name: &str) {
        let Some(file) = self.files.get_mut(name) else { return };
        if let Some(before) = file.reported.take() {
            self.telemetry.refused_no_more(name, before.cause.name());
            self.plugins.replace(|table| table.accept(name));
        }
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
