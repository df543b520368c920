//! Where the reading of a caller's values is, and what it may still take.
//!
//! What is refused is kept here with its path; the error that travels through the
//! JSON reader is empty.

use std::borrow::Cow;
use std::fmt;

use serde::de::Error;

use super::types::{Field, Type};
use super::value::Value;

/// Most values in one call's arguments, every element and field counted: about
/// 32 MiB. Bytes and texts count as one.
pub(super) const MAX_VALUES: usize = 1_000_000;

/// Longest name or number of the caller's that an error repeats, in bytes.
pub(super) const MAX_SHOWN: usize = 64;

/// Longest type that an error shows, in bytes.
const MAX_TYPE_SHOWN: usize = 256;

/// What is wrong with a value, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// Such as `points[3].x`.
    pub(super) path: String,
    pub(super) reason: String,
}

/// Where the reading is, what it may still take, and what went wrong.
#[derive(Debug)]
pub(super) struct Reader<'t> {
    path: Vec<Step<'t>>,
    left: usize,
    refusal: Option<Refusal>,
}

/// An error whose text is in [`Reader::refusal`].
#[derive(Debug)]
pub(super) struct Refused;

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "refused")
    }
}

#[derive(Debug)]
enum Step<'t> {
    Name(Cow<'t, str>),
    Index(usize),
}

impl<'t> Reader<'t> {
    pub(super) fn new() -> Self {
        Self { path: Vec::new(), left: MAX_VALUES, refusal: None }
    }

    /// What was refused, if an error came from here and not from the JSON.
    pub(super) fn refusal(self) -> Option<Refusal> {
        self.refusal
    }

    /// Goes on to a member.
    pub(super) fn enter(&mut self, name: impl Into<Cow<'t, str>>) {
        self.path.push(Step::Name(name.into()));
    }

    /// Goes on to an element.
    pub(super) fn enter_element(&mut self, index: usize) {
        self.path.push(Step::Index(index));
    }

    /// Comes back from a member or element. Not needed after a refusal.
    pub(super) fn leave(&mut self) {
        self.path.pop();
    }

    /// Notes what is wrong here. The first refusal holds.
    pub(super) fn note(&mut self, reason: impl fmt::Display) -> Refused {
        let (path, reason) = (self.shown_path(), reason.to_string());
        self.refusal.get_or_insert(Refusal { path, reason });
        Refused
    }

    pub(super) fn refuse<E: Error>(&mut self, reason: impl fmt::Display) -> E {
        E::custom(self.note(reason))
    }

    pub(super) fn note_member(&mut self, name: &str, reason: impl fmt::Display) -> Refused {
        self.path.push(Step::Name(Cow::Owned(name.to_owned())));
        self.note(reason)
    }

    /// Notes what is wrong with an element.
    pub(super) fn refuse_element<E: Error>(&mut self, at: usize, reason: impl fmt::Display) -> E {
        self.path.push(Step::Index(at));
        self.refuse(reason)
    }

    pub(super) fn wrong<E: Error>(&mut self, ty: &Type, got: &str) -> E {
        self.refuse(format_args!("expected {}, got {got}", shown(ty)))
    }

    /// `points[3].x`; names that are none of WIT's in brackets and quotes.
    fn shown_path(&self) -> String {
        let mut path = String::new();
        for step in &self.path {
            match step {
                Step::Name(name)
                    if name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
                        && !name.is_empty() =>
                {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(&cut(name));
                }
                Step::Name(name) => path.push_str(&format!("[{:?}]", cut(name))),
                Step::Index(index) => path.push_str(&format!("[{index}]")),
            }
        }
        path
    }

    /// What stands for a value that is not there.
    pub(super) fn missing<E: Error>(&mut self, field: &Field) -> Result<Value, E> {
        if field.ty.is_optional() {
            Ok(Value::none())
        } else {
            let reason = format!("it is missing; expected {}", shown(&field.ty));
            Err(E::custom(self.note_member(&field.name, reason)))
        }
    }

    /// Counts a value.
    pub(super) fn take<E: Error>(&mut self) -> Result<(), E> {
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => {
                Err(self.refuse(format_args!("the arguments have more than {MAX_VALUES} values")))
            }
        }
    }
}

pub(super) fn no_such_name(names: &[&str]) -> String {
    match names {
        [] => "there is nothing of this name, and nothing is expected".to_owned(),
        names => {
            let mut names = names.join("`, `");
            crate::message::truncate(&mut names, MAX_TYPE_SHOWN);
            format!("there is nothing of this name; there is `{names}`")
        }
    }
}

pub(super) fn shown(ty: &Type) -> String {
    let mut text = ty.to_string();
    crate::message::truncate(&mut text, MAX_TYPE_SHOWN);
    text
}

pub(super) fn cut(text: &str) -> String {
    let mut text = text.to_owned();
    crate::message::truncate(&mut text, MAX_SHOWN);
    text
}
