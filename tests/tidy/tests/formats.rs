//! What `docs/formats.md` repeats of the `.proto` files.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository")
}

/// A row for each message of a `.proto` file: its fields by number, with their types.
fn rows(proto: &str) -> Vec<String> {
    let mut rows = Vec::new();
    let (mut message, mut fields) = (String::new(), Vec::new());
    let mut depth = 0;
    for line in proto.lines().map(|line| line.split("//").next().unwrap_or_default().trim()) {
        if let Some(name) = line.strip_prefix("message ") {
            (message, fields) = (name.trim_end_matches(" {").to_owned(), Vec::new());
        }
        depth += line.matches('{').count();
        if let Some((left, number)) =
            line.strip_suffix(';').and_then(|line| line.split_once(" = ")).filter(|_| depth > 0)
        {
            let number: u32 = number.parse().expect(line);
            let words: Vec<&str> = left.split(' ').collect();
            let (repeated, kind, name) = match words[..] {
                ["repeated", kind, name] => (true, kind, name),
                [kind, name] => (false, kind, name),
                _ => panic!("{line}"),
            };
            let more = match (repeated, kind) {
                (false, _) => "",
                (true, "uint32" | "uint64") => ", repeated and packed",
                (true, _) => ", repeated",
            };
            fields.push((number, format!("{number} `{name}`: {kind}{more}")));
        }
        let closes = line.matches('}').count();
        depth -= closes;
        if closes > 0 && depth == 0 {
            fields.sort();
            let list: Vec<_> = fields.iter().map(|(_, text)| text.as_str()).collect();
            rows.push(format!("| `{message}` | {} |", list.join("; ")));
        }
    }
    rows
}

#[test]
fn the_table_of_wire_types_is_that_of_the_proto_files() {
    let folder = root().join("proto/wire/proto");
    let read = |name: &str| fs::read_to_string(folder.join(name)).expect(name);
    let mut names: Vec<String> = fs::read_dir(&folder)
        .expect("a folder")
        .map(|e| e.expect("an entry").file_name().into_string().expect("a name"))
        .collect();
    names.sort();
    // The store's records are local.
    let expected: Vec<String> =
        names.iter().filter(|name| *name != "store.proto").flat_map(|name| rows(&read(name))).collect();
    assert!(expected.len() > 15, "{expected:?}");
    let page = fs::read_to_string(root().join("docs/formats.md")).expect("the page");
    let section = page.split("\n## ").find(|section| section.starts_with("Wire types\n")).expect("the section");
    let found: Vec<&str> = section.lines().filter(|line| line.starts_with("| `")).collect();
    assert!(found == expected, "the table under `## Wire types` has to be:\n{}", expected.join("\n"));
}
