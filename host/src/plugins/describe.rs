//! Methods, for those who ask what there is.
//!
//! One description for everybody: `inspect` shows it to a person, the host's own
//! methods send it to callers.

use serde_json::{Map, Value as Json, json};

use super::about::About;
use super::kind::Kind;
use super::typed::{Described, Full, Room, Shape, shown};

/// What a method takes beside its name and type, in bytes: names of members.
const METHOD_COST: usize = 80;

/// The code and meaning of a function's own `err`.
const OWN_ERROR: (i32, &str) = (1, "the function's own `err`, with its value as data");

/// One method.
#[derive(Debug)]
pub struct Method {
    /// As callers name it.
    pub name: String,
    /// Its type: in the words of WIT, where it has one.
    pub signature: String,
    /// What it does, in its author's words.
    pub doc: Option<String>,
    /// Why no caller can use it, if none can.
    pub not_callable: Option<String>,
    shape: Option<Shape>,
}

impl Method {
    /// The methods of a plugin whose functions have no types.
    pub(super) fn untyped(kind: Kind, plugin: &str) -> Vec<Self> {
        let signature = match kind {
            Kind::Command => "stdin -> stdout",
            Kind::Handler | Kind::Typed => "bytes -> bytes",
        };
        let method = |name| Self {
            name,
            signature: signature.to_owned(),
            doc: None,
            not_callable: None,
            shape: None,
        };
        [plugin.to_owned(), format!("{plugin}.<anything>")].map(method).into()
    }

    /// A function of a typed plugin, with schemas as far as there is room.
    pub(super) fn typed(
        plugin: &str,
        function: &Described<'_>,
        about: &About,
        room: &mut Room,
    ) -> Self {
        let (signature, not_callable, shape) = match function.callable {
            Ok(signature) => {
                (format!("func{}", shown(signature)), None, Shape::of(signature, room).ok())
            }
            Err((shown, reason)) => (shown.to_owned(), Some(reason.to_owned()), None),
        };
        let doc = about.doc(function.wit_names, function.name).map(str::to_owned);
        Self { name: format!("{plugin}.{}", function.name), signature, doc, not_callable, shape }
    }

    /// Arguments by position and a result that this method could have.
    pub fn example(&self) -> Option<(&Json, &Json)> {
        self.shape.as_ref()?.example.as_ref().map(|(arguments, result)| (arguments, result))
    }

    /// Name and type.
    pub fn brief(&self) -> Json {
        json!({
            "name": self.name,
            "signature": self.signature,
            "description": self.doc,
            "callable": self.not_callable.is_none(),
            "reason": self.not_callable,
        })
    }

    /// All of it: with the schemas of arguments, result and error, and an
    /// example of the former two.
    pub fn whole(&self) -> Json {
        let mut whole = self.brief();
        if let (Some(shape), Some(members)) = (&self.shape, whole.as_object_mut()) {
            members.insert("params".to_owned(), shape.params.clone());
            members.insert("result".to_owned(), shape.result.clone());
            if let Some(error) = &shape.error {
                members.insert("error-data".to_owned(), error.clone());
            }
            if let Some((params, result)) = &shape.example {
                members.insert("example".to_owned(), json!({"params": params, "result": result}));
            }
        }
        whole
    }

    /// As an OpenRPC Method Object; `None` of what cannot be called, or has no
    /// schemas.
    pub(super) fn openrpc(&self, kind: Kind) -> Option<Json> {
        if self.not_callable.is_some() {
            return None;
        }
        let mut method = Map::new();
        method.insert("name".to_owned(), json!(self.name));
        let (params, result) = match (kind, &self.shape) {
            (Kind::Typed, None) => return None,
            (Kind::Typed, Some(shape)) => {
                method.insert("summary".to_owned(), json!(self.signature));
                if let Some(doc) = &self.doc {
                    method.insert("description".to_owned(), json!(doc));
                }
                let params = shape.each.iter().map(|(name, required, schema)| {
                    json!({"name": name, "required": required, "schema": schema})
                });
                (params.collect(), &shape.result)
            }
            (Kind::Handler | Kind::Command, _) => {
                method.insert(
                    "description".to_owned(),
                    json!(format!(
                        "Takes any arguments, and answers to `{}.` and anything, too.",
                        self.name
                    )),
                );
                let any = json!({"name": "body", "required": false, "schema": true});
                (Json::Array(vec![any]), &Json::Bool(true))
            }
        };
        method.insert("paramStructure".to_owned(), json!("either"));
        method.insert("params".to_owned(), params);
        method.insert("result".to_owned(), json!({"name": "result", "schema": result}));
        if let Some(shape) = &self.shape {
            if let Some(data) = &shape.error {
                let (code, message) = OWN_ERROR;
                method.insert("errors".to_owned(), json!([{"code": code, "message": message}]));
                method.insert("x-error-data".to_owned(), data.clone());
            }
            if let Some((arguments, result)) = &shape.example {
                let values = arguments.as_array().into_iter().flatten();
                let params: Vec<_> = shape
                    .each
                    .iter()
                    .zip(values)
                    .map(|((name, ..), value)| json!({"name": name, "value": value}))
                    .collect();
                let result = json!({"name": "result", "value": result});
                let pairing = json!({"name": "example", "params": params, "result": result});
                method.insert("examples".to_owned(), json!([pairing]));
            }
        }
        Some(Json::Object(method))
    }

    /// As a procedure of JSON-RPC 1.1.
    pub(super) fn procedure(&self) -> Json {
        let (params, result) = match &self.shape {
            Some(shape) => {
                let param = |(name, _required, schema): &(String, bool, Json)| json!({"name": name, "type": type_of(schema)});
                (shape.each.iter().map(param).collect(), type_of(&shape.result))
            }
            None => (vec![json!({"name": "body", "type": "any"})], "any"),
        };
        json!({
            "name": self.name,
            "summary": self.doc.as_ref().unwrap_or(&self.signature),
            "help": null,
            "idempotent": false,
            "params": params,
            "return": result,
        })
    }

    /// Takes what the method needs besides its schemas.
    pub(super) fn fit(&self, room: &mut Room) -> Result<(), Full> {
        let reason = self.not_callable.as_ref().map_or(0, String::len);
        let doc = self.doc.as_ref().map_or(0, String::len);
        let lengths = [self.name.len(), self.signature.len(), reason, doc];
        let texts = lengths.into_iter().fold(0, usize::saturating_add);
        room.take(texts.saturating_add(METHOD_COST))
    }
}

/// What JSON-RPC 1.1 calls the type of values that a schema allows.
fn type_of(schema: &Json) -> &'static str {
    match schema.get("type").and_then(Json::as_str) {
        Some("null") => "nil",
        Some("boolean") => "bit",
        Some("integer" | "number") => "num",
        Some("string") => "str",
        Some("array") => "arr",
        Some("object") => "obj",
        _ => "any",
    }
}
