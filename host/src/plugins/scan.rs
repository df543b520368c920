//! The plugin directory as it is: which files, and whether they changed.
//!
//! Events are hints; this is the truth. Listing and reading are plain
//! functions, so that what follows from a listing can be tested without time
//! or a watcher.

use std::fs::{File, Metadata};
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use sha2::{Digest as _, Sha256};

use super::core_module::is_core;

/// Largest file that is read, in bytes. The biggest known plugins, made from
/// Python with its interpreter inside, have 35 MiB.
pub(super) const MAX_FILE: u64 = 128 * 1024 * 1024;

/// Largest `<plugin>.toml`.
const MAX_CONFIG: u64 = 64 * 1024;

/// Largest `<plugin>.wit`. All of WASI 0.2 has 100 KiB.
const MAX_WIT: u64 = 256 * 1024;

/// Most `.wasm` files that are looked at; each loaded one costs about a
/// quarter of a megabyte.
const MAX_FILES: usize = 10_000;

/// What tells that a file may have changed, without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Signature {
    wasm: Stamp,
    config: Option<Stamp>,
    wit: Option<Stamp>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// A file of the directory that could be a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// The file's stem; a valid name.
    pub(super) name: String,
    /// What it looked like; `Err` with the reason where it cannot be used.
    pub(super) state: Result<Signature, String>,
}

/// The plugin directory's listing.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Candidates, sorted by name.
    pub(super) found: Vec<Found>,
    /// `.wasm` files whose names cannot be a plugin's, sorted.
    pub(super) misnamed: Vec<String>,
}

/// Lists the directory.
///
/// # Errors
///
/// When it cannot be read at all; that is no reason to forget a plugin.
pub(super) fn list(directory: &Path) -> anyhow::Result<Listing> {
    let root = directory.canonicalize().with_context(|| {
        format!("failed to read the plugin directory `{}`", directory.display())
    })?;
    let entries = std::fs::read_dir(&root).with_context(|| {
        format!("failed to read the plugin directory `{}`", directory.display())
    })?;
    let mut listing = Listing::default();
    for entry in entries {
        let entry = entry.with_context(|| {
            format!("failed to read the plugin directory `{}`", directory.display())
        })?;
        let file_name = entry.file_name();
        let Some(file_name) = file_name.to_str() else {
            if file_name.as_encoded_bytes().ends_with(b".wasm") {
                listing.misnamed.push(file_name.to_string_lossy().into_owned());
            }
            continue;
        };
        let Some(stem) = file_name.strip_suffix(".wasm") else {
            if file_name.ends_with(".cwasm") {
                listing.misnamed.push(file_name.to_owned());
            }
            continue;
        };
        if !is_name(stem) {
            // Editors and `rsync` write to hidden files first.
            if !file_name.starts_with('.') {
                listing.misnamed.push(file_name.to_owned());
            }
            continue;
        }
        if listing.found.len() >= MAX_FILES {
            bail!("the plugin directory has more than {MAX_FILES} files");
        }
        let state = signature(&root, stem).map_err(|error| format!("{error:#}"));
        listing.found.push(Found { name: stem.to_owned(), state });
    }
    listing.found.sort_by(|a, b| a.name.cmp(&b.name));
    listing.misnamed.sort();
    Ok(listing)
}

/// Whether a file's stem can name a plugin: `[a-z0-9][a-z0-9_-]{0,63}`.
#[must_use]
pub fn is_name(stem: &str) -> bool {
    let mut bytes = stem.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_lowercase() || first.is_ascii_digit())
        && stem.len() <= 64
        && bytes.all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-'
        })
}

