//! Users' devices: which speak for a user, as certificates and lists say, and what follows when that changes.

use std::collections::BTreeSet;

use bytes::Bytes;
use peerloom_core::wire::store::{CONTACTS, Contact, ContactDevice, Identity, META, Record, meta};
use peerloom_core::wire::{
    DeviceCertificate, DeviceId, DeviceList, Frame, Refusal, Revocation, Signed, UserDevices, UserId, context, limits,
};
use peerloom_core::{Error, ErrorKind, Result};
use peerloom_crypto_primitives::verify;
use tracing::{info, warn};

use super::Turn;
use super::contact::proven;
use super::state::LocalIdentity;
use crate::clock::system_ms;
use crate::event::Event;
use crate::store::Txn;

/// This node's user's devices as the store has them; at least this one.
pub(super) fn load_own(own: &LocalIdentity, txn: &Txn<'_>) -> Result<DeviceList> {
    let mut list = DeviceList::new(own.keys.clone());
    let stored = match txn.get(META, meta::DEVICES) {
        // What other devices know comes back when they show it.
        Err(error) if error.kind() == ErrorKind::Damaged => None,
        stored => stored?,
    };
    if let Some(shown) = stored.and_then(|bytes| UserDevices::decode(bytes).ok()) {
        list.take_in(&shown, verify)?;
    }
    list.add_certificate(&own.certificate, verify)?;
    Ok(list)
}

/// What is known of a contact's devices; `None` where none of them has proved whose it is.
fn known(contact: &Contact) -> Option<DeviceList> {
    let certificates = || contact.devices.iter().filter_map(|device| device.certificate.as_ref());
    let keys = match &contact.list {
        Some(list) => list.keys.clone(),
        None => certificates().find_map(|signed| DeviceCertificate::open(signed, verify).ok())?.keys,
    };
    let mut list = DeviceList::new(keys);
    // Verified before they were stored: what doesn't verify any more is left out.
    if let Some(stored) = &contact.list {
        let _ = list.unite(stored, verify);
    }
    certificates().for_each(|signed| drop(list.add_certificate(signed, verify)));
    Some(list)
}

