//! Which devices may have a link, which may signal, and what those may hold that ask for a link.

use peerloom_core::wire::DeviceId;
use peerloom_core::{Admission, Link, Place, Places, Source, Standing};

use super::Links;
use crate::clock::system_ms;
use crate::contacts::Contacts;

/// Handshakes that run at once: of contacts' devices in all, and of one of them.
const KNOWN: usize = 1024;
const OF_ONE_DEVICE: usize = 2;
/// Of strangers in all while an invitation is open, and of one address.
const STRANGERS: usize = 64;
const OF_ONE_ADDRESS: usize = 32;
/// Of strangers who only hear that no invitation is open.
const UNWELCOME: usize = 8;

/// Judges devices by the contacts, the open invitations and the links there are.
pub(crate) struct Gate {
    contacts: Contacts,
    links: Links,
    known: Places,
    strangers: Places,
    unwelcome: Places,
}

impl Gate {
    pub(super) fn new(contacts: Contacts, links: Links) -> Self {
        Self {
            contacts,
            links,
            known: Places::new(KNOWN, OF_ONE_DEVICE),
            strangers: Places::new(STRANGERS, OF_ONE_ADDRESS),
            unwelcome: Places::new(UNWELCOME, UNWELCOME),
        }
    }

    /// A place for the handshake of a link that came in; `None`: the device has links enough.
    pub(super) fn place(&self, link: &dyn Link) -> Option<Place> {
        let address = || Source::from(link.remote_address().as_str());
        // Without a key on the link the handshake has to show who it is.
        let Some(device) = link.remote_key().map(|key| DeviceId::from_key(&key)) else {
            return Some(self.strangers.take(address()));
        };
        match self.standing(&device) {
            Standing::Known => Some(self.known(device)),
            Standing::Stranger => Some(self.strangers.take(address())),
            Standing::Unwelcome if self.contacts.knows(&device) => None,
            Standing::Unwelcome => Some(self.unwelcome.take(address())),
        }
    }

    /// A place for a device that proved to be a contact's: no stranger takes it away.
    pub(super) fn known(&self, device: DeviceId) -> Place {
        self.known.take(Source::device(device))
    }
}

impl Admission for Gate {
    fn standing(&self, device: &DeviceId) -> Standing {
        match self.contacts.knows(device) {
            true if self.links.has_room_for(device) => Standing::Known,
            false if self.contacts.awaits_strangers(system_ms()) => Standing::Stranger,
            _ => Standing::Unwelcome,
        }
    }
}

/// Judges the devices that signal. A contact's device may have as many links as it may: its signals still say where a
/// link goes on.
pub(crate) struct SignalGate(pub(crate) Contacts);

impl Admission for SignalGate {
    fn standing(&self, device: &DeviceId) -> Standing {
        match self.0.knows(device) {
            true => Standing::Known,
            false if self.0.awaits_strangers(system_ms()) => Standing::Stranger,
            false => Standing::Unwelcome,
        }
    }
}
