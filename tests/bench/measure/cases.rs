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
    /// Else a classic queue.
    pub(crate) quorum: bool,
    pub(crate) persistent: bool,
    /// What else the host has in its folder of plugins, its own among them.
    pub(crate) plugins: usize,
    /// Processes that serve.
    pub(crate) hosts: usize,
    /// Queues, each with a client of its own; the processes are divided among them.
    pub(crate) queues: usize,
}

const ECHO: Case = Case {
    name: "echo",
    title: "echo of 16 bytes, 128 in flight",
    work: Work::Echo,
    load: Load::InFlight(128),
    body: &["--size", "16B"],
    quorum: false,
    persistent: false,
    plugins: 1,
    hosts: 1,
    queues: 1,
};

const fn in_flight(title: &'static str, calls: u32) -> Case {
    Case { name: "in-flight", title, load: Load::InFlight(calls), ..ECHO }
}

const fn bodies(title: &'static str, calls: u32, body: &'static [&'static str]) -> Case {
    Case { name: "bodies", title, load: Load::InFlight(calls), body, ..ECHO }
}

const fn hosts(title: &'static str, hosts: usize, queues: usize) -> Case {
    Case { name: "hosts", title, hosts, queues, ..ECHO }
}

const fn queue(title: &'static str, quorum: bool, persistent: bool) -> Case {
    Case { name: "queue", title, quorum, persistent, ..ECHO }
}

/// What `--scaling` measures: one thing after another is another than in the first.
pub(crate) const SCALING: [Case; 18] = [
    Case { name: "base", title: "16 B, 128 in flight, one host, classic queue", ..ECHO },
    in_flight("1 in flight", 1),
    in_flight("16 in flight", 16),
    in_flight("1,024 in flight", 1_024),
    bodies("1 KiB", 128, &["--size", "1KiB"]),
    bodies("16 KiB", 128, &["--size", "16KiB"]),
    bodies("64 KiB", 128, &["--size", "64KiB"]),
    bodies("256 KiB, 16 in flight", 16, &["--size", "256KiB"]),
    bodies("1 MiB, 16 in flight", 16, &["--size", "1MiB"]),
    Case { name: "plugins", title: "one of 100 plugins", plugins: 100, ..ECHO },
    Case { name: "plugins", title: "one of 1,000 plugins", plugins: 1_000, ..ECHO },
    hosts("2 hosts, one queue", 2, 1),
    hosts("4 hosts, one queue", 4, 1),
    hosts("2 hosts, a queue each", 2, 2),
    hosts("4 hosts, a queue each", 4, 4),
    queue("classic queue, persistent", false, true),
    queue("quorum queue, not persistent", true, false),
    queue("quorum queue, persistent", true, true),
];

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
        persistent: true,
        ..ECHO
    },
];
