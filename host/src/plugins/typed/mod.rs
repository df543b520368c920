//! Plugins whose functions have types: JSON in, JSON out.
//!
//! What a component exports is read once, at load ([`surface`]), into a table of
//! methods and their names ([`names`]). A call reads the caller's JSON straight
//! into values ([`arguments`], [`read`]), puts these into the guest's memory
//! ([`abi`]), and writes what comes back ([`write`]). The mapping itself knows no
//! engine; `wit/README.md` has it as a table.

mod abi;
mod arguments;
mod names;
mod number;
mod read;
mod reader;
mod schema;
mod surface;
mod types;
mod value;
mod write;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::HashMap;

use anyhow::bail;
use bytes::Bytes;
use tracing::warn;
use wasmtime::component::{Instance, InstancePre};

use super::pool::Leased;
use super::store::CallState;
use super::trap::Stage;
use crate::message::{Arguments, CallError, ErrorKind, Outcome, ReturnValue};
pub(super) use names::{normal, resolve};
pub(super) use schema::{Full, Room, Shape};
pub(super) use surface::{Function, any, functions, shown, signature};
pub(super) use types::{Field, Signature, Type};
use value::Value;

/// Most functions that a refusal or a warning names.
const MAX_NAMED: usize = 8;

/// The number of an error that a function returned as its `err`.
const ERR: i32 = 1;

/// Bytes of values that one result may take in the host, beside its texts and
/// bytes: as many values as arguments may have.
pub(super) const MAX_RESULT_VALUES: usize = reader::MAX_VALUES * size_of::<Value>();

/// A typed plugin's methods. Names are those behind the plugin's own.
pub(super) struct Typed {
    instance: InstancePre<CallState>,
    methods: Vec<Method>,
    names: HashMap<String, usize>,
    not_callable: Vec<NotCallable>,
}

/// A function that is listed only.
struct NotCallable {
    name: String,
    wit_names: Vec<String>,
    shown: String,
    reason: String,
}

/// A function for those who ask what there is.
pub(super) struct Described<'a> {
    /// As it stands behind the plugin's name.
    pub(super) name: &'a str,
    /// As WIT has it, with and without the version.
    pub(super) wit_names: &'a [String],
    /// Its type, or that as text and why it cannot be called.
    pub(super) callable: Result<&'a Signature, (&'a str, &'a str)>,
}

/// One method.
pub(super) struct Method {
    name: String,
    wit_names: Vec<String>,
    callable: surface::Callable,
}

/// Functions with the names that callers use.
pub(super) fn named(functions: Vec<Function>) -> impl Iterator<Item = (String, Function)> {
    names::canonical(&functions).into_iter().zip(functions)
}

impl Function {
    /// For those who ask what there is.
    pub(super) fn described<'a>(&'a self, name: &'a str, wit_names: &'a [String]) -> Described<'a> {
        let callable = match &self.call {
            Ok(callable) => Ok(&callable.signature),
            Err(reason) => Err((self.shown.as_str(), reason.as_str())),
        };
        Described { name, wit_names, callable }
    }
}

/// Reads the arguments of a method that is the host's own.
pub(super) fn read_own(
    signature: &Signature,
    arguments: &Arguments,
) -> Result<Option<String>, CallError> {
    let value = arguments::read(signature, arguments)?.into_iter().next();
    Ok(match value {
        Some(Value::Case(_, Some(value))) => match *value {
            Value::String(text) => Some(text),
            _ => None,
        },
        _ => None,
    })
}

