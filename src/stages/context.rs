//! What a stage is given when it is compiled and when it runs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::connectors::target::TargetConfig;
use crate::event;
use crate::expr::Value;
use crate::expr::scope::Scope;
use crate::expr::types::Types;
use crate::ledger::KpiFact;
use crate::record::{InRecord, OutRecord};
use crate::stages::services::Services;

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
    /// Targets, by connector.
    pub targets: BTreeMap<String, Arc<TargetConfig>>,
    /// Connectors whose files are broken: reported there, so not also as unknown where they are used.
    pub broken_connectors: BTreeSet<String>,
}

/// What a stage is compiled with. Stages are compiled in the order they run; a `map` changes `types` for those after it.
pub struct CompileCx<'a> {
    /// Types known at this point.
    pub types: Types,
    /// What the project declares.
    pub declared: &'a Declared,
    /// Pipeline being compiled.
    pub pipeline: Arc<str>,
    /// Step being compiled.
    pub step: Arc<str>,
}

/// Where the record in hand came from: constant over all stages of one pipeline run.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'r> {
    /// Pipeline.
    pub pipeline: &'r Arc<str>,
    /// The record.
    pub record: &'r InRecord,
    /// When this run began.
    pub now: DateTime<Utc>,
}

impl Origin<'_> {
    /// Event time: `ce_time`, else Kafka's timestamp, else when this run began.
    pub fn event_time(&self) -> DateTime<Utc> {
        event::event_time_of(self.record, self.now)
    }

    /// Tenant of the event, when it names one.
    pub fn tenant(&self) -> Option<&str> {
        self.record.header_text("ce_tenant")
    }
}

/// What a stage is given when it runs.
#[derive(Debug)]
pub struct StageCx<'a, 'r> {
    /// Where the record came from.
    pub origin: Origin<'r>,
    /// Id of the step.
    pub step: &'a Arc<str>,
    /// Numbers of the elements this run is within, outermost first; empty outside of `for_each`.
    pub elements: &'a [usize],
    /// Value and metadata.
    pub scope: &'a mut Scope<'r>,
    /// What has been written so far. A stage adds to it only when it succeeds.
    pub outputs: &'a mut Outputs,
    /// The world outside the event.
    pub services: &'a Services,
}

impl StageCx<'_, '_> {
    /// Key under which a destination can tell a repeated call from a new one:
    /// `<pipeline>/<topic>/<partition>/<offset>/<step>`, with the element's number within `for_each`. The same for
    /// every attempt, and for every reprocessing of the record, since it names where the event first stood
    /// ([`InRecord::source`]).
    pub fn idempotency_key(&self) -> String {
        let mut key = format!("{}/{}/{}", self.origin.pipeline, self.origin.record.source(), self.step);
        for element in self.elements {
            key.push('/');
            key.push_str(&element.to_string());
        }
        key
    }

    /// Keeps what this stage answered, as `%stages.<id>` for the stages after it.
    pub fn answer(&mut self, answer: Value) {
        self.scope.answer(self.step, answer);
    }
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
