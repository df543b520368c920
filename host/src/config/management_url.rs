//! The address of a broker's management API with its credentials:
//! `http://user:password@host:15672`.
//!
//! Knows the form and who we are there; refuses to know what is asked. Only one method gives the
//! password away, by name; `Display`, `Debug` and every error leave it out.

use std::fmt;

use url::{Host, Url};

use super::broker_url::{BrokerUrl, decoded};

const EXAMPLE: &str = "write `http://host:15672` or `https://user:password@host:15671`, and in a \
    user name or password `%40` for `@`, `%3A` for `:`, `%2F` for `/`, `%3F` for `?`, `%23` for \
    `#` and `%25` for `%`";

/// Where RabbitMQ's HTTP API is and who we are there. Without credentials of its own it is used
/// with the broker's.
#[derive(Clone, PartialEq, Eq)]
pub struct ManagementUrl {
    tls: bool,
    /// This machine, so that nobody can listen on the way.
    local: bool,
    /// Scheme, host, port and path, without a slash at the end.
    base: String,
    /// User name and password, decoded.
    credentials: Option<(String, String)>,
}

impl ManagementUrl {
    /// Reads an `http://` or `https://` URL. The port is that of the scheme, 80 or 443, unless it
    /// is written, as in any such URL. A path is where a proxy has the API; that it ends with `/api`
    /// may be said or left out.
    ///
    /// # Errors
    /// A sentence for the operator that repeats nothing of the text, since any part of a mistyped
    /// URL may turn out to be the password.
    pub fn parse(text: &str) -> Result<Self, String> {
        let scheme = text.split_once("://").map(|(scheme, _)| scheme);
        let tls = match scheme {
            Some("http") => false,
            Some("https") => true,
            Some(_) => return Err(format!("the scheme must be `http` or `https`; {EXAMPLE}")),
            None => return Err(format!("a URL is expected; {EXAMPLE}")),
        };
        let url = Url::parse(text)
            .map_err(|error| format!("the URL cannot be read: {error}; {EXAMPLE}"))?;
        // An unencoded `/`, `?` or `#` in a password ends the authority early: what should be the
        // host comes after it.
        if url.query().is_some() || url.fragment().is_some() || url.path().contains('@') {
            return Err(format!("the URL has an `@`, `?` or `#` where none belongs; {EXAMPLE}"));
        }
        let (Some(host), Some(port)) = (url.host(), url.port_or_known_default()) else {
            return Err(format!("the URL names no host; {EXAMPLE}"));
        };
        if port == 0 {
            return Err(format!("port `0` must be from `1` to `65535`; {EXAMPLE}"));
        }
        let credentials = match (url.username(), url.password()) {
            ("", None) => None,
            ("", Some(_)) => return Err(format!("the URL has a password and no user; {EXAMPLE}")),
            (_, None) => {
                return Err(format!(
                    "the URL has a user and no password; leave both out to use the broker's, or \
                     {EXAMPLE}"
                ));
            }
            (user, Some(password)) => {
                Some((decoded(user, "user name")?, decoded(password, "password")?))
            }
        };
        // Basic authentication ends the user name at the first colon (RFC 7617).
        if credentials.as_ref().is_some_and(|(user, _)| user.contains(':')) {
            return Err("the user name in the URL has a `:`, which HTTP cannot carry".to_owned());
        }
        let local = match &host {
            Host::Domain(name) => *name == "localhost",
            Host::Ipv4(address) => address.is_loopback(),
            Host::Ipv6(address) => address.is_loopback(),
        };
        let path = url.path().trim_end_matches('/');
        let path = path.strip_suffix("/api").unwrap_or(path);
        let scheme = url.scheme();
        Ok(Self { tls, local, base: format!("{scheme}://{host}:{port}{path}"), credentials })
    }

    /// The same, as the user of the broker if it names none of its own.
    #[must_use]
    pub fn or_as_user_of(self, broker: &BrokerUrl) -> Self {
        let of_broker = || (broker.username().to_owned(), broker.password().to_owned());
        Self { credentials: Some(self.credentials.unwrap_or_else(of_broker)), ..self }
    }

    /// Whether it has credentials of its own.
    pub(super) fn names_user(&self) -> bool {
        self.credentials.is_some()
    }

    /// Whether what is sent can be read on the way.
    pub(super) fn is_open(&self) -> bool {
        !self.tls && !self.local
    }

