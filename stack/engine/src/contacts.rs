//! Who this node talks to.

mod others;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use peerloom_core::wire::name::looks;
use peerloom_core::wire::store::{Contact, ContactDevice};
use peerloom_core::wire::{Address, DeviceCertificate, DeviceId, PeerRecord, PublicKey, SuiteId, UserId, limits};
use peerloom_core::{Error, ErrorKind, Result};
use peerloom_crypto_primitives::verify;

use crate::roles::LinkRole;
use others::Other;

/// What marks the beginning of a user id where a contact's name may stand.
pub const ID_MARK: char = '@';
/// Characters of a user id that name it: 80 bits, for which no attacker finds another key.
pub const ID_PREFIX: usize = 16;
/// Most contacts that an error lists.
const LISTED: usize = 10;

/// The contacts, as the delivery thread last wrote them; others read.
#[derive(Clone, Default)]
pub(crate) struct Contacts(Arc<RwLock<Book>>);

#[derive(Default)]
struct Book {
    by_user: HashMap<UserId, Contact>,
    devices: HashMap<DeviceId, Known>,
    /// Devices of no contact that may have a link.
    others: HashMap<DeviceId, Other>,
    /// Invitations that strangers may still use: when each expires, and the hash of its token.
    invitations: BTreeSet<(u64, [u8; 32])>,
    /// What the contacts' names look like; no two share a form.
    looks: HashMap<String, UserId>,
}

/// A device of a contact.
struct Known {
    user: UserId,
    key: PublicKey,
    /// Once the device proved that it is the user's.
    certificate: Option<DeviceCertificate>,
}

impl Known {
    /// Verified before it was stored; a store that was tampered with loses the device.
    fn new(user: UserId, device: &ContactDevice) -> Option<Self> {
        let certificate = device.certificate.as_ref().map(|signed| DeviceCertificate::open(signed, verify).ok());
        match (certificate, &device.invited) {
            (Some(certificate), _) => {
                let certificate = certificate.filter(|c| c.device == device.device && c.user == user)?;
                Some(Self { user, key: certificate.device_key.clone(), certificate: Some(certificate) })
            }
            (None, Some(invited)) if DeviceId::from_key(&invited.key) == device.device => {
                Some(Self { user, key: invited.key.clone(), certificate: None })
            }
            (None, _) => None,
        }
    }
}

