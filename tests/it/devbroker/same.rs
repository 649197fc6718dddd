//! What any broker must do, asserted on the one that the scenarios run on.

use std::time::{Duration, Instant, SystemTime};

use rdkafka::admin::{AdminOptions, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Message, OwnedMessage, Timestamp};
use rdkafka::producer::{BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};

use super::clients::{
    PATIENCE, admin, client, held, member, poll_until, producer, read, reader, send, topic, transaction,
};
use crate::support::servers;

#[tokio::test(flavor = "multi_thread")]
async fn an_aborted_transaction_is_hidden() {
    let kafka = servers::kafka();
    let topic = topic(&kafka, "aborted", 1, &[]).await;
    let producer = producer(&kafka, Some(&topic));
    transaction(&producer, &topic, &["a", "b"], true);
    transaction(&producer, &topic, &["lost"], false);
    transaction(&producer, &topic, &["c"], true);
    assert_eq!(read(&kafka, &topic, "read_committed"), ["a", "b", "c"]);
    assert_eq!(read(&kafka, &topic, "read_uncommitted"), ["a", "b", "lost", "c"]);
    let reader = reader(&kafka, &topic, Offset::Beginning, "read_committed");
    assert_eq!(
        reader.fetch_watermarks(&topic, 0, PATIENCE).expect("an answer"),
        (0, 7),
        "four records and three markers"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_transaction_holds_back_what_comes_after_it() {
    let kafka = servers::kafka();
    let topic = topic(&kafka, "open", 1, &[]).await;
    let open = producer(&kafka, Some(&topic));
    let plain = producer(&kafka, None);
    send(&plain, &topic, "before");
    plain.flush(PATIENCE).expect("written");
    open.begin_transaction().expect("begins");
    send(&open, &topic, "inside");
    open.flush(PATIENCE).expect("written");
    send(&plain, &topic, "after");
    plain.flush(PATIENCE).expect("written");
    assert_eq!(read(&kafka, &topic, "read_committed"), ["before"]);
    assert_eq!(read(&kafka, &topic, "read_uncommitted"), ["before", "inside", "after"]);
    open.commit_transaction(PATIENCE).expect("commits");
    assert_eq!(read(&kafka, &topic, "read_committed"), ["before", "inside", "after"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zombie_is_fenced_and_its_transaction_aborted() {
    let kafka = servers::kafka();
    let topic = topic(&kafka, "zombie", 1, &[]).await;
    let zombie = producer(&kafka, Some(&topic));
    zombie.begin_transaction().expect("begins");
    send(&zombie, &topic, "of the zombie");
    zombie.flush(PATIENCE).expect("written");
    let successor = producer(&kafka, Some(&topic));
    let error = zombie.commit_transaction(PATIENCE).expect_err("fenced");
    assert_eq!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::Fenced), "{error}");
    transaction(&successor, &topic, &["of the successor"], true);
    assert_eq!(read(&kafka, &topic, "read_committed"), ["of the successor"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_is_not_ended_is_aborted_in_time() {
    let kafka = servers::kafka();
    let topic = topic(&kafka, "late", 1, &[]).await;
    let producer: super::clients::TestProducer = client(&kafka)
        .set("transactional.id", &topic)
        .set("transaction.timeout.ms", "1000")
        .set("socket.timeout.ms", "1000")
        .set("message.timeout.ms", "1000")
        .create()
        .expect("a producer");
    producer.init_transactions(PATIENCE).expect("transactions can begin");
    producer.begin_transaction().expect("begins");
    send(&producer, &topic, "late");
    producer.flush(PATIENCE).expect("written");
    let reader = reader(&kafka, &topic, Offset::Beginning, "read_committed");
    let stable = || reader.fetch_watermarks(&topic, 0, PATIENCE).is_ok_and(|(_, end)| end == 2);
    poll_until(&[], "the marker is written", || {
        std::thread::sleep(Duration::from_millis(50));
        stable()
    });
    assert!(read(&kafka, &topic, "read_committed").is_empty());
    assert!(producer.commit_transaction(PATIENCE).is_err(), "it came too late");
}

/// Offsets in a transaction: refused to members of another generation, unstable while it is open, and then kept with
/// their metadata.
#[tokio::test(flavor = "multi_thread")]
async fn offsets_of_a_transaction_are_kept_with_it() {
    let kafka = servers::kafka();
    let topic = topic(&kafka, "offsets", 1, &[]).await;
    let plain = producer(&kafka, None);
    send(&plain, &topic, "a");
    plain.flush(PATIENCE).expect("written");
    let first = member(&kafka, &topic, &topic, None);
    poll_until(&[&first], "the group forms", || held(&first) == 1);
    let metadata = first.group_metadata().expect("a member");
    let transactional = producer(&kafka, Some(&topic));
    let mut offsets = TopicPartitionList::new();
    offsets.add_partition_offset(&topic, 0, Offset::Offset(1)).expect("an offset");
    offsets.find_partition(&topic, 0).expect("it was added").set_metadata("so far");
    transactional.begin_transaction().expect("begins");
    transactional
        .send_offsets_to_transaction(&offsets, &metadata, PATIENCE)
        .expect("a member of this generation");
    let asking = |timeout| {
        let mut list = TopicPartitionList::new();
        list.add_partition(&topic, 0);
        first.committed_offsets(list, timeout)
    };
    assert!(asking(Duration::from_millis(500)).is_err(), "unstable while the transaction is open");
    transactional.commit_transaction(PATIENCE).expect("commits");
    let committed = asking(PATIENCE).expect("stable");
    let element = committed.find_partition(&topic, 0).expect("it was asked for");
    assert_eq!((element.offset(), element.metadata()), (Offset::Offset(1), "so far"));
    drop(first);
    let second = member(&kafka, &topic, &topic, None);
    poll_until(&[&second], "the next generation forms", || held(&second) == 1);
    transactional.begin_transaction().expect("begins");
    let error = transactional
        .send_offsets_to_transaction(&offsets, &metadata, PATIENCE)
        .expect_err("of another generation");
    let code = error.rdkafka_error_code();
    assert!(
        matches!(code, Some(RDKafkaErrorCode::UnknownMemberId | RDKafkaErrorCode::IllegalGeneration)),
        "{error}"
    );
    transactional.abort_transaction(PATIENCE).expect("aborts");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_is_found_in_the_log() {
    let kafka = servers::kafka();
    let topic = topic(&kafka, "times", 1, &[]).await;
    let begin = millis_since_1970() - 100_000;
    let producer: super::clients::TestProducer =
        client(&kafka).set("linger.ms", "200").create().expect("a producer");
    for number in 0..10 {
        let record =
            BaseRecord::<str, str>::to(&topic).partition(0).payload("x").timestamp(begin + number * 1_000);
        producer.send(record).map_err(|(error, _)| error).expect("room in the queue");
    }
    producer.flush(PATIENCE).expect("written");
    let reader = reader(&kafka, &topic, Offset::Beginning, "read_committed");
    let at = |millis: i64| {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&topic, 0, Offset::Offset(millis)).expect("an offset");
        let found = reader.offsets_for_times(list, PATIENCE).expect("an answer");
        found.find_partition(&topic, 0).expect("it was asked for").offset()
    };
    assert_eq!(at(begin - 1), Offset::Offset(0));
    assert_eq!(at(begin + 4_000), Offset::Offset(4));
    assert_eq!(at(begin + 4_001), Offset::Offset(5), "the first that is not older");
    assert_eq!(at(begin + 9_001), Offset::End);
}

/// A static member that comes back takes its place without a rebalance, and who still uses the place is fenced.
#[tokio::test(flavor = "multi_thread")]
async fn a_static_member_keeps_its_place() {
    let kafka = servers::kafka();
    let topic = topic(&kafka, "static", 4, &[]).await;
    let left = member(&kafka, &topic, &topic, Some("left"));
    let right = member(&kafka, &topic, &topic, Some("right"));
    let both = [&left, &right];
    poll_until(&both, "both hold their share", || both.iter().all(|one| held(one) == 2));
    let place = format!("{:?}", left.assignment().expect("assigned"));
    drop(left);
    let back = member(&kafka, &topic, &topic, Some("left"));
    poll_until(&[&back, &right], "it takes its place", || held(&back) == 2);
    assert_eq!(format!("{:?}", back.assignment().expect("assigned")), place);
    assert_eq!(held(&right), 2, "nobody else had to move");
    let thief = member(&kafka, &topic, &topic, Some("left"));
    poll_until(&[&thief, &right], "the newer one takes the place", || held(&thief) == 2);
    poll_until(&[&thief, &right], "the older one is fenced", || {
        back.poll(Duration::from_millis(50));
        back.client().fatal_error().is_some_and(|(code, _)| code == RDKafkaErrorCode::FencedInstanceId)
    });
}

/// Who does not come back is missed after its session, also while the others wait for it in a rebalance.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_member_is_removed_after_its_session() {
    let kafka = servers::kafka();
    let topic = topic(&kafka, "silent", 2, &[]).await;
    let silent = member(&kafka, &topic, &topic, Some("silent"));
    poll_until(&[&silent], "it holds everything", || held(&silent) == 2);
    // A static member says no goodbye.
    drop(silent);
    let other = member(&kafka, &topic, &topic, None);
    poll_until(&[&other], "the other gets everything", || held(&other) == 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_members_commit_for_a_group_that_has_some() {
    let kafka = servers::kafka();
    let topic = topic(&kafka, "commits", 1, &[]).await;
    let member = member(&kafka, &topic, &topic, None);
    poll_until(&[&member], "the group forms", || held(&member) == 1);
    let outsider: BaseConsumer = client(&kafka).set("group.id", &topic).create().expect("a consumer");
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&topic, 0, Offset::Offset(0)).expect("an offset");
    let error = outsider.commit(&list, CommitMode::Sync).expect_err("the group has members");
    assert_eq!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::UnknownMemberId), "{error}");
    member.commit(&list, CommitMode::Sync).expect("a member");
    let groups = member.fetch_group_list(Some(&topic), PATIENCE).expect("an answer");
    let group = &groups.groups()[0];
    assert_eq!((group.state(), group.members().len()), ("Stable", 1));
    assert_eq!(group.protocol_type(), "consumer");
    drop(member);
    poll_until(&[], "the group is empty", || outsider.commit(&list, CommitMode::Sync).is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_and_settings_of_topics() {
    let kafka = servers::kafka();
    let topic =
        topic(&kafka, "limits", 2, &[("max.message.bytes", "1000"), ("cleanup.policy", "compact")]).await;
    let producer = producer(&kafka, None);
    let admin = admin(&kafka);
    let options = AdminOptions::new();
    let described =
        admin.describe_configs([&ResourceSpecifier::Topic(&topic)], &options).await.expect("an answer");
    let described = described[0].as_ref().expect("it exists").entry_map();
    let value = |name| described.get(name).and_then(|entry| entry.value.clone()).unwrap_or_default();
    assert_eq!((value("max.message.bytes"), value("cleanup.policy")), ("1000".into(), "compact".into()));
    assert_eq!(value("retention.ms"), "604800000", "Kafka's default");
    let wrong =
        NewTopic::new("millrace-tests-wrong", 1, TopicReplication::Fixed(1)).set("retention.ms", "7d");
    let refused = admin.create_topics(&[wrong], &options).await.expect("an answer");
    assert_eq!(refused, [Err(("millrace-tests-wrong".into(), RDKafkaErrorCode::InvalidConfig))]);
    let grown = admin.create_partitions([&NewPartitions::new(&topic, 3)], &options).await.expect("an answer");
    assert_eq!(grown, [Ok(topic.clone())]);
    let shrunk =
        admin.create_partitions([&NewPartitions::new(&topic, 2)], &options).await.expect("an answer");
    assert_eq!(shrunk, [Err((topic.clone(), RDKafkaErrorCode::InvalidPartitions))]);
    let large = BaseRecord::<str, str>::to(&topic).partition(0).key("k");
    let large_value = "x".repeat(2_000);
    let (sender, receiver) = std::sync::mpsc::channel();
    let context = Reports(sender);
    let reporting: rdkafka::producer::ThreadedProducer<Reports> =
        client(&kafka).create_with_context(context).expect("a producer");
    reporting.send(large.payload(&large_value)).map_err(|(error, _)| error).expect("room in the queue");
    assert_eq!(
        receiver.recv_timeout(PATIENCE).expect("a report"),
        Some(RDKafkaErrorCode::MessageSizeTooLarge)
    );
    let deleted = admin.delete_topics(&[&topic], &options).await.expect("an answer");
    assert_eq!(deleted, [Ok(topic.clone())]);
    drop(producer);
}

struct Reports(std::sync::mpsc::Sender<Option<RDKafkaErrorCode>>);

impl rdkafka::ClientContext for Reports {}

impl rdkafka::producer::ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &rdkafka::message::DeliveryResult<'_>, (): ()) {
        let code = result.as_ref().err().and_then(|(error, _)| KafkaError::rdkafka_error_code(error));
        let _ = self.0.send(code);
    }
}

/// The next record or error that a reader gets; the end of a partition is neither.
fn next(reader: &BaseConsumer) -> Result<OwnedMessage, KafkaError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "nothing comes");
        match reader.poll(Duration::from_millis(50)) {
            None | Some(Err(KafkaError::PartitionEOF(_))) => {}
            Some(result) => return result.map(|message| message.detach()),
        }
    }
}

fn millis_since_1970() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_millis()).expect("small")
}

