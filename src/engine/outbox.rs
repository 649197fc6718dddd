//! From a verdict to the records that are written for it: outputs, KPI facts, the dead letter, and one execution result
//! at the end; or the record itself, on its way to a retry tier.
//!
//! Pure: the same verdict gives the same bytes.

use std::borrow::Cow;
use std::cell::{LazyCell, RefCell};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use chrono::{DateTime, SecondsFormat, Utc};

use crate::engine::answers::Answers;
use crate::engine::comeback::{self, Destination, Past, capped};
use crate::engine::headers::{self, connect, dead_letter};
use crate::engine::replayed::{self, Replayed};
use crate::engine::verdict::Verdict;
use crate::event::Attributes;
use crate::failpoint::{Rule, keeps};
use crate::fault::{Fault, FaultClass};
use crate::kafka::settings::ProducerSettings;
use crate::ledger::{ExecutionResult, KpiFact, Namespace, Outcome, Results};
use crate::plan::pipeline::Pipeline;
use crate::record::{Header, InRecord, OutRecord, Source};
use crate::schema::codec::Codec;

/// Longest key of a result or fact. Of a longer one the begin is taken: what has the same key has the same begin, and stays
/// in order.
const KEY_BYTES_MAX: usize = 1024;

/// Largest records that can be written, in bytes as [`wire_bytes`] counts them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    /// Of outputs.
    pub record_bytes_max: usize,
    /// Of dead letters: the same and room for their headers.
    pub dead_letter_bytes_max: usize,
}

impl Sizes {
    /// What this producer can write.
    pub fn of(producer: &ProducerSettings) -> Self {
        let ProducerSettings { message_bytes_max, dead_letter_bytes_max, .. } = producer;
        Self { record_bytes_max: *message_bytes_max, dead_letter_bytes_max: *dead_letter_bytes_max }
    }
}

/// What became of a record in one pipeline.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Became {
    /// It ended, and has its execution result.
    Ended(Outcome),
    /// It waits in a retry topic.
    Parked,
}

/// Writes the records of verdicts.
#[derive(Debug)]
pub struct Outbox {
    codec: Arc<Codec>,
    executions_topic: Arc<str>,
    facts_topic: Arc<str>,
    sizes: Sizes,
}

impl Outbox {
    /// An outbox that writes to the ledger of `namespace`.
    pub fn new(codec: Arc<Codec>, namespace: &Namespace, sizes: Sizes) -> Self {
        let (executions_topic, facts_topic) = (namespace.executions_topic(), namespace.kpi_facts_topic());
        Self { codec, executions_topic, facts_topic, sizes }
    }

    /// The records of one pipeline's verdict on one record with this `past`. Also tells what became of it, which is as
    /// the verdict says unless a record is too large to be written: then nothing of it is released, and it is a dead
    /// letter.
    pub fn records(
        &self,
        pipeline: &Pipeline,
        record: &InRecord,
        past: &Past,
        verdict: Verdict,
    ) -> (Became, Vec<OutRecord>) {
        let past = after(past, &verdict);
        if let Some(parked) = self.parked(pipeline, record, &past, &verdict) {
            return (Became::Parked, vec![parked]);
        }
        let source = Header::of(headers::SOURCE, kept(|text| put_source(text, record)));
        let mut verdict = refuse_too_large(verdict, &source, &self.sizes);
        // They stay in their list: it has room, and each list is an allocation.
        let mut all = std::mem::take(&mut verdict.records);
        let count = all.len();
        // Most records of a pipeline that only keeps failures have none.
        let attributes = LazyCell::new(|| Attributes::lent(record));
        let result = || execution(pipeline, record, (&past, &verdict, count), &attributes);
        let outcome = verdict.outcome;
        match outcome {
            Outcome::DeadLettered if !keeps(Rule::DeadLetters) => all.clear(),
            Outcome::DeadLettered => {
                all.clear();
                let finished_at = verdict.started_at + verdict.duration;
                let mut letter =
                    letter(pipeline, (record, &past), &result(), verdict.fault.as_ref(), finished_at);
                shrink(&mut letter, record.headers.len(), self.sizes.dead_letter_bytes_max);
                all.push(letter);
            }
            Outcome::Succeeded | Outcome::Filtered => {
                all.iter_mut().for_each(|output| output.headers.push(source.clone()));
                all.extend(verdict.facts.iter().map(|fact| self.fact(fact, record, &source)));
            }
        }
        if leaves_result(pipeline.results, outcome, record, &past) {
            all.push(self.execution(&result(), record, source));
        }
        (Became::Ended(outcome), all)
    }

