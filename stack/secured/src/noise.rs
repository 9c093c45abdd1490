//! The Noise handshake: both sides learn the other's device key, proved on this very stream.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use peerloom_core::wire::{PublicKey, context};
use peerloom_core::{ByteStream, Error, ErrorKind, Result};
use peerloom_crypto_primitives::{SigningKey, verify};
use snow::{HandshakeState, Keypair};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use crate::codec::NoiseCodec;

const PATTERN: &str = "Noise_XX_25519_ChaChaPoly_SHA256";
/// What both sides must agree on beforehand, so that no other protocol's handshake is taken for it.
const PROLOGUE: &[u8] = b"peerloom/v1/noise";
/// Longest handshake message, in bytes: two keys, a signature and two tags are 192.
const MESSAGE: usize = 512;
const KEY: usize = 32;
const SIGNATURE: usize = 64;

/// This process's static Noise key, vouched for by the device key.
pub(crate) struct Identity {
    keypair: Keypair,
    /// Device key ‖ signature over the static key.
    proof: Bytes,
}

impl Identity {
    pub(crate) fn new(key: &SigningKey) -> Result<Self> {
        let keypair = builder()?.generate_keypair().map_err(|e| failed("no key could be made", e))?;
        let mut proof = BytesMut::with_capacity(KEY + SIGNATURE);
        proof.extend_from_slice(key.public().as_bytes());
        proof.extend_from_slice(&key.sign(&signing_input(&keypair.public)));
        Ok(Self { keypair, proof: proof.freeze() })
    }
}

/// A stream after its handshake.
pub(crate) struct Encrypted<S> {
    pub(crate) frames: Framed<S, NoiseCodec>,
    pub(crate) remote_key: PublicKey,
    /// The handshake's hash (Noise, section 11.2).
    pub(crate) binding: [u8; 32],
    /// How long the other side took to answer.
    pub(crate) rtt: Duration,
}

/// The side that dialed. A device other than the expected one learns nothing of us.
pub(crate) async fn initiate<S: ByteStream>(
    stream: S,
    own: &Identity,
    expected: Option<&PublicKey>,
) -> Result<Encrypted<S>> {
    let mut frames = handshake_frames(stream);
    let mut noise = own.builder()?.build_initiator().map_err(|e| failed("it can't begin", e))?;
    send(&mut frames, &mut noise, b"").await?;
    let asked = Instant::now();
    let remote_key = proved(&receive(&mut frames, &mut noise).await?, &noise)?;
    let rtt = asked.elapsed();
    if expected.is_some_and(|expected| *expected != remote_key) {
        let message = "another device answers there; ask your contact for a new invitation";
        return Err(Error::new(ErrorKind::Unauthenticated, "secured", "handshake", message));
    }
    send(&mut frames, &mut noise, &own.proof).await?;
    finish(frames, noise, remote_key, rtt)
}

/// The side that was dialed.
pub(crate) async fn respond<S: ByteStream>(stream: S, own: &Identity) -> Result<Encrypted<S>> {
    let mut frames = handshake_frames(stream);
    let mut noise = own.builder()?.build_responder().map_err(|e| failed("it can't begin", e))?;
    receive(&mut frames, &mut noise).await?;
    send(&mut frames, &mut noise, &own.proof).await?;
    let asked = Instant::now();
    let remote_key = proved(&receive(&mut frames, &mut noise).await?, &noise)?;
    finish(frames, noise, remote_key, asked.elapsed())
}

impl Identity {
    fn builder(&self) -> Result<snow::Builder<'_>> {
        builder()?.local_private_key(&self.keypair.private).map_err(|e| failed("its key is refused", e))
    }
}

fn builder<'a>() -> Result<snow::Builder<'a>> {
    let pattern = PATTERN.parse().map_err(|e| failed("the pattern is unknown", e))?;
    snow::Builder::new(pattern).prologue(PROLOGUE).map_err(|e| failed("the prologue is refused", e))
}

fn signing_input(static_key: &[u8]) -> Vec<u8> {
    [context::NOISE_KEY, static_key].concat()
}

type HandshakeFrames<S> = Framed<S, LengthDelimitedCodec>;

fn handshake_frames<S: ByteStream>(stream: S) -> HandshakeFrames<S> {
    let codec = LengthDelimitedCodec::builder().length_field_length(2).max_frame_length(MESSAGE).new_codec();
    Framed::with_capacity(stream, codec, MESSAGE)
}

async fn send<S: ByteStream>(
    frames: &mut HandshakeFrames<S>,
    noise: &mut HandshakeState,
    payload: &[u8],
) -> Result<()> {
    let mut message = vec![0; MESSAGE];
    let length = noise.write_message(payload, &mut message).map_err(|e| failed("a message can't be made", e))?;
    message.truncate(length);
    frames.send(Bytes::from(message)).await.map_err(|e| failed("the stream broke", e))
}

async fn receive<S: ByteStream>(frames: &mut HandshakeFrames<S>, noise: &mut HandshakeState) -> Result<Vec<u8>> {
    let ended = || Error::new(ErrorKind::Closed, "secured", "handshake", "the other side ended the handshake");
    let message = frames.next().await.ok_or_else(ended)?.map_err(|e| failed("the stream broke", e))?;
    let mut payload = vec![0; message.len()];
    let wrong = |e| {
        let message = "a message is malformed or forged; is it Peerloom that answers there?";
        Error::new(ErrorKind::Unauthenticated, "secured", "handshake", message).with_source(e)
    };
    let length = noise.read_message(&message, &mut payload).map_err(wrong)?;
    payload.truncate(length);
    Ok(payload)
}

/// The device key that vouches for the other side's static key.
fn proved(payload: &[u8], noise: &HandshakeState) -> Result<PublicKey> {
    let wrong =
        || Error::new(ErrorKind::Unauthenticated, "secured", "handshake", "the other side doesn't prove its key");
    let (key, signature) = payload.split_first_chunk::<KEY>().ok_or_else(wrong)?;
    let key = PublicKey::ed25519(*key);
    let static_key = noise.get_remote_static().ok_or_else(wrong)?;
    if !verify(&key, &signing_input(static_key), signature) {
        return Err(wrong());
    }
    Ok(key)
}

fn finish<S: ByteStream>(
    frames: HandshakeFrames<S>,
    noise: HandshakeState,
    remote_key: PublicKey,
    rtt: Duration,
) -> Result<Encrypted<S>> {
    let mut binding = [0; 32];
    // SHA-256's length.
    binding.copy_from_slice(noise.get_handshake_hash().get(..32).unwrap_or(&[0; 32]));
    let noise = noise.into_transport_mode().map_err(|e| failed("it can't end", e))?;
    Ok(Encrypted { frames: frames.map_codec(|_| NoiseCodec(noise)), remote_key, binding, rtt })
}

fn failed(message: &str, cause: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Closed, "secured", "handshake", message).with_source(cause)
}
