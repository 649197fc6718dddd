//! How the projector runs, what it keeps, and what it shows of itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::kafka::settings::Connection;
use crate::ledger::Namespace;
use crate::plan::kpis::KpiSpec;
use crate::plan::tables::TableSpec;
use crate::position::{NextOffset, Partition};

/// How the projector runs.
#[derive(Clone, Debug)]
pub struct ProjectSettings {
    /// How to reach Kafka.
    pub connection: Connection,
    /// First word of topics and groups; the group is `<namespace>.project`.
    pub namespace: Namespace,
    /// Most records of one transaction.
    pub batch_records_max: usize,
    /// Most bytes of records that wait per partition.
    pub lane_bytes_max: usize,
    /// After this long without a heartbeat the group goes on without this member.
    pub session_timeout: Duration,
    /// How long an owner waits that was replaced, before it takes the partition back. The group normally takes the
    /// partition away within this time; without the wait two owners would replace each other in turns.
    pub fenced_wait: Duration,
    /// Longest pause between two tries while Postgres or the registry is down.
    pub retry_max: Duration,
    /// How often changed KPI values are written to their topic.
    pub publish_every: Duration,
    /// How long execution results are kept in Postgres; `None` is for ever.
    pub executions_retention: Option<Duration>,
    /// How often rows that are too old are deleted.
    pub retention_every: Duration,
}

impl ProjectSettings {
    /// The defaults.
    pub fn new(connection: Connection, namespace: Namespace) -> Self {
        Self {
            connection,
            namespace,
            batch_records_max: 20_000,
            lane_bytes_max: 8 << 20,
            session_timeout: Duration::from_secs(45),
            fenced_wait: Duration::from_secs(60),
            retry_max: Duration::from_secs(10),
            publish_every: Duration::from_millis(500),
            executions_retention: None,
            retention_every: Duration::from_secs(600),
        }
    }
}

/// What the projector keeps.
#[derive(Clone, Debug, Default)]
pub struct ProjectSpecs {
    /// KPIs, folded of the fact topic.
    pub kpis: Vec<KpiSpec>,
    /// Tables of topics.
    pub tables: Vec<TableSpec>,
}

/// Where a partition stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PartitionStatus {
    /// The next record to fold.
    pub next: NextOffset,
    /// End of the partition, when known.
    pub end: Option<NextOffset>,
}

impl PartitionStatus {
    /// Records not folded yet; 0 while the end is unknown.
    pub fn lag(&self) -> i64 {
        self.end.map_or(0, |end| (end.0 - self.next.0).max(0))
    }
}

/// What the projector shows of itself. Clones show the same.
#[derive(Clone, Debug, Default)]
pub struct ProjectStatus(Arc<Mutex<BTreeMap<Partition, PartitionStatus>>>);

impl ProjectStatus {
    /// The partitions that are assigned here.
    pub fn partitions(&self) -> BTreeMap<Partition, PartitionStatus> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut BTreeMap<Partition, PartitionStatus>)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
