//! The harness's own view of Postgres: a database for each case, the KPI view, positions and epochs.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::postgres::{PgConnection, PgPool, PgPoolOptions};
use sqlx::{Connection as _, Row as _};
use tokio::runtime::Runtime;

use crate::cluster::Cluster;
use crate::invariants::Owners;

/// Value and number of events of each window and dimension.
pub type Kpi = BTreeMap<(i64, String), (i64, i64)>;

/// A database, reached directly.
pub struct Database {
    pool: PgPool,
    /// Its name.
    pub name: String,
}

impl Database {
    /// Creates it.
    pub fn create(runtime: &Runtime, port: u16, word: &str) -> anyhow::Result<Self> {
        let name = word.replace('-', "_");
        runtime.block_on(async {
            let mut admin = PgConnection::connect(&Cluster::postgres_url(port, "millrace")).await?;
            // The name is of letters, digits and underscores.
            sqlx::query(sqlx::AssertSqlSafe(format!("create database {name}"))).execute(&mut admin).await?;
            let pool = PgPoolOptions::new()
                .max_connections(2)
                .acquire_timeout(Duration::from_secs(10))
                .connect(&Cluster::postgres_url(port, &name))
                .await?;
            Ok(Self { pool, name })
        })
    }

    /// Epochs and positions of the projector.
    pub fn owners(&self, runtime: &Runtime) -> anyhow::Result<Owners> {
        let query = sqlx::query("select topic, partition, epoch, next_offset from projector_positions");
        let rows = runtime.block_on(query.fetch_all(&self.pool))?;
        let row = |row: &sqlx::postgres::PgRow| {
            let place: (String, i32) = (row.try_get(0)?, row.try_get(1)?);
            Ok((place, (row.try_get(2)?, row.try_get(3)?)))
        };
        rows.iter().map(row).collect()
    }

    /// The view `kpi_revenue_1h`.
    pub fn kpi(&self, runtime: &Runtime) -> anyhow::Result<Kpi> {
        let query = sqlx::query(
            "select extract(epoch from window_start)::bigint, shop, value::bigint, events::bigint from kpi_revenue_1h",
        );
        let rows = runtime.block_on(query.fetch_all(&self.pool))?;
        let row = |row: &sqlx::postgres::PgRow| {
            let place: (i64, String) = (row.try_get(0)?, row.try_get(1)?);
            Ok((place, (row.try_get(2)?, row.try_get(3)?)))
        };
        rows.iter().map(row).collect()
    }

    /// Rows of the ledger: how many there are, and how many events they name.
    pub fn executions(&self, runtime: &Runtime) -> anyhow::Result<(i64, i64)> {
        let query =
            sqlx::query_as("select count(*), count(distinct (partition, \"offset\")) from executions");
        Ok(runtime.block_on(query.fetch_one(&self.pool))?)
    }

    /// Takes all partitions of a topic over, as another owner would that never writes.
    pub fn take_over(&self, runtime: &Runtime, topic: &str) -> anyhow::Result<Owners> {
        let query =
            sqlx::query("update projector_positions set epoch = epoch + 1 where topic = $1").bind(topic);
        runtime.block_on(query.execute(&self.pool))?;
        let mut owners = self.owners(runtime)?;
        owners.retain(|(name, _), _| name == topic);
        Ok(owners)
    }
}
