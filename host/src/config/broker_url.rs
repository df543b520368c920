//! The address of a broker with its credentials:
//! `amqp://user:password@host:port/vhost?option=value`.
//!
//! Knows the AMQP URI (<https://www.rabbitmq.com/docs/uri-spec>) and RabbitMQ's environment
//! variables; refuses to know who connects. Only two methods give the password away, both by name;
//! `Display`, `Debug` and every error leave it out.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use url::Url;

use super::Environment;
use super::problem::{Origin, Problems};

/// Port of AMQP without TLS, as registered with IANA.
const AMQP_PORT: u16 = 5672;
/// Port of AMQP over TLS, as registered with IANA.
const AMQPS_PORT: u16 = 5671;
/// User name and password of a RabbitMQ nobody has configured; it accepts them from localhost only.
const GUEST: &str = "guest";
/// The virtual host every RabbitMQ has.
const ROOT_VHOST: &str = "/";

/// What is percent-encoded when a part is put into a URI: all but RFC 3986's unreserved characters.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// One broker: where it is and who we are there. All parts are decoded.
#[derive(Clone, PartialEq, Eq)]
pub struct BrokerUrl {
    tls: bool,
    host: String,
    port: u16,
    username: String,
    password: Option<String>,
    vhost: String,
    query: Option<String>,
}

