//! Who is measured: how each is started, and that it does what it should.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::cases::{Case, Work};

/// How long a server may take to be ready: the host compiles its plugin.
const READY: Duration = Duration::from_secs(60);

/// How long it may take to end.
const END: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// The host, and what its plugin's file of settings says.
    Host(&'static str),
    /// A program with its first arguments.
    Lapin(&'static str),
    Python(&'static str),
    Node,
    Go,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    kind: Kind,
}

/// In the order of the table.
pub(crate) const PEERS: [Peer; 8] = [
    Peer {
        name: "rpchost",
        title: "**rpchost**, Rust handler, fresh instance per call, confirms",
        kind: Kind::Host(""),
    },
    Peer {
        name: "rpchost-reuse",
        title: "**rpchost**, the same with `instances = \"reuse\"`",
        kind: Kind::Host("instances = \"reuse\"\n"),
    },
    Peer {
        name: "lapin",
        title: "native lapin as one would write it, no confirms",
        kind: Kind::Lapin("spawn"),
    },
    Peer {
        name: "lapin-batch",
        title: "native lapin, batched with confirms",
        kind: Kind::Lapin("batch"),
    },
    Peer { name: "go", title: "Go, amqp091", kind: Kind::Go },
    Peer { name: "node", title: "Node, amqplib with noDelay", kind: Kind::Node },
    Peer { name: "pika", title: "Python, the tutorial's pika server", kind: Kind::Python("pika") },
    Peer { name: "aio-pika", title: "Python, aio-pika", kind: Kind::Python("aio_pika") },
];

/// Where programs are.
#[derive(Debug)]
pub(crate) struct Places {
    /// The host.
    pub(crate) rpchost: PathBuf,
    /// The sources' top.
    pub(crate) root: PathBuf,
    lapin: PathBuf,
}

impl Places {
    /// Beside this program, as cargo puts them.
    pub(crate) fn find() -> Result<Self> {
        let examples = std::env::current_exe()?;
        let examples = examples.parent().context("no folder of examples")?;
        let places = Self {
            rpchost: examples.parent().context("no folder of programs")?.join("rpchost"),
            root: PathBuf::from("."),
            lapin: examples.join("bench-lapin"),
        };
        for needed in [&places.rpchost, &places.lapin, &places.guest(Work::Echo)] {
            if !needed.exists() {
                bail!("`{}` is missing: `tests/bench/run.sh` makes it", needed.display());
            }
        }
        Ok(places)
    }

    /// What the script installs.
    pub(crate) fn installed(&self, path: &str) -> PathBuf {
        self.root.join("target/bench").join(path)
    }

    fn peer(&self, path: &str) -> PathBuf {
        self.root.join("tests/bench/peers").join(path)
    }

    fn guest(&self, work: Work) -> PathBuf {
        self.root.join(format!("target/guests/{}.wasm", work.method()))
    }
}

/// A server at work. Killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) name: &'static str,
    pub(crate) queue: String,
    url: String,
    child: Child,
    _folder: tempfile::TempDir,
}

impl Server {
    pub(crate) async fn start(
        peer: &Peer,
        places: &Places,
        url: &str,
        queue: &str,
        case: &Case,
    ) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let work = case.work;
        let mut command = match peer.kind {
            Kind::Host(settings) => host(places, folder.path(), url, queue, case, settings)?,
            Kind::Lapin(mode) => {
                let mut command = Command::new(&places.lapin);
                command.arg(mode);
                command
            }
            Kind::Python(name) => {
                let mut command = Command::new(places.installed("venv/bin/python"));
                command.arg(places.peer(&format!("python/{name}_server.py")));
                command
            }
            Kind::Node => {
                let mut command = Command::new("node");
                let modules = places.installed("node/node_modules").canonicalize()?;
                command.env("NODE_PATH", modules).arg(places.peer("node/server.js"));
                command
            }
            Kind::Go => Command::new(places.installed("go-server")),
        };
        if !matches!(peer.kind, Kind::Host(_)) {
            command.args([url, queue, work.method()]);
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{:?}", command.as_std().get_program()))?;
        let said = child.stdout.take().context("its standard output")?;
        let mut lines = BufReader::new(said).lines();
        let ready = async {
            while let Some(line) = lines.next_line().await? {
                if line.starts_with("ready") || line.starts_with("rpchost ready") {
                    return Ok(());
                }
            }
            bail!("it has ended")
        };
        tokio::time::timeout(READY, ready).await.context("it is not ready")??;
        let name = peer.name;
        // Nobody should wait for a reader.
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                eprintln!("  {name}: {line}");
            }
        });
        let (queue, url) = (queue.to_owned(), url.to_owned());
        Ok(Self { name, queue, url, child, _folder: folder })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// Asks it once, before anybody measures how fast it is wrong.
    pub(crate) async fn check(&self, places: &Places, work: Work) -> Result<()> {
        let (argument, wanted) = match work {
            Work::Echo => ("hello", "hello"),
            Work::Fib => ("20", "6765"),
        };
        let output = Command::new(&places.rpchost)
            .args(["call", work.method(), argument, "--queue", &self.queue])
            .args(["--amqp-url", &self.url])
            .output()
            .await?;
        let said = String::from_utf8_lossy(&output.stdout);
        if said.trim() != wanted {
            let error = String::from_utf8_lossy(&output.stderr);
            bail!("`{}` answers `{}` instead of `{wanted}`: {error}", self.name, said.trim());
        }
        Ok(())
    }

    pub(crate) async fn end(mut self) -> Result<()> {
        let pid = i32::try_from(self.pid()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        }
        tokio::time::timeout(END, self.child.wait()).await.context("a server does not end")??;
        Ok(())
    }
}

/// The host with the plugins of the case, and nothing that the others do not have.
fn host(
    places: &Places,
    folder: &Path,
    url: &str,
    queue: &str,
    case: &Case,
    settings: &str,
) -> Result<Command> {
    let (work, queue_type) = (case.work, if case.quorum { "quorum" } else { "classic" });
    let plugins = folder.join("plugins");
    std::fs::create_dir(&plugins)?;
    std::fs::copy(places.guest(work), plugins.join(format!("{}.wasm", work.method())))?;
    for nth in 1..case.plugins {
        std::fs::copy(places.guest(work), plugins.join(format!("other-{nth}.wasm")))?;
    }
    if !settings.is_empty() {
        std::fs::write(plugins.join(format!("{}.toml", work.method())), settings)?;
    }
    let mut command = Command::new(&places.rpchost);
    command
        .args(["serve", "--queue", queue, "--queue-type", queue_type, "--admin", "off"])
        .env("RPCHOST_AMQP_URL", url)
        .args(["--log-level", "warn", "--plugins"])
        .arg(&plugins)
        .arg("--state-dir")
        .arg(folder.join("state"));
    Ok(command)
}
