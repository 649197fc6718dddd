use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::fault::FaultClass;
use crate::record::HeaderName;

fn read_back(sent: OutRecord) -> InRecord {
    let OutRecord { topic, partition, timestamp_ms: _, key, value, headers } = sent;
    let partition = partition.expect("the source's");
    InRecord { topic, partition, offset: 77, timestamp_ms: Some(5), key, value, headers }
}

fn destination(tier: usize, due: Option<i64>) -> Destination {
    let due = due.and_then(DateTime::from_timestamp_millis);
    Destination { topic: "p.retry.1m".into(), tier, due }
}

proptest! {
    /// Whatever its headers are called, ours among them, it comes back as it was first read.
    #[test]
    fn a_record_comes_back_as_it_was(
        key: Option<Vec<u8>>, value: Option<Vec<u8>>, offset in 0..i64::MAX, time: Option<i64>,
        names in prop::collection::vec(prop_oneof![
            "[a-z]{0,9}", Just(comeback::ORIGIN.to_owned()), Just(comeback::ORIGIN_HEADERS.to_owned()),
            Just(comeback::ANSWERS.to_owned()), Just(dead_letter::REPLAY_COUNT.to_owned()),
        ], 0..6),
        attempts: u32, tier in 0_usize..9, due in proptest::option::of(0_i64..4_000_000_000_000),
        passes in 1_usize..4,
    ) {
        let header = |name: String| Header { name: HeaderName::from(name), value: Some(Bytes::from_static(b"9")) };
        let record = InRecord {
            topic: "a/b.c".into(), partition: 3, offset, timestamp_ms: time,
            key: key.map(Bytes::from), value: value.map(Bytes::from),
            headers: names.into_iter().map(header).collect(),
        };
        let first_failure = DateTime::from_timestamp_millis(1_795_132_800_123);
        let past = Past { attempts, first_failure, ..Past::default() };
        let fault = Fault::new(FaultClass::Transient, "no route");
        let mut back = Comeback { record: record.clone(), past };
        for _ in 0..passes {
            let sent = write(&back.record, &back.past, Some((Some("charge"), &fault)), destination(tier, due));
            prop_assert_eq!(sent.partition, Some(3));
            let read = read_back(sent);
            prop_assert_eq!(due_ms(&read), due.unwrap_or(0));
            back = Comeback::read(read).expect("what was written");
        }
        prop_assert_eq!(&back.record, &record);
        prop_assert_eq!(back.past.attempts, attempts);
        prop_assert_eq!(back.past.tier, tier);
        prop_assert_eq!(back.past.first_failure, first_failure);
        prop_assert!(back.past.replay.is_empty());
        prop_assert!(back.past.answers.is_empty());
    }

    /// Anybody may write to a companion.
    #[test]
    fn no_record_makes_it_panic(
        headers in prop::collection::vec((0_usize..6, any::<Vec<u8>>()), 0..6),
    ) {
        let names = [
            comeback::ORIGIN, comeback::ORIGIN_HEADERS, comeback::ANSWERS, comeback::TIER, comeback::DUE,
            comeback::FIRST_FAILURE,
        ];
        let headers = headers.into_iter().map(|(at, value)| Header::of(names[at], Bytes::from(value))).collect();
        let record = InRecord {
            topic: "t".into(), partition: 0, offset: 0, timestamp_ms: None, key: None, value: None, headers,
        };
        due_ms(&record);
        let _ = Comeback::read(record);
    }
}

#[test]
fn what_a_replay_noted_stays_with_the_record() {
    let record = InRecord {
        topic: "in".into(),
        partition: 0,
        offset: 1,
        timestamp_ms: None,
        key: None,
        value: None,
        headers: vec![Header::of("a", "1")],
    };
    let past = Past { replay: vec![Header::of(dead_letter::REPLAY_COUNT, "2")], ..Past::default() };
    let sent = write(&record, &past, None, destination(0, None));
    let back = Comeback::read(read_back(sent)).expect("what was written");
    assert_eq!(back.past.replay, past.replay);
}
