//! Channels as QUIC streams.

use peerloom_core::{Channel, ChannelClass, Error, ErrorKind, framing};
use quinn::{RecvStream, SendStream};

/// A channel over a stream whose class is settled.
pub(crate) fn channel(class: ChannelClass, send: SendStream, receive: RecvStream) -> Channel {
    let priority = match class {
        ChannelClass::Control => 2,
        ChannelClass::Chat => 1,
        ChannelClass::Bulk => 0,
    };
    // Fails only on a closed stream, which the first frame will notice.
    let _ = send.set_priority(priority);
    framing::channel("quic", class, send, receive)
}

/// The error of a link that is gone.
pub(crate) fn closed(operation: &'static str, cause: quinn::ConnectionError) -> Error {
    Error::new(ErrorKind::Closed, "quic", operation, "the link is closed").with_source(cause)
}
