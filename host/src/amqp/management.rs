//! How many connections each broker has, asked of RabbitMQ's management API
//! (<https://www.rabbitmq.com/docs/http-api-reference>); and [`get`] and
//! [`put`], for whoever else in this room has a question.
//!
//! The only place that speaks HTTP to a broker. A question has limits on its
//! time and on what it reads, and no answer is an answer too: the number is
//! then unknown. That is said once, and again only after it has changed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::future::join_all;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tracing::{debug, info, warn};
pub(super) use ureq::Agent;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

use crate::config::{Broker, ManagementUrl};

/// Longest wait for all numbers together. An idle broker answers in
/// milliseconds; a host without a broker should not wait for statistics.
const PATIENCE: Duration = Duration::from_secs(1);

/// Bytes of an answer that are read: about 150,000 connections, more than a
/// node of RabbitMQ carries.
const MAX_ANSWER: u64 = 4 << 20;

/// Which node answers. Statistics are left out of all answers: they cost the
/// broker work and are seconds old.
const NODE: &str = "/api/overview?columns=node&disable_stats=true";

/// The node of each connection in the cluster. The counters that are cheaper
/// to ask for cannot tell: one that counts closed connections counts those that
/// were never opened too, such as the checks of a load balancer.
const CONNECTIONS: &str = "/api/connections?columns=node&disable_stats=true";

/// What a user needs to see all connections.
const TAG: &str = "monitoring";

/// What [`get`] says of a thing that is not there.
pub(super) const NOT_FOUND: &str = "answered with the status 404";

/// Asks the brokers that have a management API.
#[derive(Debug)]
pub(super) struct Management {
    agent: Agent,
    patience: Duration,
    brokers: Vec<Option<Known>>,
}

#[derive(Debug)]
struct Known {
    /// The broker's own address, for people.
    broker: String,
    api: Arc<ManagementUrl>,
    /// Whether the last question was not answered, and that was said.
    silent: AtomicBool,
}

/// What is read of an element of either answer.
#[derive(Debug, Deserialize)]
struct Located {
    node: String,
}

impl Management {
    /// `ca` are certificates in PEM to trust for `https`; with none, those of
    /// the system.
    ///
    /// # Errors
    ///
    /// When the certificates cannot be read.
    pub(super) fn new(brokers: &[Broker], ca: Option<&str>) -> anyhow::Result<Self> {
        let agent = agent(ca, PATIENCE)?;
        let known = |broker: &Broker| {
            Some(Known {
                broker: broker.url.to_string(),
                api: Arc::new(broker.management.clone()?),
                silent: AtomicBool::new(false),
            })
        };
        Ok(Self { agent, patience: PATIENCE, brokers: brokers.iter().map(known).collect() })
    }

    /// The number of connections of each broker, all asked at once; unknown
    /// where there is no management API, or none that answers in time.
    pub(super) async fn connections(&self) -> Vec<Option<u64>> {
        let asked = self.brokers.iter().map(|known| async move {
            let known = known.as_ref()?;
            let (agent, api) = (self.agent.clone(), known.api.clone());
            let asking = tokio::task::spawn_blocking(move || count(&agent, &api));
            let counted = match tokio::time::timeout(self.patience, asking).await {
                Ok(Ok(counted)) => counted,
                Ok(Err(error)) => Err(format!("could not be asked: {error}")),
                Err(_) => Err(format!("did not answer within {:?}", self.patience)),
            };
            known.note(counted)
        });
        join_all(asked).await
    }
}

impl Known {
    /// Says what has changed, once.
    fn note(&self, counted: Result<u64, String>) -> Option<u64> {
        let Self { broker, api, silent } = self;
        match counted {
            Ok(connections) => {
                debug!(broker, connections, "counted");
                if silent.swap(false, Ordering::Relaxed) {
                    info!("the management API `{api}` answers again");
                }
                Some(connections)
            }
            Err(reason) => {
                if silent.swap(true, Ordering::Relaxed) {
                    debug!("the management API `{api}` {reason}");
                } else {
                    warn!(
                        "the management API `{api}` {reason}; until it answers, the broker \
                         `{broker}` comes after those whose connections are counted"
                    );
                }
                None
            }
        }
    }
}

