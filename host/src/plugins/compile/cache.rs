//! What was compiled before, kept between runs.
//!
//! An entry is named by what it was made of: the engine (version, settings,
//! processor) and the SHA-256 of the plugin, with its WIT file if it has one. Hosts of one user may share a
//! folder: entries never change, and appear by rename.
//!
//! # Why an entry may be run
//!
//! It is native code, so a wrong one is the end of every sandbox. The folder
//! is the user's alone (0700, files 0600, no links, held by descriptor), and
//! each entry carries a seal: HMAC-SHA256 of its name and content, under a key
//! that the first host drew and keeps beside the entries. So nothing is run
//! that was cut short, rotted, was renamed, or came there from elsewhere: a
//! restored backup of another machine, another version's files, a tool that
//! may write the folder but not read the key. It does not protect from who can
//! read the key: a process of the same user (which could change the host
//! itself just as well), and the system's administrator.

use std::fs::File;
use std::hash::Hasher;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use hmac::{Hmac, Mac as _};
use rand::RngCore as _;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use tracing::{debug, info, warn};

use super::super::core_module::Source;
use super::native::Native;
use crate::state_dir;

/// Most bytes of all entries: some thirty versions of the biggest plugins, or
/// five thousand small ones. Several hosts of one folder may together go an
/// eighth each beyond it.
const MAX_BYTES: u64 = 1 << 30;

/// How long an entry of another engine stays unused, so that a host that is
/// set back to the version before starts warm.
const ROLLBACK: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Age at which a file that was never finished is taken for a crashed host's.
const ABANDONED: Duration = Duration::from_secs(60 * 60);

/// How exact "last used" is, so that a host that starts again and again does
/// not write each time.
const USED_WITHIN: Duration = Duration::from_secs(60 * 60);

const SEAL: usize = 32;
const KEY: &str = "key";
const ENTRY: &str = ".cwasm";
const UNFINISHED: &str = ".tmp";

/// Hexadecimal digits of an engine's mark in an entry's name.
const ENGINE_DIGITS: usize = 16;

/// A folder of compiled plugins.
#[derive(Debug)]
pub(super) struct Cache {
    folder: OwnedFd,
    key: [u8; SEAL],
    /// Marks this engine's entries.
    engine: String,
    most: u64,
    book: Mutex<Book>,
}

/// What is known of the folder without looking.
#[derive(Debug, Default)]
struct Book {
    /// Bytes of all entries when last counted, and of those written since.
    bytes: u64,
    /// The latter alone.
    written: u64,
    /// Whether the last entry could not be written.
    full: bool,
}

/// What the cache has for a plugin.
#[derive(Debug)]
pub(super) enum Found {
    /// An entry that this user's host wrote.
    Entry(Native),
    /// Nothing.
    Nothing,
    /// Something that must not be used, with the reason.
    Unfit(String),
}

impl Cache {
    /// Opens a folder that is the user's alone, and removes what is too much.
    ///
    /// # Errors
    ///
    /// When there is no key and none can be written.
    pub(super) fn open(folder: OwnedFd, engine: &wasmtime::Engine) -> anyhow::Result<Self> {
        Self::open_with(folder, engine, MAX_BYTES)
    }

