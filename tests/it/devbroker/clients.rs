//! Clients of librdkafka for these scenarios, with times short enough for tests.

use std::time::{Duration, Instant};

use millrace::devbroker::{Broker, Settings};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::support::servers;

/// Longer than any request should take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub type TestProducer = ThreadedProducer<DefaultProducerContext>;

/// A broker of the scenario's own, and its address.
pub fn broker(settings: Settings) -> (Broker, String) {
    let broker = Broker::start(settings).expect("a free port");
    let address = broker.address().to_string();
    (broker, address)
}

pub fn client(kafka: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", kafka)
        .set("client.id", "millrace-tests")
        .set("reconnect.backoff.ms", "20")
        .set("reconnect.backoff.max.ms", "100")
        .set("retry.backoff.ms", "20");
    config
}

pub fn admin(kafka: &str) -> AdminClient<DefaultClientContext> {
    client(kafka).create().expect("an admin client")
}

/// A new topic under a name that nobody else uses.
pub async fn topic(kafka: &str, word: &str, partitions: i32, settings: &[(&str, &str)]) -> String {
    let name = servers::unique(word);
    let topic = NewTopic::new(&name, partitions, TopicReplication::Fixed(1));
    let topic = settings.iter().fold(topic, |topic, (key, value)| topic.set(key, value));
    let results = admin(kafka).create_topics(&[topic], &AdminOptions::new()).await.expect("an answer");
    assert_eq!(results, [Ok(name.clone())]);
    name
}

/// An idempotent producer, or a transactional one.
pub fn producer(kafka: &str, transactional_id: Option<&str>) -> TestProducer {
    let mut config = client(kafka);
    config.set("enable.idempotence", "true").set("linger.ms", "0").set("socket.timeout.ms", "2000");
    if let Some(id) = transactional_id {
        config.set("transactional.id", id).set("transaction.timeout.ms", "10000");
    }
    let producer: TestProducer = config.create().expect("a producer");
    if transactional_id.is_some() {
        producer.init_transactions(PATIENCE).expect("transactions can begin");
    }
    producer
}

pub fn send(producer: &TestProducer, topic: &str, value: &str) {
    let record = BaseRecord::<str, str>::to(topic).partition(0).payload(value);
    producer.send(record).map_err(|(error, _)| error).expect("room in the queue");
}

/// A transaction with these values, ended as told.
pub fn transaction(producer: &TestProducer, topic: &str, values: &[&str], commit: bool) {
    producer.begin_transaction().expect("begins");
    for value in values {
        send(producer, topic, value);
    }
    producer.flush(PATIENCE).expect("written");
    if commit {
        producer.commit_transaction(PATIENCE).expect("commits");
    } else {
        producer.abort_transaction(PATIENCE).expect("aborts");
    }
}

/// A consumer of partition 0 from `offset` on.
pub fn reader(kafka: &str, topic: &str, offset: Offset, isolation: &str) -> BaseConsumer {
    let consumer: BaseConsumer = client(kafka)
        .set("group.id", "millrace-tests-reader")
        .set("enable.auto.commit", "false")
        .set("isolation.level", isolation)
        .set("enable.partition.eof", "true")
        .set("fetch.wait.max.ms", "100")
        .create()
        .expect("a consumer");
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, offset).expect("an offset");
    consumer.assign(&list).expect("assigned");
    consumer
}

/// Values of partition 0, up to what the consumer takes for the end.
pub fn read(kafka: &str, topic: &str, isolation: &str) -> Vec<String> {
    let consumer = reader(kafka, topic, Offset::Beginning, isolation);
    let mut values = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                values.push(String::from_utf8_lossy(message.payload().unwrap_or_default()).into_owned());
            }
            Some(Err(rdkafka::error::KafkaError::PartitionEOF(_))) => return values,
            Some(Err(error)) => panic!("{topic}: {error}"),
            None => {}
        }
    }
    panic!("{topic} was not read to its end")
}

/// A member of a group; `instance` makes it a static one.
pub fn member(kafka: &str, group: &str, topic: &str, instance: Option<&str>) -> BaseConsumer {
    let mut config = client(kafka);
    config
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("session.timeout.ms", "6000")
        .set("heartbeat.interval.ms", "200");
    if let Some(instance) = instance {
        config.set("group.instance.id", instance);
    }
    let consumer: BaseConsumer = config.create().expect("a consumer");
    consumer.subscribe(&[topic]).expect("subscribed");
    consumer
}

/// Polls until `done` says so; records are thrown away.
pub fn poll_until(consumers: &[&BaseConsumer], what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        for consumer in consumers {
            let _ = consumer.poll(Duration::from_millis(20));
        }
    }
}

/// Partitions that a member holds.
pub fn held(consumer: &BaseConsumer) -> usize {
    consumer.assignment().map_or(0, |list| list.count())
}
