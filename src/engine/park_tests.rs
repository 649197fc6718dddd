use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::engine::assignment::Assignment;
use crate::engine::comeback::{self, Destination, Past};
use crate::engine::completed::Completed;
use crate::position::Epoch;

const TIERS: usize = 2;
const DELAYS_MS: [i64; TIERS] = [1_000, 5_000];

fn line() -> Line {
    let tiers = DELAYS_MS.map(|delay| Duration::from_millis(delay.unsigned_abs()));
    let companions = crate::plan::topics::companions("p", &[Arc::from("in")], &tiers).remove(0);
    Line { pipeline: 0, companions, keeps_order: true }
}

fn park(held_bytes_max: usize) -> Park {
    Park::new(vec![line()], held_bytes_max)
}

fn partition(level: usize) -> Partition {
    match level {
        0 => Partition::new("in", 0),
        _ => Partition::new(Arc::clone(&line().companions.tiers[level - 1].topic), 0),
    }
}

fn key(key: u8) -> Bytes {
    Bytes::from(vec![key])
}

/// A record on a topic, with the offset that it had on the input.
#[derive(Clone, Debug)]
struct Written {
    key: u8,
    origin: usize,
    due_ms: i64,
}

/// What a record that is in work comes to.
#[derive(Clone, Debug)]
enum Outcome {
    Ended(Written),
    Moved(usize, Written),
}

/// One worker against topics of one partition, with all that can happen to it.
struct World {
    /// Committed records of each level; the input is level 0.
    topics: Vec<Vec<Written>>,
    committed: Vec<usize>,
    read: Vec<usize>,
    /// In work, by level: offset, record, and what it came to.
    open: Vec<VecDeque<(usize, Written, Option<Outcome>)>>,
    /// Begun, with what it will come to: level and offset.
    running: Vec<(usize, usize, Outcome)>,
    released: Option<Vec<(usize, usize)>>,
    park: Park,
    assignment: Assignment,
    now_ms: i64,
    ended: Vec<Written>,
    held_bytes_max: usize,
}

impl World {
    fn new(keys: &[u8], held_bytes_max: usize) -> Self {
        let input = keys.iter().enumerate();
        let input = input.map(|(origin, key)| Written { key: *key, origin, due_ms: 0 }).collect();
        let mut topics = vec![input];
        topics.resize(TIERS + 1, Vec::new());
        let mut world = Self {
            topics,
            committed: vec![0; TIERS + 1],
            read: Vec::new(),
            open: Vec::new(),
            running: Vec::new(),
            released: None,
            park: park(held_bytes_max),
            assignment: Assignment::default(),
            now_ms: 1_000_000,
            ended: Vec::new(),
            held_bytes_max,
        };
        world.restart();
        world
    }

    /// Everything in memory is lost; what waits is read from the topics.
    fn restart(&mut self) {
        self.park = park(self.held_bytes_max);
        self.read = self.committed.clone();
        self.open = vec![VecDeque::new(); TIERS + 1];
        self.running.clear();
        self.released = None;
        for level in 0..=TIERS {
            let partition = partition(level);
            self.assignment.begin(&partition, Epoch(0), None, Completed::default());
            let mut found = Found { end: self.topics[level].len() as i64, ..Found::default() };
            for waiting in &self.topics[level][self.committed[level]..] {
                found.add(self.park.hash(&key(waiting.key)));
            }
            self.park.begin(&partition, found);
        }
    }

    fn read_one(&mut self, level: usize) {
        let Some(written) = self.topics[level].get(self.read[level]).cloned() else { return };
        if self.park.is_waiting(level) {
            return;
        }
        let offset = self.read[level];
        self.read[level] += 1;
        let record = self.record(level, offset, &written);
        let arrival = match level {
            0 => Arrival::Due,
            _ => self.park.arrival(level, &record, written.due_ms, self.now_ms),
        };
        if arrival == Arrival::Skipped {
            return;
        }
        self.park.read(&partition(level), offset as i64, record.key.as_deref());
        let ticket = Ticket { partition: level, epoch: Epoch(0), offset: offset as i64 };
        match arrival {
            Arrival::Held => self.park.hold(ticket, record, written.due_ms),
            _ => self.open[level].push_back((offset, written, None)),
        }
    }

    fn record(&self, level: usize, offset: usize, written: &Written) -> InRecord {
        let Partition { topic, number } = partition(level);
        InRecord {
            topic,
            partition: number,
            offset: offset as i64,
            timestamp_ms: None,
            key: Some(key(written.key)),
            value: Some(Bytes::from_static(&[0; 50])),
            headers: Vec::new(),
        }
    }

