//! A full partition deletes its oldest records, and says so.

use millrace::devbroker::Settings;
use rdkafka::Offset;
use rdkafka::consumer::Consumer;
use rdkafka::producer::Producer;

use super::clients::{PATIENCE, broker, producer, reader, send, topic};

#[tokio::test(flavor = "multi_thread")]
async fn retention_deletes_the_oldest_and_counts_them() {
    let (broker, kafka) = broker(Settings { partition_bytes_max: 64 << 10, ..Settings::default() });
    let topic = topic(&kafka, "full", 1, &[]).await;
    let producer = producer(&kafka, None);
    let value = "x".repeat(1_000);
    for _ in 0..20 {
        send(&producer, &topic, &value);
        producer.flush(PATIENCE).expect("written");
    }
    assert_eq!(broker.deleted_records(), 0, "20 kB fit");
    for _ in 0..100 {
        send(&producer, &topic, &value);
        producer.flush(PATIENCE).expect("written");
    }
    let reader = reader(&kafka, &topic, Offset::Beginning, "read_committed");
    let (begin, end) = reader.fetch_watermarks(&topic, 0, PATIENCE).expect("an answer");
    assert_eq!(end, 120);
    assert!((50..70).contains(&begin), "about 60 records of 1,070 bytes are kept, from {begin} on");
    assert_eq!(
        broker.deleted_records(),
        u64::try_from(begin).expect("an offset"),
        "each of them was counted"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_may_ask_for_less() {
    let (broker, kafka) = broker(Settings::default());
    let small = topic(&kafka, "small", 1, &[("retention.bytes", "5000")]).await;
    let kept = topic(&kafka, "kept", 1, &[("retention.bytes", "5000"), ("cleanup.policy", "compact")]).await;
    let producer = producer(&kafka, None);
    for _ in 0..20 {
        send(&producer, &kept, &"x".repeat(1_000));
        producer.flush(PATIENCE).expect("written");
    }
    assert_eq!(broker.deleted_records(), 0, "a compacted topic is not cut to its bytes");
    for _ in 0..20 {
        send(&producer, &small, &"x".repeat(1_000));
        producer.flush(PATIENCE).expect("written");
    }
    assert_eq!(broker.deleted_records(), 16);
}

#[test]
fn a_stopped_broker_lets_go_of_its_port() {
    let (broker, kafka) = broker(Settings::default());
    let port = broker.address().port();
    assert!(broker.address().ip().is_loopback());
    assert!(broker_on(port).is_err(), "the port is taken");
    drop(broker);
    assert!(std::net::TcpStream::connect(&kafka).is_err(), "nobody listens");
    assert!(broker_on(port).is_ok(), "the port is free");
}

fn broker_on(port: u16) -> std::io::Result<millrace::devbroker::Broker> {
    millrace::devbroker::Broker::start(Settings { port, ..Settings::default() })
}
