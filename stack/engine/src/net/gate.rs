//! Which devices may have a link, and which may signal.

use peerloom_core::wire::DeviceId;
use peerloom_core::{Admission, Standing};

use super::Links;
use crate::clock::system_ms;
use crate::contacts::Contacts;

/// Judges devices by the contacts, the open invitations and the links there are.
pub(crate) struct Gate {
    pub(super) contacts: Contacts,
    pub(super) links: Links,
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
