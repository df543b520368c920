//! JSON for a person: indented where it is long, coloured, and to the letter.
//!
//! A number is shown with the digits that it came with, and members in their order. For programs
//! there is what was received, as it was.

use console::Style;
use serde_json::value::RawValue;

use crate::capabilities::printable;

/// Columns that an array or object may take in one line.
const IN_ONE_LINE: usize = 72;

/// Columns by which each level is indented.
const INDENT: usize = 2;

/// A JSON text for a terminal; `None` of anything else.
pub(super) fn shown(text: &[u8]) -> Option<String> {
    let text: &RawValue = serde_json::from_slice(text).ok()?;
    let tokens = tokens(text.get());
    let mut shown = String::new();
    write(&tokens, 0, &mut shown);
    Some(shown)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Open,
    Close,
    Comma,
    Colon,
    Key,
    Text,
    /// A number, `true`, `false` or `null`.
    Word,
}

type Token<'t> = (Kind, &'t str);

/// The tokens of a text that is known to be JSON.
fn tokens(mut text: &str) -> Vec<Token<'_>> {
    let mut tokens: Vec<Token<'_>> = Vec::new();
    loop {
        text = text.trim_start();
        let Some(first) = text.chars().next() else { return tokens };
        let (kind, length) = match first {
            '{' | '[' => (Kind::Open, 1),
            '}' | ']' => (Kind::Close, 1),
            ',' => (Kind::Comma, 1),
            ':' => {
                if let Some((kind, _)) = tokens.last_mut() {
                    *kind = Kind::Key;
                }
                (Kind::Colon, 1)
            }
            '"' => (Kind::Text, string(text)),
            _ => {
                let ends = |c: char| c.is_whitespace() || ",:[]{}\"".contains(c);
                (Kind::Word, text.find(ends).unwrap_or(text.len()))
            }
        };
        let (token, rest) = text.split_at(length);
        tokens.push((kind, token));
        text = rest;
    }
}

/// How many bytes a string takes that the text begins with.
fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Writes the value that the tokens begin with; returns what is behind it.
fn write<'t, 's>(tokens: &'s [Token<'t>], indent: usize, out: &mut String) -> &'s [Token<'t>] {
    let Some((first, rest)) = tokens.split_first() else { return tokens };
    out.push_str(&coloured(*first));
    if first.0 != Kind::Open {
        return rest;
    }
    let inline = fits(tokens, indent);
    let inner = indent + INDENT;
    let mut rest = rest;
    let mut empty = true;
    while let Some((token, behind)) = rest.split_first() {
        match token.0 {
            Kind::Close => {
                if !inline && !empty {
                    new_line(out, indent);
                }
                out.push_str(token.1);
                return behind;
            }
            Kind::Comma => {
                out.push(',');
                if inline {
                    out.push(' ');
                } else {
                    new_line(out, inner);
                }
                rest = behind;
            }
            Kind::Key => {
                if empty && !inline {
                    new_line(out, inner);
                }
                out.push_str(&coloured(*token));
                out.push_str(": ");
                // Behind the colon.
                rest = write(behind.get(1..).unwrap_or_default(), inner, out);
            }
            Kind::Colon | Kind::Open | Kind::Text | Kind::Word => {
                if empty && !inline {
                    new_line(out, inner);
                }
                rest = write(rest, inner, out);
            }
        }
        empty = false;
    }
    rest
}

fn new_line(out: &mut String, indent: usize) {
    out.push('\n');
    out.extend(std::iter::repeat_n(' ', indent));
}

/// Whether the array or object that the tokens begin with fits into the line.
fn fits(tokens: &[Token<'_>], indent: usize) -> bool {
    let mut depth = 0_usize;
    let mut columns = indent;
    for (kind, text) in tokens {
        match kind {
            Kind::Open => depth += 1,
            Kind::Close => depth = depth.saturating_sub(1),
            // With the space behind it.
            Kind::Comma | Kind::Colon => columns += 1,
            Kind::Key | Kind::Text | Kind::Word => {}
        }
        columns = columns.saturating_add(text.len());
        if columns > IN_ONE_LINE {
            return false;
        }
        if depth == 0 {
            break;
        }
    }
    true
}

fn coloured((kind, text): Token<'_>) -> String {
    let style = match kind {
        Kind::Key => Style::new().blue(),
        Kind::Text => Style::new().green(),
        Kind::Word => Style::new().cyan(),
        Kind::Open | Kind::Close | Kind::Comma | Kind::Colon => return text.to_owned(),
    };
    // JSON may hold what turns a terminal's direction.
    style.apply_to(printable(text, usize::MAX)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> Option<String> {
        Some(console::strip_ansi_codes(&shown(text.as_bytes())?).into_owned())
    }

    #[test]
    fn short_values_stay_in_one_line_and_long_ones_are_indented() {
        assert_eq!(plain("832040").as_deref(), Some("832040"));
        assert_eq!(plain(" [1,2 ,3]").as_deref(), Some("[1, 2, 3]"));
        assert_eq!(plain("{}").as_deref(), Some("{}"));
        let long = "a".repeat(80);
        let text = format!(r#"{{"a":[1.0,{{"b":null}}],"long":["{long}",[]],"e":{{}}}}"#);
        let expected = format!(
            "{{\n  \"a\": [1.0, {{\"b\": null}}],\n  \"long\": [\n    \"{long}\",\n    []\n  ],\n  \
             \"e\": {{}}\n}}"
        );
        assert_eq!(plain(&text).as_deref(), Some(expected.as_str()));
    }

    #[test]
    fn nothing_is_lost_and_nothing_reaches_the_terminal() {
        let exact = r#"[123456789012345678901234567890, 1.50e+3, "a\"b\\", "{,:}"]"#;
        assert_eq!(plain(exact).as_deref(), Some(exact));
        assert_eq!(plain("\"\u{202e}\u{9b}\"").as_deref(), Some("\"\\u{202e}\\u{9b}\""));
        assert_eq!(plain("no JSON"), None);
        assert_eq!(plain(""), None);
    }
}
