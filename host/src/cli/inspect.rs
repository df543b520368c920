//! `rpchost inspect`: what a component is, offers and needs.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bytesize::ByteSize;
use clap::{ArgMatches, Args, ValueEnum};
use serde_json::{Value, json};
use terminal_size::{Width, terminal_size_of};

use super::local::Local;
use super::{USAGE, call, environment, is_typed, output};
use crate::config::{Profile, ServeArgs, resolve};
use crate::plugins::{Engine, Inspection, Method, Offer, inspect_file};

/// Columns of the labels at the left.
const LABELS: usize = 11;

/// Columns that what is said below a method is indented by.
const INDENT: usize = 2;

/// Lines of a method's documentation that are shown; `-o json` has all of it.
const MAX_DOC_LINES: usize = 8;

/// Columns that the rest of a folded line is indented by.
const FOLDED: usize = 4;

/// Fewest columns that a text is folded into; narrower terminals fold it
/// themselves.
const NARROWEST: usize = 30;

/// Arguments of `inspect`.
#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// Components; of several, `-o json` prints an array. Without one, a running host says what it
    /// serves, and what it refuses
    #[arg(value_name = "X.wasm")]
    files: Vec<PathBuf>,

    /// Queue of the host that is asked [default: as for `call`]
    #[arg(long, env = "RPCHOST_QUEUE", value_name = "NAME")]
    queue: Option<String>,

    /// Broker to ask through, as for `call`; repeatable
    #[arg(long, env = "RPCHOST_AMQP_URL", hide_env_values = true, value_name = "URL")]
    amqp_url: Vec<String>,

    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

