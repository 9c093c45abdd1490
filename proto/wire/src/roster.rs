//! Who is in a conversation, and what each may do.

use std::collections::BTreeMap;

use prost::Message;

use crate::id::RosterId;
use crate::shape::{Field, Shape};
use crate::{DecodeError, UserId, limits, pb};

/// What a user may do in a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Changes the roster and the settings.
    Admin,
    /// Reads and writes.
    Member,
    /// A newer version's, by its code: treated as a member, and kept.
    Other(u32),
}

impl Role {
    /// Its number on the wire.
    pub fn code(self) -> u32 {
        match self {
            Self::Admin => 1,
            Self::Member => 2,
            Self::Other(code) => code,
        }
    }

    /// The role with this number.
    pub fn from_code(code: u32) -> Self {
        match code {
            1 => Self::Admin,
            2 => Self::Member,
            code => Self::Other(code),
        }
    }
}

/// The users of a conversation. Two rosters are the same if they have the same [`Roster::id`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roster {
    /// How many rosters came before it.
    pub version: u64,
    /// The users; at most [`limits::MEMBERS`].
    pub members: BTreeMap<UserId, Role>,
}

static MEMBER: Shape = Shape { what: "member", max_len: 40, fields: &[Field::one(1, 32), Field::one(2, 0)] };

static ROSTER: Shape = Shape {
    what: "roster",
    max_len: limits::MEMBERS * 42 + 32,
    fields: &[Field::one(1, 0), Field::nested(2, limits::MEMBERS, &MEMBER)],
};

impl Roster {
    /// The first roster of some users, all of them with the same role.
    pub fn first(users: impl IntoIterator<Item = UserId>, role: Role) -> Self {
        Self { version: 0, members: users.into_iter().map(|user| (user, role)).collect() }
    }

    /// Its name: the hash of its encoding, in which the users stand in order.
    pub fn id(&self) -> RosterId {
        RosterId::of_roster(&self.encode())
    }

    /// Its encoding.
    pub fn encode(&self) -> Vec<u8> {
        self.to_pb().encode_to_vec()
    }

    /// Decodes a roster. Users that are out of order or named twice are an error: each roster has one encoding.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        ROSTER.check(bytes)?;
        Self::from_pb(pb::Roster::decode(bytes).map_err(|_| DecodeError::Malformed { what: "roster" })?)
    }

    pub(crate) fn to_pb(&self) -> pb::Roster {
        let member = |(user, role): (&UserId, &Role)| pb::RosterMember { user: user.encode(), role: role.code() };
        pb::Roster { version: self.version, members: self.members.iter().map(member).collect() }
    }

    pub(crate) fn from_pb(pb: pb::Roster) -> Result<Self, DecodeError> {
        let mut members = BTreeMap::new();
        for member in pb.members {
            let user = UserId::decode(&member.user)?;
            if members.last_key_value().is_some_and(|(last, _)| *last >= user) {
                return Err(DecodeError::invalid("roster", "its users are out of order"));
            }
            members.insert(user, Role::from_code(member.role));
        }
        Ok(Self { version: pb.version, members })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(number: u8) -> UserId {
        UserId::from_bytes([number; 32])
    }

    #[test]
    fn a_roster_has_one_encoding_and_one_name() {
        let roster = Roster::first([3, 1, 2].map(user), Role::Member);
        assert_eq!(Roster::decode(&roster.encode()).unwrap(), roster);
        assert_eq!(roster.id(), Roster::first([2, 3, 1].map(user), Role::Member).id());
        let other = Roster { version: 1, ..roster.clone() };
        let admin = Roster::first([3, 1, 2].map(user), Role::Admin);
        let newer = Roster::first([3, 1, 2].map(user), Role::Other(9));
        assert_eq!(Roster::decode(&newer.encode()).unwrap(), newer, "a newer version's role is kept");
        let ids = [&roster, &other, &admin, &newer].map(Roster::id);
        assert!((0..4).all(|a| (0..a).all(|b| ids[a] != ids[b])), "{ids:?}");
        let mut swapped = roster.to_pb();
        swapped.members.swap(0, 1);
        assert!(Roster::decode(&swapped.encode_to_vec()).is_err());
        let mut twice = roster.to_pb();
        twice.members[1] = twice.members[0].clone();
        assert!(Roster::decode(&twice.encode_to_vec()).is_err());
        let many = pb::Roster { version: 0, members: vec![twice.members[0].clone(); limits::MEMBERS + 1] };
        assert!(Roster::decode(&many.encode_to_vec()).is_err());
    }
}
