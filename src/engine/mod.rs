//! Role `worker`: the engine that takes records through pipelines.

pub mod worker;

mod at_least_once;
pub mod halt;
mod rebalance;
mod returning;
pub mod settings;

pub mod assignment;
pub mod budget;
pub mod completed;
pub mod lanes;
mod pace;
pub mod park;
pub mod sender;
pub mod status;
pub mod tasks;
pub mod tracker;

pub mod alarm;
pub mod answers;
pub mod backoff;
pub mod comeback;
pub mod expect;
pub mod headers;
pub mod offline;
pub mod outbox;
pub mod replayed;
pub mod run;
pub mod straight;
pub mod verdict;
pub mod watchdog;
