//! HAProxy with the configuration that `examples/deploy` ships, on ports of its own.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rpchost::private_broker::PrivateBroker;

use super::guests::root;
use super::until;

/// A running HAProxy. Killed on drop.
#[derive(Debug)]
pub struct Haproxy {
    child: Child,
    directory: tempfile::TempDir,
    /// Where all nodes share the work.
    pub balanced: u16,
    /// Where the first node does everything and the others stand by.
    pub standby: u16,
    statistics: u16,
}

impl Haproxy {
    /// Starts one in front of three nodes, and waits until it knows that all of them are up.
    ///
    /// # Panics
    ///
    /// When HAProxy is not installed, or does not start; with what it said.
    pub async fn start(nodes: &[PrivateBroker]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let [balanced, standby, statistics] = [(); 3].map(|()| free_port());
        let mut text = shipped();
        for (number, node) in nodes.iter().enumerate() {
            let shipped = format!("192.0.2.{}:5672", 11 + number);
            text = replaced(&text, &shipped, &format!("127.0.0.1:{}", node.port()));
        }
        text = replaced(&text, "bind :5670", &format!("bind 127.0.0.1:{balanced}"));
        text = replaced(&text, "bind :5671", &format!("bind 127.0.0.1:{standby}"));
        text = replaced(&text, "127.0.0.1:8100", &format!("127.0.0.1:{statistics}"));
        let (config, log) = (directory.path().join("haproxy.cfg"), directory.path().join("log"));
        write(&config, &text, directory.path());
        let log = std::fs::File::create(log).expect("the log");
        let child = Command::new(PROGRAM)
            .args(["-db", "-f"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log"))
            .stderr(log)
            .spawn()
            .expect("HAProxy, from Debian's package `haproxy`");
        let haproxy = Self { child, directory, balanced, standby, statistics };
        until(&haproxy.log(), Duration::from_secs(10), || async {
            (1..=nodes.len()).all(|node| haproxy.status("rabbitmq", node).starts_with("UP"))
        })
        .await;
        haproxy
    }

    /// What it thinks of a node, from 1: `UP`, `DOWN`, `UP 1/2`. Empty if it does not say.
    pub fn status(&self, section: &str, node: usize) -> String {
        let table = get(self.statistics, "/stats;csv").unwrap_or_default();
        let mut rows = table.lines().map(|line| line.split(',').collect::<Vec<_>>());
        let header = rows.find(|row| row.first() == Some(&"# pxname")).unwrap_or_default();
        let column = header.iter().position(|name| *name == "status").unwrap_or_default();
        let server = format!("node{node}");
        rows.find(|row| row.first() == Some(&section) && row.get(1) == Some(&server.as_str()))
            .and_then(|row| row.get(column).map(|&status| status.to_owned()))
            .unwrap_or_default()
    }

    /// The page for people.
    pub fn page(&self) -> String {
        get(self.statistics, "/stats").expect("the statistics page")
    }

    /// What it has said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of HAProxy ---\n{}", self.log());
        }
        // It may have ended already.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Debian's; `/usr/sbin` is not in everybody's PATH.
pub const PROGRAM: &str = "/usr/sbin/haproxy";

/// The configuration as it is shipped.
pub fn shipped() -> String {
    let path = root().join("examples/deploy/haproxy/haproxy.cfg");
    std::fs::read_to_string(path).expect("the shipped configuration")
}

/// `text` with `from`, which must be there, replaced.
pub fn replaced(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "`{from}` is not in the shipped file");
    text.replace(from, to)
}

/// Writes a configuration for a HAProxy whose own things are in `directory`, and that needs no root:
/// it keeps its user, sees all files, and logs to its standard output.
pub fn write(config: &Path, text: &str, directory: &Path) {
    let mut text = text.to_owned();
    for line in ["    user haproxy\n", "    group haproxy\n", "    chroot /var/lib/haproxy\n"] {
        text = replaced(&text, line, "");
    }
    let socket = directory.join("admin.sock").display().to_string();
    text =
        replaced(&text, "stats socket /run/haproxy/admin.sock", &format!("stats socket {socket}"));
    text = replaced(&text, "log /dev/log local0", "log stdout format raw local0");
    std::fs::write(config, text).expect("the configuration");
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    listener.local_addr().expect("its address").port()
}

fn get(port: u16, path: &str) -> std::io::Result<String> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    Ok(response)
}
