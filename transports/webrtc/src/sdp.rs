//! Session descriptions of others: read before the `webrtc` crate sees them.

use std::net::IpAddr;

use peerloom_core::{Error, ErrorKind, Result};

/// Most candidates taken from one device for one session: each is tried against each of ours.
pub(crate) const CANDIDATES: usize = 32;
/// Longest user name and password of ICE, in characters. RFC 8839 §5.4 allows 256, and asks for 4 and 22 at least; those
/// of browsers take up to 8 and 32. The name stands in each check, in front of what a third party may get to read.
const UFRAG: std::ops::RangeInclusive<usize> = 4..=32;
const PASSWORD: std::ops::RangeInclusive<usize> = 22..=64;
/// What a description without `max-message-size` allows (RFC 8841 §6.1), in bytes.
const DEFAULT_MESSAGE: usize = 64 * 1024;

/// Which candidates are worth trying.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CandidateRules {
    /// Whether the machine itself may be meant: only where this node listens on it alone. Otherwise
    /// anybody could have us send packets to services that trust this machine.
    pub(crate) loopback: bool,
}

/// A description that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Description {
    /// Without the candidates that the rules forbid.
    pub(crate) sdp: String,
    /// How many candidates are in it.
    pub(crate) candidates: usize,
    /// Longest message that the other side takes.
    pub(crate) max_message: usize,
}

impl CandidateRules {
    /// Whether to try a candidate: `candidate:1 1 udp 2130706431 192.0.2.1 54321 typ host …`
    /// (RFC 8839 §5.1). Names (mDNS ones among them) and TCP are not supported.
    pub(crate) fn allow(self, candidate: &str) -> bool {
        let mut parts = candidate.split_ascii_whitespace();
        let (Some(_), Some(_), Some(protocol), Some(_), Some(ip), Some(port)) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return false;
        };
        let Ok(ip) = ip.parse::<IpAddr>() else {
            return false;
        };
        let ip = ip.to_canonical();
        let reachable = match ip {
            IpAddr::V4(ip) => !ip.is_link_local() && !ip.is_broadcast() && !ip.is_unspecified() && !ip.is_multicast(),
            IpAddr::V6(ip) => !ip.is_unicast_link_local() && !ip.is_unspecified() && !ip.is_multicast(),
        };
        let named = port.parse::<u16>().is_ok_and(|port| port > 0);
        protocol.eq_ignore_ascii_case("udp") && named && reachable && (self.loopback || !ip.is_loopback())
    }
}

/// Checks a description: one data channel section, one SHA-256 fingerprint, a bounded number of
/// candidates. Which fingerprint the other side really has is proved by DTLS and the handshake.
pub(crate) fn check(sdp: &str, rules: CandidateRules) -> Result<Description> {
    let wrong = |message: &str| Error::new(ErrorKind::Malformed, "webrtc", "take a description", message);
    let mut kept = String::with_capacity(sdp.len());
    let (mut sections, mut candidates) = (0, 0);
    let mut named = false;
    let mut max_message = DEFAULT_MESSAGE;
    let mut fingerprint: Option<String> = None;
    for line in sdp.lines() {
        // The crate reads leniently, white space at either end for instance: it gets what was checked.
        let (key, value) = line.split_once('=').ok_or_else(|| wrong("a line in it is none"))?;
        let mut value = value.trim().to_owned();
        if key.len() != 1 || value.contains('\r') {
            return Err(wrong("a line in it is none"));
        }
        if key == "m" {
            sections += 1;
            if !(value.starts_with("application ") && value.contains("webrtc-datachannel")) {
                return Err(wrong("it has media; only data channels are spoken here"));
            }
        } else if let Some(found) = value.strip_prefix("fingerprint:").filter(|_| key == "a") {
            let named = found.get(..8).is_some_and(|name| name.eq_ignore_ascii_case("sha-256 "));
            let Some(digest) = found.get(8..).filter(|_| named) else {
                // Others may stand beside it, over the same certificate (RFC 8122 §5). One is enough.
                continue;
            };
            let digest = digest.trim().to_owned();
            if fingerprint.as_ref().is_some_and(|known| !known.eq_ignore_ascii_case(&digest)) {
                return Err(wrong("it has two SHA-256 fingerprints"));
            }
            // The crate takes the lower-case name alone.
            value = format!("fingerprint:sha-256 {digest}");
            fingerprint = Some(digest);
        } else if let Some(name) = value.strip_prefix("ice-ufrag:").filter(|_| key == "a") {
            named |= is_secret(name, UFRAG).then_some(true).ok_or_else(|| wrong("its ICE user name is none"))?;
        } else if let Some(password) = value.strip_prefix("ice-pwd:").filter(|_| key == "a") {
            is_secret(password, PASSWORD).then_some(()).ok_or_else(|| wrong("its ICE password is none"))?;
        } else if let Some(size) = value.strip_prefix("max-message-size:").filter(|_| key == "a") {
            // 0 stands for any size (RFC 8841 §6).
            max_message = size.trim().parse().ok().filter(|size| *size > 0).unwrap_or(usize::MAX);
        } else if key == "a" && value.starts_with("candidate:") {
            if candidates >= CANDIDATES || !rules.allow(&value) {
                continue;
            }
            candidates += 1;
        }
        kept.push_str(key);
        kept.push('=');
        kept.push_str(&value);
        kept.push_str("\r\n");
    }
    if sections != 1 {
        return Err(wrong("it must have one section for data channels"));
    }
    if !named {
        return Err(wrong("it has no ICE user name"));
    }
    if fingerprint.is_none() {
        return Err(wrong("it has no SHA-256 fingerprint"));
    }
    if max_message < 1024 {
        return Err(wrong("the other side takes no message of a useful size"));
    }
    Ok(Description { sdp: kept, candidates, max_message })
}

