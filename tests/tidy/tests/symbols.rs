//! Where a document names a symbol beside a file, the symbol is in the file: "`on_send` ([`driver/accepting.rs`](…))".

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository")
}

/// Every text file that a document may name, with its path inside the repository.
fn files(folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if path.is_dir() {
            if !name.starts_with('.') && name != "target" {
                files(&path, found);
            }
        } else if [".rs", ".proto", ".md"].iter().any(|end| name.ends_with(end)) {
            let shown = path.strip_prefix(root()).expect("inside").to_string_lossy().into_owned();
            found.push((shown, fs::read_to_string(&path).expect("text")));
        }
    }
}

/// A document on one line, without its blocks of code.
fn flat(text: &str) -> String {
    let mut code = false;
    let prose = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        !code && !fence
    });
    prose.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ")
}

fn is_file(span: &str) -> bool {
    (span.ends_with(".rs") || span.ends_with(".proto")) && !span.contains([' ', '*', '{'])
}

/// The symbol's own name: `on_send` of `Turn::on_send(…)`.
fn name(span: &str) -> Option<&str> {
    let name = span.split('(').next()?.rsplit([':', '.']).next()?;
    let good = !is_file(span) && !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_');
    good.then_some(name)
}

fn has_word(text: &str, word: &str) -> bool {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|found| found == word)
}

/// Pairs of a file, as it is named or linked, and a symbol beside it.
fn pairs(text: &str) -> Vec<(String, String)> {
    // Every other part is a code span.
    let parts: Vec<&str> = text.split('`').collect();
    let mut found = Vec::new();
    for at in (1..parts.len()).step_by(2).filter(|at| is_file(parts[*at])) {
        let link = parts.get(at + 1).and_then(|rest| rest.strip_prefix("](")).and_then(|rest| rest.split_once(')'));
        let (file, before, after) = match link {
            Some((target, after)) => (target, parts[at - 1].strip_suffix('[').unwrap_or_default(), after),
            None => (parts[at], parts[at - 1], parts.get(at + 1).copied().unwrap_or_default()),
        };
        let mut symbols = Vec::new();
        if [" (", " in ", ") | "].contains(&before) && at > 1 {
            let mut place = at - 2;
            symbols.push(parts[place]);
            while place > 2 && parts[place - 1] == ", " {
                place -= 2;
                symbols.push(parts[place]);
            }
        }
        let ends = |rest: &&str| rest.starts_with([')', ',']) || rest.starts_with(" |");
        if after == ", " && parts.get(at + 3).is_some_and(ends) {
            symbols.push(parts[at + 2]);
        }
        let named = symbols.into_iter().filter_map(name);
        found.extend(named.map(|name| (file.split('#').next().unwrap_or_default().to_owned(), name.to_owned())));
    }
    found
}

#[test]
fn symbols_are_in_the_files_beside_them() {
    let mut all = Vec::new();
    files(&root(), &mut all);
    let (mut count, mut wrong) = (0, Vec::new());
    for (document, text) in all.iter().filter(|(path, _)| path.ends_with(".md") && path != "CHANGELOG.md") {
        for (file, name) in pairs(&flat(text)) {
            count += 1;
            // A link begins at its document, a name anywhere.
            let end = file.trim_start_matches("../").trim_start_matches("./");
            let named = |path: &&(String, String)| path.0 == end || path.0.ends_with(&format!("/{end}"));
            if !all.iter().filter(named).any(|(_, text)| has_word(text, &name)) {
                wrong.push(format!("{document}: `{name}` is not in {file}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(count > 25, "only {count} pairs were found");
}

#[test]
fn pairs_are_found_in_the_forms_that_documents_use() {
    let text = "`Engine::send` ([`engine.rs`](stack/engine.rs)), in `a`. ([`b/c.rs`](b/c.rs), `on_c`) `d()` in [`d.rs`](d.rs). \
                | `e.rs`, `on_e` | `F`, `G` (`f.rs`). It is `H`, not [`i.rs`](i.rs).";
    let expected = [
        ("stack/engine.rs", "send"),
        ("b/c.rs", "on_c"),
        ("d.rs", "d"),
        ("e.rs", "on_e"),
        ("f.rs", "G"),
        ("f.rs", "F"),
    ];
    assert_eq!(pairs(text), expected.map(|(file, name)| (file.to_owned(), name.to_owned())));
}
