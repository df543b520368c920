//! Writes into a component, or a program, what a project says of it.
//!
//! Name and version are where other tools look for them; documentation, which toolchains drop, and
//! cases are in sections of our own, which `plugins::About` reads.

use std::collections::BTreeMap;

use anyhow::Context as _;
use serde_json::json;
use wasm_encoder::{CustomSection, Encode as _, Section as _};
use wasm_metadata::{AddMetadata, AddMetadataField};

use crate::config::ProjectConfig;
use crate::plugins::{
    CASES_SECTION, DESCRIPTION_SECTION, DOCS_SECTION, VERSION_SECTION, cases_to_json,
    without_sections,
};

/// The same file, with what is known of it, and with nothing that an earlier build has said.
pub(super) fn embed(
    wasm: &[u8],
    project: &ProjectConfig,
    docs: &BTreeMap<String, String>,
) -> anyhow::Result<Vec<u8>> {
    let mut metadata = AddMetadata::default();
    metadata.name = AddMetadataField::Set(project.name.clone());
    metadata.processed_by = vec![("rpchost".to_owned(), env!("CARGO_PKG_VERSION").to_owned())];
    let mut wasm = metadata
        .to_wasm(&without_sections(wasm))
        .context("its name cannot be written into the component")?;
    let docs = (!docs.is_empty()).then(|| json!(docs).to_string());
    let cases = (!project.cases.is_empty()).then(|| cases_to_json(&project.cases));
    let sections = [
        (VERSION_SECTION, project.version.clone()),
        (DESCRIPTION_SECTION, project.description.clone()),
        (DOCS_SECTION, docs),
        (CASES_SECTION, cases),
    ];
    for (name, text) in sections {
        let Some(text) = text else { continue };
        let section = CustomSection { name: name.into(), data: text.into_bytes().into() };
        wasm.push(section.id());
        section.encode(&mut wasm);
    }
    Ok(wasm)
}
