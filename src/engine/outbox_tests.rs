use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::engine::comeback::{Comeback, MESSAGE_BYTES_MAX};
use crate::plan::flow::ErrorPolicy;
use crate::plan::pipeline::Ordering;
use crate::plan::topics;
use crate::record::{HeaderName, last_header};
use crate::stages::context::Next;
use crate::tests::histories;

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
        companions: Vec::new(),
        stop_above: None,
        dead_letter_topic: Arc::from("payments.dlq"),
        config_hash: Arc::from("0123456789ab"),
        concurrency: crate::plan::pipeline::CONCURRENCY,
        is_cpu_only: true,
        results: Results::All,
        projection: None,
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
        parked: None,
        attempts: 2,
        answers: Answers::default(),
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
        let (told, all) = outbox(SIZES).records(&pipeline(), &record(), &Past::default(), verdict(outcome));
        assert_eq!(told, Became::Ended(outcome));
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
fn a_pipeline_that_keeps_failures_leaves_results_of_them_and_of_their_replays() {
    let pipeline = Pipeline { results: Results::Failures, ..pipeline() };
    let mut replayed = record();
    replayed.headers.push(Header::of(dead_letter::REPLAY_COUNT, "1"));
    let replay = Past { replay: vec![Header::of(dead_letter::REPLAY_COUNT, "1")], ..Past::default() };
    for (record, past, outcome, count) in [
        (record(), Past::default(), Outcome::Succeeded, 0),
        (record(), Past::default(), Outcome::Filtered, 0),
        (record(), Past::default(), Outcome::DeadLettered, 1),
        (replayed, Past::default(), Outcome::Succeeded, 1),
        (record(), replay, Outcome::Filtered, 1),
    ] {
        let mut one = verdict(outcome);
        one.records = vec![output(10)];
        let (_, all) = outbox(SIZES).records(&pipeline, &record, &past, one);
        let results = all.iter().filter(|one| &*one.topic == "millrace.executions").count();
        assert_eq!(results, count, "{outcome:?} {past:?}");
        let is_written = all.iter().any(|one| &*one.topic == "payments");
        assert_eq!(is_written, outcome != Outcome::DeadLettered, "its outputs are released as ever");
    }
}

#[test]
fn a_dead_letter_says_why() {
    let (_, all) =
        outbox(SIZES).records(&pipeline(), &record(), &Past::default(), verdict(Outcome::DeadLettered));
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
    let (_, all) =
        outbox(SIZES).records(&pipeline(), &again, &Past::default(), verdict(Outcome::DeadLettered));
    assert_eq!(text(&all[0], dead_letter::FIRST_FAILURE), Some("2026-01-01T00:00:00.000Z"));
    assert_eq!(text(&all[0], dead_letter::REPLAY_COUNT), Some("2"));
}

#[test]
fn an_output_too_large_becomes_a_dead_letter() {
    let mut large = verdict(Outcome::Succeeded);
    large.records = vec![output(10), output(1001)];
    let (became, all) = outbox(SIZES).records(&pipeline(), &record(), &Past::default(), large);
    assert_eq!(became, Became::Ended(Outcome::DeadLettered));
    let topics: Vec<&str> = all.iter().map(|one| &*one.topic).collect();
    assert_eq!(topics, ["payments.dlq", "millrace.executions"], "nothing of the outputs is released");
    assert!(text(&all[0], dead_letter::MESSAGE).expect("given").contains("1076 bytes"));
}

#[test]
fn an_output_is_measured_with_the_header_that_it_gets() {
    let of = |bytes| {
        let mut one = verdict(Outcome::Succeeded);
        one.records = vec![output(bytes)];
        outbox(SIZES).records(&pipeline(), &record(), &Past::default(), one)
    };
    let (became, all) = of(925);
    assert_eq!((became, wire_bytes(&all[0])), (Became::Ended(Outcome::Succeeded), SIZES.record_bytes_max));
    assert_eq!(of(926).0, Became::Ended(Outcome::DeadLettered));
}

#[test]
fn a_dead_letter_too_large_leaves_its_value_behind() {
    let mut large = record();
    large.value = Some(Bytes::from(vec![0; 1990]));
    let (_, all) =
        outbox(SIZES).records(&pipeline(), &large, &Past::default(), verdict(Outcome::DeadLettered));
    assert_eq!(all[0].value, None);
    assert_eq!(text(&all[0], dead_letter::VALUE_DROPPED), Some("1990"));
}

/// A pipeline with tiers of a minute and an hour, and a verdict that sends its record to one of them.
fn parked(tier: usize) -> (Pipeline, Verdict) {
    let tiers = [Duration::from_secs(60), Duration::from_secs(3600)];
    let companions = topics::companions("payments", &[Arc::from("events.stripe")], &tiers);
    let mut answers = Answers::of("0123456789ab");
    let value = Some(serde_json::json!({"status": 201}));
    answers.add("charge".to_owned(), &crate::engine::answers::Answer { next: Next::Continue, value });
    let fault = Some(Fault::new(FaultClass::Transient, "503"));
    let verdict = Verdict { parked: Some(tier), fault, answers, ..verdict(Outcome::DeadLettered) };
    (Pipeline { companions, ..pipeline() }, verdict)
}

