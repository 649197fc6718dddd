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
mod leaders;
pub(crate) mod native;
mod notes;
pub mod offsets;
mod outgoing;
pub mod partitioner;
pub mod producer;
mod raw_producer;
pub mod reader;
pub mod scan;
mod suspicion;
pub mod tail;
pub mod txn;
