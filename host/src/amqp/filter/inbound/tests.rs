//! What [`Inbound`] makes of good, bad and random bytes, in pieces of any size.

use amq_protocol::frame::AMQPFrame;
use proptest::collection::vec;
use proptest::prelude::*;

use super::super::content::SLOTS;
use super::super::outbound::Outbound;
use super::super::raw;
use super::super::testing::{
    content_payload, delivery, entry, every_property, frame, lapin_begins_to_read, lapin_reads,
    long_entry, nested_arrays, nested_tables, some_method,
};
use super::*;

/// Feeds the pieces; gives what lapin gets.
fn filtered<'a>(
    inbound: &mut Inbound,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<u8>, Result<(), Broken>) {
    let (mut got, mut out) = (Vec::new(), Vec::new());
    for piece in pieces {
        let (in_place, result) = inbound.filter(piece, &mut out);
        got.extend_from_slice(&piece[..in_place]);
        got.append(&mut out);
        assert!(inbound.partial.len() <= inbound.frame_max);
        if result.is_err() {
            return (got, result);
        }
    }
    (got, Ok(()))
}

fn whole(input: &[u8]) -> Vec<u8> {
    let (got, result) = filtered(&mut Inbound::new(), [input]);
    assert_eq!(result, Ok(()));
    got
}

fn broken(input: &[u8]) -> String {
    let (got, result) = filtered(&mut Inbound::new(), [input]);
    assert_eq!(got, b"");
    result.unwrap_err().0
}

fn in_pieces(input: &[u8], size: usize) -> Vec<u8> {
    let (got, result) = filtered(&mut Inbound::new(), input.chunks(size));
    assert_eq!(result, Ok(()));
    got
}

/// A whole content-header frame of `total` bytes, with properties before and
/// after the table.
fn sized(total: usize, text: &[u8]) -> Vec<u8> {
    let rest = frame(HEADER, &content_payload(0xFFFC, &long_entry("k", b'S', b""), text)).len();
    let table = long_entry("k", b'S', &vec![b'v'; total - rest]);
    let frame = frame(HEADER, &content_payload(0xFFFC, &table, text));
    assert_eq!(frame.len(), total);
    frame
}

fn properties(frames: &[u8]) -> lapin::BasicProperties {
    let frames = lapin_begins_to_read(frames).unwrap();
    let mut contents = frames.into_iter().filter_map(|frame| match frame {
        AMQPFrame::Header(_, content) => Some(content.properties),
        _ => None,
    });
    contents.next_back().unwrap()
}

#[test]
fn what_is_good_stays_where_it_is() {
    let body = frame(BODY, &[7; 9000]);
    let all = [
        frame(METHOD, &some_method((60, 11))),
        delivery(&every_property(&nested_tables(32))),
        body,
        frame(HEARTBEAT, b""),
        b"AMQP\x00\x00\x09\x01".to_vec(),
    ]
    .concat();
    let mut out = Vec::new();
    assert_eq!(Inbound::new().filter(&all, &mut out), (all.len(), Ok(())));
    assert!(out.is_empty());
    for size in (1..40).chain([100, 1000, 8999]) {
        assert!(in_pieces(&all, size) == all, "in pieces of {size}");
    }
}

#[test]
fn only_what_follows_a_change_is_moved() {
    let good = delivery(&content_payload(0x0400, b"", b"id"));
    let bad = delivery(&content_payload(0x0400, b"", b"\xFF"));
    let mut out = Vec::new();
    let method = bad.len() - frame(BODY, b"hello").len() - (8 + 14 + 2);
    let all = [good.clone(), bad, good.clone()].concat();
    let (in_place, result) = Inbound::new().filter(&all, &mut out);
    assert_eq!((in_place, result), (good.len() + method, Ok(())));
    assert!(out.ends_with(&good));
    assert!(lapin_reads(&[&all[..in_place], &out].concat()));
}

