//! One leaf step of a pipeline per file: config, compile, apply.

pub mod context;

/// A compiled leaf stage. Each variant is one file of this folder.
#[derive(Debug)]
pub enum Stage {}
