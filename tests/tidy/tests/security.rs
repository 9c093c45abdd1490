//! Each claim of `SECURITY.md` names a test that there is.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository")
}

/// Every source file, with its path inside the repository.
fn sources(folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if path.is_dir() {
            if !name.starts_with('.') && name != "target" {
                sources(&path, found);
            }
        } else if name.ends_with(".rs") {
            let shown = path.strip_prefix(root()).expect("inside").to_string_lossy().into_owned();
            found.push((shown, fs::read_to_string(&path).expect("text")));
        }
    }
}

/// The functions of tests: of files that are tests, and of what stands behind `#[cfg(test)]` in others.
fn tests(sources: &[(String, String)]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (path, text) in sources {
        let test = path.starts_with("tests/") || path.contains("/tests/") || text.contains("\n#![cfg(test)]\n");
        let code = if test { text.as_str() } else { text.split_once("#[cfg(test)]").map_or("", |(_, tests)| tests) };
        for rest in code.split("fn ").skip(1) {
            names.insert(rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default().to_owned());
        }
    }
    names
}

fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn each_claim_names_a_test() {
    let mut found = Vec::new();
    sources(&root(), &mut found);
    let tests = tests(&found);
    let page = fs::read_to_string(root().join("SECURITY.md")).expect("the page");
    let (mut claims, mut wrong) = (0, Vec::new());
    let mut in_claims = false;
    for line in page.lines() {
        in_claims = line.starts_with('|') && (in_claims || line == "| claim | tests |");
        let row = line.strip_prefix("| ").and_then(|row| row.strip_suffix(" |"));
        let Some((claim, backing)) = row.and_then(|row| row.split_once(" | ")) else { continue };
        if !in_claims || backing == "tests" {
            continue;
        }
        claims += 1;
        let names: Vec<_> = quoted(backing).filter(|name| !name.contains(['.', '/'])).collect();
        if names.is_empty() {
            wrong.push(format!("no test backs: {claim}"));
        }
        wrong.extend(
            names
                .iter()
                .filter(|name| !tests.contains(**name))
                .map(|name| format!("there is no test `{name}`: {claim}")),
        );
    }
    for file in quoted(&page).filter(|name| name.ends_with(".rs")) {
        if !found.iter().any(|(path, _)| path == file || path.ends_with(&format!("/{file}"))) {
            wrong.push(format!("there is no file `{file}`"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(claims > 35, "only {claims} claims were found");
}
