//! Native code that this host's own compiler has made, and the one place
//! where it becomes something that runs.

use anyhow::bail;
use wasmtime::component::Component;
use wasmtime::{Engine, Module, Precompiled};

use super::Code;

/// A compiled component or module. Only this folder can make one, and makes it only of
///
/// - what a helper of this very executable wrote into a pipe that nobody else
///   holds, and
/// - what the cache has found to carry the seal of this user's key (see
///   [`Cache`](super::cache::Cache)).
pub(super) struct Native(Vec<u8>);

impl std::fmt::Debug for Native {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Native({} bytes)", self.0.len())
    }
}

impl Native {
    /// The caller vouches for one of the two origins.
    pub(super) fn of(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Makes it callable, in a copy of its own: nothing that happens to a file
    /// later reaches it.
    #[expect(
        unsafe_code,
        reason = "a compile cache cannot be had without trusting bytes; here is why these are"
    )]
    pub(super) fn load(&self, engine: &Engine) -> anyhow::Result<Code> {
        // SAFETY: wasmtime wants bytes that `Engine::precompile_component` or
        // `Engine::precompile_module` has returned, unchanged; which of them,
        // and that the helper's engine was of this version and had these
        // settings, it checks itself, and returns an error otherwise. Those of
        // a `Native` are such bytes, by its two origins: the helper writes the
        // result of one of the two and nothing else, and is this executable;
        // the cache hands out what it was given by a helper, or nothing.
        let code = match Engine::detect_precompiled(&self.0) {
            Some(Precompiled::Component) => {
                unsafe { Component::deserialize(engine, &self.0) }.map(Code::Component)
            }
            Some(Precompiled::Module) => {
                unsafe { Module::deserialize(engine, &self.0) }.map(Code::Program)
            }
            None => bail!("it is not native code"),
        };
        code.map_err(anyhow::Error::from)
    }
}
