//! One version of one plugin: loaded, checked, callable.
//!
//! A [`Plugin`] cannot exist unless its imports are linked and its exports
//! have the right types, so a call never finds out.

use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use wasmtime::component::{Component, Instance};

use super::about::About;
use super::circuit::{Circuit, Pass};
use super::command::{self, Command};
use super::compile::Code;
use super::core_module::Source;
use super::describe::Method;
use super::engine::Engine;
use super::headers;
use super::kind::{Kind, explain_import};
use super::pool::{Leased, Pool};
use super::signature;
use super::store::{self, CallState};
use super::trap::{self, Ended, Stage};
use super::turns::Turns;
use super::typed::{self, Described, Room, Typed};
use crate::capabilities::{CallFacts, GuestState, LogLimit, Speaker};
use crate::config::{Instances, Limits, OnRedelivery, PluginConfig};
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
    file: Option<Arc<Path>>,
    engine: Engine,
    log: Arc<LogLimit>,
    pub(super) turns: Turns,
    about: About,
    served: Served,
    circuit: Circuit,
    timeout: Duration,
    memory: u64,
    max_body: usize,
    max_headers: usize,
    max_concurrency: Option<usize>,
    on_redelivery: OnRedelivery,
}

/// What a plugin is called through.
enum Served {
    Handler(bindings::MinimalPre<CallState>, Option<Pool<bindings::Minimal>>),
    Typed(Typed, Option<Pool<Instance>>),
    Command(Command),
}

