//! Users' devices: which speak for a user, as certificates and lists say, and what follows when that changes.

use std::collections::BTreeSet;

use bytes::Bytes;
use peerloom_core::wire::store::{Contact, ContactDevice, Identity, META, Record, meta};
use peerloom_core::wire::{
    DecodeError, DeviceCertificate, DeviceId, DeviceList, Frame, Refusal, Revocation, Signed, UserDevices, UserId,
    context, limits,
};
use peerloom_core::{Error, ErrorKind, Result};
use peerloom_crypto_primitives::verify;
use tracing::{error, info, warn};

use super::Turn;
use super::contact::proven;
use super::incoming::is_peers_fault;
use super::state::LocalIdentity;
use crate::clock::system_ms;
use crate::event::Event;
use crate::roles::LinkRole;
use crate::store::Txn;

/// The devices of this node's user as the store has them; at least this one.
pub(super) fn load_own(own: &LocalIdentity, txn: &Txn<'_>) -> Result<DeviceList> {
    let mut list = DeviceList::new(own.keys.clone());
    let stored = match txn.get(META, meta::DEVICES) {
        // A damaged row is reported with the others of its kind. Revocations in it are lost here; contacts have them.
        Err(error) if error.kind() == ErrorKind::Damaged => None,
        stored => stored?,
    };
    let shown = stored.map(UserDevices::decode).transpose();
    if !shown.is_ok_and(|shown| shown.is_none_or(|shown| list.take_in(&shown, verify).is_ok())) {
        error!("the list of this user's devices in the store is of no use; revocations in it are lost here");
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
    // The contact's row was verified before it was stored: parts of it that don't verify any more are left out.
    if let Some(stored) = &contact.list {
        let _ = list.unite(stored, verify);
    }
    certificates().for_each(|signed| drop(list.add_certificate(signed, verify)));
    Some(list)
}

/// Whether a contact's user revoked a device.
pub(super) fn is_revoked(contact: &Contact, device: &DeviceId) -> bool {
    contact.list.is_some() && known(contact).is_some_and(|list| list.is_revoked(device))
}

/// What is known of a user's devices with one more certificate, or why its device may not speak for the user.
fn with_certificate(
    mut list: DeviceList,
    certificate: &DeviceCertificate,
    signed: &Signed,
) -> Result<DeviceList, Refusal> {
    if list.is_revoked(&certificate.device) {
        return Err(Refusal::Revoked);
    }
    let full = list.devices().len() >= limits::DEVICES && list.certificate(&certificate.device).is_none();
    match list.add_certificate(signed, verify) {
        Ok(_) if list.certificate(&certificate.device).is_some() => Ok(list),
        Err(DecodeError::TooMany { .. }) => Err(Refusal::Full),
        // One too many, or signed by a key that isn't in force any more.
        Ok(_) if full && list.certificates().any(|known| known == signed) => Err(Refusal::Full),
        _ => Err(Refusal::Unauthenticated),
    }
}

impl Turn<'_> {
    /// A device shows which devices its user has.
    pub(super) fn on_devices(&mut self, device: DeviceId, shown: &UserDevices) -> Result<()> {
        let user = shown.list.keys.id();
        if user == self.state.own.user && self.state.contacts.role(&device) == Some(LinkRole::Own) {
            return self.on_own_devices(shown);
        }
        let contact = self.state.contacts.by_user(&user).filter(|c| c.devices.iter().any(|d| d.device == device));
        let Some(contact) = contact else {
            let message = "it is of another user than the device's";
            return Err(Error::new(ErrorKind::Unauthenticated, "engine", "take a device list", message));
        };
        let has = |signed: &Signed| contact.devices.iter().any(|known| known.certificate.as_ref() == Some(signed));
        if contact.list.as_ref() == Some(&shown.list) && shown.certificates.iter().all(has) {
            // What is known already needs no signature.
            return Ok(());
        }
        let Some(mut list) = known(&contact) else { return Ok(()) };
        if list.take_in(shown, verify)? { self.apply_devices(contact, &list) } else { Ok(()) }
    }

    /// Another device of this node's user shows which devices it knows of.
    fn on_own_devices(&mut self, shown: &UserDevices) -> Result<()> {
        if self.state.devices.show() == *shown {
            return Ok(());
        }
        let mut list = self.state.devices.clone();
        if list.take_in(shown, verify)? { self.set_own_devices(list) } else { Ok(()) }
    }

    /// Whether a device may speak for this node's user, as its certificate says: then it is in the user's list from now
    /// on (`None`).
    pub(super) fn let_own_in(&mut self, certificate: &DeviceCertificate, signed: &Signed) -> Result<Option<Refusal>> {
        if self.state.devices.certificate(&certificate.device) == Some(signed) {
            return Ok(None);
        }
        match with_certificate(self.state.devices.clone(), certificate, signed) {
            Ok(list) => self.set_own_devices(list).map(|()| None),
            Err(refusal) => {
                warn!(device = %certificate.device, ?refusal, "a device with this user's certificate was refused");
                Ok(Some(refusal))
            }
        }
    }

    /// Whether a device may speak for a contact, as its certificate says: then it is the contact's from now on (`None`).
    pub(super) fn let_in(
        &mut self,
        contact: Contact,
        certificate: &DeviceCertificate,
        signed: &Signed,
    ) -> Result<Option<Refusal>> {
        let (user, device, alias) = (contact.user, certificate.device, contact.alias.clone());
        if contact.devices.iter().any(|known| known.device == device && known.certificate.as_ref() == Some(signed)) {
            return Ok(None);
        }
        let list = known(&contact).unwrap_or_else(|| DeviceList::new(certificate.keys.clone()));
        let list = match with_certificate(list, certificate, signed) {
            Ok(list) => list,
            Err(refusal) => {
                warn!(alias, %device, ?refusal, "a device with a contact's certificate was refused");
                return Ok(Some(refusal));
            }
        };
        self.apply_devices(contact, &list)?;
        // Others of the list may have taken the places.
        Ok(if self.state.contacts.user_of(&device) == Some(user) { None } else { Some(Refusal::Full) })
    }

    /// Brings a contact to what is known of its devices: those that speak for the user are let in, the others left out.
    fn apply_devices(&mut self, mut contact: Contact, list: &DeviceList) -> Result<()> {
        let user = contact.user;
        let counting = list.devices();
        let stays = |known: &ContactDevice| match known.certificate {
            Some(_) => counting.iter().any(|certificate| certificate.device == known.device),
            // Only an invitation names it so far.
            None => !list.is_revoked(&known.device),
        };
        let gone: Vec<DeviceId> =
            contact.devices.extract_if(.., |known| !stays(known)).map(|known| known.device).collect();
        let mut new = Vec::new();
        for certificate in counting {
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
        let alias = contact.alias.clone();
        self.store_contact(contact);
        if gone.is_empty() && new.is_empty() {
            return Ok(());
        }
        info!(alias, new = new.len(), gone = gone.len(), "the devices of a contact changed");
        for device in &gone {
            self.forget_link(*device, "the device was revoked");
            self.effects.reset_link(*device);
        }
        let shared = self.state.directory.of_user(&user);
        // First in all conversations what can't fail for a reason of one of them.
        shared.iter().try_for_each(|id| self.leave_out(*id))?;
        new.iter().for_each(|device| self.effects.want_link(*device));
        self.effects.event(Event::DevicesChanged { user, new, gone });
        for id in shared {
            let outcome = self.choose_suite_again(id).and_then(|()| self.prepare_session(id));
            match outcome.and_then(|()| self.seal_pending(id)) {
                // It is tried again by a timer, and holds up no other conversation.
                Err(error) if is_peers_fault(&error) => {
                    warn!(conversation = %id, %error, "a session could not be changed")
                }
                outcome => outcome?,
            }
        }
        Ok(())
    }

    /// Whether a device that isn't known may become this user's: it isn't another's who proved that.
    fn may_claim(&mut self, device: &DeviceId, user: &UserId) -> bool {
        *device != self.state.own.device && self.claim(device, user).is_ok()
    }

    /// Adds a device of this node's user, which its certificate names; the contacts hear of it.
    pub(crate) fn add_own_device(&mut self, signed: &Signed) -> Result<()> {
        self.refuse_if_restored("add a device")?;
        let device = DeviceCertificate::open(signed, verify)?.device;
        let mut list = self.state.devices.clone();
        let news = list.add_certificate(signed, verify)?;
        if list.certificate(&device).is_none() {
            let message = "the device was revoked, is one too many, or its certificate is of a key that isn't in force";
            return Err(Error::new(ErrorKind::Refused, "engine", "add a device", message));
        }
        if news { self.set_own_devices(list) } else { Ok(()) }
    }

    /// Revokes devices of this node's user for good; the contacts hear of it. It takes the user's key.
    pub(crate) fn revoke(&mut self, devices: &[DeviceId]) -> Result<()> {
        self.refuse_if_restored("revoke a device")?;
        let error = |kind, message| Err(Error::new(kind, "engine", "revoke a device", message));
        let Some(key) = &self.state.own.user_key else {
            return error(ErrorKind::Refused, "this device doesn't hold the user's key; do it on one that does");
        };
        if devices.contains(&self.state.own.device) {
            return error(ErrorKind::Invalid, "a device doesn't revoke itself; do it on another device of yours");
        }
        let mut list = self.state.devices.clone();
        let certified = list.certificates().filter_map(|signed| DeviceCertificate::open(signed, verify).ok());
        let certified: BTreeSet<DeviceId> = certified.map(|certificate| certificate.device).collect();
        let unknown = |device: &&DeviceId| !certified.contains(device) || list.is_revoked(device);
        if let Some(unknown) = devices.iter().find(unknown) {
            return error(ErrorKind::NotFound, &format!("{} is no device of yours", unknown.short()));
        }
        // One statement over all takes the place of the earlier ones, so that their number stays small.
        let mut all = list.revoked();
        all.extend(devices);
        let devices = if all.len() <= limits::REVOKED { all.into_iter().collect() } else { devices.to_vec() };
        let revocation = Revocation { user: self.state.own.user, devices, issued_at_ms: system_ms() };
        let signed = key.sign_object(context::REVOCATION, revocation.encode());
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
        if shown.encode().len() > limits::USER_DEVICES {
            let message = "the list of your devices and revocations is longer than contacts take";
            return Err(Error::new(ErrorKind::TooLarge, "engine", "change the devices", message));
        }
        self.txn.put(META, Bytes::from_static(meta::DEVICES), shown.encode());
        self.state.devices = list;
        let own = self.state.own.device;
        if self.state.devices.is_revoked(&own) {
            warn!("this device was revoked by its user: contacts send it nothing any more");
        }
        let (new, gone) = self.state.contacts.set_own(&self.state.devices, &own);
        new.into_iter().for_each(|device| self.effects.want_link(device));
        for device in gone {
            self.forget_link(device, "the device was revoked");
            self.effects.reset_link(device);
        }
        let up: Vec<DeviceId> = self.state.up.keys().copied().collect();
        let frame = Frame::Devices(Box::new(shown));
        let shared = |device: &&DeviceId| self.state.contacts.role(device) != Some(LinkRole::Service);
        let to: Vec<DeviceId> = up.iter().filter(shared).copied().collect();
        to.iter().for_each(|device| self.effects.control(*device, &frame));
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
