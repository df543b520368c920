//! Two machines with HAProxy and Keepalived, as network namespaces on one bridge. Each has the files
//! of `examples/deploy`. Everything is gone with the process that made it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};

use super::guests::root;
use super::haproxy::{self, replaced};

/// The address that one of them has.
pub const ADDRESS: &str = "192.0.2.100";

/// The machine on which the test, its broker and its host run. Its own network must be one that
/// nobody else uses.
#[derive(Debug)]
pub struct Network {
    _private: (),
}

impl Network {
    /// A bridge, as the switch that all machines are connected to.
    pub fn new() -> Self {
        ip("link set lo up");
        ip("link add rpc type bridge");
        ip("address add 192.0.2.1/24 dev rpc");
        ip("link set rpc up");
        Self { _private: () }
    }

    /// Another address of this machine.
    pub fn address(&self, address: &str) {
        ip(&format!("address add {address}/24 dev rpc"));
    }
}

/// A machine with HAProxy and Keepalived. It is a shell in namespaces of its own, which is told
/// what to do; when it ends, the kernel ends all that it has started.
#[derive(Debug)]
pub struct Balancer {
    number: u32,
    shell: Child,
    orders: ChildStdin,
    directory: tempfile::TempDir,
}

impl Balancer {
    /// Machine 1 or 2, with everything started.
    ///
    /// # Panics
    ///
    /// When this process may not make namespaces.
    pub fn start(_network: &Network, number: u32) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("haproxy.cfg"), haproxy::shipped()).expect("a file");
        std::fs::write(directory.path().join("keepalived.conf"), keepalived(number))
            .expect("a file");
        let log = std::fs::File::create(directory.path().join("log")).expect("the log");
        let mut shell = Command::new("unshare")
            .args(["--net", "--pid", "--fork", "--mount-proc", "--kill-child=KILL", "sh"])
            .current_dir(directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("`unshare`, from Debian's package `util-linux`");
        let mut orders = shell.stdin.take().expect("its input");
        // A /run of its own, where both programs find what they expect.
        orders
            .write_all(b"mount -t tmpfs none /run && mkdir /run/haproxy; echo there\n")
            .expect("it");
        let mut line = String::new();
        let said = shell.stdout.as_mut().expect("its output");
        BufReader::new(said).read_line(&mut line).expect("its answer");
        let balancer = Self { number, shell, orders, directory };
        assert_eq!(line.trim(), "there", "{}", balancer.log());
        let pid = balancer.shell.id();
        ip(&format!("link add lb{number} type veth peer name eth0 netns {pid}"));
        ip(&format!("link set lb{number} master rpc up"));
        balancer.order("ip link set lo up");
        balancer.order("ip link set eth0 up");
        balancer.order(&format!("ip address add 192.0.2.10{number}/24 dev eth0"));
        balancer.start_haproxy();
        balancer.order("keepalived --dont-fork --log-console --vrrp -f $PWD/keepalived.conf >&2 &");
        balancer
    }

    /// Whether it has the address.
    pub fn has_address(&self) -> bool {
        let pid = self.shell.id().to_string();
        let output = Command::new("nsenter")
            .args(["--net", "--target", &pid, "ip", "-brief", "address"])
            .output()
            .expect("`nsenter`, from Debian's package `util-linux`");
        String::from_utf8_lossy(&output.stdout).contains(&format!("{ADDRESS}/"))
    }

    /// Starts HAProxy, as its unit would.
    pub fn start_haproxy(&self) {
        self.order("haproxy -db -f haproxy.cfg >&2 &");
    }

    /// Kills HAProxy.
    pub fn kill_haproxy(&self) {
        self.order("pkill -KILL -x haproxy");
    }

    /// Pulls the cable. The machine says nothing any more, and hears nothing.
    pub fn unplug(&self) {
        ip(&format!("link set lb{} down", self.number));
    }

    fn order(&self, line: &str) {
        let mut orders = &self.orders;
        orders.write_all(format!("{line}\n").as_bytes()).expect("its shell");
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of balancer {} ---\n{}", self.number, self.log());
        }
        // `unshare` takes its child along, and that one all others of its namespace.
        let _ended = self.shell.kill();
        let _reaped = self.shell.wait();
    }
}

/// The shipped file, with the changes that it asks for on the second machine.
fn keepalived(number: u32) -> String {
    let path = root().join("examples/deploy/keepalived/keepalived.conf");
    let text = std::fs::read_to_string(path).expect("the shipped configuration");
    if number == 1 {
        return text;
    }
    let text = replaced(&text, "router_id balancer1", "router_id balancer2");
    let text = replaced(&text, "priority 100", "priority 90");
    let text = replaced(&text, "        192.0.2.102\n", "        192.0.2.101\n");
    replaced(&text, "unicast_src_ip 192.0.2.101", "unicast_src_ip 192.0.2.102")
}

fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .expect("`ip`, from Debian's package `iproute2`");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`ip {arguments}`: {said}");
}
