//! What is read, joined and shown.

use std::time::{Duration, UNIX_EPOCH};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn text(text: &str) -> HeaderValue {
    HeaderValue::Text(text.to_owned())
}

fn texts_of(texts: &[&str]) -> HeaderValue {
    HeaderValue::List(texts.iter().map(|item| text(item)).collect())
}

/// A copy as RabbitMQ makes it, `at` seconds after the beginning of time.
fn event(
    at: u64,
    key: &str,
    id: &str,
    more: &[(&str, &str)],
    routing: &str,
    queues: &[&str],
) -> Event {
    let mut properties = vec![("correlation_id".to_owned(), text(id))];
    properties.extend(more.iter().map(|(name, value)| ((*name).to_owned(), text(value))));
    let copy = Properties {
        headers: vec![
            ("exchange_name".to_owned(), text(key.strip_prefix("publish.").unwrap_or_default())),
            ("routing_keys".to_owned(), texts_of(&[routing])),
            ("routed_queues".to_owned(), texts_of(queues)),
            ("properties".to_owned(), HeaderValue::Table(properties)),
            ("node".to_owned(), text("rabbit@here")),
        ],
        ..Properties::default()
    };
    let body = Bytes::from_static(b"body");
    Event::read(key, &copy, &body, 1000, UNIX_EPOCH + u32::try_from(at).unwrap() * SECOND).unwrap()
}

fn request(at: u64, id: &str) -> Event {
    let more = [("reply_to", "answers"), ("type", "fib")];
    event(at, "publish.", id, &more, "q", &["q"])
}

fn call_of(calls: &mut Calls) -> Vec<Call> {
    let more = [("reply_to", "answers"), ("type", "fib")];
    let mut over = calls.note(&request(10, "1"));
    over.extend(calls.note(&event(12, "deliver.q", "1", &more, "q", &[])));
    over.extend(calls.note(&event(15, "publish.", "1", &[], "answers", &["answers"])));
    assert!(over.is_empty());
    calls.note(&event(16, "deliver.answers", "1", &[], "answers", &[]))
}

#[test]
fn the_four_events_of_a_call_are_one_call_with_its_times() {
    let mut calls = Calls::new(60 * SECOND);
    let over = call_of(&mut calls);
    let [call] = over.as_slice() else { panic!("{over:?}") };
    assert_eq!(call.method.as_deref(), Some("fib"));
    let times = (call.waited(), call.worked(), call.back(), call.total());
    assert_eq!(times, (Some(2 * SECOND), Some(3 * SECOND), Some(SECOND), Some(6 * SECOND)));
    let json = call_as_json(call);
    assert_eq!((&json["total_ms"], &json["queue"]), (&6000.0.into(), &"q".into()));
    assert!(calls.rest().is_empty());
}

#[test]
fn a_direct_reply_is_over_when_it_is_published() {
    let mut calls = Calls::new(60 * SECOND);
    let address = "amq.rabbitmq.reply-to.x";
    calls.note(&event(1, "publish.", "1", &[("reply_to", address)], "q", &["q"]));
    let over = calls.note(&event(2, "publish.", "1", &[], address, &[]));
    assert_eq!((over.len(), over[0].reply_routed, over[0].total()), (1, true, Some(SECOND)));
}

#[test]
fn a_call_without_an_answer_is_told_in_time_and_memory_is_bounded() {
    let mut calls = Calls::new(60 * SECOND);
    calls.note(&request(1, "old"));
    let over = calls.note(&request(61, "new"));
    assert_eq!((over.len(), over[0].id.as_slice()), (1, &b"old"[..]));
    let mut over = 0;
    for number in 0..30_000 {
        over += calls.note(&request(61, &number.to_string())).len();
    }
    assert_eq!((over, calls.rest().len()), (20_001, 10_000));
}

#[test]
fn what_is_no_copy_is_not_read() {
    for key in ["", "publish", "nonsense.x"] {
        let copy = Properties::default();
        assert!(Event::read(key, &copy, &Bytes::new(), 10, UNIX_EPOCH).is_none(), "{key}");
    }
}

#[test]
fn secret_headers_are_masked_however_deep_they_are() {
    let nested = HeaderValue::Table(vec![
        ("X-Api-Key".to_owned(), text("canary")),
        ("plain".to_owned(), text("shown")),
    ]);
    let headers = HeaderValue::Table(vec![
        ("db_Password".to_owned(), text("canary")),
        ("list".to_owned(), HeaderValue::List(vec![nested])),
    ]);
    let properties = vec![("headers".to_owned(), headers)];
    let copy = Properties {
        headers: vec![("properties".to_owned(), HeaderValue::Table(properties))],
        ..Properties::default()
    };
    let event = Event::read("deliver.q", &copy, &Bytes::new(), 10, UNIX_EPOCH).unwrap();
    let shown = format!("{} {:?}", event_as_json(&event), Table::new(None).details(&event));
    assert!(!shown.contains("canary") && shown.contains("shown"), "{shown}");
}

#[test]
fn lines_are_aligned_within_the_width_and_harmless() {
    let mut calls = Calls::new(60 * SECOND);
    let call = call_of(&mut calls).remove(0);
    let mut nasty =
        event(1, "publish.ex\u{1b}[31m", "id\n漢字漢字漢字漢字", &[], "k\u{202e}", &["q"]);
    nasty.body =
        Bytes::from_static(b"\x1b[2Jline\r\n\xff\x00 and more than fits into the line, by far");
    nasty.body_bytes = 5000;
    for width in [80, 120] {
        let table = Table::new(Some(width));
        let lines =
            [table.header(), table.event(&request(1, "a")), table.event(&nasty), table.call(&call)];
        for line in &lines {
            use unicode_width::UnicodeWidthStr as _;
            assert!(line.width() <= width, "{width}: {line}");
            assert!(!line.chars().any(char::is_control), "{line:?}");
            assert!(!line.contains('\u{202e}'), "{line:?}");
        }
        let at = lines[0].find("WHERE").unwrap();
        assert!(lines[1].is_char_boundary(at) && lines[1][at..].starts_with("q "), "{lines:?}");
    }
    assert!(Table::new(None).event(&nasty).contains(r"\u{1b}[2Jline\r\n\xff\0"));
}
