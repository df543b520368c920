//! On what it was measured, and with which versions.

use anyhow::Result;
use rpchost::private_broker::PrivateBroker;
use tokio::process::Command;

use super::servers::Places;

/// Lines of a list, in Markdown.
pub(crate) async fn describe(places: &Places, broker: &PrivateBroker) -> Result<Vec<String>> {
    let processor = first_value("/proc/cpuinfo", "model name").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let memory = first_value("/proc/meminfo", "MemTotal").unwrap_or_default();
    let system = first_value("/etc/os-release", "PRETTY_NAME").unwrap_or_default();
    let kernel = said("uname", &["-r"]).await;
    let python = places.installed("venv/bin/python").display().to_string();
    let version = "import sys, importlib.metadata as m; print(m.version(sys.argv[1]))";
    let library = async |name: &str| said(&python, &["-c", version, name]).await;
    let modules = places.installed("node/node_modules/amqplib/package.json");
    let node_library = std::fs::read_to_string(modules)
        .ok()
        .and_then(|text| serde_json::from_str::<serde_json::Value>(&text).ok())
        .and_then(|package| Some(package.get("version")?.as_str()?.to_owned()))
        .unwrap_or_default();
    let erlang = broker.ctl(&["eval", "erlang:system_info(otp_release)."]);
    let go = places.installed("venv/bin/go").display().to_string();
    let go_library = "golang-github-rabbitmq-amqp091-go-dev";
    let lock = std::fs::read_to_string(places.root.join("Cargo.lock")).unwrap_or_default();
    let locked = |name: &str| {
        let entry = format!("name = \"{name}\"\nversion = \"");
        let (_, rest) = lock.split_once(&entry)?;
        rest.split('"').next().map(str::to_owned)
    };
    let crates = ["lapin", "wasmtime"].map(|name| locked(name).unwrap_or_default());
    Ok(vec![
        format!("{processor}, {cores} cores shared by client, broker and server, {memory}"),
        format!("{}, Linux {kernel}", system.trim_matches('"')),
        format!(
            "RabbitMQ {}, Erlang {}",
            broker.ctl(&["version"]).await?.trim(),
            erlang.await?.lines().next().unwrap_or_default().trim_matches('"'),
        ),
        format!(
            "{}, {}, lapin {}, wasmtime {}",
            said(&places.rpchost.display().to_string(), &["--version"]).await,
            said("rustc", &["--version"]).await,
            crates[0],
            crates[1],
        ),
        format!(
            "{}, amqp091-go {}",
            said(&go, &["version"]).await,
            said("dpkg-query", &["-W", "-f", "${Version}", go_library]).await,
        ),
        format!("Node {}, amqplib {node_library}", said("node", &["--version"]).await),
        format!(
            "{}, pika {}, aio-pika {}, uvloop {}",
            said(&python, &["--version"]).await,
            library("pika").await,
            library("aio-pika").await,
            library("uvloop").await,
        ),
    ])
}

/// What a program prints; nothing if it cannot be run.
async fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().await;
    output
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .unwrap_or_default()
}

/// The value of the first line of a file that begins with a name.
fn first_value(file: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    let (_, value) = line.split_once([':', '='])?;
    Some(value.trim().to_owned())
}
