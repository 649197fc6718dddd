//! Topics read without a group.

use std::time::Duration;

use millrace::kafka::settings::Connection;
use millrace::kafka::tail::{self, Begin, End, Tail, TailError};

use crate::support::servers;

/// Partitions of a new topic look for their leaders for a moment; asking them for their ends then is no failure.
#[tokio::test]
async fn a_topic_that_was_just_made_can_be_read() {
    for _ in 0..5 {
        let topic = servers::unique("tail");
        servers::create_topics(&[(&topic, 12)]).await;
        let connection = Connection::plain(servers::kafka(), "tail-test");
        let mut records = Vec::new();
        let read = tokio::task::spawn_blocking(move || {
            // A broker under load may need seconds to hear of a topic: then there is none for it.
            let open = || match Tail::open(&connection, &topic, Begin::Oldest, End::AsOfNow) {
                Err(TailError::NoTopic(_)) => None,
                opened => Some(opened.expect("the topic can be read")),
            };
            let mut tail = (0..30).find_map(|_| open()).expect("the topic is known");
            tail.read(Duration::from_millis(100), &mut records).expect("the topic can be read");
            records.len()
        });
        assert_eq!(read.await.expect("no panic"), 0);
    }
}

#[tokio::test]
async fn whether_new_partitions_have_leaders_is_told() {
    let topic = servers::unique("led");
    let connection = Connection::plain(servers::kafka(), "tail-test");
    let ask = {
        let topic = topic.clone();
        move || tail::are_led(&connection, &[(topic.clone(), 12)]).expect("Kafka answers")
    };
    let missing = ask.clone();
    assert!(!tokio::task::spawn_blocking(missing).await.expect("no panic"), "there is no such topic");
    servers::create_topics(&[(&topic, 12)]).await;
    let led = move || {
        let begun = std::time::Instant::now();
        while !ask() {
            assert!(begun.elapsed() < Duration::from_secs(30), "leaders are found");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    tokio::task::spawn_blocking(led).await.expect("leaders are found");
}
