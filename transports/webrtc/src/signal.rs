//! What two devices tell each other before they have a link, as JSON: a browser can say it too.

use bytes::Bytes;
use peerloom_core::wire::limits;
use peerloom_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

/// Longest candidate line, in bytes; those of browsers take some 150.
pub(crate) const CANDIDATE: usize = 512;

/// A signal of this transport. Which session it is about stands beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(crate) enum SignalBody {
    /// A session description (RFC 8866) that begins a session, or restarts a link's ICE.
    Offer {
        sdp: String,
        /// No candidates follow, and none are taken: the answer must have them all.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        complete: bool,
        /// Counts this side's offers of the session.
        #[serde(default, skip_serializing_if = "is_zero")]
        serial: u32,
    },
    /// The description that answers it.
    Answer {
        sdp: String,
        /// Which offer it answers.
        #[serde(default, skip_serializing_if = "is_zero")]
        serial: u32,
    },
    /// One more candidate (RFC 8840), as in a description, without `a=`.
    Candidate { candidate: String },
    /// The other side doesn't want to.
    Refused { reason: String },
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl SignalBody {
    pub(crate) fn encode(&self) -> Bytes {
        // Into memory, from strings: it can't fail.
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    /// Decodes what another device sent; nothing in it is checked yet but lengths.
    pub(crate) fn decode(payload: &[u8]) -> Result<Self> {
        let wrong = |message: &str| Error::new(ErrorKind::Malformed, "webrtc", "take a signal", message);
        if payload.len() > limits::SIGNAL {
            return Err(wrong("the signal is longer than its limit"));
        }
        let body: Self = serde_json::from_slice(payload).map_err(|e| wrong("it is no signal").with_source(e))?;
        match &body {
            Self::Candidate { candidate } if candidate.len() > CANDIDATE => {
                Err(wrong("the candidate is longer than its limit"))
            }
            _ => Ok(body),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_survive_their_encoding_and_noise_is_refused() {
        let bodies = [
            SignalBody::Offer { sdp: "v=0\r\n".into(), complete: true, serial: 0 },
            SignalBody::Answer { sdp: "v=0\r\n".into(), serial: 3 },
            SignalBody::Candidate { candidate: "candidate:1 1 udp 1 192.0.2.1 1 typ host".into() },
            SignalBody::Refused { reason: "busy".into() },
        ];
        for body in bodies {
            assert_eq!(SignalBody::decode(&body.encode()).unwrap(), body);
        }
        let from_a_page = br#"{"type":"offer","sdp":"v=0"}"#;
        assert!(SignalBody::decode(from_a_page).is_ok());
        for noise in [&b""[..], b"{}", b"[1,2]", &[0xff; 64], br#"{"type":"offer"}"#] {
            assert!(SignalBody::decode(noise).is_err());
        }
        let long = format!(r#"{{"type":"candidate","candidate":"{}"}}"#, "x".repeat(CANDIDATE + 1));
        assert!(SignalBody::decode(long.as_bytes()).is_err());
        assert!(SignalBody::decode(&vec![b' '; limits::SIGNAL + 1]).is_err());
    }
}
