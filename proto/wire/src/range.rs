//! Ranges of log positions, and bounded sets of them.

use crate::{DecodeError, limits, pb};

/// The positions `first..=last`; never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The lowest position.
    pub first: u64,
    /// The highest position.
    pub last: u64,
}

/// Positions, as disjoint ranges in ascending order with a hole between any two.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangeSet(Vec<Range>);

impl RangeSet {
    /// The ranges, ascending.
    pub fn iter(&self) -> impl Iterator<Item = Range> + '_ {
        self.0.iter().copied()
    }

    /// How many ranges it takes to write the set down.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `position` is in the set.
    pub fn contains(&self, position: u64) -> bool {
        let at = self.0.partition_point(|r| r.last < position);
        self.0.get(at).is_some_and(|r| r.first <= position)
    }

    /// Adds the positions `first..=last`; does nothing when `first > last`.
    pub fn insert(&mut self, first: u64, last: u64) {
        if first > last {
            return;
        }
        let from = self.0.partition_point(|r| r.last.saturating_add(1) < first);
        let to = self.0.partition_point(|r| r.first <= last.saturating_add(1));
        let mut merged = Range { first, last };
        if let Some(touched) = self.0.get(from..to).filter(|t| !t.is_empty()) {
            merged.first = merged.first.min(touched[0].first);
            merged.last = merged.last.max(touched[touched.len() - 1].last);
        }
        self.0.splice(from..to.max(from), [merged]);
    }

    /// The positions of `first..=last` that are not in the set, as ranges.
    pub fn gaps(&self, first: u64, last: u64) -> Vec<Range> {
        let mut gaps = Vec::new();
        let mut next = first;
        for r in self.0.iter().filter(|r| r.last >= first && r.first <= last) {
            if next < r.first {
                gaps.push(Range { first: next, last: r.first - 1 });
            }
            next = r.last.saturating_add(1);
        }
        if next <= last {
            gaps.push(Range { first: next, last });
        }
        gaps
    }

    /// Removes every position up to and with `position`.
    pub fn remove_through(&mut self, position: u64) {
        self.0.retain_mut(|r| {
            r.first = r.first.max(position.saturating_add(1));
            r.first <= r.last
        });
    }

    /// Removes one position.
    pub fn remove(&mut self, position: u64) {
        let at = self.0.partition_point(|r| r.last < position);
        if let Some(r) = self.0.get(at).copied().filter(|r| r.first <= position) {
            let before = (r.first < position).then(|| Range { first: r.first, last: position - 1 });
            let after = (position < r.last).then(|| Range { first: position + 1, last: r.last });
            self.0.splice(at..=at, before.into_iter().chain(after));
        }
    }

    /// Adds the lowest holes until at most `max` ranges are left.
    pub fn fill_lowest(&mut self, max: usize) {
        while self.0.len() > max.max(1) {
            let lowest = self.0.remove(0);
            if let Some(next) = self.0.first_mut() {
                next.first = lowest.first;
            }
        }
    }

    /// Drops the lowest ranges until at most `max` are left.
    pub fn keep_highest(&mut self, max: usize) {
        self.0.drain(..self.0.len().saturating_sub(max));
    }

    /// If the set begins right after `through`, removes that range and returns its end; else `through`.
    pub fn absorb(&mut self, through: u64) -> u64 {
        self.remove_through(through);
        match self.0.first() {
            Some(r) if r.first == through.saturating_add(1) => self.0.remove(0).last,
            _ => through,
        }
    }

    /// The lowest ranges, as many as one message may carry.
    pub(crate) fn to_pb(&self) -> Vec<pb::Range> {
        self.iter().take(limits::RANGES).map(|r| pb::Range { first: r.first, last: r.last }).collect()
    }

    /// Takes ascending, disjoint, non-empty ranges above `above`.
    pub(crate) fn from_pb(ranges: &[pb::Range], above: u64, what: &'static str) -> Result<Self, DecodeError> {
        if ranges.len() > limits::RANGES {
            return Err(DecodeError::TooMany { what, max: limits::RANGES });
        }
        let mut set = Self::default();
        let mut previous = above;
        for r in ranges {
            if r.first <= previous || r.last < r.first || r.last == u64::MAX {
                return Err(DecodeError::Invalid { what, why: "its ranges are not ascending" });
            }
            previous = r.last;
            set.insert(r.first, r.last);
        }
        Ok(set)
    }
}

