//! Values as people type them: durations, sizes, counts, switches between names. Pure functions
//! from text to value.
//!
//! Knows what is well-formed and what is within a limit; refuses to know which key it reads and
//! where the text came from. Every error is the sentence an operator reads: the value, the limit,
//! what to write instead.

use std::fmt::Display;
use std::time::Duration;

use bytesize::ByteSize;

/// What is said of everything that has a name but no code yet; the words are in the public
/// contract.
pub(super) const NOT_AVAILABLE: &str = "not available in this version";

/// The values a key may have, both ends included, and why the range ends there.
pub(super) struct Bounds<T> {
    /// Smallest value accepted.
    pub least: T,
    /// Largest value accepted.
    pub most: T,
    /// Ends the sentence "… must be from `least` to `most`: ".
    pub why: &'static str,
}

impl<T: Copy + PartialOrd> Bounds<T> {
    /// `show` writes a value of this unit the way it is typed.
    fn check(&self, value: T, text: &str, show: impl Fn(T) -> String) -> Result<T, String> {
        if value >= self.least && value <= self.most {
            return Ok(value);
        }
        let (least, most, why) = (show(self.least), show(self.most), self.why);
        Err(format!("`{text}` must be from `{least}` to `{most}`: {why}"))
    }
}

/// Reads a duration such as `250ms`, `10s` or `2m`.
pub(super) fn duration(text: &str, bounds: &Bounds<Duration>) -> Result<Duration, String> {
    if is_bare_number(text) {
        return Err(format!("`{text}` has no unit; write `{text}s` or `{text}ms`"));
    }
    let value = humantime::parse_duration(text).map_err(|_| {
        format!(
            "`{text}` is not a duration; write a number and a unit such as `250ms`, `10s` or `2m`"
        )
    })?;
    bounds.check(value, text, duration_text)
}

/// Reads a duration that the protocol carries in whole seconds.
pub(super) fn whole_seconds(text: &str, bounds: &Bounds<Duration>) -> Result<Duration, String> {
    let value = duration(text, bounds)?;
    if value.subsec_nanos() == 0 {
        return Ok(value);
    }
    Err(format!("`{text}` must be a whole number of seconds; write `{}s`", value.as_secs()))
}

/// Reads a size such as `64KiB` or `16MiB`, in bytes.
pub(super) fn size(text: &str, bounds: &Bounds<u64>) -> Result<u64, String> {
    if is_bare_number(text) {
        return Err(format!(
            "`{text}` has no unit; write `{text}KiB`, `{text}MiB` or, for bytes, `{text}B`"
        ));
    }
    let value = text.parse::<ByteSize>().map_err(|_| {
        format!("`{text}` is not a size; write a number and a unit such as `64KiB` or `16MiB`")
    })?;
    bounds.check(value.as_u64(), text, size_text)
}

/// Reads a whole number.
pub(super) fn count(text: &str, bounds: &Bounds<u32>) -> Result<u32, String> {
    let value = text.parse::<i128>().map_err(|_| {
        format!("`{text}` is not a whole number; write one such as `{}`", bounds.least.max(1))
    })?;
    let wide =
        Bounds { least: i128::from(bounds.least), most: i128::from(bounds.most), why: bounds.why };
    let value = wide.check(value, text, |n| n.to_string())?;
    u32::try_from(value).map_err(|error| format!("`{text}`: {error}"))
}

/// Finds the value that a name stands for. `later` are names that a reader of the documentation or
/// of another product may expect: they get a different sentence from names that nobody knows.
pub(super) fn one_of<T: Copy>(
    text: &str,
    choices: &[(&str, T)],
    later: &[&str],
) -> Result<T, String> {
    if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text) {
        return Ok(*value);
    }
    let problem = if later.contains(&text) { NOT_AVAILABLE } else { "not known" };
    Err(format!("`{text}` is {problem}; write {}", list(choices.iter().map(|(name, _)| name))))
}

/// Writes names in backticks with commas and a final "or".
pub(super) fn list(names: impl IntoIterator<Item = impl Display>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    match names.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => String::new(),
    }
}

/// Writes a duration the way it is typed: `29m 59s`.
pub(super) fn duration_text(value: Duration) -> String {
    humantime::format_duration(value).to_string()
}

/// Writes a size the way it is typed, exactly: `64KiB`, `1536KiB`, `1000B`.
pub(super) fn size_text(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match UNITS.iter().find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", bytes / unit),
        None => format!("{bytes}B"),
    }
}