impl BrokerUrl {
    /// Reads an `amqp://` or `amqps://` URL.
    ///
    /// What is left out becomes port 5672 (5671 with TLS), user and password `guest`, virtual host
    /// `/`. A path of `/` alone is the virtual host `/` too, where the specification would have an
    /// empty name: no one means that.
    ///
    /// # Errors
    /// A sentence for the operator that repeats nothing of the text, since any part of a mistyped
    /// URL may turn out to be the password.
    pub fn parse(text: &str) -> Result<Self, String> {
        const ENCODE: &str = "in a user name or password write `@` as `%40`, `:` as `%3A`, \
            `/` as `%2F`, `?` as `%3F`, `#` as `%23`, `%` as `%25`, and in the environment `,` as \
            `%2C`";
        const EXAMPLE: &str = "write `amqp://user:password@host:5672/vhost`";

        let tls = match text.split_once("://").map(|(scheme, _)| scheme) {
            Some("amqp") => false,
            Some("amqps") => true,
            Some(_) => return Err(format!("the scheme must be `amqp` or `amqps`; {EXAMPLE}")),
            None => return Err(format!("a URL is expected; {EXAMPLE}; {ENCODE}")),
        };
        let url = Url::parse(text)
            .map_err(|error| format!("the URL cannot be read: {error}; {ENCODE}"))?;
        // An unencoded `/`, `?` or `#` in a password ends the authority early: what should be the
        // host comes after it.
        let rest = [Some(url.path()), url.query(), url.fragment()];
        if url.fragment().is_some() || rest.into_iter().flatten().any(|part| part.contains('@')) {
            return Err(format!("the URL has an `@` or `#` where none belongs; {ENCODE}"));
        }
        let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(format!("the URL names no host; {EXAMPLE}"));
        }
        let port = url.port().unwrap_or(if tls { AMQPS_PORT } else { AMQP_PORT });
        if port == 0 {
            return Err(format!("port `0` must be from `1` to `65535`; {EXAMPLE}"));
        }
        let vhost = match url.path() {
            "" | "/" => ROOT_VHOST.to_owned(),
            path => decoded(path.strip_prefix('/').unwrap_or(path), "virtual host")?,
        };
        Ok(Self {
            tls,
            host: decoded(host, "host")?,
            port,
            username: match url.username() {
                "" => GUEST.to_owned(),
                name => decoded(name, "user name")?,
            },
            password: url.password().map(|password| decoded(password, "password")).transpose()?,
            vhost: within_short_string(vhost)?,
            query: url.query().map(str::to_owned),
        })
    }

    /// The broker that RabbitMQ's variables describe: `RABBITMQ_HOST`, `_PORT`, `_USERNAME`,
    /// `_PASSWORD` and `_VIRTUAL_HOST`, each with its usual default; with none of them set,
    /// localhost as guest.
    pub fn from_environment(environment: Environment<'_>, problems: &mut Problems) -> Self {
        let variable = |name: &str| environment(name).filter(|value| !value.is_empty());
        let port = match variable("RABBITMQ_PORT") {
            None => AMQP_PORT,
            Some(text) => text.parse().ok().filter(|port| *port != 0).unwrap_or_else(|| {
                problems.add(Origin::Environment("RABBITMQ_PORT".to_owned()), port_problem(&text));
                AMQP_PORT
            }),
        };
        let vhost = within_short_string(
            variable("RABBITMQ_VIRTUAL_HOST").unwrap_or_else(|| ROOT_VHOST.to_owned()),
        );
        Self {
            tls: false,
            host: variable("RABBITMQ_HOST").unwrap_or_else(|| "localhost".to_owned()),
            port,
            username: variable("RABBITMQ_USERNAME").unwrap_or_else(|| GUEST.to_owned()),
            password: variable("RABBITMQ_PASSWORD"),
            vhost: vhost.unwrap_or_else(|text| {
                problems.add(Origin::Environment("RABBITMQ_VIRTUAL_HOST".to_owned()), text);
                ROOT_VHOST.to_owned()
            }),
            query: None,
        }
    }

    /// The same broker with another password.
    #[must_use]
    pub fn with_password(self, password: &str) -> Self {
        Self { password: Some(password.to_owned()), ..self }
    }

    /// Whether the connection is encrypted (`amqps`).
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// Host name or address; an IPv6 address without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// TCP port, never 0.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// User name.
    #[must_use]
    pub fn username(&self) -> &str {
        &self.username
    }

    /// The password. Not for people: `Display` is.
    #[must_use]
    pub fn password(&self) -> &str {
        self.password.as_deref().unwrap_or(GUEST)
    }

    /// Whether a password was written, so that a flag can be warned about; `guest` by default is
    /// nobody's secret.
    #[must_use]
    pub fn names_password(&self) -> bool {
        self.password.is_some()
    }

    /// Virtual host.
    #[must_use]
    pub fn vhost(&self) -> &str {
        &self.vhost
    }

    /// Options after the `?`, untouched: `heartbeat=10&auth_mechanism=external`.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    /// The whole URI, password included, for the AMQP library and no one else. The virtual host is
    /// always there and encoded: to the library `amqp://host/` is a virtual host without a name.
    #[must_use]
    pub fn uri_with_credentials(&self) -> String {
        let encoded = |part| utf8_percent_encode(part, RESERVED);
        let query = self.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
        let (username, password, vhost) =
            (encoded(&self.username), encoded(self.password()), encoded(&self.vhost));
        format!("{}://{username}:{password}@{}/{vhost}{query}", self.scheme(), self.address())
    }

    fn scheme(&self) -> &'static str {
        if self.tls { "amqps" } else { "amqp" }
    }

    /// Host and port as they stand in a URI.
    #[must_use]
    pub fn address(&self) -> String {
        let (host, port) = (&self.host, self.port);
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

/// Where it is and who we are, for logs: no password, and no options, among which one may be.
impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let vhost = if self.vhost == ROOT_VHOST { "" } else { &self.vhost };
        let (username, vhost) =
            (utf8_percent_encode(&self.username, RESERVED), utf8_percent_encode(vhost, RESERVED));
        write!(f, "{}://{username}@{}/{vhost}", self.scheme(), self.address())
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BrokerUrl({self})")
    }
}

/// A part of a URL without its percent-encoding; `name` is what the part is.
pub(super) fn decoded(part: &str, name: &str) -> Result<String, String> {
    percent_decode_str(part)
        .decode_utf8()
        .map(Cow::into_owned)
        .map_err(|_| format!("the {name} in the URL is not UTF-8 after percent-decoding"))
}

/// A virtual host travels as an AMQP short string (0-9-1, 4.2.5.3).
fn within_short_string(vhost: String) -> Result<String, String> {
    match vhost.len() {
        0..=255 => Ok(vhost),
        bytes => Err(format!("the virtual host has {bytes} bytes, and AMQP allows 255")),
    }
}

/// Kubernetes sets `<SERVICE>_PORT=tcp://10.0.0.1:5672` for every service, and a service is easily
/// called `rabbitmq`.
fn port_problem(text: &str) -> String {
    if text.starts_with("tcp://") {
        return "is the address of a Kubernetes service, not a port; set \
                `enableServiceLinks: false` or give `--amqp-url`"
            .to_owned();
    }
    format!("`{text}` is not a port; write a number from `1` to `65535`")
}