impl FromIterator<u64> for RangeSet {
    fn from_iter<I: IntoIterator<Item = u64>>(positions: I) -> Self {
        let mut set = Self::default();
        for position in positions {
            set.insert(position, position);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_like_a_set(ranges in prop::collection::vec((1u64..60, 0u64..8), 0..20), cut in 0u64..70) {
            let (mut set, mut model) = (RangeSet::default(), BTreeSet::new());
            for (first, len) in ranges {
                set.insert(first, first + len);
                model.extend(first..=first + len);
            }
            for position in 0..80 {
                prop_assert_eq!(set.contains(position), model.contains(&position));
            }
            // Written down and read back, the set is the same and minimal.
            let written = set.to_pb();
            prop_assert_eq!(&RangeSet::from_pb(&written, 0, "test").unwrap(), &set);
            let ranges: Vec<_> = set.iter().collect();
            prop_assert!(ranges.windows(2).all(|w| w[0].last + 1 < w[1].first));

            let gaps: Vec<u64> = set.gaps(cut, 75).into_iter().flat_map(|r| r.first..=r.last).collect();
            prop_assert_eq!(gaps, (cut..=75).filter(|p| !model.contains(p)).collect::<Vec<_>>());

            let mut filled = set.clone();
            filled.fill_lowest(3);
            prop_assert!(filled.len() <= 3 && set.iter().all(|r| (r.first..=r.last).all(|p| filled.contains(p))));
            let bounds = |set: &RangeSet| (set.iter().next().map(|r| r.first), set.iter().last().map(|r| r.last));
            prop_assert_eq!(bounds(&filled), bounds(&set));
            for position in (0..80).step_by(3) {
                set.remove(position);
                model.remove(&position);
            }
            for position in 0..80 {
                prop_assert_eq!(set.contains(position), model.contains(&position));
            }

            let mut through = cut;
            model.retain(|p| *p > cut);
            while model.remove(&(through + 1)) {
                through += 1;
            }
            prop_assert_eq!(set.absorb(cut), through);
            for position in 0..80 {
                prop_assert_eq!(set.contains(position), model.contains(&position));
            }
        }
    }

    fn ranges(of: &[(u64, u64)]) -> Vec<pb::Range> {
        of.iter().map(|(first, last)| pb::Range { first: *first, last: *last }).collect()
    }

    #[test]
    fn ranges_from_outside_ascend_and_are_no_more_than_fit() {
        let read = |of: &[(u64, u64)], above| RangeSet::from_pb(&ranges(of), above, "test");
        let wrong = Err(DecodeError::Invalid { what: "test", why: "its ranges are not ascending" });
        for bad in [&[(3, 2)][..], &[(5, 9)], &[(6, 8), (8, 9)], &[(8, 9), (6, 6)], &[(7, u64::MAX)], &[(4, 9)]] {
            assert_eq!(read(bad, 5), wrong, "{bad:?}");
        }
        let good = read(&[(6, 6), (7, 9), (11, u64::MAX - 1)], 5).unwrap();
        assert_eq!(good.iter().map(|r| (r.first, r.last)).collect::<Vec<_>>(), [(6, 9), (11, u64::MAX - 1)]);
        let many = |count: u64| (1..=count).map(|n| (2 * n, 2 * n)).collect::<Vec<_>>();
        let most = limits::RANGES as u64;
        assert_eq!(read(&many(most), 0).unwrap().len(), limits::RANGES);
        assert_eq!(read(&many(most + 1), 0), Err(DecodeError::TooMany { what: "test", max: limits::RANGES }));
        // What has more says the lowest.
        let set: RangeSet = (1..=most + 1).map(|n| 2 * n).collect();
        assert_eq!(set.to_pb(), ranges(&many(most)));
    }

    #[test]
    fn sets_are_cut_to_so_many_ranges() {
        let set: RangeSet = [1, 2, 4, 6, 8].into_iter().collect();
        assert_eq!((set.len(), set.is_empty(), RangeSet::default().is_empty()), (4, false, true));
        for max in 0..6 {
            let (mut filled, mut cut) = (set.clone(), set.clone());
            filled.fill_lowest(max);
            cut.keep_highest(max);
            assert_eq!((filled.len(), cut.len()), (max.clamp(1, 4), max.min(4)));
            assert!([1, 2, 4, 6, 8].into_iter().all(|p| filled.contains(p)));
            assert!(cut.iter().all(|r| set.contains(r.first)) && (max == 0 || cut.contains(8)));
        }
    }

    #[test]
    fn the_far_end_does_not_overflow() {
        let mut set = RangeSet::default();
        set.insert(u64::MAX, u64::MAX);
        set.insert(u64::MAX - 1, u64::MAX - 1);
        assert_eq!(set.len(), 1);
        assert_eq!(set.absorb(u64::MAX - 2), u64::MAX);
    }
}
