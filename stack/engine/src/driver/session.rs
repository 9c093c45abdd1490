//! Sessions: who can open what we seal.

use std::time::Duration;

use peerloom_core::wire::{ConversationId, DeviceId, Frame, KeyPackage, KeyPackageRequest, LogId, UserId, limits};
use peerloom_core::{Error, ErrorKind, Member, Outgoing, Result};
use tracing::warn;

use super::Turn;
use super::outgoing::{Contents, Sealed};
use super::state::TimerKey;
use crate::net::Trouble;

/// After this time a key package is asked for again.
pub(super) const KEY_PACKAGE_RETRY: Duration = Duration::from_secs(5);
/// How often a conversation's suite changes within a short time at most, and the time until it may once more.
pub(super) const SUITE_CHANGES: u32 = 8;
const SUITE_CHANGE: Duration = Duration::from_secs(600);

impl Turn<'_> {
    /// Brings our send session in a conversation to the devices of its users, as far as their key
    /// packages are here, and asks for those that are missing.
    pub(super) fn prepare_session(&mut self, id: ConversationId) -> Result<()> {
        let outcome = self.try_prepare_session(id);
        if outcome.is_err() {
            // What fails today may work once the store was mended, or another key package is here.
            self.state.timers.set(TimerKey::Session(id), Some(self.now.mono + KEY_PACKAGE_RETRY));
        }
        outcome
    }

    fn try_prepare_session(&mut self, id: ConversationId) -> Result<()> {
        if self.state.standing.is_restored() {
            return Ok(());
        }
        let crypto = self.state.crypto(id)?;
        let devices = self.state.devices_in(&id);
        let Some(conversation) = self.state.conversations.get_mut(&id) else {
            return Ok(());
        };
        let member = |device: DeviceId| Member {
            device,
            key_package: conversation.key_packages.get(&device).cloned(),
            rejoin: conversation.rejoin.contains(&device),
        };
        // A device that didn't prove whose it is gets nothing to open.
        let proven = devices.iter().filter(|(_, d)| d.certificate.is_some());
        let roster: Vec<Member> = proven.map(|(_, d)| member(d.device)).collect();
        if roster.is_empty() && conversation.members.as_ref().is_none_or(Vec::is_empty) {
            return Ok(());
        }
        let user_of = |device: &DeviceId| devices.iter().find(|(_, d)| d.device == *device).map(|(user, _)| *user);
        let prepare = |turn: &mut Self| {
            let mut state = turn.txn.crypto(crypto.suite());
            crypto.prepare(&mut state, &mut turn.state.rng, id, &roster)
        };
        let mut prepared = prepare(self);
        if let Err(error) = prepared.as_ref()
            && matches!(error.kind(), ErrorKind::Damaged | ErrorKind::Internal)
        {
            let own = LogId { device: self.state.own.device, conversation: id };
            self.discard_session(own, crypto.suite(), error.clone())?;
            prepared = prepare(self);
        }
        let prepared = match prepared {
            Ok(prepared) => prepared,
            Err(error) if matches!(error.kind(), ErrorKind::Unauthenticated | ErrorKind::TooLarge) => {
                warn!(%error, "a session could not be made");
                if let Some(conversation) = self.state.conversations.get_mut(&id) {
                    conversation.key_packages.clear();
                }
                let again = self.now.mono + KEY_PACKAGE_RETRY;
                self.state.timers.set(TimerKey::Session(id), Some(again));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if let Some(conversation) = self.state.conversations.get_mut(&id) {
            for device in prepared.outgoing.iter().flat_map(|o| &o.joins) {
                conversation.rejoin.remove(device);
                conversation.key_packages.remove(device);
            }
            conversation.fresh |= !prepared.outgoing.is_empty();
            conversation.members = Some(prepared.members);
        }
        for device in prepared.outgoing.iter().flat_map(|o| &o.joins) {
            self.state.links.set_trouble(*device, Trouble::Halted, None);
        }
        for outgoing in prepared.outgoing {
            let joins = outgoing.joins.iter().filter_map(|device| Some((*device, user_of(device)?)));
            let joins: Vec<(DeviceId, UserId)> = joins.collect();
            let Outgoing { devices, payload, welcome, .. } = outgoing;
            let sealed = Sealed::Handshake { payload, welcome, recipients: devices };
            self.append(id, sealed, Contents::HANDSHAKE, &joins)?;
        }
        // Who joins again, or in another suite, can't open what was sealed before.
        self.seal_again(id)?;
        prepared.missing.iter().try_for_each(|device| self.request_key_package(id, *device))
    }

    /// Before the first message that is sealed since the store was opened: from here on by keys that no copy of the store
    /// has. A store that was put back would otherwise seal again with those that the newer one used.
    pub(super) fn refresh_session(&mut self, id: ConversationId) -> Result<()> {
        if self.state.conversations.get(&id).is_none_or(|conversation| conversation.fresh) {
            return Ok(());
        }
        let crypto = self.state.crypto(id)?;
        let refreshed = {
            let mut state = self.txn.crypto(crypto.suite());
            crypto.refresh(&mut state, &mut self.state.rng, id)
        };
        let outgoing = match refreshed {
            Ok(outgoing) => outgoing,
            Err(error) => {
                let own = LogId { device: self.state.own.device, conversation: id };
                self.discard_session(own, crypto.suite(), error.clone())?;
                return Err(Error::new(ErrorKind::Damaged, "engine", "seal", "a session is damaged").with_source(error));
            }
        };
        if let Some(conversation) = self.state.conversations.get_mut(&id) {
            conversation.fresh = true;
        }
        if let Some(Outgoing { devices, payload, welcome, .. }) = outgoing {
            let sealed = Sealed::Handshake { payload, welcome, recipients: devices };
            self.append(id, sealed, Contents::HANDSHAKE, &[])?;
        }
        Ok(())
    }

    /// A device of the contact may offer other suites than it did: what is sealed from now on follows.
    pub(super) fn choose_suite_again(&mut self, id: ConversationId) -> Result<()> {
        let before = self.state.conversations.get_mut(&id).and_then(|c| c.suite.take());
        let after = self.state.crypto(id)?.suite();
        if before == Some(after) {
            return Ok(());
        }
        if before.is_some() && !self.may_change_suite(id) {
            // What is sealed for a suite that is really gone can't be opened: that has its own end.
            if let Some(conversation) = self.state.conversations.get_mut(&id) {
                conversation.suite = before;
            }
            return Ok(());
        }
        // Where none was chosen yet, the first may have been tried without an answer.
        if let Some(conversation) = self.state.conversations.get_mut(&id) {
            conversation.members = None;
            conversation.fresh = false;
            conversation.key_packages.clear();
        }
        self.prepare_session(id)?;
        self.seal_pending(id)
    }

    /// Each change may cost a session and sealing again, so a contact gets so many.
    fn may_change_suite(&mut self, id: ConversationId) -> bool {
        let Some(conversation) = self.state.conversations.get_mut(&id) else {
            return false;
        };
        let may = conversation.suite_changes.spend(self.now.mono, SUITE_CHANGE);
        let trouble = (!may).then_some("its records name other suites again and again; the last one stays for now");
        for device in self.state.device_ids_in(&id) {
            self.state.links.set_trouble(device, Trouble::Suites, trouble.map(Into::into));
        }
        if !may {
            self.state.links.count_refused();
            warn!(conversation = %id, "a contact changes its suites too often; the last one stays for now");
        }
        may
    }

    /// A session still lacks members: a request or its answer was lost.
    pub(super) fn on_session_timer(&mut self, id: ConversationId) -> Result<()> {
        if self.state.device_ids_in(&id).iter().any(|device| self.state.up.contains_key(device)) {
            self.prepare_session(id)?;
            self.seal_pending(id)?;
        }
        Ok(())
    }

    /// Asks a device for a key package, if there is a link; its coming up, and time, ask again.
    pub(super) fn request_key_package(&mut self, conversation: ConversationId, device: DeviceId) -> Result<()> {
        let again = self.now.mono + KEY_PACKAGE_RETRY;
        self.state.timers.set(TimerKey::Session(conversation), Some(again));
        if self.state.up.contains_key(&device) {
            let suite = self.state.crypto(conversation)?.suite();
            self.effects.control(device, &Frame::KeyPackageRequest(KeyPackageRequest { suite, conversation }));
        }
        Ok(())
    }

    /// A key package of a device arrived.
    pub(super) fn on_key_package(&mut self, device: DeviceId, answer: KeyPackage) -> Result<()> {
        let fits = answer.package.len() <= limits::KEY_PACKAGE;
        if !fits || !self.state.shares(&device, &answer.conversation) {
            return Ok(());
        }
        if self.state.crypto(answer.conversation)?.suite() != answer.suite {
            return Ok(());
        }
        let Some(conversation) = self.state.conversations.get_mut(&answer.conversation) else {
            return Ok(());
        };
        let member = conversation.members.as_ref().is_some_and(|m| m.contains(&device));
        if member && !conversation.rejoin.contains(&device) {
            return Ok(());
        }
        conversation.key_packages.insert(device, answer.package);
        self.prepare_session(answer.conversation)?;
        self.seal_pending(answer.conversation)
    }
}
