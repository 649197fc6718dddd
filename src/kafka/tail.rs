//! Reads a topic without a group and commits nothing: for `tail`, for dead letters, for checks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::{ClientConfig, ClientContext};

use crate::kafka::arena::{Arena, Size};
use crate::kafka::fetched::Fetched;
use crate::kafka::leaders::{self, has_no_leader_yet};
use crate::kafka::settings::{self, Connection};
use crate::position::{NextOffset, Partition};
use crate::record::InRecord;

const ASK_TIMEOUT: Duration = Duration::from_secs(15);
const RECORDS_MAX: usize = 500;
/// Pause before a topic that was just made is asked for its ends again.
const LEADER_PAUSE: Duration = Duration::from_millis(100);
/// A topic that a broker does not know may have been made a moment ago, through another one or the controller.
const UNKNOWN_PATIENCE: Duration = Duration::from_secs(1);

/// Whether every partition of `topics` (name and partitions) has a leader that answers; see [`leaders`]. Blocks.
///
/// # Errors
/// When Kafka does not answer, or refuses.
pub fn are_led(connection: &Connection, topics: &[(String, i32)]) -> Result<bool, TailError> {
    let Some((first, _)) = topics.first() else { return Ok(true) };
    let consumer = reader(&settings::plain_reader(connection), first)?;
    match leaders::ask(consumer.client(), topics, ASK_TIMEOUT) {
        Err(error) if has_no_leader_yet(&error) => Ok(false),
        Err(source) => Err(TailError::Read { topic: first.clone(), source }),
        Ok(()) => Ok(true),
    }
}

/// Where to begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Begin {
    /// With the oldest records.
    Oldest,
    /// With those that come from now on.
    Newest,
    /// So many records before the end of each partition.
    Last(u32),
    /// With the first record of this time or later, in milliseconds since 1970.
    Time(i64),
    /// With this offset of this partition, and no other partition.
    At(i32, i64),
}

/// Where to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// With the last record that was committed when reading began.
    AsOfNow,
    /// Never.
    Never,
}

/// Why a topic cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TailError {
    /// There is no such topic, or it may not be seen.
    #[error("there is no topic `{0}`")]
    NoTopic(String),
    /// Kafka does not answer, or refuses.
    #[error("cannot read topic `{topic}`")]
    Read {
        /// Topic.
        topic: String,
        /// librdkafka's error.
        source: KafkaError,
    },
    /// Somebody's transaction does not end.
    #[error("a transaction in topic `{topic}` has been open for {waited:?}")]
    Open {
        /// Topic.
        topic: String,
        /// So long it was waited for.
        waited: Duration,
    },
}

/// Reading to the end of a partition is no error here, though the wrapper reports it as one.
struct Quiet;

impl ClientContext for Quiet {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "reader");
    }
}

impl ConsumerContext for Quiet {}

/// The oldest offset of a partition that is kept, and its end, asked again while the partition has no leader yet.
pub(super) fn watermarks<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    partition: i32,
) -> Result<(i64, i64), KafkaError> {
    let deadline = Instant::now() + ASK_TIMEOUT;
    loop {
        match consumer.fetch_watermarks(topic, partition, ASK_TIMEOUT) {
            Err(error) if has_no_leader_yet(&error) && Instant::now() < deadline => {
                std::thread::sleep(LEADER_PAUSE);
            }
            result => return result,
        }
    }
}

/// The oldest offset of a partition that is kept, and its end. Blocks for up to seconds.
///
/// # Errors
/// When Kafka does not answer.
pub fn range(connection: &Connection, partition: &Partition) -> Result<(NextOffset, NextOffset), TailError> {
    let Partition { topic, number } = partition;
    let read = |source| TailError::Read { topic: topic.to_string(), source };
    let consumer = reader(&settings::plain_reader(connection), topic)?;
    let (low, high) = watermarks(&consumer, topic, *number).map_err(read)?;
    Ok((NextOffset(low), NextOffset(high)))
}

/// The oldest offset that is kept and the end, of every partition of `topic`. Blocks for up to seconds.
///
/// # Errors
/// When the topic does not exist or Kafka does not answer.
pub fn ranges(
    connection: &Connection,
    topic: &str,
) -> Result<BTreeMap<i32, (NextOffset, NextOffset)>, TailError> {
    let consumer = reader(&settings::plain_reader(connection), topic)?;
    let ranges = ranges_of(&consumer, topic)?;
    Ok(ranges
        .into_iter()
        .map(|(number, (low, high))| (number, (NextOffset(low), NextOffset(high))))
        .collect())
}

