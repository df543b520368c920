//! Switching the Firehose on and off, by whatever can.
//!
//! A client cannot do it over AMQP. The management API can (the virtual host
//! has a setting `tracing`), and so can `rabbitmqctl`. Either acts on one node,
//! and it may be another broker's than the one we are connected to, on a
//! machine with several; so each is asked first whether it knows our queue.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::amqp::connect::Connector;
use crate::amqp::management::{self, Agent};
use crate::config::{BrokerUrl, ManagementUrl};

/// Longest wait for one answer of the management API, which may be busy where
/// somebody wants to see why.
const API_PATIENCE: Duration = Duration::from_secs(5);

/// `rabbitmqctl` starts a whole Erlang, several seconds on a busy machine.
const CTL_PATIENCE: Duration = Duration::from_secs(60);

/// AMQP's port, and that of the management API on the same machine, without
/// and with TLS. Elsewhere nothing is guessed.
const PORTS: [(bool, u16, &str, u16); 2] =
    [(false, 5672, "http", 15672), (true, 5671, "https", 15671)];

/// What a user needs to change a virtual host.
const TAG: &str = "administrator";

/// What an operator types where we cannot.
const BY_HAND: &str = "rabbitmqctl";

/// How the Firehose came to be on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Power {
    /// It was on already, and stays on.
    WasOn,
    /// We have switched it on, by this means.
    SwitchedOn(String),
    /// We cannot; why, and what to type.
    Unknown(String),
}

/// A means that has switched it on, and will switch it off.
#[derive(Debug, Clone)]
pub(super) enum Way {
    Api(Arc<ManagementUrl>),
    Ctl(Vec<String>),
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Api(api) => write!(f, "the management API `{api}`"),
            Self::Ctl(words) => write!(f, "`{}`", words.join(" ")),
        }
    }
}

/// The means there are for one broker.
#[derive(Debug)]
pub(super) struct Switch {
    agent: Option<Agent>,
    ways: Vec<Way>,
    vhost: String,
}

/// What is read of a queue, and of an overview.
#[derive(Debug, Deserialize)]
struct Located {
    node: String,
}

impl Switch {
    /// `ctl` is a command in place of `rabbitmqctl`; without one, that is used
    /// for a broker on this machine.
    pub(super) fn new(connector: &Connector, url: &BrokerUrl, ctl: Option<&[String]>) -> Self {
        let mut ways = Vec::new();
        let named = connector.management_of(url).cloned();
        if let Some(api) = named.or_else(|| usual_api(url)) {
            ways.push(Way::Api(Arc::new(api)));
        }
        match ctl {
            Some(words) => ways.insert(0, Way::Ctl(words.to_vec())),
            None if is_here(url.host()) => ways.push(Way::Ctl(vec![BY_HAND.to_owned()])),
            None => {}
        }
        let agent = management::agent(connector.ca(), API_PATIENCE)
            .inspect_err(|error| tracing::debug!("no management API can be asked: {error:#}"));
        Self { agent: agent.ok(), ways, vhost: url.vhost().to_owned() }
    }

    /// Switches it on where `queue` is, by the first means that can.
    pub(super) async fn on(&self, queue: &str) -> (Power, Option<Way>) {
        let mut reasons = Vec::new();
        for way in &self.ways {
            match self.on_by(way, queue).await {
                Ok(true) => return (Power::WasOn, None),
                Ok(false) => return (Power::SwitchedOn(way.to_string()), Some(way.clone())),
                Err(reason) => reasons.push(format!("{way} {reason}")),
            }
        }
        let why = if reasons.is_empty() {
            "it has no management API that we know of; name it with `--management`".to_owned()
        } else {
            reasons.join("; ")
        };
        let vhost = shell(&self.vhost);
        (
            Power::Unknown(format!(
                "{why}. On the broker's machine, type `rabbitmqctl trace_on -p {vhost}`, and \
                 `rabbitmqctl trace_off -p {vhost}` when done"
            )),
            None,
        )
    }

    /// Switches it off by the means that has switched it on.
    ///
    /// # Errors
    ///
    /// What to type, because it is still on.
    pub(super) async fn off(&self, way: &Way) -> Result<(), String> {
        let done = match way {
            Way::Api(api) => self.by_api(api, Some(false), None).await.map(|_| ()),
            Way::Ctl(words) => ctl(words, &["trace_off", "-p", &self.vhost]).await.map(|_| ()),
        };
        done.map_err(|reason| {
            format!(
                "the Firehose is still on, and slows the broker down: {way} {reason}. On the \
                 broker's machine, type `rabbitmqctl trace_off -p {}`",
                shell(&self.vhost)
            )
        })
    }

    /// Whether it was on already.
    async fn on_by(&self, way: &Way, queue: &str) -> Result<bool, String> {
        match way {
            Way::Api(api) => self.by_api(api, Some(true), Some(queue)).await,
            Way::Ctl(words) => {
                let here = ["list_queues", "-q", "--local", "-p", &self.vhost, "name"];
                let queues = ctl(words, &here).await?;
                if !queues.lines().any(|line| line == queue) {
                    return Err("speaks to another node than the one we are connected to; name a \
                                command that does not with `--ctl`, such as `rabbitmqctl -n NODE`"
                        .to_owned());
                }
                let tracing = ctl(words, &["list_vhosts", "-q", "name", "tracing"]).await?;
                let on = format!("{}\ttrue", self.vhost);
                if tracing.lines().any(|line| line == on) {
                    return Ok(true);
                }
                ctl(words, &["trace_on", "-p", &self.vhost]).await?;
                Ok(false)
            }
        }
    }

