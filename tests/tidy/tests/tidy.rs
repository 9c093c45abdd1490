//! The invariants of `ARCHITECTURE.md` that a program can check.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository")
}

/// Every file of the repository, without what is built or hidden.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if path.is_dir() {
            if !name.starts_with('.') && name != "target" {
                files(&path, found);
            }
        } else {
            found.push(path);
        }
    }
}

fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    files(&root(), &mut found);
    found.retain(|p| p.extension().is_some_and(|e| e == "rs"));
    found.into_iter().map(|p| (p.clone(), fs::read_to_string(p).expect("text"))).collect()
}

/// The dependencies of a crate, without those of its tests.
fn dependencies(folder: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(root().join(folder).join("Cargo.toml")).expect(folder);
    let manifest: toml::Table = text.parse().expect(folder);
    let table = manifest.get("dependencies").and_then(toml::Value::as_table).cloned().unwrap_or_default();
    table.keys().cloned().collect()
}

fn crates_in(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(root().join(folder)).expect(folder);
    let with_manifest = entries.filter_map(Result::ok).filter(|e| e.path().join("Cargo.toml").exists());
    with_manifest.map(|e| format!("{folder}/{}", e.file_name().to_string_lossy())).collect()
}

#[test]
fn invariant_1_proto_knows_no_runtime_socket_file_or_clock() {
    let forbidden = ["tokio", "quinn", "redb", "async-trait", "futures-util", "rand", "tracing", "socket2"];
    for folder in crates_in("proto") {
        let found = dependencies(&folder);
        assert!(forbidden.iter().all(|f| !found.contains(*f)), "{folder}: {found:?}");
    }
    for (path, text) in sources()
        .iter()
        .filter(|(p, _)| p.starts_with(root().join("proto")) && p.components().any(|c| c.as_os_str() == "src"))
    {
        for word in ["std::fs", "std::net", "std::thread", "Instant::now", "SystemTime"] {
            assert!(!text.contains(word), "{}: {word}", path.display());
        }
    }
}

#[test]
fn invariant_2_implementations_depend_on_core_and_primitives_alone() {
    // A registry and its client speak one protocol.
    let allowed = ["peerloom-core", "peerloom-crypto-primitives", "peerloom-registry-protocol"];
    for layer in ["transports", "discovery", "storage", "crypto"] {
        for folder in crates_in(layer).into_iter().filter(|f| f != "crypto/primitives") {
            let ours = dependencies(&folder).into_iter().filter(|d| d.starts_with("peerloom"));
            let wrong: Vec<_> = ours.filter(|d| !allowed.contains(&d.as_str())).collect();
            assert!(wrong.is_empty(), "{folder} depends on {wrong:?}");
        }
    }
}

#[test]
fn invariant_3_the_engine_names_no_implementation() {
    let ours: Vec<_> = dependencies("stack/engine").into_iter().filter(|d| d.starts_with("peerloom")).collect();
    assert_eq!(ours, ["peerloom-core", "peerloom-crypto-primitives", "peerloom-delivery", "peerloom-wire"]);
}

#[test]
fn invariant_4_only_builtin_lists_the_kinds() {
    let layers = ["transports", "discovery", "storage", "crypto"];
    // The registry server is no layer of a node.
    let others = ["crypto/primitives", "discovery/registry-server"];
    let folders: Vec<String> = layers.iter().flat_map(|l| crates_in(l)).filter(|f| !others.contains(&&**f)).collect();
    let names: Vec<String> = folders
        .iter()
        .map(|folder| {
            let manifest: toml::Table =
                fs::read_to_string(root().join(folder).join("Cargo.toml")).expect("text").parse().expect("TOML");
            manifest["package"]["name"].as_str().expect("a name").replace('-', "_")
        })
        .collect();
    let builtin = fs::read_to_string(root().join("stack/peerloom/src/builtin.rs")).expect("builtin.rs");
    for name in &names {
        assert!(builtin.contains(&format!("{name}::register")), "{name} is not registered");
    }
    for (path, text) in sources() {
        let registers = names.iter().any(|name| text.contains(&format!("{name}::register(")));
        assert!(!registers || path.ends_with("builtin.rs"), "{} registers kinds", path.display());
    }
}

