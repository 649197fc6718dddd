//! Rules of transactions against librdkafka's own mock cluster.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::mocking::{MockCluster, MockCoordinator};
use rdkafka::producer::DefaultProducerContext;

use super::*;
use crate::kafka::consumer::{From, GroupConsumer, Intent};
use crate::kafka::settings::{Connection, ConsumerSettings};
use crate::kafka::suspicion::Counters;
use crate::position::{NextOffset, Partition};
use crate::record::InRecord;

const LIMIT: Duration = Duration::from_secs(30);

type Cluster = MockCluster<'static, DefaultProducerContext>;

fn cluster(brokers: i32) -> Cluster {
    let cluster = MockCluster::new(brokers).expect("a mock cluster");
    cluster.create_topic("in", 1, 1).expect("a topic");
    cluster.create_topic("out", 1, 1).expect("a topic");
    for topic in ["in", "out"] {
        cluster.partition_leader(topic, 0, Some(1)).expect("a leader");
    }
    cluster.coordinator(MockCoordinator::Transaction(String::from("tx.0")), 1).expect("a coordinator");
    cluster
}

fn connection(cluster: &Cluster) -> Connection {
    Connection::plain(cluster.bootstrap_servers(), "test")
}

/// A member of group `g` that has its partition.
fn member(cluster: &Cluster) -> GroupConsumer {
    let settings = ConsumerSettings::new(connection(cluster), "g", vec![String::from("in")]);
    let mut consumer = GroupConsumer::join(&settings).expect("joins");
    assert!(consumer.membership().is_none(), "nobody is a member before the group says so");
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < LIMIT, "the group assigns");
        consumer.poll(1, Duration::from_millis(50), &mut Vec::new()).expect("goes on");
        for intent in consumer.take_intents() {
            let Intent::Assign(partitions) = intent else { continue };
            assert_eq!(partitions, [Partition::new("in", 0)]);
            consumer.assign(&[(partitions[0].clone(), From::Oldest)]).expect("is taken");
            return consumer;
        }
    }
}

fn transactor(cluster: &Cluster, beacon: Beacon) -> Transactor {
    let mut settings = TransactionSettings::new(ProducerSettings::new(connection(cluster)), "tx");
    settings.turns = 1;
    Transactor::open(settings, beacon).expect("starts")
}

fn record(topic: &str, value: impl Into<Bytes>) -> OutRecord {
    OutRecord {
        topic: Arc::from(topic),
        partition: Some(0),
        timestamp_ms: None,
        key: None,
        value: Some(value.into()),
        headers: Vec::new(),
    }
}

fn batch(consumer: &GroupConsumer, next: i64) -> Batch {
    Batch {
        records: Arc::new(vec![OutRecord { partition: None, ..record("out", "value") }]),
        offsets: vec![Commit::at(Partition::new("in", 0), NextOffset(next))],
        membership: consumer.membership().expect("a member"),
    }
}

#[test]
fn a_producer_whose_connection_broke_is_not_used_again() {
    let cluster = cluster(2);
    cluster.coordinator(MockCoordinator::Group(String::from("g")), 2).expect("a coordinator");
    let consumer = member(&cluster);
    let mut transactor = transactor(&cluster, Beacon::default());
    for next in 1..4 {
        transactor.run(&batch(&consumer, next)).expect("commits");
    }
    assert_eq!(transactor.replaced(), 0, "nothing was wrong");
    cluster.broker_down(1).expect("goes down");
    std::thread::sleep(Duration::from_millis(300));
    cluster.broker_up(1).expect("comes up");
    let begun = Instant::now();
    while transactor.turns[0].as_ref().is_none_or(|turn| turn.outgoing.signs() == turn.signs) {
        assert!(begun.elapsed() < LIMIT, "librdkafka tells of the lost connection");
        transactor.idle();
        std::thread::sleep(Duration::from_millis(20));
    }
    transactor.run(&batch(&consumer, 4)).expect("commits");
    assert_eq!(transactor.replaced(), 1);
}

/// Each producer tells of itself twice a second, some 15 KB, also while another is waited for.
#[test]
fn what_producers_tell_does_not_pile_up_while_brokers_are_gone() {
    let cluster = cluster(1);
    let settings = TransactionSettings::new(ProducerSettings::new(connection(&cluster)), "tx");
    let mut transactor = Transactor::open(settings, Beacon::default()).expect("starts");
    let waiting = |transactor: &Transactor| {
        transactor.turns[1].as_ref().map_or(0, |turn| turn.outgoing.producer().waiting())
    };
    let begun = Instant::now();
    while waiting(&transactor) < 3 {
        assert!(begun.elapsed() < LIMIT, "statistics come");
        std::thread::sleep(Duration::from_millis(20));
    }
    transactor.turns[0] = None;
    transactor.recover().expect("opens it anew");
    assert!(waiting(&transactor) <= 1, "{} are left", waiting(&transactor));
}