#[test]
fn a_bad_delivery_is_replaced_the_same_in_all_pieces() {
    let bad = [
        delivery(&content_payload(0xFFFC, &nested_arrays(40), &[0xFF; 40])),
        delivery(&content_payload(0x0400, b"", b"")),
    ]
    .concat();
    let made = whole(&bad);
    assert!(lapin_reads(&made));
    for size in 1..bad.len() {
        assert!(in_pieces(&bad, size) == made, "in pieces of {size}");
    }
}

#[test]
fn deep_tables_are_replaced_at_every_depth() {
    for nest in [nested_arrays, nested_tables] {
        for depth in [1, 31, 32, 33, 1000, 15_000] {
            let made = whole(&delivery(&content_payload(0x2400, &nest(depth), b"id")));
            let properties = properties(&made);
            assert_eq!(properties.correlation_id().as_ref().unwrap().as_str(), "id");
            assert_eq!(super::super::headers_lost(&properties).is_some(), depth > 32);
        }
    }
    let made = whole(&delivery(&content_payload(0x2400, &nested_arrays(26_000), b"id")));
    assert!(super::super::headers_lost(&properties(&made)).is_some());
}

#[test]
fn header_frames_around_the_limit() {
    for total in 131_064..=131_080 {
        let sent = sized(total, b"text");
        let made = whole(&sent);
        assert!(made.len() <= 131_072);
        assert_eq!(made == sent, total <= 131_072, "{total}");
        let properties = properties(&made);
        assert_eq!(properties.message_id().as_ref().unwrap().as_str(), "text");
        assert_eq!(super::super::headers_lost(&properties).is_some(), total > 131_072);
    }
}

#[test]
fn an_oversize_header_frame_costs_no_memory_and_keeps_its_properties() {
    for (total, text) in [(131_080, [0xFF; 255]), (300_000, [b'x'; 255]), (5 << 20, [0xFE; 255])] {
        let sent = [sized(total, &text), frame(BODY, b"hello")].concat();
        let made = whole(&sent);
        assert!(made.len() < 4096);
        let properties = properties(&made);
        for property in [raw::Property::ContentType, raw::Property::ClusterId] {
            assert_eq!(super::super::bytes(&properties, property), Some(text.as_slice()));
        }
        assert_eq!(properties.timestamp(), &Some(0x0707_0707_0707_0707));
        let lost = super::super::headers_lost(&properties).unwrap();
        assert_eq!(lost, "the properties and headers are larger than a frame may be");
        for size in [1, 7, 500, 536, 537, 538, 4096, total - 1, total, total + 1] {
            let mut inbound = Inbound::new();
            let (got, result) = filtered(&mut inbound, sent.chunks(size));
            assert_eq!(result, Ok(()));
            assert!(got == made, "in pieces of {size}");
            assert!(inbound.partial.capacity() < 16_384);
        }
    }
}

#[test]
fn an_oversize_header_frame_may_be_any_nonsense() {
    let mut small = sized(140_000, b"\xFF");
    // The table says that it is shorter, then that it is longer.
    for length in [[0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 2, 0], [0, 1, 0, 0], [0xFF; 4]] {
        let at = HEAD + 14 + 4;
        small[at..at + 4].copy_from_slice(&length);
        let made = whole(&small);
        assert!(lapin_reads(&made) && made.len() < 4096);
        assert_eq!(
            super::super::bytes(&properties(&made), raw::Property::ContentType),
            Some(&[0xFF][..])
        );
        assert_eq!(in_pieces(&small, 100), made);
    }
    // No table at all.
    small[HEAD + 12] = 0xDF;
    assert!(lapin_reads(&whole(&small)));
    small.pop();
    small.push(0);
    assert!(broken(&small).contains("does not end"));
}

