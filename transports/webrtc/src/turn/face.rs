//! The TURN server that the `webrtc` crate's client sees: it knows one user, and its nonce never ends.
//!
//! What the client asks for, the true server is asked for; what it renews stands already.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rtc::crypto::RTCCryptoProvider;
use rtc::stun::attributes::{ATTR_NONCE, ATTR_REALM, ATTR_XOR_PEER_ADDRESS};
use rtc::stun::error_code::{ErrorCode, ErrorCodeAttribute};
use rtc::stun::fingerprint::FINGERPRINT;
use rtc::stun::integrity::MessageIntegrity;
use rtc::stun::message::{
    CLASS_ERROR_RESPONSE, CLASS_INDICATION, CLASS_REQUEST, CLASS_SUCCESS_RESPONSE, Getter, METHOD_ALLOCATE,
    METHOD_CHANNEL_BIND, METHOD_CREATE_PERMISSION, METHOD_DATA, METHOD_REFRESH, METHOD_SEND, Message, MessageType,
    Method, Setter, TransactionId,
};
use rtc::stun::textattrs::TextAttribute;
use rtc::stun::xoraddr::XorMappedAddress;
use rtc::turn::proto::channum::ChannelNumber;
use rtc::turn::proto::data::Data;
use rtc::turn::proto::lifetime::Lifetime;
use rtc::turn::proto::peeraddr::PeerAddress;
use rtc::turn::proto::relayaddr::RelayedAddress;

use super::client::{Client, Event};
use super::message;

const USER: &str = "own";
const REALM: &str = "peerloom";
const NONCE: &str = "lasting";
/// What the client is granted: it refreshes it twice a day, for nothing.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// What is the same for all allocations of a relay.
pub(super) struct Face {
    password: String,
    key: Vec<u8>,
}

/// What to do with a datagram of an unknown client.
pub(super) enum Ask {
    /// It asks for an allocation and knows the password.
    Welcome,
    Answer(Vec<u8>),
    Nothing,
}

impl Face {
    /// With a random password.
    pub(super) fn new() -> io::Result<Self> {
        let random: [u8; 16] = peerloom_crypto_primitives::random().map_err(io::Error::other)?;
        let password = data_encoding::HEXLOWER.encode(&random);
        let key = message::key(USER, REALM, &password).ok_or_else(|| io::Error::other("no key can be made"))?;
        Ok(Self { password, key })
    }

    pub(super) fn credentials(&self) -> (String, String) {
        (USER.into(), self.password.clone())
    }

    pub(super) fn greet(&self, datagram: &[u8]) -> Ask {
        let Some(mut request) = message::read(datagram) else { return Ask::Nothing };
        if request.typ != MessageType::new(METHOD_ALLOCATE, CLASS_REQUEST) {
            return Ask::Nothing;
        }
        if message::is_signed(&mut request, &self.key) {
            return Ask::Welcome;
        }
        let text = |kind, text: &str| Box::new(TextAttribute::new(kind, text.into()));
        let answer = self.error(&request, 401, vec![text(ATTR_REALM, REALM), text(ATTR_NONCE, NONCE)]);
        answer.map_or(Ask::Nothing, Ask::Answer)
    }

    fn error(&self, request: &Message, code: u16, more: Vec<Box<dyn Setter + '_>>) -> Option<Vec<u8>> {
        let mut parts: Vec<Box<dyn Setter + '_>> = vec![
            Box::new(request.transaction_id),
            Box::new(MessageType::new(request.typ.method, CLASS_ERROR_RESPONSE)),
            Box::new(ErrorCodeAttribute { code: ErrorCode(code), reason: Vec::new() }),
        ];
        parts.extend(more);
        message::build(&parts)
    }

    fn success(&self, id: TransactionId, method: Method, more: Vec<Box<dyn Setter + '_>>) -> Option<Vec<u8>> {
        let provider = message::provider();
        let mut parts: Vec<Box<dyn Setter + '_>> =
            vec![Box::new(id), Box::new(MessageType::new(method, CLASS_SUCCESS_RESPONSE))];
        parts.extend(more);
        parts.push(Box::new(MessageIntegrity::new_raw_integrity_with_provider(self.key.clone(), provider.crypto())));
        message::build(&parts)
    }
}

