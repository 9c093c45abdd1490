//! What a connection may send to addresses that haven't answered: connectivity checks, paced and few.
//!
//! Candidates are whatever the other device says, so a check may go to a third party who knows nothing of it. RFC 8445
//! §14 paces the checks of all pairs together, and §7.2.5.2 ends those of a pair after some; the `webrtc` crate sends all
//! of them at each tick. Here each packet is looked at on its way out, and checks beyond the pace are dropped: the crate
//! repeats them by itself.

mod budgets;

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use peerloom_core::wire::Allowance;

pub(crate) use budgets::{Budget, Budgets};

/// After how long one more check of all pairs together may go out (RFC 8445 §14.2), and how many may at once.
const EVERY: Duration = Duration::from_millis(50);
const BURST: u32 = 2;
/// The first waits between two checks of a pair; they grow up to the longest.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// Checks of a pair without an answer: what fits into a session of 12 s.
const CHECKS: u32 = 20;
/// The same for a session by hand, which waits ten minutes for people.
const PATIENT_WAIT: Duration = Duration::from_secs(2);
const PATIENT_CHECKS: u32 = 320;
/// Pairs that are tried.
const PAIRS: usize = 256;
/// Checks on the way whose answers count.
const ON_THE_WAY: usize = 512;

/// Looks at the packets of one connection, on all its sockets and relays.
#[derive(Debug)]
pub(crate) struct Guard {
    budget: Budget,
    book: Mutex<Book>,
}

#[derive(Debug)]
struct Book {
    patient: bool,
    /// STUN and TURN servers, which this node chose itself.
    servers: Vec<SocketAddr>,
    pace: Allowance<Instant>,
    /// By our address and the other one.
    pairs: HashMap<(SocketAddr, SocketAddr), Pair>,
    on_the_way: VecDeque<([u8; 12], SocketAddr)>,
}

#[derive(Debug)]
struct Pair {
    checks: u32,
    /// When the next check may go out.
    due: Instant,
    /// A check of the other side came from there since: one that follows costs others no more than it.
    asked: bool,
    answered: bool,
}

impl Pair {
    fn new(due: Instant) -> Self {
        Self { checks: 0, due, asked: false, answered: false }
    }
}

impl Guard {
    pub(crate) fn new(budget: Budget) -> Arc<Self> {
        let book = Book {
            patient: false,
            servers: Vec::new(),
            pace: Allowance::full(BURST),
            pairs: HashMap::new(),
            on_the_way: VecDeque::new(),
        };
        Arc::new(Self { budget, book: Mutex::new(book) })
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What goes to this server is not looked at.
    pub(crate) fn trust(&self, server: SocketAddr) {
        self.book().servers.push(server);
    }

    /// People carry the descriptions: one side checks until they have.
    pub(crate) fn set_patient(&self, patient: bool) {
        self.book().patient = patient;
    }

    /// New candidates are tried: the pairs begin from zero. What the device may cost in all stays.
    pub(crate) fn begin_again(&self) {
        self.book().pairs.retain(|_, pair| pair.answered);
    }

    /// Whether a packet may go from one address to another.
    pub(crate) fn may_send(&self, from: SocketAddr, to: SocketAddr, packet: &[u8], now: Instant) -> bool {
        let stun = Stun::read(packet);
        // An answer costs those who asked as much as us.
        if stun.as_ref().is_some_and(|stun| stun.is_answer()) {
            return true;
        }
        let mut book = self.book();
        let book = &mut *book;
        if book.servers.contains(&to) {
            return true;
        }
        let full = book.pairs.len() >= PAIRS;
        let round = EVERY * u32::try_from(book.pairs.len()).unwrap_or(u32::MAX);
        let pair = match book.pairs.get_mut(&(from, to)) {
            Some(pair) if pair.answered => return true,
            Some(pair) => pair,
            None if full => return false,
            None => book.pairs.entry((from, to)).or_insert(Pair::new(now)),
        };
        let Some(stun) = stun.filter(|stun| stun.is_request()) else {
            // Nothing else belongs on a path that isn't proved.
            return false;
        };
        let (checks, longest) = if book.patient { (PATIENT_CHECKS, PATIENT_WAIT) } else { (CHECKS, LONGEST_WAIT) };
        if pair.checks >= checks || pair.due > now || book.pace.wait(now, EVERY).is_some() {
            return false;
        }
        // So that no number of strangers uses up what one who was invited needs.
        if !std::mem::take(&mut pair.asked) && !self.budget.spend(to.ip(), book.patient, now) {
            pair.due = now + FIRST_WAIT;
            return false;
        }
        book.pace.spend(now, EVERY);
        // Every pair gets its turn before one gets its next (RFC 8445 §14.3).
        pair.due = now + (FIRST_WAIT * 2u32.saturating_pow(pair.checks / 2)).min(longest).max(round);
        pair.checks += 1;
        if book.on_the_way.len() >= ON_THE_WAY {
            book.on_the_way.pop_front();
        }
        book.on_the_way.push_back((stun.transaction, to));
        true
    }

    /// A packet came from an address.
    pub(crate) fn heard(&self, at: SocketAddr, from: SocketAddr, packet: &[u8], now: Instant) {
        let Some(stun) = Stun::read(packet) else { return };
        let mut book = self.book();
        if stun.is_request() {
            // The other side's check opened its NAT: ours should follow at once (RFC 8445 §7.3.1.4).
            if book.pairs.len() < PAIRS || book.pairs.contains_key(&(at, from)) {
                let pair = book.pairs.entry((at, from)).or_insert(Pair::new(now));
                (pair.due, pair.asked) = (now, true);
            }
        } else if stun.is_answer()
            && let Some(place) = book.on_the_way.iter().position(|way| *way == (stun.transaction, from))
        {
            book.on_the_way.remove(place);
            if let Some(pair) = book.pairs.get_mut(&(at, from)) {
                pair.answered = true;
            }
        }
    }
}

/// The header of a STUN message (RFC 8489 §5).
struct Stun {
    kind: u16,
    transaction: [u8; 12],
}

impl Stun {
    fn read(packet: &[u8]) -> Option<Self> {
        let (head, _) = packet.split_at_checked(20)?;
        let (kind, rest) = head.split_at(2);
        let kind = u16::from_be_bytes(kind.try_into().ok()?);
        let (_length, rest) = rest.split_at(2);
        let (cookie, transaction) = rest.split_at(4);
        let is_stun = kind >> 14 == 0 && cookie == [0x21, 0x12, 0xa4, 0x42];
        is_stun.then_some(Self { kind, transaction: transaction.try_into().ok()? })
    }

