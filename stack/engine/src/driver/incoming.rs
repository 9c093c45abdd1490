//! Peers' logs: opening, parking, acknowledging.

use std::time::Duration;

use bytes::Bytes;
use peerloom_core::wire::store::{History, IN_LOGS, Record};
use peerloom_core::wire::{
    Bundle, CannotOpen, CannotOpenReason, Chain, DeviceId, EntryClass, Envelope, Frame, GapRequest, LogId, Position,
    RangeSet,
};
use peerloom_core::{Error, ErrorKind, Opened, Result};
use peerloom_delivery::{Arrival, GapAction, Inbox};
use tracing::{debug, debug_span, warn};

use super::Turn;
use super::state::{TimerKey, log_key};
use crate::clock::{AGREEMENT, system_ms};
use crate::event::{Event, Notice};
use crate::history::shown;

impl Turn<'_> {
    /// A frame from a device of a contact. What is wrong with it is refused and logged; an error
    /// means that this node's store can't be read.
    pub(super) fn on_frame(&mut self, device: DeviceId, link: u64, frame: Frame) -> Result<()> {
        // What is shown is sent once on a link: without it nothing would ever be sent there.
        if self.is_paused(&device) && !matches!(frame, Frame::Held(_) | Frame::Restored(_) | Frame::Devices(_)) {
            return Ok(());
        }
        // What comes to a store that isn't its device's newest is for the newest one: it waits at its sender.
        if self.state.standing.is_restored() {
            return Ok(());
        }
        let outcome = match frame {
            Frame::Envelope(envelope) => self.on_envelope(device, envelope),
            Frame::Ack(ack) => self.on_ack(device, &ack),
            Frame::CannotOpen(cannot_open) => self.on_cannot_open(device, &cannot_open),
            Frame::Withdrawal(withdrawal) => self.on_withdrawn(device, withdrawal.log, &withdrawal.positions),
            Frame::NotForYou(statement) if statement.to == self.state.own.device => {
                self.on_withdrawn(device, statement.log, &statement.positions)
            }
            Frame::NotForYou(_) => {
                Err(Error::new(ErrorKind::Unauthenticated, "engine", "take a statement", "it is for another device"))
            }
            Frame::GapRequest(request) => self.on_gap_request(device, &request),
            Frame::KeyPackageRequest(request) => self.on_key_package_request(device, request),
            Frame::KeyPackage(answer) => self.on_key_package(device, answer),
            Frame::Record(record) => self.on_record(device, record, true),
            Frame::Held(held) => self.on_held(device, link, *held),
            Frame::Restored(notice) => self.on_restored_notice(device, notice),
            Frame::Devices(shown) => self.on_devices(device, &shown),
            // The network side keeps them.
            Frame::Signal(_) => Ok(()),
        };
        self.drop_peer_fault(device, outcome)
    }

    /// Refuses what a peer did wrong, and goes on; an error of this node's own stays one.
    fn drop_peer_fault(&mut self, device: DeviceId, outcome: Result<()>) -> Result<()> {
        match outcome {
            Err(error) if is_peers_fault(&error) => {
                warn!(?device, %error, "refused what a peer sent");
                self.on_fault(device);
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// An entry, whose signature and payload have been checked.
    fn on_envelope(&mut self, device: DeviceId, envelope: Envelope) -> Result<()> {
        let (log, position) = (envelope.header.log, envelope.header.position);
        let refuse = |message: &str| Err(Error::new(ErrorKind::Unauthenticated, "engine", "take an entry", message));
        if log.device != device || !self.state.shares(&device, &log.conversation) {
            return refuse("it is of a log that this link has no business with");
        }
        let own = self.state.own.device;
        if envelope.header.excluded.contains(&own) {
            return refuse("it is for other devices");
        }
        if envelope.part_for(&own).is_none() {
            return refuse("it lacks the part for this device");
        }
        if let Some(reason) = self.state.refused.before(&envelope.header, self.now) {
            self.on_fault(device);
            reason.into_iter().for_each(|reason| self.refuse_entry(&envelope, reason));
            return Ok(());
        }
        let joins = joins(&envelope, &own);
        let now = self.now;
        match self.inbox(log).on_entry(&envelope.header, joins, now) {
            Arrival::Open => self.open_from(envelope),
            Arrival::Park => self.park(&envelope),
            Arrival::Duplicate => {
                self.state.to_show.insert(log);
                Ok(())
            }
            Arrival::Conflict => {
                self.conflict(log, position);
                Ok(())
            }
            Arrival::NoRoom => {
                debug!(?device, position, "no room to park an early entry");
                Ok(())
            }
        }
    }

    /// An entry contradicts what is held of its log: its owner is shown that, and knows by its own
    /// signature what it means.
    pub(super) fn conflict(&mut self, log: LogId, position: Position) {
        warn!(device = ?log.device, position, "an entry contradicts what is held of its log; its owner's folder may be an older copy");
        self.on_fault(log.device);
        self.state.to_show.insert(log);
    }

    pub(super) fn inbox(&mut self, log: LogId) -> &mut Inbox {
        self.state.touched.insert(TimerKey::Inbox(log));
        let (config, now) = (&self.state.config.delivery, self.now);
        self.state.inboxes.entry(log).or_insert_with(|| Inbox::restore(log, config, Default::default(), [], now))
    }

    /// Opens an entry, and then the parked ones whose turn has come.
    fn open_from(&mut self, envelope: Envelope) -> Result<()> {
        if self.state.standing.is_restored() {
            return Ok(());
        }
        let log = envelope.header.log;
        let mut next = self.open(envelope)?;
        while let Some(position) = next {
            next = match self.take_parked(log, position)? {
                Some(envelope) => self.open(envelope)?,
                None => None,
            };
        }
        Ok(())
    }

    /// Opens one entry; returns the position of a parked one that is next.
    fn open(&mut self, envelope: Envelope) -> Result<Option<Position>> {
        let (log, position) = (envelope.header.log, envelope.header.position);
        let now = self.now;
        if !self.inbox(log).fits(&envelope.header) {
            self.inbox(log).on_refused(position, now);
            self.conflict(log, position);
            return Ok(None);
        }
        if envelope.header.class == EntryClass::Application
            && now.is_past(envelope.header.expires_at_ms.saturating_add(EXPIRY_TOLERANCE_MS))
            && envelope.header.expires_at_ms > 0
            && self.agrees_on_time(&log.device)
        {
            debug!(device = ?log.device, position, "an entry had expired when it came; it is not shown");
            self.state.refused.note(&envelope.header, Some(CannotOpenReason::Expired), now);
            self.refuse_entry(&envelope, CannotOpenReason::Expired);
            return Ok(None);
        }
        if let EntryClass::Other(class) = envelope.header.class {
            debug!(device = ?log.device, position, class, "an entry of a newer version's class is passed over");
            return self.settle(&envelope);
        }
        let _span = debug_span!("entry", conversation = %log.conversation, position, from = %log.device).entered();
        let Some(crypto) = self.state.cryptos.iter().find(|c| c.suite() == envelope.header.suite).cloned() else {
            self.cannot_open(&envelope, CannotOpenReason::UnknownSuite)?;
            return Ok(None);
        };
        let Some(part) = envelope.part_for(&self.state.own.device).cloned() else { return Ok(None) };
        let associated_data = match envelope.header.class {
            EntryClass::Application => envelope.header.associated_data(),
            // Its signature says it all.
            EntryClass::Handshake | EntryClass::Other(_) => Vec::new(),
        };
        let opened = {
            let mut state = self.txn.crypto(envelope.header.suite);
            let rng = &mut self.state.rng;
            crypto.open(&mut state, rng, log, envelope.header.class, &associated_data, &part)
        };
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.discard_session(log, envelope.header.suite, error)?;
                self.lose_key_package(log, envelope.header.suite)?;
                Opened::CannotOpen(CannotOpenReason::NoSession)
            }
        };
        let announced = joins(&envelope, &self.state.own.device);
        match opened {
            Opened::Joined(key_package) if announced => {
                self.state.refused.forget(&log);
                let void = self.inbox(log).on_joined(&envelope.header);
                void.into_iter().for_each(|p| self.forget_parked(log, p));
                self.spend_key_package(key_package);
                self.settle(&envelope)
            }
            Opened::Applied if !announced => {
                self.state.refused.forget(&log);
                self.settle(&envelope)
            }
            Opened::Joined(_) | Opened::Applied => {
                if let Opened::Joined(key_package) = opened {
                    // Its keys went with the join.
                    self.spend_key_package(key_package);
                }
                self.reject(&envelope, "it joins where it doesn't say so, or the other way round")
            }
            Opened::Content(bundle) => {
                if self.keep(&envelope, bundle)? {
                    self.settle(&envelope)
                } else {
                    Ok(None)
                }
            }
            Opened::Duplicate => self.settle(&envelope),
            Opened::NeedsEarlier => {
                match self.inbox(log).on_entry(&envelope.header, false, now) {
                    Arrival::Park => self.park(&envelope)?,
                    // The very next one: no gap explains why it can't be opened.
                    Arrival::Open => self.cannot_open(&envelope, CannotOpenReason::KeyGone)?,
                    Arrival::Duplicate | Arrival::Conflict | Arrival::NoRoom => {}
                }
                Ok(None)
            }
            Opened::CannotOpen(reason) => {
                self.cannot_open(&envelope, reason)?;
                Ok(None)
            }
            Opened::Rejected(why) => self.reject(&envelope, why),
        }
    }

    /// Whether a device's clock and this one's agree. If not, one of them is wrong, and an entry that has expired by this
    /// one is shown all the same: its owner knows best, and withdraws it where it is late.
    fn agrees_on_time(&self, device: &DeviceId) -> bool {
        let difference = self.state.clock_differences.get(device).copied().flatten();
        difference.is_some_and(|ms| Duration::from_millis(ms) <= AGREEMENT)
    }

    fn reject(&mut self, envelope: &Envelope, why: &'static str) -> Result<Option<Position>> {
        let (log, position, now) = (envelope.header.log, envelope.header.position, self.now);
        self.inbox(log).on_refused(position, now);
        self.state.refused.note(&envelope.header, None, now);
        self.on_fault(log.device);
        warn!(device = ?log.device, position, why, "refused an entry");
        Ok(None)
    }

    fn settle(&mut self, envelope: &Envelope) -> Result<Option<Position>> {
        let (log, now) = (envelope.header.log, self.now);
        self.state.to_acknowledge.insert(log);
        Ok(self.inbox(log).on_settled(&envelope.header, now))
    }

    /// Stores an entry's messages and tells of them. `false`: there are none that could be shown, so the
    /// entry isn't settled, and its owner hears that.
    fn keep(&mut self, envelope: &Envelope, bundle: Bytes) -> Result<bool> {
        let log = envelope.header.log;
        let Ok(decoded) = Bundle::decode(bundle.clone()) else {
            self.cannot_open(envelope, CannotOpenReason::Damaged)?;
            return Ok(false);
        };
        let mut hidden = Vec::new();
        for (item, index) in decoded.items.iter().zip(0u16..) {
            if item.resealed_from.iter().any(|before| self.inbox(log).was_shown(*before)) {
                hidden.push(index);
            }
            for before in &item.resealed_from {
                // What couldn't be opened there is here now.
                self.release_quarantine(log, *before)?;
            }
        }
        let Some(certificate) = self.state.contacts.certificate(&log.device) else {
            return Ok(false);
        };
        let sequence = self.next_history();
        let row = History {
            conversation: log.conversation,
            user: certificate.user,
            device: log.device,
            position: envelope.header.position,
            stored_at_ms: system_ms(),
            bundle,
            hidden,
        };
        let ids = decoded.items.iter().map(|item| item.id).collect();
        self.put_history(sequence, &row, ids, None);
        let messages = shown(sequence, &row)?;
        debug!(messages = ?messages.iter().map(|m| m.id).collect::<Vec<_>>(), "opened");
        if !messages.is_empty() {
            self.effects.notice(Notice::Messages(messages.into()));
        }
        Ok(true)
    }

    /// Notes what can't be opened and tells the log's owner.
    fn cannot_open(&mut self, envelope: &Envelope, reason: CannotOpenReason) -> Result<()> {
        let (log, position) = (envelope.header.log, envelope.header.position);
        warn!(device = ?log.device, position, ?reason, "an entry can't be opened; asking for it to be sealed anew");
        self.quarantine(envelope, reason)?;
        self.state.refused.note(&envelope.header, Some(reason), self.now);
        self.on_fault(log.device);
        self.refuse_entry(envelope, reason);
        Ok(())
    }

    /// An entry isn't taken: its owner seals it again, or withdraws it.
    fn refuse_entry(&mut self, envelope: &Envelope, reason: CannotOpenReason) {
        let (log, position, now) = (envelope.header.log, envelope.header.position, self.now);
        self.inbox(log).on_refused(position, now);
        let (signer, id) = (self.state.own.device, envelope.header.id());
        let cannot_open = self.state.own.state(CannotOpen { log, signer, position, id, reason });
        self.effects.control(log.device, &Frame::CannotOpen(cannot_open));
    }

    /// The log's owner takes positions back, or says that they hold nothing for this device.
    fn on_withdrawn(&mut self, device: DeviceId, log: LogId, positions: &Chain) -> Result<()> {
        if log.device != device || !self.state.shares(&device, &log.conversation) {
            let message = "it is about a log that this link has no business with";
            return Err(Error::new(ErrorKind::Unauthenticated, "engine", "take a withdrawal", message));
        }
        let now = self.now;
        self.state.to_acknowledge.insert(log);
        let (void, next) = self.inbox(log).on_withdrawn(positions, now);
        void.into_iter().for_each(|p| self.forget_parked(log, p));
        match next {
            Some(position) => match self.take_parked(log, position)? {
                Some(envelope) => self.open_from(envelope),
                None => Ok(()),
            },
            None => Ok(()),
        }
    }

    /// What a gap in a peer's log calls for now.
    pub(super) fn on_inbox_timer(&mut self, log: LogId) -> Result<()> {
        let now = self.now;
        if self.state.standing.is_restored() {
            return Ok(());
        }
        match self.inbox(log).on_timer(now) {
            None => Ok(()),
            Some(GapAction::Ask(positions)) => {
                self.ask_again(log, positions);
                Ok(())
            }
            Some(GapAction::OpenAhead { positions, missing }) => {
                for gap in missing.iter() {
                    let (conversation, device) = (log.conversation, log.device);
                    self.effects.event(Event::Gap { conversation, device, first: gap.first, last: gap.last });
                }
                self.ask_again(log, missing);
                for position in positions {
                    if let Some(envelope) = self.take_parked(log, position)? {
                        let opened = self.open_from(envelope);
                        self.drop_peer_fault(log.device, opened)?;
                    }
                }
                Ok(())
            }
        }
    }

    fn ask_again(&mut self, log: LogId, positions: RangeSet) {
        let request = self.state.own.state(GapRequest { log, signer: self.state.own.device, positions });
        self.effects.control(log.device, &Frame::GapRequest(request));
    }

    /// Stores how far each changed log is, and says so to its owner: one acknowledgement for all
    /// that this turn settled.
    pub(super) fn acknowledge(&mut self) {
        let changed = self.state.touched.iter().filter_map(|key| match key {
            TimerKey::Inbox(log) => Some(*log),
            TimerKey::Outbox(_) | TimerKey::Session(_) | TimerKey::Pending(_) | TimerKey::KeyPackages => None,
        });
        for log in changed.collect::<Vec<_>>() {
            if let Some(stored) = self.state.inboxes.get_mut(&log).and_then(Inbox::take_dirty) {
                self.txn.put(IN_LOGS, log_key(&log), stored.encode());
            }
        }
        for log in std::mem::take(&mut self.state.to_acknowledge) {
            let Some(inbox) = self.state.inboxes.get(&log) else {
                continue;
            };
            debug!(conversation = %log.conversation, from = %log.device, "acknowledges");
            let ack = self.state.own.state(inbox.ack(self.state.own.device));
            self.effects.control(log.device, &Frame::Ack(ack));
        }
    }

    pub(super) fn on_timers(&mut self) -> Result<()> {
        for key in self.state.timers.take_due(self.now.mono) {
            let outcome = match key {
                TimerKey::Outbox(id) => self.on_outbox_timer(id),
                TimerKey::Inbox(log) => self.on_inbox_timer(log),
                TimerKey::Session(id) => self.on_session_timer(id),
                TimerKey::Pending(id) => self.seal_pending(id),
                TimerKey::KeyPackages => self.expire_key_packages(),
            };
            self.contain(outcome)?;
        }
        Ok(())
    }
}