#[test]
fn statistics_alone_tell_of_a_lost_connection() {
    let cluster = cluster(1);
    let transactor = transactor(&cluster, Beacon::default());
    let reports = || transactor.turns[0].as_ref().map(|turn| turn.outgoing.counters());
    let until = |what: &str, is: &dyn Fn(Counters) -> bool| {
        let begun = Instant::now();
        loop {
            transactor.idle();
            if let Some(counters) = reports().flatten().filter(|counters| is(*counters)) {
                return counters;
            }
            assert!(begun.elapsed() < LIMIT, "{what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let before = until("statistics come", &|_| true);
    cluster.broker_down(1).expect("goes down");
    until("a disconnect is counted", &|now| now.disconnects > before.disconnects);
}

#[test]
fn the_beacon_tells_of_a_call_that_does_not_come_back() {
    let cluster = cluster(2);
    cluster.coordinator(MockCoordinator::Group(String::from("g")), 2).expect("a coordinator");
    let consumer = member(&cluster);
    let beacon = Beacon::default();
    let mut transactor = transactor(&cluster, beacon.clone());
    transactor.run(&batch(&consumer, 1)).expect("commits");
    assert!(beacon.current().is_none(), "between two calls");
    // Offsets are sent to the group's coordinator, which is gone.
    cluster.broker_down(2).expect("goes down");
    let batch = batch(&consumer, 2);
    // A producer that saw the connection break is replaced first, and the new one may look for that broker, too.
    std::thread::spawn(move || {
        while transactor.run(&batch).is_err() {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let begun = Instant::now();
    loop {
        if let Some(("send offsets", since)) = beacon.current()
            && since.elapsed() > Duration::from_secs(2)
        {
            break;
        }
        assert!(begun.elapsed() < LIMIT, "{:?}", beacon.current());
        std::thread::sleep(Duration::from_millis(20));
    }
    cluster.broker_up(2).expect("comes up, so that the thread can end");
}

#[test]
fn a_slow_commit_replaces_its_producer() {
    let cluster = cluster(1);
    let consumer = member(&cluster);
    let mut settings = TransactionSettings::new(ProducerSettings::new(connection(&cluster)), "tx");
    settings.turns = 1;
    settings.timeout = Duration::from_secs(3);
    assert_eq!(settings.slow_commit(), Duration::from_secs(1), "half of the socket time-out");
    let mut transactor = Transactor::open(settings, Beacon::default()).expect("starts");
    transactor.run(&batch(&consumer, 1)).expect("commits");
    assert_eq!(transactor.replaced(), 0);
    cluster.broker_round_trip_time(1, Duration::from_millis(1_100)).expect("slows down");
    transactor.run(&batch(&consumer, 2)).expect("commits");
    assert_eq!(transactor.replaced(), 1);
}

#[test]
fn a_call_that_may_be_made_again_is() {
    let away = TransactionError {
        code: RDKafkaErrorCode::OperationTimedOut,
        message: String::from("no answer"),
        is_retriable: true,
        requires_abort: false,
        is_fatal: false,
    };
    let meanwhile = std::cell::Cell::new(0);
    let serve = || meanwhile.set(meanwhile.get() + 1);
    let calls = Calls { id: "tx", beacon: &Beacon::default(), meanwhile: &serve };
    let mut attempts = 0;
    let third_time = || {
        attempts += 1;
        if attempts < 3 { Err(away.clone()) } else { Ok(()) }
    };
    calls.repeat("commit", third_time).expect("the third attempt succeeds");
    assert_eq!((attempts, meanwhile.get()), (3, 2), "what waits is served between attempts");
    let refused = calls.repeat("commit", || Err(TransactionError { is_retriable: false, ..away.clone() }));
    assert!(matches!(refused, Err(TxnError::Call { step: "commit", .. })), "{refused:?}");
}

/// librdkafka gets a pointer to them, and refers to large ones from its requests.
#[test]
fn values_that_are_not_copied_arrive_whole() {
    let cluster = cluster(1);
    let large = |length: usize| record("in", vec![length as u8; length]);
    let lengths = [1, 65_535, 65_536, 400_001, 900_002];
    let mut sender = PlainSender::new(ProducerSettings::new(connection(&cluster)));
    for length in lengths {
        sender.send(&Arc::new(vec![large(length)])).expect("is acknowledged");
    }
    let read = read(&cluster, lengths.len());
    for (read, length) in read.iter().zip(lengths) {
        assert_eq!(read.value, large(length).value);
    }
}

/// The first `count` records of the topic `in`.
fn read(cluster: &Cluster, count: usize) -> Vec<InRecord> {
    let mut consumer = member(cluster);
    let mut read = Vec::new();
    let begun = Instant::now();
    while read.len() < count {
        assert!(begun.elapsed() < LIMIT, "{} read", read.len());
        consumer.poll(1_000, Duration::from_millis(50), &mut read).expect("goes on");
    }
    read
}

#[test]
fn a_full_queue_keeps_the_order() {
    const RECORDS: usize = 60_000;
    let cluster = cluster(1);
    let numbers = (0..RECORDS).map(|number| record("in", number.to_string()));
    let records: Arc<Vec<OutRecord>> = Arc::new(numbers.collect());
    // More than the queue takes at once.
    PlainSender::new(ProducerSettings::new(connection(&cluster)))
        .send(&records)
        .expect("all are acknowledged");
    let read = read(&cluster, RECORDS);
    let values = read.iter().map(|record| record.value.clone());
    assert!(
        values.eq(records.iter().map(|record| record.value.clone())),
        "in the order they were handed over"
    );
}
