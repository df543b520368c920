//! `<plugin>.toml`, which stands beside `<plugin>.wasm` and says how that plugin differs from what
//! the host does.
//!
//! Knows the keys of that file; refuses to know the host's values, the plugin, and the disk.

use std::path::Path;
use std::time::Duration;

use super::bounds;
use super::file::{Keys, Table};
use super::problem::Problems;
use super::units::{Bounds, count, duration, one_of, size};
use super::written::Raw;

/// A plugin cannot be granted more calls than a host can have.
const MAX_CONCURRENCY: Bounds<u32> =
    Bounds { least: 1, most: bounds::MAX_IN_FLIGHT.most, why: "no host runs more calls than that" };

const KEYS: Keys<'static> = Keys {
    known: &[
        "timeout",
        "memory-limit",
        "max-concurrency",
        "instances",
        "on-redelivery",
        "kind",
        "self-test",
    ],
    lists: &[],
    reserved: &["config", "secrets", "allow-http", "allow-calls", "stores", "dirs"],
};

/// What one plugin asks for. Unset is the host's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginConfig {
    /// Longest run of one call, counted from its start; below 30 min.
    pub timeout: Option<Duration>,
    /// Most memory of one running call, in bytes.
    pub memory_limit: Option<u64>,
    /// Calls of this plugin running at once, above 0.
    pub max_concurrency: Option<usize>,
    /// What an instance serves.
    pub instances: Instances,
    /// What to do with a request that may have been delivered before.
    pub on_redelivery: OnRedelivery,
    /// What the plugin is, for a file that could be two things; unset is found out from its
    /// exports.
    pub kind: Option<PluginKind>,
    /// Whether a version serves only after it has passed the cases that it brings.
    pub self_test: bool,
}

impl Default for PluginConfig {
    fn default() -> Self {
        Self {
            timeout: None,
            memory_limit: None,
            max_concurrency: None,
            instances: Instances::default(),
            on_redelivery: OnRedelivery::default(),
            kind: None,
            self_test: true,
        }
    }
}

/// What an instance serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Instances {
    /// One call, so that nothing survives it.
    #[default]
    PerCall,
    /// Several, one after the other: for plugins that start slowly, or keep state on purpose.
    Reuse,
}

/// What to do with a request that the broker may have delivered before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnRedelivery {
    /// Run it, perhaps for the second time: at least once.
    #[default]
    Run,
    /// Answer `maybe-executed`: for handlers whose effects must not happen twice.
    Refuse,
    /// Give the same answer again where this host still knows it, else run it.
    Replay,
}

/// How a plugin is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PluginKind {
    /// `rpchost:rpc/handler`.
    Handler,
    /// Functions of WIT interfaces, or of the world itself.
    Typed,
    /// `wasi:cli/run`, or `_start` of a core module.
    Command,
}

impl PluginConfig {
    /// Reads the text of a file; `file_name` is how problems call it.
    ///
    /// # Errors
    /// All that is wrong with it, at once.
    pub fn parse(text: &str, file_name: &str) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let table = Table::parse(text, Path::new(file_name), &KEYS, &mut problems);
        let config = Self {
            timeout: read(&table, "timeout", &mut problems, |raw| {
                duration(raw.measure()?, &bounds::CALL_TIMEOUT)
            }),
            memory_limit: read(&table, "memory-limit", &mut problems, |raw| {
                size(raw.measure()?, &bounds::MEMORY_LIMIT)
            }),
            max_concurrency: read(&table, "max-concurrency", &mut problems, |raw| {
                count(raw.number()?, &MAX_CONCURRENCY)
                    .map(|calls| usize::try_from(calls).unwrap_or(usize::MAX))
            }),
            instances: read(&table, "instances", &mut problems, |raw| {
                let known = [("per-call", Instances::PerCall), ("reuse", Instances::Reuse)];
                one_of(raw.text()?, &known, &[])
            })
            .unwrap_or_default(),
            on_redelivery: read(&table, "on-redelivery", &mut problems, |raw| {
                one_of(
                    raw.text()?,
                    &[
                        ("run", OnRedelivery::Run),
                        ("refuse", OnRedelivery::Refuse),
                        ("replay", OnRedelivery::Replay),
                    ],
                    &[],
                )
            })
            .unwrap_or_default(),
            kind: read(&table, "kind", &mut problems, |raw| {
                let kinds = [
                    ("handler", PluginKind::Handler),
                    ("typed", PluginKind::Typed),
                    ("command", PluginKind::Command),
                ];
                one_of(raw.text()?, &kinds, &[])
            }),
            self_test: read(&table, "self-test", &mut problems, Raw::boolean).unwrap_or(true),
        };
        problems.unless_any(config)
    }
}

