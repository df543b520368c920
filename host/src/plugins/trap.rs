//! Why a call ended without an answer: from wasmtime's errors to ours.
//!
//! The only place that knows wasmtime's error types. What reaches a caller is
//! the trap's name and the guest's function names, never a path.

use serde_json::json;
use wasmtime::{PoolConcurrencyLimitError, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use super::store::CallState;
use crate::message::{CallError, ErrorKind};

/// Most frames of a guest's stack in an error.
const MAX_FRAMES: usize = 20;

/// Longest function name in a stack, in bytes; mangled generics have no bound.
const MAX_NAME: usize = 160;

/// How far a call had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Starting,
    Running,
}

/// What ended the call of `plugin`.
pub(super) fn classify(
    plugin: &str,
    error: &wasmtime::Error,
    stage: Stage,
    state: &CallState,
) -> CallError {
    if error.is::<PoolConcurrencyLimitError>() {
        return CallError::new(
            ErrorKind::Overloaded,
            format!("no room for another instance of the plugin `{plugin}`"),
        );
    }
    let trap = error.downcast_ref::<Trap>().copied();
    if trap == Some(Trap::Interrupt) {
        return timeout(plugin, stage).with_data(data("interrupt", error));
    }
    if let Some(denied) = &state.limiter.denied {
        return CallError::new(
            ErrorKind::ResourceExhausted,
            format!("the plugin `{plugin}` ended after {denied}"),
        )
        .with_data(data(trap.map_or("guest-error", trap_name), error));
    }
    let (name, text) = if let Some(trap) = trap {
        (trap_name(trap), trap.to_string())
    } else if let Some(I32Exit(status)) = error.downcast_ref::<I32Exit>() {
        ("exit", format!("it exited with status {status} instead of returning"))
    } else if is_hostcall_exhausted(error) {
        return CallError::new(
            ErrorKind::ResourceExhausted,
            format!("the result of the plugin `{plugin}` is larger than the host's limit"),
        );
    } else {
        // Lowering or lifting: lengths that lie, bad UTF-8, bad discriminants.
        ("guest-error", error.root_cause().to_string())
    };
    let (kind, did) = match stage {
        Stage::Starting => (ErrorKind::InstantiateFailed, "trapped while starting"),
        Stage::Running => (ErrorKind::Trap, "trapped"),
    };
    CallError::new(kind, format!("the plugin `{plugin}` {did}: {text}"))
        .with_data(data(name, error))
}

/// The error of a call that ran past its limit.
pub(super) fn timeout(plugin: &str, stage: Stage) -> CallError {
    let doing = match stage {
        Stage::Starting => "while starting",
        Stage::Running => "while running",
    };
    CallError::new(
        ErrorKind::Timeout,
        format!("the plugin `{plugin}` was interrupted {doing}: its time is up"),
    )
}

fn data(trap: &str, error: &wasmtime::Error) -> String {
    json!({ "trap": trap, "stack": stack(error) }).to_string()
}

/// The guest's functions from the innermost out, without those that every
/// panic of a Rust guest begins with.
fn stack(error: &wasmtime::Error) -> Vec<String> {
    let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() else {
        return Vec::new();
    };
    let names: Vec<String> = backtrace
        .frames()
        .iter()
        .map(|frame| {
            let mut name = frame.func_name().map_or_else(
                || format!("function {}", frame.func_index()),
                |name| format!("{:#}", rustc_demangle::demangle(name)),
            );
            crate::message::truncate(&mut name, MAX_NAME);
            name
        })
        .collect();
    let runtime = names.iter().take_while(|name| is_panic_machinery(name)).count();
    // A stack that is all machinery is shown whole.
    let skip = if runtime == names.len() { 0 } else { runtime };
    names.into_iter().skip(skip).take(MAX_FRAMES).collect()
}

fn is_panic_machinery(name: &str) -> bool {
    const PREFIXES: [&str; 8] =
        ["abort", "std::", "core::", "alloc::", "__rust", "rust_", "dlmalloc", "__abort"];
    PREFIXES.iter().any(|prefix| name.trim_start_matches('<').starts_with(prefix))
}

/// wasmtime keeps this error's type to itself; its text is all there is.
fn is_hostcall_exhausted(error: &wasmtime::Error) -> bool {
    error.chain().any(|cause| cause.to_string().contains("hostcalls has been exhausted"))
}

fn trap_name(trap: Trap) -> &'static str {
    match trap {
        Trap::StackOverflow => "stack-overflow",
        Trap::MemoryOutOfBounds => "memory-out-of-bounds",
        Trap::HeapMisaligned => "heap-misaligned",
        Trap::TableOutOfBounds => "table-out-of-bounds",
        Trap::IndirectCallToNull => "indirect-call-to-null",
        Trap::BadSignature => "bad-signature",
        Trap::IntegerOverflow => "integer-overflow",
        Trap::IntegerDivisionByZero => "integer-division-by-zero",
        Trap::BadConversionToInteger => "bad-conversion-to-integer",
        Trap::UnreachableCodeReached => "unreachable",
        Trap::Interrupt => "interrupt",
        Trap::CannotEnterComponent => "cannot-enter-component",
        _ => "trap",
    }
}
