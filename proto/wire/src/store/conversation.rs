//! A conversation: who is in it.

use super::Record;
use crate::roster::Roster;
use crate::{DecodeError, UserId, pb};

/// What a conversation is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConversationKind {
    /// Two users, once for each pair: its id is that of [`ConversationId::direct`](crate::ConversationId::direct).
    Direct,
    /// Any users; its id is random.
    Group,
    /// The devices of one user.
    Own,
}

impl ConversationKind {
    fn code(self) -> u32 {
        match self {
            Self::Direct => 1,
            Self::Group => 2,
            Self::Own => 3,
        }
    }

    fn from_code(code: u32) -> Option<Self> {
        [Self::Direct, Self::Group, Self::Own].into_iter().find(|kind| kind.code() == code)
    }
}

/// What is known of a conversation, by its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConversationInfo {
    /// What it is for.
    pub kind: ConversationKind,
    /// Its users, this node's own among them.
    pub roster: Roster,
    /// When this node learned of it, in milliseconds since the Unix epoch.
    pub created_at_ms: u64,
    /// What it is called; empty where its users say enough.
    pub title: String,
}

impl ConversationInfo {
    /// Its users but one, in order.
    pub fn others<'a>(&'a self, own: &'a UserId) -> impl Iterator<Item = UserId> + 'a {
        self.roster.members.keys().copied().filter(move |user| user != own)
    }
}

impl Record for ConversationInfo {
    const NAME: &'static str = "conversation";
    type Pb = pb::StoredConversation;

    fn to_pb(&self) -> Self::Pb {
        pb::StoredConversation {
            kind: self.kind.code(),
            roster: Some(self.roster.to_pb()),
            created_at_ms: self.created_at_ms,
            title: self.title.clone(),
        }
    }

    fn from_pb(pb: Self::Pb) -> Result<Self, DecodeError> {
        let kind = ConversationKind::from_code(pb.kind);
        Ok(Self {
            kind: kind.ok_or(DecodeError::invalid(Self::NAME, "is of an unknown kind"))?,
            roster: Roster::from_pb(pb.roster.unwrap_or_default())?,
            created_at_ms: pb.created_at_ms,
            title: pb.title,
        })
    }
}
