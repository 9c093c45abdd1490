//! A node's folder: the file, the store, and a note beside the store that says which one it is.

use std::fs;
use std::path::Path;

use data_encoding::HEXLOWER;
use peerloom_core::wire::store::{META, meta};
use peerloom_core::{Error, ErrorKind, Result, Storage};

/// The note's name: kind and instance of the store that belongs to the folder.
const NOTE: &str = "store.id";

fn error(kind: ErrorKind, message: String) -> Error {
    Error::new(kind, "folder", "open", message)
}

/// Refuses to open a store of another kind than the folder's.
pub(crate) fn check_kind(folder: &Path, kind: &str) -> Result<()> {
    match read(folder)? {
        Some((before, _)) if before != kind => {
            let message = format!(
                "{}: the folder holds a store of kind \"{before}\", the file says \"{kind}\"; set storage.kind back to \"{before}\", and move it with `peerloom db copy --to {kind}` if you like",
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
    let instance = storage.snapshot()?.get(META, meta::INSTANCE)?.unwrap_or_default();
    let instance = HEXLOWER.encode(&instance);
    match read(folder)? {
        Some((_, noted)) if noted != instance => {
            let message = format!(
                "{}: the store is not the one that belongs to this folder; put the right one back, or begin with an empty folder: a restored store must not be used, since it would seal with spent keys",
                folder.display()
            );
            Err(error(ErrorKind::Invalid, message))
        }
        Some(_) => Ok(()),
        None => write(folder, kind, &instance),
    }
}

/// The folder's store is of another kind from now on; its contents are the same.
pub(crate) fn note_kind(folder: &Path, kind: &str) -> Result<()> {
    let Some((_, instance)) = read(folder)? else { return Ok(()) };
    write(folder, kind, &instance)
}

fn write(folder: &Path, kind: &str, instance: &str) -> Result<()> {
    let failed =
        |e| error(ErrorKind::Storage, format!("{}: the folder can't be written to", folder.display())).source(e);
    fs::write(folder.join(NOTE), format!("{kind}\n{instance}\n")).map_err(failed)
}

fn read(folder: &Path) -> Result<Option<(String, String)>> {
    let path = folder.join(NOTE);
    match fs::read_to_string(&path) {
        Ok(text) => {
            let mut lines = text.lines().map(str::to_owned);
            let damaged =
                || error(ErrorKind::Malformed, format!("{}: it is cut off; restore it from a copy", path.display()));
            lines.next().zip(lines.next()).map(Some).ok_or_else(damaged)
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(error(ErrorKind::Storage, format!("{}: it can't be read", path.display())).source(e)),
    }
}
