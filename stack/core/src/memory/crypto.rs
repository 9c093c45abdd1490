//! A crypto that protects nothing, with the bookkeeping of one that does.

use bytes::Bytes;
use peerloom_wire::{CannotOpenReason, ConversationId, DeviceId, EntryClass, LogId, SuiteId, limits};
use rand_core::Rng;
use sha2::{Digest, Sha256};

use crate::{
    Crypto, CryptoCaps, Error, ErrorKind, Member, Opened, Outgoing, Prepared, Result, Sealed, Sealing, Serves, StateTxn,
};

/// Carries plaintext behind a checksum. Sessions, joins and removals behave as in a real suite, so
/// that the machinery around them can be tested; it hides nothing and must never be offered to users.
pub struct MemoryCrypto {
    device: DeviceId,
}

impl MemoryCrypto {
    /// Its number on the wire: the last private one.
    pub const SUITE: SuiteId = SuiteId(0xffff);

    /// The crypto of a device.
    pub fn new(device: DeviceId) -> Self {
        Self { device }
    }

    /// The payload of an application entry of a device, for tests that play it by hand.
    pub fn payload(device: &DeviceId, associated_data: &[u8], plaintext: &[u8]) -> Bytes {
        [&checksum(device, associated_data, plaintext), plaintext].concat().into()
    }

    fn handshake(&self, devices: Vec<DeviceId>, joins: Vec<DeviceId>) -> Outgoing {
        let named: Vec<u8> = [self.device].iter().chain(&joins).flat_map(|d| *d.as_bytes()).collect();
        let named = Bytes::from(named);
        let welcome = if joins.is_empty() { Bytes::new() } else { named.clone() };
        Outgoing { devices, joins, payload: named, welcome }
    }
}

/// State: the members of the send session of a conversation, 32 bytes each.
fn session_key(conversation: ConversationId) -> Vec<u8> {
    [b"send" as &[u8], conversation.as_bytes()].concat()
}

/// The members of the send session of a conversation.
fn members(txn: &dyn StateTxn, conversation: ConversationId) -> Result<Vec<DeviceId>> {
    let stored = txn.get(&session_key(conversation))?.unwrap_or_default();
    Ok(stored.as_chunks().0.iter().map(|id| DeviceId::from_bytes(*id)).collect())
}

/// State: present once this device was let into a peer's log.
fn join_key(log: LogId) -> Vec<u8> {
    [b"join" as &[u8], log.device.as_bytes(), log.conversation.as_bytes()].concat()
}

fn checksum(device: &DeviceId, associated_data: &[u8], plaintext: &[u8]) -> [u8; 32] {
    Sha256::new()
        .chain_update(device.as_bytes())
        .chain_update(Sha256::digest(associated_data))
        .chain_update(plaintext)
        .finalize()
        .into()
}

impl Crypto for MemoryCrypto {
    fn suite(&self) -> SuiteId {
        Self::SUITE
    }