/// Asks, with `patience` for each answer. `ca` as for [`Management::new`].
///
/// # Errors
///
/// When the certificates cannot be read.
pub(super) fn agent(ca: Option<&str>, patience: Duration) -> anyhow::Result<Agent> {
    let roots = match ca {
        None => RootCerts::PlatformVerifier,
        Some(pem) => {
            let mut certificates = Vec::new();
            for item in parse_pem(pem.as_bytes()) {
                if let PemItem::Certificate(certificate) = item? {
                    certificates.push(certificate);
                }
            }
            RootCerts::from(certificates)
        }
    };
    Ok(Agent::config_builder()
        .tls_config(TlsConfig::builder().root_certs(roots).build())
        .timeout_global(Some(patience))
        .http_status_as_error(false)
        // The credentials are for this address, and go no other way.
        .max_redirects(0)
        .proxy(None)
        // The next question is minutes or days away.
        .max_idle_connections(0)
        .user_agent("rpchost")
        .build()
        .new_agent())
}

/// Connections of the node behind `api`.
fn count(agent: &Agent, api: &ManagementUrl) -> Result<u64, String> {
    let here: Located = get(agent, api, NODE, TAG)?;
    let all: Vec<Located> = get(agent, api, CONNECTIONS, TAG)?;
    Ok(all.iter().filter(|one| one.node == here.node).count() as u64)
}

/// Reads one answer, for which the user needs `tag`. The error ends a sentence that begins with the API's
/// address; it repeats nothing of what was sent or read.
pub(super) fn get<T: DeserializeOwned>(
    agent: &Agent,
    api: &ManagementUrl,
    path: &str,
    tag: &str,
) -> Result<T, String> {
    let asked = agent.get(api.address(path)).header("Authorization", authorization(api)).call();
    let mut answer = asked.map_err(|error| explain(&error))?;
    accepted(api, answer.status().as_u16(), tag)?;
    let body = answer.body_mut().with_config().limit(MAX_ANSWER).read_to_vec();
    let body = body.map_err(|error| explain(&error))?;
    serde_json::from_slice(&body)
        .map_err(|_| "answered, but not as RabbitMQ does; check the address".to_owned())
}

/// Writes a JSON document. The error is as for [`get`].
pub(super) fn put(
    agent: &Agent,
    api: &ManagementUrl,
    path: &str,
    document: &serde_json::Value,
) -> Result<(), String> {
    let written = agent
        .put(api.address(path))
        .header("Authorization", authorization(api))
        .header("Content-Type", "application/json")
        .send(document.to_string());
    let answer = written.map_err(|error| explain(&error))?;
    accepted(api, answer.status().as_u16(), "administrator")
}

fn authorization(api: &ManagementUrl) -> String {
    format!("Basic {}", BASE64.encode(format!("{}:{}", api.username(), api.password())))
}

/// Whether the status is a success; `tag` is what the user needs for it.
fn accepted(api: &ManagementUrl, status: u16, tag: &str) -> Result<(), String> {
    match status {
        200..=299 => Ok(()),
        401 | 403 => Err(format!(
            "refuses the user `{}`; check its password, and give it the tag `{tag}`",
            api.username()
        )),
        status => Err(format!("answered with the status {status}")),
    }
}

