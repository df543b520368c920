//! A timer that is exact to some ten microseconds. The runtime's own goes by
//! milliseconds, which at 10,000 calls a second is ten calls late.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;

/// A timer of the kernel's.
#[derive(Debug)]
pub(super) struct Timer(AsyncFd<OwnedFd>);

impl Timer {
    pub(super) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe, and asks for a descriptor that stays the same: this one does"
        )]
        Ok(Self(AsyncFd::new(timer)?))
    }

    /// Waits until that time. Another wait replaces one that was dropped.
    pub(super) async fn until(&self, at: Instant) -> io::Result<()> {
        let left = at.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        let once = Itimerspec { it_interval: timespec(Duration::ZERO), it_value: timespec(left) };
        // Also forgets that an earlier one has run out.
        timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &once)?;
        loop {
            let mut ready = self.0.readable().await?;
            let mut count = [0; 8];
            match rustix::io::read(self.0.get_ref(), &mut count) {
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_runs_out_again_and_again_and_never_early() {
        let timer = Timer::new().unwrap();
        for micros in [50, 2_000, 0, 300] {
            let at = Instant::now() + Duration::from_micros(micros);
            timer.until(at).await.unwrap();
            assert!(Instant::now() >= at);
        }
        // One that was not waited for does not end the next.
        let soon = timer.until(Instant::now() + Duration::from_millis(50));
        assert!(tokio::time::timeout(Duration::ZERO, soon).await.is_err());
        std::thread::sleep(Duration::from_millis(60));
        let at = Instant::now() + Duration::from_millis(20);
        timer.until(at).await.unwrap();
        assert!(Instant::now() >= at);
    }
}
