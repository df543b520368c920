//! The queues of one session: each is consumed by a task of its own, for as long
//! as it is wanted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use super::idle::Idle;
use super::wanted::Wanted;
use super::{GOOD_SESSION, reaper};
use crate::amqp::{Closed, Connector, Incoming, OpenError, QueueConsumer, Role, Session};
use crate::config::ServedQueue;
use crate::dispatch::{Dispatcher, Stopping};
use crate::message::Delivery;
use crate::plugins::{Plugins, Threads};
use crate::telemetry::Telemetry;

/// Requests that are begun before replies are sent: the broker has something to do meanwhile. All of
/// them together are begun sooner than the thread counts as overloaded (`plugins/threads.rs`).
const AT_ONCE: usize = 32;

/// How long giving back may take. A broker that hangs takes nothing.
const GIVE_BACK: Duration = Duration::from_secs(2);

/// What every task of a session needs.
#[derive(Debug, Clone)]
pub(super) struct Context {
    pub(super) session: Arc<Session>,
    pub(super) connector: Arc<Connector>,
    pub(super) dispatcher: Arc<Dispatcher>,
    pub(super) threads: Arc<Threads>,
    pub(super) telemetry: Telemetry,
    pub(super) stopping: Stopping,
    /// How long what runs is waited for.
    pub(super) patience: Duration,
    /// Whether what differs from the configuration is worth a word.
    pub(super) say_differences: bool,
}

/// How the consuming of a session ended.
pub(super) enum End {
    /// The host stops.
    Stop,
    /// The connection is lost, and every delivery with it.
    Lost(String),
    /// The connection lives, and none of the queues can be consumed.
    NoQueue(OpenError),
    /// The connection lives, and nothing more can be asked for over it.
    WornOut,
}

/// What a task reports.
struct Event {
    name: Arc<str>,
    /// Which of the tasks that this queue has had.
    task: u64,
    what: What,
}

enum What {
    Consuming,
    Lost,
    Failed { attempt: u32, error: OpenError },
}

/// How far a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Opening,
    Consuming,
    Failed,
}

/// The queues of a session.
#[derive(Debug)]
pub(super) struct Queues {
    context: Context,
    /// Those that are wanted, by name.
    tasks: BTreeMap<Arc<str>, Task>,
    /// Tasks and calls that are not done yet, of queues that were left, too.
    pub(super) open: TaskTracker,
    tell: mpsc::Sender<Event>,
    told: mpsc::Receiver<Event>,
    /// How many tasks there were.
    begun: u64,
    /// Whether any was consumed.
    opened: bool,
    current: watch::Sender<Vec<Arc<ServedQueue>>>,
}

#[derive(Debug)]
struct Task {
    number: u64,
    served: Arc<ServedQueue>,
    leave: CancellationToken,
    state: State,
}

/// Reports that may wait; the loop that reads them does nothing slow.
const REPORTS: usize = 64;

impl Queues {
    pub(super) fn new(context: Context) -> Self {
        let (tell, told) = mpsc::channel(REPORTS);
        Self {
            context,
            tasks: BTreeMap::new(),
            open: TaskTracker::new(),
            tell,
            told,
            begun: 0,
            opened: false,
            current: watch::Sender::default(),
        }
    }

    /// Those that are consumed, as they change.
    pub(super) fn current(&self) -> watch::Receiver<Vec<Arc<ServedQueue>>> {
        self.current.subscribe()
    }

