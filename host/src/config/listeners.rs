//! The list of listeners: one made of flat keys, or those that stand as `[[listener]]` in the file.
//!
//! Knows what each key of a listener may be and which go together; refuses to know how queues are
//! declared and messages read.

use super::args::ServeArgs;
use super::bounds;
use super::file::Section;
use super::layers::Layers;
use super::listener::{Exchange, ExchangeKind, Listener, METHOD, PLUGIN, Per, longest_name};
use super::problem::{Origin, Problems};
use super::units::{count, one_of};
use super::usual::{Usual, usual};
use super::values;
use super::written::Raw;
use super::{ArgValue, DEFAULT_QUEUE, Profile, QueueConfig, QueueKind};
use crate::message::{Dialect, EnvelopeReply, Form};

/// The list of tables in the file.
pub(super) const LISTENER: &str = "listener";
/// What one of those tables may have.
pub(super) const LISTENER_KEYS: [&str; 19] = [
    "queue",
    "queue-type",
    "queue-arg",
    "per-plugin",
    "per-method",
    "exclusive",
    "dead-letters",
    "exchange",
    "exchange-type",
    "exchange-durable",
    "bind",
    "bind-arg",
    "dialect",
    "default-method",
    "method-by-key",
    "envelope-reply",
    "prefetch",
    "reply-exchange",
    "reply-queue",
];

/// Where operators say what becomes of what the broker takes out of a queue.
const DEAD_LETTER_EXCHANGE: &str = "x-dead-letter-exchange";

/// The listeners of one run; at least one, unless there are problems.
///
/// A queue named by flag or variable is the only listener. In the file, flat keys and `[[listener]]`
/// are two ways to write it, and one has to be chosen.
pub(super) fn listeners(
    layers: &mut Layers<'_>,
    args: &ServeArgs,
    profile: Profile,
    warnings: &mut Vec<String>,
) -> Vec<Listener> {
    if layers.in_file().list(LISTENER).is_empty() {
        return vec![flat(layers, args, profile)];
    }
    let typed: [(&str, &[String]); 5] = [
        ("queue", args.queue.as_slice()),
        ("queue-type", args.queue_type.as_slice()),
        ("queue-arg", &args.queue_arg),
        ("dialect", args.dialect.as_slice()),
        ("default-method", args.default_method.as_slice()),
    ];
    for (key, typed) in typed {
        let Some(written) = layers.find(key, typed) else { continue };
        if key == "queue" && !matches!(written.origin, Origin::File { .. }) {
            warnings.push(format!(
                "{} takes the place of every `[[listener]]` in the file",
                written.origin
            ));
            return vec![flat(layers, args, profile)];
        }
        layers.problems.add(
            written.origin,
            format!("stands beside `[[listener]]`; write `{key}` in the listener it is meant for"),
        );
    }
    let mut problems = Problems::default();
    let sections = layers.in_file().list(LISTENER);
    let mut listeners: Vec<Listener> = Vec::with_capacity(sections.len());
    for section in sections {
        let listener = Reader { section, problems: &mut problems }.listener(profile);
        if listeners.iter().any(|other| other.queue.name == listener.queue.name) {
            let text = format!("another listener has the queue `{}`", listener.queue.name);
            problems.add(section.origin.clone(), text);
        }
        listeners.push(listener);
    }
    for (section, listener) in sections.iter().zip(&listeners) {
        check_loops(section, listener, &listeners, &mut problems);
    }
    for problem in problems.iter() {
        layers.problems.add(problem.origin.clone(), problem.text.clone());
    }
    listeners
}

