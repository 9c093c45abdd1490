//! Whether a store is the newest of its device: its own, and its contacts'.
//!
//! A store that was put back from an older copy, or that is a copy beside another, would write other
//! entries at positions that peers know. It is recognised by proof: a peer shows a header or an acknowledgement
//! that this device signed and this store doesn't know. Such a store seals and sends nothing any more, and
//! neither shows nor acknowledges what comes: that waits for the newest one.

use bytes::Bytes;
use peerloom_core::wire::store::{META, Record, meta};
use peerloom_core::wire::{Ack, ConversationId, DeviceId, Frame, Held, LogId, Restored, Signed, Stated, limits};
use peerloom_core::{Error, ErrorKind, Result};
use peerloom_delivery::Inbox;
use tracing::{error, warn};

use super::Turn;
use super::state::TimerKey;
use crate::clock::system_ms;
use crate::event::Event;
use crate::roles::LinkRole;
use crate::store::Txn;

/// What happened to a store that sends nothing any more, and what to do.
pub(crate) const RESTORED: &str = "this folder was put back from an older copy, or two copies of it are used; it \
     lacks what the newest one has, and has left the network. Go on with the newest one alone, or make a new folder \
     and invite your contacts again";

/// The same of a store that may go on, and of a contact's.
pub(crate) const COPIED: &str = "another copy of this folder was used, and knows that it is one; use one folder only. \
     What the other one received before is in it alone";
pub(crate) const PEER_RESTORED: &str = "the contact's folder was put back from an older copy, or two copies of it are used; \
     what was delivered may be in the other one alone. If nothing comes from there any more, ask for a new invitation";

/// Copies of this store whose notices count.
const MAX_COPIES: usize = 64;

/// Whether this store is the newest of its device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum StoreStanding {
    /// As far as this node knows.
    #[default]
    Newest,
    /// It is, but another copy of it was used, and found out that it is one.
    Copied,
    /// It isn't, or another copy got ahead of it: this node sends nothing any more.
    Restored,
}

/// The same, with what was signed about it.
#[derive(Debug, Default)]
pub(crate) struct OwnStanding {
    restored: Option<Stated<Restored>>,
    /// The notices of copies that found out that they are, by their times, in the order in which they came.
    copied: Vec<u64>,
}

impl OwnStanding {
    /// Reads what the store says. A proof that could not be written stays one.
    pub(crate) fn load(&mut self, txn: &Txn<'_>) -> Result<()> {
        let notice = txn.get(META, meta::RESTORED)?.map(|bytes| Signed::decode(bytes, limits::RECEIPT)).transpose()?;
        let notice = notice.map(Stated::decode).transpose()?;
        self.restored = notice.or(self.restored.take());
        let stored = txn.get(META, meta::COPIED)?.unwrap_or_default();
        let stored: Vec<u64> = stored.as_chunks().0.iter().map(|time| u64::from_be_bytes(*time)).collect();
        if stored.len() > self.copied.len() {
            self.copied = stored;
        }
        Ok(())
    }

    /// What to say of a store that isn't its device's newest.
    pub(crate) fn notice(&self) -> Option<&Stated<Restored>> {
        self.restored.as_ref()
    }

    /// Whether nothing may be sealed, sent or taken in.
    pub(crate) fn is_restored(&self) -> bool {
        self.restored.is_some()
    }

    pub(crate) fn get(&self) -> StoreStanding {
        match (&self.restored, self.copied.is_empty()) {
            (Some(_), _) => StoreStanding::Restored,
            (None, false) => StoreStanding::Copied,
            (None, true) => StoreStanding::Newest,
        }
    }
}

