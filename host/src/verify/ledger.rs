//! The ledger: every request that was sent, until it is answered as often as
//! it should be.
//!
//! Pure: told what happened and when, it knows what is missing. What is
//! complete is forgotten but for its number, so that a run of any length takes
//! the same memory; a number below the next one that is not in the ledger was
//! complete, which is how a second answer is told from one that nobody asked
//! for.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::stage::{Marks, Stage};

/// Requests that may be open at once. Each takes some hundred bytes; that many
/// unanswered ones are a failure of their own, and more would not tell more.
pub(super) const MOST_OPEN: usize = 10_000;

/// Examples of each kind that are kept.
const EXAMPLES: usize = 20;

/// Bytes of a wrong answer that are kept.
const LONGEST_EXAMPLE: usize = 200;

/// What one message has to bring.
#[derive(Debug, Clone)]
pub enum Expected {
    /// This many replies.
    Answers(u32),
    /// One delivery from each of these queues; 64 at most.
    Queues(Vec<String>),
}

impl Expected {
    fn count(&self) -> u32 {
        match self {
            Self::Answers(count) => *count,
            Self::Queues(queues) => u32::try_from(queues.len()).unwrap_or(u32::MAX),
        }
    }
}

/// What has come, about one request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answered<'a> {
    /// The id it names.
    pub(super) id: &'a str,
    /// The queue, by its number in [`Expected::Queues`]; of replies none.
    pub(super) queue: Option<u32>,
    /// What is wrong with it, if anything is.
    pub(super) wrong: Option<&'a str>,
    /// Whether the service says that the request was delivered before.
    pub(super) marked: bool,
    /// Whether the broker says that we may have seen this before.
    pub(super) redelivered: bool,
}

/// Counters of a run. See the README for what each means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests recorded, and sent at least once.
    pub sent: u64,
    /// Requests that the broker has confirmed.
    pub confirmed: u64,
    /// Requests that were answered as often as expected.
    pub answered: u64,
    /// … of which this many had been overdue.
    pub late: u64,
    /// Answers beyond those expected.
    pub duplicates: u64,
    /// … that the service has marked as such.
    pub duplicates_marked: u64,
    /// Answers that are errors, or not what was expected.
    pub wrong: u64,
    /// Messages that belong to no request of this run.
    pub unexpected: u64,
    /// Times that a request was sent again, because it was not confirmed.
    pub sent_again: u64,
    /// Times that no queue took a request.
    pub returned: u64,
}

/// One request that is missing something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Its id.
    pub id: String,
    /// Since when, counted from its recording.
    pub age: Duration,
    /// Whether the broker has confirmed it.
    pub confirmed: bool,
    /// Answers, or queues, that have come.
    pub came: u32,
    /// Queues that it did not come from.
    pub queues: Vec<String>,
    /// Where it was seen last, if the run was traced.
    pub stage: Option<Stage>,
}

/// An answer that should not be, or not be so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Strange {
    /// The id it names.
    pub id: String,
    /// What it is.
    pub what: String,
}

#[derive(Debug)]
struct Entry {
    recorded: Instant,
    attempts: u32,
    confirmed: bool,
    /// To be sent again, because no queue took it.
    refused: bool,
    came: u32,
    queues: u64,
    overdue: bool,
    marks: Marks,
}

/// The ledger of one run.
#[derive(Debug)]
pub(super) struct Ledger {
    run: String,
    expected: Expected,
    next: u64,
    open: BTreeMap<u64, Entry>,
    counts: Counts,
    longest: Duration,
    /// Whether copies are missing of what is sent now.
    gap: bool,
    pub(super) wrong: Vec<Strange>,
    pub(super) unexpected: Vec<Strange>,
    pub(super) duplicates: Vec<Strange>,
}

impl Ledger {
    /// `run` is what all ids of the run begin with; nobody else's do.
    pub(super) fn new(run: String, expected: Expected) -> Self {
        Self {
            run,
            expected,
            next: 1,
            open: BTreeMap::new(),
            counts: Counts::default(),
            longest: Duration::ZERO,
            gap: false,
            wrong: Vec::new(),
            unexpected: Vec::new(),
            duplicates: Vec::new(),
        }
    }

    /// Writes the next request down, before it is sent: its number and id.
    /// `None` while too many are open.
    pub(super) fn record(&mut self, now: Instant) -> Option<(u64, String)> {
        if self.open.len() >= MOST_OPEN {
            return None;
        }
        let number = self.next;
        self.next += 1;
        self.counts.sent += 1;
        let entry = Entry {
            recorded: now,
            attempts: 0,
            confirmed: false,
            refused: false,
            came: 0,
            queues: 0,
            overdue: false,
            marks: Marks { gap: self.gap, ..Marks::default() },
        };
        self.open.insert(number, entry);
        Some((number, self.id(number)))
    }

    fn id(&self, number: u64) -> String {
        format!("{}-{number}", self.run)
    }

