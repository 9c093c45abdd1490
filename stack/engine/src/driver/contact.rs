//! Contacts, invitations, and the links to contacts' devices.

use std::collections::BTreeSet;

use bytes::Bytes;
use peerloom_core::wire::name::clean_name;
use peerloom_core::wire::store::{
    CONTACTS, Contact, ContactDevice, INVITATIONS, Invited, META, OutstandingInvitation, Record, meta,
};
use peerloom_core::wire::{
    DeviceCertificate, DeviceId, DiscoveryItem, Frame, Invitation, OpenItem, PeerRecord, Refusal, Signed, UserId,
    context, limits,
};
use peerloom_core::{Error, ErrorKind, KeyRange, Result};
use peerloom_crypto_primitives::{sha256, verify};
use rand::Rng;
use tracing::info;

use super::Turn;
use super::devices::{has_no_room, is_revoked};
use super::state::TimerKey;
use crate::clock::system_ms;
use crate::event::Event;
use crate::identity::chosen_name;
use crate::net::Answer;
use crate::roles::LinkRole;
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

/// A device that proved whose it is.
pub(super) fn proven(certificate: &DeviceCertificate, signed: Signed, record: Option<Signed>) -> ContactDevice {
    let device = certificate.device;
    ContactDevice { device, certificate: Some(signed), invited: None, record, last_seen_ms: 0, restored: None }
}

