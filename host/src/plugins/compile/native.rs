//! Native code that this host's own compiler has made, and the one place
//! where it becomes something that runs.

use wasmtime::component::Component;

/// A compiled component. Only this folder can make one, and makes it only of
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
    pub(super) fn load(&self, engine: &wasmtime::Engine) -> anyhow::Result<Component> {
        // SAFETY: wasmtime wants bytes that `Engine::precompile_component` has
        // returned, unchanged. Those of a `Native` are, by its two origins: the
        // helper writes that function's result and nothing else, and is this
        // executable; the cache hands out what it was given by a helper, or
        // nothing. That the helper's engine was of this version and had these
        // settings is checked by wasmtime itself, which returns an error
        // otherwise.
        let component = unsafe { Component::deserialize(engine, &self.0) };
        component.map_err(anyhow::Error::from)
    }
}
