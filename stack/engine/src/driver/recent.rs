//! The cache of sealed envelopes, as frames.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use peerloom_core::wire::{ConversationId, Position};

/// The frames of the newest sealed envelopes of all conversations, up to [`Recent::MAX`] bytes; the oldest go first.
#[derive(Default)]
pub(crate) struct Recent {
    frames: HashMap<(ConversationId, Position), (u64, Bytes)>,
    order: BTreeMap<u64, (ConversationId, Position)>,
    next: u64,
    bytes: usize,
}

impl Recent {
    const MAX: usize = 16 * 1024 * 1024;

    pub(crate) fn insert(&mut self, id: ConversationId, position: Position, frame: Bytes) {
        self.remove(id, position);
        self.next += 1;
        self.bytes += frame.len();
        self.order.insert(self.next, (id, position));
        self.frames.insert((id, position), (self.next, frame));
        while self.bytes > Self::MAX
            && let Some((_, (id, position))) = self.order.pop_first()
        {
            self.remove(id, position);
        }
    }

    pub(crate) fn get(&self, id: ConversationId, position: Position) -> Option<Bytes> {
        self.frames.get(&(id, position)).map(|(_, frame)| frame.clone())
    }

    pub(crate) fn remove(&mut self, id: ConversationId, position: Position) {
        if let Some((number, frame)) = self.frames.remove(&(id, position)) {
            self.order.remove(&number);
            self.bytes -= frame.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_of_envelopes_is_bounded_over_all_conversations() {
        let mut recent = Recent::default();
        let id = |number: u8| ConversationId::from_bytes([number; 32]);
        for number in 0..100 {
            (1..=5).for_each(|position| recent.insert(id(number), position, vec![number; 100_000].into()));
        }
        let kept: usize = recent.frames.values().map(|(_, frame)| frame.len()).sum();
        assert!(kept == recent.bytes && kept <= Recent::MAX && kept > Recent::MAX - 100_000, "{kept}");
        assert!(recent.get(id(99), 5).is_some() && recent.get(id(0), 1).is_none());
        (0..100).for_each(|number| (1..=5).for_each(|position| recent.remove(id(number), position)));
        assert!(recent.bytes == 0 && recent.order.is_empty());
    }
}
