//! Takes fixed paths of a request a given number of times, for a tool that counts instructions:
//! `instructions PATH TIMES`. `tests/bench/instructions.py` runs it.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program that cannot go on has failed, and says so"
)]

#[path = "../../host/benches/common/mod.rs"]
mod common;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use rpchost::dispatch::Suspicion;
use rpchost::message::Arguments;
use rpchost::plugins::Invocation;
use tokio::runtime::{Builder, Runtime};

use common::dialects::{answer, requests, result};
use common::served::{Agreeing, dispatcher, plugins, request};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [path, times] = args.as_slice() else { return usage() };
    let Ok(times) = times.parse() else { return usage() };
    match path.as_str() {
        "route" => route(times),
        "call" => call(times),
        "path" => whole(times),
        dialect => {
            let Some((_, dialect, delivery)) =
                requests().into_iter().find(|(name, ..)| *name == dialect)
            else {
                return usage();
            };
            let result = result();
            for _ in 0..times {
                assert_ne!(answer(&delivery, dialect, &result), 0);
            }
        }
    }
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    eprintln!("usage: instructions route|call|path|DIALECT TIMES");
    ExitCode::from(2)
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// The table alone.
fn route(times: usize) {
    let plugins = plugins("echo");
    for _ in 0..times {
        assert!(plugins.find(Some("echo")).is_ok());
    }
}

/// A fresh instance, the guest, its result.
fn call(times: usize) {
    let (plugin, method) = plugins("echo").find(Some("echo")).expect("the method");
    let delivery = request();
    let arguments = Arguments::Body(delivery.body.clone());
    runtime().block_on(async {
        for _ in 0..times {
            let deadline = Instant::now() + Duration::from_secs(600);
            let invocation = Invocation::of(&delivery, &method, &arguments, deadline);
            plugin.call(invocation).await.expect("a result");
        }
    });
}

/// From delivery to settlement.
fn whole(times: usize) {
    let dispatcher = dispatcher(Suspicion::Off);
    runtime().block_on(async {
        for _ in 0..times {
            dispatcher.answer(&request(), &Agreeing).await;
        }
    });
}
