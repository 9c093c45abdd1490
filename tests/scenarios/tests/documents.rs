//! What the README and the guides tell people to type is typed here; their files and quotations are
//! checked. (Their Rust is compiled and run by `src/lib.rs`.)

mod common;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::ok;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The README and every guide.
fn documents() -> Vec<(String, String)> {
    let guides = fs::read_dir(root().join("docs/guides")).expect("the guides");
    let guides = guides.map(|entry| entry.expect("an entry").path());
    let mut found: Vec<PathBuf> = guides.chain([root().join("README.md")]).collect();
    found.sort();
    assert!(found.len() >= 5, "{found:?}");
    let read = |path: PathBuf| (path.display().to_string(), fs::read_to_string(path).expect("text"));
    found.into_iter().map(read).collect()
}

/// The fenced blocks of a document in one language.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once("```") {
        let (block, next) = after.split_once("\n```").expect("an end of the block");
        let (name, body) = block.split_once('\n').expect("a body");
        if name == language {
            found.push(body);
        }
        rest = next;
    }
    found
}

/// What a reader does beside typing: terminals of their own for nodes, Ctrl-C, and patience.
const READER: &str = r#"
set -eu -o pipefail
nodes=()
node() {
    peerloom "$@" > /dev/null &
    nodes+=($!)
    until [ -S "$2/node.sock" ]; do kill -0 $!; sleep 0.05; done
}
end() {
    for node in "${nodes[@]}"; do kill -INT "$node"; wait "$node"; done
    nodes=()
}
trap 'for node in "${nodes[@]}"; do kill "$node" 2>/dev/null; done' EXIT
"#;

/// The lines that a reader types, as a script.
fn script(text: &str) -> String {
    let mut script = String::from(READER);
    for line in blocks(text, "sh").into_iter().flat_map(str::lines) {
        let typed = match line.strip_prefix("cargo run --release -- ") {
            Some(arguments) => format!("peerloom {arguments}"),
            // This test is one itself.
            None if line.starts_with("cargo ") => continue,
            None if line == "# Ctrl-C" => "end".into(),
            // It runs on, and ends with the nodes.
            None if line.ends_with(" &") => format!("{line}\nnodes+=($!)\nsleep 1"),
            None if line.starts_with("peerloom -C ") && line.split(' ').nth(3) == Some("run") => {
                line.replacen("peerloom", "node", 1)
            }
            None => line.to_owned(),
        };
        script += &format!("echo {} >&2\n{typed}\n", shell_quote(line));
    }
    // The port that people are told may be taken here.
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    (script + "end\n").replace("127.0.0.1:8080", &format!("127.0.0.1:{port}"))
}

fn shell_quote(text: &str) -> String {
    format!("'+ {}'", text.replace('\'', r"'\''"))
}

#[test]
fn every_command_does_what_is_said() {
    for (name, text) in documents() {
        let base = tempfile::tempdir().expect("a folder");
        let (bin, work) = (base.path().join("bin"), base.path().join("work"));
        fs::create_dir(&bin).and_then(|()| fs::create_dir(&work)).expect("folders");
        let program = env!("CARGO_BIN_EXE_peerloom-under-test");
        std::os::unix::fs::symlink(program, bin.join("peerloom")).expect("a link");
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").expect("a path"));
        let log = base.path().join("log");
        let child = Command::new("timeout")
            .args(["120", "bash", "-c", &script(&text)])
            .current_dir(&work)
            .env("PATH", path)
            .env_remove("PEERLOOM_PASSPHRASE")
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).expect("a log"))
            .process_group(0)
            .status();
        let said = fs::read_to_string(&log).expect("a log");
        assert!(child.expect("bash runs").success(), "{name}:\n{said}");
    }
}

#[test]
fn every_file_is_a_good_one() {
    let base = tempfile::tempdir().expect("a folder");
    let mut schema: serde_json::Value = serde_json::from_str(&ok(base.path(), &["kinds", "--schema"])).expect("JSON");
    // Some show a part of a file.
    schema.as_object_mut().and_then(|schema| schema.remove("required")).expect("required tables");
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    let mut count = 0;
    for (name, text) in documents() {
        for block in blocks(&text, "toml") {
            count += 1;
            let file: serde_json::Value = toml::from_str(block).expect(&name);
            let problems: Vec<String> = validator.iter_errors(&file).map(|e| e.to_string()).collect();
            assert!(problems.is_empty(), "{name}: {problems:?}\n{block}");
        }
    }
    assert!(count >= 2, "{count}");
}

#[test]
fn every_quotation_is_verbatim() {
    let mut sources = Vec::new();
    for folder in ["minimal/src", "custom-transport/src", "custom-transport/tests"] {
        for entry in fs::read_dir(root().join("examples").join(folder)).expect("sources") {
            sources.push(flat(&fs::read_to_string(entry.expect("an entry").path()).expect("text")));
        }
    }
    for (name, text) in documents() {
        for block in blocks(&text, "rust,ignore") {
            assert!(sources.iter().any(|source| source.contains(&flat(block))), "{name} quotes\n{block}");
        }
    }
}

/// Lines without their indentation.
fn flat(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join("\n")
}
