//! What a dialect costs: a request of 1 KiB read, and its reply of 1 KiB written.
//! No broker, no plugin; one thread.
//!
//!     cargo bench --bench wire
//!
//! Ends with the medians beside the bar that the project has set itself.

#![allow(missing_docs, reason = "`criterion_group!` makes a function without")]
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark that cannot go on has failed, and says so"
)]

mod common;

use criterion::{Criterion, criterion_group};

use common::dialects::{answer, requests, result};
use common::{median, results, row};

fn dialects(criterion: &mut Criterion) {
    let result = result();
    for (name, dialect, delivery) in requests() {
        criterion.bench_function(&format!("wire/{name}"), |bencher| {
            bencher.iter(|| answer(&delivery, dialect, &result));
        });
    }
}

fn bars() {
    println!();
    for (name, ..) in requests() {
        let what = format!("{name}, 1 KiB read and 1 KiB written");
        row(&what, median(&format!("wire/{name}")), "µs", "≤ 10", |x| x <= 10.0);
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().output_directory(&results());
    targets = dialects
}

fn main() {
    benches();
    bars();
}
