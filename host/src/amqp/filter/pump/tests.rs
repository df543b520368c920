//! The pump with a broker that reads, writes and hesitates as it likes.

use std::collections::VecDeque;
use std::sync::Mutex;

use lapin::ErrorKind;
use proptest::collection::vec;
use proptest::prelude::*;
use tokio::sync::mpsc::UnboundedReceiver;

use super::super::bypass::{Delivered, Message, Said, put_ack, put_publish};
use super::super::testing::{content_payload, delivery, frame, lapin_reads, long_entry};
use super::super::wire::{BODY, HEADER, METHOD, first_frame, put_frame};
use super::*;

/// Gives and takes as many bytes at a time as the plan says; 0 is Pending.
struct Broker {
    to_read: VecDeque<u8>,
    written: Arc<Mutex<Vec<u8>>>,
    plan: VecDeque<usize>,
    /// Whether it hangs up after its last byte.
    ends: bool,
    /// When it begins to send.
    begins: Instant,
}

impl Broker {
    /// The next step; once the plan is over, all at once.
    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        match self.plan.pop_front() {
            Some(0) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Some(count) => Poll::Ready(count),
            None => Poll::Ready(usize::MAX),
        }
    }
}

impl AsyncRead for Broker {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if self.to_read.is_empty() && !self.ends {
            return Poll::Pending;
        }
        if Instant::now() < self.begins {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let count = ready!(self.turn(cx)).min(buf.len()).min(self.to_read.len());
        for (to, from) in buf.iter_mut().zip(self.to_read.drain(..count)) {
            *to = from;
        }
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for Broker {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(self.turn(cx)).min(buf.len());
        self.written.lock().unwrap().extend_from_slice(&buf[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A connection to such a broker.
struct House {
    lapin: ForLapin,
    bypass: Bypass,
    cut: CancellationToken,
    written: Arc<Mutex<Vec<u8>>>,
}

fn house(to_read: &[u8], plan: &[usize], ends: bool) -> House {
    house_with(to_read, plan, ends, Bypass::default())
}

fn house_with(to_read: &[u8], plan: &[usize], ends: bool, bypass: Bypass) -> House {
    house_at(Instant::now(), to_read, plan, ends, bypass)
}

fn house_at(begins: Instant, to_read: &[u8], plan: &[usize], ends: bool, bypass: Bypass) -> House {
    let written = Arc::new(Mutex::default());
    let broker = Broker {
        to_read: to_read.iter().copied().collect(),
        written: written.clone(),
        plan: plan.iter().copied().collect(),
        ends,
        begins,
    };
    let cut = CancellationToken::new();
    House { lapin: start(broker, bypass.clone(), cut.clone()), bypass, cut, written }
}

impl House {
    /// Reads to the end as lapin does.
    async fn read_all(&mut self) -> (Vec<u8>, io::Result<()>) {
        let mut all = Vec::new();
        let read = self.lapin.read_to_end(&mut all).await;
        (all, read.map(drop))
    }

    /// Writes as lapin does, in pieces, and closes.
    async fn write_all(&mut self, all: &[u8], piece: usize) {
        for piece in all.chunks(piece) {
            self.lapin.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
    }

    /// What the broker has, once it has so many bytes.
    async fn written(&self, count: usize) -> Vec<u8> {
        loop {
            let written = self.written.lock().unwrap().clone();
            if written.len() >= count {
                return written;
            }
            tokio::task::yield_now().await;
        }
    }
}

fn incoming() -> Vec<u8> {
    let bad = long_entry("rpchost-raw-type", b'x', b"");
    [
        delivery(&content_payload(0x0400, b"", b"id")),
        delivery(&content_payload(0x2600, &bad, b"\xFF")),
        delivery(&content_payload(0xFFFC, b"", &[0xFE; 255])),
    ]
    .concat()
}

fn outgoing() -> (Vec<u8>, Vec<u8>) {
    let publish = frame(METHOD, &[0, 60, 0, 40, 0, 0, 0, 1, b'q', 0]);
    let table = long_entry("rpchost-raw-correlation-id", b'x', b"\xFE");
    let given = frame(HEADER, &content_payload(0x2000, &table, b""));
    let wanted = frame(HEADER, &content_payload(0x0400, b"", b"\xFE"));
    let body = frame(BODY, &[9; 500]);
    let head = b"AMQP\x00\x00\x09\x01".as_slice();
    (
        [head, &publish, &given, &body, &publish, &given].concat(),
        [head, &publish, &wanted, &body, &publish, &wanted].concat(),
    )
}

async fn all_of<T>(mut told: UnboundedReceiver<T>) -> Vec<T> {
    let mut all = Vec::new();
    while let Some(one) = told.recv().await {
        all.push(one);
    }
    all
}

/// A method of channel 1.
fn method(class: u8, id: u8, arguments: &[u8]) -> Vec<u8> {
    frame(METHOD, &[&[0, class, 0, id][..], arguments].concat())
}

fn closing(class: u8, id: u8, code: u16) -> Vec<u8> {
    method(class, id, &[&code.to_be_bytes()[..], b"\x03why", &[0; 4]].concat())
}

fn settled(id: u8, tag: u8, multiple: u8) -> Vec<u8> {
    method(60, id, &[0, 0, 0, 0, 0, 0, 0, tag, multiple])
}

#[tokio::test]
async fn lapin_gets_what_it_can_read() {
    let (all, end) = house(&incoming(), &[], true).read_all().await;
    assert!(lapin_reads(&all) && end.is_ok());
}

#[tokio::test]
async fn an_error_comes_after_what_was_good() {
    let good = delivery(&content_payload(0x0400, b"", b"\xFF"));
    let mut house = house(&[&good[..], b"HTTP/1.1"].concat(), &[], true);
    let (_, said) = house.bypass.confirms(9);
    let (all, end) = house.read_all().await;
    assert!(lapin_reads(&all) && all.len() > good.len());
    let error = end.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(error.to_string().contains("of type 72"));
    assert!(matches!(all_of(said).await.as_slice(), [Said::Lost(_)]));
    // Who comes late is told, too.
    assert!(matches!(all_of(house.bypass.confirms(8).1).await.as_slice(), [Said::Lost(_)]));
}

#[tokio::test]
async fn a_broker_of_another_version_is_heard() {
    let (all, end) = house(b"AMQP\x00\x00\x08\x00", &[3, 0, 5], true).read_all().await;
    assert_eq!((all.as_slice(), end.is_ok()), (b"AMQP\x00\x00\x08\x00".as_slice(), true));
}

#[tokio::test]
async fn a_tune_ok_sets_the_limit_of_the_other_direction() {
    let tune_ok = frame(METHOD, &[0, 10, 0, 31, 0, 0, 0, 0, 0x20, 0, 0, 0]);
    // Long enough for the answer to be sent before.
    let plan = [0; 100];
    let mut house = house(&frame(BODY, &[0; 8185]), &plan, true);
    house.write_all(&tune_ok, 100).await;
    assert!(house.read_all().await.1.unwrap_err().to_string().contains("8192"));
}

#[tokio::test]
async fn a_channel_that_goes_past_lapin_leaves_it_nothing_but_its_end() {
    let bypass = Bypass::default();
    let (_, deliveries) = bypass.deliveries(1);
    let end = method(60, 31, b"\x03tag");
    let mut house = house_with(&[incoming(), end.clone()].concat(), &[], true, bypass);
    assert_eq!(house.read_all().await.0, end);
    let got = all_of(deliveries).await;
    assert_eq!(got.len(), 3);
    assert!(got.iter().all(|one| one.data == b"hello" && one.routing_key == "q"));
    assert_eq!(got[0].properties.correlation_id().as_ref().unwrap().as_str(), "id");
    let carried = super::super::bytes(&got[1].properties, super::super::Property::CorrelationId);
    assert_eq!(carried, Some(b"\xFF".as_slice()));
}

#[tokio::test]
async fn a_broker_that_only_delivers_is_not_taken_for_dead() {
    let bypass = Bypass::default();
    let _deliveries = bypass.deliveries(1);
    let one = delivery(&content_payload(0, b"", b""));
    let begins = Instant::now() + SIGN_OF_LIFE * 2;
    let mut house = house_at(begins, &one, &[], false, bypass);
    let mut sign = [0; 8];
    house.lapin.read_exact(&mut sign).await.unwrap();
    assert_eq!(sign, HEARTBEAT);
}

#[tokio::test]
async fn confirms_and_returns_go_past_lapin_in_order() {
    let mut returned = Vec::new();
    let payload = [&[0, 60, 0, 50, 1, 0x38][..], b"\x02no", &[0], b"\x01q"].concat();
    put_frame(&mut returned, METHOD, 1, &payload);
    put_frame(&mut returned, HEADER, 1, &content_payload(0x0080, b"", b"id-7"));
    put_frame(&mut returned, BODY, 1, b"hello");
    let bypass = Bypass::default();
    let (_, said) = bypass.confirms(1);
    let all = [settled(80, 3, 1), returned, settled(80, 7, 0), settled(120, 9, 0)].concat();
    let (left, _) = house_with(&all, &[], true, bypass).read_all().await;
    assert!(left.is_empty());
    let said = all_of(said).await;
    assert!(matches!(said[0], Said::Of { tag: 3, multiple: true, taken: true }));
    assert!(matches!(&said[1], Said::Returned(id) if id.as_str() == "id-7"));
    assert!(matches!(said[2], Said::Of { tag: 7, multiple: false, taken: true }));
    assert!(matches!(said[3], Said::Of { tag: 9, multiple: false, taken: false }));
    assert!(matches!(said[4], Said::Lost(_)));
}

#[tokio::test]
async fn what_the_broker_closes_is_told_with_its_reason() {
    for (closing, hard) in [(closing(20, 40, 404), false), (closing(10, 50, 541), true)] {
        let bypass = Bypass::default();
        let (key, said) = bypass.confirms(1);
        let mut house = house_with(&closing, &[], false, bypass);
        let said = all_of(said).await;
        let [Said::Lost(error)] = said.as_slice() else { panic!("{said:?}") };
        let ErrorKind::ProtocolError(error) = error.kind() else { panic!("{error}") };
        let kind = error.kind();
        assert_eq!(matches!(kind, lapin::protocol::AMQPErrorKind::Hard(_)), hard);
        assert_eq!(error.get_message().as_str(), "why");
        // Lapin answers it; nothing of ours may follow that.
        let mut all = vec![0; closing.len()];
        house.lapin.read_exact(&mut all).await.unwrap();
        assert_eq!(all, closing);
        assert!(!house.bypass.write(key, |_| panic!("it is closed")));
    }
}

#[tokio::test]
async fn what_lapin_closes_is_closed_from_there_on() {
    let bypass = Bypass::default();
    let (key, _deliveries) = bypass.deliveries(1);
    let mut house = house_with(b"", &[], false, bypass);
    let mut wanted = Vec::new();
    put_ack(&mut wanted, 1, 4, true);
    assert!(house.bypass.write(key, |out| put_ack(out, 1, 4, true)));
    let close = closing(20, 40, 200);
    house.write_all(&close, close.len()).await;
    wanted.extend_from_slice(&close);
    assert_eq!(house.written(wanted.len()).await, wanted);
    assert!(!house.bypass.write(key, |out| put_ack(out, 1, 5, true)));
    // Another channel has the number now, and its own deliveries.
    let (another, _deliveries) = house.bypass.deliveries(1);
    assert!(!house.bypass.write(key, |out| put_ack(out, 1, 5, true)));
    assert!(house.bypass.write(another, |out| put_ack(out, 1, 1, false)));
}

#[tokio::test]
async fn what_was_half_there_when_lapin_closed_its_channel_is_not_lapins() {
    let bypass = Bypass::default();
    let (_, deliveries) = bypass.deliveries(1);
    let whole = delivery(&content_payload(0, b"", b""));
    let body = frame(BODY, b"hello").len();
    let (first, rest) = whole.split_at(whole.len() - body);
    let mut out = Vec::new();
    assert_eq!(bypass.sort(first, &mut out), first.len());
    bypass.write_out(&closing(20, 40, 200), &mut Outbound::default(), &mut Vec::new());
    let close_ok = method(20, 41, b"");
    let after = [rest, &whole, &settled(80, 1, 0), &close_ok].concat();
    assert_eq!(bypass.sort(&after, &mut out), after.len());
    assert_eq!(out, close_ok);
    assert!(all_of(deliveries).await.is_empty());
    // Whoever has the number next and does not go past lapin.
    out.clear();
    bypass.sort(&whole, &mut out);
    assert_eq!(out, whole);
}

#[tokio::test]
async fn a_cut_ends_it_at_once() {
    let mut house = house(b"", &[], false);
    let (_, said) = house.bypass.confirms(1);
    house.cut.cancel();
    assert_eq!(house.read_all().await.1.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    assert!(matches!(all_of(said).await.as_slice(), [Said::Lost(_)]));
}

#[test]
fn what_is_not_written_yet_is_counted() {
    let bypass = Bypass::default();
    let (key, _told) = bypass.deliveries(1);
    let (other, _said) = bypass.confirms(2);
    let put = |key| assert!(bypass.write(key, |out| out.push(0)));
    let take = || {
        let mut out = Vec::new();
        bypass.write_out(&[], &mut Outbound::default(), &mut out);
        out.len()
    };
    put(key);
    put(key);
    put(other);
    assert_eq!((bypass.unwritten(key), bypass.unwritten(other)), (2, 1));
    assert_eq!(take(), 3);
    put(key);
    assert_eq!(bypass.unwritten(key), 3, "it may be half written");
    bypass.wrote();
    assert_eq!((bypass.unwritten(key), bypass.unwritten(other)), (1, 0));
    bypass.lost(&std::io::Error::other("lost").into());
    assert_eq!(bypass.unwritten(key), 0);
}

#[test]
fn memory_for_frames_is_kept_while_it_is_in_use() {
    let bypass = Bypass::default();
    let (key, _told) = bypass.deliveries(1);
    let put = |bytes| assert!(bypass.write(key, |out| out.resize(out.len() + bytes, 0)));
    let room = || {
        let mut room = 0;
        assert!(bypass.write(key, |out| room = out.capacity()));
        room
    };
    let mut out = Vec::new();
    // As `pump` does it. Returns what it has written with.
    let mut write_out = |lapins: &[u8]| {
        bypass.write_out(lapins, &mut Outbound::default(), &mut out);
        let written = out.capacity();
        out.clear();
        out.shrink_to(KEPT);
        written
    };
    put(2 * KEPT);
    assert!(write_out(&[]) >= 2 * KEPT);
    put(KEPT / 2);
    assert_eq!(room(), KEPT / 2, "nothing was kept yet");
    assert_eq!(write_out(&[]), KEPT / 2);
    assert_eq!(room(), KEPT, "what was kept of the first");
    write_out(&[]);
    assert_eq!(room(), KEPT, "nobody had anything to say");
    assert!(write_out(&HEARTBEAT) < KEPT / 2);
    assert_eq!(room(), 0);
}

#[tokio::test]
async fn a_publish_is_one_that_lapin_would_have_made() {
    use amq_protocol::frame::{AMQPFrame, parse_frame};
    use amq_protocol::protocol::AMQPClass;
    use amq_protocol::protocol::basic::AMQPMethod;
    let headers = [("x-one".to_owned(), "1".to_owned()), ("x-two".to_owned(), "ä".to_owned())];
    let message = Message {
        exchange: b"ex",
        routing_key: b"key",
        mandatory: true,
        persistent: true,
        content_type: Some(b"text/plain"),
        headers: &headers,
        correlation_id: Some(b"id"),
        reply_to: Some(b"to"),
        message_id: b"mine-1",
        kind: Some(b"error"),
        body: &[7; 10_000],
    };
    let mut out = Vec::new();
    assert!(put_publish(&mut out, 5, 4096, &message));
    let (mut rest, mut frames) = (out.as_slice(), Vec::new());
    while !rest.is_empty() {
        let (after, frame) = parse_frame(rest).unwrap();
        frames.push(frame);
        rest = after;
    }
    let AMQPFrame::Method(5, AMQPClass::Basic(AMQPMethod::Publish(publish))) = &frames[0] else {
        panic!("{frames:?}")
    };
    assert_eq!((publish.exchange.as_str(), publish.routing_key.as_str()), ("ex", "key"));
    assert!(publish.mandatory && !publish.immediate);
    let AMQPFrame::Header(5, header) = &frames[1] else { panic!("{frames:?}") };
    assert_eq!((header.class_id, header.body_size), (60, 10_000));
    let mut table = lapin::types::FieldTable::default();
    for (name, value) in &headers {
        let value = lapin::types::AMQPValue::LongString(value.as_str().into());
        table.insert(name.as_str().into(), value);
    }
    let wanted = lapin::BasicProperties::default()
        .with_content_type("text/plain".into())
        .with_headers(table)
        .with_delivery_mode(2)
        .with_correlation_id("id".into())
        .with_reply_to("to".into())
        .with_message_id("mine-1".into())
        .with_type("error".into());
    assert_eq!(header.properties, wanted);
    let sizes: Vec<usize> = frames[2..]
        .iter()
        .map(|frame| match frame {
            AMQPFrame::Body(5, piece) => piece.len(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(sizes, [4088, 4088, 1824]);
    // Headers cannot be cut.
    let (_, _, after) = first_frame(&out).unwrap();
    let (header, ..) = first_frame(after).unwrap();
    let mut before = b"before".to_vec();
    assert!(!put_publish(&mut before, 5, header.total - 1, &message));
    assert_eq!(before, b"before");
    assert!(put_publish(&mut before, 5, header.total, &message));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_pieces_give_the_same(
        plan in vec(prop_oneof![Just(0_usize), 1..9_usize, 1..2000_usize], 0..200),
        piece in 1..3000_usize,
        past in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let read = async |plan: &[usize]| {
                let bypass = Bypass::default();
                let deliveries = if past { Some(bypass.deliveries(1)) } else { None };
                let (all, _) = house_with(&incoming(), plan, true, bypass).read_all().await;
                let got: Vec<Delivered> = match deliveries {
                    Some((_, deliveries)) => all_of(deliveries).await,
                    None => Vec::new(),
                };
                (all, format!("{got:?}"))
            };
            assert_eq!(read(&plan).await, read(&[]).await);
            let (given, wanted) = outgoing();
            let mut house = house_with(b"", &plan, false, Bypass::default());
            let (key, _deliveries) = house.bypass.deliveries(1);
            // In between, whole frames of ours.
            let mut ack = Vec::new();
            put_ack(&mut ack, 1, 4, true);
            let ours = given.chunks(piece).count();
            for piece in given.chunks(piece) {
                house.write_all(piece, piece.len()).await;
                house.bypass.write(key, |out| out.extend_from_slice(&ack));
            }
            let written = house.written(wanted.len() + ours * ack.len()).await;
            let mut rest = written.as_slice();
            let (mut lapins, mut acks) = (Vec::new(), 0);
            while !rest.is_empty() {
                if rest.starts_with(&ack) {
                    acks += 1;
                    rest = &rest[ack.len()..];
                } else if rest.starts_with(b"AMQP") {
                    lapins.extend_from_slice(&rest[..8]);
                    rest = &rest[8..];
                } else {
                    let (_, frame, after) = super::super::wire::first_frame(rest).unwrap();
                    lapins.extend_from_slice(frame);
                    rest = after;
                }
            }
            assert_eq!((lapins, acks), (wanted, ours));
        });
    }
}
