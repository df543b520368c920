//! Five variants of our own code in which one step is wrong, and the proof that the ledger of the
//! integration tests catches each of them. If it did not, its "0 lost" would say nothing.
//!
//! They exist in the library's own tests alone. Two are one step of `replies`, whose only trace in
//! the product is a line that is compiled for tests; three are a [`Broker`] that does with a
//! session what [`QueueConsumer`] must not. Everything else is the real thing: dispatcher, plugin,
//! sessions, RabbitMQ, and the client and the wire of `tests/it/support`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable, LongString};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::confirms::Confirmed;
use super::{Connector, QueueConsumer, Role, Session};
use crate::config::{
    BrokerConfig, BrokerUrl, Limits, QueueConfig, QueueKind, ServedQueue, Strategy, TlsConfig,
};
use crate::dispatch::{Broker, Dispatcher, PublishError, ReplyPolicy, Stopping};
use crate::message::{Delivery, Note, Place, Reply, Settlement};
use crate::plugins::{Engine, Plugins};
use crate::telemetry::Telemetry;
use cutter::Cutter;
use ledger::{Asking, Ledger, Load, Verdict};

#[allow(dead_code, unreachable_pub, reason = "shared with the integration tests")]
#[path = "../../../tests/it/support/broker.rs"]
mod broker;
#[allow(dead_code, unreachable_pub, reason = "shared with the integration tests")]
#[path = "../../../tests/it/support/cutter.rs"]
mod cutter;
#[allow(dead_code, unreachable_pub, reason = "shared with the integration tests")]
#[path = "../../../tests/it/support/guests.rs"]
mod guests;
#[allow(dead_code, unreachable_pub, reason = "shared with the integration tests")]
#[path = "../../../tests/it/support/ledger.rs"]
mod ledger;
#[allow(dead_code, unreachable_pub, reason = "shared with the integration tests")]
#[path = "../../../tests/it/support/load.rs"]
mod load;

/// Which step is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Variant {
    /// None.
    Sound,
    /// The request is acked, and then its reply is published.
    AckBeforeReply,
    /// The reply is published, and its confirm is not awaited.
    NoConfirm,
    /// A returned reply is that of whichever publish is confirmed next.
    ReturnsByArrival,
    /// A delivery outlives its session and is settled on the next, by its old number.
    SettleOnNewSession,
    /// A reply that the broker refuses counts as sent.
    SwallowedNack,
}

tokio::task_local! {
    /// What runs in this task.
    static VARIANT: Variant;
}

/// Whether a message has come back that a wrong variant has not given to anybody yet.
static ARRIVED: AtomicBool = AtomicBool::new(false);

/// How a publish ended, as the variant of this task sees it. Called by `replies`.
pub(super) fn judge(said: lapin::Result<Confirmed>) -> lapin::Result<Confirmed> {
    let Ok(Confirmed { taken, returned }) = said else { return said };
    match VARIANT.try_with(|variant| *variant) {
        Ok(Variant::ReturnsByArrival) => {
            let returned = ARRIVED.swap(returned, Ordering::Relaxed);
            Ok(Confirmed { taken, returned })
        }
        Ok(Variant::SwallowedNack) => Ok(Confirmed { taken: true, returned }),
        _ => Ok(Confirmed { taken, returned }),
    }
}

/// How a variant answers one delivery.
struct Answering {
    house: Arc<House>,
    brought_by: Arc<QueueConsumer>,
    current: watch::Receiver<Option<Arc<QueueConsumer>>>,
    tag: u64,
    settled: AtomicBool,
}

impl Answering {
    /// Over which session it is published and settled.
    fn over(&self) -> Arc<QueueConsumer> {
        let current = match self.house.variant {
            Variant::SettleOnNewSession => self.current.borrow().clone(),
            _ => None,
        };
        current.unwrap_or_else(|| self.brought_by.clone())
    }
}