/// A host must not answer itself: not into a queue that it consumes, and not through an exchange
/// that brings everything back.
fn check_loops(section: &Section, listener: &Listener, all: &[Listener], problems: &mut Problems) {
    let mut wrong = |key: &str, text: String| {
        let origin = section.find(key).map_or(&section.origin, |found| &found.origin);
        problems.add(origin.clone(), text);
    };
    if let Some(queue) = &listener.reply_queue
        && all.iter().any(|other| other.queue.name == *queue)
    {
        wrong(
            "reply-queue",
            format!("`{queue}` is consumed here, so replies would be requests; name another"),
        );
    }
    let brings_back = |exchange: &&Exchange| {
        matches!(exchange.kind, ExchangeKind::Fanout | ExchangeKind::Headers)
            && listener.reply_exchange.as_ref() == Some(&exchange.name)
    };
    if let Some(exchange) = all.iter().filter_map(|one| one.exchange.as_ref()).find(brings_back) {
        let text = format!(
            "`{}` brings what is published to it to a queue consumed here, so replies would be \
             requests; name another",
            exchange.name
        );
        wrong("reply-exchange", text);
    }
}

/// The listener that flat keys make. A queue that was named is one queue of the default exchange,
/// whatever is usual.
fn flat(layers: &mut Layers<'_>, args: &ServeArgs, profile: Profile) -> Listener {
    let name = layers.one("queue", &args.queue, |raw| values::queue_name(raw.text()?));
    let before = layers.problems.len();
    let kind = layers.one("queue-type", &args.queue_type, |raw| values::queue_kind(raw.text()?));
    let kind_is_wrong = layers.problems.len() > before;
    let dialect = layers
        .one("dialect", &args.dialect, |raw| values::dialect(raw.text()?))
        .unwrap_or_default();
    let default_method =
        layers.one("default-method", &args.default_method, |raw| values::short_string(raw.text()?));
    let usual = usual(dialect);
    let kind = kind.or(usual.kind).unwrap_or_else(|| default_kind(profile));
    let mut check = QueueArgs { kind, kind_is_wrong, seen: Vec::new() };
    let args = layers.many("queue-arg", &args.queue_arg, |raw| check.read(raw));
    let args = args.map(|(_, args)| args).unwrap_or_default();
    let named = name.is_some();
    let name = name.unwrap_or_else(|| usual.queue.to_owned());
    let listener = Listener {
        form: dialect.into(),
        default_method,
        dead_letters: usual.dead_letters && kind != QueueKind::Transient,
        ..Listener::of(QueueConfig { name, kind, args })
    };
    if named {
        return listener;
    }
    with_usual(Listener { per: usual.per, exchange: usual_exchange(&usual), ..listener }, &usual)
}

/// What goes with the dialect, whatever was said of the queue.
fn with_usual(mut listener: Listener, usual: &Usual) -> Listener {
    if let Some(exchange) = usual.dead_letter_exchange
        && listener.per == usual.per
        && !listener.dead_letters
        && listener.queue.args.iter().all(|(key, _)| key != DEAD_LETTER_EXCHANGE)
    {
        let value = ArgValue::Text(exchange.to_owned());
        listener.queue.args.push((DEAD_LETTER_EXCHANGE.to_owned(), value));
    }
    // Its requests may come by another one, when they were set aside.
    if listener.form.dialect == Dialect::Nameko && listener.reply_exchange.is_none() {
        listener.reply_exchange = listener.exchange.as_ref().map(|exchange| exchange.name.clone());
    }
    listener
}

fn usual_exchange(usual: &Usual) -> Option<Exchange> {
    usual.exchange.map(|(name, kind)| Exchange {
        name: name.to_owned(),
        kind,
        durable: true,
        keys: vec![usual.key.unwrap_or(usual.queue).to_owned()],
        args: Vec::new(),
    })
}

fn default_kind(profile: Profile) -> QueueKind {
    match profile {
        Profile::Serve | Profile::Client => QueueKind::Quorum,
        Profile::Dev => QueueKind::Classic,
    }
}

/// Checks the arguments of a queue against its type and each other.
struct QueueArgs {
    kind: QueueKind,
    kind_is_wrong: bool,
    seen: Vec<String>,
}

impl QueueArgs {
    fn read(&mut self, raw: &Raw) -> Result<(String, ArgValue), String> {
        let (key, value) = unique(&mut self.seen, raw)?;
        let asked = self.kind.amqp_name();
        let contradicts = key == "x-queue-type" && value != ArgValue::Text(asked.to_owned());
        if contradicts && !self.kind_is_wrong {
            return Err(format!(
                "`{key}={value}` contradicts the queue type `{}`; leave it out and set \
                 `queue-type`",
                self.kind
            ));
        }
        Ok((key, value))
    }
}

