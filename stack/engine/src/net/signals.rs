//! The signals of transports: signed on their way out, verified on their way in, whatever carries them.
//!
//! Carriers are not trusted, so what one brings costs little until its signature is verified: no state, and no more
//! work than a share of each carrier allows. What is remembered afterwards belongs to the verified sender.

mod links;
mod replay;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{BoxStream, select_all};
use peerloom_core::signaling::received;
use peerloom_core::wire::signal::{LIFETIME_MS, MANUAL_LIFETIME_MS};
use peerloom_core::wire::{Allowance, DeviceId, NetworkId, SessionId, Signed, SignedSignal, context, limits};
use peerloom_core::{
    Admission, Carried, Error, ErrorKind, IceServer, Result, Signal, SignalCarrier, Signaling, Standing,
};
use peerloom_crypto_primitives::{SigningKey, verify};
use tokio::sync::mpsc;
use tracing::{debug, trace};

pub(crate) use links::LinkCarrier;
use replay::Senders;

use crate::clock::system_ms;

/// Signals that wait for a transport to look; more are dropped.
const WAITING: usize = 256;
/// Signatures of strangers that are verified at once, some 100 µs each, and after how long one more is.
const STRANGERS: u32 = 256;
const STRANGER_EVERY: Duration = Duration::from_micros(3906);

/// The one [`Signaling`] that transports see.
pub struct SignalingRouter {
    key: SigningKey,
    own: DeviceId,
    network: NetworkId,
    admission: Arc<dyn Admission>,
    carriers: Vec<Arc<dyn SignalCarrier>>,
    /// Of the last signal that was signed. It rises in every session, since it rises over all of them.
    serial: AtomicU64,
    book: Mutex<Book>,
}

struct Book {
    receivers: Vec<mpsc::Sender<Signal>>,
    senders: Senders,
    strangers: Allowance<Instant>,
}

impl SignalingRouter {
    /// Signs with this device's key, and sends over the first of these carriers that takes a signal. Signals of
    /// devices that `admission` doesn't welcome are dropped before they cost anything.
    pub fn new(
        key: SigningKey,
        network: NetworkId,
        admission: Arc<dyn Admission>,
        carriers: Vec<Arc<dyn SignalCarrier>>,
    ) -> Self {
        let own = DeviceId::from_key(key.public());
        let book = Book { receivers: Vec::new(), senders: Senders::default(), strangers: Allowance::full(STRANGERS) };
        Self { key, own, network, admission, carriers, serial: AtomicU64::new(0), book: Mutex::new(book) }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what the carriers bring from this call on, while the future runs; it ends when no carrier is left.
    pub fn run(self: Arc<Self>) -> impl Future<Output = ()> + Send + 'static {
        let mut carried = select_all(self.carriers.iter().map(|carrier| carrier.receive()));
        async move {
            while let Some(carried) = carried.next().await {
                self.take(&carried);
            }
        }
    }

    /// Hands a signal to the transports, if it is one.
    fn take(&self, carried: &Carried) {
        let signal = match SignedSignal::decode_unverified(&carried.signal) {
            Ok(signal) => signal,
            Err(error) => return debug!(%error, "refused a signal"),
        };
        let from = signal.from();
        if let Err(why) = self.admit(carried, &signal, from) {
            return trace!(?from, why, "refused a signal");
        }
        let signal = Signal { from, session: signal.session, payload: signal.body };
        let mut book = self.book();
        book.receivers.retain(|receiver| !receiver.is_closed());
        for receiver in &book.receivers {
            if receiver.try_send(signal.clone()).is_err() {
                debug!(?from, "too many signals wait; one is dropped");
            }
        }
    }

