//! HPKE (RFC 9180) in the one form that is needed here: base mode, a single message, X25519,
//! HKDF-SHA-256, ChaCha20-Poly1305. RustCrypto's `hpke` is the reference that the tests compare with;
//! it takes more than twice as long, and a message for many recipients is made of little else.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey, X25519};
use rand_core::Rng;
use zeroize::Zeroizing;

use crate::Prf;

/// Bytes of a key, secret or public, and of the encapsulated one.
pub const KEY: usize = 32;
/// Bytes that sealing adds: the encapsulated key and a tag.
pub const OVERHEAD: usize = KEY + 16;

/// DHKEM(X25519, HKDF-SHA256), RFC 9180 section 7.1.
const KEM: &[u8] = b"KEM\x00\x20";
/// The same with HKDF-SHA256 and ChaCha20Poly1305, sections 7.2 and 7.3.
const HPKE: &[u8] = b"HPKE\x00\x20\x00\x01\x00\x03";

type Secret = Zeroizing<[u8; KEY]>;

/// The key pair of a seed (`DeriveKeyPair`, section 7.1.3).
pub fn key_pair(seed: &[u8; KEY]) -> (Secret, [u8; KEY]) {
    let secret = derive(seed);
    let public = private(&secret).map(|key| public(&key)).unwrap_or_default();
    (secret, public)
}

fn derive(seed: &[u8; KEY]) -> Secret {
    expand(KEM, &extract(KEM, &[0; KEY], b"dkp_prk", seed), b"sk", &[])
}

/// Seals a short plaintext for the owner of a public key: encapsulated key, ciphertext, tag. `None`
/// when X25519 doesn't take the key.
pub fn seal(rng: &mut dyn Rng, recipient: &[u8; KEY], info: &[u8], plaintext: &[u8]) -> Option<Vec<u8>> {
    let mut seed = Zeroizing::new([0; KEY]);
    rng.fill_bytes(seed.as_mut_slice());
    // Made once: each making of it multiplies a point, as much work as a third of all this.
    let ephemeral = private(&derive(&seed))?;
    let encapsulated = public(&ephemeral);
    let shared = shared_secret(&ephemeral, recipient, &encapsulated, recipient)?;
    let (key, nonce) = schedule(&shared, info)?;
    let mut body = plaintext.to_vec();
    key.seal_in_place_append_tag(nonce, Aad::empty(), &mut body).ok()?;
    Some([&encapsulated[..], &body].concat())
}

/// Opens what [`seal`] sealed for this key pair; `None` when it is for another one, or was changed.
pub fn open(secret: &[u8; KEY], public: &[u8; KEY], info: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (encapsulated, body) = sealed.split_first_chunk::<KEY>()?;
    let shared = shared_secret(&private(secret)?, encapsulated, encapsulated, public)?;
    let (key, nonce) = schedule(&shared, info)?;
    let mut body = Zeroizing::new(body.to_vec());
    let length = key.open_in_place(nonce, Aad::empty(), &mut body).ok()?.len();
    body.truncate(length);
    Some(body)
}

fn private(secret: &[u8; KEY]) -> Option<PrivateKey> {
    PrivateKey::from_private_key(&X25519, secret).ok()
}

fn public(key: &PrivateKey) -> [u8; KEY] {
    let computed = key.compute_public_key().ok();
    computed.and_then(|public| public.as_ref().try_into().ok()).unwrap_or_default()
}

/// `ExtractAndExpand` over the Diffie-Hellman value (section 4.1). AWS-LC refuses a value of zeros.
fn shared_secret(
    own: &PrivateKey,
    other: &[u8; KEY],
    encapsulated: &[u8; KEY],
    recipient: &[u8; KEY],
) -> Option<Secret> {
    let context = [&encapsulated[..], recipient].concat();
    agreement::agree(own, UnparsedPublicKey::new(&X25519, other), (), |value| {
        Ok(expand(KEM, &extract(KEM, &[0; KEY], b"eae_prk", value), b"shared_secret", &context))
    })
    .ok()
}

/// `KeySchedule` in base mode (section 5.1), for the first and only message.
fn schedule(shared: &Secret, info: &[u8]) -> Option<(LessSafeKey, Nonce)> {
    let psk_id = extract(HPKE, &[0; KEY], b"psk_id_hash", &[]);
    let info = extract(HPKE, &[0; KEY], b"info_hash", info);
    let context = [&[0], psk_id.as_slice(), info.as_slice()].concat();
    let secret = extract(HPKE, shared, b"secret", &[]);
    let key = expand(HPKE, &secret, b"key", &context);
    let nonce = expand_to::<12>(HPKE, &secret, b"base_nonce", &context);
    let key = UnboundKey::new(&CHACHA20_POLY1305, key.as_slice()).ok()?;
    Some((LessSafeKey::new(key), Nonce::assume_unique_for_key(*nonce)))
}

