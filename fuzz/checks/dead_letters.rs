//! Whatever headers a dead letter has, it is read, refused or replayed with its bytes as they were; what the engine
//! writes is read back; and a record that fails again and again is replayed a limited number of times.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use arbitrary::{Result, Unstructured};
use bytes::Bytes;
use chrono::DateTime;
use millrace::app::dead_letters::{self, From, Letter, LetterId};
use millrace::engine::answers::Answers;
use millrace::engine::comeback::{Comeback, Past};
use millrace::engine::headers::{SOURCE, comeback, connect, dead_letter};
use millrace::engine::outbox::{Became, Outbox, Sizes};
use millrace::engine::replayed::{self, Replayed};
use millrace::engine::verdict::Verdict;
use millrace::fault::{Fault, FaultClass};
use millrace::ledger::{Namespace, Outcome};
use millrace::plan::pipeline::Pipeline;
use millrace::record::{Header, HeaderName, InRecord, OutRecord};
use millrace::schema::codec::Codec;

use super::config;

/// Headers that mean something in a dead letter, and some that do not.
const HEADERS: [&str; 27] = [
    SOURCE,
    comeback::ORIGIN,
    comeback::ORIGIN_HEADERS,
    comeback::ORIGIN_TIMESTAMP,
    comeback::ATTEMPTS,
    comeback::TIER,
    comeback::DUE,
    comeback::FIRST_FAILURE,
    comeback::ANSWERS,
    connect::TOPIC,
    connect::PARTITION,
    connect::OFFSET,
    connect::STAGE,
    connect::EXCEPTION_CLASS_NAME,
    connect::EXCEPTION_MESSAGE,
    dead_letter::CLASS,
    dead_letter::ATTEMPTS,
    dead_letter::FIRST_FAILURE,
    dead_letter::LAST_FAILURE,
    dead_letter::REPLAY_COUNT,
    dead_letter::VALUE_DROPPED,
    "ce_id",
    dead_letter::HEADERS_DROPPED,
    dead_letter::KEY_DROPPED,
    dead_letter::REPLAYED_CLASS,
    dead_letter::REPLAYED_CONFIG_HASH,
    dead_letter::REPLAYED_LETTER,
];

static PIPELINE: LazyLock<Arc<Pipeline>> = LazyLock::new(|| {
    let files = [
        ("topics/events.yaml", "partitions: 6\n"),
        ("topics/out.yaml", "partitions: 6\n"),
        ("pipelines/payments.yaml", "input: {topics: [events]}\nstages:\n  - emit: {topic: out}\n"),
    ];
    let plan = config::compiled(&files).plan.expect("a project of ours");
    Arc::clone(&plan.pipelines[0])
});

static OUTBOX: LazyLock<Outbox> = LazyLock::new(|| {
    let sizes = Sizes { record_bytes_max: 1 << 20, dead_letter_bytes_max: 1 << 20 };
    Outbox::new(Arc::new(Codec::embedded()), &Namespace::default(), sizes)
});

/// Input: choices for a record, whose headers anybody may have written.
pub fn check(input: &[u8]) {
    // Too few bytes to choose with: nothing to check.
    let _ = chosen(&mut Unstructured::new(input));
}

fn chosen(choices: &mut Unstructured<'_>) -> Result<()> {
    let text: &str = choices.arbitrary()?;
    if let Some(id) = LetterId::parse(text) {
        assert_eq!(LetterId::parse(&id.to_string()), Some(id));
    }
    let fault = Fault {
        class: *choices.choose(&[
            FaultClass::Transient,
            FaultClass::Permanent,
            FaultClass::Poison,
            FaultClass::Bug,
        ])?,
        message: choices.arbitrary()?,
        http_status: choices.arbitrary()?,
    };
    let stage = choices.arbitrary::<Option<&str>>()?.map(Arc::from);
    let record = record(choices)?;
    strange(&record);
    circle(record, &fault, stage);
    Ok(())
}

fn record(choices: &mut Unstructured<'_>) -> Result<InRecord> {
    let (partition, offset) = (choices.int_in_range(0..=i32::MAX)?, choices.int_in_range(0..=i64::MAX)?);
    let timestamp_ms = choices.arbitrary()?;
    let key = choices.arbitrary::<Option<&[u8]>>()?.map(Bytes::copy_from_slice);
    let mut headers = Vec::new();
    for _ in 0..choices.int_in_range(0..=12)? {
        let name = match choices.int_in_range(0..=HEADERS.len())? {
            at if at < HEADERS.len() => HeaderName::from_static(HEADERS[at]),
            _ => HeaderName::from_bytes(Bytes::copy_from_slice(choices.arbitrary::<&[u8]>()?)),
        };
        let value = choices.arbitrary::<Option<&[u8]>>()?.map(Bytes::copy_from_slice);
        headers.push(Header { name, value });
    }
    let value = choices.arbitrary::<Option<&[u8]>>()?.map(Bytes::copy_from_slice);
    Ok(InRecord { topic: Arc::from("events"), partition, offset, timestamp_ms, key, value, headers })
}

