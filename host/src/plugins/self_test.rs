//! Before a version serves it must pass the cases that its file brings.
//!
//! They are calls like any other, on the threads for calls that are not short: whoever loads files
//! has the lowest priority, and a guest that runs with it would fail by the clock, and keep turns
//! that others wait for. What kills the process there would kill the host at every start, so each
//! test leaves a mark in the state directory for as long as it runs. What cases are is not known
//! here.

use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, anyhow, bail};
use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use tokio::runtime::Handle;
use tracing::{debug, warn};

use super::compile::Passing;
use super::{Plugin, Threads, cases};
use crate::state_dir::StateDir;

/// Longest that all cases of a version may take together before it serves. A plugin that needs
/// longer than this to show that it works should show less.
pub const MAX_SELF_TEST: Duration = Duration::from_secs(30);

/// The folder of the state directory.
const FOLDER: &str = "self-tests";

/// Hosts that may die during the test of a version before it is not tested any more: as many as a
/// request may kill. One alone may have been stopped, or have died of something else.
const MOST_DEATHS: u64 = 3;

/// How long the marks of dead hosts count. By then there may be another host to do better.
const KEEP: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Tests versions.
#[derive(Debug)]
pub struct SelfTests {
    /// Where calls run.
    runtime: Handle,
    marks: Option<Marks>,
}

impl SelfTests {
    /// Tests on the threads for calls, with marks in `state`. A directory that cannot be used costs
    /// a warning.
    pub fn new(threads: &Threads, state: Option<&StateDir>) -> Self {
        Self::on(threads.handle(), state)
    }

    /// The same, on any runtime.
    pub(super) fn on(runtime: Handle, state: Option<&StateDir>) -> Self {
        let marks = state.and_then(|state| match Marks::open(state) {
            Ok(marks) => Some(marks),
            Err(error) => {
                warn!(
                    "nothing is kept of a self-test that kills the host: the state directory \
                     cannot be used: {error:#}"
                );
                None
            }
        });
        Self { runtime, marks }
    }

    /// Has a version pass the cases that its file brings. Blocks; not for async threads.
    ///
    /// # Errors
    ///
    /// Says which do not pass, and the first of them in full; [`Passing`] where that may be this
    /// moment's fault.
    pub(super) fn run(&self, plugin: Plugin) -> anyhow::Result<Plugin> {
        if plugin.about().cases.is_empty() {
            return Ok(plugin);
        }
        let id = plugin.id().clone();
        let mark = self.marks.as_ref().map(|marks| marks.begin(&id.digest));
        let mark = match mark.transpose() {
            Ok(mark) => mark.flatten(),
            Err(error) => {
                warn!("the self-test of `{}` runs without a mark: {error:#}", id.short());
                None
            }
        };
        if let Some(Mark { deaths: MOST_DEATHS.., .. }) = mark {
            bail!(
                "{MOST_DEATHS} hosts died while they ran its cases, which are not run any more; \
                 mend the file, or write `self-test = false` in `{}.toml` to have it served \
                 untested; to have them run again, remove `{FOLDER}/{}` from the state directory \
                 and restart",
                id.name,
                id.digest
            );
        }
        let tested = self.runtime.block_on(self.runtime.spawn(test(plugin)));
        if let (Some(mark), Some(marks)) = (&mark, &self.marks) {
            marks.end(mark, &id.digest);
        }
        tested.unwrap_or_else(|ended| {
            Err(if ended.is_cancelled() {
                anyhow!(Passing::new("the host was stopped during its self-test"))
            } else {
                anyhow!("the host failed while it ran its cases")
            })
        })
    }
}

async fn test(plugin: Plugin) -> anyhow::Result<Plugin> {
    let cases = &plugin.about().cases;
    let hint = format!("`self-test = false` in `{}.toml` serves it untested", plugin.id().name);
    // What was tried is not what serves: an instance that is used again knows of its calls, and how
    // long they took on a thread that makes way for all others says little.
    plugin.retire(true);
    let all = async {
        let mut failures = Vec::new();
        for case in cases {
            if let Err(failure) = cases::run(&plugin, case).await {
                failures.push((cases::shown(case), failure));
            }
        }
        failures
    };
    let Ok(failures) = tokio::time::timeout(MAX_SELF_TEST, all).await else {
        let said = format!("its {} cases were not over after {MAX_SELF_TEST:?}", cases.len());
        return Err(anyhow!(Passing::new(format!("{said}; {hint}"))));
    };
    plugin.retire(false);
    plugin.turns.forget();
    // One that is the version's own fault says more than those that may be nobody's.
    let own = failures.iter().find(|(_, failure)| !failure.passing);
    let Some((name, told)) = own.or(failures.first()) else { return Ok(plugin) };
    let said = format!(
        "{} of its {} cases failed, as `{name}`: {told}; {hint}",
        failures.len(),
        cases.len()
    );
    Err(if told.passing { anyhow!(Passing::new(said)) } else { anyhow!(said) })
}

