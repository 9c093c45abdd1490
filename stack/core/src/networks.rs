//! IP networks that may be one client's, for whatever counts by address.

use std::net::IpAddr;

/// An IP network: its lowest address, and how many bits its addresses have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network(IpAddr, u8);

/// What one client may have all of, in bits, and how many times the share of one address it gets. Sites get
/// from a /64 to a /48 (RFC 6177); a larger one may stand for many clients.
const V4: &[(u8, u32)] = &[(32, 1)];
const V6: &[(u8, u32)] = &[(64, 1), (56, 4), (48, 16)];

/// The networks whose shares a client at this address uses, each with how many times the share of one address it
/// has: at least 1. The smallest comes first.
pub fn networks(ip: IpAddr) -> Vec<(Network, u32)> {
    match ip.to_canonical() {
        IpAddr::V4(v4) => V4.iter().map(|(bits, times)| (Network(v4.into(), *bits), *times)).collect(),
        IpAddr::V6(v6) => {
            let lowest = |bits: u8| v6.to_bits() & (u128::MAX << (128 - bits));
            V6.iter().map(|(bits, times)| (Network(IpAddr::V6(lowest(*bits).into()), *bits), *times)).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_belongs_to_every_network_that_one_client_may_have() {
        let of = |text: &str| networks(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        let shared = |a: &str, b: &str| of(a).iter().filter(|network| of(b).contains(network)).count();
        assert_eq!(shared("2001:db8::1", "2001:db8:0:1::1"), 2, "a /56 and a /48");
        assert_eq!(shared("2001:db8::1", "2001:db8:0:100::1"), 1, "a /48");
        assert_eq!(shared("2001:db8::1", "2001:db8:1::1"), 0);
        assert_eq!(shared("::1", "0.0.0.1"), 0);
    }
}
