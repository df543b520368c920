//! Methods that a broker sends: made readable for lapin.
//!
//! Texts in them are for people (`reply-text`), or names that this side chose,
//! or names that it only shows; none is needed byte for byte to answer. What is
//! not UTF-8 in them is therefore replaced by as many question marks, which
//! changes no length.
//!
//! Refuses to know about frames and about the methods that a client sends.

use super::table;
use super::wire::{Reader, put_long, put_short};

/// Class and method, as numbers.
pub(super) type Id = (u16, u16);

/// `basic.return`.
pub(super) const BASIC_RETURN: Id = (60, 50);
/// `basic.deliver`.
pub(super) const BASIC_DELIVER: Id = (60, 60);
/// `basic.ack`.
pub(super) const BASIC_ACK: Id = (60, 80);
/// `basic.nack`.
pub(super) const BASIC_NACK: Id = (60, 120);
/// `channel.close`.
pub(super) const CHANNEL_CLOSE: Id = (20, 40);
/// `channel.close-ok`.
pub(super) const CHANNEL_CLOSE_OK: Id = (20, 41);
/// `connection.close`.
pub(super) const CONNECTION_CLOSE: Id = (10, 50);
/// `connection.tune`.
const CONNECTION_TUNE: Id = (10, 30);
/// `connection.tune-ok`, which only a client sends.
const CONNECTION_TUNE_OK: Id = (10, 31);

/// The largest `frame-max` that is agreed to, 1 MiB. lapin keeps buffers of 64
/// times this size, also for a broker that says "no limit", where it would ask
/// for 256 GiB. RabbitMQ's own is 128 KiB.
pub(super) const FRAME_MAX: u32 = 1 << 20;

/// What a method consists of.
#[derive(Debug, Clone, Copy)]
enum Field {
    /// So many bytes: numbers and bits.
    Fixed(usize),
    Short,
    Long,
    Table,
}

/// Every method that a broker sends to a client, and nothing else.
#[rustfmt::skip]
fn fields(id: Id) -> Option<&'static [Field]> {
    use Field::{Fixed, Long, Short, Table};
    Some(match id {
        // connection: start, secure, tune, open-ok, close, close-ok, blocked, unblocked, update-secret-ok
        (10, 10) => &[Fixed(2), Table, Long, Long],
        (10, 20) => &[Long],
        (10, 30) => &[Fixed(8)],
        (10, 41) => &[Short],
        (10, 50) => &[Fixed(2), Short, Fixed(4)],
        (10, 51) => &[],
        (10, 60) => &[Short],
        (10, 61 | 71) => &[],
        // channel: open-ok, flow, flow-ok, close, close-ok
        (20, 11) => &[Long],
        (20, 20 | 21) => &[Fixed(1)],
        (20, 40) => &[Fixed(2), Short, Fixed(4)],
        (20, 41) => &[],
        // access: request-ok
        (30, 11) => &[Fixed(2)],
        // exchange: declare-ok, delete-ok, bind-ok, unbind-ok
        (40, 11 | 21 | 31 | 51) => &[],
        // queue: declare-ok, bind-ok, purge-ok, delete-ok, unbind-ok
        (50, 11) => &[Short, Fixed(8)],
        (50, 21 | 51) => &[],
        (50, 31 | 41) => &[Fixed(4)],
        // basic: qos-ok, consume-ok, cancel, cancel-ok, return, deliver, get-ok, get-empty, ack,
        // recover-ok, nack
        (60, 11 | 111) => &[],
        (60, 21 | 31) => &[Short],
        (60, 30) => &[Short, Fixed(1)],
        (60, 50) => &[Fixed(2), Short, Short, Short],
        (60, 60) => &[Short, Fixed(9), Short, Short],
        (60, 71) => &[Fixed(9), Short, Short, Fixed(4)],
        (60, 72) => &[Short],
        (60, 80 | 120) => &[Fixed(9)],
        // confirm: select-ok; tx: select-ok, commit-ok, rollback-ok
        (85, 11) => &[],
        (90, 11 | 21 | 31) => &[],
        _ => return None,
    })
}