fn reader(config: &ClientConfig, topic: &str) -> Result<BaseConsumer<Quiet>, TailError> {
    let read = |source| TailError::Read { topic: topic.to_owned(), source };
    config.create_with_context(Quiet).map_err(read)
}

fn ranges_of(consumer: &BaseConsumer<Quiet>, topic: &str) -> Result<BTreeMap<i32, (i64, i64)>, TailError> {
    let read = |source| TailError::Read { topic: topic.to_owned(), source };
    let metadata = consumer.fetch_metadata(Some(topic), ASK_TIMEOUT).map_err(read)?;
    let no_topic = || TailError::NoTopic(topic.to_owned());
    let found = metadata.topics().iter().find(|found| found.name() == topic).ok_or_else(no_topic)?;
    match found.error().map(RDKafkaErrorCode::from) {
        Some(RDKafkaErrorCode::LeaderNotAvailable) => {
            return Err(read(KafkaError::MetadataFetch(RDKafkaErrorCode::LeaderNotAvailable)));
        }
        Some(_) => return Err(no_topic()),
        None if found.partitions().is_empty() => return Err(no_topic()),
        None => {}
    }
    let range = |number| {
        let range = watermarks(consumer, topic, number).map_err(read)?;
        Ok((number, range))
    };
    found.partitions().iter().map(|partition| range(partition.id())).collect()
}

/// A topic being read. Blocks; use it where that does no harm.
pub struct Tail {
    consumer: BaseConsumer<Quiet>,
    topic: Arc<str>,
    /// Partitions not yet read to their end, and that end; empty with [`End::Never`].
    open: BTreeMap<i32, i64>,
    end: End,
}

impl Tail {
    /// Begins to read committed records of `topic`.
    ///
    /// # Errors
    /// When the topic does not exist or Kafka does not answer.
    pub fn open(connection: &Connection, topic: &str, begin: Begin, end: End) -> Result<Self, TailError> {
        let begun = Instant::now();
        loop {
            let result = Self::open_once(connection, topic, begin, end);
            let patience = match &result {
                Err(TailError::Read { source, .. }) if has_no_leader_yet(source) => ASK_TIMEOUT,
                Err(TailError::NoTopic(_)) => UNKNOWN_PATIENCE,
                _ => Duration::ZERO,
            };
            if begun.elapsed() >= patience {
                return result;
            }
            std::thread::sleep(LEADER_PAUSE);
        }
    }

    fn open_once(connection: &Connection, topic: &str, begin: Begin, end: End) -> Result<Self, TailError> {
        let read = |source| TailError::Read { topic: topic.to_owned(), source };
        let mut config = settings::plain_reader(connection);
        // Retention may pass the position between the question and the fetch; go on with what is kept.
        config.set("auto.offset.reset", "earliest");
        let consumer = reader(&config, topic)?;
        let mut list = TopicPartitionList::new();
        let mut open = BTreeMap::new();
        for (number, (low, high)) in ranges_of(&consumer, topic)? {
            if matches!(begin, Begin::At(only, _) if only != number) {
                continue;
            }
            let from = match begin {
                Begin::Oldest => low,
                Begin::Newest => high,
                Begin::Last(count) => (high - i64::from(count)).max(low),
                Begin::Time(time) => time,
                Begin::At(_, offset) => offset.max(low),
            };
            list.add_partition_offset(topic, number, Offset::Offset(from)).map_err(read)?;
            open.insert(number, high);
        }
        if let Begin::Time(_) = begin {
            list = consumer.offsets_for_times(list, ASK_TIMEOUT).map_err(read)?;
        }
        for element in list.elements() {
            // A time after the last record is answered with the end.
            let at_end = match element.offset() {
                Offset::Offset(from) => open.get(&element.partition()).is_some_and(|end| from >= *end),
                _ => true,
            };
            if at_end {
                open.remove(&element.partition());
            }
        }
        consumer.assign(&list).map_err(read)?;
        Ok(Self { consumer, topic: Arc::from(topic), open, end })
    }

    /// Begins to read a part of `topic`: from the first offset of each partition to the second, which itself is not
    /// read. Unlike [`Tail::open`] it never goes on behind records that are not kept: that is an error of
    /// [`Tail::read`].
    ///
    /// # Errors
    /// When librdkafka refuses.
    pub fn between(
        connection: &Connection,
        topic: &str,
        parts: &BTreeMap<i32, (NextOffset, NextOffset)>,
    ) -> Result<Self, TailError> {
        let read = |source| TailError::Read { topic: topic.to_owned(), source };
        let consumer = reader(&settings::plain_reader(connection), topic)?;
        let mut list = TopicPartitionList::new();
        let mut open = BTreeMap::new();
        for (number, (from, to)) in parts.iter().filter(|(_, (from, to))| from < to) {
            list.add_partition_offset(topic, *number, Offset::Offset(from.0)).map_err(read)?;
            open.insert(*number, to.0);
        }
        consumer.assign(&list).map_err(read)?;
        Ok(Self { consumer, topic: Arc::from(topic), open, end: End::AsOfNow })
    }

