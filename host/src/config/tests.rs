//! The whole way, from a command line, an environment and a file to a [`Config`] or to all its
//! problems. What single forms accept is tested beside them.

mod brokers;
mod listeners;
mod refusals;

use std::fs;
use std::path::Path;

use clap::{Args, Command, FromArgMatches};
use tempfile::TempDir;

use super::*;
use crate::message::Dialect;

/// One run: what is typed, what is set, what stands in the file.
#[derive(Default)]
struct Run<'a> {
    typed: &'a [&'a str],
    set: &'a [(&'a str, &'a str)],
    file: Option<&'a str>,
}

fn resolved(run: &Run<'_>, profile: Profile) -> Result<Config, Problems> {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("host.toml");
    let mut typed = vec!["serve"];
    if let Some(file) = run.file {
        fs::write(&path, file).unwrap();
        typed.extend(["--config", path.to_str().unwrap()]);
    }
    typed.extend(run.typed);
    let matches =
        ServeArgs::augment_args(Command::new("serve")).try_get_matches_from(typed).unwrap();
    let args = ServeArgs::from_arg_matches(&matches).unwrap();
    let environment = |name: &str| {
        let mut variables = run.set.iter().chain(&[("HOME", "/home/me")]);
        variables.find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    };
    resolve(&args, &matches, profile, &environment)
}

fn made(run: &Run<'_>) -> Config {
    resolved(run, Profile::Serve).unwrap_or_else(|problems| panic!("{problems}"))
}

fn typed(typed: &[&str]) -> Config {
    made(&Run { typed, ..Run::default() })
}

/// All problems, each as `origin: text`; the directory of the file is cut off.
fn problems(run: &Run<'_>) -> Vec<String> {
    let problems = resolved(run, Profile::Serve).unwrap_err();
    let short = |origin: &Origin| match origin {
        Origin::File { path, line, key } => {
            let path = path.file_name().map(PathBuf::from).unwrap_or_default();
            Origin::File { path, line: *line, key: key.clone() }
        }
        origin => origin.clone(),
    };
    problems.iter().map(|problem| format!("{}: {}", short(&problem.origin), problem.text)).collect()
}

#[test]
fn nothing_said_means_the_defaults() {
    let config = typed(&[]);
    assert_eq!(config.broker.brokers, [BrokerUrl::parse("amqp://localhost").unwrap().into()]);
    assert_eq!(config.broker.strategy, Strategy::RoundRobin);
    assert_eq!(
        (config.broker.connect_timeout, config.broker.connect_attempts),
        (Duration::from_secs(5), 0)
    );
    assert_eq!(config.broker.heartbeat, Duration::from_secs(10));
    assert_eq!(config.broker.tls, TlsConfig::default());
    assert_eq!(config.listeners[0].queue.name, "rpc_queue");
    assert_eq!(
        (config.listeners[0].queue.kind, config.listeners[0].queue.args.len()),
        (QueueKind::Quorum, 0)
    );
    assert_eq!(
        (config.plugins.as_path(), config.listeners[0].default_method.as_ref()),
        (Path::new("plugins"), None)
    );
    assert_eq!((config.listeners[0].form.dialect, config.reply_to_allow.len()), (Dialect::Auto, 0));
    let cores = std::thread::available_parallelism().unwrap().get();
    assert_eq!(config.limits.max_in_flight, 32 * cores);
    assert_eq!(usize::from(config.limits.prefetch), 64 * cores);
    assert_eq!(
        (config.limits.call_timeout, config.drain_timeout),
        (Duration::from_secs(30), Duration::from_secs(25))
    );
    assert_eq!(
        (config.limits.memory, config.limits.max_body, config.limits.max_headers),
        (64 << 20, 16 << 20, 128)
    );
    assert_eq!(config.state_dir, Path::new("/home/me/.local/state/rpchost"));
    assert!(!config.state_dir_named);
    assert_eq!(config.admin, Some("127.0.0.1:7070".parse().unwrap()));
    assert_eq!((config.log.level.as_str(), config.log.format), ("info", LogFormat::Text));
    assert_eq!(config.warnings, [""; 0]);
}

#[test]
fn flag_beats_environment_beats_file_beats_default() {
    let file = Some("queue = 'file'\nmax-in-flight = 3\ncall-timeout = '3s'");
    let set: &[_] =
        &[("RPCHOST_QUEUE", "set"), ("RPCHOST_MAX_IN_FLIGHT", "2"), ("RPCHOST_CALL_TIMEOUT", "")];
    let config = made(&Run { typed: &["--queue", "typed"], set, file });
    assert_eq!(config.listeners[0].queue.name, "typed");
    assert_eq!((config.limits.max_in_flight, config.limits.prefetch), (2, 4));
    assert_eq!(config.limits.call_timeout, Duration::from_secs(3), "an empty variable is not set");
    assert_eq!(config.drain_timeout, DEFAULT_DRAIN_TIMEOUT);
}

