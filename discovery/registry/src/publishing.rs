//! Items other than the record: device lists, key packages, services. They are published once the registry has the
//! record, and again after each new session, since a registry that was restarted may have lost them.

use peerloom_core::sync::lock;
use peerloom_core::wire::{DiscoveryItem, ItemSlot, context};
use peerloom_core::{Error, ErrorKind, Result};
use peerloom_registry_protocol::http::{Announced, PublishItem};
use peerloom_registry_protocol::proof::item_body;
use peerloom_registry_protocol::text;

use crate::health::Part;
use crate::http::Answer;
use crate::items::ItemState;
use crate::now_ms;
use crate::shared::Shared;

impl Shared {
    /// Takes in an item to be published.
    pub(crate) fn add_item(&self, slot: ItemSlot, item: DiscoveryItem, expires_at_ms: Option<u64>) -> Result<()> {
        lock(&self.items).insert(slot, item, expires_at_ms.unwrap_or(u64::MAX))
    }

    /// Why the registry doesn't take an item, if so.
    pub(crate) fn refusal_of(&self, slot: ItemSlot) -> Option<Error> {
        lock(&self.items).refusal(slot)
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
                Ok(()) => ItemState::Published,
                Err(error) if error.kind() == ErrorKind::Refused => {
                    self.health.failed(Part::Items, &error);
                    ItemState::Refused(error)
                }
                Err(error) => {
                    self.health.failed(Part::Items, &error);
                    lock(&self.item_pause).failed(self.caller.rest());
                    return Err(error);
                }
            };
            if matches!(state, ItemState::Published) {
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
