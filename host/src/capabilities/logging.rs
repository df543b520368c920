//! `wasi:logging/logging`: a guest's own log, with levels.
//!
//! The interface is a draft, and guests know it under two names. Grants
//! nothing: what is written is a line of the host's log, or dropped.

use anyhow::Context as _;
use tracing::Level;
use wasmtime::component::{ComponentType, Lift, Linker};

use super::Guest;

/// The draft under its version and without one.
const NAMES: [&str; 2] = ["wasi:logging/logging@0.1.0-draft", "wasi:logging/logging"];

#[derive(Debug, Clone, Copy, ComponentType, Lift)]
#[expect(dead_code, reason = "wasmtime makes them, out of a guest's number")]
#[component(enum)]
#[repr(u8)]
enum Severity {
    #[component(name = "trace")]
    Trace,
    #[component(name = "debug")]
    Debug,
    #[component(name = "info")]
    Info,
    #[component(name = "warn")]
    Warn,
    #[component(name = "error")]
    Error,
    #[component(name = "critical")]
    Critical,
}

impl Severity {
    const fn level(self) -> Level {
        match self {
            Self::Trace => Level::TRACE,
            Self::Debug => Level::DEBUG,
            Self::Info => Level::INFO,
            Self::Warn => Level::WARN,
            // The host's log has nothing above.
            Self::Error | Self::Critical => Level::ERROR,
        }
    }
}

pub(super) fn link<T: Guest>(linker: &mut Linker<T>) -> anyhow::Result<()> {
    for name in NAMES {
        let log = |mut store: wasmtime::StoreContextMut<'_, T>,
                   (severity, context, message): (Severity, String, String)| {
            store.data_mut().guest().write_log(severity.level(), &context, &message);
            Ok(())
        };
        linker
            .instance(name)
            .and_then(|mut interface| interface.func_wrap("log", log))
            .map_err(anyhow::Error::from)
            .with_context(|| format!("failed to link `{name}`"))?;
    }
    Ok(())
}
