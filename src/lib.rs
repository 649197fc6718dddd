//! Millrace: a Kafka-native event-streaming pipeline processor.
//!
//! Events land in Kafka topics, workers take them through pipelines written in YAML, every event ends as one
//! execution result in a topic and in Postgres, and as KPI facts that a projector folds into tables.
//!
//! The modules stand in ranks. A file imports only from lower ranks and from its own folder; folders of one rank do
//! not import each other. `tests.rs` holds this, and that each external crate has one home. `ARCHITECTURE.md` is the map.

// Rank 0: words that everybody uses.
pub mod event;
pub mod failpoint;
pub mod fault;
pub mod ledger;
pub mod position;
pub mod record;
pub mod secrets;
pub mod telemetry;
pub mod tls;
pub mod yaml;

// Rank 1: outside worlds, each behind one folder.
pub mod connectors;
pub mod devbroker;
pub mod expr;
pub mod kafka;
pub mod postgres;
pub mod schema;

// Rank 2: leaf steps of a pipeline.
pub mod stages;

// Rank 3: what the files say.
pub mod config;

// Rank 4: what the files mean.
pub mod plan;

// Rank 5: the roles.
pub mod engine;
pub mod ingest;
pub mod project;

// Rank 6: operators.
pub mod admin;

// Rank 7: composition root.
pub mod app;

// Rank 8: command line.
pub mod cli;

#[cfg(test)]
mod tests;

// The fuzz targets' checks, over the inputs that are kept: they name this crate as any other does.
#[cfg(test)]
extern crate self as millrace;
#[cfg(test)]
#[path = "../fuzz/replay.rs"]
mod fuzz_replay;
