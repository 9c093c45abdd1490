//! What a device has acknowledged stays settled, whatever the log's owner sends: its own acknowledgement, shown to it by
//! a contact, proves to it that its store is older than another, so nobody may be able to make that up.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use peerloom_delivery::{Arrival, Config, Inbox, Now};
use peerloom_wire::store::InLog;
use peerloom_wire::{
    Chain, ConversationId, DeviceId, EntryClass, Header, LogId, Position, RosterId, SignedHeader, Span, SuiteId,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const OWN: DeviceId = DeviceId::from_bytes([9; 32]);
const NOW: Now = Now { mono: Duration::ZERO, wall_ms: 0 };

fn log() -> LogId {
    LogId { device: DeviceId::from_bytes([1; 32]), conversation: ConversationId::from_bytes([2; 32]) }
}

fn entries() -> Vec<SignedHeader> {
    let mut previous = None;
    let entry = |position| {
        let header = Header {
            log: log(),
            position,
            class: EntryClass::Application,
            suite: SuiteId(1),
            expires_at_ms: 0,
            roster: RosterId::from_bytes([0; 32]),
            excluded: Vec::new(),
            joins: Vec::new(),
            previous,
        };
        let signed = header.sign(&[], |_| Bytes::new());
        previous = Some(signed.id());
        signed
    };
    (1..=12).map(entry).collect()
}

fn inbox() -> Inbox {
    Inbox::restore(log(), &Config::default(), InLog::default(), [], NOW)
}

fn taken_back(entries: &[SignedHeader], first: Position, last: Position) -> Chain {
    let id = Some(entries[last as usize - 1].id());
    [Span { first, last, previous: None, id }].into_iter().collect()
}

#[test]
fn nobody_is_let_in_at_a_position_that_was_taken_back() {
    let entries = entries();
    let mut inbox = inbox();
    inbox.on_withdrawn(&taken_back(&entries, 1, 10), NOW);
    let before = inbox.ack(OWN);
    assert_eq!(before.through, 10);
    assert_eq!(inbox.on_entry(&entries[4], true, NOW), Arrival::Duplicate);
    assert!(inbox.knows(&before));
    // Where nothing was taken back the log begins.
    assert_eq!(inbox.on_entry(&entries[10], true, NOW), Arrival::Open);
}

#[test]
fn what_was_acknowledged_stays_settled_whatever_comes() {
    let entries = entries();
    for seed in 0..5_000 {
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut inbox, mut acks, mut parked) = (inbox(), Vec::new(), BTreeSet::new());
        for _ in 0..30 {
            let (at, other) = (rng.random_range(1..=12), rng.random_range(1..=12));
            let entry = &entries[at as usize - 1];
            let joins = rng.random_range(0..2) == 0;
            if rng.random_range(0..3) == 0 {
                let (void, _) = inbox.on_withdrawn(&taken_back(&entries, at.min(other), at.max(other)), NOW);
                parked.retain(|position| !void.contains(position));
            } else if parked.remove(&at) {
                // Opened ahead of what is missing.
                inbox.on_settled(entry, NOW);
            } else {
                match inbox.on_entry(entry, joins, NOW) {
                    Arrival::Open => {
                        if joins {
                            let void = inbox.on_joined(entry);
                            parked.retain(|position| !void.contains(position));
                        }
                        inbox.on_settled(entry, NOW);
                    }
                    Arrival::Park => {
                        parked.insert(at);
                    }
                    Arrival::Duplicate | Arrival::Conflict | Arrival::NoRoom => {}
                }
            }
            acks.push(inbox.ack(OWN));
            assert!(acks.iter().all(|ack| inbox.knows(ack)), "seed {seed}");
        }
    }
}