fn signature(root: &Path, stem: &str) -> anyhow::Result<Signature> {
    let wasm = resolve(root, &format!("{stem}.wasm"))?;
    let metadata = std::fs::metadata(&wasm).context("it cannot be looked at")?;
    let wit = root.join(format!("{stem}.wit"));
    // One that cannot be used says so when a core module needs it.
    let wit = std::fs::metadata(&wit).or_else(|_| std::fs::symlink_metadata(&wit)).ok();
    let config = format!("{stem}.toml");
    let config = match std::fs::symlink_metadata(root.join(&config)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        // A configuration that cannot be used must not be taken for none.
        _ => {
            let unusable = || format!("its configuration `{config}` cannot be used");
            let path = resolve(root, &config).with_context(unusable)?;
            Some(Stamp::of(&std::fs::metadata(path).with_context(unusable)?))
        }
    };
    Ok(Signature { wasm: Stamp::of(&metadata), config, wit: wit.as_ref().map(Stamp::of) })
}

/// Follows links, but not out of the directory.
fn resolve(root: &Path, file_name: &str) -> anyhow::Result<PathBuf> {
    let path = root.join(file_name).canonicalize().context("it cannot be opened")?;
    if !path.starts_with(root) {
        bail!("it is a link that leads out of the plugin directory");
    }
    Ok(path)
}

/// A plugin's files, read at one moment.
#[derive(Debug)]
pub(super) struct Contents {
    /// Where the plugin's file is, links not followed.
    pub(super) file: PathBuf,
    pub(super) wasm: Vec<u8>,
    /// SHA-256 of `wasm`, lower-case hex.
    pub(super) digest: String,
    /// Text of `<plugin>.toml`, if there is one.
    pub(super) config: Option<String>,
    /// Text of `<plugin>.wit`, if there is one and `wasm` is a core module.
    pub(super) wit: Option<String>,
    /// What the files looked like before they were read.
    pub(super) signature: Signature,
}

/// SHA-256 in lower-case hex: the identity of a file.
pub(super) fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads a plugin's files; `None` when they changed meanwhile.
///
/// # Errors
///
/// Says why the file cannot be used.
pub(super) fn read(directory: &Path, stem: &str) -> anyhow::Result<Option<Contents>> {
    let root = directory.canonicalize().context("the plugin directory is gone")?;
    let before = signature(&root, stem)?;
    let wasm = read_file(&resolve(&root, &format!("{stem}.wasm"))?, MAX_FILE)?;
    let config = match before.config {
        None => None,
        Some(_) => Some(read_text(&root, &format!("{stem}.toml"), MAX_CONFIG)?),
    };
    let wit = match before.wit {
        Some(_) if is_core(&wasm) => Some(read_text(&root, &format!("{stem}.wit"), MAX_WIT)?),
        _ => None,
    };
    if signature(&root, stem)? != before {
        return Ok(None);
    }
    let file = root.join(format!("{stem}.wasm"));
    let digest = digest(&wasm);
    Ok(Some(Contents { file, wasm, digest, config, wit, signature: before }))
}

/// Reads the configuration that a plugin of this name has, or would have, in a directory.
///
/// # Errors
///
/// Says why there is one that cannot be used.
pub(super) fn read_config(directory: &Path, stem: &str) -> anyhow::Result<Option<String>> {
    let file_name = format!("{stem}.toml");
    if std::fs::symlink_metadata(directory.join(&file_name))
        .is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
    {
        return Ok(None);
    }
    let root = directory.canonicalize().context("the plugin directory is gone")?;
    read_text(&root, &file_name, MAX_CONFIG).map(Some)
}

/// Reads the WIT file beside a plugin that is not in the plugin directory.
///
/// # Errors
///
/// Says why the file cannot be used.
pub(super) fn read_wit_beside(path: &Path, wasm: &[u8]) -> anyhow::Result<Option<String>> {
    let wit = path.with_extension("wit");
    if !is_core(wasm) || !wit.exists() {
        return Ok(None);
    }
    let name = wit.file_name().unwrap_or_default().to_string_lossy().into_owned();
    into_text(read_file(&wit, MAX_WIT), &name).map(Some)
}

fn read_text(root: &Path, file_name: &str, limit: u64) -> anyhow::Result<String> {
    into_text(resolve(root, file_name).and_then(|path| read_file(&path, limit)), file_name)
}

