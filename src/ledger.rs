//! What is written down of every record: one execution result, and the KPI facts it gave rise to.
//!
//! Both are Avro records on their topics (`schemas/millrace.execution.avsc`, `schemas/millrace.kpi-fact.avsc`).
//! The ledger balances per pipeline: ingested = succeeded + filtered + dead-lettered + parked + in flight, where parked
//! records wait in a retry topic.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;

/// The first word of every name that one installation owns in a Kafka cluster: `millrace` unless set, so that
/// several installations can share a cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Namespace(Arc<str>);

impl Namespace {
    /// A namespace of lower-case letters, digits, dots and hyphens, at most 64 characters. `None` otherwise.
    pub fn new(name: &str) -> Option<Self> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
        let fits = (1..=64).contains(&name.len()) && name.chars().all(allowed);
        fits.then(|| Self(name.into()))
    }

    /// Topic of the execution results.
    pub fn executions_topic(&self) -> Arc<str> {
        self.name("executions")
    }

    /// Topic of the KPI facts.
    pub fn kpi_facts_topic(&self) -> Arc<str> {
        self.name("kpi-facts")
    }

    /// Topic of the KPI values (compacted; absolute values).
    pub fn kpis_topic(&self) -> Arc<str> {
        self.name("kpis")
    }

    /// Topic of what was decided about dead letters (compacted; one record a letter).
    pub fn decisions_topic(&self) -> Arc<str> {
        self.name("dead-letter-decisions")
    }

    /// `transactional.id` of whoever decides about the dead letters of `pipeline`: one at a time.
    pub fn redrive_id(&self, pipeline: &str) -> Arc<str> {
        self.name(&format!("dlq-replay.{pipeline}"))
    }

    /// `<namespace>.<word>`: consumer groups and transactional ids.
    pub fn name(&self, word: &str) -> Arc<str> {
        format!("{}.{word}", self.0).into()
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self("millrace".into())
    }
}

/// How a record ended in one pipeline.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Outcome {
    /// All stages were done.
    Succeeded,
    /// A filter dropped it, or no event type matched: counted, not an error.
    Filtered,
    /// It was written to the dead-letter topic.
    DeadLettered,
}

impl Outcome {
    /// Name in the ledger, in tables and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Filtered => "filtered",
            Self::DeadLettered => "dead_lettered",
        }
    }

    /// The outcome called `name`.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Succeeded, Self::Filtered, Self::DeadLettered]
            .into_iter()
            .find(|outcome| outcome.name() == name)
    }
}

/// Which events of a pipeline leave an execution result.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Results {
    /// Every event.
    #[default]
    All,
    /// Those that became dead letters, and whatever becomes of such an event later. The others are only counted in the
    /// metrics, and a repeated one is counted again.
    Failures,
}

/// The record that an event leaves per pipeline.
#[derive(Clone, PartialEq, Debug)]
pub struct ExecutionResult<Text = String> {
    /// Name of the pipeline.
    pub pipeline: Text,
    /// How it ended.
    pub outcome: Outcome,
    /// Stage at which it was filtered or failed.
    pub stage: Option<Text>,
    /// Class of the fault ([`crate::fault::FaultClass::name`]).
    pub error_class: Option<Text>,
    /// What happened.
    pub error: Option<Text>,
    /// Attempts of the stage that took most of them; 1 when nothing was retried.
    pub attempts: u32,
    /// `ce_id` of the event.
    pub event_id: Text,
    /// `ce_source` of the event.
    pub event_source: Text,
    /// `ce_type` of the event.
    pub event_type: Text,
    /// Tenant, when the event names one.
    pub tenant: Option<Text>,
    /// Topic of the source record.
    pub topic: Text,
    /// Partition of the source record.
    pub partition: i32,
    /// Offset of the source record.
    pub offset: i64,
    /// When the event happened: `ce_time`, else Kafka's timestamp, else `started_at`.
    pub event_time: DateTime<Utc>,
    /// When the first stage began.
    pub started_at: DateTime<Utc>,
    /// From the first stage's begin to the verdict, in microseconds.
    pub duration_us: i64,
    /// Records written to output topics.
    pub records_out: i32,
    /// Hash of the compiled pipeline, so that a result can be traced to the text that made it.
    pub config_hash: Text,
}

/// One KPI fact: a number with a time and dimensions, of which KPIs are folded.
#[derive(Clone, PartialEq, Debug)]
pub struct KpiFact {
    /// Name of the fact.
    pub fact: String,
    /// Its value; money in minor units. At most 28 significant digits.
    pub value: Decimal,
    /// When it happened; decides the window.
    pub time: DateTime<Utc>,
    /// Dimensions, by name.
    pub dimensions: BTreeMap<String, String>,
    /// Pipeline that stated it.
    pub pipeline: String,
    /// Tenant, when the event names one.
    pub tenant: Option<String>,
    /// Topic of the source record.
    pub topic: String,
    /// Partition of the source record.
    pub partition: i32,
    /// Offset of the source record.
    pub offset: i64,
}
