//! The directory in which a host keeps what it can do without: made, checked
//! and locked.
//!
//! Knows nothing of what is kept there. Everything below it is reached through
//! the descriptor that was checked, so that a path that is swapped later leads
//! nowhere else.

use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;

/// For this user alone: what is below is code that the host will run.
const PRIVATE: Mode = Mode::RWXU;

/// Whose locks tell that a directory is in use.
const LOCK: &str = "lock";

/// How a host takes its directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// It is this host's alone.
    Alone,
    /// Other hosts that say the same may use it too.
    Shared,
    /// For a process that a host has started and that ends with it: the host
    /// has the lock.
    Lent,
}

/// Why a directory cannot be used.
#[derive(Debug)]
pub enum Unusable {
    /// Another host holds it.
    InUse,
    /// It cannot be made or locked, or others could change what is in it.
    Unfit(anyhow::Error),
}

/// A directory that is locked for as long as the value lives.
#[derive(Debug)]
pub struct StateDir {
    directory: OwnedFd,
    /// Absent where another process has it for us, and on a read-only file
    /// system that never had one: nothing can be written there by anybody.
    _lock: Option<OwnedFd>,
}

impl StateDir {
    /// Makes the directory if it is missing, and takes it.
    ///
    /// # Errors
    ///
    /// Says whether another host has it, or what is wrong with it.
    pub fn open(path: &Path, claim: Claim) -> Result<Self, Unusable> {
        let directory = make(path).map_err(Unusable::Unfit)?;
        let lock = match claim {
            Claim::Lent => None,
            Claim::Alone | Claim::Shared => open_lock(&directory).map_err(Unusable::Unfit)?,
        };
        if let Some(lock) = &lock {
            let operation = match claim {
                Claim::Alone => FlockOperation::NonBlockingLockExclusive,
                Claim::Shared | Claim::Lent => FlockOperation::NonBlockingLockShared,
            };
            match rustix::fs::flock(lock, operation) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Err(Unusable::InUse),
                Err(error) => {
                    let error = anyhow::Error::from(error).context("it cannot be locked");
                    return Err(Unusable::Unfit(error));
                }
            }
        }
        Ok(Self { directory, _lock: lock })
    }

    /// A folder of it that nobody else may look into, made if it is missing.
    ///
    /// # Errors
    ///
    /// When it cannot be made, is a link, or is open to others.
    pub fn folder(&self, name: &str) -> anyhow::Result<OwnedFd> {
        let made = rustix::fs::mkdirat(&self.directory, name, PRIVATE);
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(&self.directory, name, flags, Mode::empty())
            // Why it could not be made says more than that it is not there.
            .map_err(|error| made.err().filter(|made| *made != Errno::EXIST).unwrap_or(error))
            .with_context(|| format!("its folder `{name}` cannot be opened"))?;
        let stat = rustix::fs::fstat(&folder)?;
        check(&stat, Mode::RWXG | Mode::RWXO).with_context(|| format!("its folder `{name}`"))?;
        Ok(folder)
    }
}

fn make(path: &Path) -> anyhow::Result<OwnedFd> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(PRIVATE.bits()).create(path);
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = match (rustix::fs::openat(CWD, path, flags, Mode::empty()), made) {
        (Ok(directory), _) => directory,
        (Err(_), Err(error)) => return Err(error).context("it cannot be made"),
        (Err(error), Ok(())) => return Err(error).context("it cannot be opened"),
    };
    // Others may look: only what is in its folders is private.
    check(&rustix::fs::fstat(&directory)?, Mode::WGRP | Mode::WOTH)?;
    Ok(directory)
}

fn open_lock(directory: &OwnedFd) -> anyhow::Result<Option<OwnedFd>> {
    let open = |flags| {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(directory, LOCK, flags, Mode::RUSR | Mode::WUSR)
    };
    let lock = match open(OFlags::RDWR | OFlags::CREATE) {
        // A lock needs no right to write.
        Err(Errno::ROFS | Errno::ACCESS) => match open(OFlags::RDONLY) {
            Err(Errno::NOENT) => return Ok(None),
            opened => opened,
        },
        opened => opened,
    };
    Ok(Some(lock.with_context(|| format!("its file `{LOCK}` cannot be opened"))?))
}

/// Refuses what belongs to somebody else, or is open to others in a way of
/// `closed`.
///
/// # Errors
///
/// Says which, and what to do.
pub fn check(stat: &Stat, closed: Mode) -> anyhow::Result<()> {
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        bail!("it belongs to the user {}, and the host runs as another", stat.st_uid);
    }
    let mode = Mode::from_raw_mode(stat.st_mode);
    if mode.intersects(closed) {
        bail!("it is open to other users (mode {:04o}); close it with `chmod go=`", mode.bits());
    }
    Ok(())
}

/// What a file of a folder is, without following a link.
///
/// # Errors
///
/// As the system says.
pub fn stat(folder: &OwnedFd, name: &str) -> rustix::io::Result<Stat> {
    rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn open(path: &Path, claim: Claim) -> Result<StateDir, Unusable> {
        StateDir::open(path, claim)
    }

    fn unfit(result: Result<StateDir, Unusable>) -> String {
        match result {
            Err(Unusable::Unfit(error)) => format!("{error:#}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_host_has_it_alone_or_several_share_it() {
        let outer = tempfile::tempdir().unwrap();
        let path = outer.path().join("a/b");
        let alone = open(&path, Claim::Alone).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        for claim in [Claim::Alone, Claim::Shared] {
            assert!(matches!(open(&path, claim), Err(Unusable::InUse)));
        }
        drop(alone);
        let _one = open(&path, Claim::Shared).unwrap();
        let _two = open(&path, Claim::Shared).unwrap();
        assert!(matches!(open(&path, Claim::Alone), Err(Unusable::InUse)));
    }

    #[test]
    fn what_others_could_change_is_refused() {
        let outer = tempfile::tempdir().unwrap();
        let set = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        set(outer.path(), 0o777);
        let said = unfit(open(outer.path(), Claim::Alone));
        assert!(said.contains("open to other users (mode 0777)"), "{said}");
        set(outer.path(), 0o755);
        let state = open(outer.path(), Claim::Alone).unwrap();
        state.folder("x").unwrap();
        set(&outer.path().join("x"), 0o750);
        let said = format!("{:#}", state.folder("x").unwrap_err());
        assert!(said.contains("`x`: it is open to other users"), "{said}");
    }

    #[test]
    fn links_and_files_in_its_place_are_refused() {
        let outer = tempfile::tempdir().unwrap();
        let file = outer.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(!unfit(open(&file, Claim::Alone)).is_empty());
        let state = open(&outer.path().join("state"), Claim::Alone).unwrap();
        let elsewhere = outer.path().join("elsewhere");
        std::fs::create_dir(&elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, outer.path().join("state/x")).unwrap();
        assert!(state.folder("x").is_err());
    }
}
