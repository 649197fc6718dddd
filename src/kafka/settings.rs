//! Typed settings, and the one place that spells librdkafka's keys.
//!
//! Where a value differs from librdkafka's default, the reason stands beside it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;

use crate::failpoint::{Rule, keeps};
use crate::secrets::Secret;

/// Largest request for one record. Dead-letter topics take records of this size (`max.message.bytes`).
const REQUEST_BYTES_MAX: usize = 2 << 20;

/// How to reach the cluster.
#[derive(Clone)]
pub struct Connection {
    /// `host:port`, several separated by commas.
    pub brokers: String,
    /// Name that the brokers' logs show.
    pub client_id: String,
    /// Further librdkafka settings, for security mostly (`security.protocol`, `sasl.*`). They may hold passwords.
    pub extra: BTreeMap<String, Secret>,
}

impl Connection {
    /// A connection without security settings.
    pub fn plain(brokers: impl Into<String>, client_id: impl Into<String>) -> Self {
        Self { brokers: brokers.into(), client_id: client_id.into(), extra: BTreeMap::new() }
    }

    /// Settings that every client shares; callers add their own.
    pub fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", &self.client_id)
            .set("allow.auto.create.topics", "false")
            // Default 60 s. A cut-off broker is noticed within two transactions' time instead of four.
            .set("socket.timeout.ms", "10000")
            .set("socket.keepalive.enable", "true")
            .set("socket.nagle.disable", "true")
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "2000")
            .set_log_level(RDKafkaLogLevel::Warning);
        for (key, value) in &self.extra {
            config.set(key, String::from_utf8_lossy(value.expose()));
        }
        config
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { brokers, client_id, extra } = self;
        let keys: Vec<_> = extra.keys().collect();
        f.debug_struct("Connection")
            .field("brokers", brokers)
            .field("client_id", client_id)
            .field("extra", &keys)
            .finish()
    }
}

/// Where a group begins that has committed nothing for a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Start {
    /// At the oldest record that is kept.
    #[default]
    Earliest,
    /// With the next record. The position is committed at once, so that a restart does not skip.
    Latest,
}

/// A member of a consumer group.
#[derive(Clone, Debug)]
pub struct ConsumerSettings {
    /// How to reach the cluster.
    pub connection: Connection,
    /// Consumer group.
    pub group: String,
    /// Static membership (`group.instance.id`); `None` joins as a new member each time.
    pub instance: Option<String>,
    /// Topics to subscribe to.
    pub topics: Vec<String>,
    /// Where to begin without a committed offset.
    pub start: Start,
    /// After this long without a heartbeat the group goes on without the member.
    pub session_timeout: Duration,
    /// After this long without a poll the client leaves the group by itself.
    pub poll_interval_max: Duration,
    /// What is fetched ahead.
    pub fetching: Fetching,
}

/// How much is fetched ahead. librdkafka looks at the first number before it asks, and the answer comes on top of it,
/// decompressed: the other two bound that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fetching {
    /// Bytes held ready, over all partitions; librdkafka's default is 64 MiB.
    pub prefetch_bytes: usize,
    /// Bytes of one answer, as they come over the wire; the default is 50 MiB. A single record may be larger.
    pub answer_bytes: usize,
    /// Bytes of one partition in an answer.
    pub partition_bytes: usize,
}

impl Default for Fetching {
    /// 8 MiB, which gave a third of the memory and the best rate; 4 MiB; 256 KiB.
    fn default() -> Self {
        Self { prefetch_bytes: 8 << 20, answer_bytes: 4 << 20, partition_bytes: 256 << 10 }
    }
}

impl ConsumerSettings {
    /// A member of `group` with the defaults: earliest, session 45 s, 8 MiB of prefetch.
    pub fn new(connection: Connection, group: impl Into<String>, topics: Vec<String>) -> Self {
        Self {
            connection,
            group: group.into(),
            instance: None,
            topics,
            start: Start::Earliest,
            session_timeout: Duration::from_secs(45),
            poll_interval_max: Duration::from_secs(300),
            fetching: Fetching::default(),
        }
    }

