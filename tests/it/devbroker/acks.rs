//! A broker that has no state of a producer takes any first sequence number. So a leader that was not one yet when the
//! first request came refuses that one and takes the second, which is on its way already (KAFKA-15591).

use std::sync::Arc;

use millrace::devbroker::{Action, Api, Settings, When};
use millrace::kafka::exclusive::Exclusive;
use millrace::kafka::settings::{Connection, ProducerSettings, TransactionSettings};
use millrace::record::OutRecord;

use super::clients::{broker, read, topic};

const NOT_LEADER_OR_FOLLOWER: i16 = 6;

/// Records of which no two fit into one request.
fn records(topic: &str) -> Vec<OutRecord> {
    (0..8)
        .map(|number: u8| OutRecord {
            topic: Arc::from(topic),
            partition: Some(0),
            timestamp_ms: None,
            key: None,
            value: Some(vec![b'0' + number; 600_000].into()),
            headers: Vec::new(),
        })
        .collect()
}

/// Writes the records in one transaction; the first request is refused, and again in a second one if need be.
async fn write(kafka: &str, topic: &str) -> Result<(), String> {
    let producer = ProducerSettings::new(Connection::plain(kafka, "test"));
    let settings = TransactionSettings::new(producer, topic.to_owned());
    let records = records(topic);
    let written = tokio::task::spawn_blocking(move || {
        let first = Exclusive::open(settings.clone()).expect("starts").commit(records.clone());
        if first.is_err() {
            Exclusive::open(settings).expect("starts").commit(records).expect("nothing is refused any more");
        }
        first.map(drop).map_err(|error| format!("{error:?}"))
    });
    written.await.expect("no panic")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_whose_first_records_were_refused_is_not_committed() {
    let (broker, kafka) = broker(Settings::default());
    for attempt in 0.. {
        assert!(attempt < 10, "the second request is on its way when the first is refused");
        let topic = topic(&kafka, &format!("acks-{attempt}"), 1, &[]).await;
        // Before the first record all leaders are asked whether they are there.
        let unready =
            broker.faults().set(Api::ListOffsets, When::Nth(1), Action::Error(NOT_LEADER_OR_FOLLOWER));
        let refusing = broker.faults().set(Api::Produce, When::Nth(1), Action::Error(NOT_LEADER_OR_FOLLOWER));
        let first = write(&kafka, &topic).await;
        assert_eq!((unready.hits(), refusing.hits()), (1, 1));
        drop((unready, refusing));
        let values = read(&kafka, &topic, "read_committed");
        let firsts: Vec<_> = values.iter().map(|value| &value[..1]).collect();
        assert_eq!(firsts, ["0", "1", "2", "3", "4", "5", "6", "7"], "once, in order; {first:?}");
        // Else the first was sent again before the second was on its way.
        if let Err(error) = first {
            return assert!(error.contains("Unproven"), "{error}");
        }
    }
}
