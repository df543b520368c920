//! The crash journal: which requests were running when a host died.
//!
//! Each host has a file of fixed slots in its state directory, and holds a lock
//! on it for as long as it lives. A call has a slot while it runs, and the one
//! that ended last until another begins. What a host that was killed has written
//! stays in the page cache, so nothing is synced; a machine that goes down takes
//! the journal's purpose with it. A file without a lock is a dead host's, and
//! every host that shares the directory reads it.
//!
//! Plain writes, no memory map: a full disk or a damaged one is an error here,
//! and would be a signal there, which is just what must not kill a host.
//!
//! Knows nothing of queues and plugins, and decides nothing.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use tracing::{debug, warn};

use crate::message::Identity;
use crate::state_dir::StateDir;

/// Bytes of a slot: one cache line. The first slot is the head.
const SLOT: usize = 64;

/// What the head begins with.
const MAGIC: &[u8] = b"rpchost journal 1\n";

/// What a slot begins with whose call runs.
const RUNNING: [u8; 8] = *b"running\n";

/// Largest file that is read, in bytes: twice the calls that a host may run.
const MOST_BYTES: u64 = 65_536 * SLOT as u64;

/// Files of dead hosts that are kept, the newest.
const MOST_FILES: usize = 64;

/// How long the journal of a dead host counts. Its requests are delivered
/// again within moments of its end, or of the broker's return.
const KEEP: Duration = Duration::from_secs(3600);

/// The folder of the state directory.
const FOLDER: &str = "journal";

/// A host's own journal, and its view of others'.
#[derive(Debug)]
pub struct Journal {
    folder: OwnedFd,
    name: String,
    /// Locked for as long as it is open.
    file: File,
    slots: Mutex<Slots>,
    /// Whether a failure to write was said already.
    failed: AtomicBool,
    seen: Mutex<Option<(Instant, Crashes)>>,
}

/// The slots that no call has.
#[derive(Debug)]
struct Slots {
    free: Vec<u32>,
    /// That of the call which was the last to end, where it still stands: what begins next is
    /// written over it, so that calls one after the other cost one write each. A host that dies
    /// before that may well have been killed by it.
    ended: Option<u32>,
}

/// How many hosts died with a request running.
type Crashes = Arc<HashMap<Identity, u32>>;

/// A call that runs; its slot is given back on drop.
#[derive(Debug)]
pub struct Running {
    journal: Arc<Journal>,
    slot: Option<u32>,
}

