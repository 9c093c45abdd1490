//! Devices of no contact that may have a link: this user's others, and those that serve.

use std::collections::HashMap;

use peerloom_core::wire::store::{ContactDevice, Invited};
use peerloom_core::wire::{DeviceCertificate, DeviceId, DeviceList, PeerRecord, ServiceOffer, Signed};
use peerloom_core::{Error, ErrorKind, Result};
use peerloom_crypto_primitives::verify;

use super::{Book, Contacts};
use crate::roles::LinkRole;

/// Most devices that serve at once.
const SERVICES: usize = 64;

/// A device of no contact. What is known of it lies in memory alone.
pub(super) struct Other {
    pub(super) role: LinkRole,
    pub(super) certificate: DeviceCertificate,
    /// As a contact's device would be stored.
    pub(super) known: ContactDevice,
}

impl Other {
    fn new(role: LinkRole, certificate: DeviceCertificate, signed: Signed) -> Self {
        let device = certificate.device;
        let known = ContactDevice {
            device,
            certificate: Some(signed),
            invited: None,
            record: None,
            last_seen_ms: 0,
            restored: None,
        };
        Self { role, certificate, known }
    }
}

impl Book {
    /// What a device is that is no contact's. This user's own proved it, whatever an invitation says of them; a contact's
    /// device is that, whatever it serves.
    pub(super) fn other(&self, device: &DeviceId) -> Option<&Other> {
        self.others.get(device).filter(|other| other.role == LinkRole::Own || !self.devices.contains_key(device))
    }
}

impl Contacts {
    /// Takes the other devices of this node's user, as its list has them. Returns those that are new, and those that are
    /// this user's no more.
    pub(crate) fn set_own(&self, list: &DeviceList, own: &DeviceId) -> (Vec<DeviceId>, Vec<DeviceId>) {
        let others = &mut self.write().others;
        let mut counting = HashMap::new();
        for certificate in list.devices().into_iter().filter(|certificate| certificate.device != *own) {
            let Some(signed) = list.certificate(&certificate.device) else { continue };
            counting.insert(certificate.device, Other::new(LinkRole::Own, certificate.clone(), signed.clone()));
        }
        let is_gone =
            |device: &DeviceId, other: &mut Other| other.role == LinkRole::Own && !counting.contains_key(device);
        let gone = others.extract_if(is_gone).map(|(device, _)| device).collect();
        let mut new = Vec::new();
        for (device, mut other) in counting {
            match others.remove(&device) {
                Some(before) if before.role == LinkRole::Own => other.known.record = before.known.record,
                _ => new.push(device),
            }
            others.insert(device, other);
        }
        (new, gone)
    }

    /// A device that offers a service may have a link from now on, though it is no contact's. At most 64 may.
    pub(crate) fn serve(&self, offer: &ServiceOffer, certificate: DeviceCertificate) -> Result<()> {
        let device = certificate.device;
        let mut book = self.write();
        let error = |kind, message: &str| Err(Error::new(kind, "engine", "use a service", message));
        if book.devices.contains_key(&device) || book.others.get(&device).is_some_and(|o| o.role == LinkRole::Own) {
            return error(
                ErrorKind::AlreadyExists,
                "the device is a contact's or this user's; its link is there already",
            );
        }
        if book.others.values().filter(|other| other.role == LinkRole::Service).count() >= SERVICES {
            return error(ErrorKind::Overloaded, "64 services are in use, which is the most");
        }
        let key = certificate.device_key.clone();
        let mut other = Other::new(LinkRole::Service, certificate, offer.certificate.clone());
        other.known.invited = Some(Invited { key, addresses: offer.addresses.clone() });
        book.others.insert(device, other);
        Ok(())
    }

    /// A service isn't used any more. Returns whether it was.
    pub(crate) fn stop_serving(&self, device: &DeviceId) -> bool {
        let others = &mut self.write().others;
        let serves = others.get(device).is_some_and(|other| other.role == LinkRole::Service);
        serves && others.remove(device).is_some()
    }

    /// What the device at the other end of a link is; `None`: it may have no link.
    pub(crate) fn role(&self, device: &DeviceId) -> Option<LinkRole> {
        let book = self.read();
        let other = book.other(device).map(|other| other.role);
        other.or_else(|| book.devices.contains_key(device).then_some(LinkRole::Contact))
    }

