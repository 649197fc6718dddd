//! A connector's file: an outside system, in both directions.

use crate::connectors::source::SourceConfig;
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
    pub target: Option<Node>,
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
        Some(Self {
            description: description.map(|text| text.value),
            source: source.and_then(|node| SourceConfig::decode(node, lints)),
            target: target.cloned(),
        })
    }
}