#[test]
fn another_limit_holds_once_it_is_settled() {
    let mut inbound = Inbound::new();
    inbound.set_frame_max(8192);
    let sent = sized(8193, b"text");
    let (made, _) = filtered(&mut inbound, [&sent[..]]);
    assert!(made.len() < 4096 && lapin_reads(&made));
    let (_, result) = filtered(&mut inbound, [&frame(BODY, &[0; 8185])[..]]);
    assert!(result.unwrap_err().0.contains("a frame of 8193 bytes, which is more than the 8192"));
    inbound.set_frame_max(0);
    assert_eq!(inbound.frame_max, 4096);
}

#[test]
fn what_is_not_amqp_is_an_error_with_a_text() {
    assert!(broken(&[METHOD, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0]).contains("4294967303 bytes"));
    assert!(broken(&[BODY, 0, 0, 0, 2, 0, 0]).contains("131080 bytes"));
    assert!(broken(b"HTTP/1.1 400 Bad Request").contains("of type 72"));
    assert!(broken(&frame(METHOD, &[0, 60])).contains("without a name"));
    assert!(broken(&frame(METHOD, &[0, 60, 0, 60])).contains("60.60"));
    assert!(broken(&frame(METHOD, &[0, 60, 0, 40])).contains("60.40"));
    assert!(broken(&frame(HEADER, &[0, 60])).contains("too short"));
    let mut endless = frame(METHOD, &some_method((60, 11)));
    *endless.last_mut().unwrap() = 0;
    assert!(broken(&endless).contains("does not end"));
}

#[test]
fn what_came_before_an_error_is_passed_on() {
    let close = frame(METHOD, &[0, 20, 0, 41]);
    let all = [&close[..], b"HTTP"].concat();
    for size in 1..all.len() {
        let (got, result) = filtered(&mut Inbound::new(), all.chunks(size));
        assert_eq!(got, close);
        // Four bytes are not enough to see it, unless it is known by its first.
        assert_eq!(result, Ok(()));
    }
    let all = [&close[..], b"HTTP/1."].concat();
    let (got, result) = filtered(&mut Inbound::new(), all.chunks(3));
    assert_eq!(got, close);
    assert!(result.is_err());
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    let leaf = prop_oneof![
        Just(b"V".to_vec()),
        (prop_oneof![Just(b't'), Just(b'B'), Just(b'b')], any::<u8>())
            .prop_map(|(k, v)| vec![k, v]),
        any::<[u8; 8]>().prop_map(|v| [&b"l"[..], &v].concat()),
        any::<[u8; 5]>().prop_map(|v| [&b"D"[..], &v].concat()),
        vec(any::<u8>(), 0..40).prop_map(|v| [&b"S"[..], &[0, 0, 0, v.len() as u8], &v].concat()),
    ];
    leaf.prop_recursive(5, 40, 5, |value| {
        prop_oneof![
            vec(value.clone(), 0..5).prop_map(|values| {
                let values = values.concat();
                [&b"A"[..], &(values.len() as u32).to_be_bytes(), &values].concat()
            }),
            vec((name(), value), 0..5).prop_map(|entries| {
                let entries = table(&entries);
                [&b"F"[..], &(entries.len() as u32).to_be_bytes(), &entries].concat()
            }),
        ]
    })
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => "[a-zäß☃-]{0,12}".prop_map(String::into_bytes),
        1 => Just(b"rpchost-raw-reply-to".to_vec()),
        1 => vec(any::<u8>(), 0..20),
    ]
}

fn table(entries: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    entries.iter().flat_map(|(name, value)| entry(name, value[0], &value[1..])).collect()
}

/// Content headers of all kinds, most of them with something bad in them.
fn content() -> impl Strategy<Value = Vec<u8>> {
    let text =
        prop_oneof!["[ -~äß☃]{0,60}".prop_map(String::into_bytes), vec(any::<u8>(), 0..=255),];
    (any::<u16>(), vec((name(), value()), 0..6), vec(text, SLOTS)).prop_map(
        |(flags, entries, texts)| {
            let mut out = vec![0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5];
            out.extend_from_slice(&flags.to_be_bytes());
            for (index, text) in texts.iter().enumerate() {
                if flags & (0x8000 >> index) != 0 {
                    let one = content_payload(0x8000 >> index, &table(&entries), text);
                    out.extend_from_slice(&one[14..]);
                }
            }
            out
        },
    )
}