impl Contacts {
    /// Takes these contacts in place of those known.
    pub(crate) fn replace(&self, contacts: Vec<Contact>) {
        let mut new = Book::default();
        contacts.into_iter().for_each(|contact| new.insert(contact));
        let mut book = self.write();
        new.invitations = std::mem::take(&mut book.invitations);
        new.others = std::mem::take(&mut book.others);
        *book = new;
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

    /// Whether a user is a contact.
    pub(crate) fn has(&self, user: &UserId) -> bool {
        self.read().by_user.contains_key(user)
    }

    /// The certificate of a device that proved whose it is, and may have a link.
    pub(crate) fn certificate(&self, device: &DeviceId) -> Option<DeviceCertificate> {
        let book = self.read();
        match book.other(device) {
            Some(other) => Some(other.certificate.clone()),
            None => book.devices.get(device)?.certificate.clone(),
        }
    }

    /// The key of a device that may have a link; a contact's may be known from an invitation alone.
    pub(crate) fn key(&self, device: &DeviceId) -> Option<PublicKey> {
        let book = self.read();
        let other = book.other(device).map(|other| other.certificate.device_key.clone());
        other.or_else(|| book.devices.get(device).map(|known| known.key.clone()))
    }

    /// What a device is, and its key, once it proved whose it is.
    pub(crate) fn proved(&self, device: &DeviceId) -> Option<(LinkRole, PublicKey)> {
        let book = self.read();
        if let Some(other) = book.other(device) {
            return Some((other.role, other.certificate.device_key.clone()));
        }
        let known = book.devices.get(device).filter(|known| known.certificate.is_some())?;
        Some((LinkRole::Contact, known.key.clone()))
    }

    /// Whether a device may have a link: it is a contact's, or would be, as an invitation says, or one of the others.
    pub(crate) fn knows(&self, device: &DeviceId) -> bool {
        let book = self.read();
        book.devices.contains_key(device) || book.others.contains_key(device)
    }

    /// The user whose device it is, or would be, as an invitation says.
    pub(crate) fn user_of(&self, device: &DeviceId) -> Option<UserId> {
        self.read().devices.get(device).map(|known| known.user)
    }

    /// A device of a contact, with what was last known of it.
    pub(crate) fn device(&self, device: &DeviceId) -> Option<(UserId, ContactDevice)> {
        let book = self.read();
        let user = book.devices.get(device)?.user;
        let known = book.by_user.get(&user)?.devices.iter().find(|d| d.device == *device)?;
        Some((user, known.clone()))
    }

    /// The ids of a user's devices.
    pub(crate) fn device_ids_of(&self, user: &UserId) -> Vec<DeviceId> {
        let book = self.read();
        book.by_user.get(user).into_iter().flat_map(|contact| &contact.devices).map(|d| d.device).collect()
    }

    /// The devices of a user.
    pub(crate) fn devices_of(&self, user: &UserId) -> Vec<ContactDevice> {
        self.read().by_user.get(user).map(|contact| contact.devices.clone()).unwrap_or_default()
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.read().by_user.len()
    }

    /// All devices that may have a link.
    pub(crate) fn device_ids(&self) -> Vec<DeviceId> {
        let book = self.read();
        book.devices.keys().chain(book.others.keys()).copied().collect()
    }

    /// All devices of all contacts, with what was last known of them.
    pub(crate) fn devices(&self) -> Vec<(UserId, ContactDevice)> {
        let book = self.read();
        book.by_user.values().flat_map(|c| c.devices.iter().map(|d| (c.user, d.clone()))).collect()
    }

    /// A name like `wanted` that no other contact has, nor one that looks like it: numbers make the difference.
    pub(crate) fn free_alias(&self, wanted: &str, user: &UserId) -> String {
        let book = self.read();
        let word = contact_word(wanted);
        let base = if word.is_empty() || word.parse::<UserId>().is_ok() { user.short() } else { word };
        let mut alias = base.clone();
        let mut number = 2;
        while looks(&alias).iter().any(|look| book.looks.get(look).is_some_and(|other| other != user)) {
            let suffix = format!("-{number}");
            let end = base.floor_char_boundary(limits::NAME.saturating_sub(suffix.len()));
            alias = format!("{}{suffix}", base.get(..end).unwrap_or_default());
            number += 1;
        }
        alias
    }

    /// The contact whose name a contact's would be without the number that makes the difference.
    pub(crate) fn namesake(&self, contact: &Contact) -> Option<Contact> {
        let (base, number) = contact.alias.rsplit_once('-')?;
        number.parse::<u32>().ok()?;
        let book = self.read();
        let other = looks(base).iter().find_map(|look| book.looks.get(look).copied())?;
        book.by_user.get(&other).filter(|other| other.user != contact.user).cloned()
    }

    /// The contact that a person means: a contact's exact name, a whole user id, or [`ID_MARK`] and at least
    /// [`ID_PREFIX`] characters of one.
    pub(crate) fn find(&self, name: &str) -> Result<Contact> {
        let error = |kind, message| Err(Error::new(kind, "contacts", "find", message));
        let book = self.read();
        if name.is_empty() {
            return error(ErrorKind::Invalid, format!("the contact's name is empty; {}", book.known()));
        }
        let shown: String = name.chars().take(limits::NAME).collect();
        let Some(prefix) = name.strip_prefix(ID_MARK) else {
            // No alias looks like an id.
            let found = match name.parse::<UserId>() {
                Ok(user) => book.by_user.get(&user),
                Err(_) => book.by_user.values().find(|c| c.alias == name),
            };
            return match found {
                Some(contact) => Ok(contact.clone()),
                None => error(ErrorKind::NotFound, format!("no contact is called `{shown}`; {}", book.meant(name))),
            };
        };
        if prefix.len() < ID_PREFIX {
            let message = format!(
                "after {ID_MARK} come at least {ID_PREFIX} characters of a user id: shorter ones can be forged; {}",
                book.meant(prefix)
            );
            return error(ErrorKind::Invalid, message);
        }
        let matching: Vec<&Contact> = book.beginning(prefix).collect();
        match matching.as_slice() {
            [contact] => Ok((*contact).clone()),
            [] => error(
                ErrorKind::NotFound,
                format!("no contact's user id begins with `{}`; {}", shown.trim_start_matches(ID_MARK), book.known()),
            ),
            several => error(
                ErrorKind::Invalid,
                format!("several user ids begin so, write more of it: {}", listed(several.iter().copied())),
            ),
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
        // Devices that the contact has no more belong to no contact, unless another contact has claimed one since.
        let before = self.by_user.get(&contact.user).into_iter().flat_map(|before| &before.devices);
        let gone = before.map(|known| known.device).filter(|id| !contact.devices.iter().any(|d| d.device == *id));
        for device in gone.collect::<Vec<_>>() {
            if self.devices.get(&device).is_some_and(|known| known.user == contact.user) {
                self.devices.remove(&device);
            }
        }
        for device in &contact.devices {
            if let Some(known) = Known::new(contact.user, device) {
                self.devices.insert(device.device, known);
            }
        }
        for look in self.by_user.get(&contact.user).map(|before| looks(&before.alias)).into_iter().flatten() {
            self.looks.remove(&look);
        }
        self.looks.extend(looks(&contact.alias).map(|look| (look, contact.user)));
        self.by_user.insert(contact.user, contact);
    }

    /// Contacts whose user id begins so.
    fn beginning(&self, prefix: &str) -> impl Iterator<Item = &Contact> {
        let prefix = prefix.to_ascii_lowercase();
        self.by_user.values().filter(move |c| c.user.to_string().starts_with(&prefix))
    }

    /// For an error: the contacts that may be meant by what is no contact's name, or all.
    fn meant(&self, name: &str) -> String {
        if name.is_empty() || name.len() > 2 * limits::NAME {
            return self.known();
        }
        let wanted = looks(name);
        let similar = |c: &&Contact| looks(&c.alias).iter().zip(&wanted).any(|(look, wanted)| look.starts_with(wanted));
        let mut meant: Vec<&Contact> = self.by_user.values().filter(similar).chain(self.beginning(name)).collect();
        meant.sort_by(|a, b| (&a.alias, &a.user).cmp(&(&b.alias, &b.user)));
        meant.dedup_by_key(|c| c.user);
        match meant.is_empty() {
            true => self.known(),
            false => format!("perhaps: {}", listed(meant.into_iter())),
        }
    }

    /// For an error: all contacts.
    fn known(&self) -> String {
        let mut all: Vec<&Contact> = self.by_user.values().collect();
        all.sort_by(|a, b| a.alias.cmp(&b.alias));
        match all.is_empty() {
            true => "there are no contacts yet; add one with `peerloom add LINK`".into(),
            false => format!("known: {}", listed(all.into_iter())),
        }
    }
}

/// A user's name as a contact's: one word in a shell, and without what names a user by id.
pub fn contact_word(name: &str) -> String {
    name.trim_start_matches(ID_MARK).replace(char::is_whitespace, "-")
}

/// Some contacts for an error, each with as much of its id as names it.
fn listed<'a>(contacts: impl ExactSizeIterator<Item = &'a Contact>) -> String {
    let more = contacts.len().saturating_sub(LISTED);
    let short = |user: &UserId| user.to_string().chars().take(ID_PREFIX).collect::<String>();
    let mut listed: Vec<String> =
        contacts.take(LISTED).map(|c| format!("{} ({ID_MARK}{})", c.alias, short(&c.user))).collect();
    if more > 0 {
        listed.push(format!("and {more} more, see `peerloom contacts`"));
    }
    listed.join(", ")
}

/// Where a device can be reached, as its newest record and a newer invitation say: a share of the places for each, since
/// the node can't know which of the two is right.
pub(crate) fn addresses(device: &ContactDevice) -> Vec<Address> {
    let recorded = record(device).map(|record| record.addresses).unwrap_or_default();
    let invited = device.invited.as_ref().map(|invited| invited.addresses.clone()).unwrap_or_default();
    let mut addresses = Vec::new();
    for place in 0..recorded.len().max(invited.len()) {
        for address in [invited.get(place), recorded.get(place)].into_iter().flatten() {
            if !addresses.contains(address) {
                addresses.push(address.clone());
            }
        }
    }
    addresses
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

#[cfg(test)]
mod tests {
    use peerloom_core::wire::name::clean_name;

    use super::*;

    fn contact(byte: u8, alias: &str) -> Contact {
        let user = UserId::from_bytes([byte; 32]);
        Contact { user, alias: alias.into(), devices: Vec::new(), added_at_ms: 0, token: None, list: None }
    }

    /// Adds a stranger who calls himself so; gives the name that he gets.
    fn add(contacts: &Contacts, byte: u8, name: &str) -> String {
        let alias = contacts.free_alias(&clean_name(name), &contact(byte, "").user);
        contacts.insert(contact(byte, &alias));
        alias
    }

    #[test]
    fn only_exact_names_and_marked_ids_name_a_contact() {
        let contacts = Contacts::default();
        for (byte, name) in [(1, "tom"), (2, "tina"), (3, "Mum")] {
            assert_eq!(add(&contacts, byte, name), name);
        }
        let id = contact(2, "").user.to_string();
        for meant in ["tina", &id, &id.to_uppercase(), &format!("@{id}"), &format!("@{}", &id[..ID_PREFIX])] {
            assert_eq!(contacts.find(meant).expect(meant).alias, "tina");
        }
        for wrong in [
            "",
            "t",
            "ti",
            "mum",
            "tina ",
            "@",
            "@t",
            "@tina",
            &id[..ID_PREFIX],
            &id[..51],
            &format!("@{}", &id[..ID_PREFIX - 1]),
            &format!("@{id}a"),
        ] {
            let error = contacts.find(wrong).expect_err(wrong);
            assert!(matches!(error.kind(), ErrorKind::Invalid | ErrorKind::NotFound), "{wrong}: {error}");
        }
        let message = contacts.find("t").expect_err("two").message().to_owned();
        assert!(message.contains("tina (@") && message.contains("tom (@") && !message.contains("Mum"), "{message}");
        assert!(contacts.find(&id[..8]).expect_err("unmarked").message().contains("perhaps: tina (@"));
        let message = contacts.find(&"x".repeat(5000)).expect_err("long").message().to_owned();
        assert!(message.len() < 500 && message.contains("known: Mum (@"), "{message}");
    }

    #[test]
    fn no_two_contacts_look_alike() {
        let contacts = Contacts::default();
        assert_eq!(add(&contacts, 1, "alice"), "alice");
        assert_eq!(add(&contacts, 1, "alice"), "alice", "it is her own name");
        for (byte, twin) in (2..).zip(["alice", "al\u{2063}ice", "ａｌｉｃｅ", "Alice", "а\u{200b}lice", "alice-2"])
        {
            let alias = add(&contacts, byte, twin);
            let number = alias.rsplit_once('-').expect("a number").1;
            assert!(number.parse::<u32>().is_ok(), "{alias}");
            let namesake = contacts.namesake(&contacts.find(&alias).expect("a contact"));
            assert!(namesake.expect("alice").alias.starts_with("alice"), "{alias}");
        }
        assert_eq!(contacts.namesake(&contacts.find("alice").expect("alice")), None);
        // What would name a user by id, nothing at all, and the longest name there may be.
        let id = contact(1, "").user.to_string();
        for (byte, name) in [(10, "@bob"), (11, &*id), (12, "@@"), (13, "\u{2063}")] {
            let alias = add(&contacts, byte, name);
            assert!(!alias.starts_with(ID_MARK) && alias.parse::<UserId>().is_err(), "{alias}");
            assert_eq!(contacts.find(&alias).expect("found").user, contact(byte, "").user);
        }
        assert_eq!(contacts.find(&id).expect("alice").alias, "alice");
        let long = "é".repeat(32);
        assert_eq!(add(&contacts, 20, &long), long);
        let second = add(&contacts, 21, &long);
        assert!(second.len() <= limits::NAME && second.ends_with("-2"), "{second}");
        assert_eq!(add(&contacts, 22, "room-1"), "room-1");
        assert_eq!(add(&contacts, 23, "room-3"), "room-3");
        assert_eq!(contacts.namesake(&contacts.find("room-3").expect("a room")), None);
    }
}
