//! What a run of the worker left behind, read back as a reader of committed records sees it: complete, nothing
//! doubled, each key in order, the fields right, one execution result for each event.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::Value;

use crate::events::{self, Shape};
use crate::raw::Outcome;
use crate::worker::{Run, Work, WorkerJob};

const READ_MAX: Duration = Duration::from_secs(300);
const ASK_MAX: Duration = Duration::from_secs(10);
/// Every so many events the whole value is compared, not only its number.
const COMPARE_EVERY: u64 = 97;

/// When the broker appended the first and the last output, in milliseconds since 1970.
pub struct Appended {
    pub first_ms: i64,
    pub last_ms: i64,
}

/// Checks outputs and execution results.
pub fn check(job: &WorkerJob, run: &Run) -> Outcome<Appended> {
    let appended = check_outputs(job, run)?;
    let groups = job.scale.groups;
    let mut results: HashMap<_, usize> = HashMap::new();
    read(&job.kafka, &run.executions, &mut |message| {
        *results.entry(source_of(message)?).or_default() += 1;
        Ok(())
    })?;
    if job.results == "failures" && results.is_empty() {
        return Ok(appended);
    }
    if let Some((source, count)) = results.iter().find(|(_, count)| **count != groups) {
        return Err(format!("{count} execution results of {source:?}, expected {groups}"));
    }
    if results.len() as u64 != run.events {
        return Err(format!("{} execution results for {} events", results.len(), run.events));
    }
    Ok(appended)
}

/// Checks outputs alone.
pub fn check_outputs(job: &WorkerJob, run: &Run) -> Outcome<Appended> {
    let mut appended: Option<Appended> = None;
    for output in &run.outputs {
        let mut outputs = Outputs::new(job, run.events);
        read(&job.kafka, output, &mut |message| outputs.add(message))?;
        let of_group = outputs.end().map_err(|e| format!("{output}: {e}"))?;
        let all = appended.get_or_insert(Appended { ..of_group });
        all.first_ms = all.first_ms.min(of_group.first_ms);
        all.last_ms = all.last_ms.max(of_group.last_ms);
    }
    appended.ok_or("no outputs".to_owned())
}

/// A set of numbers below a limit.
pub struct Seen {
    bits: Vec<bool>,
    pub count: u64,
}

impl Seen {
    pub fn new(limit: u64) -> Seen {
        Seen { bits: vec![false; limit as usize], count: 0 }
    }

    /// Adds a number; the number back when it is there already or too large.
    pub fn add(&mut self, number: u64) -> Result<(), u64> {
        match self.bits.get_mut(number as usize) {
            Some(bit) if !*bit => *bit = true,
            _ => return Err(number),
        }
        self.count += 1;
        Ok(())
    }
}

struct Outputs {
    work: Work,
    shape: Shape,
    events: u64,
    seen: Seen,
    last_of_key: Vec<Option<u64>>,
    appended: Option<Appended>,
    key: Vec<u8>,
    payload: Vec<u8>,
}

impl Outputs {
    fn new(job: &WorkerJob, events: u64) -> Outputs {
        let shape = job.scale.shape;
        Outputs {
            work: job.work,
            shape,
            events,
            seen: Seen::new(events),
            last_of_key: vec![None; shape.keys as usize],
            appended: None,
            key: Vec::new(),
            payload: Vec::new(),
        }
    }

    fn add(&mut self, message: &BorrowedMessage<'_>) -> Outcome<()> {
        let value = message.payload().ok_or("an output without a value")?;
        let seq = match self.work {
            Work::PassThrough => events::seq(value),
            Work::FilterMap | Work::FilterMapWhole => sequence_in(value),
        };
        let seq = seq.ok_or_else(|| format!("not an event of ours: {}", String::from_utf8_lossy(value)))?;
        self.seen.add(seq).map_err(|seq| format!("event {seq} twice"))?;
        self.shape.write(seq, 0, &mut self.key, &mut self.payload);
        if message.key() != Some(&self.key[..]) {
            return Err(format!("event {seq} with the key {:?}", message.key().map(String::from_utf8_lossy)));
        }
        let last = &mut self.last_of_key[self.shape.customer(seq) as usize];
        if *last >= Some(seq) {
            return Err(format!("event {seq} after {last:?} of the same key"));
        }
        *last = Some(seq);
        let is_right = match self.work {
            Work::PassThrough => value == self.payload,
            _ if seq.is_multiple_of(COMPARE_EVERY) => parsed(value)? == expected(&self.payload)?,
            Work::FilterMap | Work::FilterMapWhole => events::is_live(seq),
        };
        if !is_right {
            return Err(format!("event {seq} became {}", String::from_utf8_lossy(value)));
        }
        let at_ms = message.timestamp().to_millis().ok_or("an output without a time")?;
        let appended = self.appended.get_or_insert(Appended { first_ms: at_ms, last_ms: at_ms });
        appended.first_ms = appended.first_ms.min(at_ms);
        appended.last_ms = appended.last_ms.max(at_ms);
        Ok(())
    }

