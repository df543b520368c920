//! `[[broker]]`: what it becomes, what wins over it, what is refused.

use super::*;

const TWO: &str = "strategy = 'weighted-random'\n\
    [[broker]]\nurl = 'amqp://u:canary@a'\nweight = 3\n\
    [[broker]]\nurl = 'amqps://v@b/x'\n";

fn in_file(file: &str) -> Config {
    made(&Run { file: Some(file), ..Run::default() })
}

fn refused(file: &str) -> Vec<String> {
    let problems = problems(&Run { file: Some(file), ..Run::default() });
    assert!(!problems.concat().contains("canary"), "{problems:?}");
    problems
}

#[test]
fn each_table_is_a_broker() {
    let config = in_file(TWO);
    let [a, b] = config.broker.brokers.as_slice() else { panic!("{config:?}") };
    assert_eq!(a.url.uri_with_credentials(), "amqp://u:canary@a:5672/%2F");
    assert_eq!((b.url.to_string().as_str(), b.url.password()), ("amqps://v@b:5671/x", "guest"));
    assert_eq!((a.weight, b.weight), (3, 1));
    assert_eq!((&a.management, &b.management), (&None, &None));
    assert_eq!(config.warnings, [""; 0]);
    assert!(!format!("{config:?}").contains("canary"));
}

#[test]
fn a_flag_or_a_variable_replaces_the_whole_list() {
    let hosts = |run: Run<'_>| {
        let config = made(&run);
        config.broker.brokers.iter().map(|broker| broker.url.host().to_owned()).collect::<Vec<_>>()
    };
    let (typed, set): (&[_], &[_]) =
        (&["--amqp-url", "amqp://typed"], &[("RPCHOST_AMQP_URL", "amqp://set")]);
    let file = Some(TWO);
    assert_eq!(hosts(Run { typed, set, file }), ["typed"]);
    assert_eq!(hosts(Run { set, file, ..Run::default() }), ["set"]);
    assert_eq!(hosts(Run { file, ..Run::default() }), ["a", "b"]);
    // RabbitMQ's own variables are what is left when nobody names a broker.
    assert_eq!(hosts(Run { set: &[("RABBITMQ_HOST", "h")], file, ..Run::default() }), ["a", "b"]);
}

#[test]
fn a_password_file_is_for_every_broker_and_for_management_without_a_user() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("password");
    fs::write(&path, "from file\n").unwrap();
    let file = format!(
        "amqp-password-file = '{}'\nstrategy = 'least-connections'\n\
         [[broker]]\nurl = 'amqp://u:x@a'\nmanagement = 'http://a:15672'\n\
         [[broker]]\nurl = 'amqp://v@b'\nmanagement = 'http://m:own@b:15672'",
        path.display()
    );
    let brokers = in_file(&file).broker.brokers;
    let who = |broker: &Broker| {
        let management = broker.management.as_ref().unwrap();
        let passwords = (broker.url.password().to_owned(), management.password().to_owned());
        (management.username().to_owned(), passwords)
    };
    let own = str::to_owned;
    assert_eq!(who(&brokers[0]), (own("u"), (own("from file"), own("from file"))));
    assert_eq!(who(&brokers[1]), (own("m"), (own("from file"), own("own"))));
}

#[test]
fn everything_wrong_in_a_table_is_said_at_once() {
    let refusals = refused(
        "amqp-url = 'amqp://h'\n\
         [[broker]]\nurl = 'http://u:canary@h'\nweight = 0\nmanagement = 'amqp://u:canary@h'\n\
         [[broker]]\nweight = 1\n\
         [[broker]]\nurl = 'amqp://h'\nweight = '2'\nmangement = 'http://u:canary@h'\n\
         [[broker]]\nurl = 'amqp://h'\nweight = 1.5\nmanagement = 'http://u:12/canary@h'\n\
         [[broker]]\nurl = ['amqp://u:canary@h', 'amqp://h']",
    );
    let url = "is not a key; did you mean";
    assert_eq!(refusals.len(), 10, "{refusals:#?}");
    for (refusal, expected) in refusals.iter().zip([
        &*format!("line 11 key `broker.mangement`: {url} `management`?"),
        "line 3 key `broker.url`: the scheme must be `amqp` or `amqps`; write",
        "line 4 key `broker.weight`: `0` must be from `1` to `1000`: weights are shares",
        "line 5 key `broker.management`: the scheme must be `http` or `https`; write",
        "line 6 key `broker`: needs a `url` such as `amqp://user@host/vhost`",
        "line 10 key `broker.weight`: `\"2\"` is a string; write a whole number",
        "line 14 key `broker.weight`: a number with a fraction cannot stand here",
        "line 15 key `broker.management`: the URL has an `@`, `?` or `#` where none belongs",
        "line 17 key `broker.url`: 2 values stand where one is expected",
        "line 1 key `amqp-url`: stands beside `[[broker]]`; make it a `[[broker]]` with `url`",
    ]) {
        let expected = format!("file `host.toml` {expected}");
        assert!(refusal.starts_with(&expected), "{refusal}\nbut not\n{expected}");
    }
}

#[test]
fn a_list_that_is_overruled_is_not_looked_into() {
    let run = Run {
        typed: &["--amqp-url", "amqp://typed"],
        file: Some("[[broker]]\nweight = 0\nmanagement = 'x'"),
        ..Run::default()
    };
    assert_eq!(made(&run).warnings, [""; 0]);
    // But for keys that nobody knows.
    let run = Run { file: Some("[[broker]]\nwieght = 1"), ..run };
    assert_eq!(problems(&run).len(), 1);
}

#[test]
fn what_a_strategy_does_not_use_is_warned_of() {
    let warnings = |strategy: &str, first: &str, second: &str| {
        let [first, second] =
            [first, second].map(|more| format!("[[broker]]\nurl = 'amqps://u:canary@h'\n{more}\n"));
        let config = in_file(&format!("strategy = '{strategy}'\n{first}{second}"));
        assert!(!format!("{config:?}").contains("canary"));
        config.warnings
    };
    let https = "management = 'https://m:canary@h'";
    for strategy in ["weighted-round-robin", "weighted-random", "source-hash"] {
        assert_eq!(warnings(strategy, "weight = 2", ""), [""; 0]);
    }
    for strategy in ["round-robin", "random"] {
        let expected = format!(
            "the strategy `{strategy}` does not use `weight`; `weighted-round-robin`, \
             `weighted-random` and `source-hash` do"
        );
        assert_eq!(warnings(strategy, "weight = 2", ""), [expected]);
        let expected = format!(
            "the strategy `{strategy}` does not use `management`; `least-connections` does"
        );
        assert_eq!(warnings(strategy, https, https), [expected]);
    }
    assert_eq!(warnings("least-connections", https, https), [""; 0]);
    assert_eq!(
        warnings("least-connections", https, ""),
        [
            "1 of 2 brokers have no `management`; with `least-connections` they come after the others"
        ]
    );
    assert_eq!(
        warnings("least-connections", "", ""),
        [
            "the strategy `least-connections` has nobody to ask: no broker has `management`; they are \
          tried in any order"
        ]
    );
    assert_eq!(
        warnings("least-connections", https, "management = 'http://h'"),
        ["the password for `amqps://u@h:5671/` can be read on its way to `http://h:80`; use \
          `https`, or another user there"]
    );
    assert_eq!(warnings("least-connections", https, "management = 'http://localhost'"), [""; 0]);
}
