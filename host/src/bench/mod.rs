//! A load generator: calls as many at once, or as many a second, as one likes,
//! and measures what comes back.
//!
//! `plan` knows what is sent and when, `tally` what came of it, `report` and
//! `plot` how it is told; all pure. Each connection has a thread with a runtime
//! of its own (`worker`), which shares nothing with the others while it
//! measures: a call must cost the client less than the service that is measured.
//! This file is the run. Knows no terminal; who runs it is told by [`Observer`].

mod plan;
mod plot;
mod report;
mod tally;
mod timer;
mod usage;
mod worker;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::tally::SecondTally;
use self::worker::{Ended, Window, Worker};
use crate::amqp::{CallerError, Connector, LoadLink};

pub use plan::{HIGHEST_RATE, Load, MOST_CONNECTIONS, MOST_IN_FLIGHT, Options};
pub use plot::svg;
pub use report::{Outcome, Report, short};
pub use tally::{ErrorKindCount, Second, Tally};

/// Is told how a run goes.
pub trait Observer: Send + Sync {
    /// All connections are open: calls are sent from now on.
    fn began(&self);
    /// A second of the measured time is over.
    fn second(&self, second: &Second);
    /// All is sent; answers are waited for.
    fn sent(&self);
}

/// What a connection's thread tells.
#[derive(Debug)]
enum Said {
    /// It is connected.
    Ready,
    /// It cannot be connected.
    Failed(CallerError),
    /// A second of its calls.
    Second(SecondTally),
    /// It is done.
    Ended(Box<Ended>),
}

/// Runs a measurement. `stop` ends the sending before its time, and what was sent
/// is waited for; `quit` ends it at once.
///
/// # Errors
///
/// When the request cannot be sent as it is, or there is nobody to answer.
pub async fn run(
    connector: Arc<Connector>,
    options: Options,
    observer: Arc<dyn Observer>,
    stop: CancellationToken,
    quit: CancellationToken,
) -> Result<Report, CallerError> {
    options.check().map_err(CallerError::Unsendable)?;
    let options = Arc::new(options);
    // Ends all threads, also when this is dropped.
    let (stop, quit) = (stop.child_token(), quit.child_token());
    let _ends_threads = quit.clone().drop_guard();
    let (say, mut said) = mpsc::unbounded_channel();
    let (begin, window) = watch::channel(None);
    for number in 0..options.connections {
        let share = Share {
            number,
            connector: connector.clone(),
            options: options.clone(),
            window: window.clone(),
            say: say.clone(),
            stop: stop.clone(),
            quit: quit.clone(),
        };
        thread::Builder::new()
            .name(format!("bench-{number}"))
            .spawn(move || share.run())
            .map_err(|error| CallerError::Nobody(format!("no thread for a connection: {error}")))?;
    }
    drop(say);
    for _ in 0..options.connections {
        let first = tokio::select! {
            first = said.recv() => first,
            () = stop.cancelled() => None,
        };
        match first {
            Some(Said::Ready) => {}
            Some(Said::Failed(error)) => return Err(error),
            Some(Said::Second(_) | Said::Ended(_)) | None => {
                return Err(CallerError::Nobody("ended before it began".to_owned()));
            }
        }
    }
    let start = Instant::now();
    let from = start + options.warm_up;
    let window = Window { start, from, until: from + options.duration };
    begin.send_replace(Some(window));
    observer.began();
    let measured = measure(&options, window, observer, said, stop).await;
    let mut report = measured.map_err(CallerError::Nobody)?;
    report.gave_up = quit.is_cancelled();
    report.cut_short |= report.gave_up;
    Ok(report)
}