    /// Whether a signal may go to the transports; the cheapest checks come first.
    fn admit(&self, carried: &Carried, signal: &SignedSignal, from: DeviceId) -> Result<(), &'static str> {
        let now = system_ms();
        if signal.to != self.own || signal.network != self.network || from == self.own {
            return Err("it is not for this node");
        }
        if carried.from.is_some_and(|named| named != from) {
            return Err("its carrier names another sender");
        }
        let standing = self.admission.standing(&from);
        if standing == Standing::Unwelcome {
            return Err("its sender is no contact, and no invitation is open");
        }
        if !signal.is_valid_at(now, LIFETIME_MS) {
            if standing == Standing::Known {
                debug!(?from, "a contact's signal is out of its time; compare the clocks of both machines");
            }
            return Err("it is out of its time");
        }
        {
            let mut book = self.book();
            // A copy that came another way costs no signature.
            if !book.senders.is_new(&from, signal, now) {
                return Err("it came before");
            }
            if standing == Standing::Stranger && !book.strangers.spend(Instant::now(), STRANGER_EVERY) {
                return Err("too many strangers signal");
            }
        }
        if !signal.is_signed(&carried.signal, verify) {
            return Err("its signature is wrong");
        }
        self.book().senders.note(from, standing == Standing::Known, signal, now)
    }

    fn sign(&self, to: DeviceId, session: SessionId, body: Bytes, lifetime_ms: u64) -> Result<Signed> {
        if body.len() > limits::SIGNAL {
            let message = format!("a signal has at most {} bytes", limits::SIGNAL);
            return Err(Error::new(ErrorKind::TooLarge, "engine", "signal", message));
        }
        let signal = SignedSignal {
            network: self.network,
            key: self.key.public().clone(),
            to,
            session,
            serial: self.serial.fetch_add(1, Ordering::Relaxed) + 1,
            expires_at_ms: system_ms() + lifetime_ms,
            body,
        };
        Ok(self.key.sign_object(context::SIGNAL, signal.encode()))
    }

    /// A signal that people carry.
    pub(crate) fn sign_manual(&self, to: DeviceId, session: SessionId, body: Bytes) -> Result<Signed> {
        self.sign(to, session, body, MANUAL_LIFETIME_MS)
    }

    /// A signal that people carried here: its sender is the device that the text names, if the signature is right.
    pub(crate) fn open_manual(&self, signed: &Signed) -> Result<Signal> {
        let error = |kind, message: &str| Err(Error::new(kind, "engine", "connect by hand", message));
        let signal = SignedSignal::decode_unverified(signed)?;
        if signal.to != self.own {
            let message = "the text is for another device; each offer and answer is for the device it was made for";
            return error(ErrorKind::Invalid, message);
        }
        if signal.network != self.network {
            return error(ErrorKind::Invalid, "the text is for another network; compare `network` in both files");
        }
        if !signal.is_signed(signed, verify) {
            return error(ErrorKind::Unauthenticated, "the text has been changed on its way; copy it again");
        }
        if !signal.is_valid_at(system_ms(), MANUAL_LIFETIME_MS) {
            let message =
                "the text is older than ten minutes, or the clocks of the two machines differ; make a new one";
            return error(ErrorKind::Invalid, message);
        }
        Ok(Signal { from: signal.from(), session: signal.session, payload: signal.body })
    }
}

#[async_trait]
impl Signaling for SignalingRouter {
    async fn send(&self, to: DeviceId, session: SessionId, payload: Bytes) -> Result<()> {
        let signed = self.sign(to, session, payload, LIFETIME_MS)?;
        let mut first = None;
        for carrier in &self.carriers {
            match carrier.send(to, signed.clone()).await {
                Ok(()) => return Ok(()),
                Err(error) => first = first.or(Some(error)),
            }
        }
        let none = || Error::new(ErrorKind::Unreachable, "engine", "signal", "nothing carries signals to the device");
        Err(first.unwrap_or_else(none))
    }

