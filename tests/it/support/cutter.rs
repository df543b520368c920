//! A wire to the broker that counts AMQP frames, and is cut at the one that it is told.
//!
//! Frames are counted over all connections and both directions, in the order in which they pass,
//! so that every moment between two frames of a request's life has a number. Heartbeats come when
//! they like and are not counted.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// What a client says first, and is no frame (AMQP 0-9-1, section 4.2.2).
const PROTOCOL_HEADER: usize = 8;
/// Type, channel and length, before the payload of a frame (section 4.2.3).
const FRAME_HEADER: usize = 7;
/// The octet behind the payload.
const FRAME_END: usize = 1;

/// How much of the frame passes at which the wire is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Its first half.
    Within,
    /// All of it, and nothing after it.
    After,
}

/// What is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The connection that the frame belongs to.
    Connection,
    /// All of them, as when the broker dies.
    All,
}

/// One frame that passed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Frame {
    /// Who sent it.
    pub from_host: bool,
    /// Its name, such as `basic.deliver`.
    pub name: String,
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let arrow = if self.from_host { "→" } else { "←" };
        write!(f, "{arrow} {}", self.name)
    }
}

/// Passes connections on to a broker, frame by frame.
#[derive(Debug)]
pub struct Cutter {
    port: u16,
    wires: Arc<Mutex<Wires>>,
    _accepting: AbortOnDropHandle<()>,
}

#[derive(Debug, Default)]
struct Wires {
    /// New connections are closed at once.
    down: bool,
    /// Cancelled and replaced when all are cut.
    all: CancellationToken,
    order: Option<Order>,
    /// What has passed since the order was given.
    passed: Vec<Frame>,
    /// When the last frame came.
    last: Option<Instant>,
    cut: Option<Frame>,
    /// Frames of a host that are held back for a while, by name.
    delay: Option<(String, Duration)>,
    /// How many were.
    delayed: usize,
    /// Deliveries vanish on their way to hosts.
    swallows: bool,
    /// What hosts say passes at the beginning of each such period.
    bursts: Option<Duration>,
}

#[derive(Debug, Clone, Copy)]
struct Order {
    at: usize,
    cut: Cut,
    reach: Reach,
}

impl Cutter {
    /// Begins to listen.
    pub async fn to(broker: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let wires: Arc<Mutex<Wires>> = Arc::default();
        let accepting = tokio::spawn({
            let wires = wires.clone();
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    let (down, all) = {
                        let wires = locked(&wires);
                        (wires.down, wires.all.clone())
                    };
                    if !down {
                        tokio::spawn(join(client, broker, wires.clone(), all.child_token()));
                    }
                }
            }
        });
        Self { port, wires, _accepting: AbortOnDropHandle::new(accepting) }
    }

    /// The broker's address by way of this wire.
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
    }

    /// Cuts once, at the frame that is number `at` from now on; the first is 0.
    pub fn cut_at(&self, at: usize, cut: Cut, reach: Reach) {
        let mut wires = locked(&self.wires);
        wires.order = Some(Order { at, cut, reach });
        wires.passed.clear();
        wires.cut = None;
    }

    /// For how long nothing has passed.
    pub fn quiet(&self) -> Duration {
        locked(&self.wires).last.map_or(Duration::MAX, |last| last.elapsed())
    }

    /// Takes the order back.
    pub fn hold(&self) {
        locked(&self.wires).order = None;
    }

    /// The frame at which it was cut since the order was given.
    pub fn was_cut(&self) -> Option<Frame> {
        locked(&self.wires).cut.clone()
    }

    /// Whether such a frame has passed whole since the order was given.
    pub fn has_passed(&self, from_host: bool, name: &str) -> bool {
        let is = |frame: &Frame| frame.from_host == from_host && frame.name == name;
        locked(&self.wires).passed.iter().any(is)
    }

    /// Holds such frames of a host back for so long, each in its turn.
    pub fn delay(&self, name: &str, delay: Duration) {
        locked(&self.wires).delay = Some((name.to_owned(), delay));
    }

    /// How many frames were held back so, or are.
    pub fn delayed(&self) -> usize {
        locked(&self.wires).delayed
    }

    /// Has deliveries vanish on their way to hosts, or no more.
    #[allow(dead_code, reason = "the library's own tests share this file")]
    pub fn swallow(&self, swallows: bool) {
        locked(&self.wires).swallows = swallows;
    }

    /// Lets pass what hosts say only once in so long, all that has come until then.
    #[allow(dead_code, reason = "for the library's own tests, which share this file")]
    pub fn burst(&self, period: Duration) {
        locked(&self.wires).bursts = Some(period);
    }

    /// Cuts all connections; there are no new ones until [`Cutter::up`].
    pub fn down(&self) {
        let mut wires = locked(&self.wires);
        wires.down = true;
        wires.cut_all();
    }

    /// Lets connections through again.
    pub fn up(&self) {
        locked(&self.wires).down = false;
    }
}

impl Wires {
    fn cut_all(&mut self) {
        std::mem::take(&mut self.all).cancel();
    }

    /// How long a frame is held back.
    fn delay(&mut self, frame: &Frame, up: Duration) -> Duration {
        if let Some(period) = self.bursts.filter(|_| frame.from_host) {
            let into = Duration::from_millis((up.as_millis() % period.as_millis()) as u64);
            return if into > period / 10 { period - into } else { Duration::ZERO };
        }
        match &self.delay {
            Some((name, delay)) if frame.from_host && frame.name == *name => {
                self.delayed += 1;
                *delay
            }
            _ => Duration::ZERO,
        }
    }

