//! `rpchost dev PROJECT`: from a changed file to the next answer.

use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::project;
use crate::support::guests;
use crate::support::host::binary;

/// A broker is started, on a machine with other work.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running `dev`, and what it has said so far.
struct Dev {
    child: Child,
    said: Arc<Mutex<String>>,
}

impl Dev {
    fn start(folder: &std::path::Path, args: &[&str]) -> Self {
        let mut child = Command::new(binary())
            .arg("dev")
            .args(args)
            .current_dir(folder)
            .env("XDG_STATE_HOME", folder.join("state"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary");
        let said = Arc::new(Mutex::new(String::new()));
        listen(child.stdout.take().expect("standard output"), said.clone());
        listen(child.stderr.take().expect("standard error"), said.clone());
        Self { child, said }
    }

    fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    fn says(&self, what: &str) {
        self.says_so_often(what, 1);
    }

    fn says_so_often(&self, what: &str, times: usize) {
        let end = Instant::now() + PATIENCE;
        while self.said().matches(what).count() < times {
            assert!(Instant::now() < end, "`{what}` was not said:\n{}", self.said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn url(&self) -> String {
        let said = self.said();
        let line = said.lines().find(|line| line.contains("broker    ")).expect("the URL");
        line.split_whitespace().last().expect("the URL").to_owned()
    }

    fn call(&self, method: &str) -> String {
        let mut call = Command::new(binary());
        let call = call.args(["call", method, "x", "--amqp-url", &self.url()]);
        let output = call.output().expect("the binary");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let pid = Pid::from_child(&self.child);
        if kill_process(pid, Signal::TERM).is_ok() {
            let _ended = self.child.wait();
        }
    }
}

fn listen(from: impl Read + Send + 'static, said: Arc<Mutex<String>>) {
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            let mut said = said.lock().unwrap();
            said.push_str(&line);
            said.push('\n');
        }
    });
}

#[test]
fn a_changed_project_is_built_and_swapped_and_calls_are_shown() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("plugins")).unwrap();
    let sources = project(folder.path(), "v", &guests::version("version-0001"), "");
    let dev = Dev::start(folder.path(), &["v"]);
    dev.says("rpchost ready");
    assert!(dev.said().contains("v: "), "{}", dev.said());
    assert!(dev.said().contains("plugins/v.wasm"), "{}", dev.said());
    assert_eq!(dev.call("v"), "version-0001\n");
    dev.says("v  x → version-0001");

    std::fs::write(sources.join("made.wat.wasm"), guests::version("version-0002")).unwrap();
    dev.says_so_often("plugins/v.wasm", 2);
    dev.says("plugin replaced");
    assert_eq!(dev.call("v"), "version-0002\n");

    // What cannot be built changes nothing, and says so in the tool's words.
    let file = sources.join("rpchost-plugin.toml");
    let good = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, good.replace("'cp', 'made", "'cp', 'mad")).unwrap();
    dev.says("cannot stat 'mad.wat.wasm'");
    dev.says("`v` is not built: `build` failed");
    assert_eq!(dev.call("v"), "version-0002\n");

    std::fs::write(sources.join("made.wat.wasm"), guests::version("version-0003")).unwrap();
    std::fs::write(&file, good).unwrap();
    dev.says_so_often("plugins/v.wasm", 3);
    dev.says_so_often("plugin replaced", 2);
    assert_eq!(dev.call("v"), "version-0003\n");

    // An error is shown as one.
    dev.call("nothing");
    dev.says("nothing  x ✗ method-not-found");
}

#[test]
fn a_project_that_is_none_is_named() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("plugins")).unwrap();
    let output =
        Command::new(binary()).args(["dev", "none"]).current_dir(folder.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("none/rpchost-plugin.toml` cannot be read"), "{said}");
}
