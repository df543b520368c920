//! The lane: a process of its own that runs the requests that are suspect.
//!
//! The host starts it when there are any, starts it again when it dies, and
//! lets it go when it has had nothing to do for a while. It is this executable
//! with the host's own arguments, and it ends with the host: its standard
//! input is a pipe that nobody else holds.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::process::{Child, Command};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::amqp::Session;
use crate::config::ServedQueue;
use crate::message::Place;
use crate::telemetry::Telemetry;

/// The subcommand that makes this executable a lane.
pub const LANE_COMMAND: &str = "suspect-lane";

/// How long a lane waits for another suspect. Starting one takes a fraction of
/// a second of a core, and they rarely come alone.
pub(super) const IDLE: Duration = Duration::from_secs(30);

/// How often a host looks for suspects that others have left behind, and for
/// what is parked: a person looks less often …
const LOOK: Duration = Duration::from_secs(10);

/// … and how often at last while there is no such queue: RabbitMQ writes an error
/// into its log each time.
const LOOK_IN_VAIN: Duration = Duration::from_secs(600);

/// Waits before a lane that died is started again grow from this, which is
/// about what the broker needs to notice …
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// … to this, for one that cannot start.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A lane that lived this long was able to work.
const GOOD: Duration = Duration::from_secs(5);

/// What a lane has to say of its end beyond what it is given to end.
const GRACE: Duration = Duration::from_secs(5);

/// How a lane is started.
#[derive(Debug, Clone)]
pub struct LaneCommand {
    /// The executable `rpchost`.
    pub program: PathBuf,
    /// The host's own arguments, without the subcommand.
    pub args: Vec<OsString>,
    /// Variables beside the host's own.
    pub variables: Vec<(String, String)>,
}

impl LaneCommand {
    /// A lane of the executable that runs now, with these arguments.
    pub fn itself(args: Vec<OsString>) -> Self {
        Self { program: PathBuf::from("/proc/self/exe"), args, variables: Vec::new() }
    }

    fn spawn(&self) -> std::io::Result<Child> {
        Command::new(&self.program)
            // What a list of processes shows.
            .arg0("rpchost")
            .arg(LANE_COMMAND)
            .args(&self.args)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
    }
}

/// Keeps a lane for as long as there is work for it.
#[derive(Debug)]
pub(super) struct LaneKeeper {
    pub(super) command: LaneCommand,
    pub(super) wanted: Arc<Notify>,
    pub(super) telemetry: Telemetry,
    /// The host stops.
    pub(super) stop: CancellationToken,
    /// How long the host waits for what runs.
    pub(super) drain: Duration,
}

impl LaneKeeper {
    pub(super) async fn run(self) {
        loop {
            tokio::select! {
                () = self.wanted.notified() => {}
                () = self.stop.cancelled() => return,
            }
            self.keep().await;
        }
    }

    /// Starts lanes until one says that nothing is left.
    async fn keep(&self) {
        let mut pause = FIRST_PAUSE;
        while !self.stop.is_cancelled() {
            let begun = Instant::now();
            match self.one().await {
                Ok(status) if status.success() => return,
                Ok(status) => self.telemetry.lane_died(&status.to_string()),
                Err(error) => self.telemetry.lane_died(&error.to_string()),
            }
            if begun.elapsed() >= GOOD {
                pause = FIRST_PAUSE;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.stop.cancelled() => return,
            }
            pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
        }
    }

    /// One lane, to its end.
    async fn one(&self) -> std::io::Result<ExitStatus> {
        let mut lane = self.command.spawn()?;
        let lifeline = lane.stdin.take();
        self.telemetry.lane_started();
        tokio::select! {
            status = lane.wait() => return status,
            () = self.stop.cancelled() => {}
        }
        // It drains when this ends.
        drop(lifeline);
        match tokio::time::timeout(self.drain.saturating_add(GRACE), lane.wait()).await {
            Ok(status) => status,
            Err(_) => {
                lane.kill().await?;
                lane.wait().await
            }
        }
    }
}

/// What is known of the requests of one queue that were set aside in one place.
struct Look {
    place: Place,
    /// When to look again …
    again: Instant,
    /// … which is so long after a look.
    pause: Duration,
    /// How many wait there, as far as that is known.
    waiting: Option<u32>,
}

impl Look {
    fn first(place: Place) -> Self {
        Self { place, again: Instant::now(), pause: LOOK, waiting: None }
    }

    /// Looks, if it is time. Returns whether any were seen.
    async fn at(&mut self, session: &Session, queue: &str) -> bool {
        if self.again > Instant::now() {
            return false;
        }
        let found = session.waiting(queue, self.place).await;
        self.pause = match found {
            Ok(None) => self.pause.saturating_mul(2).min(LOOK_IN_VAIN),
            _ => LOOK,
        };
        self.again = Instant::now() + self.pause;
        self.waiting = match found {
            Ok(waiting) => Some(waiting.unwrap_or(0)),
            Err(error) => {
                debug!("cannot look at `{}`: {error}", self.place.queue(queue));
                None
            }
        };
        self.waiting.is_some_and(|waiting| waiting > 0)
    }
}

/// The same in both places.
struct Looks {
    suspect: Look,
    parked: Look,
}

impl Looks {
    fn first() -> Self {
        Self { suspect: Look::first(Place::Suspect), parked: Look::first(Place::Parked) }
    }

    fn again(&self) -> Instant {
        self.suspect.again.min(self.parked.again)
    }
}

/// Looks for suspects, and for what is parked, for as long as the session lives.
pub(super) async fn look_for_suspects(
    session: Arc<Session>,
    mut queues: watch::Receiver<Vec<Arc<ServedQueue>>>,
    wanted: Arc<Notify>,
    telemetry: Telemetry,
    stop: CancellationToken,
) {
    let looking = async {
        let mut looks: BTreeMap<String, Looks> = BTreeMap::new();
        loop {
            let now = queues.borrow_and_update().clone();
            let mut before = std::mem::take(&mut looks);
            for name in now.iter().map(|served| &served.queue.name) {
                let mut both = before.remove(name).unwrap_or_else(Looks::first);
                if both.suspect.at(&session, name).await {
                    wanted.notify_one();
                }
                both.parked.at(&session, name).await;
                looks.insert(name.clone(), both);
            }
            let add = |sum: u32, both: &Looks| Some(sum.saturating_add(both.parked.waiting?));
            if let Some(parked) = looks.values().try_fold(0, add) {
                telemetry.parked(parked);
            }
            let next = looks.values().map(Looks::again).min();
            let next = next.unwrap_or_else(|| Instant::now() + LOOK_IN_VAIN);
            // In any of the queues, and maybe for the first time.
            tokio::select! {
                () = session.has_set_aside(Place::Suspect) => {
                    wanted.notify_one();
                    looks.values_mut().for_each(|both| both.suspect.again = Instant::now());
                }
                () = session.has_set_aside(Place::Parked) => {
                    looks.values_mut().for_each(|both| both.parked.again = Instant::now());
                }
                Ok(()) = queues.changed() => {}
                () = tokio::time::sleep_until(next.into()) => {}
            }
        }
    };
    tokio::select! {
        () = looking => {}
        () = session.abandoned() => {}
        () = stop.cancelled() => {}
    }
}
