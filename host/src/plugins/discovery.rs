//! The host's own methods: what can be called here, now.
//!
//! `rpc.discover` gives an OpenRPC document, `rpchost.describe` what the host
//! itself knows, `system.describe` the service description of JSON-RPC 1.1. The
//! first two come before every plugin; all take no slot and no sandbox, and read
//! the same snapshot that calls are routed by.

use std::sync::{Arc, LazyLock, OnceLock};

use bytes::Bytes;
use serde_json::{Value as Json, json};

use super::Plugins;
use super::describe::Method;
use super::kind::Kind;
use super::plugin::Plugin;
use super::table::{SEPARATORS, Table};
use super::typed::{self, Field, Room, Signature, Type};
use crate::message::{CallError, ErrorKind, Outcome, Request, ReturnValue};

/// Most bytes of names and types in an answer: some ten thousand methods.
const MAX_NAMES: usize = 2 * 1024 * 1024;

/// Most bytes of schemas and examples in an answer: those of some two thousand
/// methods, made in 20 ms.
const MAX_SCHEMAS: usize = 2 * 1024 * 1024;

/// Most bytes of what is said of files that are refused: some thousand of them.
const MAX_REFUSED: usize = 1024 * 1024;

/// The version of the specification that the document follows.
const OPENRPC: &str = "1.3.2";

/// Where the form of the document is written down.
const OPENRPC_SCHEMA: &str = "https://meta.open-rpc.org/";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Own {
    Discover,
    Describe,
    /// What RabbitMQ's Java client asks before its first call. A plugin of this
    /// name comes first: the name is not the host's own.
    System,
}

/// `rpc.discover` takes nothing.
static NOTHING: Signature = Signature { params: Vec::new(), result: None };

/// `rpchost.describe` takes the name of a plugin or method, or nothing.
static ABOUT: LazyLock<Signature> = LazyLock::new(|| Signature {
    params: vec![Field { name: "about".to_owned(), ty: Type::Option(Box::new(Type::String)) }],
    result: None,
});

/// Answers about one table, made when somebody asks for the first time.
#[derive(Debug, Clone, Default)]
pub(super) struct Told {
    openrpc: OnceLock<Bytes>,
    service: OnceLock<Bytes>,
    plugins: OnceLock<Bytes>,
}

impl Plugins {
    /// Whether a request names a method of the host itself, if no plugin has it.
    pub fn is_own(request: &Request) -> bool {
        request.method.as_deref().and_then(own).is_some()
    }

    /// The outcome of a method that is the host's own, of at most `limit`
    /// bytes; `None` of any other.
    pub fn own_method(&self, request: &Request, limit: u64) -> Option<Outcome> {
        let own = own(request.method.as_deref()?)?;
        let table = self.table.load();
        let told = table.told();
        if own == Own::System && table.find(request.method.as_deref()).is_some() {
            return None;
        }
        let body = match own {
            Own::System => typed::read_own(&NOTHING, &request.arguments)
                .map(|_| told.service.get_or_init(|| service(table.plugins())).clone()),
            Own::Discover => typed::read_own(&NOTHING, &request.arguments)
                .map(|_| told.openrpc.get_or_init(|| openrpc(table.plugins())).clone()),
            Own::Describe => {
                typed::read_own(&ABOUT, &request.arguments).and_then(|about| match about {
                    None => Ok(told.plugins.get_or_init(|| all(&table)).clone()),
                    Some(about) => one(&table, &about),
                })
            }
        };
        Some(body.and_then(|body| {
            let bytes = body.len() as u64;
            if bytes > limit {
                let text = format!("the answer has {bytes} bytes, the limit is {limit}");
                return Err(CallError::new(ErrorKind::ResourceExhausted, text));
            }
            let content_type = Some("application/json".to_owned());
            Ok(ReturnValue { body, content_type, headers: Vec::new() })
        }))
    }

    /// Whether a method is the host's own.
    pub fn is_own_method(name: &str) -> bool {
        own(name).is_some()
    }
}

/// Which of the host's own methods a name means, if any.
fn own(name: &str) -> Option<Own> {
    match name.split_once(SEPARATORS)? {
        ("rpc", "discover") => Some(Own::Discover),
        ("rpchost", "describe") => Some(Own::Describe),
        ("system", "describe") => Some(Own::System),
        _ => None,
    }
}

/// All plugins, with names and types of their methods.
fn all(table: &Table) -> Bytes {
    let mut names = Room::of(MAX_NAMES);
    let mut omitted = 0;
    let plugins: Vec<_> = table
        .plugins()
        .map(|plugin| {
            let methods = plugin.described(&mut Room::of(0));
            let fitting = fitting(methods, &mut names, &mut omitted);
            described(plugin, fitting.map(|method| method.brief()))
        })
        .collect();
    answer(table, None, &plugins, omitted)
}