#[test]
fn every_key_can_be_typed_set_or_in_the_file() {
    let pem = tempfile::NamedTempFile::new().unwrap();
    let pem = pem.path().to_str().unwrap();
    let keys = [
        ("amqp-url", "amqps://u@h/v", true),
        ("tls-ca", pem, true),
        ("tls-cert", pem, true),
        ("tls-key", pem, true),
        ("strategy", "random", true),
        ("connect-timeout", "1s", true),
        ("connect-attempts", "7", false),
        ("heartbeat", "4s", true),
        ("queue", "q", true),
        ("queue-type", "classic", true),
        ("queue-arg", "x-max-length=5", true),
        ("reply-to-allow", "replies.*", true),
        ("dialect", "plain", true),
        ("plugins", "p", true),
        ("default-method", "math.fib", true),
        ("max-in-flight", "9", false),
        ("call-timeout", "2s", true),
        ("memory-limit", "1MiB", true),
        ("max-body", "64KiB", true),
        ("max-headers", "11", false),
        ("drain-timeout", "0s", true),
        ("state-dir", "s", true),
        ("admin", "off", true),
        ("log-level", "debug", true),
        ("log-format", "json", true),
    ];
    let flags: Vec<String> =
        keys.iter().map(|(key, value, _)| format!("--{key}={value}")).collect();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let variables = keys.map(|(key, value, _)| {
        (format!("RPCHOST_{}", key.to_uppercase().replace('-', "_")), value)
    });
    let variables: Vec<_> = variables.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let quote = |quoted: bool| if quoted { "'" } else { "" };
    let file: String =
        keys.map(|(key, value, quoted)| format!("{key} = {0}{value}{0}\n", quote(quoted))).concat();

    let config = typed(&flags);
    assert_eq!(made(&Run { set: &variables, ..Run::default() }), config);
    assert_eq!(made(&Run { file: Some(&file), ..Run::default() }), config);

    assert_eq!(config.broker.brokers, [BrokerUrl::parse("amqps://u@h/v").unwrap().into()]);
    assert_eq!(
        [&config.broker.tls.ca, &config.broker.tls.cert, &config.broker.tls.key],
        [&Some(pem.into()); 3]
    );
    assert_eq!((config.broker.strategy, config.broker.connect_attempts), (Strategy::Random, 7));
    assert_eq!(config.broker.connect_timeout, Duration::from_secs(1));
    assert_eq!(config.broker.heartbeat, Duration::from_secs(4));
    let args = vec![("x-max-length".to_owned(), ArgValue::Int(5))];
    assert_eq!(
        config.listeners[0].queue,
        QueueConfig { name: "q".into(), kind: QueueKind::Classic, args }
    );
    assert_eq!(
        (config.reply_to_allow, config.listeners[0].form.dialect),
        (vec!["replies.*".to_owned()], Dialect::Plain)
    );
    assert_eq!(
        (config.plugins.to_str(), config.listeners[0].default_method.as_deref()),
        (Some("p"), Some("math.fib"))
    );
    let call_timeout = Duration::from_secs(2);
    let limits = Limits {
        max_in_flight: 9,
        prefetch: 18,
        call_timeout,
        memory: 1 << 20,
        max_body: 64 << 10,
        max_headers: 11,
    };
    assert_eq!((config.limits, config.drain_timeout), (limits, Duration::ZERO));
    assert_eq!((config.state_dir.to_str(), config.admin), (Some("s"), None));
    assert!(config.state_dir_named);
    assert_eq!(config.log, LogConfig { level: "debug".into(), format: LogFormat::Json });
}

#[test]
fn lists_are_repeated_flags_commas_in_the_environment_and_toml_lists() {
    let expected: Vec<Broker> =
        ["amqp://a", "amqp://b"].map(|url| BrokerUrl::parse(url).unwrap().into()).into();
    let urls = |run: Run<'_>| made(&run).broker.brokers;
    assert_eq!(
        urls(Run {
            typed: &["--amqp-url", "amqp://a", "--amqp-url", "amqp://b"],
            ..Run::default()
        }),
        expected
    );
    assert_eq!(
        urls(Run { set: &[("RPCHOST_AMQP_URL", "amqp://a, amqp://b,")], ..Run::default() }),
        expected
    );
    assert_eq!(
        urls(Run { file: Some("amqp-url = ['amqp://a', 'amqp://b']"), ..Run::default() }),
        expected
    );
    let config = typed(&["--reply-to-allow", "a,b"]);
    assert_eq!(config.reply_to_allow, ["a,b"], "a comma in a flag is a comma");
}

#[test]
fn rabbitmq_variables_count_only_without_a_url() {
    let set: &[_] = &[("RABBITMQ_HOST", "h"), ("RABBITMQ_PASSWORD", "p")];
    assert_eq!(
        made(&Run { set, ..Run::default() }).broker.brokers[0].url.uri_with_credentials(),
        "amqp://guest:p@h:5672/%2F"
    );
    let run = Run {
        set: &[("RABBITMQ_PORT", "x")],
        typed: &["--amqp-url", "amqp://a"],
        ..Run::default()
    };
    assert_eq!(made(&run).broker.brokers[0].url.host(), "a");
    let run = Run { set: &[("RABBITMQ_PORT", "x")], ..Run::default() };
    assert_eq!(
        problems(&run),
        ["environment `RABBITMQ_PORT`: `x` is not a port; write a number from `1` to `65535`"]
    );
}

#[test]
fn a_password_file_replaces_the_password_of_every_url() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("password");
    fs::write(&path, "from file\n").unwrap();
    let file = ["--amqp-password-file", path.to_str().unwrap()];
    let config =
        typed(&[&file[..], &["--amqp-url", "amqp://u:x@a", "--amqp-url", "amqp://v@b"]].concat());
    assert!(config.broker.brokers.iter().all(|broker| broker.url.password() == "from file"));
    assert_eq!(typed(&file).broker.brokers[0].url.password(), "from file");
}
