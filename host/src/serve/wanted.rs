//! Which queues a host has to consume, as the listeners and the plugins say.

use std::collections::BTreeSet;
use std::sync::Arc;

use tracing::warn;

use crate::config::{Limits, Listener, ServedQueue};
use crate::plugins::Served;

/// Makes the list anew whenever plugins come or go.
#[derive(Debug)]
pub(super) struct Wanted {
    listeners: Vec<Listener>,
    limits: Limits,
    /// Names that were complained of; each once. There are no more than
    /// methods.
    warned: BTreeSet<String>,
}

impl Wanted {
    pub(super) fn new(listeners: Vec<Listener>, limits: Limits) -> Self {
        Self { listeners, limits, warned: BTreeSet::new() }
    }

    /// Queues that there are whatever the plugins.
    pub(super) fn always(&self) -> Vec<Arc<ServedQueue>> {
        let queues = self.listeners.iter().filter_map(|listener| listener.queue(&self.limits));
        queues.map(Arc::new).collect()
    }

    /// All queues, in the order of the listeners; none for plugins that are
    /// about to go.
    pub(super) fn now(&mut self, served: &Served) -> Vec<Arc<ServedQueue>> {
        let mut all: Vec<Arc<ServedQueue>> = Vec::new();
        let mut complaints = Vec::new();
        for listener in &self.listeners {
            let one = listener.queue(&self.limits).map(Ok);
            let several = served
                .plugins
                .iter()
                .flat_map(|(plugin, methods)| listener.queues_of(&self.limits, plugin, methods));
            for queue in one.into_iter().chain(several) {
                match queue {
                    Err(name) => complaints.push((name, "is longer than a queue's name can be")),
                    Ok(queue) if all.iter().any(|other| other.queue.name == queue.queue.name) => {
                        complaints.push((queue.queue.name, "is another listener's already"));
                    }
                    Ok(queue) => all.push(Arc::new(queue)),
                }
            }
        }
        for (name, why) in complaints {
            if self.warned.insert(name.clone()) {
                warn!("the queue `{name}` is not consumed for its plugin: its name {why}");
            }
        }
        all
    }

    /// What to call them all: names, or patterns where there is none yet.
    pub(super) fn names(&mut self, served: &Served) -> String {
        let now = self.now(served);
        let names: Vec<&str> = if now.is_empty() {
            self.listeners.iter().map(|listener| listener.queue.name.as_str()).collect()
        } else {
            now.iter().map(|queue| queue.queue.name.as_str()).collect()
        };
        names.join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Per, QueueConfig, QueueKind};

    fn listener(name: &str, per: Per) -> Listener {
        let queue =
            QueueConfig { name: name.to_owned(), kind: QueueKind::Classic, args: Vec::new() };
        Listener { per, ..Listener::of(queue) }
    }

    fn limits() -> Limits {
        Limits {
            max_in_flight: 8,
            prefetch: 16,
            call_timeout: std::time::Duration::from_secs(1),
            memory: 1 << 20,
            max_body: 1 << 10,
            max_headers: 16,
        }
    }

    fn served(plugins: &[(&str, &[&str])]) -> Served {
        let plugins = plugins.iter().map(|(name, methods)| {
            (Arc::from(*name), methods.iter().map(|method| (*method).to_owned()).collect())
        });
        Served { methods: 1, plugins: plugins.collect() }
    }

    fn names(queues: &[Arc<ServedQueue>]) -> Vec<&str> {
        queues.iter().map(|queue| queue.queue.name.as_str()).collect()
    }

    #[test]
    fn there_is_a_queue_for_each_plugin_and_for_each_method() {
        let listeners = vec![
            listener("all", Per::Listener),
            listener("rpc.{plugin}", Per::Plugin),
            listener("{method}", Per::Method),
        ];
        let mut wanted = Wanted::new(listeners, limits());
        assert_eq!(names(&wanted.always()), ["all"]);
        assert_eq!(wanted.names(&served(&[])), "all");
        let math = served(&[("math", &["math.fib", "math.gcd"]), ("text", &["text"])]);
        let now = wanted.now(&math);
        assert_eq!(names(&now), ["all", "rpc.math", "rpc.text", "math.fib", "math.gcd", "text"]);
        assert_eq!((now[0].prefetch, now[1].prefetch), (16, 8));
        assert_eq!(now[0].terms.plugin, None);
        assert_eq!(now[1].terms.plugin.as_deref(), Some("math"));
        assert_eq!(now[1].terms.default_method.as_deref(), Some("math"));
        assert_eq!(now[4].terms.default_method.as_deref(), Some("math.gcd"));
    }

    #[test]
    fn a_name_is_consumed_once_and_fits() {
        let listeners = vec![listener("math", Per::Listener), listener("{plugin}", Per::Plugin)];
        let mut wanted = Wanted::new(listeners, limits());
        assert_eq!(names(&wanted.now(&served(&[("math", &["math.fib"])]))), ["math"]);
        let long = "m".repeat(250);
        let mut wanted = Wanted::new(vec![listener("{method}", Per::Method)], limits());
        assert_eq!(names(&wanted.now(&served(&[("math", &[&long, "math.fib"])]))), ["math.fib"]);
        assert_eq!(wanted.warned.len(), 1);
    }
}
