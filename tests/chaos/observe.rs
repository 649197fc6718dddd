//! Who watches during the faults: a reader of committed records, and a note of committed offsets.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::{ClientConfig, ClientContext, Offset, Statistics, TopicPartitionList};

use crate::invariants::Place;
use crate::support::readback::Back;

const ASK_TIMEOUT: Duration = Duration::from_secs(5);
const SAMPLE_EVERY: Duration = Duration::from_millis(200);

/// Offset and source of each record of each partition.
pub type Seen = BTreeMap<(String, i32), Vec<(i64, Place)>>;
/// Committed offsets at a time.
pub type Samples = Vec<(Instant, BTreeMap<i32, i64>)>;

/// A lock whose owner cannot leave it in a broken state.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A consumer of this harness; `isolation` is Kafka's word.
pub fn consumer(kafka: &str, group: &str, isolation: &str) -> anyhow::Result<BaseConsumer> {
    Ok(settings(kafka, group, isolation).create()?)
}

fn settings(kafka: &str, group: &str, isolation: &str) -> ClientConfig {
    let mut settings = ClientConfig::new();
    settings
        .set("bootstrap.servers", kafka)
        .set("client.id", "harness")
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "earliest")
        .set("isolation.level", isolation)
        .set("reconnect.backoff.max.ms", "500")
        .set("log_level", "0");
    settings
}

/// Partitions of `topic`.
pub fn partitions<C: ConsumerContext>(consumer: &BaseConsumer<C>, topic: &str) -> anyhow::Result<Vec<i32>> {
    let metadata = consumer.fetch_metadata(Some(topic), ASK_TIMEOUT * 4)?;
    let found = metadata.topics().iter().flat_map(|topic| topic.partitions());
    let partitions: Vec<i32> = found.map(|partition| partition.id()).collect();
    anyhow::ensure!(!partitions.is_empty(), "there is no topic {topic}");
    Ok(partitions)
}

/// The place that a record's header `millrace.source` names.
pub fn source_of(record: &Back) -> Option<Place> {
    let mut words = record.header("millrace.source")?.rsplit('/');
    let offset = words.next()?.parse().ok()?;
    Some((words.next()?.parse().ok()?, offset))
}

/// The place that a record is its result of; none can be told of a record of somebody else.
pub fn source_or_nowhere(record: &Back) -> Place {
    source_of(record).unwrap_or((-1, record.offset))
}

struct Thread {
    is_over: Arc<AtomicBool>,
    handle: Option<JoinHandle<()>>,
}

impl Thread {
    fn spawn(mut turn: impl FnMut() + Send + 'static) -> Self {
        let is_over: Arc<AtomicBool> = Arc::default();
        let over = Arc::clone(&is_over);
        let handle = std::thread::spawn(move || {
            while !over.load(Ordering::Acquire) {
                turn();
            }
        });
        Self { is_over, handle: Some(handle) }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        if let Some(handle) = self.handle.take() {
            // A panic of it has been printed.
            let _ = handle.join();
        }
    }
}

/// What librdkafka tells of its partitions, once a second.
#[derive(Clone, Default)]
struct States(Arc<Mutex<Option<Statistics>>>);

impl ClientContext for States {
    fn stats(&self, statistics: Statistics) {
        *locked(&self.0) = Some(statistics);
    }

    // Brokers go down all the time.
    fn error(&self, _: KafkaError, _: &str) {}
}

impl ConsumerContext for States {}

/// Reads committed records of some topics while everything goes on.
pub struct Follower {
    seen: Arc<Mutex<Seen>>,
    states: States,
    _thread: Thread,
}

