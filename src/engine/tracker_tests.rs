use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

fn output(offset: i64) -> OutRecord {
    OutRecord {
        topic: Arc::from("out"),
        partition: None,
        timestamp_ms: None,
        key: None,
        value: Some(Bytes::from(offset.to_string())),
        headers: Vec::new(),
    }
}

fn tracker(epoch: Epoch, committed: Option<NextOffset>) -> Tracker {
    Tracker::new(epoch, committed, Completed::default())
}

fn memory(offset: i64) -> usize {
    output(offset).memory_bytes()
}

#[test]
fn releases_the_contiguous_prefix_in_order() {
    let mut tracker = tracker(Epoch(1), Some(NextOffset(4)));
    let now = Instant::now();
    for offset in [4, 5, 8, 9] {
        assert_eq!(tracker.admit(offset, 10, now), Admission::Work);
    }
    let mut outputs = Vec::new();
    tracker.complete(Epoch(1), 5, vec![output(5)]);
    assert_eq!(tracker.take_prefix(10, &mut outputs), None, "4 is not done");
    tracker.complete(Epoch(1), 4, vec![output(4)]);
    tracker.complete(Epoch(1), 9, vec![]);
    assert_eq!(tracker.take_prefix(10, &mut outputs), Some(NextOffset(6)));
    assert_eq!(outputs, [output(4), output(5)]);
    let bytes = 40 + memory(4) + memory(5);
    assert_eq!((tracker.in_flight(), tracker.bytes()), (4, bytes), "released is not yet committed");
    assert!(tracker.settle(Epoch(1), NextOffset(6)));
    assert_eq!((tracker.in_flight(), tracker.bytes()), (2, 20));
    tracker.complete(Epoch(1), 8, vec![]);
    assert_eq!(tracker.take_prefix(10, &mut outputs), Some(NextOffset(10)), "the gap holds nothing up");
}

#[test]
fn refuses_what_belongs_to_another_assignment() {
    let mut tracker = tracker(Epoch(2), None);
    assert_eq!(tracker.admit(7, 1, Instant::now()), Admission::Work);
    assert_eq!(tracker.admit(7, 1, Instant::now()), Admission::Repeated);
    assert_eq!(tracker.complete(Epoch(1), 7, vec![]), Completion::Stale);
    assert_eq!(tracker.acknowledge(Epoch(1), 7), Completion::Stale);
    assert_eq!(tracker.complete(Epoch(2), 6, vec![]), Completion::Stale);
    assert_eq!(tracker.complete(Epoch(2), 7, vec![]), Completion::Kept);
    assert_eq!(tracker.complete(Epoch(2), 7, vec![]), Completion::Stale, "completed twice");
    assert_eq!(tracker.acknowledge(Epoch(2), 7), Completion::Stale, "completed twice");
    assert!(!tracker.settle(Epoch(1), NextOffset(8)));
}

#[test]
fn what_was_done_before_a_crash_is_not_worked_on_again() {
    let now = Instant::now();
    let mut before = tracker(Epoch(1), Some(NextOffset(100)));
    for offset in 100..200 {
        before.admit(offset, 10, now);
    }
    // 100 is slow; 150 too.
    for offset in (101..150).chain(151..200) {
        assert_eq!(before.acknowledge(Epoch(1), offset), Completion::Kept);
    }
    assert_eq!((before.ready(), before.bytes()), (0, 20), "nothing of safe records is held");
    let text = before.completed().encode(NextOffset(100));
    let carried = Completed::decode(NextOffset(100), &text).expect("just written");
    let mut after = Tracker::new(Epoch(1), Some(NextOffset(100)), carried);
    let work: Vec<i64> =
        (100..210).filter(|offset| after.admit(*offset, 10, now) == Admission::Work).collect();
    assert_eq!(work[..3], [100, 150, 200]);
    assert_eq!(work.len(), 12);
    after.acknowledge(Epoch(1), 100);
    assert_eq!(after.take_prefix(usize::MAX, &mut Vec::new()), Some(NextOffset(150)));
}

