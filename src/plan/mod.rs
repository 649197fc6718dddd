//! What the project means: names resolved, defaults filled, types checked.

pub mod checks;
pub mod compile;
pub mod compile_flow;
pub mod declared;
pub mod flow;
pub mod kpis;
pub mod pipeline;
pub mod sources;
pub mod tables;
pub mod topics;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::connectors::target::TargetConfig;
use crate::ledger::Namespace;
use crate::plan::kpis::KpiSpec;
use crate::plan::pipeline::{Group, Pipeline};
use crate::plan::sources::PlannedSource;
use crate::plan::tables::TableSpec;
use crate::plan::topics::TopicSpec;

/// A compiled project: everything the roles need, and nothing that is only in files.
#[derive(Clone, Debug)]
pub struct Plan {
    /// First word of every name that Millrace owns in the cluster.
    pub namespace: Namespace,
    /// Consumer groups, sorted by id.
    pub groups: Vec<Group>,
    /// Pipelines, sorted by name.
    pub pipelines: Vec<Arc<Pipeline>>,
    /// Every topic: declared ones, dead letters, the ledger; sorted by name.
    pub topics: Vec<TopicSpec>,
    /// Tables that the projector keeps, in the order of their topics.
    pub tables: Vec<TableSpec>,
    /// KPIs, sorted by name.
    pub kpis: Vec<KpiSpec>,
    /// What comes in, by connector.
    pub sources: BTreeMap<String, PlannedSource>,
    /// What goes out, by connector.
    pub targets: BTreeMap<String, Arc<TargetConfig>>,
    /// Hash of all files, first 12 hexadecimal digits of SHA-256.
    pub config_hash: Arc<str>,
}

impl Plan {
    /// The topic called `name`.
    pub fn topic(&self, name: &str) -> Option<&TopicSpec> {
        self.topics.iter().find(|topic| &*topic.name == name)
    }

    /// The pipeline called `name`.
    pub fn pipeline(&self, name: &str) -> Option<&Arc<Pipeline>> {
        self.pipelines.iter().find(|pipeline| &*pipeline.name == name)
    }
}
