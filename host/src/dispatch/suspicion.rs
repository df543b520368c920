//! Whether a request has killed a host, or may have.
//!
//! Known from three sources: what the journals of dead hosts say was running,
//! the broker's count of deliveries that nobody has settled, and what hosts
//! have written on a request when they set it aside. Decides and notes; what is
//! done about it stands in `answer`.

use std::cmp::Ordering::{Equal, Greater, Less};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::journal::{Journal, Running};
use crate::message::{Delivery, Identity};

/// How often processes may die of a request. The first time many are suspect,
/// the second it is this one alone, and the third says that it was no accident.
pub(super) const MOST_CRASHES: u32 = 3;

/// After this many deliveries that came to nothing, a request is suspect
/// without a journal. After one it is not: each lost connection costs one.
const UNSETTLED: u32 = 2;

/// How much longer a dying host may hold its journal than its connections: the
/// kernel closes what was opened last first. What is delivered again waits for this.
const AFTERMATH: Duration = Duration::from_millis(250);

/// How many hosts that died with this request running are known, as of some moment
/// after `since`.
async fn look(journal: &Arc<Journal>, identity: Identity, since: Instant) -> u32 {
    let journal = journal.clone();
    let looking = tokio::task::spawn_blocking(move || journal.crashes(&identity, since));
    // Fails only when the runtime ends.
    looking.await.unwrap_or(0)
}

/// How a dispatcher comes to suspect a request.
#[derive(Debug, Default)]
pub enum Suspicion {
    /// Not at all: there is nowhere to run it but here.
    #[default]
    Off,
    /// By the broker's count alone.
    Count,
    /// By that, and by the journals of the dead.
    Journal(Arc<Journal>),
    /// All of them are: they run one at a time, where they can kill nothing else.
    Lane(Lane),
}

/// What a lane remembers.
#[derive(Debug, Default)]
pub struct Lane {
    /// The last one that was begun, settled or not: what settles it may be lost. If
    /// it comes again while this process lives, it was a connection that died.
    begun: Mutex<Option<Identity>>,
}

/// What is to be done with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Run it.
    Clear,
    /// So many have died of it, or may have: it has to run elsewhere, alone.
    Suspect(u32),
    /// So many have died of it while it ran alone: it does not run again.
    Guilty(u32),
    /// One more has died while it was answered so: not even that is tried again.
    Unanswerable(u32),
}

impl Suspicion {
    pub(super) async fn judge(&self, delivery: &Delivery) -> Verdict {
        let journal = match self {
            Self::Lane(lane) => return lane.judge(delivery),
            Self::Off => return Verdict::Clear,
            Self::Count => None,
            Self::Journal(journal) => Some(journal),
        };
        // The broker says that it was never delivered before.
        if !delivery.redelivered {
            return Verdict::Clear;
        }
        let seen = match journal {
            None => 0,
            Some(journal) => {
                let (identity, since) = (Identity::of(delivery), delivery.received_at);
                match look(journal, identity, since).await {
                    0 => {
                        tokio::time::sleep(AFTERMATH).await;
                        look(journal, identity, since + AFTERMATH).await
                    }
                    seen => seen,
                }
            }
        };
        let unsettled = delivery.attempt().saturating_sub(1);
        match seen {
            0 if unsettled < UNSETTLED => Verdict::Clear,
            // Most of what the broker counts are lost connections, and a client can
            // write any number there: it says that something is wrong, not how often.
            0 => Verdict::Suspect(1),
            seen => Verdict::Suspect(seen),
        }
    }

    /// Notes that a call of this request runs.
    pub(super) fn begin(&self, delivery: &Delivery) -> Option<Running> {
        match self {
            Self::Journal(journal) => Some(journal.begin(&Identity::of(delivery))),
            Self::Off | Self::Count | Self::Lane(_) => None,
        }
    }

    /// Whether every request here is a suspect.
    pub(super) fn is_lane(&self) -> bool {
        matches!(self, Self::Lane(_))
    }
}

impl Lane {
    fn begun(&self) -> std::sync::MutexGuard<'_, Option<Identity>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn judge(&self, delivery: &Delivery) -> Verdict {
        let note = delivery.set_aside.as_deref();
        let (crashes, again) = note.map_or((0, false), |note| (note.crashes, note.again));
        let identity = Identity::of(delivery);
        let again = again && *self.begun() != Some(identity);
        let crashes = crashes.saturating_add(u32::from(again));
        if again {
            // To be written on it before anything else is done with it.
            return Verdict::Suspect(crashes);
        }
        *self.begun() = Some(identity);
        match crashes.cmp(&MOST_CRASHES) {
            Less => Verdict::Clear,
            Equal => Verdict::Guilty(crashes),
            Greater => Verdict::Unanswerable(crashes),
        }
    }
}
