//! A wire to the broker that can be cut, and that can lose what comes back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

/// Passes connections on to a port of this machine.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    /// New connections are closed at once.
    down: Arc<AtomicBool>,
    /// What the broker says is swallowed.
    mute: Arc<AtomicBool>,
    wires: Arc<Mutex<Vec<AbortOnDropHandle<()>>>>,
    _accepting: AbortOnDropHandle<()>,
}

impl Proxy {
    /// Begins to listen.
    pub async fn to(broker: u16) -> Self {
        Self::at(("127.0.0.1", 0), broker).await
    }

    /// Begins to listen on an address of one's choice.
    pub async fn at(address: (&str, u16), broker: u16) -> Self {
        let listener = TcpListener::bind(address).await.expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let (down, mute) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let wires: Arc<Mutex<Vec<AbortOnDropHandle<()>>>> = Arc::default();
        let accepting = tokio::spawn({
            let (down, mute, wires) = (down.clone(), mute.clone(), wires.clone());
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    if !down.load(Ordering::SeqCst) {
                        let wire = AbortOnDropHandle::new(tokio::spawn(join(
                            client,
                            broker,
                            mute.clone(),
                        )));
                        wires.lock().expect("the wires").push(wire);
                    }
                }
            }
        });
        Self { port, down, mute, wires, _accepting: AbortOnDropHandle::new(accepting) }
    }

    /// The broker's address by way of this proxy.
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
    }

    /// Cuts all connections; there are no new ones until [`Proxy::mend`].
    pub fn cut(&self) {
        self.down.store(true, Ordering::SeqCst);
        self.wires.lock().expect("the wires").clear();
    }

    /// Cuts the newest connection alone; there are no new ones until
    /// [`Proxy::mend`].
    pub fn cut_newest(&self) {
        self.down.store(true, Ordering::SeqCst);
        self.wires.lock().expect("the wires").pop();
    }

    /// Swallows what the broker says from now on.
    pub fn mute(&self) {
        self.mute.store(true, Ordering::SeqCst);
    }

    /// Passes everything on again.
    pub fn mend(&self) {
        self.mute.store(false, Ordering::SeqCst);
        self.down.store(false, Ordering::SeqCst);
    }
}

async fn join(client: TcpStream, broker: u16, mute: Arc<AtomicBool>) {
    let Ok(broker) = TcpStream::connect(("127.0.0.1", broker)).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_broker, mut to_broker) = broker.into_split();
    let asking = tokio::io::copy(&mut from_client, &mut to_broker);
    let answering = async {
        let mut buffer = vec![0; 1 << 16];
        loop {
            match from_broker.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) if mute.load(Ordering::SeqCst) => {}
                Ok(length) => {
                    if to_client.write_all(&buffer[..length]).await.is_err() {
                        return;
                    }
                }
            }
        }
    };
    // Whichever side ends first ends both.
    tokio::select! {
        _ended = asking => {}
        () = answering => {}
    }
}
