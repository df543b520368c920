//! Signals that end a client: Ctrl-C, SIGTERM, and SIGHUP of a terminal that
//! is closed.

use std::future::Future;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// They are taken from when this is made on; before, they end the process.
#[derive(Debug)]
pub(super) struct Stop {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Stop {
    pub(super) fn listen() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next one.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }

    /// Runs what a first signal ends in order, after `say`, and a second one at once:
    /// the one cancels its first token, the other its second.
    pub(super) async fn twice<F: Future>(
        mut self,
        say: impl FnOnce(),
        run: impl FnOnce(CancellationToken, CancellationToken) -> F,
    ) -> F::Output {
        let (stop, quit) = (CancellationToken::new(), CancellationToken::new());
        let running = run(stop.clone(), quit.clone());
        let listening = async {
            self.next().await;
            say();
            stop.cancel();
            self.next().await;
            quit.cancel();
            std::future::pending().await
        };
        tokio::select! {
            ended = running => ended,
            never = listening => never,
        }
    }
}
