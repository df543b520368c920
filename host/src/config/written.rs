//! A value as somebody wrote it, with the place where it stands, before anybody knows what it
//! means.
//!
//! Knows the difference between text typed in a shell, which has no type, and a value in TOML,
//! which has one; refuses to know which keys exist and which layer wins.

use super::problem::{Origin, Problems};

/// One value, not read yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Raw {
    /// From a flag or the environment: may be meant as anything.
    Typed(String),
    /// A string in TOML.
    Text(String),
    /// An integer in TOML, in decimal.
    Integer(String),
    /// A boolean in TOML.
    Boolean(bool),
    /// Something in TOML that no key takes: what it is.
    Other(&'static str),
}

impl Raw {
    /// The value as text that is not empty.
    pub(super) fn text(&self) -> Result<&str, String> {
        match self {
            Self::Typed(text) | Self::Text(text) if text.trim().is_empty() => {
                Err("is empty; leave it out to get the default".to_owned())
            }
            Self::Typed(text) | Self::Text(text) => Ok(text),
            Self::Integer(text) => Err(format!("`{text}` must be in quotes: `\"{text}\"`")),
            Self::Boolean(_) => Err("a boolean cannot stand here; write a string".to_owned()),
            Self::Other(what) => Err(format!("{what} cannot stand here; write a string")),
        }
    }

    /// The value as text that has a number and a unit. An integer passes: it is refused by who asks
    /// for the unit.
    pub(super) fn measure(&self) -> Result<&str, String> {
        match self {
            Self::Integer(text) => Ok(text),
            _ => self.text(),
        }
    }

    /// The value as text that is a whole number.
    pub(super) fn number(&self) -> Result<&str, String> {
        match self {
            Self::Integer(text) => Ok(text),
            Self::Text(text) => {
                Err(format!("`\"{text}\"` is a string; write a whole number, without quotes"))
            }
            Self::Boolean(_) => Err("a boolean cannot stand here; write a whole number".to_owned()),
            Self::Other(what) => Err(format!("{what} cannot stand here; write a whole number")),
            Self::Typed(_) => self.text(),
        }
    }

    /// The value as a boolean.
    pub(super) fn boolean(&self) -> Result<bool, String> {
        match self {
            Self::Boolean(value) => Ok(*value),
            Self::Typed(text) if text == "true" => Ok(true),
            Self::Typed(text) if text == "false" => Ok(false),
            Self::Typed(text) | Self::Text(text) | Self::Integer(text) => {
                Err(format!("`{text}` is no boolean; write `true` or `false`, without quotes"))
            }
            Self::Other(what) => Err(format!("{what} cannot stand here; write `true` or `false`")),
        }
    }
}

/// What stands at one place for one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Written {
    /// The place.
    pub origin: Origin,
    /// One value, or those of a list; never none.
    pub values: Vec<Raw>,
}

impl Written {
    /// Reads a key that has one value; what is wrong goes to `problems`.
    pub(super) fn one<T>(
        &self,
        problems: &mut Problems,
        read: impl FnOnce(&Raw) -> Result<T, String>,
    ) -> Option<T> {
        let value = match self.values.as_slice() {
            [value] => read(value),
            values => Err(format!("{} values stand where one is expected", values.len())),
        };
        value.map_err(|text| problems.add(self.origin.clone(), text)).ok()
    }

    /// Reads a key that has a list; what is wrong goes to `problems`, and the rest is returned.
    pub(super) fn many<T>(
        &self,
        problems: &mut Problems,
        mut read: impl FnMut(&Raw) -> Result<T, String>,
    ) -> Vec<T> {
        let mut values = Vec::with_capacity(self.values.len());
        for value in &self.values {
            match read(value) {
                Ok(value) => values.push(value),
                Err(text) => problems.add(self.origin.clone(), text),
            }
        }
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_has_no_types_and_toml_has() {
        let typed = Raw::Typed("5".into());
        assert_eq!((typed.text(), typed.measure(), typed.number()), (Ok("5"), Ok("5"), Ok("5")));
        let text = Raw::Text("5".into());
        assert_eq!((text.text(), text.measure()), (Ok("5"), Ok("5")));
        assert_eq!(
            text.number().unwrap_err(),
            "`\"5\"` is a string; write a whole number, without quotes"
        );
        let integer = Raw::Integer("5".into());
        assert_eq!((integer.measure(), integer.number()), (Ok("5"), Ok("5")));
        assert_eq!(integer.text().unwrap_err(), "`5` must be in quotes: `\"5\"`");
        for (other, what) in [(Raw::Boolean(true), "a boolean"), (Raw::Other("a date"), "a date")] {
            let refused = format!("{what} cannot stand here; write a string");
            assert_eq!(other.text().unwrap_err(), refused);
            assert_eq!(other.measure(), other.text());
            let refused = format!("{what} cannot stand here; write a whole number");
            assert_eq!(other.number().unwrap_err(), refused);
        }
        let truth = [Raw::Boolean(true), Raw::Typed("false".into())].map(|raw| raw.boolean());
        assert_eq!(truth, [Ok(true), Ok(false)]);
        assert_eq!(
            text.boolean().unwrap_err(),
            "`5` is no boolean; write `true` or `false`, without quotes"
        );
        for empty in [Raw::Typed(String::new()), Raw::Text(" ".into())] {
            assert_eq!(empty.text().unwrap_err(), "is empty; leave it out to get the default");
        }
    }

    #[test]
    fn every_element_of_a_list_is_reported() {
        let origin = Origin::Flag("x".into());
        let values = ["1", "two", "3", "four"].map(|text| Raw::Typed(text.into())).to_vec();
        let written = Written { origin, values };
        let mut problems = Problems::default();
        let read = |raw: &Raw| raw.text()?.parse::<u8>().map_err(|error| error.to_string());
        assert_eq!(written.many(&mut problems, read), [1, 3]);
        assert_eq!(problems.len(), 2);
        assert_eq!(written.one(&mut problems, read), None);
        assert_eq!(problems.iter().last().unwrap().text, "4 values stand where one is expected");
    }
}