/// Which method a payload is.
pub(super) fn id(payload: &[u8]) -> Option<Id> {
    let mut reader = Reader(payload);
    Some((reader.u16()?, reader.u16()?))
}

/// A method's payload for lapin.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Method {
    /// It can be passed on as it is.
    Good,
    /// This is to be passed on instead.
    Replaced(Vec<u8>),
    /// It is no method that a broker sends, or is cut off, or has more bytes
    /// than it should.
    Broken,
}

/// Looks at a method that a broker sent.
pub(super) fn for_lapin(payload: &[u8]) -> Method {
    let Some((id, fields)) = id(payload).and_then(|id| Some((id, fields(id)?))) else {
        return Method::Broken;
    };
    match is_good(id, fields, payload) {
        None => Method::Broken,
        Some(true) => Method::Good,
        Some(false) => rewrite(id, fields, payload).map_or(Method::Broken, Method::Replaced),
    }
}

/// Whether lapin can take it; `None` if it does not have these fields.
fn is_good(id: Id, fields: &[Field], payload: &[u8]) -> Option<bool> {
    let mut reader = Reader(payload);
    reader.bytes(4)?;
    let mut good = true;
    for field in fields {
        good &= match field {
            Field::Fixed(size) => {
                let bytes = reader.bytes(*size)?;
                id != CONNECTION_TUNE || frame_max(bytes)? <= FRAME_MAX && frame_max(bytes)? > 0
            }
            Field::Short => std::str::from_utf8(reader.short()?).is_ok(),
            Field::Long => reader.long().map(|_| true)?,
            Field::Table => table::check(reader.long()?).is_ok(),
        };
    }
    reader.is_empty().then_some(good)
}

fn rewrite(id: Id, fields: &[Field], payload: &[u8]) -> Option<Vec<u8>> {
    let mut reader = Reader(payload);
    let mut out = Vec::with_capacity(payload.len());
    out.extend_from_slice(reader.bytes(4)?);
    for field in fields {
        match field {
            Field::Fixed(_) if id == CONNECTION_TUNE => {
                out.extend_from_slice(reader.bytes(2)?);
                let told = reader.u32()?;
                let agreed = if told == 0 { FRAME_MAX } else { told.min(FRAME_MAX) };
                out.extend_from_slice(&agreed.to_be_bytes());
                out.extend_from_slice(reader.bytes(2)?);
            }
            Field::Fixed(size) => out.extend_from_slice(reader.bytes(*size)?),
            Field::Short => put_short(&mut out, &readable(reader.short()?)),
            Field::Long => put_long(&mut out, reader.long()?),
            // What the broker says of itself; only shown.
            Field::Table => {
                let table = reader.long()?;
                put_long(&mut out, if table::check(table).is_ok() { table } else { &[] });
            }
        }
    }
    Some(out)
}

/// The same with a question mark for each byte that is not UTF-8.
fn readable(text: &[u8]) -> Vec<u8> {
    let mut readable = Vec::with_capacity(text.len());
    for chunk in text.utf8_chunks() {
        readable.extend_from_slice(chunk.valid().as_bytes());
        readable.extend(chunk.invalid().iter().map(|_| b'?'));
    }
    readable
}

/// The middle one of `channel-max`, `frame-max` and `heartbeat`.
fn frame_max(arguments: &[u8]) -> Option<u32> {
    let mut reader = Reader(arguments);
    reader.u16()?;
    reader.u32()
}

