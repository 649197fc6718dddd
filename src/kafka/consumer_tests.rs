//! A consumer whose brokers are gone.

use std::thread::sleep;

use super::*;
use crate::kafka::settings::Connection;

#[test]
fn errors_of_brokers_that_are_gone_do_not_pile_up() {
    // Nothing listens there.
    let brokers = (1..=5).map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",");
    let settings = ConsumerSettings::new(Connection::plain(brokers, "test"), "g", vec![String::from("in")]);
    let mut consumer = GroupConsumer::join(&settings).expect("joins");
    let begun = Instant::now();
    while consumer.events.waiting() < 5 {
        assert!(begun.elapsed() < Duration::from_secs(30), "errors come");
        sleep(Duration::from_millis(10));
    }
    consumer.poll(1, Duration::ZERO, &mut Vec::new()).expect("connections may come back");
    assert!(consumer.events.waiting() <= 2, "{} errors were left", consumer.events.waiting());
}