/// One plugin or one method of it, with schemas and examples.
fn one(table: &Table, about: &str) -> Result<Bytes, CallError> {
    let (names, schemas) = (&mut Room::of(MAX_NAMES), &mut Room::of(MAX_SCHEMAS));
    let by_name = table.plugin(about).cloned();
    let (plugin, methods) = match by_name {
        Some(plugin) => {
            let methods = plugin.described(schemas);
            (plugin, methods)
        }
        None if table.refused().has(about) => {
            return Ok(answer(table, Some(about), &[], 0));
        }
        None => {
            let (plugin, method) = table.find(Some(about)).ok_or_else(|| unknown(table, about))?;
            let methods = plugin.described_only(&method, schemas);
            (plugin, methods)
        }
    };
    let mut omitted = 0;
    let fitting = fitting(methods, names, &mut omitted);
    let shown = described(&plugin, fitting.map(|method| method.whole()));
    Ok(answer(table, Some(&plugin.id().name), &[shown], omitted))
}

fn unknown(table: &Table, about: &str) -> CallError {
    let text = table.why_not_callable(about).unwrap_or_else(|| {
        "`about` is the name of a plugin or of a method, and there is none of this name".to_owned()
    });
    let data = json!({"path": "about"}).to_string();
    CallError::new(ErrorKind::InvalidParams, text).with_data(data)
}

/// Methods as long as there is room for them; counts the others.
fn fitting<'r>(
    methods: Vec<Method>,
    names: &'r mut Room,
    omitted: &'r mut usize,
) -> impl Iterator<Item = Method> + 'r {
    methods.into_iter().filter(move |method| {
        let fits = method.fit(names).is_ok();
        *omitted += usize::from(!fits);
        fits
    })
}

/// These plugins, and what is not served as it lies in the plugin directory: of all files, or of
/// one plugin's.
fn answer(table: &Table, only: Option<&str>, plugins: &[Json], mut omitted: usize) -> Bytes {
    let serving = |name: &str| table.plugin(name).map(|plugin| digest(plugin));
    let room = &mut Room::of(MAX_REFUSED);
    let refused = table.refused().told(only, room, &mut omitted, serving);
    let host = json!({"name": "rpchost", "version": env!("CARGO_PKG_VERSION")});
    text(&json!({"host": host, "plugins": plugins, "refused": refused, "omitted": omitted}))
}

fn digest(plugin: &Plugin) -> String {
    format!("sha256:{}", plugin.id().digest)
}

fn described(plugin: &Plugin, methods: impl Iterator<Item = Json>) -> Json {
    json!({
        "name": &*plugin.id().name,
        "digest": digest(plugin),
        "kind": plugin.kind().to_string(),
        "timeout-ms": u64::try_from(plugin.timeout().as_millis()).unwrap_or(u64::MAX),
        "methods": methods.collect::<Vec<_>>(),
    })
}

fn text(json: &Json) -> Bytes {
    Bytes::from(json.to_string())
}

/// The methods of these plugins that can be called, each as `shown`, and how many
/// there is no room for.
fn callable<'p>(
    plugins: impl Iterator<Item = &'p Arc<Plugin>>,
    shown: impl Fn(&Method, Kind) -> Option<Json>,
) -> (Vec<Json>, usize) {
    let (mut names, mut schemas) = (Room::of(MAX_NAMES), Room::of(MAX_SCHEMAS));
    let mut methods = Vec::new();
    let mut omitted = 0;
    for plugin in plugins {
        let kind = plugin.kind();
        let mut all = plugin.described(&mut schemas);
        if kind != Kind::Typed {
            // Whatever else it answers to is the same method.
            all.truncate(1);
        }
        for method in all.into_iter().filter(|method| method.not_callable.is_none()) {
            match (method.fit(&mut names), shown(&method, kind)) {
                (Ok(()), Some(method)) => methods.push(method),
                _ => omitted += 1,
            }
        }
    }
    (methods, omitted)
}

/// The service description of JSON-RPC 1.1 (working draft of 2006-08-07, section 9).
fn service<'p>(plugins: impl Iterator<Item = &'p Arc<Plugin>>) -> Bytes {
    let (procs, _omitted) = callable(plugins, |method, _kind| Some(method.procedure()));
    text(&json!({
        "sdversion": "1.0",
        "name": "rpchost",
        "id": null,
        "version": env!("CARGO_PKG_VERSION"),
        "summary": null,
        "help": null,
        "procs": procs,
    }))
}

/// The OpenRPC document of these plugins.
fn openrpc<'p>(plugins: impl Iterator<Item = &'p Arc<Plugin>>) -> Bytes {
    let (methods, omitted) = callable(plugins, Method::openrpc);
    let about = match omitted {
        0 => "What this host can be asked now.".to_owned(),
        omitted => format!(
            "What this host can be asked now, but for {omitted} methods that there is no room \
             for; `rpchost.describe` has the names of all, and of each the schemas."
        ),
    };
    text(&json!({
        "$schema": OPENRPC_SCHEMA,
        "openrpc": OPENRPC,
        "info": {
            "title": "rpchost",
            "version": env!("CARGO_PKG_VERSION"),
            "description": about,
        },
        "methods": methods,
    }))
}