/// Whether a text is of `ice-char`s alone, and so long (RFC 8839 §5.4).
fn is_secret(text: &str, length: std::ops::RangeInclusive<usize>) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    length.contains(&text.len()) && text.bytes().all(good)
}

/// A candidate of our own as others get it. A relay's names the address behind it, which nobody needs.
pub(crate) fn conceal(candidate: &str) -> String {
    let parts: Vec<&str> = candidate.split(' ').collect();
    if !parts.contains(&"relay") {
        return candidate.to_owned();
    }
    let mut out = Vec::with_capacity(parts.len());
    let mut before = "";
    for part in parts {
        out.push(match before {
            "raddr" if part.contains(':') => "::",
            "raddr" => "0.0.0.0",
            "rport" => "0",
            _ => part,
        });
        before = part;
    }
    out.join(" ")
}

/// A description of our own as others get it.
pub(crate) fn conceal_all(sdp: &str) -> String {
    let line = |line: &str| match line.strip_prefix("a=candidate:") {
        Some(_) => format!("{}\r\n", conceal(line)),
        None => format!("{line}\r\n"),
    };
    sdp.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRICT: CandidateRules = CandidateRules { loopback: false };
    const SDP: &str = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n\
        m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=ice-ufrag:aB1+\r\na=ice-pwd:0123456789abcdefghijkl\r\na=fingerprint:SHA-256 AA:BB\r\n\
        a=candidate:1 1 udp 1 192.0.2.1 5000 typ host\r\na=candidate:2 1 udp 1 127.0.0.1 5000 typ host\r\n\
        a=max-message-size:262144\r\n";

    #[test]
    fn a_good_description_loses_forbidden_candidates_only() {
        let checked = check(SDP, STRICT).unwrap();
        assert_eq!((checked.candidates, checked.max_message), (1, 262_144));
        assert!(checked.sdp.contains("192.0.2.1") && !checked.sdp.contains("127.0.0.1"));
        assert!(checked.sdp.contains("a=fingerprint:sha-256 AA:BB\r\n"));
        assert_eq!(check(SDP, CandidateRules { loopback: true }).unwrap().candidates, 2);
    }

    #[test]
    fn what_is_not_a_lone_data_channel_with_one_fingerprint_is_refused() {
        let second = SDP.replace("a=max", "a=fingerprint:sha-256 CC:DD\r\na=max");
        let weak = SDP.replace("SHA-256", "sha-1");
        let none = SDP.replace("a=fingerprint:SHA-256 AA:BB\r\n", "");
        let media = SDP.replace("m=application", "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nm=application");
        let empty = String::new();
        for bad in [second, weak, none, media, empty] {
            assert!(check(&bad, STRICT).is_err(), "{bad}");
        }
        // The same one twice, at the session and the section, is what browsers write.
        let twice = SDP.replace("t=0 0\r\n", "t=0 0\r\na=fingerprint:sha-256 aa:bb\r\n");
        assert!(check(&twice, STRICT).is_ok());
        // Other hashes beside it are what aiortc writes.
        let more = SDP.replace("a=max", "a=fingerprint:sha-512 CC:DD\r\na=max");
        assert_eq!(check(&more, STRICT).unwrap(), check(SDP, STRICT).unwrap());
    }

    #[test]
    fn candidates_that_point_inwards_or_nowhere_are_not_tried() {
        let line = |protocol: &str, place: &str| format!("candidate:1 1 {protocol} 1 {place} typ host");
        for place in ["192.0.2.1 5", "2001:db8::1 5", "10.0.0.1 5"] {
            assert!(STRICT.allow(&line("udp", place)), "{place}");
        }
        let inwards = ["127.0.0.1 5", "::1 5", "::ffff:127.0.0.1 5", "169.254.1.1 5", "fe80::1 5", "0.0.0.0 5"];
        let nowhere = ["224.0.0.1 5", "255.255.255.255 5", "ff02::1 5", "name.local 5", "192.0.2.1 0", "192.0.2.1 x"];
        for place in inwards.into_iter().chain(nowhere) {
            assert!(!STRICT.allow(&line("udp", place)), "{place}");
        }
        assert!(!STRICT.allow(&line("tcp", "192.0.2.1 5")) && !STRICT.allow("candidate:"));
    }

    #[test]
    fn what_only_looks_different_is_seen_through() {
        let hidden = SDP.replace("t=0 0\r\n", "t=0 0\r\na= candidate:9 1 udp 1 127.0.0.1 53 typ host\r\n");
        assert!(!check(&hidden, STRICT).unwrap().sdp.contains("127.0.0.1"));
        for bad in ["\ra=candidate:9 1 udp 1 127.0.0.1 53 typ host", "\rm=audio 9 X 0", " a=x", "nonsense", "a=x\ry"] {
            let sdp = SDP.replace("t=0 0\r\n", &format!("t=0 0\r\n{bad}\r\n"));
            assert!(check(&sdp, STRICT).is_err(), "{bad:?}");
        }
        let spaced = SDP.replace("a=fingerprint", "a= fingerprint");
        assert!(check(&spaced, STRICT).unwrap().sdp.contains("a=fingerprint:sha-256 AA:BB\r\n"));
    }

    #[test]
    fn what_stands_in_checks_is_short_and_no_text() {
        let with = |from: &str, to: String| check(&SDP.replace(from, &to), STRICT);
        for bad in ["", "abc", "GET /", "a\u{e9}bcd", "a b c d", &"x".repeat(33), &"x".repeat(4000)] {
            assert!(with("ice-ufrag:aB1+", format!("ice-ufrag:{bad}")).is_err(), "{bad:.40}");
        }
        assert!(with("ice-ufrag:aB1+", format!("ice-ufrag:{}", "x".repeat(32))).is_ok());
        for bad in ["", "short", &"x".repeat(65), "0123456789 abcdefghijkl"] {
            assert!(with("ice-pwd:0123456789abcdefghijkl", format!("ice-pwd:{bad}")).is_err(), "{bad:.40}");
        }
        assert!(with("a=ice-ufrag:aB1+\r\n", String::new()).is_err(), "none at all");
        // A second one could be the one that is used.
        assert!(with("t=0 0\r\n", format!("t=0 0\r\na=ice-ufrag:{}\r\n", "x".repeat(200))).is_err());
    }

    #[test]
    fn a_relays_candidate_does_not_name_what_is_behind_it() {
        let line = "candidate:1 1 udp 1 203.0.113.1 5000 typ relay raddr 10.0.0.5 rport 4000";
        assert_eq!(conceal(line), "candidate:1 1 udp 1 203.0.113.1 5000 typ relay raddr 0.0.0.0 rport 0");
        let sdp = format!("v=0\r\na={line}\r\na=end-of-candidates\r\n");
        assert!(!conceal_all(&sdp).contains("10.0.0.5"));
        let host = "candidate:1 1 udp 1 10.0.0.5 5000 typ host";
        assert_eq!(conceal(host), host);
    }

    #[test]
    fn the_number_of_candidates_is_bounded() {
        let many: String = (1..200).map(|n| format!("a=candidate:{n} 1 udp 1 192.0.2.1 {n} typ host\r\n")).collect();
        let checked = check(&format!("{SDP}{many}"), STRICT).unwrap();
        assert_eq!(checked.candidates, CANDIDATES);
    }
}
