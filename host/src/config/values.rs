//! Values of which one key alone knows the form: queue names and arguments, dialects, addresses,
//! log levels, files.
//!
//! Each function goes from text to value, with the sentence an operator reads as its error. They
//! refuse to know where the text came from.

use std::fs::File;
use std::io::Read;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use tracing_subscriber::EnvFilter;

use super::units::{list, one_of};
use super::{ArgValue, LogFormat, QueueKind, Strategy};
use crate::message::Dialect;

/// An AMQP short string holds 255 bytes (0-9-1, 4.2.5.3), and `.suspect` is the longest name the
/// host appends.
pub(super) const MAX_QUEUE_NAME: usize = 255 - ".suspect".len();
/// An AMQP short string (0-9-1, 4.2.5.3): keys of arguments, routing keys, methods in `type`.
pub(super) const MAX_SHORT_STRING: usize = 255;
/// Bytes of a password file that are read. No password is longer; a wrong file may be.
const MAX_PASSWORD_FILE: u64 = 4096;
const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

pub(super) fn strategy(text: &str) -> Result<Strategy, String> {
    let choices = Strategy::ALL.map(|strategy| (strategy.name(), strategy));
    one_of(text, &choices, &[])
}

pub(super) fn queue_kind(text: &str) -> Result<QueueKind, String> {
    let choices = [
        ("quorum", QueueKind::Quorum),
        ("classic", QueueKind::Classic),
        ("transient", QueueKind::Transient),
    ];
    one_of(text, &choices, &["stream"])
}

pub(super) fn dialect(text: &str) -> Result<Dialect, String> {
    one_of(text, &Dialect::ALL.map(|dialect| (dialect.name(), dialect)), &[])
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, String> {
    one_of(text, &[("text", LogFormat::Text), ("json", LogFormat::Json)], &[])
}

/// A level, or directives for `EnvFilter`. That parser alone would take a misspelled level for the
/// name of a module, and the log would fall silent; so a word without `=` has to be a level.
pub(super) fn log_level(text: &str) -> Result<String, String> {
    let is_level = |word: &str| LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word));
    if is_level(text) {
        return Ok(text.to_ascii_lowercase());
    }
    let help = format!("write {} or directives such as `info,rpchost::amqp=debug`", list(LEVELS));
    if !text.contains('[')
        && text.split(',').any(|word| !word.contains('=') && !is_level(word.trim()))
    {
        return Err(format!("`{text}` is not a log level; {help}"));
    }
    match EnvFilter::builder().parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("`{text}` is not a log level: {error}; {help}")),
    }
}

pub(super) fn queue_name(text: &str) -> Result<String, String> {
    if text.starts_with("amq.") {
        return Err(format!(
            "`{text}` begins with `amq.`, which belongs to the broker; choose another name"
        ));
    }
    if text.chars().any(char::is_control) {
        return Err(format!("{text:?} holds a control character; choose another name"));
    }
    if text.len() > MAX_QUEUE_NAME {
        let bytes = text.len();
        return Err(format!(
            "`{text}` has {bytes} bytes, and {MAX_QUEUE_NAME} are allowed: names such as \
             `<queue>.suspect` must fit into the 255 of AMQP"
        ));
    }
    Ok(text.to_owned())
}

/// `KEY=VALUE`, the value typed by its form: queue arguments are typed in AMQP, and RabbitMQ
/// insists on the right one.
pub(super) fn queue_arg(text: &str) -> Result<(String, ArgValue), String> {
    let (key, value) = match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => (short_string(key.trim())?, value.trim()),
        _ => {
            return Err(format!("`{text}` must be `KEY=VALUE`, such as `x-max-length=1000`"));
        }
    };
    let value = match (value.parse(), value.parse()) {
        (Ok(number), _) => ArgValue::Int(number),
        (_, Ok(truth)) => ArgValue::Bool(truth),
        _ => ArgValue::Text(value.to_owned()),
    };
    Ok((key, value))
}

/// Text that AMQP carries as a short string.
pub(super) fn short_string(text: &str) -> Result<String, String> {
    match text.len() {
        ..=MAX_SHORT_STRING => Ok(text.to_owned()),
        bytes => Err(format!("`{text}` has {bytes} bytes, and AMQP allows {MAX_SHORT_STRING}")),
    }
}

/// `off`, or an address to listen on; a host name is resolved once, here.
pub(super) fn admin(text: &str) -> Result<Option<SocketAddr>, String> {
    if text == "off" {
        return Ok(None);
    }
    let problem = |why: &str| {
        format!(
            "`{text}` {why}; write `HOST:PORT` such as `127.0.0.1:7070` or `[::]:7070`, or `off`"
        )
    };
    if let Ok(address) = text.parse() {
        return Ok(Some(address));
    }
    match text.rsplit_once(':') {
        Some((host, port))
            if !host.is_empty() && !host.contains(':') && port.parse::<u16>().is_ok() => {}
        _ => return Err(problem("is not an address with a port")),
    }
    match text.to_socket_addrs().map(|mut addresses| addresses.next()) {
        Ok(Some(address)) => Ok(Some(address)),
        Ok(None) | Err(_) => Err(problem("names a host that is not known")),
    }
}

/// A file that is there and may be read.
pub(super) fn readable_file(text: &str) -> Result<PathBuf, String> {
    open(text).map(|_| PathBuf::from(text))
}

