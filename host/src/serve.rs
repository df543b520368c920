//! The composition root: wires the rooms together, opens session after
//! session, and drains at the end.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::admin::Admin;
use crate::amqp::{Closed, Connector, Incoming, OpenError, Session};
use crate::config::{Config, DialectChoice};
use crate::dispatch::{Dispatcher, ReplyPolicy, Stopping};
use crate::plugins::{Engine, Plugins, Reloader, RescanHandle};
use crate::telemetry::Telemetry;
use crate::wire::Dialect;

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
    /// The consumed queue.
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
    reloader: Reloader,
    admin: Option<Admin>,
}

/// Why a session ended.
enum End {
    Stop,
    Lost(String),
}

impl Host {
    /// Takes the admin address and loads what is in the plugin directory.
    ///
    /// # Errors
    ///
    /// [`ServeError::Configuration`] where the configuration cannot work.
    pub async fn prepare(config: Config) -> Result<Self, ServeError> {
        if !config.plugins.is_dir() {
            return Err(ServeError::Configuration(anyhow::anyhow!(
                "the plugin directory `{}` does not exist; make it, or name another with \
                 `--plugins`",
                config.plugins.display()
            )));
        }
        let admin = match config.admin {
            Some(address) => Some(Admin::bind(address).await.map_err(|error| {
                ServeError::Configuration(
                    error.context("name another with `--admin`, or switch it `off`"),
                )
            })?),
            None => None,
        };
        let telemetry = Telemetry::new().map_err(ServeError::Failed)?;
        let engine = Engine::new(config.limits.max_in_flight).map_err(ServeError::Failed)?;
        let plugins = Plugins::new(config.default_method.clone());
        let reloader = Reloader::new(
            config.plugins.clone(),
            engine,
            config.limits,
            plugins.clone(),
            telemetry.clone(),
        );
        let reloader = reloader.first_look().await.map_err(ServeError::Failed)?;
        Ok(Self { config, telemetry, plugins, reloader, admin })
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
        let Self { config, telemetry, plugins, reloader, admin } = self;
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
        tokio::spawn(reloader.run(background.clone()));

        let stopping = Stopping::default();
        let dispatcher = Arc::new(Dispatcher::new(
            plugins.clone(),
            dialect(config.dialect),
            config.limits,
            ReplyPolicy::new(&config.reply_to_allow),
            stopping.clone(),
            telemetry.clone(),
        ));
        let name = format!("rpchost queue={}", config.queue.name);
        let connector =
            Arc::new(Connector::new(&config.broker, name).map_err(ServeError::Configuration)?);
        let mut sessions = Sessions {
            config: &config,
            connector,
            telemetry: telemetry.clone(),
            signals: signals.clone(),
            opened_before: false,
        };
        let mut said_ready = false;
        loop {
            let Some(session) = sessions.open().await? else { return Ok(()) };
            if !said_ready {
                said_ready = true;
                let names = plugins.names();
                ready(&Ready {
                    queue: config.queue.name.clone(),
                    methods: *plugins.methods().borrow(),
                    plugins: names,
                    max_in_flight: config.limits.max_in_flight,
                    admin: admin_address,
                });
            }
            let session = Arc::new(session);
            let running = TaskTracker::new();
            let consumed =
                consume(&session, &plugins, &dispatcher, &running, &telemetry, &signals).await;
            match consumed {
                (End::Lost(reason), _) => {
                    session.abandon();
                    telemetry.session_lost(&reason);
                }
                (End::Stop, incoming) => {
                    let drain = Drain { config: &config, stopping: &stopping, signals: &signals };
                    drain.run(session, incoming, &dispatcher, running, &telemetry).await;
                    telemetry.session_closed();
                    return Ok(());
                }
            }
        }
    }
}

/// Opens sessions, one after the other.
struct Sessions<'a> {
    config: &'a Config,
    connector: Arc<Connector>,
    telemetry: Telemetry,
    signals: Signals,
    opened_before: bool,
}

impl Sessions<'_> {
    /// Tries until a session is open; `None` when the host was stopped.
    async fn open(&mut self) -> Result<Option<Session>, ServeError> {
        let mut attempt = 0u32;
        let mut refused = 0usize;
        loop {
            attempt = attempt.saturating_add(1);
            let Some(url) = self.connector.pick() else { return Ok(None) };
            let trying = async {
                tokio::time::sleep(self.connector.wait_before(attempt)).await;
                Session::open(
                    &self.connector,
                    url,
                    &self.config.queue,
                    self.config.limits.prefetch,
                    !self.opened_before,
                    &self.telemetry,
                )
                .await
            };
            let opened = tokio::select! {
                opened = trying => opened,
                () = self.signals.stop.cancelled() => return Ok(None),
            };
            let error = match opened {
                Ok(session) => {
                    self.opened_before = true;
                    return Ok(Some(session));
                }
                Err(error) => error,
            };
            if let OpenError::Refused(_) = &error {
                refused += 1;
                if !self.opened_before && refused >= self.connector.brokers() {
                    return Err(ServeError::Failed(error.into()));
                }
            } else {
                refused = 0;
            }
            self.telemetry.connect_failed(attempt, &error.to_string());
            let attempts = self.config.broker.connect_attempts;
            if attempts != 0 && attempt >= attempts {
                return Err(ServeError::Failed(
                    anyhow::Error::from(error)
                        .context(format!("gave up after {attempt} attempts to connect")),
                ));
            }
            if refused > 0 {
                tokio::select! {
                    () = tokio::time::sleep(Connector::REFUSED_WAIT) => {}
                    () = self.signals.stop.cancelled() => return Ok(None),
                }
            }
        }
    }
}

