//! The range of every number that can be set, with the reason for its ends. Data, no code.

use std::time::Duration;

use super::units::Bounds;

/// RabbitMQ closes the channel of a consumer that keeps a delivery longer than `consumer_timeout`,
/// 30 min by default, and delivers it again. One second below, so that the reply and the ack still
/// fit.
pub(super) const CALL_TIMEOUT: Bounds<Duration> = Bounds {
    least: Duration::from_millis(1),
    most: Duration::from_secs(29 * 60 + 59),
    why: "RabbitMQ takes a request back that is not acked within 30m (its `consumer_timeout`)",
};

/// Linux gives up an unanswered SYN after about two minutes; ten leave room for slower systems.
pub(super) const CONNECT_TIMEOUT: Bounds<Duration> = Bounds {
    least: Duration::from_millis(1),
    most: Duration::from_mins(10),
    why: "no attempt succeeds at once, and after minutes none does",
};

/// 0 means for ever; any other number is as good as the next.
pub(super) const CONNECT_ATTEMPTS: Bounds<u32> =
    Bounds { least: 0, most: u32::MAX, why: "`0` tries for ever" };

/// Weights are shares of a whole. 0 would be a broker that is never used, which is better left out.
pub(super) const WEIGHT: Bounds<u32> =
    Bounds { least: 1, most: 1000, why: "weights are shares, and a thousandth is a small one" };

/// AMQP 0-9-1 counts heartbeats in whole seconds; 0 would switch them off, and a frozen broker
/// would never be noticed.
pub(super) const HEARTBEAT: Bounds<Duration> = Bounds {
    least: Duration::from_secs(1),
    most: Duration::from_mins(10),
    why: "without heartbeats a frozen broker is never noticed",
};

/// Twice the number is the prefetch, which AMQP 0-9-1 carries in 16 bits (`basic.qos`).
pub(super) const MAX_IN_FLIGHT: Bounds<u32> =
    Bounds { least: 1, most: 32_767, why: "the prefetch is twice this, and AMQP allows 65535" };

/// AMQP 0-9-1 carries the prefetch in 16 bits (`basic.qos`), and 0 would be no limit at all.
pub(super) const PREFETCH: Bounds<u32> =
    Bounds { least: 1, most: 65_535, why: "AMQP allows 65535, and `0` would be no limit" };

/// No guest starts in less than one page of 64 KiB, and a 32-bit memory ends at 4 GiB.
pub(super) const MEMORY_LIMIT: Bounds<u64> = Bounds {
    least: 64 << 10,
    most: 4 << 30,
    why: "one page is the least a guest has, and 4GiB all it can address",
};

/// Below 1 KiB no error reply fits; above 128 MiB RabbitMQ 3.x closes the channel (its default
/// `max_message_size`).
pub(super) const MAX_BODY: Bounds<u64> = Bounds {
    least: 1 << 10,
    most: 128 << 20,
    why: "RabbitMQ refuses messages above 128MiB by default (3.x; 4.x 16MiB)",
};

/// A header table has to fit into one frame of 128 KiB by default (AMQP 0-9-1, 4.2.6), which holds
/// no more in practice.
pub(super) const MAX_HEADERS: Bounds<u32> =
    Bounds { least: 1, most: 10_000, why: "the headers of a message must fit into one AMQP frame" };

/// No call runs longer than [`CALL_TIMEOUT`], so waiting longer waits for nothing.
pub(super) const DRAIN_TIMEOUT: Bounds<Duration> = Bounds {
    least: Duration::ZERO,
    most: Duration::from_mins(30),
    why: "no call runs longer than that",
};
