//! `rpchost:rpc/call-context`: facts about the call being handled.
//!
//! Harmless by construction: it tells a guest what its caller sent, and how
//! long it may run. Grants nothing.

use std::time::Instant;

use super::{GuestState, Speaker};
use crate::message::{Delivery, Revoked};

/// What a guest can learn about the delivery it answers.
#[derive(Debug, Clone)]
pub struct CallFacts {
    /// When the host interrupts the call.
    pub deadline: Instant,
    /// Set when the host can no longer deliver the answer.
    pub revoked: Revoked,
    /// Whether anybody waits for the reply.
    pub reply_expected: bool,
    /// 1 for the first delivery, counting up on redelivery.
    pub attempt: u32,
    /// Properties by the names that the interface promises.
    pub properties: Vec<(&'static str, String)>,
    /// Whose lines the guest's output is in the log; `None` drops it.
    pub speaker: Option<Speaker>,
}

impl CallFacts {
    /// Those of an instance that serves nobody now.
    pub fn none() -> Self {
        Self {
            deadline: Instant::now(),
            revoked: Revoked::default(),
            reply_expected: false,
            attempt: 1,
            properties: Vec::new(),
            speaker: None,
        }
    }

    /// The facts of a delivery that must be answered by `deadline`.
    pub fn of(delivery: &Delivery, deadline: Instant) -> Self {
        let properties = &delivery.properties;
        let correlation_id = properties
            .correlation_id
            .as_ref()
            .and_then(|id| std::str::from_utf8(id).ok())
            .map(str::to_owned);
        let named = [
            ("message-id", properties.message_id.clone()),
            ("correlation-id", correlation_id),
            ("app-id", properties.app_id.clone()),
            ("user-id", properties.user_id.clone()),
            ("type", properties.kind.clone()),
            ("priority", properties.priority.map(|value| value.to_string())),
            ("timestamp", properties.timestamp.map(|value| value.to_string())),
            ("exchange", Some(delivery.exchange.clone())),
            ("routing-key", Some(delivery.routing_key.clone())),
            ("queue", Some(delivery.queue.to_string())),
            ("traceparent", properties.text_header("traceparent").map(str::to_owned)),
            ("tracestate", properties.text_header("tracestate").map(str::to_owned)),
        ];
        let mut known = Vec::with_capacity(named.len());
        known.extend(named.into_iter().filter_map(|(name, value)| Some((name, value?))));
        Self {
            deadline,
            revoked: delivery.revoked.clone(),
            reply_expected: properties.reply_to.as_ref().is_some_and(|name| !name.is_empty()),
            attempt: delivery.attempt(),
            properties: known,
            speaker: None,
        }
    }
}

/// Generated from `wit/`.
#[allow(missing_docs, unreachable_pub, reason = "generated code")]
pub(super) mod bindings {
    wasmtime::component::bindgen!({ path: "../wit", world: "imports" });
}

impl bindings::rpchost::rpc::call_context::Host for GuestState {
    fn remaining_ms(&mut self) -> u32 {
        let left = self.facts().deadline.saturating_duration_since(Instant::now());
        u32::try_from(left.as_millis()).unwrap_or(u32::MAX)
    }

    fn cancelled(&mut self) -> bool {
        self.facts().revoked.is_set()
    }

    fn reply_expected(&mut self) -> bool {
        self.facts().reply_expected
    }

    fn attempt(&mut self) -> u32 {
        self.facts().attempt
    }

    fn property(&mut self, name: String) -> Option<String> {
        GuestState::property(self, &name).map(str::to_owned)
    }
}