impl Served {
    fn of_component(
        engine: &Engine,
        id: &PluginId,
        component: &Component,
        config: &PluginConfig,
        memory: u64,
    ) -> anyhow::Result<Self> {
        let reuse = config.instances == Instances::Reuse;
        let kind = Kind::of_component(component, engine.wasmtime(), config.kind)?;
        if kind == Kind::Handler {
            signature::check_handler(component, engine.wasmtime())?;
        }
        if let Some(needs) = component.resources_required() {
            store::check_initial_size(&needs, id, memory)?;
        }
        let instance = engine.linker().instantiate_pre(component);
        let instance = instance
            .map_err(|error| explain_import(&error, Some((component, engine.wasmtime()))))?;
        Ok(match kind {
            Kind::Typed => {
                let functions = typed::functions(component, engine.wasmtime())?;
                let pool = reuse.then(|| Pool::new(engine.room().clone()));
                Self::Typed(Typed::new(&id.name, instance, functions)?, pool)
            }
            Kind::Command => Self::Command(Command::of_component(instance)?),
            Kind::Handler => Self::Handler(
                bindings::MinimalPre::new(instance)
                    .map_err(anyhow::Error::from)
                    .context("its `rpchost:rpc/handler` is not of the type that this host calls")?,
                reuse.then(|| Pool::new(engine.room().clone())),
            ),
        })
    }
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
        let content_type = if arguments.is_json() {
            Some("application/json")
        } else {
            delivery.properties.content_type.as_deref()
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
    /// Compiles and checks a plugin. Blocks; not for async threads.
    ///
    /// # Errors
    ///
    /// Says why the file cannot serve, for the person who put it there.
    pub fn load(
        engine: &Engine,
        id: PluginId,
        source: Source<'_>,
        config: &PluginConfig,
        limits: &Limits,
    ) -> anyhow::Result<Self> {
        Kind::of_bytes(source.wasm)?;
        let engine = &engine.suited_to(source);
        let memory = config.memory_limit.unwrap_or(limits.memory);
        let served = match engine.compile(source)? {
            Code::Component(component) => {
                Served::of_component(engine, &id, &component, config, memory)?
            }
            Code::Program(module) => {
                Kind::of_program(config.kind)?;
                store::check_initial_size(&module.resources_required(), &id, memory)?;
                Served::Command(Command::of_module(engine, &module)?)
            }
        };
        if matches!(served, Served::Command(_)) && config.instances == Instances::Reuse {
            bail!(
                "a command ends with its call, so `instances = \"reuse\"` in `{}.toml` cannot be; \
                 leave it out, or write `per-call`",
                id.name
            );
        }
        let log = Arc::new(LogLimit::new(id.name.clone(), engine.telemetry().clone()));
        Ok(Self {
            id,
            file: None,
            engine: engine.clone(),
            turns: engine.turns(),
            log,
            about: About::read(source.wasm)?,
            served,
            circuit: Circuit::new(),
            timeout: config.timeout.unwrap_or(limits.call_timeout),
            memory,
            max_body: usize::try_from(limits.max_body).unwrap_or(usize::MAX),
            max_headers: limits.max_headers,
            max_concurrency: config.max_concurrency,
            on_redelivery: config.on_redelivery,
        })
    }

    /// Notes where the bytes came from, so that they can be looked at again.
    pub(super) fn of_file(mut self, file: &Path) -> Self {
        self.file = Some(file.into());
        self
    }

    /// Name and digest of this version.
    pub fn id(&self) -> &PluginId {
        &self.id
    }

    /// What its file says of itself.
    pub fn about(&self) -> &About {
        &self.about
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

    /// A method's canonical name, by what stands behind the plugin's name in
    /// one of its names. A handler or command takes whatever it is.
    pub(super) fn canonical(&self, rest: Option<&str>) -> Option<String> {
        let plugin = &self.id.name;
        match (&self.served, rest) {
            (Served::Handler(..) | Served::Command(_), None) => Some(plugin.to_string()),
            (Served::Handler(..) | Served::Command(_), Some(rest)) => {
                Some(format!("{plugin}.{rest}"))
            }
            (Served::Typed(typed, _), None) => typed.only().map(|name| format!("{plugin}.{name}")),
            (Served::Typed(typed, _), Some(rest)) => {
                typed.canonical(rest).map(|name| format!("{plugin}.{name}"))
            }
        }
    }

    /// Whether its methods take JSON, and nothing else.
    pub fn is_typed(&self) -> bool {
        matches!(self.served, Served::Typed(..))
    }

    /// What kind of plugin it is.
    pub fn kind(&self) -> Kind {
        match &self.served {
            Served::Handler(..) => Kind::Handler,
            Served::Typed(..) => Kind::Typed,
            Served::Command(_) => Kind::Command,
        }
    }

    /// Its methods, with schemas as far as there is room.
    pub(super) fn described(&self, room: &mut Room) -> Vec<Method> {
        self.described_if(|_| true, room)
    }

    /// One of them, by its canonical name.
    pub(super) fn described_only(&self, method: &str, room: &mut Room) -> Vec<Method> {
        let name = method.split_once('.').map_or("", |(_, name)| name);
        self.described_if(|function| function.name == name, room)
    }

    fn described_if(
        &self,
        wanted: impl Fn(&Described<'_>) -> bool,
        room: &mut Room,
    ) -> Vec<Method> {
        match &self.served {
            Served::Typed(typed, _) => typed
                .described()
                .filter(wanted)
                .map(|function| Method::typed(&self.id.name, &function, &self.about, room))
                .collect(),
            Served::Handler(..) | Served::Command(_) => Method::untyped(self.kind(), &self.id.name),
        }
    }

    /// Why a function is listed and cannot be called, if it is one.
    pub(super) fn why_not_callable(&self, method: &str) -> Option<&str> {
        match &self.served {
            Served::Typed(typed, _) => typed.why_not_callable(method),
            Served::Handler(..) | Served::Command(_) => None,
        }
    }

    /// Number of methods: a handler or command counts as one, whatever it answers to.
    pub(super) fn methods(&self) -> usize {
        match &self.served {
            Served::Handler(..) | Served::Command(_) => 1,
            Served::Typed(typed, _) => typed.len(),
        }
    }

    /// Canonical names of its methods; a handler's or command's is its own.
    pub(super) fn method_names(&self) -> Vec<String> {
        let plugin = &self.id.name;
        match &self.served {
            Served::Handler(..) | Served::Command(_) => vec![plugin.to_string()],
            Served::Typed(typed, _) => typed
                .described()
                .filter(|function| function.callable.is_ok())
                .map(|function| format!("{plugin}.{}", function.name))
                .collect(),
        }
    }

    /// Names of methods that do not begin with the plugin's, each with what
    /// stands behind the plugin's name in the canonical one.
    pub(super) fn wit_names(&self) -> Vec<(&str, &str)> {
        match &self.served {
            Served::Handler(..) | Served::Command(_) => Vec::new(),
            Served::Typed(typed, _) => typed.wit_names().collect(),
        }
    }

    /// Drops instances that have been idle for too long.
    pub(super) fn drop_idle(&self, now: Instant) {
        match &self.served {
            Served::Handler(_, Some(pool)) => pool.drop_idle(now),
            Served::Typed(_, Some(pool)) => pool.drop_idle(now),
            Served::Handler(_, None) | Served::Typed(_, None) | Served::Command(_) => {}
        }
    }

    /// Says whether this version has been replaced: then it keeps no instance.
    pub(super) fn retire(&self, retired: bool) {
        match &self.served {
            Served::Handler(_, Some(pool)) => pool.retire(retired),
            Served::Typed(_, Some(pool)) => pool.retire(retired),
            Served::Handler(_, None) | Served::Typed(_, None) | Served::Command(_) => {}
        }
    }

    /// The error of calls that are not let through, if none is for now.
    pub fn resting(&self) -> Option<CallError> {
        self.circuit.rest(Instant::now()).map(|rest| self.rests(rest))
    }

    fn rests(&self, rest: Duration) -> CallError {
        let seconds = rest.as_millis().div_ceil(1000).max(1);
        let name = &self.id.name;
        let text = format!("the plugin `{name}` keeps failing and rests; try again in {seconds} s");
        CallError::new(ErrorKind::CircuitOpen, text)
    }

    pub(super) fn circuit(&self) -> &Circuit {
        &self.circuit
    }

    /// Leaves the thread that receives, unless a call is likely to be short.
    pub async fn leave_unless_short(&self, slots_left: bool) {
        self.turns.leave_unless_short(slots_left).await;
    }

    /// Runs one call, in a fresh instance or in one that is idle. Never longer than the deadline of
    /// `invocation.facts`, apart from one tick and [`GRACE`].
    pub async fn call(&self, invocation: Invocation<'_>) -> Outcome {
        let begun = Instant::now();
        let hurried = invocation.facts.deadline + GRACE < begun + self.timeout;
        let pass = self.circuit.enter(begun, hurried).map_err(|rest| self.rests(rest))?;
        self.call_as(invocation, pass).await
    }

    /// The same, where what comes of it is told to whoever gave the pass.
    pub(super) async fn call_as(&self, mut invocation: Invocation<'_>, pass: Pass<'_>) -> Outcome {
        let method = invocation.method.to_owned();
        invocation.facts.speaker = Some(Speaker { limit: self.log.clone(), method });
        match &self.served {
            Served::Handler(handler, pool) => {
                self.call_handler(handler, pool.as_ref(), invocation, pass).await
            }
            Served::Typed(typed, pool) => {
                self.call_typed(typed, pool.as_ref(), invocation, pass).await
            }
            Served::Command(command) => self.call_command(command, invocation, pass).await,
        }
    }

    async fn call_handler(
        &self,
        handler: &bindings::MinimalPre<CallState>,
        pool: Option<&Pool<bindings::Minimal>>,
        invocation: Invocation<'_>,
        pass: Pass<'_>,
    ) -> Outcome {
        let deadline = invocation.facts.deadline;
        let headers = headers::to_guest(invocation.headers);
        let body = invocation.arguments.body();
        let message = MessageParam {
            body: body.as_ref(),
            content_type: invocation.content_type,
            headers: &headers
                .iter()
                .map(|(name, value)| (*name, value.as_ref()))
                .collect::<Vec<_>>(),
        };
        let mut leased = self.lease(pool, invocation.facts, self.max_body);
        let mut stage = Stage::Starting;
        let run = async {
            if leased.exports.is_none() {
                let started = handler.instantiate_async(&mut leased.store).await?;
                leased.started(started);
            }
            stage = Stage::Running;
            let Leased { store, exports: Some(exports), .. } = &mut leased else {
                wasmtime::bail!("the instance is gone");
            };
            let handler = exports.rpchost_rpc_handler();
            handler.call_handle(store, invocation.method, message).await
        };
        let ended = self.bounded(deadline, pin!(run)).await;
        let returned = self.ended(invocation.method, ended, stage, leased.store.data(), pass)?;
        give_back(pool, leased);
        match returned {
            Err(error) => Err(self.application_error(error)),
            Ok(reply) => self.accept(reply.body, reply.content_type, reply.headers),
        }
    }

    async fn call_typed(
        &self,
        typed: &Typed,
        pool: Option<&Pool<Instance>>,
        invocation: Invocation<'_>,
        pass: Pass<'_>,
    ) -> Outcome {
        let name = invocation.method.split_once('.').map_or("", |(_, name)| name);
        let method = typed.method(name).ok_or_else(|| {
            let text = format!("`{}` has no method `{name}`", self.id.name);
            CallError::new(ErrorKind::Internal, text)
        })?;
        let values = method.read(invocation.arguments)?;
        let deadline = invocation.facts.deadline;
        let transfer = self.max_body.saturating_add(typed::MAX_RESULT_VALUES);
        let mut leased = self.lease(pool, invocation.facts, transfer);
        let mut stage = Stage::Starting;
        let ended =
            self.bounded(deadline, pin!(typed.call(method, values, &mut leased, &mut stage))).await;
        let returned = self.ended(invocation.method, ended, stage, leased.store.data(), pass)?;
        give_back(pool, leased);
        method.answer(&returned, self.max_body, MAX_ERROR_DATA)
    }

    async fn call_command(
        &self,
        command: &Command,
        invocation: Invocation<'_>,
        pass: Pass<'_>,
    ) -> Outcome {
        let program = command::program(&self.id.name, &invocation, self.max_body);
        let deadline = invocation.facts.deadline;
        let guest = GuestState::for_program(invocation.facts, program);
        let transfer = command.transfer(self.memory, self.max_body);
        let mut store = store::with_guest(&self.engine, guest, deadline, self.memory, transfer);
        let mut stage = Stage::Starting;
        let ended = self.bounded(deadline, pin!(command.run(&mut store, &mut stage))).await;
        let state = store.data();
        // Who wrote too much was trapped for it, which says nothing about the rest.
        let Some(output) = state.guest.take_output() else {
            return Err(command::too_much(&self.id.name, self.max_body));
        };
        self.ended(invocation.method, ended, stage, state, pass)?.map_err(|status| {
            let denied = state.limiter.denied.as_deref();
            command::failure(&self.id.name, status, denied, &state.guest.stderr_tail())
        })?;
        Ok(command::result(output))
    }

    /// An instance that is idle, or the store for a fresh one.
    fn lease<E>(&self, pool: Option<&Pool<E>>, facts: CallFacts, transfer: usize) -> Leased<E> {
        let fresh = |facts| Leased::fresh(store::new(&self.engine, facts, self.memory, transfer));
        match pool {
            Some(pool) => pool.take(facts).unwrap_or_else(fresh),
            None => fresh(facts),
        }
    }

    /// Runs a guest in turns with others, up to its deadline. `None` if it is to be dropped then.
    /// It is pinned already: who takes a future by value has room for it twice.
    async fn bounded<T>(
        &self,
        deadline: Instant,
        run: Pin<&mut impl Future<Output = wasmtime::Result<T>>>,
    ) -> Option<wasmtime::Result<T>> {
        let run = self.turns.run(run);
        tokio::time::timeout_at((deadline + GRACE).into(), run).await.ok()
    }

    /// What came of a run.
    fn ended<T>(
        &self,
        method: &str,
        ended: Option<wasmtime::Result<T>>,
        stage: Stage,
        state: &CallState,
        pass: Pass<'_>,
    ) -> Result<T, CallError> {
        let error = match ended {
            Some(Ok(returned)) => {
                pass.returned();
                return Ok(returned);
            }
            Some(Err(error)) => Some(error),
            None => None,
        };
        let ended = Ended { plugin: &self.id, file: self.file.as_ref(), method, stage, state };
        let error = trap::explain(&ended, error.as_ref(), self.engine.reports());
        // A result that is larger than the host takes is what the caller asked for.
        let too_large =
            error.kind == ErrorKind::ResourceExhausted && state.limiter.denied.is_none();
        if !too_large {
            pass.ended_by(error.kind);
        }
        Err(error)
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

/// Keeps an instance whose guest has returned, where it may be used again.
fn give_back<E>(pool: Option<&Pool<E>>, leased: Leased<E>) {
    if let Some(pool) = pool {
        pool.give_back(leased, Instant::now());
    }
}
