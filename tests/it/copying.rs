//! A worker whose pipeline copies: every record comes out once, with its key, its value and where it came from.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace::engine::sender::SenderSettings;
use millrace::engine::settings::{Process, Processing, Stop, WorkerSettings};
use millrace::engine::worker::{self, Running};
use millrace::kafka::settings::{Connection, ConsumerSettings, ProducerSettings, TransactionSettings};
use millrace::record::{Header, InRecord, OutRecord};
use rdkafka::ClientConfig;
use rdkafka::Offset;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::topic_partition_list::TopicPartitionList;

use crate::support::readback::{self, Back};
use crate::support::servers;

/// Topics and group of one scenario.
pub struct Scenario {
    pub input: String,
    pub output: String,
    pub group: String,
}

impl Scenario {
    /// Fresh topics with `partitions` each.
    pub async fn new(name: &str, partitions: i32) -> Self {
        let word = servers::unique(name);
        let scenario = Self {
            input: format!("{word}.in"),
            output: format!("{word}.out"),
            group: format!("millrace.{word}"),
        };
        servers::create_topics(&[(&scenario.input, partitions), (&scenario.output, partitions)]).await;
        scenario
    }

    pub fn connection(&self) -> Connection {
        Connection::plain(servers::kafka(), "millrace-tests")
    }

    /// Settings for instance number `ordinal`, with sessions short enough for tests.
    pub fn exactly_once(&self, ordinal: u32) -> WorkerSettings {
        let producer = ProducerSettings::new(self.connection());
        let mut transactions = TransactionSettings::new(producer, format!("{}.{ordinal}", self.group));
        transactions.timeout = Duration::from_secs(10);
        self.settings(SenderSettings::Transactions(transactions))
    }

    pub fn at_least_once(&self) -> WorkerSettings {
        self.settings(SenderSettings::Plain(ProducerSettings::new(self.connection())))
    }

    fn settings(&self, sender: SenderSettings) -> WorkerSettings {
        let mut consumer = ConsumerSettings::new(self.connection(), &self.group, vec![self.input.clone()]);
        consumer.session_timeout = Duration::from_secs(6);
        let mut settings = WorkerSettings::new(consumer, sender);
        settings.is_cpu_only = true;
        settings
    }

    /// Copies at once.
    pub fn copy(&self) -> Process {
        let output: Arc<str> = Arc::from(self.output.as_str());
        Arc::new(move |record, _way, _now| Processing::Done(vec![copied(record, &output)]))
    }

    /// Copies after a wait that depends on the record.
    pub fn copy_slowly(&self, wait: impl Fn(&InRecord) -> Duration + Send + Sync + 'static) -> Process {
        let output: Arc<str> = Arc::from(self.output.as_str());
        Arc::new(move |record, _way, _now| {
            let (wait, output) = (wait(&record), Arc::clone(&output));
            Processing::Pending(Box::pin(async move {
                tokio::time::sleep(wait).await;
                vec![copied(record, &output)]
            }))
        })
    }

    /// Waits until the group has committed the end of every input partition.
    pub fn wait_until_caught_up(&self, limit: Duration) {
        let begun = Instant::now();
        loop {
            let lag = self.lag();
            if lag == 0 {
                return;
            }
            assert!(begun.elapsed() < limit, "{} records are not committed after {limit:?}", lag);
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Records of the input that the group has not committed.
    pub fn lag(&self) -> i64 {
        let wait = Duration::from_secs(20);
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", servers::kafka())
            .set("group.id", &self.group)
            .create()
            .expect("a consumer can be made");
        let metadata = consumer.fetch_metadata(Some(&self.input), wait).expect("Kafka answers");
        let mut list = TopicPartitionList::new();
        for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
            list.add_partition(&self.input, partition.id());
        }
        let committed = consumer.committed_offsets(list, wait).expect("the coordinator answers");
        committed
            .elements()
            .iter()
            .map(|element| {
                let (low, high) =
                    consumer.fetch_watermarks(&self.input, element.partition(), wait).expect("Kafka answers");
                match element.offset() {
                    Offset::Offset(next) => high - next,
                    _ => high - low,
                }
            })
            .sum()
    }

    /// Commits an offset for the group, as an operator would.
    pub fn commit(&self, partition: i32, next: i64) {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", servers::kafka())
            .set("group.id", &self.group)
            .create()
            .expect("a consumer can be made");
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.input, partition, Offset::Offset(next)).expect("an offset");
        consumer.commit(&list, CommitMode::Sync).expect("the group is empty");
    }

