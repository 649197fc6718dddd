//! A record that comes back to its pipeline: how it is written, and how it is read as what it was.
//!
//! It keeps key, value and headers byte for byte; what is added stands behind the headers
//! ([`crate::engine::headers::comeback`]). Read again, it has the topic, partition, offset and time at which it was first
//! read, so that results, idempotency keys and dead letters name that place whatever way it came. Pure.

use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, Utc};

use crate::engine::answers::Answers;
use crate::engine::headers::{comeback, dead_letter};
use crate::fault::Fault;
use crate::record::{Header, InRecord, OutRecord, last_header};

/// Longest error text in a result or header.
pub const MESSAGE_BYTES_MAX: usize = 1024;

/// What earlier runs of its pipeline left of a record.
#[derive(Clone, Default, Debug)]
pub struct Past {
    /// Attempts made in all of them.
    pub attempts: u32,
    /// Retry tier it comes from; 0 for one that was read from its input or is replayed.
    pub tier: usize,
    /// When it failed for the first time.
    pub first_failure: Option<DateTime<Utc>>,
    /// What the replay of a dead letter noted on it: headers that begin with [`dead_letter::PREFIX`].
    pub replay: Vec<Header>,
    /// What has been answered.
    pub answers: Answers,
}

/// A record as it was first read, and its past.
#[derive(Clone, Debug)]
pub struct Comeback {
    /// The record.
    pub record: InRecord,
    /// Its past.
    pub past: Past,
}

/// A record does not say what a record that comes back says.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("header `{header}` is missing or cannot be read")]
pub struct Malformed {
    /// Which header.
    pub header: &'static str,
}

/// Where a record is sent to come back.
#[derive(Clone, Debug)]
pub struct Destination {
    /// A companion of its input.
    pub topic: Arc<str>,
    /// Tier that it is; 0 for the topic of replays.
    pub tier: usize,
    /// When the record is due there; `None` is at once.
    pub due: Option<DateTime<Utc>>,
}

/// When a record that comes back is due, in milliseconds since 1970. One that does not say is due at once.
pub fn due_ms(record: &InRecord) -> i64 {
    record.header_text(comeback::DUE).and_then(|due| due.parse().ok()).unwrap_or(0)
}

impl Comeback {
    /// Reads a record of a companion, or a dead letter. [`Past::replay`] of a dead letter is all that it says of itself.
    ///
    /// # Errors
    /// When it does not say where it comes from.
    pub fn read(mut record: InRecord) -> Result<Self, Malformed> {
        let missing = |header| Malformed { header };
        let count =
            record.header_text(comeback::ORIGIN_HEADERS).and_then(|count| count.parse::<usize>().ok());
        let count = count.filter(|count| *count <= record.headers.len());
        let added = record.headers.split_off(count.ok_or_else(|| missing(comeback::ORIGIN_HEADERS))?);
        let bytes = |name: &str| last_header(&added, name);
        let text = |name: &str| std::str::from_utf8(bytes(name)?).ok();
        let time = |name: &str| DateTime::parse_from_rfc3339(text(name)?).ok();
        let small = |name: &str| text(name)?.parse::<u32>().ok();
        let (topic, partition, offset) =
            text(comeback::ORIGIN).and_then(place).ok_or_else(|| missing(comeback::ORIGIN))?;
        let answers = match bytes(comeback::ANSWERS) {
            Some(answers) => Answers::parse(answers).map_err(|_| missing(comeback::ANSWERS))?,
            None => Answers::default(),
        };
        let is_noted = |header: &Header| header.name.as_str().starts_with(dead_letter::PREFIX);
        let first_failure = time(comeback::FIRST_FAILURE).or_else(|| time(dead_letter::FIRST_FAILURE));
        let past = Past {
            attempts: small(comeback::ATTEMPTS).or_else(|| small(dead_letter::ATTEMPTS)).unwrap_or(0),
            tier: small(comeback::TIER).and_then(|tier| usize::try_from(tier).ok()).unwrap_or(0),
            first_failure: first_failure.map(|time| time.with_timezone(&Utc)),
            answers,
            replay: added.iter().filter(|header| is_noted(header)).cloned().collect(),
        };
        record.topic = topic.into();
        record.partition = partition;
        record.offset = offset;
        record.timestamp_ms = text(comeback::ORIGIN_TIMESTAMP).and_then(|time| time.parse().ok());
        Ok(Self { record, past })
    }
}

/// The record that carries `record` to `destination`, and says by which failure, when it is one that sends it there. Its
/// partition is that of the record.
pub fn write(
    record: &InRecord,
    past: &Past,
    failure: Option<(Option<&str>, &Fault)>,
    destination: Destination,
) -> OutRecord {
    let Destination { topic, tier, due } = destination;
    let mut headers = record.headers.clone();
    add_origin(record, &mut headers);
    let mut add = |name: &'static str, value: String| headers.push(Header::of(name, value));
    add(comeback::ATTEMPTS, past.attempts.to_string());
    add(comeback::TIER, tier.to_string());
    add(comeback::DUE, due.map_or(0, |due| due.timestamp_millis()).to_string());
    if let Some(time) = past.first_failure {
        add(comeback::FIRST_FAILURE, time.to_rfc3339_opts(SecondsFormat::Millis, true));
    }
    if let Some((stage, fault)) = failure {
        if let Some(stage) = stage {
            add(comeback::STAGE, stage.to_owned());
        }
        add(comeback::CLASS, fault.class.name().to_owned());
        add(comeback::MESSAGE, capped(&fault.message).to_owned());
    }
    if let Some(answers) = past.answers.text() {
        add(comeback::ANSWERS, answers);
    }
    headers.extend(past.replay.iter().cloned());
    OutRecord {
        topic,
        partition: Some(record.partition),
        timestamp_ms: None,
        key: record.key.clone(),
        value: record.value.clone(),
        headers,
    }
}

/// Says behind `headers`, which are those of `record`, where it was first read.
pub fn add_origin(record: &InRecord, headers: &mut Vec<Header>) {
    let InRecord { topic, partition, offset, timestamp_ms, headers: own, .. } = record;
    let own = own.len().to_string();
    headers.push(Header::of(comeback::ORIGIN, format!("{topic}/{partition}/{offset}")));
    headers.push(Header::of(comeback::ORIGIN_HEADERS, own));
    if let Some(time) = timestamp_ms {
        headers.push(Header::of(comeback::ORIGIN_TIMESTAMP, time.to_string()));
    }
}

/// An error text, as long as it may be.
pub fn capped(text: &str) -> &str {
    &text[..text.floor_char_boundary(MESSAGE_BYTES_MAX)]
}

/// Reads `topic/partition/offset`.
fn place(text: &str) -> Option<(&str, i32, i64)> {
    let (rest, offset) = text.rsplit_once('/')?;
    let (topic, partition) = rest.rsplit_once('/')?;
    Some((topic, partition.parse().ok()?, offset.parse().ok()?))
}

#[cfg(test)]
#[path = "comeback_tests.rs"]
mod tests;
