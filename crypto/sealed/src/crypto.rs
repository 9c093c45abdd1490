//! The contract: who the recipients are, and whose entries are opened.

use bytes::Bytes;
use peerloom_core::wire::{
    CannotOpenReason, ConversationId, DeviceCertificate, DeviceId, EntryClass, LogId, PublicKey, Signed, SuiteId,
    limits,
};
use peerloom_core::{
    Crypto, CryptoCaps, DeviceSecret, Error, ErrorKind, Member, Opened, Outgoing, Prepared, Result, Sealed, Sealing,
    Serves, StateTxn,
};
use peerloom_crypto_primitives::hpke::{self, KEY};
use peerloom_crypto_primitives::{SigningKey, sha256, verify};
use rand_core::Rng;
use zeroize::Zeroizing;

use crate::{entry, keys, keys::split_certificate};

/// State: the seed of this device's own key pair.
const SEED: &[u8] = b"seed";
/// A recipe that isn't much shorter than the entry is of no use.
const WORTH_REBUILDING: usize = 4;

/// Seals for the devices of a roster, each by its own key; keeps nothing but those keys.
pub struct SealedCrypto {
    device: DeviceId,
    signing: SigningKey,
    certificate: Signed,
}

impl SealedCrypto {
    /// Its number on the wire; from 0x0100 on they are Peerloom's own.
    pub const SUITE: SuiteId = SuiteId(0x0101);

    /// The crypto of the device with this key and certificate.
    pub fn new(secret: &DeviceSecret, certificate: Signed) -> Result<Self> {
        let device = DeviceCertificate::open(&certificate, verify)?.device;
        Ok(Self { device, signing: SigningKey::from_seed(secret.expose()), certificate })
    }

    /// This device's key pair, made at first use.
    fn key_pair(&self, txn: &mut dyn StateTxn, rng: &mut dyn Rng) -> Result<(Zeroizing<[u8; KEY]>, [u8; KEY])> {
        let stored = match txn.get(SEED) {
            // What was sealed for it is sealed again for the next one.
            Err(error) if error.kind() == ErrorKind::Damaged => None,
            stored => stored?.and_then(|seed| seed.as_ref().try_into().ok()),
        };
        let mut seed = Zeroizing::new(stored.unwrap_or([0; 32]));
        if stored.is_none() {
            rng.fill_bytes(seed.as_mut_slice());
            txn.put(SEED, Bytes::copy_from_slice(seed.as_slice()));
        }
        Ok(hpke::key_pair(&seed))
    }
}

/// State: the recipients in a conversation, device and key of each.
fn recipients_key(conversation: ConversationId) -> Vec<u8> {
    [b"send" as &[u8], conversation.as_bytes()].concat()
}

/// State: the key that signs a log, once its owner has let this device in.
fn owner_key(log: LogId) -> Vec<u8> {
    [b"recv" as &[u8], log.device.as_bytes(), log.conversation.as_bytes()].concat()
}

type Recipient = (DeviceId, [u8; KEY]);

fn recipients(txn: &dyn StateTxn, conversation: ConversationId) -> Result<Option<Vec<Recipient>>> {
    let Some(stored) = txn.get(&recipients_key(conversation))? else { return Ok(None) };
    let one = |pair: &[u8; 32 + KEY]| {
        let (device, key) = pair.split_first_chunk::<32>()?;
        Some((DeviceId::from_bytes(*device), key.try_into().ok()?))
    };
    Ok(Some(stored.as_chunks().0.iter().filter_map(one).collect()))
}

impl Crypto for SealedCrypto {
    fn suite(&self) -> SuiteId {
        Self::SUITE
    }

