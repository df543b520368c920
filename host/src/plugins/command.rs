//! Plugins of the kind `command`: programs. The body is standard input, and
//! standard output is the result.
//!
//! A program runs from its start to its end in an instance of its own. It is a
//! component with `wasi:cli/run`, or a core module with `_start`, which the
//! engine runs as it is: an adapter would cost more, and breaks what Go and Zig
//! make.

use anyhow::{Context as _, bail};
use bytes::Bytes;
use serde_json::json;
use wasmtime::{ExternType, Module, Store};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi::p2::bindings::CommandPre;

use super::Invocation;
use super::core_module::START;
use super::engine::Engine;
use super::headers;
use super::kind::explain_import;
use super::store::CallState;
use super::trap::Stage;
use crate::capabilities::Program;
use crate::message::{CallError, ErrorKind, ReturnValue};

/// How a program ends that says no more than that it has failed.
const FAILURE: i32 = 1;

/// A program, ready to be started any number of times.
pub(super) enum Command {
    Component(CommandPre<CallState>),
    Module(wasmtime::InstancePre<CallState>),
}

/// How a program ended by itself: well, or with a status that is not 0.
pub(super) type Ended = Result<(), i32>;

impl Command {
    /// A component with `wasi:cli/run`.
    pub(super) fn of_component(
        instance: wasmtime::component::InstancePre<CallState>,
    ) -> anyhow::Result<Self> {
        CommandPre::new(instance)
            .map(Self::Component)
            .map_err(anyhow::Error::from)
            .context("its `wasi:cli/run` is not of the type that this host calls")
    }

    /// A core module with `_start`.
    pub(super) fn of_module(engine: &Engine, module: &Module) -> anyhow::Result<Self> {
        match module.get_export(START) {
            Some(ExternType::Func(ty)) if ty.params().len() + ty.results().len() == 0 => {}
            _ => bail!("its `{START}` is no function without parameters and results"),
        }
        let instance = engine.core_linker().instantiate_pre(module);
        instance.map(Self::Module).map_err(|error| explain_import(&error, None))
    }

    /// Bytes that may cross to the host at a time. A component's are copied
    /// before the host sees them. A core module's stay where they are, and are
    /// counted by the size of its buffers, which its memory bounds.
    pub(super) fn transfer(&self, memory: u64, most: usize) -> usize {
        match self {
            Self::Component(_) => most,
            Self::Module(_) => usize::try_from(memory).unwrap_or(usize::MAX).max(most),
        }
    }

    /// Runs the program to its end.
    pub(super) async fn run(
        &self,
        store: &mut Store<CallState>,
        stage: &mut Stage,
    ) -> wasmtime::Result<Ended> {
        match self.start(store, stage).await {
            // The usual end of one that does not return from its `main`.
            Err(error) => match error.downcast_ref::<I32Exit>() {
                Some(I32Exit(0)) => Ok(Ok(())),
                Some(I32Exit(status)) => Ok(Err(*status)),
                None => Err(error),
            },
            ended => ended,
        }
    }

    async fn start(
        &self,
        store: &mut Store<CallState>,
        stage: &mut Stage,
    ) -> wasmtime::Result<Ended> {
        match self {
            Self::Component(program) => {
                let program = program.instantiate_async(&mut *store).await?;
                *stage = Stage::Running;
                let ended = program.wasi_cli_run().call_run(store).await?;
                Ok(ended.map_err(|()| FAILURE))
            }
            Self::Module(program) => {
                let program = program.instantiate_async(&mut *store).await?;
                *stage = Stage::Running;
                let start = program.get_typed_func::<(), ()>(&mut *store, START)?;
                start.call_async(store, ()).await?;
                Ok(Ok(()))
            }
        }
    }
}

/// What a program of this name finds when it is started for a call.
pub(super) fn program(name: &str, invocation: &Invocation<'_>, most: usize) -> Program {
    Program {
        arguments: vec![name.to_owned(), invocation.method.to_owned()],
        variables: variables(invocation),
        input: invocation.arguments.body(),
        most,
    }
}

/// `RPC_METHOD`, and `RPC_HEADER_<NAME>` for each header.
fn variables(invocation: &Invocation<'_>) -> Vec<(String, String)> {
    let mut variables = vec![("RPC_METHOD".to_owned(), invocation.method.to_owned())];
    for (name, value) in headers::to_guest(invocation.headers) {
        let name = variable(name);
        // A variable cannot hold a NUL. Of two headers that have one name here,
        // the first counts, as everywhere.
        if !value.contains('\0') && !variables.iter().any(|(known, _)| *known == name) {
            variables.push((name, value.into_owned()));
        }
    }
    variables
}

/// The variable of a header: in capital letters, and `_` for all that is
/// neither letter nor digit, as CGI has it.
fn variable(header: &str) -> String {
    let part = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    format!("RPC_HEADER_{}", header.chars().map(part).collect::<String>())
}

/// The result of a program that ended well.
pub(super) fn result(output: Vec<u8>) -> ReturnValue {
    ReturnValue { body: Bytes::from(output), content_type: None, headers: Vec::new() }
}

/// The error of one that wrote too much.
pub(super) fn too_much(plugin: &str, most: usize) -> CallError {
    let text = format!("the result of the plugin `{plugin}` has more than {most} bytes, the limit");
    CallError::new(ErrorKind::ResourceExhausted, text)
}

/// The error of a program that ended with a status other than 0. `denied` is
/// what it was refused before.
pub(super) fn failure(plugin: &str, status: i32, denied: Option<&str>, stderr: &str) -> CallError {
    let stderr = stderr.trim();
    let (kind, mut text) = match denied {
        Some(denied) => {
            let text = format!("the plugin `{plugin}` exited with status {status} after {denied}");
            (ErrorKind::ResourceExhausted, text)
        }
        None => {
            let kind = ErrorKind::Application { code: status, retryable: false };
            (kind, format!("the plugin `{plugin}` exited with status {status}"))
        }
    };
    if let Some(last) = stderr.lines().last() {
        text.push_str(": ");
        text.push_str(last);
    }
    let data = json!({ "status": status, "stderr": stderr });
    CallError::new(kind, text).with_data(data.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_headers_name_is_written_as_a_variables() {
        for (header, expected) in [
            ("trace-id", "RPC_HEADER_TRACE_ID"),
            ("X.Y=Z", "RPC_HEADER_X_Y_Z"),
            ("größe", "RPC_HEADER_GR__E"),
            ("", "RPC_HEADER_"),
        ] {
            assert_eq!(variable(header), expected);
        }
    }

    #[test]
    fn a_failure_says_the_last_line_and_carries_the_rest() {
        let error = failure("tool", 7, None, "one\n\u{fffd}two\n\n");
        assert_eq!(error.kind, ErrorKind::Application { code: 7, retryable: false });
        assert_eq!(error.message, "the plugin `tool` exited with status 7: \u{fffd}two");
        let data = r#"{"status":7,"stderr":"one\n\ufffdtwo"}"#.replace("\\ufffd", "\u{fffd}");
        assert_eq!(error.data, Some(data));
        let error = failure("tool", 2, Some("memory beyond the limit was refused"), "");
        assert_eq!(error.kind, ErrorKind::ResourceExhausted);
    }
}
