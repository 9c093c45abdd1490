//! What an engine is made of and tuned with.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use peerloom_core::wire::{NetworkId, store};
use peerloom_core::{Crypto, Discovery, Error, ErrorKind, Result, Storage, Transport};

/// How long a message may wait to be delivered.
pub const TTL: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(365 * 24 * 3600);
/// How long an invitation may be good for.
pub const INVITATION_LIFETIME: RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_secs(365 * 24 * 3600);
/// How long each wait of the delivery rules may be.
pub const DELIVERY_WAIT: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(7 * 24 * 3600);

/// The layers, as the configuration chose them.
pub struct Layers {
    /// Transports, tried in this order.
    pub transports: Vec<Arc<dyn Transport>>,
    /// Discoveries; the cheapest are asked first.
    pub discoveries: Vec<Arc<dyn Discovery>>,
    /// The store, opened and prepared by [`crate::open_store`].
    pub storage: Arc<dyn Storage>,
    /// Crypto suites, most preferred first.
    pub cryptos: Vec<Arc<dyn Crypto>>,
    /// Who this node is.
    pub identity: store::Identity,
}

/// The engine's numbers.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// The network; nodes of other networks are refused.
    pub network: NetworkId,
    /// The delivery rules' numbers; each wait is within [`DELIVERY_WAIT`].
    pub delivery: peerloom_delivery::Config,
    /// How long a message may wait to be delivered, within [`TTL`].
    pub ttl: Duration,
    /// Most messages of one conversation that wait to be acknowledged.
    pub max_queued_messages: usize,
    /// Most bytes of one conversation that wait to be acknowledged.
    pub max_queued_bytes: usize,
    /// Most bytes of all conversations that wait to be acknowledged; beyond them a conversation takes a message only
    /// while nothing waits in it.
    pub max_queued_bytes_in_all: usize,
    /// Most links to other devices.
    pub max_links: usize,
}

impl EngineConfig {
    /// The defaults, for a network.
    pub fn new(network: NetworkId) -> Self {
        Self {
            network,
            delivery: peerloom_delivery::Config::default(),
            ttl: Duration::from_secs(7 * 24 * 3600),
            max_queued_messages: 100_000,
            max_queued_bytes: 256 * 1024 * 1024,
            max_queued_bytes_in_all: 1024 * 1024 * 1024,
            max_links: 1024,
        }
    }

    /// Refuses a duration outside its range.
    pub(crate) fn check(&self) -> Result<()> {
        let delivery = &self.delivery;
        let waits = [delivery.ack_timeout, delivery.gap_wait, delivery.rejoin_every];
        if let Some(wait) = waits.iter().chain(&delivery.retry_delays).find(|wait| !DELIVERY_WAIT.contains(wait)) {
            let message = format!("a wait of the delivery rules takes from 1ms to 7d, and not {wait:?}");
            return Err(Error::new(ErrorKind::Invalid, "engine", "open", message));
        }
        check_ttl(self.ttl, "open")
    }
}

/// Refuses a time that no message may wait.
pub(crate) fn check_ttl(ttl: Duration, operation: &'static str) -> Result<()> {
    if TTL.contains(&ttl) {
        return Ok(());
    }
    let message = "a message may wait from 1s to 365d to be delivered";
    Err(Error::new(ErrorKind::Invalid, "engine", operation, message))
}
