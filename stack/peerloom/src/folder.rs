//! A node's folder: the file, the store, and a note beside the store that says which one it is.

use std::fs;
use std::path::Path;

use data_encoding::HEXLOWER;
use peerloom_core::storage::DAMAGED_REMEDY;
use peerloom_core::wire::store::{META, meta};
use peerloom_core::{Error, ErrorKind, Result, Storage, private};

/// The file's name inside a node's folder.
pub const FILE_NAME: &str = "peerloom.toml";
/// The note's name: kind and instance of the store that belongs to the folder.
const NOTE: &str = "store.id";
/// The name of the socket at which a running node answers commands.
pub const SOCKET: &str = "node.sock";
/// The files of a folder that are the node's own, beside its store.
pub(crate) const OWN: [&str; 3] = [FILE_NAME, NOTE, SOCKET];
/// What names of files beside others end with: those of stores, locks, and files that are about to take another's place.
pub(crate) const BESIDE: [&str; 7] = ["", "-journal", "-wal", "-shm", "-lock", ".lock", ".new"];

fn error(kind: ErrorKind, message: String) -> Error {
    Error::new(kind, "folder", "open", message)
}

/// Refuses to open a store of another kind than the folder's.
pub(crate) fn check_kind(folder: &Path, kind: &str) -> Result<()> {
    match read(folder)? {
        Some((before, _)) if before != kind => {
            let message = format!(
                "{}: the folder holds a store of kind \"{before}\", the file says \"{kind}\"; set [storage] back to \"{before}\", and move it with `peerloom db copy --to {kind}` if you like",
                folder.display()
            );
            Err(error(ErrorKind::Invalid, message))
        }
        _ => Ok(()),
    }
}

/// Refuses a store that was exchanged for another, or an old copy of it: its keys would be used
/// twice. Writes the note where there is none yet.
pub(crate) fn check_instance(folder: &Path, kind: &str, storage: &dyn Storage) -> Result<()> {
    let instance = instance(storage)?;
    match read(folder)? {
        Some((_, noted)) if noted != instance => {
            let message = format!(
                "{}: the store is not the one that belongs to this folder; move that one back if you still have it as it was last used, else {DAMAGED_REMEDY}",
                folder.display()
            );
            Err(error(ErrorKind::Invalid, message))
        }
        Some(_) => Ok(()),
        // No identity is here yet: the store is empty, and may be any.
        None if instance.is_empty() => Ok(()),
        None => write(folder, kind, &instance),
    }
}

/// The folder's store is another one from now on, with the same contents.
pub(crate) fn note(folder: &Path, kind: &str, storage: &dyn Storage) -> Result<()> {
    write(folder, kind, &instance(storage)?)
}

/// Removes the files of a store that was never used.
pub(crate) fn remove_store(folder: &Path, name: &str) {
    for suffix in BESIDE {
        // What stays is in the way of nothing.
        let _ = fs::remove_file(folder.join(format!("{name}{suffix}")));
    }
}

fn instance(storage: &dyn Storage) -> Result<String> {
    Ok(HEXLOWER.encode(&storage.snapshot()?.get(META, meta::INSTANCE)?.unwrap_or_default()))
}

fn write(folder: &Path, kind: &str, instance: &str) -> Result<()> {
    private::replace(&folder.join(NOTE), format!("{kind}\n{instance}\n").as_bytes())
}

fn read(folder: &Path) -> Result<Option<(String, String)>> {
    let path = folder.join(NOTE);
    let Some(text) = private::read(&path)? else { return Ok(None) };
    let mut lines = text.lines().map(str::to_owned);
    let damaged = || error(ErrorKind::Malformed, format!("{}: it is cut off; {DAMAGED_REMEDY}", path.display()));
    lines.next().zip(lines.next()).map(Some).ok_or_else(damaged)
}