    fn open_with(folder: OwnedFd, engine: &wasmtime::Engine, most: u64) -> anyhow::Result<Self> {
        let key = key(&folder)?;
        let cache = Self { folder, key, engine: mark(engine), most, book: Mutex::default() };
        cache.sweep(&mut cache.book.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(cache)
    }

    /// The name of a plugin's entry.
    pub(super) fn name(&self, source: Source<'_>) -> String {
        let mut digest = Sha256::digest(source.wasm);
        if let Some(wit) = source.wit {
            // Two digests are no WebAssembly file, so no other plugin has this.
            digest =
                Sha256::new().chain_update(digest).chain_update(Sha256::digest(wit)).finalize();
        }
        format!("{}-{}{ENTRY}", self.engine, hex(&digest))
    }

    /// Looks an entry up by its name.
    pub(super) fn find(&self, name: &str) -> Found {
        match self.read(name) {
            Ok(Some(native)) => Found::Entry(native),
            Ok(None) => Found::Nothing,
            Err(error) => Found::Unfit(format!("{error:#}")),
        }
    }

    fn read(&self, name: &str) -> anyhow::Result<Option<Native>> {
        let Some((mut file, stat)) = open_own(&self.folder, name)? else { return Ok(None) };
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        if size > self.most {
            bail!("it has {size} bytes, the limit is {}", self.most);
        }
        let mut seal = [0; SEAL];
        file.read_exact(&mut seal).context("it is cut short")?;
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        (&mut file).take(self.most).read_to_end(&mut bytes).context("it cannot be read")?;
        if self.seal(name, &bytes)?.verify_slice(&seal).is_err() {
            bail!("it is not as this host wrote it");
        }
        self.mark_used(&file, &stat);
        Ok(Some(Native::of(bytes)))
    }

    /// Keeps what was compiled. A folder that takes nothing costs a warning,
    /// once; the host goes on without.
    pub(super) fn keep(&self, name: &str, native: &Native) {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        match self.write(name, native.bytes()) {
            Ok(()) => {
                let size = native.bytes().len().saturating_add(SEAL) as u64;
                book.bytes = book.bytes.saturating_add(size);
                book.written = book.written.saturating_add(size);
                if std::mem::take(&mut book.full) {
                    info!("compiled plugins are kept again");
                }
                if book.bytes > self.most || book.written > self.most / 8 {
                    self.sweep(&mut book);
                }
            }
            Err(error) if book.full => debug!("a compiled plugin is not kept: {error:#}"),
            Err(error) => {
                book.full = true;
                warn!(
                    "compiled plugins are not kept, the next start compiles them again: {error:#}"
                );
            }
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let seal = self.seal(name, bytes)?.finalize().into_bytes();
        let unfinished = write_new(&self.folder, &[&seal, bytes])?;
        // Nothing is flushed: what a crash of the machine cuts short has no
        // valid seal, and is compiled again.
        rustix::fs::renameat(&self.folder, &*unfinished, &self.folder, name)
            .inspect_err(|_| self.remove(&unfinished))
            .context("the state directory cannot be written")
    }

    fn seal(&self, name: &str, bytes: &[u8]) -> anyhow::Result<Hmac<Sha256>> {
        let mut seal = Hmac::<Sha256>::new_from_slice(&self.key).context("the key is unfit")?;
        seal.update(name.as_bytes());
        // Ends the name: no entry can be read as another one's name and more.
        seal.update(&[0]);
        seal.update(bytes);
        Ok(seal)
    }

    /// Notes that an entry was used. Where that cannot be written, the oldest
    /// entries are those that were written first.
    fn mark_used(&self, file: &File, stat: &Stat) {
        if age(stat) < USED_WITHIN {
            return;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = Timespec {
            tv_sec: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: now.subsec_nanos().into(),
        };
        let unchanged = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let times = Timestamps { last_access: unchanged, last_modification: now };
        if let Err(error) = rustix::fs::futimens(file, &times) {
            debug!("a cache entry's use cannot be noted: {error}");
        }
    }

    /// Removes what crashed hosts left, what other engines left long ago, and
    /// of the rest the least recently used beyond the limit. Files that are
    /// not named like ours are left alone.
    fn sweep(&self, book: &mut Book) {
        let (mut entries, mut bytes) = (Vec::new(), 0_u64);
        for (name, stat) in self.list() {
            if is_unfinished(&name) {
                if age(&stat) > ABANDONED {
                    self.remove(&name);
                }
            } else if let Some(engine) = engine_of(&name) {
                if engine != self.engine && age(&stat) > ROLLBACK {
                    self.remove(&name);
                    continue;
                }
                let size = u64::try_from(stat.st_size).unwrap_or(0);
                bytes = bytes.saturating_add(size);
                entries.push((age(&stat), size, name));
            }
        }
        if bytes > self.most {
            entries.sort_unstable();
            while bytes > self.most
                && let Some((_, size, name)) = entries.pop()
            {
                self.remove(&name);
                bytes = bytes.saturating_sub(size);
            }
        }
        *book = Book { bytes, written: 0, full: book.full };
    }

    fn list(&self) -> Vec<(String, Stat)> {
        let listed = rustix::fs::Dir::read_from(&self.folder).and_then(|entries| {
            let mut found = Vec::new();
            for entry in entries {
                let Ok(name) = entry?.file_name().to_str().map(str::to_owned) else { continue };
                match state_dir::stat(&self.folder, &name) {
                    Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
                        found.push((name, stat));
                    }
                    // Another host has removed it meanwhile.
                    Ok(_) | Err(Errno::NOENT) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(found)
        });
        listed.unwrap_or_else(|error| {
            debug!("the compile cache cannot be listed: {error}");
            Vec::new()
        })
    }

    fn remove(&self, name: &str) {
        match rustix::fs::unlinkat(&self.folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => debug!("`{name}` of the compile cache cannot be removed: {error}"),
        }
    }
}

/// The key of a folder: the one that is there, or a new one.
fn key(folder: &OwnedFd) -> anyhow::Result<[u8; SEAL]> {
    match read_key(folder)? {
        Kept::Key(key) => return Ok(key),
        Kept::Nothing => {}
        // It seals nothing. A host that does this at the same time may lose its
        // new key, and then compiles once more than it has to.
        Kept::Damaged => match rustix::fs::unlinkat(folder, KEY, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => info!("the compile cache's damaged key is made anew"),
            Err(error) => return Err(error).context("its damaged key cannot be removed"),
        },
    }
    let mut key = [0; SEAL];
    rand::rng().fill_bytes(&mut key);
    let unfinished = write_new(folder, &[&key])?;
    // Of two hosts that do this at once, the first one's key counts. On the disk
    // before it has its name: one that a power failure cut short would be noticed,
    // one that it filled with zeros would not.
    let linked = flush(folder, &unfinished)
        .and_then(|()| rustix::fs::linkat(folder, &*unfinished, folder, KEY, AtFlags::empty()));
    rustix::fs::unlinkat(folder, &*unfinished, AtFlags::empty())?;
    match linked {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error).context("its key cannot be written"),
    }
    match read_key(folder)? {
        Kept::Key(key) => Ok(key),
        Kept::Nothing | Kept::Damaged => bail!("its key has vanished"),
    }
}

/// What there is under the key's name.
enum Kept {
    Key([u8; SEAL]),
    Nothing,
    /// A file of ours that has another size than a key.
    Damaged,
}

fn read_key(folder: &OwnedFd) -> anyhow::Result<Kept> {
    let unfit = || format!("its file `{KEY}` is unfit; remove it, and another is made");
    let Some((file, _)) = open_own(folder, KEY).with_context(unfit)? else {
        return Ok(Kept::Nothing);
    };
    let mut key = Vec::new();
    file.take(SEAL as u64 + 1).read_to_end(&mut key).with_context(unfit)?;
    Ok(key.try_into().map_or(Kept::Damaged, Kept::Key))
}

fn flush(folder: &OwnedFd, name: &str) -> rustix::io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::fsync(rustix::fs::openat(folder, name, flags, Mode::empty())?)
}

/// Opens a regular file that is this user's alone; `None` if there is none.
fn open_own(folder: &OwnedFd, name: &str) -> anyhow::Result<Option<(File, Stat)>> {
    // A pipe must not block us; what is no regular file is refused below.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match rustix::fs::openat(folder, name, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP) => bail!("it is a link"),
        Err(error) => return Err(error).context("it cannot be opened"),
    };
    let stat = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        bail!("it is not a regular file");
    }
    state_dir::check(&stat, Mode::RWXG | Mode::RWXO)?;
    Ok(Some((File::from(file), stat)))
}

