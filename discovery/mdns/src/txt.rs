//! What stands in the TXT record: `v`, `id`, `pk`, `n`, and the signed record in pieces `r0`, `r1`, ….

use bytes::Bytes;
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use peerloom_core::wire::{DeviceCertificate, NetworkId, PeerRecord, Signed, limits};

/// The service's type.
pub const SERVICE: &str = "_peerloom._udp.local.";
/// Version of these keys.
const VERSION: &str = "1";
/// Bytes of a record in one piece: a TXT string has at most 255 bytes, with its key.
const PIECE: usize = 240;

/// The keys and values that announce a record.
pub(crate) fn encode(signed: &Signed, record: &PeerRecord, certificate: &DeviceCertificate) -> Vec<(String, Vec<u8>)> {
    let text = |key: &str, value: String| (key.to_owned(), value.into_bytes());
    let mut pairs = vec![
        text("v", VERSION.into()),
        text("id", HEXLOWER.encode(certificate.device.as_bytes())),
        text("pk", BASE64URL_NOPAD.encode(certificate.device_key.as_bytes())),
        text("n", network_hint(&record.network)),
    ];
    let encoded = signed.encode();
    pairs.extend(encoded.chunks(PIECE).enumerate().map(|(n, piece)| (format!("r{n}"), piece.to_vec())));
    pairs
}

/// Enough of a network's id to pass over others' devices.
fn network_hint(network: &NetworkId) -> String {
    HEXLOWER.encode(network.as_bytes().get(..8).unwrap_or_default())
}

/// The signed record that a TXT record holds, unverified; `None` when it holds none that this version
/// understands, or one of another network.
pub(crate) fn decode<'a>(network: &NetworkId, get: impl Fn(&str) -> Option<&'a [u8]>) -> Option<Signed> {
    if get("v")? != VERSION.as_bytes() || get("n")? != network_hint(network).as_bytes() {
        return None;
    }
    let mut encoded = Vec::new();
    for number in 0..=limits::RECORD.div_ceil(PIECE) {
        let Some(piece) = get(&format!("r{number}")) else { break };
        encoded.extend_from_slice(piece);
        if encoded.len() > limits::RECORD {
            return None;
        }
    }
    Signed::decode(Bytes::from(encoded), limits::RECORD).ok()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever stands in a TXT record, it is refused or a record comes out of it.
        #[test]
        fn noise_is_harmless(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..260), 0..8)) {
            let network = NetworkId::from_name("test");
            let mut map: HashMap<String, Vec<u8>> =
                pieces.into_iter().enumerate().map(|(n, piece)| (format!("r{n}"), piece)).collect();
            map.insert("v".into(), VERSION.into());
            map.insert("n".into(), network_hint(&network).into());
            let _ = decode(&network, |key| map.get(key).map(Vec::as_slice));
            prop_assert!(decode(&NetworkId::from_name("other"), |key| map.get(key).map(Vec::as_slice)).is_none());
        }
    }
}