pub(super) fn run(args: &InspectArgs, matches: &ArgMatches) -> ExitCode {
    if args.files.is_empty() {
        return call::describe(&args.amqp_url, args.queue.as_deref(), matches, |described| {
            (args.output == Format::Text).then(|| described.plugins())
        });
    }
    let typed = |flag| is_typed(matches, flag);
    if typed("queue") || typed("amqp_url") {
        output::error("a file is inspected in-process: leave out `--queue` and `--amqp-url`");
        return ExitCode::from(USAGE);
    }
    // A mistake in the configuration is not one of these files.
    let config =
        resolve(&ServeArgs::default(), &clap::ArgMatches::default(), Profile::Serve, &environment);
    let opened = config.map_or_else(|_| Local::without_state(), |config| Local::open(&config));
    let local = match opened {
        Ok(local) => local,
        Err(error) => {
            output::error(format_args!("{error:#}"));
            return ExitCode::FAILURE;
        }
    };
    let width = terminal_size_of(std::io::stdout()).map(|(Width(columns), _)| columns.into());
    let mut all_serve = true;
    let mut documents = Vec::new();
    for (number, file) in args.files.iter().enumerate() {
        let (name, inspection) = match look(&local.engine, file) {
            Ok(found) => found,
            Err(error) => {
                output::error(format_args!("`{}`: {error:#}", file.display()));
                all_serve = false;
                continue;
            }
        };
        all_serve &= inspection.kind.is_ok();
        match args.output {
            Format::Json => documents.push(as_json(&name, &inspection)),
            Format::Text => {
                if number > 0 {
                    output::line("");
                }
                text(&name, &inspection, width).iter().for_each(|line| output::line(line));
            }
        }
    }
    match (args.files.as_slice(), documents.as_slice()) {
        ([_], [only]) => output::line(&format!("{only:#}")),
        ([_, _, ..], [_, ..]) => output::line(&format!("{:#}", json!(documents))),
        _ => {}
    }
    if all_serve { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn look(engine: &Engine, file: &Path) -> anyhow::Result<(String, Inspection)> {
    let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let inspection = inspect_file(engine, &name, file)?;
    Ok((name, inspection))
}

/// Lines with labels at the left, folded where the terminal ends.
struct Lines {
    lines: Vec<String>,
    width: Option<usize>,
}

impl Lines {
    /// `indent` columns beyond the labels, and then the text.
    fn add(&mut self, label: &str, indent: usize, text: &str) {
        let begin = LABELS + indent;
        let room = self.width.map(|width| width.saturating_sub(begin).max(NARROWEST));
        for (number, part) in fold(text, room).into_iter().enumerate() {
            let (label, more) = if number == 0 { (label, 0) } else { ("", FOLDED) };
            self.lines.push(format!("{label:<LABELS$}{:indent$}{:more$}{part}", "", ""));
        }
    }
}

/// Parts of a text that fit into a width, cut behind spaces and commas where
/// there are any; all but the first have [`FOLDED`] columns less.
fn fold(text: &str, width: Option<usize>) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(width) = width {
        let room = if parts.is_empty() { width } else { width.saturating_sub(FOLDED) };
        let Some((end, _)) = rest.char_indices().nth(room) else { break };
        let (fitting, _) = rest.split_at(end);
        let cut = match fitting.rfind([' ', ',']) {
            Some(at) if at > 0 => at + 1,
            _ => end,
        };
        let (part, after) = rest.split_at(cut);
        parts.push(part.trim_end());
        rest = after;
    }
    parts.push(rest);
    parts
}

fn text(name: &str, inspection: &Inspection, width: Option<usize>) -> Vec<String> {
    let mut shown = Lines { lines: Vec::new(), width };
    shown.add("plugin", 0, name);
    shown.add("sha256", 0, &inspection.digest);
    shown.add("size", 0, &ByteSize(inspection.size).display().iec().to_string());
    match &inspection.kind {
        Ok(kind) => shown.add("kind", 0, &kind.to_string()),
        Err(reason) => shown.add("kind", 0, &format!("none: {reason}")),
    }
    let tools: Vec<_> = inspection
        .toolchain
        .iter()
        .map(|(name, version)| format!("{name} {version}").trim_end().to_owned())
        .collect();
    let tools = if tools.is_empty() { "not said".to_owned() } else { tools.join(", ") };
    shown.add("toolchain", 0, &tools);
    let about = &inspection.about;
    if let Some(description) = &about.description {
        shown.add("about", 0, description);
    }
    if let Some(version) = &about.version {
        shown.add("version", 0, version);
    }
    if !about.cases.is_empty() {
        shown.add("cases", 0, &about.cases.len().to_string());
    }
    for (index, method) in inspection.methods.iter().enumerate() {
        let label = if index == 0 { "methods" } else { "" };
        shown.add(label, 0, &format!("{}: {}", method.name, method.signature));
        for line in method.doc.iter().flat_map(|doc| doc.lines()).take(MAX_DOC_LINES) {
            let is_plain = |c: &char| !c.is_control();
            shown.add("", INDENT, &line.chars().filter(is_plain).collect::<String>());
        }
        if let Some(below) = below(method) {
            shown.add("", INDENT, &below);
        }
    }
    let longest = inspection.imports.iter().map(|import| import.name.len()).max().unwrap_or(0);
    for (index, import) in inspection.imports.iter().enumerate() {
        let label = if index == 0 { "imports" } else { "" };
        shown.add(label, 0, &format!("{:<longest$}  {}", import.name, offer(import.offer)));
    }
    if inspection.imports.is_empty() {
        shown.add("imports", 0, "none");
    }
    shown.lines
}

/// What is said below a method: an example, or why there is none.
fn below(method: &Method) -> Option<String> {
    match (&method.not_callable, method.example()) {
        (Some(reason), _) => Some(format!("not callable: {reason}")),
        (None, Some((arguments, result))) => Some(format!("{arguments} → {result}")),
        (None, None) => None,
    }
}

fn as_json(name: &str, inspection: &Inspection) -> Value {
    let imports: Vec<_> = inspection
        .imports
        .iter()
        .map(|import| {
            json!({ "name": import.name, "granted": import.offer == Offer::Granted, "offer": offer(import.offer) })
        })
        .collect();
    let toolchain: Vec<_> = inspection
        .toolchain
        .iter()
        .map(|(name, version)| json!({ "name": name, "version": version }))
        .collect();
    let (kind, reason) = match &inspection.kind {
        Ok(kind) => (json!(kind.to_string()), Value::Null),
        Err(reason) => (Value::Null, json!(reason)),
    };
    json!({
        "plugin": name,
        "digest": format!("sha256:{}", inspection.digest),
        "size": inspection.size,
        "kind": kind,
        "reason": reason,
        "toolchain": toolchain,
        "version": inspection.about.version,
        "description": inspection.about.description,
        "cases": inspection.about.cases.len(),
        "methods": inspection.methods.iter().map(Method::whole).collect::<Vec<_>>(),
        "imports": imports,
    })
}

fn offer(offer: Offer) -> &'static str {
    match offer {
        Offer::Granted => "granted",
        Offer::Nothing => "linked, nothing granted",
        Offer::Unknown => "not offered",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_folded_at_words_and_commas() {
        assert_eq!(fold("all of it", None), ["all of it"]);
        assert_eq!(fold("all of it", Some(9)), ["all of it"]);
        assert_eq!(fold("one two three", Some(9)), ["one two", "three"]);
        assert_eq!(fold("[1,2,3,4,5]", Some(8)), ["[1,2,3,", "4,5]"]);
        assert_eq!(fold("ääääääääää", Some(8)), ["ääääääää", "ää"]);
        assert_eq!(fold("", Some(6)), [""]);
    }
}
