//! An idempotent producer for many tasks at once: ingest, `send`, replay.
//!
//! A record is handed over without waiting and its acknowledgement is awaited apart from that, so that records which
//! are handed over one after the other stay in that order. A full queue is an answer ([`ProduceError::Busy`]), never
//! a wait: whoever sleeps and tries again there changes the order of two records with one key. Memory is bounded by
//! librdkafka's queue. A producer that met a fatal error is replaced by a new one; what it still held has failed.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use tokio::sync::oneshot;

use crate::failpoint::{Rule, keeps};
use crate::kafka::complaints::Complaints;
use crate::kafka::settings::ProducerSettings;
use crate::record::OutRecord;

/// Where a record came to stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Delivered {
    /// Partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
}

/// Why a record is not in Kafka, or not known to be.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProduceError {
    /// The producer's queue is full: Kafka is away or too slow.
    #[error("the queue to Kafka is full")]
    Busy,
    /// The record is larger than producer or topic take. It will never be taken.
    #[error("a record of {bytes} bytes is too large for topic `{topic}`")]
    TooLarge {
        /// Topic.
        topic: Arc<str>,
        /// Bytes of key, value and headers.
        bytes: usize,
    },
    /// The topic does not exist, or may not be written.
    #[error("cannot write to topic `{topic}`: {code:?}")]
    Topic {
        /// Topic.
        topic: Arc<str>,
        /// librdkafka's code.
        code: RDKafkaErrorCode,
    },
    /// librdkafka takes the record as written because a later one was, which is no proof
    /// (`watch` in `kafka/raw_producer.rs`). It may stand in the topic or not.
    #[error("topic `{topic}` has not said where the record stands")]
    Unproven {
        /// Topic.
        topic: Arc<str>,
    },
    /// Not acknowledged within the producer's delivery time, or given up. The record may stand in the topic all the
    /// same.
    #[error("not delivered to topic `{topic}`: {code:?}")]
    Undelivered {
        /// Topic.
        topic: Arc<str>,
        /// librdkafka's code.
        code: RDKafkaErrorCode,
    },
}

/// Why there is no producer.
#[derive(Debug, thiserror::Error)]
#[error("cannot start a producer")]
pub struct StartError(#[source] KafkaError);

/// Sends records from any task. Clones share one queue and one thread.
#[derive(Clone)]
pub struct Producer {
    shared: Arc<Shared>,
}

struct Shared {
    settings: ProducerSettings,
    live: RwLock<Arc<ThreadedProducer<Reports>>>,
}

/// An acknowledgement on its way. Dropping it gives up waiting, not the record.
#[must_use = "a record counts only when its acknowledgement has come"]
pub struct Receipt {
    topic: Arc<str>,
    bytes: usize,
    answer: oneshot::Receiver<Answer>,
}

/// Where the record stands, or nothing when librdkafka has not been told, or why it is not there.
type Answer = Result<Option<Delivered>, RDKafkaErrorCode>;

/// Hands delivery reports to those who wait, and notes fatal errors.
#[derive(Default)]
struct Reports {
    complaints: Complaints,
    is_broken: AtomicBool,
    /// Records handed over and not reported yet. librdkafka's own count has its errors in it, which wait to be told.
    in_flight: AtomicUsize,
}

impl ClientContext for Reports {
    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
        if code == RDKafkaErrorCode::Fatal {
            self.is_broken.store(true, Ordering::Relaxed);
        }
        if let Some(left_out) = self.complaints.note(code, Instant::now()) {
            tracing::warn!(%error, reason, left_out, "producer");
        }
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<oneshot::Sender<Answer>>;

    fn delivery(&self, report: &DeliveryResult<'_>, answer: Self::DeliveryOpaque) {
        let result = match report {
            Ok(message) => {
                let (partition, offset) = (message.partition(), message.offset());
                let is_proven = offset >= 0 || !keeps(Rule::AcknowledgedHasOffset);
                Ok(is_proven.then_some(Delivered { partition, offset }))
            }
            Err((error, _)) => Err(code_of(error)),
        };
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        // Nobody may wait any more: the request's deadline has passed.
        let _ = answer.send(result);
    }
}

fn code_of(error: &KafkaError) -> RDKafkaErrorCode {
    error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown)
}

