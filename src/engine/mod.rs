//! Role `worker`: the engine that takes records through pipelines.

pub mod verdict;
