//! What a worker is given, and how it may end.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use crate::engine::assignment::Limits;
use crate::engine::budget::Budget;
use crate::engine::halt::Halt;
use crate::engine::park::{Line, Way};
use crate::engine::sender::{SenderGone, SenderSettings};
use crate::engine::tasks::{TaskLost, Work};
use crate::kafka::beacon::Beacon;
use crate::kafka::consumer::ConsumerError;
use crate::kafka::settings::ConsumerSettings;
use crate::kafka::txn::TxnError;
use crate::plan::pipeline::Ordering;
use crate::record::{InRecord, OutRecord};

/// What a worker is made of.
#[derive(Clone, Debug)]
pub struct WorkerSettings {
    /// The group and its topics.
    pub consumer: ConsumerSettings,
    /// How records leave; decides between exactly once and at least once.
    pub sender: SenderSettings,
    /// What stays in order in work that waits: the strictest of the group's pipelines.
    pub ordering: Ordering,
    /// Whether no pipeline waits for anything.
    pub is_cpu_only: bool,
    /// Records at work at the same time, where pipelines wait.
    pub running_max: usize,
    /// How much may be in flight.
    pub limits: Limits,
    /// Memory for records in flight, which all groups of the process share.
    pub budget: Arc<Budget>,
    /// By which ways records come back.
    pub lines: Vec<Line>,
    /// So many records that are done make a transaction, even while more are to be read.
    pub batch_records: usize,
    /// So long a finished record waits for others, while more are to be read.
    pub batch_interval: Duration,
    /// So long work may go on for partitions that the group wants back.
    pub revoke_drain: Duration,
    /// So long work may go on after the stop.
    pub stop_drain: Duration,
    /// Tells which call to Kafka the sender is in.
    pub beacon: Beacon,
    /// A call to Kafka that takes longer never comes back: the worker is given up, and the process with it.
    pub stuck_after: Duration,
    /// Stops the group for good.
    pub halt: Halt,
}

impl WorkerSettings {
    /// The defaults: key order, 256 at a time, batches of 5,000 records or 100 ms, drains of 2 s and 10 s.
    pub fn new(consumer: ConsumerSettings, sender: SenderSettings) -> Self {
        Self {
            consumer,
            sender,
            ordering: Ordering::Key,
            is_cpu_only: false,
            running_max: 256,
            limits: Limits::default(),
            budget: Budget::new(Limits::default().group_bytes_max),
            lines: Vec::new(),
            batch_records: 5_000,
            batch_interval: Duration::from_millis(100),
            revoke_drain: Duration::from_secs(2),
            stop_drain: Duration::from_secs(10),
            beacon: Beacon::default(),
            stuck_after: Duration::from_secs(60),
            halt: Halt::default(),
        }
    }
}

/// What the processing of a record came to.
pub enum Processing {
    /// It is done, and these records follow from it.
    Done(Vec<OutRecord>),
    /// It waits for something; the future has been polled once.
    Pending(Work),
}

/// Takes a record through pipelines of the group, as its way says, at this time. Never panics and never blocks.
pub type Process = Arc<dyn Fn(InRecord, Way, DateTime<Utc>) -> Processing + Send + Sync>;

/// The two ways to end a worker.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Finish what is begun, commit, leave the group.
    pub drain: CancellationToken,
    /// Leave at once; nothing is lost, some work is done again by others.
    pub now: CancellationToken,
}

/// Why a worker ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The consumer cannot go on.
    #[error("the worker cannot read")]
    Consumer(#[from] ConsumerError),
    /// Transactions cannot go on.
    #[error("the worker of group `{group}` cannot write")]
    Transaction {
        /// Consumer group.
        group: String,
        /// Why.
        source: TxnError,
    },
    /// A call to Kafka does not come back.
    #[error("group `{group}`: the call `{call}` to Kafka has not come back for {waited:?}")]
    Stuck {
        /// Consumer group.
        group: String,
        /// Which call.
        call: &'static str,
        /// So long.
        waited: Duration,
    },
    /// Work went away without a result.
    #[error("the worker lost a record's work")]
    Task(#[from] TaskLost),
    /// The sender ended by itself.
    #[error("the worker cannot write")]
    Sender(#[from] SenderGone),
    /// The system gives no thread.
    #[error("cannot start a thread")]
    Thread(#[from] std::io::Error),
    /// The poll thread panicked.
    #[error("the poll thread panicked")]
    Panicked,
}

impl WorkerError {
    /// Whether another process runs with the same identity: starting again only helps when that one is gone.
    pub fn is_fenced(&self) -> bool {
        matches!(
            self,
            Self::Transaction { source: TxnError::Fenced { .. }, .. }
                | Self::Consumer(ConsumerError::Fenced { .. })
        )
    }
}