/// Found in a million histories.
#[test]
fn what_is_not_read_again_yet_has_room_in_the_text() {
    let mut carried = Completed::default();
    (1..200).for_each(|run| carried.push(run * 10_000..run * 10_000 + 1));
    let mut after = Tracker::new(Epoch(1), Some(NextOffset(0)), carried);
    let now = Instant::now();
    after.admit(0, 10, now);
    after.admit(5, 10, now);
    assert_eq!(after.acknowledge(Epoch(1), 5), Completion::Kept);
    let text = after.completed().encode(NextOffset(0));
    assert!(text.len() > 500 && text.len() <= after.completed_bytes_bound(), "{}", text.len());
}

#[test]
fn what_is_not_read_again_yet_is_not_forgotten() {
    let mut carried = Completed::default();
    carried.push(11..20);
    carried.push(30..40);
    let mut tracker = Tracker::new(Epoch(1), Some(NextOffset(10)), carried.clone());
    assert!(tracker.has_completed());
    assert_eq!(tracker.completed(), carried);
    for offset in 10..15 {
        tracker.admit(offset, 10, Instant::now());
    }
    assert_eq!(tracker.completed(), carried, "read up to 14");
    for offset in 15..45 {
        tracker.admit(offset, 10, Instant::now());
    }
    assert_eq!(tracker.completed(), carried);
}

#[derive(Clone, Debug)]
enum Step {
    /// Admit the next offset after so many that are missing.
    Admit {
        gap: i64,
        bytes: usize,
    },
    /// Complete one of the running ones, or something else entirely; with or without anything left to send.
    Complete {
        which: usize,
        is_stale: bool,
        is_safe: bool,
    },
    Take {
        records_max: usize,
    },
    Settle,
    /// The worker dies, and another goes on from what was committed and told.
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..4i64, 0..100usize).prop_map(|(gap, bytes)| Step::Admit { gap, bytes }),
        8 => (any::<usize>(), prop::bool::weighted(0.1), any::<bool>())
            .prop_map(|(which, is_stale, is_safe)| Step::Complete { which, is_stale, is_safe }),
        4 => (1..6usize).prop_map(|records_max| Step::Take { records_max }),
        2 => Just(Step::Settle),
        1 => Just(Step::Crash),
    ]
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Done {
    No,
    ToSend,
    Safe,
}

/// The obvious way: a map of all records of the partition.
#[derive(Default)]
struct Model {
    /// Records of the partition, in order; what was read is read again after a crash.
    log: Vec<(i64, usize)>,
    /// How many of them this owner has read.
    read: usize,
    /// Offset to (bytes, done), of those read and not released.
    open: BTreeMap<i64, (usize, Done)>,
    released: Vec<(i64, usize)>,
    committed: i64,
    /// Safe with the last owners; they were told of at their crash.
    carried: BTreeSet<i64>,
}

impl Model {
    fn admit(&mut self, tracker: &mut Tracker, gap: i64, bytes: usize) -> Result<(), TestCaseError> {
        if self.read == self.log.len() {
            let next = self.log.last().map_or(self.committed, |(offset, _)| offset + 1);
            self.log.push((next + gap, bytes));
        }
        let (offset, bytes) = self.log[self.read];
        self.read += 1;
        let (expected, slot) = if self.carried.contains(&offset) {
            (Admission::Done, (0, Done::Safe))
        } else {
            (Admission::Work, (bytes, Done::No))
        };
        prop_assert_eq!(tracker.admit(offset, bytes, Instant::now()), expected);
        prop_assert_eq!(tracker.admit(offset, bytes, Instant::now()), Admission::Repeated);
        self.open.insert(offset, slot);
        Ok(())
    }

    fn complete(&mut self, tracker: &mut Tracker, offset: i64, is_safe: bool) -> Result<(), TestCaseError> {
        let epoch = tracker.epoch();
        let slot = self.open.get_mut(&offset).expect("chosen from the map");
        let expected = if slot.1 == Done::No { Completion::Kept } else { Completion::Stale };
        if slot.1 == Done::No {
            *slot = if is_safe { (0, Done::Safe) } else { (slot.0 + memory(offset), Done::ToSend) };
        }
        let said = match is_safe {
            true => tracker.acknowledge(epoch, offset),
            false => tracker.complete(epoch, offset, vec![output(offset)]),
        };
        prop_assert_eq!(said, expected);
        Ok(())
    }

