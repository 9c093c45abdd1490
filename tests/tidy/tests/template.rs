//! Every implementation has the same files: `lib.rs` registers its kind, `config.rs` has its settings, and the file
//! named after the contract has the contract's `impl`.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository")
}

/// Folders of layers: with the name of the file and the traits that it implements one of.
const LAYERS: [(&str, &str, &[&str]); 4] = [
    ("transports", "transport.rs", &["Transport", "StreamTransport"]),
    ("discovery", "discovery.rs", &["Discovery"]),
    ("storage", "storage.rs", &["Storage"]),
    ("crypto", "crypto.rs", &["Crypto"]),
];

/// No layers of a node.
const OTHERS: [&str; 2] = ["crypto/primitives", "discovery/registry-server"];

fn sources(folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else {
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            found.push((name, fs::read_to_string(&path).expect("text")));
        }
    }
}

#[test]
fn implementations_follow_the_template() {
    let (mut wrong, mut count) = (Vec::new(), 0);
    for (layer, contract, traits) in LAYERS {
        for entry in fs::read_dir(root().join(layer)).expect(layer) {
            let folder = entry.expect("an entry").path();
            let shown = folder.strip_prefix(root()).expect("inside").display().to_string();
            if OTHERS.contains(&shown.as_str()) || !folder.join("Cargo.toml").exists() {
                continue;
            }
            count += 1;
            let mut files = Vec::new();
            sources(&folder.join("src"), &mut files);
            let text = |name: &str| files.iter().find(|(file, _)| file == name).map_or("", |(_, text)| text.as_str());
            let lib = text("lib.rs");
            if !lib.contains("pub fn register(kinds: &mut Kinds)") {
                wrong.push(format!("{shown}: src/lib.rs has no `pub fn register(kinds: &mut Kinds)`"));
            }
            for word in ["struct ", "enum ", "trait ", "impl "] {
                if lib.lines().any(|line| line.trim_start_matches("pub ").starts_with(word)) {
                    wrong.push(format!("{shown}: src/lib.rs registers only; move its `{word}` to a file of its own"));
                }
            }
            if !traits.iter().any(|name| text(contract).contains(&format!("impl {name} for"))) {
                wrong.push(format!("{shown}: src/{contract} doesn't implement {}", traits.join(" or ")));
            }
            for (name, text) in &files {
                if text.contains("impl KindConfig for") && name != "config.rs" {
                    wrong.push(format!("{shown}: settings stand in src/config.rs, not in {name}"));
                }
            }
            let test = fs::read_to_string(folder.join("tests/conformance.rs")).unwrap_or_default();
            if !test.contains("peerloom_conformance::") {
                wrong.push(format!("{shown}: tests/conformance.rs doesn't run the suite of the contract"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(count >= 10, "only {count} implementations were found");
}
