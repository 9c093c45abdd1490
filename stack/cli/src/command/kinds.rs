//! Listing the kinds.

use clap::Args;
use peerloom::config::{Delivery, General, keys};
use peerloom::{Layer, Result};
use serde_json::{Value, json};

use crate::output::{say, say_json};

#[derive(Debug, Args)]
pub(crate) struct Kinds {
    /// Print a JSON Schema of the file instead, for editors.
    #[arg(long)]
    pub(crate) schema: bool,
    /// Print the sections of docs/config.md instead.
    #[arg(long, conflicts_with = "schema")]
    pub(crate) markdown: bool,
}

pub(super) fn run(json: bool, form: &Kinds) -> Result<()> {
    let kinds = crate::kinds()?;
    let described = kinds.describe();
    let sections = [
        ("top of the file", "general keys", peerloom::config::schema_of::<General>()),
        ("`[delivery]`", "how messages are delivered", peerloom::config::schema_of::<Delivery>()),
    ];
    if form.schema {
        say(&format!("{:#}", peerloom::config::file_schema(&kinds)));
        return Ok(());
    }
    if form.markdown {
        sections.iter().for_each(|(name, summary, schema)| markdown(name, summary, false, schema));
        described.iter().for_each(|kind| {
            let header = if kind.layer == Layer::Storage { "[storage]" } else { &format!("[[{}]]", kind.layer) };
            markdown(&format!("`{header}` kind `{}`", kind.name), kind.summary, kind.wraps, kind.schema);
        });
        return Ok(());
    }
    if json {
        let kinds = described
            .iter()
            .map(|k| json!({ "layer": k.layer, "kind": k.name, "summary": k.summary, "keys": keys(k.schema) }));
        let sections = sections
            .iter()
            .map(|(name, summary, schema)| json!({ "section": name, "summary": summary, "keys": keys(schema) }));
        say_json(&json!({ "kinds": kinds.collect::<Vec<_>>(), "sections": sections.collect::<Vec<_>>() }));
        return Ok(());
    }
    for kind in &described {
        say(&format!("{} kind = \"{}\": {}", kind.layer, kind.name, kind.summary));
        if kind.wraps {
            say("    inner (table, required)");
            say(&format!("        The {} that it wraps: a `kind` and its keys.", kind.layer));
        }
        print_keys(kind.schema);
    }
    for (name, summary, schema) in &sections {
        say(&format!("{name}: {summary}"));
        print_keys(schema);
    }
    Ok(())
}

/// A section of docs/config.md.
fn markdown(title: &str, summary: &str, wraps: bool, schema: &Value) {
    let keys = keys(schema);
    let mut initial = summary.chars();
    let summary: String = initial.next().into_iter().flat_map(char::to_uppercase).chain(initial).collect();
    let keyless = if keys.is_empty() && !wraps { " No settings." } else { "" };
    say(&format!("## {title}\n\n{summary}.{keyless}\n"));
    if keyless.is_empty() {
        say("| key | type | default | what |\n|---|---|---|---|");
        if wraps {
            say("| `inner` | table | required | What it wraps: a `kind` of the same layer, and its keys. |");
        }
        for key in keys {
            say(&format!("| `{}` | {} | `{}` | {} |", key.name, key.kind, key.default, key.documentation));
        }
        say("");
    }
}

fn print_keys(schema: &Value) {
    let keys = keys(schema);
    if keys.is_empty() {
        say("    no settings");
    }
    for key in keys {
        say(&format!("    {} ({}, default {})", key.name, key.kind, key.default));
        say(&format!("        {}", key.documentation));
    }
    say("");
}
