//! `rpchost inspect`: what a component is, offers and needs.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::output;
use crate::plugins::{Engine, Inspection, Offer};

/// Arguments of `inspect`.
#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// The component
    #[arg(value_name = "X.wasm")]
    file: PathBuf,

    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

pub(super) fn run(args: &InspectArgs) -> ExitCode {
    let shown = inspect(args).map(|(name, inspection)| {
        match args.output {
            Format::Text => text(&name, &inspection).iter().for_each(|line| output::line(line)),
            Format::Json => output::line(&format!("{:#}", as_json(&name, &inspection))),
        }
        inspection.kind.is_ok()
    });
    match shown {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            output::error(format_args!("`{}`: {error:#}", args.file.display()));
            ExitCode::FAILURE
        }
    }
}

fn inspect(args: &InspectArgs) -> anyhow::Result<(String, Inspection)> {
    let name = args.file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let inspection = crate::plugins::inspect_file(&Engine::new(1)?, &name, &args.file)?;
    Ok((name, inspection))
}

fn text(name: &str, inspection: &Inspection) -> Vec<String> {
    let kind = match &inspection.kind {
        Ok(kind) => kind.to_string(),
        Err(reason) => format!("none: {reason}"),
    };
    let mut lines = vec![format!("plugin   {name}"), format!("kind     {kind}")];
    let width = inspection.methods.iter().map(|method| method.name.len()).max().unwrap_or(0);
    for (index, method) in inspection.methods.iter().enumerate() {
        let label = if index == 0 { "methods" } else { "" };
        let reason = match &method.not_callable {
            Some(reason) => format!("  not callable: {reason}"),
            None => String::new(),
        };
        lines.push(format!("{label:<8} {:<width$}  {}{reason}", method.name, method.signature));
    }
    let width = inspection.imports.iter().map(|import| import.name.len()).max().unwrap_or(0);
    for (index, import) in inspection.imports.iter().enumerate() {
        let label = if index == 0 { "imports" } else { "" };
        lines.push(format!("{label:<8} {:<width$}  {}", import.name, offer(import.offer)));
    }
    if inspection.imports.is_empty() {
        lines.push("imports  none".to_owned());
    }
    lines
}

fn as_json(name: &str, inspection: &Inspection) -> Value {
    let methods: Vec<_> = inspection
        .methods
        .iter()
        .map(|method| {
            json!({
                "name": method.name,
                "signature": method.signature,
                "callable": method.not_callable.is_none(),
                "reason": method.not_callable,
            })
        })
        .collect();
    let imports: Vec<_> = inspection
        .imports
        .iter()
        .map(|import| {
            json!({ "name": import.name, "granted": import.offer == Offer::Granted, "offer": offer(import.offer) })
        })
        .collect();
    let (kind, reason) = match &inspection.kind {
        Ok(kind) => (json!(kind.to_string()), Value::Null),
        Err(reason) => (Value::Null, json!(reason)),
    };
    json!({ "plugin": name, "kind": kind, "reason": reason, "methods": methods, "imports": imports })
}

fn offer(offer: Offer) -> &'static str {
    match offer {
        Offer::Granted => "granted",
        Offer::Nothing => "linked, nothing granted",
        Offer::Unknown => "not offered",
    }
}