    fn pass(&mut self, ms: i64) {
        self.now_ms += ms;
        let Woken { records, go_on: _, read_again } = self.park.wake(self.now_ms);
        for (ticket, record) in records {
            let offset = usize::try_from(record.offset).unwrap();
            let written = self.topics[ticket.partition][offset].clone();
            assert!(written.due_ms <= self.now_ms, "nothing is early");
            self.open[ticket.partition].push_back((offset, written, None));
        }
        for (level, next) in read_again {
            self.read[level] = usize::try_from(next.0).unwrap();
        }
    }

    /// Begins with the number `pick` of those whose lane is free; `fails` says how it will end if it is tried.
    fn start(&mut self, pick: usize, fails: bool) {
        let is_running =
            |level: usize, offset: usize| self.running.iter().any(|at| (at.0, at.1) == (level, offset));
        let mut free = Vec::new();
        for level in 0..=TIERS {
            let mut seen = Vec::new();
            for (offset, written, done) in &self.open[level] {
                if done.is_none() && !seen.contains(&written.key) {
                    seen.push(written.key);
                    if !is_running(level, *offset) {
                        free.push((level, *offset, written.clone()));
                    }
                }
            }
        }
        let Some((level, offset, written)) = free.get(pick % free.len().max(1)).cloned() else { return };
        let behind = match self.park.way(&partition(level), Some(&key(written.key))) {
            Way::Input(behind) => behind.first().map(|(_, level)| *level),
            Way::Back { behind, .. } => behind,
        };
        let outcome = match behind {
            Some(deeper) => {
                assert!(deeper > level);
                Outcome::Moved(deeper, Written { due_ms: 0, ..written })
            }
            None if fails && level < TIERS => {
                let due_ms = self.now_ms + DELAYS_MS[level];
                Outcome::Moved(level + 1, Written { due_ms, ..written })
            }
            None => Outcome::Ended(written),
        };
        self.running.push((level, offset, outcome));
        if behind.is_some() {
            self.finish(self.running.len() - 1);
        }
    }

    fn finish(&mut self, pick: usize) {
        if self.running.is_empty() {
            return;
        }
        let (level, offset, outcome) = self.running.remove(pick % self.running.len());
        if let Outcome::Moved(to, written) = &outcome {
            let record = self.record(level, offset, written);
            let destination = Destination { topic: partition(*to).topic, tier: *to, due: None };
            self.park.sent(&[comeback::write(&record, &Past::default(), None, destination)]);
        }
        let slot = self.open[level].iter_mut().find(|(own, _, _)| *own == offset).unwrap();
        slot.2 = Some(outcome);
    }

    /// Hands over the finished prefixes; what they led to is visible once they are committed.
    fn release(&mut self) {
        if self.released.is_some() {
            return;
        }
        let done = |open: &VecDeque<(usize, Written, Option<Outcome>)>| {
            open.iter().take_while(|(_, _, done)| done.is_some()).count()
        };
        self.released = Some((0..=TIERS).map(|level| (level, done(&self.open[level]))).collect());
    }

    fn commit(&mut self) {
        for (level, count) in self.released.take().unwrap_or_default() {
            let done: Vec<_> = self.open[level].drain(..count).collect();
            for (offset, _, outcome) in done {
                self.committed[level] = offset + 1;
                match outcome.unwrap() {
                    Outcome::Ended(written) => self.ended.push(written),
                    Outcome::Moved(to, written) => self.topics[to].push(written),
                }
            }
            self.park.settled(&partition(level), NextOffset(self.committed[level] as i64));
        }
    }

    fn is_done(&self) -> bool {
        (0..=TIERS).all(|level| self.committed[level] == self.topics[level].len())
    }

    /// Everybody is well again: all ends.
    fn settle_down(&mut self) {
        for _ in 0..100_000 {
            if self.is_done() {
                return;
            }
            (0..=TIERS).for_each(|level| self.read_one(level));
            self.start(0, false);
            self.finish(0);
            self.release();
            self.commit();
            self.pass(50);
        }
        panic!("it never ends: {:?} of {:?}", self.committed, self.topics);
    }
}

