//! `millrace tail`: prints the records of a topic.

use std::time::Duration;

use chrono::DateTime;
use serde::Serialize;

use crate::app::dead_letters::time;
use crate::app::values::Shown;
use crate::cli::args::records::TailArgs;
use crate::cli::args::{Common, Output};
use crate::cli::{Exit, output, roles, topics};
use crate::kafka::tail::{Begin, End, Tail};
use crate::record::InRecord;

const WAIT: Duration = Duration::from_millis(500);
/// Headers that a line shows.
const HEADERS: [&str; 2] = ["ce_type", "ce_id"];

#[derive(Serialize)]
struct Line {
    partition: i32,
    offset: i64,
    time: Option<String>,
    key: serde_json::Value,
    headers: serde_json::Map<String, serde_json::Value>,
    value: serde_json::Value,
}

/// Runs `tail`.
///
/// # Errors
/// When Kafka cannot be reached or has no such topic.
pub fn run(common: &Common, arguments: &TailArgs) -> anyhow::Result<Exit> {
    let connection = topics::existing(common, &arguments.topic)?;
    let plan = topics::plan_if_any(common);
    let mut values = topics::values(common, plan.as_ref())?;
    let begin = match (arguments.last, arguments.from_beginning || arguments.to_end) {
        (Some(count), _) => Begin::Last(count),
        (None, true) => Begin::Oldest,
        (None, false) => Begin::Newest,
    };
    let end = if arguments.to_end { End::AsOfNow } else { End::Never };
    let mut tail = Tail::open(&connection, &arguments.topic, begin, end)?;
    let runtime = roles::runtime()?;
    let mut left = arguments.limit.unwrap_or(usize::MAX);
    let mut records = Vec::new();
    while left > 0 && tail.read(WAIT, &mut records)? {
        for record in records.drain(..).take(left) {
            left -= 1;
            let value = runtime.block_on(values.of(&record));
            let line = match common.output {
                Output::Text => text(&record, &value),
                Output::Json => serde_json::to_string(&json(&record, &value))?,
            };
            output::print(&format!("{line}\n"))?;
        }
    }
    Ok(Exit::Done)
}

/// When Kafka took the record, or it happened.
fn time_of(record: &InRecord) -> Option<String> {
    record.timestamp_ms.and_then(DateTime::from_timestamp_millis).map(time)
}

/// `partition/offset time key headers value`.
fn text(record: &InRecord, value: &Shown) -> String {
    let key = Shown::of(record.key.as_deref());
    let key = match &key {
        Shown::Nothing => "-".to_owned(),
        key => key.line(),
    };
    let headers: Vec<&str> = HEADERS.iter().filter_map(|name| record.header_text(name)).collect();
    let headers = if headers.is_empty() { "-".to_owned() } else { headers.join(" ") };
    let time = time_of(record).unwrap_or_else(|| "-".to_owned());
    format!("{}/{}  {time}  {key}  {headers}  {}", record.partition, record.offset, value.line())
}

fn json(record: &InRecord, value: &Shown) -> Line {
    Line {
        partition: record.partition,
        offset: record.offset,
        time: time_of(record),
        key: key(record),
        headers: headers(record),
        value: value.json(),
    }
}

/// A key as a program gets it: text, or `{"base64": ...}`.
pub fn key(record: &InRecord) -> serde_json::Value {
    text_or_base64(record.key.as_deref())
}

/// All headers; of several with one name the last.
pub fn headers(record: &InRecord) -> serde_json::Map<String, serde_json::Value> {
    let header = |header: &crate::record::Header| {
        (header.name.as_str().to_owned(), text_or_base64(header.value.as_deref()))
    };
    record.headers.iter().map(header).collect()
}

fn text_or_base64(bytes: Option<&[u8]>) -> serde_json::Value {
    match bytes.map(std::str::from_utf8) {
        None => serde_json::Value::Null,
        Some(Ok(text)) => text.into(),
        Some(Err(_)) => Shown::of(bytes).json(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::record::Header;

    #[test]
    fn a_record_is_a_line() {
        let mut record = InRecord {
            topic: Arc::from("t"),
            partition: 3,
            offset: 12,
            timestamp_ms: Some(1_763_942_400_000),
            key: Some(Bytes::from_static(b"ada")),
            value: None,
            headers: vec![Header::of("ce_id", "evt_1"), Header::of("ce_type", "said")],
        };
        let value = Shown::of(Some(b"{\"a\": 1}"));
        assert_eq!(text(&record, &value), "3/12  2025-11-24T00:00:00.000Z  ada  said evt_1  {\"a\":1}");
        record.key = None;
        record.timestamp_ms = None;
        record.headers.clear();
        assert_eq!(text(&record, &Shown::Nothing), "3/12  -  -  -  (null)");
    }
}
