//! What is wrong with a configuration, all of it, as a person reads it.
//!
//! Knows where a value can come from and how to lay the lines out; refuses to know what any key
//! means. A text in here never holds a password: whoever reports a problem leaves it out.

use std::fmt;
use std::path::PathBuf;

/// Where a value was written, so that it can be found and changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The command line; the flag's name without dashes.
    Flag(String),
    /// The environment; the variable's name.
    Environment(String),
    /// A file.
    File {
        /// The path as it was given.
        path: PathBuf,
        /// Line, counted from 1, where it is known.
        line: Option<usize>,
        /// The key, unless the file as a whole is meant.
        key: Option<String>,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "flag `--{name}`"),
            Self::Environment(name) => write!(f, "environment `{name}`"),
            Self::File { path, line, key } => {
                write!(f, "file `{}`", path.display())?;
                if let Some(line) = line {
                    write!(f, " line {line}")?;
                }
                match key {
                    Some(key) => write!(f, " key `{key}`"),
                    None => Ok(()),
                }
            }
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it was written.
    pub origin: Origin,
    /// The value, the limit, and what to write instead; never a password.
    pub text: String,
}

/// Everything that is wrong, in the order it was found. `Display` prints one line each, texts below
/// each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// Notes one more.
    pub fn add(&mut self, origin: Origin, text: impl Into<String>) {
        self.0.push(Problem { origin, text: text.into() });
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many things are wrong.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The problems one by one, in the order they were found.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }

    /// `value` if nothing is wrong, else everything that is.
    pub(super) fn unless_any<T>(self, value: T) -> Result<T, Self> {
        if self.is_empty() { Ok(value) } else { Err(self) }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origins: Vec<String> =
            self.0.iter().map(|problem| problem.origin.to_string()).collect();
        let width = origins.iter().map(|origin| origin.chars().count()).max().unwrap_or(0);
        for (index, (origin, problem)) in origins.iter().zip(&self.0).enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{origin:width$}  {}", problem.text)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// The known name that `name` was probably meant to be, as `; did you mean …`, or nothing.
pub(super) fn did_you_mean(name: &str, known: &[&str]) -> String {
    // 0.8 is the similarity that clap uses for its own "a similar argument exists".
    const SIMILAR: f64 = 0.8;
    let plain = name.to_ascii_lowercase().replace('_', "-");
    known
        .iter()
        .map(|candidate| (strsim::jaro_winkler(&plain, candidate), candidate))
        .filter(|(similarity, _)| *similarity > SIMILAR)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| format!("; did you mean `{candidate}`?"))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_stand_below_each_other() {
        let mut problems = Problems::default();
        problems.add(Origin::Flag("queue".into()), "first");
        problems.add(Origin::Environment("RPCHOST_ADMIN".into()), "second");
        let (path, key) = (PathBuf::from("a.toml"), Some("x".into()));
        problems.add(Origin::File { path, line: Some(3), key }, "third");
        let expected = [
            "flag `--queue`                first",
            "environment `RPCHOST_ADMIN`   second",
            "file `a.toml` line 3 key `x`  third",
        ];
        assert_eq!(problems.to_string(), expected.join("\n"));
    }

    #[test]
    fn a_slip_of_the_pen_is_recognized_and_nonsense_is_not() {
        let known = ["max-in-flight", "max-body", "call-timeout"];
        assert_eq!(did_you_mean("max_in_flight", &known), "; did you mean `max-in-flight`?");
        assert_eq!(did_you_mean("call-timout", &known), "; did you mean `call-timeout`?");
        assert_eq!(did_you_mean("zebra", &known), "");
    }
}
