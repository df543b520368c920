//! Two hosts and three nodes, and what can happen to the nodes.

use std::time::Instant;

use lapin::types::{AMQPValue, LongString};

use super::{FLAGS, FROZEN, Fault, HOSTS, PATIENCE, Stage, versions, work};
use crate::support::cluster::Cluster;
use crate::support::host::{Host, Options};
use crate::support::ledger::{Asking, Load};
use crate::support::unique;

/// Requests a second. Each is on three disks before it is confirmed, and its answer, too.
const RATE: u32 = 200;

/// The stage.
pub(super) struct Clustered {
    cluster: Cluster,
    queue: String,
    hosts: Vec<Host>,
}

impl Clustered {
    pub(super) async fn start() -> Self {
        let cluster = Cluster::start().await;
        for node in 0..3 {
            cluster.pause_minority(node).await;
        }
        let queue = unique("storm");
        cluster.declare(0, &queue, "quorum").await;
        let versions = versions();
        let host = |first: usize| {
            let urls: Vec<String> = (first..first + 3).map(|node| cluster.url(node % 3)).collect();
            let options = Options::new(&urls.join(","), &queue).args(&FLAGS);
            Host::start(&options, &[("misbehave", &versions[0])])
        };
        let hosts = (0..HOSTS).map(host).collect();
        Self { cluster, queue, hosts }
    }

    pub(super) async fn load(&self) -> Load {
        let mut asking = Asking::new("", &self.queue, RATE);
        asking.urls =
            (0..3).map(|node| format!("{}?heartbeat=2", self.cluster.url(node))).collect();
        let quorum = AMQPValue::LongString(LongString::from("quorum"));
        asking.replies.insert("x-queue-type".into(), quorum);
        Load::begin(asking, work).await
    }

    pub(super) async fn end(self) {
        drop(self.hosts);
        self.cluster.remove().await;
    }
}

impl Clustered {
    /// The node that leads the queue, as another sees it, once there is one.
    async fn leader(&self, asked: usize) -> usize {
        let begun = Instant::now();
        loop {
            if let Some(leader) = self.cluster.leader(asked, &self.queue).await {
                return leader;
            }
            assert!(begun.elapsed() < PATIENCE, "nobody leads the queue");
        }
    }
}

impl Stage for Clustered {
    async fn strike(&mut self, fault: Fault, nth: u64) {
        let node = usize::try_from(nth).expect("a number") % 3;
        let other = (node + 1) % 3;
        match fault {
            Fault::LeaderKilled => {
                let leader = self.leader(node).await;
                self.cluster.nodes[leader].kill().await.expect("a dead node");
                tokio::time::sleep(FROZEN).await;
                self.cluster.start_again(leader, (leader + 1) % 3).await;
                self.cluster.pause_minority(leader).await;
            }
            Fault::NodeParted => {
                match nth.is_multiple_of(2) {
                    true => self.cluster.part(node).await,
                    false => self.cluster.part_slowly(node).await,
                }
                tokio::time::sleep(FROZEN).await;
                self.cluster.join(node).await;
                self.cluster.whole(other).await;
            }
            Fault::NodeFrozen => {
                self.cluster.nodes[node].freeze().await.expect("a frozen node");
                tokio::time::sleep(FROZEN).await;
                self.cluster.nodes[node].thaw().await.expect("a thawed node");
                self.cluster.whole(other).await;
            }
            _ => panic!("{}: not what a cluster adds", fault.name()),
        }
    }

    async fn explain(&self) -> String {
        self.cluster.tables().await
    }

    fn hosts(&self) -> &[Host] {
        &self.hosts
    }
}
