//! `filter: <condition>`: goes on when the condition holds; otherwise the event is filtered, a counted outcome.

use crate::expr::program::{self, Program};
use crate::fault::Fault;
use crate::stages::context::{CompileCx, Next, StageCx};
use crate::yaml::fields;
use crate::yaml::lint::Lints;
use crate::yaml::node::Node;

/// As written.
#[derive(Clone, Debug)]
pub struct FilterConfig {
    condition: Node,
}

/// Compiled.
#[derive(Debug)]
pub struct Filter {
    condition: Program,
}

impl FilterConfig {
    /// Decodes a condition.
    pub fn decode(node: &Node, lints: &mut Lints) -> Option<Self> {
        fields::expression(node, lints)?;
        Some(Self { condition: node.clone() })
    }

    /// The condition must be true or false for every event.
    pub fn compile(&self, cx: &mut CompileCx<'_>, lints: &mut Lints) -> Option<Filter> {
        let condition = program::compile_condition(&self.condition, &cx.types, lints)?;
        Some(Filter { condition })
    }
}

impl Filter {
    /// Its condition.
    pub fn condition(&self) -> &Program {
        &self.condition
    }

    /// Decides.
    ///
    /// # Errors
    /// Those of the condition.
    pub fn apply(&self, cx: &mut StageCx<'_, '_>) -> Result<Next, Fault> {
        Ok(if self.condition.holds(cx.scope)? { Next::Continue } else { Next::Filtered })
    }
}
