//! How a group is doing, for `/health`, metrics and `lag`: a value that the poll thread replaces twice a second.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::engine::assignment::Assignment;
use crate::engine::tasks::Tasks;
use crate::engine::tracker::Ticket;
use crate::kafka::consumer::GroupConsumer;
use crate::position::{NextOffset, Partition};
use crate::telemetry::{self, names};

/// What the oldest record of a partition waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// Its pipelines are at work on it.
    Stage,
    /// It waits for an earlier record of its key, or for a place among those at work.
    Lane,
    /// It is done and waits for the transaction.
    Transaction,
}

impl Reason {
    /// Name in answers and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stage => "stage",
            Self::Lane => "lane",
            Self::Transaction => "transaction",
        }
    }
}

/// One partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartitionStatus {
    /// Which.
    pub partition: Partition,
    /// Committed up to here; `None` when nothing is.
    pub committed: Option<NextOffset>,
    /// End of the partition, as the last fetch told.
    pub end: Option<NextOffset>,
    /// Records between the two.
    pub lag: Option<i64>,
    /// Records read and not yet committed.
    pub in_flight: usize,
    /// Whether reading is stopped because of a limit.
    pub is_paused: bool,
    /// Age of the oldest record not yet handed over.
    pub oldest: Option<(Duration, Reason)>,
}

/// Counts since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Records read.
    pub records: u64,
    /// Records done.
    pub completed: u64,
    /// Work that ended after its partition was given away or rewound; not sent.
    pub stale: u64,
    /// Transactions committed; at least once: batches acknowledged.
    pub committed: u64,
    /// Transactions aborted, or batches that failed.
    pub aborted: u64,
    /// Producers not used again after a commit that was slow, or showed signs of a request sent twice.
    pub replaced: u64,
    /// Times that partitions came or went.
    pub rebalances: u64,
}

/// A consumer group in this process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupStatus {
    /// Consumer group.
    pub group: String,
    /// Whether the group has given this member its part, which may be no partition.
    pub is_joined: bool,
    /// When the poll thread last came round. An old value means that it is stuck.
    pub polled_at: Instant,
    /// Memory of records in flight and of what they led to.
    pub held_bytes: usize,
    /// How long the sender has been at its present work.
    pub sending_for: Option<Duration>,
    /// Why the last transaction failed, until one succeeds.
    pub trouble: Option<String>,
    /// Why the group is stopped until the worker is started again; `None` while it works.
    pub stopped: Option<Arc<str>>,
    /// Assigned partitions.
    pub partitions: Vec<PartitionStatus>,
    /// Counts.
    pub counts: Counts,
}

impl GroupStatus {
    /// Before the first poll.
    pub fn new(group: &str) -> Self {
        Self {
            group: group.to_owned(),
            is_joined: false,
            polled_at: Instant::now(),
            held_bytes: 0,
            sending_for: None,
            trouble: None,
            stopped: None,
            partitions: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// Records not yet committed over all partitions, as far as ends are known.
    pub fn lag(&self) -> i64 {
        self.partitions.iter().filter_map(|partition| partition.lag).sum()
    }
}

/// The state of each assigned partition.
pub fn partitions(assignment: &Assignment, tasks: &Tasks, consumer: &GroupConsumer) -> Vec<PartitionStatus> {
    let now = Instant::now();
    let mut all = Vec::new();
    for (index, held) in assignment.iter() {
        let Some(tracker) = &held.tracker else { continue };
        let (committed, end) = (tracker.committed(), consumer.end_of(&held.partition));
        let oldest = tracker.oldest().map(|(offset, since, is_done)| {
            let ticket = Ticket { partition: index, epoch: tracker.epoch(), offset };
            let reason = match (is_done, tasks.is_running(&ticket)) {
                (true, _) => Reason::Transaction,
                (false, true) => Reason::Stage,
                (false, false) => Reason::Lane,
            };
            (now.duration_since(since), reason)
        });
        all.push(PartitionStatus {
            partition: held.partition.clone(),
            committed,
            end,
            lag: committed.zip(end).map(|(committed, end)| (end.0 - committed.0).max(0)),
            in_flight: tracker.in_flight(),
            is_paused: held.is_paused,
            oldest,
        });
    }
    all
}

/// Writes the metrics of `now`; counters grow by what came since `before`.
pub fn report(before: &GroupStatus, now: &GroupStatus) {
    let group = now.group.as_str();
    let Counts { records, completed: _, stale, committed, aborted, replaced, rebalances: _ } = now.counts;
    let past = before.counts;
    telemetry::count(names::RECORDS, &[group], records - past.records);
    telemetry::count(names::STALE_COMPLETIONS, &[group], stale - past.stale);
    telemetry::count(names::TRANSACTIONS, &[group, "committed"], committed - past.committed);
    telemetry::count(names::TRANSACTIONS, &[group, "aborted"], aborted - past.aborted);
    telemetry::count(names::PRODUCERS_REPLACED, &[group], replaced - past.replaced);
    telemetry::gauge(names::MEMORY_HELD, &[group], now.held_bytes as f64);
    for partition in &now.partitions {
        let number = partition.partition.number.to_string();
        let labels = [group, &*partition.partition.topic, number.as_str()];
        let age = partition.oldest.map_or(0.0, |(age, _)| age.as_secs_f64());
        if let Some(lag) = partition.lag {
            telemetry::gauge(names::CONSUMER_LAG, &labels, lag as f64);
        }
        telemetry::gauge(names::CONSUMER_IN_FLIGHT, &labels, partition.in_flight as f64);
        telemetry::gauge(names::CONSUMER_OLDEST_AGE, &labels, age);
        telemetry::gauge(names::CONSUMER_PAUSED, &labels, f64::from(u8::from(partition.is_paused)));
    }
    for gone in before
        .partitions
        .iter()
        .filter(|gone| !now.partitions.iter().any(|partition| partition.partition == gone.partition))
    {
        let number = gone.partition.number.to_string();
        let labels = [group, &*gone.partition.topic, number.as_str()];
        for metric in [
            names::CONSUMER_LAG,
            names::CONSUMER_IN_FLIGHT,
            names::CONSUMER_OLDEST_AGE,
            names::CONSUMER_PAUSED,
        ] {
            telemetry::gauge(metric, &labels, 0.0);
        }
    }
}
