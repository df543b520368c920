//! The release binary as a child process.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long a host may take to be ready: compiling a hundred plugins included,
/// one of them 18 MB, on a machine with other work.
const READY: Duration = Duration::from_secs(240);

/// The binary under test.
pub fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_rpchost")
}

/// `rpchost` with an environment of its own and a quiet working directory.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command
        .args(args)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", "/nonexistent")
        .env("XDG_STATE_HOME", env!("CARGO_TARGET_TMPDIR"))
        .current_dir(std::env::temp_dir());
    command
}

/// A running `rpchost serve` with a plugin directory of its own. Killed on
/// drop.
#[derive(Debug)]
pub struct Host {
    child: Child,
    /// The ready line.
    pub ready: String,
    plugins: PathBuf,
    directory: tempfile::TempDir,
}

/// What a host is started with.
#[derive(Debug, Clone)]
pub struct Options {
    /// The broker.
    pub url: String,
    /// The queue, unless the file says it.
    pub queue: String,
    /// The text of `rpchost.toml`, where there is one.
    pub file: Option<String>,
    /// More arguments.
    pub args: Vec<String>,
    /// The state directory, where it is not to be one of the host's own.
    pub state: Option<PathBuf>,
    /// Where the state directory is that nobody named.
    pub xdg_state: Option<PathBuf>,
    /// Whether its standard error leads nowhere once it is ready.
    pub unheard: bool,
}

impl Options {
    /// The shared broker and a queue.
    pub fn new(url: &str, queue: &str) -> Self {
        Self {
            url: url.to_owned(),
            queue: queue.to_owned(),
            file: None,
            args: Vec::new(),
            state: None,
            xdg_state: None,
            unheard: false,
        }
    }

    /// A broker, and a file that says the queues.
    pub fn in_file(url: &str, file: &str) -> Self {
        Self { file: Some(file.to_owned()), ..Self::new(url, "") }
    }

    /// A state directory that outlives the host.
    pub fn state(mut self, directory: &Path) -> Self {
        self.state = Some(directory.to_owned());
        self
    }

    /// The state directory that hosts share who were told nothing.
    pub fn shared_state(mut self, xdg_state: &Path) -> Self {
        self.xdg_state = Some(xdg_state.to_owned());
        self
    }

    /// Nobody takes its log once it is ready.
    pub fn unheard(mut self) -> Self {
        self.unheard = true;
        self
    }

    /// More arguments.
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }
}

impl Host {
    /// Starts a host with these plugins and waits for its ready line.
    ///
    /// # Panics
    ///
    /// When the line does not come; with the host's log.
    pub fn start(options: &Options, plugins: &[(&str, &[u8])]) -> Self {
        Self::start_with(options, plugins, &[])
    }

    /// The same, with configurations of plugins by their names.
    ///
    /// # Panics
    ///
    /// As [`Host::start`].
    pub fn start_with(
        options: &Options,
        plugins: &[(&str, &[u8])],
        configs: &[(&str, &str)],
    ) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let folder = directory.path().join("plugins");
        std::fs::create_dir_all(&folder).expect("the plugin directory");
        for (name, wasm) in plugins {
            std::fs::write(folder.join(format!("{name}.wasm")), wasm).expect("a plugin");
        }
        for (name, text) in configs {
            std::fs::write(folder.join(format!("{name}.toml")), text).expect("a configuration");
        }
        let log = std::fs::File::create(directory.path().join("log")).expect("the log");
        let mut serve = command(&["serve", "--admin", "127.0.0.1:0"]);
        match &options.file {
            None => serve.args(["--queue", &options.queue]),
            Some(text) => {
                let file = directory.path().join("rpchost.toml");
                std::fs::write(&file, text).expect("the configuration");
                serve.arg("--config").arg(file)
            }
        };
        match &options.xdg_state {
            Some(xdg_state) => serve.env("XDG_STATE_HOME", xdg_state),
            None => {
                let own = || directory.path().join("state");
                serve.arg("--state-dir").arg(options.state.clone().unwrap_or_else(own))
            }
        };
        let mut child = serve
            .env("RPCHOST_AMQP_URL", &options.url)
            .arg("--plugins")
            .arg(&folder)
            .args(&options.args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(if options.unheard { Stdio::piped() } else { log.into() })
            .spawn()
            .expect("the host");
        let stdout = child.stdout.take().expect("its stdout");
        let (say, line) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // The test may be over.
                if say.send(line).is_err() {
                    return;
                }
            }
        });
        let mut host = Self { child, ready: String::new(), plugins: folder, directory };
        match line.recv_timeout(READY) {
            Ok(ready) => host.ready = ready,
            Err(error) => panic!("no ready line: {error}\n{}", host.log()),
        }
        drop(host.child.stderr.take());
        host
    }

    /// The plugin directory.
    pub fn plugins(&self) -> &Path {
        &self.plugins
    }

    /// Puts a plugin in place as a careful person would: by rename.
    pub fn put(&self, name: &str, wasm: &[u8]) {
        let temporary = self.plugins.join(format!(".{name}.tmp"));
        std::fs::write(&temporary, wasm).expect("a plugin");
        std::fs::rename(&temporary, self.plugins.join(format!("{name}.wasm"))).expect("a rename");
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("a signal");
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a pid")).expect("a pid")
    }

    /// Process id, to tell that it is still the same.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("its status").is_none()
    }

    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// When it does not end within `patience`.
    pub async fn ended(&mut self, patience: Duration) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("its status") {
                return status;
            }
            assert!(begun.elapsed() < patience, "still running:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))
            .expect("its status");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
        let kib: u64 =
            line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).expect("a number");
        kib * 1024
    }

    /// Processor time that it has used, all threads and ended helpers
    /// together.
    pub fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        let stat = stat.expect("its stat");
        // Behind the name, which may have spaces: fields 14 to 17 are ticks of
        // which Linux has a hundred a second.
        let (_, fields) = stat.rsplit_once(')').expect("a name");
        let ticks = fields.split_whitespace().skip(11).take(4);
        let ticks: u64 = ticks.map(|field| field.parse::<u64>().expect("a number")).sum();
        Duration::from_millis(10 * ticks)
    }

    /// Open descriptors and mappings of memory.
    pub fn held(&self) -> (usize, usize) {
        let process = format!("/proc/{}", self.child.id());
        let descriptors = std::fs::read_dir(format!("{process}/fd")).expect("its descriptors");
        let mappings = std::fs::read_to_string(format!("{process}/maps")).expect("its mappings");
        (descriptors.count(), mappings.lines().count())
    }

    /// `GET path` of the admin address: status and body.
    pub fn get(&self, path: &str) -> (u16, String) {
        let address = self.ready.split("admin=").nth(1).expect("an admin address");
        let mut stream = TcpStream::connect(address).expect("the admin address");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")
            .expect("a request");
        let mut response = String::new();
        stream.read_to_string(&mut response).expect("a response");
        let status = response.split(' ').nth(1).and_then(|text| text.parse().ok()).expect("status");
        let body = response.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
        (status, body.unwrap_or_default())
    }

    /// One sample of `/metrics`, by its full name with labels; 0 if absent.
    pub fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.get("/metrics");
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
            .and_then(|value| value.parse().ok())
            .unwrap_or(0.0)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the host ---\n{}", self.log());
        }
        // It may have ended already.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}
