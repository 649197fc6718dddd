//! Which records may be worked on now: order within a lane, any number of lanes at the same time, up to a limit.
//!
//! A lane is a key (`ordering: key`), a partition (`ordering: partition`) or nothing (`ordering: none`). A record that
//! fails and is tried again holds its lane, and one of the places, until its verdict; other lanes go on. Lanes that
//! have room for work are served in the order their records came.
//!
//! Pure: `W` is whatever the caller wants back when it is time.

use std::collections::hash_map::{Entry, RandomState};
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;

use crate::failpoint::{Rule, keeps};
use crate::plan::pipeline::Ordering;

/// What stays in order with what. Two keys may share a lane by chance of hashing: they wait for each other, no more.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Lane(Option<u64>);

/// Lanes of one consumer group.
#[derive(Debug)]
pub struct Lanes<W> {
    ordering: Ordering,
    running_max: usize,
    running: usize,
    /// Lanes with work that runs or is about to; what waits behind it.
    busy: HashMap<u64, VecDeque<W>>,
    /// Work whose lane is free, waiting for a place.
    startable: VecDeque<(Lane, W)>,
    waiting: usize,
    hasher: RandomState,
}

impl<W> Lanes<W> {
    /// Lanes with `running_max` places; at least one.
    pub fn new(ordering: Ordering, running_max: usize) -> Self {
        Self {
            ordering,
            running_max: running_max.max(1),
            running: 0,
            busy: HashMap::new(),
            startable: VecDeque::new(),
            waiting: 0,
            hasher: RandomState::new(),
        }
    }

    /// The lane of a record. Records without a key have no order to keep, except that of their partition.
    pub fn lane(&self, partition: usize, key: Option<&[u8]>) -> Lane {
        match (self.ordering, key) {
            (Ordering::None, _) | (Ordering::Key, None) => Lane(None),
            (Ordering::Key, Some(_)) if !keeps(Rule::KeyOrder) => Lane(None),
            (Ordering::Key, Some(key)) => Lane(Some(self.hasher.hash_one((partition, key)))),
            (Ordering::Partition, _) => Lane(Some(self.hasher.hash_one(partition))),
        }
    }

    /// Queues work behind all earlier work of its lane.
    pub fn push(&mut self, lane: Lane, work: W) {
        self.waiting += 1;
        match lane.0.map(|lane| self.busy.entry(lane)) {
            Some(Entry::Occupied(mut behind)) => behind.get_mut().push_back(work),
            Some(Entry::Vacant(free)) => {
                free.insert(VecDeque::new());
                self.startable.push_back((lane, work));
            }
            None => self.startable.push_back((lane, work)),
        }
    }

    /// The next work to begin, if there is a place for it. The caller says [`Self::finish`] when it ended.
    pub fn start(&mut self) -> Option<(Lane, W)> {
        if self.running >= self.running_max {
            return None;
        }
        let begun = self.startable.pop_front()?;
        self.waiting -= 1;
        self.running += 1;
        Some(begun)
    }

    /// Takes a place for work that keeps no order, even when there is none.
    pub fn enter(&mut self) -> Lane {
        self.running += 1;
        Lane(None)
    }

    /// Work of `lane` ended: the next of its lane may begin.
    pub fn finish(&mut self, lane: Lane) {
        debug_assert!(self.running > 0, "finish without start");
        self.running = self.running.saturating_sub(1);
        let Some(hash) = lane.0 else { return };
        let Entry::Occupied(mut behind) = self.busy.entry(hash) else { return };
        match behind.get_mut().pop_front() {
            Some(next) => self.startable.push_back((lane, next)),
            None => {
                behind.remove();
            }
        }
    }

    /// Forgets waiting work that `is_dead` says is not wanted any more.
    pub fn discard(&mut self, mut is_dead: impl FnMut(&W) -> bool) {
        for behind in self.busy.values_mut() {
            behind.retain(|work| !is_dead(work));
        }
        let mut freed = Vec::new();
        self.startable.retain(|(lane, work)| {
            let dead = is_dead(work);
            if dead {
                freed.push(*lane);
            }
            !dead
        });
        for lane in freed {
            // As if it had been started and had ended.
            self.running += 1;
            self.finish(lane);
        }
        self.waiting = self.startable.len() + self.busy.values().map(VecDeque::len).sum::<usize>();
    }

