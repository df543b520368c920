//! What is refused and what is warned of, and in which words.

use super::*;

#[test]
fn a_password_earns_a_warning_in_a_flag_alone_and_is_shown_nowhere() {
    let url = "amqp://u:secret@h";
    let config = typed(&["--amqp-url", url]);
    assert_eq!(config.warnings.len(), 1, "{:?}", config.warnings);
    assert!(!format!("{config:?}").contains("secret"));
    for run in [
        Run { set: &[("RPCHOST_AMQP_URL", url)], ..Run::default() },
        Run { file: Some("amqp-url = 'amqp://u:secret@h'"), ..Run::default() },
        Run { typed: &["--amqp-url", "amqp://u@h"], ..Run::default() },
    ] {
        assert_eq!(made(&run).warnings, [""; 0]);
    }
    let bad = problems(&Run { typed: &["--amqp-url", "amqp://u:secret@h:port"], ..Run::default() });
    assert!(
        bad[0].starts_with("flag `--amqp-url`: the URL cannot be read")
            && !bad[0].contains("secret"),
        "{bad:?}"
    );
}

#[test]
fn what_is_possible_and_likely_not_meant_is_warned_of() {
    let warning = |flags: &[&str]| typed(flags).warnings.concat();
    assert_eq!(
        warning(&["--max-in-flight", "1000", "--max-body", "16MiB"]),
        "2000 prefetched messages of `16MiB` are up to `32000MiB` of memory; lower `max-in-flight` or `max-body`"
    );
    assert_eq!(warning(&["--max-in-flight", "128"]), "");
    assert_eq!(
        warning(&["--max-in-flight", "1", "--memory-limit", "1MiB"]),
        "a body of `16MiB` (`max-body`) does not fit into the memory of a call, `1MiB` (`memory-limit`)"
    );
    let pem = tempfile::NamedTempFile::new().unwrap();
    assert!(
        warning(&["--tls-ca", pem.path().to_str().unwrap()])
            .starts_with("the TLS files are not used")
    );
}

#[test]
fn all_problems_are_reported_at_once_each_with_its_place() {
    let run = Run {
        typed: &[
            "--heartbeat",
            "0s",
            "--queue",
            "amq.x",
            "--tls-cert",
            "/nowhere",
            "--queue-arg",
            "nonsense",
        ],
        set: &[
            ("RPCHOST_MAX_IN_FLIGHT", "40000"),
            ("RPCHOST_DIALECT", "soap"),
            ("RPCHOST_CALL_TIMEOUT", "30m"),
        ],
        file: Some("max_body = '1MiB'\nmax-headers = '5'\n\n[[listener]]\nqeue = 'x'"),
    };
    let expected = [
        "file `host.toml` line 1 key `max_body`: is not a key; did you mean `max-body`?",
        "file `host.toml` line 5 key `listener.qeue`: is not a key; did you mean `queue`?",
        "flag `--tls-cert`: needs the private key too; add `tls-key`",
        "flag `--tls-cert`: `/nowhere` cannot be opened: No such file or directory (os error 2)",
        "flag `--heartbeat`: `0s` must be from `1s` to `10m`: without heartbeats a frozen broker is never noticed",
        "flag `--queue`: `amq.x` begins with `amq.`, which belongs to the broker; choose another name",
        "environment `RPCHOST_DIALECT`: `soap` is not known; write `auto`, `plain`, `json-rpc`, `envelope`, `nameko`, \
         `nestjs`, `celery` or `aio-pika`",
        "flag `--queue-arg`: `nonsense` must be `KEY=VALUE`, such as `x-max-length=1000`",
        "environment `RPCHOST_MAX_IN_FLIGHT`: `40000` must be from `1` to `32767`: the prefetch is twice this, and \
         AMQP allows 65535",
        "environment `RPCHOST_CALL_TIMEOUT`: `30m` must be from `1ms` to `29m 59s`: RabbitMQ takes a request back that \
         is not acked within 30m (its `consumer_timeout`)",
        "file `host.toml` line 2 key `max-headers`: `\"5\"` is a string; write a whole number, without quotes",
    ];
    assert_eq!(problems(&run), expected);
}

