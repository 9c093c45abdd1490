//! Handshakes that are too long.

#![cfg(test)]

use std::collections::BTreeMap;

use peerloom_core::wire::{ConversationId, DeviceCertificate, Roles, UserKeys};
use peerloom_core::{Crypto, DeviceSecret, Member, Serves, StateTxn};
use peerloom_crypto_primitives::SigningKey;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::*;

#[derive(Default)]
struct State(BTreeMap<Vec<u8>, Bytes>);

impl StateTxn for State {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.0.get(key).cloned())
    }

    fn put(&mut self, key: &[u8], value: Bytes) {
        self.0.insert(key.to_vec(), value);
    }

    fn delete(&mut self, key: &[u8]) {
        self.0.remove(key);
    }
}

fn crypto(number: u8) -> MlsCrypto {
    let secret = DeviceSecret::new([number; 32]);
    let device = SigningKey::from_seed(secret.expose());
    let [user, recovery] = [1, 2].map(|role| SigningKey::from_seed(&[role; 32]));
    let keys = UserKeys { user: user.public().clone(), recovery: recovery.public().clone() };
    let certificate = DeviceCertificate::new(keys, device.public().clone(), Roles::ALL, 1);
    let signed = certificate.sign(|m| user.sign(m), |m| device.sign(m));
    MlsCrypto::new(&secret, signed).unwrap()
}

/// What is too long is refused whole, with a number that is the largest that fits: in a new session and in one that
/// stands, with and without a removal.
#[test]
fn a_handshake_that_is_too_long_says_how_many_devices_fit() {
    let mut rng = ChaCha20Rng::from_seed([9; 32]);
    let conversation = ConversationId::from_bytes([5; 32]);
    let member = |number: u8, rng: &mut ChaCha20Rng| {
        let crypto = crypto(number);
        let package = crypto.key_package(&mut State::default(), rng, Serves::Once).unwrap();
        Member { device: crypto.device, key_package: Some(package), rejoin: false }
    };
    let roster: Vec<Member> = (10..26).map(|number| member(number, &mut rng)).collect();
    for (before, gone) in [(0, 0), (2, 0), (4, 3)] {
        let mut alice = crypto(1);
        let mut state = State::default();
        if before > 0 {
            alice.prepare(&mut state, &mut rng, conversation, &roster[..before]).unwrap();
        }
        let stored = state.0.clone();
        alice.owner.longest_handshake = 8 * 1024;
        let error = alice.prepare(&mut state, &mut rng, conversation, &roster[gone..]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge);
        assert!(state.0 == stored, "something was written");
        let fits: usize =
            error.message().rsplit("at most ").next().unwrap().split(' ').next().unwrap().parse().unwrap();
        assert!(fits > 0, "{error}");
        let more = alice.prepare(&mut state, &mut rng, conversation, &roster[gone..=before + fits]);
        assert_eq!(more.map(drop).map_err(|e| e.kind()), Err(ErrorKind::TooLarge), "one more than {fits}");
        let prepared = alice.prepare(&mut state, &mut rng, conversation, &roster[gone..before + fits]).unwrap();
        assert_eq!(prepared.members.len(), before - gone + fits);
        assert!(prepared.outgoing.iter().all(|outgoing| outgoing.payload.len() <= 8 * 1024));
    }
}
