//! Postgres: pool, migrations, parameterised queries.

pub mod dedupe;
pub mod fault;
pub mod migrate;
pub mod pool;
pub mod private;
pub mod reach;
pub mod rows;
