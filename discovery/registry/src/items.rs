//! Items other than the record, and what became of each at the registry.

use std::collections::BTreeMap;

use peerloom_core::wire::{DiscoveryItem, ItemSlot};
use peerloom_core::{Error, ErrorKind, Result};
use peerloom_registry_protocol::limits;

use crate::now_ms;

/// This device's items, by slot.
#[derive(Default)]
pub(crate) struct Items(BTreeMap<ItemSlot, Entry>);

struct Entry {
    item: DiscoveryItem,
    expires_at_ms: u64,
    state: ItemState,
}

#[derive(Clone)]
pub(crate) enum ItemState {
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
    pub(crate) fn insert(&mut self, slot: ItemSlot, item: DiscoveryItem, expires_at_ms: u64) -> Result<()> {
        self.0.retain(|_, entry| entry.expires_at_ms > now_ms());
        if let Some(known) = self.0.get_mut(&slot).filter(|known| known.item == item) {
            if matches!(known.state, ItemState::Published) {
                known.state = ItemState::Open;
            }
            return Ok(());
        }
        if self.0.len() >= limits::ITEMS_OF_DEVICE && !self.0.contains_key(&slot) {
            let message = format!("a registry keeps {} items of a device; publish fewer", limits::ITEMS_OF_DEVICE);
            return Err(Error::new(ErrorKind::Overloaded, "registry", "publish", message));
        }
        self.0.insert(slot, Entry { item, expires_at_ms, state: ItemState::Open });
        Ok(())
    }

    /// One that the registry lacks.
    pub(crate) fn open(&self) -> Option<(ItemSlot, DiscoveryItem)> {
        let open =
            self.0.iter().find(|(_, entry)| matches!(entry.state, ItemState::Open) && entry.expires_at_ms > now_ms());
        open.map(|(slot, entry)| (*slot, entry.item.clone()))
    }

    /// Notes what became of an item, unless another one took its place meanwhile.
    pub(crate) fn became(&mut self, slot: ItemSlot, item: &DiscoveryItem, state: ItemState) {
        if let Some(entry) = self.0.get_mut(&slot).filter(|entry| entry.item == *item) {
            entry.state = state;
        }
    }

    /// Why the registry doesn't take an item, if so.
    pub(crate) fn refusal(&self, slot: ItemSlot) -> Option<Error> {
        match &self.0.get(&slot)?.state {
            ItemState::Refused(error) => Some(error.clone()),
            _ => None,
        }
    }

    /// The registry may have lost all of them, and may take what it refused.
    pub(crate) fn reopen(&mut self) {
        self.0.values_mut().for_each(|entry| entry.state = ItemState::Open);
    }
}