/// Writes a file under a name that nobody reads. Returns the name.
fn write_new(folder: &OwnedFd, parts: &[&[u8]]) -> anyhow::Result<String> {
    let mut random = [0; 8];
    rand::rng().fill_bytes(&mut random);
    let name = format!("{}{UNFINISHED}", hex(&random));
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let written = rustix::fs::openat(folder, &*name, flags, Mode::RUSR | Mode::WUSR)
        .map_err(std::io::Error::from)
        .and_then(|file| {
            let mut file = File::from(file);
            parts.iter().try_for_each(|part| file.write_all(part))
        });
    if written.is_err() {
        // Half a file is of use to nobody; there may be none.
        let _removed = rustix::fs::unlinkat(folder, &*name, AtFlags::empty());
    }
    written.context("the state directory cannot be written")?;
    Ok(name)
}

/// Time since a file was written or used; none where clocks disagree.
fn age(stat: &Stat) -> Duration {
    let used = Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0));
    (SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()).saturating_sub(used)
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

fn is_unfinished(name: &str) -> bool {
    name.strip_suffix(UNFINISHED).is_some_and(|stem| stem.len() == 16 && is_hex(stem))
}

/// The mark of the engine that an entry is for; `None` if it is no entry.
fn engine_of(name: &str) -> Option<&str> {
    let (engine, digest) = name.strip_suffix(ENTRY)?.split_once('-')?;
    let ours = engine.len() == ENGINE_DIGITS && digest.len() == 64;
    (ours && is_hex(engine) && is_hex(digest)).then_some(engine)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What tells engines apart whose native code differs: wasmtime's version and
/// settings and the processor's features, and the version of this host.
fn mark(engine: &wasmtime::Engine) -> String {
    use std::hash::Hash as _;
    struct Digest(Sha256);
    impl Hasher for Digest {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
        fn finish(&self) -> u64 {
            0
        }
    }
    let mut digest = Digest(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut digest);
    env!("CARGO_PKG_VERSION").hash(&mut digest);
    let mut mark = hex(&digest.0.finalize());
    mark.truncate(ENGINE_DIGITS);
    mark
}

#[cfg(test)]
mod tests;
