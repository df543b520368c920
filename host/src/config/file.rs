//! A TOML file as a table of keys, each with its line: flat, but for lists of tables such as
//! `[[broker]]`, which are flat themselves.
//!
//! Knows syntax, and that a key which nobody asked for is a mistake; refuses to know what a key
//! means. The text of the file is never repeated in a problem, because a line may hold a password.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Origin, Problems, did_you_mean};
use super::units::NOT_AVAILABLE;
use super::written::{Raw, Written};

/// The keys that a kind of file may have.
pub(super) struct Keys<'a> {
    /// Keys with a meaning.
    pub known: &'a [&'a str],
    /// Lists of tables, each with the keys that its tables may have.
    pub lists: &'a [(&'a str, &'a [&'a str])],
    /// Keys and tables that will have one: refused with a sentence of their own.
    pub reserved: &'a [&'a str],
}

/// The keys found in a file, each known and with at least one value.
#[derive(Debug, Default)]
pub(super) struct Table {
    keys: BTreeMap<String, Written>,
    lists: BTreeMap<String, Vec<Section>>,
}

/// One table of a list of tables.
#[derive(Debug)]
pub(super) struct Section {
    /// Where it begins.
    pub origin: Origin,
    keys: BTreeMap<String, Written>,
}

impl Table {
    /// Reads `text`, which stands in `path`. A file with a syntax error yields no key at all: what
    /// a parser guesses after a mistake would only make further problems that nobody made.
    pub(super) fn parse(text: &str, path: &Path, keys: &Keys<'_>, problems: &mut Problems) -> Self {
        let mut reader = Reader { text, path, problems };
        let (table, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            for error in errors {
                let place = reader.place(error.span(), None);
                reader.problems.add(place, format!("is not TOML: {}", error.message()));
            }
            return Self::default();
        }
        reader.table(table.get_ref(), keys)
    }

    /// What stands there for `key`.
    pub(super) fn find(&self, key: &str) -> Option<&Written> {
        self.keys.get(key)
    }

    /// The tables of a list, in the order of the file; none if it is not there.
    pub(super) fn list(&self, name: &str) -> &[Section] {
        self.lists.get(name).map_or(&[], Vec::as_slice)
    }
}

impl Section {
    /// What stands there for `key`.
    pub(super) fn find(&self, key: &str) -> Option<&Written> {
        self.keys.get(key)
    }
}

/// Goes through a file and notes what is wrong, in the file's order.
struct Reader<'a> {
    text: &'a str,
    path: &'a Path,
    problems: &'a mut Problems,
}

impl Reader<'_> {
    fn table(&mut self, table: &DeTable<'_>, keys: &Keys<'_>) -> Table {
        let mut found = Table::default();
        let names = keys.lists.iter().map(|(name, _)| *name);
        let known: Vec<&str> = keys.known.iter().copied().chain(names).collect();
        for (key, value) in in_order(table) {
            let name = key.get_ref().as_ref();
            let origin = self.place(Some(key.span()), Some(name));
            if keys.reserved.contains(&name) {
                self.problems.add(origin, NOT_AVAILABLE);
            } else if let Some((_, inner)) = keys.lists.iter().find(|(list, _)| *list == name) {
                let sections = self.list(name, value, &origin, inner);
                found.lists.insert(name.to_owned(), sections);
            } else if let Some(written) = self.value(name, value.get_ref(), origin, &known) {
                found.keys.insert(name.to_owned(), written);
            }
        }
        found
    }

    /// Reads a list of flat tables.
    fn list(
        &mut self,
        name: &str,
        value: &Spanned<DeValue<'_>>,
        origin: &Origin,
        known: &[&str],
    ) -> Vec<Section> {
        let DeValue::Array(elements) = value.get_ref() else {
            self.problems.add(origin.clone(), format!("is a list of tables; write `[[{name}]]`"));
            return Vec::new();
        };
        let mut sections = Vec::with_capacity(elements.len());
        for element in elements {
            let place = self.place(Some(element.span()), Some(name));
            let DeValue::Table(table) = element.get_ref() else {
                self.problems.add(place, format!("holds tables alone; write `[[{name}]]`"));
                continue;
            };
            let mut keys = BTreeMap::new();
            for (key, value) in in_order(table) {
                let inner = key.get_ref().as_ref();
                let origin = self.place(Some(key.span()), Some(&format!("{name}.{inner}")));
                if let Some(written) = self.value(inner, value.get_ref(), origin, known) {
                    keys.insert(inner.to_owned(), written);
                }
            }
            sections.push(Section { origin: place, keys });
        }
        sections
    }

    /// Reads the value of a key, if that is one of the known.
    fn value(
        &mut self,
        name: &str,
        value: &DeValue<'_>,
        origin: Origin,
        known: &[&str],
    ) -> Option<Written> {
        if !known.contains(&name) {
            self.problems.add(origin, format!("is not a key{}", did_you_mean(name, known)));
            return None;
        }
        let values = raw_values(value);
        if values.is_empty() {
            self.problems.add(origin, "is empty; leave it out to get the default");
            return None;
        }
        Some(Written { origin, values })
    }

    fn place(&self, span: Option<Range<usize>>, key: Option<&str>) -> Origin {
        Origin::File {
            path: PathBuf::from(self.path),
            line: span.map(|span| line_of(self.text, span.start)),
            key: key.map(str::to_owned),
        }
    }
}

