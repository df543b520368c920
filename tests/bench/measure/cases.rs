//! What is measured.

/// What a server is to do with a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    Echo,
    Fib,
}

impl Work {
    /// The host's method, and what the others are started with.
    pub(crate) fn method(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Fib => "fib",
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Load {
    /// Calls at once.
    InFlight(u32),
    /// Calls a second: per cent of what the first case has shown to be possible.
    ShareOfPeak(u32),
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) work: Work,
    pub(crate) load: Load,
    /// Arguments of `rpchost bench`.
    pub(crate) body: &'static [&'static str],
    /// A quorum queue and persistent requests.
    pub(crate) quorum: bool,
}

const ECHO: Case = Case {
    name: "echo",
    title: "echo of 16 bytes, 128 in flight",
    work: Work::Echo,
    load: Load::InFlight(128),
    body: &["--size", "16B"],
    quorum: false,
};

/// The first decides the rate of those that need one.
pub(crate) const CASES: [Case; 6] = [
    ECHO,
    Case { name: "one", title: "echo of 16 bytes, one in flight", load: Load::InFlight(1), ..ECHO },
    Case {
        name: "rate",
        title: "echo of 16 bytes, at 70 % of the lower peak of rpchost and lapin",
        load: Load::ShareOfPeak(70),
        ..ECHO
    },
    Case {
        name: "large",
        title: "echo of 64 KiB, 128 in flight",
        body: &["--size", "64KiB"],
        ..ECHO
    },
    Case {
        name: "fib",
        title: "fib(20) in the handler, 128 in flight",
        work: Work::Fib,
        body: &["--body", "20"],
        ..ECHO
    },
    Case {
        name: "quorum",
        title: "echo of 16 bytes, 128 in flight, quorum queue, persistent",
        quorum: true,
        ..ECHO
    },
];
