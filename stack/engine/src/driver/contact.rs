//! Contacts, invitations, and the links to contacts' devices.

use std::collections::BTreeSet;

use bytes::Bytes;
use peerloom_core::wire::name::clean_name;
use peerloom_core::wire::store::{
    CONTACTS, Contact, ContactDevice, INVITATIONS, META, OutstandingInvitation, Record, meta,
};
use peerloom_core::wire::{
    ConversationId, DeviceCertificate, DeviceId, Frame, Invitation, PeerRecord, Signed, UserId, context,
};
use peerloom_core::{Error, ErrorKind, KeyRange, Result};
use peerloom_crypto_primitives::{sha256, verify};
use rand::Rng;
use tracing::info;

use super::Turn;
use super::state::TimerKey;
use crate::clock::system_ms;
use crate::event::Event;
use crate::identity::chosen_name;
use crate::store::Txn;

/// Most invitations that may be outstanding at once.
const MAX_INVITATIONS: usize = 10_000;

/// The outstanding invitations: when each expires, and the hash of its token.
pub(super) fn open_invitations(txn: &Txn<'_>) -> Result<BTreeSet<(u64, [u8; 32])>> {
    let mut open = BTreeSet::new();
    for (key, invitation) in txn.sound_records::<OutstandingInvitation>(INVITATIONS, &KeyRange::all())? {
        let damaged = |_| Error::new(ErrorKind::Malformed, "store", "read", "an invitation's key is damaged");
        open.insert((invitation.expires_at_ms, key.as_ref().try_into().map_err(damaged)?));
    }
    Ok(open)
}