    /// The number of an id of this run that was given out.
    pub(super) fn number(&self, id: &str) -> Option<u64> {
        let text = id.strip_prefix(self.run.as_str())?.strip_prefix('-')?;
        let number: u64 = text.parse().ok()?;
        // `+7` and `007` are numbers, too, and not ours.
        (number > 0 && number < self.next && number.to_string() == text).then_some(number)
    }

    fn entry(&mut self, id: &str) -> Option<&mut Entry> {
        self.open.get_mut(&self.number(id)?)
    }

    pub(super) fn sending(&mut self, id: &str) {
        let again = self.entry(id).is_some_and(|entry| {
            entry.attempts += 1;
            entry.attempts > 1
        });
        self.counts.sent_again += u64::from(again);
    }

    /// A request that was answered before is complete, and its confirm counts
    /// all the same.
    pub(super) fn confirmed(&mut self, id: &str) {
        if self.number(id).is_none() {
            return;
        }
        match self.entry(id) {
            // What was returned is confirmed, too, and is in no queue.
            Some(entry) if entry.confirmed || entry.refused => {}
            Some(entry) => {
                entry.confirmed = true;
                self.counts.confirmed += 1;
            }
            // Counted when it was complete.
            None => {}
        }
    }

    /// No queue took it. It is to be sent again. May be told more than once.
    pub(super) fn returned(&mut self, id: &str) {
        if let Some(entry) = self.entry(id) {
            let was_confirmed = std::mem::take(&mut entry.confirmed);
            let is_news = !std::mem::replace(&mut entry.refused, true);
            self.counts.returned += u64::from(is_news);
            self.counts.confirmed -= u64::from(was_confirmed);
        }
    }

    /// Requests that are to be sent again; each is given once.
    pub(super) fn refused(&mut self) -> Vec<(u64, String)> {
        let mut numbers = Vec::new();
        for (number, entry) in &mut self.open {
            if std::mem::take(&mut entry.refused) {
                numbers.push(*number);
            }
        }
        numbers.into_iter().map(|number| (number, self.id(number))).collect()
    }

    /// Ticks an answer off.
    pub(super) fn answered(&mut self, answer: Answered<'_>, now: Instant) {
        let Answered { id, queue, wrong, marked, redelivered } = answer;
        let Some(number) = self.number(id) else {
            self.counts.unexpected += 1;
            keep(&mut self.unexpected, id, wrong.unwrap_or("a message of no request of this run"));
            return;
        };
        let bit = queue.map_or(0, |queue| 1u64.checked_shl(queue).unwrap_or_default());
        let entry = self.open.get_mut(&number).filter(|entry| entry.queues & bit == 0);
        let Some(entry) = entry else {
            // What we had not acked when our connection was lost comes again,
            // and is nobody's second answer.
            if !redelivered {
                self.counts.duplicates += 1;
                self.counts.duplicates_marked += u64::from(marked);
                keep(&mut self.duplicates, id, if marked { "marked" } else { "not marked" });
            }
            return;
        };
        entry.queues |= bit;
        entry.came += 1;
        let is_complete = entry.came >= self.expected.count();
        self.longest = self.longest.max(now.saturating_duration_since(entry.recorded));
        if let Some(wrong) = wrong {
            self.counts.wrong += 1;
            keep(&mut self.wrong, id, wrong);
        }
        if is_complete && let Some(entry) = self.open.remove(&number) {
            self.counts.answered += 1;
            self.counts.late += u64::from(entry.overdue);
            // Its confirm is on the way: nothing is answered that the broker
            // does not have.
            self.counts.confirmed += u64::from(!entry.confirmed);
        }
    }

    /// What the Firehose has seen of a request.
    pub(super) fn mark(&mut self, id: &str, mark: impl FnOnce(&mut Marks)) {
        if let Some(entry) = self.entry(id) {
            mark(&mut entry.marks);
        }
    }

    /// Copies are missing: of all that is open, nothing can be excluded; nor,
    /// while it `lasts`, of what is sent now.
    pub(super) fn gap(&mut self, lasts: bool) {
        self.gap = lasts;
        self.open.values_mut().for_each(|entry| entry.marks.gap = true);
    }

    /// Those that have become overdue since the last look: the first id and
    /// their number.
    pub(super) fn overdue(&mut self, now: Instant, after: Duration) -> Option<(String, usize)> {
        let mut found = Vec::new();
        for (number, entry) in &mut self.open {
            if now.saturating_duration_since(entry.recorded) < after {
                break;
            }
            if !std::mem::replace(&mut entry.overdue, true) {
                found.push(*number);
            }
        }
        found.first().map(|number| (self.id(*number), found.len()))
    }

    /// Requests that are still to be answered.
    pub(super) fn open(&self) -> usize {
        self.open.len()
    }

    /// When the last of them was recorded.
    pub(super) fn newest(&self) -> Option<Instant> {
        self.open.last_key_value().map(|(_, entry)| entry.recorded)
    }