    /// The record on its way to a tier, when the verdict says so and it can be written whole.
    fn parked(
        &self,
        pipeline: &Pipeline,
        record: &InRecord,
        past: &Past,
        verdict: &Verdict,
    ) -> Option<OutRecord> {
        let tier = verdict.parked?;
        let to = pipeline.companions_of(&record.topic)?.tiers.get(tier.checked_sub(1)?)?;
        let due = Some(verdict.started_at + verdict.duration + to.delay);
        let destination = Destination { topic: Arc::clone(&to.topic), tier, due };
        let failure = verdict.fault.as_ref().map(|fault| (verdict.stage.as_deref(), fault));
        self.fitting(comeback::write(record, past, failure, destination))
    }

    /// The record behind an earlier one of its key, in tier `tier`: due at once, and no attempt.
    pub fn following(
        &self,
        pipeline: &Pipeline,
        record: &InRecord,
        past: &Past,
        tier: usize,
    ) -> Option<OutRecord> {
        let to = pipeline.companions_of(&record.topic)?.tiers.get(tier.checked_sub(1)?)?;
        let destination = Destination { topic: Arc::clone(&to.topic), tier, due: None };
        self.fitting(comeback::write(record, past, None, destination))
    }

    /// Leaves out the answers of a record that is too large with them. `None` when it is still too large.
    fn fitting(&self, mut record: OutRecord) -> Option<OutRecord> {
        let limit = self.sizes.dead_letter_bytes_max;
        if wire_bytes(&record) > limit {
            record.headers.retain(|header| header.name.as_str() != headers::comeback::ANSWERS);
        }
        (wire_bytes(&record) <= limit).then_some(record)
    }

    /// Results of one key of one pipeline stay in order.
    fn execution(&self, result: &ExecutionResult<&str>, record: &InRecord, source: Header) -> OutRecord {
        let key = kept(|key| {
            key.extend_from_slice(result.pipeline.as_bytes());
            key.push(b'/');
            key.extend_from_slice(begin(record.key.as_deref().unwrap_or(result.event_id.as_bytes())));
        });
        OutRecord {
            topic: Arc::clone(&self.executions_topic),
            partition: None,
            timestamp_ms: None,
            key: Some(key),
            value: Some(kept(|value| self.codec.put_execution(value, result))),
            headers: vec![source],
        }
    }

    fn fact(&self, fact: &KpiFact, record: &InRecord, source: &Header) -> OutRecord {
        let key = match &record.key {
            Some(key) => key.slice_ref(begin(key)),
            None => Bytes::from(fact.fact.clone()),
        };
        OutRecord {
            topic: Arc::clone(&self.facts_topic),
            partition: None,
            timestamp_ms: None,
            key: Some(key),
            value: Some(self.codec.fact(fact)),
            headers: vec![source.clone()],
        }
    }
}

/// Bytes of key, value and headers, and what their lengths take up at most: many small headers are large, too.
fn wire_bytes(record: &OutRecord) -> usize {
    record.size_bytes() + 10 * record.headers.len() + 32
}

/// What one more header adds to [`wire_bytes`].
fn header_bytes(header: &Header) -> usize {
    10 + header.name.as_bytes().len() + header.value.as_ref().map_or(0, Bytes::len)
}

/// The past of a record after one more run.
fn after(past: &Past, verdict: &Verdict) -> Past {
    let has_failed = verdict.fault.is_some();
    let failed_at = has_failed.then(|| verdict.started_at + verdict.duration);
    Past {
        attempts: past.attempts.saturating_add(verdict.attempts),
        tier: past.tier,
        first_failure: past.first_failure.or(failed_at),
        replay: past.replay.clone(),
        answers: if has_failed { verdict.answers.clone() } else { Answers::default() },
    }
}

/// The begin of a key.
fn begin(key: &[u8]) -> &[u8] {
    &key[..key.len().min(KEY_BYTES_MAX)]
}

/// Most bytes that a fact can take up on the wire: its text, and key, source and numbers.
fn fact_bytes(fact: &KpiFact) -> usize {
    let KpiFact { fact, dimensions, pipeline, tenant, topic, .. } = fact;
    let dimensions: usize = dimensions.iter().map(|(name, value)| name.len() + value.len() + 20).sum();
    let texts = 2 * fact.len() + pipeline.len() + tenant.as_ref().map_or(0, String::len) + 2 * topic.len();
    texts + dimensions + KEY_BYTES_MAX + 256
}

