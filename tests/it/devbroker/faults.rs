//! Each fault does what it says, to the requests it is meant for and to no others.

use std::time::{Duration, Instant};

use millrace::devbroker::{Action, Api, Settings, When};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::Producer;
use rdkafka::{Offset, TopicPartitionList};

use super::clients::{
    PATIENCE, TestProducer, broker, client, poll_until, producer, read, send, topic, transaction,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_held_request_is_carried_out_when_it_is_released() {
    let (broker, kafka) = broker(Settings::default());
    let topic = topic(&kafka, "hold", 1, &[]).await;
    let producer = producer(&kafka, Some("hold"));
    let hold = broker.faults().set(Api::EndTxn, When::Nth(1), Action::Hold);
    let committing = producer.clone();
    let name = topic.clone();
    let commit = std::thread::spawn(move || transaction(&committing, &name, &["a"], true));
    poll_until(&[], "the commit is held", || {
        std::thread::sleep(Duration::from_millis(10));
        hold.hits() == 1
    });
    assert!(read(&kafka, &topic, "read_committed").is_empty(), "not committed yet");
    assert!(!commit.is_finished());
    hold.release();
    commit.join().expect("the commit succeeds");
    assert_eq!(read(&kafka, &topic, "read_committed"), ["a"]);
    transaction(&producer, &topic, &["b"], true);
    assert_eq!(hold.hits(), 1, "the first alone was meant");
}

/// The client gives up and asks again on another connection; the held copy comes later and changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_held_request_outlives_its_connection() {
    let (broker, kafka) = broker(Settings::default());
    let topic = topic(&kafka, "late-copy", 1, &[]).await;
    let producer = producer(&kafka, Some("late-copy"));
    let hold = broker.faults().set(Api::EndTxn, When::Nth(1), Action::Hold);
    transaction(&producer, &topic, &["a"], true);
    assert_eq!(hold.hits(), 1);
    producer.begin_transaction().expect("begins");
    send(&producer, &topic, "b");
    producer.flush(PATIENCE).expect("written");
    drop(hold);
    // The hazard that clients have to know: the late copy ends the transaction that is open now.
    poll_until(&[], "the late copy ends the next transaction", || {
        std::thread::sleep(Duration::from_millis(10));
        read(&kafka, &topic, "read_committed") == ["a", "b"]
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delay_is_waited_for() {
    let (broker, kafka) = broker(Settings::default());
    let topic = topic(&kafka, "delay", 1, &[]).await;
    let producer = producer(&kafka, None);
    let delay = Duration::from_millis(400);
    let fault = broker.faults().set(Api::Produce, When::Always, Action::Delay(delay));
    let timed = || {
        let began = Instant::now();
        send(&producer, &topic, "a");
        producer.flush(PATIENCE).expect("written");
        began.elapsed()
    };
    assert!(timed() >= delay && timed() >= delay, "every request while it is set");
    assert_eq!(fault.hits(), 2);
    drop(fault);
    assert!(timed() < delay, "none afterwards");
}

/// An idempotent producer asks again; whether or not the lost request was carried out, the record is there once.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_lost_on_the_way_is_sent_again_and_kept_once() {
    for action in [Action::DropRequest, Action::DropResponse, Action::CloseBefore, Action::CloseAfter] {
        let (broker, kafka) = broker(Settings::default());
        let topic = topic(&kafka, "lost", 1, &[]).await;
        let producer: TestProducer = client(&kafka)
            .set("enable.idempotence", "true")
            .set("linger.ms", "0")
            .set("socket.timeout.ms", "300")
            .create()
            .expect("a producer");
        send(&producer, &topic, "a");
        producer.flush(PATIENCE).expect("written");
        let fault = broker.faults().set(Api::Produce, When::Nth(1), action);
        send(&producer, &topic, "b");
        producer.flush(PATIENCE).expect("written");
        send(&producer, &topic, "c");
        producer.flush(PATIENCE).expect("written");
        assert_eq!(fault.hits(), 1, "{action:?}");
        assert_eq!(read(&kafka, &topic, "read_committed"), ["a", "b", "c"], "{action:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_is_lost_has_happened() {
    let (broker, kafka) = broker(Settings::default());
    let topic = topic(&kafka, "lost-commit", 1, &[]).await;
    let producer = producer(&kafka, Some("lost-commit"));
    let fault = broker.faults().set(Api::EndTxn, When::Nth(1), Action::CloseAfter);
    transaction(&producer, &topic, &["a"], true);
    assert_eq!(fault.hits(), 1);
    assert_eq!(read(&kafka, &topic, "read_committed"), ["a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_comes_twice_counts_twice_unless_it_is_numbered() {
    let (broker, kafka) = broker(Settings::default());
    let topic = topic(&kafka, "twice", 1, &[]).await;
    let _fault = broker.faults().set(Api::Produce, When::Always, Action::Duplicate);
    let idempotent = producer(&kafka, None);
    let plain: TestProducer = client(&kafka).set("enable.idempotence", "false").create().expect("a producer");
    send(&idempotent, &topic, "numbered");
    idempotent.flush(PATIENCE).expect("written");
    send(&plain, &topic, "plain");
    plain.flush(PATIENCE).expect("written");
    assert_eq!(read(&kafka, &topic, "read_committed"), ["numbered", "plain", "plain"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_is_answered_and_nothing_done() {
    const REBALANCE_IN_PROGRESS: i16 = 27;
    let (broker, kafka) = broker(Settings::default());
    let topic = topic(&kafka, "error", 1, &[]).await;
    let consumer: BaseConsumer = client(&kafka).set("group.id", &topic).create().expect("a consumer");
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&topic, 0, Offset::Offset(5)).expect("an offset");
    let fault = broker.faults().set(Api::OffsetCommit, When::Nth(2), Action::Error(REBALANCE_IN_PROGRESS));
    let committed = || {
        let mut list = TopicPartitionList::new();
        list.add_partition(&topic, 0);
        let list = consumer.committed_offsets(list, PATIENCE).expect("an answer");
        list.find_partition(&topic, 0).expect("it was asked for").offset()
    };
    consumer.commit(&list, CommitMode::Sync).expect("the first is not meant");
    assert_eq!(committed(), Offset::Offset(5));
    list.set_partition_offset(&topic, 0, Offset::Offset(6)).expect("an offset");
    let error = consumer.commit(&list, CommitMode::Sync).expect_err("the second is");
    assert_eq!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::RebalanceInProgress));
    assert_eq!((committed(), fault.hits()), (Offset::Offset(5), 1));
}
