//! Deletes old rows of `executions` and of KPIs, a bounded number at a time, beside the lanes: a transaction of theirs
//! never waits for one of these, because they write other rows.
//!
//! One projector at a time does so, under an advisory lock. A fact that comes later than its window is kept makes a row of
//! its own, which goes with the next round.

use std::time::Duration;

use sqlx::postgres::{PgConnection, PgPool};
use tokio_util::sync::CancellationToken;

use crate::plan::kpis::KpiSpec;
use crate::postgres::fault::SqlFault;
use crate::project::settings::ProjectSettings;
use crate::telemetry::{self, logs, names};

/// Whoever deletes holds this lock.
const LOCK: i64 = 0x6d69_6c6c_7265_7465;
/// Most rows of one statement.
const ROWS_MAX: i64 = 5_000;
/// Most statements of one round and table; what is left goes with the next one.
const STATEMENTS_MAX: usize = 200;
/// Pause between two statements.
const PAUSE: Duration = Duration::from_millis(50);

/// How long rows are kept.
#[derive(Clone, Debug)]
pub struct Retention {
    pool: PgPool,
    executions: Option<Duration>,
    /// KPIs that are not kept for ever.
    kpis: Vec<(String, Duration)>,
    every: Duration,
}

impl Retention {
    /// As settings and KPIs say; `None` when everything is kept.
    pub fn of(settings: &ProjectSettings, kpis: &[KpiSpec], pool: &PgPool) -> Option<Self> {
        let kept = |spec: &KpiSpec| Some((spec.name.to_string(), spec.retention?));
        let kpis: Vec<_> = kpis.iter().filter_map(kept).collect();
        let executions = settings.executions_retention;
        let is_needed = executions.is_some() || !kpis.is_empty();
        is_needed.then(|| Self { pool: pool.clone(), executions, kpis, every: settings.retention_every })
    }

    /// Deletes now and then until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            let round = tokio::select! {
                () = stop.cancelled() => return,
                round = self.round() => round,
            };
            if let Err(fault) = round {
                tracing::warn!(error = logs::chain(&fault), "old rows stay for now");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.every) => {}
            }
        }
    }

    /// Deletes what is too old; another projector may be at it.
    async fn round(&self) -> Result<(), SqlFault> {
        let mut connection = self.pool.acquire().await.map_err(SqlFault::of)?;
        // The lock ends with the connection, also when this is dropped in the middle.
        connection.close_on_drop();
        let is_ours: bool = sqlx::query_scalar("select pg_try_advisory_lock($1)")
            .bind(LOCK)
            .fetch_one(&mut *connection)
            .await
            .map_err(SqlFault::of)?;
        if !is_ours {
            return Ok(());
        }
        if let Some(kept) = self.executions {
            delete(&mut connection, "executions", EXECUTIONS, "", kept).await?;
        }
        for (kpi, kept) in &self.kpis {
            delete(&mut connection, "kpi_part", KPI, kpi, *kept).await?;
        }
        Ok(())
    }
}

const EXECUTIONS: &str = "\
    with old as materialized (
        select ctid from executions where started_at < now() - make_interval(secs => $1) and $2 = '' limit $3
    ), gone as (delete from executions using old where executions.ctid = old.ctid returning 1)
    select count(*) from gone";

/// Their keys in the KPI topic end in a null.
const KPI: &str = "\
    with old as materialized (
        select ctid from kpi_part where kpi = $2 and window_end < now() - make_interval(secs => $1) limit $3
    ), gone as (
        delete from kpi_part p using old where p.ctid = old.ctid
        returning p.kpi, p.window_size, p.window_start, p.dimensions, p.partition
    ), marked as (
        insert into kpi_unpublished (kpi, window_size, window_start, dimensions, partition) select * from gone
        on conflict (kpi, window_size, window_start, dimensions, partition) do update set change = default
    )
    select count(*) from gone";

async fn delete(
    connection: &mut PgConnection,
    table: &str,
    statement: &'static str,
    kpi: &str,
    kept: Duration,
) -> Result<(), SqlFault> {
    for _ in 0..STATEMENTS_MAX {
        let rows: i64 = sqlx::query_scalar(statement)
            .bind(kept.as_secs_f64())
            .bind(kpi)
            .bind(ROWS_MAX)
            .fetch_one(&mut *connection)
            .await
            .map_err(SqlFault::of)?;
        telemetry::count(names::PROJECTOR_EXPIRED, &[table], rows.unsigned_abs());
        if rows < ROWS_MAX {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}
