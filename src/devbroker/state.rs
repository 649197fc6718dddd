//! All that a broker keeps, behind one lock: topics, groups, transactions.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use super::Settings;
use super::configs::{self, Configs};
use super::group::Group;
use super::partition::Partition;
use super::transactions::Transactions;
use super::wire::ResponseError;

/// How often deletions by retention are told at most.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// What a request brings along, besides its body.
pub(super) struct Call {
    pub version: i16,
    pub client: String,
    pub now: Instant,
    /// The error it is to be refused with.
    pub forced: Option<ResponseError>,
}

impl Call {
    /// Refuses when a fault says so.
    pub(super) fn allow(&self) -> Result<(), ResponseError> {
        self.forced.map_or(Ok(()), Err)
    }
}

pub(super) struct Topic {
    pub partitions: Vec<Partition>,
    pub configs: Configs,
}

impl Topic {
    pub(super) fn new(partitions: usize, configs: Configs) -> Self {
        Self { partitions: std::iter::repeat_with(Partition::default).take(partitions).collect(), configs }
    }

    pub(super) fn partition(&mut self, index: i32) -> Result<&mut Partition, ResponseError> {
        let found = usize::try_from(index).ok().and_then(|index| self.partitions.get_mut(index));
        found.ok_or(ResponseError::UnknownTopicOrPartition)
    }

    pub(super) fn message_bytes_max(&self) -> usize {
        configs::value(&self.configs, "max.message.bytes").parse().unwrap_or(usize::MAX)
    }

    /// Kafka keeps the newest value of each key of such a topic.
    fn is_compacted(&self) -> bool {
        !configs::value(&self.configs, "cleanup.policy").split(',').any(|word| word.trim() == "delete")
    }

    /// Bytes that a partition may keep: what the topic says, and at most what the broker has.
    pub(super) fn bytes_max(&self, broker: usize) -> usize {
        let own = configs::value(&self.configs, "retention.bytes").parse().unwrap_or(usize::MAX);
        if self.is_compacted() { broker } else { own.min(broker) }
    }
}

pub(super) struct State {
    pub settings: Settings,
    pub address: SocketAddr,
    pub topics: BTreeMap<String, Topic>,
    pub groups: HashMap<String, Group>,
    pub transactions: Transactions,
    /// Records that retention has deleted, and those by topic that no line of the log has told yet.
    pub deleted: u64,
    untold: BTreeMap<String, u64>,
    told: Option<Instant>,
}

impl State {
    pub(super) fn new(settings: Settings, address: SocketAddr) -> Self {
        Self {
            settings,
            address,
            topics: BTreeMap::new(),
            groups: HashMap::new(),
            transactions: Transactions::default(),
            deleted: 0,
            untold: BTreeMap::new(),
            told: None,
        }
    }

    pub(super) fn partition(&mut self, topic: &str, index: i32) -> Result<&mut Partition, ResponseError> {
        self.topics.get_mut(topic).ok_or(ResponseError::UnknownTopicOrPartition)?.partition(index)
    }

    /// Counts what retention has deleted; it is told soon.
    pub(super) fn count_deleted(&mut self, topic: &str, records: u64) {
        if records > 0 {
            self.deleted += records;
            *self.untold.entry(topic.to_owned()).or_default() += records;
        }
    }

    /// What happens by itself: sessions, rebalances and transactions run out of time.
    pub(super) fn tick(&mut self, now: Instant) {
        for group in self.groups.values_mut() {
            group.tick(now);
        }
        self.groups.retain(|_, group| group.was_used());
        self.abort_late_transactions(now);
        let due = self.told.is_none_or(|told| told + TELL_EVERY <= now);
        if due && !self.untold.is_empty() {
            self.told = Some(now);
            for (topic, records) in std::mem::take(&mut self.untold) {
                let compacted = self.topics.get(&topic).is_some_and(Topic::is_compacted);
                let what = if compacted { "newest values of some keys may be among them" } else { "" };
                tracing::warn!(
                    topic,
                    records,
                    "the development broker deleted the oldest records of a full partition {what}"
                );
            }
        }
    }
}

/// Milliseconds since 1970.
pub(super) fn wall_millis() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
