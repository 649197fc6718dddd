//! Kafka: the only folder that names `rdkafka`.

pub mod settings;

pub mod admin;
mod arena;
pub mod beacon;
mod commit_queue;
mod complaints;
pub mod consumer;
pub mod exclusive;
mod fetched;
// A fuzz target is a package of its own, for which `build.rs` does not ask the linker; none of them fetches.
#[cfg(all(target_os = "linux", not(fuzzing)))]
mod leader_discovery;
mod leaders;
pub(crate) mod native;
mod notes;
pub mod offsets;
mod outgoing;
pub mod partitioner;
pub mod producer;
pub(crate) mod queue;
mod raw_producer;
pub mod reader;
pub mod scan;
mod suspicion;
pub mod tail;
pub mod txn;
