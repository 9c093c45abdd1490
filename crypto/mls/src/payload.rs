//! What stands in an entry's payload.
//!
//! A handshake: `length of commit ‖ commit ‖ welcome`. An application entry: `length of message ‖
//! message ‖ body`, lengths as 4 bytes big-endian. MLS signs what it carries, which costs two
//! passes of SHA-512 and several copies; so a long plaintext stands in the body, sealed under a key
//! of its own, and the MLS message carries that key and the body's hash.

use bytes::Bytes;
use peerloom_crypto_primitives::{aead, constant_time_eq, sha256};
use zeroize::Zeroizing;

/// From this length on a plaintext goes into the body, in bytes.
const DETACH: usize = 2048;

const INLINE: u8 = 0;
const DETACHED: u8 = 1;

/// Joins two parts.
pub(crate) fn join(first: &[u8], second: &[u8]) -> Bytes {
    let length = u32::try_from(first.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes(), first, second].concat().into()
}

/// Takes two parts apart.
pub(crate) fn split(payload: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = payload.split_first_chunk()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
}

/// What the MLS message carries, and the body beside it.
pub(crate) fn detach(plaintext: &[u8], key: [u8; 32]) -> (Zeroizing<Vec<u8>>, Vec<u8>) {
    if plaintext.len() < DETACH {
        return (Zeroizing::new([&[INLINE], plaintext].concat()), Vec::new());
    }
    let key = Zeroizing::new(key);
    let mut body = Vec::with_capacity(plaintext.len() + aead::OVERHEAD);
    body.extend_from_slice(plaintext);
    aead::seal_once(&key, b"", &mut body);
    let carried = [&[DETACHED], key.as_slice(), &sha256(&[&body])].concat();
    (Zeroizing::new(carried), body)
}

/// The plaintext, from what the MLS message carried and the body beside it.
pub(crate) fn attach(carried: &[u8], body: &[u8]) -> Option<Bytes> {
    match carried.split_first()? {
        (&INLINE, plaintext) if body.is_empty() => Some(Bytes::copy_from_slice(plaintext)),
        (&DETACHED, rest) => {
            let (key, hash) = rest.split_first_chunk::<32>()?;
            if !constant_time_eq(hash, &sha256(&[body])) {
                return None;
            }
            aead::open_once(&Zeroizing::new(*key), b"", body.to_vec()).map(Bytes::from)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plaintexts_survive_inline_and_detached() {
        for length in [0, 1, DETACH - 1, DETACH, 100_000] {
            let plaintext = vec![7; length];
            let (carried, body) = detach(&plaintext, [3; 32]);
            assert_eq!(attach(&carried, &body).as_deref(), Some(&plaintext[..]));
            let mut changed = body.clone();
            match changed.last_mut() {
                Some(last) => *last ^= 1,
                None => changed.push(0),
            }
            assert_eq!(attach(&carried, &changed), None);
        }
        assert_eq!(attach(&[], &[]), None);
        assert_eq!(split(&[0, 0, 0, 9, 1]), None);
        assert_eq!(split(&join(b"ab", b"c")), Some((&b"ab"[..], &b"c"[..])));
    }
}