/// Outputs are measured with the header that they get, `source`.
fn refuse_too_large(verdict: Verdict, source: &Header, sizes: &Sizes) -> Verdict {
    let limit = sizes.record_bytes_max;
    let written_bytes = |output: &OutRecord| wire_bytes(output) + header_bytes(source);
    let large = verdict.records.iter().find(|output| written_bytes(output) > limit);
    let large_fact = verdict.facts.iter().find(|fact| fact_bytes(fact) > limit);
    let message = match (large, large_fact) {
        (Some(large), _) => {
            format!("a record of {} bytes for topic `{}`: at most {limit}", written_bytes(large), large.topic)
        }
        (None, Some(large)) => {
            format!("a KPI fact `{}` of up to {} bytes: at most {limit}", large.fact, fact_bytes(large))
        }
        (None, None) => return verdict,
    };
    Verdict {
        outcome: Outcome::DeadLettered,
        fault: Some(Fault::new(FaultClass::Permanent, message)),
        records: Vec::new(),
        facts: Vec::new(),
        ..verdict
    }
}

thread_local! {
    /// What is being written, and room for what was: small texts share pieces of memory.
    static ROOM: RefCell<(Vec<u8>, BytesMut)> = RefCell::default();
}

/// Bytes of one such piece.
const ROOM_BYTES: usize = 32 * 1024;

/// What `write` appends.
fn kept(write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    ROOM.with_borrow_mut(|(text, room)| {
        text.clear();
        write(text);
        if room.capacity() < text.len() {
            *room = BytesMut::with_capacity(text.len().max(ROOM_BYTES));
        }
        room.extend_from_slice(text);
        room.split().freeze()
    })
}

/// `topic/partition/offset`.
fn put_source(text: &mut Vec<u8>, record: &InRecord) {
    let Source { topic, partition, offset } = record.source();
    text.extend_from_slice(topic.as_bytes());
    text.push(b'/');
    text.extend_from_slice(itoa::Buffer::new().format(partition).as_bytes());
    text.push(b'/');
    text.extend_from_slice(itoa::Buffer::new().format(offset).as_bytes());
}

/// An event that has been a dead letter leaves a result whatever becomes of it: nobody could tell otherwise that it is
/// none any more.
fn leaves_result(results: Results, outcome: Outcome, record: &InRecord, past: &Past) -> bool {
    match (results, outcome) {
        (Results::All, _) | (Results::Failures, Outcome::DeadLettered) => true,
        (Results::Failures, Outcome::Succeeded | Outcome::Filtered) => {
            !past.replay.is_empty() || replayed::is_replayed(&record.headers)
        }
    }
}

fn execution<'v>(
    pipeline: &'v Pipeline,
    record: &'v InRecord,
    (past, verdict, records_out): (&Past, &'v Verdict, usize),
    attributes: &'v Attributes<Cow<'_, str>>,
) -> ExecutionResult<&'v str> {
    let Attributes { id, source, kind, subject: _, time, tenant } = attributes;
    let kafka_time = record.timestamp_ms.and_then(DateTime::from_timestamp_millis);
    ExecutionResult {
        pipeline: &pipeline.name,
        outcome: verdict.outcome,
        stage: verdict.stage.as_deref(),
        error_class: verdict.fault.as_ref().map(|fault| fault.class.name()),
        error: verdict.fault.as_ref().map(|fault| capped(&fault.message)),
        attempts: past.attempts,
        // They come from anybody, and may be as long as a record.
        event_id: capped(id),
        event_source: capped(source),
        event_type: capped(kind),
        tenant: tenant.as_deref().map(capped),
        topic: &record.topic,
        partition: record.partition,
        offset: record.offset,
        event_time: time.or(kafka_time).unwrap_or(verdict.started_at),
        started_at: verdict.started_at,
        duration_us: i64::try_from(verdict.duration.as_micros()).unwrap_or(i64::MAX),
        records_out: i32::try_from(records_out).unwrap_or(i32::MAX),
        config_hash: &pipeline.config_hash,
    }
}