impl Typed {
    /// Makes the table.
    ///
    /// # Errors
    ///
    /// When nothing of it can be called, with the reasons.
    pub(super) fn new(
        plugin: &str,
        instance: InstancePre<CallState>,
        functions: Vec<Function>,
    ) -> anyhow::Result<Self> {
        let mut methods = Vec::new();
        let mut aliases = Vec::new();
        let mut not_callable = Vec::new();
        for (name, function) in named(functions) {
            let at = methods.len();
            let qualified = names::with_interface(&function);
            let wit_names = function.wit_names();
            match function.call {
                Ok(callable) => {
                    aliases.extend(qualified.map(|alias| (alias, at)));
                    aliases.push((function.name, at));
                    aliases.extend(wit_names.iter().map(|alias| (alias.clone(), at)));
                    methods.push(Method { name, wit_names, callable });
                }
                Err(reason) => {
                    let shown = function.shown;
                    not_callable.push(NotCallable { name, wit_names, shown, reason });
                }
            }
        }
        let reasons: Vec<_> = not_callable
            .iter()
            .take(MAX_NAMED)
            .map(|function| format!("`{}`: {}", function.name, function.reason))
            .collect();
        if methods.is_empty() {
            bail!("none of its functions can be called: {}", reasons.join("; "));
        }
        if !not_callable.is_empty() {
            warn!(
                "{} functions of the plugin `{plugin}` cannot be called: {}",
                not_callable.len(),
                reasons.join("; ")
            );
        }
        let canonical = methods.iter().enumerate().map(|(at, method)| (method.name.clone(), at));
        let (names, ambiguous) = resolve(canonical, aliases);
        for name in ambiguous {
            warn!("`{plugin}.{name}` could be several methods, so it is none of them");
        }
        Ok(Self { instance, methods, names, not_callable })
    }

    /// The canonical name of a method, by any of its names.
    pub(super) fn canonical(&self, name: &str) -> Option<&str> {
        self.methods.get(*self.names.get(&normal(name))?).map(|method| method.name.as_str())
    }

    /// The only method's name, if there is only one.
    pub(super) fn only(&self) -> Option<&str> {
        match self.methods.as_slice() {
            [only] => Some(&only.name),
            _ => None,
        }
    }

    /// Why a function cannot be called, if there is one of that name.
    pub(super) fn why_not_callable(&self, name: &str) -> Option<&str> {
        let name = normal(name);
        let found = self.not_callable.iter().find(|function| normal(&function.name) == name)?;
        Some(&found.reason)
    }

    /// All functions, those that can be called first.
    pub(super) fn described(&self) -> impl Iterator<Item = Described<'_>> {
        let methods = self.methods.iter().map(|method| Described {
            name: &method.name,
            wit_names: &method.wit_names,
            callable: Ok(&method.callable.signature),
        });
        methods.chain(self.not_callable.iter().map(|function| Described {
            name: &function.name,
            wit_names: &function.wit_names,
            callable: Err((&function.shown, &function.reason)),
        }))
    }

    /// Number of methods.
    pub(super) fn len(&self) -> usize {
        self.methods.len()
    }

    /// Names that need no plugin's before them, such as
    /// `acme:math/math.fib@1.2.0`, each with its method's own.
    pub(super) fn wit_names(&self) -> impl Iterator<Item = (&str, &str)> {
        self.methods.iter().flat_map(|method| {
            method.wit_names.iter().map(|name| (name.as_str(), method.name.as_str()))
        })
    }

    /// A method by its canonical name.
    pub(super) fn method(&self, name: &str) -> Option<&Method> {
        self.methods.get(*self.names.get(name)?)
    }

    /// Calls a method, after the instance was started if it was not yet.
    pub(super) async fn call(
        &self,
        method: &Method,
        values: Values,
        leased: &mut Leased<Instance>,
        stage: &mut Stage,
    ) -> wasmtime::Result<Returned> {
        let instance = match leased.exports {
            Some(instance) => instance,
            None => {
                let instance = self.instance.instantiate_async(&mut leased.store).await?;
                leased.started(instance);
                instance
            }
        };
        *stage = Stage::Running;
        let store = &mut leased.store;
        let function = instance
            .get_func(&mut *store, method.callable.index)
            .ok_or_else(|| wasmtime::format_err!("the function is gone"))?;
        let function = function.typed::<abi::Arguments, abi::Returned>(&*store)?;
        let returned = function.call_async(&mut *store, abi::Arguments(values.0)).await?;
        Ok(Returned(returned.0))
    }
}

/// Arguments that a method can be called with.
pub(super) struct Values(Vec<Value>);

