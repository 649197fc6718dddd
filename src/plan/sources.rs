//! What comes in, with its expressions compiled: `event.id`, `event.type`, `event.time` and `key` of a source.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::connectors::source::{Extract, Extractors, SourceConfig};
use crate::expr::program::{self, Program};
use crate::expr::scope::Scope;
use crate::expr::types::Types;
use crate::expr::values;
use crate::record::InRecord;
use crate::yaml::lint::Lints;
use crate::yaml::node::Node;

/// A source, ready to be built with its secrets.
#[derive(Clone, Debug)]
pub struct PlannedSource {
    /// As written.
    pub config: SourceConfig,
    id: Option<Program>,
    kind: Option<Program>,
    time: Option<Program>,
    key: Option<Program>,
}

impl PlannedSource {
    /// Compiles a source's expressions. `None` after lints.
    pub fn compile(config: &SourceConfig, lints: &mut Lints) -> Option<Self> {
        let written = &config.expressions;
        let mut program = |node: &Option<Node>| match node {
            None => Some(None),
            Some(node) => program::compile_expression(node, &Types::default(), lints).map(Some),
        };
        let (id, kind) = (program(&written.id), program(&written.kind));
        let (time, key) = (program(&written.time), program(&written.key));
        Some(Self { config: config.clone(), id: id?, kind: kind?, time: time?, key: key? })
    }

    /// Its expressions, as the ingest role calls them: over the decoded body alone. An expression that fails gives
    /// nothing.
    pub fn extractors(&self) -> Extractors {
        let Self { config: _, id, kind, time, key } = self;
        let of = |program: &Option<Program>| program.clone().map(extract);
        Extractors { id: of(id), kind: of(kind), time: of(time), key: of(key) }
    }
}

fn extract(program: Program) -> Extract {
    let record = InRecord {
        topic: Arc::from(""),
        partition: 0,
        offset: 0,
        timestamp_ms: None,
        key: None,
        value: None,
        headers: Vec::new(),
    };
    Box::new(move |body| {
        let value = values::from_json(body.clone());
        let mut scope = Scope::decoded(&record, DateTime::<Utc>::UNIX_EPOCH, value);
        values::text(&program.evaluate(&mut scope).ok()?)
    })
}
