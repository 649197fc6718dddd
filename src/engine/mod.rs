//! Role `worker`: the engine that takes records through pipelines.

pub mod verdict;

pub mod lanes;
pub mod tracker;
