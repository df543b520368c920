//! One version of one plugin: loaded, checked, callable.
//!
//! A [`Plugin`] cannot exist unless its imports are linked and its exports
//! have the right types, so a call never finds out.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use tracing::debug;
use wasmtime::component::Component;

use super::engine::{Engine, MAX_TABLE_ELEMENTS};
use super::headers;
use super::kind::Kind;
use super::signature;
use super::store::{self, CallState};
use super::trap::{self, Stage};
use crate::capabilities::{CallFacts, Captured};
use crate::config::{Limits, OnRedelivery, PluginConfig};
use crate::message::{
    Arguments, CallError, Delivery, ErrorKind, HeaderValue, Outcome, PluginId, ReturnValue,
};

/// How long after the deadline a guest is dropped that no epoch can reach,
/// because it waits in the host. Epochs come first: they bring a stack.
const GRACE: Duration = Duration::from_millis(25);

/// Longest data of a handler's error in bytes: room for a report, but an error
/// is no way around the limits of a result.
const MAX_ERROR_DATA: usize = 64 * 1024;

/// Generated from `wit/`.
#[allow(missing_docs, unreachable_pub, reason = "generated code")]
mod bindings {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "minimal",
        exports: { default: async },
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}

use bindings::exports::rpchost::rpc::handler::{MessageParam, RpcError};

/// A version of a plugin, ready to be called any number of times at once.
pub struct Plugin {
    id: PluginId,
    engine: Engine,
    handler: bindings::MinimalPre<CallState>,
    timeout: Duration,
    memory: u64,
    max_body: usize,
    max_headers: usize,
    max_concurrency: Option<usize>,
    on_redelivery: OnRedelivery,
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugin").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What a plugin is called with.
#[derive(Debug)]
pub struct Invocation<'a> {
    /// The canonical name of the method.
    pub method: &'a str,
    /// What the caller sent.
    pub arguments: &'a Arguments,
    /// MIME type of a body.
    pub content_type: Option<&'a str>,
    /// The request's headers.
    pub headers: &'a [(String, HeaderValue)],
    /// What the guest may know about its delivery, with the deadline.
    pub facts: CallFacts,
}

impl<'a> Invocation<'a> {
    /// The invocation that a delivery asks for.
    pub fn of(
        delivery: &'a Delivery,
        method: &'a str,
        arguments: &'a Arguments,
        deadline: Instant,
    ) -> Self {
        let content_type = match arguments {
            Arguments::Body(_) => delivery.properties.content_type.as_deref(),
            Arguments::Json(_) => Some("application/json"),
        };
        Self {
            method,
            arguments,
            content_type,
            headers: &delivery.properties.headers,
            facts: CallFacts::of(delivery, deadline),
        }
    }
}

impl Plugin {
    /// Compiles and checks a component. Blocks; not for async threads.
    ///
    /// # Errors
    ///
    /// Says why the bytes cannot serve, for the person who put them there.
    pub fn load(
        engine: &Engine,
        id: PluginId,
        bytes: &[u8],
        config: &PluginConfig,
        limits: &Limits,
    ) -> anyhow::Result<Self> {
        Kind::of_bytes(bytes)?;
        let component = engine.compile(bytes).context("it is not a valid component")?;
        let kind = Kind::of_component(&component, engine.wasmtime(), config.kind)?;
        match kind {
            Kind::Handler => {}
            Kind::Typed | Kind::Command => bail!(
                "it is a {kind} plugin, and this version serves handlers only; export \
                 `rpchost:rpc/handler@0.1.0`"
            ),
        }
        signature::check_handler(&component, engine.wasmtime())?;
        let memory = config.memory_limit.unwrap_or(limits.memory);
        check_initial_size(&component, &id, memory)?;
        let instance = engine
            .linker()
            .instantiate_pre(&component)
            .map_err(|error| super::kind::explain_import(&error))?;
        let handler = bindings::MinimalPre::new(instance)
            .map_err(anyhow::Error::from)
            .context("its `rpchost:rpc/handler` is not of the type that this host calls")?;
        Ok(Self {
            id,
            engine: engine.clone(),
            handler,
            timeout: config.timeout.unwrap_or(limits.call_timeout),
            memory,
            max_body: usize::try_from(limits.max_body).unwrap_or(usize::MAX),
            max_headers: limits.max_headers,
            max_concurrency: config.max_concurrency,
            on_redelivery: config.on_redelivery,
        })
    }

    /// Name and digest of this version.
    pub fn id(&self) -> &PluginId {
        &self.id
    }

    /// Longest time a call may run, starting included.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Most calls of this plugin at once, where its configuration says so.
    pub fn max_concurrency(&self) -> Option<usize> {
        self.max_concurrency
    }

    /// What becomes of a request that may have run before.
    pub fn on_redelivery(&self) -> OnRedelivery {
        self.on_redelivery
    }