    /// Consumes from the first method on, until the session is lost or the
    /// host is stopped. Ready is a host that consumes all it should, or has
    /// nothing yet to consume for.
    pub(super) async fn run(
        &mut self,
        plugins: &Plugins,
        wanted: &mut Wanted,
        stop: &CancellationToken,
        say_ready: &mut impl FnMut(),
    ) -> End {
        let session = self.context.session.clone();
        let mut served = plugins.served();
        if served.borrow().methods == 0 {
            // Callers find their queue, also if nobody serves it yet.
            for queue in wanted.always() {
                if let Err(error) = session.declare(&queue, self.context.say_differences).await {
                    return End::NoQueue(error);
                }
            }
            warn!("there is no plugin yet; consuming begins with the first");
            say_ready();
            tokio::select! {
                some = served.wait_for(|served| served.methods > 0) => {
                    if some.is_err() {
                        return End::Lost("the plugins are gone".to_owned());
                    }
                }
                reason = session.lost() => return End::Lost(reason),
                () = stop.cancelled() => return End::Stop,
            }
        }
        loop {
            let now = wanted.now(&served.borrow_and_update());
            self.become_those(now);
            if self.tasks.values().all(|task| task.state == State::Consuming) {
                say_ready();
            }
            tokio::select! {
                changed = served.changed() => {
                    if changed.is_err() {
                        return End::Lost("the plugins are gone".to_owned());
                    }
                }
                Some(event) = self.told.recv() => if let Some(end) = self.heed(event) {
                    return end;
                },
                reason = session.lost() => return End::Lost(reason),
                () = session.worn_out() => return End::WornOut,
                () = stop.cancelled() => return End::Stop,
            }
        }
    }

    fn heed(&mut self, event: Event) -> Option<End> {
        let telemetry = &self.context.telemetry;
        let Event { name, task: number, what } = event;
        let (state, failed) = match what {
            What::Consuming => {
                if !std::mem::replace(&mut self.opened, true) {
                    telemetry.session_opened();
                }
                (State::Consuming, None)
            }
            What::Lost => (State::Opening, None),
            What::Failed { attempt, error } => (State::Failed, Some((attempt, error))),
        };
        // It may have been left meanwhile, and begun again.
        self.tasks.get_mut(&name).filter(|task| task.number == number)?.state = state;
        let (attempt, error) = failed?;
        // A host that starts is told at once. Later, its task goes on trying for
        // as long as there is something to do meanwhile.
        let mistaken = self.context.say_differences && matches!(error, OpenError::Refused(_));
        if mistaken || self.tasks.values().all(|task| task.state == State::Failed) {
            return Some(End::NoQueue(error));
        }
        telemetry.queue_failed(&name, attempt, &error.to_string());
        None
    }

    /// Leaves the queues that are not wanted any more, and begins with those
    /// that are.
    fn become_those(&mut self, wanted: Vec<Arc<ServedQueue>>) {
        // Before the first request comes.
        self.context.dispatcher.consumes(&wanted);
        self.current.send_replace(wanted.clone());
        self.tasks.retain(|_, task| {
            let stays = wanted.contains(&task.served);
            if !stays {
                task.leave.cancel();
            }
            stays
        });
        for served in wanted {
            let name: Arc<str> = Arc::from(served.queue.name.as_str());
            if self.tasks.contains_key(&name) {
                continue;
            }
            let leave = CancellationToken::new();
            self.begun += 1;
            let number = self.begun;
            let keeper = Keeper {
                context: self.context.clone(),
                served: served.clone(),
                name: name.clone(),
                number,
                leave: leave.clone(),
                tell: self.tell.clone(),
                open: self.open.clone(),
            };
            self.open.spawn(keeper.keep());
            self.tasks.insert(name, Task { number, served, leave, state: State::Opening });
        }
    }

    /// The end of a session whose connection lives: what runs is still answered.
    /// Returns whether anything was consumed.
    pub(super) fn dismiss(mut self) -> bool {
        self.leave_all();
        let Self { context: Context { session, patience, .. }, open, opened, .. } = self;
        tokio::spawn(async move {
            let _done = tokio::time::timeout(patience, open.wait()).await;
            session.abandon();
        });
        opened
    }

    fn leave_all(&mut self) {
        for task in std::mem::take(&mut self.tasks).into_values() {
            task.leave.cancel();
        }
        self.open.close();
    }