    fn name(&self) -> &'static str {
        "memory"
    }

    fn caps(&self) -> CryptoCaps {
        CryptoCaps {
            ratchet: false,
            healing: false,
            removal: false,
            post_quantum: false,
            single_use: false,
            members: limits::RECIPIENTS,
        }
    }

    fn key_package(&self, _txn: &mut dyn StateTxn, _rng: &mut dyn Rng, _serves: Serves) -> Result<Bytes> {
        Ok(Bytes::copy_from_slice(self.device.as_bytes()))
    }

    fn discard_key_package(&self, _txn: &mut dyn StateTxn, _package: &[u8]) -> Result<()> {
        Ok(())
    }

    fn prepare(
        &self,
        txn: &mut dyn StateTxn,
        _rng: &mut dyn Rng,
        conversation: ConversationId,
        roster: &[Member],
    ) -> Result<Prepared> {
        self.caps().check_roster("memory", roster)?;
        let key = session_key(conversation);
        let before = members(txn, conversation)?;
        let mut prepared = Prepared::default();
        let mut joins = Vec::new();
        for member in roster {
            let known = before.contains(&member.device);
            match &member.key_package {
                _ if known && !member.rejoin => prepared.members.push(member.device),
                Some(package) if package.as_ref() == member.device.as_bytes() => {
                    prepared.members.push(member.device);
                    joins.push(member.device);
                }
                Some(_) => {
                    let message = "the key package belongs to another device; ask for a new one";
                    return Err(Error::new(ErrorKind::Unauthenticated, "memory", "prepare", message));
                }
                None => {
                    prepared.members.extend(Some(member.device).filter(|_| known));
                    prepared.missing.push(member.device);
                }
            }
        }
        if !joins.is_empty() || before.iter().any(|d| !prepared.members.contains(d)) {
            let members: Vec<u8> = prepared.members.iter().flat_map(|d| *d.as_bytes()).collect();
            txn.put(&key, members.into());
        }
        if !joins.is_empty() {
            prepared.outgoing.push(self.handshake(prepared.members.clone(), joins));
        }
        Ok(prepared)
    }

    fn refresh(
        &self,
        txn: &mut dyn StateTxn,
        _rng: &mut dyn Rng,
        conversation: ConversationId,
    ) -> Result<Option<Outgoing>> {
        let members = members(txn, conversation)?;
        Ok((!members.is_empty()).then(|| self.handshake(members, Vec::new())))
    }

    fn seal(&self, txn: &mut dyn StateTxn, _rng: &mut dyn Rng, sealing: Sealing<'_>) -> Result<Sealed> {
        if txn.get(&session_key(sealing.conversation))?.is_none() {
            let message = "there is no send session; prepare one first";
            return Err(Error::new(ErrorKind::Internal, "memory", "seal", message));
        }
        let sum = checksum(&self.device, sealing.associated_data, sealing.plaintext);
        let payload = [&sum, sealing.plaintext].concat().into();
        Ok(Sealed { payload, recipe: Some(Bytes::copy_from_slice(&sum)) })
    }

    fn rebuild(&self, recipe: &[u8], plaintext: &[u8]) -> Result<Bytes> {
        Ok([recipe, plaintext].concat().into())
    }

    fn open(
        &self,
        txn: &mut dyn StateTxn,
        _rng: &mut dyn Rng,
        log: LogId,
        class: EntryClass,
        associated_data: &[u8],
        payload: &[u8],
    ) -> Result<Opened> {
        match class {
            // The owner, and then those whom it lets in.
            EntryClass::Handshake => match payload.as_chunks::<32>().0.split_first() {
                Some((owner, joins)) if owner == log.device.as_bytes() => {
                    if joins.contains(self.device.as_bytes()) {
                        txn.put(&join_key(log), Bytes::from_static(b"joined"));
                        Ok(Opened::Joined(Sha256::digest(self.device.as_bytes()).into()))
                    } else if txn.get(&join_key(log))?.is_some() {
                        Ok(Opened::Applied)
                    } else {
                        Ok(Opened::CannotOpen(CannotOpenReason::NoSession))
                    }
                }
                _ => Ok(Opened::Rejected("the handshake is somebody else's")),
            },
            EntryClass::Other(_) => Ok(Opened::Rejected("its class is unknown")),
            EntryClass::Application if txn.get(&join_key(log))?.is_none() => {
                Ok(Opened::CannotOpen(CannotOpenReason::NoSession))
            }
            EntryClass::Application => match payload.split_first_chunk() {
                Some((sum, plaintext)) if *sum == checksum(&log.device, associated_data, plaintext) => {
                    Ok(Opened::Content(Bytes::copy_from_slice(plaintext)))
                }
                _ => Ok(Opened::CannotOpen(CannotOpenReason::Damaged)),
            },
        }
    }

    fn discard(&self, txn: &mut dyn StateTxn, log: LogId) -> Result<()> {
        txn.delete(&join_key(log));
        if log.device == self.device {
            txn.delete(&session_key(log.conversation));
        }
        Ok(())
    }

    fn forget(&self) {}
}
