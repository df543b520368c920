//! What came of a run, as text and as JSON.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Counts, Missing, Strange};

/// Lines of each list in the text; JSON has more.
const MOST_LINES: usize = 10;

/// Requests that are listed in JSON.
const MOST_LISTED: usize = 1000;

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Report {
    /// What the ids of this run begin with.
    pub run: String,
    /// Requests a second, as asked for.
    pub rate: u32,
    /// The numbers.
    pub counts: Counts,
    /// Confirmed by the broker, and not answered as often as expected.
    pub lost: Vec<Missing>,
    /// Not confirmed, and not answered: nobody promised anything.
    pub unconfirmed: Vec<Missing>,
    /// Examples.
    pub wrong: Vec<Strange>,
    /// Examples.
    pub unexpected: Vec<Strange>,
    /// Examples.
    pub duplicates: Vec<Strange>,
    /// The longest time from recording to answer.
    pub longest: Duration,
    /// Connections that it took.
    pub connections: u64,
    /// Copies that the Firehose has shown, if the run was traced.
    pub copies: Option<u64>,
    /// Whether the end was not waited for.
    pub was_cut_short: bool,
}

impl Report {
    /// Whether every request was answered, and nothing but right answers came.
    /// Duplicates and late answers are within the promise.
    pub fn is_good(&self) -> bool {
        self.lost.is_empty()
            && self.unconfirmed.is_empty()
            && self.counts.wrong == 0
            && self.counts.unexpected == 0
    }

    /// For people.
    pub fn lines(&self) -> Vec<String> {
        let counts = &self.counts;
        let (lost, unconfirmed) = (self.lost.len() as u64, self.unconfirmed.len() as u64);
        let mut lines = Vec::new();
        let mut line = |name: &str, count: u64, remark: String| {
            lines.push(format!("{name:<12}{count:>9}   {remark}").trim_end().to_owned());
        };
        let times = |count: u64| if count == 1 { "once" } else { "times" };
        line("sent", counts.sent, format!("{} a second", self.rate));
        line(
            "confirmed",
            counts.confirmed,
            match counts.sent_again {
                0 => String::new(),
                1 => "1 sent again, because it was not".to_owned(),
                again => format!("{again} sent again, because they were not"),
            },
        );
        line(
            "answered",
            counts.answered,
            match counts.answered {
                0 => String::new(),
                _ => format!("the slowest after {}", short(self.longest)),
            },
        );
        line("lost", lost, String::new());
        line("late", counts.late, String::new());
        line(
            "duplicates",
            counts.duplicates,
            match counts.duplicates {
                0 => String::new(),
                _ => format!("{} of them marked by the service", counts.duplicates_marked),
            },
        );
        line("wrong", counts.wrong, String::new());
        line("unexpected", counts.unexpected, String::new());
        if unconfirmed > 0 {
            line("unconfirmed", unconfirmed, "not answered; the broker promised nothing".into());
        }
        if counts.returned > 0 {
            line(
                "returned",
                counts.returned,
                format!("{} no queue took one", times(counts.returned)),
            );
        }
        if self.connections > 1 {
            line("connections", self.connections, "lost and opened again".to_owned());
        }
        if self.was_cut_short {
            lines.push("cut short: what is lost may only be on its way".to_owned());
        }
        if self.copies == Some(0) {
            lines.push("the Firehose has shown nothing, so no stages are known".to_owned());
        }
        missing(&mut lines, "lost", &self.lost);
        missing(&mut lines, "unconfirmed", &self.unconfirmed);
        strange(&mut lines, "wrong", &self.wrong, counts.wrong);
        strange(&mut lines, "unexpected", &self.unexpected, counts.unexpected);
        lines
    }

    /// For machines. Lists are cut; the numbers are whole.
    pub fn json(&self) -> Value {
        let missing = |all: &[Missing]| -> Value { all.iter().take(MOST_LISTED).map(of).collect() };
        let strange = |all: &[Strange]| -> Value {
            all.iter().map(|one| json!({ "id": one.id, "what": one.what })).collect()
        };
        let counts = &self.counts;
        json!({
            "ok": self.is_good(),
            "run": self.run,
            "rate": self.rate,
            "sent": counts.sent,
            "confirmed": counts.confirmed,
            "answered": counts.answered,
            "lost": self.lost.len(),
            "late": counts.late,
            "duplicates": counts.duplicates,
            "duplicates_marked": counts.duplicates_marked,
            "wrong": counts.wrong,
            "unexpected": counts.unexpected,
            "unconfirmed": self.unconfirmed.len(),
            "sent_again": counts.sent_again,
            "returned": counts.returned,
            "connections": self.connections,
            "longest_ms": self.longest.as_millis() as u64,
            "copies": self.copies,
            "cut_short": self.was_cut_short,
            "lost_requests": missing(&self.lost),
            "unconfirmed_requests": missing(&self.unconfirmed),
            "wrong_answers": strange(&self.wrong),
            "unexpected_messages": strange(&self.unexpected),
            "duplicate_answers": strange(&self.duplicates),
        })
    }
}

fn of(missing: &Missing) -> Value {
    json!({
        "id": missing.id,
        "age_ms": missing.age.as_millis() as u64,
        "confirmed": missing.confirmed,
        "came": missing.came,
        "missing_from": missing.queues,
        "stage": missing.stage.as_ref().map(super::Stage::name),
        "seen": missing.stage.as_ref().map(ToString::to_string),
    })
}

fn missing(lines: &mut Vec<String>, title: &str, all: &[Missing]) {
    if all.is_empty() {
        return;
    }
    lines.push(String::new());
    for one in all.iter().take(MOST_LINES) {
        let mut parts = Vec::new();
        if one.came > 0 {
            parts.push(format!("{} came", one.came));
        }
        if !one.queues.is_empty() {
            let names: Vec<String> =
                one.queues.iter().map(|queue| format!("`{}`", queue.escape_debug())).collect();
            parts.push(format!("nothing from {}", names.join(", ")));
        }
        match &one.stage {
            Some(stage) => parts.push(stage.to_string()),
            None => parts.push(format!("sent {} ago", short(one.age))),
        }
        lines.push(format!("{title}: {}: {}", one.id, parts.join("; ")));
    }
    more(lines, title, all.len() as u64, MOST_LINES.min(all.len()) as u64);
}

fn strange(lines: &mut Vec<String>, title: &str, all: &[Strange], count: u64) {
    if all.is_empty() {
        return;
    }
    lines.push(String::new());
    for one in all.iter().take(MOST_LINES) {
        let id = if one.id.is_empty() { "(no id)".to_owned() } else { safe(&one.id) };
        lines.push(format!("{title}: {id}: {}", safe(&one.what)));
    }
    more(lines, title, count, MOST_LINES.min(all.len()) as u64);
}

fn more(lines: &mut Vec<String>, title: &str, count: u64, shown: u64) {
    if count > shown {
        lines.push(format!("{title}: … and {} more", count - shown));
    }
}

/// Without anything that a terminal would act on.
fn safe(text: &str) -> String {
    crate::trace::escaped(text)
}

fn short(time: Duration) -> String {
    match time.as_millis() {
        ms @ ..1000 => format!("{ms} ms"),
        _ => format!("{:.1} s", time.as_secs_f64()),
    }
}
