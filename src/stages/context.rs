//! What a stage is given when it is compiled and when it runs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::event::Attributes;
use crate::expr::Types;
use crate::ledger::KpiFact;
use crate::record::OutRecord;

/// How the values of a topic are written.
#[derive(Clone, PartialEq, Debug)]
pub enum ValueFormat {
    /// JSON text.
    Json,
    /// Avro with Confluent framing; the schema's JSON text.
    Avro {
        /// The schema, as JSON text.
        schema: Arc<str>,
    },
    /// Bytes that nobody looks into.
    Bytes,
}

/// What the project declares, as far as stages may refer to it by name.
#[derive(Clone, Default, Debug)]
pub struct Declared {
    /// The project's folder, for schema files.
    pub root: PathBuf,
    /// Topics and the format of their values.
    pub topics: BTreeMap<String, ValueFormat>,
    /// Calls of each connector's target, by connector.
    pub calls: BTreeMap<String, Vec<String>>,
}

/// What a stage is compiled with. Stages are compiled in the order they run; a `map` changes `types` for those after it.
pub struct CompileCx<'a> {
    /// Types known at this point.
    pub types: Types,
    /// What the project declares.
    pub declared: &'a Declared,
    /// Pipeline being compiled.
    pub pipeline: Arc<str>,
}

/// Where the record in hand came from: constant over all stages of one pipeline run.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Pipeline.
    pub pipeline: Arc<str>,
    /// Source topic.
    pub topic: Arc<str>,
    /// Source partition.
    pub partition: i32,
    /// Source offset.
    pub offset: i64,
    /// CloudEvents attributes of the record.
    pub attributes: Attributes,
    /// Event time: `ce_time`, else Kafka's timestamp, else the time of processing.
    pub event_time: DateTime<Utc>,
}

/// What stages of one run have written so far. Released only with the verdict.
#[derive(Clone, Default, Debug)]
pub struct Outputs {
    /// Records for output topics, in order.
    pub records: Vec<OutRecord>,
    /// KPI facts, in order.
    pub facts: Vec<KpiFact>,
}

/// How a run goes on after a stage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// With the next stage.
    Continue,
    /// Not at all: filtered, a counted outcome.
    Filtered,
}