/// The entries of a table as they stand in the file.
fn in_order<'a, 'b>(
    table: &'a DeTable<'b>,
) -> Vec<(&'a Spanned<Cow<'b, str>>, &'a Spanned<DeValue<'b>>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
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
        DeValue::Boolean(value) => Raw::Boolean(*value),
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
        let keys = Keys {
            known: &["queue", "max-body", "amqp-url"],
            lists: &[("broker", &["url", "weight"])],
            reserved: &["listener"],
        };
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
        let (fraction, boolean) = (Raw::Other("a number with a fraction"), Raw::Boolean(true));
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

    #[test]
    fn a_list_of_tables_has_keys_of_its_own() {
        let (table, problems) =
            parse("queue = 'a'\n[[broker]]\nurl = 'x'\n[[broker]]\nurl = 'y'\nweight = 2");
        assert_eq!(problems, [""; 0]);
        let [first, second] = table.list("broker") else { panic!("{table:?}") };
        assert_eq!(first.find("url").unwrap().values, [Raw::Text("x".into())]);
        assert!(first.find("weight").is_none());
        let weight = second.find("weight").unwrap();
        assert_eq!(weight.values, [Raw::Integer("2".into())]);
        assert_eq!(weight.origin.to_string(), "file `a.toml` line 6 key `broker.weight`");
        assert_eq!(second.origin.to_string(), "file `a.toml` line 4 key `broker`");
        assert!(table.find("broker").is_none() && table.list("other").is_empty());
    }

    #[test]
    fn what_is_wrong_in_a_list_of_tables_is_said_with_its_line() {
        let (_, problems) = parse(
            "[[broker]]\nurl = 'x'\nwieght = 2\nqueue = 'q'\n[[broker]]\nurl = []\nweight.x = 1",
        );
        assert_eq!(
            problems,
            [
                "file `a.toml` line 3 key `broker.wieght`: is not a key; did you mean `weight`?",
                "file `a.toml` line 4 key `broker.queue`: is not a key",
                "file `a.toml` line 6 key `broker.url`: is empty; leave it out to get the default",
            ]
        );
        let (table, problems) = parse("[broker]\nurl = 'x'");
        let expected =
            ["file `a.toml` line 1 key `broker`: is a list of tables; write `[[broker]]`"];
        assert_eq!(problems, expected);
        assert!(table.list("broker").is_empty());
        let (_, problems) = parse("broker = ['amqp://u:secret@h', {url = 'x'}]");
        let expected =
            ["file `a.toml` line 1 key `broker`: holds tables alone; write `[[broker]]`"];
        assert_eq!(problems, expected);
        let (_, problems) = parse("[[brokers]]\nurl = 'x'");
        assert_eq!(
            problems,
            ["file `a.toml` line 1 key `brokers`: is not a key; did you mean `broker`?"]
        );
    }
}