    /// Sets the virtual host's `tracing` and tells what it was.
    async fn by_api(
        &self,
        api: &Arc<ManagementUrl>,
        on: Option<bool>,
        queue: Option<&str>,
    ) -> Result<bool, String> {
        let agent = self.agent.clone().ok_or("cannot be asked: see the certificates")?;
        let (api, vhost) = (api.clone(), encoded(&self.vhost));
        let queue = queue.map(encoded);
        let asking = tokio::task::spawn_blocking(move || {
            if let Some(queue) = queue {
                let path = format!("/api/queues/{vhost}/{queue}?columns=node&disable_stats=true");
                let ours: Located =
                    management::get(&agent, &api, &path, TAG).map_err(|reason| {
                        if reason == management::NOT_FOUND {
                            "is another broker's than the one we are connected to".to_owned()
                        } else {
                            reason
                        }
                    })?;
                let path = "/api/overview?columns=node&disable_stats=true";
                let answers: Located = management::get(&agent, &api, path, TAG)?;
                if ours.node != answers.node {
                    return Err(format!(
                        "is that of the node `{}`, and we are connected to `{}`; name that one's \
                         with `--management`",
                        answers.node, ours.node
                    ));
                }
            }
            let path = format!("/api/vhosts/{vhost}");
            let was: Value =
                management::get(&agent, &api, &format!("{path}?disable_stats=true"), TAG)?;
            let was_on = was.get("tracing").and_then(Value::as_bool).unwrap_or_default();
            if let Some(on) = on.filter(|on| *on != was_on) {
                management::put(&agent, &api, &path, &with_tracing(&was, on))?;
            }
            Ok(was_on)
        });
        asking.await.map_err(|error| format!("could not be asked: {error}"))?
    }
}

/// The document that changes `tracing` and nothing else: what is not said anew
/// is forgotten by the broker.
fn with_tracing(was: &Value, on: bool) -> Value {
    let mut document = json!({ "tracing": on });
    if let Some(document) = document.as_object_mut() {
        for key in ["description", "tags", "default_queue_type", "metadata"] {
            if let Some(value) = was.get(key).filter(|value| *value != "undefined") {
                document.insert(key.to_owned(), value.clone());
            }
        }
    }
    document
}

/// Where RabbitMQ's management API usually is, for a broker at AMQP's own port.
fn usual_api(url: &BrokerUrl) -> Option<ManagementUrl> {
    let (_, _, scheme, port) =
        PORTS.into_iter().find(|(tls, port, ..)| (*tls, *port) == (url.is_tls(), url.port()))?;
    let host = url.host();
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    Some(ManagementUrl::parse(&format!("{scheme}://{host}:{port}")).ok()?.or_as_user_of(url))
}

fn is_here(host: &str) -> bool {
    host == "localhost"
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Runs `rabbitmqctl`. It is not in our process group, so that Ctrl-C lets it
/// finish: half done, nobody knows what is on.
async fn ctl(words: &[String], arguments: &[&str]) -> Result<String, String> {
    let [program, first @ ..] = words else { return Err("is no command".to_owned()) };
    let running = tokio::process::Command::new(program)
        .args(first)
        .args(arguments)
        .stdin(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(CTL_PATIENCE, running)
        .await
        .map_err(|_| format!("took longer than {CTL_PATIENCE:?}"))?
        .map_err(|error| format!("cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("it failed");
    // What follows are pages of advice.
    let said = said.trim_start_matches("Error:").trim_start();
    let said = said.split_once(". ").map_or(said, |(first, _)| first).trim_end_matches('.');
    Err(format!("says: {said}"))
}

fn encoded(name: &str) -> String {
    utf8_percent_encode(name, NON_ALPHANUMERIC).to_string()
}

/// A word as a shell takes it.
fn shell(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/_-.".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_ours_to_change_is_said_again() {
        let was = json!({
            "name": "v", "tracing": false, "description": "d", "tags": ["a", "b"],
            "default_queue_type": "undefined", "metadata": { "description": "d" }, "messages": 3,
        });
        let expected = json!({
            "tracing": true, "description": "d", "tags": ["a", "b"],
            "metadata": { "description": "d" },
        });
        assert_eq!(with_tracing(&was, true), expected);
    }

    #[test]
    fn an_address_is_guessed_only_beside_the_usual_port() {
        let api = |url: &str| usual_api(&BrokerUrl::parse(url).unwrap()).map(|api| api.to_string());
        assert_eq!(api("amqp://u:p@h").unwrap(), "http://h:15672");
        assert_eq!(api("amqps://u:p@h").unwrap(), "https://h:15671");
        assert_eq!(api("amqp://u:p@[::1]:5672/v").unwrap(), "http://[::1]:15672");
        assert_eq!(api("amqp://u:p@h:5673"), None);
    }

    #[test]
    fn what_is_to_be_typed_can_be_typed() {
        assert_eq!(shell("/"), "/");
        assert_eq!(shell("it's mine"), r"'it'\''s mine'");
        assert_eq!(shell(""), "''");
    }
}
