//! A RabbitMQ cluster of three nodes on loopback, and where in it things are.

use std::time::{Duration, Instant};

use lapin::Connection;
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable, LongString};
use rpchost::private_broker::PrivateBroker;
use serde_json::Value;

use super::ledger::Ledger;
use super::{broker, until};

/// Three nodes, numbered from 0.
#[derive(Debug)]
pub struct Cluster {
    /// Each can be killed, frozen and started again.
    pub nodes: Vec<PrivateBroker>,
}

impl Cluster {
    /// Starts one.
    ///
    /// # Panics
    ///
    /// When RabbitMQ is not installed or does not start.
    pub async fn start() -> Self {
        let begun = Instant::now();
        let first = PrivateBroker::start().await.expect("a first node");
        let (second, third) = tokio::join!(first.start_beside(), first.start_beside());
        let nodes = vec![first, second.expect("a second node"), third.expect("a third node")];
        eprintln!("cluster: three nodes after {:.1} s", begun.elapsed().as_secs_f64());
        Self { nodes }
    }

    /// A client's URL of one node.
    pub fn url(&self, node: usize) -> String {
        self.nodes[node].amqp_url()
    }

    /// Declares a durable queue of `kind` by way of a node, where its leader (or all of it, if it is
    /// classic) will be.
    pub async fn declare(&self, node: usize, queue: &str, kind: &str) {
        let connection = self.connect(node).await;
        let channel = connection.create_channel().await.expect("a channel");
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString(LongString::from(kind)));
        channel.queue_declare(queue.into(), durable, arguments).await.expect("a queue");
    }

    /// A client's connection to one node.
    pub async fn connect(&self, node: usize) -> Connection {
        broker::connect(&self.url(node)).await
    }

    /// The node where a queue's leader is, as node `asked` sees it.
    pub async fn leader(&self, asked: usize, queue: &str) -> Option<usize> {
        let list = ["list_queues", "--quiet", "--no-table-headers", "name", "leader"];
        self.named(&self.nodes[asked].ctl(&list).await.ok()?, queue).first().copied()
    }

    /// Has a node lead a quorum queue.
    pub async fn lead(&self, node: usize, queue: &str) {
        let name = self.nodes[node].node_name();
        let transfer = format!(
            "{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<\"/\">>, queue, <<\"{queue}\">>)), \
             rabbit_quorum_queue:transfer_leadership(Q, '{name}')."
        );
        self.nodes[node].ctl(&["eval", &transfer]).await.expect("a transfer");
        until("the leader", Duration::from_secs(20), || async {
            self.leader(node, queue).await == Some(node)
        })
        .await;
    }

    /// The nodes that consumers of a queue are connected to, as node `asked` sees it.
    pub async fn consumers(&self, asked: usize, queue: &str) -> Vec<usize> {
        let list = ["list_consumers", "--quiet", "--no-table-headers", "queue_name", "channel_pid"];
        self.named(&self.nodes[asked].ctl(&list).await.unwrap_or_default(), queue)
    }

    /// The nodes that are named in the queue's lines.
    fn named(&self, table: &str, queue: &str) -> Vec<usize> {
        let lines = table.lines().filter(|line| line.split('\t').next() == Some(queue));
        let node = |line: &str| self.nodes.iter().position(|node| line.contains(&node.node_name()));
        lines.filter_map(node).collect()
    }

    /// Starts a node again, and waits until node `asked` counts three.
    pub async fn start_again(&mut self, node: usize, asked: usize) {
        self.nodes[node].start_again().await.expect("the node, again");
        self.whole(asked).await;
    }

    /// Waits until node `asked` counts three.
    pub async fn whole(&self, asked: usize) {
        until("three nodes", Duration::from_secs(60), || async { self.running(asked).await == 3 })
            .await;
    }

    /// Has a node stop for as long as it does not see another. Until it is started again, since no
    /// file says so.
    pub async fn pause_minority(&self, node: usize) {
        let set = "application:set_env(rabbit, cluster_partition_handling, pause_minority).";
        self.nodes[node].ctl(&["eval", set]).await.expect("a setting");
    }

    /// Parts a node from the others: they do not accept each other's cookie any more, as if no
    /// packet came through. Clients reach all three as before.
    pub async fn part(&self, node: usize) {
        let parts: Vec<String> = self.peers(node).iter().map(|peer| part(peer)).collect();
        self.part_by(node, &parts.join(", ")).await;
    }

    /// The same, one peer after the other: for a second or so the cluster is parted in part.
    pub async fn part_slowly(&self, node: usize) {
        for peer in self.peers(node) {
            self.part_by(node, &part(&peer)).await;
        }
    }

    async fn part_by(&self, node: usize, parts: &str) {
        self.nodes[node].ctl(&["eval", &format!("{parts}.")]).await.expect("a partition");
    }

    /// Ends that.
    pub async fn join(&self, node: usize) {
        for peer in self.peers(node) {
            let join = format!("erlang:set_cookie('{peer}', erlang:get_cookie()).");
            self.nodes[node].ctl(&["eval", &join]).await.expect("the end of a partition");
        }
    }

    /// The names of the other nodes.
    fn peers(&self, node: usize) -> Vec<String> {
        let others = self.nodes.iter().enumerate().filter(|(index, _)| *index != node);
        others.map(|(_, node)| node.node_name()).collect()
    }

    /// How many nodes run, as node `asked` sees it.
    async fn running(&self, asked: usize) -> usize {
        let status = ["cluster_status", "--formatter", "json"];
        let status = self.nodes[asked].ctl(&status).await.unwrap_or_default();
        let status: Value = serde_json::from_str(&status).unwrap_or_default();
        status["running_nodes"].as_array().map_or(0, Vec::len)
    }

    /// Its queues and who holds what of them, for the person who looks for a reason.
    pub async fn tables(&self) -> String {
        let queues = ["name", "leader", "messages_ready", "messages_unacknowledged", "consumers"];
        let channels = ["name", "consumer_count", "messages_unacknowledged", "prefetch_count"];
        let mut tables = String::new();
        for (list, columns) in [("list_queues", &queues[..]), ("list_channels", &channels[..])] {
            let ctl = [&[list, "--quiet"], columns].concat();
            for node in &self.nodes {
                tables += &node.ctl(&ctl).await.unwrap_or_else(|error| format!("{error:#}\n"));
            }
        }
        tables
    }

    /// Ends all of it.
    pub async fn remove(self) {
        let mut nodes = self.nodes.into_iter();
        let first = nodes.next();
        let others: Vec<_> = nodes.map(|node| tokio::spawn(node.remove())).collect();
        for other in others {
            other.await.expect("no panic").expect("the node is gone");
        }
        if let Some(first) = first {
            first.remove().await.expect("the first node is gone");
        }
    }
}

fn part(peer: &str) -> String {
    format!("erlang:set_cookie('{peer}', parted), erlang:disconnect_node('{peer}')")
}

/// The longest time since `since` in which no answer came, up to the last that did.
pub fn longest_gap(ledger: &Ledger, since: Instant) -> Duration {
    let entries = ledger.entries();
    let mut times: Vec<Instant> = entries
        .values()
        .flat_map(|entry| entry.answers.iter().map(|answer| answer.at))
        .filter(|at| *at > since)
        .collect();
    times.push(since);
    times.sort();
    times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

/// The longest time that a confirmed request has waited for its first answer.
pub fn slowest_answer(ledger: &Ledger) -> Duration {
    let entries = ledger.entries();
    let answered = entries.values().filter_map(|entry| Some((entry.sent, entry.answers.first()?)));
    answered.map(|(sent, answer)| answer.at - sent).max().unwrap_or_default()
}
