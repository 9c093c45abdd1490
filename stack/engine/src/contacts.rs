//! Who this node talks to.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use peerloom_core::wire::store::{Contact, ContactDevice};
use peerloom_core::wire::{ConversationId, DeviceCertificate, DeviceId, PeerRecord, SuiteId, UserId};
use peerloom_core::{Error, ErrorKind, Result};
use peerloom_crypto_primitives::verify;

/// The contacts, as the delivery thread last wrote them; others read.
#[derive(Clone, Default)]
pub(crate) struct Contacts(Arc<RwLock<Book>>);

#[derive(Default)]
struct Book {
    by_user: HashMap<UserId, Contact>,
    devices: HashMap<DeviceId, DeviceCertificate>,
    conversations: HashMap<ConversationId, UserId>,
    /// Invitations that strangers may still use: when each expires, and the hash of its token.
    invitations: BTreeSet<(u64, [u8; 32])>,
}

impl Contacts {
    /// Takes these contacts in place of those known.
    pub(crate) fn replace(&self, contacts: Vec<Contact>) {
        let mut book = Book { invitations: std::mem::take(&mut self.write().invitations), ..Book::default() };
        contacts.into_iter().for_each(|contact| book.insert(contact));
        *self.write() = book;
    }

    /// Takes these invitations in place of those known.
    pub(crate) fn replace_invitations(&self, invitations: BTreeSet<(u64, [u8; 32])>) {
        self.write().invitations = invitations;
    }

    /// An invitation can be used until it expires.
    pub(crate) fn open_invitation(&self, expires_at_ms: u64, token_hash: [u8; 32]) {
        self.write().invitations.insert((expires_at_ms, token_hash));
    }

    /// An invitation is used up.
    pub(crate) fn close_invitation(&self, expires_at_ms: u64, token_hash: [u8; 32]) {
        self.write().invitations.remove(&(expires_at_ms, token_hash));
    }

    /// Whether some invitation can be used.
    pub(crate) fn awaits_strangers(&self, now_ms: u64) -> bool {
        self.read().invitations.last().is_some_and(|(expires_at_ms, _)| *expires_at_ms >= now_ms)
    }

    pub(crate) fn insert(&self, contact: Contact) {
        self.write().insert(contact);
    }

    pub(crate) fn all(&self) -> Vec<Contact> {
        let mut all: Vec<_> = self.read().by_user.values().cloned().collect();
        all.sort_by(|a, b| a.alias.cmp(&b.alias));
        all
    }

    pub(crate) fn by_user(&self, user: &UserId) -> Option<Contact> {
        self.read().by_user.get(user).cloned()
    }

    pub(crate) fn by_conversation(&self, conversation: &ConversationId) -> Option<Contact> {
        let book = self.read();
        book.by_user.get(book.conversations.get(conversation)?).cloned()
    }

    /// The certificate of a device that belongs to a contact.
    pub(crate) fn certificate(&self, device: &DeviceId) -> Option<DeviceCertificate> {
        self.read().devices.get(device).cloned()
    }

    /// Whether a device belongs to a contact.
    pub(crate) fn knows(&self, device: &DeviceId) -> bool {
        self.read().devices.contains_key(device)
    }

    /// Whether a conversation is the one with this device's user.
    pub(crate) fn shares(&self, device: &DeviceId, conversation: &ConversationId) -> bool {
        let book = self.read();
        let user = book.devices.get(device).map(|c| c.user);
        user.is_some() && book.conversations.get(conversation).copied() == user
    }

    /// A device of a contact, with what was last known of it.
    pub(crate) fn device(&self, device: &DeviceId) -> Option<(UserId, ContactDevice)> {
        let book = self.read();
        let user = book.devices.get(device)?.user;
        let known = book.by_user.get(&user)?.devices.iter().find(|d| d.device == *device)?;
        Some((user, known.clone()))
    }

