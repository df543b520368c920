//! The composition root: wires the rooms together, opens session after
//! session, and drains at the end.

mod idle;
mod lane;
mod queues;
mod reaper;
mod state;
mod turns;
mod wanted;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;

use crate::admin::Admin;
use crate::amqp::{Connector, OpenError, Role, Session};
use crate::config::{Config, Listener, Per};
use crate::dispatch::{Dispatcher, Lane, ReplyPolicy, Stopping, Suspicion, Watcher};
use crate::journal::Journal;
use crate::plugins::{Engine, Helper, Plugins, Reloader, RescanHandle, SelfTests, Served, Threads};
use crate::state_dir::StateDir;
use crate::telemetry::Telemetry;
pub use lane::{LANE_COMMAND, LaneCommand};
use lane::{LaneKeeper, look_for_suspects};
use queues::{Context, End, Queues};
use wanted::Wanted;

/// How a host that could not go on has failed.
#[derive(Debug)]
pub enum ServeError {
    /// The configuration cannot work here; nothing was begun.
    Configuration(anyhow::Error),
    /// Failed while running, or refused by the broker at start.
    Failed(anyhow::Error),
}

/// What a running host is told from outside.
#[derive(Debug, Clone, Default)]
pub struct Signals {
    /// Stop in order: drain, then end.
    pub stop: CancellationToken,
    /// Stop at once.
    pub quit: CancellationToken,
}

/// What a host says once it serves.
#[derive(Debug, Clone)]
pub struct Ready {
    /// The consumed queues, with commas.
    pub queue: String,
    /// Number of methods.
    pub methods: usize,
    /// Names of the plugins.
    pub plugins: Vec<Arc<str>>,
    /// Calls that run at once.
    pub max_in_flight: usize,
    /// Where health and metrics are; `None` when off.
    pub admin: Option<SocketAddr>,
}

impl std::fmt::Display for Ready {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { queue, methods, max_in_flight, .. } = self;
        write!(f, "rpchost ready queue={queue} methods={methods} max-in-flight={max_in_flight} ")?;
        match self.admin {
            Some(address) => write!(f, "admin={address}"),
            None => f.write_str("admin=off"),
        }
    }
}

/// A host that has loaded its plugins and not connected yet.
#[derive(Debug)]
pub struct Host {
    config: Config,
    telemetry: Telemetry,
    plugins: Plugins,
    threads: Arc<Threads>,
    reloader: Reloader,
    admin: Option<Admin>,
    /// Locked for as long as the host is there.
    state: Option<StateDir>,
    journal: Option<Arc<Journal>>,
    role: Role,
    lane: Option<LaneCommand>,
    watcher: Option<Watcher>,
}

/// A session that lived this long was a good one: the next is opened at once.
/// What dies sooner is not opened again without a pause.
const GOOD_SESSION: Duration = Duration::from_secs(5);

impl Host {
    /// Checks what has to be there before anything is begun.
    ///
    /// # Errors
    ///
    /// [`ServeError::Configuration`] when there is no plugin directory.
    pub fn check(config: &Config) -> Result<(), ServeError> {
        if config.plugins.is_dir() {
            return Ok(());
        }
        Err(ServeError::Configuration(anyhow::anyhow!(
            "the plugin directory `{}` does not exist; make it, or name another with `--plugins`",
            config.plugins.display()
        )))
    }

    /// A host for the suspects of another, which has started it: without an
    /// address or a state of its own, and with one request at a time.
    ///
    /// # Errors
    ///
    /// As [`Host::prepare`].
    pub async fn prepare_lane(mut config: Config) -> Result<Self, ServeError> {
        config.admin = None;
        config.limits.prefetch = 1;
        Self::prepare_as(config, Role::Lane).await
    }

    /// The same with a way to run suspects apart; without it they run here.
    #[must_use]
    pub fn with_lane(self, lane: LaneCommand) -> Self {
        Self { lane: Some(lane), ..self }
    }

    /// The same with somebody who sees each call.
    #[must_use]
    pub fn with_watcher(self, watcher: Watcher) -> Self {
        Self { watcher: Some(watcher), ..self }
    }

    /// Takes the admin address and loads what is in the plugin directory.
    ///
    /// # Errors
    ///
    /// [`ServeError::Configuration`] where the configuration cannot work.
    pub async fn prepare(config: Config) -> Result<Self, ServeError> {
        Self::prepare_as(config, Role::Host).await
    }