impl Turn<'_> {
    /// Makes an invitation around this device's current record.
    pub(crate) fn invite(&mut self, ttl_ms: u64, uses: u32) -> Result<Signed> {
        self.refuse_if_restored("invite")?;
        let error = |message: &str| Err(Error::new(ErrorKind::Invalid, "engine", "invite", message));
        let Some(record) = self.state.record.clone() else {
            return error("this node doesn't listen yet, so nobody could reach it; start it first");
        };
        if uses == 0 || ttl_ms == 0 {
            return error("an invitation is for at least one use and some time");
        }
        self.forget_old_invitations()?;
        let mut token = [0; 16];
        self.state.rng.fill_bytes(&mut token);
        let expires_at_ms = system_ms().saturating_add(ttl_ms);
        let row = OutstandingInvitation { expires_at_ms, uses_left: uses };
        let hash = sha256(&[&token]);
        self.txn.put(INVITATIONS, hash.to_vec(), row.encode());
        self.state.contacts.open_invitation(expires_at_ms, hash);
        let invitation = Invitation { record, token, expires_at_ms, name: clean_name(&self.state.own.name) };
        Ok(self.state.own.key.sign_object(context::INVITATION, invitation.encode()))
    }

    fn forget_old_invitations(&mut self) -> Result<()> {
        let now = system_ms();
        let open = open_invitations(&self.txn)?;
        for (expires_at_ms, hash) in open.iter().take_while(|(expires_at_ms, _)| *expires_at_ms < now) {
            self.txn.delete(INVITATIONS, hash.to_vec());
            self.state.contacts.close_invitation(*expires_at_ms, *hash);
        }
        if open.iter().filter(|(expires_at_ms, _)| *expires_at_ms >= now).count() >= MAX_INVITATIONS {
            let message = "too many invitations are outstanding; wait until some expire";
            return Err(Error::new(ErrorKind::Overloaded, "engine", "invite", message));
        }
        Ok(())
    }

    /// Adds the contact that an invitation comes from. Adding a contact again renews what is known
    /// of it.
    pub(crate) fn add_contact(&mut self, signed: &Signed) -> Result<Contact> {
        let (invitation, record, certificate) = Invitation::open(signed, verify).map_err(|cause| {
            let cause = Error::from(cause);
            let message = "the link has been changed, or comes from a newer version; ask for it again";
            Error::new(cause.kind(), "engine", "add a contact", message).source(cause)
        })?;
        let error = |kind, message: &str| Err(Error::new(kind, "engine", "add a contact", message));
        if record.network != self.state.own.network {
            return error(ErrorKind::Invalid, "the invitation is for another network; compare `network` in both files");
        }
        if certificate.user == self.state.own.user {
            return error(ErrorKind::Invalid, "this is your own invitation; give it to somebody else");
        }
        if invitation.expires_at_ms < system_ms() {
            return error(ErrorKind::Invalid, "the invitation has expired; ask for a new one");
        }
        // To a known contact as well, until the next link is up: it may have lost its store.
        let token = Some(invitation.token);
        self.upsert(&certificate, record.certificate.clone(), Some(invitation.record), &invitation.name, token)
    }

    /// Adds the user whose devices' records a discovery found.
    pub(crate) fn add_found(&mut self, records: &[Signed]) -> Result<Contact> {
        let error = |kind, message: &str| Error::new(kind, "engine", "add a contact", message);
        let mut added = None;
        for signed in records {
            let (record, certificate) = PeerRecord::open(signed, verify)?;
            if certificate.user == self.state.own.user {
                return Err(error(ErrorKind::Invalid, "this is your own id; give it to somebody else"));
            }
            let contact = self.upsert(&certificate, record.certificate.clone(), Some(signed.clone()), "", None)?;
            added = Some(contact);
        }
        added.ok_or_else(|| error(ErrorKind::NotFound, "no record of the user was found"))
    }

    /// Decides whether a device that dials may come in, and makes it a contact if it carries an
    /// invitation of ours.
    pub(crate) fn authorize(
        &mut self,
        certificate: &DeviceCertificate,
        signed: &Signed,
        token: Option<[u8; 16]>,
        name: &str,
    ) -> Result<bool> {
        if self.state.contacts.certificate(&certificate.device).is_some() {
            return Ok(true);
        }
        if self.state.standing.is_restored() {
            return Ok(false);
        }
        let Some(token) = token else { return Ok(false) };
        let hash = sha256(&[&token]);
        let key = Bytes::from(hash.to_vec());
        let Some(mut invitation) = self.txn.sound_record::<OutstandingInvitation>(INVITATIONS, &key)? else {
            return Ok(false);
        };
        if invitation.expires_at_ms < system_ms()
            || invitation.uses_left == 0
            || certificate.user == self.state.own.user
        {
            return Ok(false);
        }
        invitation.uses_left -= 1;
        match invitation.uses_left {
            0 => {
                self.txn.delete(INVITATIONS, key);
                self.state.contacts.close_invitation(invitation.expires_at_ms, hash);
            }
            _ => self.txn.put(INVITATIONS, key, invitation.encode()),
        }
        let contact = self.upsert(certificate, signed.clone(), None, name, None)?;
        info!(alias = contact.alias, "an invitation was used");
        self.effects.event(Event::ContactAdded { user: contact.user, alias: contact.alias });
        Ok(true)
    }

    fn upsert(
        &mut self,
        certificate: &DeviceCertificate,
        signed: Signed,
        record: Option<Signed>,
        name: &str,
        token: Option<[u8; 16]>,
    ) -> Result<Contact> {
        self.refuse_if_restored("add a contact")?;
        let (user, device) = (certificate.user, certificate.device);
        let mut contact = self.state.contacts.by_user(&user).unwrap_or_else(|| Contact {
            user,
            alias: self.state.contacts.free_alias(&clean_name(name), &user),
            devices: Vec::new(),
            added_at_ms: system_ms(),
            conversation: ConversationId::direct(&self.state.own.network, &self.state.own.user, &user),
            token: None,
        });
        match contact.devices.iter_mut().find(|d| d.device == device) {
            Some(known) => {
                let sequence = |r: &Signed| PeerRecord::open(r, verify).map_or(0, |(record, _)| record.sequence);
                let before = known.record.as_ref().map_or(0, sequence);
                // An invitation may be older than what the device has told since.
                known.record = record.filter(|r| sequence(r) > before).or(known.record.take());
            }
            None => contact.devices.push(ContactDevice {
                device,
                certificate: signed,
                record,
                last_seen_ms: 0,
                restored: None,
            }),
        }
        contact.token = token.or(contact.token);
        self.store_contact(contact.clone());
        if !self.state.conversations.contains_key(&contact.conversation) {
            self.state.load_conversation(&self.txn, contact.conversation, self.now)?;
        }
        self.choose_suite_again(contact.conversation)?;
        self.effects.want_link(device);
        Ok(contact)
    }

    /// Gives a contact another name, or one like it if another contact's looks like that.
    pub(crate) fn rename(&mut self, user: &UserId, alias: &str) -> Result<String> {
        let alias = chosen_name(alias, "rename a contact")?;
        let Some(mut contact) = self.state.contacts.by_user(user) else {
            return Err(Error::new(ErrorKind::NotFound, "contacts", "rename", "there is no such contact"));
        };
        contact.alias = self.state.contacts.free_alias(&alias, user);
        self.store_contact(contact.clone());
        Ok(contact.alias)
    }

    fn store_contact(&mut self, contact: Contact) {
        self.txn.put(CONTACTS, contact.user.as_bytes().to_vec(), contact.encode());
        self.state.contacts.insert(contact);
    }

    /// A device tells its newest record.
    pub(crate) fn on_record(&mut self, device: DeviceId, signed: Signed) -> Result<()> {
        let (record, certificate) = PeerRecord::open(&signed, verify)?;
        if certificate.device != device || record.network != self.state.own.network {
            return Err(Error::new(ErrorKind::Unauthenticated, "engine", "take a record", "it is another device's"));
        }
        let Some(mut contact) = self.state.contacts.by_user(&certificate.user) else {
            return Ok(());
        };
        let Some(known) = contact.devices.iter_mut().find(|d| d.device == device) else {
            return Ok(());
        };
        let newer = known
            .record
            .as_ref()
            .and_then(|r| PeerRecord::open(r, verify).ok())
            .is_none_or(|(r, _)| r.sequence < record.sequence);
        if newer {
            let id = contact.conversation;
            known.record = Some(signed);
            self.store_contact(contact);
            self.choose_suite_again(id)?;
            if self.resume(id, device, false) {
                self.prepare_session(id)?;
            }
        }
        Ok(())
    }

    /// This device listens at new addresses: its record says so from now on.
    pub(crate) fn set_record(&mut self, mut record: PeerRecord) -> Result<Signed> {
        let key = Bytes::from_static(meta::RECORD_SEQUENCE);
        // Any higher one will do, should the last be lost.
        let last = match self.txn.get(META, &key) {
            Err(error) if error.kind() == ErrorKind::Damaged => system_ms(),
            stored => stored?.and_then(|v| v.as_ref().try_into().ok()).map_or(0, u64::from_be_bytes),
        };
        record.sequence = last + 1;
        self.txn.put(META, key, record.sequence.to_be_bytes().to_vec());
        let signed = self.state.own.key.sign_object(context::PEER_RECORD, record.encode());
        self.state.record = Some(signed.clone());
        let up: Vec<DeviceId> = self.state.up.iter().copied().collect();
        up.iter().for_each(|device| self.effects.control(*device, &Frame::Record(signed.clone())));
        Ok(signed)
    }

    /// A link to a device came up, or another one took over.
    pub(super) fn on_link_up(&mut self, device: DeviceId) {
        // News may be late or out of order; the links themselves are not.
        if !self.state.links.is_up(&device) {
            return self.on_link_down(device, "the link is closed");
        }
        let user = self.state.contacts.certificate(&device).map(|certificate| certificate.user);
        if let Some(mut contact) = user.and_then(|user| self.state.contacts.by_user(&user)) {
            contact.token = None;
            if let Some(known) = contact.devices.iter_mut().find(|d| d.device == device) {
                known.last_seen_ms = system_ms();
            }
            self.store_contact(contact);
        }
        self.begin_link(device);
    }

    /// Reports that a device is linked, and shows it what it has to know. Writes nothing.
    fn begin_link(&mut self, device: DeviceId) {
        let Some(certificate) = self.state.contacts.certificate(&device) else {
            return;
        };
        if self.state.up.insert(device) {
            if self.state.up.len() == 1 {
                self.effects.event_of_link(Event::Online);
            }
            self.effects.event_of_link(Event::PeerUp { user: certificate.user, device });
        }
        if let Some(record) = self.state.record.clone().filter(|_| !self.state.standing.is_restored()) {
            self.effects.control(device, &Frame::Record(record));
        }
        let Some(contact) = self.state.contacts.by_user(&certificate.user) else {
            return;
        };
        let id = contact.conversation;
        self.state.touched.insert(TimerKey::Outbox(id));
        if let Some(conversation) = self.state.conversations.get_mut(&id) {
            conversation.outbox.on_link_replaced(&device, self.state.links.has_shown(&device));
            self.state.ready.insert((id, device));
        }
        self.show_held(device, id);
    }

    /// The store failed, and works again: news of links was lost, and so may be what followed from it. Each link
    /// counts as if it had just come up; where nothing was shown yet, it is made again, since that may be lost.
    pub(super) fn look_at_links(&mut self) {
        self.state.links.reset_unshown();
        for device in self.state.up.clone() {
            self.on_link_down(device, "the link is closed");
        }
        for device in self.state.links.up() {
            self.begin_link(device);
        }
    }

    /// The last link to a device went down.
    pub(super) fn on_link_down(&mut self, device: DeviceId, reason: &str) {
        if self.state.links.is_up(&device) {
            return;
        }
        let was_up = self.state.up.remove(&device);
        let Some(certificate) = self.state.contacts.certificate(&device) else {
            return;
        };
        if was_up {
            self.effects.event_of_link(Event::PeerDown { user: certificate.user, device, reason: reason.into() });
            if self.state.up.is_empty() {
                self.effects.event_of_link(Event::Offline);
            }
        }
        if let Some(contact) = self.state.contacts.by_user(&certificate.user)
            && let Some(conversation) = self.state.conversations.get_mut(&contact.conversation)
            && (was_up || conversation.outbox.is_up(&device))
        {
            conversation.outbox.on_link_down(&device, self.now, &mut self.state.rng);
            self.state.touched.insert(TimerKey::Outbox(contact.conversation));
        }
    }
}