    /// The devices of the contact that a conversation is with.
    pub(crate) fn devices_in(&self, conversation: &ConversationId) -> Vec<DeviceId> {
        let book = self.read();
        let contact = book.conversations.get(conversation).and_then(|user| book.by_user.get(user));
        contact.into_iter().flat_map(|c| &c.devices).map(|d| d.device).collect()
    }

    /// All devices of all contacts.
    pub(crate) fn device_ids(&self) -> Vec<DeviceId> {
        self.read().devices.keys().copied().collect()
    }

    /// All devices of all contacts, with what was last known of them.
    pub(crate) fn devices(&self) -> Vec<(UserId, ContactDevice)> {
        let book = self.read();
        book.by_user.values().flat_map(|c| c.devices.iter().map(|d| (c.user, d.clone()))).collect()
    }

    /// A name like `wanted` that no other contact has.
    pub(crate) fn free_alias(&self, wanted: &str, user: &UserId) -> String {
        let book = self.read();
        let base = if wanted.is_empty() { user.short() } else { wanted.replace(char::is_whitespace, "-") };
        // Nor may a name look like somebody's id: a person who types an id means that one.
        let taken =
            |alias: &str| book.by_user.values().any(|c| c.user != *user && (c.alias == alias || means(&c.user, alias)));
        let mut alias = base.clone();
        let mut number = 2;
        while taken(&alias) {
            alias = format!("{base}-{number}");
            number += 1;
        }
        alias
    }

    /// The contact that a person means: an alias, or the beginning of a user id (six characters or more).
    pub(crate) fn find(&self, name: &str) -> Result<Contact> {
        let book = self.read();
        let by_id = name.parse().ok().and_then(|user: UserId| book.by_user.get(&user));
        if let Some(contact) = by_id.or_else(|| book.by_user.values().find(|c| c.alias == name)) {
            return Ok(contact.clone());
        }
        let mut matching = book.by_user.values().filter(|c| means(&c.user, name));
        match (matching.next(), matching.next()) {
            (Some(contact), None) => Ok(contact.clone()),
            (Some(_), Some(_)) => {
                let message = format!("`{name}` begins several user ids; write more of it");
                Err(Error::new(ErrorKind::Invalid, "contacts", "find", message))
            }
            (None, _) => {
                let mut names: Vec<_> = book.by_user.values().map(|c| c.alias.as_str()).collect();
                names.sort_unstable();
                let known = if names.is_empty() {
                    "there are no contacts yet; add one with `peerloom add <link>`".into()
                } else {
                    format!("known: {}", names.join(", "))
                };
                Err(Error::new(
                    ErrorKind::NotFound,
                    "contacts",
                    "find",
                    format!("no contact is called `{name}`; {known}"),
                ))
            }
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Book> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Book> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn insert(&mut self, contact: Contact) {
        for device in &contact.devices {
            // Verified before it was stored; a store that was tampered with loses the device.
            if let Ok(certificate) = DeviceCertificate::open(&device.certificate, verify) {
                self.devices.insert(device.device, certificate);
            }
        }
        self.conversations.insert(contact.conversation, contact.user);
        self.by_user.insert(contact.user, contact);
    }
}

/// Whether a name is the beginning of a user's id, long enough to be meant so.
fn means(user: &UserId, name: &str) -> bool {
    name.len() >= 6 && user.to_string().starts_with(name)
}

/// The addresses in a device's newest record.
pub(crate) fn addresses(device: &ContactDevice) -> Vec<peerloom_wire::Address> {
    record(device).map(|record| record.addresses).unwrap_or_default()
}

/// The crypto suites in a device's newest record.
pub(crate) fn suites(device: &ContactDevice) -> Vec<SuiteId> {
    record(device).map(|record| record.suites).unwrap_or_default()
}

/// A device's newest record. It was verified when it was taken in.
fn record(device: &ContactDevice) -> Option<PeerRecord> {
    let signed = device.record.as_ref()?;
    PeerRecord::open(signed, |_, _, _| true).ok().map(|(record, _)| record)
}
