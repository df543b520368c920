//! Two hosts and one broker, and what can happen to them.

use std::time::Duration;

use lapin::options::QueueDeleteOptions;
use rpchost::private_broker::PrivateBroker;
use rustix::process::Signal;

use super::{FLAGS, FROZEN, Fault, HOSTS, PATIENCE, Stage, versions, work};
use crate::faults::durable_queue;
use crate::support::host::{Host, Options};
use crate::support::ledger::{Asking, Load};
use crate::support::{broker, unique, until};

/// Whoever the hosts are for the broker; the client is another.
const USER: &str = "host";

/// What they may.
const ALLOWED: [&str; 5] = ["set_permissions", USER, ".*", ".*", ".*"];

/// Requests a second.
const RATE: u32 = 400;

/// The stage.
pub(super) struct Alone {
    broker: PrivateBroker,
    queue: String,
    options: Options,
    hosts: Vec<Host>,
    versions: [Vec<u8>; 2],
    /// Which of them is served.
    version: usize,
    /// What the hosts keep, which outlives each of them.
    _state: tempfile::TempDir,
}

impl Alone {
    pub(super) async fn start() -> Self {
        let broker = PrivateBroker::start().await.expect("a broker");
        broker.ctl(&["add_user", USER, "secret"]).await.expect("a user");
        broker.ctl(&ALLOWED).await.expect("permissions");
        let queue = unique("storm");
        durable_queue(&broker.amqp_url(), &queue).await;
        let state = tempfile::tempdir().expect("a directory");
        let url = broker.amqp_url().replace("guest:guest@", &format!("{USER}:secret@"));
        let options = Options::new(&url, &queue).args(&FLAGS).shared_state(state.path());
        let (hosts, versions, version) = (Vec::new(), versions(), 0);
        let mut stage = Self { broker, queue, options, hosts, versions, version, _state: state };
        for _ in 0..HOSTS {
            stage.hosts.push(stage.host());
        }
        stage
    }

    pub(super) async fn load(&self) -> Load {
        Load::begin(Asking::new(&self.broker.amqp_url(), &self.queue, RATE), work).await
    }

    pub(super) async fn end(self) {
        drop(self.hosts);
        self.broker.remove().await.expect("the broker is gone");
    }

    /// Another host.
    fn host(&self) -> Host {
        Host::start(&self.options, &[("misbehave", &self.versions[self.version])])
    }

    async fn ctl(&self, arguments: &[&str]) {
        self.broker.ctl(arguments).await.expect("what an operator does");
    }

    /// Closes connections; `rabbitmqctl` fails over one that ends by itself meanwhile.
    async fn close(&self, connections: &[&str]) {
        until("closed connections", PATIENCE, || async {
            self.broker.ctl(connections).await.is_ok()
        })
        .await;
    }

    /// Waits until a host says that it does not serve.
    async fn until_not_ready(&self, what: &str) {
        until(what, PATIENCE, || async {
            self.hosts.iter().any(|host| host.get("/readyz").0 == 503)
        })
        .await;
    }
}

impl Stage for Alone {
    async fn strike(&mut self, fault: Fault, nth: u64) {
        let odd = nth % 2 == 1;
        let one = usize::from(odd) % HOSTS;
        match fault {
            Fault::HostStopped => {
                // The next one takes over before this one leaves.
                let next = self.host();
                let mut before = std::mem::replace(&mut self.hosts[one], next);
                before.signal(Signal::TERM);
                let status = before.ended(PATIENCE).await;
                assert_eq!(status.code(), Some(0), "{}", before.log());
            }
            Fault::PluginSwapped => {
                self.version = 1 - self.version;
                let version = &self.versions[self.version];
                let swaps = |host: &Host| host.log().matches("plugin replaced").count();
                let swapped: Vec<usize> = self.hosts.iter().map(swaps).collect();
                self.hosts.iter().for_each(|host| host.put("misbehave", version));
                until("the swap", PATIENCE, || async {
                    self.hosts.iter().zip(&swapped).all(|(host, before)| swaps(host) > *before)
                })
                .await;
            }
            Fault::HostKilled => {
                self.hosts[one].signal(Signal::KILL);
                self.hosts[one].ended(PATIENCE).await;
                self.hosts[one] = self.host();
            }
            Fault::HostFrozen => {
                self.hosts[one].signal(Signal::STOP);
                tokio::time::sleep(FROZEN).await;
                self.hosts[one].signal(Signal::CONT);
            }
            Fault::BrokerKilled => {
                self.broker.kill().await.expect("a dead broker");
                self.broker.start_again().await.expect("the broker, again");
            }
            Fault::BrokerStopped if odd => {
                self.broker.stop().await.expect("a stopped broker");
                self.broker.start_again().await.expect("the broker, again");
            }
            Fault::BrokerStopped => {
                self.ctl(&["stop_app"]).await;
                self.ctl(&["start_app"]).await;
            }
            Fault::BrokerFrozen => {
                self.broker.freeze().await.expect("a frozen broker");
                tokio::time::sleep(FROZEN).await;
                self.broker.thaw().await.expect("a thawed broker");
            }
            Fault::ConnectionsClosed => self.close(&["close_all_connections", "a reason"]).await,
            Fault::MemoryAlarm => {
                self.ctl(&["set_vm_memory_high_watermark", "0.00001"]).await;
                self.until_not_ready("the alarm").await;
                tokio::time::sleep(Duration::from_secs(1)).await;
                self.ctl(&["set_vm_memory_high_watermark", "0.4"]).await;
            }
            Fault::PermissionsRevoked => {
                self.ctl(&["set_permissions", USER, ".*", "nothing", ".*"]).await;
                // A channel remembers what it was allowed.
                self.close(&["close_all_user_connections", USER, "permissions"]).await;
                self.until_not_ready("the refusal").await;
                self.ctl(&ALLOWED).await;
            }
            Fault::QueueDeleted => {
                let connection = broker::connect(&self.broker.amqp_url()).await;
                let channel = connection.create_channel().await.expect("a channel");
                let whole = QueueDeleteOptions::default();
                channel.queue_delete(self.queue.as_str().into(), whole).await.expect("a deletion");
            }
            Fault::LeaderKilled | Fault::NodeParted | Fault::NodeFrozen => {
                panic!("{}: there is no cluster here", fault.name())
            }
        }
    }

    fn hosts(&self) -> &[Host] {
        &self.hosts
    }
}
