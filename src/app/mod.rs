//! Composition root: builds clients, spawns roles, shuts down in order. The only folder that sees all.

pub mod apply;
pub mod changes;
pub mod condition;
pub mod dead_letters;
pub mod decisions;
pub mod doctor;
pub mod embedded;
pub mod follow;
pub mod ingest;
pub mod kpis;
pub mod lag;
pub mod ledger;
pub mod made_up;
pub mod project;
pub mod reach;
pub mod redrive;
pub mod servers;
pub mod services;
pub mod session;
pub mod stack;
pub mod supervise;
pub mod values;
pub mod worker;
