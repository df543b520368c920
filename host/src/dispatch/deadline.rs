//! When a request must be answered, as its sender says.

use std::time::{Duration, Instant, UNIX_EPOCH};

use crate::message::{CallError, Delivery, ErrorKind, HeaderValue};

/// Absolute deadline, Unix milliseconds: waiting and redelivery count.
const DEADLINE: &str = "rpc-deadline-ms";

/// Time limit in milliseconds from receipt.
const TIMEOUT: &str = "rpc-timeout-ms";

/// The earliest of a request's time limits, if it has any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RequestDeadline(Option<Instant>);

impl RequestDeadline {
    /// Reads the limits of a delivery.
    ///
    /// # Errors
    ///
    /// `bad-request` for a value that is no whole number of milliseconds > 0.
    pub(super) fn of(delivery: &Delivery) -> Result<Self, CallError> {
        let properties = &delivery.properties;
        let relative = |ms| delivery.received_at.checked_add(Duration::from_millis(ms));
        let header = |name| match properties.header(name) {
            None => Ok(None),
            Some(value) => milliseconds(value).map(Some).ok_or_else(|| invalid(name)),
        };
        let absolute = header(DEADLINE)?.and_then(|ms| {
            let at = UNIX_EPOCH.checked_add(Duration::from_millis(ms))?;
            // Already past: as late as a deadline can be expressed.
            let left = at.duration_since(delivery.received_wall).unwrap_or_default();
            delivery.received_at.checked_add(left)
        });
        let timeout = header(TIMEOUT)?.and_then(relative);
        let expiration = match &properties.expiration {
            None => None,
            Some(text) => {
                let ms = parse(text).ok_or_else(|| invalid("expiration"))?;
                relative(ms)
            }
        };
        Ok(Self([absolute, timeout, expiration].into_iter().flatten().min()))
    }

    /// The moment, on this host's clock.
    pub(super) fn at(self) -> Option<Instant> {
        self.0
    }
}

fn milliseconds(value: &HeaderValue) -> Option<u64> {
    match value {
        HeaderValue::Int(ms) => u64::try_from(*ms).ok().filter(|ms| *ms > 0),
        HeaderValue::UInt(ms) => Some(*ms).filter(|ms| *ms > 0),
        HeaderValue::Text(text) => parse(text),
        _ => None,
    }
}

fn parse(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX)).filter(|ms| *ms > 0)
}

fn invalid(name: &str) -> CallError {
    CallError::new(
        ErrorKind::BadRequest,
        format!("`{name}` must be a whole number of milliseconds greater than 0"),
    )
}
