//! What a person typed, as arguments of a call.

use serde_json::json;
use serde_json::value::RawValue;

/// What a method is called with.
#[derive(Debug, Clone, PartialEq)]
pub enum Params {
    /// The body itself.
    Body(Vec<u8>),
    /// The only argument that a person typed: the body as it is, except for a
    /// method that takes JSON; see [`Params::for_json`].
    Argument(String),
    /// A JSON text that stands for all arguments.
    Json(String),
    /// Arguments by position and by name at once, which Python's libraries know.
    Both {
        /// A JSON array.
        args: String,
        /// A JSON object.
        kwargs: String,
    },
}

impl Params {
    /// All arguments, as somebody typed them after `--params`.
    ///
    /// # Errors
    ///
    /// When it is not JSON.
    pub fn json(text: &str) -> Result<Self, String> {
        serde_json::from_str::<&RawValue>(text)
            .map(|json| Self::Json(json.get().to_owned()))
            .map_err(|error| format!("`--params` is not JSON: {error}"))
    }

    /// The same for a method that is known to take JSON.
    #[must_use]
    pub fn for_json(self) -> Self {
        match self {
            Self::Argument(text) => Self::Json(json_of(&text)),
            other => other,
        }
    }

    /// As one JSON text, for dialects that carry one; nothing for no arguments.
    pub(super) fn value(self) -> Result<Option<String>, String> {
        match self {
            Self::Json(text) => Ok(Some(text)),
            Self::Argument(text) => Ok(Some(json_of(&text))),
            Self::Body(body) if body.is_empty() => Ok(None),
            Self::Body(body) => Ok(Some(json_of(text_of(&body)?))),
            Self::Both { .. } => Err(MIXED.to_owned()),
        }
    }

    /// As an array and an object, for dialects that carry both. An argument that
    /// is an array stays one argument; as all arguments it is their list.
    pub(super) fn args_and_kwargs(self) -> Result<(String, String), String> {
        let (list, none) = (|only: &str| format!("[{only}]"), || "{}".to_owned());
        Ok(match self {
            Self::Both { args, kwargs } => (args, kwargs),
            Self::Json(text) if text.starts_with('[') => (text, none()),
            Self::Json(text) if text.starts_with('{') => ("[]".to_owned(), text),
            Self::Json(text) => (list(&text), none()),
            Self::Argument(text) => (list(&json_of(&text)), none()),
            Self::Body(body) if body.is_empty() => ("[]".to_owned(), none()),
            Self::Body(body) => (list(&json_of(text_of(&body)?)), none()),
        })
    }
}

/// What is said where only one of them can be had.
pub(super) const MIXED: &str = "positional and named arguments cannot be mixed in this dialect; \
                                write all by name, or all by position";

/// The arguments that a person typed: JSON where it parses as JSON, else a
/// string; `name=value` is a named one. A single one is the body as it is, so
/// that handlers get just what was typed.
///
/// # Errors
///
/// When a positional argument follows a named one.
pub fn params_of(args: &[String]) -> Result<Params, String> {
    if let [only] = args
        && named(only).is_none()
    {
        return Ok(Params::Argument(only.clone()));
    }
    let first_named = args.iter().position(|arg| named(arg).is_some()).unwrap_or(args.len());
    let (positional, rest) = args.split_at(first_named);
    let pairs: Vec<_> = rest.iter().filter_map(|arg| named(arg)).collect();
    if pairs.len() < rest.len() {
        return Err("positional arguments come before named ones".to_owned());
    }
    let items: Vec<_> = positional.iter().map(|arg| json_of(arg)).collect();
    let (array, object) = (format!("[{}]", items.join(",")), format!("{{{}}}", pairs.join(",")));
    Ok(match (items.is_empty(), pairs.is_empty()) {
        (true, true) => Params::Body(Vec::new()),
        (false, true) => Params::Json(array),
        (true, false) => Params::Json(object),
        (false, false) => Params::Both { args: array, kwargs: object },
    })
}

/// `name=value` as a member of a JSON object.
fn named(arg: &str) -> Option<String> {
    let (name, text) = arg.split_once('=')?;
    let is_name = name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    is_name.then(|| format!("{}:{}", json!(name), json_of(text)))
}

/// A text as JSON: itself, with every digit, if it is JSON; else a string.
fn json_of(text: &str) -> String {
    match serde_json::from_str::<&RawValue>(text) {
        Ok(value) => value.get().to_owned(),
        Err(_) => json!(text).to_string(),
    }
}

fn text_of(body: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(body)
        .map_err(|_| "the body is no text, and this dialect carries JSON".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(args: &[&str]) -> Result<Params, String> {
        params_of(&args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn one_argument_is_the_body_and_several_are_json() {
        assert_eq!(typed(&[]), Ok(Params::Body(Vec::new())));
        assert_eq!(typed(&["30"]), Ok(Params::Argument("30".into())));
        assert_eq!(typed(&["hi there"]), Ok(Params::Argument("hi there".into())));
        assert_eq!(typed(&["1", "two", "[3]"]), Ok(Params::Json(r#"[1,"two",[3]]"#.into())));
        assert_eq!(typed(&["n=1", "s=a=b"]), Ok(Params::Json(r#"{"n":1,"s":"a=b"}"#.into())));
        let both = Params::Both { args: "[1]".into(), kwargs: r#"{"n":2}"#.into() };
        assert_eq!(typed(&["1", "n=2"]), Ok(both.clone()));
        assert!(both.value().is_err());
        assert!(typed(&["n=2", "1"]).is_err());
        assert_eq!(Params::json(" [1] \n"), Ok(Params::Json("[1]".into())));
        assert_eq!(Params::Body(b"hi".to_vec()).for_json(), Params::Body(b"hi".to_vec()));
    }

    #[test]
    fn arguments_by_position_and_by_name_are_told_apart() {
        let parts = |params: Params| params.args_and_kwargs().unwrap();
        let pair = |args: &str, kwargs: &str| (args.to_owned(), kwargs.to_owned());
        assert_eq!(parts(Params::Body(Vec::new())), pair("[]", "{}"));
        assert_eq!(parts(typed(&["30"]).unwrap()), pair("[30]", "{}"));
        assert_eq!(parts(typed(&["[1,2]"]).unwrap()), pair("[[1,2]]", "{}"));
        assert_eq!(parts(typed(&["1", "x"]).unwrap()), pair(r#"[1,"x"]"#, "{}"));
        assert_eq!(parts(typed(&["n=3"]).unwrap()), pair("[]", r#"{"n":3}"#));
        assert_eq!(parts(typed(&["40", "b=2"]).unwrap()), pair("[40]", r#"{"b":2}"#));
        assert_eq!(parts(Params::Json("[1,2]".into())), pair("[1,2]", "{}"));
        assert_eq!(parts(Params::Json("7".into())), pair("[7]", "{}"));
        assert_eq!(parts(Params::Body(b"hi".to_vec())), pair(r#"["hi"]"#, "{}"));
        assert!(Params::Body(vec![0xff]).args_and_kwargs().is_err());
        assert!(Params::Body(vec![0xff]).value().is_err());
    }
}
