//! What one private RabbitMQ node consists of before it runs: the installed server, its ports, a
//! directory with its settings, and the environment that keeps it away from the system's RabbitMQ.
//!
//! Refuses to know how the node is started and ended.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail};
use tempfile::TempDir;

/// Where Debian's package (12: RabbitMQ 3.10, 13: 4.0) keeps the script that any user may run. The
/// one in `/usr/sbin` is a wrapper that refuses everyone but root and `rabbitmq`.
const DEBIAN: &str = "/usr/lib/rabbitmq";

/// Where Debian's package keeps `erl`, `escript` and `epmd`, below a root that is not the system's.
const ERLANG: &str = "usr/lib/erlang/bin";

/// Added to `PATH`: `erl` and `epmd` on Debian, and where other installations put the server.
const USUAL_PATH: &str = "/opt/rabbitmq/sbin:/opt/homebrew/sbin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Ports are taken below 32768, where Linux begins to hand out source ports. Else a client that
/// reconnects while the broker is down would sooner or later be given the broker's own port, connect
/// to itself, and keep the broker from coming back on it.
const FIRST_PORT: u16 = 20_000;
/// One port that claims the block, and one each for epmd, AMQP, Erlang's distribution and the
/// management API.
const PORTS_PER_BLOCK: u16 = 5;
/// Up to port 31,999.
const BLOCKS: u16 = 2_400;

/// Below a node's directory.
const COOKIE: &str = "home/.erlang.cookie";

/// Bytes of a log that an error shows: about 20 lines.
const TAIL_BYTES: u64 = 2_500;

/// The ports of one node, all on 127.0.0.1.
#[derive(Debug)]
pub(super) struct Ports {
    epmd: u16,
    /// Where the node will speak AMQP.
    pub(super) amqp: u16,
    distribution: u16,
    /// Where the node will answer HTTP, if it has the management plugin.
    pub(super) management: u16,
    /// Whoever listens on a block's first port owns the block. Held for as long as the node may be
    /// started again, so that no other private broker takes its ports meanwhile.
    _claim: TcpListener,
}

/// What a node is wanted for.
#[derive(Debug, Clone, Default)]
pub(super) struct Purpose {
    /// Whether it has the management plugin.
    pub(super) management: bool,
    /// The node whose cluster it joins, if it is not to be one of its own.
    pub(super) peer: Option<Peer>,
}

/// What a node has to know of another to be in one cluster with it.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    /// Its Erlang name.
    pub(super) name: String,
    /// Nodes find each other through one epmd; it is the first node's.
    epmd: u16,
    cookie: String,
}

impl Peer {
    /// What others have to know of the node in `directory`.
    pub(super) fn of(ports: &Ports, directory: &Path) -> Result<Self> {
        let cookie = fs::read_to_string(directory.join(COOKIE))
            .context("cannot read the Erlang cookie of the private broker to join")?;
        Ok(Self { name: name(ports), epmd: ports.epmd, cookie })
    }
}

impl Ports {
    /// Claims a block of ports on which nobody listens. A node that joins another uses its epmd.
    pub(super) fn claim(peer: Option<&Peer>) -> Result<Self> {
        // As many tries as there are blocks: only a machine with nothing free runs out.
        for _ in 0..BLOCKS {
            let first = FIRST_PORT + PORTS_PER_BLOCK * rand::random_range(0..BLOCKS);
            let (epmd, amqp, distribution) = (first + 1, first + 2, first + 3);
            let management = first + 4;
            let Ok(claim) = listen(first) else { continue };
            if [epmd, amqp, distribution, management].into_iter().all(|port| listen(port).is_ok()) {
                let epmd = peer.map_or(epmd, |peer| peer.epmd);
                return Ok(Self { epmd, amqp, distribution, management, _claim: claim });
            }
        }
        bail!(
            "found no four free ports on 127.0.0.1 from {FIRST_PORT} on; `ss -ltn` shows who listens there"
        )
    }
}

fn listen(port: u16) -> std::io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
}

/// An installed RabbitMQ.
#[derive(Debug, Clone)]
pub(super) struct Installation {
    /// The folder with `rabbitmq-server` and `rabbitmqctl`, proper, not wrappers.
    scripts: PathBuf,
    /// Where these find `erl` and everything else.
    path: OsString,
}

impl Installation {
    /// Looks in Debian's places, then in `PATH` and the usual ones.
    pub(super) fn find() -> Result<Self> {
        let path = path();
        let mut candidates = debian(Path::new(DEBIAN));
        candidates.extend(env::split_paths(&path));
        candidates.iter().find_map(|folder| Self::at(folder, &path)).ok_or_else(|| {
            anyhow!(
                "found no `rabbitmq-server` in `{DEBIAN}` and in PATH; install one \
                 (`apt-get install rabbitmq-server`, it need not run), or name a running broker"
            )
        })
    }

