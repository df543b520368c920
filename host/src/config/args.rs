//! The flags of `serve`, as typed.
//!
//! Knows names, environment variables and help texts. Refuses to judge: every value is text here,
//! so that `resolve` can report all that is wrong at once instead of stopping at the first flag,
//! and because a value may also come from somewhere else.

use std::fmt;

use clap::Args;

const BROKER: &str = "Broker";
const QUEUE: &str = "Queue";
const PLUGINS: &str = "Plugins";
const LIMITS: &str = "Limits";
const OPERATION: &str = "Operation";

/// What was typed after `serve` (and `dev`), or stands in an `RPCHOST_` variable. It is not the
/// configuration: that is [`Config`](super::Config), made of this by [`resolve`](super::resolve).
///
/// The doc comments are the help texts; a default stands in them because clap must not fill it in:
/// the file has to be able to say otherwise.
#[derive(Args, Clone, Default)]
pub struct ServeArgs {
    /// Broker to connect to, amqp:// or amqps://; repeatable; in place of every [[broker]] of the
    /// file [default: RABBITMQ_HOST …, else localhost as guest]
    #[arg(long, env = "RPCHOST_AMQP_URL", hide_env_values = true, value_name = "URL")]
    #[arg(help_heading = BROKER)]
    pub amqp_url: Vec<String>,

    /// File with the broker's password, in place of the one in the URLs [default: none]
    #[arg(long, env = "RPCHOST_AMQP_PASSWORD_FILE", value_name = "FILE", help_heading = BROKER)]
    pub amqp_password_file: Option<String>,

    /// Certificates (PEM) to trust for amqps:// and https:// [default: those of the system]
    #[arg(long, env = "RPCHOST_TLS_CA", value_name = "FILE", help_heading = BROKER)]
    pub tls_ca: Option<String>,

    /// Client certificate (PEM) to show to the broker; together with --tls-key [default: none]
    #[arg(long, env = "RPCHOST_TLS_CERT", value_name = "FILE", help_heading = BROKER)]
    pub tls_cert: Option<String>,

    /// Private key (PEM) of --tls-cert [default: none]
    #[arg(long, env = "RPCHOST_TLS_KEY", value_name = "FILE", help_heading = BROKER)]
    pub tls_key: Option<String>,

    /// Order in which several brokers are tried: round-robin, weighted-round-robin, random,
    /// weighted-random, source-hash or least-connections [default: round-robin]
    #[arg(long, env = "RPCHOST_STRATEGY", value_name = "NAME", help_heading = BROKER)]
    pub strategy: Option<String>,

    /// Longest wait for one connection attempt [default: 5s]
    #[arg(long, env = "RPCHOST_CONNECT_TIMEOUT", value_name = "DURATION", help_heading = BROKER)]
    pub connect_timeout: Option<String>,

    /// Connection attempts before giving up; 0 tries for ever [default: 0]
    #[arg(long, env = "RPCHOST_CONNECT_ATTEMPTS", value_name = "N", help_heading = BROKER)]
    pub connect_attempts: Option<String>,

    /// AMQP heartbeat; a silent broker is given up after twice this [default: 10s]
    #[arg(long, env = "RPCHOST_HEARTBEAT", value_name = "DURATION", help_heading = BROKER)]
    pub heartbeat: Option<String>,

    /// Queue to consume requests from; several stand as `[[listener]]` in the file [default:
    /// rpc_queue]
    #[arg(long, env = "RPCHOST_QUEUE", value_name = "NAME", help_heading = QUEUE)]
    pub queue: Option<String>,

    /// Type of the queue if it has to be created: quorum, classic or transient [default: quorum; in
    /// `dev` classic]
    #[arg(long, env = "RPCHOST_QUEUE_TYPE", value_name = "TYPE", help_heading = QUEUE)]
    pub queue_type: Option<String>,

    /// Argument of the queue if it has to be created, such as x-max-length=1000; repeatable
    /// [default: none]
    #[arg(long, env = "RPCHOST_QUEUE_ARG", value_name = "KEY=VALUE", help_heading = QUEUE)]
    pub queue_arg: Vec<String>,

    /// Reply addresses to answer; repeatable [default: any but the queues consumed here]
    #[arg(long, env = "RPCHOST_REPLY_TO_ALLOW", value_name = "PATTERN", help_heading = QUEUE)]
    pub reply_to_allow: Vec<String>,

    /// Form of the requests: auto, plain, json-rpc, envelope, nameko, nestjs, celery or aio-pika
    /// [default: auto]
    #[arg(long, env = "RPCHOST_DIALECT", value_name = "NAME", help_heading = QUEUE)]
    pub dialect: Option<String>,

    /// Directory of the plugins, one .wasm file each [default: plugins]
    #[arg(long, env = "RPCHOST_PLUGINS", value_name = "DIR", help_heading = PLUGINS)]
    pub plugins: Option<String>,

    /// Method for messages that name none [default: the plugin `default`, else the only method]
    #[arg(long, env = "RPCHOST_DEFAULT_METHOD", value_name = "METHOD", help_heading = PLUGINS)]
    pub default_method: Option<String>,

    /// Calls running at once; twice as many messages are prefetched [default: 32 per core]
    #[arg(long, env = "RPCHOST_MAX_IN_FLIGHT", value_name = "N", help_heading = LIMITS)]
    pub max_in_flight: Option<String>,

    /// Longest run of one call [default: 30s]
    #[arg(long, env = "RPCHOST_CALL_TIMEOUT", value_name = "DURATION", help_heading = LIMITS)]
    pub call_timeout: Option<String>,

