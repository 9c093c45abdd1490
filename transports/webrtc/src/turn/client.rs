//! One allocation on a TURN server, as a machine without I/O (RFC 8656).
//!
//! Whatever lives shorter than a link is renewed in good time: the allocation, permissions, channels, the NAT's mapping.
//! A request that the server answers with 438 (Stale Nonce) goes out again with the new nonce and is otherwise the same
//! (RFC 8489 §9.2.5); one that gets no answer goes out again later, as long as there is something to renew.
//!
//! Calls: `allocate` first; then `permit`, `bind` and `send` in any order. After each call, and after `handle` and
//! `handle_timeout`, take what `transmit` and `event` give until they give nothing.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rtc::crypto::RTCCryptoProvider;
use rtc::stun::attributes::{ATTR_NONCE, ATTR_REALM, ATTR_USERNAME};
use rtc::stun::fingerprint::FINGERPRINT;
use rtc::stun::integrity::MessageIntegrity;
use rtc::stun::message::{
    CLASS_ERROR_RESPONSE, CLASS_INDICATION, CLASS_REQUEST, CLASS_SUCCESS_RESPONSE, Getter, METHOD_ALLOCATE,
    METHOD_BINDING, METHOD_CHANNEL_BIND, METHOD_CREATE_PERMISSION, METHOD_DATA, METHOD_REFRESH, METHOD_SEND, Message,
    MessageType, Method, Setter, TransactionId,
};
use rtc::stun::textattrs::TextAttribute;
use rtc::turn::proto::PROTO_UDP;
use rtc::turn::proto::channum::ChannelNumber;
use rtc::turn::proto::data::Data;
use rtc::turn::proto::lifetime::Lifetime;
use rtc::turn::proto::peeraddr::PeerAddress;
use rtc::turn::proto::reqtrans::RequestedTransport;

use super::message;

/// What a server keeps without being asked again, and when it is asked: permissions (RFC 8656 §9), channels (§12).
pub(super) const PERMISSION: Duration = Duration::from_secs(300);
const PERMISSION_RENEWAL: Duration = Duration::from_secs(120);
pub(super) const CHANNEL: Duration = Duration::from_secs(600);
const CHANNEL_RENEWAL: Duration = Duration::from_secs(240);
/// How often something goes to the server, so that NATs keep their mapping, with one lost: some forget it after 30 s.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// The wait for an answer, which doubles, and how often a request goes out (RFC 8489 §6.2.1).
const WAIT: Duration = Duration::from_millis(250);
const TRIES: u32 = 7;
/// The same over TCP, which repeats by itself: one long wait.
const WAIT_TCP: Duration = Duration::from_secs(30);
/// How soon a renewal that failed is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// Nonces that one request may be answered with.
const NONCES: u32 = 4;
/// Peers with a permission; channels.
const PEERS: usize = 256;

/// Who asks.
pub(super) struct Credentials {
    username: String,
    password: String,
    realm: String,
    nonce: Option<String>,
    key: Vec<u8>,
}

impl Credentials {
    pub(super) fn new(username: &str, password: &str) -> Self {
        let (username, password) = (username.into(), password.into());
        Self { username, password, realm: String::new(), nonce: None, key: Vec::new() }
    }
}