/// What a method returned.
pub(super) struct Returned(Option<Value>);

impl Method {
    /// Reads what a caller sent.
    ///
    /// # Errors
    ///
    /// `parse-error` and `invalid-params`.
    pub(super) fn read(&self, arguments: &Arguments) -> Result<Values, CallError> {
        arguments::read(&self.callable.signature, arguments).map(Values)
    }

    /// What the caller is told: the result as JSON, of at most `limit` bytes, or
    /// a function's own `err`, with data of at most `error_limit`.
    pub(super) fn answer(&self, returned: &Returned, limit: usize, error_limit: usize) -> Outcome {
        let (ty, value) = match (&self.callable.signature.result, &returned.0) {
            (Some(Type::Result(_, err)), Some(Value::Case(1, value))) => {
                return Err(self.application_error(err.as_deref(), value.as_deref(), error_limit));
            }
            (Some(Type::Result(ok, _)), Some(Value::Case(_, value))) => {
                (ok.as_deref(), value.as_deref())
            }
            (ty, value) => (ty.as_ref(), value.as_ref()),
        };
        let body = text(ty, value, limit).map_err(|error| self.unwritable(&error, limit))?;
        Ok(ReturnValue {
            body: Bytes::from(body),
            content_type: Some("application/json".to_owned()),
            headers: Vec::new(),
        })
    }

    fn application_error(
        &self,
        ty: Option<&Type>,
        value: Option<&Value>,
        limit: usize,
    ) -> CallError {
        let message = message(ty, value)
            .unwrap_or_else(|| Cow::Owned(format!("`{}` returned an error", self.name)));
        let data = text(ty, value, limit).and_then(|data| {
            // JSON that was written here is UTF-8.
            String::from_utf8(data).map_err(|_| write::Unwritable::Mismatch)
        });
        match data {
            Ok(data) => {
                let kind = ErrorKind::Application { code: ERR, retryable: false };
                CallError::new(kind, message).with_data(data)
            }
            Err(error) => self.unwritable(&error, limit),
        }
    }

    fn unwritable(&self, error: &write::Unwritable, limit: usize) -> CallError {
        match error {
            write::Unwritable::TooLong => CallError::new(
                ErrorKind::ResourceExhausted,
                format!("what `{}` returned is longer than {limit} bytes of JSON", self.name),
            ),
            write::Unwritable::Mismatch => CallError::new(
                ErrorKind::Internal,
                format!("what `{}` returned is not of its type", self.name),
            ),
        }
    }
}

/// What a function's own error says to a person: a text, a record's `message`, or the name of the
/// case, and behind it what the case says.
fn message<'a>(ty: Option<&'a Type>, value: Option<&'a Value>) -> Option<Cow<'a, str>> {
    match (ty?, value?) {
        (_, Value::String(text)) => Some(Cow::Borrowed(text)),
        (Type::Option(ty), Value::Case(1, value)) => message(Some(ty), value.as_deref()),
        (Type::Enum(names), Value::Case(number, _)) => {
            names.get(*number as usize).map(|name| Cow::Borrowed(name.as_str()))
        }
        (Type::Variant(cases), Value::Case(number, value)) => {
            let case = cases.get(*number as usize)?;
            Some(match message(case.ty.as_ref(), value.as_deref()) {
                Some(more) => Cow::Owned(format!("{}: {more}", case.name)),
                None => Cow::Borrowed(case.name.as_str()),
            })
        }
        (Type::Record(fields), Value::Fields(values)) => {
            let (field, value) =
                fields.iter().zip(values).find(|(field, _)| field.name == "message")?;
            message(Some(&field.ty), Some(value))
        }
        _ => None,
    }
}

fn text(
    ty: Option<&Type>,
    value: Option<&Value>,
    limit: usize,
) -> Result<Vec<u8>, write::Unwritable> {
    match (ty, value) {
        (Some(ty), Some(value)) => write::write(ty, value, limit),
        (None, None) => Ok(b"null".to_vec()),
        _ => Err(write::Unwritable::Mismatch),
    }
}