    /// Appends records as they come, up to some hundreds, waiting up to `wait` for the first. `false` when the end is
    /// reached and nothing more will come.
    ///
    /// # Errors
    /// When Kafka refuses; lost connections are waited for.
    pub fn read(&mut self, wait: Duration, records: &mut Vec<InRecord>) -> Result<bool, TailError> {
        if self.is_at_end() {
            return Ok(false);
        }
        let begun = Instant::now();
        let mut arena = Arena::with_capacity(Size::default());
        while arena.len() < RECORDS_MAX && !self.is_at_end() {
            let left = wait.saturating_sub(begun.elapsed());
            let left = if arena.is_empty() { left } else { Duration::ZERO };
            match self.consumer.poll(left) {
                Some(Ok(message)) => {
                    let (partition, next) = (message.partition(), message.offset() + 1);
                    if self.end == End::AsOfNow && !self.open.contains_key(&partition) {
                        continue;
                    }
                    if let Some(fetched) = Fetched::of(&message) {
                        arena.add(Arc::clone(&self.topic), &fetched);
                    }
                    self.note(partition, next);
                }
                Some(Err(KafkaError::MessageConsumption(code))) if is_passing(code) => {
                    tracing::debug!(topic = &*self.topic, ?code, "reading");
                }
                // Transaction markers and aborted records at the end are never handed out.
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    self.open.remove(&partition);
                }
                Some(Err(source)) => {
                    return Err(TailError::Read { topic: self.topic.to_string(), source });
                }
                None => break,
            }
        }
        arena.finish(records);
        Ok(true)
    }

    fn note(&mut self, partition: i32, next: i64) {
        if self.open.get(&partition).is_some_and(|end| next >= *end) {
            self.open.remove(&partition);
            let mut list = TopicPartitionList::new();
            list.add_partition(&self.topic, partition);
            // What comes all the same is left out.
            let _still_fetched = self.consumer.pause(&list);
        }
    }

    fn is_at_end(&self) -> bool {
        self.end == End::AsOfNow && self.open.is_empty()
    }
}

fn is_passing(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::{AllBrokersDown, BrokerTransportFailure, OperationTimedOut, Resolve};
    matches!(code, AllBrokersDown | BrokerTransportFailure | OperationTimedOut | Resolve)
}

/// Waits until all that was written to `topic` before now is decided: committed or aborted. Only then does a reader of
/// committed records see every one of them, as a transaction that is still open hides all that was committed behind it.
///
/// # Errors
/// When Kafka does not answer, or a transaction is still open after `patience`.
pub fn wait_until_decided(connection: &Connection, topic: &str, patience: Duration) -> Result<(), TailError> {
    let read = |source| TailError::Read { topic: topic.to_owned(), source };
    let begun = Instant::now();
    let reader = |isolation: &str| {
        let mut config = settings::plain_reader(connection);
        config.set("isolation.level", isolation);
        config.create_with_context::<_, BaseConsumer<Quiet>>(Quiet).map_err(read)
    };
    let (written, committed) = (reader("read_uncommitted")?, reader("read_committed")?);
    let metadata = written.fetch_metadata(Some(topic), ASK_TIMEOUT).map_err(read)?;
    let found = metadata.topics().iter().find(|found| found.name() == topic && found.error().is_none());
    for partition in found.ok_or_else(|| TailError::NoTopic(topic.to_owned()))?.partitions() {
        let number = partition.id();
        let (_, end) = written.fetch_watermarks(topic, number, ASK_TIMEOUT).map_err(read)?;
        while committed.fetch_watermarks(topic, number, ASK_TIMEOUT).map_err(read)?.1 < end {
            if begun.elapsed() > patience {
                return Err(TailError::Open { topic: topic.to_owned(), waited: patience });
            }
            std::thread::sleep(LEADER_PAUSE);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

    use super::*;

    #[test]
    fn a_partition_without_a_leader_is_asked_again() {
        let cluster = MockCluster::new(1).expect("a mock cluster");
        cluster.create_topic("young", 1, 1).expect("a topic");
        let no_leader = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION;
        cluster.request_errors(RDKafkaApiKey::ListOffsets, &[no_leader; 2]);
        let connection = Connection::plain(cluster.bootstrap_servers(), "test");
        let found = range(&connection, &Partition::new("young", 0)).expect("it is found");
        assert_eq!(found, (NextOffset(0), NextOffset(0)));
    }
}