fn read_back(sent: &OutRecord) -> Comeback {
    let OutRecord { topic, partition, timestamp_ms: _, key, value, headers } = sent.clone();
    let read = InRecord {
        topic,
        partition: partition.expect("the source's"),
        offset: 9,
        timestamp_ms: Some(1),
        key,
        value,
        headers,
    };
    Comeback::read(read).expect("what was written")
}

#[test]
fn a_parked_record_has_no_result_and_comes_back_as_it_was() {
    let (pipeline, verdict) = parked(2);
    let past = Past { attempts: 4, tier: 1, ..Past::default() };
    let (became, all) = outbox(SIZES).records(&pipeline, &record(), &past, verdict);
    assert_eq!(became, Became::Parked);
    let [sent] = &all[..] else { panic!("{all:?}") };
    assert_eq!((&*sent.topic, sent.partition), ("payments.retry.1h", Some(3)));
    assert_eq!(text(sent, "millrace.retry.due"), Some("1795136501500"), "an hour after the verdict");
    assert_eq!(text(sent, "millrace.retry.message"), Some("503"));
    let Comeback { record: back, past } = read_back(sent);
    assert_eq!(back, record());
    assert_eq!((past.attempts, past.tier), (6, 2));
    assert_eq!(past.first_failure.map(|time| time.timestamp_millis()), Some(1_795_132_901_500));
    assert!(past.answers.get("charge", true, "").is_some());
}

#[test]
fn the_dead_letter_of_a_retried_record_tells_its_whole_story() {
    let (pipeline, verdict) = parked(1);
    let (_, all) = outbox(SIZES).records(&pipeline, &record(), &Past::default(), verdict.clone());
    let Comeback { record: back, past } = read_back(&all[0]);
    let later = verdict.started_at + Duration::from_secs(3600);
    let last = Verdict { parked: None, started_at: later, ..verdict };
    let (_, all) = outbox(SIZES).records(&pipeline, &back, &past, last);
    let letter = &all[0];
    for (name, value) in [
        ("__connect.errors.topic", "events.stripe"),
        ("__connect.errors.offset", "42"),
        ("millrace.dlq.attempts", "4"),
        ("millrace.dlq.first-failure", "2026-11-20T00:01:41.500Z"),
        ("millrace.dlq.last-failure", "2026-11-20T01:01:41.500Z"),
        ("millrace.origin", "events.stripe/3/42"),
        ("millrace.origin.headers", "2"),
    ] {
        assert_eq!(text(letter, name), Some(value), "{name}");
    }
    let letter = OutRecord { partition: Some(0), ..letter.clone() };
    let Comeback { record: back, past } = read_back(&letter);
    assert_eq!(back, record(), "a replay can hand on what was read first");
    assert!(past.answers.get("charge", true, "").is_some());
    assert_eq!(past.attempts, 4);
}

#[test]
fn what_is_too_large_to_be_parked_leaves_its_answers_or_becomes_a_dead_letter() {
    let (pipeline, verdict) = parked(1);
    let mut large = record();
    large.value = Some(Bytes::from(vec![0; 1200]));
    let sizes = Sizes { record_bytes_max: 2000, dead_letter_bytes_max: 2000 };
    let (became, all) = outbox(sizes).records(&pipeline, &large, &Past::default(), verdict.clone());
    assert_eq!(became, Became::Parked);
    assert!(read_back(&all[0]).past.answers.get("charge", true, "").is_some());
    large.value = Some(Bytes::from(vec![0; 1420]));
    let (became, all) = outbox(sizes).records(&pipeline, &large, &Past::default(), verdict.clone());
    assert_eq!(became, Became::Parked);
    assert!(read_back(&all[0]).past.answers.is_empty());
    large.value = Some(Bytes::from(vec![0; 1990]));
    let (became, _) = outbox(sizes).records(&pipeline, &large, &Past::default(), verdict);
    assert_eq!(became, Became::Ended(Outcome::DeadLettered));
}

/// A record that anybody may have written, some parts of it large.
fn any_record() -> impl Strategy<Value = InRecord> {
    let large = || prop_oneof![4 => 0..60_usize, 1 => 0..40_000_usize];
    const NAMES: &[&str] = &[
        "ce_id",
        "ce_source",
        "ce_type",
        "ce_tenant",
        "mine",
        dead_letter::REPLAY_COUNT,
        dead_letter::FIRST_FAILURE,
        dead_letter::REPLAYED_CLASS,
        dead_letter::REPLAYED_CONFIG_HASH,
        dead_letter::REPLAYED_LETTER,
    ];
    let header = (prop::sample::select(NAMES), large());
    let key = prop::option::weighted(0.8, large());
    (key, large(), prop::collection::vec(header, 0..6)).prop_map(|(key, value, headers)| InRecord {
        key: key.map(|bytes| Bytes::from(vec![b'k'; bytes])),
        value: Some(Bytes::from(vec![b'v'; value])),
        headers: headers.into_iter().map(|(name, bytes)| Header::of(name, vec![b'h'; bytes])).collect(),
        ..record()
    })
}

