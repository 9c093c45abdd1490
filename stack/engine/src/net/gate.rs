//! Which devices may have a link.

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