/// A topic may want the broker's time: its records have it instead of their producer's, compressed or not, and offsets are
/// found by it.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_may_have_the_brokers_time() {
    let kafka = servers::kafka();
    let topic = topic(&kafka, "appended", 1, &[("message.timestamp.type", "LogAppendTime")]).await;
    let began = millis_since_1970();
    for compression in ["none", "lz4"] {
        let producer: super::clients::TestProducer =
            client(&kafka).set("compression.type", compression).create().expect("a producer");
        for _ in 0..2 {
            let record =
                BaseRecord::<str, str>::to(&topic).partition(0).payload("of long ago").timestamp(1_000);
            producer.send(record).map_err(|(error, _)| error).expect("room in the queue");
            producer.flush(PATIENCE).expect("written");
        }
    }
    let transactional = producer(&kafka, Some(&topic));
    transaction(&transactional, &topic, &["inside"], true);
    let reader = reader(&kafka, &topic, Offset::Beginning, "read_committed");
    let times: Vec<Timestamp> = (0..5).map(|_| next(&reader).expect("a record").timestamp()).collect();
    let ended = millis_since_1970();
    let is_brokers =
        |time: &Timestamp| matches!(time, Timestamp::LogAppendTime(at) if (began..=ended).contains(at));
    assert!(times.iter().all(is_brokers), "{began} to {ended}: {times:?}");
    let found = |millis: i64| {
        let mut asked = TopicPartitionList::new();
        asked.add_partition_offset(&topic, 0, Offset::Offset(millis)).expect("a time");
        reader.offsets_for_times(asked, PATIENCE).expect("an answer").elements()[0].offset()
    };
    assert_eq!(found(2_000), Offset::Offset(0), "all are newer than their producer said");
    assert_eq!(found(ended + 60_000), Offset::End);
}

