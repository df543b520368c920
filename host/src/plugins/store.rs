//! The store of a call, or of an instance that serves several one after the
//! other: what the guest reaches, and the limits it runs under.

use std::time::Instant;

use anyhow::bail;
use tracing::debug;
use wasmtime::{ResourceLimiter, ResourcesRequired, Store, UpdateDeadline};
use wasmtime_wasi::{WasiCtxView, WasiView};

use super::engine::{Engine, MAX_CORE_INSTANCES, MAX_MEMORIES, MAX_TABLE_ELEMENTS, MAX_TABLES};
use crate::capabilities::{CallFacts, Guest, GuestState};
use crate::message::PluginId;

/// Most handles to resources a guest may hold; as for its table of resources.
const MAX_HANDLES: usize = 1_000;

/// Bytes a guest may move to the host in one crossing beyond the largest
/// body: its headers, content type or error text.
const HOSTCALL_SLACK: usize = 1024 * 1024;

/// Data of one call's store.
pub(super) struct CallState {
    pub(super) guest: GuestState,
    pub(super) limiter: Limiter,
    deadline: Instant,
}

impl Guest for CallState {
    fn guest(&mut self) -> &mut GuestState {
        &mut self.guest
    }
}

impl WasiView for CallState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.guest.ctx()
    }
}

/// A fresh store that is interrupted at the call's deadline.
pub(super) fn new(
    engine: &Engine,
    facts: CallFacts,
    memory: u64,
    max_body: usize,
) -> Store<CallState> {
    let deadline = facts.deadline;
    with_guest(engine, GuestState::new(facts), deadline, memory, max_body)
}

/// As [`new`], for a guest that has more than others.
pub(super) fn with_guest(
    engine: &Engine,
    guest: GuestState,
    deadline: Instant,
    memory: u64,
    max_body: usize,
) -> Store<CallState> {
    let state = CallState { guest, limiter: Limiter::new(memory), deadline };
    let mut store = Store::new(engine.wasmtime(), state);
    store.limiter(|state| &mut state.limiter);
    store.set_hostcall_fuel(max_body.saturating_add(HOSTCALL_SLACK));
    store.set_max_component_handles(MAX_HANDLES);
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|context| {
        Ok(if Instant::now() >= context.data().deadline {
            UpdateDeadline::Interrupt
        } else {
            // The end of a turn, see `turns`.
            UpdateDeadline::Yield(1)
        })
    });
    store
}

/// Makes the store of an idle instance ready for its next call.
pub(super) fn begin(store: &mut Store<CallState>, facts: CallFacts) {
    let state = store.data_mut();
    state.deadline = facts.deadline;
    state.guest.begin(facts);
    store.set_epoch_deadline(1);
}

/// Forgets the call that an instance has served: what the host knows of its
/// caller, and what it wrote.
pub(super) fn forget(store: &mut Store<CallState>) {
    store.data_mut().guest.begin(CallFacts::none());
}

/// Limits on everything a store can grow, summed over all its instances.
#[derive(Debug)]
pub(super) struct Limiter {
    memory: u64,
    used: u64,
    elements: usize,
    /// What was refused first, for the error text.
    pub(super) denied: Option<String>,
}

impl Limiter {
    fn new(memory: u64) -> Self {
        Self { memory, used: 0, elements: 0, denied: None }
    }

    /// Bytes of all memories together.
    pub(super) fn used(&self) -> u64 {
        self.used
    }

    /// Most bytes of all memories together.
    pub(super) fn memory(&self) -> u64 {
        self.memory
    }

    fn deny(&mut self, what: String) -> bool {
        debug!("{what}");
        self.denied.get_or_insert(what);
        false
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let more = desired.saturating_sub(current) as u64;
        let total = self.used.saturating_add(more);
        if total > self.memory {
            let limit = bytesize::ByteSize(self.memory);
            return Ok(self.deny(format!("memory beyond the limit of {limit} was refused")));
        }
        // Beyond the guest's own declared maximum growth fails by itself.
        if maximum.is_none_or(|maximum| desired <= maximum) {
            self.used = total;
        }
        Ok(true)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let total = self.elements.saturating_add(desired.saturating_sub(current));
        if total > MAX_TABLE_ELEMENTS {
            return Ok(self.deny(format!(
                "table elements beyond the limit of {MAX_TABLE_ELEMENTS} were refused"
            )));
        }
        if maximum.is_none_or(|maximum| desired <= maximum) {
            self.elements = total;
        }
        Ok(true)
    }

    fn instances(&self) -> usize {
        MAX_CORE_INSTANCES as usize
    }

    fn tables(&self) -> usize {
        MAX_TABLES as usize
    }

    fn memories(&self) -> usize {
        MAX_MEMORIES as usize
    }
}

/// Refuses what could never start.
pub(super) fn check_initial_size(
    needs: &ResourcesRequired,
    id: &PluginId,
    memory: u64,
) -> anyhow::Result<()> {
    const PAGE: u64 = 64 * 1024;
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