    /// Runs one call in a fresh instance. Never longer than the deadline of
    /// `invocation.facts`, apart from one tick and [`GRACE`].
    pub async fn call(&self, invocation: Invocation<'_>) -> Outcome {
        let deadline = invocation.facts.deadline;
        let headers = headers::to_guest(invocation.headers);
        let body = match invocation.arguments {
            Arguments::Body(body) | Arguments::Json(body) => body,
        };
        let message = MessageParam {
            body: body.as_ref(),
            content_type: invocation.content_type,
            headers: &headers
                .iter()
                .map(|(name, value)| (*name, value.as_ref()))
                .collect::<Vec<_>>(),
        };
        let mut store = store::new(&self.engine, invocation.facts, self.memory, self.max_body);
        let mut stage = Stage::Starting;
        let run = async {
            let instance = self.handler.instantiate_async(&mut store).await?;
            stage = Stage::Running;
            instance.rpchost_rpc_handler().call_handle(&mut store, invocation.method, message).await
        };
        let run = self.engine.in_turns(run);
        let ended = tokio::time::timeout_at((deadline + GRACE).into(), run).await;
        log_output(&self.id, invocation.method, store.data());
        match ended {
            Err(_) => Err(trap::timeout(&self.id.name, stage)),
            Ok(Err(error)) => Err(trap::classify(&self.id.name, &error, stage, store.data())),
            Ok(Ok(Err(error))) => Err(self.application_error(error)),
            Ok(Ok(Ok(reply))) => self.accept(reply.body, reply.content_type, reply.headers),
        }
    }

    /// The handler's own error, with data that is small enough to be an error's.
    fn application_error(&self, error: RpcError) -> CallError {
        if let Some(bytes) = error.data.as_ref().map(String::len)
            && bytes > MAX_ERROR_DATA
        {
            return CallError::new(
                ErrorKind::ResourceExhausted,
                format!(
                    "the error of the plugin `{}` has {bytes} bytes of data, the limit is \
                     {MAX_ERROR_DATA}",
                    self.id.name
                ),
            );
        }
        let kind = ErrorKind::Application { code: error.code, retryable: error.retryable };
        let mut call_error = CallError::new(kind, error.message);
        call_error.data = error.data;
        call_error
    }

    /// Checks a result against the limits of what can be sent.
    fn accept(
        &self,
        body: Vec<u8>,
        content_type: Option<String>,
        headers: Vec<(String, String)>,
    ) -> Outcome {
        if body.len() > self.max_body {
            return Err(CallError::new(
                ErrorKind::ResourceExhausted,
                format!(
                    "the result of the plugin `{}` has {} bytes, the limit is {}",
                    self.id.name,
                    body.len(),
                    self.max_body
                ),
            ));
        }
        let headers = headers::from_guest(headers, self.max_headers).map_err(|reason| {
            CallError::new(
                ErrorKind::ResourceExhausted,
                format!("the result of the plugin `{}` has {reason}", self.id.name),
            )
        })?;
        Ok(ReturnValue {
            body: Bytes::from(body),
            content_type: content_type.filter(|text| headers::fits_short_string(text)),
            headers,
        })
    }
}

/// Refuses a component that could never start.
fn check_initial_size(component: &Component, id: &PluginId, memory: u64) -> anyhow::Result<()> {
    const PAGE: u64 = 64 * 1024;
    let Some(needs) = component.resources_required() else { return Ok(()) };
    let initial = needs.max_initial_memory_size.unwrap_or(0).saturating_mul(PAGE);
    if initial > memory {
        bail!(
            "it starts with {} of memory, the limit is {}; raise `memory-limit` in `{}.toml`, or \
             make it smaller",
            bytesize::ByteSize(initial),
            bytesize::ByteSize(memory),
            id.name
        );
    }
    let elements = needs.max_initial_table_size.unwrap_or(0);
    if elements > MAX_TABLE_ELEMENTS as u64 {
        bail!("it starts with a table of {elements} elements, the limit is {MAX_TABLE_ELEMENTS}");
    }
    Ok(())
}

/// Passes a guest's output to the log, quoted so that it cannot forge lines.
fn log_output(id: &PluginId, method: &str, state: &CallState) {
    if !tracing::enabled!(target: "guest", tracing::Level::DEBUG) {
        return;
    }
    let log = |stream: &str, captured: Captured| {
        for line in String::from_utf8_lossy(&captured.bytes).lines() {
            debug!(target: "guest", plugin = %id.name, method, stream, "{line:?}");
        }
        if captured.dropped > 0 {
            debug!(
                target: "guest", plugin = %id.name, method, stream,
                "{} more bytes were dropped", captured.dropped
            );
        }
    };
    log("stdout", state.guest.stdout());
    log("stderr", state.guest.stderr());
}
