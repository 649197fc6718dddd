//! A consumer whose brokers are gone.

use std::thread::sleep;

use rdkafka::bindings as sys;

use super::*;
use crate::kafka::settings::Connection;

/// What librdkafka keeps for the next poll.
fn waiting(consumer: &GroupConsumer) -> usize {
    // SAFETY: the client is alive; the handle of its queue is given back.
    unsafe {
        let queue = sys::rd_kafka_queue_get_consumer(consumer.consumer.client().native_ptr());
        let length = sys::rd_kafka_queue_length(queue);
        sys::rd_kafka_queue_destroy(queue);
        length
    }
}

#[test]
fn errors_of_brokers_that_are_gone_do_not_pile_up() {
    // Nothing listens there.
    let brokers = (1..=5).map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",");
    let settings = ConsumerSettings::new(Connection::plain(brokers, "test"), "g", vec![String::from("in")]);
    let mut consumer = GroupConsumer::join(&settings).expect("joins");
    let begun = Instant::now();
    while waiting(&consumer) < 5 {
        assert!(begun.elapsed() < Duration::from_secs(30), "errors come");
        sleep(Duration::from_millis(10));
    }
    consumer.poll(1, Duration::ZERO, &mut Vec::new()).expect("connections may come back");
    assert!(waiting(&consumer) <= 2, "{} errors were left", waiting(&consumer));
}