/// Collects what the threads tell, until all have ended.
async fn measure(
    options: &Arc<Options>,
    mut window: Window,
    observer: Arc<dyn Observer>,
    mut said: mpsc::UnboundedReceiver<Said>,
    stop: CancellationToken,
) -> Result<Report, String> {
    let mut report = Report::new(options.clone())?;
    let mut seconds = Seconds::new(options.connections);
    let mut before = None;
    let mut used = None;
    loop {
        let sample = match (&before, &used) {
            (None, _) => Some(window.from),
            (Some(_), None) => Some(window.until),
            (Some(_), Some(_)) => None,
        };
        let heard = tokio::select! {
            heard = said.recv() => heard,
            () = at(sample) => {
                match &before {
                    None => before = Some(Usage::now(options)),
                    Some(before) => {
                        used = Some(Usage::now(options).since(before));
                        observer.sent();
                    }
                }
                continue;
            }
            () = stop.cancelled(), if used.is_none() => {
                window.until = window.until.min(Instant::now());
                used = Some(match &before {
                    Some(before) => Usage::now(options).since(before),
                    None => Usage::default(),
                });
                before.get_or_insert_default();
                report.cut_short = report.lost.is_none();
                observer.sent();
                continue;
            }
        };
        match heard {
            Some(Said::Second(second)) => {
                for whole in seconds.add(&second) {
                    let begun = window.from + Duration::from_secs(whole.number);
                    let length = window.until.saturating_duration_since(begun);
                    let numbers = whole.numbers(length.min(Duration::from_secs(1)));
                    observer.second(&numbers);
                    report.seconds.push(numbers);
                }
            }
            Some(Said::Ended(ended)) => {
                report.tally.add(&ended.tally);
                if let Some(lost) = ended.lost {
                    report.lost.get_or_insert(lost);
                    // What is measured with one connection less is nothing that
                    // anybody wanted to know.
                    stop.cancel();
                }
                report.because = report.because.or(ended.because);
            }
            Some(Said::Ready | Said::Failed(_)) => {}
            None => break,
        }
    }
    report.measured = window.until.saturating_duration_since(window.from);
    // The threads may be done before this task has woken up.
    let used = used.or_else(|| before.map(|before| Usage::now(options).since(&before)));
    let Usage { own, processes } = used.unwrap_or_default();
    report.own_cpu = own;
    let names = options.processes.iter().map(|(name, _)| name.clone());
    report.processes = names.zip(processes).collect();
    Ok(report)
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

/// One connection's thread, and what it needs.
struct Share {
    number: u32,
    connector: Arc<Connector>,
    options: Arc<Options>,
    window: watch::Receiver<Option<Window>>,
    say: mpsc::UnboundedSender<Said>,
    stop: CancellationToken,
    quit: CancellationToken,
}

impl Share {
    fn run(self) {
        let say = self.say.clone();
        let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let said = match built {
            Ok(runtime) => {
                let said = runtime.block_on(self.work());
                runtime.shutdown_background();
                said
            }
            Err(error) => Some(Said::Failed(CallerError::Nobody(format!("no runtime: {error}")))),
        };
        if let Some(said) = said {
            let _nobody_may_listen_any_more = say.send(said);
        }
    }

    /// The last that is to be said, if anything is.
    async fn work(mut self) -> Option<Said> {
        let opened = tokio::select! {
            opened = LoadLink::open(&self.connector, &self.options.request) => opened,
            () = self.quit.cancelled() => return None,
        };
        let link = match opened {
            Ok(link) => link,
            Err(error) => return Some(Said::Failed(error)),
        };
        self.say.send(Said::Ready).ok()?;
        let window = tokio::select! {
            window = self.window.wait_for(Option::is_some) => window.ok().and_then(|window| *window),
            () = self.quit.cancelled() => None,
        };
        let Some(window) = window else {
            link.close().await;
            return None;
        };
        let Options { timeout, dialect, .. } = *self.options;
        let pace = self.options.pace(self.number, window.start);
        match Worker::new(link, pace, window, timeout, dialect, self.say.clone()) {
            Ok(worker) => {
                let ended = worker.run(&self.stop, &self.quit).await;
                Some(Said::Ended(Box::new(ended)))
            }
            Err(error) => Some(Said::Failed(CallerError::Nobody(error))),
        }
    }
}

/// Seconds that not all connections have told of yet.
struct Seconds {
    connections: u32,
    open: BTreeMap<u64, (u32, SecondTally)>,
}

impl Seconds {
    fn new(connections: u32) -> Self {
        Self { connections, open: BTreeMap::new() }
    }

    /// Adds one connection's; those that all have told of, in order.
    fn add(&mut self, second: &SecondTally) -> Vec<SecondTally> {
        self.open
            .entry(second.number)
            .and_modify(|(told, sum)| {
                *told += 1;
                sum.add(second);
            })
            .or_insert_with(|| (1, second.clone()));
        let mut whole = Vec::new();
        while let Some(first) = self.open.first_entry() {
            if first.get().0 < self.connections {
                break;
            }
            whole.push(first.remove().1);
        }
        whole
    }
}

/// Processor time used, by this process and by others.
#[derive(Debug, Default)]
struct Usage {
    own: Duration,
    processes: Vec<Option<Duration>>,
}

impl Usage {
    fn now(options: &Options) -> Self {
        let processes = options.processes.iter().map(|(_, pid)| usage::of(*pid)).collect();
        Self { own: usage::own(), processes }
    }

    fn since(mut self, before: &Self) -> Self {
        self.own = self.own.saturating_sub(before.own);
        for (now, then) in self.processes.iter_mut().zip(&before.processes) {
            *now = now.zip(*then).map(|(now, then)| now.saturating_sub(then));
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_is_whole_when_all_connections_have_told_of_it() {
        let mut seconds = Seconds::new(2);
        let second = |number, errors| {
            let mut second = SecondTally::new(number).unwrap();
            second.errors = errors;
            second
        };
        assert!(seconds.add(&second(0, 1)).is_empty());
        assert!(seconds.add(&second(1, 2)).is_empty());
        let whole = seconds.add(&second(0, 3));
        assert_eq!(whole.iter().map(|one| (one.number, one.errors)).collect::<Vec<_>>(), [(0, 4)]);
        assert_eq!(seconds.add(&second(1, 5)).len(), 1);
    }
}