    /// What to do with the frame that is about to pass.
    fn judge(&mut self, frame: Frame) -> Option<(Cut, Reach)> {
        self.last = Some(Instant::now());
        let order = self.order?;
        if self.passed.len() < order.at {
            self.passed.push(frame);
            return None;
        }
        self.cut = Some(frame);
        self.order = None;
        Some((order.cut, order.reach))
    }
}

fn locked(wires: &Mutex<Wires>) -> MutexGuard<'_, Wires> {
    wires.lock().expect("the wires")
}

async fn join(client: TcpStream, broker: u16, wires: Arc<Mutex<Wires>>, alive: CancellationToken) {
    let Ok(broker) = TcpStream::connect(("127.0.0.1", broker)).await else { return };
    // A frame is one write here, and must not wait for the next.
    for stream in [&client, &broker] {
        stream.set_nodelay(true).expect("an option of a socket");
    }
    let (from_client, to_client) = client.into_split();
    let (from_broker, to_broker) = broker.into_split();
    // Whichever side ends first ends both.
    tokio::select! {
        _ended = pass(from_client, to_broker, true, &wires, &alive) => {}
        _ended = pass(from_broker, to_client, false, &wires, &alive) => {}
        () = alive.cancelled() => {}
    }
}

/// Passes frames on, one after the other, until there are no more or the wire is cut.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    from_host: bool,
    wires: &Mutex<Wires>,
    alive: &CancellationToken,
) -> std::io::Result<()> {
    let up = Instant::now();
    let mut vanishing = false;
    let mut bytes = Vec::new();
    if from_host {
        bytes.resize(PROTOCOL_HEADER, 0);
        from.read_exact(&mut bytes).await?;
        to.write_all(&bytes).await?;
    }
    loop {
        bytes.resize(FRAME_HEADER, 0);
        from.read_exact(&mut bytes).await?;
        let length = u32::from_be_bytes([bytes[3], bytes[4], bytes[5], bytes[6]]);
        bytes.resize(FRAME_HEADER + length as usize + FRAME_END, 0);
        from.read_exact(&mut bytes[FRAME_HEADER..]).await?;
        let frame = name(&bytes).map(|name| Frame { from_host, name });
        vanishing = match frame.as_ref().map(|frame| frame.name.as_str()) {
            Some("basic.deliver") => !from_host && locked(wires).swallows,
            Some("content header" | "content body") => vanishing,
            _ => false,
        };
        if vanishing {
            continue;
        }
        let delay = frame
            .as_ref()
            .map(|frame| locked(wires).delay(frame, up.elapsed()))
            .unwrap_or_default();
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        match frame.and_then(|frame| locked(wires).judge(frame)) {
            None => to.write_all(&bytes).await?,
            Some((cut, reach)) => {
                let passes = match cut {
                    Cut::Within => &bytes[..bytes.len() / 2],
                    Cut::After => &bytes[..],
                };
                to.write_all(passes).await?;
                match reach {
                    Reach::Connection => alive.cancel(),
                    Reach::All => locked(wires).cut_all(),
                }
                return Ok(());
            }
        }
    }
}

/// What a frame is; nothing for a heartbeat.
fn name(frame: &[u8]) -> Option<String> {
    let [kind, _, _, _, _, _, _, payload @ ..] = frame else { return None };
    Some(match (kind, payload) {
        (1, [class_high, class, method_high, method, ..]) => {
            let class = u16::from_be_bytes([*class_high, *class]);
            let method = u16::from_be_bytes([*method_high, *method]);
            method_name(class, method).map_or_else(|| format!("{class}.{method}"), str::to_owned)
        }
        (2, _) => "content header".to_owned(),
        (3, _) => "content body".to_owned(),
        _ => return None,
    })
}

/// The methods that a host and its broker say to each other.
fn method_name(class: u16, method: u16) -> Option<&'static str> {
    Some(match (class, method) {
        (10, 10) => "connection.start",
        (10, 11) => "connection.start-ok",
        (10, 30) => "connection.tune",
        (10, 31) => "connection.tune-ok",
        (10, 40) => "connection.open",
        (10, 41) => "connection.open-ok",
        (10, 50) => "connection.close",
        (10, 51) => "connection.close-ok",
        (20, 10) => "channel.open",
        (20, 11) => "channel.open-ok",
        (20, 40) => "channel.close",
        (20, 41) => "channel.close-ok",
        (40, 10) => "exchange.declare",
        (40, 11) => "exchange.declare-ok",
        (50, 10) => "queue.declare",
        (50, 11) => "queue.declare-ok",
        (50, 20) => "queue.bind",
        (50, 21) => "queue.bind-ok",
        (60, 10) => "basic.qos",
        (60, 11) => "basic.qos-ok",
        (60, 20) => "basic.consume",
        (60, 21) => "basic.consume-ok",
        (60, 40) => "basic.publish",
        (60, 60) => "basic.deliver",
        (60, 80) => "basic.ack",
        (60, 120) => "basic.nack",
        (85, 10) => "confirm.select",
        (85, 11) => "confirm.select-ok",
        _ => return None,
    })
}
