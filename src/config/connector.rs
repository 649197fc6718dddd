//! A connector's file: an outside system, in both directions.

use std::sync::Arc;

use crate::connectors::source::SourceConfig;
use crate::connectors::target::TargetConfig;
use crate::yaml::fields::{self, Fields};
use crate::yaml::lint::Lints;
use crate::yaml::node::Node;

/// An outside system.
#[derive(Clone, Debug)]
pub struct Connector {
    /// What it is for.
    pub description: Option<String>,
    /// What comes in.
    pub source: Option<SourceConfig>,
    /// What goes out.
    pub target: Option<Arc<TargetConfig>>,
}

impl Connector {
    /// Decodes a connector's file.
    pub fn decode(_name: &str, node: &Node, lints: &mut Lints) -> Option<Self> {
        let mut fields = Fields::of(node, "a connector", lints)?;
        let description = fields.optional("description").and_then(|node| fields::text(node, lints));
        let source = fields.optional("source");
        let target = fields.optional("target");
        if source.is_none() && target.is_none() {
            lints.error(
                "missing-key",
                &node.span,
                "a connector has a source, a target, or both",
                "add `source: ...` for what comes in, `target: ...` for what goes out",
            );
        }
        fields.finish(lints);
        let source = source.map(|node| SourceConfig::decode(node, lints));
        let target = target.map(|node| TargetConfig::decode(node, lints).map(Arc::new));
        // A part that is written and broken makes the file broken: nobody is to be told that the part is missing.
        if matches!(source, Some(None)) || matches!(target, Some(None)) {
            return None;
        }
        Some(Self {
            description: description.map(|text| text.value),
            source: source.flatten(),
            target: target.flatten(),
        })
    }
}