/// One client and its allocation.
pub(super) struct Session {
    face: Arc<Face>,
    /// The request for the allocation, and what came of it.
    asked: Option<Message>,
    allocated: Option<(SocketAddr, SocketAddr)>,
    /// Requests for permissions that wait for the server.
    waiting: HashMap<SocketAddr, Message>,
    /// The client's channels.
    peers: HashMap<u16, SocketAddr>,
    numbers: HashMap<SocketAddr, u16>,
}

impl Session {
    pub(super) fn new(face: Arc<Face>) -> Self {
        let (waiting, peers, numbers) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { face, asked: None, allocated: None, waiting, peers, numbers }
    }

    /// The relay's address; an unspecified one before there is one.
    pub(super) fn relayed(&self) -> SocketAddr {
        self.allocated.map_or(SocketAddr::from(([0, 0, 0, 0], 0)), |(relayed, _)| relayed)
    }

    /// Takes a datagram of the client; gives the answer to it, if there is one now. `may` says whether data may go to
    /// a peer.
    pub(super) fn on_datagram(
        &mut self,
        datagram: &[u8],
        client: &mut Client,
        may: impl Fn(SocketAddr, SocketAddr, &[u8], Instant) -> bool,
        now: Instant,
    ) -> Option<Vec<u8>> {
        if let Some((number, data)) = message::split_channel_data(datagram) {
            let peer = *self.peers.get(&number)?;
            if may(self.relayed(), peer, data, now) {
                client.send(peer, data, now);
            }
            return None;
        }
        let mut request = message::read(datagram)?;
        if request.typ == MessageType::new(METHOD_SEND, CLASS_INDICATION) {
            let mut data = Data::default();
            data.get_from(&request).ok()?;
            let peer = message::peer(&request)?;
            if may(self.relayed(), peer, &data.0, now) {
                client.send(peer, &data.0, now);
            }
            return None;
        }
        if request.typ.class != CLASS_REQUEST || !message::is_signed(&mut request, &self.face.key) {
            return None;
        }
        self.on_request(request, client, now)
    }

    fn on_request(&mut self, request: Message, client: &mut Client, now: Instant) -> Option<Vec<u8>> {
        let (id, method) = (request.transaction_id, request.typ.method);
        match method {
            METHOD_ALLOCATE => {
                if self.asked.is_none() {
                    client.allocate(now);
                }
                self.asked = Some(request);
                self.allocated.and_then(|allocated| self.allocation(allocated))
            }
            METHOD_REFRESH => {
                let mut lifetime = Lifetime::default();
                if lifetime.get_from(&request).is_ok() && lifetime.0.is_zero() {
                    client.release(now);
                }
                let granted = if lifetime.0.is_zero() { Duration::ZERO } else { LIFETIME };
                self.face.success(id, method, vec![Box::new(Lifetime(granted))])
            }
            METHOD_CREATE_PERMISSION => {
                let peers = message::addresses(&request, ATTR_XOR_PEER_ADDRESS);
                // One is asked for the first time; several are renewed, which is done already.
                let [peer] = peers[..] else { return self.face.success(id, method, Vec::new()) };
                if self.waiting.insert(peer, request).is_none() {
                    client.permit(peer, now);
                }
                None
            }
            METHOD_CHANNEL_BIND => {
                let mut number = ChannelNumber::default();
                number.get_from(&request).ok()?;
                let peer = message::peer(&request)?;
                client.bind(peer, number.0, now);
                self.peers.insert(number.0, peer);
                self.numbers.insert(peer, number.0);
                self.face.success(id, method, Vec::new())
            }
            _ => self.face.error(&request, 400, Vec::new()),
        }
    }

