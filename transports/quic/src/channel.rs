//! Channels as QUIC streams: one byte for the class, then frames behind 4-byte big-endian lengths.

use std::io;

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt, TryStreamExt};
use peerloom_core::{Channel, ChannelClass, Error, ErrorKind, Result};
use quinn::{RecvStream, SendStream};
use tokio_util::codec::{FramedRead, FramedWrite, LengthDelimitedCodec};

/// The class's byte at the beginning of a stream.
pub(crate) fn class_byte(class: ChannelClass) -> u8 {
    match class {
        ChannelClass::Control => 1,
        ChannelClass::Chat => 2,
        ChannelClass::Bulk => 3,
    }
}

/// The class with this byte.
pub(crate) fn class_of(byte: u8) -> Option<ChannelClass> {
    match byte {
        1 => Some(ChannelClass::Control),
        2 => Some(ChannelClass::Chat),
        3 => Some(ChannelClass::Bulk),
        _ => None,
    }
}

/// A channel over a stream whose class is settled.
pub(crate) fn channel(class: ChannelClass, send: SendStream, receive: RecvStream) -> Channel {
    let priority = match class {
        ChannelClass::Control => 2,
        ChannelClass::Chat => 1,
        ChannelClass::Bulk => 0,
    };
    // Fails only on a closed stream, which the first frame will notice.
    let _ = send.set_priority(priority);
    // The codec refuses a longer frame before it allocates for it.
    let codec = LengthDelimitedCodec::builder().max_frame_length(class.max_frame()).new_codec();
    let mut sender = FramedWrite::new(send, codec.clone());
    // Idle links are many: buffers grow when there is something to carry.
    *sender.write_buffer_mut() = BytesMut::new();
    let receiver = FramedRead::with_capacity(receive, codec, 64);
    Channel {
        class,
        sender: Box::pin(SinkExt::<Bytes>::sink_map_err(sender, |e| explain("send", e))),
        receiver: receiver.map_ok(BytesMut::freeze).map_err(|e| explain("receive", e)).boxed(),
    }
}

fn explain(operation: &'static str, cause: io::Error) -> Error {
    let (kind, message) = match cause.kind() {
        io::ErrorKind::InvalidData => {
            (ErrorKind::TooLarge, "the peer announced a frame longer than its channel allows")
        }
        io::ErrorKind::InvalidInput => (ErrorKind::TooLarge, "the frame is longer than its channel allows"),
        _ => (ErrorKind::Closed, "the link is closed; it is made again by itself"),
    };
    Error::new(kind, "quic", operation, message).source(cause)
}

/// The error of a link that is gone.
pub(crate) fn closed(operation: &'static str, cause: quinn::ConnectionError) -> Error {
    Error::new(ErrorKind::Closed, "quic", operation, "the link is closed").source(cause)
}

/// Reads the class of a stream that the other side opened.
pub(crate) async fn read_class(receive: &mut RecvStream) -> Result<ChannelClass> {
    let mut byte = [0];
    let wrong = |m: &str| Error::new(ErrorKind::Malformed, "quic", "accept a channel", m);
    receive.read_exact(&mut byte).await.map_err(|_| wrong("the stream ended before its class"))?;
    class_of(byte[0]).ok_or_else(|| wrong("the stream's class is unknown"))
}
