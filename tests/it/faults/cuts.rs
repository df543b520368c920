//! Wires that are cut at every frame in turn: of a request's life, and of the life of the session
//! that it waits for.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lapin::BasicProperties;
use tokio::task::JoinSet;

use crate::support::asks::Asks;
use crate::support::cutter::{Cut, Cutter, Reach};
use crate::support::host::{Host, Options};
use crate::support::{broker, guests, unique, until};

/// A machine that builds something else meanwhile takes its time.
const PATIENCE: Duration = Duration::from_secs(60);

/// More than one body frame, both ways: RabbitMQ's frames have 128 KiB.
const BODY: usize = 150_000;

/// Without a frame for so long, nothing is under way any more.
const QUIET: Duration = Duration::from_millis(150);

/// More frames than a request and a session have together.
const MOST_FRAMES: usize = 200;

/// Each host has a wire and a queue of its own, and every fourth of the frames.
const HOSTS: usize = 4;

/// What is done to one host.
struct Wire {
    cutter: Cutter,
    asks: Asks,
    queue: String,
    host: Host,
    /// Requests, and how often each was answered.
    asked: usize,
    again: usize,
    /// Where it was cut, and how often.
    cuts: BTreeMap<String, usize>,
}

impl Wire {
    async fn lay() -> Self {
        let broker = broker::shared().await;
        let cutter = Cutter::to(broker.port()).await;
        let queue = unique("cut");
        let options = Options::new(&cutter.url(), &queue).args(&["--connect-timeout", "2s"]);
        // It blocks, and its way to the broker is a task of ours.
        let start = move || Host::start(&options, &[("echo", &guests::built("echo"))]);
        let host = tokio::task::spawn_blocking(start).await.expect("a host");
        let asks = Asks::connect(&broker.amqp_url()).await;
        let (asked, again, cuts) = (0, 0, BTreeMap::new());
        Self { cutter, asks, queue, host, asked, again, cuts }
    }

    /// Asks, and cuts at frame `at` of what follows. Returns whether there was such a frame before
    /// everything about the request was done.
    async fn try_at(&mut self, at: usize, how: How) -> bool {
        // What was left by the last cut must not be counted as this request's.
        until("a host that rests", PATIENCE, || async {
            self.cutter.quiet() > QUIET
                && self.host.get("/readyz").0 == 200
                && self.host.metric("rpchost_in_flight") == 0.0
        })
        .await;
        let (id, body) = match how.life {
            Life::Request => {
                self.cutter.cut_at(at, how.cut, how.reach);
                self.ask().await
            }
            Life::Session => {
                self.cutter.down();
                let asked = self.ask().await;
                self.cutter.cut_at(at, how.cut, how.reach);
                self.cutter.up();
                asked
            }
        };
        self.see_it_done(&id, &body).await
    }

    async fn ask(&mut self) -> (String, Vec<u8>) {
        self.asked += 1;
        let id = format!("{}-{}", self.queue, self.asked);
        let body: Vec<u8> = (0..BODY).map(|at| ((at + self.asked) % 251) as u8).collect();
        let asked = BasicProperties::default().with_type("echo".into());
        self.asks.ask(&self.queue, &id, asked, &body).await;
        (id, body)
    }

    async fn see_it_done(&mut self, id: &str, body: &[u8]) -> bool {
        let status = self.asks.answered(id, PATIENCE).await;
        // Whatever was cut off, nobody got a part of it.
        assert_eq!((status.as_str(), self.asks.body(id) == body), ("ok", true), "{id}");
        // The answer comes before the last frames.
        until("the end of a request", PATIENCE, || async {
            self.cutter.was_cut().is_some() || self.cutter.has_passed(true, "basic.ack")
        })
        .await;
        self.cutter.hold();
        let Some(frame) = self.cutter.was_cut() else { return false };
        *self.cuts.entry(frame.to_string()).or_default() += 1;
        true
    }