fn read<T>(
    table: &Table,
    key: &str,
    problems: &mut Problems,
    read: impl FnOnce(&Raw) -> Result<T, String>,
) -> Option<T> {
    table.find(key)?.one(problems, read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_changes_nothing() {
        assert_eq!(PluginConfig::parse("", "math.toml"), Ok(PluginConfig::default()));
        assert_eq!(PluginConfig::parse("# nothing\n", "math.toml"), Ok(PluginConfig::default()));
    }

    #[test]
    fn every_key_is_read() {
        let text = "timeout = '2s'\nmemory-limit = '1MiB'\nmax-concurrency = 4\ninstances = 'reuse'\n\
                    on-redelivery = 'refuse'\nkind = 'typed'\nself-test = false";
        let expected = PluginConfig {
            timeout: Some(Duration::from_secs(2)),
            memory_limit: Some(1 << 20),
            max_concurrency: Some(4),
            instances: Instances::Reuse,
            on_redelivery: OnRedelivery::Refuse,
            kind: Some(PluginKind::Typed),
            self_test: false,
        };
        assert_eq!(PluginConfig::parse(text, "math.toml"), Ok(expected));
    }

    #[test]
    fn each_mistake_is_named() {
        for (text, problem) in [
            ("timeout = 30", "`30` has no unit; write `30s` or `30ms`"),
            (
                "timeout = '30m'",
                "`30m` must be from `1ms` to `29m 59s`: RabbitMQ takes a request back that is not acked \
              within 30m (its `consumer_timeout`)",
            ),
            (
                "memory-limit = '1KiB'",
                "`1KiB` must be from `64KiB` to `4GiB`: one page is the least a guest has, and \
              4GiB all it can address",
            ),
            (
                "max-concurrency = 0",
                "`0` must be from `1` to `32767`: no host runs more calls than that",
            ),
            ("max-concurrency = '4'", "`\"4\"` is a string; write a whole number, without quotes"),
            ("instances = 'pooled'", "`pooled` is not known; write `per-call` or `reuse`"),
            ("on-redelivery = 'maybe'", "`maybe` is not known; write `run`, `refuse` or `replay`"),
            ("self-test = 0", "`0` is no boolean; write `true` or `false`, without quotes"),
            ("kind = 'daemon'", "`daemon` is not known; write `handler`, `typed` or `command`"),
            ("kind = ['typed', 'handler']", "2 values stand where one is expected"),
            ("timout = '1s'", "is not a key; did you mean `timeout`?"),
        ] {
            let key = text.split(' ').next().unwrap();
            let problems = PluginConfig::parse(text, "math.toml").unwrap_err();
            assert_eq!(
                problems.to_string(),
                format!("file `math.toml` line 1 key `{key}`  {problem}")
            );
        }
    }

    #[test]
    fn reserved_keys_say_so_also_as_tables() {
        for text in [
            "secrets = ['a']",
            "allow-http = true",
            "allow-calls = []",
            "stores = 1",
            "[dirs]",
            "[config]\na = 1",
        ] {
            let problems = PluginConfig::parse(text, "math.toml").unwrap_err();
            assert!(
                problems.to_string().ends_with("  not available in this version"),
                "{problems}"
            );
        }
    }

    #[test]
    fn all_mistakes_are_reported_at_once() {
        let text = "zebra = 1\ntimeout = '0s'\n[dirs]\n";
        let problems = PluginConfig::parse(text, "math.toml").unwrap_err();
        let lines: Vec<String> = problems.to_string().lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), 3, "{problems}");
        assert!(lines.iter().all(|line| line.starts_with("file `math.toml` line ")), "{problems}");
    }
}
