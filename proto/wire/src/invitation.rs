//! The invitation: who invites, where to dial, and a token that lets its bearer in. It is short, since people carry it.
//!
//! Nobody signs it. The handshake proves the device key and shows the certificate that binds it to the user, and the
//! token is worth something at the inviter alone.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::name::clean_name;
use crate::{Address, DecodeError, DeviceId, NetworkId, PublicKey, UserId, context, limits};

const WHAT: &str = "invitation";
const VERSION: u8 = 1;
/// Schemes with a number, from 0 on; [`OTHER`] stands for all others.
const SCHEMES: [&str; 2] = ["quic", "webrtc"];
const OTHER: u8 = 15;
/// How what stands behind an address's scheme is written.
const TEXT: u8 = 1;
const IPV4: u8 = 2;
const IPV6: u8 = 3;
/// The id of the inviting device.
const OWN_ID: u8 = 4;
/// Stands where an address would begin, before the name.
const NAME: u8 = 0;

/// What the inviter hands to the invited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invitation {
    /// The inviting user.
    pub user: UserId,
    /// The inviting device's key.
    pub key: [u8; 32],
    /// Shows the inviter that the bearer was invited.
    pub token: [u8; 16],
    /// When the inviter stops accepting it, in seconds since the Unix epoch.
    pub expires_at_s: u32,
    /// The first bytes of the network's id, so that most mistakes are noticed before anything is dialed.
    pub network: [u8; 2],
    /// Where the device can be reached, best first.
    pub addresses: Vec<Address>,
    /// What the inviter calls itself.
    pub name: String,
}

impl Invitation {
    /// The first bytes of a network's id, as they stand in an invitation.
    pub fn network_of(network: &NetworkId) -> [u8; 2] {
        let [first, second, ..] = *network.as_bytes();
        [first, second]
    }

    /// The inviting device's key.
    pub fn device_key(&self) -> PublicKey {
        PublicKey::ed25519(self.key)
    }

    /// The inviting device.
    pub fn device(&self) -> DeviceId {
        DeviceId::from_key(&self.device_key())
    }

    /// Its bytes.
    pub fn encode(&self) -> Bytes {
        let mut bytes = vec![VERSION];
        bytes.extend(self.user.as_bytes());
        bytes.extend(self.key);
        bytes.extend(self.token);
        bytes.extend(self.expires_at_s.to_be_bytes());
        bytes.extend(self.network);
        let device = self.device();
        self.addresses.iter().take(limits::ADDRESSES).for_each(|address| pack(address, &device, &mut bytes));
        if !self.name.is_empty() {
            bytes.push(NAME);
            bytes.extend(self.name.as_bytes());
        }
        bytes.extend(checksum(&bytes));
        bytes.into()
    }

    /// The same in at most `max_len` bytes: with as many addresses as fit, the best ones first, and with the name if that
    /// fits, too. Where not even one address fits, the first one stays, and it is longer.
    pub fn within(&self, max_len: usize) -> Self {
        let mut short = Self { addresses: Vec::new(), name: String::new(), ..self.clone() };
        for address in &self.addresses {
            short.addresses.push(address.clone());
            if short.encode().len() > max_len {
                short.addresses.pop();
            }
        }
        if short.addresses.is_empty() {
            short.addresses.extend(self.addresses.first().cloned());
        }
        let named = Self { name: self.name.clone(), ..short.clone() };
        if named.encode().len() <= max_len { named } else { short }
    }

    /// Decodes an invitation. Network and expiry are the caller's to check.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > limits::INVITATION {
            return Err(DecodeError::TooLong { what: WHAT, len: bytes.len(), max: limits::INVITATION });
        }
        let (mut rest, sum) = bytes.split_last_chunk().ok_or(MALFORMED)?;
        if checksum(rest) != *sum {
            return Err(DecodeError::invalid(WHAT, "its checksum is wrong"));
        }
        let [version] = take(&mut rest)?;
        if version != VERSION {
            return Err(DecodeError::UnsupportedVersion { what: WHAT, found: version.into() });
        }
        let mut invitation = Self {
            user: UserId::from_bytes(take(&mut rest)?),
            key: take(&mut rest)?,
            token: take(&mut rest)?,
            expires_at_s: u32::from_be_bytes(take(&mut rest)?),
            network: take(&mut rest)?,
            addresses: Vec::new(),
            name: String::new(),
        };
        let device = invitation.device();
        while let Some((first, after)) = rest.split_first() {
            rest = after;
            if *first == NAME {
                invitation.name = clean_name(std::str::from_utf8(rest).map_err(|_| MALFORMED)?);
                break;
            }
            if invitation.addresses.len() == limits::ADDRESSES {
                return Err(DecodeError::TooMany { what: WHAT, max: limits::ADDRESSES });
            }
            invitation.addresses.push(unpack(*first, &device, &mut rest)?);
        }
        Ok(invitation)
    }
}

const MALFORMED: DecodeError = DecodeError::Malformed { what: WHAT };

