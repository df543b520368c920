//! What can be called: as a table, and for a shell that completes a name.

use serde::Deserialize;

use super::output;
use crate::capabilities::printable;

/// The host's own method that tells.
pub(super) const DESCRIBE: &str = "rpchost.describe";

/// Bytes of a reason that are shown.
const MAX_REASON: usize = 2048;

/// Digits of a digest that are shown, as in the log.
const DIGITS: usize = 12;

/// Bytes of a signature or sentence that are shown.
const SHOWN: usize = 100;

/// What is said of a host.
#[derive(Debug, Deserialize)]
pub(super) struct Described {
    plugins: Vec<Plugin>,
    #[serde(default)]
    refused: Vec<Refused>,
}

#[derive(Debug, Deserialize)]
struct Plugin {
    name: String,
    kind: String,
    digest: String,
    methods: Vec<Method>,
}

/// A file that is not served as it is.
#[derive(Debug, Deserialize)]
struct Refused {
    name: String,
    cause: String,
    reason: String,
    serving: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Method {
    name: String,
    signature: Option<String>,
    description: Option<String>,
    callable: bool,
}

impl Described {
    /// Reads an answer; `None` if it is none of a host.
    pub(super) fn read(answer: &[u8]) -> Option<Self> {
        serde_json::from_slice(answer).ok()
    }

    /// The names of all methods that can be called.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.callable().map(|(_, method)| method.name.as_str())
    }

    fn callable(&self) -> impl Iterator<Item = (&Plugin, &Method)> {
        let all = self
            .plugins
            .iter()
            .flat_map(|plugin| plugin.methods.iter().map(move |method| (plugin, method)));
        all.filter(|(_, method)| method.callable)
    }

    /// The lines of a table of plugins, and what is held against files.
    pub(super) fn plugins(&self) -> Vec<String> {
        let mut rows = vec![["PLUGIN", "KIND", "DIGEST", "METHODS"].map(str::to_owned)];
        rows.extend(self.plugins.iter().map(|plugin| {
            let methods = plugin.methods.iter().filter(|method| method.callable).count();
            [&plugin.name, &plugin.kind, short(&plugin.digest), &methods.to_string()]
                .map(|text| printable(text, SHOWN))
        }));
        let mut lines = match rows.len() {
            1 => vec!["no plugin is loaded".to_owned()],
            _ => output::table(&rows),
        };
        for Refused { name, cause, reason, serving } in &self.refused {
            let instead = match serving {
                Some(digest) => format!("{} goes on serving", short(digest)),
                None => "nothing serves in its place".to_owned(),
            };
            let file = printable(name, SHOWN);
            lines.push(String::new());
            lines.push(format!("{file}.wasm is refused ({}), {instead}:", printable(cause, SHOWN)));
            lines.push(format!("  {}", printable(reason, MAX_REASON)));
        }
        lines
    }

    /// The lines of a table of methods.
    pub(super) fn table(&self) -> Vec<String> {
        let mut rows = vec![["METHOD", "SIGNATURE", "WHAT IT DOES"].map(str::to_owned)];
        rows.extend(self.callable().map(|(plugin, method)| {
            // What takes a body has no signature.
            let signature = method.signature.as_ref().unwrap_or(&plugin.kind);
            let about = method.description.as_deref().unwrap_or_default();
            let sentence = about.lines().next().unwrap_or_default();
            [&method.name, signature, sentence].map(|text| printable(text, SHOWN))
        }));
        if rows.len() == 1 {
            let none = self.plugins.iter().map(|plugin| plugin.name.as_str()).collect::<Vec<_>>();
            return vec![match none.as_slice() {
                [] => "no plugin is loaded".to_owned(),
                names => format!("nothing of {} can be called", names.join(", ")),
            }];
        }
        output::table(&rows)
    }
}

/// A digest as the log has it.
fn short(digest: &str) -> &str {
    let digits = digest.strip_prefix("sha256:").unwrap_or(digest);
    digits.get(..DIGITS).unwrap_or(digits)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_has_what_can_be_called() {
        let method = |name, signature, doc, callable| json!({"name": name, "signature": signature, "description": doc, "callable": callable});
        let answer = json!({"plugins": [
            {"name": "echo", "kind": "handler", "digest": "sha256:0123456789abcdef", "methods": [method("echo", None, None::<&str>, true)]},
            {"name": "math", "kind": "typed", "digest": "sha256:fedcba98765432100", "methods": [
                method("math.fib", Some("func(n: u32) -> u64"), Some("The nth one.\nMore."), true),
                method("math.open", Some("func() -> file"), None, false),
            ]},
        ], "refused": [
            {"name": "math", "cause": "self-test", "reason": "1 of its 2 cases\u{1b}[2J", "serving": "sha256:fedcba98765432100"},
            {"name": "bad", "cause": "invalid", "reason": "it is not WASM", "serving": null},
        ]});
        let described = Described::read(answer.to_string().as_bytes()).unwrap();
        assert_eq!(described.names().collect::<Vec<_>>(), ["echo", "math.fib"]);
        assert_eq!(
            described.table(),
            [
                "METHOD    SIGNATURE            WHAT IT DOES",
                "echo      handler",
                "math.fib  func(n: u32) -> u64  The nth one.",
            ]
        );
        assert_eq!(
            described.plugins(),
            [
                "PLUGIN  KIND     DIGEST        METHODS",
                "echo    handler  0123456789ab  1",
                "math    typed    fedcba987654  1",
                "",
                "math.wasm is refused (self-test), fedcba987654 goes on serving:",
                "  1 of its 2 cases\\u{1b}[2J",
                "",
                "bad.wasm is refused (invalid), nothing serves in its place:",
                "  it is not WASM",
            ]
        );
        assert!(Described::read(b"5").is_none());
        let empty = Described { plugins: Vec::new(), refused: Vec::new() };
        assert_eq!(empty.table(), ["no plugin is loaded"]);
        assert_eq!(empty.plugins(), ["no plugin is loaded"]);
    }
}
