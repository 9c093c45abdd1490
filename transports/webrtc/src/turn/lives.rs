//! The client against a server that keeps nothing for longer than it has to, in hours of virtual time.

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::net::{IpAddr, SocketAddr};
    use std::time::{Duration, Instant};

    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};
    use rtc::crypto::RTCCryptoProvider;
    use rtc::stun::attributes::ATTR_USERNAME;
    use rtc::stun::error_code::{ErrorCode, ErrorCodeAttribute};
    use rtc::stun::xoraddr::XorMappedAddress;
    use rtc::turn::proto::relayaddr::RelayedAddress;

    use rtc::stun::attributes::{ATTR_NONCE, ATTR_REALM};
    use rtc::stun::integrity::MessageIntegrity;
    use rtc::stun::message::{
        CLASS_ERROR_RESPONSE, CLASS_INDICATION, CLASS_SUCCESS_RESPONSE, Getter, METHOD_ALLOCATE, METHOD_CHANNEL_BIND,
        METHOD_CREATE_PERMISSION, METHOD_REFRESH, Message, MessageType, Setter,
    };
    use rtc::stun::textattrs::TextAttribute;
    use rtc::turn::proto::channum::ChannelNumber;
    use rtc::turn::proto::lifetime::Lifetime;

    use super::super::client::{CHANNEL, Client, Credentials, Event, PERMISSION};
    use super::super::message;

    /// A TURN server that keeps nothing for longer than RFC 8656 says, behind a NAT that forgets after 30 s.
    struct Server {
        nonce_life: Duration,
        nonce: (u32, Instant),
        allocated: Option<Instant>,
        permissions: HashMap<IpAddr, Instant>,
        channels: HashMap<SocketAddr, (u16, Instant)>,
        heard: Option<Instant>,
        stale: u32,
        binds: u32,
    }

    const NAT: Duration = Duration::from_secs(30);
    const LIFETIME: Duration = Duration::from_secs(600);

    impl Server {
        fn new(nonce_life: Duration, now: Instant) -> Self {
            let (permissions, channels) = (HashMap::new(), HashMap::new());
            Self {
                nonce_life,
                nonce: (0, now),
                allocated: None,
                permissions,
                channels,
                heard: None,
                stale: 0,
                binds: 0,
            }
        }

        fn key() -> Vec<u8> {
            message::key("user", "realm", "pass").unwrap()
        }

        fn answer(
            &self,
            request: &Message,
            class: rtc::stun::message::MessageClass,
            more: Vec<Box<dyn Setter>>,
        ) -> Vec<u8> {
            let provider = message::provider();
            let mut parts: Vec<Box<dyn Setter + '_>> =
                vec![Box::new(request.transaction_id), Box::new(MessageType::new(request.typ.method, class))];
            parts.extend(more.into_iter().map(|part| part as Box<dyn Setter + '_>));
            if class == CLASS_SUCCESS_RESPONSE {
                let integrity = MessageIntegrity::new_raw_integrity_with_provider(Self::key(), provider.crypto());
                parts.push(Box::new(integrity));
            }
            message::build(&parts).unwrap()
        }

        fn error(&self, request: &Message, code: u16) -> Vec<u8> {
            let more: Vec<Box<dyn Setter>> = vec![
                Box::new(ErrorCodeAttribute { code: ErrorCode(code), reason: Vec::new() }),
                Box::new(TextAttribute::new(ATTR_REALM, "realm".into())),
                Box::new(TextAttribute::new(ATTR_NONCE, format!("nonce-{}", self.nonce.0))),
            ];
            self.answer(request, CLASS_ERROR_RESPONSE, more)
        }

        /// Takes a datagram; gives the answer, and what a peer gets.
        fn take(&mut self, bytes: &[u8], now: Instant) -> (Option<Vec<u8>>, Option<SocketAddr>) {
            // Behind a NAT that forgot, the client looks like another one: its allocation is as good as gone.
            if self.heard.is_some_and(|heard| now - heard > NAT) {
                self.allocated = None;
            }
            self.heard = Some(now);
            if now - self.nonce.1 >= self.nonce_life {
                self.nonce = (self.nonce.0 + 1, now);
            }
            let alive = self.allocated.is_some_and(|until| now < until);
            let permitted = |peer: &SocketAddr| self.permissions.get(&peer.ip()).is_some_and(|until| now < *until);
            if let Some((number, _)) = message::split_channel_data(bytes) {
                let bound = self.channels.iter().find(|(_, (known, until))| *known == number && now < *until);
                let peer = bound.map(|(peer, _)| *peer).filter(|peer| alive && permitted(peer));
                return (None, peer);
            }
            let mut request = message::read(bytes).unwrap();
            if request.typ.class == CLASS_INDICATION {
                return (None, message::peer(&request).filter(|peer| alive && permitted(peer)));
            }
            if !message::is_signed(&mut request, &Self::key()) {
                return (Some(self.error(&request, 401)), None);
            }
            assert_eq!(TextAttribute::get_from_as(&request, ATTR_USERNAME).unwrap().text, "user");
            if TextAttribute::get_from_as(&request, ATTR_NONCE).unwrap().text != format!("nonce-{}", self.nonce.0) {
                self.stale += 1;
                return (Some(self.error(&request, 438)), None);
            }
            if request.typ.method != METHOD_ALLOCATE && !alive {
                return (Some(self.error(&request, 437)), None);
            }
            let mut more: Vec<Box<dyn Setter>> = Vec::new();
            match request.typ.method {
                METHOD_ALLOCATE | METHOD_REFRESH => {
                    self.allocated = Some(now + LIFETIME);
                    more.push(Box::new(Lifetime(LIFETIME)));
                    more.push(Box::new(RelayedAddress { ip: [203, 0, 113, 1].into(), port: 50_000 }));
                    more.push(Box::new(XorMappedAddress { ip: [203, 0, 113, 2].into(), port: 40_000 }));
                }
                METHOD_CREATE_PERMISSION => {
                    let peer = message::peer(&request).unwrap();
                    self.permissions.insert(peer.ip(), now + PERMISSION);
                }
                METHOD_CHANNEL_BIND => {
                    let (peer, mut number) = (message::peer(&request).unwrap(), ChannelNumber::default());
                    number.get_from(&request).unwrap();
                    // RFC 8656 §12.2: another number for a bound peer is refused.
                    let other =
                        self.channels.get(&peer).is_some_and(|(known, until)| *known != number.0 && now < *until);
                    if other {
                        return (Some(self.error(&request, 400)), None);
                    }
                    self.binds += 1;
                    self.channels.insert(peer, (number.0, now + CHANNEL));
                    self.permissions.insert(peer.ip(), now + PERMISSION);
                }
                _ => return (Some(self.error(&request, 400)), None),
            }
            (Some(self.answer(&request, CLASS_SUCCESS_RESPONSE, more)), None)
        }
    }

    /// A client and a server, with loss on the way to the server and back.
    struct Lab {
        now: Instant,
        client: Client,
        server: Server,
        rng: StdRng,
        loss: f64,
        /// Datagrams that reached a peer.
        arrived: u64,
        events: Vec<Event>,
    }

    impl Lab {
        fn new(nonce_life: Duration, loss: f64, seed: u64) -> Self {
            let now = Instant::now();
            let client = Client::new(Credentials::new("user", "pass"), false, now);
            let server = Server::new(nonce_life, now);
            Self { now, client, server, rng: StdRng::seed_from_u64(seed), loss, arrived: 0, events: Vec::new() }
        }

        fn settle(&mut self) {
            loop {
                let mut quiet = true;
                while let Some(datagram) = self.client.transmit() {
                    quiet = false;
                    if self.rng.random_bool(self.loss) {
                        continue;
                    }
                    let (answer, peer) = self.server.take(&datagram, self.now);
                    self.arrived += u64::from(peer.is_some());
                    if let Some(answer) = answer.filter(|_| !self.rng.random_bool(self.loss)) {
                        self.client.handle(&answer, self.now);
                    }
                }
                while let Some(event) = self.client.event() {
                    quiet = false;
                    self.events.push(event);
                }
                if quiet {
                    return;
                }
            }
        }

        /// Lets the time go on; timers fire when they are due.
        fn pass(&mut self, time: Duration) {
            let end = self.now + time;
            loop {
                self.settle();
                let Some(next) = self.client.next_timeout().filter(|next| *next <= end) else {
                    self.now = end;
                    return;
                };
                self.now = next.max(self.now + Duration::from_millis(1));
                self.client.handle_timeout(self.now);
            }
        }

        fn begin(&mut self, peers: &[SocketAddr]) {
            self.client.allocate(self.now);
            self.pass(Duration::from_secs(20));
            for (peer, number) in peers.iter().zip(0x4000..) {
                self.client.permit(*peer, self.now);
                self.pass(Duration::from_secs(20));
                self.client.bind(*peer, number, self.now);
            }
            self.pass(Duration::from_secs(20));
            assert!(matches!(self.events[0], Event::Allocated(..)), "{:?}", self.events);
            self.events.clear();
        }

        fn failures(&self) -> Vec<&Event> {
            self.events.iter().filter(|e| matches!(e, Event::Failed(_) | Event::Permitted(_, Err(_)))).collect()
        }
    }

    fn peers() -> [SocketAddr; 2] {
        [SocketAddr::from(([198, 51, 100, 1], 1000)), SocketAddr::from(([198, 51, 100, 2], 2000))]
    }

    /// Six hours, one datagram a second: every one arrives, whatever the nonce's life is. The crate's client lost its
    /// relay at the first one that ended.
    #[test]
    fn a_relay_outlives_nonces_permissions_channels_and_allocations() {
        for nonce_life in [1, 15, 600, 3600] {
            let mut lab = Lab::new(Duration::from_secs(nonce_life), 0.0, 1);
            lab.begin(&peers());
            for second in 0..6 * 3600u64 {
                for peer in peers() {
                    lab.client.send(peer, b"data", lab.now);
                }
                lab.pass(Duration::from_secs(1));
                assert_eq!(lab.arrived, 2 * (second + 1), "nonce life {nonce_life} s, second {second}");
            }
            assert!(lab.server.stale > 0 && lab.server.binds > 2, "the nonce ended and channels were renewed");
            assert_eq!(lab.failures(), Vec::<&Event>::new());
        }
    }

    /// An allocation that nobody uses for a day is there when it is needed, although the NAT forgets after 30 s.
    #[test]
    fn an_idle_relay_keeps_its_place_in_the_nat() {
        let mut lab = Lab::new(Duration::from_secs(15), 0.0, 1);
        lab.begin(&peers());
        lab.pass(Duration::from_secs(24 * 3600));
        assert_eq!(lab.failures(), Vec::<&Event>::new());
        lab.client.send(peers()[1], b"data", lab.now);
        lab.settle();
        assert_eq!(lab.arrived, 1);
    }

    /// A tenth of all datagrams is lost: no more of the data is.
    #[test]
    fn loss_costs_what_is_lost_and_nothing_else() {
        for seed in 0..10 {
            let mut lab = Lab::new(Duration::from_secs(15), 0.1, seed);
            lab.begin(&peers());
            let seconds = 2 * 3600;
            for _ in 0..seconds {
                lab.client.send(peers()[0], b"data", lab.now);
                lab.pass(Duration::from_secs(1));
            }
            assert!(lab.arrived > seconds * 87 / 100, "seed {seed}: {} of {seconds}", lab.arrived);
            assert_eq!(lab.failures(), Vec::<&Event>::new(), "seed {seed}");
        }
    }

    /// What fell into a silence is asked for again, as long as the NAT keeps its mapping.
    #[test]
    fn a_silence_of_the_server_is_survived() {
        let mut lab = Lab::new(Duration::from_secs(15), 0.0, 1);
        lab.begin(&peers());
        for round in 0..200 {
            lab.pass(Duration::from_secs(90 + round % 7));
            lab.loss = 1.0;
            lab.pass(Duration::from_secs(9));
            lab.loss = 0.0;
        }
        lab.client.send(peers()[0], b"data", lab.now);
        lab.settle();
        assert_eq!((lab.arrived, lab.failures()), (1, Vec::new()));
    }

    #[test]
    fn a_wrong_password_and_a_silent_server_are_reported() {
        let mut lab = Lab::new(Duration::from_secs(15), 0.0, 1);
        lab.client = Client::new(Credentials::new("user", "wrong"), false, lab.now);
        lab.client.allocate(lab.now);
        lab.pass(Duration::from_secs(60));
        assert_eq!(lab.events, [Event::Failed(401)]);
        let mut lab = Lab::new(Duration::from_secs(15), 1.0, 1);
        lab.client.allocate(lab.now);
        lab.pass(Duration::from_secs(60));
        assert_eq!(lab.events, [Event::Failed(0)]);
    }

    #[test]
    fn what_is_released_is_gone_and_forged_answers_change_nothing() {
        let mut lab = Lab::new(Duration::from_secs(15), 0.0, 1);
        lab.begin(&peers());
        lab.pass(Duration::from_secs(60));
        // An answer without the key, to a request that runs.
        lab.client.permit("198.51.100.9:1".parse().unwrap(), lab.now);
        let request = message::read(&lab.client.transmit().unwrap()).unwrap();
        let parts: Vec<Box<dyn Setter>> = vec![
            Box::new(request.transaction_id),
            Box::new(MessageType::new(METHOD_CREATE_PERMISSION, CLASS_SUCCESS_RESPONSE)),
        ];
        lab.client.handle(&message::build(&parts).unwrap(), lab.now);
        assert_eq!(lab.client.event(), None);
        for noise in [&b""[..], &[0x40], &[0xff; 40], &[0; 20], &[0x40, 0, 0xff, 0xff, 1]] {
            lab.client.handle(noise, lab.now);
        }
        lab.client.release(lab.now);
        lab.settle();
        assert!(lab.client.is_released());
    }
}