/// Notices what a person mistypes or a program cuts off.
fn checksum(bytes: &[u8]) -> [u8; 3] {
    let [a, b, c, ..] =
        <[u8; 32]>::from(Sha256::new().chain_update(context::INVITATION).chain_update(bytes).finalize());
    [a, b, c]
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], DecodeError> {
    let (taken, after) = rest.split_first_chunk().ok_or(MALFORMED)?;
    *rest = after;
    Ok(*taken)
}

/// Appends an address in its shortest form.
fn pack(address: &Address, device: &DeviceId, bytes: &mut Vec<u8>) {
    let (scheme, place) = match (0..).zip(SCHEMES).find(|(_, name)| *name == address.scheme()) {
        Some((number, _)) => (number, address.rest()),
        None => (OTHER, address.as_str()),
    };
    let first = |form: u8| 16 * scheme + form;
    let parsed = place.parse::<SocketAddr>().ok().filter(|_| scheme != OTHER);
    // Only what reads back as the same text is packed: an address with a zone doesn't, for instance.
    match parsed.filter(|parsed| SocketAddr::new(parsed.ip(), parsed.port()).to_string() == place) {
        Some(parsed) => {
            match parsed.ip() {
                IpAddr::V4(ip) => {
                    bytes.push(first(IPV4));
                    bytes.extend(ip.octets());
                }
                IpAddr::V6(ip) => {
                    bytes.push(first(IPV6));
                    bytes.extend(ip.octets());
                }
            }
            bytes.extend(parsed.port().to_be_bytes());
        }
        None if scheme != OTHER && place == device.to_string() => bytes.push(first(OWN_ID)),
        None => {
            // An address has at most 128 bytes.
            bytes.extend([first(TEXT), place.len() as u8]);
            bytes.extend(place.as_bytes());
        }
    }
}

