//! A compiled pipeline, and the consumer groups that pipelines form.

use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use crate::expr::projection::Projection;
use crate::ledger::Results;
use crate::plan::flow::{self, ErrorPolicy, Step};
use crate::plan::topics::Companions;
use crate::stages::Stage;

/// Delivery guarantee of a group, Kafka to Kafka.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Delivery {
    /// Outputs, results, dead letters and offsets in one Kafka transaction.
    ExactlyOnce,
    /// Offsets after the outputs are acknowledged; a crash repeats some records.
    AtLeastOnce,
}

/// What stays in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Ordering {
    /// Records of one key.
    Key,
    /// Records of one partition.
    Partition,
    /// Nothing.
    None,
}

/// Event types a pipeline takes: exact, or all that begin with a prefix (`payment_intent.*`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TypePattern {
    /// This type.
    Exact(String),
    /// Types that begin so.
    Prefix(String),
}

impl TypePattern {
    /// Whether `kind` is meant.
    pub fn matches(&self, kind: &str) -> bool {
        match self {
            Self::Exact(exact) => kind == exact,
            Self::Prefix(prefix) => kind.starts_with(prefix.as_str()),
        }
    }
}

/// Records at work at the same time, where a pipeline does not say.
pub const CONCURRENCY: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");

/// A limit for dead letters: above it the pipeline stops, instead of draining its topic into them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StopAbove {
    /// More than so many percent of the verdicts are too many; filtered events are not counted.
    pub percent: u32,
    /// Fewer verdicts than these are no reason to stop.
    pub of: NonZeroU32,
    /// Verdicts within this time count.
    pub within: Duration,
}

impl Default for StopAbove {
    /// More than half of at least 100 within a minute.
    fn default() -> Self {
        Self { percent: 50, of: NonZeroU32::MIN.saturating_add(99), within: Duration::from_secs(60) }
    }
}

/// A compiled pipeline.
#[derive(Debug)]
pub struct Pipeline {
    /// Name: the file's name.
    pub name: Arc<str>,
    /// Topics it reads.
    pub topics: Vec<Arc<str>>,
    /// Event types it takes; empty takes all.
    pub types: Vec<TypePattern>,
    /// What stays in order.
    pub ordering: Ordering,
    /// Records at work at the same time, where stages wait.
    pub concurrency: NonZeroUsize,
    /// Which events leave an execution result.
    pub results: Results,
    /// Stages in order.
    pub steps: Vec<Step>,
    /// The parts of a JSON value that are decoded at first.
    pub projection: Option<Projection>,
    /// Policy for steps without one of their own.
    pub on_error: ErrorPolicy,
    /// By which topics records come back to it: one for each of `topics`, in their order.
    pub companions: Vec<Companions>,
    /// When it stops because of dead letters; `None` never.
    pub stop_above: Option<StopAbove>,
    /// Where its dead letters go: `<name>.dlq`.
    pub dead_letter_topic: Arc<str>,
    /// Hash of the compiled text, first 12 hexadecimal digits of SHA-256.
    pub config_hash: Arc<str>,
    /// Whether no stage waits for anything: such pipelines run to completion on the poll thread.
    pub is_cpu_only: bool,
}

impl Pipeline {
    /// Whether it cannot work without Postgres: a worker that runs it is started with one.
    pub fn needs_postgres(&self) -> bool {
        flow::any_stage(&self.steps, Stage::needs_postgres)
    }

    /// The companions of one of its topics.
    pub fn companions_of(&self, input: &str) -> Option<&Companions> {
        self.companions.iter().find(|companions| *companions.input == *input)
    }

    /// Whether this pipeline takes an event of `kind` from `topic`.
    pub fn takes(&self, topic: &str, kind: &str) -> bool {
        self.topics.iter().any(|own| &**own == topic)
            && (self.types.is_empty() || self.types.iter().any(|pattern| pattern.matches(kind)))
    }
}

/// Pipelines that share consumer, parse and transaction.
#[derive(Clone, Debug)]
pub struct Group {
    /// Consumer group id: `millrace.<group>`.
    pub id: Arc<str>,
    /// Guarantee; the same for all pipelines of a group.
    pub delivery: Delivery,
    /// All topics of its pipelines, sorted, each once.
    pub topics: Vec<Arc<str>>,
    /// Its pipelines, sorted by name.
    pub pipelines: Vec<Arc<Pipeline>>,
}
