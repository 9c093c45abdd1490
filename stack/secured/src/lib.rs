//! Makes links of plain byte streams: the stack's own security for transports that have none.
//!
//! A stream first carries a Noise handshake (pattern XX with X25519, ChaCha20-Poly1305 and SHA-256;
//! revision 34 of <https://noiseprotocol.org/noise.html>). Its static keys live as long as the
//! process, and each side's is signed by its device key inside the handshake, so both know with
//! whom they speak; the handshake's hash is the channel binding. Inside, yamux
//! (<https://github.com/hashicorp/yamux/blob/master/spec.md>) lays channels over the one stream.
//! `docs/formats.md` has the bytes.

mod codec;
mod link;
mod noise;
mod traffic;
mod transport;

pub use transport::Secured;
