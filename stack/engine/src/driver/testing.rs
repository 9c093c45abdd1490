//! A turn without a thread around it, for tests of what it writes.

use std::sync::Arc;
use std::time::Duration;

use peerloom_core::memory::MemoryStorage;
use peerloom_core::wire::{
    ConversationId, DeviceId, EntryClass, Envelope, Header, LogId, NetworkId, Position, SuiteId, UserId, context,
};
use peerloom_crypto_primitives::SigningKey;
use peerloom_delivery::Now;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::{Effects, LocalIdentity, State, Turn};
use crate::config::EngineConfig;
use crate::contacts::Contacts;
use crate::event::EventSource;
use crate::net::Links;
use crate::store::View;

/// Runs something in a turn of a node whose store is empty.
pub(super) fn in_a_turn(work: impl FnOnce(&mut Turn<'_>)) {
    let network = NetworkId::from_name("test");
    let key = SigningKey::from_seed(&[1; 32]);
    let own = Arc::new(LocalIdentity {
        user: UserId::from_bytes([1; 32]),
        device: DeviceId::from_bytes([1; 32]),
        certificate: key.sign_object(context::ACK, bytes::Bytes::from_static(b"none")),
        key,
        network,
        name: "test".into(),
    });
    let (contacts, links, events) = (Contacts::default(), Links::default(), EventSource::new());
    let rng = StdRng::seed_from_u64(1);
    let mut state = State::new(EngineConfig::new(network), own, Vec::new(), contacts, links, events, rng);
    let mut view = View::new(Arc::new(MemoryStorage::new()));
    let now = Now { mono: Duration::from_secs(1), wall_ms: 1 };
    let (txn, effects) = (view.begin(0), Effects::default());
    work(&mut Turn { state: &mut state, txn, effects, now, may_seal: 0 });
}

/// An entry with a payload of this size, in the log of a peer with this number.
pub(super) fn early(number: u8, position: Position, size: usize) -> Envelope {
    let device = DeviceId::from_bytes([number; 32]);
    let payload: bytes::Bytes = vec![number; size].into();
    let header = Header {
        log: LogId { device, conversation: ConversationId::from_bytes([number; 32]) },
        position,
        class: EntryClass::Application,
        suite: SuiteId(1),
        expires_at_ms: 0,
        recipients: vec![device],
        joins: Vec::new(),
        previous: None,
    };
    Envelope { header: header.sign(&payload, |_| vec![7; 64].into()), payload, hops: 0 }
}
