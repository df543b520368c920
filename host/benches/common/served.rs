//! A host without a broker: a dispatcher, its plugins, and one who agrees to everything.

use std::time::Duration;

use bytes::Bytes;
use rpchost::config::Limits;
use rpchost::dispatch::{Broker, Dispatcher, PublishError, ReplyPolicy, Stopping, Suspicion};
use rpchost::message::{Delivery, Note, Place, Reply, Settlement};
use rpchost::plugins::{Engine, Plugins};
use rpchost::telemetry::Telemetry;

use super::{delivery, root};

/// Calls at once that the pool has room for.
pub(crate) const CALLS: usize = 64;

/// A broker that has taken over what it is given before it was asked.
pub(crate) struct Agreeing;

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

/// Far beyond what any call here takes.
pub(crate) fn limits() -> Limits {
    Limits {
        max_in_flight: CALLS,
        prefetch: 2 * CALLS as u16,
        call_timeout: Duration::from_secs(30),
        memory: 64 << 20,
        max_body: 16 << 20,
        max_headers: 128,
    }
}

/// With one of the guests.
pub(crate) fn plugins(guest: &str) -> Plugins {
    let plugins = Plugins::new(None);
    let file = root().join(format!("target/guests/{guest}.wasm"));
    plugins
        .load_file(&Engine::new(CALLS).expect("an engine"), &file, &limits())
        .unwrap_or_else(|error| panic!("{error:#}; run `tests/run.sh --quick` once"));
    plugins
}

/// With `echo`.
pub(crate) fn dispatcher(suspicion: Suspicion) -> Dispatcher {
    let policy = ReplyPolicy::new(&[]);
    let telemetry = Telemetry::new().expect("metrics");
    Dispatcher::new(plugins("echo"), limits(), policy, Stopping::default(), telemetry)
        .with_suspicion(suspicion)
}

/// A request as a client sends it.
pub(crate) fn request() -> Delivery {
    let mut delivery = delivery(Bytes::from_static(&[b'x'; 16]));
    delivery.properties.reply_to = Some(Bytes::from_static(b"replies"));
    delivery.properties.correlation_id = Some(Bytes::from_static(b"7"));
    delivery.properties.kind = Some("echo".to_owned());
    delivery
}