impl Turn<'_> {
    /// A device shows which devices its user has.
    pub(super) fn on_devices(&mut self, device: DeviceId, shown: &UserDevices) -> Result<()> {
        let user = shown.list.keys.id();
        let contact = self.state.contacts.by_user(&user).filter(|c| c.devices.iter().any(|d| d.device == device));
        let Some((contact, mut list)) = contact.and_then(|contact| known(&contact).map(|list| (contact, list))) else {
            let message = "it is of another user than the device's";
            return Err(Error::new(ErrorKind::Unauthenticated, "engine", "take a device list", message));
        };
        if list.take_in(shown, verify)? { self.apply_devices(contact, &list) } else { Ok(()) }
    }

    /// Whether a device that isn't known may speak for a contact, as its certificate says: then it is the contact's from
    /// now on (`None`).
    pub(super) fn meet(
        &mut self,
        contact: Contact,
        certificate: &DeviceCertificate,
        signed: &Signed,
    ) -> Result<Option<Refusal>> {
        let list = known(&contact).unwrap_or_else(|| DeviceList::new(certificate.keys.clone()));
        let mut after = list.clone();
        if list.is_revoked(&certificate.device) {
            return Ok(Some(Refusal::Revoked));
        }
        after.add_certificate(signed, verify)?;
        if after.certificate(&certificate.device).is_none() {
            // Signed by a key that isn't in force any more, or one too many.
            let full = list.devices().len() >= limits::DEVICES;
            return Ok(Some(if full { Refusal::Full } else { Refusal::Unauthenticated }));
        }
        if has_no_room(&contact, &certificate.device) {
            warn!(alias = contact.alias, device = %certificate.device, "a contact's device was refused: it has as many as there may be");
            return Ok(Some(Refusal::Full));
        }
        self.apply_devices(contact, &after)?;
        Ok(None)
    }

    /// Brings a contact to what is known of its devices: those that speak for the user are let in, the others left out.
    fn apply_devices(&mut self, mut contact: Contact, list: &DeviceList) -> Result<()> {
        let user = contact.user;
        let counting: BTreeSet<DeviceId> = list.devices().iter().map(|certificate| certificate.device).collect();
        let stays = |known: &ContactDevice| match known.certificate {
            Some(_) => counting.contains(&known.device),
            // Only an invitation names it so far.
            None => !list.is_revoked(&known.device),
        };
        let gone: Vec<DeviceId> =
            contact.devices.extract_if(.., |known| !stays(known)).map(|known| known.device).collect();
        let mut new = Vec::new();
        for certificate in list.devices() {
            let device = certificate.device;
            let Some(signed) = list.certificate(&device) else { continue };
            if let Some(known) = contact.devices.iter_mut().find(|known| known.device == device) {
                known.certificate = Some(signed.clone());
            } else if contact.devices.len() < limits::DEVICES && self.may_claim(&device, &user) {
                contact.devices.push(proven(certificate, signed.clone(), None));
                new.push(device);
            }
        }
        contact.list = Some(list.to_encoded());
        self.txn.put(CONTACTS, user.as_bytes().to_vec(), contact.encode());
        let alias = contact.alias.clone();
        self.state.contacts.insert(contact);
        for device in &gone {
            self.on_link_down(*device, "the device was revoked");
            self.effects.reset_link(*device);
        }
        if gone.is_empty() && new.is_empty() {
            return Ok(());
        }
        info!(alias, new = new.len(), gone = gone.len(), "the devices of a contact changed");
        for id in self.state.directory.of_user(&user) {
            self.leave_out(id)?;
            self.choose_suite_again(id)?;
            self.prepare_session(id)?;
            self.seal_pending(id)?;
        }
        new.iter().for_each(|device| self.effects.want_link(*device));
        self.effects.event(Event::DevicesChanged { user, new, gone });
        Ok(())
    }

    /// Whether a device that isn't known may become this user's: it isn't another's who proved that.
    fn may_claim(&mut self, device: &DeviceId, user: &UserId) -> bool {
        *device != self.state.own.device && self.claim(device, user).is_ok()
    }

    /// Adds a device of this node's user, which its certificate names; the contacts hear of it.
    pub(crate) fn add_own_device(&mut self, signed: &Signed) -> Result<()> {
        let mut list = self.state.devices.clone();
        let news = list.add_certificate(signed, verify)?;
        if news { self.set_own_devices(list) } else { Ok(()) }
    }

    /// Revokes devices of this node's user for good; the contacts hear of it. It takes the user's key.
    pub(crate) fn revoke(&mut self, devices: Vec<DeviceId>) -> Result<()> {
        let error = |kind, message| Err(Error::new(kind, "engine", "revoke a device", message));
        let Some(key) = &self.state.own.user_key else {
            return error(ErrorKind::Refused, "this device is no admin of its user; do it on one that is");
        };
        if devices.contains(&self.state.own.device) {
            return error(ErrorKind::Invalid, "a device doesn't revoke itself; do it on another device of yours");
        }
        if let Some(unknown) = devices.iter().find(|device| self.state.devices.certificate(device).is_none()) {
            return error(ErrorKind::NotFound, &format!("{} is no device of yours", unknown.short()));
        }
        let revocation = Revocation { user: self.state.own.user, devices, issued_at_ms: system_ms() };
        let signed = key.sign_object(context::REVOCATION, revocation.encode());
        let mut list = self.state.devices.clone();
        list.add_revocation(&signed, verify)?;
        self.set_own_devices(list)
    }

    /// This node's identity as the store has it.
    pub(crate) fn stored_identity(&self) -> Result<Option<Identity>> {
        self.txn.record(META, meta::IDENTITY)
    }

    /// Deletes the user's recovery key, whose phrase the user has.
    pub(crate) fn forget_recovery_seed(&mut self) -> Result<()> {
        if let Some(identity) = self.stored_identity()? {
            let without = Identity { recovery_seed: None, ..identity };
            self.txn.put(META, Bytes::from_static(meta::IDENTITY), without.encode());
        }
        Ok(())
    }

    fn set_own_devices(&mut self, list: DeviceList) -> Result<()> {
        let shown = list.show();
        self.txn.put(META, Bytes::from_static(meta::DEVICES), shown.encode());
        self.state.devices = list;
        let up: Vec<DeviceId> = self.state.up.iter().copied().collect();
        let frame = Frame::Devices(Box::new(shown));
        up.iter().for_each(|device| self.effects.control(*device, &frame));
        Ok(())
    }

    /// Shows a device which devices this node's user has, when its link comes up.
    pub(super) fn show_devices(&mut self, device: DeviceId) {
        self.effects.control(device, &Frame::Devices(Box::new(self.state.devices.show())));
    }
}

/// Whether a contact has as many devices as it may, and not this one.
pub(super) fn has_no_room(contact: &Contact, device: &DeviceId) -> bool {
    contact.devices.len() >= limits::DEVICES && !contact.devices.iter().any(|known| known.device == *device)
}