/// How far the clocks of two devices may differ before an entry that is near its expiry is refused.
const EXPIRY_TOLERANCE_MS: u64 = 30_000;

/// Whether an entry says that our view of the log begins with it.
fn joins(envelope: &Envelope, own: &DeviceId) -> bool {
    envelope.header.class == EntryClass::Handshake && envelope.header.joins.contains(own)
}

/// Whether an error is about what a peer sent, not about this node.
pub(super) fn is_peers_fault(error: &Error) -> bool {
    use ErrorKind as K;
    matches!(error.kind(), K::Malformed | K::Unauthenticated | K::TooLarge | K::UnsupportedVersion)
}

#[cfg(test)]
mod tests {
    use peerloom_core::memory::MemoryCrypto;
    use peerloom_core::wire::{Header, RosterId};
    use peerloom_delivery::Now;

    use super::super::testing::{in_a_turn, meet};
    use super::*;

    /// An entry that has expired is refused only where both clocks agree: otherwise one of them is wrong, and neither
    /// side can know which.
    #[test]
    fn what_has_expired_by_a_clock_that_may_be_wrong_is_opened() {
        let agrees = Some(u64::try_from(AGREEMENT.as_millis()).unwrap());
        let differs = agrees.map(|ms| ms + 1);
        for (told, reason) in [
            (agrees, CannotOpenReason::Expired),
            // It is opened, for which there is no session.
            (differs, CannotOpenReason::NoSession),
            (None, CannotOpenReason::NoSession),
        ] {
            in_a_turn(|turn| {
                let (conversation, devices) = meet(turn, 1);
                turn.now = Now { wall_ms: 10_000_000, ..turn.now };
                let (device, key) = &devices[0];
                turn.state.clock_differences.insert(*device, told);
                turn.effects.take_control();
                let header = Header {
                    log: LogId { device: *device, conversation },
                    position: 1,
                    class: EntryClass::Application,
                    suite: MemoryCrypto::SUITE,
                    expires_at_ms: 9_000_000,
                    roster: RosterId::from_bytes([0; 32]),
                    excluded: Vec::new(),
                    joins: Vec::new(),
                    previous: None,
                };
                let payload = Bytes::from_static(b"sealed");
                let header = header.sign(&payload, |message| key.sign(message));
                turn.open(Envelope { header, payload, welcome: Bytes::new(), hops: 0 }).unwrap();
                let frames = turn.effects.take_control();
                let said = frames.iter().find_map(|frame| match frame {
                    Frame::CannotOpen(cannot_open) => Some(cannot_open.reason),
                    _ => None,
                });
                assert_eq!(said, Some(reason), "{told:?}");
            });
        }
    }
}