impl Journal {
    /// Begins a journal for `calls` that run at once.
    ///
    /// # Errors
    ///
    /// When nothing can be written there.
    pub fn open(state: &StateDir, calls: usize) -> anyhow::Result<Self> {
        let folder = state.folder(FOLDER)?;
        let name = format!("{}-{:08x}", std::process::id(), rand::random::<u32>());
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&folder, name.as_str(), flags, Mode::RUSR | Mode::WUSR)
            .with_context(|| format!("a file in `{FOLDER}` cannot be made"))?;
        let file = File::from(file);
        // Waits for who is just looking whether it is a dead host's.
        file.lock().context("it cannot be locked")?;
        // All of it now: no room is needed later.
        let mut zeros = vec![0; SLOT.saturating_mul(calls.saturating_add(1))];
        if let Some(head) = zeros.get_mut(..MAGIC.len()) {
            head.copy_from_slice(MAGIC);
        }
        let slots = u32::try_from(calls).unwrap_or(u32::MAX);
        let journal = Self {
            folder,
            name,
            file,
            slots: Mutex::new(Slots { free: (1..=slots).rev().collect(), ended: None }),
            failed: AtomicBool::new(false),
            seen: Mutex::default(),
        };
        // The value is there already, so that the file goes if this fails.
        if let Err(error) = journal.file.write_all_at(&zeros, 0) {
            journal.close();
            return Err(error).with_context(|| format!("a file in `{FOLDER}` cannot be written"));
        }
        // Removes those of long ago, also where nobody ever asks for a crash.
        let _none = journal.crashes(&Identity([0; Identity::BYTES]), Instant::now());
        Ok(journal)
    }

    /// Notes that a call of this message runs, for as long as the value lives.
    pub fn begin(self: &Arc<Self>, identity: &Identity) -> Running {
        let slot = {
            let mut slots = self.slots();
            slots.ended.take().or_else(|| slots.free.pop())
        };
        if let Some(slot) = slot {
            let mut bytes = [0; RUNNING.len() + Identity::BYTES];
            let (mark, rest) = bytes.split_at_mut(RUNNING.len());
            mark.copy_from_slice(&RUNNING);
            rest.copy_from_slice(&identity.0);
            self.write(slot, &bytes);
        }
        Running { journal: self.clone(), slot }
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, slot: u32, bytes: &[u8]) {
        let at = u64::from(slot).saturating_mul(SLOT as u64);
        if let Err(error) = self.file.write_all_at(bytes, at)
            && !self.failed.swap(true, Ordering::Relaxed)
        {
            warn!("the crash journal cannot be written, calls run without it: {error}");
        }
    }

    /// How many hosts that share the state directory have died while this
    /// message ran, as of some moment after `since`: that is when it was
    /// delivered again, so that whoever ran it before is dead by then. A whole
    /// window comes at once, and most of it has its answer from one look.
    ///
    /// Reads files; not for async threads.
    pub fn crashes(&self, identity: &Identity, since: Instant) -> u32 {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let crashes = match &*seen {
            Some((begun, crashes)) if *begun >= since => crashes.clone(),
            _ => {
                let begun = Instant::now();
                let crashes = match self.look() {
                    Ok(crashes) => Arc::new(crashes),
                    Err(error) => {
                        warn!("the journals of other hosts cannot be read: {error:#}");
                        Arc::default()
                    }
                };
                *seen = Some((begun, crashes.clone()));
                crashes
            }
        };
        crashes.get(identity).copied().unwrap_or(0)
    }

    /// Reads the journals of the dead, and removes those of long ago.
    fn look(&self) -> anyhow::Result<HashMap<Identity, u32>> {
        let mut dead = Vec::new();
        for entry in Dir::read_from(&self.folder)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') || name == self.name {
                continue;
            }
            match self.read_dead(&name) {
                Ok(None) => {}
                Ok(Some((age, running))) => dead.push((age, name, running)),
                Err(error) => {
                    warn!("the journal `{name}` of a dead host is no use, and removed: {error:#}");
                    self.remove(&name);
                }
            }
        }
        dead.sort_by_key(|(age, ..)| *age);
        let mut crashes: HashMap<Identity, u32> = HashMap::new();
        for (index, (age, name, running)) in dead.into_iter().enumerate() {
            if index >= MOST_FILES || age > KEEP {
                self.remove(&name);
                continue;
            }
            for identity in running {
                let count = crashes.entry(identity).or_default();
                *count = count.saturating_add(1);
            }
        }
        Ok(crashes)
    }

    /// What ran when the file's host died, and how long ago it was written
    /// last; `None` if the host lives, or the file is gone. The calls of a batch
    /// have a slot each, and died one death.
    fn read_dead(&self, name: &str) -> anyhow::Result<Option<(Duration, HashSet<Identity>)>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.folder, name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if file.try_lock_shared().is_err() {
            return Ok(None);
        }
        let about = file.metadata()?;
        let age = SystemTime::now().duration_since(about.modified()?).unwrap_or_default();
        anyhow::ensure!(about.is_file(), "it is no file");
        anyhow::ensure!(about.len() <= MOST_BYTES, "it has {} bytes", about.len());
        let mut bytes = Vec::new();
        file.take(MOST_BYTES).read_to_end(&mut bytes)?;
        if bytes.is_empty() {
            // Its host has only just made it.
            return Ok(None);
        }
        anyhow::ensure!(bytes.starts_with(MAGIC), "it does not begin as one");
        let running = bytes.chunks_exact(SLOT).skip(1).filter_map(|slot| {
            let identity = slot.strip_prefix(&RUNNING)?.get(..Identity::BYTES)?;
            identity.try_into().ok().map(Identity)
        });
        Ok(Some((age, running.collect())))
    }

    fn remove(&self, name: &str) {
        if let Err(error) = rustix::fs::unlinkat(&self.folder, name, AtFlags::empty()) {
            // Another host was quicker.
            debug!("the journal `{name}` is not removed: {error}");
        }
    }

    /// Ends the journal in order: what still runs is given up on purpose.
    pub fn close(&self) {
        self.remove(&self.name);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(slot) = self.slot else { return };
        let before = self.journal.slots().ended.replace(slot);
        if let Some(before) = before {
            self.journal.write(before, &[0; RUNNING.len()]);
            self.journal.slots().free.push(before);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::state_dir::Claim;

    fn state(path: &Path) -> StateDir {
        StateDir::open(path, Claim::Shared).unwrap()
    }

    fn journal(path: &Path) -> Arc<Journal> {
        Arc::new(Journal::open(&state(path), 4).unwrap())
    }

    fn id(number: u8) -> Identity {
        Identity([number; Identity::BYTES])
    }

    fn crashes(host: &Journal, number: u8) -> u32 {
        host.crashes(&id(number), Instant::now())
    }

    /// As if its host were killed: the file stays, the lock goes.
    fn kill(journal: Arc<Journal>, running: Vec<Running>) {
        for call in running {
            std::mem::forget(call);
        }
        journal.file.unlock().unwrap();
        drop(journal);
    }

    fn names(path: &Path) -> usize {
        std::fs::read_dir(path.join(FOLDER)).unwrap().count()
    }

    #[test]
    fn what_ran_when_a_host_died_is_known_to_others() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let (dying, other) = (journal(path), journal(path));
        let ended = [dying.begin(&id(1)), dying.begin(&id(4))];
        let running = vec![dying.begin(&id(2))];
        drop(ended);
        // Over the last that ended.
        let running = running.into_iter().chain([dying.begin(&id(3))]).collect();
        assert_eq!(other.crashes(&id(2), Instant::now()), 0, "its host lives");
        kill(dying, running);
        let next = journal(path);
        for host in [&other, &next] {
            assert_eq!([1, 2, 3, 4].map(|n| crashes(host, n)), [0, 1, 1, 0]);
        }
        let before = Instant::now();
        assert_eq!(other.crashes(&id(3), before), 1);
        let running = vec![next.begin(&id(3))];
        kill(next, running);
        assert_eq!(other.crashes(&id(3), before), 1, "one look serves all of before");
        assert_eq!([2, 3].map(|n| crashes(&other, n)), [1, 2]);
    }

    #[test]
    fn the_last_that_ended_is_a_suspect_until_another_begins() {
        let directory = tempfile::tempdir().unwrap();
        let dying = journal(directory.path());
        drop(dying.begin(&id(1)));
        drop(dying.begin(&id(2)));
        kill(dying, Vec::new());
        let other = journal(directory.path());
        assert_eq!([1, 2].map(|n| crashes(&other, n)), [0, 1]);
    }

    #[test]
    fn the_calls_of_a_batch_die_one_death() {
        let directory = tempfile::tempdir().unwrap();
        let dying = journal(directory.path());
        let running = (0..3).map(|_| dying.begin(&id(1))).collect();
        kill(dying, running);
        assert_eq!(crashes(&journal(directory.path()), 1), 1);
    }

    #[test]
    fn a_slot_is_used_again_and_one_too_many_does_without() {
        let directory = tempfile::tempdir().unwrap();
        let dying = journal(directory.path());
        for _ in 0..3 {
            let all: Vec<Running> = (0..6).map(|n| dying.begin(&id(n))).collect();
            assert_eq!(all.iter().filter(|call| call.slot.is_none()).count(), 2);
        }
        let running = vec![dying.begin(&id(9))];
        kill(dying, running);
        let other = journal(directory.path());
        assert_eq!([0, 5, 9].map(|n| crashes(&other, n)), [0, 0, 1]);
    }

    #[test]
    fn an_orderly_end_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let ending = journal(directory.path());
        let _running = ending.begin(&id(1));
        ending.close();
        assert_eq!(names(directory.path()), 0);
    }

    #[test]
    fn damaged_files_are_removed_and_harm_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let host = journal(path);
        let folder = path.join(FOLDER);
        let mut random = MAGIC.to_vec();
        random.extend((0..4000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8));
        std::fs::write(folder.join("random"), random).unwrap();
        std::fs::write(folder.join("other"), b"something else").unwrap();
        std::fs::write(folder.join("cut"), &MAGIC[..5]).unwrap();
        std::fs::write(folder.join("empty"), b"").unwrap();
        File::create(folder.join("huge")).unwrap().set_len(1 << 40).unwrap();
        std::os::unix::fs::symlink("/dev/zero", folder.join("link")).unwrap();
        assert_eq!(crashes(&host, 1), 0);
        // Left are its own, the random one, which is well-formed, and the empty one.
        assert_eq!(names(path), 3);
    }

    #[test]
    fn few_are_kept_and_not_for_ever() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        for _ in 0..MOST_FILES + 5 {
            let dying = journal(path);
            let running = vec![dying.begin(&id(1))];
            kill(dying, running);
        }
        let old = path.join(FOLDER).join("old");
        std::fs::write(&old, MAGIC).unwrap();
        let long_ago = SystemTime::now() - KEEP * 2;
        File::options().write(true).open(&old).unwrap().set_modified(long_ago).unwrap();
        let host = journal(path);
        assert!(!old.exists(), "a start is enough for that");
        assert_eq!(names(path), MOST_FILES + 1);
        assert_eq!(crashes(&host, 1), u32::try_from(MOST_FILES).unwrap());
    }

    /// What it costs, for `cargo test --release -- --nocapture journal_cost`.
    #[test]
    fn journal_cost_is_microseconds() {
        let directory = tempfile::tempdir().unwrap();
        let host = journal(directory.path());
        let calls = 20_000;
        let begun = Instant::now();
        for _ in 0..calls {
            drop(host.begin(&id(1)));
        }
        let each = begun.elapsed() / calls;
        tracing::info!(?each, "journal");
        assert!(each < Duration::from_millis(1), "{each:?}");
    }
}
