//! What one device says or lacks changes nothing for the others.

use std::time::Duration;

use peerloom_delivery::{Config, Effect, NewEntry, Now, Outbox, Transmit, Window};
use peerloom_wire::store::{OutCursor, OutEntry};
use peerloom_wire::{
    Ack, Chain, ConversationId, DeviceId, EntryClass, EntryId, LogId, MessageId, Position, RangeSet, Span, UserId,
};

const FIRST: DeviceId = DeviceId::from_bytes([1; 32]);
const SECOND: DeviceId = DeviceId::from_bytes([2; 32]);
const USER: UserId = UserId::from_bytes([3; 32]);
const NOW: Now = Now { mono: Duration::ZERO, wall_ms: 1 };

fn id(position: Position) -> EntryId {
    EntryId::from_bytes([position as u8; 32])
}

fn append(outbox: &mut Outbox, class: EntryClass, joins: &[(DeviceId, UserId)]) -> Position {
    let messages = usize::from(class == EntryClass::Application);
    let new = NewEntry { class, expires_at_ms: 50_000, recipients: &[FIRST, SECOND], joins, messages };
    let position = outbox.append(new);
    outbox.set_sealed(position, id(position), 1000);
    position
}

/// A log with a message for both devices of a user, which are linked.
fn log() -> (Outbox, Position) {
    let mut outbox = Outbox::new(Config::default());
    append(&mut outbox, EntryClass::Handshake, &[(FIRST, USER), (SECOND, USER)]);
    let position = append(&mut outbox, EntryClass::Application, &[]);
    assert!(outbox.on_held(&FIRST, None) && outbox.on_held(&SECOND, None));
    (outbox, position)
}

fn ack(device: DeviceId, through: Position, withdrawn: &[Position]) -> Ack {
    Ack {
        log: LogId { device: DeviceId::from_bytes([9; 32]), conversation: ConversationId::from_bytes([8; 32]) },
        signer: device,
        through,
        through_id: Some(id(through)),
        beyond: Chain::from_iter(std::iter::empty::<Span>()),
        withdrawn: withdrawn.iter().copied().collect::<RangeSet>(),
    }
}

fn sent(outbox: &mut Outbox, device: &DeviceId) -> Vec<Transmit> {
    let mut window = Window::new(&Config::default());
    std::iter::from_fn(|| outbox.transmit(device, NOW, &mut window)).collect()
}

/// A device whose clock is ahead refuses an entry as expired: the other one still gets it, and shows it.
#[test]
fn a_clock_that_is_ahead_speaks_for_its_own_device_alone() {
    let (mut outbox, position) = log();
    assert_eq!(sent(&mut outbox, &FIRST), [Transmit::Entry(1), Transmit::Entry(position)]);
    assert_eq!(outbox.on_refused_as_expired(&FIRST, position, id(position)), [Effect::Ready(FIRST)]);
    assert_eq!(outbox.on_refused_as_expired(&FIRST, position, id(position)), [], "once is enough");
    assert_eq!(sent(&mut outbox, &FIRST), [Transmit::NotForYou(position)]);
    assert_eq!(outbox.on_ack(&FIRST, &ack(FIRST, position, &[position]), NOW).delivered, []);
    assert_eq!(sent(&mut outbox, &SECOND), [Transmit::Entry(1), Transmit::Entry(position)]);
    assert_eq!(outbox.on_ack(&SECOND, &ack(SECOND, position, &[]), NOW).delivered, [position]);

    // The other one can't show it either: once nobody lacks it, that is its end.
    let (mut outbox, position) = log();
    outbox.on_refused_as_expired(&FIRST, position, id(position));
    assert_eq!(outbox.on_ack(&SECOND, &ack(SECOND, position, &[position]), NOW).undelivered, []);
    let ended = outbox.on_ack(&FIRST, &ack(FIRST, position, &[position]), NOW).undelivered;
    assert_eq!(ended.iter().map(|e| (e.position, e.delivered)).collect::<Vec<_>>(), [(position, false)]);
    assert!(!outbox.holds(position));

    // Where every device refuses it, nobody has it: it ends as what never left.
    let (mut outbox, position) = log();
    assert_eq!(outbox.on_refused_as_expired(&FIRST, position, id(position)), [Effect::Ready(FIRST)]);
    let effects = outbox.on_refused_as_expired(&SECOND, position, id(position));
    let ended = |effect: &&Effect| matches!(effect, Effect::Expired(e) if !e.left && !e.delivered);
    assert_eq!(effects.iter().filter(ended).count(), 1, "{effects:?}");
}

/// What was delivered stays delivered over a restart, however much of what devices didn't show has to be remembered.
#[test]
fn what_was_delivered_stays_so_over_a_restart() {
    let row = |delivered| OutEntry {
        class: EntryClass::Application,
        size: 1000,
        expires_at_ms: 50_000,
        messages: vec![MessageId::from_bytes([0; 16])],
        recipients: vec![FIRST, SECOND],
        history: 1,
        copies: Vec::new(),
        id: id(2),
        left: true,
        expired: false,
        delivered,
        discard: false,
    };
    let cursor = |through| OutCursor {
        user: USER,
        base: 1,
        through,
        beyond: RangeSet::default(),
        rejoins: 0,
        halted: false,
        owed: RangeSet::default(),
        acknowledged: None,
        // Coarser than what was settled unshown.
        void: [2].into_iter().collect(),
    };
    for delivered in [true, false] {
        let cursors = [(FIRST, cursor(2)), (SECOND, cursor(1))];
        let outbox = Outbox::restore(Config::default(), [(2, row(delivered))], cursors, NOW);
        assert_eq!((outbox.was_delivered(2), outbox.holds(2)), (delivered, true));
    }
}

/// An entry's bytes are lost: what it carried is owed to the devices that lack it, and delivered by none of them until
/// it was sealed again, even if they have settled the position.
#[test]
fn lost_bytes_are_owed_to_those_that_lack_them() {
    let (mut outbox, position) = log();
    let last = append(&mut outbox, EntryClass::Application, &[]);
    assert_eq!(outbox.on_ack(&FIRST, &ack(FIRST, position, &[]), NOW).delivered, [position]);
    assert_eq!(outbox.on_lost(position), [], "nobody has to be added again");
    assert_eq!(sent(&mut outbox, &FIRST), [Transmit::Entry(last)]);
    assert_eq!(
        sent(&mut outbox, &SECOND),
        [1, position, last].map(|p| match p == position {
            true => Transmit::NotForYou(p),
            false => Transmit::Entry(p),
        })
    );
    assert_eq!(outbox.owed(NOW).into_iter().collect::<Vec<_>>(), [position]);
    assert_eq!(outbox.on_ack(&SECOND, &ack(SECOND, last, &[position]), NOW).delivered, [last]);
    assert!(outbox.holds(position), "kept until it is sealed again");
    outbox.on_moved(position);
    outbox.on_sealed_again(position);
    outbox.settle_before_joins();
    assert!(!outbox.owes() && outbox.messages() == 1);
    // A handshake's loss is mended by adding those again that lack it.
    let handshake = append(&mut outbox, EntryClass::Handshake, &[]);
    assert_eq!(outbox.on_lost(handshake), [FIRST, SECOND]);
    assert!(!outbox.owes());
}
