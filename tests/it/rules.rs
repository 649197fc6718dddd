//! Single rules of delivery; `docs/engine-rules.md` lists them all.

use std::time::Duration;

use millrace::engine::sender::SenderSettings;
use millrace::engine::settings::{WorkerError, WorkerSettings};
use millrace::kafka::consumer::GroupConsumer;
use millrace::kafka::settings::{Connection, ConsumerSettings, ProducerSettings, TransactionSettings};
use millrace::position::{NextOffset, Partition};
use rdkafka::ClientConfig;
use rdkafka::mocking::{MockCluster, MockCoordinator};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::copying::{Instance, Scenario};
use crate::support::{events, mock, servers};

const LIMIT: Duration = Duration::from_secs(60);
/// How long a call may take there.
const STUCK_AFTER: Duration = Duration::from_secs(3);
const PROVOCATIONS_MAX: usize = 10;

/// Whether librdkafka's call hangs or fails depends on its connections at that moment: it is provoked until it hangs.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_never_comes_back_ends_the_worker() {
    for _ in 0..PROVOCATIONS_MAX {
        if let Some(error) = without_group_coordinator().await {
            assert!(matches!(error, WorkerError::Stuck { call: "send offsets", .. }), "{error}");
            return;
        }
    }
    panic!("no call hung in {PROVOCATIONS_MAX} attempts");
}

/// The end of a worker whose group coordinator goes away; `None` when it goes on trying. On librdkafka's own mock
/// cluster: only there the coordinator can go away alone.
async fn without_group_coordinator() -> Option<WorkerError> {
    let cluster = MockCluster::new(2).expect("a mock cluster");
    for topic in ["in", "out"] {
        cluster.create_topic(topic, 1, 1).expect("a topic");
        cluster.partition_leader(topic, 0, Some(1)).expect("a leader");
    }
    for id in ["tx.0", "tx.1"] {
        cluster.coordinator(MockCoordinator::Transaction(String::from(id)), 1).expect("a coordinator");
    }
    cluster.coordinator(MockCoordinator::Group(String::from("g")), 2).expect("a coordinator");
    let connection = Connection::plain(cluster.bootstrap_servers(), "test");
    let consumer = ConsumerSettings::new(connection.clone(), "g", vec![String::from("in")]);
    let producer = ProducerSettings::new(connection);
    let sender = SenderSettings::Transactions(TransactionSettings::new(producer, "tx"));
    let mut settings = WorkerSettings::new(consumer, sender);
    settings.is_cpu_only = true;
    settings.stuck_after = STUCK_AFTER;
    let scenario =
        Scenario { input: String::from("in"), output: String::from("out"), group: String::from("g") };
    let mut instance = Instance::start(settings, scenario.copy());
    let writer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", cluster.bootstrap_servers())
        .create()
        .expect("a producer can be made");
    let send = |value: &str| {
        writer
            .send(BaseRecord::<str, str>::to("in").payload(value))
            .map_err(|(error, _)| error)
            .expect("taken");
        writer.flush(LIMIT).expect("acknowledged");
    };
    send("first");
    instance.committed(1).await;
    mock::take_down(&cluster, 2);
    send("second");
    let Instance { running, stop } = instance;
    let mut ended = std::pin::pin!(running.ended());
    let first = tokio::time::timeout(3 * STUCK_AFTER, ended.as_mut()).await;
    // So that the thread left behind can end. The broker itself does not come up again: another process may have its
    // port by now, and librdkafka aborts then.
    cluster.coordinator(MockCoordinator::Group(String::from("g")), 1).expect("a coordinator");
    let Ok(end) = first else {
        stop.now.cancel();
        // It may have hung just now.
        return tokio::time::timeout(LIMIT, ended).await.expect("in time").err();
    };
    Some(end.expect_err("it cannot go on"))
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_are_committed_with_their_leader_epoch() {
    for is_exactly_once in [true, false] {
        let scenario = Scenario::new("epoch", 1).await;
        events::produce(&servers::kafka(), &scenario.input, &events::generate(700, 100, 10));
        let settings = if is_exactly_once { scenario.exactly_once(0) } else { scenario.at_least_once() };
        let consumer = settings.consumer.clone();
        let instance = Instance::start(settings, scenario.copy());
        tokio::task::block_in_place(|| scenario.wait_until_caught_up(LIMIT));
        instance.drain().await;
        let reader = GroupConsumer::join(&consumer).expect("joins");
        let committed = tokio::task::block_in_place(|| {
            reader.committed(&[Partition::new(scenario.input.as_str(), 0)]).expect("the coordinator answers")
        });
        assert_eq!(committed[0].next, Some(NextOffset(100)));
        assert_eq!(committed[0].leader_epoch, Some(0), "exactly once: {is_exactly_once}");
    }
}