fn any_fact() -> impl Strategy<Value = KpiFact> {
    let dimension = prop_oneof![4 => 0..60_usize, 1 => 0..40_000_usize];
    (any::<i32>(), prop::collection::vec(dimension, 0..3)).prop_map(|(value, dimensions)| KpiFact {
        fact: "sale".to_owned(),
        value: value.into(),
        time: DateTime::UNIX_EPOCH,
        dimensions: (0..)
            .map(|at| format!("d{at}"))
            .zip(dimensions.into_iter().map(|bytes| "d".repeat(bytes)))
            .collect(),
        pipeline: "payments".to_owned(),
        tenant: None,
        topic: "events.stripe".to_owned(),
        partition: 3,
        offset: 42,
    })
}

fn any_verdict() -> impl Strategy<Value = Verdict> {
    const OUTCOMES: &[Outcome] = &[Outcome::Succeeded, Outcome::Filtered, Outcome::DeadLettered];
    let outputs = prop::collection::vec(prop_oneof![4 => 0..60_usize, 1 => 0..20_000_usize], 0..4);
    let facts = prop::collection::vec(any_fact(), 0..3);
    (prop::sample::select(OUTCOMES), outputs, facts, "[a-zé]{0,40}", any::<u32>()).prop_map(
        |(outcome, outputs, facts, message, attempts)| {
            let failed = outcome == Outcome::DeadLettered;
            let mut verdict = Verdict { attempts, ..verdict(outcome) };
            if let Some(fault) = &mut verdict.fault {
                fault.message = message.repeat(100);
            }
            if !failed {
                verdict.records = outputs.into_iter().map(output).collect();
                verdict.facts = facts;
            }
            verdict
        },
    )
}

proptest! {
    #![proptest_config(histories::cases(300))]

    /// The obvious way: a verdict is one result, and either all of its outputs and facts or one dead letter.
    #[test]
    fn a_verdict_is_written_whole_and_fits(record in any_record(), verdict in any_verdict()) {
        let sizes = Sizes { record_bytes_max: 16_384, dead_letter_bytes_max: 32_768 };
        let (became, all) = outbox(sizes).records(&pipeline(), &record, &Past::default(), verdict.clone());
        prop_assert_eq!(&outbox(sizes).records(&pipeline(), &record, &Past::default(), verdict.clone()).1, &all, "pure");
        let (result, others) = all.split_last().expect("at least the result");
        prop_assert_eq!(&*result.topic, "millrace.executions");
        let told = Codec::embedded().read_execution(result.value.as_deref().expect("a value")).expect("it reads back");
        prop_assert_eq!(Became::Ended(told.outcome), became);
        prop_assert_eq!((told.offset, told.attempts), (42, verdict.attempts.min(i32::MAX as u32)));
        for one in &all {
            let limit = if &*one.topic == "payments.dlq" { sizes.dead_letter_bytes_max } else { sizes.record_bytes_max };
            prop_assert!(wire_bytes(one) <= limit, "{} bytes for {}", wire_bytes(one), one.topic);
            prop_assert_eq!(text(one, headers::SOURCE), Some("events.stripe/3/42"));
        }
        if told.outcome == Outcome::DeadLettered {
            let [letter] = others else { return Err(TestCaseError::fail("one dead letter and nothing else")) };
            prop_assert_eq!(&*letter.topic, "payments.dlq");
            let is_whole = text(letter, dead_letter::VALUE_DROPPED).is_none();
            prop_assert!(!is_whole || (&letter.key, &letter.value) == (&record.key, &record.value));
            prop_assert!(!is_whole || letter.headers[..record.headers.len()] == record.headers[..]);
            let back = read_back(&OutRecord { partition: Some(0), ..letter.clone() }).record;
            prop_assert_eq!((&*back.topic, back.partition, back.offset), ("events.stripe", 3, 42));
        } else {
            prop_assert_eq!(told.outcome, verdict.outcome);
            let (outputs, facts) = others.split_at(verdict.records.len());
            for (written, output) in outputs.iter().zip(&verdict.records) {
                prop_assert_eq!(&written.value, &output.value);
            }
            let facts: Vec<KpiFact> = facts.iter().map(|one| {
                Codec::embedded().read_fact(one.value.as_deref().expect("a value")).expect("it reads back")
            }).collect();
            prop_assert_eq!(facts, verdict.facts);
        }
    }

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
        let (_, all) = outbox(sizes).records(&pipeline(), &poison, &Past::default(), verdict);
        let letter = &all[0];
        prop_assert_eq!(&letter.key, &poison.key);
        prop_assert_eq!(&letter.value, &poison.value);
        prop_assert_eq!(&letter.headers[..poison.headers.len()], &poison.headers[..]);
        prop_assert!(text(letter, dead_letter::MESSAGE).expect("given").len() <= MESSAGE_BYTES_MAX);
    }
}
