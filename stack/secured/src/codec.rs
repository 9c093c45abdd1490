//! Noise transport messages (Noise, section 13): a 2-byte big-endian length, then the ciphertext.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use snow::TransportState;
use tokio_util::codec::{Decoder, Encoder};

/// Length of a ChaCha20-Poly1305 tag, in bytes.
const TAG: usize = 16;
/// Longest plaintext of a message, in bytes. Noise allows 65,519; buffers of 16 KiB keep links small.
const CHUNK: usize = 16 * 1024;

pub(crate) struct NoiseCodec(pub(crate) TransportState);

fn broken(error: snow::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl Encoder<Bytes> for NoiseCodec {
    type Error = io::Error;

    fn encode(&mut self, item: Bytes, out: &mut BytesMut) -> io::Result<()> {
        for chunk in item.chunks(CHUNK) {
            let length = chunk.len() + TAG;
            out.reserve(2 + length);
            // At most CHUNK + TAG.
            out.put_u16(length as u16);
            let start = out.len();
            out.resize(start + length, 0);
            self.0.write_message(chunk, out.get_mut(start..).unwrap_or_default()).map_err(broken)?;
        }
        Ok(())
    }
}

impl Decoder for NoiseCodec {
    type Item = Bytes;
    type Error = io::Error;

    fn decode(&mut self, from: &mut BytesMut) -> io::Result<Option<Bytes>> {
        let Some(length) = from.first_chunk::<2>().map(|bytes| usize::from(u16::from_be_bytes(*bytes))) else {
            return Ok(None);
        };
        if !(TAG + 1..=CHUNK + TAG).contains(&length) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a message of a forbidden length"));
        }
        if from.len() < 2 + length {
            return Ok(None);
        }
        from.advance(2);
        let ciphertext = from.split_to(length);
        let mut plaintext = vec![0; length];
        let read = self.0.read_message(&ciphertext, &mut plaintext).map_err(broken)?;
        plaintext.truncate(read);
        Ok(Some(plaintext.into()))
    }
}
