//! Listing the kinds.

use peerloom::Result;
use peerloom::builtin;
use peerloom::config::{Delivery, General, keys};
use serde_json::{Value, json};

use crate::output::{say, say_json};

pub(super) fn run(json: bool) -> Result<()> {
    let kinds = builtin::kinds();
    let described = kinds.describe();
    let sections = [
        ("(top of the file)", "general keys", peerloom::config::schema_of::<General>()),
        ("[delivery]", "how messages are delivered", peerloom::config::schema_of::<Delivery>()),
    ];
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
        print_keys(kind.schema);
    }
    for (name, summary, schema) in &sections {
        say(&format!("{name}: {summary}"));
        print_keys(schema);
    }
    Ok(())
}

fn print_keys(schema: &Value) {
    let keys = keys(schema);
    if keys.is_empty() {
        say("    no keys");
    }
    for key in keys {
        say(&format!("    {} ({}, default {})", key.name, key.kind, key.default));
        say(&format!("        {}", key.documentation));
    }
    say("");
}
