//! Composition root: builds clients, spawns roles, shuts down in order. The only folder that sees all.

pub mod apply;
pub mod changes;
pub mod ingest;
pub mod project;
pub mod reach;
pub mod servers;
pub mod services;
pub mod supervise;
pub mod worker;
