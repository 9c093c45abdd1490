//! Settled positions of a log, bound to its chain of ids.
//!
//! Each entry names its predecessor's id, so that one id stands for everything before it: a span of
//! positions is bound by the id of its last entry, and two spans that touch must agree on the id
//! between them.

use crate::entry::encode_optional;
use crate::shape::{Field, Shape};
use crate::{DecodeError, EntryId, Position, RangeSet, limits, pb};

/// The positions `first..=last`; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The lowest position.
    pub first: Position,
    /// The highest position.
    pub last: Position,
    /// The id of the entry before `first`, as the entry at `first` names it, if that is known.
    pub previous: Option<EntryId>,
    /// The id of the entry at `last`, if it is known.
    pub id: Option<EntryId>,
}

/// Positions, as disjoint spans in ascending order with a hole between any two.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain(Vec<Span>);

pub(crate) static SPAN: Shape = Shape {
    what: "span",
    max_len: 96,
    fields: &[Field::one(1, 0), Field::one(2, 0), Field::one(3, 32), Field::one(4, 32)],
};

impl Chain {
    /// The spans, ascending.
    pub fn iter(&self) -> impl Iterator<Item = &Span> + '_ {
        self.0.iter()
    }

    /// How many spans it takes to write the chain down.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `position` is in the chain.
    pub fn contains(&self, position: Position) -> bool {
        let at = self.0.partition_point(|s| s.last < position);
        self.0.get(at).is_some_and(|s| s.first <= position)
    }

    /// The id of the entry at a position, if the chain has it.
    pub fn id_at(&self, position: Position) -> Option<EntryId> {
        let at = self.0.partition_point(|s| s.last < position);
        let within = self.0.get(at).filter(|s| s.last == position).and_then(|s| s.id);
        let after = self.0.iter().find(|s| s.first.checked_sub(1) == Some(position)).and_then(|s| s.previous);
        within.or(after)
    }

    /// Adds the positions of a span that are missing. `false`: it contradicts a neighbour, and nothing
    /// was added.
    pub fn insert(&mut self, span: Span) -> bool {
        if span.first > span.last {
            return true;
        }
        let mut parts = Vec::new();
        let mut next = span.first;
        let known = self.0.iter().filter(|s| s.last >= span.first && s.first <= span.last);
        for (first, last) in known.map(|s| (s.first, s.last)).chain([(span.last.saturating_add(1), span.last)]) {
            if next < first {
                let previous = span.previous.filter(|_| next == span.first);
                let id = span.id.filter(|_| first - 1 == span.last);
                parts.push(Span { first: next, last: first - 1, previous, id });
            }
            next = next.max(last.saturating_add(1));
        }
        if !parts.iter().all(|part| self.fits(part)) {
            return false;
        }
        self.0.extend(parts);
        self.0.sort_by_key(|s| s.first);
        self.0.dedup_by(|after, before| {
            let touch = before.last.saturating_add(1) == after.first;
            if touch {
                (before.last, before.id) = (after.last, after.id);
            }
            touch
        });
        true
    }

    /// Whether a span of missing positions agrees with those beside it.
    pub fn fits(&self, span: &Span) -> bool {
        self.0.iter().all(|s| {
            let before = s.last.checked_add(1) != Some(span.first) || agree(s.id, span.previous);
            let after = span.last.checked_add(1) != Some(s.first) || agree(span.id, s.previous);
            before && after
        })
    }

    /// Removes every position up to and with `position`.
    pub fn remove_through(&mut self, position: Position) {
        self.0.retain_mut(|s| {
            if s.first <= position {
                (s.first, s.previous) = (position.saturating_add(1), None);
            }
            s.first <= s.last
        });
    }

    /// If the chain goes on right after `through`, where `id` stands, removes that span and returns its
    /// end; else what was given.
    pub fn absorb(&mut self, through: Position, id: Option<EntryId>) -> (Position, Option<EntryId>) {
        self.0.retain(|s| s.last > through);
        match self.0.first() {
            Some(s) if s.first <= through.saturating_add(1) => {
                let s = self.0.remove(0);
                (s.last, s.id)
            }
            _ => (through, id),
        }
    }

    /// The positions alone.
    pub fn positions(&self) -> RangeSet {
        let mut set = RangeSet::default();
        self.0.iter().for_each(|s| set.insert(s.first, s.last));
        set
    }

    /// As an acknowledgement says it: without the ids before spans.
    pub fn without_previous(&self) -> Self {
        Self(self.0.iter().map(|s| Span { previous: None, ..s.clone() }).collect())
    }

    /// The lowest spans, as many as one message may carry.
    pub(crate) fn to_pb(&self) -> Vec<pb::Span> {
        let span = |s: &Span| pb::Span {
            first: s.first,
            last: s.last,
            previous: encode_optional(s.previous.as_ref()),
            id: encode_optional(s.id.as_ref()),
        };
        self.iter().take(limits::RANGES).map(span).collect()
    }

    /// Takes ascending, disjoint, non-empty spans above `above`.
    pub(crate) fn from_pb(spans: &[pb::Span], above: Position, what: &'static str) -> Result<Self, DecodeError> {
        if spans.len() > limits::RANGES {
            return Err(DecodeError::TooMany { what, max: limits::RANGES });
        }
        let mut chain = Self::default();
        let mut below = above;
        for s in spans {
            if s.first <= below || s.last < s.first || s.last == u64::MAX {
                return Err(DecodeError::Invalid { what, why: "its spans are not ascending" });
            }
            below = s.last;
            let previous = EntryId::decode_optional(&s.previous)?;
            let span = Span { first: s.first, last: s.last, previous, id: EntryId::decode_optional(&s.id)? };
            if !chain.insert(span) {
                return Err(DecodeError::Invalid { what, why: "its spans contradict each other" });
            }
        }
        Ok(chain)
    }
}