    async fn prepare_as(config: Config, role: Role) -> Result<Self, ServeError> {
        Self::check(&config)?;
        let admin = match config.admin {
            Some(address) => Some(Admin::bind(address).await.map_err(|error| {
                ServeError::Configuration(
                    error.context("name another with `--admin`, or switch it `off`"),
                )
            })?),
            None => None,
        };
        let telemetry = Telemetry::new().map_err(ServeError::Failed)?;
        let state = state::directory(&config, role)?;
        let journal = match (role, &state) {
            (Role::Host, Some(state)) => state::journal(state, config.limits.max_in_flight),
            _ => None,
        };
        let engine = Engine::with_helper(
            config.limits.max_in_flight,
            Helper::itself(),
            state.as_ref(),
            telemetry.clone(),
        )
        .map_err(ServeError::Failed)?;
        let plugins = Plugins::new(implied_default(&config.listeners));
        let reloader = Reloader::new(
            config.plugins.clone(),
            engine,
            config.limits,
            plugins.clone(),
            telemetry.clone(),
        )
        .map_err(ServeError::Failed)?;
        let threads = Arc::new(Threads::start().map_err(ServeError::Failed)?);
        let tests = match role {
            Role::Host => Some(SelfTests::new(&threads, state.as_ref())),
            // It is there for one request, which need not wait for the tests of all plugins.
            Role::Lane => None,
        };
        let reloader = reloader.with_self_tests(tests);
        let reloader = reloader.first_look().await.map_err(ServeError::Failed)?;
        let (lane, watcher) = (None, None);
        Ok(Self {
            config,
            telemetry,
            plugins,
            threads,
            reloader,
            admin,
            state,
            journal,
            role,
            lane,
            watcher,
        })
    }

    /// A handle that has the plugin directory looked at.
    pub fn rescan_handle(&self) -> RescanHandle {
        self.reloader.handle()
    }

    /// Serves until told to stop. `ready` is called once, when the broker is
    /// connected for the first time.
    ///
    /// # Errors
    ///
    /// [`ServeError::Failed`] when the broker refuses this host at the start,
    /// or the configured number of attempts has failed.
    pub async fn run(
        self,
        signals: Signals,
        mut ready: impl FnMut(&Ready),
    ) -> Result<(), ServeError> {
        // The state directory stays locked until the end.
        let Self {
            config,
            telemetry,
            plugins,
            threads,
            reloader,
            admin,
            state: _state,
            journal,
            role,
            lane,
            watcher,
        } = self;
        let background = CancellationToken::new();
        let _stop_background = background.clone().drop_guard();
        let admin_address = admin.as_ref().map(Admin::address);
        if let Some(admin) = admin {
            let (telemetry, stop) = (telemetry.clone(), background.clone());
            tokio::spawn(async move {
                if let Err(error) = admin.serve(telemetry, stop).await {
                    tracing::error!("{error:#}");
                }
            });
        }
        threads.spawn(reloader.run(background.clone()));

        let stopping = Stopping::default();
        let suspicion = match (role, &lane, &journal) {
            (Role::Lane, ..) => Suspicion::Lane(Lane::default()),
            (Role::Host, None, _) => Suspicion::Off,
            (Role::Host, Some(_), Some(journal)) => Suspicion::Journal(journal.clone()),
            (Role::Host, Some(_), None) => Suspicion::Count,
        };
        let dispatcher = Dispatcher::new(
            plugins.clone(),
            config.limits,
            ReplyPolicy::new(&config.reply_to_allow),
            stopping.clone(),
            telemetry.clone(),
        );
        let dispatcher = Arc::new(dispatcher.with_suspicion(suspicion).with_watcher(watcher));
        let suspects = Arc::new(Notify::new());
        let leave_lane = signals.stop.child_token();
        let keeping = lane.map(|command| {
            let keeper = LaneKeeper {
                command,
                wanted: suspects.clone(),
                telemetry: telemetry.clone(),
                stop: leave_lane.clone(),
                drain: config.drain_timeout,
            };
            tokio::spawn(keeper.run())
        });
        let mut wanted = Wanted::new(config.listeners.clone(), config.limits);
        let name = format!("rpchost queue={}", wanted.names(&Served::default()));
        let connector =
            Arc::new(Connector::new(&config.broker, name).map_err(ServeError::Configuration)?);
        let mut sessions = Sessions {
            config: &config,
            connector,
            telemetry: telemetry.clone(),
            signals: signals.clone(),
            opened_before: false,
            attempt: 0,
            refusals: BTreeSet::new(),
        };
        let mut said_ready = false;
        let mut names = Wanted::new(config.listeners.clone(), config.limits);
        let mut say_ready = || {
            if !std::mem::replace(&mut said_ready, true) {
                let served = plugins.served().borrow().clone();
                ready(&Ready {
                    queue: names.names(&served),
                    methods: served.methods,
                    plugins: plugins.names(),
                    max_in_flight: config.limits.max_in_flight,
                    admin: admin_address,
                });
            }
        };
        let serving = async {
            loop {
                let Some(session) = sessions.open().await? else { return Ok(()) };
                let session = Arc::new(session);
                let context = Context {
                    session: session.clone(),
                    connector: sessions.connector.clone(),
                    dispatcher: dispatcher.clone(),
                    threads: threads.clone(),
                    telemetry: telemetry.clone(),
                    stopping: stopping.clone(),
                    patience: config.drain_timeout,
                    say_differences: !sessions.opened_before,
                };
                let begun = Instant::now();
                let mut say_ready = || {
                    sessions.opened_before = true;
                    say_ready();
                };
                let aides = TaskTracker::new();
                let done = background.child_token();
                let mut queues = Queues::new(context.clone());
                let end = match role {
                    Role::Lane => turns::take(&context, &plugins, &mut wanted, &signals.stop).await,
                    Role::Host => {
                        aides.spawn(look_for_suspects(
                            session.clone(),
                            queues.current(),
                            suspects.clone(),
                            telemetry.clone(),
                            done.clone(),
                        ));
                        queues.run(&plugins, &mut wanted, &signals.stop, &mut say_ready).await
                    }
                };
                done.cancel();
                if begun.elapsed() >= GOOD_SESSION {
                    sessions.attempt = 0;
                    sessions.refusals.clear();
                }
                match end {
                    End::Lost(reason) => {
                        session.abandon();
                        telemetry.session_lost(&reason);
                    }
                    End::NoQueue(error) => {
                        if queues.dismiss() {
                            telemetry.session_lost(&error.to_string());
                        }
                        sessions.refused(error).await?;
                    }
                    End::WornOut => {
                        queues.dismiss();
                        telemetry.session_lost("its connection has no channel left");
                    }
                    End::Stop => {
                        queues.drain(&signals.quit).await;
                        drop((queues, context));
                        aides.close();
                        aides.wait().await;
                        if let Some(session) = Arc::into_inner(session) {
                            tokio::select! {
                                () = session.close() => {}
                                () = signals.quit.cancelled() => {}
                            }
                        }
                        info!("stopped");
                        telemetry.session_closed();
                        return Ok(());
                    }
                }
            }
        };
        let served = serving.await;
        // However it ended: a lane that is killed in the middle of a request has
        // that counted against it.
        leave_lane.cancel();
        if let Some(keeping) = keeping {
            // Aborted, it kills its lane.
            let abort = keeping.abort_handle();
            tokio::select! {
                _ended = keeping => {}
                () = signals.quit.cancelled() => abort.abort(),
            }
        }
        if let Some(journal) = journal {
            journal.close();
        }
        served
    }
}

