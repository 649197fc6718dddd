//! A consumer whose brokers are gone.

use std::thread::sleep;

use super::*;
use crate::kafka::settings::Connection;

const LIMIT: Duration = Duration::from_secs(30);

/// One for whose brokers nothing listens.
fn consumer() -> GroupConsumer {
    let brokers = (1..=5).map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",");
    let settings = ConsumerSettings::new(Connection::plain(brokers, "test"), "g", vec![String::from("in")]);
    GroupConsumer::join(&settings).expect("joins")
}

#[test]
fn a_wait_ends_when_it_is_told_to_and_nothing_happens_to_a_consumer_that_is_gone() {
    let mut consumer = consumer();
    let waker = consumer.waker();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            sleep(Duration::from_millis(50));
            waker.wake();
        });
        assert!(consumer.poll(1, LIMIT * 2, &mut Vec::new()).expect("goes on"), "nothing has come");
    });
    assert!(begun.elapsed() < LIMIT, "it waited for {:?}", begun.elapsed());
    drop(consumer);
    waker.wake();
}

#[test]
fn errors_of_brokers_that_are_gone_do_not_pile_up() {
    let mut consumer = consumer();
    let begun = Instant::now();
    while consumer.events.waiting() < 5 {
        assert!(begun.elapsed() < LIMIT, "errors come");
        sleep(Duration::from_millis(10));
    }
    consumer.poll(1, Duration::ZERO, &mut Vec::new()).expect("connections may come back");
    assert!(consumer.events.waiting() <= 2, "{} errors were left", consumer.events.waiting());
}