    /// The end of a host: nothing new, then nothing left.
    pub(super) async fn drain(&mut self, quit: &CancellationToken) {
        info!("stopping");
        self.leave_all();
        let Context { session, stopping, patience, .. } = &self.context;
        let drained = tokio::select! {
            drained = tokio::time::timeout(*patience, self.open.wait()) => drained.is_ok(),
            () = quit.cancelled() => {
                session.abandon();
                return;
            }
            reason = session.lost() => {
                warn!("lost the broker while stopping: {reason}");
                session.abandon();
                return;
            }
        };
        if drained {
            return;
        }
        warn!("calls still run after {patience:?} and are given back");
        // For as long as the broker answers.
        stopping.given_up.cancel();
        if tokio::time::timeout(GIVE_BACK, self.open.wait()).await.is_err() {
            session.abandon();
        }
    }
}

/// Consumes one queue until it is left, or its session is over.
struct Keeper {
    context: Context,
    served: Arc<ServedQueue>,
    name: Arc<str>,
    number: u64,
    leave: CancellationToken,
    tell: mpsc::Sender<Event>,
    open: TaskTracker,
}

/// Why a queue is not consumed any more.
enum Over {
    Left(Box<Incoming>),
    Closed(Closed),
    Forgotten,
    Session,
}

impl Keeper {
    async fn keep(self) {
        let Context { session, telemetry, .. } = &self.context;
        let mut attempt = 0;
        let mut idle = Idle::new(Instant::now());
        let mut not_consumed = Some(telemetry.queue_waits());
        loop {
            attempt += 1;
            let opened = tokio::select! {
                opened = self.open(attempt) => opened,
                () = self.leave.cancelled() => return,
                () = session.abandoned() => return,
            };
            let (consumer, incoming) = match opened {
                Ok(opened) => opened,
                Err(error) => {
                    self.report(What::Failed { attempt, error }).await;
                    continue;
                }
            };
            let begun = Instant::now();
            drop(not_consumed.take());
            telemetry.consuming(&session.broker(), &self.name);
            self.report(What::Consuming).await;
            let consumer = Arc::new(consumer);
            let running = TaskTracker::new();
            let reaping = CancellationToken::new();
            let reaper = self.open.spawn(reaper::reap(
                session.clone(),
                self.served.clone(),
                self.context.dispatcher.clone(),
                reaping.clone(),
            ));
            let over = self.read(&consumer, incoming, &running, &mut idle).await;
            reaping.cancel();
            if begun.elapsed() >= GOOD_SESSION {
                attempt = 0;
            }
            match over {
                Over::Session => {
                    consumer.abandon();
                    return;
                }
                Over::Left(incoming) => {
                    finish(&self.context, consumer, *incoming, running).await;
                    if let Err(error) = reaper.await {
                        debug!("the task for dead requests has failed: {error}");
                    }
                    info!(queue = &*self.name, "left the queue");
                    return;
                }
                Over::Closed(Closed::Failed(reason)) => {
                    // Its deliveries went with the channel.
                    consumer.abandon();
                    self.lost(&reason).await;
                }
                Over::Forgotten => {
                    consumer.abandon();
                    consumer.leave_channel();
                    idle.again(Instant::now());
                    self.lost("requests wait and the broker delivers none").await;
                }
                Over::Closed(Closed::Cancelled) => {
                    self.lost("it is gone, or was moved").await;
                    // What runs can still be answered.
                    running.close();
                    let patience = self.context.patience;
                    self.open.spawn(async move {
                        // Whatever is left then is lost with its queue.
                        let _done = tokio::time::timeout(patience, running.wait()).await;
                        consumer.abandon();
                    });
                }
            }
            not_consumed = Some(telemetry.queue_waits());
        }
    }

    /// Begins to consume. While the broker takes its time, the host is told after the time that a
    /// step may take, and it goes on: to ask anew would not make it faster.
    async fn open(&self, attempt: u32) -> Result<(QueueConsumer, Incoming), OpenError> {
        let Context { session, connector, .. } = &self.context;
        tokio::time::sleep(connector.wait_before(attempt)).await;
        let (leaving, say) = (CancellationToken::new(), self.context.say_differences);
        let opening = session.consume(&self.served, Role::Host, leaving, say && attempt == 1);
        tokio::pin!(opening);
        let limit = connector.timeout();
        if let Ok(opened) = tokio::time::timeout(limit, &mut opening).await {
            return opened;
        }
        let late = format!("`{}`: no answer within {limit:?}", session.broker());
        let error = OpenError::Unreachable(late);
        self.report(What::Failed { attempt, error }).await;
        opening.await
    }