/// Cuts the input at these places, and gives the same.
fn cut(input: &[u8], sizes: &[usize]) -> Vec<Vec<u8>> {
    let mut rest = input;
    let mut pieces = Vec::new();
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, after) = rest.split_at((*size).min(rest.len()));
        pieces.push(piece.to_vec());
        rest = after;
    }
    pieces
}

fn slices(pieces: &[Vec<u8>]) -> impl Iterator<Item = &[u8]> {
    pieces.iter().map(Vec::as_slice)
}

/// What the filter does not change is what lapin reads, and the other way
/// round, but for reserved names.
fn is_safe(frames: &[u8], content: &[u8]) -> bool {
    lapin_reads(frames) && !content.windows(12).any(|bytes| bytes == b"rpchost-raw-")
}

/// A second's worth. `PROPTEST_CASES` asks for more.
fn config() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn deliveries_become_readable_and_good_ones_stay(content in content(), sizes in vec(1..300_usize, 1..9)) {
        let sent = delivery(&content);
        let made = whole(&sent);
        prop_assert!(lapin_reads(&made));
        prop_assert!(!is_safe(&sent, &content) || made == sent);
        prop_assert!(lapin_reads(&sent) || made != sent);
        prop_assert_eq!(filtered(&mut Inbound::new(), slices(&cut(&sent, &sizes))), (made, Ok(())));
    }

    #[test]
    fn properties_survive_both_ways(content in content()) {
        let made = whole(&frame(HEADER, &content));
        let mut back = Vec::new();
        Outbound::default().filter(&made, &mut back);
        let values = |frame: &[u8]| {
            let payload = wire::payload(frame).unwrap().to_vec();
            let (content, _) = super::super::content::Content::read(&payload).unwrap();
            let mut values = content.values.map(|value| value.map(<[u8]>::to_vec));
            values[2] = None;
            values
        };
        prop_assert_eq!(values(&back), values(&frame(HEADER, &content)));
    }

    #[test]
    fn mutated_frames_harm_nobody(
        content in content(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        sizes in vec(1..300_usize, 1..9),
    ) {
        let mut sent = [delivery(&content), delivery(&content)].concat();
        for (at, byte) in changes {
            let at = at.index(sent.len());
            sent[at] = byte;
        }
        let (made, result) = filtered(&mut Inbound::new(), [&sent[..]]);
        prop_assert!(lapin_begins_to_read(&made).is_some());
        let pieces = cut(&sent, &sizes);
        prop_assert_eq!(filtered(&mut Inbound::new(), slices(&pieces)), (made, result));
    }

    #[test]
    fn random_payloads_become_readable_or_an_error(
        kind in 1..=2_u8,
        class in prop_oneof![Just(10_u8), Just(20), Just(50), Just(60), any::<u8>()],
        method in prop_oneof![0..=80_u8, any::<u8>()],
        tail in vec(any::<u8>(), 0..200),
    ) {
        let payload = [&[0, class, 0, method][..], &tail].concat();
        let (made, result) = filtered(&mut Inbound::new(), [&frame(kind, &payload)[..]]);
        prop_assert!(lapin_reads(&made));
        prop_assert_eq!(result.is_err(), made.is_empty());
    }

    #[test]
    fn random_bytes_harm_nobody(input in vec(any::<u8>(), 0..4000), sizes in vec(1..300_usize, 1..9)) {
        let (made, result) = filtered(&mut Inbound::new(), [&input[..]]);
        let pieces = cut(&input, &sizes);
        prop_assert_eq!(filtered(&mut Inbound::new(), slices(&pieces)), (made, result));
        prop_assert!(Outbound::default().filter(&input, &mut Vec::new()) <= input.len());
    }
}
