//! A private, throw-away RabbitMQ on loopback ports of its own: for `rpchost dev`, the quickstart and
//! the tests, which also kill it, freeze it, and stop and start it.
//!
//! Owns the life of that broker and its end: a small watchdog (`watchdog.sh`) ends the broker and
//! removes its directory when this process is gone, also after kill -9. Refuses to know what the
//! broker is for, and never speaks more AMQP to it than it takes to see that it is up.

use std::{
    fs,
    io::Write as _,
    net::Ipv4Addr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, timeout},
};

use self::node::{Installation, Peer, Ports, Purpose};

mod node;
#[cfg(test)]
mod tests;

const WATCHDOG: &str = include_str!("watchdog.sh");

/// Starting takes 5 s on an idle machine and 25 s were seen on two busy cores.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// An orderly end takes 1 s on an idle machine.
const STOP_DEADLINE: Duration = Duration::from_secs(30);
/// The kernel needs a moment to take a few hundred megabytes back.
const KILL_DEADLINE: Duration = Duration::from_secs(10);
/// The watchdog waits 5 s for an orderly end, up to 5 s for the end by kill, and 5 s for the directory.
const REMOVE_DEADLINE: Duration = Duration::from_secs(20);
/// `rabbitmqctl` starts a whole Erlang, 1.5 s of CPU time, and has time limits of its own.
const CTL_DEADLINE: Duration = Duration::from_secs(60);
/// A broker that has accepted a connection answers in milliseconds; a frozen one never.
const ANSWER_DEADLINE: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(50);

/// How often to try other ports if one was taken between our look and the broker's.
const ATTEMPTS: u32 = 3;

/// What a client says first (AMQP 0-9-1, section 4.2.2).
const PROTOCOL_HEADER: [u8; 8] = *b"AMQP\0\0\x09\x01";
/// What a broker that is up answers with: a method frame, `connection.start` (section 4.2.3).
const METHOD_FRAME: u8 = 1;

/// A RabbitMQ that belongs to this value.
///
/// Dropping it ends the broker and removes its directory, in the background; so does the end of this
/// process, in whatever way it ends. To wait for that, use [`PrivateBroker::remove`]. It is bound to
/// no tokio runtime: it can be kept in a `static` and used from test to test.
#[derive(Debug)]
pub struct PrivateBroker {
    installation: Installation,
    ports: Ports,
    directory: PathBuf,
    /// Whether a start was ever ordered. From then on, the file `ended` tells whether it still runs.
    ordered: bool,
    /// Its other end is the watchdog's standard input. Closing it ends everything.
    orders: Option<ChildStdin>,
    watchdog: Option<Child>,
}

/// How a start went.
enum Start {
    Ready,
    /// The broker ended with this exit status before it was up.
    Ended(String),
    TooSlow,
}

impl PrivateBroker {
    /// Starts a broker in a new temporary directory and waits until it speaks AMQP.
    ///
    /// # Errors
    /// If no RabbitMQ is installed, or if it is not up within 60 s; the message says what to do, or
    /// shows the end of the broker's log.
    pub async fn start() -> Result<Self> {
        let installation = tokio::task::spawn_blocking(Installation::find).await??;
        Self::start_installed(installation, Purpose::default()).await
    }

    /// Like [`PrivateBroker::start`], with the management plugin, which costs a second and some
    /// memory. Its API is at [`PrivateBroker::management_address`].
    ///
    /// # Errors
    /// As there.
    pub async fn start_with_management() -> Result<Self> {
        let installation = tokio::task::spawn_blocking(Installation::find).await??;
        let purpose = Purpose { management: true, ..Purpose::default() };
        Self::start_installed(installation, purpose).await
    }

    /// Like [`PrivateBroker::start`], with the RabbitMQ and the Erlang in the folder `root`, which
    /// `tests/rabbitmq4.sh` makes: a version that is not the system's. Any user who can read it may.
    ///
    /// # Errors
    /// If there is none in that folder, or if it is not up within 60 s.
    pub async fn start_from(root: &Path) -> Result<Self> {
        let root = root.to_owned();
        let find = move || Installation::below(&root);
        Self::start_installed(tokio::task::spawn_blocking(find).await??, Purpose::default()).await
    }

    /// Starts another node and has it join this broker's cluster, which is of this node alone until
    /// then. It is of the same version. All of a cluster find each other through the epmd of the
    /// first, so that is the one to be removed last.
    ///
    /// # Errors
    /// If this broker does not run, or if the other is not up within 60 s or has not joined.
    pub async fn start_beside(&self) -> Result<Self> {
        let peer = Peer::of(&self.ports, &self.directory)?;
        let name = peer.name.clone();
        let purpose = Purpose { peer: Some(peer), ..Purpose::default() };
        let broker = Self::start_installed(self.installation.clone(), purpose).await?;
        if !broker.ctl(&["cluster_status"]).await?.contains(&name) {
            bail!("the private broker on port `{}` has not joined `{name}`", broker.port());
        }
        Ok(broker)
    }

