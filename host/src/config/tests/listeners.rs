//! `[[listener]]`: what its keys mean, what goes with a dialect, what does not go together.

use super::*;
use crate::message::EnvelopeReply;

fn in_file(file: &str) -> Vec<Listener> {
    made(&Run { file: Some(file), ..Run::default() }).listeners
}

fn refused(file: &str) -> Vec<String> {
    problems(&Run { file: Some(file), ..Run::default() })
}

#[test]
fn a_listener_has_keys_of_its_own() {
    let listeners = in_file(
        "[[listener]]\nqueue = 'requests'\nqueue-type = 'classic'\nqueue-arg = 'x-max-length=9'\n\
         exchange = 'rpc_exchange'\nexchange-durable = false\nbind = ['/.request./', 'rpc./']\n\
         dialect = 'envelope'\ndefault-method = 'math.fib'\nmethod-by-key = true\n\
         envelope-reply = 'flat'\nprefetch = 1\nreply-exchange = 'answers'\n\
         reply-queue = 'replies'\n[[listener]]\n",
    );
    let [first, second] = listeners.as_slice() else { panic!("{listeners:?}") };
    assert_eq!((first.queue.name.as_str(), first.queue.kind), ("requests", QueueKind::Classic));
    assert_eq!(first.queue.args, [("x-max-length".to_owned(), ArgValue::Int(9))]);
    let exchange = first.exchange.as_ref().unwrap();
    assert_eq!((exchange.name.as_str(), exchange.kind), ("rpc_exchange", ExchangeKind::Direct));
    assert!(!exchange.durable);
    assert_eq!(exchange.keys, ["/.request./", "rpc./"]);
    assert_eq!(first.form.dialect, Dialect::Envelope);
    assert_eq!((first.form.method_by_key, first.prefetch), (true, Some(1)));
    assert_eq!(first.form.envelope_reply, Some(EnvelopeReply::Flat));
    assert_eq!(first.default_method.as_deref(), Some("math.fib"));
    assert_eq!(first.reply_exchange.as_deref(), Some("answers"));
    assert_eq!(first.reply_queue.as_deref(), Some("replies"));
    assert!(!first.dead_letters, "its callers declare the queue, too");
    assert_eq!((second.queue.name.as_str(), second.queue.kind), ("rpc_queue", QueueKind::Quorum));
    assert!(second.dead_letters && second.exchange.is_none() && !second.exclusive);
}

#[test]
fn a_dialect_brings_what_its_clients_expect() {
    for file in ["[[listener]]\ndialect = 'nameko'", "dialect = 'nameko'"] {
        let nameko = in_file(file).remove(0);
        assert_eq!((nameko.queue.name.as_str(), nameko.per), ("rpc-{plugin}", Per::Plugin));
        let exchange = nameko.exchange.unwrap();
        assert_eq!((exchange.name.as_str(), exchange.kind), ("nameko-rpc", ExchangeKind::Topic));
        assert_eq!(exchange.keys, ["{plugin}.*"]);
        assert_eq!(nameko.reply_exchange.as_deref(), Some("nameko-rpc"));
    }
    let celery = in_file("[[listener]]\ndialect = 'celery'").remove(0);
    assert_eq!((celery.queue.name.as_str(), celery.queue.kind), ("celery", QueueKind::Classic));
    assert_eq!(celery.exchange.unwrap().keys, ["celery"]);
    assert!(!celery.dead_letters);
    let jobs = in_file("[[listener]]\ndialect = 'celery'\nqueue = 'jobs'").remove(0);
    assert_eq!(jobs.exchange.unwrap().keys, ["jobs"]);
    let aio_pika = in_file("[[listener]]\ndialect = 'aio-pika'").remove(0);
    assert_eq!((aio_pika.queue.name.as_str(), aio_pika.per), ("{method}", Per::Method));
    let dlx = ("x-dead-letter-exchange".to_owned(), ArgValue::Text("rpc.dlx".to_owned()));
    assert_eq!(aio_pika.queue.args, [dlx]);
    let ours = in_file("[[listener]]\ndialect = 'aio-pika'\ndead-letters = true").remove(0);
    assert!(ours.dead_letters && ours.queue.args.is_empty(), "{ours:?}");
    let behind =
        in_file("[[listener]]\ndialect = 'aio-pika'\nqueue = 'x::{method}'\nexchange = 'x'");
    assert_eq!(behind[0].exchange.as_ref().unwrap().keys, ["x::{method}"]);
    // A queue that was named is that queue, as before there were listeners.
    let named = typed(&["--queue", "services", "--dialect", "nameko"]).listeners.remove(0);
    assert_eq!((named.per, named.exchange), (Per::Listener, None));
}