impl Turn<'_> {
    /// A store that isn't its device's newest does nothing that others would hear of.
    pub(crate) fn refuse_if_restored(&self, operation: &'static str) -> Result<()> {
        if !self.state.standing.is_restored() {
            return Ok(());
        }
        let message = format!("nothing is sent from this folder any more: {RESTORED}");
        Err(Error::new(ErrorKind::Refused, "engine", operation, message))
    }

    /// Shows a device what is held of its log in a conversation, when its link comes up or the conversation begins.
    pub(super) fn show_held(&mut self, device: DeviceId, conversation: ConversationId) {
        if !self.state.standing.is_restored() {
            self.state.to_show.insert(LogId { device, conversation });
        }
    }

    /// Shows a device what is known of its store and of this one, when its link comes up.
    pub(super) fn show_standing(&mut self, device: DeviceId) {
        let contact = self.state.contacts.certificate(&device).and_then(|c| self.state.contacts.by_user(&c.user));
        let known = contact.and_then(|c| c.devices.into_iter().find(|d| d.device == device)?.restored);
        let known = known.and_then(|notice| Stated::decode(notice).ok());
        // Our own for the contact to know, its own for a copy of it to hear.
        for notice in self.state.standing.restored.clone().into_iter().chain(known) {
            self.effects.control(device, &Frame::Restored(notice));
        }
    }

    /// Sends what is held of the logs whose owners shall see it.
    pub(super) fn send_held(&mut self) {
        for log in std::mem::take(&mut self.state.to_show) {
            let inbox = self.state.inboxes.get(&log);
            let outbox = self.state.conversations.get(&log.conversation).map(|conversation| &conversation.outbox);
            let ack = inbox.map(|inbox| self.state.own.state(inbox.ack(self.state.own.device)));
            let held = Held {
                conversation: log.conversation,
                header: inbox.and_then(Inbox::newest).cloned(),
                time_ms: self.told_ms,
                ack,
                acknowledged: outbox.and_then(|outbox| outbox.acknowledged(&log.device)).cloned(),
            };
            self.effects.control(log.device, &Frame::held(held));
        }
    }

    /// A device shows what it holds of our log. The link's task has checked that we signed it.
    pub(super) fn on_held(&mut self, device: DeviceId, link: u64, held: Held) -> Result<()> {
        let id = held.conversation;
        let ours = LogId { device: self.state.own.device, conversation: id };
        if held.header.as_ref().is_some_and(|h| h.log != ours) {
            let message = "it is about another device's log";
            return Err(Error::new(ErrorKind::Unauthenticated, "engine", "take what a device holds", message));
        }
        if !self.state.shares(&device, &id) {
            // The two may learn of a conversation, or of its users, one after the other.
            self.keep_early_held(device, link, held);
            return Ok(());
        }
        let Some(conversation) = self.state.conversations.get_mut(&id) else {
            return Ok(());
        };
        let ahead_ms = (held.time_ms > 0).then(|| held.time_ms.abs_diff(system_ms()));
        self.state.clock_differences.insert(device, ahead_ms);
        // A link that is gone says nothing of the next one.
        let Some(first) = self.state.links.note_shown(&device, link, id) else { return Ok(()) };
        if !conversation.outbox.on_held(&device, held.header.as_ref()) {
            self.on_restored("has entries that this node signed");
        }
        if let Some(ack) = &held.acknowledged {
            self.on_acknowledged(LogId { device, conversation: id }, ack)?;
        }
        if let Some(ack) = &held.ack {
            self.on_ack(device, ack)?;
        }
        self.state.ready.insert((id, device));
        self.state.touched.insert(TimerKey::Outbox(id));
        if first {
            self.resume(id, device, false);
            // What was asked for on the last link may have been lost with it.
            self.prepare_session(id)?;
            self.seal_pending(id)?;
        }
        Ok(())
    }

    /// A log's owner shows an acknowledgement that this device signed. The link's task has checked that.
    fn on_acknowledged(&mut self, log: LogId, ack: &Ack) -> Result<()> {
        if ack.log != log {
            let message = "it is about another device's log";
            return Err(Error::new(ErrorKind::Unauthenticated, "engine", "take an acknowledgement", message));
        }
        let (now, copies) = (self.now, u32::try_from(self.state.standing.copied.len()).unwrap_or(u32::MAX));
        let (lacks, copied) = (self.inbox(log).lacks(ack), self.inbox(log).awaits_copy(copies));
        self.inbox(log).on_compared(copies);
        if lacks.is_empty() {
            return Ok(());
        }
        if self.state.inboxes_damaged {
            warn!(device = %log.device, "what was received is known by this device's own acknowledgement again");
            self.inbox(log).recover(ack, now);
        } else if copied {
            // The copy that found out is the one that signed it. Its owner won't send it again.
            error!(device = %log.device, positions = ?lacks, "another copy of this folder received what this one lacks");
            self.inbox(log).recover(ack, now);
            for range in lacks.iter() {
                let (conversation, device) = (log.conversation, log.device);
                self.effects.event(Event::Gap { conversation, device, first: range.first, last: range.last });
            }
        } else {
            self.on_restored("has acknowledgements that this node signed");
        }
        Ok(())
    }

    /// This store is older than what a peer has, or another copy of it runs.
    fn on_restored(&mut self, proof: &str) {
        if self.state.standing.is_restored() {
            return;
        }
        error!("a contact {proof} and that its store doesn't know: {RESTORED}");
        let notice = self.state.own.state(Restored { device: self.state.own.device, since_ms: system_ms() });
        self.txn.put(META, Bytes::from_static(meta::RESTORED), notice.signed().encode());
        self.state.standing.restored = Some(notice.clone());
        self.effects.event(Event::StoreRestored);
        let up: Vec<DeviceId> = self.state.up.keys().copied().collect();
        let hears = |device: &&DeviceId| self.state.contacts.role(device) != Some(LinkRole::Service);
        let hearing: Vec<DeviceId> = up.iter().filter(hears).copied().collect();
        hearing.iter().for_each(|device| self.effects.control(*device, &Frame::Restored(notice.clone())));
        self.effects.leave(notice);
    }

    /// A device says that its store was restored or copied; or a contact passes on the notice of another
    /// copy of this store. The link's task has checked the signature.
    pub(crate) fn on_restored_notice(&mut self, device: DeviceId, notice: Stated<Restored>) -> Result<()> {
        if notice.device == self.state.own.device {
            let known = &self.state.standing.copied;
            // Contacts show the same notice at each link.
            if !self.state.standing.is_restored() && !known.contains(&notice.since_ms) && known.len() < MAX_COPIES {
                warn!("another copy of this node's folder runs, or ran: use one of them only");
                self.state.standing.copied.push(notice.since_ms);
                let times = self.state.standing.copied.iter().flat_map(|time| time.to_be_bytes());
                self.txn.put(META, Bytes::from_static(meta::COPIED), times.collect::<Vec<u8>>());
                self.effects.event(Event::StoreCopied);
            }
            return Ok(());
        }
        if self.state.contacts.role(&device).is_some_and(|role| role != LinkRole::Contact) {
            // Nothing is sent to it that would have to stop.
            return Ok(());
        }
        let contact = self.state.contacts.certificate(&device).and_then(|c| self.state.contacts.by_user(&c.user));
        let Some(mut contact) = contact.filter(|_| notice.device == device) else {
            let message = "it is about another device";
            return Err(Error::new(ErrorKind::Unauthenticated, "engine", "take a notice", message));
        };
        // The other copy may be linked, too.
        self.effects.everywhere(device, &Frame::Restored(notice.clone()));
        let known = contact.devices.iter_mut().find(|d| d.device == device && d.restored.is_none());
        if let Some(known) = known {
            warn!(%device, alias = contact.alias, "a contact's folder was put back from an older copy, or is used twice");
            known.restored = Some(notice.signed().clone());
            let user = contact.user;
            self.txn.put(peerloom_core::wire::store::CONTACTS, user.as_bytes().to_vec(), contact.encode());
            self.state.contacts.insert(contact);
            self.effects.event(Event::PeerRestored { user, device });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use peerloom_core::wire::{Chain, EntryId, RangeSet};

    use super::super::testing::{in_a_turn, meet};
    use super::*;

    /// What a copy of this store acknowledged is taken over once, and reported. What is shown beyond that proves that
    /// this store was put back.
    #[test]
    fn acknowledgements_of_a_copy_count_once_for_each_copy_and_log() {
        in_a_turn(|turn| {
            let (conversation, devices) = meet(turn, 2);
            let own = turn.state.own.clone();
            let ack = |device: DeviceId, through: u64| {
                let (beyond, withdrawn) = (Chain::default(), RangeSet::default());
                let through_id = Some(EntryId::from_bytes([through as u8; 32]));
                Ack { log: LogId { device, conversation }, signer: own.device, through, through_id, beyond, withdrawn }
            };
            let shows = |turn: &mut Turn<'_>, number: usize, through: u64| {
                let device = devices[number].0;
                turn.on_acknowledged(LogId { device, conversation }, &ack(device, through)).unwrap();
                turn.state.standing.get()
            };
            let notice = |turn: &mut Turn<'_>, since_ms: u64| {
                let notice = own.state(Restored { device: own.device, since_ms });
                turn.on_restored_notice(devices[0].0, notice).unwrap();
            };
            // The same notice, however often it comes, is of one copy; the time in it may be any.
            [9_000, 9_000].into_iter().for_each(|since_ms| notice(turn, since_ms));
            assert_eq!(shows(turn, 0, 3), StoreStanding::Copied);
            let log = LogId { device: devices[0].0, conversation };
            assert!(turn.inbox(log).knows(&ack(devices[0].0, 3)), "its owner won't send it again");
            assert_eq!(turn.effects.take_gaps(), [(devices[0].0, 1, 3)]);
            assert_eq!(shows(turn, 1, 2), StoreStanding::Copied, "the other log was not compared yet");
            // Another copy, whose clock is behind, and then no more.
            notice(turn, 5_000);
            assert_eq!(shows(turn, 0, 5), StoreStanding::Copied);
            assert_eq!(shows(turn, 0, 5), StoreStanding::Copied, "it is known by now");
            [5_000, 9_000].into_iter().for_each(|since_ms| notice(turn, since_ms));
            assert_eq!(shows(turn, 0, 6), StoreStanding::Restored);
        });
    }
}