    /// The output, checked: every input record exactly once, those of a key in order.
    pub fn assert_exactly_once(&self) -> usize {
        let (input, output) = self.read();
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        for record in &output {
            *seen.entry(source_of(record)).or_default() += 1;
        }
        let doubled: Vec<_> = seen.iter().filter(|(_, times)| **times > 1).take(5).collect();
        assert!(doubled.is_empty(), "doubled: {doubled:?}");
        let missing: Vec<_> =
            input.iter().map(|record| self.place(record)).filter(|place| !seen.contains_key(place)).collect();
        assert!(missing.is_empty(), "{} missing, first {:?}", missing.len(), missing.first());
        assert_eq!(output.len(), input.len());
        assert_eq!(by_key(&input), by_key(&output), "order of keys");
        output.len()
    }

    /// The output, checked: every input record at least once. Returns how many came twice or more.
    pub fn assert_at_least_once(&self) -> usize {
        let (input, output) = self.read();
        let seen: std::collections::BTreeSet<String> = output.iter().map(source_of).collect();
        let missing: Vec<_> =
            input.iter().map(|record| self.place(record)).filter(|place| !seen.contains(place)).collect();
        assert!(missing.is_empty(), "{} missing, first {:?}", missing.len(), missing.first());
        output.len() - seen.len()
    }

    pub fn read(&self) -> (Vec<Back>, Vec<Back>) {
        let kafka = servers::kafka();
        (readback::read_all(&kafka, &self.input), readback::read_all(&kafka, &self.output))
    }

    fn place(&self, record: &Back) -> String {
        format!("{}/{}/{}", self.input, record.partition, record.offset)
    }
}

fn source_of(record: &Back) -> String {
    record.header("millrace.source").expect("every output names its source").to_owned()
}

type Values = Vec<Option<Vec<u8>>>;

fn by_key(records: &[Back]) -> BTreeMap<Option<Vec<u8>>, Values> {
    let mut keys: BTreeMap<Option<Vec<u8>>, Values> = BTreeMap::new();
    for record in records {
        keys.entry(record.key.clone()).or_default().push(record.value.clone());
    }
    keys
}

pub fn copied(record: InRecord, output: &Arc<str>) -> OutRecord {
    let source = format!("{}/{}/{}", record.topic, record.partition, record.offset);
    let mut headers = record.headers;
    headers.push(Header::of("millrace.source", source));
    OutRecord {
        topic: Arc::clone(output),
        partition: None,
        timestamp_ms: record.timestamp_ms,
        key: record.key,
        value: record.value,
        headers,
    }
}

/// A worker of a test.
pub struct Instance {
    pub running: Running,
    pub stop: Stop,
}

impl Instance {
    pub fn start(settings: WorkerSettings, process: Process) -> Self {
        let stop = Stop::default();
        let running = worker::spawn(settings, process, tokio::runtime::Handle::current(), stop.clone())
            .expect("starts");
        Self { running, stop }
    }

    /// Finishes and leaves.
    pub async fn drain(self) {
        self.stop.drain.cancel();
        self.running.ended().await.expect("a clean end");
    }

    /// Leaves in the middle of its work.
    pub async fn drop_at_once(self) {
        self.stop.now.cancel();
        self.running.ended().await.expect("a clean end");
    }

    /// Waits until it has committed `count` transactions or batches.
    pub async fn committed(&mut self, count: u64) {
        let wait = self.running.status.wait_for(|status| status.counts.committed >= count);
        tokio::time::timeout(Duration::from_secs(60), wait).await.expect("in time").expect("it runs");
    }
}