/// The `frame-max` that a `connection.tune-ok` settles.
pub(super) fn settled_frame_max(payload: &[u8]) -> Option<u32> {
    if id(payload)? != CONNECTION_TUNE_OK {
        return None;
    }
    frame_max(payload.get(4..)?)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{lapin_reads_method, nested_tables, some_method};
    use super::*;

    fn every_id() -> impl Iterator<Item = Id> {
        (0..=100).flat_map(|class| (0..=130).map(move |method| (class, method)))
    }

    fn built(id: Id, text: &[u8], table: &[u8]) -> Vec<u8> {
        let mut out = [id.0.to_be_bytes(), id.1.to_be_bytes()].concat();
        for field in fields(id).unwrap() {
            match field {
                Field::Fixed(size) => out.extend(vec![0; *size - 1].iter().chain(&[1])),
                Field::Short => put_short(&mut out, text),
                Field::Long => put_long(&mut out, text),
                Field::Table => put_long(&mut out, table),
            }
        }
        out
    }

    #[test]
    fn every_method_of_a_broker_is_as_lapin_reads_it() {
        let known: Vec<Id> = every_id().filter(|id| fields(*id).is_some()).collect();
        assert_eq!(known.len(), 39);
        for id in known.into_iter().filter(|id| *id != CONNECTION_TUNE) {
            let good = built(id, b"text", b"\x01kV");
            assert_eq!(for_lapin(&good), Method::Good, "{id:?}");
            assert!(lapin_reads_method(&good), "{id:?}");
            for cut in 0..good.len() {
                assert_eq!(for_lapin(&good[..cut]), Method::Broken, "{id:?}");
            }
            let longer = [&good[..], &[0]].concat();
            assert_eq!(for_lapin(&longer), Method::Broken, "{id:?}");
            assert!(!lapin_reads_method(&longer), "{id:?}");
        }
    }

    #[test]
    fn every_text_is_made_readable_without_changing_a_length() {
        let bad = [b"ok \xFF\xFE".as_slice(), "ü".as_bytes(), b"\xE2\x82"].concat();
        for id in every_id().filter(|id| fields(*id).is_some() && *id != CONNECTION_TUNE) {
            let sent = built(id, &bad, &nested_tables(40));
            match for_lapin(&sent) {
                Method::Good => assert!(lapin_reads_method(&sent), "{id:?}"),
                Method::Replaced(replaced) => {
                    assert!(lapin_reads_method(&replaced), "{id:?}");
                    assert!(id == (10, 10) || replaced.len() == sent.len(), "{id:?}");
                    assert_eq!(for_lapin(&replaced), Method::Good, "{id:?}");
                }
                Method::Broken => panic!("{id:?}"),
            }
        }
    }

    #[test]
    fn a_delivery_keeps_all_but_the_bad_bytes() {
        let mut sent = vec![0, 60, 0, 60, 3, b't', b'a', b'g', 0, 0, 0, 0, 0, 0, 0, 7, 1];
        put_short(&mut sent, b"exchange");
        put_short(&mut sent, b"key \xFF!");
        let mut wanted = sent.clone();
        let at = wanted.len() - 2;
        wanted[at] = b'?';
        assert_eq!(for_lapin(&sent), Method::Replaced(wanted));
    }

    #[test]
    fn two_hundred_and_fifty_five_bad_bytes_stay_so_many() {
        assert_eq!(readable(&[0xFF; 255]), [b'?'; 255]);
        assert_eq!(readable(b"a\xF0\x9F\x98b"), b"a???b");
    }

    #[test]
    fn a_broker_without_a_limit_gets_one() {
        let tune = |frame_max: u32| {
            [&[0, 10, 0, 30, 7, 255][..], &frame_max.to_be_bytes(), &[0, 60]].concat()
        };
        for (told, agreed) in [(0, FRAME_MAX), (FRAME_MAX + 1, FRAME_MAX), (u32::MAX, FRAME_MAX)] {
            assert_eq!(for_lapin(&tune(told)), Method::Replaced(tune(agreed)));
        }
        for told in [4096, 131_072, FRAME_MAX] {
            assert_eq!(for_lapin(&tune(told)), Method::Good);
        }
    }

    #[test]
    fn methods_of_a_client_are_not_taken_from_a_broker() {
        for id in [(60, 40), CONNECTION_TUNE_OK, (50, 10), (60, 20), (40, 10)] {
            assert_eq!(for_lapin(&some_method(id)), Method::Broken, "{id:?}");
        }
    }

    #[test]
    fn only_the_tune_ok_settles_the_limit() {
        let sent = [&[0, 10, 0, 31, 0, 0][..], &131_072_u32.to_be_bytes(), &[0, 0]].concat();
        assert_eq!(settled_frame_max(&sent), Some(131_072));
        assert_eq!(settled_frame_max(&[0, 10, 0, 30, 0, 0, 0, 2, 0, 0, 0, 0]), None);
        assert_eq!(settled_frame_max(&sent[..7]), None);
    }
}