    /// Looks at all answers, when no more come.
    async fn close(&mut self) {
        until("an end of the answers", PATIENCE, || async {
            self.cutter.quiet() > QUIET && self.asks.ready(&self.queue).await == Some(0)
        })
        .await;
        for number in 1..=self.asked {
            let marks = self.asks.marks(&format!("{}-{number}", self.queue));
            assert!(!marks.is_empty(), "request {number} is lost");
            assert!(marks.iter().skip(1).all(|again| *again), "an unmarked duplicate: {marks:?}");
            self.again += marks.len() - 1;
        }
    }
}

/// What is cut, and how.
#[derive(Debug, Clone, Copy)]
struct How {
    life: Life,
    cut: Cut,
    reach: Reach,
}

/// Which frames are counted.
#[derive(Debug, Clone, Copy)]
enum Life {
    /// Those of a request that is sent to a host that rests.
    Request,
    /// Those of a session that is opened while a request waits.
    Session,
}

/// Cuts at every frame, the first, the second and so on, until one is asked for that there is not.
/// Several hosts share the work. Returns where it was cut.
async fn at_every_frame(life: Life, cut: Cut, reach: Reach) -> BTreeMap<String, usize> {
    let begun = Instant::now();
    let how = How { life, cut, reach };
    let mut hosts = JoinSet::new();
    for first in 0..HOSTS {
        hosts.spawn(async move {
            let mut wire = Wire::lay().await;
            for at in (first..).step_by(HOSTS) {
                assert!(at < MOST_FRAMES, "a request without an end");
                if !wire.try_at(at, how).await {
                    break;
                }
            }
            wire.close().await;
            wire
        });
    }
    let (mut asked, mut again, mut cuts) = (0, 0, BTreeMap::new());
    for wire in hosts.join_all().await {
        asked += wire.asked;
        again += wire.again;
        for (frame, times) in wire.cuts {
            *cuts.entry(frame).or_default() += times;
        }
    }
    eprintln!(
        "{life:?}, {cut:?}, {reach:?}: {asked} requests, {} cuts, 0 lost, {again} answered again \
         and marked, {:.1} s",
        cuts.values().sum::<usize>(),
        begun.elapsed().as_secs_f64(),
    );
    for (frame, times) in &cuts {
        eprintln!("  {frame:<26}{times:>3}");
    }
    cuts
}

/// Of what passes between a request's delivery and its settlement.
const LIFE: [&str; 8] = [
    "← basic.deliver",
    "← content header",
    "← content body",
    "→ basic.publish",
    "→ content header",
    "→ content body",
    "← basic.ack",
    "→ basic.ack",
];

#[tokio::test(flavor = "multi_thread")]
async fn cut_at_every_frame_of_its_life_a_request_is_answered() {
    for (cut, reach) in [
        (Cut::After, Reach::Connection),
        (Cut::Within, Reach::Connection),
        (Cut::After, Reach::All),
    ] {
        let cuts = at_every_frame(Life::Request, cut, reach).await;
        for frame in LIFE {
            assert!(cuts.contains_key(frame), "never cut at {frame}: {cuts:?}");
        }
    }
}

/// How often it is begun again until it was cut at each of them.
const MOST_ROUNDS: usize = 4;

/// Of what comes before that.
const OPENING: [&str; 7] = [
    "← connection.start",
    "→ connection.open",
    "→ channel.open",
    "→ queue.declare",
    "→ basic.qos",
    "→ basic.consume",
    "← basic.consume-ok",
];

#[tokio::test(flavor = "multi_thread")]
async fn cut_at_every_frame_of_the_session_that_it_waits_for_a_request_is_answered() {
    let mut all = BTreeMap::new();
    // Which frame is the nth differs: those of two connections pass in any order.
    for _round in 0..MOST_ROUNDS {
        for (cut, reach) in [(Cut::After, Reach::Connection), (Cut::Within, Reach::All)] {
            all.append(&mut at_every_frame(Life::Session, cut, reach).await);
        }
        if OPENING.iter().all(|frame| all.contains_key(*frame)) {
            return;
        }
    }
    panic!("not cut at each of {OPENING:?}: {all:?}");
}