impl Broker for Answering {
    async fn publish(&self, reply: Reply) -> Result<(), PublishError> {
        let over = self.over();
        match self.house.variant {
            Variant::AckBeforeReply => {
                over.settle(self.tag, Settlement::Ack).await;
                self.settled.store(true, Ordering::SeqCst);
                over.publish(reply).await
            }
            Variant::NoConfirm => {
                tokio::spawn(async move { over.publish(reply).await });
                Ok(())
            }
            _ => {
                let id = reply.correlation_id.clone().unwrap_or_default();
                let published = over.publish(reply).await;
                if published == Err(PublishError::Unroutable) {
                    let id = String::from_utf8_lossy(&id).into_owned();
                    self.house.returned.lock().unwrap().push(id);
                }
                published
            }
        }
    }

    async fn settle(&self, tag: u64, settlement: Settlement) {
        if !self.settled.swap(true, Ordering::SeqCst) {
            self.over().settle(tag, settlement).await;
        }
    }

    async fn set_aside(
        &self,
        delivery: &Delivery,
        place: Place,
        note: &Note,
    ) -> Result<(), PublishError> {
        self.brought_by.set_aside(delivery, place, note).await
    }
}

/// A host without its own life: it opens sessions, and answers what comes.
struct House {
    variant: Variant,
    connector: Arc<Connector>,
    url: BrokerUrl,
    served: Arc<ServedQueue>,
    dispatcher: Arc<Dispatcher>,
    telemetry: Telemetry,
    /// Whether calls take their time, each another.
    slow: bool,
    /// The correlation ids of replies that were taken for returned.
    returned: Mutex<Vec<String>>,
    _directory: tempfile::TempDir,
}

impl House {
    fn new(variant: Variant, url: &str, queue: &str, slow: bool) -> Arc<Self> {
        let limits = Limits {
            max_in_flight: 256,
            prefetch: 256,
            call_timeout: Duration::from_secs(10),
            memory: 64 << 20,
            max_body: 1 << 20,
            max_headers: 128,
        };
        let url = BrokerUrl::parse(url).unwrap();
        let config = BrokerConfig {
            brokers: vec![url.clone().into()],
            strategy: Strategy::default(),
            connect_timeout: Duration::from_secs(5),
            connect_attempts: 0,
            heartbeat: Duration::from_secs(10),
            tls: TlsConfig::default(),
        };
        let kind = QueueKind::Classic;
        let served = Arc::new(ServedQueue {
            queue: QueueConfig { name: queue.to_owned(), kind, args: Vec::new() },
            exclusive: false,
            dead_letters: false,
            exchange: None,
            prefetch: limits.prefetch,
            terms: Arc::default(),
        });
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hello.wasm");
        std::fs::write(&path, guests::guest("hello").wasm).unwrap();
        let plugins = Plugins::new(None);
        plugins.load_file(&Engine::new(256).unwrap(), &path, &limits).unwrap();
        let telemetry = Telemetry::new().unwrap();
        let (policy, stopping) = (ReplyPolicy::new(&[]), Stopping::default());
        let dispatcher = Dispatcher::new(plugins, limits, policy, stopping, telemetry.clone());
        dispatcher.consumes(std::slice::from_ref(&served));
        Arc::new(Self {
            variant,
            connector: Arc::new(Connector::new(&config, "broken".to_owned()).unwrap()),
            url,
            served,
            dispatcher: Arc::new(dispatcher),
            telemetry,
            slow,
            returned: Mutex::default(),
            _directory: directory,
        })
    }

