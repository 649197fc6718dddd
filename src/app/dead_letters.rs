//! Dead letters: what their headers say, which are meant, and the record that a replay writes. Pure.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};

use crate::engine::headers::{SOURCE, comeback, connect, dead_letter};
use crate::record::{Header, HeaderName, InRecord, OutRecord, last_header};

/// A dead letter that was replayed so often is not replayed again: what fails three times fails for a reason.
pub const REPLAYS_MAX: u32 = 3;

/// What the headers of Kafka Connect's error reports begin with.
const CONNECT_PREFIX: &str = "__connect.errors.";

/// Name of a dead letter: `<pipeline>/<partition>/<offset>` in the pipeline's dead-letter topic.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LetterId {
    /// Pipeline that gave up.
    pub pipeline: String,
    /// Partition of its dead-letter topic.
    pub partition: i32,
    /// Offset there.
    pub offset: i64,
}

impl LetterId {
    /// Reads `<pipeline>/<partition>/<offset>`.
    pub fn parse(text: &str) -> Option<Self> {
        let (rest, offset) = text.rsplit_once('/')?;
        let (pipeline, partition) = rest.rsplit_once('/')?;
        let partition: i32 = partition.parse().ok()?;
        let offset: i64 = offset.parse().ok()?;
        let fits = !pipeline.is_empty() && partition >= 0 && offset >= 0;
        fits.then(|| Self { pipeline: pipeline.to_owned(), partition, offset })
    }
}

impl fmt::Display for LetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.pipeline, self.partition, self.offset)
    }
}

/// What a dead letter says of itself, without its value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Letter {
    /// Its name.
    pub id: LetterId,
    /// Class of the fault.
    pub class: String,
    /// Step at which it failed.
    pub stage: Option<String>,
    /// What happened.
    pub message: String,
    /// Attempts made.
    pub attempts: Option<u32>,
    /// How often it has been replayed.
    pub replays: u32,
    /// When it failed.
    pub failed_at: Option<DateTime<Utc>>,
    /// `topic/partition/offset` of the record that failed.
    pub origin: Option<(String, i32, i64)>,
    /// Its key.
    pub key: Option<Bytes>,
    /// Id of the event.
    pub event_id: Option<String>,
    /// Bytes of a value that was too large to be kept here.
    pub value_dropped: Option<u64>,
}

/// Reads the headers of a record of the dead-letter topic of `pipeline`.
pub fn letter(pipeline: &str, record: &InRecord) -> Letter {
    let text = |name: &str| record.header_text(name).map(str::to_owned);
    let number = |name: &str| record.header_text(name).and_then(|text| text.parse::<i64>().ok());
    let time = |name: &str| record.header_text(name).and_then(|text| DateTime::parse_from_rfc3339(text).ok());
    let small = |name: &str| number(name).and_then(|number| u32::try_from(number).ok());
    let origin = || {
        let partition = i32::try_from(number(connect::PARTITION)?).ok()?;
        Some((text(connect::TOPIC)?, partition, number(connect::OFFSET)?))
    };
    Letter {
        id: LetterId { pipeline: pipeline.to_owned(), partition: record.partition, offset: record.offset },
        class: text(dead_letter::CLASS)
            .or_else(|| text(connect::EXCEPTION_CLASS_NAME))
            .unwrap_or_else(|| "unknown".to_owned()),
        stage: text(dead_letter::STAGE).or_else(|| text(connect::STAGE)).filter(|stage| !stage.is_empty()),
        message: text(dead_letter::MESSAGE).or_else(|| text(connect::EXCEPTION_MESSAGE)).unwrap_or_default(),
        attempts: small(dead_letter::ATTEMPTS),
        replays: small(dead_letter::REPLAY_COUNT).unwrap_or(0),
        failed_at: time(dead_letter::LAST_FAILURE)
            .map(|time| time.with_timezone(&Utc))
            .or_else(|| DateTime::from_timestamp_millis(record.timestamp_ms?)),
        origin: origin(),
        key: record.key.clone(),
        event_id: text(dead_letter::EVENT_ID),
        value_dropped: number(dead_letter::VALUE_DROPPED).and_then(|bytes| u64::try_from(bytes).ok()),
    }
}