    fn name(&self) -> &'static str {
        "sealed-classical"
    }

    fn caps(&self) -> CryptoCaps {
        CryptoCaps {
            ratchet: false,
            healing: false,
            removal: true,
            post_quantum: false,
            single_use: false,
            members: limits::RECIPIENTS,
        }
    }

    fn key_package(&self, txn: &mut dyn StateTxn, rng: &mut dyn Rng, _serves: Serves) -> Result<Bytes> {
        let (_, public) = self.key_pair(txn, rng)?;
        Ok(keys::package(&self.signing, &public))
    }

    /// The key pair stays: what was sealed for it needn't be opened yet.
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
        self.caps().check_roster("sealed", roster)?;
        let before = recipients(txn, conversation)?.unwrap_or_default();
        let (mut after, mut joins, mut prepared) = (Vec::new(), Vec::new(), Prepared::default());
        for member in roster {
            let known = before.iter().find(|(device, _)| *device == member.device);
            match (known, &member.key_package) {
                (Some(known), _) if !member.rejoin => after.push(*known),
                (_, Some(package)) => {
                    let wrong = || {
                        let message = "the key package belongs to another device, or is damaged; ask for a new one";
                        Error::new(ErrorKind::Unauthenticated, "sealed", "prepare", message)
                    };
                    after.push((member.device, keys::open_package(package, &member.device).ok_or_else(wrong)?));
                    joins.push(member.device);
                }
                (known, None) => {
                    after.extend(known);
                    prepared.missing.push(member.device);
                }
            }
        }
        if after != before {
            let pairs: Vec<u8> = after.iter().flat_map(|(device, key)| [*device.as_bytes(), *key].concat()).collect();
            txn.put(&recipients_key(conversation), pairs.into());
        }
        prepared.members = after.into_iter().map(|(device, _)| device).collect();
        if !joins.is_empty() {
            let certificate = self.certificate.encode();
            let length = u16::try_from(certificate.len()).unwrap_or(u16::MAX);
            let named: Vec<u8> = joins.iter().flat_map(|device| *device.as_bytes()).collect();
            let welcome = [&length.to_be_bytes(), &certificate[..], &named].concat().into();
            prepared.outgoing.push(Outgoing { devices: joins.clone(), joins, payload: Bytes::new(), welcome });
        }
        Ok(prepared)
    }

    /// Every entry has a key of its own.
    fn refresh(&self, _: &mut dyn StateTxn, _: &mut dyn Rng, _: ConversationId) -> Result<Option<Outgoing>> {
        Ok(None)
    }

    fn seal(&self, txn: &mut dyn StateTxn, rng: &mut dyn Rng, sealing: Sealing<'_>) -> Result<Sealed> {
        let bug = |message: &str| Error::new(ErrorKind::Internal, "sealed", "seal", message);
        let recipients = recipients(txn, sealing.conversation)?;
        let recipients = recipients.ok_or_else(|| bug("there is no send session; prepare one first"))?;
        let mut content_key = Zeroizing::new([0; 32]);
        rng.fill_bytes(content_key.as_mut_slice());
        let mut wraps = Vec::new();
        for (_, key) in &recipients {
            wraps.extend(keys::wrap(rng, key, &content_key).ok_or_else(|| bug("a recipient's key is no X25519 key"))?);
        }
        let log = LogId { device: self.device, conversation: sealing.conversation };
        let Sealing { associated_data, plaintext, .. } = sealing;
        let (payload, recipe) = entry::seal(&self.signing, &log, associated_data, &content_key, &wraps, plaintext);
        let recipe = Some(recipe).filter(|recipe| recipe.len() * WORTH_REBUILDING < payload.len());
        Ok(Sealed { payload, recipe })
    }

    fn rebuild(&self, recipe: &[u8], plaintext: &[u8]) -> Result<Bytes> {
        let damaged = || Error::new(ErrorKind::Malformed, "sealed", "rebuild", "the recipe is damaged");
        entry::rebuild(recipe, plaintext).ok_or_else(damaged)
    }

    fn open(
        &self,
        txn: &mut dyn StateTxn,
        rng: &mut dyn Rng,
        log: LogId,
        class: EntryClass,
        associated_data: &[u8],
        payload: &[u8],
    ) -> Result<Opened> {
        if matches!(class, EntryClass::Other(_)) {
            return Ok(Opened::Rejected("its class is unknown"));
        }
        if class == EntryClass::Handshake {
            return match split_certificate(payload) {
                Some((owner, named)) if owner.device == log.device => {
                    if !named.as_chunks::<32>().0.contains(self.device.as_bytes()) {
                        return Ok(Opened::Rejected("the handshake lets in others alone"));
                    }
                    txn.put(&owner_key(log), Bytes::copy_from_slice(owner.device_key.as_bytes()));
                    Ok(Opened::Joined(sha256(&[&self.key_package(txn, rng, Serves::Always)?])))
                }
                _ => Ok(Opened::Rejected("the handshake is somebody else's")),
            };
        }
        let owner = txn.get(&owner_key(log))?.and_then(|key| key.as_ref().try_into().ok()).map(PublicKey::ed25519);
        let Some(owner) = owner else {
            return Ok(Opened::CannotOpen(CannotOpenReason::NoSession));
        };
        let genuine = entry::split(payload).filter(|parts| parts.is_genuine(&owner, &log, associated_data));
        let Some(parts) = genuine else {
            return Ok(Opened::CannotOpen(CannotOpenReason::Damaged));
        };
        let (secret, public) = self.key_pair(txn, rng)?;
        let content = keys::unwrap(parts.wraps, &secret, &public).map(|key| parts.open(&key));
        Ok(match content {
            Some(Some(content)) => Opened::Content(content),
            Some(None) => Opened::CannotOpen(CannotOpenReason::Damaged),
            // Sealed for a key that this device doesn't have any more.
            None => Opened::CannotOpen(CannotOpenReason::KeyGone),
        })
    }

    /// The key pair stays: it belongs to no session.
    fn discard(&self, txn: &mut dyn StateTxn, log: LogId) -> Result<()> {
        txn.delete(&owner_key(log));
        if log.device == self.device {
            txn.delete(&recipients_key(log.conversation));
        }
        Ok(())
    }

    fn forget(&self) {}
}
