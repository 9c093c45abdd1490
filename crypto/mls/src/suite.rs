//! The primitives of one ciphersuite for `openmls`, with all randomness derived from a seed.
//!
//! The crate's stock providers draw the system's randomness inside HPKE, so a simulation could not
//! be replayed. And `openmls` calls `hpke_seal` from rayon worker threads (one per recipient of an update path), so
//! a shared RNG would make the bytes depend on scheduling. The ephemeral key is instead derived
//! from (seed, every input): order-independent, and distinct inputs give distinct keys.
use chacha20poly1305::{
    ChaCha20Poly1305, KeyInit,
    aead::{Aead, Payload},
};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use hpke::{
    Deserializable, Kem, OpModeR, OpModeS, Serializable, aead::ChaCha20Poly1305 as HpkeAead, kdf::HkdfSha256,
    kem::X25519HkdfSha256 as X25519,
};
use openmls_traits::{
    crypto::OpenMlsCrypto,
    types::{
        AeadType, Ciphersuite, CryptoError, ExporterSecret, HashType, HpkeAeadType, HpkeCiphertext, HpkeConfig,
        HpkeKdfType, HpkeKemType, HpkeKeyPair, KemOutput, SignatureScheme,
    },
};
use peerloom_core::wire::PublicKey;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use sha2::{Digest, Sha256};
use tls_codec::SecretVLBytes;
use zeroize::Zeroizing;

/// MLS ciphersuite 0x0003 (RFC 9420 §17.1).
pub(crate) const SUITE: Ciphersuite = Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519;

/// The primitives, for one call.
pub(crate) struct SuiteCrypto {
    seed: Zeroizing<[u8; 32]>,
}

impl SuiteCrypto {
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        Self { seed: Zeroizing::new(seed) }
    }
    fn rng(&self, inputs: &[&[u8]]) -> ChaCha20Rng {
        let Ok(mut mac) = <Hmac<Sha256> as KeyInit>::new_from_slice(&*self.seed) else {
            unreachable!("HMAC takes keys of any length")
        };
        for input in inputs {
            mac.update(&(input.len() as u64).to_be_bytes());
            mac.update(input);
        }
        ChaCha20Rng::from_seed(mac.finalize().into_bytes().into())
    }
}

fn sha256(h: HashType) -> Result<(), CryptoError> {
    if h == HashType::Sha2_256 { Ok(()) } else { Err(CryptoError::UnsupportedHashAlgorithm) }
}
fn chacha(a: AeadType, key: &[u8], nonce: &[u8]) -> Result<(ChaCha20Poly1305, chacha20poly1305::Nonce), CryptoError> {
    if a != AeadType::ChaCha20Poly1305 {
        return Err(CryptoError::UnsupportedAeadAlgorithm);
    }
    let cipher = ChaCha20Poly1305::new_from_slice(key).map_err(|_| CryptoError::InvalidLength)?;
    Ok((cipher, nonce.try_into().map_err(|_| CryptoError::InvalidLength)?))
}
fn ed25519(s: SignatureScheme) -> Result<(), CryptoError> {
    if s == SignatureScheme::ED25519 { Ok(()) } else { Err(CryptoError::UnsupportedSignatureScheme) }
}
fn hpke_suite(c: &HpkeConfig) -> Result<(), CryptoError> {
    match (c.0, c.1, c.2) {
        (HpkeKemType::DhKem25519, HpkeKdfType::HkdfSha256, HpkeAeadType::ChaCha20Poly1305) => Ok(()),
        _ => Err(CryptoError::UnsupportedCiphersuite),
    }
}

