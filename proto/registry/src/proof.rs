//! What is signed and what is hashed.

use peerloom_wire::signed::signing_input;
use peerloom_wire::{DeviceId, NetworkId, Signed, context};
use sha2::{Digest, Sha256};

use crate::http::Heartbeat;

/// What a hello signs with the device's key:
/// `REGISTRY_CHALLENGE ‖ nonce ‖ registry's name ‖ network ‖ device`.
///
/// Everything but the name has a fixed length, so two different inputs never make the same bytes.
pub fn challenge_input(nonce: &[u8; 32], registry: &str, network: &NetworkId, device: &DeviceId) -> Vec<u8> {
    signing_input(context::REGISTRY_CHALLENGE, &challenge_body(nonce, registry, network, device))
}

/// The same without `REGISTRY_CHALLENGE`, for a signer that puts it before.
pub fn challenge_body(nonce: &[u8; 32], registry: &str, network: &NetworkId, device: &DeviceId) -> Vec<u8> {
    [&nonce[..], registry.as_bytes(), network.as_bytes(), device.as_bytes()].concat()
}

/// What publishing an item signs with the device's key:
/// `REGISTRY_ITEM ‖ registry's name ‖ network ‖ device ‖ SHA-256(item) ‖ time (8 B be)`.
///
/// Everything but the name has a fixed length. With it one registry can't publish an item at another.
pub fn item_input(registry: &str, network: &NetworkId, device: &DeviceId, item: &[u8], at_ms: u64) -> Vec<u8> {
    signing_input(context::REGISTRY_ITEM, &item_body(registry, network, device, item, at_ms))
}

/// The same without `REGISTRY_ITEM`, for a signer that puts it before.
pub fn item_body(registry: &str, network: &NetworkId, device: &DeviceId, item: &[u8], at_ms: u64) -> Vec<u8> {
    let hash = Sha256::digest(item);
    [registry.as_bytes(), network.as_bytes(), device.as_bytes(), &hash[..], &at_ms.to_be_bytes()].concat()
}

/// What a heartbeat signs with the device's key:
/// `REGISTRY_HEARTBEAT ‖ registry's name ‖ network ‖ device ‖ active peers (4 B be) ‖ capacity (4 B be) ‖ time (8 B be)`.
///
/// Everything but the name has a fixed length. With it one registry can't pass a heartbeat on to another.
pub fn heartbeat_input(registry: &str, heartbeat: &Heartbeat) -> Vec<u8> {
    let Heartbeat { network_id, peer_id, active_peers, capacity, at_ms, signature: _ } = heartbeat;
    [
        context::REGISTRY_HEARTBEAT,
        registry.as_bytes(),
        network_id.as_bytes(),
        peer_id.as_bytes(),
        &active_peers.to_be_bytes(),
        &capacity.to_be_bytes(),
        &at_ms.to_be_bytes(),
    ]
    .concat()
}

/// A proof of work over one record: whoever wants to announce many devices has to work for each.
///
/// `SHA-256(REGISTRY_WORK ‖ SHA-256(signed record) ‖ number (8 B be))` begins with so many zero bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    record: [u8; 32],
    bits: u32,
}

impl Work {
    /// The work of `bits` leading zero bits for a record.
    pub fn new(record: &Signed, bits: u32) -> Self {
        Self { record: Sha256::digest(record.encode()).into(), bits }
    }

    /// Whether this number does it.
    pub fn is_done_by(&self, number: u64) -> bool {
        let hash = Sha256::new()
            .chain_update(context::REGISTRY_WORK)
            .chain_update(self.record)
            .chain_update(number.to_be_bytes())
            .finalize();
        leading_zeros(&hash) >= self.bits
    }

    /// The smallest number that does it, after about `2^bits` hashes.
    pub fn find(&self) -> Option<u64> {
        (0..u64::MAX).find(|number| self.is_done_by(*number))
    }
}

fn leading_zeros(hash: &[u8]) -> u32 {
    let zero = hash.iter().take_while(|byte| **byte == 0).count();
    let next = hash.get(zero).map_or(0, |byte| byte.leading_zeros());
    u32::try_from(zero * 8).unwrap_or(u32::MAX).saturating_add(next)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn work_is_for_one_record() {
        let record = |body: &'static [u8]| Signed::sign(b"", Bytes::from_static(body), |_| Bytes::from_static(b"s"));
        let work = Work::new(&record(b"a"), 8);
        let number = work.find().unwrap();
        assert!(work.is_done_by(number));
        assert!(!Work::new(&record(b"b"), 24).is_done_by(number));
        assert!(Work::new(&record(b"b"), 0).is_done_by(0));
    }

    #[test]
    fn zeros_are_counted_over_bytes() {
        assert_eq!(leading_zeros(&[0x80]), 0);
        assert_eq!(leading_zeros(&[0, 0, 0x1f]), 19);
        assert_eq!(leading_zeros(&[0, 0]), 16);
    }

    #[test]
    fn the_signed_bytes_stay_what_they_are() {
        let (network, device) = (NetworkId::from_bytes([1; 32]), DeviceId::from_bytes([2; 32]));
        let input = challenge_input(&[3; 32], "reg.example", &network, &device);
        let expected =
            [&b"peerloom/v1/registry-challenge\0"[..], &[3; 32], b"reg.example", &[1; 32], &[2; 32]].concat();
        assert_eq!(input, expected);
        let heartbeat = Heartbeat {
            network_id: network,
            peer_id: device,
            active_peers: 4,
            capacity: 5,
            at_ms: 6,
            signature: [0; 64],
        };
        let numbers = [0, 0, 0, 4, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 6];
        let expected =
            [&b"peerloom/v1/registry-heartbeat\0"[..], b"reg.example", &[1; 32], &[2; 32], &numbers].concat();
        assert_eq!(heartbeat_input("reg.example", &heartbeat), expected);
    }
}
