//! What can't be a store's file: files of the folder that are the node's own, since a store in one of them would destroy
//! it, or be destroyed; and what is no file.

use std::fs::Metadata;
use std::os::unix::fs::FileTypeExt;
use std::path::{Component, Path, PathBuf};

use peerloom_core::kinds::{Settings, SettingsError};

use crate::folder::{BESIDE, OWN};

/// Longest path, in bytes: less than systems allow, for names that begin with it.
const LONGEST_PATH: usize = 1024;
/// Longest name of a file, in bytes: file systems allow 255, and stores make files with longer names beside theirs.
const LONGEST_NAME: usize = 240;

/// Whether settings of a store name what can't be its file, a file that is the node's own, or one that is about to become
/// one. Every text among the settings may be a path.
pub(super) fn clash(folder: &Path, settings: &Settings) -> Option<SettingsError> {
    let folder = resolved(folder);
    let mut paths = settings.iter().filter_map(|(key, value)| Some((key, value.as_str()?)));
    paths.find_map(|(key, text)| {
        if text.len() > LONGEST_PATH || text.contains('\0') {
            let message = format!("a path takes at most {LONGEST_PATH} bytes, and none that is zero");
            return Some(SettingsError::new(key.as_str(), message));
        }
        if key == "path"
            && let Some(message) = no_file(&folder, text)
        {
            return Some(SettingsError::new(key.as_str(), message));
        }
        let path = resolved(&folder.join(text));
        let name = path.file_name()?.to_string_lossy().to_lowercase();
        let own = OWN.into_iter().any(|own| name.strip_prefix(own).is_some_and(|rest| BESIDE.contains(&rest)));
        // Any store may come to have such a file beside it, also one of another kind.
        let beside = key == "path" && BESIDE.into_iter().any(|suffix| !suffix.is_empty() && name.ends_with(suffix));
        let taken = own || beside;
        let message = format!("`{text}` is a file that the node makes itself; take another name");
        (taken && path.parent() == Some(&folder)).then(|| SettingsError::new(key.as_str(), message))
    })
}

/// Why no store can be made at a path.
fn no_file(folder: &Path, text: &str) -> Option<String> {
    let path = folder.join(text);
    let found = path.metadata().ok();
    if matches!(text.rsplit('/').next(), Some("" | "." | "..")) || found.as_ref().is_some_and(Metadata::is_dir) {
        return Some(format!("`{text}` is a folder; name a file in it"));
    }
    if found.is_some_and(|found| !found.is_file() && !found.file_type().is_socket()) {
        return Some(format!("`{text}` is no file; name another one"));
    }
    let name = path.file_name().map_or(0, |name| name.len());
    (name > LONGEST_NAME).then(|| format!("a file's name takes at most {LONGEST_NAME} bytes, and this one has {name}"))
}

/// A path without `.`, `..` and links, as far as it exists.
fn resolved(path: &Path) -> PathBuf {
    if let Ok(found) = path.canonicalize() {
        return found;
    }
    match (path.parent(), path.components().next_back()) {
        (Some(parent), Some(Component::Normal(name))) if !parent.as_os_str().is_empty() => resolved(parent).join(name),
        (Some(parent), Some(Component::ParentDir)) => {
            let inside = resolved(parent);
            inside.parent().unwrap_or(&inside).to_path_buf()
        }
        (Some(parent), Some(Component::CurDir)) => resolved(parent),
        (Some(_), Some(name)) => std::env::current_dir().unwrap_or_default().join(name),
        _ => path.to_path_buf(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn own_files_are_no_place_for_a_store() {
        let base = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(base.path().join("sub")).expect("a folder");
        std::os::unix::fs::symlink("node.sock", base.path().join("link")).expect("a link");
        std::fs::write(base.path().join("node.sock"), "").expect("a file");
        let clashes = |path: &str| {
            let settings = Settings::from_iter([("path".to_owned(), Value::from(path))]);
            clash(base.path(), &settings).is_some()
        };
        let absolute = base.path().join("node.sock").display().to_string();
        for taken in [
            "node.sock",
            "./node.sock",
            "sub/../node.sock",
            "gone/../node.sock",
            "peerloom.toml",
            "PEERLOOM.TOML",
            "store.id",
            "store.id.new",
            "node.sock.lock",
            "node.sock-lock",
            "store.redb-journal",
            "store.sqlite-wal",
            "other-shm",
            "other.new",
            "link",
            &absolute,
        ] {
            assert!(clashes(taken), "{taken}");
        }
        for free in [
            "store.redb",
            "sub/node.sock",
            "node.sock2",
            "peerloom.toml.redb",
            "/tmp/x/store.id",
            "journal",
            "sub/a-wal",
        ] {
            assert!(!clashes(free), "{free}");
        }
        let long = "x".repeat(LONGEST_NAME + 1);
        for none in ["/", ".", "..", "sub", "sub/", "sub/.", "gone/", "gone/..", "/dev/null", &long] {
            assert!(clashes(none), "{none}");
        }
        for free in [&long[1..], "a.", "sub/..x", "./y"] {
            assert!(!clashes(free), "{free}");
        }
        assert!(clash(base.path(), &Settings::from_iter([("cache_mib".to_owned(), json!(7))])).is_none());
    }
}