/// Marks of tests that run: a file for each version, as long as the number of hosts that have
/// died, locked while one lives that runs it. What a process has written stays when it is killed,
/// so nothing is synced.
#[derive(Debug)]
struct Marks {
    folder: OwnedFd,
}

/// A test that runs.
#[derive(Debug)]
struct Mark {
    file: File,
    /// Hosts that have died before.
    deaths: u64,
}

impl Marks {
    fn open(state: &StateDir) -> anyhow::Result<Self> {
        let marks = Self { folder: state.folder(FOLDER)? };
        for entry in Dir::read_from(&marks.folder)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if !name.starts_with('.') && marks.is_old(&name) {
                marks.remove(&name);
            }
        }
        Ok(marks)
    }

    fn is_old(&self, name: &str) -> bool {
        let Ok(stat) = crate::state_dir::stat(&self.folder, name) else { return false };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let written = Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or_default());
        now.saturating_sub(written) > KEEP
    }

    /// Marks the test of these contents. `None` while somebody else runs it: that is one that
    /// shares the directory, or this host under another name of the plugin.
    fn begin(&self, digest: &str) -> anyhow::Result<Option<Mark>> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.folder, digest, flags, Mode::RUSR | Mode::WUSR);
        let mut file = File::from(file.with_context(|| format!("`{FOLDER}` cannot be written"))?);
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Ok(None),
            Err(std::fs::TryLockError::Error(error)) => return Err(error.into()),
        }
        let deaths = file.seek(std::io::SeekFrom::End(0))?;
        if deaths < MOST_DEATHS {
            file.write_all(b"x").with_context(|| format!("`{FOLDER}` cannot be written"))?;
        }
        Ok(Some(Mark { file, deaths }))
    }

    /// The test is over, and the process lives.
    fn end(&self, mark: &Mark, digest: &str) {
        // Who has opened the file already, and waits for the lock, must not find what is over.
        if let Err(error) = mark.file.set_len(0) {
            warn!("the mark of a self-test that is over cannot be taken back: {error}");
        }
        self.remove(digest);
    }

    fn remove(&self, name: &str) {
        if let Err(error) = rustix::fs::unlinkat(&self.folder, name, AtFlags::empty()) {
            // Another host was quicker.
            debug!("the mark `{name}` is not removed: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state_dir::Claim;

    fn marks(path: &std::path::Path) -> Marks {
        Marks::open(&StateDir::open(path, Claim::Shared).unwrap()).unwrap()
    }

    #[test]
    fn what_has_killed_three_hosts_is_told_until_its_mark_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        for deaths in 0..MOST_DEATHS {
            // Closed by its end, a host leaves its mark and no lock.
            let mark = marks(&state).begin("digest").unwrap().unwrap();
            assert_eq!(mark.deaths, deaths);
        }
        for _ in 0..2 {
            let mark = marks(&state).begin("digest").unwrap().unwrap();
            assert_eq!(mark.deaths, MOST_DEATHS, "it is counted no further");
        }
        assert_eq!(marks(&state).begin("another").unwrap().unwrap().deaths, 0);
        std::fs::remove_file(state.join(FOLDER).join("digest")).unwrap();
        assert_eq!(marks(&state).begin("digest").unwrap().unwrap().deaths, 0);
    }

    #[test]
    fn a_test_that_ends_leaves_no_mark_and_one_that_runs_is_nobodys_death() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let (one, other) = (marks(&state), marks(&state));
        let mark = one.begin("digest").unwrap().unwrap();
        assert!(other.begin("digest").unwrap().is_none());
        one.end(&mark, "digest");
        let left = std::fs::read_dir(state.join(FOLDER)).unwrap();
        assert_eq!(left.count(), 0);
        assert_eq!(other.begin("digest").unwrap().unwrap().deaths, 0);
    }

    #[test]
    fn old_marks_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        drop(marks(&state).begin("old").unwrap().unwrap());
        drop(marks(&state).begin("new").unwrap().unwrap());
        let long_ago = SystemTime::now() - KEEP - Duration::from_secs(60);
        let old = File::options().write(true).open(state.join(FOLDER).join("old")).unwrap();
        old.set_modified(long_ago).unwrap();
        let marks = marks(&state);
        assert_eq!(marks.begin("old").unwrap().unwrap().deaths, 0);
        assert_eq!(marks.begin("new").unwrap().unwrap().deaths, 1);
    }
}