    fn receive(&self) -> BoxStream<'static, Signal> {
        let (sender, receiver) = mpsc::channel(WAITING);
        self.book().receivers.push(sender);
        received(receiver)
    }

    async fn ice_servers(&self) -> Vec<IceServer> {
        let mut servers = Vec::new();
        for carrier in &self.carriers {
            servers.extend(carrier.ice_servers().await);
        }
        servers
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use peerloom_core::memory::{MemoryCarrier, SignalingHub};

    use super::*;

    fn key(number: u8) -> SigningKey {
        SigningKey::from_seed(&[number; 32])
    }

    fn device(number: u8) -> DeviceId {
        DeviceId::from_key(key(number).public())
    }

    fn network() -> NetworkId {
        NetworkId::from_name("test")
    }

    fn session(number: u8) -> SessionId {
        SessionId::from_bytes([number; 16])
    }

    struct Gate {
        known: Vec<DeviceId>,
        others: Standing,
    }

    impl Admission for Gate {
        fn standing(&self, device: &DeviceId) -> Standing {
            if self.known.contains(device) { Standing::Known } else { self.others }
        }
    }

    fn all_are(others: Standing) -> Arc<Gate> {
        Arc::new(Gate { known: Vec::new(), others })
    }

    /// Node 1's board: it knows the devices 2 and 3; others are what `others` says.
    fn board(others: Standing) -> (SignalingRouter, BoxStream<'static, Signal>) {
        let gate = Arc::new(Gate { known: vec![device(2), device(3)], others });
        let board = SignalingRouter::new(key(1), network(), gate, Vec::new());
        let received = board.receive();
        (board, received)
    }

    fn signal(from: u8) -> SignedSignal {
        SignedSignal {
            network: network(),
            key: key(from).public().clone(),
            to: device(1),
            session: session(1),
            serial: 1,
            expires_at_ms: system_ms() + LIFETIME_MS,
            body: Bytes::from_static(b"offer"),
        }
    }

    fn sign(signal: &SignedSignal, by: u8) -> Carried {
        Carried { from: None, signal: key(by).sign_object(context::SIGNAL, signal.encode()) }
    }

    /// What came, once nothing more comes.
    async fn all(received: &mut BoxStream<'static, Signal>) -> Vec<Signal> {
        let mut all = Vec::new();
        while let Ok(Some(signal)) = tokio::time::timeout(Duration::from_millis(20), received.next()).await {
            all.push(signal);
        }
        all
    }

    #[tokio::test]
    async fn only_what_its_sender_signed_for_this_node_and_this_time_comes_through() {
        let (board, mut received) = board(Standing::Unwelcome);
        board.take(&sign(&signal(2), 2));
        let [first] = &all(&mut received).await[..] else { panic!("a good signal comes through") };
        assert_eq!((first.from, first.session), (device(2), session(1)));

        let now = system_ms();
        let fresh = |number| SignedSignal { session: session(number), ..signal(2) };
        let refused = [
            ("another's signature", sign(&fresh(2), 3)),
            ("for another device", sign(&SignedSignal { to: device(9), ..fresh(3) }, 2)),
            ("of another network", sign(&SignedSignal { network: NetworkId::from_name("other"), ..fresh(4) }, 2)),
            ("too old", sign(&SignedSignal { expires_at_ms: now - 150_000, ..fresh(5) }, 2)),
            ("valid for too long", sign(&SignedSignal { expires_at_ms: now + 600_000, ..fresh(6) }, 2)),
            ("this node's own", sign(&SignedSignal { key: key(1).public().clone(), ..fresh(7) }, 1)),
            ("a stranger's", sign(&SignedSignal { key: key(8).public().clone(), ..fresh(8) }, 8)),
            ("in a sender's name, as the carrier says", Carried { from: Some(device(3)), ..sign(&fresh(9), 2) }),
            (
                "signed for another purpose",
                Carried { from: None, signal: key(2).sign_object(context::ACK, fresh(10).encode()) },
            ),
        ];
        for (what, carried) in &refused {
            board.take(carried);
            assert!(all(&mut received).await.is_empty(), "{what}");
        }
        // Every single byte counts.
        let good = sign(&fresh(11), 2);
        let bytes = good.signal.encode();
        for at in 0..bytes.len() {
            let mut changed = bytes.to_vec();
            changed[at] ^= 1;
            if let Ok(signal) = Signed::decode(changed.into(), limits::SIGNED_SIGNAL) {
                board.take(&Carried { from: None, signal });
            }
        }
        assert!(all(&mut received).await.is_empty(), "a changed signal came through");
        board.take(&good);
        assert_eq!(all(&mut received).await.len(), 1, "nothing of that kept the good one out");
    }

    #[tokio::test]
    async fn a_copy_is_refused_whichever_way_it_comes() {
        let (board, mut received) = board(Standing::Unwelcome);
        for serial in [5, 3, 5, 4, 3] {
            board.take(&sign(&SignedSignal { serial, ..signal(2) }, 2));
        }
        assert_eq!(all(&mut received).await.len(), 3);
    }

    /// What silenced a contact for 10 s at a time: another one's signals in its name.
    #[tokio::test]
    async fn signals_in_anothers_name_silence_nobody() {
        let (board, mut received) = board(Standing::Unwelcome);
        for number in 0..500u64 {
            // Of a session that the victim uses, and of ones that it doesn't.
            let serial = u64::MAX - number;
            board.take(&sign(&SignedSignal { serial, ..signal(2) }, 3));
            board.take(&sign(&SignedSignal { session: session(number as u8), ..signal(2) }, 3));
            board.take(&sign(&SignedSignal { serial: number + 1, ..signal(2) }, 2));
            let came = all_now(&mut received);
            assert_eq!(came, 1, "only the victim's own");
        }
        assert_eq!(board.book().senders.remembered(), 1);
    }

    fn all_now(received: &mut BoxStream<'static, Signal>) -> usize {
        let mut count = 0;
        while let Some(Some(_)) = tokio::task::unconstrained(received.next()).now_or_never() {
            count += 1;
        }
        count
    }

    #[tokio::test]
    async fn invented_senders_leave_no_state_and_keep_nobody_out() {
        for others in [Standing::Unwelcome, Standing::Stranger] {
            let (board, mut received) = board(others);
            let body = signal(2);
            for number in 0..3000u64 {
                // Keys without a holder, which anyone can write.
                let mut invented = [7; 32];
                invented[..8].copy_from_slice(&number.to_be_bytes());
                let key = peerloom_core::wire::PublicKey::ed25519(invented);
                board.take(&sign(&SignedSignal { key, ..body.clone() }, 9));
            }
            assert_eq!(board.book().senders.remembered(), 0, "{others:?}");
            board.take(&sign(&body, 2));
            assert_eq!(all_now(&mut received), 1, "{others:?}: a contact comes through at once");
        }
    }

    #[tokio::test]
    async fn strangers_are_taken_while_one_is_expected_and_forgotten_one_by_one() {
        let (board, mut received) = board(Standing::Stranger);
        for number in 10..210u8 {
            board.take(&sign(&signal(number), number));
            assert_eq!(all_now(&mut received), 1, "{number} comes through");
            assert!(board.book().senders.remembered() <= 64);
        }
        board.take(&sign(&signal(2), 2));
        assert_eq!(all_now(&mut received), 1);
    }

    #[tokio::test]
    async fn one_senders_sessions_are_bounded_and_anothers_are_not_touched() {
        let (board, mut received) = board(Standing::Unwelcome);
        for number in 0..200u8 {
            board.take(&sign(&SignedSignal { session: session(number), ..signal(2) }, 2));
        }
        let came = all_now(&mut received);
        assert!((16..=64).contains(&came), "{came}");
        board.take(&sign(&signal(3), 3));
        assert_eq!(all_now(&mut received), 1);
    }

    #[tokio::test]
    async fn a_text_of_people_proves_its_author_and_ends_after_ten_minutes() {
        let (board, _) = board(Standing::Unwelcome);
        let other = SignalingRouter::new(key(8), network(), all_are(Standing::Unwelcome), Vec::new());
        let text = other.sign_manual(device(1), session(1), Bytes::from_static(b"offer")).unwrap();
        assert_eq!(board.open_manual(&text).unwrap().from, device(8));
        let refused = |carried: Carried| board.open_manual(&carried.signal).map_err(|e| e.kind()).unwrap_err();
        let late = SignedSignal { expires_at_ms: system_ms() - 150_000, ..signal(8) };
        assert_eq!(refused(sign(&late, 8)), ErrorKind::Invalid);
        assert_eq!(refused(sign(&signal(2), 8)), ErrorKind::Unauthenticated);
        assert_eq!(refused(sign(&SignedSignal { to: device(2), ..signal(8) }, 8)), ErrorKind::Invalid);
    }

    #[tokio::test]
    async fn what_one_board_signs_another_takes() {
        let hub = SignalingHub::default();
        let make = |own: u8| {
            let carrier: Arc<dyn SignalCarrier> = Arc::new(MemoryCarrier::new(device(own), &hub));
            let board = Arc::new(SignalingRouter::new(key(own), network(), all_are(Standing::Known), vec![carrier]));
            tokio::spawn(board.clone().run());
            board
        };
        let (one, other) = (make(1), make(2));
        let mut received = other.receive();
        for number in 0..10u8 {
            one.send(device(2), session(1), Bytes::from(vec![number])).await.unwrap();
            let signal = received.next().await.unwrap();
            assert_eq!((signal.from, signal.payload.as_ref()), (device(1), &[number][..]));
        }
        let absent = one.send(device(5), session(1), Bytes::new()).await.unwrap_err();
        assert_eq!(absent.kind(), ErrorKind::Unreachable);
    }

    #[tokio::test]
    async fn what_waits_is_bounded() {
        let (board, mut received) = board(Standing::Unwelcome);
        for serial in 1..10 * WAITING as u64 {
            board.take(&sign(&SignedSignal { serial, ..signal(2) }, 2));
        }
        assert_eq!(all_now(&mut received), WAITING);
    }
}
