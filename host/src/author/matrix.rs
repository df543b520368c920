//! Which kinds of plugins can be made in which language; and of those that cannot, why.

use crate::config::{Language, PluginKind};

/// The kinds, as they are shown.
pub const KINDS: [(&str, PluginKind); 3] = [
    ("typed", PluginKind::Typed),
    ("handler", PluginKind::Handler),
    ("command", PluginKind::Command),
];

/// Whether there is a template, which a test takes from `new` to a call.
///
/// # Errors
///
/// Says what the language's tools cannot do.
pub fn offered(language: Language, kind: PluginKind) -> Result<(), &'static str> {
    match (language, kind) {
        (Language::JavaScript | Language::TypeScript, PluginKind::Command) => Err(
            "componentize-qjs gives a program neither standard input nor output; take `handler`, \
             which gets the same bytes",
        ),
        (Language::AssemblyScript, PluginKind::Command) => {
            Err("asc knows no WASI, so its programs have neither standard input nor output; take \
             `handler`, which gets the same bytes")
        }
        _ => Ok(()),
    }
}