/// Which dead letters are meant.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// With this class.
    pub class: Option<String>,
    /// With this key.
    pub key: Option<String>,
    /// These and no others; empty means all.
    pub ids: Vec<LetterId>,
}

impl Filter {
    /// Whether `letter` is meant.
    pub fn takes(&self, letter: &Letter) -> bool {
        let Self { class, key, ids } = self;
        class.as_ref().is_none_or(|class| *class == letter.class)
            && key.as_ref().is_none_or(|key| letter.key.as_deref() == Some(key.as_bytes()))
            && (ids.is_empty() || ids.contains(&letter.id))
    }
}

/// The newest first; of one time the higher offset.
pub fn sort_newest_first(letters: &mut [Letter]) {
    letters.sort_by(|left, right| {
        let place = |letter: &Letter| (letter.failed_at, letter.id.offset);
        place(right).cmp(&place(left)).then_with(|| left.id.cmp(&right.id))
    });
}

/// Why a dead letter is not replayed; `None` when it may be.
pub fn refusal(letter: &Letter) -> Option<String> {
    if letter.origin.is_none() {
        return Some("its headers do not say which topic it came from".to_owned());
    }
    if letter.value_dropped.is_some() {
        return Some("its value was too large to be kept here; it is still where its headers say".to_owned());
    }
    if letter.replays >= REPLAYS_MAX {
        return Some(format!("it was replayed {} times already and failed each time", letter.replays));
    }
    None
}

/// The record that a replay of a dead letter writes: original key, value, time and headers, and how often it was
/// replayed. `None` when the dead letter does not say where it came from.
pub fn replay(record: &InRecord) -> Option<OutRecord> {
    let letter = letter("", record);
    let (topic, _, _) = letter.origin?;
    let mut headers = original_headers(&record.headers);
    // They count over all replays; the last of a name is what readers take.
    headers.retain(|header| {
        let name = header.name.as_str();
        name != dead_letter::REPLAY_COUNT && name != dead_letter::FIRST_FAILURE
    });
    if let Some(first) = record.header_text(dead_letter::FIRST_FAILURE) {
        headers.push(Header::of(dead_letter::FIRST_FAILURE, first.to_owned()));
    }
    headers.push(Header::of(dead_letter::REPLAY_COUNT, letter.replays.saturating_add(1).to_string()));
    Some(OutRecord {
        topic: Arc::from(topic),
        partition: None,
        timestamp_ms: record.timestamp_ms,
        key: record.key.clone(),
        value: record.value.clone(),
        headers,
    })
}

/// The headers that the record had before it became a dead letter. Those of the dead letter stand behind them, and say
/// how many there are; in older ones they begin with the last `millrace.source`; where something else wrote the dead
/// letter, they are known by their names.
fn original_headers(headers: &[Header]) -> Vec<Header> {
    let count = last_header(headers, comeback::ORIGIN_HEADERS);
    let count = count.and_then(|count| std::str::from_utf8(count).ok()?.parse::<usize>().ok());
    if let Some(own) = count.and_then(|count| headers.get(..count)) {
        return own.to_vec();
    }
    let is_error = |name: &HeaderName| {
        name.as_str().starts_with(CONNECT_PREFIX) || name.as_str().starts_with(dead_letter::PREFIX)
    };
    let begin = headers.iter().rposition(|header| header.name.as_str() == SOURCE);
    if let Some(begin) = begin
        && headers[begin + 1..].iter().any(|header| is_error(&header.name))
        && headers[begin + 1..].iter().all(|header| is_error(&header.name))
    {
        return headers[..begin].to_vec();
    }
    headers.iter().filter(|header| !is_error(&header.name)).cloned().collect()
}

/// A time as the command line prints it.
pub fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

#[cfg(test)]
#[path = "dead_letters_tests.rs"]
mod tests;