/// `LabeledExtract` (section 4). HMAC's key of zeros is that of an empty salt.
fn extract(suite: &[u8], salt: &[u8; KEY], label: &[u8], input: &[u8]) -> Secret {
    Zeroizing::new(Prf::new(salt).of(&[b"HPKE-v1", suite, label, input]))
}

/// `LabeledExpand` to 32 bytes.
fn expand(suite: &[u8], secret: &Secret, label: &[u8], info: &[u8]) -> Secret {
    expand_to::<KEY>(suite, secret, label, info)
}

/// `LabeledExpand` to at most 32 bytes, which is one round of HKDF-Expand (RFC 5869, section 2.3).
fn expand_to<const N: usize>(suite: &[u8], secret: &Secret, label: &[u8], info: &[u8]) -> Zeroizing<[u8; N]> {
    const { assert!(N <= KEY) };
    let value = Zeroizing::new(Prf::new(secret).of(&[&(N as u16).to_be_bytes(), b"HPKE-v1", suite, label, info, &[1]]));
    let mut expanded = Zeroizing::new([0; N]);
    expanded.iter_mut().zip(value.iter()).for_each(|(to, from)| *to = *from);
    expanded
}

#[cfg(test)]
mod tests {
    use hpke::aead::ChaCha20Poly1305;
    use hpke::kdf::HkdfSha256;
    use hpke::kem::X25519HkdfSha256;
    use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    use super::*;

    #[test]
    fn the_reference_opens_what_is_sealed_here_and_the_other_way_round() {
        let mut rng = ChaCha20Rng::from_seed([1; 32]);
        for number in 0..50u8 {
            let (secret, public) = key_pair(&[number; KEY]);
            let (theirs, their_public) = X25519HkdfSha256::derive_keypair(&[number; KEY]);
            // (It keeps secret keys clamped.)
            assert_eq!(their_public.to_bytes()[..], public);

            let plaintext = vec![number; usize::from(number)];
            let sealed = seal(&mut rng, &public, b"info", &plaintext).expect("a key");
            assert_eq!(sealed.len(), plaintext.len() + OVERHEAD);
            let (encapsulated, body) = sealed.split_at(KEY);
            let encapsulated = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(encapsulated).expect("a key");
            let opened = hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
                &OpModeR::Base,
                &theirs,
                &encapsulated,
                b"info",
                body,
                b"",
            );
            assert_eq!(opened.expect("the reference opens it"), plaintext);

            let (encapsulated, body) =
                hpke::single_shot_seal_with_rng::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
                    &OpModeS::Base,
                    &their_public,
                    b"info",
                    &plaintext,
                    b"",
                    &mut rng,
                )
                .expect("the reference seals");
            let sealed = [&encapsulated.to_bytes()[..], &body].concat();
            assert_eq!(*open(&secret, &public, b"info", &sealed).expect("it opens here"), plaintext);
        }
    }

    #[test]
    fn what_was_changed_or_is_for_others_does_not_open() {
        let mut rng = ChaCha20Rng::from_seed([1; 32]);
        let ((secret, public), (other, other_public)) = (key_pair(&[1; KEY]), key_pair(&[2; KEY]));
        let sealed = seal(&mut rng, &public, b"info", b"text").expect("a key");
        assert!(open(&secret, &public, b"info", &sealed).is_some());
        assert!(open(&secret, &public, b"inf0", &sealed).is_none());
        assert!(open(&other, &other_public, b"info", &sealed).is_none());
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(open(&secret, &public, b"info", &changed).is_none(), "byte {at}");
            assert!(open(&secret, &public, b"info", &sealed[..at]).is_none(), "{at} bytes");
        }
        // Points of low order (RFC 7748, section 6.1) make no secret.
        for weak in [[0; KEY], {
            let mut one = [0; KEY];
            one[0] = 1;
            one
        }] {
            assert!(seal(&mut rng, &weak, b"info", b"text").is_none());
        }
    }

    /// RFC 9180, appendix A.2.1: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20Poly1305, base mode.
    #[test]
    fn matches_rfc_9180() {
        let data = |hex: &str| -> Vec<u8> {
            (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).expect("hex")).collect()
        };
        let seed = data("909a9b35d3dc4713a5e72a4da274b55d3d3821a37e5d099e74a647db583a904b");
        let (_, public) = key_pair(&seed.try_into().expect("32 bytes"));
        assert_eq!(public[..], data("1afa08d3dec047a643885163f1180476fa7ddb54c6a8029ea33f95796bf2ac4a"));
    }
}
