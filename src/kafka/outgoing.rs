//! A producer for one thread that chooses partitions itself: by key as Java's clients do, and without a key the same
//! partition for a whole batch, which makes fewer and larger requests.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::failpoint::{Rule, keeps};
use crate::kafka::complaints::Complaints;
use crate::kafka::fetched::Fetched;
use crate::kafka::leaders;
use crate::kafka::partitioner::partition_of;
use crate::kafka::raw_producer::{RawProducer, TopicHandle};
use crate::kafka::suspicion::{self, Counters};
use crate::record::OutRecord;

/// How long the question after a topic's partitions may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// Before leaders that are none yet are asked again.
const ASK_PAUSE: Duration = Duration::from_millis(50);
/// Partitions may be added to a topic; after this long they are counted again.
const PARTITIONS_VALID: Duration = Duration::from_secs(300);

/// Why a record was not taken or not delivered.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SendError {
    /// The topic does not exist, or may not be seen.
    #[error("cannot write to topic `{topic}`")]
    Topic {
        /// Topic.
        topic: Arc<str>,
        /// librdkafka's error.
        source: KafkaError,
    },
    /// librdkafka did not take the record.
    #[error("a record of {bytes} bytes for topic `{topic}` was not taken: {code:?}")]
    Refused {
        /// Topic.
        topic: Arc<str>,
        /// Bytes of key, value and headers.
        bytes: usize,
        /// librdkafka's code.
        code: RDKafkaErrorCode,
    },
    /// A record was taken and not delivered.
    #[error("a record of {bytes} bytes was not delivered to {topic}/{partition}: {code:?}")]
    Undelivered {
        /// Topic.
        topic: String,
        /// Partition.
        partition: i32,
        /// Bytes of the value.
        bytes: usize,
        /// librdkafka's code.
        code: RDKafkaErrorCode,
    },
    /// librdkafka takes records as written because later ones were, which is no proof. They may be missing.
    #[error("{0} records were acknowledged without an offset and may be missing")]
    Unproven(u64),
    /// Records were neither delivered nor reported as failed in time.
    #[error("records were not delivered within {0:?}")]
    TimedOut(Duration),
}

impl SendError {
    /// Whether the same records would be refused again, however often they are sent.
    pub fn is_too_large(&self) -> bool {
        match self {
            Self::Refused { code, .. } | Self::Undelivered { code, .. } => {
                matches!(code, RDKafkaErrorCode::MessageSizeTooLarge)
            }
            Self::Topic { .. } | Self::Unproven(_) | Self::TimedOut(_) => false,
        }
    }
}

/// Notes the first record that failed, and signs of requests that may have been sent twice.
#[derive(Default)]
pub(crate) struct Reports {
    complaints: Complaints,
    failure: Mutex<Option<SendError>>,
    signs: AtomicU64,
    counters: Mutex<Option<Counters>>,
}

impl ClientContext for Reports {
    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
        if suspicion::is_sign(code) {
            self.signs.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(left_out) = self.complaints.note(code, Instant::now()) {
            tracing::warn!(%error, reason, left_out, "producer");
        }
    }