fn into_text(bytes: anyhow::Result<Vec<u8>>, file_name: &str) -> anyhow::Result<String> {
    let bytes = bytes.with_context(|| format!("failed to read `{file_name}`"))?;
    String::from_utf8(bytes).with_context(|| format!("`{file_name}` is not UTF-8"))
}

/// Reads a file of at most `limit` bytes.
///
/// # Errors
///
/// Says why it cannot be read.
pub(super) fn read_file(path: &Path, limit: u64) -> anyhow::Result<Vec<u8>> {
    // A pipe must not block us, and is refused below.
    let file = File::options()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .context("it cannot be opened")?;
    let metadata = file.metadata().context("it cannot be looked at")?;
    if !metadata.is_file() {
        bail!("it is not a regular file");
    }
    if metadata.len() > limit {
        bail!("it has {} bytes, the limit is {limit}", metadata.len());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
    let read = file.take(limit.saturating_add(1)).read_to_end(&mut bytes);
    read.context("it cannot be read")?;
    if bytes.len() as u64 > limit {
        bail!("it has more than {limit} bytes");
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lower_case_without_dots() {
        for good in ["a", "0", "fib", "a-b_c9", &"n".repeat(64)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "-a", "_a", "A", "a.b", "a b", "ä", &"n".repeat(65), "..", "a/b"] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn a_link_that_leads_outside_is_refused_and_one_inside_is_followed() {
        let outside = tempfile::tempdir().unwrap();
        let inside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("x.wasm"), "x").unwrap();
        std::fs::create_dir(inside.path().join("..2026")).unwrap();
        std::fs::write(inside.path().join("..2026/y.wasm"), "y").unwrap();
        std::os::unix::fs::symlink("..2026", inside.path().join("..data")).unwrap();
        std::os::unix::fs::symlink("..data/y.wasm", inside.path().join("y.wasm")).unwrap();
        std::os::unix::fs::symlink(outside.path().join("x.wasm"), inside.path().join("x.wasm"))
            .unwrap();
        let listing = list(inside.path()).unwrap();
        let states: Vec<_> =
            listing.found.iter().map(|found| (found.name.as_str(), found.state.is_ok())).collect();
        assert_eq!(states, [("x", false), ("y", true)]);
        assert_eq!(read(inside.path(), "y").unwrap().unwrap().wasm, b"y");
    }

    #[test]
    fn the_wit_beside_a_file_is_read_for_core_modules_alone() {
        let outside = tempfile::tempdir().unwrap();
        let inside = tempfile::tempdir().unwrap();
        let path = |name: &str| inside.path().join(name);
        std::fs::write(path("core.wasm"), b"\0asm\x01\0\0\0").unwrap();
        std::fs::write(path("component.wasm"), b"\0asm\x0d\0\x01\0").unwrap();
        let wit = |stem: &str| read(inside.path(), stem).map(|read| read.unwrap().wit);
        assert_eq!(wit("core").unwrap(), None);
        std::fs::write(path("core.wit"), "package a:b;").unwrap();
        assert_eq!(wit("core").unwrap().as_deref(), Some("package a:b;"));
        std::fs::remove_file(path("core.wit")).unwrap();
        std::fs::write(outside.path().join("x.wit"), "package a:b;").unwrap();
        for stem in ["core", "component"] {
            let link = path(&format!("{stem}.wit"));
            std::os::unix::fs::symlink(outside.path().join("x.wit"), link).unwrap();
        }
        assert_eq!(wit("component").unwrap(), None);
        let refused = format!("{:#}", wit("core").unwrap_err());
        assert!(refused.starts_with("failed to read `core.wit`: it is a link"), "{refused}");
    }

    #[test]
    fn a_pipe_is_refused_without_waiting_for_it() {
        let directory = tempfile::tempdir().unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            directory.path().join("p.wasm"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        let error = read(directory.path(), "p").unwrap_err();
        assert_eq!(error.to_string(), "it is not a regular file");
    }
}
