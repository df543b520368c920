//! `rpchost new`: a project of few files, in an author's own language.

use std::path::Path;
use std::process::ExitCode;

use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};

use super::{USAGE, output};
use crate::author::{KINDS, create, offered};
use crate::config::{Language, PluginKind};

/// Arguments of `new`.
#[derive(Debug, Args)]
#[command(after_help = matrix())]
pub(super) struct NewArgs {
    /// The plugin's name, and its folder's: lower-case words, with `-` between them
    #[arg(required_unless_present = "list")]
    name: Option<String>,

    /// Language to write it in
    #[arg(long, value_enum, required_unless_present = "list")]
    lang: Option<Language>,

    /// Kind of plugin
    #[arg(long, value_enum, default_value_t = PluginKind::Typed)]
    kind: PluginKind,

    /// Show what can be made in which language, and why not the rest
    #[arg(long)]
    list: bool,
}

impl ValueEnum for Language {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}

impl ValueEnum for PluginKind {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Typed, Self::Handler, Self::Command]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let help = match self {
            Self::Typed => "functions of its own; callers send JSON",
            Self::Handler => "bytes in, bytes out, with headers",
            Self::Command => "standard input to standard output",
        };
        let name = KINDS.iter().find(|(_, kind)| kind == self).map(|(name, _)| *name)?;
        Some(PossibleValue::new(name).help(help))
    }
}

pub(super) fn run(args: &NewArgs) -> ExitCode {
    let (name, language) = match (&args.name, args.lang) {
        (Some(name), Some(language)) if !args.list => (name, language),
        _ => {
            output::line(&matrix());
            return ExitCode::SUCCESS;
        }
    };
    match create(Path::new(""), name, language, args.kind) {
        Ok(made) => {
            output::line(&format!("{}/", made.directory.display()));
            made.files.iter().for_each(|file| output::line(&format!("  {file}")));
            let prepare = made.prepare.map(|step| format!("{step} && ")).unwrap_or_default();
            output::line(&format!("next: cd {name} && {prepare}rpchost build"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            output::error(format_args!("{error:#}"));
            ExitCode::from(USAGE)
        }
    }
}

/// Languages and kinds, and below them why not.
fn matrix() -> String {
    let mut lines = vec![format!("{:<16}{:<9}{:<9}command", "", "typed", "handler")];
    let mut reasons = Vec::new();
    for language in Language::ALL {
        let mut line = format!("{:<16}", language.name());
        for (name, kind) in KINDS {
            let word = match offered(language, kind) {
                Ok(()) => "yes",
                Err(reason) => {
                    reasons.push(format!("{} {name}: {reason}", language.name()));
                    "-"
                }
            };
            line.push_str(&format!("{word:<9}"));
        }
        lines.push(line.trim_end().to_owned());
    }
    if !reasons.is_empty() {
        lines.push(String::new());
        lines.extend(reasons);
    }
    lines.join("\n")
}