impl OpenMlsCrypto for SuiteCrypto {
    fn supports(&self, suite: Ciphersuite) -> Result<(), CryptoError> {
        if suite == SUITE { Ok(()) } else { Err(CryptoError::UnsupportedCiphersuite) }
    }
    fn supported_ciphersuites(&self) -> Vec<Ciphersuite> {
        vec![SUITE]
    }
    fn hkdf_extract(&self, h: HashType, salt: &[u8], ikm: &[u8]) -> Result<SecretVLBytes, CryptoError> {
        sha256(h)?;
        Ok(Hkdf::<Sha256>::extract(Some(salt), ikm).0.to_vec().into())
    }
    fn hmac(&self, h: HashType, key: &[u8], msg: &[u8]) -> Result<SecretVLBytes, CryptoError> {
        sha256(h)?;
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).map_err(|_| CryptoError::InvalidLength)?;
        mac.update(msg);
        Ok(mac.finalize().into_bytes().to_vec().into())
    }
    fn hkdf_expand(&self, h: HashType, prk: &[u8], info: &[u8], len: usize) -> Result<SecretVLBytes, CryptoError> {
        sha256(h)?;
        let mut out = vec![0u8; len];
        Hkdf::<Sha256>::from_prk(prk)
            .map_err(|_| CryptoError::HkdfOutputLengthInvalid)?
            .expand(info, &mut out)
            .map_err(|_| CryptoError::HkdfOutputLengthInvalid)?;
        Ok(out.into())
    }
    fn hash(&self, h: HashType, data: &[u8]) -> Result<Vec<u8>, CryptoError> {
        sha256(h)?;
        Ok(Sha256::digest(data).to_vec())
    }
    fn aead_encrypt(
        &self,
        a: AeadType,
        key: &[u8],
        msg: &[u8],
        nonce: &[u8],
        aad: &[u8],
    ) -> Result<Vec<u8>, CryptoError> {
        let (c, n) = chacha(a, key, nonce)?;
        c.encrypt(&n, Payload { msg, aad }).map_err(|_| CryptoError::CryptoLibraryError)
    }
    fn aead_decrypt(
        &self,
        a: AeadType,
        key: &[u8],
        msg: &[u8],
        nonce: &[u8],
        aad: &[u8],
    ) -> Result<Vec<u8>, CryptoError> {
        let (c, n) = chacha(a, key, nonce)?;
        c.decrypt(&n, Payload { msg, aad }).map_err(|_| CryptoError::AeadDecryptionError)
    }
    /// Device keys are made elsewhere.
    fn signature_key_gen(&self, _: SignatureScheme) -> Result<(Vec<u8>, Vec<u8>), CryptoError> {
        Err(CryptoError::UnsupportedSignatureScheme)
    }
    fn verify_signature(&self, s: SignatureScheme, data: &[u8], pk: &[u8], sig: &[u8]) -> Result<(), CryptoError> {
        ed25519(s)?;
        let key = pk.try_into().map_err(|_| CryptoError::CryptoLibraryError)?;
        let good = peerloom_crypto_primitives::verify(&PublicKey::ed25519(key), data, sig);
        if good { Ok(()) } else { Err(CryptoError::InvalidSignature) }
    }
    /// The device key signs through its own `Signer`, never as bytes.
    fn sign(&self, _: SignatureScheme, _: &[u8], _: &[u8]) -> Result<Vec<u8>, CryptoError> {
        Err(CryptoError::UnsupportedSignatureScheme)
    }
    fn hpke_seal(
        &self,
        c: HpkeConfig,
        pk_r: &[u8],
        info: &[u8],
        aad: &[u8],
        pt: &[u8],
    ) -> Result<HpkeCiphertext, CryptoError> {
        hpke_suite(&c)?;
        let pk = <X25519 as Kem>::PublicKey::from_bytes(pk_r).map_err(|_| CryptoError::InvalidLength)?;
        let mut rng = self.rng(&[b"seal", pk_r, info, aad, pt]);
        let (enc, ct) = hpke::single_shot_seal_with_rng::<HpkeAead, HkdfSha256, X25519>(
            &OpModeS::Base,
            &pk,
            info,
            pt,
            aad,
            &mut rng,
        )
        .map_err(|_| CryptoError::HpkeEncryptionError)?;
        Ok(HpkeCiphertext { kem_output: enc.to_bytes().to_vec().into(), ciphertext: ct.into() })
    }
    fn hpke_open(
        &self,
        c: HpkeConfig,
        input: &HpkeCiphertext,
        sk_r: &[u8],
        info: &[u8],
        aad: &[u8],
    ) -> Result<Vec<u8>, CryptoError> {
        hpke_suite(&c)?;
        let bad = |_| CryptoError::HpkeDecryptionError;
        let sk = <X25519 as Kem>::PrivateKey::from_bytes(sk_r).map_err(bad)?;
        let enc = <X25519 as Kem>::EncappedKey::from_bytes(input.kem_output.as_slice()).map_err(bad)?;
        hpke::single_shot_open::<HpkeAead, HkdfSha256, X25519>(
            &OpModeR::Base,
            &sk,
            &enc,
            info,
            input.ciphertext.as_slice(),
            aad,
        )
        .map_err(bad)
    }
    /// Only used by external commits.
    fn hpke_setup_sender_and_export(
        &self,
        c: HpkeConfig,
        pk_r: &[u8],
        info: &[u8],
        ctx: &[u8],
        len: usize,
    ) -> Result<(KemOutput, ExporterSecret), CryptoError> {
        hpke_suite(&c)?;
        let pk = <X25519 as Kem>::PublicKey::from_bytes(pk_r).map_err(|_| CryptoError::SenderSetupError)?;
        let mut rng = self.rng(&[b"export", pk_r, info, ctx]);
        let (enc, cx) =
            hpke::setup_sender_with_rng::<HpkeAead, HkdfSha256, X25519>(&OpModeS::Base, &pk, info, &mut rng)
                .map_err(|_| CryptoError::SenderSetupError)?;
        let mut out = vec![0u8; len];
        cx.export(ctx, &mut out).map_err(|_| CryptoError::ExporterError)?;
        Ok((enc.to_bytes().to_vec(), out.into()))
    }
    fn hpke_setup_receiver_and_export(
        &self,
        c: HpkeConfig,
        enc: &[u8],
        sk_r: &[u8],
        info: &[u8],
        ctx: &[u8],
        len: usize,
    ) -> Result<ExporterSecret, CryptoError> {
        hpke_suite(&c)?;
        let sk = <X25519 as Kem>::PrivateKey::from_bytes(sk_r).map_err(|_| CryptoError::ReceiverSetupError)?;
        let enc = <X25519 as Kem>::EncappedKey::from_bytes(enc).map_err(|_| CryptoError::ReceiverSetupError)?;
        let cx = hpke::setup_receiver::<HpkeAead, HkdfSha256, X25519>(&OpModeR::Base, &sk, &enc, info)
            .map_err(|_| CryptoError::ReceiverSetupError)?;
        let mut out = vec![0u8; len];
        cx.export(ctx, &mut out).map_err(|_| CryptoError::ExporterError)?;
        Ok(out.into())
    }
    fn derive_hpke_keypair(&self, c: HpkeConfig, ikm: &[u8]) -> Result<HpkeKeyPair, CryptoError> {
        hpke_suite(&c)?;
        let (sk, pk) = X25519::derive_keypair(ikm);
        Ok(HpkeKeyPair { private: sk.to_bytes().to_vec().into(), public: pk.to_bytes().to_vec() })
    }
}
