//! What a call costs inside of the host: a fresh instance, the call, its
//! result. No broker, no dispatcher; one thread unless it says otherwise.
//!
//!     tests/run.sh --quick          builds the guests
//!     cargo bench --bench calls
//!
//! Ends with the medians beside the bars that the project has set itself.

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

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group};
use rpchost::message::{Arguments, Delivery};
use rpchost::plugins::{Invocation, Plugin};
use tokio::runtime::{Builder, Runtime};

use common::served::{limits, plugins};
use common::{delivery, median, results, row};

/// Of a body that is an ordinary request, and of one that is a document.
const SMALL: usize = 1024;
const LARGE: usize = 64 * 1024;

/// A method, and what to call it with again and again.
struct Bench {
    plugin: Arc<Plugin>,
    method: String,
    arguments: Arguments,
    delivery: Delivery,
}

impl Bench {
    fn of(method: &str, body: impl Into<Bytes>) -> Self {
        let (name, _) = method.split_once('.').unwrap_or((method, ""));
        let plugins = plugins(name);
        let (plugin, method) = plugins.find(Some(method)).expect("the method");
        let body = body.into();
        let delivery = delivery(body.clone());
        Self { plugin, method, arguments: Arguments::Body(body), delivery }
    }

    async fn call(&self) -> usize {
        let deadline = Instant::now() + limits().call_timeout;
        let invocation = Invocation::of(&self.delivery, &self.method, &self.arguments, deadline);
        self.plugin.call(invocation).await.expect("a result").body.len()
    }
}

/// `echo` gives back its body, `typed.echo-bytes` a `list<u8>`.
fn one_thread(criterion: &mut Criterion) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let base64 = |bytes: usize| format!("{:?}", STANDARD.encode(vec![7; bytes]));
    for (name, bench) in [
        ("handler-1KiB", Bench::of("echo", vec![b'x'; SMALL])),
        ("handler-64KiB", Bench::of("echo", vec![b'x'; LARGE])),
        ("typed-add", Bench::of("typed.add", "[1,2]")),
        ("typed-bytes-64KiB", Bench::of("typed.echo-bytes", base64(LARGE))),
    ] {
        criterion.bench_function(name, |bencher| {
            // The runtime is entered once, as by a host, not for each call.
            bencher.iter_custom(|calls| {
                runtime.block_on(async {
                    let begun = Instant::now();
                    for _ in 0..calls {
                        bench.call().await;
                    }
                    begun.elapsed()
                })
            });
        });
    }
}

/// As many calls as asked for, by tasks that never wait for each other.
fn spread(runtime: &Runtime, bench: &Arc<Bench>, tasks: u64, calls: u64) -> Duration {
    let begun = Instant::now();
    let running: Vec<_> = (0..tasks)
        .map(|task| {
            let bench = bench.clone();
            let share = calls / tasks + u64::from(task < calls % tasks);
            runtime.spawn(async move {
                for _ in 0..share {
                    bench.call().await;
                }
            })
        })
        .collect();
    for task in running {
        runtime.block_on(task).expect("its calls");
    }
    begun.elapsed()
}

fn threads(criterion: &mut Criterion) {
    let bench = Arc::new(Bench::of("echo", vec![b'x'; SMALL]));
    let mut group = criterion.benchmark_group("threads");
    group.throughput(Throughput::Elements(1));
    for threads in [1, 2] {
        let runtime =
            Builder::new_multi_thread().worker_threads(threads).enable_all().build().unwrap();
        group.bench_function(threads.to_string(), |bencher| {
            bencher.iter_custom(|calls| spread(&runtime, &bench, threads as u64, calls));
        });
    }
    group.finish();
}

/// What was measured, beside its bar.
fn bars() {
    let ratio = |a: Option<f64>, b: Option<f64>| Some(a? / b?);
    println!();
    row("handler, 1 KiB, fresh instance", median("handler-1KiB"), "µs", "≤ 12", |x| x <= 12.0);
    row("typed add(u32, u32), JSON, fresh instance", median("typed-add"), "µs", "≤ 12", |x| {
        x <= 12.0
    });
    row(
        "64 KiB as list<u8>, against the handler's",
        ratio(median("typed-bytes-64KiB"), median("handler-64KiB")),
        "times",
        "≤ 8",
        |x| x <= 8.0,
    );
    row(
        "two threads, against one",
        ratio(median("threads/1"), median("threads/2")),
        "times",
        "≥ 1.35",
        |x| x >= 1.35,
    );
}

criterion_group! {
    name = benches;
    config = Criterion::default().output_directory(&results());
    targets = one_thread, threads
}

fn main() {
    benches();
    bars();
}