    /// Most memory of one running call [default: 64MiB]
    #[arg(long, env = "RPCHOST_MEMORY_LIMIT", value_name = "SIZE", help_heading = LIMITS)]
    pub memory_limit: Option<String>,

    /// Largest body of a request and of a reply [default: 16MiB]
    #[arg(long, env = "RPCHOST_MAX_BODY", value_name = "SIZE", help_heading = LIMITS)]
    pub max_body: Option<String>,

    /// Most headers of a request and of a reply [default: 128]
    #[arg(long, env = "RPCHOST_MAX_HEADERS", value_name = "N", help_heading = LIMITS)]
    pub max_headers: Option<String>,

    /// Longest wait for running calls when asked to stop; what still runs is given back [default:
    /// 25s]
    #[arg(long, env = "RPCHOST_DRAIN_TIMEOUT", value_name = "DURATION", help_heading = OPERATION)]
    pub drain_timeout: Option<String>,

    /// Directory for compiled plugins and the crash journal; a named one is this host's alone
    /// [default: $XDG_STATE_HOME/rpchost]
    #[arg(long, env = "RPCHOST_STATE_DIR", value_name = "DIR", help_heading = OPERATION)]
    pub state_dir: Option<String>,

    /// Address for health and metrics, or off [default: 127.0.0.1:7070]
    #[arg(long, env = "RPCHOST_ADMIN", value_name = "HOST:PORT|off", help_heading = OPERATION)]
    pub admin: Option<String>,

    /// error, warn, info, debug, trace, or directives such as info,rpchost::amqp=debug [default:
    /// info]
    #[arg(long, env = "RPCHOST_LOG_LEVEL", value_name = "LEVEL", help_heading = OPERATION)]
    pub log_level: Option<String>,

    /// Form of the log on stderr: text or json [default: text]
    #[arg(long, env = "RPCHOST_LOG_FORMAT", value_name = "FORMAT", help_heading = OPERATION)]
    pub log_format: Option<String>,

    /// File with any of these settings, keys named like the flags [default: rpchost.toml if there
    /// is one]
    #[arg(long, env = "RPCHOST_CONFIG", value_name = "FILE", help_heading = OPERATION)]
    pub config: Option<String>,
}

/// Shows no value: a URL may hold a password.
impl fmt::Debug for ServeArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServeArgs").finish_non_exhaustive()
    }
}

/// The variable that stands for a flag: `RPCHOST_` and the flag's name in capitals.
pub(super) fn environment_name(key: &str) -> String {
    format!("RPCHOST_{}", key.to_ascii_uppercase().replace('-', "_"))
}

/// The identifier under which clap knows a flag: the name of its field.
pub(super) fn clap_id(key: &str) -> String {
    key.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Command;

    use super::super::*;
    use super::*;
    use crate::config::units::{duration_text, size_text};

    fn command() -> Command {
        ServeArgs::augment_args(Command::new("serve"))
    }

    fn help_of(flag: &str) -> String {
        let command = command();
        let arg = command.get_arguments().find(|arg| arg.get_long() == Some(flag)).unwrap();
        arg.get_help().unwrap().to_string()
    }

    #[test]
    fn every_flag_has_a_variable_a_value_name_and_a_help_text_with_its_default() {
        command().debug_assert();
        for arg in command().get_arguments() {
            let flag = arg.get_long().unwrap();
            assert_eq!(arg.get_env().unwrap().to_str().unwrap(), environment_name(flag));
            assert_eq!(arg.get_id().as_str(), clap_id(flag));
            assert!(!arg.get_value_names().unwrap().is_empty(), "{flag}");
            assert!(
                help_of(flag).contains("[default: ") && !help_of(flag).contains('\n'),
                "{flag}"
            );
        }
    }

    #[test]
    fn the_defaults_in_the_help_texts_are_the_real_ones() {
        let time = |value: Duration| duration_text(value);
        for (flag, default) in [
            ("connect-timeout", time(DEFAULT_CONNECT_TIMEOUT)),
            ("connect-attempts", DEFAULT_CONNECT_ATTEMPTS.to_string()),
            ("heartbeat", time(DEFAULT_HEARTBEAT)),
            ("queue", DEFAULT_QUEUE.to_owned()),
            ("plugins", DEFAULT_PLUGINS.to_owned()),
            ("max-in-flight", format!("{DEFAULT_IN_FLIGHT_PER_CORE} per core")),
            ("call-timeout", time(DEFAULT_CALL_TIMEOUT)),
            ("memory-limit", size_text(DEFAULT_MEMORY_LIMIT)),
            ("max-body", size_text(DEFAULT_MAX_BODY)),
            ("max-headers", DEFAULT_MAX_HEADERS.to_string()),
            ("drain-timeout", time(DEFAULT_DRAIN_TIMEOUT)),
            ("admin", DEFAULT_ADMIN.to_string()),
            ("log-level", DEFAULT_LOG_LEVEL.to_owned()),
        ] {
            let end = format!("[default: {default}]");
            assert!(help_of(flag).ends_with(&end), "{flag}: {end}");
        }
    }

    #[test]
    fn neither_help_nor_debug_shows_a_password() {
        let command = command();
        let url = command.get_arguments().find(|arg| arg.get_long() == Some("amqp-url")).unwrap();
        assert!(url.is_hide_env_values_set());
        let args = ServeArgs { amqp_url: vec!["amqp://u:secret@h".into()], ..ServeArgs::default() };
        assert_eq!(format!("{args:?}"), "ServeArgs { .. }");
    }
}
