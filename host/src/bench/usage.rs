//! Processor time: this process's own, and that of others beside it.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Processor time that this process has used, all threads together.
pub(super) fn own() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or_default(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
}

/// What another process has used, all its threads and ended children together;
/// none if there is no such process. Exact to a tick, which is 10 ms.
pub(super) fn of(pid: u32) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let ticks = ticks(&stat)?;
    let in_a_second = rustix::param::clock_ticks_per_second().max(1);
    Some(Duration::from_millis(ticks.saturating_mul(1000) / in_a_second))
}

/// Fields 14 to 17 of `proc_pid_stat(5)`; the second, the name, may hold spaces.
fn ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let times = fields.split_whitespace().skip(11).take(4);
    times.map(|time| time.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "7 (a) b c) S 1 2 3 4 5 6 7 8 9 10 100 20 3 4 20 0";
        assert_eq!(ticks(stat), Some(127));
        assert_eq!(ticks("7 (a) S 1"), Some(0));
        assert_eq!(ticks("nothing"), None);
        assert!(of(std::process::id()).is_some());
        assert!(of(u32::MAX).is_none());
        assert!(own() > Duration::ZERO);
    }
}