fn is_bare_number(text: &str) -> bool {
    text.parse::<f64>().is_ok() && !text.chars().any(char::is_alphabetic)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECONDS: Bounds<Duration> =
        Bounds { least: Duration::from_secs(1), most: Duration::from_mins(10), why: "because" };
    const BYTES: Bounds<u64> = Bounds { least: 1 << 10, most: 128 << 20, why: "because" };
    const COUNT: Bounds<u32> = Bounds { least: 1, most: 100, why: "because" };

    #[test]
    fn durations_have_a_unit() {
        for (text, expected) in [
            ("1s", Ok(Duration::from_secs(1))),
            ("2500ms", Ok(Duration::from_millis(2500))),
            ("1m 30s", Ok(Duration::from_secs(90))),
            ("10m", Ok(Duration::from_mins(10))),
            ("30", Err("`30` has no unit; write `30s` or `30ms`")),
            ("1.5", Err("`1.5` has no unit; write `1.5s` or `1.5ms`")),
            (
                "soon",
                Err(
                    "`soon` is not a duration; write a number and a unit such as `250ms`, `10s` or `2m`",
                ),
            ),
            (
                "",
                Err(
                    "`` is not a duration; write a number and a unit such as `250ms`, `10s` or `2m`",
                ),
            ),
            ("999ms", Err("`999ms` must be from `1s` to `10m`: because")),
            ("11m", Err("`11m` must be from `1s` to `10m`: because")),
        ] {
            assert_eq!(duration(text, &SECONDS), expected.map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn whole_seconds_are_whole() {
        assert_eq!(whole_seconds("2s", &SECONDS), Ok(Duration::from_secs(2)));
        assert_eq!(whole_seconds("2000ms", &SECONDS), Ok(Duration::from_secs(2)));
        let error = whole_seconds("1500ms", &SECONDS).unwrap_err();
        assert_eq!(error, "`1500ms` must be a whole number of seconds; write `1s`");
    }

    #[test]
    fn sizes_have_a_unit() {
        for (text, expected) in [
            ("1KiB", Ok(1024)),
            ("64KiB", Ok(64 << 10)),
            ("1.5 MiB", Ok(3 << 19)),
            ("2kB", Ok(2000)),
            ("2048B", Ok(2048)),
            ("2048", Err("`2048` has no unit; write `2048KiB`, `2048MiB` or, for bytes, `2048B`")),
            (
                "big",
                Err("`big` is not a size; write a number and a unit such as `64KiB` or `16MiB`"),
            ),
            (
                "-1KiB",
                Err("`-1KiB` is not a size; write a number and a unit such as `64KiB` or `16MiB`"),
            ),
            ("1023B", Err("`1023B` must be from `1KiB` to `128MiB`: because")),
            ("129MiB", Err("`129MiB` must be from `1KiB` to `128MiB`: because")),
            ("99999999999TiB", Err("`99999999999TiB` must be from `1KiB` to `128MiB`: because")),
        ] {
            assert_eq!(size(text, &BYTES), expected.map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn counts_are_whole_and_within_limits() {
        for (text, expected) in [
            ("1", Ok(1)),
            ("100", Ok(100)),
            ("0", Err("`0` must be from `1` to `100`: because")),
            ("-1", Err("`-1` must be from `1` to `100`: because")),
            ("99999999999", Err("`99999999999` must be from `1` to `100`: because")),
            ("1.5", Err("`1.5` is not a whole number; write one such as `1`")),
            ("many", Err("`many` is not a whole number; write one such as `1`")),
        ] {
            assert_eq!(count(text, &COUNT), expected.map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn names_are_listed_when_one_is_not_known() {
        let read = |text| one_of(text, &[("text", 1), ("json", 2)], &["xml"]);
        assert_eq!(read("json"), Ok(2));
        assert_eq!(read("Json"), Err("`Json` is not known; write `text` or `json`".to_owned()));
        assert_eq!(
            read("xml"),
            Err("`xml` is not available in this version; write `text` or `json`".to_owned())
        );
    }

    #[test]
    fn sizes_are_written_as_they_are_typed() {
        for (bytes, text) in [
            (64 << 10, "64KiB"),
            (4 << 30, "4GiB"),
            (3 << 19, "1536KiB"),
            (1000, "1000B"),
            (0, "0B"),
        ] {
            assert_eq!(size_text(bytes), text);
        }
    }
}