/// The record as it came, byte for byte, and why it is here. Headers of an earlier stay in a dead-letter topic are
/// kept; readers take the last of a name.
fn letter(
    pipeline: &Pipeline,
    (record, past): (&InRecord, &Past),
    result: &ExecutionResult<&str>,
    fault: Option<&Fault>,
    now: DateTime<Utc>,
) -> OutRecord {
    let class = fault.map_or("unknown", |fault| fault.class.name());
    let message = fault.map_or("", |fault| capped(&fault.message));
    let stage = result.stage;
    let time = now.to_rfc3339_opts(SecondsFormat::Millis, true);
    let replayed = match Replayed::of(&past.replay) {
        Some(noted) => noted,
        None => replayed::split(&record.headers).1.unwrap_or_default(),
    };
    let first = past.first_failure.unwrap_or(now).to_rfc3339_opts(SecondsFormat::Millis, true);
    let first_failure = replayed.first_failure.clone().unwrap_or(first);
    let mut headers = record.headers.clone();
    comeback::add_origin(record, &mut headers);
    let mut add = |name: &'static str, value: String| headers.push(Header::of(name, value));
    add(headers::SOURCE, record.source().to_string());
    add(connect::TOPIC, record.topic.to_string());
    add(connect::PARTITION, record.partition.to_string());
    add(connect::OFFSET, record.offset.to_string());
    add(connect::CONNECTOR_NAME, pipeline.name.to_string());
    add(connect::STAGE, stage.unwrap_or_default().to_owned());
    add(connect::CLASS_NAME, format!("millrace.{}", stage.unwrap_or("run")));
    add(connect::EXCEPTION_CLASS_NAME, class.to_owned());
    add(connect::EXCEPTION_MESSAGE, message.to_owned());
    add(dead_letter::PIPELINE, pipeline.name.to_string());
    if let Some(stage) = stage {
        add(dead_letter::STAGE, stage.to_owned());
    }
    add(dead_letter::CLASS, class.to_owned());
    add(dead_letter::MESSAGE, message.to_owned());
    add(dead_letter::ATTEMPTS, result.attempts.to_string());
    add(dead_letter::FIRST_FAILURE, first_failure);
    add(dead_letter::LAST_FAILURE, time);
    add(dead_letter::CONFIG_HASH, pipeline.config_hash.to_string());
    add(dead_letter::REPLAY_COUNT, replayed.count.to_string());
    headers.extend(replayed.before());
    let mut add = |name: &'static str, value: String| headers.push(Header::of(name, value));
    if let Some(status) = fault.and_then(|fault| fault.http_status) {
        add(dead_letter::HTTP_STATUS, status.to_string());
    }
    add(dead_letter::EVENT_ID, result.event_id.to_owned());
    if let Some(answers) = past.answers.text() {
        add(headers::comeback::ANSWERS, answers);
    }
    OutRecord {
        topic: Arc::clone(&pipeline.dead_letter_topic),
        partition: None,
        // Its own time, by which it is deleted; that of the event stands in the headers.
        timestamp_ms: None,
        key: record.key.clone(),
        value: record.value.as_ref().map(|value| match keeps(Rule::DeadLetterBytes) {
            true => value.clone(),
            false => Bytes::from(String::from_utf8_lossy(value).into_owned()),
        }),
        headers,
    }
}

/// Leaves out of a dead letter that is too large to be written: the answers, the value, the `own` headers that the
/// record had, its key. Where it came from always fits.
fn shrink(letter: &mut OutRecord, own: usize, bytes_max: usize) {
    if wire_bytes(letter) > bytes_max {
        letter.headers.retain(|header| header.name.as_str() != headers::comeback::ANSWERS);
    }
    if wire_bytes(letter) > bytes_max {
        let bytes = letter.value.take().map_or(0, |value| value.len());
        letter.headers.push(Header::of(dead_letter::VALUE_DROPPED, bytes.to_string()));
    }
    if wire_bytes(letter) > bytes_max {
        letter.headers.drain(..own);
        let counts = letter.headers.iter_mut();
        for count in counts.filter(|header| header.name.as_str() == headers::comeback::ORIGIN_HEADERS) {
            count.value = Some(Bytes::from_static(b"0"));
        }
        letter.headers.push(Header::of(dead_letter::HEADERS_DROPPED, own.to_string()));
    }
    if wire_bytes(letter) > bytes_max {
        let bytes = letter.key.take().map_or(0, |key| key.len());
        letter.headers.push(Header::of(dead_letter::KEY_DROPPED, bytes.to_string()));
    }
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