/// A record that anybody put into a dead-letter topic.
fn strange(record: &InRecord) {
    let letter = dead_letters::letter("payments", record);
    let Letter { id, class, stage, replays, origin, key, .. } = &letter;
    assert_eq!((&*id.pipeline, id.partition, id.offset), ("payments", record.partition, record.offset));
    assert!(record.header_text(dead_letter::CLASS).is_none_or(|written| written == class));
    assert!(stage.as_ref().is_none_or(|stage| !stage.is_empty()) && *key == record.key);
    // What it says it was is what it is, less the headers that were added.
    if let Ok(Comeback { record: back, past: _ }) = Comeback::read(record.clone()) {
        assert_eq!((&back.key, &back.value), (&record.key, &record.value));
        assert_eq!(back.headers[..], record.headers[..back.headers.len()]);
    }
    let Some(again) = back(record, From::FailedStage) else {
        assert!(origin.is_none());
        return;
    };
    let Comeback { record: again, past } = again;
    let place = Some((again.topic.to_string(), again.partition, again.offset));
    assert_eq!((&place, &again.key, &again.value), (origin, &record.key, &record.value));
    assert_eq!(again.timestamp_ms, dead_letters::own_time(record));
    let counted = Replayed::of(&past.replay).expect("a replay says so").count;
    assert!(counted > *replays || *replays == u32::MAX, "a replay counts: {replays} becomes {counted}");
    let headers = again.headers;
    // Whatever is no error header stays, in its order; a dead letter of ours says which headers are its own.
    let others = |headers: &[Header]| -> Vec<Header> {
        let is_error = |header: &&Header| {
            let name = header.name.as_str();
            name.starts_with("__connect.errors.") || name.starts_with(dead_letter::PREFIX) || name == SOURCE
        };
        headers.iter().filter(|header| !is_error(header)).cloned().collect()
    };
    let count = record.header_text(comeback::ORIGIN_HEADERS).and_then(|count| count.parse::<usize>().ok());
    let own = count.and_then(|count| record.headers.get(..count)).unwrap_or(&record.headers);
    assert_eq!(others(&headers), others(own));
}

/// A letter as it comes back after its replay; `None` when it does not say where it came from.
fn back(letter: &InRecord, from: From) -> Option<Comeback> {
    let topic: Arc<str> = Arc::from("payments.replay");
    let sent = dead_letters::replay("payments", letter, &topic, from)?;
    assert_eq!((&sent.topic, &sent.key, &sent.value), (&topic, &letter.key, &letter.value));
    let OutRecord { topic, partition, timestamp_ms, key, value, headers } = sent;
    let partition = partition.expect("that of the record that failed");
    let read = InRecord { topic, partition, offset: 9, timestamp_ms, key, value, headers };
    Some(Comeback::read(read).expect("what was written comes back"))
}

/// A record fails, is replayed, and fails again, until it is not replayed any more.
fn circle(record: InRecord, fault: &Fault, stage: Option<Arc<str>>) {
    let (key, value) = (record.key.clone(), record.value.clone());
    let replays = replayed::split(&record.headers).1.map_or(0, |before| before.count);
    let (mut record, mut past) = (record, Past::default());
    for round in 0..=dead_letters::REPLAYS_MAX {
        let (written, said) = failed((&record, &past), fault, stage.clone());
        assert_eq!((&written.key, &written.value), (&key, &value), "the bytes are kept");
        assert_eq!(written.headers[..record.headers.len()], record.headers[..], "the headers are kept");
        let letter = dead_letters::letter("payments", &written);
        assert_eq!(letter.class, fault.class.name());
        assert_eq!(letter.replays, replays + round);
        assert_eq!(letter.origin, Some((record.topic.to_string(), record.partition, record.offset)));
        assert_eq!(
            (letter.attempts, letter.stage.as_deref()),
            (Some(past.attempts + 2), stage.as_deref().filter(|id| !id.is_empty()))
        );
        assert!(letter.event_id.as_ref().is_some_and(|id| said.starts_with(id)), "of a long id the begin");
        if replays + round >= dead_letters::REPLAYS_MAX {
            assert!(
                dead_letters::refusal(&letter, None, true).is_some(),
                "replayed {} times",
                letter.replays
            );
            return;
        }
        let read = Comeback::read(written.clone()).expect("it says what it was");
        assert_eq!(read.record, record);
        assert_eq!(read.past.attempts, past.attempts + 2);
        let again = back(&written, From::Start).expect("it says where it came from");
        let own = replayed::split(&record.headers).0;
        assert_eq!(again.record, InRecord { headers: own.to_vec(), ..record.clone() }, "it is as it was");
        assert!(again.past.answers.is_empty() && again.past.tier == 0);
        (record, past) = (again.record, again.past);
    }
    panic!("replayed for ever");
}

/// The dead letter of a record, and the id of its event.
fn failed((record, past): (&InRecord, &Past), fault: &Fault, stage: Option<Arc<str>>) -> (InRecord, String) {
    let verdict = Verdict {
        outcome: Outcome::DeadLettered,
        parked: None,
        answers: Answers::default(),
        stage,
        fault: Some(fault.clone()),
        attempts: 2,
        started_at: DateTime::UNIX_EPOCH,
        duration: Duration::from_millis(1500),
        records: Vec::new(),
        facts: Vec::new(),
    };
    let (became, all) = OUTBOX.records(&PIPELINE, record, past, verdict);
    assert!(became == Became::Ended(Outcome::DeadLettered) && all.len() == 2);
    assert_eq!(&*all[0].topic, "payments.dlq");
    let OutRecord { topic, partition: _, timestamp_ms, key, value, headers } = all[0].clone();
    let letter = InRecord { topic, partition: 1, offset: 5, timestamp_ms, key, value, headers };
    (letter, millrace::event::Attributes::of(record).id)
}
