//! Who may change or read a file or folder, and what to do where others may.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use crate::terminal::shell_word;
use crate::{Error, ErrorKind, Result};

/// Bits of a mode by which others than the owner may read, write or enter.
pub(super) const OTHERS: u32 = 0o077;
/// Bits of a mode by which others than the owner may write.
pub(super) const OTHERS_WRITE: u32 = 0o022;
/// In a folder with this bit each user removes and renames only what is its own.
const STICKY: u32 = 0o1000;

pub(super) fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

pub(super) fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Refuses a folder in which others could put another file in the place of ours.
pub(super) fn check_place(path: &Path) -> Result<()> {
    let folder = parent(path);
    let found = match fs::metadata(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let message = format!("{}: the folder does not exist; create it", shown(folder));
            return Err(error(ErrorKind::NotFound, message).with_source(e));
        }
        found => found.map_err(|e| failed(folder, e))?,
    };
    let guarded = found.mode() & OTHERS_WRITE == 0 || found.mode() & STICKY != 0;
    if guarded { Ok(()) } else { Err(open_folder(folder, &found)) }
}

/// Refuses what belongs to another user than this one and root.
pub(super) fn check_owner(path: &Path, found: &Metadata) -> Result<()> {
    let (owner, us) = (found.uid(), user());
    if owner == us || owner == 0 {
        return Ok(());
    }
    if us == 0 || is_of_system(path) {
        let advice = format!("user {owner} owns it; run this program as that user, or use another file or folder");
        return Err(invalid(path, &advice));
    }
    let word = word(path);
    Err(invalid(path, &format!("user {owner} owns it, and this program runs as user {us}; do `chown {us} {word}`")))
}

pub(super) fn check_file(path: &Path, found: &Metadata) -> Result<()> {
    check_owner(path, found)?;
    if found.mode() & OTHERS == 0 { Ok(()) } else { Err(exposed(path, found)) }
}

/// Refuses what no operator means by a file; a pipe may be one.
pub(super) fn check_named(path: &Path, found: &Metadata) -> Result<()> {
    let kind = found.file_type();
    if found.is_dir() {
        return Err(invalid(path, "it is a folder; name a file in it"));
    }
    if kind.is_char_device() || kind.is_block_device() || kind.is_socket() {
        return Err(invalid(path, "it is no file; name another one"));
    }
    Ok(())
}

/// The same for a file that the node made itself.
pub(super) fn check_own(path: &Path, found: &Metadata) -> Result<()> {
    match found.is_file() {
        true => check_file(path, found),
        false => Err(invalid(path, "it is no file; name another one")),
    }
}

pub(super) fn exposed(path: &Path, found: &Metadata) -> Error {
    let what = if found.mode() & OTHERS_WRITE == 0 { "read it" } else { "write to it" };
    let mode = found.mode() & 0o777;
    let remedy = match is_of_system(path) {
        true => "it belongs to the system; name another file".to_owned(),
        false => format!("if it is this node's own, do `chmod 600 {}`, else name another file", word(path)),
    };
    invalid(path, &format!("other users can {what} (its mode is {mode:03o}); {remedy}"))
}

pub(super) fn open_folder(path: &Path, found: &Metadata) -> Error {
    let word = word(path);
    let remedy = match found.mode() & STICKY != 0 || is_of_system(path) {
        true => "it is shared by all users; use another folder".to_owned(),
        false => format!("if it is this node's own, do `chmod go-w {word}`, or `chmod 700 {word}`; else use another"),
    };
    invalid(path, &format!("other users can put files into this folder; {remedy}"))
}

/// Whether the machine needs a file or folder as it is, so that no remedy may change it: the root, what stands in it,
/// and everything in the folders of the system.
fn is_of_system(path: &Path) -> bool {
    const FOLDERS: [&str; 10] = ["bin", "boot", "dev", "etc", "lib", "lib64", "proc", "sbin", "sys", "usr"];
    // Where the name leads; what can't be resolved is taken for the system's.
    let Ok(path) = fs::canonicalize(path) else { return true };
    let mut names = path.iter().skip(1);
    let top = names.next().and_then(|name| name.to_str());
    names.next().is_none() || top.is_some_and(|top| FOLDERS.contains(&top))
}

pub(super) fn link(path: &Path) -> Error {
    invalid(path, "a symbolic link stands there, and is not followed; remove it, or name the file that it leads to")
}

/// A path as one word of a POSIX shell.
fn word(path: &Path) -> String {
    let bytes = path.as_os_str().as_bytes();
    // Not an option.
    let here: &[u8] = if bytes.starts_with(b"-") { b"./" } else { b"" };
    shell_word(&[here, bytes].concat())
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

pub(super) fn failed(path: &Path, cause: io::Error) -> Error {
    use io::ErrorKind as Io;
    let (kind, advice) = match cause.kind() {
        // What `O_NOFOLLOW` answers.
        _ if cause.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => return link(path),
        Io::NotFound => (ErrorKind::NotFound, "it does not exist"),
        Io::AlreadyExists => (ErrorKind::AlreadyExists, "it is there already"),
        Io::NotADirectory => {
            (ErrorKind::Invalid, "a file stands on the way where a folder is expected; check the path")
        }
        Io::PermissionDenied => (ErrorKind::Storage, "no permission; check who owns it and its folder"),
        Io::StorageFull | Io::QuotaExceeded => (ErrorKind::Full, "the disk is full; free some space and try again"),
        Io::ReadOnlyFilesystem => (ErrorKind::Storage, "the file system can only be read; use another folder"),
        _ => (ErrorKind::Storage, "it can't be used; see the cause"),
    };
    error(kind, format!("{}: {advice}", shown(path))).with_source(cause)
}

pub(super) fn invalid(path: &Path, advice: &str) -> Error {
    error(ErrorKind::Invalid, format!("{}: {advice}", shown(path)))
}

fn error(kind: ErrorKind, message: String) -> Error {
    Error::new(kind, "files", "open", message)
}