#[derive(Clone, Debug)]
enum Op {
    Read(usize),
    Start(usize, bool),
    Finish(usize),
    Release,
    Commit,
    Pass(i64),
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..=TIERS).prop_map(Op::Read),
        6 => (any::<usize>(), any::<bool>()).prop_map(|(pick, fails)| Op::Start(pick, fails)),
        6 => any::<usize>().prop_map(Op::Finish),
        3 => Just(Op::Release),
        3 => Just(Op::Commit),
        3 => (1_i64..3_000).prop_map(Op::Pass),
        1 => Just(Op::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn each_record_ends_once_in_the_order_of_its_key(
        keys in prop::collection::vec(0_u8..4, 1..40),
        ops in prop::collection::vec(op(), 0..400),
        held_bytes_max in prop_oneof![Just(0_usize), Just(120), Just(1 << 20)],
    ) {
        let mut world = World::new(&keys, held_bytes_max);
        for op in ops {
            match op {
                Op::Read(level) => world.read_one(level),
                Op::Start(pick, fails) => world.start(pick, fails),
                Op::Finish(pick) => world.finish(pick),
                Op::Release => world.release(),
                Op::Commit => world.commit(),
                Op::Pass(ms) => world.pass(ms),
                Op::Restart => world.restart(),
            }
        }
        world.settle_down();
        let mut wanted: Vec<Vec<usize>> = vec![Vec::new(); 4];
        keys.iter().enumerate().for_each(|(origin, key)| wanted[usize::from(*key)].push(origin));
        let mut ended: Vec<Vec<usize>> = vec![Vec::new(); 4];
        world.ended.iter().for_each(|record| ended[usize::from(record.key)].push(record.origin));
        prop_assert_eq!(ended, wanted);
        prop_assert_eq!(world.park.held(), 0);
        prop_assert_eq!(world.park.held_bytes, 0);
        prop_assert!(world.park.keys.values().all(|keys| keys.counts.is_empty()), "nothing waits, nothing is known");
    }
}

#[test]
fn beyond_the_limit_of_keys_everything_follows_until_nothing_waits() {
    let mut park = park(1 << 20);
    let mut found = Found { end: 3, ..Found::default() };
    found.add(1);
    found.others = 2;
    park.begin(&partition(1), found);
    park.begin(&partition(2), Found::default());
    let any = key(9);
    assert_eq!(park.way(&partition(0), Some(&any)), Way::Input(vec![(0, 1)]));
    assert_eq!(park.way(&partition(1), Some(&any)), Way::Back { pipeline: 0, behind: None });
    assert_eq!(park.way(&partition(0), None), Way::OPEN, "without a key there is no order");
    for offset in 0..3 {
        park.read(&partition(1), offset, Some(&any));
    }
    park.settled(&partition(1), NextOffset(2));
    assert_eq!(park.way(&partition(0), Some(&any)), Way::Input(vec![(0, 1)]));
    park.settled(&partition(1), NextOffset(3));
    assert_eq!(park.way(&partition(0), Some(&any)), Way::OPEN);
}

#[test]
fn a_pipeline_without_order_holds_nobody_back() {
    let park = Park::new(vec![Line { keeps_order: false, ..line() }], 0);
    assert!(!park.keeps_any_order() && !park.keeps_order(&partition(1)));
    assert_eq!(park.way(&partition(0), Some(&key(1))), Way::OPEN);
    assert_eq!(park.way(&partition(2), Some(&key(1))), Way::Back { pipeline: 0, behind: None });
}

#[test]
fn companions_come_with_their_input() {
    let park = park(0);
    let names: Vec<String> =
        park.companions(&[Partition::new("in", 4)]).iter().map(ToString::to_string).collect();
    assert_eq!(names, ["p.retry.1s/4", "p.retry.5s/4", "p.replay/4"]);
    assert_eq!(park.companions(&[Partition::new("other", 4)]), []);
    assert_eq!(park.place("p.replay"), Place::Back { line: 0, level: 0 });
    assert_eq!(park.place("in"), Place::Input);
}

#[test]
fn a_head_that_is_not_due_stops_its_partition_and_no_other() {
    let mut park = park(1 << 20);
    let world = World::new(&[1, 2], 0);
    let record = |offset| world.record(1, offset, &Written { key: 1, origin: 0, due_ms: 0 });
    assert_eq!(park.arrival(1, &record(0), 500, 400), Arrival::Held);
    park.hold(Ticket { partition: 1, epoch: Epoch(1), offset: 0 }, record(0), 500);
    assert_eq!(park.arrival(1, &record(1), 0, 400), Arrival::Held, "behind it");
    park.hold(Ticket { partition: 1, epoch: Epoch(1), offset: 1 }, record(1), 0);
    assert_eq!(park.arrival(2, &record(0), 400, 400), Arrival::Due);
    assert!(park.is_waiting(1) && !park.is_waiting(2));
    assert!(park.wake(499).records.is_empty());
    let woken = park.wake(500);
    assert_eq!(woken.records.iter().map(|(_, record)| record.offset).collect::<Vec<_>>(), [0, 1]);
    assert_eq!((woken.go_on, woken.read_again), (vec![1], vec![]));
}
