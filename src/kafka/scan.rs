//! Reads the keys of what waits in partitions, to their present end, without a group.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::kafka::consumer::From;
use crate::kafka::settings::{self, Connection};
use crate::position::{NextOffset, Partition};

const ASK_TIMEOUT: Duration = Duration::from_secs(5);
const POLL_WAIT: Duration = Duration::from_millis(100);
/// Pause between questions whether a transaction has ended.
const OPEN_PAUSE: Duration = Duration::from_millis(20);
/// So long a transaction may stay open that was begun before; longer than any worker's.
const OPEN_MAX: Duration = Duration::from_secs(60);
/// So long nothing may come.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Why partitions could not be scanned.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// Kafka does not answer, refuses, or does not have the partition.
    #[error("cannot read {what}")]
    Read {
        /// What was read.
        what: String,
        /// librdkafka's error.
        source: KafkaError,
    },
    /// Somebody's transaction does not end.
    #[error("a transaction in {0} has been open for {OPEN_MAX:?}")]
    Open(Partition),
    /// Nothing comes any more.
    #[error("nothing was read from {0} for {SILENCE_MAX:?}")]
    Silent(String),
}

/// Hands the key of each committed record to `each`, with the number of its partition in `partitions`, from where each is
/// to begin to its end as of now; of partitions that are not `wanted`, nothing. A transaction that is still open is
/// waited for: what it wrote counts once it commits. Returns the ends. Blocks; use it where that does no harm.
///
/// # Errors
/// When Kafka does not answer, a partition does not exist, or a transaction does not end.
pub fn keys(
    connection: &Connection,
    partitions: &[(Partition, From)],
    wanted: &[bool],
    mut each: impl FnMut(usize, Option<&[u8]>),
) -> Result<Vec<NextOffset>, ScanError> {
    if partitions.is_empty() {
        return Ok(Vec::new());
    }
    let failed = |what: &str| {
        let what = what.to_owned();
        move |source| ScanError::Read { what, source }
    };
    let mut config = settings::plain_reader(connection);
    // Retention may pass the position between the question and the fetch; go on with what is kept.
    config.set("auto.offset.reset", "earliest");
    let reader: BaseConsumer = config.create().map_err(failed("anything"))?;
    let written: BaseConsumer =
        config.set("isolation.level", "read_uncommitted").create().map_err(failed("anything"))?;
    let mut ends = Vec::with_capacity(partitions.len());
    // By topic, because the end of a partition is told by its number alone.
    let mut topics: BTreeMap<&str, Open> = BTreeMap::new();
    for (index, (partition, from)) in partitions.iter().enumerate() {
        let (low, end) = decided(&reader, &written, partition)?;
        let from = match from {
            From::Offset(next) => next.0.max(low),
            From::Oldest => low,
        };
        ends.push(NextOffset(end));
        if from < end && wanted[index] {
            topics.entry(&partition.topic).or_default().insert(partition.number, (index, from));
        }
    }
    for (topic, open) in topics {
        read_to_end(&reader, topic, open, |index, offset, key| {
            if offset < ends[index].0 {
                each(index, key);
            }
        })?;
    }
    Ok(ends)
}

/// Partitions of one topic that are not read to their end: index and first offset, by number.
type Open = BTreeMap<i32, (usize, i64)>;

fn read_to_end(
    reader: &BaseConsumer,
    topic: &str,
    mut open: Open,
    mut each: impl FnMut(usize, i64, Option<&[u8]>),
) -> Result<(), ScanError> {
    let failed = |source| ScanError::Read { what: topic.to_owned(), source };
    let mut list = TopicPartitionList::new();
    for (number, (_, from)) in &open {
        list.add_partition_offset(topic, *number, Offset::Offset(*from)).map_err(failed)?;
    }
    reader.assign(&list).map_err(failed)?;
    let mut heard_at = Instant::now();
    while !open.is_empty() {
        match reader.poll(POLL_WAIT) {
            Some(Ok(message)) if message.topic() == topic => {
                if let Some((index, _)) = open.get(&message.partition()) {
                    each(*index, message.offset(), message.key());
                }
            }
            Some(Ok(_)) => {}
            Some(Err(KafkaError::PartitionEOF(number))) => {
                open.remove(&number);
            }
            // Lost connections come back; if not, the silence is noticed.
            Some(Err(KafkaError::MessageConsumption(code))) => {
                tracing::debug!(topic, ?code, "scanning");
                continue;
            }
            Some(Err(source)) => return Err(failed(source)),
            None if heard_at.elapsed() > SILENCE_MAX => return Err(ScanError::Silent(topic.to_owned())),
            None => continue,
        }
        heard_at = Instant::now();
    }
    Ok(())
}

/// The oldest offset and the end of a partition, once all that is written to it is committed or aborted.
fn decided(
    committed: &BaseConsumer,
    written: &BaseConsumer,
    partition: &Partition,
) -> Result<(i64, i64), ScanError> {
    let Partition { topic, number } = partition;
    let ends = |reader: &BaseConsumer| {
        let ends = reader.fetch_watermarks(topic, *number, ASK_TIMEOUT);
        ends.map_err(|source| ScanError::Read { what: partition.to_string(), source })
    };
    let (_, end) = ends(written)?;
    let begun = Instant::now();
    loop {
        let (low, stable) = ends(committed)?;
        if stable >= end {
            return Ok((low, end));
        }
        if begun.elapsed() > OPEN_MAX {
            return Err(ScanError::Open(partition.clone()));
        }
        std::thread::sleep(OPEN_PAUSE);
    }
}
