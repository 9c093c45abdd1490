//! What the other side of a link may send: a table of frames by role.
//!
//! A frame that its role isn't allowed is dropped and counted before its signatures are looked at; the link goes on.
//! One that comes too fast waits, and with it what is behind it on its channel. The allowances of a device count for
//! all its links. Beside them each frame holds a share of the device's budget (`net/links/budget.rs`), what breaks a rule
//! is counted (`driver/patience.rs`), and signals have allowances where they are carried (`net/signals/links.rs`).

use std::fmt;
use std::time::Duration;

use peerloom_core::wire::Allowance;
use peerloom_core::wire::frame::{FrameKind, KINDS};
use tokio::time::Instant;

/// What the device at the other end of a link is to this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinkRole {
    /// Another device of this node's user.
    Own,
    /// A device of a contact.
    Contact,
    /// A device of no contact, with which this node has a link for a service alone.
    Service,
}

impl fmt::Display for LinkRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Own => "own",
            Self::Contact => "contact",
            Self::Service => "service",
        })
    }
}

/// How often frames of a kind may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rate {
    /// As fast as they are handled.
    AsHandled,
    /// So many at once, and one more each time.
    Paced(u32, Duration),
}

use Rate::{AsHandled, Paced};

/// A list takes up to 300 signatures to verify, some 30 ms.
const LISTS: Option<Rate> = Some(Paced(128, Duration::from_millis(100)));
/// A record is stored, and sent again when its device's addresses change.
const RECORDS: Option<Rate> = Some(Paced(32, Duration::from_secs(1)));
/// A notice is the same on each link.
const NOTICES: Option<Rate> = Some(Paced(8, Duration::from_secs(1)));
/// One for each conversation when a link comes up; each has up to three signatures.
const SHOWN: Option<Rate> = Some(Paced(4096, Duration::from_millis(2)));
/// A key package takes new keys, and rows of the store.
const KEYS: Option<Rate> = Some(Paced(4096, Duration::from_millis(10)));
const HANDLED: Option<Rate> = Some(AsHandled);
const REFUSED: Option<Rate> = None;

/// What each role may send of one kind.
struct Rule {
    kind: u32,
    own: Option<Rate>,
    contact: Option<Rate>,
    service: Option<Rate>,
}

const fn rule(kind: u32, [own, contact, service]: [Option<Rate>; 3]) -> Rule {
    Rule { kind, own, contact, service }
}

/// The table. Own devices share no conversation yet, so they send nothing about one.
///
/// | kind | own | contact | service |
static RULES: [Rule; KINDS.len()] = [
    /* envelope */ rule(1, [REFUSED, HANDLED, REFUSED]),
    /* ack */ rule(2, [REFUSED, HANDLED, REFUSED]),
    /* cannot-open */ rule(3, [REFUSED, HANDLED, REFUSED]),
    /* withdrawal */ rule(4, [REFUSED, HANDLED, REFUSED]),
    /* gap-request */ rule(5, [REFUSED, HANDLED, REFUSED]),
    /* key-package-request */ rule(6, [REFUSED, KEYS, REFUSED]),
    /* key-package */ rule(7, [REFUSED, KEYS, REFUSED]),
    /* record */ rule(8, [RECORDS, RECORDS, RECORDS]),
    /* signal */ rule(9, [HANDLED, HANDLED, HANDLED]),
    /* held */ rule(10, [REFUSED, SHOWN, REFUSED]),
    /* restored */ rule(11, [NOTICES, NOTICES, REFUSED]),
    /* not-for-you */ rule(12, [REFUSED, HANDLED, REFUSED]),
    /* devices */ rule(13, [LISTS, LISTS, REFUSED]),
];

/// The row of each kind stands where the kind does.
const _: () = {
    let mut at = 0;
    while at < KINDS.len() {
        assert!(RULES[at].kind == KINDS[at].number);
        at += 1;
    }
};

fn row(kind: &FrameKind) -> Option<(usize, &'static Rule)> {
    RULES.iter().enumerate().find(|(_, rule)| rule.kind == kind.number)
}

impl Rule {
    fn of(&self, role: LinkRole) -> Option<Rate> {
        match role {
            LinkRole::Own => self.own,
            LinkRole::Contact => self.contact,
            LinkRole::Service => self.service,
        }
    }
}

/// What becomes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passage {
    /// It is taken.
    Taken,
    /// Its turn comes after so long.
    Later(Duration),
    /// Its role may not send it.
    NotAllowed,
}

/// What a device may still send, over all its links.
#[derive(Debug, Default)]
pub(crate) struct Allowances {
    /// As what it was sending.
    role: Option<LinkRole>,
    left: [Option<Allowance<Instant>>; KINDS.len()],
}

impl Allowances {
    /// Whether a frame of a kind may be taken now; it counts if it is.
    pub(crate) fn pass(&mut self, role: LinkRole, kind: &FrameKind, now: Instant) -> Passage {
        if self.role != Some(role) {
            *self = Self { role: Some(role), left: Default::default() };
        }
        let Some((at, rule)) = row(kind) else { return Passage::NotAllowed };
        match (rule.of(role), self.left.get_mut(at)) {
            (Some(AsHandled), _) => Passage::Taken,
            (Some(Paced(at_once, every)), Some(left)) => {
                let left = left.get_or_insert_with(|| Allowance::full(at_once));
                match left.wait(now, every) {
                    Some(wait) => Passage::Later(wait),
                    None => {
                        left.spend(now, every);
                        Passage::Taken
                    }
                }
            }
            _ => Passage::NotAllowed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLES: [LinkRole; 3] = [LinkRole::Own, LinkRole::Contact, LinkRole::Service];

    fn allowed(role: LinkRole) -> Vec<&'static str> {
        let now = Instant::now();
        let may = |kind: &&FrameKind| Allowances::default().pass(role, kind, now) != Passage::NotAllowed;
        KINDS.iter().filter(may).map(|kind| kind.name).collect()
    }

    #[test]
    fn each_role_has_its_frames() {
        assert_eq!(allowed(LinkRole::Own), ["record", "signal", "restored", "devices"]);
        assert_eq!(allowed(LinkRole::Contact).len(), KINDS.len(), "everything that is about conversations");
        assert_eq!(allowed(LinkRole::Service), ["record", "signal"]);
    }

    #[test]
    fn what_comes_too_fast_waits_and_another_kind_does_not() {
        for role in ROLES {
            for (kind, rule) in KINDS.iter().zip(&RULES) {
                let Some(Paced(at_once, every)) = rule.of(role) else { continue };
                let (mut allowances, begin) = (Allowances::default(), Instant::now());
                for _ in 0..at_once {
                    assert_eq!(allowances.pass(role, kind, begin), Passage::Taken, "{role} {}", kind.name);
                }
                assert_eq!(allowances.pass(role, kind, begin), Passage::Later(every), "{role} {}", kind.name);
                let signal = &KINDS[8];
                assert_eq!(allowances.pass(role, signal, begin), Passage::Taken);
                // Asking takes nothing.
                assert_eq!(allowances.pass(role, kind, begin + every), Passage::Taken);
                assert_eq!(allowances.pass(role, kind, begin + every), Passage::Later(every));
                // A device with another role begins with that one's allowances.
                let other = if role == LinkRole::Contact { LinkRole::Service } else { LinkRole::Contact };
                assert_ne!(allowances.pass(other, kind, begin + every), Passage::Later(every));
            }
        }
    }
}
