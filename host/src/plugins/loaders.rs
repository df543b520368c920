//! The threads that load: each takes a file, reads it, and makes a plugin of
//! it or a reason why not.
//!
//! There are a few, so that a file that takes its compiler a minute keeps no
//! other file waiting. They know nothing of what is served.

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};

use super::compile::{Passing, be_nice};
use super::condemned::Condemned;
use super::refused::{Cause, Refused};
use super::scan::{self, Signature};
use super::{Engine, Plugin, SelfTests};
use crate::config::Limits;
use crate::message::PluginId;

/// Files that are loaded at once, and so helpers that compile at once: two
/// times their memory is what hostile files can take.
const LOADERS: usize = 2;

/// What is served of a file: its digest, and the texts of its configuration and
/// its WIT.
pub(super) type Version = (String, Option<String>, Option<String>);

/// A file to load.
#[derive(Debug)]
pub(super) struct Job {
    /// Tells this attempt from others.
    pub(super) ticket: u64,
    /// The file's stem.
    pub(super) name: String,
    /// Versions that need not be loaded again.
    pub(super) known: [Option<Version>; 2],
    /// Versions that must not be.
    pub(super) condemned: Condemned,
    /// How others are tested, if they are.
    pub(super) tests: Option<Arc<SelfTests>>,
}

/// What came of a [`Job`].
#[derive(Debug)]
pub(super) struct Done {
    /// The job's.
    pub(super) ticket: u64,
    /// The job's.
    pub(super) name: String,
    /// What was found.
    pub(super) outcome: Outcome,
}

#[derive(Debug)]
pub(super) enum Outcome {
    /// It is being written.
    Changing,
    /// It could not be read, for a reason of its own.
    Unreadable(String),
    /// It could not be read, for the system's reasons, which may pass.
    OutOfReach(String),
    /// It was read.
    Read(Box<Read>),
}

/// A file that was read.
#[derive(Debug)]
pub(super) struct Read {
    /// What it and its configuration looked like then.
    pub(super) signature: Signature,
    /// What they hold.
    pub(super) version: Version,
    /// What became of it; `None` for a version that is known.
    pub(super) tried: Option<Tried>,
}

/// A version that was loaded, or could not be.
#[derive(Debug)]
pub(super) struct Tried {
    pub(super) id: PluginId,
    pub(super) took: Duration,
    pub(super) plugin: Result<Plugin, Refusal>,
}

/// Why a version cannot be served.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) refused: Refused,
    /// Whether another attempt may end better.
    pub(super) passing: bool,
}

impl Refusal {
    pub(super) fn new(cause: Cause, error: &anyhow::Error) -> Self {
        let refused = Refused { cause, reason: format!("{error:#}") };
        Self { refused, passing: error.is::<Passing>() }
    }
}

/// The threads, and what they have done.
#[derive(Debug)]
pub(super) struct Loaders {
    jobs: Sender<Job>,
    done: Receiver<Done>,
}

impl Loaders {
    /// Starts the threads; they end with the value.
    ///
    /// # Errors
    ///
    /// When the system gives no thread.
    pub(super) fn start(
        directory: PathBuf,
        engine: Engine,
        limits: Limits,
    ) -> anyhow::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (say, done) = mpsc::channel();
        let queue = Arc::new(Mutex::new(queue));
        let source = Arc::new(Source { directory, engine, limits });
        for index in 0..LOADERS {
            let (queue, source, say) = (queue.clone(), source.clone(), say.clone());
            std::thread::Builder::new()
                .name(format!("load-{index}"))
                .spawn(move || {
                    be_nice();
                    // The queue is held while waiting, and no longer.
                    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    while let Ok(job) = next() {
                        let outcome = source.load(&job);
                        let Job { ticket, name, .. } = job;
                        if say.send(Done { ticket, name, outcome }).is_err() {
                            return;
                        }
                    }
                })
                .context("failed to start a thread that loads plugins")?;
        }
        Ok(Self { jobs, done })
    }

    /// Has a file loaded. The caller sees to it that there is one job for a
    /// file at a time, which bounds their number.
    ///
    /// # Errors
    ///
    /// When there is no thread any more.
    pub(super) fn load(&self, job: Job) -> anyhow::Result<()> {
        self.jobs.send(job).map_err(|_| anyhow!("the threads that load plugins are gone"))
    }

    /// The next that is done, waiting for it until `end` at most.
    pub(super) fn next(&self, end: Instant) -> Option<Done> {
        // The threads end after this value, so an error is the time.
        self.done.recv_timeout(end.saturating_duration_since(Instant::now())).ok()
    }
}

/// Where files come from, and what is made of them.
#[derive(Debug)]
struct Source {
    directory: PathBuf,
    engine: Engine,
    limits: Limits,
}

impl Source {
    fn load(&self, job: &Job) -> Outcome {
        // Nothing in a file may end the reloading.
        let loading = AssertUnwindSafe(|| self.try_load(job));
        std::panic::catch_unwind(loading).unwrap_or_else(|_| {
            Outcome::Unreadable("the host failed while it loaded the file".to_owned())
        })
    }

    fn try_load(&self, Job { name, known, condemned, tests, .. }: &Job) -> Outcome {
        let contents = match scan::read(&self.directory, name) {
            Ok(Some(contents)) => contents,
            Ok(None) => return Outcome::Changing,
            Err(error) if error.chain().any(|cause| cause.is::<std::io::Error>()) => {
                return Outcome::OutOfReach(format!("{error:#}"));
            }
            Err(error) => return Outcome::Unreadable(format!("{error:#}")),
        };
        let signature = contents.signature.clone();
        let version = (contents.digest.clone(), contents.config.clone(), contents.wit.clone());
        let is_known = known.iter().flatten().any(|known| *known == version);
        if is_known || condemned.reason(&version).is_some() {
            return Outcome::Read(Box::new(Read { signature, version, tried: None }));
        }
        let begun = Instant::now();
        let plugin = contents.load_and_test(&self.engine, name, &self.limits, tests.as_deref());
        let tried = Tried { id: contents.id(name), took: begun.elapsed(), plugin };
        Outcome::Read(Box::new(Read { signature, version, tried: Some(tried) }))
    }
}
