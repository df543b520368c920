//! What the benchmarks have in common.

#![allow(dead_code, reason = "no benchmark uses all of it")]

pub(crate) mod dialects;
pub(crate) mod served;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use rpchost::message::{Delivery, Original, Properties, Revoked};
use tokio_util::sync::CancellationToken;

/// Where what was measured is written.
pub(crate) fn results() -> PathBuf {
    root().join("target/criterion")
}

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a parent")
}

/// A message with this body, and nothing else worth a word.
pub(crate) fn delivery(body: Bytes) -> Delivery {
    Delivery {
        tag: 1,
        queue: "rpc_queue".into(),
        terms: Arc::default(),
        exchange: String::new(),
        routing_key: "rpc_queue".to_owned(),
        redelivered: false,
        received_at: Instant::now(),
        received_wall: SystemTime::now(),
        properties: Properties::default(),
        body,
        revoked: Revoked::default(),
        leaving: CancellationToken::new(),
        original: Original::default(),
        set_aside: None,
    }
}

/// The median of a benchmark that has run, in microseconds.
pub(crate) fn median(name: &str) -> Option<f64> {
    let file = results().join(name).join("new/estimates.json");
    let estimates: serde_json::Value = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    Some(estimates.pointer("/median/point_estimate")?.as_f64()? / 1000.0)
}

/// What was measured, beside its bar.
pub(crate) fn row(what: &str, measured: Option<f64>, unit: &str, bar: &str, held: fn(f64) -> bool) {
    let Some(measured) = measured else { return };
    let verdict = if held(measured) { "held" } else { "MISSED" };
    println!("{what:<52} {measured:>6.2} {unit:<5} {bar:<10} {verdict}");
}