    /// The longest time from recording to answer.
    pub(super) fn longest(&self) -> Duration {
        self.longest
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// What is missing now. `traced` says whether stages are known.
    pub(super) fn missing(&self, now: Instant, traced: bool) -> Vec<Missing> {
        let missing = |(number, entry): (&u64, &Entry)| {
            let queues = match &self.expected {
                Expected::Answers(_) => Vec::new(),
                Expected::Queues(queues) => {
                    let is_missing = |at: usize| (entry.queues >> at) & 1 == 0;
                    let named = queues.iter().enumerate().filter(|(at, _)| is_missing(*at));
                    named.map(|(_, queue)| queue.clone()).collect()
                }
            };
            Missing {
                id: self.id(*number),
                age: now.saturating_duration_since(entry.recorded),
                confirmed: entry.confirmed,
                came: entry.came,
                stage: traced.then(|| entry.marks.stage(&self.expected, &queues)),
                queues,
            }
        };
        self.open.iter().map(missing).collect()
    }
}

fn keep(examples: &mut Vec<Strange>, id: &str, what: &str) {
    if examples.len() < EXAMPLES {
        let cut = |text: &str| text.chars().take(LONGEST_EXAMPLE).collect();
        examples.push(Strange { id: cut(id), what: cut(what) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(id: &str) -> Answered<'_> {
        Answered { id, queue: None, wrong: None, marked: false, redelivered: false }
    }

    fn ledger(expected: Expected) -> Ledger {
        Ledger::new("r".to_owned(), expected)
    }

    #[test]
    fn what_is_answered_once_is_forgotten_and_a_second_time_is_a_duplicate() {
        let (now, mut ledger) = (Instant::now(), ledger(Expected::Answers(1)));
        assert_eq!(ledger.record(now), Some((1, "r-1".to_owned())));
        assert_eq!(ledger.record(now), Some((2, "r-2".to_owned())));
        ledger.sending("r-1");
        ledger.answered(answer("r-1"), now);
        ledger.confirmed("r-1");
        ledger.answered(answer("r-1"), now);
        ledger.answered(Answered { marked: true, ..answer("r-1") }, now);
        // Ours, from before a lost connection.
        ledger.answered(Answered { redelivered: true, ..answer("r-1") }, now);
        for stranger in ["r-3", "r-0", "r-+1", "r-01", "x-1", "", "r-"] {
            ledger.answered(answer(stranger), now);
        }
        let counts = ledger.counts();
        assert_eq!((counts.sent, counts.answered, counts.confirmed), (2, 1, 1));
        assert_eq!((counts.duplicates, counts.duplicates_marked), (2, 1));
        assert_eq!(counts.unexpected, 7);
        let missing = ledger.missing(now, false);
        assert_eq!(missing.len(), 1);
        assert_eq!((missing[0].id.as_str(), missing[0].confirmed), ("r-2", false));
    }

    #[test]
    fn of_several_queues_each_counts_once_and_the_missing_one_is_named() {
        let queues = ["a", "b", "c"].map(str::to_owned).to_vec();
        let (now, mut ledger) = (Instant::now(), ledger(Expected::Queues(queues)));
        ledger.record(now);
        for queue in [0, 2, 2] {
            ledger.answered(Answered { queue: Some(queue), ..answer("r-1") }, now);
        }
        assert_eq!(ledger.counts().duplicates, 1);
        let missing = ledger.missing(now, false);
        assert_eq!((missing[0].came, missing[0].queues.as_slice()), (2, &["b".to_owned()][..]));
        ledger.answered(Answered { queue: Some(1), ..answer("r-1") }, now);
        assert_eq!((ledger.open(), ledger.counts().answered), (0, 1));
    }

    #[test]
    fn a_returned_request_is_not_confirmed_and_is_sent_again() {
        let (now, mut ledger) = (Instant::now(), ledger(Expected::Answers(1)));
        ledger.record(now);
        ledger.sending("r-1");
        ledger.confirmed("r-1");
        ledger.returned("r-1");
        assert_eq!(ledger.refused(), [(1, "r-1".to_owned())]);
        assert_eq!(ledger.refused(), []);
        ledger.sending("r-1");
        let counts = ledger.counts();
        assert_eq!((counts.confirmed, counts.returned, counts.sent_again), (0, 1, 1));
    }

    #[test]
    fn what_is_overdue_is_said_once_and_counts_as_late_when_it_comes() {
        let (begun, mut ledger) = (Instant::now(), ledger(Expected::Answers(1)));
        ledger.record(begun);
        ledger.record(begun + Duration::from_secs(5));
        let (now, after) = (begun + Duration::from_secs(10), Duration::from_secs(10));
        assert_eq!(ledger.overdue(now, after), Some(("r-1".to_owned(), 1)));
        assert_eq!(ledger.overdue(now, after), None);
        ledger.answered(answer("r-1"), now);
        assert_eq!((ledger.counts().late, ledger.longest()), (1, after));
    }

    #[test]
    fn a_full_ledger_takes_no_more() {
        let (now, mut ledger) = (Instant::now(), ledger(Expected::Answers(1)));
        for _ in 0..MOST_OPEN {
            assert!(ledger.record(now).is_some());
        }
        assert_eq!(ledger.record(now), None);
        ledger.answered(answer("r-7"), now);
        assert!(ledger.record(now).is_some());
    }
}