/// The default method of every message, if each listener has one; which of them
/// is the listener's business. Without it the plugins warn when none is left.
fn implied_default(listeners: &[Listener]) -> Option<String> {
    let own = |listener: &Listener| match (&listener.default_method, listener.per) {
        (Some(method), _) => Some(method.clone()),
        (None, Per::Plugin | Per::Method) => Some(String::new()),
        (None, Per::Listener) => None,
    };
    let defaults: Option<Vec<String>> = listeners.iter().map(own).collect();
    defaults?.into_iter().next()
}

/// Opens sessions, one after the other.
struct Sessions<'a> {
    config: &'a Config,
    connector: Arc<Connector>,
    telemetry: Telemetry,
    signals: Signals,
    /// Whether this host has consumed before: what the broker refuses then is
    /// a change that may be undone, not a mistake in the configuration.
    opened_before: bool,
    /// Attempts since the last good session.
    attempt: u32,
    /// What brokers have refused since then, a text each.
    refusals: BTreeSet<String>,
}

impl Sessions<'_> {
    /// Tries until a session is open; `None` when the host was stopped.
    async fn open(&mut self) -> Result<Option<Session>, ServeError> {
        loop {
            self.attempt = self.attempt.saturating_add(1);
            let trying = async {
                tokio::time::sleep(self.connector.wait_before(self.attempt)).await;
                let url = self.connector.broker_for(self.attempt).await.ok_or_else(|| {
                    OpenError::Refused("the configuration names no broker".to_owned())
                })?;
                Session::open(&self.connector, url, &self.telemetry).await
            };
            let opened = tokio::select! {
                opened = trying => opened,
                () = self.signals.stop.cancelled() => return Ok(None),
            };
            match opened {
                Ok(session) => return Ok(Some(session)),
                Err(error) => self.refused(error).await?,
            }
            if self.signals.stop.is_cancelled() {
                return Ok(None);
            }
        }
    }

    /// Says what went wrong, and waits where trying again at once is no use.
    async fn refused(&mut self, error: OpenError) -> Result<(), ServeError> {
        let attempt = self.attempt;
        if let OpenError::Refused(reason) = &error {
            self.refusals.insert(reason.clone());
        }
        // As long as one broker has not refused, it may let us in.
        let by_all = self.refusals.len() >= self.connector.brokers();
        if by_all && !self.opened_before {
            return Err(ServeError::Failed(error.into()));
        }
        self.telemetry.connect_failed(attempt, &error.to_string());
        let attempts = self.config.broker.connect_attempts;
        if attempts != 0 && attempt >= attempts {
            return Err(ServeError::Failed(
                anyhow::Error::from(error)
                    .context(format!("gave up after attempt {attempt} to connect")),
            ));
        }
        if by_all {
            self.refusals.clear();
            tokio::select! {
                () = tokio::time::sleep(Connector::REFUSED_WAIT) => {}
                () = self.signals.stop.cancelled() => {}
            }
        }
        Ok(())
    }
}
