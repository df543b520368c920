//! What a request costs from delivery to settlement, against a broker that agrees at once: decode,
//! route, admit, a fresh instance, the call, encode, publish, settle; with the crash journal of a
//! host and without. Beside it the call alone: the rest is the dispatcher's.
//!
//!     tests/run.sh --quick          builds the guests
//!     cargo bench --bench path

#![allow(missing_docs, reason = "`criterion_group!` makes a function without")]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark that cannot go on has failed, and says so"
)]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group};
use rpchost::dispatch::Suspicion;
use rpchost::journal::Journal;
use rpchost::message::Arguments;
use rpchost::plugins::Invocation;
use rpchost::state_dir::{Claim, StateDir};
use tokio::runtime::Builder;

use common::served::{Agreeing, CALLS, dispatcher, plugins, request};
use common::{median, results, row};

fn paths(criterion: &mut Criterion) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let state = StateDir::open(folder.path(), Claim::Alone).expect("a state directory");
    let journal = Arc::new(Journal::open(&state, CALLS).expect("a journal"));
    for (name, suspicion) in
        [("path", Suspicion::Off), ("path-journal", Suspicion::Journal(journal))]
    {
        let dispatcher = dispatcher(suspicion);
        criterion.bench_function(name, |bencher| {
            bencher.iter_custom(|calls| {
                runtime.block_on(async {
                    let begun = Instant::now();
                    for _ in 0..calls {
                        dispatcher.answer(&request(), &Agreeing).await;
                    }
                    begun.elapsed()
                })
            });
        });
    }
    let (plugin, method) = plugins("echo").find(Some("echo")).expect("the method");
    criterion.bench_function("path-call-alone", |bencher| {
        bencher.iter_custom(|calls| {
            runtime.block_on(async {
                let begun = Instant::now();
                for _ in 0..calls {
                    let delivery = request();
                    let arguments = Arguments::Body(delivery.body.clone());
                    let deadline = Instant::now() + Duration::from_secs(30);
                    let invocation = Invocation::of(&delivery, &method, &arguments, deadline);
                    plugin.call(invocation).await.expect("a result");
                }
                begun.elapsed()
            })
        });
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().output_directory(&results());
    targets = paths
}

fn main() {
    benches();
    let beyond = |path: &str| Some(median(path)? - median("path-call-alone")?);
    println!();
    row("from delivery to settlement, beside the call", beyond("path"), "µs", "≤ 4", |x| {
        x <= 4.0
    });
    row("the same with the crash journal", beyond("path-journal"), "µs", "≤ 8", |x| x <= 8.0);
}