/// What became of something.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The allocation is there: the relay's address, and ours as the server sees it.
    Allocated(SocketAddr, SocketAddr),
    /// There is none, or none any more; with the server's code, 0 for silence.
    Failed(u16),
    /// A peer may send and be sent to; or not, with the server's code.
    Permitted(SocketAddr, Result<(), u16>),
    /// A peer sent something.
    Data(SocketAddr, Vec<u8>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Request {
    Allocate,
    Refresh(Duration),
    Permit(SocketAddr),
    Bind(SocketAddr, u16),
}

struct Transaction {
    request: Request,
    bytes: Vec<u8>,
    next: Instant,
    wait: Duration,
    tries: u32,
    nonces: u32,
}

/// Something that the server keeps for a while.
#[derive(Clone, Copy)]
struct Kept {
    renew: Instant,
    until: Instant,
    /// The server has confirmed it.
    there: bool,
}

impl Kept {
    fn asked_for(now: Instant) -> Self {
        // Nothing to renew before the server has confirmed it.
        Self { renew: now + Duration::from_secs(60), until: now, there: false }
    }

    fn confirmed(now: Instant, renewal: Duration, lifetime: Duration) -> Self {
        Self { renew: now + renewal, until: now + lifetime, there: true }
    }

    fn stands(&self, now: Instant) -> bool {
        self.there && now < self.until
    }
}

/// The machine.
pub(super) struct Client {
    credentials: Credentials,
    over_tcp: bool,
    allocation: Option<Kept>,
    permissions: HashMap<IpAddr, Kept>,
    channels: HashMap<SocketAddr, (u16, Kept)>,
    running: HashMap<[u8; 12], Transaction>,
    out: VecDeque<Vec<u8>>,
    events: VecDeque<Event>,
    sent: Instant,
    released: bool,
}

impl Client {
    pub(super) fn new(credentials: Credentials, over_tcp: bool, now: Instant) -> Self {
        Self {
            credentials,
            over_tcp,
            allocation: None,
            permissions: HashMap::new(),
            channels: HashMap::new(),
            running: HashMap::new(),
            out: VecDeque::new(),
            events: VecDeque::new(),
            sent: now,
            released: false,
        }
    }

    /// A datagram for the server.
    pub(super) fn transmit(&mut self) -> Option<Vec<u8>> {
        self.out.pop_front()
    }

    /// What happened.
    pub(super) fn event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether the server has confirmed that the allocation is gone.
    pub(super) fn is_released(&self) -> bool {
        self.released
    }

    /// Asks for a relay.
    pub(super) fn allocate(&mut self, now: Instant) {
        self.begin(Request::Allocate, now);
    }

    /// Gives the allocation back.
    pub(super) fn release(&mut self, now: Instant) {
        self.running.clear();
        match self.allocation.take() {
            Some(_) => self.begin(Request::Refresh(Duration::ZERO), now),
            None => self.released = true,
        }
    }

    /// Lets a peer send, and be sent to.
    pub(super) fn permit(&mut self, peer: SocketAddr, now: Instant) {
        match self.permissions.get(&peer.ip()) {
            Some(kept) if kept.stands(now) => self.events.push_back(Event::Permitted(peer, Ok(()))),
            None if self.permissions.len() >= PEERS => self.events.push_back(Event::Permitted(peer, Err(486))),
            _ => {
                self.permissions.insert(peer.ip(), Kept::asked_for(now));
                self.begin(Request::Permit(peer), now);
            }
        }
    }

    /// Gives a peer a channel, which takes less room than what goes without one. Its number stays.
    pub(super) fn bind(&mut self, peer: SocketAddr, number: u16, now: Instant) {
        let taken = self.channels.values().any(|(known, _)| *known == number);
        if !self.channels.contains_key(&peer) && !taken && self.channels.len() < PEERS {
            self.channels.insert(peer, (number, Kept::asked_for(now)));
            self.begin(Request::Bind(peer, number), now);
        }
    }

    /// Sends to a peer that has a permission.
    pub(super) fn send(&mut self, peer: SocketAddr, data: &[u8], now: Instant) {
        let channel = self.channels.get(&peer).filter(|(_, kept)| kept.stands(now)).map(|(number, _)| *number);
        let bytes = match channel {
            Some(number) => Some(message::channel_data(number, data)),
            None => message::build(&[
                Box::new(TransactionId::new()),
                Box::new(MessageType::new(METHOD_SEND, CLASS_INDICATION)),
                Box::new(PeerAddress { ip: peer.ip(), port: peer.port() }),
                Box::new(Data(data.to_vec())),
                Box::new(FINGERPRINT),
            ]),
        };
        if let Some(bytes) = bytes {
            self.push(bytes, now);
        }
    }

    fn push(&mut self, bytes: Vec<u8>, now: Instant) {
        self.sent = now;
        self.out.push_back(bytes);
    }

    fn begin(&mut self, request: Request, now: Instant) {
        if !self.running.values().any(|running| running.request == request) {
            self.ask(request, 0, now);
        }
    }

    /// Sends a request, with the nonce that is known.
    fn ask(&mut self, request: Request, nonces: u32, now: Instant) {
        let id = TransactionId::new();
        let Some(bytes) = self.encode(request, id) else { return };
        let (wait, tries) = if self.over_tcp { (WAIT_TCP, TRIES) } else { (WAIT, 1) };
        let transaction = Transaction { request, bytes: bytes.clone(), next: now + wait, wait, tries, nonces };
        self.running.insert(id.0, transaction);
        self.push(bytes, now);
    }

    fn encode(&self, request: Request, id: TransactionId) -> Option<Vec<u8>> {
        let provider = message::provider();
        let kind = |method: Method| MessageType::new(method, CLASS_REQUEST);
        let of_peer = |peer: SocketAddr| PeerAddress { ip: peer.ip(), port: peer.port() };
        let mut parts: Vec<Box<dyn Setter + '_>> = vec![Box::new(id)];
        match request {
            Request::Allocate => {
                parts.push(Box::new(kind(METHOD_ALLOCATE)));
                parts.push(Box::new(RequestedTransport { protocol: PROTO_UDP }));
            }
            Request::Refresh(lifetime) => {
                parts.push(Box::new(kind(METHOD_REFRESH)));
                parts.push(Box::new(Lifetime(lifetime)));
            }
            Request::Permit(peer) => {
                parts.push(Box::new(kind(METHOD_CREATE_PERMISSION)));
                parts.push(Box::new(of_peer(peer)));
            }
            Request::Bind(peer, number) => {
                parts.push(Box::new(kind(METHOD_CHANNEL_BIND)));
                parts.push(Box::new(ChannelNumber(number)));
                parts.push(Box::new(of_peer(peer)));
            }
        }
        let text = |kind, text: &str| Box::new(TextAttribute::new(kind, text.into()));
        if let Some(nonce) = &self.credentials.nonce {
            parts.push(text(ATTR_USERNAME, &self.credentials.username));
            parts.push(text(ATTR_REALM, &self.credentials.realm));
            parts.push(text(ATTR_NONCE, nonce));
            let key = self.credentials.key.clone();
            parts.push(Box::new(MessageIntegrity::new_raw_integrity_with_provider(key, provider.crypto())));
        }
        parts.push(Box::new(FINGERPRINT));
        message::build(&parts)
    }

    /// Takes a datagram of the server.
    pub(super) fn handle(&mut self, bytes: &[u8], now: Instant) {
        if let Some((number, data)) = message::split_channel_data(bytes) {
            let peer = self.channels.iter().find(|(_, (known, _))| *known == number).map(|(peer, _)| *peer);
            if let Some(peer) = peer {
                self.events.push_back(Event::Data(peer, data.to_vec()));
            }
            return;
        }
        let Some(mut answer) = message::read(bytes) else { return };
        if answer.typ == MessageType::new(METHOD_DATA, CLASS_INDICATION) {
            let mut data = Data::default();
            if let (Some(peer), Ok(())) = (message::peer(&answer), data.get_from(&answer)) {
                self.events.push_back(Event::Data(peer, data.0));
            }
            return;
        }
        let Some(transaction) = self.running.get(&answer.transaction_id.0) else { return };
        let (request, nonces) = (transaction.request, transaction.nonces);
        let success = answer.typ.class == CLASS_SUCCESS_RESPONSE;
        if !success && answer.typ.class != CLASS_ERROR_RESPONSE {
            return;
        }
        // Only the server knows the key (RFC 8489 §9.2.5); a forged answer is as good as none.
        if success && !message::is_signed(&mut answer, &self.credentials.key) {
            return;
        }
        self.running.remove(&answer.transaction_id.0);
        if success {
            return self.succeeded(request, &answer, now);
        }
        let code = message::error_code(&answer);
        if matches!(code, 401 | 438) && nonces < NONCES && self.learn(&answer, code) {
            return self.ask(request, nonces + 1, now);
        }
        self.failed(request, code, now);
    }

    /// Takes the server's realm and nonce. With 401, a second one says that the password is wrong.
    fn learn(&mut self, answer: &Message, code: u16) -> bool {
        let text = |kind| TextAttribute::get_from_as(answer, kind).ok().map(|attribute| attribute.text);
        let credentials = &mut self.credentials;
        if code == 401 && credentials.nonce.is_some() && text(ATTR_NONCE) == credentials.nonce {
            return false;
        }
        let Some(nonce) = text(ATTR_NONCE) else { return false };
        if let Some(realm) = text(ATTR_REALM).filter(|realm| *realm != credentials.realm || credentials.key.is_empty())
        {
            let Some(key) = message::key(&credentials.username, &realm, &credentials.password) else { return false };
            (credentials.realm, credentials.key) = (realm, key);
        }
        credentials.nonce = Some(nonce);
        !credentials.key.is_empty()
    }

    fn succeeded(&mut self, request: Request, answer: &Message, now: Instant) {
        match request {
            Request::Allocate | Request::Refresh(_) => {
                let mut lifetime = Lifetime::default();
                let known = lifetime.get_from(answer).is_ok();
                if request == Request::Refresh(Duration::ZERO) {
                    self.released = true;
                    return;
                }
                let lifetime = if known { lifetime.0 } else { Duration::from_secs(600) };
                // Twice before its end at least: one refresh may be lost.
                let renewal = (lifetime / 3).max(Duration::from_secs(1));
                self.allocation = Some(Kept::confirmed(now, renewal, lifetime));
                if request == Request::Allocate {
                    match message::allocated(answer) {
                        Some((relayed, mapped)) => self.events.push_back(Event::Allocated(relayed, mapped)),
                        None => self.failed(request, 0, now),
                    }
                }
            }
            Request::Permit(peer) => {
                self.permissions.insert(peer.ip(), Kept::confirmed(now, PERMISSION_RENEWAL, PERMISSION));
                self.events.push_back(Event::Permitted(peer, Ok(())));
            }
            Request::Bind(peer, number) => {
                self.channels.insert(peer, (number, Kept::confirmed(now, CHANNEL_RENEWAL, CHANNEL)));
            }
        }
    }

    fn failed(&mut self, request: Request, code: u16, now: Instant) {
        match request {
            Request::Allocate => self.events.push_back(Event::Failed(code)),
            Request::Refresh(Duration::ZERO) => self.released = true,
            Request::Refresh(_) => match &mut self.allocation {
                // 437: the server doesn't know it, or knows it as another client's.
                Some(kept) if code != 437 && now < kept.until => kept.renew = now + AGAIN,
                _ => {
                    self.allocation = None;
                    self.permissions.clear();
                    self.channels.clear();
                    self.events.push_back(Event::Failed(code));
                }
            },
            Request::Permit(peer) => match self.permissions.get_mut(&peer.ip()) {
                Some(kept) if kept.stands(now) => kept.renew = now + AGAIN,
                _ => {
                    self.permissions.remove(&peer.ip());
                    self.events.push_back(Event::Permitted(peer, Err(code)));
                }
            },
            // Without a channel, data goes by indications.
            Request::Bind(peer, _) => {
                if let Some((_, kept)) = self.channels.get_mut(&peer) {
                    kept.renew = now + AGAIN;
                }
            }
        }
    }

    /// When [`handle_timeout`](Client::handle_timeout) is to be called; `None`: when something else has happened.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let running = self.running.values().map(|transaction| transaction.next);
        let kept =
            self.allocation.iter().chain(self.permissions.values()).chain(self.channels.values().map(|(_, kept)| kept));
        let keep_alive = self.allocation.map(|_| self.sent + KEEP_ALIVE);
        running.chain(kept.map(|kept| kept.renew)).chain(keep_alive).min()
    }

    /// Repeats and renews what is due.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        let due: Vec<[u8; 12]> = self.running.iter().filter(|(_, t)| t.next <= now).map(|(id, _)| *id).collect();
        for id in due {
            let Some(transaction) = self.running.get_mut(&id) else { continue };
            if transaction.tries < TRIES {
                transaction.tries += 1;
                transaction.wait *= 2;
                transaction.next = now + transaction.wait;
                let bytes = transaction.bytes.clone();
                self.push(bytes, now);
            } else if let Some(transaction) = self.running.remove(&id) {
                self.failed(transaction.request, 0, now);
            }
        }
        self.renew(now);
        if self.allocation.is_some() && self.sent + KEEP_ALIVE <= now {
            let indication = MessageType::new(METHOD_BINDING, CLASS_INDICATION);
            let bytes = message::build(&[Box::new(TransactionId::new()), Box::new(indication), Box::new(FINGERPRINT)]);
            bytes.into_iter().for_each(|bytes| self.push(bytes, now));
        }
    }

    fn renew(&mut self, now: Instant) {
        // Whatever comes of it, it isn't asked for again before this.
        let later = now + Duration::from_secs(60);
        let mut requests = Vec::new();
        if let Some(kept) = self.allocation.as_mut().filter(|kept| kept.renew <= now) {
            kept.renew = later;
            requests.push(Request::Refresh(Duration::from_secs(600)));
        }
        for (ip, kept) in self.permissions.iter_mut().filter(|(_, kept)| kept.renew <= now) {
            kept.renew = later;
            requests.push(Request::Permit(SocketAddr::new(*ip, 0)));
        }
        for (peer, (number, kept)) in self.channels.iter_mut().filter(|(_, (_, kept))| kept.renew <= now) {
            kept.renew = later;
            requests.push(Request::Bind(*peer, *number));
        }
        requests.into_iter().for_each(|request| self.begin(request, now));
    }
}
