//! Rows that a pipeline's tests give in place of Postgres. A statement without an answer, and an answer that nobody asked
//! for, are problems.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value};

use crate::fault::{Fault, FaultClass};
use crate::yaml::fields::{self, Fields};
use crate::yaml::lint::{Lints, Spanned};
use crate::yaml::node::Node;

/// What a test answers to the statements of one stage, in turn.
#[derive(Clone, Debug)]
pub struct ScriptedRows {
    /// Id of the stage.
    pub stage: Spanned<String>,
    /// Rows, one list for each time it runs.
    pub respond: Vec<Vec<Map<String, Value>>>,
}

impl ScriptedRows {
    /// Decodes `{stage, respond: [{rows: [{...}]}]}`.
    pub fn decode(node: &Node, lints: &mut Lints) -> Option<Self> {
        let mut fields = Fields::of(node, "scripted rows", lints)?;
        let stage = fields.required("stage", lints).and_then(|node| fields::text(node, lints));
        let respond = fields.required("respond", lints).and_then(|node| fields::list(node, lints, rows));
        fields.finish(lints);
        Some(Self { stage: stage?, respond: respond? })
    }
}

fn rows(node: &Node, lints: &mut Lints) -> Option<Vec<Map<String, Value>>> {
    let mut fields = Fields::of(node, "an answer", lints)?;
    let rows = fields.required("rows", lints).and_then(|node| {
        fields::list(node, lints, |node, lints| match fields::json(node) {
            Value::Object(row) => Some(row),
            _ => {
                let message = format!("a row is a mapping of columns, not {}", node.kind());
                lints.error("wrong-type", &node.span, message, "write {id: 1}");
                None
            }
        })
    });
    fields.finish(lints);
    rows
}

/// The answers of one case of a test.
#[derive(Default, Debug)]
pub struct RowScript(Mutex<State>);

#[derive(Default, Debug)]
struct State {
    answers: BTreeMap<String, VecDeque<Vec<Map<String, Value>>>>,
    problems: Vec<String>,
}

impl RowScript {
    /// A script of these answers.
    pub fn new(given: &[ScriptedRows]) -> Self {
        let mut state = State::default();
        for ScriptedRows { stage, respond } in given {
            state.answers.entry(stage.value.clone()).or_default().extend(respond.iter().cloned());
        }
        Self(Mutex::new(state))
    }

    /// The next answer to stage `stage`.
    ///
    /// # Errors
    /// Permanent when there is none left.
    pub fn query(&self, stage: &str) -> Result<Vec<Map<String, Value>>, Fault> {
        let mut state = self.state();
        if let Some(rows) = state.answers.get_mut(stage).and_then(VecDeque::pop_front) {
            return Ok(rows);
        }
        let message = format!("stage `{stage}` ran its statement, but the test gives it no rows");
        state.problems.push(message.clone());
        Err(Fault::new(FaultClass::Permanent, message))
    }

    /// Statements without an answer, and answers that nobody asked for.
    pub fn problems(&self) -> Vec<String> {
        let state = self.state();
        let unused = state.answers.iter().filter(|(_, answers)| !answers.is_empty());
        let unused = unused.map(|(stage, answers)| {
            format!("stage `{stage}`: {} answers of the test were not asked for", answers.len())
        });
        state.problems.iter().cloned().chain(unused).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
