//! Counts: by the kind of the fault that came last.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use super::{Fault, PREFETCH};
use crate::support::ledger::{Entry, Ledger};

/// A request that was sent so long before a queue was deleted may still have been in it.
const IN_QUEUE: Duration = Duration::from_secs(10);

/// One fault that was.
#[derive(Debug, Clone, Copy)]
pub(super) struct Strike {
    pub(super) fault: Fault,
    pub(super) at: Instant,
    pub(super) over: Instant,
}

impl Strike {
    /// Whether it explains that this request has no answer: its queue was deleted, with it inside.
    fn took(&self, entry: &Entry) -> bool {
        self.fault == Fault::QueueDeleted
            && entry.sent < self.over
            && entry.sent + IN_QUEUE > self.at
    }
}

/// What belongs to one kind of fault.
#[derive(Debug, Clone, Copy, Default)]
struct Row {
    faults: usize,
    requests: usize,
    lost: usize,
    /// Lost with its queue.
    gone: usize,
    wrong: usize,
    again: usize,
    unmarked: usize,
    most_again: usize,
}

/// All of it so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    rows: BTreeMap<Option<Fault>, Row>,
    unexpected: usize,
}

impl Tally {
    /// Adds a ledger, during which these faults were, in their order.
    pub(super) fn add(&mut self, ledger: &Ledger, strikes: &[Strike]) {
        let last = |at: Instant| {
            let before = strikes.iter().rev().find(|strike| strike.at <= at);
            before.map(|strike| strike.fault)
        };
        for strike in strikes {
            let row = self.rows.entry(Some(strike.fault)).or_default();
            row.faults += 1;
            row.most_again += PREFETCH * strike.fault.hosts();
        }
        for entry in ledger.entries().values() {
            let row = self.rows.entry(last(entry.sent)).or_default();
            // What was never confirmed may be anywhere, and what came back is the sender's again.
            row.requests += usize::from(entry.confirmed && !entry.returned);
            if entry.is_open() {
                match strikes.iter().any(|strike| strike.took(entry)) {
                    true => row.gone += 1,
                    false => row.lost += 1,
                }
            }
            row.wrong += entry.answers.iter().filter(|answer| answer.status != "ok").count();
            row.unmarked += usize::from(entry.is_unmarked());
            // The first that it was there for: the answers of before may come after the next.
            let first = strikes.iter().find(|strike| strike.over >= entry.sent);
            let again = entry.answers.len().saturating_sub(1);
            self.rows.entry(first.map(|strike| strike.fault)).or_default().again += again;
        }
        self.unexpected += ledger.unexpected().len();
    }

    /// Requests so far.
    pub(super) fn requests(&self) -> usize {
        self.sum().requests
    }

    /// Requests without an answer that nothing explains.
    pub(super) fn lost(&self) -> usize {
        self.sum().lost
    }

    fn sum(&self) -> Row {
        self.rows.values().fold(Row::default(), |sum, row| Row {
            faults: sum.faults + row.faults,
            requests: sum.requests + row.requests,
            lost: sum.lost + row.lost,
            gone: sum.gone + row.gone,
            wrong: sum.wrong + row.wrong,
            again: sum.again + row.again,
            unmarked: sum.unmarked + row.unmarked,
            most_again: sum.most_again + row.most_again,
        })
    }

    /// # Panics
    ///
    /// When anything is not as promised.
    pub(super) fn check(&self) {
        let sum = self.sum();
        assert_eq!((sum.lost, self.unexpected), (0, 0), "lost and unexpected\n{self}");
        assert_eq!((sum.wrong, sum.unmarked), (0, 0), "wrong and unmarked\n{self}");
        assert!(sum.again <= sum.most_again, "too many duplicates\n{self}");
        for calm in [Fault::HostStopped, Fault::PluginSwapped] {
            let again = self.rows.get(&Some(calm)).map_or(0, |row| row.again);
            assert_eq!(again, 0, "duplicates though nothing died\n{self}");
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads = ["faults", "requests", "lost", "with queue", "wrong", "again", "at most"];
        write!(f, "{:<34}", "")?;
        heads.iter().try_for_each(|head| write!(f, "{head:>12}"))?;
        let all = self
            .rows
            .iter()
            .map(|(fault, row)| (fault.map_or("before the first", Fault::name), *row));
        for (name, row) in all.chain([("all", self.sum())]) {
            let Row { faults, requests, lost, gone, wrong, again, most_again, .. } = row;
            write!(f, "\n{name:<34}")?;
            let figures = [faults, requests, lost, gone, wrong, again, most_again];
            figures.iter().try_for_each(|figure| write!(f, "{figure:>12}"))?;
        }
        let unmarked = self.sum().unmarked;
        write!(
            f,
            "\nunexpected answers: {}; duplicates without a mark: {unmarked}",
            self.unexpected
        )
    }
}