/// Consumes from the first method on, and hands out deliveries until the
/// session is lost or the host is stopped.
async fn consume(
    session: &Arc<Session>,
    plugins: &Plugins,
    dispatcher: &Arc<Dispatcher>,
    running: &TaskTracker,
    telemetry: &Telemetry,
    signals: &Signals,
) -> (End, Option<Incoming>) {
    let mut methods = plugins.methods();
    if *methods.borrow() == 0 {
        warn!("there is no plugin yet; consuming begins with the first");
    }
    tokio::select! {
        some = methods.wait_for(|methods| *methods > 0) => {
            if some.is_err() {
                return (End::Lost("the plugins are gone".to_owned()), None);
            }
        }
        reason = session.lost() => return (End::Lost(reason), None),
        () = signals.stop.cancelled() => return (End::Stop, None),
    }
    let mut incoming = match session.consume().await {
        Ok(incoming) => incoming,
        Err(error) => return (End::Lost(error.to_string()), None),
    };
    telemetry.session_opened(session.broker(), session.queue());
    loop {
        tokio::select! {
            next = incoming.next() => match next {
                Ok(delivery) => spawn_answer(session, dispatcher, running, telemetry, delivery),
                Err(Closed::Cancelled) => {
                    let reason = "the broker cancelled the consumer: the queue is gone".to_owned();
                    return (End::Lost(reason), None);
                }
                Err(Closed::Failed(reason)) => return (End::Lost(reason), None),
            },
            reason = session.lost() => return (End::Lost(reason), None),
            () = signals.stop.cancelled() => return (End::Stop, Some(incoming)),
        }
    }
}

/// Answers a delivery in a task of its own, for as long as its session lives.
fn spawn_answer(
    session: &Arc<Session>,
    dispatcher: &Arc<Dispatcher>,
    running: &TaskTracker,
    telemetry: &Telemetry,
    delivery: crate::message::Delivery,
) {
    let in_flight = telemetry.delivered();
    let (session, dispatcher) = (session.clone(), dispatcher.clone());
    running.spawn(async move {
        let _in_flight = in_flight;
        tokio::select! {
            _settlement = dispatcher.answer(&delivery, &*session) => {}
            // The broker delivers it again; going on would only be in its way.
            () = session.abandoned() => {}
        }
    });
}

/// The end of a host: nothing new, then nothing left.
struct Drain<'a> {
    config: &'a Config,
    stopping: &'a Stopping,
    signals: &'a Signals,
}

impl Drain<'_> {
    async fn run(
        &self,
        session: Arc<Session>,
        incoming: Option<Incoming>,
        dispatcher: &Arc<Dispatcher>,
        running: TaskTracker,
        telemetry: &Telemetry,
    ) {
        info!(running = running.len(), "stopping");
        let draining = async {
            // Cancelled first: what is given back must not come back to us.
            session.cancel().await;
            self.stopping.draining.cancel();
            if let Some(mut incoming) = incoming {
                while let Ok(delivery) = incoming.next().await {
                    spawn_answer(&session, dispatcher, &running, telemetry, delivery);
                }
            }
            running.close();
            let patience = tokio::time::timeout(self.config.drain_timeout, running.wait());
            if patience.await.is_err() {
                warn!(
                    running = running.len(),
                    "calls still run after {:?} and are given back", self.config.drain_timeout
                );
                session.revoke();
                self.stopping.given_up.cancel();
                running.wait().await;
            }
        };
        let quick = tokio::select! {
            () = draining => false,
            () = self.signals.quit.cancelled() => true,
            reason = session.lost() => {
                warn!("lost the broker while stopping: {reason}");
                true
            }
        };
        if quick {
            session.abandon();
        } else if let Some(session) = Arc::into_inner(session) {
            session.close().await;
        }
        info!("stopped");
    }
}

fn dialect(choice: DialectChoice) -> Dialect {
    match choice {
        DialectChoice::Auto => Dialect::Auto,
        DialectChoice::Plain => Dialect::Plain,
        DialectChoice::JsonRpc => Dialect::JsonRpc,
    }
}
