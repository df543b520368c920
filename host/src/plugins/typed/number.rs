//! Numbers of JSON as numbers of WIT, exactly.
//!
//! Works on the text, so that nothing is rounded on the way: JSON's numbers
//! have no size (RFC 8259 section 6).

use std::borrow::Cow;
use std::str::FromStr;

use super::types::Integer;
use super::value::Value;

/// What was found instead of the number that was expected.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Got(String);

impl Got {
    /// In at most `limit` bytes.
    pub(super) fn cut(mut self, limit: usize) -> String {
        crate::message::truncate(&mut self.0, limit);
        self.0
    }
}

/// An integer from a JSON value: a number, or a string of decimal digits.
pub(super) fn integer(json: &str, integer: Integer) -> Result<Value, Got> {
    match json.as_bytes().first() {
        Some(b'-' | b'0'..=b'9') => whole(json)
            .ok_or_else(|| Got(format!("{json}, which is not a whole number")))
            .and_then(|digits| fitting(&digits, integer)),
        Some(b'"') => match serde_json::from_str::<Cow<'_, str>>(json) {
            Ok(text) => integer_of_text(&text, integer),
            Err(_) => Err(Got("a string".to_owned())),
        },
        _ => Err(other(json)),
    }
}

/// An integer from its decimal digits.
pub(super) fn integer_of_text(text: &str, integer: Integer) -> Result<Value, Got> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Got(format!("{text:?}")));
    }
    fitting(text, integer)
}

/// Within the range of the type.
fn fitting(digits: &str, integer: Integer) -> Result<Value, Got> {
    let (least, most) = integer.range();
    // What does not fit into 128 bits is out of range all the more.
    let number = i128::from_str(digits).ok().filter(|number| (least..=most).contains(number));
    let value = number.and_then(|number| {
        if least < 0 {
            i64::try_from(number).ok().map(Value::Signed)
        } else {
            u64::try_from(number).ok().map(Value::Unsigned)
        }
    });
    value.ok_or_else(|| Got(format!("{digits}, which is not within {least} to {most}")))
}

/// The digits of a JSON number without fraction and exponent, if it is whole:
/// `30`, `30.0` and `3e1` are the same. `None` for others.
fn whole(number: &str) -> Option<Cow<'_, str>> {
    /// More digits than any integer of WIT has.
    const MOST: usize = 40;
    if !number.contains(['.', 'e', 'E']) {
        return Some(Cow::Borrowed(number));
    }
    let (sign, unsigned) = match number.strip_prefix('-') {
        Some(unsigned) => ("-", unsigned),
        None => ("", number),
    };
    let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
    let (before, after) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{before}{after}");
    let digits = digits.trim_end_matches('0');
    if digits.trim_start_matches('0').is_empty() {
        return Some(Cow::Borrowed("0"));
    }
    let exponent = exponent.trim_start_matches('+').parse::<i64>().ok()?;
    let point = i64::try_from(before.len()).ok()?.checked_add(exponent)?;
    let zeros = point.checked_sub(i64::try_from(digits.len()).ok()?)?;
    // Digits behind the point that are not 0.
    let zeros = usize::try_from(zeros).ok()?;
    Some(Cow::Owned(format!("{sign}{digits}{}", "0".repeat(zeros.min(MOST)))))
}

/// A float: a number, or one of the strings for what JSON has no number for.
pub(super) fn float<F: Float>(json: &str) -> Result<F, Got> {
    match json.as_bytes().first() {
        Some(b'-' | b'0'..=b'9') => match json.parse::<F>() {
            Ok(number) if number.is_finite() => Ok(number),
            _ => Err(Got(format!("{json}, which is out of range"))),
        },
        Some(b'"') => match json {
            r#""NaN""# => Ok(F::NAN),
            r#""Infinity""# => Ok(F::INFINITY),
            r#""-Infinity""# => Ok(F::MINUS_INFINITY),
            _ => Err(Got("a string".to_owned())),
        },
        _ => Err(other(json)),
    }
}

/// What is common to `f32` and `f64`.
pub(super) trait Float: FromStr {
    const NAN: Self;
    const INFINITY: Self;
    const MINUS_INFINITY: Self;
    fn is_finite(&self) -> bool;
}

impl Float for f32 {
    const NAN: Self = f32::NAN;
    const INFINITY: Self = f32::INFINITY;
    const MINUS_INFINITY: Self = f32::NEG_INFINITY;
    fn is_finite(&self) -> bool {
        f32::is_finite(*self)
    }
}

impl Float for f64 {
    const NAN: Self = f64::NAN;
    const INFINITY: Self = f64::INFINITY;
    const MINUS_INFINITY: Self = f64::NEG_INFINITY;
    fn is_finite(&self) -> bool {
        f64::is_finite(*self)
    }
}

fn other(json: &str) -> Got {
    let what = match json.as_bytes().first() {
        Some(b't') => "true",
        Some(b'f') => "false",
        Some(b'n') => "null",
        Some(b'[') => "an array",
        Some(b'{') => "an object",
        _ => "a string",
    };
    Got(what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_taken_however_they_are_written() {
        for (text, expected) in [
            ("30", 30),
            ("30.0", 30),
            ("3e1", 30),
            ("3.0e+1", 30),
            ("300e-1", 30),
            ("0.3E2", 30),
            ("-0", 0),
            ("-0.0", 0),
            ("0e999999", 0),
            ("\"30\"", 30),
            ("\"-7\"", -7),
            ("-7", -7),
        ] {
            assert_eq!(integer(text, Integer::S16), Ok(Value::Signed(expected)), "{text}");
        }
        let most = Value::Unsigned(u64::MAX);
        assert_eq!(integer("18446744073709551615", Integer::U64).as_ref(), Ok(&most));
        assert_eq!(integer("\"18446744073709551615\"", Integer::U64).as_ref(), Ok(&most));
        assert_eq!(integer("1.8446744073709551615e19", Integer::U64).as_ref(), Ok(&most));
        let least = Value::Signed(i64::MIN);
        assert_eq!(integer("-9223372036854775808", Integer::S64), Ok(least));
    }

    #[test]
    fn what_is_not_in_range_or_not_whole_is_no_integer() {
        for text in [
            "256",
            "-1",
            "1.5",
            "0.3",
            "1e-400",
            "1e400",
            "1e99999999999999999999",
            "25.6e0",
            "0.99999999999999999999",
            "\"\"",
            "\"-\"",
            "\"+1\"",
            "\" 1\"",
            "\"1.0\"",
            "\"0x1\"",
            "true",
            "null",
            "[1]",
            "{}",
            "340282366920938463463374607431768211456",
        ] {
            assert!(integer(text, Integer::U8).is_err(), "{text}");
        }
        assert!(integer("18446744073709551616", Integer::U64).is_err());
    }

    #[test]
    fn floats_are_read_to_the_nearest_and_not_beyond_the_largest() {
        assert_eq!(float::<f32>("0.1"), Ok(0.1f32));
        assert_eq!(float::<f64>("1e-400"), Ok(0.0));
        assert_eq!(float::<f64>("-0").map(f64::to_bits), Ok((-0.0f64).to_bits()));
        assert_eq!(float::<f64>("\"-Infinity\""), Ok(f64::NEG_INFINITY));
        assert!(float::<f64>("\"NaN\"").is_ok_and(f64::is_nan));
        assert!(float::<f32>("1e39").is_err());
        assert!(float::<f64>("1e400").is_err());
        assert!(float::<f64>("\"1.0\"").is_err());
    }
}
