use std::collections::BTreeMap;
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

#[test]
fn releases_the_contiguous_prefix_in_order() {
    let mut tracker = Tracker::new(Epoch(1), Some(NextOffset(4)));
    let now = Instant::now();
    for offset in [4, 5, 8, 9] {
        assert!(tracker.admit(offset, 10, now));
    }
    let mut outputs = Vec::new();
    tracker.complete(Epoch(1), 5, vec![output(5)]);
    assert_eq!(tracker.take_prefix(10, &mut outputs), None, "4 is not done");
    tracker.complete(Epoch(1), 4, vec![output(4)]);
    tracker.complete(Epoch(1), 9, vec![]);
    assert_eq!(tracker.take_prefix(10, &mut outputs), Some(NextOffset(6)));
    assert_eq!(outputs, [output(4), output(5)]);
    assert_eq!((tracker.in_flight(), tracker.bytes()), (4, 42), "released is not yet committed");
    assert!(tracker.settle(Epoch(1), NextOffset(6)));
    assert_eq!((tracker.in_flight(), tracker.bytes()), (2, 20));
    tracker.complete(Epoch(1), 8, vec![]);
    assert_eq!(tracker.take_prefix(10, &mut outputs), Some(NextOffset(10)), "the gap holds nothing up");
}

#[test]
fn refuses_what_belongs_to_another_assignment() {
    let mut tracker = Tracker::new(Epoch(2), None);
    assert!(tracker.admit(7, 1, Instant::now()));
    assert!(!tracker.admit(7, 1, Instant::now()), "read twice");
    assert_eq!(tracker.complete(Epoch(1), 7, vec![]), Completion::Stale);
    assert_eq!(tracker.complete(Epoch(2), 6, vec![]), Completion::Stale);
    assert_eq!(tracker.complete(Epoch(2), 7, vec![]), Completion::Kept);
    assert_eq!(tracker.complete(Epoch(2), 7, vec![]), Completion::Stale, "completed twice");
    assert!(!tracker.settle(Epoch(1), NextOffset(8)));
}

#[derive(Clone, Debug)]
enum Step {
    /// Admit the next offset after so many that are missing.
    Admit {
        gap: i64,
        bytes: usize,
    },
    /// Complete one of the running ones, or something else entirely.
    Complete {
        which: usize,
        is_stale: bool,
    },
    Take {
        records_max: usize,
    },
    Settle,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..4i64, 0..100usize).prop_map(|(gap, bytes)| Step::Admit { gap, bytes }),
        4 => (any::<usize>(), prop::bool::weighted(0.1))
            .prop_map(|(which, is_stale)| Step::Complete { which, is_stale }),
        2 => (1..6usize).prop_map(|records_max| Step::Take { records_max }),
        1 => Just(Step::Settle),
    ]
}

/// The obvious way: a map of all records ever admitted.
#[derive(Default)]
struct Model {
    /// Offset to (bytes, done).
    open: BTreeMap<i64, (usize, bool)>,
    released: Vec<(i64, usize)>,
    next: i64,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn agrees_with_the_obvious_way(steps in prop::collection::vec(step(), 1..120)) {
        let epoch = Epoch(3);
        let now = Instant::now();
        let mut tracker = Tracker::new(epoch, None);
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Admit { gap, bytes } => {
                    let offset = model.next + gap;
                    model.next = offset + 1;
                    model.open.insert(offset, (bytes, false));
                    prop_assert!(tracker.admit(offset, bytes, now));
                    prop_assert!(!tracker.admit(offset, bytes, now));
                }
                Step::Complete { which, is_stale } => {
                    let all: Vec<i64> = model.open.keys().copied().collect();
                    let Some(offset) = all.get(which % all.len().max(1)).copied() else { continue };
                    if is_stale {
                        prop_assert_eq!(tracker.complete(Epoch(2), offset, vec![]), Completion::Stale);
                        continue;
                    }
                    let slot = model.open.get_mut(&offset).expect("chosen from the map");
                    let expected = if slot.1 { Completion::Stale } else { Completion::Kept };
                    if !slot.1 {
                        *slot = (slot.0 + output(offset).size_bytes(), true);
                    }
                    prop_assert_eq!(tracker.complete(epoch, offset, vec![output(offset)]), expected);
                }
                Step::Take { records_max } => {
                    let prefix: Vec<i64> = model.open.iter()
                        .take_while(|(_, (_, done))| *done)
                        .map(|(offset, _)| *offset)
                        .take(records_max)
                        .collect();
                    let mut outputs = Vec::new();
                    let next = tracker.take_prefix(records_max, &mut outputs);
                    prop_assert_eq!(next, prefix.last().map(|last| NextOffset::after(*last)));
                    let expected: Vec<OutRecord> = prefix.iter().map(|offset| output(*offset)).collect();
                    prop_assert_eq!(outputs, expected);
                    for offset in prefix {
                        let (bytes, _) = model.open.remove(&offset).expect("from the map");
                        model.released.push((offset, bytes));
                    }
                }
                Step::Settle => {
                    if let Some((last, _)) = model.released.last() {
                        prop_assert!(tracker.settle(epoch, NextOffset::after(*last)));
                        prop_assert_eq!(tracker.committed(), Some(NextOffset::after(*last)));
                        model.released.clear();
                    }
                }
            }
            let released: usize = model.released.iter().map(|(_, bytes)| bytes).sum();
            let open: usize = model.open.values().map(|(bytes, _)| bytes).sum();
            prop_assert_eq!(tracker.bytes(), released + open);
            prop_assert_eq!(tracker.in_flight(), model.open.len() + model.released.len());
            prop_assert_eq!(tracker.is_releasing(), !model.released.is_empty());
            prop_assert_eq!(tracker.ready(), model.open.values().take_while(|(_, done)| *done).count());
            prop_assert_eq!(tracker.oldest().map(|(offset, ..)| offset), model.open.keys().next().copied());
        }
    }
}
