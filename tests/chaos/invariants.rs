//! What must hold, whatever happened: pure functions of what was seen.
//!
//! | | |
//! |---|---|
//! | I1 | every acknowledged event has its results: one output, nothing, or one dead letter, and one execution result |
//! | I2 | no result comes twice (exactly once), or not more often than was in flight (at least once) |
//! | I3 | outputs and calls of a key are in the order of its events |
//! | I4 | who reads committed records during the faults reads what is there in the end |
//! | I5 | committed offsets never go back, and end at the end |
//! | I6 | the KPI view and the positions are what the topics say |
//! | I7 | a partition that has a new owner is written by nobody else: epochs and positions never go back |
//! | I8 | after the faults everything is worked off, every role runs, and memory has stayed below its limit |
//! | I9 | a dead letter is its event byte for byte, with the reason in its headers |
//! | I10 | a destination gets no more calls than it allows |
//! | I11 | no transaction is left open |

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Debug;

/// Epoch and position of each partition of the projector.
pub type Owners = BTreeMap<(String, i32), (i64, i64)>;
/// Partition and offset of an event.
pub type Place = (i32, i64);

/// An invariant that did not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Which, as `I1`.
    pub invariant: &'static str,
    /// What was found, with examples.
    pub text: String,
}

fn violation<T: Debug>(invariant: &'static str, what: &str, found: &[T]) -> Option<Violation> {
    if found.is_empty() {
        return None;
    }
    let examples: Vec<String> = found.iter().take(4).map(|one| format!("{one:?}")).collect();
    Some(Violation { invariant, text: format!("{} {what}: {}", found.len(), examples.join(", ")) })
}

/// An event that Kafka has acknowledged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Acked {
    /// Its key.
    pub key: String,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
}

/// What an event must lead to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expected {
    /// One output.
    Output,
    /// No output.
    Nothing,
    /// One dead letter.
    DeadLetter,
}

/// An event in its topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Input {
    /// Where it is.
    pub place: Place,
    /// What must come of it.
    pub expected: Expected,
}

/// Results, each with the place of the event it came from.
#[derive(Clone, Debug, Default)]
pub struct Results {
    /// Outputs.
    pub outputs: Vec<Place>,
    /// Dead letters.
    pub letters: Vec<Place>,
    /// Execution results.
    pub executions: Vec<Place>,
}

/// I1.
pub fn nothing_lost(acked: &[Acked], inputs: &[Input], results: &Results) -> Vec<Violation> {
    let there: HashSet<Place> = inputs.iter().map(|input| input.place).collect();
    let gone: Vec<&Acked> =
        acked.iter().filter(|acked| !there.contains(&(acked.partition, acked.offset))).collect();
    let [outputs, letters, executions] = [&results.outputs, &results.letters, &results.executions]
        .map(|places| places.iter().copied().collect::<HashSet<Place>>());
    let wrong = |set: &HashSet<Place>, wanted: Expected, is_missing: bool| -> Vec<Place> {
        let is_wrong = |input: &&Input| {
            let is_wanted = input.expected == wanted;
            if is_missing {
                is_wanted && !set.contains(&input.place)
            } else {
                !is_wanted && set.contains(&input.place)
            }
        };
        inputs.iter().filter(is_wrong).map(|input| input.place).collect()
    };
    let unjudged: Vec<Place> =
        inputs.iter().map(|input| input.place).filter(|place| !executions.contains(place)).collect();
    let strangers: Vec<&Place> = [&outputs, &letters, &executions]
        .into_iter()
        .flatten()
        .filter(|place| !there.contains(place))
        .collect();
    [
        violation("I1", "acknowledged events are not in the topic", &gone),
        violation("I1", "events have no output", &wrong(&outputs, Expected::Output, true)),
        violation("I1", "events have no dead letter", &wrong(&letters, Expected::DeadLetter, true)),
        violation("I1", "events have no execution result", &unjudged),
        violation(
            "I1",
            "events have an output that they must not have",
            &wrong(&outputs, Expected::Output, false),
        ),
        violation(
            "I1",
            "events are dead letters that are none",
            &wrong(&letters, Expected::DeadLetter, false),
        ),
        violation("I1", "results of events that are not in the topic", &strangers),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// How often results may come twice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Doubles {
    /// Never.
    None,
    /// So often at most, all of a kind together.
    UpTo(usize),
}

/// How many of `places` are there more than once.
pub fn doubled(places: &[Place]) -> Vec<(Place, u32)> {
    let mut times: HashMap<Place, u32> = HashMap::new();
    places.iter().for_each(|place| *times.entry(*place).or_default() += 1);
    let mut doubled: Vec<(Place, u32)> = times.into_iter().filter(|(_, times)| *times > 1).collect();
    doubled.sort_unstable();
    doubled
}

/// I2.
pub fn nothing_doubled(results: &Results, allowed: Doubles) -> Vec<Violation> {
    let kinds = [
        ("events have several outputs", &results.outputs),
        ("events have several dead letters", &results.letters),
        ("events have several execution results", &results.executions),
    ];
    let limit = match allowed {
        Doubles::None => 0,
        Doubles::UpTo(limit) => limit,
    };
    kinds
        .into_iter()
        .filter_map(|(what, places)| {
            let doubled = doubled(places);
            let count: usize = doubled.iter().map(|(_, times)| *times as usize - 1).sum();
            if count > limit { violation("I2", what, &doubled) } else { None }
        })
        .collect()
}

/// I3. `outputs` in the order of each partition: key and number of the event. Replays (at least once) may repeat what
/// was there; what is new must be in order.
pub fn in_key_order<'k>(outputs: impl IntoIterator<Item = (&'k str, u64)>) -> Vec<Violation> {
    let mut last: HashMap<&str, u64> = HashMap::new();
    let mut seen: HashSet<(&str, u64)> = HashSet::new();
    let mut wrong = Vec::new();
    for (key, seq) in outputs {
        if !seen.insert((key, seq)) {
            continue;
        }
        let before = last.entry(key).or_insert(seq);
        if *before > seq {
            wrong.push(format!("{key}: {seq} after {before}"));
        }
        *before = seq.max(*before);
    }
    violation("I3", "outputs or calls come after later ones of their key", &wrong).into_iter().collect()
}

