//! What is kept, what is not used, and what goes.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use super::*;
use crate::plugins::engine::{self, Concurrency};
use crate::state_dir::{Claim, StateDir};

struct Place {
    engine: wasmtime::Engine,
    state: StateDir,
    path: PathBuf,
    _outer: tempfile::TempDir,
}

fn place() -> Place {
    let outer = tempfile::tempdir().unwrap();
    let state = StateDir::open(&outer.path().join("state"), Claim::Alone).unwrap();
    let engine = wasmtime::Engine::new(&engine::config(None, Concurrency::Off)).unwrap();
    Place { engine, state, path: outer.path().join("state/compiled"), _outer: outer }
}

impl Place {
    fn open(&self, most: u64) -> Cache {
        let folder = self.state.folder("compiled").unwrap();
        Cache::open_with(folder, &self.engine, most).unwrap()
    }

    fn files(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(&self.path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != KEY)
            .collect();
        names.sort();
        names
    }
}

fn keep(cache: &Cache, component: &[u8], content: &[u8]) -> String {
    let name = cache.name(Source { wasm: component, wit: None });
    cache.keep(&name, &Native::of(content.to_vec()));
    name
}

fn entry(cache: &Cache, name: &str) -> Option<Vec<u8>> {
    match cache.find(name) {
        Found::Entry(native) => Some(native.bytes().to_vec()),
        Found::Nothing => None,
        Found::Unfit(reason) => panic!("{name}: {reason}"),
    }
}

fn unfit(cache: &Cache, name: &str) -> String {
    match cache.find(name) {
        Found::Unfit(reason) => reason,
        other => panic!("{other:?}"),
    }
}

fn set_age(path: &Path, age: Duration) {
    let file = fs::File::open(path).unwrap();
    file.set_modified(SystemTime::now() - age).unwrap();
}

#[test]
fn an_engine_with_a_pool_runs_what_one_without_has_compiled() {
    let place = place();
    let mut pool = wasmtime::PoolingAllocationConfig::new();
    pool.total_memories(1).total_component_instances(1);
    let pooled = wasmtime::Engine::new(&engine::config(Some(pool), Concurrency::Off)).unwrap();
    assert_eq!(mark(&place.engine), mark(&pooled));
    let mut other = engine::config(None, Concurrency::Off);
    other.epoch_interruption(false);
    assert_ne!(mark(&place.engine), mark(&wasmtime::Engine::new(&other).unwrap()));
}

#[test]
fn what_was_kept_is_found_by_the_next_host_and_nobody_else_can_read_it() {
    let place = place();
    let name = keep(&place.open(MAX_BYTES), b"component", b"native");
    let cache = place.open(MAX_BYTES);
    assert_eq!(entry(&cache, &name).unwrap(), b"native");
    assert_eq!(entry(&cache, &cache.name(Source { wasm: b"another", wit: None })), None);
    for file in [&name, KEY] {
        let mode = place.path.join(file).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}

#[test]
fn an_entry_that_was_changed_cut_or_renamed_is_not_used() {
    let place = place();
    let cache = place.open(MAX_BYTES);
    let name = keep(&cache, b"component", b"native code");
    let path = place.path.join(&name);
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        fs::write(&path, &changed).unwrap();
        assert_eq!(unfit(&cache, &name), "it is not as this host wrote it");
        fs::write(&path, &whole[..at]).unwrap();
        unfit(&cache, &name);
    }
    fs::write(&path, [&whole[..], b"x"].concat()).unwrap();
    unfit(&cache, &name);
    // Another plugin's entry under this one's name.
    let other = keep(&cache, b"other", b"other code");
    fs::copy(place.path.join(other), &path).unwrap();
    unfit(&cache, &name);
    keep(&cache, b"component", b"native code");
    assert_eq!(entry(&cache, &name).unwrap(), b"native code");
}

#[test]
fn an_entry_of_another_key_is_not_used() {
    let (one, two) = (place(), place());
    let name = keep(&one.open(MAX_BYTES), b"component", b"native");
    let cache = two.open(MAX_BYTES);
    fs::copy(one.path.join(&name), two.path.join(&name)).unwrap();
    assert_eq!(unfit(&cache, &name), "it is not as this host wrote it");
}

