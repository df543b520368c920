//! The layers a value can come from: flag beats environment beats file.
//!
//! Knows which layer wins and nothing else: what a key means is said by the function that reads it,
//! and the default is whatever the caller puts in place of nothing.

use std::io::ErrorKind;
use std::path::Path;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command};

use super::args::{ServeArgs, clap_id, environment_name};
use super::brokers::{BROKER, BROKER_KEYS};
use super::file::{Keys, Table};
use super::listeners::{LISTENER, LISTENER_KEYS};
use super::problem::{Origin, Problems};
use super::written::{Raw, Written};
use super::{DEFAULT_CONFIG, Environment};

/// Every place where a value can stand, and what was found to be wrong so far.
pub(super) struct Layers<'a> {
    matches: &'a ArgMatches,
    environment: Environment<'a>,
    file: Table,
    pub problems: Problems,
}

impl<'a> Layers<'a> {
    /// Reads the file that `--config` names, else [`DEFAULT_CONFIG`] if it is there.
    pub(super) fn open(
        args: &ServeArgs,
        matches: &'a ArgMatches,
        environment: Environment<'a>,
    ) -> Self {
        let mut layers =
            Self { matches, environment, file: Table::default(), problems: Problems::default() };
        layers.file = layers.read_file(&args.config);
        layers
    }

    /// Reads a key that has one value. Nothing if it stands nowhere, or is wrong and now among the
    /// problems.
    pub(super) fn one<T>(
        &mut self,
        key: &str,
        typed: &Option<String>,
        read: impl FnOnce(&Raw) -> Result<T, String>,
    ) -> Option<T> {
        self.find(key, typed.as_slice())?.one(&mut self.problems, read)
    }

    /// Reads a key that has a list, with the place where it stands. Elements that are wrong are
    /// left out.
    pub(super) fn many<T>(
        &mut self,
        key: &str,
        typed: &[String],
        read: impl FnMut(&Raw) -> Result<T, String>,
    ) -> Option<(Origin, Vec<T>)> {
        let mut written = self.find(key, typed)?;
        if let (Origin::Environment(_), [Raw::Typed(list)]) =
            (&written.origin, written.values.as_slice())
        {
            let parts: Vec<Raw> = list
                .split(',')
                .map(str::trim)
                .filter(|part| !part.is_empty())
                .map(typed_raw)
                .collect();
            if !parts.is_empty() {
                written.values = parts;
            }
        }
        let values = written.many(&mut self.problems, read);
        Some((written.origin, values))
    }

    /// The value of the highest layer that has one. An empty variable is one that is not set: that
    /// is how deployment tools leave things out.
    pub(super) fn find(&self, key: &str, typed: &[String]) -> Option<Written> {
        if !typed.is_empty() && !self.is_from_environment(key) {
            let values = typed.iter().map(String::as_str).map(typed_raw).collect();
            return Some(Written { origin: Origin::Flag(key.to_owned()), values });
        }
        let variable = environment_name(key);
        match (self.environment)(&variable).filter(|value| !value.is_empty()) {
            Some(value) => Some(Written {
                origin: Origin::Environment(variable),
                values: vec![typed_raw(&value)],
            }),
            None => self.file.find(key).cloned(),
        }
    }

    /// What stands in the file alone, whichever layer wins.
    pub(super) fn in_file(&self) -> &Table {
        &self.file
    }

    /// Clap fills flags from the process's variables too. Those values are dropped and read again
    /// through `environment`, so that tests see one environment and not two.
    fn is_from_environment(&self, key: &str) -> bool {
        let id = clap_id(key);
        // `value_source` alone may panic when asked for an id that the command does not have.
        self.matches.try_contains_id(&id).unwrap_or(false)
            && self.matches.value_source(&id) == Some(ValueSource::EnvVariable)
    }

    fn read_file(&mut self, typed: &Option<String>) -> Table {
        let named = self.one("config", typed, |raw| raw.text().map(str::to_owned));
        let path = Path::new(named.as_deref().unwrap_or(DEFAULT_CONFIG));
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if named.is_none() && error.kind() == ErrorKind::NotFound => {
                return Table::default();
            }
            Err(error) => {
                let origin = Origin::File { path: path.to_owned(), line: None, key: None };
                self.problems.add(origin, format!("cannot be read: {error}"));
                return Table::default();
            }
        };
        let command = ServeArgs::augment_args(Command::new("serve"));
        // The keys are the flags, but for the one that led here.
        let known: Vec<&str> = command
            .get_arguments()
            .filter_map(Arg::get_long)
            .filter(|key| *key != "config")
            .collect();
        let lists: &[(&str, &[&str])] = &[(BROKER, &BROKER_KEYS), (LISTENER, &LISTENER_KEYS)];
        let keys = Keys { known: &known, lists, reserved: &[] };
        Table::parse(&text, path, &keys, &mut self.problems)
    }
}

fn typed_raw(text: &str) -> Raw {
    Raw::Typed(text.to_owned())
}
