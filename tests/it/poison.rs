//! Records nobody expects: the engine takes them through and stops for none.

use std::time::Duration;

use millrace::kafka::admin::{self, Admin};
use millrace::kafka::tail::{Begin, End, Tail};
use rdkafka::ClientConfig;
use rdkafka::bindings as sys;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::copying::{Instance, Scenario};
use crate::support::servers;

const LIMIT: Duration = Duration::from_secs(60);

fn producer(transactional: Option<&str>) -> BaseProducer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", servers::kafka()).set("message.max.bytes", "2000000");
    if let Some(id) = transactional {
        config.set("transactional.id", id);
    }
    config.create().expect("a producer can be made")
}

/// Sends a record whose header has a name that is not UTF-8, which the safe wrapper cannot.
fn send_with_broken_header(producer: &BaseProducer, topic: &str) {
    let topic = std::ffi::CString::new(topic).expect("a topic");
    let (name, value) = (c"\xff\xfe", b"\x80");
    use sys::rd_kafka_vtype_t as Field;
    // SAFETY: pairs of tag and value as librdkafka wants them; all pointers live during the call.
    let result = unsafe {
        sys::rd_kafka_producev(
            producer.client().native_ptr(),
            Field::RD_KAFKA_VTYPE_TOPIC,
            topic.as_ptr(),
            Field::RD_KAFKA_VTYPE_PARTITION,
            0,
            Field::RD_KAFKA_VTYPE_MSGFLAGS,
            sys::RD_KAFKA_MSG_F_COPY,
            Field::RD_KAFKA_VTYPE_HEADER,
            name.as_ptr(),
            value.as_ptr(),
            value.len(),
            Field::RD_KAFKA_VTYPE_END,
        )
    };
    assert_eq!(result, sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR);
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_records_come_through_unchanged() {
    let scenario = Scenario::new("odd", 1).await;
    let producer = producer(None);
    let topic = scenario.input.as_str();
    let send = |key: Option<&[u8]>, value: Option<&[u8]>, headers: OwnedHeaders| {
        let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic).headers(headers);
        record.key = key;
        record.payload = value;
        producer.send(record).map_err(|(error, _)| error).expect("taken");
    };
    send(Some(b"k"), Some(b"\xff\x00not json"), OwnedHeaders::new());
    send(Some(b"tombstone"), None, OwnedHeaders::new());
    send(None, Some(b"no key"), OwnedHeaders::new());
    send(Some(b""), Some(b""), OwnedHeaders::new());
    let large = vec![b'x'; 990_000];
    send(Some(b"large"), Some(&large), OwnedHeaders::new());
    let headers = OwnedHeaders::new()
        .insert(Header { key: "twice", value: Some("1") })
        .insert(Header { key: "twice", value: Some("2") })
        .insert(Header { key: "null", value: None::<&str> })
        .insert(Header { key: "empty", value: Some("") });
    send(Some(b"h"), Some(b"headers"), headers);
    producer.flush(LIMIT).expect("acknowledged");
    let instance = Instance::start(scenario.exactly_once(0), scenario.copy());
    tokio::task::block_in_place(|| scenario.wait_until_caught_up(LIMIT));
    // Read with our own reader: the wrapper's cannot read a header name that is not UTF-8.
    send_with_broken_header(&producer, topic);
    producer.flush(LIMIT).expect("acknowledged");
    tokio::task::block_in_place(|| scenario.wait_until_caught_up(LIMIT));
    instance.drain().await;
    let read = |topic: &str| {
        let mut tail =
            Tail::open(&scenario.connection(), topic, Begin::Oldest, End::AsOfNow).expect("it opens");
        let mut records = Vec::new();
        while tail.read(Duration::from_secs(1), &mut records).expect("it reads") {}
        records
    };
    let (input, output) = tokio::task::block_in_place(|| (read(topic), read(&scenario.output)));
    assert_eq!(input.len(), 7);
    assert_eq!(output.len(), 7);
    for (came, went) in input.iter().zip(&output) {
        assert_eq!((&came.key, &came.value), (&went.key, &went.value));
        let (source, headers) = went.headers.split_last().expect("the source");
        assert_eq!(source.name.as_str(), "millrace.source");
        assert_eq!(headers, came.headers);
    }
    assert_eq!(input[6].headers[0].name.as_bytes(), b"\xff\xfe");
    assert_eq!(input[3].value.as_deref(), Some(&b""[..]), "empty is not null");
    assert_eq!(input[1].value, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn aborted_input_is_not_seen_and_holds_nothing_up() {
    let scenario = Scenario::new("aborts", 3).await;
    let producer = producer(Some(&scenario.input));
    producer.init_transactions(LIMIT).expect("a coordinator");
    let mut expected = 0;
    for round in 0..30 {
        producer.begin_transaction().expect("begun");
        for number in 0..20 {
            let (key, value) = (format!("k{}", number % 7), format!("{round}/{number}"));
            producer.send(BaseRecord::to(&scenario.input).key(&key).payload(&value)).expect("taken");
        }
        if round % 3 == 0 {
            producer.flush(LIMIT).expect("written");
            producer.abort_transaction(LIMIT).expect("aborted");
        } else {
            producer.commit_transaction(LIMIT).expect("committed");
            expected += 20;
        }
    }
    let mut instance = Instance::start(scenario.exactly_once(0), scenario.copy());
    let done = instance.running.status.wait_for(|status| status.counts.completed >= expected);
    tokio::time::timeout(LIMIT, done).await.expect("in time").expect("it runs");
    instance.drain().await;
    let count = tokio::task::block_in_place(|| scenario.assert_exactly_once());
    assert_eq!(count as u64, expected);
    assert!(scenario.lag() <= 3 * 22, "only markers and aborted records after the last are left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_is_gone_stops_the_worker() {
    let scenario = Scenario::new("gone", 1).await;
    let producer = producer(None);
    for _ in 0..10 {
        producer.send(BaseRecord::<(), _>::to(&scenario.input).payload("x")).expect("taken");
    }
    producer.flush(LIMIT).expect("acknowledged");
    let instance = Instance::start(scenario.exactly_once(0), scenario.copy());
    tokio::task::block_in_place(|| scenario.wait_until_caught_up(LIMIT));
    instance.drain().await;
    tokio::task::block_in_place(|| scenario.commit(0, 1_000));
    let instance = Instance::start(scenario.exactly_once(0), scenario.copy());
    let ended = tokio::time::timeout(LIMIT, instance.running.ended()).await.expect("it stops");
    let error = format!("{:#}", anyhow::Error::from(ended.expect_err("with an error")));
    assert!(error.contains("is at offset 1000, the log holds 0 to 10"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_created_and_compared() {
    let scenario = Scenario::new("admin", 2).await;
    let admin = Admin::new(&scenario.connection()).expect("a client");
    let name = format!("{}.more", scenario.input);
    let wanted = admin::Wanted {
        name: name.clone(),
        partitions: 5,
        settings: [("max.message.bytes".to_owned(), "2097152".to_owned())].into(),
    };
    let before = admin.describe(&[&name, &scenario.input]).await.expect("an answer");
    assert_eq!(admin::compare(&wanted, before.get(&name)), [admin::Difference::Missing]);
    assert_eq!(before[&scenario.input].partitions, 2);
    for _ in 0..2 {
        admin.create(std::slice::from_ref(&wanted), None).await.expect("created, or there already");
    }
    let after = tokio::time::timeout(LIMIT, async {
        loop {
            let found = admin.describe(&[&name]).await.expect("an answer");
            if let Some(existing) = found.get(&name) {
                return existing.clone();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    assert_eq!(admin::compare(&wanted, Some(&after.await.expect("in time"))), []);
    assert!(!admin.cluster().await.expect("an answer").brokers.is_empty());
    let positions = admin.positions(&scenario.group, &[&scenario.input]).await.expect("an answer");
    assert_eq!(positions.iter().map(admin::GroupPosition::lag).collect::<Vec<_>>(), [0, 0]);
}