#[test]
fn links_pipes_and_open_files_are_not_used() {
    let place = place();
    let cache = place.open(MAX_BYTES);
    let name = keep(&cache, b"component", b"native");
    let path = place.path.join(&name);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(unfit(&cache, &name).contains("open to other users (mode 0644)"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let elsewhere = place.path.join("elsewhere");
    fs::rename(&path, &elsewhere).unwrap();
    symlink(&elsewhere, &path).unwrap();
    assert_eq!(unfit(&cache, &name), "it is a link");
    fs::remove_file(&path).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
        .unwrap();
    assert_eq!(unfit(&cache, &name), "it is not a regular file");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_eq!(unfit(&cache, &name), "it is not a regular file");
}

#[test]
fn a_key_that_is_open_to_others_is_refused_and_a_damaged_one_made_anew() {
    let place = place();
    place.open(MAX_BYTES);
    let key = place.path.join(KEY);
    let refused = || {
        let folder = place.state.folder("compiled").unwrap();
        format!("{:#}", Cache::open(folder, &place.engine).unwrap_err())
    };
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(refused().contains("open to other users"), "{}", refused());
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    for damaged in [&b""[..], b"short", &[7; SEAL + 1]] {
        let before = place.open(MAX_BYTES);
        let name = keep(&before, b"component", b"native");
        fs::write(&key, damaged).unwrap();
        let after = place.open(MAX_BYTES);
        assert_eq!(fs::read(&key).unwrap(), after.key);
        assert_ne!(after.key, before.key);
        assert_eq!(unfit(&after, &name), "it is not as this host wrote it");
    }
    let files = place.files();
    assert!(files.iter().all(|file| !file.ends_with(UNFINISHED)), "{files:?}");
}

#[test]
fn the_least_recently_used_go_first() {
    let place = place();
    let cache = place.open(3 * 132);
    let names: Vec<String> = (0..3_u8)
        .map(|number| {
            let name = keep(&cache, &[number], &[number; 100]);
            set_age(&place.path.join(&name), USED_WITHIN * u32::from(10 - number));
            name
        })
        .collect();
    // The oldest was used just now.
    assert!(entry(&cache, &names[0]).is_some());
    let newest = keep(&cache, b"newest", &[9; 100]);
    assert_eq!(entry(&cache, &names[1]), None);
    for name in [&names[0], &names[2], &newest] {
        assert!(entry(&cache, name).is_some());
    }
}

#[test]
fn a_host_removes_what_other_engines_and_crashes_left_and_nothing_else() {
    let place = place();
    let cache = place.open(MAX_BYTES);
    let ours = keep(&cache, b"component", b"native");
    let (_, digest) = ours.split_once('-').unwrap();
    let (old, recent) =
        (format!("{}-{digest}", "0".repeat(16)), format!("{}-{digest}", "1".repeat(16)));
    let (crashed, written) = (format!("{}.tmp", "0".repeat(16)), format!("{}.tmp", "1".repeat(16)));
    for (name, age) in [
        (&*ours, ROLLBACK * 2),
        (&old, ROLLBACK * 2),
        (&recent, ROLLBACK / 2),
        (&crashed, ABANDONED * 2),
        (&written, ABANDONED / 2),
        ("notes.txt", ROLLBACK * 2),
        ("foreign.cwasm", ROLLBACK * 2),
    ] {
        fs::OpenOptions::new().create(true).append(true).open(place.path.join(name)).unwrap();
        set_age(&place.path.join(name), age);
    }
    let cache = place.open(MAX_BYTES);
    assert!(entry(&cache, &ours).is_some());
    let mut left = vec![ours, recent, written, "notes.txt".to_owned(), "foreign.cwasm".to_owned()];
    left.sort();
    assert_eq!(place.files(), left);
}

#[test]
fn a_folder_that_takes_nothing_costs_no_more_than_the_entry() {
    let place = place();
    let cache = place.open(MAX_BYTES);
    let kept = keep(&cache, b"kept", b"native");
    fs::remove_dir_all(&place.path).unwrap();
    for component in [b"one", b"two"] {
        let name = keep(&cache, component, b"native");
        assert_eq!(entry(&cache, &name), None);
    }
    assert!(cache.book.lock().unwrap().full);
    assert_eq!(entry(&cache, &kept), None);
}