    /// Whether the connection is encrypted (`https`).
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// The address of `path`, which begins with `/api/`; without credentials.
    #[must_use]
    pub fn address(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// User name.
    #[must_use]
    pub fn username(&self) -> &str {
        self.credentials.as_ref().map_or("", |(user, _)| user)
    }

    /// The password. Not for people: `Display` is.
    #[must_use]
    pub fn password(&self) -> &str {
        self.credentials.as_ref().map_or("", |(_, password)| password)
    }
}

/// Where it is, for logs: no user and no password.
impl fmt::Display for ManagementUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.base)
    }
}

impl fmt::Debug for ManagementUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ManagementUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_it_is_and_who_we_are() {
        for (text, shown, user, password) in [
            ("http://h:15672", "http://h:15672", "", ""),
            ("http://h", "http://h:80", "", ""),
            ("https://h/", "https://h:443", "", ""),
            ("https://u:p@h:15671/api/", "https://h:15671", "u", "p"),
            ("http://u%40x:p%2f%3a%25@h:1/rabbit/", "http://h:1/rabbit", "u@x", "p/:%"),
            ("http://[::1]:15672/rabbit/api", "http://[::1]:15672/rabbit", "", ""),
            ("http://10.0.0.1:8080", "http://10.0.0.1:8080", "", ""),
        ] {
            let url = ManagementUrl::parse(text).unwrap();
            assert_eq!(url.to_string(), shown, "{text}");
            assert_eq!(format!("{url:?}"), format!("ManagementUrl({shown})"));
            assert_eq!(url.address("/api/overview"), format!("{shown}/api/overview"));
            assert_eq!((url.username(), url.password()), (user, password), "{text}");
            assert_eq!(url.is_tls(), text.starts_with("https"));
        }
    }

    #[test]
    fn without_credentials_of_its_own_the_brokers_are_used() {
        let broker = BrokerUrl::parse("amqp://b:of-broker@h").unwrap();
        let own = ManagementUrl::parse("http://m:own@h").unwrap().or_as_user_of(&broker);
        assert_eq!((own.username(), own.password()), ("m", "own"));
        let none = ManagementUrl::parse("http://h").unwrap().or_as_user_of(&broker);
        assert_eq!((none.username(), none.password()), ("b", "of-broker"));
    }

    #[test]
    fn a_password_can_be_read_on_the_way_unless_it_goes_by_tls_or_stays_here() {
        for (text, open) in [
            ("http://h", true),
            ("https://h", false),
            ("http://localhost", false),
            ("http://127.0.0.2", false),
            ("http://[::1]", false),
            ("http://10.0.0.1", true),
        ] {
            assert_eq!(ManagementUrl::parse(text).unwrap().is_open(), open, "{text}");
        }
    }

    #[test]
    fn a_bad_url_is_explained_without_being_repeated() {
        for (text, reason) in [
            ("amqp://u:secret@h", "the scheme must be `http` or `https`"),
            ("u:secret@h", "a URL is expected"),
            ("http:u:secret@h", "a URL is expected"),
            ("secret", "a URL is expected"),
            ("http://u:secret@h:99999", "the URL cannot be read: invalid port number"),
            ("http://u:secret@h:0", "port `0` must be"),
            ("http://u:secret@", "the URL cannot be read: empty host"),
            ("http://", "the URL cannot be read: empty host"),
            ("http://u:sec/ret@h", "the URL cannot be read: invalid port number"),
            ("http://u:12/secret@h", "the URL has an `@`, `?` or `#` where none belongs"),
            ("http://u:12?secret@h", "the URL has an `@`, `?` or `#` where none belongs"),
            ("http://u:12#secret@h", "the URL has an `@`, `?` or `#` where none belongs"),
            ("http://h?columns=secret", "the URL has an `@`, `?` or `#` where none belongs"),
            ("http://u@h", "the URL has a user and no password"),
            ("http://:secret@h", "the URL has a password and no user"),
            ("http://u%3Ax:secret@h", "the user name in the URL has a `:`"),
            ("http://u:%ff@h", "the password in the URL is not UTF-8"),
        ] {
            let error = ManagementUrl::parse(text).unwrap_err();
            assert!(error.starts_with(reason), "{text}: {error}");
            assert!(!error.contains("secret"), "{text}: {error}");
        }
    }
}
