//! Conversations: which there are, and who is in them.

use peerloom_core::wire::store::{CONVERSATIONS, ConversationInfo, ConversationKind, Record};
use peerloom_core::wire::{ConversationId, DeviceId, Held, Role, Roster, UserId, limits};
use peerloom_core::{Error, ErrorKind, Result};

use super::Turn;
use super::state::{LocalIdentity, TimerKey};
use crate::clock::system_ms;

/// What devices show of conversations that this node doesn't share with them yet, at most: of one device, and of all.
const EARLY_OF_A_DEVICE: usize = 64;
const EARLY_OF_ALL: usize = 4096;

/// What devices showed of conversations that aren't shared with them yet, and on which link.
#[derive(Default)]
pub(crate) struct EarlyHeld(Vec<(DeviceId, u64, Held)>);

impl EarlyHeld {
    /// Keeps what a device shows, if there is room.
    fn keep(&mut self, device: DeviceId, link: u64, held: Held) {
        self.0.retain(|(of, _, other)| *of != device || other.conversation != held.conversation);
        let of_device = self.0.iter().filter(|(of, ..)| *of == device).count();
        if of_device < EARLY_OF_A_DEVICE && self.0.len() < EARLY_OF_ALL {
            self.0.push((device, link, held));
        }
    }

    /// Takes what was shown of a conversation.
    fn take(&mut self, id: &ConversationId) -> Vec<(DeviceId, u64, Held)> {
        self.0.extract_if(.., |(_, _, held)| held.conversation == *id).collect()
    }

    /// A device has no link any more: what it showed is over.
    pub(super) fn forget(&mut self, device: &DeviceId) {
        self.0.retain(|(of, ..)| of != device);
    }
}

/// The direct conversation of this node's user with another.
pub(super) fn direct(own: &LocalIdentity, user: UserId, created_at_ms: u64) -> (ConversationId, ConversationInfo) {
    let roster = Roster::first([own.user, user], Role::Member);
    let id = ConversationId::direct(&own.network, &own.user, &user);
    (id, ConversationInfo { kind: ConversationKind::Direct, roster, created_at_ms, title: String::new() })
}

impl Turn<'_> {
    /// Opens the direct conversation with a user, if it isn't yet.
    pub(super) fn open_direct(&mut self, user: &UserId) -> Result<()> {
        let (id, info) = direct(&self.state.own, *user, system_ms());
        if self.state.directory.get(&id).is_some() { Ok(()) } else { self.put_conversation(id, info) }
    }

    /// Adds a conversation, or gives it another roster or title: devices of users that are new are let in, nothing more
    /// is sealed for those of users that left, and what only they lacked ends. That the other users agree on the roster is
    /// the caller's affair.
    pub(crate) fn put_conversation(&mut self, id: ConversationId, info: ConversationInfo) -> Result<()> {
        let error = |message: &str| Err(Error::new(ErrorKind::Invalid, "engine", "change a conversation", message));
        let members = &info.roster.members;
        if members.len() > limits::MEMBERS || info.title.len() > limits::NAME {
            return error("a conversation has at most 256 users, and its title 64 bytes");
        }
        if info.kind == ConversationKind::Direct && (members.len() != 2 || !members.contains_key(&self.state.own.user))
        {
            return error("a direct conversation is between two users, one of them this node's");
        }
        self.txn.put(CONVERSATIONS, id.as_bytes().to_vec(), info.encode());
        self.state.directory.insert(id, info);
        if !self.state.conversations.contains_key(&id) {
            self.state.load_conversation(&self.txn, id, self.now)?;
        }
        self.leave_out(id)?;
        self.choose_suite_again(id)?;
        self.prepare_session(id)?;
        self.seal_pending(id)?;
        for device in self.state.device_ids_in(&id) {
            if self.state.up.contains_key(&device) && !self.state.links.has_shown(&device, &id) {
                self.show_held(device, id);
            }
        }
        for (device, link, held) in self.state.early_held.take(&id) {
            self.on_held(device, link, held)?;
        }
        Ok(())
    }

    /// Devices that aren't in the conversation any more need nothing of our log.
    pub(super) fn leave_out(&mut self, id: ConversationId) -> Result<()> {
        let devices = self.state.device_ids_in(&id);
        let Some(conversation) = self.state.conversations.get_mut(&id) else { return Ok(()) };
        let gone: Vec<DeviceId> = conversation.outbox.devices().filter(|device| !devices.contains(device)).collect();
        for device in gone {
            let Some(conversation) = self.state.conversations.get_mut(&id) else { break };
            conversation.rejoin.remove(&device);
            conversation.key_packages.remove(&device);
            let outcome = conversation.outbox.remove_device(&device);
            self.state.ready.remove(&(id, device));
            self.state.lazy_deletes.push((peerloom_core::wire::store::OUT_CURSORS, cursor_key(&id, &device)));
            self.on_settled(id, outcome)?;
        }
        self.state.touched.insert(TimerKey::Outbox(id));
        Ok(())
    }

    /// A device shows what it holds of a conversation that this node doesn't share with it yet: it counts once it does.
    pub(super) fn keep_early_held(&mut self, device: DeviceId, link: u64, held: Held) {
        self.state.early_held.keep(device, link, held);
    }
}

/// The key of how far a device has our log in a conversation.
pub(super) fn cursor_key(id: &ConversationId, device: &DeviceId) -> bytes::Bytes {
    [id.as_bytes().as_slice(), device.as_bytes()].concat().into()
}