#[test]
fn invariant_6_nothing_unsafe_and_no_panic_on_outside_bytes() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("text");
    assert!(manifest.contains("unsafe_code = \"forbid\""));
    let mut folders = Vec::new();
    for layer in ["proto", "stack", "transports", "discovery", "storage", "crypto", "tests", "examples"] {
        folders.extend(crates_in(layer));
    }
    for folder in folders {
        let text = fs::read_to_string(root().join(&folder).join("Cargo.toml")).expect("text");
        // An example of work outside the workspace has lints of its own.
        let lints = if text.contains("[workspace]") { "unsafe_code = \"forbid\"" } else { "[lints]\nworkspace = true" };
        assert!(text.contains(lints), "{folder} doesn't take the lints");
    }
    // Code that sees bytes from outside, up to its tests.
    for (path, text) in sources() {
        let shown = path.strip_prefix(root()).expect("inside").display().to_string();
        let tests = shown.contains("/tests/")
            || shown.contains("/benches/")
            || shown.starts_with("tests/")
            || shown.starts_with("examples/")
            || shown.starts_with("fuzz/")
            || text.contains("\n#![cfg(test)]\n");
        if tests || shown.ends_with("build.rs") {
            continue;
        }
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        // Examples in comments are tests.
        let code: String = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        for word in [".unwrap()", ".expect("] {
            assert!(!code.contains(word), "{shown} has {word}");
        }
    }
}

#[test]
fn house_style() {
    for (path, text) in sources() {
        let shown = path.strip_prefix(root()).expect("inside").display().to_string();
        assert!(
            !shown.ends_with("/mod.rs") || shown.contains("/tests/common/"),
            "{shown}: write module.rs beside module/"
        );
        let lines = text.lines().count();
        assert!(lines <= 560, "{shown} has {lines} lines: two subjects?");
        assert!(text.starts_with("//!") || text.starts_with("#!"), "{shown} doesn't say what it is");
        for word in ["todo!(", "unimplemented!(", "dbg!(", "FIX\u{4d}E"] {
            assert!(!text.contains(word) || shown.starts_with("tests/tidy"), "{shown} has {word}");
        }
    }
}

#[test]
fn documents_lead_somewhere() {
    let mut found = Vec::new();
    files(&root(), &mut found);
    for path in found.iter().filter(|p| p.extension().is_some_and(|e| e == "md")) {
        let text = fs::read_to_string(path).expect("text");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") || target.contains(' ') || target.starts_with("mailto:") {
                continue;
            }
            let place = path.parent().expect("a folder").join(target);
            assert!(place.exists(), "{}: {link} leads nowhere", path.display());
        }
    }
}

/// Every message that the link layer logs is in the guide, and so is every thing that doctor looks at.
#[test]
fn troubleshooting_knows_every_message() {
    let guide = fs::read_to_string(root().join("docs/guides/troubleshooting.md")).expect("the guide");
    let rooms = ["transports", "discovery", "stack/engine/src/net", "stack/secured"];
    let (mut count, mut missing) = (0, Vec::new());
    for (path, text) in sources() {
        let shown = path.strip_prefix(root()).expect("inside").to_string_lossy().into_owned();
        // An implementation has its rows beside it; the guide's are generated from them.
        let own = shown.split("/src/").next().map(|folder| root().join(folder).join("MESSAGES.md"));
        let own = own.and_then(|own| fs::read_to_string(own).ok());
        let (place, rows) = match &own {
            Some(own) => ("MESSAGES.md", own),
            None => ("the guide", &guide),
        };
        let server =
            shown.starts_with("discovery/registry-server") || shown.contains("/tests/") || shown.contains("bench");
        if server || !rooms.iter().any(|room| shown.starts_with(room)) {
            continue;
        }
        let logged = ["warn!(", "info!(", "debug!("].into_iter().flat_map(|name| text.split(name).skip(1));
        let found = ["Diagnostic::bad(", "Diagnostic::note(", "Diagnostic::good("];
        let found = found.into_iter().flat_map(|name| text.split(name).skip(1));
        // The text is the call's last string; a diagnostic's check its first.
        let call = |rest: &str| rest.split(");").next().unwrap_or_default().to_owned();
        let strings = |call: String| call.split('"').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
        let messages = logged
            .filter_map(|rest| strings(call(rest)).pop())
            .filter(|text| !text.contains('{'))
            .map(|text| format!("| {text} |"));
        let checks =
            found.filter_map(|rest| strings(call(rest)).into_iter().next()).map(|text| format!("| `{text}` |"));
        for row in messages.chain(checks) {
            count += 1;
            if !rows.contains(&row) {
                missing.push(format!("{shown}: {place} lacks {row}"));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
    assert!(count > 40, "only {count} messages were found");
}
