//! What two devices tell each other before they have a link, as JSON: a browser can say it too.

use std::fmt;

use bytes::Bytes;
use peerloom_core::wire::limits;
use peerloom_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

/// Longest candidate line, in bytes; those of browsers take some 150.
pub(crate) const CANDIDATE: usize = 512;

/// Names one connection; chosen at random by the device that offers it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct SessionId(String);

impl SessionId {
    pub(crate) fn random() -> Result<Self> {
        let bytes: [u8; 12] = peerloom_crypto_primitives::random()
            .map_err(|e| Error::new(ErrorKind::Bug, "webrtc", "dial", "no randomness").source(e))?;
        Ok(Self(data_encoding::HEXLOWER.encode(&bytes)))
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A signal of this transport.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SignalMessage {
    pub(crate) session: SessionId,
    #[serde(flatten)]
    pub(crate) body: SignalBody,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(crate) enum SignalBody {
    /// A session description (RFC 8866) that begins a session, or a link's ICE anew.
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

impl SignalMessage {
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
        let message: Self = serde_json::from_slice(payload).map_err(|e| wrong("it is no signal").source(e))?;
        let SessionId(id) = &message.session;
        if id.is_empty() || id.len() > 64 {
            return Err(wrong("the session's name takes from 1 to 64 bytes"));
        }
        match &message.body {
            SignalBody::Candidate { candidate } if candidate.len() > CANDIDATE => {
                Err(wrong("the candidate is longer than its limit"))
            }
            _ => Ok(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_survive_their_encoding_and_noise_is_refused() {
        let session = SessionId::random().unwrap();
        let bodies = [
            SignalBody::Offer { sdp: "v=0\r\n".into(), complete: true, serial: 0 },
            SignalBody::Answer { sdp: "v=0\r\n".into(), serial: 3 },
            SignalBody::Candidate { candidate: "candidate:1 1 udp 1 192.0.2.1 1 typ host".into() },
            SignalBody::Refused { reason: "busy".into() },
        ];
        for body in bodies {
            let message = SignalMessage { session: session.clone(), body };
            assert_eq!(SignalMessage::decode(&message.encode()).unwrap(), message);
        }
        let from_a_page = br#"{"type":"offer","session":"a1","sdp":"v=0"}"#;
        assert!(SignalMessage::decode(from_a_page).is_ok());
        for noise in [&b""[..], b"{}", b"[1,2]", &[0xff; 64], br#"{"type":"offer","session":"","sdp":""}"#] {
            assert!(SignalMessage::decode(noise).is_err());
        }
        let long = format!(r#"{{"type":"candidate","session":"a","candidate":"{}"}}"#, "x".repeat(CANDIDATE + 1));
        assert!(SignalMessage::decode(long.as_bytes()).is_err());
        assert!(SignalMessage::decode(&vec![b' '; limits::SIGNAL + 1]).is_err());
    }
}