#[test]
fn each_kind_of_exchange_has_its_bindings() {
    let bound = |lines: &str| {
        in_file(&format!("[[listener]]\nqueue = 'q'\nexchange = 'x'\n{lines}")).remove(0).exchange
    };
    assert_eq!(bound("").unwrap().keys, ["q"]);
    assert_eq!(bound("exchange-type = 'fanout'").unwrap().keys, [""]);
    let headers = bound("exchange-type = 'headers'\nbind-arg = ['x-match=any', 'n=1']").unwrap();
    assert_eq!((headers.keys.len(), headers.args.len()), (1, 2));
    assert_eq!(
        refused("[[listener]]\nexchange = 'x'\nexchange-type = 'topic'"),
        [
            "file `host.toml` line 2 key `listener.exchange`: the exchange `x` of type `topic` needs a \
             pattern in `bind`, such as `\"math.*\"`"
        ]
    );
    assert!(
        refused("[[listener]]\nexchange = 'x'\nexchange-type = 'headers'")[0].contains("bind-arg")
    );
    assert!(refused("[[listener]]\nbind = 'k'")[0].contains("needs an `exchange` too"));
}

#[test]
fn patterns_and_switches_go_together() {
    let per = |lines: &str| in_file(&format!("[[listener]]\n{lines}")).remove(0);
    assert_eq!(per("per-plugin = true").queue.name, "{plugin}");
    assert_eq!(per("per-plugin = true\nqueue = 'rpc.{plugin}'").per, Per::Plugin);
    assert_eq!(per("exclusive = true").queue.kind, QueueKind::Transient);
    for (lines, said) in [
        ("per-plugin = true\nqueue = 'rpc'", "must have `{plugin}` in it"),
        ("queue = 'rpc.{plugin}'", "write `per-plugin = true` too"),
        ("per-method = true\nqueue = '{plugin}.{method}'", "not filled in here; leave it out"),
        ("dialect = 'nameko'\nqueue = 'orders'", "write `per-plugin = false`"),
        (
            "dialect = 'nameko'\nqueue = 'orders'\nper-plugin = false",
            "the exchange `nameko-rpc` of type `topic` needs a pattern",
        ),
        ("per-plugin = true\nper-method = true\nqueue = '{plugin}'", "leave one of the two out"),
        ("per-plugin = 'yes'", "is no boolean; write `true` or `false`"),
        ("exclusive = true\nqueue-type = 'quorum'", "is not for quorum queues"),
        ("exclusive = true\ndead-letters = true", "are not for exclusive queues"),
        ("envelope-reply = 'flat'\ndialect = 'plain'", "is for the dialects `envelope` and `auto`"),
        ("prefetch = 0", "must be from `1` to `65535`"),
        ("reply-queue = 'rpc_queue'", "replies would be requests"),
        (
            "exchange = 'all'\nexchange-type = 'fanout'\nreply-exchange = 'all'",
            "replies would be requests",
        ),
    ] {
        let problems = refused(&format!("[[listener]]\n{lines}"));
        assert!(problems.concat().contains(said), "{lines}: {problems:?}");
        assert_eq!(problems.len(), 1, "{lines}: {problems:?}");
    }
}

