//! Expressions: VRL programs over an event, compiled once with the types that are known. The only file that names `vrl`.

/// What is known of the types of `.` and `%` at a point of a pipeline.
#[derive(Clone, Debug)]
pub struct Types {
    /// Kind of the value (`.`).
    pub value: vrl::value::Kind,
    /// Kind of the metadata (`%`).
    pub metadata: vrl::value::Kind,
}

/// A compiled program.
#[derive(Clone, Debug)]
pub struct Program {
    /// The compiled program itself.
    pub compiled: vrl::compiler::Program,
    /// Where its text stands, for messages: `pipelines/a.yaml:12`.
    pub place: std::sync::Arc<str>,
}

/// A value of the language.
pub type Value = vrl::value::Value;
