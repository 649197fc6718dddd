//! `map: <program>`: a VRL program that changes the event's value. It reads the metadata and cannot change it.
//!
//! A program that fails leaves the value as it was. `abort` in a program says that this event cannot be worked on: a
//! permanent fault with the author's words.

use crate::expr::program::{self, Program};
use crate::fault::Fault;
use crate::stages::context::{CompileCx, Next, StageCx};
use crate::yaml::fields;
use crate::yaml::lint::Lints;
use crate::yaml::node::Node;

/// As written.
#[derive(Clone, Debug)]
pub struct MapConfig {
    program: Node,
}

/// Compiled.
#[derive(Debug)]
pub struct Map {
    program: Program,
}

impl MapConfig {
    /// Decodes a program.
    pub fn decode(node: &Node, lints: &mut Lints) -> Option<Self> {
        fields::expression(node, lints)?;
        Some(Self { program: node.clone() })
    }

    /// Compiles the program; the stages after it see the types it leaves.
    pub fn compile(&self, cx: &mut CompileCx<'_>, lints: &mut Lints) -> Option<Map> {
        let program = program::compile_program(&self.program, &mut cx.types, lints)?;
        Some(Map { program })
    }
}

impl Map {
    /// Its program.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Changes the value.
    ///
    /// # Errors
    /// Those of the program; the value is unchanged then.
    pub fn apply(&self, cx: &mut StageCx<'_, '_>) -> Result<Next, Fault> {
        self.program.transform(cx.scope)?;
        Ok(Next::Continue)
    }
}
