//! Reads topics back as an independent consumer would: without a group, from the begin to the end.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

/// A record read back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Back {
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// Key.
    pub key: Option<Vec<u8>>,
    /// Value.
    pub value: Option<Vec<u8>>,
    /// Headers.
    pub headers: Vec<(String, Vec<u8>)>,
}

impl Back {
    /// A record as it was read.
    pub fn of(message: &BorrowedMessage<'_>) -> Self {
        Self {
            partition: message.partition(),
            offset: message.offset(),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers: message.headers().map_or_else(Vec::new, |headers| {
                headers
                    .iter()
                    .map(|header| (header.key.to_owned(), header.value.unwrap_or_default().to_vec()))
                    .collect()
            }),
        }
    }

    /// Text of the header called `name`.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().rev().find(|(key, _)| key == name)?;
        std::str::from_utf8(value).ok()
    }
}

/// Every committed record of `topic`, in order within each partition.
pub fn read_all(kafka: &str, topic: &str) -> Vec<Back> {
    read(kafka, topic, "read_committed")
}

/// Every record of `topic`, those of aborted transactions and of open ones too.
pub fn read_uncommitted(kafka: &str, topic: &str) -> Vec<Back> {
    read(kafka, topic, "read_uncommitted")
}

fn read(kafka: &str, topic: &str, isolation: &str) -> Vec<Back> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", kafka)
        .set("group.id", "millrace-tests-readback")
        .set("enable.auto.commit", "false")
        .set("isolation.level", isolation)
        .set("enable.partition.eof", "true")
        .set("fetch.queue.backoff.ms", "20")
        .create()
        .expect("a consumer can be made");
    let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(20)).expect("Kafka answers");
    let partitions: Vec<i32> = metadata
        .topics()
        .iter()
        .flat_map(|topic| topic.partitions())
        .map(|partition| partition.id())
        .collect();
    assert!(!partitions.is_empty(), "topic {topic} exists");
    let mut list = TopicPartitionList::new();
    for partition in &partitions {
        list.add_partition_offset(topic, *partition, Offset::Beginning).expect("an offset");
    }
    consumer.assign(&list).expect("the partitions can be assigned");
    let mut records = Vec::new();
    let mut open = partitions.len();
    let deadline = Instant::now() + Duration::from_secs(120);
    while open > 0 {
        assert!(Instant::now() < deadline, "topic {topic} could not be read to its end");
        match consumer.poll(Duration::from_millis(200)) {
            Some(Ok(message)) => records.push(Back::of(&message)),
            Some(Err(rdkafka::error::KafkaError::PartitionEOF(_))) => open -= 1,
            Some(Err(error)) => panic!("topic {topic}: {error}"),
            None => {}
        }
    }
    records
}