    /// Session after session. Dropped, it is gone like a host that is killed, once its wire is cut.
    async fn serve(self: Arc<Self>, current: watch::Sender<Option<Arc<QueueConsumer>>>) {
        let mut running = JoinSet::new();
        loop {
            let opened = Session::open(&self.connector, &self.url, &self.telemetry).await;
            let Ok(session) = opened.map(Arc::new) else {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            let leaving = CancellationToken::new();
            let consuming = session.consume(&self.served, Role::Host, leaving, false);
            let Ok((consumer, mut incoming)) = consuming.await else {
                session.abandon();
                continue;
            };
            let consumer = Arc::new(consumer);
            current.send_replace(Some(consumer.clone()));
            loop {
                tokio::select! {
                    next = incoming.next() => match next {
                        Ok(delivery) => {
                            let watching = current.subscribe();
                            running.spawn(self.clone().answer(delivery, consumer.clone(), watching));
                        }
                        Err(_closed) => break,
                    },
                    _reason = session.lost() => break,
                }
            }
            session.abandon();
        }
    }

    async fn answer(
        self: Arc<Self>,
        delivery: Delivery,
        brought_by: Arc<QueueConsumer>,
        current: watch::Receiver<Option<Arc<QueueConsumer>>>,
    ) {
        let takes =
            if self.slow { Duration::from_millis(delivery.tag * 70 % 200) } else { Duration::ZERO };
        let abandoned = brought_by.clone();
        let answering = Answering {
            house: self.clone(),
            brought_by,
            current,
            tag: delivery.tag,
            settled: AtomicBool::new(false),
        };
        let answering = VARIANT.scope(self.variant, async {
            tokio::time::sleep(takes).await;
            self.dispatcher.answer(&delivery, &answering).await
        });
        tokio::select! {
            _settlement = answering => {}
            () = abandoned.abandoned(), if self.variant != Variant::SettleOnNewSession => {}
        }
    }
}

/// A name that no other test uses.
fn unique(name: &str) -> String {
    format!("{name}-{:08x}", rand::random::<u32>())
}

/// Makes sure of a queue, and says how many messages are in it.
async fn durable(url: &str, queue: &str) -> u32 {
    let connection = broker::connect(url).await;
    let channel = connection.create_channel().await.unwrap();
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let declared = channel.queue_declare(queue.into(), durable, FieldTable::default()).await;
    declared.unwrap().message_count()
}

fn hello(_number: u64) -> (String, Vec<u8>) {
    ("hello".to_owned(), Vec::new())
}

/// Rounds in which the wire is cut, and a little later the host is killed. The way of replies is
/// longer than that of acks, as if their broker had more to do.
async fn cut_and_killed(variant: Variant) -> Verdict {
    const ROUNDS: usize = 15;
    let broker = broker::shared().await;
    let queue = unique("cut-and-killed");
    let cutter = Cutter::to(broker.port()).await;
    cutter.delay("basic.publish", Duration::from_millis(3));
    durable(&broker.amqp_url(), &queue).await;
    let house = House::new(variant, &cutter.url(), &queue, true);
    let load = Load::begin(Asking::new(&broker.amqp_url(), &queue, 200), hello).await;
    for _ in 0..ROUNDS {
        let (told, mut sessions) = watch::channel(None);
        let host = AbortOnDropHandle::new(tokio::spawn(house.clone().serve(told)));
        sessions.changed().await.unwrap();
        tokio::time::sleep(Duration::from_millis(250)).await;
        cutter.down();
        cutter.up();
        sessions.changed().await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        // The machine is gone, and what was on its way.
        cutter.down();
        drop(host);
        tokio::time::sleep(Duration::from_millis(50)).await;
        cutter.up();
    }
    let (told, _sessions) = watch::channel(None);
    let _host = AbortOnDropHandle::new(tokio::spawn(house.serve(told)));
    verdict(load, &queue).await
}

/// A reply queue that takes twenty and refuses the rest until they were read.
async fn refused(variant: Variant) -> Verdict {
    let broker = broker::shared().await;
    let queue = unique("refused");
    durable(&broker.amqp_url(), &queue).await;
    let mut asking = Asking::new(&broker.amqp_url(), &queue, 100);
    asking.replies.insert("x-max-length".into(), AMQPValue::LongInt(20));
    let refuse = AMQPValue::LongString(LongString::from("reject-publish"));
    asking.replies.insert("x-overflow".into(), refuse);
    asking.reading = Some(100);
    let load = Load::begin(asking, hello).await;
    // They wait for the host, which answers them all at once.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let house = House::new(variant, &broker.amqp_url(), &queue, false);
    let (told, _sessions) = watch::channel(None);
    let _host = AbortOnDropHandle::new(tokio::spawn(house.serve(told)));
    verdict(load, &queue).await
}

/// Every second caller is gone, and its reply comes back among those that arrive. Returns how many
/// replies the host believes to have come back, while the ledger has them: as soon as there are
/// any, or after that time.
async fn returned(variant: Variant, patience: Duration) -> usize {
    let broker = broker::shared().await;
    let queue = unique("returned");
    durable(&broker.amqp_url(), &queue).await;
    let mut asking = Asking::new(&broker.amqp_url(), &queue, 800);
    asking.homes = 2;
    let load = Load::begin(asking, hello).await;
    let cutter = Cutter::to(broker.port()).await;
    // Many at once, so that the broker has confirms to send when it sends a reply back.
    cutter.burst(Duration::from_millis(200));
    let house = House::new(variant, &cutter.url(), &queue, false);
    let (told, _sessions) = watch::channel(None);
    let _host = AbortOnDropHandle::new(tokio::spawn(house.clone().serve(told)));
    let arrived = |ledger: &Ledger| {
        let entries = ledger.entries();
        let believed = house.returned.lock().unwrap();
        believed.iter().filter(|id| !entries[id.as_str()].answers.is_empty()).count()
    };
    let begun = Instant::now();
    while arrived(&load.ledger) == 0 && begun.elapsed() < patience {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let ledger = load.end(Duration::from_secs(10)).await;
    assert_sound(ledger.verdict());
    let believed = house.returned.lock().unwrap().len();
    assert!(believed > 50, "{believed} came back");
    arrived(&ledger)
}

/// What the ledger says when no more answers come. What has none then does not wait in the queue.
async fn verdict(load: Load, queue: &str) -> Verdict {
    // A reply that is refused is offered again for half a minute, at last every three seconds.
    let verdict = load.end(Duration::from_secs(5)).await.verdict();
    let waiting = durable(&broker::shared().await.amqp_url(), queue).await;
    assert_eq!(waiting, 0, "requests that nobody has looked at: {verdict:?}");
    verdict
}

fn assert_sound(verdict: Verdict) {
    assert_eq!(Verdict { duplicates: 0, ..verdict }, Verdict::default());
}

fn assert_caught(verdict: Verdict) {
    eprintln!("{verdict:?}");
    assert!(verdict.lost > 0, "the ledger did not see it: {verdict:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sound_code_passes_all_trials() {
    let (cut, refused, believed_returned) = tokio::join!(
        cut_and_killed(Variant::Sound),
        refused(Variant::Sound),
        returned(Variant::Sound, Duration::from_secs(4))
    );
    assert_sound(cut);
    assert_sound(refused);
    assert_eq!(believed_returned, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ack_before_the_reply_is_caught() {
    assert_caught(cut_and_killed(Variant::AckBeforeReply).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirm_that_is_not_awaited_is_caught() {
    assert_caught(cut_and_killed(Variant::NoConfirm).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn returns_matched_by_arrival_are_caught() {
    // Nobody loses a reply by it, but the host's word on who is gone is worth nothing.
    let believed_returned = returned(Variant::ReturnsByArrival, Duration::from_secs(60)).await;
    eprintln!("{believed_returned} replies were taken for returned and had arrived");
    assert!(believed_returned > 0, "the ledger did not see it");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_delivery_settled_on_a_new_session_is_caught() {
    assert_caught(cut_and_killed(Variant::SettleOnNewSession).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swallowed_nack_is_caught() {
    assert_caught(refused(Variant::SwallowedNack).await);
}