impl Producer {
    /// Starts a producer and its thread. Brokers need not answer yet.
    ///
    /// # Errors
    /// [`StartError`] when librdkafka does not take the settings.
    pub fn start(settings: ProducerSettings) -> Result<Self, StartError> {
        let live = RwLock::new(Arc::new(connect(&settings)?));
        Ok(Self { shared: Arc::new(Shared { settings, live }) })
    }

    /// Hands over `record`. Records handed over one after the other to one partition stand there in that order.
    ///
    /// # Errors
    /// [`ProduceError`] when it was not taken; nothing of it is kept then.
    pub fn enqueue(&self, record: &OutRecord) -> Result<Receipt, ProduceError> {
        let OutRecord { topic, partition, timestamp_ms, key, value, headers } = record;
        let bytes = record.size_bytes();
        if bytes > self.shared.settings.message_bytes_max {
            return Err(ProduceError::TooLarge { topic: Arc::clone(topic), bytes });
        }
        let live = self.live();
        let mut kafka_headers = OwnedHeaders::new_with_capacity(headers.len());
        for header in headers {
            kafka_headers =
                kafka_headers.insert(Header { key: header.name.as_str(), value: header.value.as_deref() });
        }
        let (sender, answer) = oneshot::channel();
        let mut kafka_record: BaseRecord<'_, [u8], [u8], _> =
            BaseRecord::with_opaque_to(topic, Box::new(sender)).headers(kafka_headers);
        kafka_record.partition = *partition;
        kafka_record.timestamp = *timestamp_ms;
        kafka_record.key = key.as_deref();
        kafka_record.payload = value.as_deref();
        let in_flight = &live.context().in_flight;
        // Before it is sent: the report may come at once.
        in_flight.fetch_add(1, Ordering::Relaxed);
        match live.send(kafka_record) {
            Ok(()) => Ok(Receipt { topic: Arc::clone(topic), bytes, answer }),
            Err((error, _)) => {
                in_flight.fetch_sub(1, Ordering::Relaxed);
                Err(refused(code_of(&error), topic, bytes))
            }
        }
    }

    /// Hands over `record` and waits until it is acknowledged.
    ///
    /// # Errors
    /// [`ProduceError`] when it is not, within the delivery time of the settings.
    pub async fn send(&self, record: OutRecord) -> Result<Delivered, ProduceError> {
        self.enqueue(&record)?.delivered().await
    }

    /// Waits until everything handed over so far is acknowledged or has failed; false when `patience` ran out first.
    pub async fn flush(&self, patience: Duration) -> bool {
        let live = self.live();
        // Blocks on librdkafka's queue; waits for what it has to tell, too, which is no record.
        let flush =
            move || live.flush(patience).is_ok() || live.context().in_flight.load(Ordering::Relaxed) == 0;
        tokio::task::spawn_blocking(flush).await.unwrap_or(false)
    }

    /// Records handed over and neither acknowledged nor failed.
    pub fn in_flight(&self) -> usize {
        self.live().context().in_flight.load(Ordering::Relaxed)
    }

    /// The producer in use; a broken one is replaced first.
    fn live(&self) -> Arc<ThreadedProducer<Reports>> {
        let live = Arc::clone(&self.shared.live.read().unwrap_or_else(PoisonError::into_inner));
        if !is_broken(&live) {
            return live;
        }
        let mut slot = self.shared.live.write().unwrap_or_else(PoisonError::into_inner);
        if is_broken(&slot) {
            match connect(&self.shared.settings) {
                Ok(fresh) => {
                    tracing::warn!("the producer met a fatal error and was replaced");
                    let broken = std::mem::replace(&mut *slot, Arc::new(fresh));
                    // Its drop waits for its thread; callers here must not.
                    std::thread::spawn(move || drop(broken));
                }
                Err(error) => tracing::error!(error = crate::telemetry::logs::chain(&error), "producer"),
            }
        }
        Arc::clone(&slot)
    }
}

