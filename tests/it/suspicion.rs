//! What becomes of requests that a host suspects, without a broker and without
//! anybody dying.

use rpchost::dispatch::{Dispatcher, Lane, ReplyPolicy, Stopping, Suspicion};
use rpchost::message::{Delivery, HeaderValue, Note, Place, Reason, SetAside, Settlement};
use rpchost::plugins::{Engine, Plugins};
use rpchost::telemetry::Telemetry;

use crate::core::{limits, status};
use crate::support::fake_broker::{Done, FakeBroker, delivery};
use crate::support::guests;

/// A dispatcher that suspects, over `hello`.
fn suspicious(suspicion: Suspicion) -> Dispatcher {
    let directory = tempfile::tempdir().unwrap();
    let served = Plugins::new(None);
    let path = directory.path().join("hello.wasm");
    std::fs::write(&path, &guests::guest("hello").wasm).unwrap();
    served.load_file(&Engine::new(8).unwrap(), &path, &limits()).unwrap();
    let policy = ReplyPolicy::new(&[]);
    let (stopping, telemetry) = (Stopping::default(), Telemetry::new().unwrap());
    let dispatcher = Dispatcher::new(served, limits(), policy, stopping, telemetry);
    dispatcher.with_suspicion(suspicion)
}

/// What a lane does with a request of which so many have died, and which the
/// broker has delivered before, or not.
async fn in_lane(dispatcher: &Dispatcher, crashes: u32, again: bool) -> Vec<Done> {
    let set_aside = Some(Box::new(SetAside { crashes, again, ..SetAside::default() }));
    let delivery = Delivery { set_aside, redelivered: true, ..delivery(None, "x") };
    let broker = FakeBroker::new();
    dispatcher.answer(&delivery, &broker).await;
    broker.done()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_counts_deaths_before_it_does_anything_else() {
    let lane = || suspicious(Suspicion::Lane(Lane::default()));
    let counted = |done: &[Done], expected: u32| match done {
        [Done::SetAside(Place::Suspect, note), Done::Settled(7, Settlement::Ack)] => {
            assert_eq!((note.reason, note.crashes), (Reason::Crash, expected));
        }
        other => panic!("{other:?}"),
    };
    let statuses = |done: &[Done]| -> Vec<String> {
        let replies = done.iter().filter_map(|done| match done {
            Done::Published(reply) => Some(status(reply)),
            _ => None,
        });
        replies.collect()
    };
    for crashes in [1, 2] {
        assert_eq!(statuses(&in_lane(&lane(), crashes, false).await), ["ok"]);
        counted(&in_lane(&lane(), crashes, true).await, crashes + 1);
    }
    // What comes back to the same process was lost with a connection, maybe after
    // it had its answer.
    let same = lane();
    assert_eq!(statuses(&in_lane(&same, 2, false).await), ["ok"]);
    assert_eq!(statuses(&in_lane(&same, 2, true).await), ["ok"]);
    let done = in_lane(&lane(), 3, false).await;
    let parked = |done: &Done| match done {
        Done::SetAside(Place::Parked, Note { reason: Reason::Quarantined, crashes, .. }) => {
            Some(*crashes)
        }
        _ => None,
    };
    assert_eq!(parked(&done[0]), Some(3), "first it is kept, then answered: {done:?}");
    assert_eq!(statuses(&done), ["quarantined"]);
    // It has died of answering, too.
    counted(&in_lane(&lane(), 3, true).await, 4);
    let done = in_lane(&lane(), 4, false).await;
    assert_eq!(parked(&done[0]), Some(4));
    assert_eq!((statuses(&done), done.len()), (Vec::new(), 2), "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_brokers_count_makes_a_suspect_of_what_keeps_coming_back() {
    let host = suspicious(Suspicion::Count);
    for (count, suspect) in [(0, false), (1, false), (2, true), (1000, true)] {
        let mut delivery = Delivery { redelivered: true, ..delivery(None, "x") };
        let header = ("x-delivery-count".to_owned(), HeaderValue::Int(count));
        delivery.properties.headers.push(header);
        let broker = FakeBroker::new();
        host.answer(&delivery, &broker).await;
        let done = broker.done();
        let set_aside = matches!(
            &done[0],
            // Anybody can write a number there, and lost connections count, too.
            Done::SetAside(Place::Suspect, note) if note.crashes == 1
        );
        assert_eq!(set_aside, suspect, "{count}: {done:?}");
        assert_eq!(done.len(), 2);
    }
}
