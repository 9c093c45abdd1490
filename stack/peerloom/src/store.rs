//! A folder's store by itself, without a node: to look at it, check it, and move it to another kind.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use peerloom_core::Passphrase;
use peerloom_core::kinds::{INNER, Settings, StorageContext};
use peerloom_core::storage::Checked;
use peerloom_core::{Error, ErrorKind, Kinds, Layer, Result, Storage, private};
use peerloom_engine::TableSize;
use serde_json::Value;

use crate::config::{self, Choice, Config, FILE_NAME};
use crate::folder;

/// Opens the store that a configuration chooses, in a folder that only its user can change. After a crash it
/// repairs itself first, which takes as long as its file is large.
pub(crate) fn open(config: &Config) -> Result<Arc<dyn Storage>> {
    private::check_folder(&config.folder)?;
    let choice = chosen(config)?;
    folder::check_kind(&config.folder, &choice.full_kind())?;
    build(choice, &config.folder, config.passphrase.clone(), config.kinds())
}

fn chosen(config: &Config) -> Result<&Choice> {
    let none = || Error::new(ErrorKind::Invalid, "store", "open", "the configuration has no store");
    config.of(Layer::Storage).next().ok_or_else(none)
}

fn build(choice: &Choice, folder: &Path, passphrase: Option<Passphrase>, kinds: &Kinds) -> Result<Arc<dyn Storage>> {
    let context = StorageContext { folder: folder.to_path_buf(), passphrase };
    kinds.stores.build(&choice.kind, &choice.settings, &context).map(Checked::over)
}

/// An opened store that no node runs on. Its calls wait for the disk: not for async code.
pub struct Store {
    storage: Arc<dyn Storage>,
    folder: PathBuf,
    kind: String,
    passphrase: Option<Passphrase>,
    kinds: Kinds,
}

impl Store {
    /// Opens the store of a configuration; `InUse` while a node runs on the folder.
    pub fn open(config: &Config) -> Result<Self> {
        let (storage, kind) = (open(config)?, chosen(config)?.full_kind());
        folder::check_instance(&config.folder, &kind, &*storage)?;
        Ok(Self {
            storage,
            folder: config.folder.clone(),
            kind,
            passphrase: config.passphrase.clone(),
            kinds: config.kinds().clone(),
        })
    }

    /// Its kind, with those that it wraps: `vault/redb`.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// Its rows, for tools that read or write them directly; see `docs/formats.md`.
    pub fn rows(&self) -> &dyn Storage {
        &*self.storage
    }

    /// Its tables.
    pub fn tables(&self) -> Result<Vec<TableSize>> {
        peerloom_engine::table_sizes(&*self.storage)
    }

    /// Checks every checksum, record and signature; returns the rows checked, and what is wrong.
    /// `progress` gets the rows so far.
    pub fn check(&self, progress: impl FnMut(u64)) -> Result<(u64, Vec<String>)> {
        peerloom_engine::check_store(&*self.storage, progress)
    }

    /// Changes the passphrase of an encrypted store.
    pub fn change_passphrase(&self, passphrase: &str) -> Result<()> {
        self.storage.change_passphrase(&Passphrase::new(passphrase))
    }

    /// Copies everything to a store of another kind, written like [`Store::kind`], and makes it the
    /// folder's. The old store stays where it is and must not be used again: it would seal with spent
    /// keys. Returns the rows copied. `progress` gets the rows so far.
    pub fn move_to(self, kind: &str, progress: impl FnMut(u64)) -> Result<u64> {
        let invalid = |message: String| Error::new(ErrorKind::Invalid, "store", "copy", message);
        if kind == self.kind {
            return Err(invalid(format!("the store is of kind `{kind}` already")));
        }
        // A file of its own: earlier stores of the kind may still be there.
        let mut path = format!("store.{}", kind.replace('/', "."));
        let mut number = 1;
        while self.folder.join(&path).exists() {
            number += 1;
            path = format!("store-{number}.{}", kind.replace('/', "."));
        }
        let mut settings = Settings::new();
        for (depth, name) in kind.rsplit('/').enumerate() {
            let mut outer = Settings::from_iter([("kind".to_owned(), Value::from(name))]);
            if depth > 0 {
                outer.insert(INNER.into(), settings.into());
            } else {
                outer.insert("path".into(), path.as_str().into());
            }
            settings = outer;
        }
        let file = self.folder.join(FILE_NAME);
        let text = config::replace_storage(&private::read_shared(&file)?.text, &settings)?;
        let after = Config::parse(&text, &file.display().to_string(), &self.folder, &[], &self.kinds)?;
        let copied = build(chosen(&after)?, &self.folder, self.passphrase.clone(), after.kinds())
            .and_then(|target| Ok((peerloom_engine::copy_store(&*self.storage, &*target, progress)?, target)));
        let (rows, target) = copied.inspect_err(|_| folder::remove_store(&self.folder, &path))?;
        // First the note: with the old file it refuses both stores, and its message says the remedy.
        folder::note(&self.folder, kind, &*target)?;
        private::replace(&file, text.as_bytes())?;
        Ok(rows)
    }
}