    fn allocation(&self, (relayed, mapped): (SocketAddr, SocketAddr)) -> Option<Vec<u8>> {
        let id = self.asked.as_ref()?.transaction_id;
        let parts: Vec<Box<dyn Setter>> = vec![
            Box::new(RelayedAddress { ip: relayed.ip(), port: relayed.port() }),
            Box::new(XorMappedAddress { ip: mapped.ip(), port: mapped.port() }),
            Box::new(Lifetime(LIFETIME)),
        ];
        self.face.success(id, METHOD_ALLOCATE, parts)
    }

    /// What the client hears of an event.
    pub(super) fn on_event(&mut self, event: Event) -> Option<Vec<u8>> {
        match event {
            Event::Allocated(relayed, mapped) => {
                self.allocated = Some((relayed, mapped));
                self.allocation((relayed, mapped))
            }
            // One that is lost later can't be told: the link falls silent, and is made again.
            Event::Failed(code) if self.allocated.is_none() => {
                self.face.error(self.asked.as_ref()?, if code == 0 { 508 } else { code }, Vec::new())
            }
            Event::Failed(_) => None,
            Event::Permitted(peer, permitted) => {
                let request = self.waiting.remove(&peer)?;
                match permitted {
                    Ok(()) => self.face.success(request.transaction_id, request.typ.method, Vec::new()),
                    Err(code) => self.face.error(&request, if code == 0 { 508 } else { code }, Vec::new()),
                }
            }
            Event::Data(peer, data) => match self.numbers.get(&peer) {
                Some(number) => Some(message::channel_data(*number, &data)),
                None => message::build(&[
                    Box::new(TransactionId::new()),
                    Box::new(MessageType::new(METHOD_DATA, CLASS_INDICATION)),
                    Box::new(PeerAddress { ip: peer.ip(), port: peer.port() }),
                    Box::new(Data(data)),
                    Box::new(FINGERPRINT),
                ]),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allocate(key: Option<&[u8]>) -> Vec<u8> {
        let provider = message::provider();
        let mut parts: Vec<Box<dyn Setter + '_>> =
            vec![Box::new(TransactionId::new()), Box::new(MessageType::new(METHOD_ALLOCATE, CLASS_REQUEST))];
        if let Some(key) = key {
            parts.push(Box::new(MessageIntegrity::new_raw_integrity_with_provider(key, provider.crypto())));
        }
        message::build(&parts).unwrap()
    }

    #[test]
    fn only_its_own_client_gets_a_relay() {
        let (face, other) = (Face::new().unwrap(), Face::new().unwrap());
        for unknown in [allocate(None), allocate(Some(&other.key))] {
            let Ask::Answer(answer) = face.greet(&unknown) else { panic!("it is asked for the password") };
            assert_eq!(message::error_code(&message::read(&answer).unwrap()), 401);
        }
        assert!(matches!(face.greet(&allocate(Some(&face.key))), Ask::Welcome));
        for noise in [&b""[..], b"GET / HTTP/1.1", &[0x40, 0, 0, 1, 7], &[0; 20]] {
            assert!(matches!(face.greet(noise), Ask::Nothing));
        }
    }

    /// What goes to a peer over the relay has to pass the guard, in both framings.
    #[test]
    fn nothing_passes_the_guard() {
        let now = Instant::now();
        let face = Arc::new(Face::new().unwrap());
        let mut session = Session::new(face);
        let mut client = Client::new(super::super::client::Credentials::new("u", "p"), false, now);
        let peer = SocketAddr::from(([192, 0, 2, 1], 7));
        session.peers.insert(0x4000, peer);
        let indication = message::build(&[
            Box::new(TransactionId::new()),
            Box::new(MessageType::new(METHOD_SEND, CLASS_INDICATION)),
            Box::new(PeerAddress { ip: peer.ip(), port: peer.port() }),
            Box::new(Data(b"data".to_vec())),
        ]);
        for datagram in [indication.unwrap(), message::channel_data(0x4000, b"data")] {
            for allowed in [false, true] {
                session.on_datagram(
                    &datagram,
                    &mut client,
                    |_, to, data, _| allowed && to == peer && data == b"data",
                    now,
                );
                assert_eq!(client.transmit().is_some(), allowed);
            }
        }
    }
}