    /// librdkafka's settings for this member.
    pub fn to_client_config(&self) -> ClientConfig {
        let heartbeat = (self.session_timeout / 10).max(Duration::from_millis(200));
        let mut config = reading(&self.connection, self.fetching);
        config
            .set("group.id", &self.group)
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("session.timeout.ms", self.session_timeout.as_millis().to_string())
            .set("heartbeat.interval.ms", heartbeat.as_millis().to_string())
            .set("max.poll.interval.ms", self.poll_interval_max.as_millis().to_string());
        if let Some(instance) = &self.instance {
            config.set("group.instance.id", instance);
        }
        config
    }
}

/// Settings of a client that reads without a group.
pub fn plain_reader(connection: &Connection) -> ClientConfig {
    let mut config = reading(connection, Fetching::default());
    // librdkafka wants a group to assign partitions by hand; nothing is ever committed to it.
    config.set("group.id", "millrace.reader").set("enable.partition.eof", "true");
    config
}

fn reading(connection: &Connection, fetching: Fetching) -> ClientConfig {
    let Fetching { prefetch_bytes, answer_bytes, partition_bytes } = fetching;
    let mut config = connection.client();
    config
        .set(
            "isolation.level",
            if keeps(Rule::ReadsCommitted) { "read_committed" } else { "read_uncommitted" },
        )
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // A committed offset that the broker no longer has is loss: stop and say so.
        .set("auto.offset.reset", if keeps(Rule::StopsAtLoss) { "error" } else { "earliest" })
        // Default 1000 ms: a full prefetch queue stops fetching for a second and the pipelines starve.
        .set("fetch.queue.backoff.ms", "20")
        .set("fetch.wait.max.ms", "100")
        .set("queued.max.messages.kbytes", (prefetch_bytes / 1024).max(1024).to_string())
        // librdkafka refuses less than a record may have.
        .set("fetch.max.bytes", answer_bytes.max(1 << 20).to_string())
        .set("fetch.message.max.bytes", partition_bytes.to_string());
    config
}

/// A producer of either kind.
#[derive(Clone, Debug)]
pub struct ProducerSettings {
    /// How to reach the cluster.
    pub connection: Connection,
    /// How long a record may wait for others of its batch.
    pub linger: Duration,
    /// Within this time a record is acknowledged or has failed.
    pub delivery_timeout: Duration,
    /// Largest record, in bytes of key, value and headers. Below the 1 MiB that brokers take by default, as they
    /// count the batch around it too.
    pub message_bytes_max: usize,
    /// Largest dead letter, counted alike: a record of the largest size that can be read, and its error headers.
    pub dead_letter_bytes_max: usize,
    /// `none`, `lz4`, `zstd`, `gzip`, `snappy`.
    pub compression: String,
    /// Bytes of records that are not acknowledged yet; whoever sends more waits. At least a dead letter's size.
    pub queue_bytes: usize,
}

impl ProducerSettings {
    /// The defaults: linger 1 ms, delivery within 10 s, records to 1 MB, dead letters to 2 MB, no compression.
    pub fn new(connection: Connection) -> Self {
        Self {
            connection,
            linger: Duration::from_millis(1),
            delivery_timeout: Duration::from_secs(10),
            message_bytes_max: 1_000_000,
            dead_letter_bytes_max: 2_000_000,
            compression: "none".to_owned(),
            queue_bytes: 16 << 20,
        }
    }

    /// An idempotent producer: acks=all, no duplicates and no reordering by its own retries.
    pub fn to_client_config(&self) -> ClientConfig {
        let mut config = self.connection.client();
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", self.linger.as_millis().to_string())
            .set("message.timeout.ms", self.delivery_timeout.as_millis().to_string())
            // Default 30 s: so long are records held for a topic that does not exist.
            .set("topic.metadata.propagation.max.ms", "3000")
            .set("message.max.bytes", REQUEST_BYTES_MAX.max(self.dead_letter_bytes_max + 65_536).to_string())
            .set("compression.type", &self.compression)
            // Where no partition is given: as Java clients choose it (default is another hash).
            .set("partitioner", "murmur2_random")
            // 1 GiB by default; small queues gave the best rate.
            .set("queue.buffering.max.kbytes", (self.queue_bytes.max(4 << 20) / 1024).to_string())
            .set("queue.buffering.max.messages", "50000");
        config
    }
}

