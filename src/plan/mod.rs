//! What the project means: names resolved, defaults filled, types checked.

pub mod flow;
pub mod kpis;
pub mod pipeline;
pub mod tables;