impl Follower {
    /// Begins with the oldest record of each topic.
    pub fn start(kafka: &str, topics: &[String]) -> anyhow::Result<Self> {
        let states = States::default();
        let consumer: BaseConsumer<States> = settings(kafka, "harness.follower", "read_committed")
            .set("statistics.interval.ms", "1000")
            .create_with_context(states.clone())?;
        let mut list = TopicPartitionList::new();
        for topic in topics {
            for partition in partitions(&consumer, topic)? {
                // The topics are new: there is no need to ask where they begin.
                list.add_partition_offset(topic, partition, Offset::Offset(0))?;
            }
        }
        consumer.assign(&list)?;
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let noted = Arc::clone(&seen);
        let thread = Thread::spawn(move || {
            // Errors are those of brokers that are down; the client goes on by itself.
            if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
                let record = Back::of(&message);
                let topic = rdkafka::Message::topic(&message).to_owned();
                let place = source_or_nowhere(&record);
                locked(&noted).entry((topic, record.partition)).or_default().push((record.offset, place));
            }
        });
        Ok(Self { seen, states, _thread: thread })
    }

    /// Where its client stands in a partition.
    pub fn state_of(&self, topic: &str, partition: i32) -> String {
        let states = locked(&self.states.0);
        let found = states.as_ref().and_then(|all| all.topics.get(topic)?.partitions.get(&partition));
        found.map_or_else(
            || String::from("unknown"),
            |of| {
                format!(
                    "{}, leader {}, next {}, handed out {}, stable {}, end {}, at hand {}",
                    of.fetch_state,
                    of.leader,
                    of.next_offset,
                    of.app_offset,
                    of.ls_offset,
                    of.hi_offset,
                    of.fetchq_cnt
                )
            },
        )
    }

    /// Records read so far.
    pub fn count(&self) -> usize {
        locked(&self.seen).values().map(Vec::len).sum()
    }

    /// What it has read.
    pub fn seen(&self) -> Seen {
        locked(&self.seen).clone()
    }
}

/// Notes the committed offsets of a group again and again.
pub struct OffsetWatch {
    samples: Arc<Mutex<Samples>>,
    _thread: Thread,
}

impl OffsetWatch {
    /// Begins to watch.
    pub fn start(kafka: &str, group: &str, topic: &str) -> anyhow::Result<Self> {
        // With `read_committed` the question would wait for open transactions.
        let consumer = consumer(kafka, group, "read_uncommitted")?;
        let topic = topic.to_owned();
        let mut list = TopicPartitionList::new();
        for partition in partitions(&consumer, &topic)? {
            list.add_partition(&topic, partition);
        }
        let samples: Arc<Mutex<Samples>> = Arc::default();
        let noted = Arc::clone(&samples);
        let thread = Thread::spawn(move || {
            let asked = Instant::now();
            if let Ok(answer) = consumer.committed_offsets(list.clone(), ASK_TIMEOUT) {
                let offsets = answer.elements().into_iter().filter_map(|element| match element.offset() {
                    Offset::Offset(next) => Some((element.partition(), next)),
                    _ => None,
                });
                let offsets = offsets.collect();
                locked(&noted).push((asked, offsets));
            }
            std::thread::sleep(SAMPLE_EVERY);
        });
        Ok(Self { samples, _thread: thread })
    }

    /// What was noted, oldest first.
    pub fn samples(&self) -> Samples {
        locked(&self.samples).clone()
    }

    /// The latest note.
    pub fn last(&self) -> BTreeMap<i32, i64> {
        locked(&self.samples).last().map(|(_, offsets)| offsets.clone()).unwrap_or_default()
    }

    /// How long after `strike` more was committed than before it; none if never.
    pub fn recovery_after(&self, strike: Instant) -> Option<Duration> {
        let samples = locked(&self.samples);
        let total = |offsets: &BTreeMap<i32, i64>| offsets.values().sum::<i64>();
        let before =
            samples.iter().rev().find(|(at, _)| *at <= strike).map_or(0, |(_, offsets)| total(offsets));
        let after = samples.iter().find(|(at, offsets)| *at > strike && total(offsets) > before)?;
        Some(after.0 - strike)
    }
}

/// The ends of a topic's partitions: the last stable offset and the end.
pub fn ends(kafka: &str, topic: &str) -> anyhow::Result<BTreeMap<(String, i32), (i64, i64)>> {
    let [stable, all] = [
        consumer(kafka, "harness.ends", "read_committed")?,
        consumer(kafka, "harness.ends", "read_uncommitted")?,
    ];
    let mut ends = BTreeMap::new();
    for partition in partitions(&all, topic)? {
        let (_, end) = all.fetch_watermarks(topic, partition, ASK_TIMEOUT * 2)?;
        let (_, lso) = stable.fetch_watermarks(topic, partition, ASK_TIMEOUT * 2)?;
        ends.insert((topic.to_owned(), partition), (lso, end));
    }
    Ok(ends)
}