/// What is deleted by offset is gone for everybody: readers of it begin where the topic begins now, or are told that it
/// is not there.
#[tokio::test(flavor = "multi_thread")]
async fn deleted_records_are_gone() {
    let kafka = servers::kafka();
    let topic = topic(&kafka, "deleted", 2, &[]).await;
    let producer = producer(&kafka, None);
    for value in ["a", "b", "c", "d", "e"] {
        send(&producer, &topic, value);
    }
    producer.flush(PATIENCE).expect("written");
    let admin = admin(&kafka);
    let delete = async |partition, offset| {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&topic, partition, offset).expect("an offset");
        let deleted = admin.delete_records(&list, &AdminOptions::new()).await.expect("an answer");
        let element = &deleted.elements()[0];
        element.error().map(|()| element.offset()).map_err(|error| error.rdkafka_error_code())
    };
    assert_eq!(delete(0, Offset::Offset(3)).await, Ok(Offset::Offset(3)), "in the middle of a batch");
    assert_eq!(read(&kafka, &topic, "read_committed"), ["d", "e"]);
    assert_eq!(delete(0, Offset::Offset(1)).await, Ok(Offset::Offset(3)), "nothing comes back");
    assert_eq!(
        delete(0, Offset::Offset(6)).await,
        Err(Some(RDKafkaErrorCode::OffsetOutOfRange)),
        "there are five"
    );

    let strict: BaseConsumer = client(&kafka)
        .set("group.id", &topic)
        .set("auto.offset.reset", "error")
        .create()
        .expect("a consumer");
    let mut older = TopicPartitionList::new();
    older.add_partition_offset(&topic, 0, Offset::Offset(1)).expect("an offset");
    strict.assign(&older).expect("assigned");
    let error = next(&strict).expect_err("it is told");
    assert_eq!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::AutoOffsetReset), "{error}");
    let lenient: BaseConsumer = client(&kafka)
        .set("group.id", &topic)
        .set("auto.offset.reset", "earliest")
        .create()
        .expect("a consumer");
    lenient.assign(&older).expect("assigned");
    assert_eq!(next(&lenient).expect("a record").offset(), 3, "it begins anew");
    assert_eq!(lenient.fetch_watermarks(&topic, 0, PATIENCE).expect("an answer"), (3, 5));

    assert_eq!(delete(0, Offset::End).await, Ok(Offset::Offset(5)));
    assert_eq!(read(&kafka, &topic, "read_committed"), Vec::<String>::new());
    send(&producer, &topic, "f");
    producer.flush(PATIENCE).expect("written");
    assert_eq!(read(&kafka, &topic, "read_committed"), ["f"], "offsets go on");
}