impl Turn<'_> {
    /// Makes an invitation that names this device and its current addresses.
    pub(crate) fn invite(&mut self, ttl_ms: u64, uses: u32) -> Result<Invitation> {
        self.refuse_if_restored("invite")?;
        let error = |kind, message: &str| Err(Error::new(kind, "engine", "invite", message));
        let Some(record) = &self.state.record else {
            let message = "this node doesn't listen yet, so nobody could reach it; start it first";
            return error(ErrorKind::NotStarted, message);
        };
        if uses == 0 || ttl_ms == 0 {
            return error(ErrorKind::Invalid, "an invitation is for at least one use and some time");
        }
        let addresses = PeerRecord::open(record, |_, _, _| true)?.0.addresses;
        self.forget_old_invitations()?;
        let mut token = [0; 16];
        self.state.rng.fill_bytes(&mut token);
        let expires_at_ms = self.latest_ms.saturating_add(ttl_ms);
        let row = OutstandingInvitation { expires_at_ms, uses_left: uses };
        let hash = sha256(&[&token]);
        self.txn.put(INVITATIONS, hash.to_vec(), row.encode());
        self.state.contacts.open_invitation(expires_at_ms, hash);
        let own = &self.state.own;
        let (user, network, name) = (own.user, Invitation::network_of(&own.network), clean_name(&own.name));
        let key = own.key.public().as_bytes().try_into();
        let key = key.map_err(|_| Error::new(ErrorKind::Internal, "engine", "invite", "the key has another length"))?;
        let expires_at_s = u32::try_from(expires_at_ms / 1000).unwrap_or(u32::MAX);
        Ok(Invitation { user, key, token, expires_at_s, network, addresses, name })
    }

    fn forget_old_invitations(&mut self) -> Result<()> {
        // By a time that is confirmed: a clock that leapt ends none.
        let now = self.now.wall_ms;
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

    /// Adds the contact that an invitation comes from. Adding a contact again renews what is known of it. Who the device
    /// is, it proves when the first link is made.
    pub(crate) fn add_contact(&mut self, invitation: Invitation) -> Result<Contact> {
        let error = |message: &str| Err(Error::new(ErrorKind::Invalid, "engine", "add a contact", message));
        let (device, own) = (invitation.device(), &self.state.own);
        if invitation.network != Invitation::network_of(&own.network) {
            return error("the invitation is for another network; compare `network` in both files");
        }
        if invitation.user == own.user || device == own.device {
            return error("this is your own invitation; give it to another person");
        }
        if u64::from(invitation.expires_at_s) * 1000 < system_ms() {
            return error("the invitation has expired; ask for a new one");
        }
        let invited = Invited { key: invitation.device_key(), addresses: invitation.addresses };
        let device = ContactDevice {
            device,
            certificate: None,
            invited: Some(invited),
            record: None,
            last_seen_ms: 0,
            restored: None,
        };
        // To a known contact as well, until the next link is up: it may have lost its store.
        self.upsert(invitation.user, device, &invitation.name, Some(invitation.token))
    }

    /// Adds the user whose devices' records a discovery found.
    pub(crate) fn add_found(&mut self, found: &[Answer]) -> Result<Contact> {
        let error = |kind, message: &str| Error::new(kind, "engine", "add a contact", message);
        let (mut added, mut revoked) = (None, None);
        for Answer { item, open } in found {
            let (DiscoveryItem::Record(signed), OpenItem::Record(record, certificate)) = (item, open) else {
                continue;
            };
            if certificate.user == self.state.own.user {
                return Err(error(ErrorKind::Invalid, "this is your own id; give it to another person"));
            }
            let device = proven(certificate, record.certificate.clone(), Some(signed.clone()));
            match self.upsert(certificate.user, device, "", None) {
                // Others of the user may be good.
                Err(refused) if refused.kind() == ErrorKind::Refused => revoked = Some(refused),
                contact => added = Some(contact?),
            }
        }
        if let (None, Some(refused)) = (&added, revoked) {
            return Err(refused);
        }
        added.ok_or_else(|| error(ErrorKind::NotFound, "no record of the user was found"))
    }

    /// Decides whether a device that dials may come in (`None`), and makes it a contact if it carries an invitation of
    /// ours.
    pub(crate) fn authorize(
        &mut self,
        certificate: &DeviceCertificate,
        signed: &Signed,
        token: Option<[u8; 16]>,
        name: &str,
    ) -> Result<Option<Refusal>> {
        let stranger = Ok(Some(Refusal::NotAContact));
        match self.state.contacts.device(&certificate.device) {
            Some((user, known)) if user == certificate.user && known.certificate.as_ref() == Some(signed) => {
                return Ok(None);
            }
            // It proved once that it is another user's.
            Some((user, known)) if user != certificate.user && known.certificate.is_some() => return stranger,
            _ => {}
        }
        if self.state.standing.is_restored() {
            return stranger;
        }
        if certificate.user == self.state.own.user {
            return self.let_own_in(certificate, signed);
        }
        // Of a known user: the certificate is enough.
        if let Some(contact) = self.state.contacts.by_user(&certificate.user) {
            return self.let_in(contact, certificate, signed);
        }
        // A contact's was let in above.
        let serves = self.state.contacts.certificate(&certificate.device).as_ref() == Some(certificate);
        let stranger = if serves { Ok(None) } else { stranger };
        let Some(token) = token else { return stranger };
        let hash = sha256(&[&token]);
        let key = Bytes::from(hash.to_vec());
        let Some(mut invitation) = self.txn.sound_record::<OutstandingInvitation>(INVITATIONS, &key)? else {
            return stranger;
        };
        if self.now.is_past(invitation.expires_at_ms) || invitation.uses_left == 0 {
            return stranger;
        }
        invitation.uses_left -= 1;
        match invitation.uses_left {
            0 => {
                self.txn.delete(INVITATIONS, key);
                self.state.contacts.close_invitation(invitation.expires_at_ms, hash);
            }
            _ => self.txn.put(INVITATIONS, key, invitation.encode()),
        }
        let contact = self.upsert(certificate.user, proven(certificate, signed.clone(), None), name, None)?;
        info!(alias = contact.alias, "an invitation was used");
        self.effects.event(Event::ContactAdded { user: contact.user, alias: contact.alias });
        Ok(None)
    }

    /// A contact's device, known from an invitation alone until now, proved that it is the user's.
    pub(crate) fn prove(&mut self, certificate: &DeviceCertificate, signed: &Signed) -> Result<()> {
        let contact = self.state.contacts.by_user(&certificate.user);
        let contact = contact.filter(|c| c.devices.iter().any(|d| d.device == certificate.device));
        let refused = match contact {
            Some(contact) => self.let_in(contact, certificate, signed)?,
            None => Some(Refusal::NotAContact),
        };
        match refused {
            None => Ok(()),
            Some(_) => {
                let message = "the device is no contact's any more";
                Err(Error::new(ErrorKind::Unauthenticated, "engine", "take a certificate", message))
            }
        }
    }

    /// Adds a contact's device, or what is newly known of it.
    fn upsert(&mut self, user: UserId, device: ContactDevice, name: &str, token: Option<[u8; 16]>) -> Result<Contact> {
        self.refuse_if_restored("add a contact")?;
        let id = device.device;
        let known = self.state.contacts.by_user(&user);
        if let Some(contact) = known.as_ref().filter(|contact| has_no_room(contact, &id)) {
            let message = format!("{} has {} devices already, which is the most", contact.alias, limits::DEVICES);
            return Err(Error::new(ErrorKind::Invalid, "engine", "add a contact", message));
        }
        if known.as_ref().is_some_and(|contact| is_revoked(contact, &id)) {
            let message = "the user revoked the device that this comes from; ask for an invitation of another one";
            return Err(Error::new(ErrorKind::Refused, "engine", "add a contact", message));
        }
        self.claim(&id, &user)?;
        if self.state.contacts.stop_serving(&id) {
            // Its link was for the service alone; the contact's is made again.
            self.forget_link(id, "the device is a contact's from now on");
            self.effects.reset_link(id);
        }
        let mut contact = known.unwrap_or_else(|| Contact {
            user,
            alias: self.state.contacts.free_alias(&clean_name(name), &user),
            devices: Vec::new(),
            added_at_ms: system_ms(),
            token: None,
            list: None,
        });
        match contact.devices.iter_mut().find(|d| d.device == id) {
            Some(known) => {
                let sequence = |r: &Signed| PeerRecord::open(r, verify).map_or(0, |(record, _)| record.sequence);
                let before = known.record.as_ref().map_or(0, sequence);
                known.record = device.record.filter(|r| sequence(r) > before).or(known.record.take());
                known.certificate = known.certificate.take().or(device.certificate);
                known.invited = device.invited.or(known.invited.take());
            }
            None => contact.devices.push(device),
        }
        contact.token = token.or(contact.token);
        self.store_contact(contact.clone());
        self.open_direct(&user)?;
        for conversation in self.state.shared_with(&id) {
            self.choose_suite_again(conversation)?;
        }
        self.effects.want_link(id);
        Ok(contact)
    }

    /// A device is one user's. The one that it proved to be keeps it; among those whom mere links name, the newest link
    /// counts, so that a changed one keeps no device out for good.
    pub(super) fn claim(&mut self, device: &DeviceId, user: &UserId) -> Result<()> {
        if self.state.contacts.role(device) == Some(LinkRole::Own) {
            let message = "the device is one of your own, and here another user claims it";
            return Err(Error::new(ErrorKind::Invalid, "engine", "add a contact", message));
        }
        let Some((other, known)) = self.state.contacts.device(device).filter(|(other, _)| other != user) else {
            return Ok(());
        };
        let Some(mut other) = self.state.contacts.by_user(&other) else { return Ok(()) };
        if known.certificate.is_some() {
            let message = format!(
                "the device is that of your contact {}, and here another user claims it; ask for a new invitation",
                other.alias
            );
            return Err(Error::new(ErrorKind::Invalid, "engine", "add a contact", message));
        }
        other.devices.retain(|d| d.device != *device);
        self.store_contact(other);
        Ok(())
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

    pub(super) fn store_contact(&mut self, contact: Contact) {
        self.txn.put(CONTACTS, contact.user.as_bytes().to_vec(), contact.encode());
        self.state.contacts.insert(contact);
    }

    /// A device sends its record, or a discovery found it.
    pub(crate) fn on_record(&mut self, device: DeviceId, signed: Signed, sent: bool) -> Result<()> {
        let known = self.state.contacts.device(&device).map(|(_, known)| known);
        if known.is_some_and(|known| known.record.as_ref() == Some(&signed) && (!sent || known.invited.is_none())) {
            // Verified before, and nothing new.
            return Ok(());
        }
        let (record, certificate) = PeerRecord::open(&signed, verify)?;
        if certificate.device != device || record.network != self.state.own.network {
            return Err(Error::new(ErrorKind::Unauthenticated, "engine", "take a record", "it is another device's"));
        }
        if certificate.user == self.state.own.user && self.let_own_in(&certificate, &record.certificate)?.is_some() {
            return Ok(());
        }
        self.state.contacts.note_record(&device, &record, signed.clone());
        let Some(mut contact) = self.state.contacts.by_user(&certificate.user) else {
            return Ok(());
        };
        if !contact.devices.iter().any(|d| d.device == device) {
            if self.let_in(contact, &certificate, &record.certificate)?.is_some() {
                return Ok(());
            }
            let Some(met) = self.state.contacts.by_user(&certificate.user) else { return Ok(()) };
            contact = met;
        }
        let Some(known) = contact.devices.iter_mut().find(|d| d.device == device) else {
            return Ok(());
        };
        let newer = known
            .record
            .as_ref()
            .and_then(|r| PeerRecord::open(r, verify).ok())
            .is_none_or(|(r, _)| r.sequence < record.sequence);
        let before = known.clone();
        if newer {
            known.record = Some(signed);
        }
        known.certificate.get_or_insert(record.certificate);
        if sent {
            // What a discovery finds may be older than the invitation; the device itself knows.
            known.invited = None;
        }
        if *known != before {
            self.store_contact(contact);
            for id in self.state.shared_with(&device).into_iter().filter(|_| newer) {
                self.choose_suite_again(id)?;
                if self.resume(id, device, false) {
                    self.prepare_session(id)?;
                }
            }
        }
        Ok(())
    }

    /// This device listens at new addresses: its record says so from now on.
    pub(crate) fn set_record(&mut self, mut record: PeerRecord) -> Result<Signed> {
        let key = Bytes::from_static(meta::RECORD_SEQUENCE);
        let last = match self.txn.get(META, &key) {
            Err(error) if error.kind() == ErrorKind::Damaged => 0,
            stored => stored?.and_then(|v| v.as_ref().try_into().ok()).map_or(0, u64::from_be_bytes),
        };
        // By the clock, so that a store that was put back or lost the last one still makes newer records; and above the
        // last one, whatever becomes of the clock.
        record.sequence = last.saturating_add(1).max(system_ms());
        self.txn.put(META, key, record.sequence.to_be_bytes().to_vec());
        let signed = self.state.own.key.sign_object(context::PEER_RECORD, record.encode());
        self.state.record = Some(signed.clone());
        let up: Vec<DeviceId> = self.state.up.keys().copied().collect();
        up.iter().for_each(|device| self.effects.control(*device, &Frame::Record(signed.clone())));
        Ok(signed)
    }

    /// A link to a device came up, or another one took over.
    pub(super) fn on_link_up(&mut self, device: DeviceId) {
        // News may be late or out of order; the links themselves are not.
        if !self.state.links.is_up(&device) {
            return self.on_link_down(device, "the link is closed");
        }
        if !self.state.contacts.knows(&device) {
            // Revoked between its handshake and now.
            return self.effects.reset_link(device);
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
        let user = certificate.user;
        if self.state.up.insert(device, user).is_none() && self.state.contacts.has(&user) {
            if self.linked_contacts() == 1 {
                self.effects.event_of_link(Event::Online);
            }
            self.effects.event_of_link(Event::PeerUp { user, device });
        }
        if let Some(record) = self.state.record.clone().filter(|_| !self.state.standing.is_restored()) {
            self.effects.control(device, &Frame::Record(record));
        }
        if self.state.contacts.role(&device) == Some(LinkRole::Service) {
            // A service hears nothing of this node's conversations and devices.
            return;
        }
        self.show_standing(device);
        self.show_devices(device);
        for id in self.state.shared_with(&device) {
            self.state.touched.insert(TimerKey::Outbox(id));
            if let Some(conversation) = self.state.conversations.get_mut(&id) {
                conversation.outbox.on_link_replaced(&device, self.state.links.has_shown(&device, &id));
                self.state.ready.insert((id, device));
            }
            self.show_held(device, id);
        }
    }

    /// Contacts' devices with a link.
    fn linked_contacts(&self) -> usize {
        self.state.up.values().filter(|user| self.state.contacts.has(user)).count()
    }

    /// The store failed, and works again: news of links was lost, and so may be what followed from it. Each link
    /// counts as if it had just come up; where something wasn't shown yet, it is made again, since that may be lost.
    pub(super) fn look_at_links(&mut self) {
        // What is shown once on a link may have been lost, here and there.
        self.state.links.up().iter().for_each(|device| self.state.links.reset(device));
        for device in self.state.up.keys().copied().collect::<Vec<_>>() {
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
        self.forget_link(device, reason);
    }

    /// A device has no link any more, or none that counts.
    pub(super) fn forget_link(&mut self, device: DeviceId, reason: &str) {
        let user = self.state.up.remove(&device);
        if let Some(user) = user.filter(|user| self.state.contacts.has(user)) {
            self.effects.event_of_link(Event::PeerDown { user, device, reason: reason.into() });
            if self.linked_contacts() == 0 {
                self.effects.event_of_link(Event::Offline);
            }
        }
        self.state.early_held.forget(&device);
        self.state.without_room.remove(&device);
        for id in self.state.shared_with(&device) {
            if let Some(conversation) = self.state.conversations.get_mut(&id)
                && (user.is_some() || conversation.outbox.is_up(&device))
            {
                conversation.outbox.on_link_down(&device, self.now, &mut self.state.rng);
                self.state.touched.insert(TimerKey::Outbox(id));
            }
        }
    }
}
