//! Role `project`: folds facts, results and tables into Postgres, rows and position in one transaction.
//!
//! A record's way: `kafka/reader.rs` polls → `lane.rs` gathers a batch of one partition → `fold.rs` decodes and
//! (`window.rs`) folds → `store.rs` writes rows and position in one transaction → `publish.rs` writes changed KPI
//! values to their topic. `worker.rs` hands partitions from owner to owner. `ddl.rs` says which tables and views a
//! project needs, `apply.rs` makes them; `definitions.rs` what KPIs are folded by; `rebuild/` folds KPIs anew beside the
//! running projector.

pub mod apply;
pub mod copy;
pub mod ddl;
pub mod definitions;
pub mod fold;
pub mod forget;
pub mod inspect;
pub mod kpi_rows;
pub mod lane;
pub mod publish;
pub mod rebuild;
pub mod retention;
pub mod settings;
pub mod store;
pub mod window;
pub mod worker;