/// A transactional producer.
#[derive(Clone, Debug)]
pub struct TransactionSettings {
    /// What the idempotent producer below it does.
    pub producer: ProducerSettings,
    /// Base of `transactional.id`. Stable over restarts of the same instance, so that a restart ends what the former
    /// run left open at once; different between instances that run at the same time.
    pub id: String,
    /// After this long the broker aborts a transaction that was not ended.
    pub timeout: Duration,
    /// Producers that take turns, one open transaction at a time. With one, a transaction that begins right after
    /// another waits until the broker has written the former's markers (librdkafka retries after 20 ms).
    pub turns: usize,
}

impl TransactionSettings {
    /// The defaults: timeout 15 s, two producers in turns.
    pub fn new(producer: ProducerSettings, id: impl Into<String>) -> Self {
        Self { producer, id: id.into(), timeout: Duration::from_secs(15), turns: 2 }
    }

    /// Within this time a record is acknowledged or has failed. librdkafka refuses more than the transaction's time-out.
    pub fn delivery_timeout(&self) -> Duration {
        self.producer.delivery_timeout.min(self.timeout)
    }

    /// Settings of the producer number `turn`.
    pub fn to_client_config(&self, turn: usize) -> ClientConfig {
        let mut config = self.producer.to_client_config();
        config
            .set("transactional.id", format!("{}.{turn}", self.id))
            .set("transaction.timeout.ms", self.timeout.as_millis().to_string())
            .set("message.timeout.ms", self.delivery_timeout().as_millis().to_string())
            // librdkafka refuses a longer one; two thirds leave room for a second try within the transaction.
            .set("socket.timeout.ms", (self.timeout * 2 / 3).as_millis().min(10_000).to_string())
            // Tells of requests that may have been sent twice (`kafka/suspicion.rs`).
            .set("statistics.interval.ms", "500");
        config
    }

    /// A commit that took longer may have been repeated by librdkafka on another connection. Its producer is not
    /// used again, so that a late copy of the request cannot end a later transaction.
    pub fn slow_commit(&self) -> Duration {
        (self.timeout / 3).min(Duration::from_secs(5))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_password() {
        let mut connection = Connection::plain("broker:9092", "test");
        connection.extra.insert("sasl.password".to_owned(), Secret::new("hunter2"));
        let text = format!("{connection:?}");
        assert!(text.contains("sasl.password") && !text.contains("hunter2"), "{text}");
    }

    #[test]
    fn delivery_never_outlasts_the_transaction() {
        let mut producer = ProducerSettings::new(Connection::plain("broker:9092", "test"));
        producer.delivery_timeout = Duration::from_secs(60);
        let mut settings = TransactionSettings::new(producer, "millrace.a.0");
        settings.timeout = Duration::from_secs(5);
        let config = settings.to_client_config(1);
        assert_eq!(config.get("message.timeout.ms"), Some("5000"));
        assert_eq!(config.get("transactional.id"), Some("millrace.a.0.1"));
    }

    #[test]
    fn a_member_is_set_up_for_delivery() {
        let connection = Connection::plain("broker:9092", "test");
        let mut settings = ConsumerSettings::new(connection, "group", vec!["topic".to_owned()]);
        settings.instance = Some("a".to_owned());
        let config = settings.to_client_config();
        for (key, value) in [
            ("partition.assignment.strategy", Some("cooperative-sticky")),
            // The protocol of KIP-848 stalled with this librdkafka.
            ("group.protocol", None),
            ("group.instance.id", Some("a")),
            ("isolation.level", Some("read_committed")),
            ("enable.auto.commit", Some("false")),
            ("enable.auto.offset.store", Some("false")),
            ("auto.offset.reset", Some("error")),
            ("allow.auto.create.topics", Some("false")),
            ("queued.max.messages.kbytes", Some("8192")),
            ("fetch.max.bytes", Some("4194304")),
            ("fetch.message.max.bytes", Some("262144")),
        ] {
            assert_eq!(config.get(key), value, "{key}");
        }
    }

    #[test]
    fn librdkafka_takes_every_key() {
        let connection = Connection::plain("127.0.0.1:1", "test");
        let consumer = ConsumerSettings::new(connection.clone(), "group", vec!["topic".to_owned()]);
        let producer = ProducerSettings::new(connection.clone());
        let transactions = TransactionSettings::new(producer.clone(), "id");
        for config in [
            consumer.to_client_config(),
            plain_reader(&connection),
            producer.to_client_config(),
            transactions.to_client_config(0),
        ] {
            config.create_native_config().expect("keys and values that librdkafka knows");
        }
    }
}