    fn end(self) -> Outcome<Appended> {
        let expected = match self.work {
            Work::PassThrough => self.events,
            Work::FilterMap | Work::FilterMapWhole => {
                (0..self.events).filter(|seq| events::is_live(*seq)).count() as u64
            }
        };
        if self.seen.count != expected {
            return Err(format!("{} records, expected {expected}", self.seen.count));
        }
        self.appended.ok_or("no records".to_owned())
    }
}

/// The number of an event whose fields may have been written in another order.
fn sequence_in(value: &[u8]) -> Option<u64> {
    #[derive(serde::Deserialize)]
    struct Numbered<'a> {
        seq: &'a str,
    }
    serde_json::from_slice::<Numbered<'_>>(value).ok()?.seq.parse().ok()
}

/// What the pipeline is to make of an event.
fn expected(payload: &[u8]) -> Outcome<Value> {
    let mut value = parsed(payload)?;
    value["customer"] = value["data"]["object"]["customer"].clone();
    value["currency"] = "EUR".into();
    Ok(value)
}

fn parsed(bytes: &[u8]) -> Outcome<Value> {
    serde_json::from_slice(bytes).map_err(|e| format!("{e}: {}", String::from_utf8_lossy(bytes)))
}

/// Partition and offset of the record that a result is about, as its header `millrace.source` says.
fn source_of(message: &BorrowedMessage<'_>) -> Outcome<(i32, i64)> {
    let headers = message.headers().ok_or("an execution result without headers")?;
    let source = headers.iter().find(|header| header.key == "millrace.source");
    let text = source.and_then(|header| std::str::from_utf8(header.value?).ok()).unwrap_or_default();
    let mut parts = text.rsplit('/');
    let offset = parts.next().and_then(|part| part.parse().ok());
    let partition = parts.next().and_then(|part| part.parse().ok());
    partition.zip(offset).ok_or_else(|| format!("an execution result of `{text}`"))
}

/// Hands every committed record of a topic to `each`.
pub fn read(
    kafka: &str,
    topic: &str,
    each: &mut dyn FnMut(&BorrowedMessage<'_>) -> Outcome<()>,
) -> Outcome<()> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", kafka)
        .set("group.id", "bench-verify")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        .set("queued.max.messages.kbytes", "8192")
        .set("fetch.queue.backoff.ms", "20");
    let consumer: BaseConsumer = config.create().map_err(|e| e.to_string())?;
    let partitions = partitions_of(&consumer, topic)?;
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions {
        list.add_partition_offset(topic, partition, Offset::Beginning).map_err(|e| e.to_string())?;
    }
    consumer.assign(&list).map_err(|e| e.to_string())?;
    let started = Instant::now();
    let mut ended = 0;
    while ended < partitions {
        match consumer.poll(Duration::from_millis(100)) {
            // Nobody writes any more, so each end is reported once.
            Some(Err(KafkaError::PartitionEOF(_))) => ended += 1,
            Some(Err(error)) => return Err(format!("{topic}: {error}")),
            Some(Ok(message)) => {
                each(&message).map_err(|e| format!("{topic}-{}: {e}", message.partition()))?;
            }
            None if started.elapsed() > READ_MAX => {
                return Err(format!("{topic} could not be read to its end"));
            }
            None => {}
        }
    }
    Ok(())
}

fn partitions_of(client: &BaseConsumer, topic: &str) -> Outcome<i32> {
    let metadata = client.fetch_metadata(Some(topic), ASK_MAX).map_err(|e| e.to_string())?;
    let topic = metadata.topics().first().ok_or("the broker says nothing of the topic")?;
    i32::try_from(topic.partitions().len()).map_err(|e| e.to_string())
}
