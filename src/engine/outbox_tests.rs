use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::plan::flow::ErrorPolicy;
use crate::plan::pipeline::Ordering;
use crate::record::{HeaderName, last_header};

const SIZES: Sizes = Sizes { record_bytes_max: 1000, dead_letter_bytes_max: 2000 };

fn outbox(sizes: Sizes) -> Outbox {
    Outbox::new(Arc::new(Codec::embedded()), &Namespace::default(), sizes)
}

fn pipeline() -> Pipeline {
    Pipeline {
        name: Arc::from("payments"),
        topics: vec![Arc::from("events.stripe")],
        types: Vec::new(),
        ordering: Ordering::Key,
        steps: Vec::new(),
        on_error: ErrorPolicy::default(),
        dead_letter_topic: Arc::from("payments.dlq"),
        config_hash: Arc::from("0123456789ab"),
        is_cpu_only: true,
    }
}

fn record() -> InRecord {
    InRecord {
        topic: Arc::from("events.stripe"),
        partition: 3,
        offset: 42,
        timestamp_ms: Some(1_795_132_800_000),
        key: Some(Bytes::from_static(b"cus_1")),
        value: Some(Bytes::from_static(b"{}")),
        headers: vec![Header::of("ce_id", "evt_1"), Header::of("ce_type", "payment_intent.succeeded")],
    }
}

fn output(bytes: usize) -> OutRecord {
    OutRecord {
        topic: Arc::from("payments"),
        partition: None,
        timestamp_ms: None,
        key: None,
        value: Some(Bytes::from(vec![b'x'; bytes])),
        headers: Vec::new(),
    }
}

fn verdict(outcome: Outcome) -> Verdict {
    Verdict {
        outcome,
        stage: Some(Arc::from("map-1")),
        fault: (outcome == Outcome::DeadLettered).then(|| Fault {
            class: FaultClass::Permanent,
            message: "404 Not Found".to_owned(),
            http_status: Some(404),
        }),
        attempts: 2,
        started_at: DateTime::from_timestamp_millis(1_795_132_900_000).expect("a valid time"),
        duration: Duration::from_millis(1500),
        records: Vec::new(),
        facts: Vec::new(),
    }
}

fn text<'a>(record: &'a OutRecord, name: &str) -> Option<&'a str> {
    last_header(&record.headers, name).map(|value| std::str::from_utf8(value).expect("text"))
}

#[test]
fn every_verdict_leaves_one_result() {
    let codec = Codec::embedded();
    for outcome in [Outcome::Succeeded, Outcome::Filtered, Outcome::DeadLettered] {
        let (told, all) = outbox(SIZES).records(&pipeline(), &record(), verdict(outcome));
        assert_eq!(told, outcome);
        let results: Vec<_> = all.iter().filter(|one| &*one.topic == "millrace.executions").collect();
        assert_eq!(results.len(), 1, "{outcome:?}");
        assert_eq!(results[0].key.as_deref(), Some(&b"payments/cus_1"[..]));
        let value = results[0].value.as_deref().expect("a value");
        let result = codec.read_execution(value).expect("it reads back");
        assert_eq!((result.outcome, result.offset, result.duration_us), (outcome, 42, 1_500_000));
        assert_eq!(result.event_id, "evt_1");
        assert!(all.iter().all(|one| text(one, "millrace.source") == Some("events.stripe/3/42")));
    }
}

#[test]
fn a_dead_letter_says_why() {
    let (_, all) = outbox(SIZES).records(&pipeline(), &record(), verdict(Outcome::DeadLettered));
    let letter = &all[0];
    assert_eq!(&*letter.topic, "payments.dlq");
    for (name, value) in [
        ("__connect.errors.topic", "events.stripe"),
        ("__connect.errors.partition", "3"),
        ("__connect.errors.offset", "42"),
        ("__connect.errors.exception.class.name", "permanent"),
        ("__connect.errors.exception.message", "404 Not Found"),
        ("millrace.dlq.stage", "map-1"),
        ("millrace.dlq.attempts", "2"),
        ("millrace.dlq.http.status", "404"),
        ("millrace.dlq.first-failure", "2026-11-20T00:01:41.500Z"),
        ("millrace.dlq.replay-count", "0"),
    ] {
        assert_eq!(text(letter, name), Some(value), "{name}");
    }
}

#[test]
fn a_second_failure_remembers_the_first() {
    let mut again = record();
    again.headers.push(Header::of(dead_letter::FIRST_FAILURE, "2026-01-01T00:00:00.000Z"));
    again.headers.push(Header::of(dead_letter::REPLAY_COUNT, "2"));
    let (_, all) = outbox(SIZES).records(&pipeline(), &again, verdict(Outcome::DeadLettered));
    assert_eq!(text(&all[0], dead_letter::FIRST_FAILURE), Some("2026-01-01T00:00:00.000Z"));
    assert_eq!(text(&all[0], dead_letter::REPLAY_COUNT), Some("2"));
}

#[test]
fn an_output_too_large_becomes_a_dead_letter() {
    let mut large = verdict(Outcome::Succeeded);
    large.records = vec![output(10), output(1001)];
    let (outcome, all) = outbox(SIZES).records(&pipeline(), &record(), large);
    assert_eq!(outcome, Outcome::DeadLettered);
    let topics: Vec<&str> = all.iter().map(|one| &*one.topic).collect();
    assert_eq!(topics, ["payments.dlq", "millrace.executions"], "nothing of the outputs is released");
    assert!(text(&all[0], dead_letter::MESSAGE).expect("given").contains("1033 bytes"));
}

#[test]
fn a_dead_letter_too_large_leaves_its_value_behind() {
    let mut large = record();
    large.value = Some(Bytes::from(vec![0; 1990]));
    let (_, all) = outbox(SIZES).records(&pipeline(), &large, verdict(Outcome::DeadLettered));
    assert_eq!(all[0].value, None);
    assert_eq!(text(&all[0], dead_letter::VALUE_DROPPED), Some("1990"));
}

proptest! {
    #[test]
    fn a_dead_letter_keeps_every_byte(
        key: Option<Vec<u8>>,
        value: Option<Vec<u8>>,
        names in prop::collection::vec((any::<Vec<u8>>(), any::<Option<Vec<u8>>>()), 0..5),
        message in ".{0,2000}",
    ) {
        let headers: Vec<Header> = names
            .into_iter()
            .map(|(name, value)| Header { name: HeaderName::from_bytes(Bytes::from(name)), value: value.map(Bytes::from) })
            .collect();
        let poison = InRecord { key: key.map(Bytes::from), value: value.map(Bytes::from), headers, ..record() };
        let mut verdict = verdict(Outcome::DeadLettered);
        verdict.fault = Some(Fault::new(FaultClass::Poison, message));
        let sizes = Sizes { record_bytes_max: 1 << 20, dead_letter_bytes_max: 1 << 21 };
        let (_, all) = outbox(sizes).records(&pipeline(), &poison, verdict);
        let letter = &all[0];
        prop_assert_eq!(&letter.key, &poison.key);
        prop_assert_eq!(&letter.value, &poison.value);
        prop_assert_eq!(&letter.headers[..poison.headers.len()], &poison.headers[..]);
        prop_assert!(text(letter, dead_letter::MESSAGE).expect("given").len() <= MESSAGE_BYTES_MAX);
    }
}