    async fn start_installed(installation: Installation, purpose: Purpose) -> Result<Self> {
        let mut attempt = 1;
        loop {
            let (installation, purpose) = (installation.clone(), purpose.clone());
            let prepare = move || Self::prepare(installation, &purpose);
            let mut broker = tokio::task::spawn_blocking(prepare).await??;
            let outcome = broker.launch().await?;
            if matches!(outcome, Start::Ready) {
                return Ok(broker);
            }
            if attempt == ATTEMPTS || !node::port_was_taken(&broker.directory) {
                return Err(not_up(&outcome, &broker.tail()));
            }
            tracing::debug!(
                port = broker.port(),
                "a port of the private broker was taken meanwhile, trying others"
            );
            broker.remove().await?;
            attempt += 1;
        }
    }

    /// Everything up to the order to start: ports, directory, watchdog.
    fn prepare(installation: Installation, purpose: &Purpose) -> Result<Self> {
        let ports = Ports::claim(purpose.peer.as_ref())?;
        let directory = node::make_directory(&ports, purpose, WATCHDOG)?;
        node::write_ctl(&installation, directory.path(), &ports)?;
        let out = fs::File::create(directory.path().join("out"))?;
        let mut watchdog = Command::new("/bin/sh")
            .arg("watchdog.sh")
            .arg(installation.server())
            .args(purpose.peer.is_none().then_some("epmd"))
            .env_clear()
            .envs(node::environment(&installation, directory.path(), &ports))
            .current_dir(directory.path())
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .context("cannot start the private broker's watchdog with `/bin/sh`")?;
        Ok(Self {
            installation,
            ports,
            // From here on the watchdog removes it.
            directory: directory.keep(),
            ordered: false,
            orders: watchdog.stdin.take(),
            watchdog: Some(watchdog),
        })
    }

