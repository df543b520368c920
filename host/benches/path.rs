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

use bytes::Bytes;
use criterion::{Criterion, criterion_group};
use rpchost::config::Limits;
use rpchost::dispatch::{Broker, Dispatcher, PublishError, ReplyPolicy, Stopping, Suspicion};
use rpchost::journal::Journal;
use rpchost::message::{Arguments, Delivery, Note, Place, Reply, Settlement};
use rpchost::plugins::{Engine, Invocation, Plugins};
use rpchost::state_dir::{Claim, StateDir};
use rpchost::telemetry::Telemetry;
use tokio::runtime::Builder;

use common::{delivery, median, results, root, row};

/// Calls at once that the pool has room for.
const CALLS: usize = 64;

/// A broker that has taken over what it is given before it was asked.
struct Agreeing;

impl Broker for Agreeing {
    async fn publish(&self, reply: Reply) -> Result<(), PublishError> {
        assert_ne!(reply.body.len(), 0);
        Ok(())
    }

    async fn settle(&self, _tag: u64, settlement: Settlement) {
        assert_eq!(settlement, Settlement::Ack);
    }

    async fn set_aside(&self, _: &Delivery, _: Place, _: &Note) -> Result<(), PublishError> {
        panic!("nothing is to be set aside")
    }
}

fn limits() -> Limits {
    Limits {
        max_in_flight: CALLS,
        prefetch: 2 * CALLS as u16,
        call_timeout: Duration::from_secs(30),
        memory: 64 << 20,
        max_body: 16 << 20,
        max_headers: 128,
    }
}

fn plugins() -> Plugins {
    let plugins = Plugins::new(None);
    let file = root().join("target/guests/echo.wasm");
    plugins
        .load_file(&Engine::new(CALLS).expect("an engine"), &file, &limits())
        .unwrap_or_else(|error| panic!("{error:#}; run `tests/run.sh --quick` once"));
    plugins
}

fn dispatcher(suspicion: Suspicion) -> Dispatcher {
    let policy = ReplyPolicy::new(&[]);
    let telemetry = Telemetry::new().expect("metrics");
    Dispatcher::new(plugins(), limits(), policy, Stopping::default(), telemetry)
        .with_suspicion(suspicion)
}

/// A request as a client sends it.
fn request() -> Delivery {
    let mut delivery = delivery(Bytes::from_static(&[b'x'; 16]));
    delivery.properties.reply_to = Some(Bytes::from_static(b"replies"));
    delivery.properties.correlation_id = Some(Bytes::from_static(b"7"));
    delivery.properties.kind = Some("echo".to_owned());
    delivery
}

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
    let (plugin, method) = plugins().find(Some("echo")).expect("the method");
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
