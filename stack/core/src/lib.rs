//! The contracts of Peerloom's stack.
//!
//! A layer is a trait here: [`Transport`], [`Discovery`], [`Storage`], [`Crypto`]. An
//! implementation is a crate that depends on this one, implements a trait and registers itself
//! under a name, its *kind* (see [`kinds`]). The engine holds `Arc<dyn …>` of each and knows no
//! implementation; a configuration file chooses which ones it gets.
//!
//! Each trait's documentation states the author's duties and the caller's. The conformance library
//! (`tests/conformance`) checks the author's; the [`memory`] implementations pass it too.

pub mod accept;
pub mod admission;
pub mod backoff;
pub mod crypto;
pub mod diagnosis;
pub mod discovery;
pub mod error;
pub mod framing;
pub mod interfaces;
pub mod kinds;
pub mod memory;
pub mod names;
pub mod networks;
pub mod pace;
pub mod panics;
pub mod passphrase;
pub mod private;
pub mod signaling;
pub mod signer;
pub mod storage;
pub mod stream;
pub mod sync;
pub mod terminal;
pub mod transport;
pub mod windows;

pub use admission::{Admission, Place, Places, Source, Standing};
pub use crypto::{Crypto, CryptoCaps, Member, Opened, Outgoing, Prepared, Sealed, Sealing, Serves, StateTxn};
pub use diagnosis::{Diagnostic, DiagnosticStatus};
pub use discovery::{CostTier, Discovery, DiscoveryCaps, Found, ItemKinds};
pub use error::{Error, ErrorKind, Result, Retry};
pub use kinds::{Kinds, Layer, Settings};
pub use passphrase::Passphrase;
pub use signaling::{Carried, IceServer, Signal, SignalCarrier, Signaling, SignalingCaps};
pub use signer::DeviceSigner;
pub use storage::{Batch, KeyRange, Order, Page, Row, Snapshot, Storage, StorageCaps};
pub use stream::{ByteStream, StreamListener, StreamTransport};
pub use transport::{
    Channel, ChannelClass, DeviceSecret, FrameReceiver, FrameSender, Link, LinkPath, LinkStats, Listener, Transport,
    TransportCaps,
};

pub use peerloom_wire as wire;