    fn stats_raw(&self, json: &[u8]) {
        let now = Counters::read(json);
        let before = self.counters.lock().unwrap_or_else(PoisonError::into_inner).replace(now);
        // The first are those of the start, where connections to bootstrap addresses come and go.
        if before.is_some_and(|before| now.rose_since(before)) {
            self.signs.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Reports {
    fn failed(&self, report: &Fetched<'_>) {
        let failed = SendError::Undelivered {
            topic: report.topic().to_owned(),
            partition: report.partition(),
            bytes: report.value().map_or(0, <[u8]>::len),
            code: report.error().unwrap_or(RDKafkaErrorCode::Unknown),
        };
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failed);
    }
}

struct Topic {
    name: Arc<str>,
    handle: TopicHandle,
    partitions: i32,
    counted_at: Instant,
}

/// A producer, and the topics it has written to.
pub(crate) struct Outgoing {
    // Before the producer: handles must be dropped first.
    topics: Vec<Topic>,
    producer: RawProducer<Reports>,
    /// Unproven records of sends that failed because of them.
    unproven: u64,
    delivery_timeout: Duration,
    /// Partition of records without a key, modulo the topic's number of partitions; another for each batch.
    keyless: i32,
    /// What librdkafka may still read values of. After the producer: until then its threads do.
    lent: Vec<Arc<Vec<OutRecord>>>,
}

impl Outgoing {
    /// Starts a producer.
    pub(crate) fn new(config: &ClientConfig, delivery_timeout: Duration) -> Result<Self, KafkaError> {
        let producer = RawProducer::start(config, Reports::default())?;
        Ok(Self { topics: Vec::new(), producer, unproven: 0, delivery_timeout, keyless: 0, lent: Vec::new() })
    }

    /// The producer, for transactional calls.
    pub(crate) fn producer(&self) -> &RawProducer<Reports> {
        &self.producer
    }

    /// Gives all of `records` to the queue, in order. Waits while the queue is full. Their values are not copied, so
    /// they are kept until the next [`Self::flush`] that succeeds.
    pub(crate) fn send_all(&mut self, records: &Arc<Vec<OutRecord>>) -> Result<(), SendError> {
        self.lent.push(Arc::clone(records));
        self.keyless = self.keyless.wrapping_add(1) & i32::MAX;
        self.topics.retain(|topic| topic.counted_at.elapsed() < PARTITIONS_VALID);
        // SAFETY: they are part of what is lent.
        records.iter().try_for_each(|record| unsafe { self.send(record) })
    }

    /// # Safety
    /// `record` must be part of what is lent.
    unsafe fn send(&mut self, record: &OutRecord) -> Result<(), SendError> {
        let Self { topics, producer, delivery_timeout, keyless, .. } = self;
        // They are few, and names that are equal are mostly the same.
        let at = match topics.iter().position(|topic| topic.name == record.topic) {
            Some(at) => at,
            None => {
                topics.push(look_up(producer, &record.topic)?);
                topics.len() - 1
            }
        };
        let topic = &topics[at];
        let partition = match (record.partition, &record.key) {
            (Some(fixed), _) => fixed,
            (None, Some(key)) => partition_of(key, topic.partitions),
            (None, None) => *keyless % topic.partitions,
        };
        let mut full_since = None;
        loop {
            // SAFETY: what is lent stays until everything was acknowledged or has failed, or the producer is gone.
            match unsafe { producer.produce(&topic.handle, partition, record) } {
                Ok(()) => return Ok(()),
                Err(RDKafkaErrorCode::QueueFull)
                    if full_since.get_or_insert_with(Instant::now).elapsed() < *delivery_timeout =>
                {
                    producer.serve(|report| producer.context().failed(report));
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(code) => {
                    let (topic, bytes) = (Arc::clone(&record.topic), record.size_bytes());
                    return Err(SendError::Refused { topic, bytes, code });
                }
            }
        }
    }

    /// Waits until all records sent are acknowledged. Each of them is, or fails, within the delivery timeout.
    pub(crate) fn flush(&mut self) -> Result<(), SendError> {
        let limit = self.delivery_timeout * 2;
        let begun = Instant::now();
        while !self.producer.flush(Duration::from_millis(100)) {
            // Reports of failed records are counted as waiting until they are served.
            self.serve();
            if begun.elapsed() > limit {
                return Err(SendError::TimedOut(limit));
            }
        }
        self.serve();
        // Nothing waits any more, neither in a queue nor for an answer.
        self.lent.clear();
        if let Some(failure) = self.take_failure() {
            return Err(failure);
        }
        let missing =
            self.producer.unproven() - std::mem::replace(&mut self.unproven, self.producer.unproven());
        if missing > 0 && keeps(Rule::AcknowledgedHasOffset) {
            return Err(SendError::Unproven(missing));
        }
        Ok(())
    }

    /// Serves what librdkafka wants to tell, without waiting.
    pub(crate) fn serve(&self) {
        self.producer.serve(|report| self.producer.context().failed(report));
    }

    /// How many signs of requests sent twice there were so far, as far as they are served.
    pub(crate) fn signs(&self) -> u64 {
        self.producer.context().signs.load(Ordering::Relaxed)
    }

    /// The counters of the last statistics.
    #[cfg(test)]
    pub(crate) fn counters(&self) -> Option<Counters> {
        *self.producer.context().counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first record that failed since the last call.
    pub(crate) fn take_failure(&self) -> Option<SendError> {
        self.producer.context().failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

fn look_up(producer: &RawProducer<Reports>, name: &Arc<str>) -> Result<Topic, SendError> {
    let failed = |source| SendError::Topic { topic: Arc::clone(name), source };
    let metadata = producer.client().fetch_metadata(Some(name), ASK_TIMEOUT).map_err(failed)?;
    let found = metadata.topics().iter().find(|topic| topic.name() == &**name);
    let missing = || failed(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition));
    let found = found.filter(|topic| topic.error().is_none()).ok_or_else(missing)?;
    let partitions = i32::try_from(found.partitions().len()).unwrap_or(i32::MAX);
    if partitions == 0 {
        return Err(missing());
    }
    // A leader that does not know of it yet would refuse the first records and take the next (see [`RawProducer`]).
    let (begun, all) = (Instant::now(), [(name.to_string(), partitions)]);
    while let Err(error) = leaders::ask(producer.client(), &all, ASK_TIMEOUT) {
        if begun.elapsed() > ASK_TIMEOUT {
            return Err(failed(error));
        }
        std::thread::sleep(ASK_PAUSE);
    }
    let handle = TopicHandle::new(producer, name).ok_or_else(missing)?;
    Ok(Topic { name: Arc::clone(name), handle, partitions, counted_at: Instant::now() })
}