impl FromIterator<Span> for Chain {
    /// Spans that contradict those before them are left out.
    fn from_iter<I: IntoIterator<Item = Span>>(spans: I) -> Self {
        let mut chain = Self::default();
        for span in spans {
            chain.insert(span);
        }
        chain
    }
}

/// Whether two ids may be the same.
pub(crate) fn agree(a: Option<EntryId>, b: Option<EntryId>) -> bool {
    a.is_none() || b.is_none() || a == b
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// The id at a position of one log; `fork` names another log with the same beginning.
    fn id(fork: u8, position: Position) -> EntryId {
        let mut bytes = [fork; 32];
        bytes[..8].copy_from_slice(&position.to_be_bytes());
        EntryId::from_bytes(bytes)
    }

    fn span(fork: u8, first: Position, last: Position) -> Span {
        Span { first, last, previous: Some(id(fork, first - 1)), id: Some(id(fork, last)) }
    }

    proptest! {
        #[test]
        fn behaves_like_a_set(spans in prop::collection::vec((1u64..60, 0u64..8), 0..20), cut in 0u64..70) {
            let (mut chain, mut model) = (Chain::default(), BTreeSet::new());
            for (first, len) in spans {
                prop_assert!(chain.insert(span(1, first, first + len)), "one log never contradicts itself");
                model.extend(first..=first + len);
            }
            for position in 0..80 {
                prop_assert_eq!(chain.contains(position), model.contains(&position));
            }
            let ends: Vec<_> = chain.iter().cloned().collect();
            prop_assert!(ends.windows(2).all(|w| w[0].last + 1 < w[1].first));
            prop_assert!(ends.iter().all(|s| s.previous == Some(id(1, s.first - 1))));
            prop_assert!(ends.iter().all(|s| s.id == Some(id(1, s.last))));
            prop_assert_eq!(&Chain::from_pb(&chain.to_pb(), 0, "test").unwrap(), &chain);

            let mut through = cut;
            model.retain(|p| *p > cut);
            while model.remove(&(through + 1)) {
                through += 1;
            }
            let (absorbed, tip) = chain.absorb(cut, Some(id(1, cut)));
            prop_assert_eq!((absorbed, tip), (through, Some(id(1, through))));
            for position in cut + 1..80 {
                prop_assert_eq!(chain.contains(position), model.contains(&position));
            }
        }

        #[test]
        fn another_log_never_joins(ours in (1u64..20, 0u64..8), theirs in (1u64..30, 0u64..8)) {
            let mut chain: Chain = [span(1, ours.0, ours.0 + ours.1)].into_iter().collect();
            let before = chain.clone();
            let other = span(2, theirs.0, theirs.0 + theirs.1);
            // Where it only touches; inside a span there is no id to compare.
            let touches = other.first == ours.0 + ours.1 + 1 || ours.0 == other.last + 1;
            prop_assert_eq!(chain.insert(other), !touches);
            prop_assert!(!touches || chain == before);
        }
    }

    fn bare(first: Position, last: Position) -> Span {
        Span { first, last, previous: None, id: None }
    }

    #[test]
    fn spans_from_outside_ascend_agree_and_are_no_more_than_fit() {
        let read = |spans: &[Span], above| {
            let spans: Vec<pb::Span> = spans
                .iter()
                .map(|s| pb::Span {
                    first: s.first,
                    last: s.last,
                    previous: encode_optional(s.previous.as_ref()),
                    id: encode_optional(s.id.as_ref()),
                })
                .collect();
            Chain::from_pb(&spans, above, "test")
        };
        let wrong = Err(DecodeError::Invalid { what: "test", why: "its spans are not ascending" });
        for bad in [
            vec![bare(9, 8)],
            vec![bare(5, 9)],
            vec![bare(6, 8), bare(8, 9)],
            vec![bare(8, 9), bare(6, 6)],
            vec![bare(7, u64::MAX)],
        ] {
            assert_eq!(read(&bad, 5), wrong, "{bad:?}");
        }
        assert!(read(&[span(1, 6, 7), span(2, 8, 9)], 5).is_err(), "two logs");
        let good = read(&[span(1, 6, 6), span(1, 7, 9), bare(11, u64::MAX - 1)], 5).unwrap();
        assert_eq!(good.iter().cloned().collect::<Vec<_>>(), [span(1, 6, 9), bare(11, u64::MAX - 1)]);
        let many = |count: u64| (1..=count).map(|n| bare(2 * n, 2 * n)).collect::<Vec<_>>();
        let most = limits::RANGES as u64;
        assert_eq!(read(&many(most), 0).map(|chain| chain.len()), Ok(limits::RANGES));
        assert_eq!(read(&many(most + 1), 0), Err(DecodeError::TooMany { what: "test", max: limits::RANGES }));
        let chain: Chain = many(most + 1).into_iter().collect();
        assert_eq!(chain.to_pb().len(), limits::RANGES, "what has more says the lowest");
        assert!(!chain.is_empty() && Chain::default().is_empty());
    }

    #[test]
    fn ids_are_known_at_ends_and_before_beginnings() {
        let chain: Chain = [span(1, 3, 5), span(1, 8, 9)].into_iter().collect();
        let known: Vec<Position> = (0..12).filter(|p| chain.id_at(*p).is_some()).collect();
        assert_eq!(known, [2, 5, 7, 9]);
        assert!(known.iter().all(|p| chain.id_at(*p) == Some(id(1, *p))));
        let acknowledged = chain.without_previous();
        assert_eq!((acknowledged.id_at(2), acknowledged.id_at(5)), (None, Some(id(1, 5))));
        assert_eq!(chain.positions(), [3, 4, 5, 8, 9].into_iter().collect());
    }

    #[test]
    fn what_fills_a_hole_keeps_the_ids_of_its_own_ends_alone() {
        let mut chain: Chain = [bare(4, 5)].into_iter().collect();
        assert!(chain.insert(span(1, 2, 8)));
        assert_eq!(chain.iter().cloned().collect::<Vec<_>>(), [span(1, 2, 8)]);
        let mut within: Chain = [span(1, 2, 8)].into_iter().collect();
        assert!(within.insert(span(2, 3, 5)), "nothing of it is missing");
        assert_eq!(within.id_at(5), None);
        let mut after: Chain = [bare(2, 5)].into_iter().collect();
        assert!(after.insert(span(1, 4, 7)));
        assert_eq!((after.id_at(7), after.id_at(1), after.id_at(3)), (Some(id(1, 7)), None, None));
        let mut before: Chain = [bare(4, 7)].into_iter().collect();
        assert!(before.insert(span(1, 2, 5)));
        assert_eq!((before.id_at(1), before.id_at(5), before.id_at(7)), (Some(id(1, 1)), None, None));
        assert!(before.insert(bare(9, 8)) && before.len() == 1, "an empty span is no span");
    }

    #[test]
    fn what_is_cut_off_takes_its_id_with_it() {
        let mut chain: Chain = [span(1, 2, 5), span(1, 8, 9)].into_iter().collect();
        chain.remove_through(1);
        assert_eq!(chain.id_at(1), Some(id(1, 1)), "nothing of it is cut");
        chain.remove_through(2);
        assert_eq!(chain.iter().next(), Some(&Span { previous: None, ..span(1, 3, 5) }));
        chain.remove_through(5);
        assert_eq!((chain.len(), chain.id_at(7)), (1, Some(id(1, 7))));
        let mut ahead: Chain = [span(1, 8, 9)].into_iter().collect();
        assert_eq!(ahead.absorb(6, Some(id(1, 6))), (6, Some(id(1, 6))));
        assert_eq!(ahead.absorb(7, Some(id(1, 7))), (9, Some(id(1, 9))));
        assert!(ahead.is_empty());
        let mut within: Chain = [span(1, 4, 9)].into_iter().collect();
        assert_eq!(within.absorb(6, None), (9, Some(id(1, 9))));
        let mut behind: Chain = [span(1, 4, 6)].into_iter().collect();
        assert_eq!((behind.absorb(6, None), behind.len()), ((6, None), 0));
    }

    #[test]
    fn the_far_end_does_not_overflow() {
        let mut chain = Chain::default();
        // `u64::MAX` is no position.
        let far = |first| Span { first, last: u64::MAX - 1, previous: None, id: None };
        assert!(chain.insert(far(u64::MAX - 1)) && chain.insert(far(u64::MAX - 2)));
        assert_eq!(chain.absorb(u64::MAX - 3, None), (u64::MAX - 1, None));
    }
}