#[test]
fn each_limit_refuses_what_is_just_beyond() {
    for (flag, good, bad) in [
        ("max-in-flight", "1", "0"),
        ("max-in-flight", "32767", "32768"),
        ("call-timeout", "29m 59s", "30m"),
        ("call-timeout", "1ms", "0s"),
        ("heartbeat", "10m", "11m"),
        ("heartbeat", "1s", "500ms"),
        ("memory-limit", "64KiB", "63KiB"),
        ("memory-limit", "4GiB", "5GiB"),
        ("max-body", "1KiB", "1000B"),
        ("max-body", "128MiB", "129MiB"),
        ("max-headers", "1", "0"),
        ("max-headers", "10000", "10001"),
        ("drain-timeout", "0s", "-1s"),
        ("drain-timeout", "30m", "31m"),
        ("connect-timeout", "1ms", "0s"),
        ("connect-attempts", "4294967295", "4294967296"),
    ] {
        let run = |value: &str| {
            let flag = format!("--{flag}={value}");
            resolved(&Run { typed: &[&flag], ..Run::default() }, Profile::Serve)
                .map_err(|problems| problems.len())
        };
        assert!(run(good).is_ok(), "{flag} {good}");
        assert_eq!(run(bad), Err(1), "{flag} {bad}");
    }
}

#[test]
fn the_queue_type_is_said_once() {
    let queue = |flags: &[&str]| {
        resolved(&Run { typed: flags, ..Run::default() }, Profile::Serve)
            .map(|c| c.listeners[0].queue.kind)
    };
    assert_eq!(queue(&["--queue-arg", "x-queue-type=quorum"]), Ok(QueueKind::Quorum));
    assert_eq!(
        queue(&["--queue-type=transient", "--queue-arg=x-queue-type=classic"]),
        Ok(QueueKind::Transient)
    );
    let run = Run { typed: &["--queue-arg", "x-queue-type=classic"], ..Run::default() };
    let expected = "flag `--queue-arg`: `x-queue-type=classic` contradicts the queue type `quorum`; leave it out and \
                    set `queue-type`";
    assert_eq!(problems(&run), [expected]);
    let bad = queue(&["--queue-type=clasic", "--queue-arg=x-queue-type=classic"]).unwrap_err();
    assert_eq!(bad.len(), 1, "{bad}");
    let twice = queue(&["--queue-arg=a=1", "--queue-arg=a=2"]).unwrap_err();
    assert_eq!(twice.to_string(), "flag `--queue-arg`  `a` is given twice; leave one out");
}

#[test]
fn dev_creates_a_classic_queue_unless_told_otherwise() {
    let kind = |flags: &[&str]| {
        resolved(&Run { typed: flags, ..Run::default() }, Profile::Dev).unwrap().listeners[0]
            .queue
            .kind
    };
    assert_eq!(kind(&[]), QueueKind::Classic);
    assert_eq!(kind(&["--queue-type", "quorum"]), QueueKind::Quorum);
}

#[test]
fn the_state_directory_follows_the_xdg_specification() {
    let directory = |set: &[(&str, &str)]| {
        resolved(&Run { set, ..Run::default() }, Profile::Serve).map(|config| config.state_dir)
    };
    assert_eq!(directory(&[("XDG_STATE_HOME", "/state")]), Ok("/state/rpchost".into()));
    assert_eq!(
        directory(&[("XDG_STATE_HOME", "relative")]),
        Ok("/home/me/.local/state/rpchost".into())
    );
    assert_eq!(directory(&[("HOME", "")]), Ok("/var/lib/rpchost".into()));
    assert_eq!(directory(&[("HOME", ""), ("RPCHOST_STATE_DIR", "/s")]), Ok("/s".into()));
}

#[test]
fn a_named_file_has_to_be_there() {
    let run = Run { typed: &["--config", "/nowhere/host.toml"], ..Run::default() };
    assert_eq!(
        problems(&run),
        ["file `host.toml`: cannot be read: No such file or directory (os error 2)"]
    );
    let run = Run { set: &[("RPCHOST_CONFIG", "/nowhere/host.toml")], ..Run::default() };
    assert_eq!(problems(&run).len(), 1);
}

#[test]
fn an_empty_flag_is_a_mistake() {
    let run = Run { typed: &["--queue", "", "--plugins", ""], ..Run::default() };
    let empty = "is empty; leave it out to get the default";
    assert_eq!(
        problems(&run),
        [format!("flag `--queue`: {empty}"), format!("flag `--plugins`: {empty}")]
    );
}