fn is_broken(producer: &ThreadedProducer<Reports>) -> bool {
    producer.context().is_broken.load(Ordering::Relaxed)
}

fn connect(settings: &ProducerSettings) -> Result<ThreadedProducer<Reports>, StartError> {
    settings.to_client_config().create_with_context(Reports::default()).map_err(StartError)
}

impl Receipt {
    /// Waits for the acknowledgement.
    ///
    /// # Errors
    /// [`ProduceError`] when the record was given up.
    pub async fn delivered(self) -> Result<Delivered, ProduceError> {
        let Self { topic, bytes, answer } = self;
        match answer.await {
            Ok(Ok(Some(delivered))) => Ok(delivered),
            Ok(Ok(None)) => Err(ProduceError::Unproven { topic }),
            Ok(Err(code)) => Err(refused(code, &topic, bytes)),
            // The producer went away before it reported.
            Err(_) => Err(ProduceError::Undelivered { topic, code: RDKafkaErrorCode::PurgeQueue }),
        }
    }
}

fn refused(code: RDKafkaErrorCode, topic: &Arc<str>, bytes: usize) -> ProduceError {
    use RDKafkaErrorCode as Code;
    let topic = Arc::clone(topic);
    match code {
        Code::QueueFull => ProduceError::Busy,
        Code::MessageSizeTooLarge | Code::InvalidMessageSize => ProduceError::TooLarge { topic, bytes },
        Code::UnknownTopic
        | Code::UnknownTopicOrPartition
        | Code::UnknownPartition
        | Code::InvalidTopic
        | Code::TopicAuthorizationFailed
        | Code::ClusterAuthorizationFailed => ProduceError::Topic { topic, code },
        code => ProduceError::Undelivered { topic, code },
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use rdkafka::mocking::MockCluster;

    use super::*;
    use crate::kafka::settings::Connection;

    fn record(topic: &str, value: &[u8]) -> OutRecord {
        OutRecord {
            topic: Arc::from(topic),
            partition: None,
            timestamp_ms: None,
            key: Some(Bytes::from_static(b"k")),
            value: Some(Bytes::copy_from_slice(value)),
            headers: vec![crate::record::Header::of("ce_id", "1")],
        }
    }

    fn producer(brokers: &str, delivery_ms: u64) -> Producer {
        let mut settings = ProducerSettings::new(Connection::plain(brokers, "test"));
        settings.delivery_timeout = Duration::from_millis(delivery_ms);
        Producer::start(settings).unwrap()
    }

    #[tokio::test]
    async fn records_of_one_key_stand_in_the_order_they_were_handed_over() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("t", 4, 1).unwrap();
        let producer = producer(&cluster.bootstrap_servers(), 10_000);
        let receipts: Vec<Receipt> = (0..100)
            .map(|number: i32| producer.enqueue(&record("t", &number.to_be_bytes())).unwrap())
            .collect();
        let mut last = None;
        for receipt in receipts {
            let delivered = receipt.delivered().await.unwrap();
            if let Some(Delivered { partition, offset }) = last {
                assert_eq!(delivered, Delivered { partition, offset: offset + 1 });
            }
            last = Some(delivered);
        }
        assert!(producer.flush(Duration::from_secs(5)).await);
        assert_eq!(producer.in_flight(), 0);
    }

    #[tokio::test]
    async fn what_kafka_never_takes_is_said_at_once() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("t", 1, 1).unwrap();
        let producer = producer(&cluster.bootstrap_servers(), 10_000);
        let large = producer.send(record("t", &vec![0; 2 << 20])).await;
        assert!(matches!(large, Err(ProduceError::TooLarge { bytes, .. }) if bytes > 2 << 20));
        cluster.request_errors(
            rdkafka::types::RDKafkaApiKey::Produce,
            &[rdkafka::types::RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE],
        );
        let refused = producer.send(record("t", b"x")).await;
        assert!(matches!(refused, Err(ProduceError::TooLarge { .. })), "{refused:?}");
        assert!(producer.send(record("t", b"x")).await.is_ok());
    }

    #[tokio::test]
    async fn without_a_broker_memory_is_bounded_and_records_fail_in_time() {
        let producer = producer("127.0.0.1:1", 300);
        let value = vec![0; 1 << 19];
        let mut receipts = Vec::new();
        let full = loop {
            match producer.enqueue(&record("t", &value)) {
                Ok(receipt) => receipts.push(receipt),
                Err(error) => break error,
            }
            assert!(receipts.len() < 100, "the queue has an end");
        };
        assert_eq!(full, ProduceError::Busy);
        for receipt in receipts {
            assert!(matches!(receipt.delivered().await, Err(ProduceError::Undelivered { .. })));
        }
        assert!(producer.enqueue(&record("t", &value)).is_ok(), "there is room again");
    }

    #[test]
    fn records_in_flight_are_counted_whatever_else_librdkafka_has_to_tell() {
        let producer = producer("127.0.0.1:1,127.0.0.1:2,127.0.0.1:3,127.0.0.1:4", 30_000);
        let receipts: Vec<_> = (0..3).map(|_| producer.enqueue(&record("t", b"x")).unwrap()).collect();
        let begun = Instant::now();
        // Meanwhile it hears of each connection that fails.
        while begun.elapsed() < Duration::from_secs(1) {
            assert_eq!(producer.in_flight(), receipts.len());
        }
    }

    #[tokio::test]
    async fn a_broker_that_comes_back_is_used_again() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("t", 1, 1).unwrap();
        let producer = producer(&cluster.bootstrap_servers(), 2_000);
        assert!(producer.send(record("t", b"1")).await.is_ok());
        cluster.broker_down(1).unwrap();
        let failed = producer.send(record("t", b"2")).await;
        assert!(matches!(failed, Err(ProduceError::Undelivered { .. })), "{failed:?}");
        cluster.broker_up(1).unwrap();
        let mut attempts = 0;
        while producer.send(record("t", b"3")).await.is_err() {
            attempts += 1;
            assert!(attempts < 5, "the producer finds the broker again");
        }
    }

    /// The broker refuses the first request and takes the second, which is on its way behind it: librdkafka believes the
    /// first to be written, as the second could not have been taken otherwise.
    #[tokio::test]
    async fn a_record_counts_only_when_the_broker_said_where_it_stands() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("t", 1, 1).unwrap();
        let producer = producer(&cluster.bootstrap_servers(), 10_000);
        assert!(producer.send(record("t", b"0")).await.is_ok());
        cluster.broker_round_trip_time(1, Duration::from_millis(300)).unwrap();
        cluster.request_errors(
            rdkafka::types::RDKafkaApiKey::Produce,
            &[rdkafka::types::RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION],
        );
        let refused = producer.enqueue(&record("t", b"1")).unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        let taken = producer.enqueue(&record("t", b"2")).unwrap();
        assert_eq!(taken.delivered().await, Ok(Delivered { partition: 0, offset: 1 }));
        assert_eq!(refused.delivered().await, Err(ProduceError::Unproven { topic: Arc::from("t") }));
    }

    #[tokio::test]
    async fn a_fatal_error_costs_a_producer_not_the_process() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("t", 1, 1).unwrap();
        let producer = producer(&cluster.bootstrap_servers(), 5_000);
        assert!(producer.send(record("t", b"1")).await.is_ok());
        producer.live().context().is_broken.store(true, Ordering::Relaxed);
        assert!(producer.send(record("t", b"2")).await.is_ok());
        assert!(!is_broken(&producer.live()));
    }
}