    /// The one in a folder that has Debian's packages unpacked in it, with its own Erlang.
    pub(super) fn below(root: &Path) -> Result<Self> {
        let found = || {
            let root = root.canonicalize().ok()?;
            let mut path = root.join(ERLANG).into_os_string();
            path.push(":");
            path.push(self::path());
            debian(&root.join(DEBIAN.trim_start_matches('/')))
                .iter()
                .find_map(|folder| Self::at(folder, &path))
        };
        found().with_context(|| {
            format!(
                "found no `rabbitmq-server` in `{}{DEBIAN}`; make that folder with \
                 `tests/rabbitmq4.sh`",
                root.display()
            )
        })
    }

    /// A folder counts if the script, with links followed, has `rabbitmq-env` beside it: wrappers
    /// live elsewhere.
    fn at(folder: &Path, path: &OsStr) -> Option<Self> {
        let server = folder.join("rabbitmq-server").canonicalize().ok()?;
        let scripts = server.parent()?;
        let whole = ["rabbitmq-env", "rabbitmqctl"].iter().all(|name| scripts.join(name).is_file());
        whole.then(|| Self { scripts: scripts.to_owned(), path: path.to_owned() })
    }

    pub(super) fn server(&self) -> PathBuf {
        self.scripts.join("rabbitmq-server")
    }

    pub(super) fn ctl(&self) -> PathBuf {
        self.scripts.join("rabbitmqctl")
    }
}

/// The folders where Debian's package may keep the scripts.
fn debian(package: &Path) -> Vec<PathBuf> {
    let mut folders = vec![package.join("bin")];
    if let Ok(versions) = fs::read_dir(package.join("lib")) {
        folders.extend(versions.flatten().map(|version| version.path().join("sbin")));
    }
    folders
}

/// Our own `PATH` first, for an Erlang that is not the system's.
fn path() -> OsString {
    let mut path = env::var_os("PATH").unwrap_or_default();
    if !path.is_empty() {
        path.push(":");
    }
    path.push(USUAL_PATH);
    path
}

/// A node's Erlang name.
pub(super) fn name(ports: &Ports) -> String {
    format!("rpchost-{}@localhost", ports.amqp)
}

/// Makes a directory that only this user may enter, with the node's settings in it.
pub(super) fn make_directory(ports: &Ports, purpose: &Purpose, watchdog: &str) -> Result<TempDir> {
    let directory =
        tempfile::Builder::new().prefix("rpchost-broker-").tempdir().with_context(|| {
            format!(
                "cannot make a directory for the private broker in `{}`",
                env::temp_dir().display()
            )
        })?;
    fill(directory.path(), ports, purpose, watchdog).with_context(|| {
        format!("cannot write the private broker's settings to `{}`", directory.path().display())
    })?;
    Ok(directory)
}

fn fill(directory: &Path, ports: &Ports, purpose: &Purpose, watchdog: &str) -> Result<()> {
    fs::create_dir(directory.join("home"))?;
    fs::create_dir(directory.join("conf.d"))?;
    // Erlang's own choice is made of a weak generator; whoever knows the cookie may run code as us.
    let cookie = match &purpose.peer {
        Some(peer) => peer.cookie.clone(),
        None => format!("{:032x}", rand::random::<u128>()),
    };
    fs::OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o400)
        .open(directory.join(COOKIE))?
        .write_all(cookie.as_bytes())?;
    // 50 MB: a full disk shall raise the alarm before it breaks the system, but not on every laptop.
    let mut settings = format!(
        "listeners.tcp.1 = 127.0.0.1:{}\nlog.console = false\ndisk_free_limit.absolute = 50MB\n",
        ports.amqp
    );
    if let Some(peer) = &purpose.peer {
        // Should the other be slow to answer, this one waits for two minutes before it would begin
        // a cluster of its own.
        settings += &format!(
            "cluster_formation.peer_discovery_backend = classic_config\n\
             cluster_formation.classic_config.nodes.1 = {}\n\
             cluster_formation.classic_config.nodes.2 = {}\n\
             cluster_formation.discovery_retry_limit = 240\n\
             cluster_formation.discovery_retry_interval = 500\n",
            peer.name,
            name(ports)
        );
    }
    if purpose.management {
        // Without the plugin, a server refuses to start with its keys.
        settings +=
            &format!("management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {}\n", ports.management);
    }
    fs::write(directory.join("rabbitmq.conf"), settings)?;
    let plugins = if purpose.management { "[rabbitmq_management].\n" } else { "[].\n" };
    fs::write(directory.join("enabled_plugins"), plugins)?;
    // Empty, but there: else `/etc/rabbitmq/rabbitmq-env.conf` would be read.
    fs::write(directory.join("env.conf"), "")?;
    fs::write(directory.join("watchdog.sh"), watchdog)?;
    Ok(())
}

