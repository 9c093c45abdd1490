//! The discovery contract: from a key to the items that answer it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use peerloom_wire::{DiscoveryItem, DiscoveryKey, ItemKind};

use tokio::sync::broadcast;

use crate::{Diagnostic, Result, SignalCarrier};

/// Makes items of this device and its user findable, and finds those of others.
///
/// An item is a record, a device list, a key package or a service offer; each verifies by itself
/// ([`DiscoveryItem::open`]). The engine verifies every one of them, so a hostile implementation can hide
/// an item but never forge one.
///
/// **The author's duties.** Building one binds and asks nothing, and none of its calls waits for a server to
/// come back: what can't be reached yet is tried again in the background. Return items only as they were
/// found. `publish` keeps an item findable until it expires, or a newer one takes its place
/// ([`ItemSlot`](peerloom_wire::ItemSlot)); where this device's items are lost, such as with a server that was
/// restarted, they are published again without being asked. Whatever `watch` buffers is bounded, and drops
/// the oldest. What is kept across restarts lies in a folder of its own below
/// [`DiscoveryContext::folder`](crate::kinds::DiscoveryContext::folder).
///
/// **The caller's duties.** The caller owns time-outs and repeats calls that failed. Ask cheap tiers first, only for
/// kinds of items that [`DiscoveryCaps::carries`] has, and publish again before an item expires.
///
/// **Cancel safety.** Calls may come concurrently. Dropping the future of `publish` or the stream of `find`
/// abandons the call without harm: the item may be published or not.
///
/// ```
/// use std::sync::Arc;
/// use futures_util::StreamExt;
/// use peerloom_core::memory::{MemoryDirectory, MemoryDiscovery};
/// use peerloom_core::wire::{DiscoveryItem, DiscoveryKey};
/// use peerloom_core::{Discovery, Found, Result};
///
/// /// Publishes an item in one place, and looks for it in another.
/// async fn exchange(here: &dyn Discovery, there: &dyn Discovery, item: DiscoveryItem, key: DiscoveryKey) -> Result<()> {
///     if here.caps().carries.contains(item.kind()) {
///         here.publish(item).await?;
///     }
///     let mut answers = there.find(key);
///     while let Some(answer) = answers.next().await {
///         let Found { item, source, age } = answer?;
///         println!("{} from {source}, {age:?} old", item.kind());
///     }
///     Ok(())
/// }
/// ```
#[async_trait]
pub trait Discovery: Send + Sync {
    /// What it carries and what a call costs; decides the order in which implementations are asked.
    fn caps(&self) -> DiscoveryCaps;

    /// Makes an item findable, in place of an earlier one. Completes when it is, or when it will be as soon as that is
    /// possible; an error says that it won't be. An item of a kind that isn't carried is
    /// [`Invalid`](crate::ErrorKind::Invalid).
    async fn publish(&self, item: DiscoveryItem) -> Result<()>;

    /// The items that answer a key, as they come in; none when there are none. An error ends the stream, and
    /// says nothing about the items before it.
    fn find(&self, key: DiscoveryKey) -> BoxStream<'_, Result<Found>>;

    /// Items as they come to be known, from now on.
    fn watch(&self) -> BoxStream<'static, Found>;

    /// A way to the devices it knows before there is a link to them, where it has one.
    fn signaling(&self) -> Option<Arc<dyn SignalCarrier>> {
        None
    }

    /// The machine's addresses changed: whatever was bound to them is bound again.
    fn network_changed(&self) {}

    /// What this machine's network allows it, for `peerloom doctor`; takes up to 10 s.
    async fn diagnose(&self) -> Vec<Diagnostic> {
        Vec::new()
    }

    /// Stops publishing and ends all watches.
    async fn shutdown(&self);
}

/// An item that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The item, as it was found.
    pub item: DiscoveryItem,
    /// Who has it, for people: the discovery's kind, and which of several places, such as `registry reg.example`.
    pub source: Arc<str>,
    /// How long ago the source had it of its publisher; zero if that is not known to be longer ago.
    pub age: Duration,
}

/// What an implementation carries, and what asking it costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiscoveryCaps {
    /// The tier it belongs to.
    pub cost: CostTier,
    /// The kinds of items that it publishes and finds.
    pub carries: ItemKinds,
}

/// Kinds of items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ItemKinds(u8);

impl ItemKinds {
    /// Records alone.
    pub const RECORDS: Self = Self::of(&[ItemKind::Record]);
    /// All kinds.
    pub const ALL: Self = Self::of(&ItemKind::ALL);

    /// These.
    pub const fn of(mut kinds: &[ItemKind]) -> Self {
        let mut bits = 0;
        while let [kind, rest @ ..] = kinds {
            bits |= 1 << *kind as u8;
            kinds = rest;
        }
        Self(bits)
    }

    /// Whether a kind is among them.
    pub const fn contains(self, kind: ItemKind) -> bool {
        self.0 & (1 << kind as u8) != 0
    }
}

/// Cost of a look-up, cheapest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CostTier {
    /// No network at all.
    Local,
    /// The local network.
    Lan,
    /// Many peers each do a little.
    Distributed,
    /// A server somebody pays for.
    Server,
}

/// The error of a discovery that doesn't carry items of this kind.
pub fn not_carried(discovery: &'static str, item: &DiscoveryItem) -> crate::Error {
    let message = format!("it carries no items of the kind {}; see its `carries`", item.kind());
    crate::Error::new(crate::ErrorKind::Invalid, discovery, "publish", message)
}

/// The stream of a [`Discovery::watch`] over a broadcast channel: one that lags loses the oldest.
pub fn watch_stream(news: broadcast::Receiver<Found>) -> BoxStream<'static, Found> {
    futures_util::stream::unfold(news, |mut news| async move {
        loop {
            match news.recv().await {
                Ok(found) => return Some((found, news)),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    })
    .boxed()
}