    /// The address for a client: `amqp://guest:guest@127.0.0.1:PORT/%2f`.
    #[must_use]
    pub fn amqp_url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port())
    }

    /// The node's Erlang name, as `rabbitmqctl` shows it: `rpchost-PORT@localhost`.
    #[must_use]
    pub fn node_name(&self) -> String {
        node::name(&self.ports)
    }

    /// The port on 127.0.0.1 where it speaks AMQP, the same for its whole life.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.ports.amqp
    }

    /// Where its management API answers, if it was started with one: `127.0.0.1:PORT`.
    #[must_use]
    pub fn management_address(&self) -> String {
        format!("127.0.0.1:{}", self.ports.management)
    }

    /// A `rabbitmqctl` for this broker, to be run from anywhere.
    #[must_use]
    pub fn ctl_script(&self) -> PathBuf {
        self.directory.join(node::CTL)
    }

    /// Holds everything of this broker: settings, data, `out`, and `log/`.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The Erlang machine's process, if it runs.
    pub async fn pid(&self) -> Option<Pid> {
        let pid = tokio::fs::read_to_string(self.directory.join("pid")).await.ok()?;
        Pid::from_raw(pid.trim().parse().ok()?)
    }

    /// Kills the broker (kill -9). Ports and data are kept, see [`PrivateBroker::start_again`].
    ///
    /// # Errors
    /// If it does not go. One that does not run is no error.
    pub async fn kill(&mut self) -> Result<()> {
        self.end(&[Signal::KILL], KILL_DEADLINE).await
    }

    /// Stops the broker in an orderly way (SIGTERM; clients get `connection.close`) and waits for it.
    /// Ports and data are kept, see [`PrivateBroker::start_again`]. A frozen one is thawed for it.
    ///
    /// # Errors
    /// If it has not ended after 30 s. One that does not run is no error.
    pub async fn stop(&mut self) -> Result<()> {
        self.end(&[Signal::TERM, Signal::CONT], STOP_DEADLINE).await
    }

    /// Starts a killed or stopped broker again, with the same ports and data, and waits until it
    /// speaks AMQP.
    ///
    /// # Errors
    /// If it still runs, or if it is not up within 60 s; the message shows the end of its log.
    pub async fn start_again(&mut self) -> Result<()> {
        if self.ordered && self.ended().await.is_none() {
            bail!("the private broker on port `{}` still runs; stop or kill it first", self.port());
        }
        match self.launch().await? {
            Start::Ready => Ok(()),
            outcome => Err(not_up(&outcome, &self.tail())),
        }
    }

    /// Freezes the broker (SIGSTOP): its connections stay open, and nothing is answered.
    ///
    /// # Errors
    /// If it does not run.
    pub async fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP).await
    }

    /// Lets a frozen broker go on (SIGCONT).
    ///
    /// # Errors
    /// If it does not run.
    pub async fn thaw(&self) -> Result<()> {
        self.signal(Signal::CONT).await
    }

    /// Runs `rabbitmqctl` for this broker and gives what it prints.
    ///
    /// # Errors
    /// If it fails, with what it said on standard error, or takes longer than 60 s.
    pub async fn ctl(&self, arguments: &[&str]) -> Result<String> {
        let command = format!("rabbitmqctl {}", arguments.join(" "));
        let run = tokio::process::Command::new(self.installation.ctl())
            .arg("-n")
            .arg(node::name(&self.ports))
            .args(arguments)
            .env_clear()
            .envs(node::environment(&self.installation, &self.directory, &self.ports))
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = timeout(CTL_DEADLINE, run)
            .await
            .with_context(|| format!("`{command}` took longer than {CTL_DEADLINE:?}"))?
            .with_context(|| format!("cannot run `{command}`"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("`{command}` failed ({}): {}", output.status, said.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Ends the broker, removes its directory, and waits until both is done.
    ///
    /// # Errors
    /// If that takes longer than 20 s.
    pub async fn remove(mut self) -> Result<()> {
        self.orders = None;
        let deadline = Instant::now() + REMOVE_DEADLINE;
        while let Some(watchdog) = &mut self.watchdog {
            if watchdog
                .try_wait()
                .context("cannot wait for the private broker's watchdog")?
                .is_some()
            {
                self.watchdog = None;
            } else if Instant::now() > deadline {
                bail!(
                    "the private broker in `{}` is not gone after {REMOVE_DEADLINE:?}",
                    self.directory.display()
                );
            } else {
                sleep(POLL).await;
            }
        }
        if self.directory.exists() {
            bail!(
                "the watchdog of the private broker ended before its time; end what still runs in `{0}` \
                 (`cat {0}/pid`), and remove that directory",
                self.directory.display()
            );
        }
        Ok(())
    }

    /// Has the watchdog start the server, and waits until that is up or has ended.
    async fn launch(&mut self) -> Result<Start> {
        let began = Instant::now();
        // The watchdog removes it, too, but perhaps only after our first look.
        if self.ended().await.is_some() {
            tokio::fs::remove_file(self.directory.join("ended")).await?;
        }
        self.ordered = true;
        // Six bytes into an empty pipe: this does not block.
        self.orders
            .as_mut()
            .context("the private broker was removed")?
            .write_all(b"start\n")
            .context(
                "the private broker's watchdog is gone, and with it the broker; start a new one",
            )?;
        tracing::debug!(port = self.port(), directory = %self.directory.display(), "starting a private RabbitMQ");
        while began.elapsed() < START_DEADLINE {
            if let Some(status) = self.ended().await {
                return Ok(Start::Ended(status));
            }
            if speaks_amqp(self.port()).await {
                let (port, took) = (self.port(), began.elapsed());
                tracing::info!(port, ?took, directory = %self.directory.display(), "private RabbitMQ is up");
                return Ok(Start::Ready);
            }
            sleep(POLL).await;
        }
        Ok(Start::TooSlow)
    }

    /// Sends the signals and waits for the server's end.
    async fn end(&self, signals: &[Signal], patience: Duration) -> Result<()> {
        if !self.ordered {
            return Ok(());
        }
        for &signal in signals {
            // One that goes at this very moment is what we want; one that does not is told below.
            if let Err(error) = self.signal(signal).await {
                tracing::debug!(port = self.port(), %error, "no signal for the private broker");
            }
        }
        let began = Instant::now();
        while self.ended().await.is_none() {
            if began.elapsed() > patience {
                bail!(
                    "the private broker on port `{}` has not ended after {patience:?}\n{}",
                    self.port(),
                    self.tail()
                );
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    async fn signal(&self, signal: Signal) -> Result<()> {
        let port = self.port();
        let pid = self.pid().await.ok_or_else(|| {
            anyhow!("the private broker on port `{port}` does not run; start it again first")
        })?;
        kill_process(pid, signal).with_context(|| {
            format!("cannot send {signal:?} to the private broker on port `{port}`")
        })
    }

    /// The exit status of the last server, once it has ended.
    async fn ended(&self) -> Option<String> {
        let status = tokio::fs::read_to_string(self.directory.join("ended")).await.ok()?;
        Some(status.trim().to_owned())
    }

    fn tail(&self) -> String {
        node::tail(&self.directory, &self.ports)
    }
}

impl Drop for PrivateBroker {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(mut watchdog) = self.watchdog.take() {
            // Only so that no zombie stays. Without a thread for it one does, until we end.
            let waiting =
                thread::Builder::new().name("broker-end".to_owned()).spawn(move || watchdog.wait());
            if let Err(error) = waiting {
                tracing::debug!(%error, "nobody waits for the private broker's watchdog");
            }
        }
    }
}

fn not_up(outcome: &Start, tail: &str) -> anyhow::Error {
    let what = match outcome {
        Start::Ended(status) => format!("ended with exit status `{status}` before it was up"),
        Start::TooSlow | Start::Ready => format!("was not up after {START_DEADLINE:?}"),
    };
    anyhow!("the private broker {what}\n{tail}")
}

/// Whether a broker answers there. That it accepts the connection is not enough: the kernel does
/// that for a frozen or overloaded one, too.
async fn speaks_amqp(port: u16) -> bool {
    let asked = async {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        stream.write_all(&PROTOCOL_HEADER).await?;
        let mut answer = [0; 8];
        stream.read_exact(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    matches!(timeout(ANSWER_DEADLINE, asked).await, Ok(Ok([METHOD_FRAME, ..])))
}
