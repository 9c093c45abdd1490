//! How links are registered, and what their frames hold.
#![cfg(test)]

use futures_util::FutureExt;
use peerloom_core::Transport;
use peerloom_core::memory::{MemoryNetwork, MemoryTransport};
use peerloom_core::wire::PublicKey;

use tokio::task::unconstrained;

use super::budget::{DEVICE_BUDGET_KIB, NODE_BUDGET_KIB};
use super::*;

const OWN: DeviceId = DeviceId::from_bytes([0; 32]);
const INCOMING: (bool, LinkRole) = (false, LinkRole::Contact);
const MIB: usize = 1024 * 1024;
const AGREED: Negotiated = Negotiated { version: 1, features: 0, policy: 0 };

fn device(number: u8) -> DeviceId {
    DeviceId::from_bytes([number; 32])
}

/// Links that came in, as many as are asked for.
async fn incoming(count: usize) -> Vec<Arc<dyn Link>> {
    let network = MemoryNetwork::default();
    let transport = |name: &str, key| {
        MemoryTransport::new(&network, format!("memory://{name}").parse().unwrap(), PublicKey::ed25519([key; 32]))
    };
    let (near, far) = (transport("near", 1), transport("far", 2));
    let mut listener = near.listen(None).await.unwrap();
    let mut links = Vec::new();
    for _ in 0..count {
        let dialed = far.dial(&"memory://near".parse().unwrap(), None, None).await.unwrap();
        links.push(listener.accept().await.unwrap());
        // It lives as long as the test.
        std::mem::forget(dialed);
    }
    links
}

fn open(links: &[Arc<dyn Link>]) -> usize {
    links.iter().filter(|link| link.closed().now_or_never().is_none()).count()
}

#[tokio::test(start_paused = true)]
async fn a_device_has_few_links_however_fast_it_dials() {
    let (links, made) = (Links::default(), incoming(20).await);
    let mut registered = Vec::new();
    let mut register = |link| registered.extend(links.register(&OWN, device(1), INCOMING, AGREED, link));
    // All at once: the first few are taken, and no young one gives way.
    made[..10].iter().for_each(&mut register);
    assert_eq!(open(&made[..10]), 10, "those that weren't registered are their owner's to close");
    assert!(!links.has_room_for(&device(1)));
    // Later, each takes the oldest's place.
    tokio::time::advance(YOUNG).await;
    made[10..].iter().for_each(&mut register);
    assert_eq!(registered.len(), 2 * OF_ONE);
    assert_eq!(open(&made[..OF_ONE]), 0, "the oldest gave way");
    assert_eq!(links.book().up[&device(1)].len(), OF_ONE);
    // Another device isn't kept out.
    assert!(links.has_room_for(&device(2)));
}

/// What a device holds that sends without end, frame by frame over two links, until it has to wait.
fn fill(budgets: [&Budget; 2], frame: usize) -> Vec<Held> {
    let frames = budgets.into_iter().cycle().map_while(|budget| unconstrained(budget.hold(frame)).now_or_never());
    frames.map(|held| held.expect("the node runs")).take(10_000).collect()
}

#[tokio::test]
async fn frames_of_one_device_wait_for_themselves_and_all_for_the_nodes_sum() {
    let links = Links::default();
    let made = incoming(2).await;
    let budget = |number: u8, link| links.register(&OWN, device(number), INCOMING, AGREED, link).expect("room").budget;
    let budgets = |number: u8| [budget(number, &made[0]), budget(number, &made[1])];
    let [first, second] = budgets(1);
    let frame = MIB - 1;
    let held = fill([&first, &second], frame);
    assert_eq!(held.len() * MIB, DEVICE_BUDGET_KIB * 1024, "both links of a device have one budget");
    assert!(unconstrained(first.hold(0)).now_or_never().is_none());
    // Others don't wait for it, until all of them hold what the node may.
    let mut all = held.len();
    let mut kept = vec![held];
    for number in 2..20 {
        let [first, second] = budgets(number);
        kept.push(fill([&first, &second], frame));
        all += kept.last().map_or(0, Vec::len);
    }
    assert_eq!(all * MIB, NODE_BUDGET_KIB * 1024);
    // What is done is given back.
    kept[0].pop();
    assert!(unconstrained(first.hold(frame)).now_or_never().is_some());
    // A new link of the device doesn't bring it a new budget while frames of old ones wait.
    drop([first, second]);
    links.unregister(&device(1), 1);
    links.unregister(&device(1), 2);
    kept.drain(2..);
    let later = budget(1, &made[0]);
    assert_eq!(fill([&later, &later], frame).len(), DEVICE_BUDGET_KIB / 1024 - 7);
}

const ROOM: ConversationId = ConversationId::from_bytes([8; 32]);

/// What is shown counts for the link on which it was, as long as that is up, and for one conversation.
#[tokio::test]
async fn what_is_shown_counts_for_its_link_alone() {
    let made = incoming(2).await;
    let (links, device) = (Links::default(), device(1));
    let first = links.register(&OWN, device, INCOMING, AGREED, &made[0]).unwrap();
    assert!(!links.has_shown(&device, &ROOM));
    assert_eq!([(); 2].map(|()| links.note_shown(&device, first.id, ROOM)), [Some(true), Some(false)]);
    let second = links.register(&OWN, device, INCOMING, AGREED, &made[1]).unwrap();
    assert!(links.has_shown(&device, &ROOM) && first.shown.is_cancelled() && !second.shown.is_cancelled());
    assert!(links.unregister(&device, first.id));
    assert!(!links.has_shown(&device, &ROOM), "the link on which it was shown is gone");
    assert_eq!(links.note_shown(&device, first.id, ROOM), None, "a frame of a link that is gone came late");
    assert!(!links.has_shown(&device, &ROOM));
    assert_eq!(links.note_shown(&device, second.id, ROOM), Some(true));
    assert!(!links.has_shown(&device, &ConversationId::from_bytes([9; 32])));
    assert!(
        links.has_shown(&device, &ROOM) && !links.unregister(&device, second.id) && !links.has_shown(&device, &ROOM)
    );
}
