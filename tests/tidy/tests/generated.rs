//! Parts of documents that come from elsewhere in the repository: so that adding an implementation touches no document.
//! `PEERLOOM_WRITE=1 cargo test -p peerloom-tidy` writes them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository")
}

/// The folders of layers' crates, primitives and registry server among them.
fn crates() -> Vec<String> {
    let mut found = Vec::new();
    for layer in ["transports", "discovery", "storage", "crypto"] {
        for entry in fs::read_dir(root().join(layer)).expect(layer) {
            let folder = entry.expect("an entry").path();
            if folder.join("Cargo.toml").exists() {
                found.push(folder.strip_prefix(root()).expect("inside").display().to_string());
            }
        }
    }
    found.sort();
    found
}

/// Compares a part of a document, between its markers, with what it has to be; or writes it.
fn check(document: &str, part: &str, expected: &str) {
    let path = root().join(document);
    let text = fs::read_to_string(&path).expect(document);
    let (before, rest) = text.split_once(&format!("<!-- generated: {part} -->\n")).expect("a beginning");
    let (found, after) = rest.split_once("<!-- end -->").expect("an end");
    if found == expected {
        return;
    }
    assert!(
        std::env::var_os("PEERLOOM_WRITE").is_some(),
        "{document}: `{part}` is out of date; PEERLOOM_WRITE=1 cargo test -p peerloom-tidy writes it:\n{expected}"
    );
    let written = format!("{before}<!-- generated: {part} -->\n{expected}<!-- end -->{after}");
    fs::write(&path, written).expect("the document is written");
}

/// A row for each crate: its manifest says what it is.
#[test]
fn the_architecture_has_a_row_for_each_crate_of_a_layer() {
    let mut table = String::from("| folder | crate | what is in it |\n|---|---|---|\n");
    for folder in crates() {
        let manifest = fs::read_to_string(root().join(&folder).join("Cargo.toml")).expect("text");
        let manifest: toml::Table = manifest.parse().expect("TOML");
        let package = |key: &str| manifest["package"][key].as_str().expect(key).to_owned();
        let what = package("description");
        table += &format!("| `{folder}` | `{}` | {} |\n", package("name"), what.trim_end_matches('.'));
    }
    check("ARCHITECTURE.md", "crates of layers", &table);
}

/// The rows of a section in all `MESSAGES.md`, in order; two crates may have the same message.
fn rows(section: &str) -> BTreeSet<String> {
    let mut rows = BTreeSet::new();
    for folder in crates() {
        let Ok(text) = fs::read_to_string(root().join(folder).join("MESSAGES.md")) else { continue };
        let sections = text.split("\n## ").filter(|part| part.starts_with(&format!("{section}\n")));
        rows.extend(sections.flat_map(str::lines).filter(|line| line.starts_with("| ")).map(str::to_owned));
    }
    rows.retain(|row| !row.starts_with("| check |") && !row.starts_with("| message |"));
    rows
}

#[test]
fn the_guide_has_the_messages_of_all_layers() {
    for (part, section, head) in [
        ("doctor", "Doctor", "| check | diagnostic | cause, and what to do |\n|---|---|---|\n"),
        ("log", "Log", "| message | cause, and what to do |\n|---|---|\n"),
    ] {
        let rows: String = rows(section).into_iter().map(|row| row + "\n").collect();
        assert!(rows.lines().count() > 5, "{section}: {rows}");
        check("docs/guides/troubleshooting.md", part, &format!("{head}{rows}"));
    }
}
