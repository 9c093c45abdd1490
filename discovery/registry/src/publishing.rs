//! Items other than the record: device lists, key packages, services. They are published once the registry has the
//! record, and again after each new session, since a registry that was restarted may have lost them.

use std::collections::BTreeMap;

use peerloom_core::wire::{DiscoveryItem, ItemSlot, context};
use peerloom_core::{Error, ErrorKind, Result};
use peerloom_registry_protocol::http::{Announced, PublishItem};
use peerloom_registry_protocol::proof::item_body;
use peerloom_registry_protocol::{limits, text};

use crate::health::Part;
use crate::http::Answer;
use crate::now_ms;
use crate::shared::{Shared, lock};

/// This device's items, by slot.
#[derive(Default)]
pub(crate) struct Items(BTreeMap<ItemSlot, Entry>);

struct Entry {
    item: DiscoveryItem,
    expires_at_ms: u64,
    state: State,
}

#[derive(Clone)]
enum State {
    /// The registry lacks it, as far as is known.
    Open,
    /// The registry has it.
    Published,
    /// The registry doesn't take it: trying again doesn't help.
    Refused(Error),
}

impl Items {
    /// Takes in an item. One that was published is published again, so that it stays for longer; one that was refused
    /// is not.
    fn insert(&mut self, slot: ItemSlot, item: DiscoveryItem, expires_at_ms: u64) -> Result<()> {
        self.0.retain(|_, entry| entry.expires_at_ms > now_ms());
        if let Some(known) = self.0.get_mut(&slot).filter(|known| known.item == item) {
            if matches!(known.state, State::Published) {
                known.state = State::Open;
            }
            return Ok(());
        }
        if self.0.len() >= limits::ITEMS_OF_DEVICE && !self.0.contains_key(&slot) {
            let message = format!("a registry keeps {} items of a device; publish fewer", limits::ITEMS_OF_DEVICE);
            return Err(Error::new(ErrorKind::Overloaded, "registry", "publish", message));
        }
        self.0.insert(slot, Entry { item, expires_at_ms, state: State::Open });
        Ok(())
    }

    fn open(&self) -> Option<(ItemSlot, DiscoveryItem)> {
        let open =
            self.0.iter().find(|(_, entry)| matches!(entry.state, State::Open) && entry.expires_at_ms > now_ms());
        open.map(|(slot, entry)| (*slot, entry.item.clone()))
    }

    /// Notes what became of an item, unless another one took its place meanwhile.
    fn became(&mut self, slot: ItemSlot, item: &DiscoveryItem, state: State) {
        if let Some(entry) = self.0.get_mut(&slot).filter(|entry| entry.item == *item) {
            entry.state = state;
        }
    }

    /// The registry may have lost all of them, and may take what it refused.
    pub(crate) fn reopen(&mut self) {
        self.0.values_mut().for_each(|entry| entry.state = State::Open);
    }
}

impl Shared {
    /// Takes in an item to be published.
    pub(crate) fn add_item(&self, slot: ItemSlot, item: DiscoveryItem, expires_at_ms: Option<u64>) -> Result<()> {
        lock(&self.items).insert(slot, item, expires_at_ms.unwrap_or(u64::MAX))
    }

    /// Why the registry doesn't take an item, if so.
    pub(crate) fn refusal_of(&self, slot: ItemSlot) -> Option<Error> {
        match &lock(&self.items).0.get(&slot)?.state {
            State::Refused(error) => Some(error.clone()),
            _ => None,
        }
    }

    /// Whether items are to be published now.
    pub(crate) fn items_are_due(&self) -> bool {
        lock(&self.item_pause).is_over() && lock(&self.items).open().is_some()
    }

    /// Publishes the items that the registry lacks. What it refuses is noted; other failures end the attempt.
    pub(crate) async fn publish_items(&self) -> Result<()> {
        let _one = self.publishing.lock().await;
        loop {
            let Some((slot, item)) = lock(&self.items).open() else { return Ok(()) };
            let state = match self.post_item(&item).await {
                Ok(()) => State::Published,
                Err(error) if error.kind() == ErrorKind::Refused => {
                    self.health.failed(Part::Items, &error);
                    State::Refused(error)
                }
                Err(error) => {
                    self.health.failed(Part::Items, &error);
                    lock(&self.item_pause).failed(self.caller.rest());
                    return Err(error);
                }
            };
            if matches!(state, State::Published) {
                self.health.works(Part::Items, &self.caller.name);
                lock(&self.item_pause).reset();
            }
            lock(&self.items).became(slot, &item, state);
        }
    }

    async fn post_item(&self, item: &DiscoveryItem) -> Result<()> {
        let (device, at_ms) = (self.signer.device(), now_ms());
        let body = item_body(&self.caller.name, &self.network, &device, &item.encode(), at_ms);
        let signature = self.signer.sign(context::REGISTRY_ITEM, &body)?;
        let bug =
            |_| Error::new(ErrorKind::Internal, "registry", "publish", "a signature of another length than Ed25519's");
        let signature = signature.as_ref().try_into().map_err(bug)?;
        let path = format!("/network/{}/item", self.network);
        let publish = PublishItem { peer_id: device, item: text::encode_item(item), at_ms, signature };
        match self.caller.post::<Announced>("publish", &path, &publish).await? {
            Answer::Found(_) => Ok(()),
            Answer::Failed(failure) => Err(self.caller.refusal("publish", &failure)),
        }
    }
}
