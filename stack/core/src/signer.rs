//! Signing with the device's key, for parts that must not have the secret.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use peerloom_wire::{DeviceId, PublicKey, context};

use crate::{Error, ErrorKind, Result};

type Sign = dyn Fn(&[u8]) -> Bytes + Send + Sync;

/// Signs for this device what a discovery has to prove, and nothing else: what is signed always begins with
/// one of [`context::OF_DISCOVERIES`], under which no record, header or handshake is signed.
///
/// ```
/// # use peerloom_core::{DeviceSigner, wire::PublicKey};
/// # use bytes::Bytes;
/// # let (key, sign) = (PublicKey::ed25519([1; 32]), |message: &[u8]| Bytes::copy_from_slice(message));
/// let signer = DeviceSigner::new(key, sign);
/// assert!(signer.sign(b"peerloom/v1/discovery/dht/put\0", b"value").is_ok());
/// assert!(signer.sign(b"peerloom/v1/peer-record\0", b"forged").is_err());
/// ```
#[derive(Clone)]
pub struct DeviceSigner {
    device: DeviceId,
    key: PublicKey,
    sign: Arc<Sign>,
}

impl DeviceSigner {
    /// Signs for the device with this key by `sign(message)`.
    pub fn new(key: PublicKey, sign: impl Fn(&[u8]) -> Bytes + Send + Sync + 'static) -> Self {
        Self { device: DeviceId::from_key(&key), key, sign: Arc::new(sign) }
    }

    /// The device.
    pub fn device(&self) -> DeviceId {
        self.device
    }

    /// The device's key.
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// The signature over `context ‖ bytes`. An own context begins with [`context::DISCOVERY`], then the kind's name,
    /// and ends with a zero byte. Another one is refused as [`ErrorKind::Invalid`].
    pub fn sign(&self, context: &[u8], bytes: &[u8]) -> Result<Bytes> {
        let of_author = context.starts_with(context::DISCOVERY) && context.ends_with(b"\0");
        let of_stack = context != context::DISCOVERY && context::OF_DISCOVERIES.contains(&context);
        if !of_author && !of_stack {
            let message = "a discovery signs under a context of its own: begin it with `peerloom/v1/discovery/`, end \
                           it with a zero byte";
            return Err(Error::new(ErrorKind::Invalid, "signer", "sign", message));
        }
        Ok((self.sign)(&[context, bytes].concat()))
    }
}

impl fmt::Debug for DeviceSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceSigner").field("device", &self.device).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_a_discoverys_is_signed() {
        let signer = DeviceSigner::new(PublicKey::ed25519([1; 32]), Bytes::copy_from_slice);
        for context in context::ALL {
            let own = context::OF_DISCOVERIES.contains(&context) && context != context::DISCOVERY;
            assert_eq!(signer.sign(context, b"x").is_ok(), own, "{}", String::from_utf8_lossy(context));
        }
        // No context, or a piece of one, with the rest of it in the bytes.
        for (context, bytes) in [
            (&b""[..], &b"peerloom/v1/peer-record\0"[..]),
            (b"peerloom/v1/", b"peer-record\0"),
            (b"peerloom/v1/discovery/", b"x"),
            (b"peerloom/v1/discovery/dht", b"\0"),
        ] {
            assert_eq!(signer.sign(context, bytes).map_err(|e| e.kind()), Err(ErrorKind::Invalid));
        }
        let signed = signer.sign(b"peerloom/v1/discovery/dht\0", b"value").unwrap();
        assert_eq!(signed, b"peerloom/v1/discovery/dht\0value"[..]);
    }
}
