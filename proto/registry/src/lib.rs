//! What a registry and its clients say to each other: JSON bodies, WebSocket messages, limits, and the
//! bytes that are signed or hashed. No I/O and no clock.
//!
//! A registry keeps the signed [`PeerRecord`](peerloom_wire::PeerRecord)s of devices and other items
//! ([`DiscoveryItem`](peerloom_wire::DiscoveryItem)) for a while and carries small messages (*signals*) between devices
//! that are connected to it. It stores no
//! messages, and nobody has to trust it: whoever gets a record from it checks the signatures.
//!
//! # Texts
//!
//! Names of JSON fields are in camel case. Ids are 52 characters of lower-case base32. Signed objects,
//! nonces and signatures are base64url without padding (RFC 4648 §5). Times are milliseconds since
//! the Unix epoch. A reader ignores fields that it doesn't know.
//!
//! # Over HTTP
//!
//! | call | request | response |
//! |---|---|---|
//! | `GET /network/{networkId}/active-peers?limit&after` | | [`http::ActivePeers`] |
//! | `POST /network/{networkId}/announce` | [`http::Announce`] | [`http::Announced`] |
//! | `GET /network/{networkId}/peer/{userId}` | | [`http::UserAnswer`] |
//! | `GET /network/{networkId}/device/{peerId}` | | [`http::DeviceAnswer`] |
//! | `POST /network/{networkId}/item` | [`http::PublishItem`] | [`http::Announced`] |
//! | `GET /network/{networkId}/device-list/{userId}` | | [`http::ItemsAnswer`] |
//! | `GET /network/{networkId}/key-package/{hash}` | | [`http::ItemsAnswer`] |
//! | `GET /network/{networkId}/service/{kind}` | | [`http::ItemsAnswer`] |
//! | `GET /network/{networkId}/ice-servers` | | [`http::IceAnswer`] |
//! | `POST /coordinator/heartbeat` | [`http::Heartbeat`] | `{}` |
//! | `GET /signal/{peerId}` | | the WebSocket below |
//!
//! Whatever fails has a status of 4xx or 5xx and an [`http::ErrorBody`], whose `code` is one of
//! [`code`]. A private network wants its token in each call, as `Authorization: Bearer TOKEN`.
//!
//! # Over the WebSocket
//!
//! Text frames, each with one JSON object whose `type` says which message it is: a
//! [`message::ServerMessage`] or a [`message::ClientMessage`].
//!
//! 1. The server sends `challenge`: 32 random bytes, the name by which it was called, and the work it
//!    wants.
//! 2. The client compares that name with the one that it dialed ([`name::registry_name`]) and ends if
//!    they differ. So a challenge that another server passes on is of no use to that server. Then it
//!    sends `hello` within 10 s: its network and signed record, and its device key's signature over
//!    [`proof::challenge_input`]. A hello announces the record.
//! 3. The server answers `ready`, or `error` and closes.
//! 4. The client sends `signal` with `to`; the other device gets it with `from`. With an `id` the
//!    client gets an answer: `sent` (in the other's queue, which is not yet received), `absent` (no such
//!    device is connected in this network) or `busy` (dropped: the other's queue is full, or this
//!    client sends too fast).
//!
//! The server pings every 30 s, and drops a socket from which nothing came for 75 s. A browser answers
//! pings by itself. A device has one socket in each network; a newer one replaces it.
//!
//! A whole client, in JavaScript (`sign` and `record` are the page's):
//!
//! ```js
//! const socket = new WebSocket(`wss://${host}/signal/${peerId}`);
//! socket.onmessage = async ({ data }) => {
//!   const message = JSON.parse(data);
//!   if (message.type === "challenge") {
//!     if (message.registry !== host) return socket.close();
//!     const signature = await sign(message.nonce, message.registry);
//!     socket.send(JSON.stringify({ type: "hello", network, record, signature }));
//!   } else if (message.type === "ready") {
//!     socket.send(JSON.stringify({ type: "signal", to: other, payload: "a signed offer", id: 1 }));
//!   } else if (message.type === "signal") {
//!     receive(message.from, message.payload);
//!   }
//! };
//! ```

pub mod code;
pub mod http;
pub mod limits;
pub mod message;
pub mod name;
pub mod proof;
#[cfg(feature = "openapi")]
pub mod schema;
pub mod text;

/// The protocol's version, as a registry reports it in `/healthz`.
pub const VERSION: u32 = 1;