/// The script in a broker's directory that is its `rabbitmqctl`.
pub(super) const CTL: &str = "rabbitmqctl";

/// The whole environment of the node, its epmd and its `rabbitmqctl`: nothing else is inherited.
pub(super) fn environment(
    installation: &Installation,
    directory: &Path,
    ports: &Ports,
) -> Vec<(&'static str, OsString)> {
    let port = |port: u16| OsString::from(port.to_string());
    let file = |name: &str| directory.join(name).into_os_string();
    vec![
        ("PATH", installation.path.clone()),
        ("LANG", "C.UTF-8".into()),
        ("HOME", file("home")),
        ("ERL_EPMD_ADDRESS", "127.0.0.1".into()),
        ("ERL_EPMD_PORT", port(ports.epmd)),
        // For every Erlang: RabbitMQ starts small ones whose only purpose is to leave an epmd behind.
        ("ERL_AFLAGS", "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}".into()),
        // No crash dump: it takes seconds, and the directory goes with us.
        ("ERL_CRASH_DUMP_SECONDS", "0".into()),
        // Makes the server's script become the server instead of waiting for it (3.10 and 4.x), so
        // that the pid the watchdog knows is the one to kill. Nothing else reads it.
        ("RUNNING_UNDER_SYSTEMD", "true".into()),
        ("RABBITMQ_NODENAME", name(ports).into()),
        ("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1".into()),
        ("RABBITMQ_NODE_PORT", port(ports.amqp)),
        ("RABBITMQ_DIST_PORT", port(ports.distribution)),
        // Any free one, instead of one of the eleven that all rabbitmqctl of a machine share.
        ("RABBITMQ_CTL_DIST_PORT_MIN", "0".into()),
        ("RABBITMQ_CTL_DIST_PORT_MAX", "0".into()),
        ("RABBITMQ_CONF_ENV_FILE", file("env.conf")),
        ("RABBITMQ_CONFIG_FILE", file("rabbitmq")),
        ("RABBITMQ_CONFIG_FILES", file("conf.d")),
        ("RABBITMQ_ADVANCED_CONFIG_FILE", file("advanced.config")),
        ("RABBITMQ_GENERATED_CONFIG_DIR", file("gen")),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", file("enabled_plugins")),
        ("RABBITMQ_MOTD_FILE", file("motd")),
        ("RABBITMQ_MNESIA_BASE", file("mnesia")),
        ("RABBITMQ_LOG_BASE", file("log")),
        ("RABBITMQ_PID_FILE", file("rabbitmq.pid")),
    ]
}

/// Writes a `rabbitmqctl` for this node alone, which a person or a tool can run from anywhere.
pub(super) fn write_ctl(
    installation: &Installation,
    directory: &Path,
    ports: &Ports,
) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let quoted = |word: &OsStr| format!("'{}'", word.to_string_lossy().replace('\'', r"'\''"));
    let mut script =
        "#!/bin/sh\n# `rabbitmqctl` of the broker in this directory.\nexec env -i".to_owned();
    for (variable, value) in environment(installation, directory, ports) {
        script += &format!(" \\\n    {variable}={}", quoted(&value));
    }
    script += &format!(" \\\n    {} \"$@\"\n", quoted(installation.ctl().as_os_str()));
    let path = directory.join(CTL);
    fs::write(&path, script)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Whether the node gave up because somebody else listens on one of its ports.
pub(super) fn port_was_taken(directory: &Path) -> bool {
    let out = fs::read(directory.join("out")).unwrap_or_default();
    let out = String::from_utf8_lossy(&out);
    // The first is for AMQP, the second for the distribution.
    ["eaddrinuse", "dist_port_already_used"].iter().any(|reason| out.contains(reason))
}

/// The end of what the node printed and logged, for an error message.
pub(super) fn tail(directory: &Path, ports: &Ports) -> String {
    let log = directory.join(format!("log/{}.log", name(ports)));
    [("output", directory.join("out")), ("log", log)]
        .iter()
        .filter_map(|(what, file)| Some(format!("end of its {what}:\n{}", end_of(file)?)))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Whole lines only.
fn end_of(file: &Path) -> Option<String> {
    let mut file = fs::File::open(file).ok()?;
    let skipped = file.metadata().ok()?.len().saturating_sub(TAIL_BYTES);
    file.seek(SeekFrom::Start(skipped)).ok()?;
    let mut end = Vec::new();
    file.read_to_end(&mut end).ok()?;
    let end = String::from_utf8_lossy(&end);
    let end = match end.split_once('\n') {
        Some((_, whole)) if skipped > 0 => whole,
        _ => &end,
    };
    let end = end.trim_end();
    (!end.is_empty()).then(|| end.to_owned())
}