    /// A binding request.
    fn is_request(&self) -> bool {
        self.kind == 0x0001
    }

    /// The answer to a binding request.
    fn is_answer(&self) -> bool {
        self.kind == 0x0101 || self.kind == 0x0111
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use peerloom_core::wire::DeviceId;

    use super::*;

    /// What a contact's device has.
    fn whole() -> Budget {
        Budgets::of_contacts().take(DeviceId::from_bytes([7; 32]), Instant::now())
    }

    fn place(number: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, number], 5000))
    }

    fn stun(kind: u16, number: u32) -> Vec<u8> {
        let head = [&kind.to_be_bytes()[..], &[0, 0], &[0x21, 0x12, 0xa4, 0x42], &[0; 8], &number.to_be_bytes()];
        head.concat()
    }

    /// What the crate does for `seconds`: a check of each pair each 50 ms. Gives how many go out to each target.
    pub(crate) fn checks(guard: &Guard, targets: u8, begin: Instant, seconds: u32) -> Vec<u32> {
        let mut sent = vec![0; usize::from(targets)];
        for tick in 0..seconds * 20 {
            let now = begin + Duration::from_millis(50) * tick;
            for target in 0..targets {
                let packet = stun(1, tick * 256 + u32::from(target));
                sent[usize::from(target)] += u32::from(guard.may_send(place(200), place(target), &packet, now));
            }
        }
        sent
    }

    #[test]
    fn checks_are_paced_over_all_pairs_and_few_for_each() {
        let begin = Instant::now();
        let one = checks(&Guard::new(whole()), 1, begin, 600);
        assert_eq!(one, [CHECKS], "one target in ten minutes");
        let many = checks(&Guard::new(whole()), 32, begin, 12);
        let all: u32 = many.iter().sum();
        assert!((200..=250).contains(&all), "{all} in 12 s");
        assert!(many.iter().all(|sent| (4..=CHECKS).contains(sent)), "each gets its turn: {many:?}");
    }

    #[test]
    fn a_devices_sessions_share_what_they_may_cost() {
        let budget = whole();
        let begin = Instant::now();
        let session =
            |number: u32| checks(&Guard::new(budget.clone()), 32, begin + Duration::from_secs(12) * number, 12);
        let first: u32 = (0..2).flat_map(session).sum();
        assert!((300..=360).contains(&first), "{first} in 24 s");
        let more: u32 = (2..52).flat_map(session).sum();
        assert!(more <= 1250, "{more} in ten minutes");
        let begin = begin + Duration::from_secs(52 * 12);
        let stranger = Budgets::of_strangers().take(DeviceId::from_bytes([7; 32]), begin);
        let stranger = checks(&Guard::new(stranger), 32, begin, 12);
        assert!(stranger.iter().sum::<u32>() <= 150);
    }

    #[test]
    fn only_the_answer_to_a_check_opens_a_path() {
        let guard = Guard::new(whole());
        guard.trust(place(9));
        let now = Instant::now();
        let (own, peer, other, data) = (place(200), place(1), place(2), [22u8; 100]);
        assert!(guard.may_send(own, place(9), &data, now), "a server of this node's choice");
        assert!(!guard.may_send(own, peer, &data, now));
        assert!(guard.may_send(own, peer, &stun(1, 7), now));
        for (from, kind, number) in [(peer, 0x0101, 8), (other, 0x0101, 7), (peer, 0x0001, 7), (peer, 0x0011, 7)] {
            guard.heard(own, from, &stun(kind, number), now);
            assert!(!guard.may_send(own, peer, &data, now), "{from} {kind:#x} {number}");
        }
        guard.heard(own, peer, &stun(0x0101, 7), now);
        assert!(guard.may_send(own, peer, &data, now));
        assert!((0..1000).all(|number| guard.may_send(own, peer, &stun(1, number), now)), "checks keep it alive");
        assert!(!guard.may_send(own, other, &data, now) && !guard.may_send(place(201), peer, &data, now));
        assert!(guard.may_send(own, other, &stun(0x0101, 1), now), "who asks gets an answer");
        guard.begin_again();
        assert!(guard.may_send(own, peer, &data, now), "it stays open when ICE begins again");
    }

    #[test]
    fn a_check_of_the_other_side_is_followed_at_once() {
        let guard = Guard::new(whole());
        let now = Instant::now();
        let (own, peer) = (place(200), place(1));
        assert!(guard.may_send(own, peer, &stun(1, 1), now));
        let soon = now + Duration::from_millis(60);
        assert!(!guard.may_send(own, peer, &stun(1, 2), soon), "its turn is later");
        guard.heard(own, peer, &stun(1, 77), soon);
        assert!(guard.may_send(own, peer, &stun(1, 3), soon));
    }

    /// One who was invited is reached although strangers used up what strangers have.
    #[test]
    fn a_check_that_follows_another_costs_no_budget() {
        let (mut budgets, begin) = (Budgets::of_strangers(), Instant::now());
        for number in 0..20 {
            let flood = Guard::new(budgets.take(DeviceId::from_bytes([number; 32]), begin));
            assert!((0..200).filter(|target| flood.budget.spend(place(*target).ip(), false, begin)).count() < 200);
        }
        let guard = Guard::new(budgets.take(DeviceId::from_bytes([250; 32]), begin));
        let (own, peer) = (place(200), place(1));
        let mut sent = 0;
        for number in 0..10 {
            let now = begin + Duration::from_millis(10) * number;
            sent += u32::from(guard.may_send(own, peer, &stun(1, number), now));
        }
        assert_eq!(sent, 0, "nothing is left");
        guard.heard(own, peer, &stun(1, 77), begin + Duration::from_secs(1));
        assert!(guard.may_send(own, peer, &stun(1, 11), begin + Duration::from_secs(1)));
        assert!(!guard.may_send(own, peer, &stun(1, 12), begin + Duration::from_secs(1)), "one for each");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let guard = Guard::new(whole());
        let now = Instant::now();
        for number in 0..10_000u32 {
            let to = SocketAddr::from((number.to_be_bytes(), 1));
            guard.may_send(place(1), to, &stun(1, number), now + Duration::from_millis(50) * number);
        }
        let book = guard.book();
        assert!(book.pairs.len() <= PAIRS && book.on_the_way.len() <= ON_THE_WAY);
    }

    #[test]
    fn people_have_their_minutes() {
        let guard = Guard::new(whole());
        guard.set_patient(true);
        let begin = Instant::now();
        let sent = checks(&guard, 4, begin, 600);
        assert!(sent.iter().all(|sent| (250..=PATIENT_CHECKS).contains(sent)), "{sent:?}");
    }
}