    fn take(&mut self, tracker: &mut Tracker, records_max: usize) -> Result<(), TestCaseError> {
        let done = self.open.iter().take_while(|(_, (_, done))| *done != Done::No);
        let prefix: Vec<(i64, Done)> =
            done.map(|(offset, (_, done))| (*offset, *done)).take(records_max).collect();
        let mut outputs = Vec::new();
        let next = tracker.take_prefix(records_max, &mut outputs);
        prop_assert_eq!(next, prefix.last().map(|(last, _)| NextOffset::after(*last)));
        let to_send = prefix.iter().filter(|(_, done)| *done == Done::ToSend);
        let expected: Vec<OutRecord> = to_send.map(|(offset, _)| output(*offset)).collect();
        prop_assert_eq!(outputs, expected);
        for (offset, _) in prefix {
            let (bytes, _) = self.open.remove(&offset).expect("from the map");
            self.released.push((offset, bytes));
        }
        Ok(())
    }

    /// What the next owner is told; it must be true, and complete.
    fn crash(&mut self, tracker: &Tracker) -> Result<Tracker, TestCaseError> {
        let base = NextOffset(self.committed);
        let text = tracker.completed().encode(base);
        let told = Completed::decode(base, &text).expect("just written");
        let is_safe = |offset: &i64| match self.open.get(offset) {
            Some((_, done)) => *done == Done::Safe,
            // Released and not committed, or not read again yet.
            None => self.carried.contains(offset) && !self.released.iter().any(|(one, _)| one == offset),
        };
        let beyond = self.log.iter().map(|(offset, _)| *offset).filter(|offset| *offset > self.committed);
        let safe: BTreeSet<i64> = beyond.clone().filter(is_safe).collect();
        for offset in beyond {
            prop_assert_eq!(told.contains(offset), safe.contains(&offset), "offset {}", offset);
        }
        self.read = self.log.partition_point(|(offset, _)| *offset < self.committed);
        self.open.clear();
        self.released.clear();
        self.carried = safe;
        Ok(Tracker::new(tracker.epoch().next(), Some(base), told))
    }
}

/// 500 histories, or as many as `PROPTEST_CASES` says.
fn histories() -> ProptestConfig {
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => ProptestConfig::default(),
        None => ProptestConfig::with_cases(500),
    }
}

proptest! {
    #![proptest_config(histories())]

    #[test]
    fn agrees_with_the_obvious_way(steps in prop::collection::vec(step(), 1..120)) {
        let mut tracker = tracker(Epoch(3), Some(NextOffset(0)));
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Admit { gap, bytes } => model.admit(&mut tracker, gap, bytes)?,
                Step::Complete { which, is_stale, is_safe } => {
                    let all: Vec<i64> = model.open.keys().copied().collect();
                    let Some(offset) = all.get(which % all.len().max(1)).copied() else { continue };
                    if is_stale {
                        prop_assert_eq!(tracker.complete(Epoch(2), offset, vec![]), Completion::Stale);
                        prop_assert_eq!(tracker.acknowledge(Epoch(2), offset), Completion::Stale);
                        continue;
                    }
                    model.complete(&mut tracker, offset, is_safe)?;
                }
                Step::Take { records_max } => model.take(&mut tracker, records_max)?,
                Step::Settle => {
                    if let Some((last, _)) = model.released.last() {
                        let next = NextOffset::after(*last);
                        prop_assert!(tracker.settle(tracker.epoch(), next));
                        prop_assert_eq!(tracker.committed(), Some(next));
                        model.committed = next.0;
                        model.released.clear();
                    }
                }
                Step::Crash => tracker = model.crash(&tracker)?,
            }
            let released: usize = model.released.iter().map(|(_, bytes)| bytes).sum();
            let open: usize = model.open.values().map(|(bytes, _)| bytes).sum();
            prop_assert_eq!(tracker.bytes(), released + open);
            prop_assert_eq!(tracker.in_flight(), model.open.len() + model.released.len());
            prop_assert_eq!(tracker.is_releasing(), !model.released.is_empty());
            let ready = model.open.values().take_while(|(_, done)| *done != Done::No).count();
            prop_assert_eq!(tracker.ready(), ready);
            prop_assert_eq!(tracker.oldest().map(|(offset, ..)| offset), model.open.keys().next().copied());
            prop_assert_eq!(tracker.has_completed(), !tracker.completed().is_empty());
            let text = tracker.completed().encode(NextOffset(model.committed));
            prop_assert!(model.open.is_empty() || text.len() <= tracker.completed_bytes_bound());
        }
    }
}
