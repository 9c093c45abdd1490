//! Which conversations there are, and who is in each.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use peerloom_core::wire::store::ConversationInfo;
use peerloom_core::wire::{ConversationId, UserId};

/// The conversations, as the delivery thread last wrote them; others read.
#[derive(Clone, Default)]
pub(crate) struct Directory(Arc<RwLock<Index>>);

#[derive(Default)]
struct Index {
    conversations: HashMap<ConversationId, Arc<ConversationInfo>>,
    of_user: HashMap<UserId, BTreeSet<ConversationId>>,
}

impl Directory {
    /// Takes these conversations in place of those known.
    pub(crate) fn replace(&self, conversations: impl IntoIterator<Item = (ConversationId, ConversationInfo)>) {
        let mut index = Index::default();
        conversations.into_iter().for_each(|(id, conversation)| index.insert(id, conversation));
        *self.write() = index;
    }

    /// Adds a conversation, or what is newly known of it.
    pub(crate) fn insert(&self, id: ConversationId, conversation: ConversationInfo) {
        self.write().insert(id, conversation);
    }

    pub(crate) fn get(&self, id: &ConversationId) -> Option<Arc<ConversationInfo>> {
        self.read().conversations.get(id).cloned()
    }

    /// All conversations, in the order of their ids.
    pub(crate) fn all(&self) -> Vec<(ConversationId, Arc<ConversationInfo>)> {
        let mut all: Vec<_> = self.read().conversations.iter().map(|(id, info)| (*id, info.clone())).collect();
        all.sort_by_key(|(id, _)| *id);
        all
    }

    /// The conversations that a user is in.
    pub(crate) fn of_user(&self, user: &UserId) -> Vec<ConversationId> {
        self.read().of_user.get(user).into_iter().flatten().copied().collect()
    }

    /// Whether a user is in a conversation.
    pub(crate) fn is_member(&self, id: &ConversationId, user: &UserId) -> bool {
        self.read().conversations.get(id).is_some_and(|info| info.roster.members.contains_key(user))
    }

    fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Index> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index {
    fn insert(&mut self, id: ConversationId, conversation: ConversationInfo) {
        for user in conversation.roster.members.keys() {
            self.of_user.entry(*user).or_default().insert(id);
        }
        let Some(before) = self.conversations.insert(id, Arc::new(conversation)) else { return };
        let members = self.conversations.get(&id).map(|info| &info.roster.members);
        for user in before.roster.members.keys().filter(|user| members.is_some_and(|m| !m.contains_key(user))) {
            if let Some(ids) = self.of_user.get_mut(user) {
                ids.remove(&id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use peerloom_core::wire::store::ConversationKind;
    use peerloom_core::wire::{Role, Roster};

    use super::*;

    fn user(number: u8) -> UserId {
        UserId::from_bytes([number; 32])
    }

    fn conversation(kind: ConversationKind, users: &[u8]) -> ConversationInfo {
        let roster = Roster::first(users.iter().map(|number| user(*number)), Role::Member);
        ConversationInfo { kind, roster, created_at_ms: 0, title: String::new() }
    }

    #[test]
    fn conversations_are_found_by_their_users_as_rosters_change() {
        let directory = Directory::default();
        let ids: Vec<ConversationId> = (0..51).map(|number| ConversationId::from_bytes([number; 32])).collect();
        directory.insert(ids[50], conversation(ConversationKind::Direct, &[1, 2]));
        for id in &ids[..50] {
            directory.insert(*id, conversation(ConversationKind::Group, &[1, 2, 3]));
        }
        assert_eq!(directory.of_user(&user(2)), ids);
        assert_eq!(directory.of_user(&user(3)).len(), 50);
        directory.insert(ids[7], conversation(ConversationKind::Group, &[1, 3, 4]));
        assert!(!directory.is_member(&ids[7], &user(2)) && directory.is_member(&ids[7], &user(4)));
        assert_eq!((directory.of_user(&user(2)).len(), directory.of_user(&user(4))), (50, vec![ids[7]]));
        assert_eq!(directory.all().len(), 51);
    }
}
