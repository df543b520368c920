//! A TOML file as a flat table of keys, each with its line.
//!
//! Knows syntax, and that a key which nobody asked for is a mistake; refuses to know what a key
//! means. The text of the file is never repeated in a problem, because a line may hold a password.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::problem::{Origin, Problems, did_you_mean};
use super::units::NOT_AVAILABLE;
use super::written::{Raw, Written};

/// The keys that a kind of file may have.
pub(super) struct Keys<'a> {
    /// Keys with a meaning.
    pub known: &'a [&'a str],
    /// Keys and tables that will have one: refused with a sentence of their own.
    pub reserved: &'a [&'a str],
}

/// The keys found in a file, each known and with at least one value.
#[derive(Debug, Default)]
pub(super) struct Table(BTreeMap<String, Written>);

impl Table {
    /// Reads `text`, which stands in `path`. A file with a syntax error yields no key at all: what
    /// a parser guesses after a mistake would only make further problems that nobody made.
    pub(super) fn parse(text: &str, path: &Path, keys: &Keys<'_>, problems: &mut Problems) -> Self {
        let place = |span: Option<Range<usize>>, key: Option<&str>| Origin::File {
            path: PathBuf::from(path),
            line: span.map(|span| line_of(text, span.start)),
            key: key.map(str::to_owned),
        };
        let (table, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            for error in errors {
                problems
                    .add(place(error.span(), None), format!("is not TOML: {}", error.message()));
            }
            return Self::default();
        }
        let mut entries: Vec<_> = table.get_ref().iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let mut found = BTreeMap::new();
        for (key, value) in entries {
            let name = key.get_ref().as_ref();
            let origin = place(Some(key.span()), Some(name));
            if keys.reserved.contains(&name) {
                problems.add(origin, NOT_AVAILABLE);
            } else if !keys.known.contains(&name) {
                problems.add(origin, format!("is not a key{}", did_you_mean(name, keys.known)));
            } else {
                match raw_values(value.get_ref()) {
                    values if values.is_empty() => {
                        problems.add(origin, "is empty; leave it out to get the default")
                    }
                    values => drop(found.insert(name.to_owned(), Written { origin, values })),
                }
            }
        }
        Self(found)
    }

    /// What stands there for `key`.
    pub(super) fn find(&self, key: &str) -> Option<&Written> {
        self.0.get(key)
    }
}

/// The elements of a list, or the value itself as a list of one.
fn raw_values(value: &DeValue<'_>) -> Vec<Raw> {
    match value {
        DeValue::Array(values) => values.iter().map(|value| raw_value(value.get_ref())).collect(),
        value => vec![raw_value(value)],
    }
}

fn raw_value(value: &DeValue<'_>) -> Raw {
    match value {
        DeValue::String(text) => Raw::Text(text.to_string()),
        // TOML integers have 64 bits; a longer one stays as it is written and is refused as out of
        // range.
        DeValue::Integer(number) => Raw::Integer(
            i64::from_str_radix(number.as_str(), number.radix())
                .map_or_else(|_| number.to_string(), |number| number.to_string()),
        ),
        DeValue::Float(_) => Raw::Other("a number with a fraction"),
        DeValue::Boolean(_) => Raw::Other("a boolean"),
        DeValue::Datetime(_) => Raw::Other("a date"),
        DeValue::Array(_) => Raw::Other("a list in a list"),
        DeValue::Table(_) => Raw::Other("a table"),
    }
}

/// The line, from 1, of the byte at `offset`.
fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (Table, Vec<String>) {
        let keys = Keys { known: &["queue", "max-body", "amqp-url"], reserved: &["listener"] };
        let mut problems = Problems::default();
        let table = Table::parse(text, Path::new("a.toml"), &keys, &mut problems);
        (
            table,
            problems
                .iter()
                .map(|problem| format!("{}: {}", problem.origin, problem.text))
                .collect(),
        )
    }

    fn values(table: &Table, key: &str) -> Vec<Raw> {
        table.find(key).unwrap().values.clone()
    }

    #[test]
    fn values_keep_their_type() {
        let (table, problems) =
            parse("queue = 'a'\nmax-body = 0x1_0\namqp-url = ['x', 1.5, true, []]");
        assert_eq!(problems, [""; 0]);
        assert_eq!(values(&table, "queue"), [Raw::Text("a".into())]);
        assert_eq!(values(&table, "max-body"), [Raw::Integer("16".into())]);
        let (fraction, boolean) = (Raw::Other("a number with a fraction"), Raw::Other("a boolean"));
        assert_eq!(
            values(&table, "amqp-url"),
            [Raw::Text("x".into()), fraction, boolean, Raw::Other("a list in a list")]
        );
    }

    #[test]
    fn all_strange_keys_are_refused_in_the_order_of_the_file() {
        let (table, problems) =
            parse("zebra = 1\nmax_body = 1\nqueue = 'a'\n\n[[listener]]\nx = 1\n[limits]\ny = 1");
        assert_eq!(
            problems,
            [
                "file `a.toml` line 1 key `zebra`: is not a key",
                "file `a.toml` line 2 key `max_body`: is not a key; did you mean `max-body`?",
                "file `a.toml` line 5 key `listener`: not available in this version",
                "file `a.toml` line 7 key `limits`: is not a key",
            ]
        );
        assert!(table.find("queue").is_some() && table.find("zebra").is_none());
    }

    #[test]
    fn all_syntax_errors_are_reported_without_the_text_of_the_file() {
        let (table, problems) =
            parse("queue = 'a'\namqp-url = 'amqp://u:secret@h\nmax-body = = secret\nqueue = 'b'");
        assert!(problems.len() >= 2, "{problems:?}");
        assert!(
            problems.iter().all(|problem| problem.starts_with("file `a.toml` line ")),
            "{problems:?}"
        );
        assert!(problems.iter().all(|problem| !problem.contains("secret")), "{problems:?}");
        assert!(table.find("queue").is_none());
    }

    #[test]
    fn an_empty_list_says_nothing() {
        let (table, problems) = parse("amqp-url = []");
        assert_eq!(
            problems,
            ["file `a.toml` line 1 key `amqp-url`: is empty; leave it out to get the default"]
        );
        assert!(table.find("amqp-url").is_none());
    }
}