/// I4. Offset and source of each record of a partition, as read during the faults and in the end.
pub fn readers_agree(
    during: &BTreeMap<(String, i32), Vec<(i64, Place)>>,
    after: &BTreeMap<(String, i32), Vec<(i64, Place)>>,
) -> Vec<Violation> {
    let mut wrong = Vec::new();
    for (partition, final_list) in after {
        let list = during.get(partition).map_or(&[][..], Vec::as_slice);
        let same = list.iter().zip(final_list).take_while(|(left, right)| left == right).count();
        if same < list.len().max(final_list.len()) {
            let (early, late) = (list.get(same), final_list.get(same));
            wrong.push(format!("{}/{}: read {early:?} then, {late:?} in the end", partition.0, partition.1));
        }
    }
    violation("I4", "partitions were read differently during the faults", &wrong).into_iter().collect()
}

/// I5. Committed offsets at several times, oldest first, and the ends of the partitions.
pub fn offsets_only_grow(timeline: &[BTreeMap<i32, i64>], ends: &BTreeMap<i32, i64>) -> Vec<Violation> {
    let mut back = Vec::new();
    for pair in timeline.windows(2) {
        for (partition, before) in &pair[0] {
            if let Some(after) = pair[1].get(partition).filter(|after| *after < before) {
                back.push(format!("partition {partition} from {before} to {after}"));
            }
        }
    }
    let last = timeline.last().cloned().unwrap_or_default();
    let short: Vec<String> = ends
        .iter()
        .filter(|(partition, end)| last.get(partition).copied().unwrap_or(0) < **end)
        .map(|(partition, end)| format!("partition {partition} at {:?} of {end}", last.get(partition)))
        .collect();
    [
        violation("I5", "times committed offsets went back", &back),
        violation("I5", "partitions are not committed to their end", &short),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// I6. Rows of the view and of the oracle: (window, dimension) to (value, events).
pub fn kpi_is_right(
    view: &BTreeMap<(i64, String), (i64, i64)>,
    oracle: &BTreeMap<(i64, String), (i64, i64)>,
) -> Vec<Violation> {
    let keys: std::collections::BTreeSet<_> = view.keys().chain(oracle.keys()).collect();
    let wrong: Vec<String> = keys
        .into_iter()
        .filter(|key| view.get(*key) != oracle.get(*key))
        .map(|key| format!("{key:?}: {:?}, must be {:?}", view.get(key), oracle.get(key)))
        .collect();
    violation("I6", "rows of the KPI view are wrong", &wrong).into_iter().collect()
}

/// I7. What was noted of owners at several times, oldest first.
pub fn owners_follow_each_other(timeline: &[Owners]) -> Vec<Violation> {
    let mut wrong = Vec::new();
    for pair in timeline.windows(2) {
        for (partition, before) in &pair[0] {
            if let Some(after) =
                pair[1].get(partition).filter(|after| after.0 < before.0 || after.1 < before.1)
            {
                wrong.push(format!("{partition:?} from {before:?} to {after:?}"));
            }
        }
    }
    violation("I7", "times an owner's epoch or position went back", &wrong).into_iter().collect()
}

/// I9. Key, value and headers of a record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bytes {
    /// Key.
    pub key: Option<Vec<u8>>,
    /// Value.
    pub value: Option<Vec<u8>>,
    /// Headers in order.
    pub headers: Vec<(String, Vec<u8>)>,
}

/// Headers that every dead letter has beside those of its event.
pub const LETTER_HEADERS: [&str; 3] = ["millrace.source", "millrace.dlq.class", "millrace.dlq.pipeline"];

/// I9.
pub fn letters_are_whole(events: &HashMap<Place, Bytes>, letters: &[(Place, Bytes)]) -> Vec<Violation> {
    let mut wrong = Vec::new();
    for (place, letter) in letters {
        let Some(event) = events.get(place) else { continue };
        if letter.key != event.key {
            wrong.push(format!("{place:?} has another key"));
        } else if letter.value != event.value {
            wrong.push(format!("{place:?} has another value"));
        } else if !letter.headers.starts_with(&event.headers) {
            wrong.push(format!("{place:?} has lost headers of its event"));
        } else if let Some(missing) =
            LETTER_HEADERS.iter().find(|name| !letter.headers.iter().any(|(have, _)| have == *name))
        {
            wrong.push(format!("{place:?} has no header {missing}"));
        }
    }
    violation("I9", "dead letters are not what came in", &wrong).into_iter().collect()
}

/// I10. Times of calls in milliseconds, in order; `limit` calls in any second.
pub fn calls_keep_their_rate(times_ms: &[u64], limit: usize) -> Vec<Violation> {
    let wrong: Vec<String> = times_ms
        .windows(limit + 1)
        .filter(|window| window[limit] - window[0] < 1_000)
        .map(|window| format!("{} calls within {} ms", limit + 1, window[limit] - window[0]))
        .collect();
    violation("I10", "times the destination got more calls than it allows", &wrong).into_iter().collect()
}

/// I11. Last stable offset and end of each partition of the topics written to.
pub fn nothing_is_open(ends: &BTreeMap<(String, i32), (i64, i64)>) -> Vec<Violation> {
    let open: Vec<String> = ends
        .iter()
        .filter(|(_, (stable, end))| stable != end)
        .map(|(partition, (stable, end))| format!("{partition:?} is stable up to {stable} of {end}"))
        .collect();
    violation("I11", "partitions have an open transaction", &open).into_iter().collect()
}

#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "run where there is a test harness: tests/it/chaos_parts.rs")]
mod tests {
    use super::*;

    fn input(offset: i64, expected: Expected) -> Input {
        Input { place: (0, offset), expected }
    }

    fn names(violations: &[Violation]) -> Vec<&'static str> {
        violations.iter().map(|violation| violation.invariant).collect()
    }

    fn results(outputs: &[i64], letters: &[i64], executions: &[i64]) -> Results {
        let places = |offsets: &[i64]| offsets.iter().map(|offset| (0, *offset)).collect();
        Results { outputs: places(outputs), letters: places(letters), executions: places(executions) }
    }

    #[test]
    fn everything_has_what_it_must_have_and_no_more() {
        let inputs =
            [input(0, Expected::Output), input(1, Expected::Nothing), input(2, Expected::DeadLetter)];
        let acked = [Acked { key: "k".to_owned(), partition: 0, offset: 1 }];
        let check = |results| nothing_lost(&acked, &inputs, &results);
        assert_eq!(check(results(&[0], &[2], &[0, 1, 2])), []);
        for wrong in [
            results(&[], &[2], &[0, 1, 2]),
            results(&[0], &[], &[0, 1, 2]),
            results(&[0], &[2], &[0, 1]),
            results(&[0, 1], &[2], &[0, 1, 2]),
            results(&[0], &[2, 1], &[0, 1, 2]),
            results(&[0, 7], &[2], &[0, 1, 2]),
        ] {
            assert_eq!(names(&check(wrong.clone())), ["I1"], "{wrong:?}");
        }
        let lost = [Acked { key: "k".to_owned(), partition: 1, offset: 1 }];
        assert_eq!(nothing_lost(&lost, &inputs, &results(&[0], &[2], &[0, 1, 2])).len(), 1);
    }

    #[test]
    fn doubles_are_counted() {
        let thrice = results(&[1, 2, 2, 2], &[], &[]);
        assert_eq!(names(&nothing_doubled(&thrice, Doubles::None)), ["I2"]);
        assert_eq!(names(&nothing_doubled(&thrice, Doubles::UpTo(1))), ["I2"]);
        assert_eq!(nothing_doubled(&thrice, Doubles::UpTo(2)), []);
    }

    #[test]
    fn a_replay_is_no_disorder() {
        let order = |list: &[(&str, u64)]| names(&in_key_order(list.iter().copied())).len();
        assert_eq!(order(&[("a", 1), ("b", 5), ("a", 2), ("a", 1), ("a", 2), ("a", 3)]), 0);
        assert_eq!(order(&[("a", 2), ("a", 1)]), 1);
    }

    #[test]
    fn readers_must_see_the_same() {
        let list = |records: &[(i64, i64)]| {
            let records = records.iter().map(|(at, source)| (*at, (0, *source))).collect();
            BTreeMap::from([(("out".to_owned(), 0), records)])
        };
        assert_eq!(readers_agree(&list(&[(0, 5), (2, 6)]), &list(&[(0, 5), (2, 6)])), []);
        for other in
            [list(&[(0, 5)]), list(&[(0, 5), (1, 6)]), list(&[(0, 5), (2, 6), (3, 7)]), BTreeMap::new()]
        {
            assert_eq!(names(&readers_agree(&other, &list(&[(0, 5), (2, 6)]))), ["I4"], "{other:?}");
        }
    }

    #[test]
    fn offsets_do_not_go_back_and_reach_the_end() {
        let at = |next| BTreeMap::from([(0, next)]);
        assert_eq!(offsets_only_grow(&[at(1), at(1), at(4)], &at(4)), []);
        assert_eq!(names(&offsets_only_grow(&[at(3), at(2), at(4)], &at(4))), ["I5"]);
        assert_eq!(names(&offsets_only_grow(&[at(3)], &at(4))), ["I5"]);
        assert_eq!(names(&offsets_only_grow(&[], &at(4))), ["I5"]);
    }

    #[test]
    fn tables_epochs_rates_and_ends() {
        let row = |value| BTreeMap::from([((0, "a".to_owned()), (value, 1))]);
        assert_eq!(kpi_is_right(&row(5), &row(5)), []);
        assert_eq!(names(&kpi_is_right(&row(5), &row(6))), ["I6"]);
        assert_eq!(names(&kpi_is_right(&BTreeMap::new(), &row(6))), ["I6"]);
        let owner = |epoch, next| BTreeMap::from([(("facts".to_owned(), 0), (epoch, next))]);
        assert_eq!(owners_follow_each_other(&[owner(1, 5), owner(2, 5), owner(2, 9)]), []);
        assert_eq!(names(&owners_follow_each_other(&[owner(2, 5), owner(1, 5)])), ["I7"]);
        assert_eq!(names(&owners_follow_each_other(&[owner(1, 5), owner(2, 4)])), ["I7"]);
        assert_eq!(calls_keep_their_rate(&[0, 500, 1_000, 1_500], 2), []);
        assert_eq!(names(&calls_keep_their_rate(&[0, 500, 999, 1_500], 2)), ["I10"]);
        let end = |stable| BTreeMap::from([(("out".to_owned(), 0), (stable, 9))]);
        assert_eq!(nothing_is_open(&end(9)), []);
        assert_eq!(names(&nothing_is_open(&end(8))), ["I11"]);
    }

    #[test]
    fn a_letter_is_its_event_and_more() {
        let bytes = |value: &[u8], headers: &[&str]| Bytes {
            key: Some(b"k".to_vec()),
            value: Some(value.to_vec()),
            headers: headers.iter().map(|name| ((*name).to_owned(), b"1".to_vec())).collect(),
        };
        let events = HashMap::from([((0, 1), bytes(b"\xff", &["mine"]))]);
        let check = |letter| names(&letters_are_whole(&events, &[((0, 1), letter)]));
        let all = ["mine", LETTER_HEADERS[0], LETTER_HEADERS[1], LETTER_HEADERS[2]];
        assert!(check(bytes(b"\xff", &all)).is_empty());
        assert_eq!(check(bytes(b"?", &all)), ["I9"]);
        assert_eq!(check(bytes(b"\xff", &all[1..])), ["I9"]);
        assert_eq!(check(bytes(b"\xff", &all[..3])), ["I9"]);
    }
}