    /// A device of no contact, as the dialer wants it.
    pub(crate) fn other(&self, device: &DeviceId) -> Option<ContactDevice> {
        self.read().other(device).map(|other| other.known.clone())
    }

    /// The record of a device of no contact, if it is newer than the known one.
    pub(crate) fn note_record(&self, device: &DeviceId, record: &PeerRecord, signed: Signed) {
        if let Some(other) = self.write().others.get_mut(device) {
            let sequence = |known: &Signed| PeerRecord::open(known, verify).map_or(0, |(record, _)| record.sequence);
            if other.known.record.as_ref().is_none_or(|known| sequence(known) < record.sequence) {
                other.known.record = Some(signed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use peerloom_core::wire::{NetworkId, Roles, ServiceKind, UserKeys};
    use peerloom_crypto_primitives::SigningKey;

    use super::*;

    fn certificate(user: u8, device: u8) -> (DeviceCertificate, Signed) {
        let [user, device] = [user, device].map(|seed| SigningKey::from_seed(&[seed; 32]));
        let keys = UserKeys { user: user.public().clone(), recovery: user.public().clone() };
        let certificate = DeviceCertificate::new(keys, device.public().clone(), Roles::ALL, 1);
        let signed = certificate.sign(|m| user.sign(m), |m| device.sign(m));
        (certificate, signed)
    }

    fn list(devices: &[u8]) -> DeviceList {
        let mut list = DeviceList::new(certificate(1, 1).0.keys);
        devices.iter().for_each(|device| assert!(list.add_certificate(&certificate(1, *device).1, verify).unwrap()));
        list
    }

    fn id(device: u8) -> DeviceId {
        certificate(1, device).0.device
    }

    fn serve(contacts: &Contacts, device: u8) -> Result<()> {
        let (certificate, signed) = certificate(9, device);
        let offer = ServiceOffer {
            network: NetworkId::from_name("test"),
            certificate: signed,
            kind: ServiceKind::COORDINATOR,
            addresses: vec!["memory://9".parse().unwrap()],
            capacity: 1,
            sequence: 1,
            expires_at_ms: u64::MAX,
        };
        contacts.serve(&offer, certificate)
    }

    #[test]
    fn own_devices_come_and_go_with_the_list() {
        let contacts = Contacts::default();
        assert_eq!(contacts.set_own(&list(&[10, 11]), &id(10)), (vec![id(11)], vec![]));
        assert_eq!((contacts.role(&id(10)), contacts.role(&id(11))), (None, Some(LinkRole::Own)));
        assert!(contacts.knows(&id(11)) && contacts.key(&id(11)).is_some() && contacts.device(&id(11)).is_none());
        assert_eq!(contacts.set_own(&list(&[10, 11]), &id(10)), (vec![], vec![]));
        assert_eq!(contacts.set_own(&list(&[10, 12]), &id(10)), (vec![id(12)], vec![id(11)]));
        assert!(contacts.role(&id(11)).is_none() && contacts.certificate(&id(11)).is_none());
        // Other contacts change nothing.
        contacts.replace(Vec::new());
        assert_eq!(contacts.role(&id(12)), Some(LinkRole::Own));
    }

    #[test]
    fn few_devices_serve_and_own_ones_never() {
        let contacts = Contacts::default();
        contacts.set_own(&list(&[10, 11]), &id(10));
        assert_eq!(serve(&contacts, 11).map_err(|e| e.kind()), Err(ErrorKind::AlreadyExists));
        (20..84).for_each(|device| serve(&contacts, device).unwrap());
        assert_eq!(serve(&contacts, 84).map_err(|e| e.kind()), Err(ErrorKind::Overloaded));
        assert_eq!(contacts.role(&id(20)), Some(LinkRole::Service));
        assert_eq!(contacts.other(&id(20)).unwrap().invited.unwrap().addresses.len(), 1);
        assert!(contacts.stop_serving(&id(20)) && !contacts.stop_serving(&id(20)) && !contacts.stop_serving(&id(11)));
        assert_eq!((contacts.role(&id(20)), contacts.role(&id(11))), (None, Some(LinkRole::Own)));
        serve(&contacts, 84).unwrap();
    }
}