#[test]
fn listeners_and_flat_keys_are_two_ways_and_one_is_chosen() {
    let two = "[[listener]]\nqueue = 'a'\n[[listener]]\nqueue = 'a'";
    assert!(refused(two)[0].ends_with("another listener has the queue `a`"));
    let both = refused("dialect = 'plain'\n[[listener]]\nqueue = 'a'");
    assert_eq!(
        both,
        [
            "file `host.toml` line 1 key `dialect`: stands beside `[[listener]]`; write `dialect` in the \
             listener it is meant for"
        ]
    );
    let named = made(&Run {
        typed: &["--queue", "mine"],
        file: Some("[[listener]]\nqueue = 'a'"),
        ..Run::default()
    });
    assert_eq!(named.listeners.len(), 1);
    assert_eq!(named.listeners[0].queue.name, "mine");
    assert_eq!(
        named.warnings,
        ["flag `--queue` takes the place of every `[[listener]]` in the file"]
    );
    let patterned = made(&Run {
        file: Some("[[listener]]\nper-plugin = true\nqueue = 'rpc.{plugin}'"),
        ..Run::default()
    });
    assert_eq!(patterned.called(Dialect::Plain, "math.fib", None).unwrap().queue, "rpc.math");
}

fn of(file: &str) -> Config {
    made(&Run { file: Some(file), ..Run::default() })
}

#[test]
fn a_caller_asks_the_queue_of_its_dialect() {
    let queues = |config: &Config| {
        [Dialect::Plain, Dialect::NestJs, Dialect::Nameko, Dialect::Celery, Dialect::AioPika]
            .map(|dialect| config.called(dialect, "math.fib", None).unwrap().queue)
    };
    let nothing_said = made(&Run::default());
    let usual = ["rpc_queue", "rpc_queue", "rpc-math", "celery", "math.fib"];
    assert_eq!(queues(&nothing_said), usual);
    let listeners =
        of("[[listener]]\nqueue = 'a'\n[[listener]]\nqueue = 'b'\ndialect = 'celery'\n");
    assert_eq!(queues(&listeners), ["a", "a", "rpc-math", "b", "math.fib"]);
    let nest_first = of("[[listener]]\nqueue = 'b'\ndialect = 'nestjs'\n[[listener]]\n");
    assert_eq!(queues(&nest_first), ["rpc_queue", "b", "rpc-math", "celery", "math.fib"]);
}

#[test]
fn a_caller_is_told_of_another_dialect_and_of_exchanges() {
    let nest = of("[[listener]]\nqueue = 'math_queue'\ndialect = 'nestjs'");
    for named in [None, Some("math_queue")] {
        assert_eq!(
            nest.called(Dialect::Plain, "math.fib", named).unwrap_err(),
            "`math_queue` is served as `nestjs`; write `--dialect nestjs`"
        );
    }
    assert_eq!(nest.called(Dialect::Plain, "math.fib", Some("other")).unwrap().queue, "other");
    let nameko = of("[[listener]]\ndialect = 'nameko'\nexchange = 'my-rpc'");
    let called = nameko.called(Dialect::Nameko, "math.fib", None).unwrap();
    let exchange = Some("my-rpc".to_owned());
    let theirs =
        Called { queue: "rpc-math".to_owned(), reply_exchange: exchange.clone(), exchange };
    assert_eq!(called, theirs);
    let refused = nameko.called(Dialect::Plain, "math.fib", None).unwrap_err();
    assert_eq!(refused, "`rpc-math` is served as `nameko`; write `--dialect nameko`");
}

#[test]
fn the_listener_of_a_queue_is_known_by_its_name_or_pattern() {
    let config = of("[[listener]]\ndialect = 'aio-pika'\n[[listener]]\ndialect = 'nameko'\n\
                     [[listener]]\nqueue = 'rpc-mine'\ndialect = 'celery'\n");
    let dialect = |queue: &str| config.listener_of(queue).map(|listener| listener.form.dialect);
    assert_eq!(dialect("math.fib"), Some(Dialect::AioPika));
    assert_eq!(dialect("rpc-math"), Some(Dialect::Nameko));
    assert_eq!(dialect("rpc-mine"), Some(Dialect::Celery));
    assert_eq!(dialect(""), None);
}

#[test]
fn a_client_is_warned_of_what_concerns_it() {
    let run = Run {
        typed: &["--amqp-url", "amqp://u:secret@h", "--queue", "a", "--memory-limit", "1MiB"],
        file: Some("[[listener]]\n"),
        ..Run::default()
    };
    assert_eq!(made(&run).warnings.len(), 3);
    let warnings = resolved(&run, Profile::Client).unwrap().warnings;
    assert_eq!(warnings, [PASSWORD_IN_FLAG]);
}