fn unpack(first: u8, device: &DeviceId, rest: &mut &[u8]) -> Result<Address, DecodeError> {
    let ip_and_port = |ip: IpAddr, rest: &mut &[u8]| {
        Ok::<_, DecodeError>(SocketAddr::new(ip, u16::from_be_bytes(take(rest)?)).to_string())
    };
    let place = match first % 16 {
        TEXT => {
            let [len] = take(rest)?;
            let (text, after) = rest.split_at_checked(len.into()).ok_or(MALFORMED)?;
            *rest = after;
            std::str::from_utf8(text).map_err(|_| MALFORMED)?.to_owned()
        }
        IPV4 => ip_and_port(Ipv4Addr::from(take::<4>(rest)?).into(), rest)?,
        IPV6 => ip_and_port(Ipv6Addr::from(take::<16>(rest)?).into(), rest)?,
        OWN_ID => device.to_string(),
        _ => return Err(MALFORMED),
    };
    match SCHEMES.get(usize::from(first / 16)) {
        Some(scheme) => format!("{scheme}://{place}").parse(),
        None if first / 16 == OTHER => place.parse(),
        None => Err(MALFORMED),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FIXED: usize = 90;

    fn invitation(addresses: &[&str], name: &str) -> Invitation {
        Invitation {
            user: UserId::from_bytes([1; 32]),
            key: [2; 32],
            token: [3; 16],
            expires_at_s: 1_800_000_000,
            network: Invitation::network_of(&NetworkId::from_name("test")),
            addresses: addresses.iter().map(|address| address.parse().expect("an address")).collect(),
            name: name.into(),
        }
    }

    fn own_id() -> String {
        format!("webrtc://{}", invitation(&[], "").device())
    }

    #[test]
    fn usual_addresses_are_short_and_all_read_back_as_they_were() {
        let device = own_id();
        let long = format!("quic://{}", "x".repeat(limits::ADDRESS - 7));
        for (address, len) in [
            ("quic://192.0.2.1:4433", 7),
            ("quic://[2001:db8::1]:4433", 19),
            (&*device, 1),
            ("webrtc://192.0.2.1:1", 7),
            ("quic://host.example:4433", 2 + 17),
            ("tcp://192.0.2.1:1", 2 + 17),
            // What Rust writes another way, or what has more to it.
            ("quic://192.0.2.1:04433", 2 + 15),
            ("quic://[2001:DB8::1]:4433", 2 + 18),
            ("quic://[fe80::1%2]:4433", 2 + 16),
            (&*device.replace("webrtc", "other"), 2 + 8 + 52),
            (&*long, 2 + limits::ADDRESS - 7),
        ] {
            let invitation = invitation(&[address], "");
            assert_eq!(invitation.encode().len(), FIXED + len, "{address}");
            assert_eq!(Invitation::decode(&invitation.encode()), Ok(invitation), "{address}");
        }
        let full = invitation(&[&*long; limits::ADDRESSES], &"n".repeat(limits::NAME));
        assert!(full.encode().len() <= limits::INVITATION);
        assert_eq!(Invitation::decode(&full.encode()), Ok(full));
    }

    #[test]
    fn a_short_one_keeps_the_best_addresses_that_fit() {
        let device = own_id();
        let whole =
            invitation(&["quic://192.0.2.1:1", "quic://[2001:db8::1]:1", &device, "quic://192.0.2.2:1"], "alice");
        assert_eq!(whole.within(1000), whole);
        let short = whole.within(110);
        assert_eq!(short, invitation(&["quic://192.0.2.1:1", &device, "quic://192.0.2.2:1"], ""));
        assert_eq!(whole.within(FIXED + 1), invitation(&[&device], ""));
        // None fits: a code without an address is of little use.
        assert_eq!(whole.within(0), invitation(&["quic://192.0.2.1:1"], ""));
        let named = invitation(&["quic://192.0.2.1:1"], "alice");
        assert_eq!(named.within(FIXED + 7 + 6), named);
        assert_eq!(named.within(FIXED + 7 + 5).name, "");
    }

    #[test]
    fn what_is_no_invitation_is_refused() {
        let good = invitation(&["quic://192.0.2.1:1"], "alice").encode();
        let with_checksum = |bytes: &[u8]| Invitation::decode(&[bytes, &checksum(bytes)].concat());
        let body = &good[..good.len() - 3];
        assert!(with_checksum(body).is_ok());
        let newer = [&[2], &body[1..]].concat();
        assert_eq!(with_checksum(&newer), Err(DecodeError::UnsupportedVersion { what: WHAT, found: 2 }));
        let ends: [&[u8]; 9] = [
            &[0x01, 5, b'a'],
            &[0x02, 1, 2, 3],
            &[0x03],
            &[0x05],
            &[0x20],
            &[0xf1, 3, b'a', b'b', b'c'],
            &[0xf2, 1, 2, 3, 4, 0, 1],
            &[0xf4],
            &[0, 0xff],
        ];
        for end in ends {
            assert!(with_checksum(&[&body[..FIXED - 3], end].concat()).is_err(), "{end:?}");
        }
        for len in 0..FIXED - 3 {
            assert!(with_checksum(&body[..len]).is_err(), "{len}");
        }
        let many = [&body[..FIXED - 3], &[0x14; limits::ADDRESSES + 1]].concat();
        assert_eq!(with_checksum(&many), Err(DecodeError::TooMany { what: WHAT, max: limits::ADDRESSES }));
        assert!(matches!(Invitation::decode(&[0; limits::INVITATION + 1]), Err(DecodeError::TooLong { .. })));
        // A name is made safe to show.
        let hostile = [&body[..FIXED - 3], &[0], "al\u{202e}ice\u{1b}".as_bytes()].concat();
        assert_eq!(with_checksum(&hostile).expect("a good one").name, "alice");
    }

    fn address() -> impl Strategy<Value = String> {
        let scheme = || prop_oneof![Just("quic"), Just("webrtc"), Just("tcp")];
        prop_oneof![
            (scheme(), any::<[u8; 4]>(), any::<u16>())
                .prop_map(|(scheme, ip, port)| format!("{scheme}://{}:{port}", Ipv4Addr::from(ip))),
            (scheme(), any::<[u8; 16]>(), any::<u16>())
                .prop_map(|(scheme, ip, port)| format!("{scheme}://[{}]:{port}", Ipv6Addr::from(ip))),
            (scheme(), "[!-~]{1,60}").prop_map(|(scheme, rest)| format!("{scheme}://{rest}")),
            Just(own_id()),
        ]
    }

    fn any_invitation() -> impl Strategy<Value = Invitation> {
        let addresses = prop::collection::vec(address(), 0..=limits::ADDRESSES);
        (any::<[u8; 32]>(), any::<[u8; 16]>(), any::<u32>(), any::<[u8; 2]>(), addresses, any::<String>()).prop_map(
            |(user, token, expires_at_s, network, addresses, name)| {
                let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
                let user = UserId::from_bytes(user);
                Invitation { user, token, expires_at_s, network, ..invitation(&addresses, &clean_name(&name)) }
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(invitation in any_invitation(), max in 0usize..300) {
            prop_assert_eq!(Invitation::decode(&invitation.encode()), Ok(invitation.clone()));
            let short = invitation.within(max);
            prop_assert_eq!(Invitation::decode(&short.encode()), Ok(short.clone()));
            prop_assert!(short.encode().len() <= max.max(FIXED) || short.addresses.len() == 1 && short.name.is_empty());
        }

        /// Changed by accident it is refused; by an attacker that corrects the checksum, it is another invitation at most.
        #[test]
        fn every_changed_byte_is_noticed(invitation in any_invitation(), value in 1u8..) {
            let bytes = invitation.encode();
            for at in 0..bytes.len() {
                let mut changed = bytes.to_vec();
                changed[at] ^= value;
                prop_assert!(Invitation::decode(&changed).is_err(), "{}", at);
                changed.truncate(bytes.len() - 3);
                changed.extend(checksum(&changed));
                if at < bytes.len() - 3 && let Ok(other) = Invitation::decode(&changed) {
                    // A name's characters may be among those that are left out.
                    let in_name = !invitation.name.is_empty() && at >= bytes.len() - 3 - invitation.name.len();
                    prop_assert!(other != invitation || in_name, "{}", at);
                }
            }
        }
    }
}