/// The content of a password file without the line end that editors leave.
pub(super) fn password_file(text: &str) -> Result<String, String> {
    let mut content = String::new();
    open(text)?
        .take(MAX_PASSWORD_FILE + 1)
        .read_to_string(&mut content)
        .map_err(|error| format!("`{text}` cannot be read: {error}"))?;
    if content.len() as u64 > MAX_PASSWORD_FILE {
        return Err(format!(
            "`{text}` holds more than {MAX_PASSWORD_FILE} bytes; it should hold a password and no \
             more"
        ));
    }
    let line = content.strip_suffix('\n').unwrap_or(&content);
    let password = line.strip_suffix('\r').unwrap_or(line);
    if password.is_empty() {
        return Err(format!("`{text}` is empty; write the password into it"));
    }
    Ok(password.to_owned())
}

fn open(path: &str) -> Result<File, String> {
    let file = File::open(path).map_err(|error| format!("`{path}` cannot be opened: {error}"))?;
    match file.metadata() {
        Ok(metadata) if metadata.is_dir() => Err(format!("`{path}` is a directory; name a file")),
        Ok(_) => Ok(file),
        Err(error) => Err(format!("`{path}` cannot be read: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn names_of_the_field_are_told_from_names_nobody_knows() {
        let text = |result: Result<(), String>| result.unwrap_err();
        let no_value = |_| ();
        assert_eq!(strategy("random"), Ok(Strategy::Random));
        assert_eq!(queue_kind("transient"), Ok(QueueKind::Transient));
        assert_eq!(dialect("json-rpc"), Ok(Dialect::JsonRpc));
        assert_eq!(log_format("json"), Ok(LogFormat::Json));
        assert_eq!(strategy("source-hash"), Ok(Strategy::SourceHash));
        assert_eq!(
            text(strategy("least-loaded").map(no_value)),
            "`least-loaded` is not known; write `round-robin`, `weighted-round-robin`, `random`, \
             `weighted-random`, `source-hash` or `least-connections`"
        );
        assert_eq!(
            text(dialect("soap").map(|_| ())),
            "`soap` is not known; write `auto`, `plain`, `json-rpc`, `envelope`, `nameko`, `nestjs`, \
             `celery` or `aio-pika`"
        );
    }

    #[test]
    fn log_levels_are_levels_or_directives() {
        for (text, level) in
            [("debug", "debug"), ("INFO", "info"), ("info,rpchost=trace", "info,rpchost=trace")]
        {
            assert_eq!(log_level(text), Ok(level.to_owned()));
        }
        assert!(log_level("info,[call{method=x}]=debug").is_ok());
        for text in ["inof", "verbose", "info,rpchost", "rpchost=loud", "off"] {
            assert!(
                log_level(text).unwrap_err().starts_with(&format!("`{text}` is not a log level")),
                "{text}"
            );
        }
    }

    #[test]
    fn queue_names_leave_room_for_the_names_made_from_them() {
        assert_eq!(queue_name("rpc_queue"), Ok("rpc_queue".to_owned()));
        let (fits, long) = ("q".repeat(247), "q".repeat(248));
        assert!(queue_name(&fits).is_ok());
        assert!(queue_name(&long).unwrap_err().contains("has 248 bytes, and 247 are allowed"));
        assert!(queue_name("amq.gen").unwrap_err().contains("belongs to the broker"));
        assert!(queue_name("a\nb").unwrap_err().starts_with("\"a\\nb\" holds a control character"));
    }

    #[test]
    fn queue_arguments_are_typed_by_their_form() {
        for (text, key, value) in [
            ("x-max-length=1000", "x-max-length", ArgValue::Int(1000)),
            ("a=-1", "a", ArgValue::Int(-1)),
            ("x-single-active-consumer=true", "x-single-active-consumer", ArgValue::Bool(true)),
            ("x-overflow = reject-publish", "x-overflow", ArgValue::Text("reject-publish".into())),
            ("a=b=c", "a", ArgValue::Text("b=c".into())),
            ("a=", "a", ArgValue::Text(String::new())),
        ] {
            assert_eq!(queue_arg(text), Ok((key.to_owned(), value)), "{text}");
        }
        for text in ["x-max-length", "=1", ""] {
            assert!(queue_arg(text).unwrap_err().contains("must be `KEY=VALUE`"), "{text}");
        }
        assert!(
            queue_arg(&format!("{}=1", "k".repeat(256))).unwrap_err().contains("AMQP allows 255")
        );
    }

    #[test]
    fn an_admin_address_is_off_or_has_a_host_and_a_port() {
        assert_eq!(admin("off"), Ok(None));
        for address in ["127.0.0.1:0", "0.0.0.0:7070", "[::]:7070"] {
            assert_eq!(admin(address), Ok(Some(address.parse().unwrap())));
        }
        assert!(admin("localhost:7070").unwrap().unwrap().ip().is_loopback());
        for text in
            ["7070", ":7070", "127.0.0.1", "::1:7070", "127.0.0.1:70700", "host:http", "on", ""]
        {
            assert!(admin(text).unwrap_err().contains("is not an address with a port"), "{text}");
        }
    }

    #[test]
    fn a_password_file_holds_one_password() {
        let directory = tempfile::tempdir().unwrap();
        let write = |content: &str| {
            let path = directory.path().join("password");
            fs::write(&path, content).unwrap();
            password_file(path.to_str().unwrap())
        };
        for content in ["p w", "p w\n", "p w\r\n"] {
            assert_eq!(write(content), Ok("p w".to_owned()));
        }
        for (content, problem) in
            [("", "is empty"), ("\n", "is empty"), (&*"s".repeat(5000), "more than 4096 bytes")]
        {
            assert!(write(content).unwrap_err().contains(problem), "{problem}");
        }
        let missing = directory.path().join("missing");
        assert!(password_file(missing.to_str().unwrap()).unwrap_err().contains("cannot be opened"));
        assert!(
            readable_file(directory.path().to_str().unwrap())
                .unwrap_err()
                .contains("is a directory")
        );
    }
}
