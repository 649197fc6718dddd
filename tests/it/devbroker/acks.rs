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
    (0..4)
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

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_whose_first_records_were_refused_is_not_committed() {
    let (broker, kafka) = broker(Settings::default());
    let topic = topic(&kafka, "acks", 1, &[]).await;
    let mut settings =
        TransactionSettings::new(ProducerSettings::new(Connection::plain(&kafka, "test")), topic.clone());
    settings.turns = 1;
    let records = records(&topic);
    // Before the first record all leaders are asked whether they are there.
    let unready = broker.faults().set(Api::ListOffsets, When::Nth(1), Action::Error(NOT_LEADER_OR_FOLLOWER));
    let refusing = broker.faults().set(Api::Produce, When::Nth(1), Action::Error(NOT_LEADER_OR_FOLLOWER));
    let written = tokio::task::spawn_blocking(move || {
        let first = Exclusive::open(settings.clone()).expect("starts").commit(&records);
        let second = Exclusive::open(settings).expect("starts").commit(&records);
        (first.map_err(|error| format!("{error:?}")), second.map_err(|error| format!("{error:?}")))
    });
    let (first, second) = written.await.expect("no panic");
    assert_eq!((unready.hits(), refusing.hits()), (1, 1));
    assert!(first.as_ref().is_err_and(|error| error.contains("Unproven")), "{first:?}");
    assert!(second.is_ok(), "{second:?}");
    let values = read(&kafka, &topic, "read_committed");
    let firsts: Vec<_> = values.iter().map(|value| &value[..1]).collect();
    assert_eq!(firsts, ["0", "1", "2", "3"], "once, in order");
}