    /// Work begun and not finished.
    pub fn running(&self) -> usize {
        self.running
    }

    /// Work not yet begun.
    pub fn waiting(&self) -> usize {
        self.waiting
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_slow_key_holds_up_nobody_else() {
        let mut lanes = Lanes::new(Ordering::Key, 2);
        for (key, work) in [("a", 1), ("a", 2), ("b", 3), ("c", 4)] {
            lanes.push(lanes.lane(0, Some(key.as_bytes())), work);
        }
        let (slow, first) = lanes.start().expect("a place");
        assert_eq!(first, 1);
        for expected in [3, 4] {
            let (lane, work) = lanes.start().expect("the other place");
            assert_eq!(work, expected);
            assert!(lanes.start().is_none(), "two places");
            lanes.finish(lane);
        }
        assert!(lanes.start().is_none(), "2 waits for 1");
        lanes.finish(slow);
        assert_eq!(lanes.start().map(|(_, work)| work), Some(2));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push { key: u8, has_key: bool },
        Start,
        Finish { which: usize },
        Discard { partition: usize },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            5 => (0..6u8, prop::bool::weighted(0.9)).prop_map(|(key, has_key)| Step::Push { key, has_key }),
            5 => Just(Step::Start),
            4 => any::<usize>().prop_map(|which| Step::Finish { which }),
            1 => (0..3usize).prop_map(|partition| Step::Discard { partition }),
        ]
    }

    fn ordering() -> impl Strategy<Value = Ordering> {
        prop_oneof![Just(Ordering::Key), Just(Ordering::Partition), Just(Ordering::None)]
    }

    /// Partition, key, number in order of arrival.
    type Work = (usize, Option<u8>, usize);

    fn must_wait(ordering: Ordering, later: &Work, earlier: &Work) -> bool {
        match ordering {
            Ordering::None => false,
            Ordering::Partition => later.0 == earlier.0,
            Ordering::Key => later.1.is_some() && (later.0, later.1) == (earlier.0, earlier.1),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        /// Nothing begins while something earlier of its lane is waiting or running; nothing is forgotten; places
        /// are used whenever there is work for them.
        #[test]
        fn keeps_order_and_uses_its_places(
            ordering in ordering(),
            places in 1..5usize,
            steps in prop::collection::vec(step(), 1..150),
        ) {
            let mut lanes: Lanes<Work> = Lanes::new(ordering, places);
            let mut running: Vec<(Lane, Work)> = Vec::new();
            let mut waiting: BTreeSet<Work> = BTreeSet::new();
            let mut number = 0;
            for step in steps {
                match step {
                    Step::Push { key, has_key } => {
                        number += 1;
                        let work = (usize::from(key % 3), has_key.then_some(key), number);
                        let bytes = [key];
                        let lane = lanes.lane(work.0, has_key.then_some(&bytes[..]));
                        lanes.push(lane, work);
                        waiting.insert(work);
                    }
                    Step::Start => match lanes.start() {
                        Some((lane, work)) => {
                            prop_assert!(waiting.remove(&work));
                            let before = waiting.iter().filter(|other| other.2 < work.2);
                            for other in before.chain(running.iter().map(|(_, other)| other)) {
                                prop_assert!(!must_wait(ordering, &work, other), "{work:?} before {other:?}");
                            }
                            running.push((lane, work));
                        }
                        None if running.len() < places => {
                            for work in &waiting {
                                let held = running.iter().any(|(_, other)| must_wait(ordering, work, other));
                                prop_assert!(held, "{work:?} could run");
                            }
                        }
                        None => {}
                    },
                    Step::Finish { which } => {
                        if !running.is_empty() {
                            let (lane, _) = running.swap_remove(which % running.len());
                            lanes.finish(lane);
                        }
                    }
                    Step::Discard { partition } => {
                        lanes.discard(|work| work.0 == partition);
                        waiting.retain(|work| work.0 != partition);
                    }
                }
                prop_assert_eq!(lanes.running(), running.len());
                prop_assert_eq!(lanes.waiting(), waiting.len());
            }
        }
    }
}