/// An argument that is not there yet.
fn unique(seen: &mut Vec<String>, raw: &Raw) -> Result<(String, ArgValue), String> {
    let (key, value) = values::queue_arg(raw.text()?)?;
    if seen.contains(&key) {
        return Err(format!("`{key}` is given twice; leave one out"));
    }
    seen.push(key.clone());
    Ok((key, value))
}

/// Reads one table.
struct Reader<'a> {
    section: &'a Section,
    problems: &'a mut Problems,
}

impl Reader<'_> {
    fn one<T>(&mut self, key: &str, read: impl FnOnce(&Raw) -> Result<T, String>) -> Option<T> {
        self.section.find(key)?.one(self.problems, read)
    }

    fn many<T>(
        &mut self,
        key: &str,
        read: impl FnMut(&Raw) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        Some(self.section.find(key)?.many(self.problems, read))
    }

    fn short(&mut self, key: &str) -> Option<String> {
        self.one(key, |raw| values::short_string(raw.text()?))
    }

    fn wrong(&mut self, key: &str, text: impl Into<String>) {
        let origin = self.section.find(key).map_or(&self.section.origin, |found| &found.origin);
        self.problems.add(origin.clone(), text);
    }

    fn listener(mut self, profile: Profile) -> Listener {
        let dialect = self.one("dialect", |raw| values::dialect(raw.text()?)).unwrap_or_default();
        let usual = usual(dialect);
        let per = self.per(usual.per);
        let name = self.one("queue", |raw| values::queue_name(raw.text()?));
        let name = name.unwrap_or_else(|| match per {
            _ if per == usual.per => usual.queue.to_owned(),
            Per::Plugin => PLUGIN.to_owned(),
            Per::Method => METHOD.to_owned(),
            Per::Listener => DEFAULT_QUEUE.to_owned(),
        });
        self.check_pattern("queue", &name, per, true);
        let exclusive = self.one("exclusive", Raw::boolean).unwrap_or(false);
        if exclusive && name.len() > longest_name(true) {
            let most = longest_name(true);
            self.wrong("queue", format!("has more than {most} bytes, which leave room for an end"));
        }
        let before = self.problems.len();
        let kind = self.one("queue-type", |raw| values::queue_kind(raw.text()?));
        let kind_is_wrong = self.problems.len() > before;
        if exclusive && kind == Some(QueueKind::Quorum) {
            self.wrong("exclusive", "is not for quorum queues; write `queue-type = \"transient\"`");
        }
        let kind = match kind {
            Some(kind) => kind,
            None if exclusive => QueueKind::Transient,
            None => usual.kind.unwrap_or_else(|| default_kind(profile)),
        };
        let mut check = QueueArgs { kind, kind_is_wrong, seen: Vec::new() };
        let args = self.many("queue-arg", |raw| check.read(raw)).unwrap_or_default();
        let dead_letters = self.one("dead-letters", Raw::boolean);
        if exclusive && dead_letters == Some(true) {
            self.wrong("dead-letters", "are not for exclusive queues; leave it out");
        }
        let exchange = self.exchange(&usual, &name, per);
        let envelope_reply = self.one("envelope-reply", |raw| {
            one_of(raw.text()?, &EnvelopeReply::ALL.map(|form| (form.name(), form)), &[])
        });
        if envelope_reply.is_some() && !matches!(dialect, Dialect::Envelope | Dialect::Auto) {
            self.wrong("envelope-reply", "is for the dialects `envelope` and `auto`; leave it out");
        }
        let method_by_key = self.one("method-by-key", Raw::boolean).unwrap_or(false);
        let listener = Listener {
            per,
            exclusive,
            dead_letters: dead_letters
                .unwrap_or(usual.dead_letters && kind != QueueKind::Transient)
                && !exclusive,
            exchange,
            form: Form { dialect, method_by_key, envelope_reply },
            default_method: self.short("default-method"),
            prefetch: self
                .one("prefetch", |raw| count(raw.number()?, &bounds::PREFETCH))
                .and_then(|prefetch| u16::try_from(prefetch).ok()),
            reply_exchange: self.short("reply-exchange"),
            reply_queue: self.one("reply-queue", |raw| values::queue_name(raw.text()?)),
            ..Listener::of(QueueConfig { name, kind, args })
        };
        with_usual(listener, &usual)
    }

    fn per(&mut self, usual: Per) -> Per {
        let plugin = self.one("per-plugin", Raw::boolean);
        let method = self.one("per-method", Raw::boolean);
        match (plugin, method) {
            (Some(true), Some(true)) => {
                self.wrong("per-method", "stands beside `per-plugin`; leave one of the two out");
                Per::Plugin
            }
            (Some(true), _) => Per::Plugin,
            (_, Some(true)) => Per::Method,
            (Some(false), _) | (_, Some(false)) => Per::Listener,
            (None, None) => usual,
        }
    }

    /// Whether a name has what stands for that which there is one of each for. `needed` is whether
    /// it must have it.
    fn check_pattern(&mut self, key: &str, name: &str, per: Per, needed: bool) {
        for (part, whose, switch) in
            [(PLUGIN, Per::Plugin, "per-plugin"), (METHOD, Per::Method, "per-method")]
        {
            let has = name.contains(part);
            let text = match per {
                _ if per == whose && needed && !has => format!(
                    "`{name}` must have `{part}` in it, since each has its own; for a single queue \
                     write `{switch} = false`"
                ),
                Per::Listener if has => {
                    format!("`{name}` has `{part}` in it; write `{switch} = true` too")
                }
                _ if per != whose && has => {
                    format!(
                        "`{name}` has `{part}` in it, which is not filled in here; leave it out"
                    )
                }
                _ => continue,
            };
            self.wrong(key, text);
        }
    }

    fn exchange(&mut self, usual: &Usual, queue: &str, per: Per) -> Option<Exchange> {
        let name = self.one("exchange", |raw| values::short_string(raw.text()?));
        let kind = self.one("exchange-type", |raw| {
            one_of(raw.text()?, &ExchangeKind::ALL.map(|kind| (kind.name(), kind)), &[])
        });
        let durable = self.one("exchange-durable", Raw::boolean);
        let keys = self.many("bind", |raw| values::short_string(raw.text()?));
        let mut seen = Vec::new();
        let args = self.many("bind-arg", |raw| unique(&mut seen, raw));
        let (usual_name, usual_kind) = usual.exchange.unzip();
        let Some(name) = name.or_else(|| usual_name.map(str::to_owned)) else {
            for key in ["exchange-type", "exchange-durable", "bind", "bind-arg"] {
                if self.section.find(key).is_some() {
                    self.wrong(key, "needs an `exchange` too");
                }
            }
            return None;
        };
        let kind = kind.or(usual_kind).unwrap_or_default();
        let keys = match (keys, kind) {
            (Some(keys), _) => {
                for key in &keys {
                    self.check_pattern("bind", key, per, false);
                }
                keys
            }
            (None, ExchangeKind::Fanout | ExchangeKind::Headers) => vec![String::new()],
            (None, ExchangeKind::Direct) => vec![queue.to_owned()],
            (None, ExchangeKind::Topic) => match usual.key.filter(|_| per == usual.per) {
                Some(key) => vec![key.to_owned()],
                None => {
                    let text = format!(
                        "the exchange `{name}` of type `topic` needs a pattern in `bind`, such as \
                         `\"math.*\"`"
                    );
                    self.wrong("exchange", text);
                    Vec::new()
                }
            },
        };
        let args = args.unwrap_or_default();
        if kind == ExchangeKind::Headers && args.is_empty() {
            let text = format!(
                "the exchange `{name}` of type `headers` needs `bind-arg`, such as \
                 `[\"type=report\"]`"
            );
            self.wrong("exchange", text);
        }
        Some(Exchange { name, kind, durable: durable.unwrap_or(true), keys, args })
    }
}
