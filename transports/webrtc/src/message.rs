//! What is said in a data channel: one byte for the kind, then the rest. Always binary messages.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use peerloom_core::framing::class_byte;
use peerloom_core::{ChannelClass, Error, ErrorKind, Result};

const OPEN: u8 = 1;
const FRAME: u8 = 2;
const MORE: u8 = 3;
const CREDIT: u8 = 4;
const END: u8 = 5;
const STOP: u8 = 6;
const DONE: u8 = 7;
const PING: u8 = 8;
const PONG: u8 = 9;
const BYE: u8 = 10;

/// Longest message sent, in bytes; browsers take 64 KiB at least.
pub(crate) const LONGEST: usize = 60 * 1024;
/// What a message counts for beside the bytes of frames in it, against the receiver's window: empty
/// frames fill memory, too.
pub(crate) const OVERHEAD: usize = 32;

/// One message of a data channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Message {
    /// A channel of this class begins.
    Open(ChannelClass),
    /// The beginning of a frame of `total` bytes, or all of it.
    Frame { total: u32, part: Bytes },
    /// More of the frame.
    More(Bytes),
    /// The receiver has room for so many bytes more.
    Credit(u32),
    /// No frame follows.
    End,
    /// The receiver wants no more frames.
    Stop,
    /// Nothing follows of this channel: once both sides said so, the next may begin.
    Done,
    /// Are you there?
    Ping(u64),
    /// Yes.
    Pong(u64),
    /// The link is over.
    Bye,
}

/// What may be sent on a channel before there is credit, in bytes: all that strangers get, on each of the two channels
/// that they may open.
pub(crate) const INITIAL_WINDOW: usize = 128 * 1024;

/// How many bytes of a channel may be on the way or unread once it is in use: at least one longest frame.
pub(crate) fn window(class: ChannelClass) -> usize {
    match class {
        ChannelClass::Control => 256 * 1024,
        ChannelClass::Chat | ChannelClass::Bulk => 4 * 1024 * 1024,
    }
}

impl Message {
    pub(crate) fn encode(&self) -> BytesMut {
        let mut out = BytesMut::new();
        match self {
            Self::Open(class) => {
                out.put_u8(OPEN);
                out.put_u8(class_byte(*class));
            }
            Self::Frame { total, part } => {
                out.reserve(part.len() + 5);
                out.put_u8(FRAME);
                out.put_u32(*total);
                out.extend_from_slice(part);
            }
            Self::More(part) => {
                out.reserve(part.len() + 1);
                out.put_u8(MORE);
                out.extend_from_slice(part);
            }
            Self::Credit(bytes) => {
                out.put_u8(CREDIT);
                out.put_u32(*bytes);
            }
            Self::End => out.put_u8(END),
            Self::Stop => out.put_u8(STOP),
            Self::Done => out.put_u8(DONE),
            Self::Ping(number) => {
                out.put_u8(PING);
                out.put_u64(*number);
            }
            Self::Pong(number) => {
                out.put_u8(PONG);
                out.put_u64(*number);
            }
            Self::Bye => out.put_u8(BYE),
        }
        out
    }

    /// Decodes a message; the crate has bounded its length. `None`: a kind that a newer version added.
    pub(crate) fn decode(mut bytes: Bytes) -> Result<Option<Self>> {
        let wrong =
            |_| Error::new(ErrorKind::Malformed, "webrtc", "receive", "a message is shorter than its kind asks");
        let kind = bytes.try_get_u8().map_err(wrong)?;
        Ok(Some(match kind {
            OPEN => {
                let byte = bytes.try_get_u8().map_err(wrong)?;
                let classes = [ChannelClass::Control, ChannelClass::Chat, ChannelClass::Bulk];
                let known = classes.into_iter().find(|class| class_byte(*class) == byte);
                let unknown =
                    || Error::new(ErrorKind::Malformed, "webrtc", "receive", "the channel's class is unknown");
                Self::Open(known.ok_or_else(unknown)?)
            }
            FRAME => Self::Frame { total: bytes.try_get_u32().map_err(wrong)?, part: bytes },
            MORE => Self::More(bytes),
            CREDIT => Self::Credit(bytes.try_get_u32().map_err(wrong)?),
            END => Self::End,
            STOP => Self::Stop,
            DONE => Self::Done,
            PING => Self::Ping(bytes.try_get_u64().map_err(wrong)?),
            PONG => Self::Pong(bytes.try_get_u64().map_err(wrong)?),
            BYE => Self::Bye,
            _ => return Ok(None),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_their_encoding_and_short_ones_are_refused() {
        let part = Bytes::from_static(b"part");
        let all = [
            Message::Open(ChannelClass::Control),
            Message::Open(ChannelClass::Chat),
            Message::Open(ChannelClass::Bulk),
            Message::Frame { total: 9, part: part.clone() },
            Message::More(part),
            Message::Credit(7),
            Message::End,
            Message::Stop,
            Message::Done,
            Message::Ping(1),
            Message::Pong(u64::MAX),
            Message::Bye,
        ];
        for message in all {
            assert_eq!(Message::decode(message.encode().freeze()).unwrap(), Some(message));
        }
        for short in [&[][..], &[OPEN], &[OPEN, 9], &[FRAME, 0, 0], &[CREDIT], &[PING, 1]] {
            assert!(Message::decode(Bytes::copy_from_slice(short)).is_err(), "{short:?}");
        }
        assert_eq!(Message::decode(Bytes::from_static(&[200, 1])).unwrap(), None);
    }

    #[test]
    fn a_window_holds_the_longest_frame() {
        for class in [ChannelClass::Control, ChannelClass::Chat, ChannelClass::Bulk] {
            let messages = class.max_frame().div_ceil(1024 - 5);
            assert!(window(class) >= class.max_frame() + messages * OVERHEAD);
        }
    }
}
