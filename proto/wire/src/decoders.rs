//! Every decoder that bytes from outside reach before their sender is authenticated or while it is
//! not trusted, in one list: the fuzz targets and the property tests go through it.

use bytes::Bytes;

use crate::store::Record;
use crate::{
    Ack, Auth, Bundle, CannotOpen, DeviceCertificate, DiscoveryItem, EncodedDeviceList, Envelope, Frame, GapRequest,
    Hello, Invitation, NotForYou, PeerRecord, Restored, Revocation, Signed, SignedHeader, SignedSignal, Stated,
    Verdict, Withdrawal, limits, store,
};

/// Feeds bytes to a decoder and drops what comes out.
pub type Decoder = fn(&[u8]);

/// The decoders by name.
pub const ALL: [(&str, Decoder); 21] = [
    ("frame", |b| drop(Frame::decode(copy(b)))),
    ("envelope", |b| drop(Envelope::decode(copy(b)))),
    ("hello", |b| drop(Hello::decode(copy(b)))),
    ("auth", |b| drop(Auth::decode(copy(b)))),
    ("verdict", |b| drop(Verdict::decode(copy(b)))),
    ("bundle", |b| drop(Bundle::decode(copy(b)))),
    ("certificate", |b| with_signed(b, |s| drop(DeviceCertificate::open(s, |_, _, _| true)))),
    ("device_list", |b| drop(EncodedDeviceList::decode(copy(b)))),
    ("discovery_item", |b| {
        if let Ok(Some(item)) = DiscoveryItem::decode(copy(b)) {
            drop(item.open(|_, _, _| true));
        }
    }),
    ("revocation", |b| with_signed(b, |s| drop(Revocation::open(s, |_, _| true)))),
    ("record", |b| with_signed(b, |s| drop(PeerRecord::open(s, |_, _, _| true)))),
    ("invitation", |b| drop(Invitation::decode(b))),
    ("signal", |b| with_signed(b, |s| drop(SignedSignal::decode_unverified(s)))),
    ("ack", |b| with_signed(b, |s| drop(Stated::<Ack>::decode(s.clone())))),
    ("cannot_open", |b| with_signed(b, |s| drop(Stated::<CannotOpen>::decode(s.clone())))),
    ("gap_request", |b| with_signed(b, |s| drop(Stated::<GapRequest>::decode(s.clone())))),
    ("withdrawal", |b| with_signed(b, |s| drop(Stated::<Withdrawal>::decode(s.clone())))),
    ("not_for_you", |b| with_signed(b, |s| drop(Stated::<NotForYou>::decode(s.clone())))),
    ("entry_header", |b| with_signed(b, |s| drop(SignedHeader::decode(s.clone())))),
    ("restored", |b| with_signed(b, |s| drop(Stated::<Restored>::decode(s.clone())))),
    // Not from outside, but from a disk that may be damaged.
    ("stored", |b| {
        drop((
            store::History::decode(copy(b)),
            store::OutEntry::decode(copy(b)),
            store::InLog::decode(copy(b)),
            store::Contact::decode(copy(b)),
            store::VaultHeader::decode(copy(b)),
        ))
    }),
];

fn copy(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

/// The bytes as a signed object, and as the body of one.
fn with_signed(bytes: &[u8], then: impl Fn(&Signed)) {
    if let Ok(signed) = Signed::decode(copy(bytes), limits::CHAT_FRAME) {
        then(&signed);
    }
    then(&Signed::sign(b"", copy(bytes), |_| Bytes::new()));
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// Noise reaches what stands behind a signature, too.
    #[test]
    fn bytes_are_read_as_a_signed_object_and_as_its_body() {
        let seen = RefCell::new(Vec::new());
        let signed = Signed::sign(b"", Bytes::from_static(b"body"), |_| Bytes::from_static(b"signature"));
        with_signed(&signed.encode(), |s| seen.borrow_mut().push(s.unverified_body().clone()));
        assert_eq!(seen.take(), [Bytes::from_static(b"body"), signed.encode()]);
        with_signed(b"noise", |s| seen.borrow_mut().push(s.unverified_body().clone()));
        assert_eq!(seen.take(), [Bytes::from_static(b"noise")]);
    }
}
