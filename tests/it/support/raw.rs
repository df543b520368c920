//! A client that writes frames by hand: it can send what no library would.
//!
//! Blocking, one connection, one channel.

use std::collections::BTreeMap;
use std::io::{BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

type Bytes = Vec<u8>;

/// A short string (AMQP 0-9-1 section 4.2.5.3).
pub fn short(bytes: &[u8]) -> Bytes {
    let length = u8::try_from(bytes.len()).expect("at most 255 bytes");
    [&[length][..], bytes].concat()
}

/// A long string, or a table's content with its length.
pub fn long(bytes: &[u8]) -> Bytes {
    let length = u32::try_from(bytes.len()).expect("a length");
    [&length.to_be_bytes()[..], bytes].concat()
}

fn frame(kind: u8, channel: u16, payload: &[u8]) -> Bytes {
    [&[kind][..], &channel.to_be_bytes(), &long(payload), &[0xCE]].concat()
}

fn method(class: u16, id: u16, args: &[u8]) -> Bytes {
    frame(1, 1, &[&class.to_be_bytes()[..], &id.to_be_bytes(), args].concat())
}

/// Properties by their place in the flags, from the highest bit; raw.
#[derive(Default, Clone, Debug, PartialEq, Eq)]
pub struct Props(BTreeMap<u8, Bytes>);

/// `content-type`
pub const CONTENT_TYPE: u8 = 0;
/// `content-encoding`
pub const CONTENT_ENCODING: u8 = 1;
/// `headers`: a table's content
pub const HEADERS: u8 = 2;
/// `correlation-id`
pub const CORRELATION_ID: u8 = 5;
/// `reply-to`
pub const REPLY_TO: u8 = 6;
/// `message-id`
pub const MESSAGE_ID: u8 = 8;
/// `type`
pub const TYPE: u8 = 10;
/// `app-id`
pub const APP_ID: u8 = 12;
/// `cluster-id`
pub const CLUSTER_ID: u8 = 13;

impl Props {
    /// With this property.
    pub fn with(mut self, property: u8, value: &[u8]) -> Self {
        self.0.insert(property, value.to_vec());
        self
    }

    /// A property's bytes.
    pub fn get(&self, property: u8) -> Option<&[u8]> {
        self.0.get(&property).map(Vec::as_slice)
    }

    /// Size of the content header frame's payload with these properties.
    pub fn size(&self) -> usize {
        self.payload(0).len()
    }

    fn payload(&self, body: usize) -> Bytes {
        let mut flags = 0_u16;
        let mut values = Vec::new();
        for (property, value) in &self.0 {
            flags |= 0x8000 >> property;
            values.extend(match *property {
                HEADERS => long(value),
                3 | 4 | 9 => value.clone(),
                _ => short(value),
            });
        }
        let size = u64::try_from(body).expect("a size").to_be_bytes();
        [&[0, 60, 0, 0][..], &size, &flags.to_be_bytes(), &values].concat()
    }

    fn parse(payload: &[u8]) -> (Self, usize) {
        let size = u64::from_be_bytes(payload[4..12].try_into().unwrap());
        let flags = u16::from_be_bytes(payload[12..14].try_into().unwrap());
        let mut at = 14;
        let mut props = Self::default();
        for property in 0..14_u8 {
            if flags & (0x8000 >> property) == 0 {
                continue;
            }
            let (skip, length) = match property {
                HEADERS => (4, u32::from_be_bytes(payload[at..at + 4].try_into().unwrap())),
                3 | 4 => (0, 1),
                9 => (0, 8),
                _ => (1, u32::from(payload[at])),
            };
            let length = length as usize;
            props.0.insert(property, payload[at + skip..at + skip + length].to_vec());
            at += skip + length;
        }
        assert_eq!(at, payload.len());
        (props, usize::try_from(size).expect("a size"))
    }
}

/// The connection.
#[derive(Debug)]
pub struct Client {
    read: BufReader<TcpStream>,
    write: TcpStream,
}

impl Client {
    /// Connects to a broker of this machine as guest.
    pub fn connect(port: u16) -> Self {
        let write = TcpStream::connect(("127.0.0.1", port)).unwrap();
        write.set_nodelay(true).unwrap();
        write.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let read = BufReader::with_capacity(1 << 18, write.try_clone().unwrap());
        let mut client = Self { read, write };
        client.send(b"AMQP\0\0\x09\x01");
        client.read_frame();
        let start = [
            &[0, 10, 0, 11][..],
            &long(b""),
            &short(b"PLAIN"),
            &long(b"\0guest\0guest"),
            &short(b"en_US"),
        ];
        client.send(&frame(1, 0, &start.concat()));
        client.read_frame();
        // Tune-ok: 100 channels, frames of 131072 bytes, no heartbeat.
        client.send(&frame(1, 0, &[0, 10, 0, 31, 0, 100, 0, 2, 0, 0, 0, 0]));
        client.send(&frame(1, 0, &[&[0, 10, 0, 40][..], &short(b"/"), &short(b""), &[0]].concat()));
        client.read_frame();
        client.call(&method(20, 10, &short(b"")));
        client
    }

    fn send(&mut self, bytes: &[u8]) {
        self.write.write_all(bytes).unwrap();
    }

    fn read_frame(&mut self) -> (u8, Bytes) {
        let mut head = [0; 7];
        self.read.read_exact(&mut head).expect("a frame in time");
        let size = u32::from_be_bytes(head[3..7].try_into().unwrap()) as usize;
        let mut payload = vec![0; size + 1];
        self.read.read_exact(&mut payload).unwrap();
        assert_eq!(payload.pop(), Some(0xCE));
        let closed = [[0, 10, 0, 50], [0, 20, 0, 40]].iter().any(|id| payload.starts_with(id));
        assert!(head[0] != 1 || !closed, "closed: {}", String::from_utf8_lossy(&payload));
        (head[0], payload)
    }

    fn call(&mut self, frame: &[u8]) {
        self.send(frame);
        while self.read_frame().0 != 1 {}
    }

    /// Declares an exclusive queue and consumes it without acks.
    pub fn reply_queue(&mut self, name: &[u8]) {
        const EXCLUSIVE: u8 = 4;
        const NO_ACK: u8 = 2;
        let declare = [&[0, 0][..], &short(name), &[EXCLUSIVE], &long(b"")];
        self.call(&method(50, 10, &declare.concat()));
        let consume = [&[0, 0][..], &short(name), &short(b""), &[NO_ACK], &long(b"")];
        self.call(&method(60, 20, &consume.concat()));
    }

    /// Publishes to a queue, by way of the default exchange.
    pub fn publish(&mut self, queue: &[u8], props: &Props, body: &[u8]) {
        let publish = [&[0, 0][..], &short(b""), &short(queue), &[0]].concat();
        let mut frames = method(60, 40, &publish);
        frames.extend(frame(2, 1, &props.payload(body.len())));
        for chunk in body.chunks(131_064) {
            frames.extend(frame(3, 1, chunk));
        }
        self.send(&frames);
    }

    /// The next delivery.
    ///
    /// # Panics
    ///
    /// When none comes within twenty seconds.
    pub fn delivery(&mut self) -> (Props, Bytes) {
        loop {
            let (kind, payload) = self.read_frame();
            if kind == 1 && payload.starts_with(&[0, 60, 0, 60]) {
                let (_, payload) = self.read_frame();
                let (props, size) = Props::parse(&payload);
                let mut body = Vec::new();
                while body.len() < size {
                    body.extend(self.read_frame().1);
                }
                return (props, body);
            }
        }
    }
}