fn explain(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Timeout(_) => "did not answer in time".to_owned(),
        ureq::Error::BodyExceedsLimit(limit) => {
            format!("answered with more than {} MiB", limit >> 20)
        }
        error => format!("cannot be asked: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::time::Instant;

    use super::*;

    /// An address where every request is answered with what `answer` makes of
    /// its first line and head.
    fn server(answer: impl Fn(&str) -> Vec<u8> + Send + 'static) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let (mut head, mut byte) = (Vec::new(), [0]);
                while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
                    head.extend(byte);
                }
                // The other side may have heard enough.
                let _written = stream.write_all(&answer(&String::from_utf8_lossy(&head)));
            }
        });
        format!("http://watcher:canary-secret@127.0.0.1:{port}/rabbit")
    }

    fn ok(body: &str) -> Vec<u8> {
        let length = body.len();
        format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
    }

    /// Node `a` with two connections, in a cluster with three.
    fn rabbit(head: &str) -> Vec<u8> {
        if head.starts_with("GET /rabbit/api/overview?") {
            return ok(r#"{"node":"a","more":1}"#);
        }
        assert!(head.starts_with("GET /rabbit/api/connections?"), "{head}");
        ok(r#"[{"node":"a"},{"node":"b"},{"node":"a","name":"x"}]"#)
    }

    fn broker(management: Option<&str>) -> Broker {
        let url = crate::config::BrokerUrl::parse("amqp://u:canary-secret@h").unwrap();
        let management = management.map(|url| ManagementUrl::parse(url).unwrap());
        Broker { management, ..Broker::from(url) }
    }

    async fn counted(management: &[Option<&str>]) -> Vec<Option<u64>> {
        let brokers: Vec<Broker> = management.iter().map(|url| broker(*url)).collect();
        Management::new(&brokers, None).unwrap().connections().await
    }

    fn reason(url: &str) -> String {
        let management = Management::new(&[broker(Some(url))], None).unwrap();
        count(&management.agent, &management.brokers[0].as_ref().unwrap().api).unwrap_err()
    }

    #[tokio::test]
    async fn the_connections_of_the_node_that_answers_are_counted() {
        let url = server(|head| {
            let sent = format!("Basic {}", BASE64.encode("watcher:canary-secret"));
            assert!(head.lines().any(|line| line.ends_with(&sent)), "{head}");
            rabbit(head)
        });
        assert_eq!(counted(&[Some(&url), None, Some(&url)]).await, [Some(2), None, Some(2)]);
    }

    #[tokio::test]
    async fn one_that_hangs_costs_the_others_nothing_but_a_second() {
        let frozen = TcpListener::bind("127.0.0.1:0").unwrap();
        let silent = format!("http://u:p@{}", frozen.local_addr().unwrap());
        let well = server(rabbit);
        let begun = Instant::now();
        assert_eq!(counted(&[Some(&silent), Some(&well)]).await, [None, Some(2)]);
        assert!(begun.elapsed() < PATIENCE * 4, "{:?}", begun.elapsed());
    }

    #[test]
    fn what_is_wrong_is_said_without_a_password() {
        for (answer, expected) in [
            (
                "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n",
                "refuses the user `watcher`; check its password, and give it the tag `monitoring`",
            ),
            (
                "HTTP/1.1 302 Found\r\nLocation: http://localhost/\r\nContent-Length: 0\r\n\r\n",
                "answered with the status 302",
            ),
            ("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", "answered with the status 500"),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>",
                "answered, but not as RabbitMQ does; check the address",
            ),
            ("nonsense\r\n\r\n", "cannot be asked: "),
        ] {
            let reason = reason(&server(move |_| answer.as_bytes().to_vec()));
            assert!(reason.starts_with(expected), "{reason}");
            assert!(!reason.contains("secret"), "{reason}");
        }
        let unreachable = {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            format!("http://watcher:canary-secret@{}", listener.local_addr().unwrap())
        };
        let reason = reason(&unreachable);
        assert!(reason.starts_with("cannot be asked: ") && !reason.contains("secret"), "{reason}");
    }

    #[test]
    fn https_to_what_is_not_tls_is_an_error_with_either_kind_of_certificates() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://u:canary-secret@{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                // The other side may be gone.
                let _written = stream.unwrap().write_all(b"HTTP/1.1 400 No\r\n\r\n");
            }
        });
        let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        for ca in [None, Some(signed.cert.pem())] {
            let management = Management::new(&[broker(Some(&url))], ca.as_deref()).unwrap();
            let api = &management.brokers[0].as_ref().unwrap().api;
            let reason = count(&management.agent, api).unwrap_err();
            assert!(reason.starts_with("cannot be asked: "), "{reason}");
            assert!(!reason.contains("secret"), "{reason}");
        }
    }

    #[test]
    fn an_answer_without_end_is_cut_off() {
        let url = server(|_| {
            let mut endless = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n[".to_vec();
            endless.resize(usize::try_from(MAX_ANSWER).unwrap() + (1 << 20), b' ');
            endless
        });
        assert_eq!(reason(&url), "answered with more than 4 MiB");
    }
}
