//! Channels over byte streams: one byte for the class, then frames behind 4-byte big-endian lengths.
//! For transports whose links give a byte stream for each channel.

use std::io;

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt, TryStreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio_util::codec::{FramedRead, FramedWrite, LengthDelimitedCodec};

use crate::{Channel, ChannelClass, Error, ErrorKind, Result};

/// The class's byte at the beginning of a stream.
pub fn class_byte(class: ChannelClass) -> u8 {
    match class {
        ChannelClass::Control => 1,
        ChannelClass::Chat => 2,
        ChannelClass::Bulk => 3,
    }
}

/// Reads the class of a stream that the other side opened.
pub async fn read_class(component: &'static str, receive: &mut (impl AsyncRead + Unpin)) -> Result<ChannelClass> {
    let wrong = |message: &str| Error::new(ErrorKind::Malformed, component, "accept a channel", message);
    match receive.read_u8().await.map_err(|_| wrong("the stream ended before its class"))? {
        1 => Ok(ChannelClass::Control),
        2 => Ok(ChannelClass::Chat),
        3 => Ok(ChannelClass::Bulk),
        _ => Err(wrong("the stream's class is unknown")),
    }
}

/// A channel over a stream whose class is settled. `component` names the transport in errors.
pub fn channel(
    component: &'static str,
    class: ChannelClass,
    send: impl AsyncWrite + Send + 'static,
    receive: impl AsyncRead + Send + 'static,
) -> Channel {
    // The codec refuses a longer frame before it allocates for it.
    let codec = LengthDelimitedCodec::builder().max_frame_length(class.max_frame()).new_codec();
    let mut sender = FramedWrite::new(send, codec.clone());
    // Idle links are many: buffers grow when there is something to carry.
    *sender.write_buffer_mut() = BytesMut::new();
    let receiver = FramedRead::with_capacity(receive, codec, 64);
    Channel {
        class,
        sender: Box::pin(SinkExt::<Bytes>::sink_map_err(sender, move |e| explain(component, "send", e))),
        receiver: receiver.map_ok(BytesMut::freeze).map_err(move |e| explain(component, "receive", e)).boxed(),
    }
}

fn explain(component: &'static str, operation: &'static str, cause: io::Error) -> Error {
    let (kind, message) = match cause.kind() {
        io::ErrorKind::InvalidData => {
            (ErrorKind::TooLarge, "the peer announced a frame longer than its channel allows")
        }
        io::ErrorKind::InvalidInput => (ErrorKind::TooLarge, "the frame is longer than its channel allows"),
        _ => (ErrorKind::Closed, "the link is closed; it is made again by itself"),
    };
    Error::new(kind, component, operation, message).with_source(cause)
}