    async fn report(&self, what: What) {
        let event = Event { name: self.name.clone(), task: self.number, what };
        tokio::select! {
            // Nobody listens any more once the session ends.
            _over = self.tell.send(event) => {}
            () = self.leave.cancelled() => {}
            () = self.context.session.abandoned() => {}
        }
    }

    async fn lost(&self, reason: &str) {
        self.context.telemetry.queue_lost(&self.name, reason);
        self.report(What::Lost).await;
    }

    async fn read(
        &self,
        consumer: &Arc<QueueConsumer>,
        mut incoming: Incoming,
        running: &TaskTracker,
        idle: &mut Idle,
    ) -> Over {
        let session = &self.context.session;
        // One for all, because every request comes by here.
        let look = tokio::time::sleep_until(idle.look().into());
        tokio::pin!(look);
        loop {
            tokio::select! {
                next = incoming.next() => match next {
                    Ok(delivery) => {
                        idle.delivered();
                        answer(&self.context, consumer, running, delivery);
                        let more = std::iter::from_fn(|| incoming.ready()).take(AT_ONCE - 1);
                        more.for_each(|one| answer(&self.context, consumer, running, one));
                        tokio::task::yield_now().await;
                    }
                    Err(closed) => return Over::Closed(closed),
                },
                () = &mut look => {
                    let worth_it = idle.is_worth_a_look(!running.is_empty(), Instant::now());
                    look.as_mut().reset(idle.look().into());
                    if worth_it {
                        // A broker that cannot be asked is noticed elsewhere.
                        let ready = consumer.ready().await.ok().flatten().unwrap_or(0);
                        if idle.is_forgotten(ready) {
                            return Over::Forgotten;
                        }
                    }
                }
                () = session.abandoned() => return Over::Session,
                () = self.leave.cancelled() => return Over::Left(Box::new(incoming)),
            }
        }
    }
}

/// Answers a delivery, here as long as that is short, for as long as its consumer lives.
pub(super) fn answer(
    context: &Context,
    consumer: &Arc<QueueConsumer>,
    running: &TaskTracker,
    delivery: Delivery,
) {
    let in_flight = context.telemetry.delivered();
    let (consumer, dispatcher) = (consumer.clone(), context.dispatcher.clone());
    context.threads.answer(running.track_future(async move {
        let _in_flight = in_flight;
        tokio::select! {
            biased;
            _settlement = dispatcher.answer(&delivery, &*consumer) => {}
            // The broker delivers it again; going on would only be in its way.
            () = consumer.abandoned() => {}
        }
    }));
}

/// Leaves a queue in order: nothing new, what has not begun is given back, what
/// runs is finished.
pub(super) async fn finish(
    context: &Context,
    consumer: Arc<QueueConsumer>,
    mut incoming: Incoming,
    running: TaskTracker,
) {
    let given_up = &context.stopping.given_up;
    let finishing = async {
        // Cancelled first: what is given back must not come back to us.
        if !consumer.cancel().await {
            return false;
        }
        while let Ok(delivery) = incoming.next().await {
            answer(context, &consumer, &running, delivery);
        }
        running.close();
        running.wait().await;
        true
    };
    let finished = tokio::select! {
        finished = finishing => finished,
        () = context.session.abandoned() => false,
        () = given_up.cancelled() => {
            // Guests are told, and what they run is given back.
            consumer.revoke();
            running.close();
            running.wait().await;
            true
        }
    };
    match Arc::try_unwrap(consumer) {
        Ok(consumer) if finished => consumer.close().await,
        Ok(consumer) => consumer.abandon(),
        Err(consumer) => consumer.abandon(),
    }
}
