//! What waits for the delivery thread: a lane for each device and one for this node's own calls, served so that each
//! that has something gets the same time. What one device sends may be as expensive as it likes: others don't wait
//! longer for it than for one input.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use peerloom_core::wire::DeviceId;

/// A device's frames, or (`None`) this node's own calls and news of its links.
pub(super) type Lane = Option<DeviceId>;

/// The least that an input costs, so that free ones take turns, too.
const LEAST: Duration = Duration::from_micros(1);
/// Lanes that are remembered although nothing waits in them.
const IDLE: usize = 1024;

/// Inputs in order within each lane.
pub(super) struct FairQueue<T> {
    lanes: HashMap<Lane, Waiting<T>>,
    /// Lanes with inputs, by the time that they have had.
    order: BTreeSet<(Duration, Lane)>,
    /// The time that the lane which was served last had had: no lane that comes later begins below.
    served: Duration,
    /// With more lanes than this, those that are of no use are forgotten.
    most: usize,
}

struct Waiting<T> {
    inputs: VecDeque<T>,
    had: Duration,
}

impl<T> FairQueue<T> {
    pub(super) fn new() -> Self {
        Self { lanes: HashMap::new(), order: BTreeSet::new(), served: Duration::ZERO, most: IDLE }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    pub(super) fn push(&mut self, lane: Lane, input: T) {
        if self.lanes.len() > self.most {
            let served = self.served;
            self.lanes.retain(|_, waiting| !waiting.inputs.is_empty() || waiting.had > served);
            // Looked at again only once there are twice as many: all of them may wait.
            self.most = IDLE.max(self.lanes.len() * 2);
        }
        let waiting = self.lanes.entry(lane).or_insert_with(|| Waiting { inputs: VecDeque::new(), had: self.served });
        if waiting.inputs.is_empty() {
            waiting.had = waiting.had.max(self.served);
            self.order.insert((waiting.had, lane));
        }
        waiting.inputs.push_back(input);
    }

    /// The first input of the lane that has had the least time. What it costs goes to [`FairQueue::charge`].
    pub(super) fn pop(&mut self) -> Option<(Lane, T)> {
        let (had, lane) = self.order.pop_first()?;
        self.served = had;
        let waiting = self.lanes.get_mut(&lane)?;
        let input = waiting.inputs.pop_front()?;
        if !waiting.inputs.is_empty() {
            self.order.insert((had, lane));
        }
        Some((lane, input))
    }

    /// A lane's input took this long.
    pub(super) fn charge(&mut self, lane: Lane, cost: Duration) {
        let Some(waiting) = self.lanes.get_mut(&lane) else {
            return;
        };
        let waits = self.order.remove(&(waiting.had, lane));
        waiting.had += cost.max(LEAST);
        if waits {
            self.order.insert((waiting.had, lane));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOOD: Lane = Some(DeviceId::from_bytes([1; 32]));
    const QUIET: Lane = Some(DeviceId::from_bytes([2; 32]));

    /// What is served first, with a flood of inputs that take 20 ms each beside lanes whose inputs take 1 ms.
    #[test]
    fn expensive_inputs_of_one_lane_keep_no_other_waiting() {
        let mut queue = FairQueue::new();
        (0..1000).for_each(|number| queue.push(FLOOD, number));
        let mut served = Vec::new();
        for round in 0..200 {
            if round == 50 {
                (0..30).for_each(|number| queue.push(None, number));
                (0..30).for_each(|number| queue.push(QUIET, number));
            }
            let (lane, number) = queue.pop().unwrap();
            served.push((lane, number));
            queue.charge(lane, Duration::from_millis(if lane == FLOOD { 20 } else { 1 }));
        }
        for lane in [None, QUIET, FLOOD] {
            let numbers: Vec<i32> = served.iter().filter(|(l, _)| *l == lane).map(|(_, n)| *n).collect();
            assert!(numbers.is_sorted(), "{lane:?} is out of order");
        }
        let before_last = served.iter().rposition(|(lane, _)| *lane != FLOOD).unwrap();
        let flood = served[50..before_last].iter().filter(|(lane, _)| *lane == FLOOD).count();
        assert!(flood <= 4, "{flood} expensive inputs came before 60 cheap ones");
    }

    /// Nor does it help to have only one input waiting at a time.
    #[test]
    fn a_lane_that_was_empty_has_no_credit() {
        let mut queue = FairQueue::new();
        (0..100).for_each(|number| queue.push(QUIET, number));
        let mut expensive = 0;
        queue.push(FLOOD, 0);
        while let Some((lane, _)) = queue.pop() {
            let flood = lane == FLOOD;
            queue.charge(lane, Duration::from_millis(if flood { 20 } else { 1 }));
            if flood {
                expensive += 1;
                queue.push(FLOOD, 0);
            }
            if !queue.lanes[&QUIET].inputs.is_empty() {
                continue;
            }
            break;
        }
        assert!(expensive <= 6, "{expensive}");
    }

    #[test]
    fn lanes_that_are_gone_are_forgotten() {
        let mut queue = FairQueue::new();
        for number in 0..100_000u32 {
            let mut id = [0; 32];
            id[..4].copy_from_slice(&number.to_be_bytes());
            let lane = Some(DeviceId::from_bytes(id));
            queue.push(lane, ());
            queue.pop().unwrap();
            queue.charge(lane, LEAST);
            queue.push(None, ());
            queue.pop().unwrap();
            queue.charge(None, LEAST * 2);
        }
        assert!(queue.lanes.len() < 3 * IDLE, "{}", queue.lanes.len());
    }
}
