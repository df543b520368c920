//! What URLs and variables are read as, and that no password is ever shown.

use super::*;

fn parts(text: &str) -> (bool, String, u16, String, String, String) {
    let url = BrokerUrl::parse(text).unwrap();
    let own = str::to_owned;
    (
        url.is_tls(),
        own(url.host()),
        url.port(),
        own(url.username()),
        own(url.password()),
        own(url.vhost()),
    )
}

#[test]
fn what_is_left_out_has_a_default_and_what_is_encoded_is_decoded() {
    for (text, tls, host, port, username, password, vhost) in [
        ("amqp://h", false, "h", 5672, "guest", "guest", "/"),
        ("amqps://h/", true, "h", 5671, "guest", "guest", "/"),
        ("amqp://h/%2f", false, "h", 5672, "guest", "guest", "/"),
        ("amqp://u@h:1/%2F", false, "h", 1, "u", "guest", "/"),
        ("amqp://u:@h", false, "h", 5672, "u", "guest", "/"),
        ("amqp://u:p@h/v", false, "h", 5672, "u", "p", "v"),
        ("amqp://u%40x:p%2f%3a%25@h/team%2Fa", false, "h", 5672, "u@x", "p/:%", "team/a"),
        ("amqp://u:p@[::1]:7000/v", false, "::1", 7000, "u", "p", "v"),
        ("amqp://10.0.0.1", false, "10.0.0.1", 5672, "guest", "guest", "/"),
        ("amqp://h%61st", false, "hast", 5672, "guest", "guest", "/"),
        ("amqp://h/a/b", false, "h", 5672, "guest", "guest", "a/b"),
    ] {
        let expected = (tls, host.into(), port, username.into(), password.into(), vhost.into());
        assert_eq!(parts(text), expected, "{text}");
    }
}

#[test]
fn the_whole_uri_reads_back_as_the_same_broker() {
    for text in [
        "amqp://h",
        "amqps://u%40x:p%2f%3a%25%2c@h:1/team%2Fa?heartbeat=10&frame_max=32768",
        "amqp://u:p@[::1]:7000",
        "amqp://%c3%a4:%e2%82%ac@h/%20",
    ] {
        let url = BrokerUrl::parse(text).unwrap().with_password("p@/:ß");
        assert_eq!(BrokerUrl::parse(&url.uri_with_credentials()), Ok(url), "{text}");
    }
    let url = BrokerUrl::parse("amqp://h?heartbeat=10").unwrap();
    assert_eq!(url.uri_with_credentials(), "amqp://guest:guest@h:5672/%2F?heartbeat=10");
    assert_eq!(url.query(), Some("heartbeat=10"));
}

#[test]
fn people_see_no_password_and_no_options() {
    for (text, shown) in [
        ("amqp://u:secret@h", "amqp://u@h:5672/"),
        ("amqps://u:secret@h/team%2fa?password=secret", "amqps://u@h:5671/team%2Fa"),
        ("amqp://u:secret@[::1]", "amqp://u@[::1]:5672/"),
    ] {
        let url = BrokerUrl::parse(text).unwrap();
        assert_eq!(url.to_string(), shown);
        assert_eq!(format!("{url:?}"), format!("BrokerUrl({shown})"));
    }
}

#[test]
fn a_bad_url_is_explained_without_being_repeated() {
    for (text, reason) in [
        ("http://u:secret@h", "the scheme must be `amqp` or `amqps`"),
        ("u:secret@h", "a URL is expected"),
        ("amqp:u:secret@h", "a URL is expected"),
        ("secret", "a URL is expected"),
        ("amqp://u:secret@h:99999", "the URL cannot be read: invalid port number"),
        ("amqp://u:secret@h:0", "port `0` must be"),
        ("amqp://u:secret@", "the URL"),
        ("amqp:///v", "the URL names no host"),
        ("amqp://u:sec/ret@h", "the URL cannot be read: invalid port number"),
        ("amqp://u:12/secret@h", "the URL has an `@` or `#` where none belongs"),
        ("amqp://u:12?secret@h", "the URL has an `@` or `#` where none belongs"),
        ("amqp://u:12#secret@h", "the URL has an `@` or `#` where none belongs"),
        ("amqp://u:%ff@h", "the password in the URL is not UTF-8"),
    ] {
        let error = BrokerUrl::parse(text).unwrap_err();
        assert!(error.starts_with(reason), "{text}: {error}");
        assert!(!error.contains("secret"), "{text}: {error}");
    }
    let long = BrokerUrl::parse(&format!("amqp://h/{}", "v".repeat(256))).unwrap_err();
    assert_eq!(long, "the virtual host has 256 bytes, and AMQP allows 255");
}

fn from(variables: &[(&str, &str)]) -> (BrokerUrl, Problems) {
    let lookup = |name: &str| {
        variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    };
    let mut problems = Problems::default();
    (BrokerUrl::from_environment(&lookup, &mut problems), problems)
}

#[test]
fn rabbitmq_variables_describe_a_broker() {
    let (url, problems) = from(&[]);
    assert_eq!(
        (url.uri_with_credentials().as_str(), problems.len()),
        ("amqp://guest:guest@localhost:5672/%2F", 0)
    );
    let (url, problems) = from(&[
        ("RABBITMQ_HOST", "h"),
        ("RABBITMQ_PORT", "7"),
        ("RABBITMQ_USERNAME", "u"),
        ("RABBITMQ_PASSWORD", "p@ss"),
        ("RABBITMQ_VIRTUAL_HOST", "v"),
    ]);
    assert_eq!((url.uri_with_credentials().as_str(), problems.len()), ("amqp://u:p%40ss@h:7/v", 0));
    let (url, problems) = from(&[("RABBITMQ_HOST", ""), ("RABBITMQ_PORT", "")]);
    assert_eq!((url.host(), url.port(), problems.len()), ("localhost", 5672, 0));
}

#[test]
fn a_bad_rabbitmq_port_is_a_problem() {
    for (text, reason) in [
        ("0", "`0` is not a port; write a number from `1` to `65535`"),
        ("amqp", "`amqp` is not a port; write a number from `1` to `65535`"),
        (
            "tcp://10.0.0.1:5672",
            "is the address of a Kubernetes service, not a port; set `enableServiceLinks: false` or give \
             `--amqp-url`",
        ),
    ] {
        let (_, problems) = from(&[("RABBITMQ_PORT", text)]);
        assert_eq!(problems.to_string(), format!("environment `RABBITMQ_PORT`  {reason}"));
    }
}
